//! Faults of messages and connections, by kind: totals, and counts per connection.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most faults described in words.
const EXAMPLES_MAX: usize = 5;

/// Most connections listed, those with the most faults first.
const WORST_MAX: usize = 20;

/// Number of messages or connections that each kind of fault hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Messages that did not arrive although later ones did, or until the timeout.
    pub(crate) missing: u64,
    /// Messages that arrived more than once.
    pub(crate) duplicate: u64,
    /// Messages that arrived after later ones.
    pub(crate) reordered: u64,
    /// Messages that match none that was sent.
    pub(crate) corrupt: u64,
    /// Messages for others: an echo of what another connection sent, or a publication of a topic to which the
    /// connection has not subscribed.
    pub(crate) foreign: u64,
    /// Messages that took longer than allowed.
    pub(crate) late: u64,
    /// Connections on which messages were due and none arrived within the timeout.
    pub(crate) stalled: u64,
    /// Connections that the server closed or that failed.
    pub(crate) closed: u64,
    /// Publications that the server rejected.
    pub(crate) refused: u64,
}

impl Counts {
    /// The count of each kind, with its name.
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

    /// The sum of all kinds.
    pub(crate) fn sum(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }

    /// The kinds that are not zero, in words.
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
    /// Counts of each connection that has faults.
    connections: BTreeMap<u32, Counts>,
    /// The first faults, in words.
    examples: Vec<String>,
    /// Skipped messages that have not arrived yet: connection and sequence number.
    skipped: HashSet<(u32, u64)>,
    /// Whether skipped messages may still arrive: false once the wait for them is over.
    expects_skipped: bool,
    /// Messages that take longer are late.
    late_ns: u64,
}

/// The faults as the report shows them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FaultReport {
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Number of connections with faults.
    pub(crate) connections: u64,
    /// The connections with the most faults.
    pub(crate) worst: Vec<ConnectionFaults>,
    /// The first few faults, in words.
    pub(crate) examples: Vec<String>,
}

/// A message, as faults count and name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label<'a> {
    /// Its sequence number, unique in the run.
    pub(crate) sequence: u64,
    /// Its number in the words of a fault: its place in its topic, for example.
    pub(crate) number: u64,
    /// Its topic if the run has several.
    pub(crate) topic: Option<&'a str>,
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.topic {
            None => write!(f, "message {}", self.number),
            Some(topic) => write!(f, "message {} of topic {topic}", self.number),
        }
    }
}

/// The faults of one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConnectionFaults {
    pub(crate) connection: u32,
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

impl Faults {
    /// No faults so far. A message that takes longer than `late` is a fault.
    pub(crate) fn new(late: Duration) -> Faults {
        Faults {
            counts: Counts::default(),
            connections: BTreeMap::new(),
            examples: Vec::new(),
            skipped: HashSet::new(),
            expects_skipped: false,
            late_ns: u64::try_from(late.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// The number of faults of each kind.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// The total number of faults.
    pub(crate) fn sum(&self) -> u64 {
        self.counts.sum()
    }

    /// `conn` received a later message instead of `message`, which counts as missing until it arrives.
    pub(crate) fn skip(&mut self, conn: u32, message: Label<'_>) {
        self.of(conn, |counts| counts.missing += 1);
        self.skipped.insert((conn, message.sequence));
        self.expects_skipped = true;
        self.describe(|| format!("connection {conn}: {message} is missing"));
    }

    /// Whether a skipped message may still arrive.
    pub(crate) fn expects_skipped(&self) -> bool {
        self.expects_skipped && !self.skipped.is_empty()
    }

    /// Ends the wait for the messages skipped so far.
    pub(crate) fn give_up_skipped(&mut self) {
        self.expects_skipped = false;
    }

    /// `conn` received `message`, which precedes messages it has already received. Returns whether it was still due.
    pub(crate) fn behind(&mut self, conn: u32, message: Label<'_>) -> bool {
        let was_skipped = self.skipped.remove(&(conn, message.sequence));
        if was_skipped {
            self.of(conn, |counts| {
                counts.missing -= 1;
                counts.reordered += 1;
            });
            self.describe(|| format!("connection {conn}: {message} came after a later one"));
        } else {
            self.of(conn, |counts| counts.duplicate += 1);
            self.describe(|| format!("connection {conn}: {message} came again"));
        }
        was_skipped
    }

    /// `conn` received bytes that were never sent.
    pub(crate) fn corrupt(&mut self, conn: u32, payload: &[u8]) {
        self.of(conn, |counts| counts.corrupt += 1);
        let front = &payload[..payload.len().min(48)];
        self.describe(|| format!("connection {conn}: {} bytes, not as sent: {}", payload.len(), front.escape_ascii()));
    }

    /// `conn` received bytes that connection `owner` sent.
    pub(crate) fn foreign(&mut self, conn: u32, owner: u64) {
        self.of(conn, |counts| counts.foreign += 1);
        self.describe(|| format!("connection {conn}: foreign bytes, as connection {owner} has sent them"));
    }

    /// `conn` received `message`, of a topic to which it has not subscribed.
    pub(crate) fn misrouted(&mut self, conn: u32, message: Label<'_>) {
        self.of(conn, |counts| counts.foreign += 1);
        self.describe(|| format!("connection {conn}: {message}, without a subscription"));
    }

    /// `conn` received a message that took `latency_ns`. Counts a fault only if that is too long.
    pub(crate) fn took(&mut self, conn: u32, latency_ns: u64) {
        if latency_ns > self.late_ns {
            self.of(conn, |counts| counts.late += 1);
            self.describe(|| format!("connection {conn}: a message took {} ms", latency_ns / 1_000_000));
        }
    }

    /// `conn` ended, for this `reason`.
    pub(crate) fn closed(&mut self, conn: u32, reason: &str) {
        self.of(conn, |counts| counts.closed += 1);
        self.describe(|| format!("connection {conn}: {reason}"));
    }

    /// The server answered a publication with an error.
    pub(crate) fn refused(&mut self, answer: &str) {
        self.counts.refused += 1;
        self.describe(|| format!("publishing: {answer}"));
    }

    /// `conn` has ended and will not receive `count` messages.
    pub(crate) fn given_up(&mut self, conn: u32, count: u64) {
        self.of(conn, |counts| counts.missing += count);
        self.describe(|| format!("connection {conn}: {count} messages never came"));
    }

    /// `conn` is open, but `count` messages have not arrived within the timeout.
    pub(crate) fn stalled(&mut self, conn: u32, count: u64) {
        self.of(conn, |counts| {
            counts.stalled += 1;
            counts.missing += count;
        });
        self.describe(|| format!("connection {conn}: stalled, {count} messages never came"));
    }

    /// Adds the faults of another worker. Its connections have different numbers.
    pub(crate) fn merge(&mut self, other: Faults) {
        self.counts.add(&other.counts);
        for (conn, counts) in other.connections {
            self.connections.entry(conn).or_default().add(&counts);
        }
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES_MAX);
        self.skipped.extend(other.skipped);
    }

    /// The summary for the report.
    pub(crate) fn report(&self) -> FaultReport {
        let each = |(conn, counts): (&u32, &Counts)| ConnectionFaults { connection: *conn, counts: *counts };
        let mut worst: Vec<_> = self.connections.iter().map(each).filter(|found| found.counts.sum() > 0).collect();
        let connections = worst.len() as u64;
        worst.sort_by_key(|found| std::cmp::Reverse(found.counts.sum()));
        worst.truncate(WORST_MAX);
        FaultReport { counts: self.counts, connections, worst, examples: self.examples.clone() }
    }

    /// Counts a fault of `conn`, in its own counts and in the total.
    fn of(&mut self, conn: u32, count: impl Fn(&mut Counts)) {
        count(&mut self.counts);
        count(self.connections.entry(conn).or_default());
    }

    fn describe(&mut self, words: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(words());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Duration = Duration::from_millis(1);

    fn message(sequence: u64) -> Label<'static> {
        Label { sequence, number: sequence, topic: None }
    }

    #[test]
    fn a_message_is_named_by_its_topic_if_there_are_several() {
        let of_topic = Label { topic: Some("t-3"), ..message(7) };
        assert_eq!([message(7), of_topic].map(|label| label.to_string()), ["message 7", "message 7 of topic t-3"]);
    }

    #[test]
    fn a_skipped_message_that_arrives_late_is_reordered_then_a_duplicate() {
        let mut faults = Faults::new(LATE);
        assert_eq!(faults.sum(), 0);
        faults.skip(3, message(10));
        faults.skip(3, message(11));
        assert!(faults.behind(3, message(10)) && faults.expects_skipped());
        assert!(!faults.behind(3, message(10)));
        let Counts { missing, reordered, duplicate, .. } = faults.counts();
        assert_eq!((missing, reordered, duplicate, faults.sum()), (1, 1, 1, 3));
        faults.give_up_skipped();
        assert!(!faults.expects_skipped());
        faults.skip(3, message(12));
        assert!(faults.expects_skipped());
    }

    #[test]
    fn each_kind_is_counted_under_its_name() {
        let fault = |make: fn(&mut Faults), text: &str| {
            let mut faults = Faults::new(LATE);
            make(&mut faults);
            assert!(faults.sum() > 0);
            assert_eq!(faults.counts().text(), text);
            assert_eq!(faults.report().examples.len(), 1);
        };
        fault(|faults| faults.skip(0, message(0)), "1 missing");
        fault(|faults| _ = faults.behind(0, message(0)), "1 duplicate");
        fault(|faults| faults.corrupt(0, b"\xff?"), "1 corrupt");
        fault(|faults| faults.foreign(0, 1), "1 foreign");
        fault(|faults| faults.misrouted(0, message(0)), "1 foreign");
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
    fn the_report_lists_the_worst_connections_first() {
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
