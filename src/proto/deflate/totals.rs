//! Totals of compression or inflation, for metrics.

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeflateTotals {
    /// Number of messages.
    pub messages: u64,
    /// Payload bytes before.
    pub bytes_in: u64,
    /// Payload bytes after.
    pub bytes_out: u64,
    /// Time spent, by the clock that was set; 0 without a clock.
    pub nanoseconds: u64,
}

/// A monotonic clock, in nanoseconds since an arbitrary start.
pub(super) type Clock = fn() -> u64;

/// The clock used if none was set.
pub(super) fn stopped_clock() -> u64 {
    0
}

impl DeflateTotals {
    pub(super) fn add(&mut self, bytes_in: usize, bytes_out: usize, nanoseconds: u64) {
        self.messages += 1;
        self.bytes_in += bytes_in as u64;
        self.bytes_out += bytes_out as u64;
        self.nanoseconds += nanoseconds;
    }
}
