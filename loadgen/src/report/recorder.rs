//! The record of one worker: fixed memory, a lock only once per tick, merged at the end.
//!
//! A message has two times: the *intended* time, when the schedule was to publish it, and the *actual* time of
//! publishing. Latency from the intended time is the valid one. A tool that waits for a slow server before publishing
//! the next message, and measures from there, omits the delay of all messages that were due in between (Gil Tene's
//! "coordinated omission"). Both latencies are recorded, to be shown side by side.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::check::faults::Counts;
use crate::host::process::ThreadTime;
use crate::report::latency::Latencies;
use crate::report::tally::Tally;
use crate::report::timeline::{Part, Timeline};

/// Scheduled and actual publishing time of a message. Nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) intended_ns: u64,
    pub(crate) actual_ns: u64,
}

impl Times {
    /// The times of a message published at `now_ns`, in a closed loop without a schedule.
    pub(crate) fn now(now_ns: u64) -> Times {
        Times { intended_ns: now_ns, actual_ns: now_ns }
    }
}

/// Belongs to one thread: it reads that thread's CPU time.
#[derive(Debug)]
pub(crate) struct Recorder {
    timeline: Arc<Timeline>,
    pub(crate) recorded: Recorded,
    /// The time and the thread's CPU time when measuring began.
    measured_from: Option<(u64, ThreadTime)>,
    /// Messages of this turn.
    tally: Tally,
    /// Figures of this tick.
    part: Part,
    /// Number of this tick.
    tick: u64,
    thread_time: ThreadTime,
    /// Faults reported in ticks so far, and all of them.
    faults: Counts,
    total_faults: Counts,
    /// Time at which the first bytes of this turn were received.
    woken_ns: Option<u64>,
    /// Messages received in this turn.
    turn_messages: u64,
    /// The time and the thread's CPU time when the worker had nothing more to expect, with the time of the last
    /// message.
    idle: Option<(u64, u64, ThreadTime)>,
}

/// The figures of an agent, on their way to its coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RecordedFound {
    /// Encoded histograms, in the order of the fields of [`Recorded`].
    histograms: [String; 6],
    busy_share: f64,
}

/// Figures of the measured part of a run, of one worker or of all.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// From the intended time to receipt.
    pub(crate) corrected: Latencies,
    /// From the actual time to receipt.
    pub(crate) uncorrected: Latencies,
    /// From the intended time to the actual time.
    pub(crate) lateness: Latencies,
    /// Time that received messages waited in this program.
    pub(crate) backlog: Latencies,
    /// From the intended time to receipt, on the watched topic, which is not in the others.
    pub(crate) watched: Latencies,
    /// From passing a publication to the kernel to its acknowledgement.
    pub(crate) acknowledged: Latencies,
    /// The share of time in which the busiest worker ran on a CPU or was ready to run.
    pub(crate) busy_share: f64,
}

impl Recorded {
    pub(crate) fn new() -> Recorded {
        let [corrected, uncorrected, lateness, backlog, watched, acknowledged] =
            std::array::from_fn(|_| Latencies::new());
        Recorded { corrected, uncorrected, lateness, backlog, watched, acknowledged, busy_share: 0.0 }
    }

    /// Adds the figures of another worker.
    pub(crate) fn merge(&mut self, other: &Recorded) {
        self.corrected.merge(&other.corrected);
        self.uncorrected.merge(&other.uncorrected);
        self.lateness.merge(&other.lateness);
        self.backlog.merge(&other.backlog);
        self.watched.merge(&other.watched);
        self.acknowledged.merge(&other.acknowledged);
        self.busy_share = self.busy_share.max(other.busy_share);
    }

    /// The figures, for the coordinator.
    pub(crate) fn found(&self) -> RecordedFound {
        let Recorded { corrected, uncorrected, lateness, backlog, watched, acknowledged, busy_share } = self;
        let histograms = [corrected, uncorrected, lateness, backlog, watched, acknowledged].map(Latencies::encoded);
        RecordedFound { histograms, busy_share: *busy_share }
    }

    /// What an agent found.
    ///
    /// # Errors
    /// If a histogram can't be read.
    pub(crate) fn of_found(found: &RecordedFound) -> Result<Recorded, String> {
        let [corrected, uncorrected, lateness, backlog, watched, acknowledged] =
            found.histograms.each_ref().map(|encoded| Latencies::decoded(encoded));
        Ok(Recorded {
            corrected: corrected?,
            uncorrected: uncorrected?,
            lateness: lateness?,
            backlog: backlog?,
            watched: watched?,
            acknowledged: acknowledged?,
            busy_share: found.busy_share,
        })
    }

    fn clear(&mut self) {
        let Recorded { corrected, uncorrected, lateness, backlog, watched, acknowledged, busy_share: _ } = self;
        let all = [corrected, uncorrected, lateness, backlog, watched, acknowledged];
        all.into_iter().for_each(Latencies::clear);
    }
}

impl Recorder {
    /// A recorder for the calling thread.
    pub(crate) fn new(timeline: Arc<Timeline>) -> Recorder {
        Recorder {
            recorded: Recorded::new(),
            measured_from: None,
            tally: Tally::new(),
            part: Part::new(),
            tick: timeline.tick_at(timeline.now_ns()),
            thread_time: ThreadTime::now(),
            faults: Counts::default(),
            total_faults: Counts::default(),
            woken_ns: None,
            turn_messages: 0,
            idle: None,
            timeline,
        }
    }

    /// Nanoseconds since the start of the run.
    pub(crate) fn now_ns(&self) -> u64 {
        self.timeline.now_ns()
    }

    /// Discards the figures of the warm-up.
    pub(crate) fn start_measuring(&mut self) {
        self.count_up();
        self.recorded.clear();
        self.measured_from = Some((self.now_ns(), ThreadTime::now()));
    }

    /// The last message came at `last_ns`, and the worker only waits in case that others come.
    pub(crate) fn on_idle(&mut self, last_ns: u64) {
        if self.idle.is_none_or(|(known_ns, ..)| known_ns != last_ns) {
            self.idle = Some((last_ns, self.now_ns(), ThreadTime::now()));
        }
    }

    /// Ends the measured part, in which the last message came at `last_ns`, and hands in the last tick.
    pub(crate) fn stop_measuring(&mut self, last_ns: u64) {
        self.count_up();
        let Some((from_ns, thread_from)) = self.measured_from.take() else { return };
        let idle = self.idle.filter(|(known_ns, ..)| *known_ns == last_ns);
        let (until_ns, thread_until) =
            idle.map_or_else(|| (self.now_ns(), ThreadTime::now()), |(_, at_ns, time)| (at_ns, time));
        let elapsed_ns = until_ns.saturating_sub(from_ns);
        let busy_ns = thread_until.since(thread_from).busy_ns();
        self.recorded.busy_share = if elapsed_ns > 0 { busy_ns as f64 / elapsed_ns as f64 } else { 0.0 };
        self.hand_in(self.tick + 1, self.total_faults);
    }

    /// A message with these times was passed to the kernel, and only this program could have delayed it.
    pub(crate) fn published(&mut self, times: Times) {
        self.recorded.lateness.record(times.actual_ns.saturating_sub(times.intended_ns));
    }

    /// Bytes arrived: starts the turn of the loop that handles them, if it has not started.
    pub(crate) fn woken(&mut self, now_ns: u64) {
        self.woken_ns.get_or_insert(now_ns);
    }

    /// A message with these times arrived. It is recorded at the end of the turn.
    pub(crate) fn received(&mut self, times: Times, now_ns: u64) {
        if !self.tally.add(times, now_ns) {
            self.count_up();
            self.tally.add(times, now_ns);
        }
    }

    /// A message with these times arrived on the watched topic.
    pub(crate) fn received_watched(&mut self, times: Times, now_ns: u64) {
        self.recorded.watched.record(now_ns.saturating_sub(times.intended_ns));
    }

    /// The server acknowledged a publication after this time.
    pub(crate) fn acknowledged(&mut self, latency_ns: u64) {
        self.recorded.acknowledged.record(latency_ns);
    }

    /// Records the tallied messages.
    fn count_up(&mut self) {
        let Recorder { recorded, tally, part, turn_messages, .. } = self;
        tally.drain(|times, now_ns, count| {
            let corrected_ns = now_ns.saturating_sub(times.intended_ns);
            recorded.corrected.record_many(corrected_ns, count);
            recorded.uncorrected.record_many(now_ns.saturating_sub(times.actual_ns), count);
            part.latencies.record_many(corrected_ns, count);
            part.count += count;
            *turn_messages += count;
        });
    }

    /// Ends a turn of the loop, with `connections` open and `faults` so far.
    pub(crate) fn turn_over(&mut self, connections: u64, faults: Counts) {
        self.count_up();
        let now_ns = self.now_ns();
        if let Some(woken_ns) = self.woken_ns.take() {
            self.recorded.backlog.record_many(now_ns - woken_ns, self.turn_messages.max(1));
        }
        self.turn_messages = 0;
        self.part.connections = connections;
        self.total_faults = faults;
        let tick = self.timeline.tick_at(now_ns);
        if tick > self.tick {
            self.hand_in(tick, faults);
        }
    }

    /// Adds the figures to the timeline, since tick `next` has begun.
    fn hand_in(&mut self, next: u64, faults: Counts) {
        let thread_time = ThreadTime::now();
        self.part.cpu_ns = thread_time.since(self.thread_time).cpu_ns;
        self.part.faults = faults.since(&self.faults);
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

    fn missing(missing: u64) -> Counts {
        Counts { missing, ..Counts::default() }
    }

    fn recorder() -> Recorder {
        Recorder::new(Arc::new(Timeline::start(Duration::from_secs(1), false)))
    }

    #[test]
    fn latency_is_recorded_from_both_times() {
        let mut recorder = recorder();
        let times = Times { intended_ns: 1_000_000, actual_ns: 3_000_000 };
        recorder.published(times);
        recorder.received(times, 4_000_000);
        recorder.turn_over(1, Counts::default());
        let p50 = |latencies: &Latencies| (latencies.quantile_us(0.5) / 10.0).round() * 10.0;
        let Recorded { corrected, uncorrected, lateness, .. } = &recorder.recorded;
        assert_eq!([p50(corrected), p50(uncorrected), p50(lateness)], [3000.0, 1000.0, 2000.0]);
    }

    #[test]
    fn the_warm_up_is_discarded() {
        let mut recorder = recorder();
        recorder.published(Times::now(1));
        recorder.received(Times::now(1), 2);
        recorder.woken(0);
        recorder.received_watched(Times::now(1), 2);
        recorder.acknowledged(1);
        recorder.turn_over(1, Counts::default());
        recorder.start_measuring();
        let Recorded { corrected, uncorrected, lateness, backlog, watched, acknowledged, .. } = &recorder.recorded;
        assert_eq!([corrected, uncorrected, lateness, backlog, watched, acknowledged].map(Latencies::count), [0; 6]);
    }

    #[test]
    fn a_turn_without_messages_is_no_backlog() {
        let mut recorder = recorder();
        recorder.turn_over(1, Counts::default());
        assert_eq!(recorder.recorded.backlog.count(), 0);
        recorder.woken(0);
        recorder.woken(recorder.now_ns());
        recorder.turn_over(1, Counts::default());
        assert_eq!(recorder.recorded.backlog.count(), 1);
    }

    #[test]
    fn a_worker_that_only_computes_is_busy() {
        let mut recorder = recorder();
        recorder.start_measuring();
        while recorder.now_ns() < 30_000_000 {}
        recorder.stop_measuring(0);
        let share = recorder.recorded.busy_share;
        assert!(share > 0.5, "{share}");
        let mut all = Recorded::new();
        all.merge(&recorder.recorded);
        assert_eq!(all.busy_share, share);
    }

    #[test]
    fn the_wait_after_the_last_message_is_not_measured() {
        let mut recorder = recorder();
        recorder.start_measuring();
        while recorder.now_ns() < 30_000_000 {}
        recorder.on_idle(7);
        std::thread::sleep(Duration::from_millis(200));
        recorder.on_idle(7);
        recorder.stop_measuring(7);
        assert!(recorder.recorded.busy_share > 0.3, "{}", recorder.recorded.busy_share);
    }

    #[test]
    fn a_backlog_counts_for_each_message() {
        let mut recorder = recorder();
        recorder.woken(0);
        (0..5).for_each(|_| recorder.received(Times::now(1), 2));
        recorder.turn_over(1, Counts::default());
        assert_eq!(recorder.recorded.backlog.count(), 5);
    }

    #[test]
    fn the_last_tick_is_in_the_history() {
        let mut recorder = recorder();
        recorder.start_measuring();
        recorder.received(Times::now(0), 5000);
        recorder.turn_over(2, missing(3));
        recorder.stop_measuring(0);
        let ticks = recorder.timeline.history().ticks;
        assert_eq!((ticks.len(), ticks[0].per_second, ticks[0].faults), (1, 10.0, 3));
    }

    #[test]
    fn a_tick_is_added_when_the_next_has_begun() {
        let mut recorder = recorder();
        recorder.received(Times::now(0), 5000);
        recorder.count_up();
        recorder.part.connections = 2;
        recorder.hand_in(1, missing(3));
        recorder.hand_in(2, missing(4));
        let ticks = recorder.timeline.history().ticks;
        let figures: Vec<_> = ticks.iter().map(|tick| (tick.per_second, tick.connections, tick.faults)).collect();
        assert_eq!(figures, [(10.0, 2, 3), (0.0, 2, 1)]);
    }
}
