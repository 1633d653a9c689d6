//! A thread that looks at the server's CPU time and memory while a run lasts.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::process::Usage;
use crate::report::timeline::{ServerSample, Timeline};

/// Shortest time between two looks: each reads a file for every process of this machine.
const INTERVAL_MIN: Duration = Duration::from_millis(500);

/// The running thread.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Sampler {
    /// Adds samples of process `pid` and its descendants to the timeline until stopped, or until the process ends.
    pub(crate) fn start(pid: u32, timeline: Arc<Timeline>) -> Sampler {
        let (stop, stopped) = channel();
        let interval = timeline.tick().max(INTERVAL_MIN);
        let thread = std::thread::spawn(move || {
            let Ok(mut before) = Usage::of(pid) else { return };
            let mut before_ns = timeline.now_ns();
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let (Ok(now), now_ns) = (Usage::of(pid), timeline.now_ns()) else { return };
                timeline.add_sample(sample([before, now], [before_ns, now_ns]));
                (before, before_ns) = (now, now_ns);
            }
        });
        Sampler { stop, thread }
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        drop(self.stop);
        // It can't panic.
        let _ = self.thread.join();
    }
}

fn sample([before, now]: [Usage; 2], [before_ns, now_ns]: [u64; 2]) -> ServerSample {
    let seconds = (now_ns - before_ns) as f64 / 1e9;
    let cpu_seconds = now.cpu.saturating_sub(before.cpu).as_secs_f64();
    let cpus = if seconds > 0.0 { cpu_seconds / seconds } else { 0.0 };
    ServerSample { at_s: now_ns as f64 / 1e9, cpus, resident_bytes: now.resident_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_cpu_time_since_the_last() {
        let usage = |ms, resident_bytes| Usage { cpu: Duration::from_millis(ms), resident_bytes };
        let found = sample([usage(100, 5), usage(850, 7)], [1_000_000_000, 1_500_000_000]);
        assert_eq!(found, ServerSample { at_s: 1.5, cpus: 1.5, resident_bytes: 7 });
        assert_eq!(sample([usage(5, 1); 2], [3, 3]).cpus, 0.0);
    }
}
