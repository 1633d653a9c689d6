//! What went wrong with messages and connections, by name.

use std::collections::HashSet;

use serde::Serialize;

/// Counts of each kind of fault, and the first few in words.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Faults {
    /// Messages that never came, though later ones did or time was up.
    pub(crate) missing: u64,
    /// Messages that came again.
    pub(crate) duplicate: u64,
    /// Messages that came after later ones.
    pub(crate) reordered: u64,
    /// Messages that are not any that was sent.
    pub(crate) corrupt: u64,
    /// Connections that the server closed or that broke.
    pub(crate) closed: u64,
    /// Publications that the server refused.
    pub(crate) refused: u64,
    /// The first faults, in words.
    pub(crate) examples: Vec<String>,
    /// Messages skipped so far and still awaited: connection and sequence.
    #[serde(skip)]
    skipped: HashSet<(u32, u64)>,
}

/// So many faults are told in words.
const EXAMPLES_MAX: usize = 5;

impl Faults {
    /// Whether there was none.
    pub(crate) fn is_empty(&self) -> bool {
        let counts = [self.missing, self.duplicate, self.reordered, self.corrupt, self.closed, self.refused];
        counts.iter().all(|count| *count == 0)
    }

    /// `conn` got a later message instead of `sequence`. Missing, until it comes after all.
    pub(crate) fn skip(&mut self, conn: u32, sequence: u64) {
        self.missing += 1;
        self.skipped.insert((conn, sequence));
        self.tell(|| format!("connection {conn}: message {sequence} is missing"));
    }

    /// `conn` got `sequence`, which lies before what it has already seen.
    pub(crate) fn late(&mut self, conn: u32, sequence: u64) {
        if self.skipped.remove(&(conn, sequence)) {
            self.missing -= 1;
            self.reordered += 1;
            self.tell(|| format!("connection {conn}: message {sequence} came after a later one"));
        } else {
            self.duplicate += 1;
            self.tell(|| format!("connection {conn}: message {sequence} came again"));
        }
    }

    /// `conn` got something that was never sent.
    pub(crate) fn corrupt(&mut self, conn: u32, payload: &[u8]) {
        self.corrupt += 1;
        let front = &payload[..payload.len().min(48)];
        self.tell(|| format!("connection {conn}: {} bytes, not as sent: {}", payload.len(), front.escape_ascii()));
    }

    /// `conn` has ended, for this `reason`.
    pub(crate) fn closed(&mut self, conn: u32, reason: &str) {
        self.closed += 1;
        self.tell(|| format!("connection {conn}: {reason}"));
    }

    /// A publication was answered with something else than success.
    pub(crate) fn refused(&mut self, answer: &str) {
        self.refused += 1;
        self.tell(|| format!("publishing: {answer}"));
    }

    /// `conn` will not get these many messages any more.
    pub(crate) fn given_up(&mut self, conn: u32, count: u64) {
        self.missing += count;
        self.tell(|| format!("connection {conn}: {count} messages never came"));
    }

    fn tell(&mut self, words: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(words());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_message_that_comes_late_was_reordered_and_then_comes_again() {
        let mut faults = Faults::default();
        assert!(faults.is_empty());
        faults.skip(3, 10);
        faults.skip(3, 11);
        faults.late(3, 10);
        faults.late(3, 10);
        assert_eq!((faults.missing, faults.reordered, faults.duplicate), (1, 1, 1));
        assert!(!faults.is_empty());
    }

    #[test]
    fn each_kind_makes_the_run_fail() {
        let fault = |make: fn(&mut Faults)| {
            let mut faults = Faults::default();
            make(&mut faults);
            assert!(!faults.is_empty(), "{faults:?}");
            assert_eq!(faults.examples.len(), 1);
        };
        fault(|faults| faults.skip(0, 0));
        fault(|faults| faults.late(0, 0));
        fault(|faults| faults.corrupt(0, b"\xff?"));
        fault(|faults| faults.closed(0, "reset"));
        fault(|faults| faults.refused("503"));
        fault(|faults| faults.given_up(0, 7));
    }

    #[test]
    fn only_the_first_are_told_in_words() {
        let mut faults = Faults::default();
        (0..100).for_each(|sequence| faults.skip(1, sequence));
        assert_eq!((faults.missing, faults.examples.len()), (100, EXAMPLES_MAX));
    }
}
