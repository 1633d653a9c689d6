//! Keyed topics: what the control plane publishes to them, and the clients that keep their state.
//!
//! A client applies what it receives in order, and must always end with the state of the topic's home shard.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ringfeed::ring::sim::Rng;
use ringfeed::server::{PublishError, Publisher};
use ringfeed::topics::{Draft, Epoch, Namespace, Position, SlowConsumer, TopicName};
use serde_json::Value;
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

use crate::namespaces::{KEYED, topic_name};

/// By key: the offset of its publication, and the value.
pub(crate) type Values = BTreeMap<String, (u64, String)>;

/// A change of a key; no value is a removal.
type Change = (String, Option<String>);

/// What the control plane does to keyed topics.
#[derive(Clone, Debug)]
pub(crate) struct KeyedPlan {
    pub(crate) topics: usize,
    keys: u64,
    pub(crate) namespace: Namespace,
}

impl KeyedPlan {
    pub(crate) fn new(rng: &mut Rng) -> KeyedPlan {
        let namespace = Namespace {
            keyed: true,
            keys_max: rng.choose(&[2, 5, 20]),
            value_bytes_max: rng.choose(&[20, 1000]),
            value_ttl_ms: rng.choose(&[0, 0, 0, 60, 2_000]),
            outbox_bytes_max: rng.choose(&[500, 5_000, 1024 * 1024]),
            coalesce_ms: rng.choose(&[0, 0, 20]),
            deflate: rng.chance(500),
            slow_consumer: rng.choose(&[SlowConsumer::Close, SlowConsumer::Conflate]),
            ..Namespace::default()
        };
        KeyedPlan { topics: rng.choose(&[1, 1, 2, 3]), keys: rng.choose(&[1, 4, 8, 30]), namespace }
    }
}

/// The changes of one topic, as far as they are known.
#[derive(Default)]
struct Topic {
    epoch: Option<Epoch>,
    changes: BTreeMap<u64, Change>,
    waiting: VecDeque<(Change, Receiver<Result<Position, PublishError>>)>,
}

/// All keyed topics.
pub(crate) struct KeyedModel {
    plan: KeyedPlan,
    rng: Rng,
    topics: Vec<Topic>,
    count: u64,
    /// Of all publications.
    pub(crate) bytes: usize,
}

impl KeyedModel {
    pub(crate) fn new(plan: &KeyedPlan, rng: Rng) -> KeyedModel {
        let topics = (0..plan.topics).map(|_| Topic::default()).collect();
        KeyedModel { plan: plan.clone(), rng, topics, count: 0, bytes: 0 }
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.plan.namespace
    }

    /// Sets or removes some keys.
    pub(crate) fn publish(&mut self, publisher: &Publisher) {
        for _ in 0..self.rng.between(1, 8) {
            let topic = self.rng.below(self.topics.len() as u64) as usize;
            let key = format!("k{}", self.rng.below(self.plan.keys));
            let name = TopicName::new(&topic_name(KEYED + topic)).expect("a valid name");
            self.count += 1;
            let value =
                self.rng.chance(700).then(|| format!("{}|{}", self.count, "x".repeat(self.rng.below(30) as usize)));
            let draft = match &value {
                Some(value) => Draft::put(name, &key, true, Bytes::copy_from_slice(value.as_bytes())),
                None => Draft::remove(name, &key),
            };
            self.bytes += draft.payload.len() + 300;
            if let Ok(outcome) = publisher.publish(draft) {
                self.topics[topic].waiting.push_back(((key, value), outcome));
            }
        }
    }

    /// Takes the outcomes that have arrived. Returns whether none is missing.
    pub(crate) fn take_outcomes(&mut self) -> bool {
        for topic in &mut self.topics {
            while let Some((_, outcome)) = topic.waiting.front_mut() {
                let outcome = match outcome.try_recv() {
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Closed) => Err(PublishError::Stopping),
                    Ok(outcome) => outcome,
                };
                let (change, _) = topic.waiting.pop_front().expect("there is a first one");
                if let Ok(position) = outcome {
                    topic.note(position, change);
                }
            }
        }
        self.topics.iter().all(|topic| topic.waiting.is_empty())
    }

    /// The values of a topic at this offset, if all changes up to there are known.
    fn values_at(&mut self, topic: usize, offset: u64) -> Option<Values> {
        self.take_outcomes();
        let changes = &self.topics[topic - KEYED].changes;
        let mut values = Values::new();
        for at in 1..=offset {
            match changes.get(&at)? {
                (key, Some(value)) => drop(values.insert(key.clone(), (at, value.clone()))),
                (key, None) => drop(values.remove(key)),
            }
        }
        Some(values)
    }
}

impl Topic {
    /// A publication is known: nobody may know another one at its position.
    fn note(&mut self, position: Position, change: Change) {
        assert_eq!(*self.epoch.get_or_insert(position.epoch), position.epoch, "one topic has two epochs");
        let known = self.changes.entry(position.offset).or_insert_with(|| change.clone());
        assert_eq!(*known, change, "two changes have one position: {position:?}");
    }
}

/// A client's copy of one topic.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    topic: usize,
    /// It receives each change: no slow reader skips any.
    is_strict: bool,
    values: Values,
    /// Of the last message.
    place: Option<Position>,
    /// The state is complete on this connection, and changes follow.
    is_live: bool,
}

impl Replica {
    /// A copy of a client that receives each change, or whose changes are conflated where the namespace says so.
    pub(crate) fn new(topic: usize, receives_all: bool, namespace: &Namespace) -> Replica {
        let is_strict = receives_all || namespace.slow_consumer == SlowConsumer::Close;
        Replica { topic, is_strict, values: Values::new(), place: None, is_live: false }
    }

    pub(crate) fn topic(&self) -> usize {
        self.topic
    }

    pub(crate) fn has_position(&self) -> bool {
        self.place.is_some()
    }

    /// Connects again: with its position, an earlier one, one of another epoch, or none. Returns it.
    pub(crate) fn ask(&mut self, has_position: bool, rng: &mut Rng) -> Option<Position> {
        let place = self.place.filter(|_| has_position).map(|place| match rng.below(20) {
            0 | 1 => Position { offset: place.offset.saturating_sub(rng.below(6)), ..place },
            2 => Position { epoch: Epoch::new(rng.next_u64()), ..place },
            _ => place,
        });
        (self.place, self.is_live) = (place, false);
        place
    }

    /// A snapshot begins.
    pub(crate) fn on_snapshot(&mut self, place: Position) {
        assert!(!self.is_live, "a snapshot within changes: {self:?}");
        self.values.clear();
        self.place = Some(Position { offset: 0, ..place });
    }

    /// A key has changed.
    pub(crate) fn on_change(&mut self, model: &mut KeyedModel, place: Position, key: &str, value: Option<&str>) {
        let last = self.place.unwrap_or_else(|| panic!("a change before any snapshot: {self:?}"));
        assert_eq!(place.epoch, last.epoch, "another epoch without notice: {self:?}");
        assert!(place.offset > last.offset, "{place:?} arrived again or too late: {self:?}");
        let is_next = place.offset == last.offset + 1;
        assert!(is_next || !self.is_live || !self.is_strict, "changes are missing before {place:?}: {self:?}");
        model.topics[self.topic - KEYED].note(place, (key.to_owned(), value.map(str::to_owned)));
        match value {
            Some(value) => drop(self.values.insert(key.to_owned(), (place.offset, value.to_owned()))),
            None => drop(self.values.remove(key)),
        }
        self.place = Some(place);
    }

    /// The state is complete.
    pub(crate) fn on_live(&mut self, model: &mut KeyedModel, place: Position) {
        let last = self.place.unwrap_or_else(|| panic!("changes without a state: {self:?}"));
        assert!(place.epoch == last.epoch && place.offset >= last.offset, "{place:?} is before {self:?}");
        assert!(!self.is_live, "two answers: {self:?}");
        if let Some(values) = model.values_at(self.topic, place.offset) {
            assert_eq!(self.values, values, "the state at {place:?} is another one: {self:?}");
        }
        (self.place, self.is_live) = (Some(place), true);
    }

    /// What it lacks of the values of the topic's home.
    pub(crate) fn missing(&self, homes: &BTreeMap<String, Values>) -> Option<String> {
        let nothing = Values::new();
        let values = homes.get(&topic_name(self.topic)).unwrap_or(&nothing);
        match (self.is_live, self.values == *values) {
            (true, true) => None,
            (false, _) => Some("it has no answer".to_owned()),
            (true, false) => Some(format!("the values are {values:?}, and it has {:?}", self.values)),
        }
    }

    /// Receives a message of a feed with envelopes.
    pub(crate) fn on_envelope(&mut self, model: &mut KeyedModel, head: &Value, place: Position, payload: &str) {
        let key = head["key"].as_str().unwrap_or_default();
        match head["state"].as_str() {
            Some("snapshot") => self.on_snapshot(place),
            Some("put") => self.on_change(model, place, key, Some(payload)),
            Some("remove") => self.on_change(model, place, key, None),
            other => {
                assert!(other.is_none() && head["subscribed"] == true, "an unknown line: {head}");
                self.on_live(model, place);
            }
        }
    }

    /// Receives an event, with what follows the first line of its data.
    pub(crate) fn on_event(&mut self, model: &mut KeyedModel, name: &str, head: &Value, place: Position, rest: &str) {
        let key = head["key"].as_str().unwrap_or_default();
        match name {
            "snapshot" => self.on_snapshot(place),
            "put" => self.on_change(model, place, key, Some(rest)),
            "remove" => self.on_change(model, place, key, None),
            "live" => self.on_live(model, place),
            other => panic!("an unknown event: {other}"),
        }
    }
}
