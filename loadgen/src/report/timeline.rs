//! The course of a run: figures in ticks of one length, for the progress line and for plots.
//!
//! Every worker adds its part of each tick when the tick is over. A tick is closed when a later one is well in
//! progress, so workers need not wait for each other. A part that arrives after that still counts, without its
//! latencies.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::check::faults::Counts;
use crate::report::latency::Latencies;

/// Approximate number of ticks in a run.
const TICKS: u32 = 100;

/// The shortest tick, long enough to contain some messages, and the longest, short enough to show progress.
const TICK_MIN: Duration = Duration::from_millis(100);
const TICK_MAX: Duration = Duration::from_secs(1);

/// A tick is closed when the tick this many places later begins.
const OPEN_TICKS: usize = 2;

/// The clock of a run, and its ticks so far. Shared by all workers.
#[derive(Debug)]
pub(crate) struct Timeline {
    start: Instant,
    tick_ns: u64,
    /// Whether the latencies of each tick are kept.
    keeps_intervals: bool,
    ticks: Mutex<Ticks>,
}

#[derive(Debug, Default)]
struct Ticks {
    closed: Vec<Tick>,
    open: VecDeque<Part>,
    /// Start and end of measuring, nanoseconds.
    measured_ns: [Option<u64>; 2],
    intervals: Vec<Interval>,
    server: Vec<ServerSample>,
    /// All closed ticks; latencies and connections as [`Totals`] has them.
    totals: Part,
}

/// The sum of all ticks so far.
#[derive(Debug)]
pub(crate) struct Totals {
    /// Messages received.
    pub(crate) count: u64,
    pub(crate) faults: Counts,
    /// Those of the measured part, from its first whole tick on.
    pub(crate) latencies: Latencies,
    /// Open connections at the end of the last tick.
    pub(crate) connections: u64,
    /// CPU time of the workers.
    pub(crate) client_cpu_ns: u64,
    pub(crate) is_measuring: bool,
}

/// The latencies of one tick, encoded for an interval log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Interval {
    /// Seconds since the start of the run.
    pub(crate) start_s: f64,
    pub(crate) length_s: f64,
    pub(crate) max_ms: f64,
    pub(crate) encoded: String,
}

/// Figures of one worker, or of all, in one tick.
#[derive(Debug)]
pub(crate) struct Part {
    /// Messages received.
    pub(crate) count: u64,
    pub(crate) faults: Counts,
    /// Open connections at the end.
    pub(crate) connections: u64,
    /// CPU time of the worker.
    pub(crate) cpu_ns: u64,
    pub(crate) latencies: Latencies,
}

impl Default for Part {
    fn default() -> Part {
        Part::new()
    }
}

impl Part {
    pub(crate) fn new() -> Part {
        let (latencies, faults) = (Latencies::coarse(), Counts::default());
        Part { count: 0, faults, connections: 0, cpu_ns: 0, latencies }
    }

    fn merge(&mut self, other: &Part) {
        self.count += other.count;
        self.faults.add(&other.faults);
        self.connections += other.connections;
        self.cpu_ns += other.cpu_ns;
        self.latencies.merge(&other.latencies);
    }
}

/// One stretch of a run, for all workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tick {
    /// Its end, seconds since the start of the run.
    pub(crate) at_s: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Open connections at its end.
    pub(crate) connections: u64,
    /// Faults found in it.
    pub(crate) faults: u64,
    /// CPU of this program's workers; 1 is one CPU, busy all the time.
    pub(crate) client_cpus: f64,
}

/// CPU and memory of the server at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServerSample {
    /// Seconds since the start of the run.
    pub(crate) at_s: f64,
    /// Since the last sample; 1 is one CPU, busy all the time.
    pub(crate) cpus: f64,
    pub(crate) resident_bytes: u64,
}

/// A whole run, from the first connection to the last message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    /// Length of a tick.
    pub(crate) tick_s: f64,
    /// Bounds of the measured part, seconds since the start of the run.
    pub(crate) measured_from_s: f64,
    pub(crate) measured_to_s: f64,
    pub(crate) ticks: Vec<Tick>,
    /// With the server's process.
    #[serde(default)]
    pub(crate) server: Vec<ServerSample>,
    /// The latencies of each tick, if they are kept.
    #[serde(skip)]
    pub(crate) intervals: Vec<Interval>,
}

impl History {
    /// Adds the ticks of an agent. The latencies of a tick are then the largest of any.
    pub(crate) fn add(&mut self, ticks: &[Tick]) {
        for (index, other) in ticks.iter().enumerate() {
            let Some(tick) = self.ticks.get_mut(index) else {
                self.ticks.push(other.clone());
                continue;
            };
            tick.per_second += other.per_second;
            tick.p50_us = tick.p50_us.max(other.p50_us);
            tick.p99_us = tick.p99_us.max(other.p99_us);
            tick.connections += other.connections;
            tick.faults += other.faults;
            tick.client_cpus += other.client_cpus;
        }
    }

    /// Removes all latencies.
    pub(crate) fn without_latencies(mut self) -> History {
        self.ticks.iter_mut().for_each(|tick| (tick.p50_us, tick.p99_us) = (0.0, 0.0));
        self
    }
}

impl Timeline {
    /// Starts the clock. The length of a tick suits a run that takes `planned`. The latencies of each tick are kept if
    /// `keeps_intervals`.
    pub(crate) fn start(planned: Duration, keeps_intervals: bool) -> Timeline {
        Timeline::start_at(Instant::now(), planned, keeps_intervals)
    }

    /// The same with a clock that started at this time.
    pub(crate) fn start_at(start: Instant, planned: Duration, keeps_intervals: bool) -> Timeline {
        let tick = (planned / TICKS).clamp(TICK_MIN, TICK_MAX);
        Timeline { start, tick_ns: tick.as_nanos() as u64, keeps_intervals, ticks: Mutex::default() }
    }

    /// Nanoseconds since the start of the run.
    pub(crate) fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Number of the tick at `now_ns`.
    pub(crate) fn tick_at(&self, now_ns: u64) -> u64 {
        now_ns / self.tick_ns
    }

    /// Length of a tick.
    pub(crate) fn tick(&self) -> Duration {
        Duration::from_nanos(self.tick_ns)
    }

    /// Adds what the server has used.
    pub(crate) fn add_sample(&self, sample: ServerSample) {
        self.lock().server.push(sample);
    }

    /// Marks the start of measuring.
    pub(crate) fn mark_start(&self) {
        self.lock().measured_ns[0].get_or_insert(self.now_ns());
    }

    /// Marks the end of measuring.
    pub(crate) fn mark_end(&self) {
        self.lock().measured_ns[1].get_or_insert(self.now_ns());
    }

    /// Adds the figures of one worker for tick `first`. Its connections were also open up to the tick before `next`.
    pub(crate) fn add(&self, first: u64, next: u64, part: &Part) {
        let mut ticks = self.lock();
        let idle = Part { connections: part.connections, ..Part::new() };
        for tick in first..next {
            self.add_one(&mut ticks, tick, if tick == first { part } else { &idle });
        }
    }

    fn add_one(&self, ticks: &mut Ticks, tick: u64, part: &Part) {
        let Some(index) = tick.checked_sub(ticks.closed.len() as u64) else {
            let late = &mut ticks.closed[tick as usize];
            late.per_second += part.count as f64 * 1e9 / self.tick_ns as f64;
            late.faults += part.faults.sum();
            ticks.totals.count += part.count;
            ticks.totals.faults.add(&part.faults);
            ticks.totals.cpu_ns += part.cpu_ns;
            late.connections += part.connections;
            return;
        };
        while ticks.open.len() as u64 <= index {
            ticks.open.push_back(Part::new());
        }
        ticks.open[index as usize].merge(part);
        while ticks.open.len() > OPEN_TICKS {
            self.close_oldest(ticks);
        }
    }

    fn close_oldest(&self, ticks: &mut Ticks) {
        let Some(part) = ticks.open.pop_front() else { return };
        let tick_s = self.tick_ns as f64 / 1e9;
        let start_s = ticks.closed.len() as f64 * tick_s;
        let is_measured = ticks.measured_ns[0].is_some_and(|ns| ns as f64 / 1e9 <= start_s);
        if is_measured {
            ticks.totals.latencies.merge(&part.latencies);
        }
        ticks.totals.count += part.count;
        ticks.totals.faults.add(&part.faults);
        ticks.totals.cpu_ns += part.cpu_ns;
        ticks.totals.connections = part.connections;
        if self.keeps_intervals {
            let (max_ms, encoded) = (part.latencies.quantile_us(1.0) / 1e3, part.latencies.encoded());
            ticks.intervals.push(Interval { start_s, length_s: tick_s, max_ms, encoded });
        }
        ticks.closed.push(Tick {
            at_s: (ticks.closed.len() + 1) as f64 * tick_s,
            per_second: part.count as f64 / tick_s,
            p50_us: part.latencies.quantile_us(0.5),
            p99_us: part.latencies.quantile_us(0.99),
            connections: part.connections,
            faults: part.faults.sum(),
            client_cpus: part.cpu_ns as f64 / self.tick_ns as f64,
        });
    }

    /// The newest closed tick, the number of faults up to it, and whether it is measured.
    pub(crate) fn latest(&self) -> Option<(Tick, u64, bool)> {
        let ticks = self.lock();
        let faults = ticks.closed.iter().map(|tick| tick.faults).sum();
        ticks.closed.last().map(|tick| (tick.clone(), faults, ticks.measured_ns[0].is_some()))
    }

    /// The sum of all closed ticks.
    pub(crate) fn totals(&self) -> Totals {
        let ticks = self.lock();
        let Part { count, faults, connections, cpu_ns, latencies } = &ticks.totals;
        Totals {
            count: *count,
            faults: *faults,
            latencies: latencies.clone(),
            connections: *connections,
            client_cpu_ns: *cpu_ns,
            is_measuring: ticks.measured_ns[0].is_some(),
        }
    }

    /// The history so far.
    pub(crate) fn history(&self) -> History {
        let mut ticks = self.lock();
        while !ticks.open.is_empty() {
            self.close_oldest(&mut ticks);
        }
        let [from, to] = ticks.measured_ns.map(|ns| ns.unwrap_or_else(|| self.now_ns()) as f64 / 1e9);
        let tick_s = self.tick_ns as f64 / 1e9;
        let (closed, server, intervals) = (ticks.closed.clone(), ticks.server.clone(), ticks.intervals.clone());
        History { tick_s, measured_from_s: from, measured_to_s: to, ticks: closed, server, intervals }
    }

    /// Ignores poisoning: a worker that panicked leaves consistent numbers, since each changes in one step.
    fn lock(&self) -> MutexGuard<'_, Ticks> {
        self.ticks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(count: u64, connections: u64) -> Part {
        let mut part = Part { count, connections, cpu_ns: 50_000_000, ..Part::new() };
        (0..count).for_each(|n| part.latencies.record((n + 1) * 1000));
        part
    }

    fn figures(history: &History) -> Vec<(f64, u64)> {
        history.ticks.iter().map(|tick| (tick.per_second, tick.connections)).collect()
    }

    #[test]
    fn ticks_are_a_hundredth_of_the_run_within_bounds() {
        let tick = |seconds| Timeline::start(Duration::from_secs(seconds), false).tick();
        assert_eq!([tick(1), tick(20), tick(3600)], [100, 200, 1000].map(Duration::from_millis));
        let timeline = Timeline::start(Duration::from_secs(1), false);
        assert_eq!([0, 99_999_999, 100_000_000].map(|ns| timeline.tick_at(ns)), [0, 0, 1]);
    }

    #[test]
    fn parts_of_workers_add_up() {
        let timeline = Timeline::start(Duration::from_secs(1), false);
        timeline.add(0, 1, &part(10, 3));
        timeline.add(0, 1, &part(20, 4));
        timeline.add(1, 2, &part(5, 3));
        assert!(timeline.latest().is_none(), "other workers may still add to it");
        timeline.add(2, 3, &part(1, 3));
        let (tick, faults, measured) = timeline.latest().unwrap();
        assert_eq!((tick.per_second, tick.connections, tick.client_cpus, faults, measured), (300.0, 7, 1.0, 0, false));
        timeline.add(0, 1, &part(1, 1));
        assert_eq!(figures(&timeline.history()), [(310.0, 8), (50.0, 3), (10.0, 3)]);
    }

    #[test]
    fn ticks_without_messages_keep_the_connection_count() {
        let timeline = Timeline::start(Duration::from_secs(1), false);
        timeline.add(0, 4, &part(2, 9));
        assert_eq!(figures(&timeline.history()), [(20.0, 9), (0.0, 9), (0.0, 9), (0.0, 9)]);
    }

    #[test]
    fn totals_are_those_of_all_ticks_and_latencies_of_measured_ones() {
        let timeline = Timeline::start(Duration::from_secs(1), true);
        let lost = Counts { missing: 2, ..Counts::default() };
        timeline.add(0, 1, &Part { faults: lost, ..part(10, 3) });
        timeline.mark_start();
        timeline.add(1, 2, &part(5, 4));
        timeline.add(2, 4, &part(7, 4));
        let Totals { count, faults, latencies, connections, client_cpu_ns, is_measuring } = timeline.totals();
        assert_eq!((count, faults, latencies.count(), connections), (15, lost, 5, 4), "the last two ticks are open");
        assert_eq!((client_cpu_ns, is_measuring), (100_000_000, true));
        let intervals = timeline.history().intervals;
        let starts: Vec<f64> = intervals.iter().map(|interval| interval.start_s).collect();
        assert_eq!(starts, [0.0, 0.1, 0.2, 0.30000000000000004]);
        assert!(intervals[0].encoded.starts_with("HISTFAAA") && intervals[0].max_ms > 0.009, "{intervals:?}");
    }

    #[test]
    fn the_measured_part_is_marked_once() {
        let timeline = Timeline::start(Duration::from_secs(1), false);
        timeline.mark_start();
        timeline.mark_end();
        let history = timeline.history();
        timeline.mark_end();
        assert_eq!(timeline.history(), history);
        assert!(history.measured_from_s <= history.measured_to_s);
    }
}
