//! The rules by which the records of a bucket count, and the positions that they give: a function of the log alone.
//!
//! Nothing here reads a clock, a random number or a configuration. *Log time* is the latest time that a record has
//! brought. Every bound acts on the log's own order, so that all nodes act alike.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use prost::Message;

use super::record::{Entry, Record};
use crate::limits::{
    CLUSTER_KEYS_BYTES_MAX, CLUSTER_TOPICS_MAX, CLUSTER_WRITER_IDLE_MS, CLUSTER_WRITERS_MAX,
    IDEMPOTENCY_OVERHEAD_BYTES, IDEMPOTENCY_TTL_MS,
};
use crate::topics::{Epoch, Position, TopicName, epoch_of, mix, stable_hash};

/// What a record is to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its entries have outcomes.
    Counted,
    /// It has another number than the next of its writer: it was there before, or its writer is unknown.
    Void,
}

/// What has become of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The publication has this position.
    Published(TopicName, Position),
    /// An earlier publication with its idempotency key has this position.
    Repeated(Position),
    /// The topic's history ends here.
    Removed(TopicName),
    /// The idempotency keys of the last minutes fill their room.
    TooManyKeys,
    /// No node can pass it on.
    Invalid,
}

/// The state of a bucket at a sequence of its log.
#[derive(Debug)]
pub struct Ledger {
    /// Names the last reset.
    generation: u64,
    /// How many topics were evicted since: an evicted one must not come back with its old offsets.
    evictions: u64,
    log_ms: u64,
    digest: u64,
    writers: BTreeMap<u64, Writer>,
    topics: Topics,
    keys: Keys,
    /// Topics that the last record has evicted.
    evicted: Vec<TopicName>,
}

/// A writer of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Writer {
    /// The number of its last record that counted.
    number: u64,
    /// The log time of that.
    log_ms: u64,
}

impl Ledger {
    /// The ledger after a reset at `sequence`.
    pub(super) fn reset(sequence: u64, record: &Record) -> Ledger {
        let generation = mix(mix(record.writer ^ mix(record.number)) ^ sequence);
        Ledger {
            generation,
            evictions: 0,
            log_ms: record.time_ms,
            digest: generation,
            writers: BTreeMap::new(),
            topics: Topics::default(),
            keys: Keys::default(),
            evicted: Vec::new(),
        }
    }

    /// Counts a record. `hash` is of its bytes; `outcomes` receives one for each entry of a counted record.
    pub(super) fn apply(&mut self, hash: u64, record: &Record, outcomes: &mut Vec<Outcome>) -> Verdict {
        let last = self.writers.get(&record.writer).map_or(0, |writer| writer.number);
        if record.number != last + 1 {
            return Verdict::Void;
        }
        self.log_ms = self.log_ms.max(record.time_ms);
        self.count_writer(record);
        self.keys.forget(self.log_ms);
        self.digest = mix(self.digest ^ hash);
        outcomes.extend(record.entries.iter().map(|entry| self.count(entry)));
        Verdict::Counted
    }

    /// Remembers a writer's number, and forgets writers that are gone.
    fn count_writer(&mut self, record: &Record) {
        if !self.writers.contains_key(&record.writer) {
            let log_ms = self.log_ms;
            self.writers.retain(|_, writer| log_ms < writer.log_ms.saturating_add(CLUSTER_WRITER_IDLE_MS));
            if self.writers.len() >= CLUSTER_WRITERS_MAX {
                let oldest = self.writers.iter().min_by_key(|(id, writer)| (writer.log_ms, **id));
                let oldest = oldest.map(|(id, _)| *id);
                oldest.map(|id| self.writers.remove(&id));
            }
        }
        self.writers.insert(record.writer, Writer { number: record.number, log_ms: self.log_ms });
    }

    fn count(&mut self, entry: &Entry) -> Outcome {
        if !entry.is_valid() {
            return Outcome::Invalid;
        }
        let known = self.topics.find(&entry.topic);
        let name = match known {
            Some(id) => self.topics.get(id).name.clone(),
            None => match TopicName::new(&entry.topic) {
                Ok(name) => name,
                Err(_) => return Outcome::Invalid,
            },
        };
        if entry.removes_history {
            return Outcome::Removed(name);
        }
        let key = entry.idempotency_key.as_deref().map(|key| Arc::new((name.clone(), Box::from(key))));
        if let Some(key) = &key {
            if let Some(position) = self.keys.find(key) {
                return Outcome::Repeated(position);
            }
            if !self.keys.has_room(key) {
                return Outcome::TooManyKeys;
            }
        }
        let position = self.topics.publish(known, &name, self.lineage());
        if self.topics.len() > CLUSTER_TOPICS_MAX {
            self.evicted.extend(self.topics.evict());
            self.evictions += 1;
        }
        if let Some(key) = key {
            self.keys.insert(key, position, self.log_ms);
        }
        Outcome::Published(name, position)
    }

    /// From what the epochs of new topics are made.
    pub(super) fn lineage(&self) -> u64 {
        mix(self.generation ^ mix(self.evictions))
    }

    /// Names the last reset.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// A hash of all counted records.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Log time.
    pub(super) fn log_ms(&self) -> u64 {
        self.log_ms
    }

    /// Takes the topics that the last record has evicted.
    pub(super) fn take_evicted(&mut self) -> Vec<TopicName> {
        std::mem::take(&mut self.evicted)
    }

    /// Number of topics with publications.
    pub(super) fn topics(&self) -> usize {
        self.topics.len()
    }

    /// All topics with their positions, the one that was published to longest ago first.
    pub(super) fn positions(&self) -> impl Iterator<Item = (TopicName, Position)> {
        self.topics.iter().map(|topic| (topic.name.clone(), topic.position()))
    }

    /// All of it, for a node that joins.
    pub(super) fn to_snapshot(&self) -> Snapshot {
        let topic = |topic: &Topic| SnapshotTopic {
            name: topic.name.as_str().to_owned(),
            epoch: topic.epoch.bits(),
            offset: topic.offset,
        };
        let key = |key: &Key| {
            let position = self.keys.find(&key.1).expect("a key that has not ended has a position");
            SnapshotKey {
                topic: key.1.0.as_str().to_owned(),
                key: key.1.1.to_string(),
                epoch: position.epoch.bits(),
                offset: position.offset,
                end_ms: key.0,
            }
        };
        let writer =
            |(id, writer): (&u64, &Writer)| SnapshotWriter { id: *id, number: writer.number, log_ms: writer.log_ms };
        Snapshot {
            generation: self.generation,
            evictions: self.evictions,
            log_ms: self.log_ms,
            digest: self.digest,
            writers: self.writers.iter().map(writer).collect(),
            topics: self.topics.iter().map(topic).collect(),
            keys: self.keys.ends.iter().map(key).collect(),
        }
    }

    /// The ledger of a peer. `None` if it is malformed.
    pub(super) fn from_snapshot(snapshot: Snapshot) -> Option<Ledger> {
        let mut topics = Topics::default();
        for topic in &snapshot.topics {
            topics.insert(TopicName::new(&topic.name).ok()?, Epoch::new(topic.epoch), topic.offset);
        }
        let mut keys = Keys::default();
        for key in snapshot.keys {
            let name = TopicName::new(&key.topic).ok()?;
            let position = Position { epoch: Epoch::new(key.epoch), offset: key.offset };
            keys.insert_until(Arc::new((name, key.key.into())), position, key.end_ms);
        }
        let writer = |writer: &SnapshotWriter| (writer.id, Writer { number: writer.number, log_ms: writer.log_ms });
        Some(Ledger {
            generation: snapshot.generation,
            evictions: snapshot.evictions,
            log_ms: snapshot.log_ms,
            digest: snapshot.digest,
            writers: snapshot.writers.iter().map(writer).collect(),
            topics,
            keys,
            evicted: Vec::new(),
        })
    }
}

/// A topic with publications.
#[derive(Debug)]
struct Topic {
    name: TopicName,
    epoch: Epoch,
    offset: u64,
    /// The topic that was published to after it.
    newer: u32,
    /// The topic that was published to before it.
    older: u32,
}

impl Topic {
    fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.offset }
    }
}

/// No topic.
const NONE: u32 = u32::MAX;

/// The topics of a bucket, in the order of their last publication.
#[derive(Debug)]
struct Topics {
    ids: HashMap<TopicName, u32>,
    slab: slab::Slab<Topic>,
    newest: u32,
    oldest: u32,
}

impl Default for Topics {
    fn default() -> Topics {
        Topics { ids: HashMap::new(), slab: slab::Slab::new(), newest: NONE, oldest: NONE }
    }
}

impl Topics {
    fn len(&self) -> usize {
        self.slab.len()
    }

    fn find(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    fn get(&self, id: u32) -> &Topic {
        &self.slab[id as usize]
    }

    fn topic(&mut self, id: u32) -> &mut Topic {
        &mut self.slab[id as usize]
    }

    /// Counts a publication in the topic, which is the newest then.
    fn publish(&mut self, known: Option<u32>, name: &TopicName, lineage: u64) -> Position {
        let id = known.unwrap_or_else(|| self.insert(name.clone(), epoch_of(name, lineage), 0));
        if self.newest != id {
            self.unlink(id);
            self.link(id);
        }
        let topic = self.topic(id);
        topic.offset += 1;
        topic.position()
    }

    /// Adds a topic as the newest.
    fn insert(&mut self, name: TopicName, epoch: Epoch, offset: u64) -> u32 {
        let id = self.slab.insert(Topic { name: name.clone(), epoch, offset, newer: NONE, older: NONE }) as u32;
        self.ids.insert(name, id);
        self.link(id);
        id
    }

    /// Removes the oldest topic.
    fn evict(&mut self) -> Option<TopicName> {
        let id = Some(self.oldest).filter(|id| *id != NONE)?;
        self.unlink(id);
        let topic = self.slab.remove(id as usize);
        self.ids.remove(&topic.name);
        Some(topic.name)
    }

    fn link(&mut self, id: u32) {
        let before = std::mem::replace(&mut self.newest, id);
        let topic = self.topic(id);
        (topic.newer, topic.older) = (NONE, before);
        match before {
            NONE => self.oldest = id,
            before => self.topic(before).newer = id,
        }
    }

    fn unlink(&mut self, id: u32) {
        let Topic { newer, older, .. } = *self.topic(id);
        match newer {
            NONE => self.newest = older,
            newer => self.topic(newer).older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.topic(older).newer = newer,
        }
    }

    /// The oldest first.
    fn iter(&self) -> impl Iterator<Item = &Topic> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let topic = self.slab.get(next as usize)?;
            next = topic.newer;
            Some(topic)
        })
    }
}

/// A topic and an idempotency key, and when the key ends.
type Key = (u64, Arc<(TopicName, Box<str>)>);

/// The idempotency keys of the last minutes of log time. None stays longer, so that a ledger from a peer's snapshot is
/// the same as one that has read the log.
#[derive(Debug, Default)]
struct Keys {
    positions: HashMap<Arc<(TopicName, Box<str>)>, Position>,
    /// In the order of their ends.
    ends: VecDeque<Key>,
    bytes: usize,
}

impl Keys {
    fn find(&self, key: &Arc<(TopicName, Box<str>)>) -> Option<Position> {
        self.positions.get(key).copied()
    }

    fn has_room(&self, key: &Arc<(TopicName, Box<str>)>) -> bool {
        self.bytes + size(key) <= CLUSTER_KEYS_BYTES_MAX
    }

    fn insert(&mut self, key: Arc<(TopicName, Box<str>)>, position: Position, log_ms: u64) {
        self.insert_until(key, position, log_ms.saturating_add(IDEMPOTENCY_TTL_MS));
    }

    fn insert_until(&mut self, key: Arc<(TopicName, Box<str>)>, position: Position, end_ms: u64) {
        self.bytes += size(&key);
        self.positions.insert(key.clone(), position);
        self.ends.push_back((end_ms, key));
    }

    /// Forgets all keys that have ended.
    fn forget(&mut self, log_ms: u64) {
        while self.ends.front().is_some_and(|(end_ms, _)| *end_ms <= log_ms) {
            let (_, key) = self.ends.pop_front().expect("there is a first one");
            self.bytes -= size(&key);
            self.positions.remove(&key);
        }
    }
}

fn size(key: &Arc<(TopicName, Box<str>)>) -> usize {
    key.1.len() + IDEMPOTENCY_OVERHEAD_BYTES
}

/// A ledger in Protobuf.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Snapshot {
    #[prost(fixed64, tag = "1")]
    generation: u64,
    #[prost(uint64, tag = "2")]
    evictions: u64,
    #[prost(uint64, tag = "3")]
    log_ms: u64,
    #[prost(fixed64, tag = "4")]
    digest: u64,
    #[prost(message, repeated, tag = "5")]
    writers: Vec<SnapshotWriter>,
    #[prost(message, repeated, tag = "6")]
    topics: Vec<SnapshotTopic>,
    #[prost(message, repeated, tag = "7")]
    keys: Vec<SnapshotKey>,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotWriter {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    number: u64,
    #[prost(uint64, tag = "3")]
    log_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotTopic {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(fixed64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    offset: u64,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotKey {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(fixed64, tag = "3")]
    epoch: u64,
    #[prost(uint64, tag = "4")]
    offset: u64,
    #[prost(uint64, tag = "5")]
    end_ms: u64,
}

/// A hash of a record's bytes at its sequence.
pub(super) fn record_hash(sequence: u64, bytes: &[u8]) -> u64 {
    stable_hash(sequence, bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(topic: &str, key: Option<&str>) -> Entry {
        Entry { topic: topic.to_owned(), idempotency_key: key.map(str::to_owned), ..Entry::default() }
    }

    fn record(writer: u64, number: u64, time_ms: u64, entries: Vec<Entry>) -> Record {
        Record { version: 1, writer, number, time_ms, entries, ..Record::default() }
    }

    fn new_ledger() -> Ledger {
        Ledger::reset(1, &record(9, 1, 0, Vec::new()))
    }

    /// The offsets of a record's entries, or `None` where it is void.
    fn offsets(ledger: &mut Ledger, record: &Record) -> Option<Vec<u64>> {
        let mut outcomes = Vec::new();
        let verdict = ledger.apply(1, record, &mut outcomes);
        let offset = |outcome| match outcome {
            Outcome::Published(_, position) => position.offset,
            Outcome::Repeated(position) => 100 + position.offset,
            other => panic!("{other:?}"),
        };
        (verdict == Verdict::Counted).then(|| outcomes.into_iter().map(offset).collect())
    }

    #[test]
    fn a_record_counts_once_and_in_its_writers_order() {
        let mut ledger = new_ledger();
        let a = || vec![entry("a", None)];
        let rows = [
            ("the first of a writer is number 1", record(1, 2, 0, a()), None),
            ("", record(1, 1, 0, Vec::new()), Some(vec![])),
            ("", record(1, 2, 0, a()), Some(vec![1])),
            ("it was there before", record(1, 2, 0, a()), None),
            ("a number is missing", record(1, 4, 0, a()), None),
            ("", record(1, 3, 0, a()), Some(vec![2])),
            ("another writer", record(2, 1, 0, a()), Some(vec![3])),
        ];
        for (name, record, expected) in rows {
            assert_eq!(offsets(&mut ledger, &record), expected, "{name}");
        }
    }

    #[test]
    fn a_key_counts_once_within_its_minutes_of_log_time() {
        let mut ledger = new_ledger();
        let keyed = |number, time_ms| record(1, number, time_ms, vec![entry("a", Some("k"))]);
        assert_eq!(offsets(&mut ledger, &keyed(1, 1000)), Some(vec![1]));
        assert_eq!(offsets(&mut ledger, &keyed(2, 0)), Some(vec![101]), "a clock that is behind changes nothing");
        assert_eq!(offsets(&mut ledger, &keyed(3, 999 + IDEMPOTENCY_TTL_MS)), Some(vec![101]));
        assert_eq!(offsets(&mut ledger, &keyed(4, 1000 + IDEMPOTENCY_TTL_MS)), Some(vec![2]));
        let other = record(2, 1, 0, vec![entry("b", Some("k"))]);
        assert_eq!(offsets(&mut ledger, &other), Some(vec![1]), "each topic has its own keys");
    }

    #[test]
    fn keys_have_a_bound() {
        let mut ledger = new_ledger();
        let key = |number: usize| format!("{number:0255}");
        let mut number = 0;
        let refused = loop {
            number += 1;
            let mut outcomes = Vec::new();
            let record = record(1, number, 5, vec![entry("a", Some(&key(number as usize)))]);
            ledger.apply(1, &record, &mut outcomes);
            if outcomes == [Outcome::TooManyKeys] {
                break number as usize;
            }
        };
        assert_eq!(refused - 1, CLUSTER_KEYS_BYTES_MAX / (255 + IDEMPOTENCY_OVERHEAD_BYTES));
    }

    #[test]
    fn the_topic_that_was_published_to_longest_ago_makes_room_and_never_continues() {
        let mut ledger = new_ledger();
        let first = record(1, 1, 0, (0..CLUSTER_TOPICS_MAX).map(|n| entry(&format!("t{n}"), None)).collect());
        let mut outcomes = Vec::new();
        ledger.apply(1, &first, &mut outcomes);
        let Outcome::Published(_, before) = outcomes[1] else { panic!() };
        assert_eq!(offsets(&mut ledger, &record(1, 2, 0, vec![entry("t0", None)])), Some(vec![2]));
        let lineage = ledger.lineage();
        assert_eq!(offsets(&mut ledger, &record(1, 3, 0, vec![entry("new", None)])), Some(vec![1]));
        assert_eq!(ledger.take_evicted(), [TopicName::new("t1").unwrap()]);
        assert_ne!(ledger.lineage(), lineage);
        outcomes.clear();
        ledger.apply(1, &record(1, 4, 0, vec![entry("t1", None)]), &mut outcomes);
        let Outcome::Published(_, after) = outcomes[0] else { panic!() };
        assert_eq!((before.offset, after.offset), (1, 1));
        assert_ne!(before.epoch, after.epoch);
    }

    #[test]
    fn a_reset_begins_new_epochs() {
        let ledgers = [
            Ledger::reset(1, &record(9, 1, 0, Vec::new())),
            Ledger::reset(2, &record(9, 1, 0, Vec::new())),
            Ledger::reset(1, &record(8, 1, 0, Vec::new())),
        ];
        assert!(ledgers[0].lineage() != ledgers[1].lineage() && ledgers[0].lineage() != ledgers[2].lineage());
    }

    #[test]
    fn writers_have_a_bound_and_idle_ones_go() {
        let mut ledger = new_ledger();
        for writer in 0..2 * CLUSTER_WRITERS_MAX as u64 {
            assert!(offsets(&mut ledger, &record(writer, 1, writer, Vec::new())).is_some());
        }
        assert_eq!(ledger.writers.len(), CLUSTER_WRITERS_MAX);
        assert!(!ledger.writers.contains_key(&0), "the oldest has gone");
        let later = record(u64::MAX, 1, CLUSTER_WRITER_IDLE_MS + 2 * CLUSTER_WRITERS_MAX as u64, Vec::new());
        assert!(offsets(&mut ledger, &later).is_some());
        assert_eq!(ledger.writers.len(), 1);
    }

    proptest! {
        /// A ledger from a snapshot in the middle of the log goes on as the one that has read everything.
        #[test]
        fn a_snapshot_is_as_good_as_the_log(
            records in prop::collection::vec(
                (0..3u64, 0..4u64, 0..400_000u64, prop::collection::vec((0..5u8, 0..4u8), 0..5)), 1..60),
            cut in 0..60usize,
        ) {
            let mut numbers = [0u64; 3];
            let mut ledger = new_ledger();
            let mut other: Option<Ledger> = None;
            for (index, (writer, skip, time_ms, entries)) in records.into_iter().enumerate() {
                if index == cut {
                    let snapshot = Snapshot::decode(ledger.to_snapshot().encode_to_vec().as_slice()).unwrap();
                    other = Ledger::from_snapshot(snapshot);
                }
                numbers[writer as usize] += u64::from(skip != 0);
                let key = |key: u8| (key > 0).then(|| key.to_string());
                let entries = entries.into_iter().map(|(topic, k)| entry(&topic.to_string(), key(k).as_deref()));
                let record = record(writer, numbers[writer as usize], time_ms, entries.collect());
                let (mut here, mut there) = (Vec::new(), Vec::new());
                let verdict = ledger.apply(index as u64, &record, &mut here);
                if let Some(other) = &mut other {
                    prop_assert_eq!(other.apply(index as u64, &record, &mut there), verdict);
                    prop_assert_eq!(&here, &there);
                    prop_assert_eq!(other.to_snapshot(), ledger.to_snapshot());
                }
            }
        }
    }
}
