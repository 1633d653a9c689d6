//! What the backend counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::gateway::centrifuge::{BackendAnswer, CallKind};

/// Counts of all kinds of calls. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct BackendCounts(Arc<[KindCounts; CallKind::ALL.len()]>);

/// Counts of one kind of call.
#[derive(Debug, Default)]
pub struct KindCounts {
    outcomes: [AtomicU64; BackendOutcome::ALL.len()],
    in_flight: AtomicU64,
    nanoseconds: AtomicU64,
    /// By [`BUCKETS_MS`](KindCounts::BUCKETS_MS), and the slower ones.
    buckets: [AtomicU64; KindCounts::BUCKETS_MS.len() + 1],
}

/// How a call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendOutcome {
    /// With a result.
    Result,
    /// With an error for the client.
    Error,
    /// With a code to disconnect the client.
    Disconnect,
    /// It took too long.
    Timeout,
    /// The endpoint can't be reached, or broke the connection.
    Unreachable,
    /// The response has another status than 200.
    Status,
    /// The response is not an answer.
    Invalid,
    /// The response is too large.
    TooLarge,
    /// Too many calls were in flight.
    Rejected,
    /// The client had gone before the call was made.
    Gone,
}

impl BackendCounts {
    /// The counts of a kind.
    pub fn kind(&self, kind: CallKind) -> &KindCounts {
        &self.0[kind as usize]
    }
}

impl KindCounts {
    /// Upper bounds of the latencies that are counted, in milliseconds.
    pub const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

    /// Lets a call in, if fewer than `max` are in flight.
    pub(super) fn enter(&self, max: u64) -> bool {
        let more = |in_flight: u64| (in_flight < max).then_some(in_flight + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// A call that was let in has ended.
    pub(super) fn leave(&self, outcome: BackendOutcome, took: Option<Duration>) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.end(outcome, took);
    }

    /// A call has ended.
    pub(super) fn end(&self, outcome: BackendOutcome, took: Option<Duration>) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
        let Some(took) = took else { return };
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let bucket = Self::BUCKETS_MS.iter().position(|ms| took <= Duration::from_millis(*ms));
        self.buckets[bucket.unwrap_or(Self::BUCKETS_MS.len())].fetch_add(1, Ordering::Relaxed);
    }

    /// Calls that have ended so.
    pub fn outcome(&self, outcome: BackendOutcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// Calls that have no answer yet.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Time of all calls.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    /// Calls in each bucket: its upper bound in seconds, and how many are in it alone.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = Self::BUCKETS_MS.iter().map(|ms| *ms as f64 / 1000.0).chain([f64::INFINITY]);
        bounds.zip(self.buckets.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

impl BackendOutcome {
    /// All outcomes.
    pub const ALL: [BackendOutcome; 10] = [
        BackendOutcome::Result,
        BackendOutcome::Error,
        BackendOutcome::Disconnect,
        BackendOutcome::Timeout,
        BackendOutcome::Unreachable,
        BackendOutcome::Status,
        BackendOutcome::Invalid,
        BackendOutcome::TooLarge,
        BackendOutcome::Rejected,
        BackendOutcome::Gone,
    ];

    /// The name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            BackendOutcome::Result => "result",
            BackendOutcome::Error => "error",
            BackendOutcome::Disconnect => "disconnect",
            BackendOutcome::Timeout => "timeout",
            BackendOutcome::Unreachable => "unreachable",
            BackendOutcome::Status => "status",
            BackendOutcome::Invalid => "invalid",
            BackendOutcome::TooLarge => "too_large",
            BackendOutcome::Rejected => "rejected",
            BackendOutcome::Gone => "gone",
        }
    }

    pub(super) fn of(answer: &BackendAnswer) -> BackendOutcome {
        match answer {
            BackendAnswer::Error { .. } => BackendOutcome::Error,
            BackendAnswer::Disconnect { .. } => BackendOutcome::Disconnect,
            _ => BackendOutcome::Result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_calls_than_allowed_are_in_flight() {
        let counts = KindCounts::default();
        assert!(counts.enter(2) && counts.enter(2) && !counts.enter(2));
        counts.leave(BackendOutcome::Timeout, Some(Duration::from_millis(3)));
        assert!(counts.enter(2));
        assert_eq!((counts.in_flight(), counts.outcome(BackendOutcome::Timeout)), (2, 1));
        let buckets: Vec<u64> = counts.buckets().map(|(_, count)| count).collect();
        assert_eq!(buckets[..4], [0, 0, 1, 0]);
        counts.end(BackendOutcome::Result, Some(Duration::from_secs(60)));
        assert_eq!(counts.buckets().last(), Some((f64::INFINITY, 1)));
    }
}
