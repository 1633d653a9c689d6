//! The expected deliveries: a model of all topics and of each subscription.
//!
//! Each message holds its publisher and its number among that publisher's messages. The model does not know a topic's
//! order in advance: all subscribers must agree on the successor of each message, the messages of a publisher must come
//! in order, and the offsets that the server reports must fit.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ringfeed::limits::FRAME_HEADER_BYTES_MAX;
use ringfeed::proto::{Message, MessageKind};
use ringfeed::server::{PublishError, Publisher};
use ringfeed::topics::{Draft, Namespace, Namespaces, Position, SlowConsumer, TopicName};
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

use crate::keyed::KeyedModel;
use crate::namespaces::{KEYED, topic_name};
use crate::order::{Order, Placed};

/// The publisher id of the control plane.
pub(crate) const CONTROL: usize = 9999;

/// A message: topic, publisher, and its number among that publisher's messages of that topic, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) topic: usize,
    pub(crate) publisher: usize,
    pub(crate) number: u64,
}

type Outcome = Result<Position, PublishError>;

/// A publication of the control plane.
struct Published {
    at_us: u64,
    len: usize,
    outcome: Option<Outcome>,
}

/// One topic.
struct Topic {
    index: usize,
    name: TopicName,
    namespace: Namespace,
    order: Order,
    control: Vec<Published>,
    waiting: VecDeque<(u64, Receiver<Outcome>)>,
    last_offset: u64,
    /// Bytes of the frames that clients published.
    client_bytes: usize,
}

/// All topics.
pub(crate) struct Model {
    topics: Vec<Topic>,
    next: HashMap<Id, Id>,
    previous: HashMap<Id, Id>,
    /// The publish time of each client's messages, by client and topic.
    client_times: HashMap<(usize, usize), Vec<u64>>,
    /// The keyed topics, if there are any.
    pub(crate) keyed: Option<KeyedModel>,
}

/// One subscription of one client.
#[derive(Clone, Debug)]
pub(crate) struct View {
    topic: usize,
    /// When the client received the confirmation.
    since_us: u64,
    last: Option<Id>,
    last_numbers: BTreeMap<usize, u64>,
}

impl Model {
    pub(crate) fn new(topic_count: usize, namespaces: &Arc<Namespaces>) -> Model {
        let topics = (0..topic_count).map(|topic| Topic::new(topic, namespaces)).collect();
        let (next, previous, client_times) = (HashMap::new(), HashMap::new(), HashMap::new());
        Model { topics, next, previous, client_times, keyed: None }
    }

    pub(crate) fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// The control plane publishes a message of about `len` bytes; some twice, like a publisher that retries before the
    /// first response.
    pub(crate) fn publish(&mut self, publisher: &mut Publisher, topic: usize, len: usize, now_us: u64) {
        let entry = &mut self.topics[topic];
        let id = Id { topic, publisher: CONTROL, number: entry.control.len() as u64 + 1 };
        let payload = payload(id, len);
        let mut published = Published { at_us: now_us, len: payload.len(), outcome: None };
        let is_text = kind_of(&payload) == MessageKind::Text;
        let mut draft = Draft::new(entry.name.clone(), is_text, Bytes::from(payload));
        draft.key = entry.key(id).map(String::into_boxed_str);
        let times = if id.number.is_multiple_of(5) { 2 } else { 1 };
        draft.idempotency_key = (times > 1).then(|| id.number.to_string().into());
        for _ in 0..times {
            match publisher.publish(draft.clone()) {
                Ok(outcome) => entry.waiting.push_back((id.number, outcome)),
                Err(error) => _ = published.outcome.get_or_insert(Err(error)),
            }
        }
        entry.control.push(published);
    }

    /// The text with which client `publisher` publishes its next message to `topic`, which must be lossless: a lossy
    /// topic takes its order from the control plane.
    pub(crate) fn publish_by_client(&mut self, publisher: usize, topic: usize, len: usize, now_us: u64) -> String {
        let times = self.client_times.entry((publisher, topic)).or_default();
        times.push(now_us);
        let payload = payload(Id { topic, publisher, number: times.len() as u64 }, len);
        self.topics[topic].client_bytes += payload.len() + FRAME_HEADER_BYTES_MAX;
        payload
    }

    /// Takes the outcomes that have arrived since the last call.
    pub(crate) fn take_outcomes(&mut self) {
        self.topics.iter_mut().for_each(Topic::take_outcomes);
    }

    /// Whether each publication has an outcome.
    pub(crate) fn has_all_outcomes(&mut self) -> bool {
        self.take_outcomes();
        let has_keyed = self.keyed.as_mut().is_none_or(KeyedModel::take_outcomes);
        has_keyed && self.topics.iter().all(|topic| topic.waiting.is_empty())
    }

    /// The bytes of all frames published to `topics`.
    pub(crate) fn bytes(&self, topics: &[usize]) -> usize {
        let topics = topics.iter().map(|topic| &self.topics[*topic]);
        let control = topics.clone().flat_map(|topic| &topic.control);
        let frames: usize = control.map(|published| published.len + FRAME_HEADER_BYTES_MAX).sum();
        frames + topics.map(|topic| topic.client_bytes).sum::<usize>()
    }

    /// The most bytes that a client can receive about all publications ever made, in any form.
    pub(crate) fn feed_bytes_max(&self) -> usize {
        let topics: Vec<usize> = (0..self.topics.len()).collect();
        let control = self.topics.iter().map(|topic| topic.control.len()).sum::<usize>();
        let clients = self.client_times.values().map(Vec::len).sum::<usize>();
        // Base64 adds a third, and each event has a line of its own.
        // A keyed topic's state comes with each reconnect.
        let keyed = self.keyed.as_ref().map_or(0, |keyed| 3 * keyed.bytes);
        self.bytes(&topics) * 4 / 3 + (control + clients) * 300 + keyed
    }

    /// The settings of a topic's namespace.
    pub(crate) fn namespace(&self, topic: usize) -> &Namespace {
        match &self.keyed {
            Some(keyed) if topic >= KEYED => keyed.namespace(),
            _ => &self.topics[topic].namespace,
        }
    }

    /// The known order of a topic.
    pub(crate) fn order(&mut self, topic: usize) -> &mut Order {
        self.topics[topic].take_outcomes();
        &mut self.topics[topic].order
    }

    /// Whether slow subscribers of a topic may miss messages.
    pub(crate) fn is_lossy(&self, topic: usize) -> bool {
        self.topics[topic].is_lossy()
    }

    /// The conflation key of a message, if it has one.
    pub(crate) fn key(&self, id: Id) -> Option<String> {
        self.topics[id.topic].key(id)
    }

    /// A subscriber received the position of a message with `len` bytes. Returns the publish time, if known; messages
    /// of clients have none, because they take time to reach the server.
    pub(crate) fn note(&mut self, position: Position, id: Id, len: usize) -> Option<u64> {
        let since_us = match id.publisher {
            CONTROL => self.topics[id.topic].control[id.number as usize - 1].at_us,
            client => self.client_times[&(client, id.topic)][id.number as usize - 1],
        };
        self.order(id.topic).note(position, Placed { id, len, since_us });
        (id.publisher == CONTROL).then_some(since_us)
    }

    /// A subscriber received `message`. Returns the publish time, if known.
    pub(crate) fn on_message(&mut self, views: &mut [View], message: Message<'_>) -> Option<u64> {
        let id = parse(message.payload);
        assert_eq!(message.kind, kind_of_id(id), "a message changed its kind");
        let view = views.iter_mut().find(|view| view.topic == id.topic);
        let view = view.unwrap_or_else(|| panic!("message of a topic without a subscription: {id:?}"));
        self.topics[id.topic].take_outcomes();
        self.check_number(view, id);
        if let Some(last) = view.last.filter(|_| !self.is_lossy(id.topic)) {
            self.check_neighbours(last, id);
        }
        view.last = Some(id);
        view.last_numbers.insert(id.publisher, id.number);
        (id.publisher == CONTROL).then(|| self.topics[id.topic].control[id.number as usize - 1].at_us)
    }

    /// The messages of each publisher come in order.
    fn check_number(&self, view: &View, id: Id) {
        let last = view.last_numbers.get(&id.publisher).copied();
        if id.publisher != CONTROL {
            assert!(last.is_none_or(|last| id.number == last + 1), "{last:?} of a client is followed by {id:?}");
            return;
        }
        let topic = &self.topics[id.topic];
        let expected = match last {
            Some(last) => topic.accepted_after(last),
            // All messages published after the confirmation must arrive; earlier ones may.
            None => topic.accepted_later_than(view.since_us).filter(|first| id.number >= *first),
        };
        let published = &topic.control[id.number as usize - 1];
        assert!(matches!(published.outcome, Some(Ok(_))), "a rejected message was delivered: {id:?}");
        assert!(
            topic.is_lossy() || expected.is_none_or(|expected| expected == id.number),
            "{expected:?} should come, and {id:?} came"
        );
        assert!(last.is_none_or(|last| last < id.number), "{last:?} is followed by {id:?}");
    }

    /// All subscribers agree on the order, and offsets are consecutive.
    fn check_neighbours(&mut self, last: Id, id: Id) {
        let next = *self.next.entry(last).or_insert(id);
        assert_eq!(next, id, "subscribers disagree on the successor of {last:?}");
        let previous = *self.previous.entry(id).or_insert(last);
        assert_eq!(previous, last, "subscribers disagree on the predecessor of {id:?}");
        if let (Some(before), Some(after)) = (self.offset(last), self.offset(id)) {
            assert_eq!(before + 1, after, "{id:?} follows {last:?}, but their offsets are not consecutive");
        }
    }

    fn offset(&self, id: Id) -> Option<u64> {
        self.topics[id.topic].order.position(id).map(|position| position.offset)
    }

    /// With nothing in flight, this subscription must have received the last message of its topic.
    pub(crate) fn check_complete(&self, view: &View, publishers_done: &[usize]) {
        let topic = &self.topics[view.topic];
        let seen = view.last_numbers.get(&CONTROL).copied();
        let missing = match seen {
            Some(last) => topic.accepted_after(last),
            None => topic.accepted_later_than(view.since_us),
        };
        assert_eq!(missing, None, "a subscriber has not received the last of topic {}; received {seen:?}", view.topic);
        let following = view.last.and_then(|last| self.next.get(&last));
        assert_eq!(following, None, "a subscriber has not received a message that others have");
        for publisher in publishers_done {
            let seen = view.last_numbers.get(publisher).copied();
            let published = self.client_times.get(&(*publisher, view.topic)).map(|times| times.len() as u64);
            assert!(seen.is_none() || seen == published, "client {publisher}: received {seen:?} of {published:?}");
        }
    }

    /// Whether the subscription has received the last message that it must receive.
    pub(crate) fn is_complete(&self, view: &View) -> bool {
        let topic = &self.topics[view.topic];
        match view.last_numbers.get(&CONTROL) {
            Some(last) => topic.accepted_after(*last).is_none(),
            None => topic.accepted_later_than(view.since_us).is_none(),
        }
    }
}

impl Topic {
    fn new(index: usize, namespaces: &Namespaces) -> Topic {
        let name = TopicName::new(&topic_name(index)).expect("a valid name");
        let namespace = namespaces.get(namespaces.find(&name).expect("its namespace is known")).clone();
        let (order, control, waiting) = (Order::default(), Vec::new(), VecDeque::new());
        Topic { index, name, namespace, order, control, waiting, last_offset: 0, client_bytes: 0 }
    }

    fn is_lossy(&self) -> bool {
        self.namespace.slow_consumer != SlowConsumer::Close
    }

    fn key(&self, id: Id) -> Option<String> {
        (self.namespace.slow_consumer == SlowConsumer::Conflate).then(|| format!("k{}", id.number % 3))
    }

    fn take_outcomes(&mut self) {
        while let Some((number, receiver)) = self.waiting.front_mut() {
            let outcome = match receiver.try_recv() {
                Ok(outcome) => outcome,
                Err(TryRecvError::Empty) => return,
                // The shard has stopped.
                Err(TryRecvError::Closed) => Err(PublishError::Stopping),
            };
            let published = &mut self.control[*number as usize - 1];
            match (published.outcome, outcome) {
                (Some(Ok(first)), Ok(second)) => assert_eq!(first, second, "a repeated message was published again"),
                (Some(Ok(_)), Err(_)) => {}
                (_, Err(_)) => published.outcome = Some(outcome),
                (_, Ok(position)) => {
                    published.outcome = Some(outcome);
                    assert!(position.offset > self.last_offset, "offsets only grow");
                    self.last_offset = position.offset;
                    let id = Id { topic: self.index, publisher: CONTROL, number: *number };
                    self.order.note(position, Placed { id, len: published.len, since_us: published.at_us });
                }
            }
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
    /// A subscription that is confirmed now.
    pub(crate) fn new(topic: usize, now_us: u64) -> View {
        View { topic, since_us: now_us, last: None, last_numbers: BTreeMap::new() }
    }

    pub(crate) fn topic(&self) -> usize {
        self.topic
    }
}

/// The message with this id, padded with a filler derived from the id.
fn payload(id: Id, len: usize) -> String {
    let mut payload = format!("{}|{}|{}|{len}|", id.topic, id.publisher, id.number);
    payload.extend((0..len).map(|index| filler(id, index)));
    payload
}

fn filler(id: Id, index: usize) -> char {
    (b'a' + ((id.number as usize * 7 + index + id.topic) % 26) as u8) as char
}

/// Parses a message's id, and checks that its text is intact.
pub(crate) fn parse(bytes: &[u8]) -> Id {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|_| panic!("unknown message: {bytes:?}"));
    let mut parts = text.splitn(5, '|');
    let mut number = || {
        let part = parts.next().and_then(|part| part.parse::<u64>().ok());
        part.unwrap_or_else(|| panic!("unknown message: {text}"))
    };
    let id = Id { topic: number() as usize, publisher: number() as usize, number: number() };
    let len = number() as usize;
    assert_eq!(text, payload(id, len), "a message changed in transit");
    id
}

pub(crate) fn kind_of_id(id: Id) -> MessageKind {
    if id.number.is_multiple_of(2) { MessageKind::Text } else { MessageKind::Binary }
}

/// The kind of message that the publisher chooses for a payload.
pub(crate) fn kind_of(payload: &str) -> MessageKind {
    kind_of_id(parse(payload.as_bytes()))
}
