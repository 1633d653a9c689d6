//! A thread that only sleeps: how late it wakes shows how long this program was kept from running, by SIGSTOP, a
//! quota, a hypervisor or other programs, whatever its scenario.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Sleep between two beats: a beat costs some 10 us of CPU time.
const INTERVAL: Duration = Duration::from_millis(5);

/// A beat that is later than this is a pause: any program has timer slack and scheduling delays.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// The pauses of a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pauses {
    pub(crate) longest: Duration,
    pub(crate) total: Duration,
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    stop: Sender<()>,
    thread: JoinHandle<()>,
    record: Arc<Record>,
}

#[derive(Debug, Default)]
struct Record {
    longest_ns: AtomicU64,
    total_ns: AtomicU64,
}

impl Record {
    fn add(&self, late: Duration) {
        if late > PAUSE_MIN {
            let late_ns = late.as_nanos() as u64;
            self.longest_ns.fetch_max(late_ns, Ordering::Relaxed);
            self.total_ns.fetch_add(late_ns, Ordering::Relaxed);
        }
    }
}

impl Heartbeat {
    /// Starts the thread, on the CPUs of the calling thread.
    pub(crate) fn start() -> Heartbeat {
        let (stop, stopped) = channel();
        let record = Arc::<Record>::default();
        let shared = Arc::clone(&record);
        let thread = std::thread::spawn(move || {
            let mut before = Instant::now();
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let now = Instant::now();
                shared.add((now - before).saturating_sub(INTERVAL));
                before = now;
            }
        });
        Heartbeat { stop, thread, record }
    }

    /// Forgets the pauses so far.
    pub(crate) fn reset(&self) {
        self.record.longest_ns.store(0, Ordering::Relaxed);
        self.record.total_ns.store(0, Ordering::Relaxed);
    }

    /// The pauses since the start or the last reset.
    pub(crate) fn pauses(&self) -> Pauses {
        let duration = |ns: &AtomicU64| Duration::from_nanos(ns.load(Ordering::Relaxed));
        Pauses { longest: duration(&self.record.longest_ns), total: duration(&self.record.total_ns) }
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        drop(self.stop);
        // It can't panic.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_late_beats_are_pauses() {
        let record = Record::default();
        [1, 300, 4, 20].map(Duration::from_millis).into_iter().for_each(|late| record.add(late));
        let [longest, total] = [&record.longest_ns, &record.total_ns].map(|ns| ns.load(Ordering::Relaxed) / 1_000_000);
        assert_eq!((longest, total), (300, 320));
    }

    #[test]
    fn a_reset_forgets_earlier_pauses() {
        let heartbeat = Heartbeat::start();
        heartbeat.record.add(Duration::from_secs(100));
        assert!(heartbeat.pauses().longest >= Duration::from_secs(100));
        heartbeat.reset();
        assert!(heartbeat.pauses().longest < Duration::from_secs(100));
        heartbeat.stop();
    }
}
