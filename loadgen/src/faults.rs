//! What went wrong with messages and connections, by name: in all, and on each connection.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// So many faults are told in words.
const EXAMPLES_MAX: usize = 5;

/// So many connections are told of, those with most faults.
const WORST_MAX: usize = 20;

/// How many messages or connections each kind of fault has hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Messages that never came, though later ones did or time was up.
    pub(crate) missing: u64,
    /// Messages that came again.
    pub(crate) duplicate: u64,
    /// Messages that came after later ones.
    pub(crate) reordered: u64,
    /// Messages that are not any that was sent.
    pub(crate) corrupt: u64,
    /// Messages that another connection has sent, for itself alone.
    pub(crate) foreign: u64,
    /// Messages that took longer than is allowed.
    pub(crate) late: u64,
    /// Connections on which messages were awaited and none came for longer than our patience.
    pub(crate) stalled: u64,
    /// Connections that the server closed or that broke.
    pub(crate) closed: u64,
    /// Publications that the server refused.
    pub(crate) refused: u64,
}

impl Counts {
    /// Each kind by name.
    pub(crate) fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("missing", self.missing),
            ("duplicate", self.duplicate),
            ("reordered", self.reordered),
            ("corrupt", self.corrupt),
            ("foreign", self.foreign),
            ("late", self.late),
            ("stalled", self.stalled),
            ("closed", self.closed),
            ("refused", self.refused),
        ]
    }

    /// All kinds together.
    pub(crate) fn sum(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }

    /// Those that there are, in words.
    pub(crate) fn text(&self) -> String {
        let there = self.named().into_iter().filter(|(_, count)| *count > 0);
        there.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    }

    fn add(&mut self, other: &Counts) {
        self.missing += other.missing;
        self.duplicate += other.duplicate;
        self.reordered += other.reordered;
        self.corrupt += other.corrupt;
        self.foreign += other.foreign;
        self.late += other.late;
        self.stalled += other.stalled;
        self.closed += other.closed;
        self.refused += other.refused;
    }
}

/// The faults of a run.
#[derive(Debug)]
pub(crate) struct Faults {
    counts: Counts,
    /// Those of each connection that has any.
    connections: BTreeMap<u32, Counts>,
    /// The first faults, in words.
    examples: Vec<String>,
    /// Messages skipped that have not come yet: connection and sequence.
    skipped: HashSet<(u32, u64)>,
    /// Whether they may still come: some time has not passed since.
    awaits_skipped: bool,
    /// A message that takes longer is late.
    late_ns: u64,
}

/// What a report tells of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FaultReport {
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// How many connections had any.
    pub(crate) connections: u64,
    /// Those with most of them.
    pub(crate) worst: Vec<ConnectionFaults>,
    /// The first few, in words.
    pub(crate) examples: Vec<String>,
}

/// The faults of one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConnectionFaults {
    pub(crate) connection: u32,
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

impl Faults {
    /// None so far. A message that takes longer than `late` is one.
    pub(crate) fn new(late: Duration) -> Faults {
        Faults {
            counts: Counts::default(),
            connections: BTreeMap::new(),
            examples: Vec::new(),
            skipped: HashSet::new(),
            awaits_skipped: false,
            late_ns: u64::try_from(late.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// How many there are of each kind.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// How many there are.
    pub(crate) fn sum(&self) -> u64 {
        self.counts.sum()
    }

    /// `conn` got a later message instead of `sequence`. Missing, until it comes after all.
    pub(crate) fn skip(&mut self, conn: u32, sequence: u64) {
        self.of(conn, |counts| counts.missing += 1);
        self.skipped.insert((conn, sequence));
        self.awaits_skipped = true;
        self.tell(|| format!("connection {conn}: message {sequence} is missing"));
    }

    /// Whether a message that was skipped may still come after all.
    pub(crate) fn awaits_skipped(&self) -> bool {
        self.awaits_skipped && !self.skipped.is_empty()
    }

    /// What was skipped so far has had its time.
    pub(crate) fn give_up_skipped(&mut self) {
        self.awaits_skipped = false;
    }

    /// `conn` got `sequence`, which lies before what it has already seen. Returns whether it was awaited still.
    pub(crate) fn behind(&mut self, conn: u32, sequence: u64) -> bool {
        let was_skipped = self.skipped.remove(&(conn, sequence));
        if was_skipped {
            self.of(conn, |counts| {
                counts.missing -= 1;
                counts.reordered += 1;
            });
            self.tell(|| format!("connection {conn}: message {sequence} came after a later one"));
        } else {
            self.of(conn, |counts| counts.duplicate += 1);
            self.tell(|| format!("connection {conn}: message {sequence} came again"));
        }
        was_skipped
    }

    /// `conn` got something that was never sent.
    pub(crate) fn corrupt(&mut self, conn: u32, payload: &[u8]) {
        self.of(conn, |counts| counts.corrupt += 1);
        let front = &payload[..payload.len().min(48)];
        self.tell(|| format!("connection {conn}: {} bytes, not as sent: {}", payload.len(), front.escape_ascii()));
    }

    /// `conn` got bytes that connection `owner` has sent.
    pub(crate) fn foreign(&mut self, conn: u32, owner: u64) {
        self.of(conn, |counts| counts.foreign += 1);
        self.tell(|| format!("connection {conn}: foreign bytes, as connection {owner} has sent them"));
    }

    /// `conn` got a message that took so long. A fault only if that is too long.
    pub(crate) fn took(&mut self, conn: u32, latency_ns: u64) {
        if latency_ns > self.late_ns {
            self.of(conn, |counts| counts.late += 1);
            self.tell(|| format!("connection {conn}: a message took {} ms", latency_ns / 1_000_000));
        }
    }

    /// `conn` has ended, for this `reason`.
    pub(crate) fn closed(&mut self, conn: u32, reason: &str) {
        self.of(conn, |counts| counts.closed += 1);
        self.tell(|| format!("connection {conn}: {reason}"));
    }

    /// A publication was answered with something else than success.
    pub(crate) fn refused(&mut self, answer: &str) {
        self.counts.refused += 1;
        self.tell(|| format!("publishing: {answer}"));
    }

    /// `conn` is gone and will not get these many messages.
    pub(crate) fn given_up(&mut self, conn: u32, count: u64) {
        self.of(conn, |counts| counts.missing += count);
        self.tell(|| format!("connection {conn}: {count} messages never came"));
    }

    /// `conn` is still there, but these many messages have not come for longer than our patience.
    pub(crate) fn stalled(&mut self, conn: u32, count: u64) {
        self.of(conn, |counts| {
            counts.stalled += 1;
            counts.missing += count;
        });
        self.tell(|| format!("connection {conn}: stalled, {count} messages never came"));
    }

    /// Adds what another worker found; its connections have numbers of their own.
    pub(crate) fn merge(&mut self, other: Faults) {
        self.counts.add(&other.counts);
        for (conn, counts) in other.connections {
            self.connections.entry(conn).or_default().add(&counts);
        }
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES_MAX);
        self.skipped.extend(other.skipped);
    }

    /// What is told of them.
    pub(crate) fn report(&self) -> FaultReport {
        let each = |(conn, counts): (&u32, &Counts)| ConnectionFaults { connection: *conn, counts: *counts };
        let mut worst: Vec<_> = self.connections.iter().map(each).filter(|found| found.counts.sum() > 0).collect();
        let connections = worst.len() as u64;
        worst.sort_by_key(|found| std::cmp::Reverse(found.counts.sum()));
        worst.truncate(WORST_MAX);
        FaultReport { counts: self.counts, connections, worst, examples: self.examples.clone() }
    }

    /// Counts a fault of `conn`, there and in all.
    fn of(&mut self, conn: u32, count: impl Fn(&mut Counts)) {
        count(&mut self.counts);
        count(self.connections.entry(conn).or_default());
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

    const LATE: Duration = Duration::from_millis(1);

    #[test]
    fn a_skipped_message_that_comes_behind_was_reordered_and_then_comes_again() {
        let mut faults = Faults::new(LATE);
        assert_eq!(faults.sum(), 0);
        faults.skip(3, 10);
        faults.skip(3, 11);
        assert!(faults.behind(3, 10) && faults.awaits_skipped());
        assert!(!faults.behind(3, 10));
        let Counts { missing, reordered, duplicate, .. } = faults.counts();
        assert_eq!((missing, reordered, duplicate, faults.sum()), (1, 1, 1, 3));
        faults.give_up_skipped();
        assert!(!faults.awaits_skipped());
        faults.skip(3, 12);
        assert!(faults.awaits_skipped());
    }

    #[test]
    fn each_kind_makes_the_run_fail_under_its_name() {
        let fault = |make: fn(&mut Faults), text: &str| {
            let mut faults = Faults::new(LATE);
            make(&mut faults);
            assert!(faults.sum() > 0);
            assert_eq!(faults.counts().text(), text);
            assert_eq!(faults.report().examples.len(), 1);
        };
        fault(|faults| faults.skip(0, 0), "1 missing");
        fault(|faults| _ = faults.behind(0, 0), "1 duplicate");
        fault(|faults| faults.corrupt(0, b"\xff?"), "1 corrupt");
        fault(|faults| faults.foreign(0, 1), "1 foreign");
        fault(|faults| faults.took(0, 1_000_001), "1 late");
        fault(|faults| faults.closed(0, "reset"), "1 closed");
        fault(|faults| faults.refused("503"), "1 refused");
        fault(|faults| faults.given_up(0, 7), "7 missing");
        fault(|faults| faults.stalled(0, 7), "7 missing, 1 stalled");
    }

    #[test]
    fn a_message_in_time_is_no_fault() {
        let mut faults = Faults::new(LATE);
        faults.took(0, 1_000_000);
        assert_eq!((faults.sum(), faults.report()), (0, FaultReport::default()));
    }

    #[test]
    fn connections_are_told_of_the_worst_first() {
        let (mut faults, mut other) = (Faults::new(LATE), Faults::new(LATE));
        (0..100).for_each(|conn| faults.took(conn, 2_000_000));
        other.given_up(200, 3);
        faults.merge(other);
        let FaultReport { connections, worst, examples, counts } = faults.report();
        assert_eq!((connections, worst.len(), examples.len()), (101, WORST_MAX, EXAMPLES_MAX));
        assert_eq!((worst[0].connection, worst[0].counts.missing, worst[1].connection), (200, 3, 0));
        assert_eq!(counts, faults.counts());
    }
}
