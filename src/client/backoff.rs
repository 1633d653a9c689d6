//! How long to wait before another attempt: exponential backoff with full jitter, so that the clients of a server that
//! restarts do not all come back at once.

use std::time::Duration;

use crate::limits::{CLIENT_RETRY_FIRST_MS, CLIENT_RETRY_MAX_MS};

/// Attempts that failed since the last one that did not.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// An attempt has failed: how long to wait, a share of the longest wait that `random` chooses.
    pub(super) fn failed(&mut self, random: u32) -> Duration {
        let doublings = self.failures.min(u64::BITS / 2);
        self.failures = self.failures.saturating_add(1);
        let longest_ms = CLIENT_RETRY_FIRST_MS.saturating_mul(1 << doublings).min(CLIENT_RETRY_MAX_MS);
        Duration::from_millis((longest_ms * u64::from(random)) >> u32::BITS)
    }

    /// An attempt has succeeded.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_doubles_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let longest: Vec<u64> = (0..9).map(|_| backoff.failed(u32::MAX).as_millis() as u64 + 1).collect();
        assert_eq!(longest, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        for _ in 0..1000 {
            backoff.failed(0);
        }
        assert_eq!(backoff.failed(u32::MAX).as_millis(), 29_999);
        backoff.succeeded();
        assert_eq!(backoff.failed(u32::MAX).as_millis(), 499);
    }

    #[test]
    fn the_wait_is_any_share_of_the_longest() {
        assert_eq!(Backoff::default().failed(0), Duration::ZERO);
        assert_eq!(Backoff::default().failed(1 << 31), Duration::from_millis(250));
    }
}
