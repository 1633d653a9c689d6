//! What one worker records while it runs: fixed memory, no locks but once a tick, merged at the end.
//!
//! A message has two times: the *intended* one, when the schedule wanted it published, and the *actual* one, when it
//! was. Latency from the intended time is the honest one: whoever waits for a slow server before publishing the next
//! message, and then measures from there, leaves out what all the messages waited that should have come in between
//! (Gil Tene's "coordinated omission"). Both are recorded, to be shown side by side.

use std::sync::Arc;

use crate::latency::Latencies;
use crate::process::ThreadTime;
use crate::tally::Tally;
use crate::timeline::{Part, Timeline};

/// When a message was meant to be published, and when it was. Nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) intended_ns: u64,
    pub(crate) actual_ns: u64,
}

impl Times {
    /// Of what is published at once, whenever that is: a closed loop has no schedule.
    pub(crate) fn now(now_ns: u64) -> Times {
        Times { intended_ns: now_ns, actual_ns: now_ns }
    }
}

/// Belongs to one thread: it watches that thread's CPU time.
#[derive(Debug)]
pub(crate) struct Recorder {
    timeline: Arc<Timeline>,
    pub(crate) recorded: Recorded,
    /// The thread's time when measuring began.
    measured_from: Option<(u64, ThreadTime)>,
    /// What this turn has seen so far.
    tally: Tally,
    /// What this tick has seen so far.
    part: Part,
    /// Number of this tick.
    tick: u64,
    thread_time: ThreadTime,
    /// Faults told in ticks so far.
    faults: u64,
    /// When this turn's first bytes were handed over.
    woken_ns: Option<u64>,
}

/// What the measured part of a run brought, of one worker or of all.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// From the intended time to receipt.
    pub(crate) corrected: Latencies,
    /// From the actual time to receipt.
    pub(crate) uncorrected: Latencies,
    /// From the intended time to the actual one.
    pub(crate) lateness: Latencies,
    /// How long what had arrived waited for us: one turn of the loop each.
    pub(crate) backlog: Latencies,
    /// The share of time in which the busiest worker was on a CPU or waited for one.
    pub(crate) busy_share: f64,
}

impl Recorded {
    pub(crate) fn new() -> Recorded {
        let [corrected, uncorrected, lateness, backlog] = std::array::from_fn(|_| Latencies::new());
        Recorded { corrected, uncorrected, lateness, backlog, busy_share: 0.0 }
    }

    /// Adds what another worker recorded.
    pub(crate) fn merge(&mut self, other: &Recorded) {
        self.corrected.merge(&other.corrected);
        self.uncorrected.merge(&other.uncorrected);
        self.lateness.merge(&other.lateness);
        self.backlog.merge(&other.backlog);
        self.busy_share = self.busy_share.max(other.busy_share);
    }

    fn clear(&mut self) {
        let Recorded { corrected, uncorrected, lateness, backlog, .. } = self;
        [corrected, uncorrected, lateness, backlog].into_iter().for_each(Latencies::clear);
    }
}

impl Recorder {
    /// Of the thread that calls this.
    pub(crate) fn new(timeline: Arc<Timeline>) -> Recorder {
        Recorder {
            recorded: Recorded::new(),
            measured_from: None,
            tally: Tally::new(),
            part: Part::new(),
            tick: timeline.tick_at(timeline.now_ns()),
            thread_time: ThreadTime::now(),
            faults: 0,
            woken_ns: None,
            timeline,
        }
    }

    /// Nanoseconds since the start of the run.
    pub(crate) fn now_ns(&self) -> u64 {
        self.timeline.now_ns()
    }

    /// Forgets the warm-up.
    pub(crate) fn start_measuring(&mut self) {
        self.count_up();
        self.recorded.clear();
        self.measured_from = Some((self.now_ns(), ThreadTime::now()));
    }

    /// The measured part is over.
    pub(crate) fn stop_measuring(&mut self) {
        self.count_up();
        let Some((from_ns, thread_from)) = self.measured_from.take() else { return };
        let elapsed_ns = self.now_ns() - from_ns;
        let busy_ns = ThreadTime::now().since(thread_from).busy_ns();
        self.recorded.busy_share = if elapsed_ns > 0 { busy_ns as f64 / elapsed_ns as f64 } else { 0.0 };
    }

    /// A message with these times was handed to the kernel, and nothing but ourselves could have held it up.
    pub(crate) fn published(&mut self, times: Times) {
        self.recorded.lateness.record(times.actual_ns.saturating_sub(times.intended_ns));
    }

    /// Bytes have come; the turn of the loop that handles them has begun, unless it had already.
    pub(crate) fn woken(&mut self, now_ns: u64) {
        self.woken_ns.get_or_insert(now_ns);
    }

    /// A message with these times has come. It shows in what is recorded once the turn is over.
    pub(crate) fn received(&mut self, times: Times, now_ns: u64) {
        if !self.tally.add(times, now_ns) {
            self.count_up();
            self.tally.add(times, now_ns);
        }
    }

    /// Records what was tallied.
    fn count_up(&mut self) {
        let Recorder { recorded, tally, part, .. } = self;
        tally.drain(|times, now_ns, count| {
            let corrected_ns = now_ns.saturating_sub(times.intended_ns);
            recorded.corrected.record_many(corrected_ns, count);
            recorded.uncorrected.record_many(now_ns.saturating_sub(times.actual_ns), count);
            part.latencies.record_many(corrected_ns, count);
            part.count += count;
        });
    }

    /// A turn of the loop is over. `connections` are open and there were `faults` so far.
    pub(crate) fn turn_over(&mut self, connections: u64, faults: u64) {
        self.count_up();
        let now_ns = self.now_ns();
        if let Some(woken_ns) = self.woken_ns.take() {
            self.recorded.backlog.record(now_ns - woken_ns);
        }
        self.part.connections = connections;
        let tick = self.timeline.tick_at(now_ns);
        if tick > self.tick {
            self.hand_in(tick, faults);
        }
    }

    /// Tick `next` has begun.
    fn hand_in(&mut self, next: u64, faults: u64) {
        let thread_time = ThreadTime::now();
        self.part.cpu_ns = thread_time.since(self.thread_time).cpu_ns;
        self.part.faults = faults.saturating_sub(self.faults);
        self.timeline.add(self.tick, next, &self.part);
        (self.thread_time, self.faults, self.tick) = (thread_time, faults, next);
        self.part.count = 0;
        self.part.latencies.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn recorder() -> Recorder {
        Recorder::new(Arc::new(Timeline::start(Duration::from_secs(1))))
    }

    #[test]
    fn latency_is_told_from_both_times() {
        let mut recorder = recorder();
        let times = Times { intended_ns: 1_000_000, actual_ns: 3_000_000 };
        recorder.published(times);
        recorder.received(times, 4_000_000);
        recorder.turn_over(1, 0);
        let p50 = |latencies: &Latencies| (latencies.quantile_us(0.5) / 10.0).round() * 10.0;
        let Recorded { corrected, uncorrected, lateness, .. } = &recorder.recorded;
        assert_eq!([p50(corrected), p50(uncorrected), p50(lateness)], [3000.0, 1000.0, 2000.0]);
    }

    #[test]
    fn the_warm_up_is_forgotten() {
        let mut recorder = recorder();
        recorder.published(Times::now(1));
        recorder.received(Times::now(1), 2);
        recorder.woken(0);
        recorder.turn_over(1, 0);
        recorder.start_measuring();
        let Recorded { corrected, uncorrected, lateness, backlog, .. } = &recorder.recorded;
        assert_eq!([corrected, uncorrected, lateness, backlog].map(Latencies::count), [0; 4]);
    }

    #[test]
    fn a_turn_that_brought_nothing_is_no_backlog() {
        let mut recorder = recorder();
        recorder.turn_over(1, 0);
        assert_eq!(recorder.recorded.backlog.count(), 0);
        recorder.woken(0);
        recorder.woken(recorder.now_ns());
        recorder.turn_over(1, 0);
        assert_eq!(recorder.recorded.backlog.count(), 1);
    }

    #[test]
    fn a_worker_that_only_computes_is_busy() {
        let mut recorder = recorder();
        recorder.start_measuring();
        while recorder.now_ns() < 30_000_000 {}
        recorder.stop_measuring();
        let share = recorder.recorded.busy_share;
        assert!(share > 0.5, "{share}");
        let mut all = Recorded::new();
        all.merge(&recorder.recorded);
        assert_eq!(all.busy_share, share);
    }

    #[test]
    fn a_tick_is_handed_in_when_the_next_has_begun() {
        let mut recorder = recorder();
        recorder.received(Times::now(0), 5000);
        recorder.count_up();
        recorder.part.connections = 2;
        recorder.hand_in(1, 3);
        recorder.hand_in(2, 4);
        let ticks = recorder.timeline.history().ticks;
        let figures: Vec<_> = ticks.iter().map(|tick| (tick.per_second, tick.connections, tick.faults)).collect();
        assert_eq!(figures, [(10.0, 2, 3), (0.0, 2, 1)]);
    }
}
