//! How much a peer may send in a second.
//!
//! Two token buckets, each kept as one time: that at which it will be full again. A bucket needs no work while
//! nobody sends, so an idle connection costs nothing here.

/// How much a peer may send. 0 turns a bound off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateConfig {
    /// Messages, pings and pongs in a second. As many may come at once. A message that holds several requests counts as
    /// so many ([`Context::count_as`](crate::gateway::Context::count_as)); one that passes the bound is still heard.
    pub messages_per_second: u32,
    /// Bytes in a second, of frames and what is around them. As many may come at once; less than a receive may bring
    /// ([`RECV_BUFFER_BYTES`](crate::limits::RECV_BUFFER_BYTES)) would end peers for how the network joins packets.
    pub bytes_per_second: u32,
}

impl RateConfig {
    /// Whether nothing is bounded.
    pub fn is_off(&self) -> bool {
        *self == RateConfig::default()
    }
}

/// What a peer sends too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMuch {
    /// Messages, pings and pongs.
    Messages,
    /// Bytes.
    Bytes,
}

/// What a peer has sent lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    messages: Bucket,
    bytes: Bucket,
}

/// The time at which nothing more will be missing, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at_us: u64,
}

/// A bucket holds what may be sent in this time.
const BUCKET_US: u64 = 1_000_000;

impl Rate {
    /// So many messages, pings or pongs came.
    ///
    /// # Errors
    /// [`TooMuch::Messages`] when they are too many: then none of them counts.
    pub fn on_messages(&mut self, count: u32, now_ms: u64, config: &RateConfig) -> Result<(), TooMuch> {
        self.messages.take(u64::from(count), config.messages_per_second, now_ms).ok_or(TooMuch::Messages)
    }

    /// This many bytes came.
    ///
    /// # Errors
    /// [`TooMuch::Bytes`] when they are too many: then none of them counts.
    pub fn on_bytes(&mut self, count: usize, now_ms: u64, config: &RateConfig) -> Result<(), TooMuch> {
        self.bytes.take(count as u64, config.bytes_per_second, now_ms).ok_or(TooMuch::Bytes)
    }
}

impl Bucket {
    /// Takes `count` of the `per_second` that come back in a second, if so many are there.
    fn take(&mut self, count: u64, per_second: u32, now_ms: u64) -> Option<()> {
        if per_second == 0 {
            return Some(());
        }
        let now_us = now_ms.saturating_mul(1000);
        let missing_us = count.saturating_mul(BUCKET_US) / u64::from(per_second);
        let full_at_us = self.full_at_us.max(now_us).saturating_add(missing_us);
        if full_at_us - now_us > BUCKET_US {
            return None;
        }
        self.full_at_us = full_at_us;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: RateConfig = RateConfig { messages_per_second: 10, bytes_per_second: 1_000_000 };

    /// How many messages pass at this time.
    fn pass(rate: &mut Rate, now_ms: u64) -> usize {
        (0..100).take_while(|_| rate.on_messages(1, now_ms, &CONFIG).is_ok()).count()
    }

    #[test]
    fn a_second_s_worth_may_come_at_once_and_then_as_much_as_comes_back() {
        let mut rate = Rate::default();
        let passed = [5_000, 5_000, 5_099, 5_100, 5_350, 5_999, 60_000].map(|now_ms| pass(&mut rate, now_ms));
        assert_eq!(passed, [10, 0, 0, 1, 2, 6, 10]);
    }

    #[test]
    fn what_is_refused_does_not_count() {
        let mut rate = Rate::default();
        assert_eq!(rate.on_bytes(1_000_001, 0, &CONFIG), Err(TooMuch::Bytes));
        assert_eq!(rate.on_bytes(600_000, 0, &CONFIG), Ok(()));
        assert_eq!(rate.on_bytes(600_000, 100, &CONFIG), Err(TooMuch::Bytes));
        assert_eq!(rate.on_bytes(600_000, 200, &CONFIG), Ok(()));
        assert_eq!(pass(&mut rate, 200), 10, "messages are counted apart");
    }

    #[test]
    fn without_bounds_all_passes_at_any_time() {
        let mut rate = Rate::default();
        for now_ms in [0, u64::MAX] {
            assert_eq!(rate.on_bytes(usize::MAX, now_ms, &RateConfig::default()), Ok(()));
            assert_eq!(rate.on_bytes(1, now_ms, &CONFIG), Ok(()));
        }
    }
}
