//! What subscribers must see: the model of all topics, and of each subscription.
//!
//! Who published a message, and as the how manieth, stands in the message itself. Nobody need know a topic's order in
//! advance: all subscribers must agree on who follows whom, each publisher's messages must come one after the other,
//! and the offsets that the server told must fit.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ringfeed::limits::FRAME_HEADER_BYTES_MAX;
use ringfeed::proto::{Message, MessageKind};
use ringfeed::server::{PublishError, Publisher};
use ringfeed::topics::{Draft, Namespace, Namespaces, Position, SlowConsumer, TopicName};
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

use crate::namespaces::topic_name;
use crate::order::{Order, Placed};

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
    /// When each client published each of its messages, by client and topic.
    client_times: HashMap<(usize, usize), Vec<u64>>,
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
    pub(crate) fn new(topic_count: usize, namespaces: &Arc<Namespaces>) -> Model {
        let topics = (0..topic_count).map(|topic| Topic::new(topic, namespaces)).collect();
        let (next, previous, client_times) = (HashMap::new(), HashMap::new(), HashMap::new());
        Model { topics, next, previous, client_times }
    }

    pub(crate) fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// The control plane publishes a message of about `len` bytes; some a second time at once, as one does who has not
    /// heard of the first.
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

    /// The text with which client `publisher` publishes its next message to `topic`, which must not be one that drops
    /// any: there the order is that of the control plane.
    pub(crate) fn publish_by_client(&mut self, publisher: usize, topic: usize, len: usize, now_us: u64) -> String {
        let times = self.client_times.entry((publisher, topic)).or_default();
        times.push(now_us);
        let payload = payload(Id { topic, publisher, number: times.len() as u64 }, len);
        self.topics[topic].client_bytes += payload.len() + FRAME_HEADER_BYTES_MAX;
        payload
    }

    /// Takes the outcomes that have come since the last call.
    pub(crate) fn learn_outcomes(&mut self) {
        self.topics.iter_mut().for_each(Topic::learn_outcomes);
    }

    /// Whether each publication has an outcome.
    pub(crate) fn is_close_received(&mut self) -> bool {
        self.learn_outcomes();
        self.topics.iter().all(|topic| topic.waiting.is_empty())
    }

    /// How many bytes of frames were published to `topics`.
    pub(crate) fn bytes(&self, topics: &[usize]) -> usize {
        let topics = topics.iter().map(|topic| &self.topics[*topic]);
        let control = topics.clone().flat_map(|topic| &topic.control);
        let frames: usize = control.map(|published| published.len + FRAME_HEADER_BYTES_MAX).sum();
        frames + topics.map(|topic| topic.client_bytes).sum::<usize>()
    }

    /// How many bytes somebody was sent at most who was told of all that was ever published in any way that there is.
    pub(crate) fn bytes_told(&self) -> usize {
        let topics: Vec<usize> = (0..self.topics.len()).collect();
        let control = self.topics.iter().map(|topic| topic.control.len()).sum::<usize>();
        let clients = self.client_times.values().map(Vec::len).sum::<usize>();
        // Base64 makes it longer, and each has a line of its own about it.
        self.bytes(&topics) * 4 / 3 + (control + clients) * 300
    }

    /// The settings of a topic's namespace.
    pub(crate) fn namespace(&self, topic: usize) -> &Namespace {
        &self.topics[topic].namespace
    }

    /// What is known of a topic's order until now.
    pub(crate) fn order(&mut self, topic: usize) -> &mut Order {
        self.topics[topic].learn_outcomes();
        &mut self.topics[topic].order
    }

    /// Whether slow subscribers of a topic may miss some of it.
    pub(crate) fn is_lossy(&self, topic: usize) -> bool {
        self.topics[topic].is_lossy()
    }

    /// What a message is the newest state of, if it says so.
    pub(crate) fn key(&self, id: Id) -> Option<String> {
        self.topics[id.topic].key(id)
    }

    /// A subscriber was told the place of a message with `len` bytes. Returns when it was published, if that is known:
    /// what a client says takes its time to get here.
    pub(crate) fn note(&mut self, position: Position, id: Id, len: usize) -> Option<u64> {
        let since_us = match id.publisher {
            CONTROL => self.topics[id.topic].control[id.number as usize - 1].at_us,
            client => self.client_times[&(client, id.topic)][id.number as usize - 1],
        };
        self.order(id.topic).note(position, Placed { id, len, since_us });
        (id.publisher == CONTROL).then_some(since_us)
    }

    /// A subscriber received `message`. Returns when it was published, if that is known.
    pub(crate) fn on_message(&mut self, views: &mut [View], message: Message<'_>) -> Option<u64> {
        let id = parse(message.payload);
        assert_eq!(message.kind, kind_of_id(id), "a message changed its kind");
        let view = views.iter_mut().find(|view| view.topic == id.topic);
        let view = view.unwrap_or_else(|| panic!("a message of a topic that was not subscribed to: {id:?}"));
        self.topics[id.topic].learn_outcomes();
        self.check_number(view, id);
        if let Some(last) = view.last.filter(|_| !self.is_lossy(id.topic)) {
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
        assert!(
            topic.is_lossy() || expected.is_none_or(|expected| expected == id.number),
            "{expected:?} should come, and {id:?} came"
        );
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
        self.topics[id.topic].order.position(id).map(|position| position.offset)
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
            let seen = view.last_numbers.get(publisher).copied();
            let published = self.client_times.get(&(*publisher, view.topic)).map(|times| times.len() as u64);
            assert!(seen.is_none() || seen == published, "client {publisher}: {seen:?} of {published:?} seen");
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

    fn learn_outcomes(&mut self) {
        while let Some((number, receiver)) = self.waiting.front_mut() {
            let outcome = match receiver.try_recv() {
                Ok(outcome) => outcome,
                Err(TryRecvError::Empty) => return,
                // The shard is gone.
                Err(TryRecvError::Closed) => Err(PublishError::Stopping),
            };
            let published = &mut self.control[*number as usize - 1];
            match (published.outcome, outcome) {
                (Some(Ok(first)), Ok(again)) => assert_eq!(first, again, "a repeated message was published again"),
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
    /// A subscription that was confirmed now.
    pub(crate) fn new(topic: usize, now_us: u64) -> View {
        View { topic, since_us: now_us, last: None, last_numbers: BTreeMap::new() }
    }

    pub(crate) fn topic(&self) -> usize {
        self.topic
    }
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
pub(crate) fn parse(bytes: &[u8]) -> Id {
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

pub(crate) fn kind_of_id(id: Id) -> MessageKind {
    if id.number.is_multiple_of(2) { MessageKind::Text } else { MessageKind::Binary }
}

/// The kind with which a payload is published.
pub(crate) fn kind_of(payload: &str) -> MessageKind {
    kind_of_id(parse(payload.as_bytes()))
}
