//! What subscribers must see: the model of all topics, and of each subscription.
//!
//! Who published a message, and as the how manieth, stands in the message itself. Nobody need know a topic's order in
//! advance: all subscribers must agree on who follows whom, each publisher's messages must come one after the other,
//! and the offsets that the server told must fit.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use ringfeed::limits::FRAME_HEADER_BYTES_MAX;
use ringfeed::proto::{Message, MessageKind};
use ringfeed::server::{PublishError, Publisher};
use ringfeed::topics::{Draft, Position, TopicName};
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

/// The publisher that is no client: the control plane.
pub(crate) const CONTROL: usize = 9999;

/// A message: topic, publisher, and its number among that publisher's messages of that topic, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) topic: usize,
    pub(crate) publisher: usize,
    pub(crate) number: u64,
}

type Outcome = Result<Position, PublishError>;

/// What the control plane published.
struct Published {
    at_us: u64,
    len: usize,
    outcome: Option<Outcome>,
}

/// One topic.
struct Topic {
    name: TopicName,
    control: Vec<Published>,
    waiting: VecDeque<(u64, Receiver<Outcome>)>,
    last_offset: u64,
}

/// All topics.
pub(crate) struct Model {
    topics: Vec<Topic>,
    next: HashMap<Id, Id>,
    previous: HashMap<Id, Id>,
    /// How much each client published: the numbers given out.
    numbers: HashMap<(usize, usize), u64>,
    /// Bytes of the frames that clients published.
    client_bytes: usize,
}

/// One subscription of one client.
#[derive(Clone, Debug)]
pub(crate) struct View {
    topic: usize,
    /// When the client was told that it is subscribed.
    since_us: u64,
    last: Option<Id>,
    last_numbers: BTreeMap<usize, u64>,
}

impl Model {
    pub(crate) fn new(topic_count: usize) -> Model {
        let topic = |index| Topic {
            name: TopicName::new(&topic_name(index)).expect("a valid name"),
            control: Vec::new(),
            waiting: VecDeque::new(),
            last_offset: 0,
        };
        let topics = (0..topic_count).map(topic).collect();
        Model { topics, next: HashMap::new(), previous: HashMap::new(), numbers: HashMap::new(), client_bytes: 0 }
    }

    pub(crate) fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// The control plane publishes a message of about `len` bytes.
    pub(crate) fn publish(&mut self, publisher: &mut Publisher, topic: usize, len: usize, now_us: u64) {
        let entry = &mut self.topics[topic];
        let id = Id { topic, publisher: CONTROL, number: entry.control.len() as u64 + 1 };
        let payload = payload(id, len);
        let mut published = Published { at_us: now_us, len: payload.len(), outcome: None };
        match publisher.publish(Draft::new(
            entry.name.clone(),
            kind_of(&payload) == MessageKind::Text,
            Bytes::from(payload),
        )) {
            Ok(outcome) => entry.waiting.push_back((id.number, outcome)),
            Err(error) => published.outcome = Some(Err(error)),
        }
        entry.control.push(published);
    }

    /// The text with which client `publisher` publishes its next message to `topic`.
    pub(crate) fn publish_by_client(&mut self, publisher: usize, topic: usize, len: usize) -> String {
        let number = self.numbers.entry((publisher, topic)).or_default();
        *number += 1;
        let payload = payload(Id { topic, publisher, number: *number }, len);
        self.client_bytes += payload.len() + FRAME_HEADER_BYTES_MAX;
        payload
    }

    /// Takes the outcomes that have come since the last call.
    pub(crate) fn learn_outcomes(&mut self) {
        self.topics.iter_mut().for_each(Topic::learn_outcomes);
    }

    /// Whether each publication has an outcome.
    pub(crate) fn is_settled(&mut self) -> bool {
        self.learn_outcomes();
        self.topics.iter().all(|topic| topic.waiting.is_empty())
    }

    /// How many bytes of frames were published to all topics after `since_us` by the control plane, and by clients at
    /// any time.
    pub(crate) fn bytes_since(&self, since_us: u64) -> usize {
        let control = self.topics.iter().flat_map(|topic| &topic.control);
        let control = control.filter(|published| published.at_us >= since_us);
        let frames: usize = control.map(|published| published.len + FRAME_HEADER_BYTES_MAX).sum();
        frames + self.client_bytes
    }

    /// A subscriber received `message`. Returns when it was published, if that is known.
    pub(crate) fn on_message(&mut self, views: &mut [View], message: Message<'_>) -> Option<u64> {
        let id = parse(message.payload);
        assert_eq!(message.kind, kind_of_id(id), "a message changed its kind");
        let view = views.iter_mut().find(|view| view.topic == id.topic);
        let view = view.unwrap_or_else(|| panic!("a message of a topic that was not subscribed to: {id:?}"));
        self.topics[id.topic].learn_outcomes();
        self.check_number(view, id);
        if let Some(last) = view.last {
            self.check_neighbours(last, id);
        }
        view.last = Some(id);
        view.last_numbers.insert(id.publisher, id.number);
        (id.publisher == CONTROL).then(|| self.topics[id.topic].control[id.number as usize - 1].at_us)
    }

    /// Each publisher's messages come one after the other.
    fn check_number(&self, view: &View, id: Id) {
        let last = view.last_numbers.get(&id.publisher).copied();
        if id.publisher != CONTROL {
            assert!(last.is_none_or(|last| id.number == last + 1), "{last:?} of a client is followed by {id:?}");
            return;
        }
        let topic = &self.topics[id.topic];
        let expected = match last {
            Some(last) => topic.accepted_after(last),
            // Everything published after the subscription was confirmed must come; what was published before may.
            None => topic.accepted_later_than(view.since_us).filter(|first| id.number >= *first),
        };
        let published = &topic.control[id.number as usize - 1];
        assert!(matches!(published.outcome, Some(Ok(_))), "a message was delivered that was not accepted: {id:?}");
        assert!(expected.is_none_or(|expected| expected == id.number), "{expected:?} should come, and {id:?} came");
        assert!(last.is_none_or(|last| last < id.number), "{last:?} is followed by {id:?}");
    }

    /// All subscribers agree on who follows whom, and offsets count one by one.
    fn check_neighbours(&mut self, last: Id, id: Id) {
        let next = *self.next.entry(last).or_insert(id);
        assert_eq!(next, id, "subscribers do not agree on what follows {last:?}");
        let previous = *self.previous.entry(id).or_insert(last);
        assert_eq!(previous, last, "subscribers do not agree on what {id:?} follows");
        if let (Some(before), Some(after)) = (self.offset(last), self.offset(id)) {
            assert_eq!(before + 1, after, "{id:?} follows {last:?}, but their offsets do not");
        }
    }

    fn offset(&self, id: Id) -> Option<u64> {
        if id.publisher != CONTROL {
            return None;
        }
        match self.topics[id.topic].control[id.number as usize - 1].outcome {
            Some(Ok(position)) => Some(position.offset),
            _ => None,
        }
    }

    /// Nothing is on its way any more: this subscription must have seen its topic's last message.
    pub(crate) fn check_complete(&self, view: &View, publishers_done: &[usize]) {
        let topic = &self.topics[view.topic];
        let seen = view.last_numbers.get(&CONTROL).copied();
        let missing = match seen {
            Some(last) => topic.accepted_after(last),
            None => topic.accepted_later_than(view.since_us),
        };
        assert_eq!(missing, None, "a subscriber has not seen the last of topic {}; it saw {seen:?}", view.topic);
        let following = view.last.and_then(|last| self.next.get(&last));
        assert_eq!(following, None, "a subscriber has not seen what others have");
        for publisher in publishers_done {
            let (seen, published) =
                (view.last_numbers.get(publisher), self.numbers.get(&(*publisher, view.topic)).copied());
            assert!(seen.is_none() || seen.copied() == published, "client {publisher}: {seen:?} of {published:?} seen");
        }
    }

    /// Whether the subscription has seen the last message that it must see.
    pub(crate) fn is_complete(&self, view: &View) -> bool {
        let topic = &self.topics[view.topic];
        match view.last_numbers.get(&CONTROL) {
            Some(last) => topic.accepted_after(*last).is_none(),
            None => topic.accepted_later_than(view.since_us).is_none(),
        }
    }
}

impl Topic {
    fn learn_outcomes(&mut self) {
        while let Some((number, receiver)) = self.waiting.front_mut() {
            let outcome = match receiver.try_recv() {
                Ok(outcome) => outcome,
                Err(TryRecvError::Empty) => return,
                // The shard is gone.
                Err(TryRecvError::Closed) => Err(PublishError::Stopping),
            };
            if let Ok(position) = outcome {
                assert!(position.offset > self.last_offset, "offsets only grow");
                self.last_offset = position.offset;
            }
            self.control[*number as usize - 1].outcome = Some(outcome);
            self.waiting.pop_front();
        }
    }

    /// The first accepted number after `number`.
    fn accepted_after(&self, number: u64) -> Option<u64> {
        self.first_accepted(number as usize)
    }

    fn accepted_later_than(&self, at_us: u64) -> Option<u64> {
        self.first_accepted(self.control.partition_point(|published| published.at_us <= at_us))
    }

    fn first_accepted(&self, index: usize) -> Option<u64> {
        let rest = self.control[index..].iter().position(|published| matches!(published.outcome, Some(Ok(_))));
        rest.map(|offset| (index + offset) as u64 + 1)
    }
}

impl View {
    /// A subscription that was confirmed now.
    pub(crate) fn new(topic: usize, now_us: u64) -> View {
        View { topic, since_us: now_us, last: None, last_numbers: BTreeMap::new() }
    }

    pub(crate) fn topic(&self) -> usize {
        self.topic
    }
}

pub(crate) fn topic_name(topic: usize) -> String {
    format!("t/{topic}")
}

/// The message with this id: who it is, and a filler that follows from that.
fn payload(id: Id, len: usize) -> String {
    let mut payload = format!("{}|{}|{}|{len}|", id.topic, id.publisher, id.number);
    payload.extend((0..len).map(|index| filler(id, index)));
    payload
}

fn filler(id: Id, index: usize) -> char {
    (b'a' + ((id.number as usize * 7 + index + id.topic) % 26) as u8) as char
}

/// Reads a message's id, and checks that nothing of it has changed.
fn parse(bytes: &[u8]) -> Id {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|_| panic!("not a message that was published: {bytes:?}"));
    let mut parts = text.splitn(5, '|');
    let mut number = || {
        let part = parts.next().and_then(|part| part.parse::<u64>().ok());
        part.unwrap_or_else(|| panic!("not a message that was published: {text}"))
    };
    let id = Id { topic: number() as usize, publisher: number() as usize, number: number() };
    let len = number() as usize;
    assert_eq!(text, payload(id, len), "a message has changed on its way");
    id
}

fn kind_of_id(id: Id) -> MessageKind {
    if id.number.is_multiple_of(2) { MessageKind::Text } else { MessageKind::Binary }
}

/// The kind with which a payload is published.
pub(crate) fn kind_of(payload: &str) -> MessageKind {
    kind_of_id(parse(payload.as_bytes()))
}
