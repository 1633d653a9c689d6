//! What was compressed or inflated so far, for metrics.

/// Counts since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeflateTotals {
    /// Messages.
    pub messages: u64,
    /// Bytes of their payloads before.
    pub bytes_in: u64,
    /// Bytes of their payloads after.
    pub bytes_out: u64,
    /// The time it took, by the clock that was given; without one no time passes.
    pub nanoseconds: u64,
}

/// Tells the nanoseconds since some beginning, and never goes back.
pub(super) type Clock = fn() -> u64;

/// The clock of who is not asked for the time.
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
