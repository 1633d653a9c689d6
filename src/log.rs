//! Bounds how many log lines clients can cause: they must fill no disk and slow no shard.
//!
//! Each kind of line has a budget of its own, for all threads. A line states how many of its kind were left out since
//! the last one (`left_out`); the counters in `/metrics` have them all.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::limits::{LOG_LINE_MS, LOG_LINES_BURST};

/// A handshake or a request on the data port was rejected.
pub(crate) static REJECTED: Budget = Budget::new();

/// A connection was told to come back later: capacity, rate, or its address.
pub(crate) static SHED: Budget = Budget::new();

/// A connection was closed for what it did or did not do: a slow consumer, or one above its rate.
pub(crate) static CLOSED: Budget = Budget::new();

/// An untrusted peer stated the address of a client.
pub(crate) static FORWARDED: Budget = Budget::new();

/// A token was rejected.
#[cfg(feature = "centrifuge")]
pub(crate) static TOKENS: Budget = Budget::new();

/// The backend had no answer to a call.
#[cfg(feature = "control")]
pub(crate) static BACKEND: Budget = Budget::new();

/// The broker of a cluster has rejected the node, or something of it.
#[cfg(feature = "cluster")]
pub(crate) static BROKER: Budget = Budget::new();

/// A request to the control port came without the key, or from a foreign page.
#[cfg(feature = "control")]
pub(crate) static KEYS: Budget = Budget::new();

/// Lines of one kind: [`LOG_LINES_BURST`] at once, then one every [`LOG_LINE_MS`].
#[derive(Debug)]
pub(crate) struct Budget {
    /// When the budget is full again, in milliseconds.
    full_ms: AtomicU64,
    /// Lines that were left out since the last one.
    left_out: AtomicU64,
}

impl Budget {
    const fn new() -> Budget {
        Budget { full_ms: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// Whether a line may be written now: then, how many were left out since the last one.
    pub(crate) fn take(&self) -> Option<u64> {
        static START: OnceLock<Instant> = OnceLock::new();
        self.take_at(START.get_or_init(Instant::now).elapsed().as_millis() as u64)
    }

    fn take_at(&self, now_ms: u64) -> Option<u64> {
        let spend = |full_ms: u64| {
            let full_ms = full_ms.max(now_ms) + LOG_LINE_MS;
            (full_ms <= now_ms + LOG_LINES_BURST * LOG_LINE_MS).then_some(full_ms)
        };
        if self.full_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok() {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_a_line_a_second_and_counted() {
        let budget = Budget::new();
        let written = |now_ms| (0..100).filter_map(|_| budget.take_at(now_ms)).collect::<Vec<_>>();
        assert_eq!(written(5), vec![0; LOG_LINES_BURST as usize]);
        assert!(written(5).is_empty());
        let left_out = 200 - LOG_LINES_BURST;
        assert_eq!(written(5 + LOG_LINE_MS), [left_out]);
        assert_eq!(written(5 + 3 * LOG_LINE_MS), [99, 0]);
        assert_eq!(written(u64::MAX / 2).len(), LOG_LINES_BURST as usize, "it does not grow with time");
    }
}
