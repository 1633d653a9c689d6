//! How fast connections are let in.
//!
//! A storm of connections first waits in the kernel's backlog, which costs nobody anything. Only when it has lasted for
//! a while does the shard accept every other connection to reject it with 503. Pure: time and accepted connections are
//! arguments.

use crate::limits::SHED_AFTER_MS;

/// Thousandths: what one connection takes.
const ONE: u64 = 1000;

/// A bucket that fills with time; each connection takes something out.
#[derive(Debug)]
pub(super) struct Admission {
    /// Connections per second; 0 is as many as come.
    rate: u64,
    /// Thousandths of connections that may come in now.
    credit: u64,
    filled_ms: u64,
    /// When it was last known that nobody waited.
    relaxed_ms: u64,
    /// While connections are shed: the next one is.
    is_next_shed: bool,
}

impl Admission {
    /// Lets `rate` connections a second in; 0 is all.
    pub(super) fn new(rate: u64) -> Admission {
        Admission { rate, credit: ONE, filled_ms: 0, relaxed_ms: 0, is_next_shed: false }
    }

    /// Lets `rate` connections a second in from now on. Returns whether that is another rate.
    #[cfg(feature = "product")]
    pub(super) fn set_rate(&mut self, rate: u64) -> bool {
        std::mem::replace(&mut self.rate, rate) != rate
    }

    /// Nobody waits to be let in.
    pub(super) fn relax(&mut self, now_ms: u64) {
        self.relaxed_ms = now_ms;
        self.is_next_shed = false;
    }

    /// How many of `wanted` connections may come in now. They have taken their share.
    pub(super) fn take(&mut self, wanted: usize, now_ms: u64) -> usize {
        if self.rate == 0 {
            return wanted;
        }
        self.fill(now_ms);
        let taken = wanted.min((self.credit / ONE) as usize);
        self.credit -= taken as u64 * ONE;
        taken
    }

    /// Whether the connection that came in must be told to come back later.
    pub(super) fn sheds(&mut self, now_ms: u64) -> bool {
        if !self.is_shedding(now_ms) {
            return false;
        }
        self.is_next_shed = !self.is_next_shed;
        self.is_next_shed
    }

    /// When the next connection may come in, where none may now.
    pub(super) fn next_ms(&self) -> Option<u64> {
        (self.rate > 0 && self.credit < ONE).then(|| self.filled_ms + (ONE - self.credit).div_ceil(self.rate))
    }

    fn is_shedding(&self, now_ms: u64) -> bool {
        self.rate > 0 && now_ms.saturating_sub(self.relaxed_ms) >= SHED_AFTER_MS
    }

    fn fill(&mut self, now_ms: u64) {
        // Those that are shed come on top.
        let rate = if self.is_shedding(now_ms) { 2 * self.rate } else { self.rate };
        let filled = now_ms.saturating_sub(self.filled_ms).saturating_mul(rate);
        // The bucket keeps unused room for a tenth of a second, so that a late turn loses nothing.
        self.credit = self.credit.saturating_add(filled).min((rate * ONE / 10).max(ONE));
        self.filled_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_come_in_as_the_rate_allows() {
        let mut admission = Admission::new(1000);
        admission.take(usize::MAX, 0);
        let taken: usize = (1..=1000).map(|now_ms| admission.take(usize::MAX, now_ms)).sum();
        assert_eq!(taken, 1000);
        admission.relax(10_000);
        assert_eq!(admission.take(usize::MAX, 10_000), 100, "what is not used is kept for a tenth of a second");
    }

    #[test]
    fn a_slow_rate_lets_one_in_at_a_time() {
        let mut admission = Admission::new(3);
        assert_eq!(admission.take(5, 0), 1);
        assert_eq!(admission.next_ms(), Some(334));
        assert_eq!(admission.take(5, 333), 0);
        assert_eq!(admission.take(5, 334), 1);
        assert_eq!(admission.take(5, 100_000), 1);
    }

    #[test]
    fn without_a_rate_all_come_in() {
        let mut admission = Admission::new(0);
        assert_eq!(admission.take(1_000_000, 5), 1_000_000);
        assert!(!admission.sheds(100 * SHED_AFTER_MS));
        assert_eq!(admission.next_ms(), None);
    }

    #[test]
    fn every_other_one_is_shed_when_many_have_waited_for_long() {
        let mut admission = Admission::new(1000);
        admission.take(usize::MAX, 0);
        admission.relax(10);
        assert!(!admission.sheds(9 + SHED_AFTER_MS));
        let later = 10 + SHED_AFTER_MS;
        let shed = (0..10).filter(|_| admission.sheds(later)).count();
        assert_eq!(shed, 5);
        admission.take(usize::MAX, later);
        assert_eq!(admission.take(usize::MAX, later + 10), 20, "those that are shed come on top");
        admission.relax(later + 10);
        assert!(!admission.sheds(later + 10));
    }
}
