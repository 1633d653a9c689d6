//! Faults of messages and connections, by kind: totals, and counts per connection.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Publications that the server rejected or did not answer.
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

    /// The growth since `before`. Where a missing message has come since, there is none.
    pub(crate) fn since(&self, before: &Counts) -> Counts {
        Counts {
            missing: self.missing.saturating_sub(before.missing),
            duplicate: self.duplicate.saturating_sub(before.duplicate),
            reordered: self.reordered.saturating_sub(before.reordered),
            corrupt: self.corrupt.saturating_sub(before.corrupt),
            foreign: self.foreign.saturating_sub(before.foreign),
            late: self.late.saturating_sub(before.late),
            stalled: self.stalled.saturating_sub(before.stalled),
            closed: self.closed.saturating_sub(before.closed),
            refused: self.refused.saturating_sub(before.refused),
        }
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

    /// Adds those of another stretch of time or worker.
    pub(crate) fn add(&mut self, other: &Counts) {
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
    /// The first faults.
    examples: Vec<Example>,
    /// Skipped messages that have not arrived yet: sequence number and connection.
    skipped: BTreeSet<(u64, u32)>,
    /// Messages for which something else arrived, in the same way.
    replaced: BTreeSet<(u64, u32)>,
    /// Whether skipped messages may still arrive: false once the wait for them is over.
    expects_skipped: bool,
    /// Messages that take longer are late.
    late_ns: u64,
}

/// A fault in words.
#[derive(Debug)]
struct Example {
    words: String,
    /// The message that has not arrived yet, by sequence number and connection.
    skipped: Option<(u64, u32)>,
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

/// The faults of an agent, on their way to its coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FaultsFound {
    pub(crate) counts: Counts,
    connections: BTreeMap<u32, Counts>,
    examples: Vec<String>,
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
            skipped: BTreeSet::new(),
            replaced: BTreeSet::new(),
            expects_skipped: false,
            late_ns: u64::try_from(late.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// The number of faults of each kind.
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
        let skipped = (message.sequence, conn);
        self.skipped.insert(skipped);
        self.expects_skipped = true;
        if self.examples.len() < EXAMPLES_MAX {
            let words = format!("connection {conn}: {message} is missing");
            self.examples.push(Example { words, skipped: Some(skipped) });
        }
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
        // What arrived before it was not it, but one more message.
        if self.replaced.remove(&(message.sequence, conn)) {
            return true;
        }
        let was_skipped = self.skipped.remove(&(message.sequence, conn));
        if was_skipped {
            self.of(conn, |counts| {
                counts.missing -= 1;
                counts.reordered += 1;
            });
            let words = format!("connection {conn}: {message} came after a later one");
            match self.examples.iter_mut().find(|example| example.skipped == Some((message.sequence, conn))) {
                Some(example) => *example = Example { words, skipped: None },
                None => self.describe(|| words),
            }
        } else {
            self.of(conn, |counts| counts.duplicate += 1);
            self.describe(|| format!("connection {conn}: {message} came again"));
        }
        was_skipped
    }

    /// `conn` received something else instead of message `sequence`, which it may still receive.
    pub(crate) fn replace(&mut self, conn: u32, sequence: u64) {
        self.replaced.insert((sequence, conn));
    }

    /// The server refused message `sequence`: no connection misses it.
    pub(crate) fn excuse(&mut self, sequence: u64) {
        let skipped: Vec<u32> =
            self.skipped.range((sequence, 0)..=(sequence, u32::MAX)).map(|(_, conn)| *conn).collect();
        for conn in skipped {
            self.skipped.remove(&(sequence, conn));
            self.of(conn, |counts| counts.missing -= 1);
            self.examples.retain(|example| example.skipped != Some((sequence, conn)));
        }
    }

    /// `conn` received bytes that were never sent.
    pub(crate) fn corrupt(&mut self, conn: u32, payload: &[u8]) {
        self.of(conn, |counts| counts.corrupt += 1);
        let front = &payload[..payload.len().min(48)];
        self.describe(|| format!("connection {conn}: {} bytes, not as sent: {}", payload.len(), front.escape_ascii()));
    }

    /// `conn` received a binary message for a text message, or the other way round.
    pub(crate) fn wrong_kind(&mut self, conn: u32, is_binary: bool) {
        self.of(conn, |counts| counts.corrupt += 1);
        let words = if is_binary { "a binary message instead of a text" } else { "a text instead of a binary message" };
        self.describe(|| format!("connection {conn}: {words}"));
    }

    /// `conn` received a message of another run.
    pub(crate) fn of_another_run(&mut self, conn: u32) {
        self.of(conn, |counts| counts.foreign += 1);
        self.describe(|| {
            format!("connection {conn}: a message of another run of loadgen: give each run its own --topic")
        });
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
        self.took_for(conn, "a message", latency_ns);
    }

    /// The same for the handshake of `conn`.
    pub(crate) fn handshake_took(&mut self, conn: u32, latency_ns: u64) {
        self.took_for(conn, "a handshake", latency_ns);
    }

    fn took_for(&mut self, conn: u32, what: &str, latency_ns: u64) {
        if latency_ns > self.late_ns {
            self.of(conn, |counts| counts.late += 1);
            self.describe(|| format!("connection {conn}: {what} took {} ms", latency_ns / 1_000_000));
        }
    }

    /// `conn` ended, for this `reason`.
    pub(crate) fn closed(&mut self, conn: u32, reason: &str) {
        self.of(conn, |counts| counts.closed += 1);
        self.describe(|| format!("connection {conn}: {reason}"));
    }

    /// The connection of a publisher has ended, for this `reason`.
    pub(crate) fn publisher_closed(&mut self, reason: &str) {
        self.counts.closed += 1;
        self.describe(|| format!("publishing: {reason}"));
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

    /// `conn` is open, but `count` messages have not arrived within the timeout. `begins` if an earlier message was the
    /// last to arrive in time: the connection counts once, however many messages it misses.
    pub(crate) fn stalled(&mut self, conn: u32, count: u64, begins: bool) {
        self.of(conn, |counts| {
            counts.stalled += u64::from(begins);
            counts.missing += count;
        });
        self.describe(|| format!("connection {conn}: stalled, {count} messages never came"));
    }

    /// `conn` did not answer within the timeout.
    pub(crate) fn unresponsive(&mut self, conn: u32, what: &str) {
        self.of(conn, |counts| counts.stalled += 1);
        self.describe(|| format!("connection {conn}: {what}"));
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
        self.replaced.extend(other.replaced);
    }

    /// The faults, for the coordinator.
    pub(crate) fn found(&self) -> FaultsFound {
        let examples = self.examples.iter().map(|example| example.words.clone()).collect();
        FaultsFound { counts: self.counts, connections: self.connections.clone(), examples }
    }

    /// What the agent at this address found.
    pub(crate) fn of_found(found: FaultsFound, address: &str) -> Faults {
        let FaultsFound { counts, connections, examples } = found;
        let example = |words| Example { words: format!("agent {address}: {words}"), skipped: None };
        let examples = examples.into_iter().take(EXAMPLES_MAX).map(example).collect();
        Faults { counts, connections, examples, ..Faults::new(Duration::MAX) }
    }

    /// The summary for the report.
    pub(crate) fn report(&self) -> FaultReport {
        let each = |(conn, counts): (&u32, &Counts)| ConnectionFaults { connection: *conn, counts: *counts };
        let mut worst: Vec<_> = self.connections.iter().map(each).filter(|found| found.counts.sum() > 0).collect();
        let connections = worst.len() as u64;
        worst.sort_by_key(|found| std::cmp::Reverse(found.counts.sum()));
        worst.truncate(WORST_MAX);
        let examples = self.examples.iter().map(|example| example.words.clone()).collect();
        FaultReport { counts: self.counts, connections, worst, examples }
    }

    /// Counts a fault of `conn`, in its own counts and in the total.
    fn of(&mut self, conn: u32, count: impl Fn(&mut Counts)) {
        count(&mut self.counts);
        count(self.connections.entry(conn).or_default());
    }

    fn describe(&mut self, words: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(Example { words: words(), skipped: None });
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
        fault(|faults| faults.publisher_closed("reset"), "1 closed");
        fault(|faults| faults.refused("503"), "1 refused");
        fault(|faults| faults.given_up(0, 7), "7 missing");
        fault(|faults| faults.stalled(0, 7, true), "7 missing, 1 stalled");
        fault(|faults| faults.stalled(0, 7, false), "7 missing");
        fault(|faults| faults.unresponsive(0, "no pong"), "1 stalled");
        fault(|faults| faults.wrong_kind(0, true), "1 corrupt");
        fault(|faults| faults.of_another_run(0), "1 foreign");
        fault(|faults| faults.handshake_took(0, 1_000_001), "1 late");
    }

    #[test]
    fn a_message_that_the_server_refused_is_not_missing() {
        let mut faults = Faults::new(LATE);
        [(3, 10), (4, 10), (3, 11)].into_iter().for_each(|(conn, sequence)| faults.skip(conn, message(sequence)));
        faults.excuse(10);
        assert_eq!((faults.counts().text(), faults.report().examples.len()), ("1 missing".to_owned(), 1));
        faults.replace(3, 12);
        assert!(faults.behind(3, message(12)) && !faults.behind(3, message(12)));
        assert_eq!(faults.counts().text(), "1 missing, 1 duplicate");
    }

    #[test]
    fn an_example_of_a_missing_message_is_corrected_when_the_message_arrives() {
        let mut faults = Faults::new(LATE);
        faults.skip(3, message(10));
        faults.skip(3, message(11));
        faults.behind(3, message(11));
        let examples = faults.report().examples;
        assert_eq!(
            examples,
            ["connection 3: message 10 is missing", "connection 3: message 11 came after a later one"]
        );
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
