//! Queues with competing consumers: each message goes to one of them, and again to one if it is not acknowledged.
//! Without sockets and clocks.
//!
//! ```text
//! push ──► ready ──► pump: the next consumer with room ──► unacked ──► ack
//!            ▲                                                │
//!            └──────────── nack, or the consumer leaves ◄─────┘
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::frame::AckMode;
use crate::limits::{STOMP_PREFETCH_MAX, STOMP_QUEUE_BYTES_MAX, STOMP_QUEUES_MAX};
use crate::topics::{Draft, TopicName};

/// Where a consumer receives messages.
pub(super) trait Sink {
    /// Offers a message. `id` names its delivery. `false`: it takes no more now, or has ended.
    fn offer(&self, id: &str, item: &Item) -> bool;
}

/// A message in a queue.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) draft: Arc<Draft>,
    /// Somebody has received it before.
    pub(super) is_redelivered: bool,
}

/// Why a queue rejects a message or a consumer. The text names the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueError {
    /// It has `depth_max` messages, or the queues together have too many bytes.
    Full,
    /// There are too many queues.
    TooManyQueues,
}

/// All queues of a server.
#[derive(Debug)]
pub(super) struct Queues<S> {
    by_topic: HashMap<TopicName, Queue<S>>,
    depth_max: usize,
    bytes: usize,
    last_consumer: u64,
}

/// A queue and its consumers.
#[derive(Debug)]
struct Queue<S> {
    ready: VecDeque<Item>,
    consumers: Vec<Consumer<S>>,
    /// The consumer whose turn it is.
    next: usize,
    /// Messages in `ready`, and those without an acknowledgement.
    depth: usize,
}

#[derive(Debug)]
struct Consumer<S> {
    number: u64,
    sink: S,
    mode: AckMode,
    prefetch: usize,
    /// In the order of their deliveries.
    unacked: VecDeque<(u64, Item)>,
    last_delivery: u64,
}

impl<S: Sink> Queues<S> {
    /// No queues. Each has at most `depth_max` messages.
    pub(super) fn new(depth_max: usize) -> Queues<S> {
        Queues { by_topic: HashMap::new(), depth_max, bytes: 0, last_consumer: 0 }
    }

    /// Adds a message at the end of a queue.
    pub(super) fn push(&mut self, draft: Draft) -> Result<(), QueueError> {
        let (topic, bytes) = (draft.topic.clone(), draft.bytes());
        let depth = self.by_topic.get(&topic).map_or(0, |queue| queue.depth);
        if depth >= self.depth_max || self.bytes + bytes > STOMP_QUEUE_BYTES_MAX {
            return Err(QueueError::Full);
        }
        let queue = self.queue(&topic)?;
        queue.ready.push_back(Item { draft: Arc::new(draft), is_redelivered: false });
        queue.depth += 1;
        self.bytes += bytes;
        self.pump(&topic);
        Ok(())
    }

    /// Adds a consumer. Returns its number.
    pub(super) fn join(
        &mut self,
        topic: &TopicName,
        sink: S,
        mode: AckMode,
        prefetch: usize,
    ) -> Result<u64, QueueError> {
        self.last_consumer += 1;
        let (number, prefetch) = (self.last_consumer, prefetch.clamp(1, STOMP_PREFETCH_MAX));
        let consumer = Consumer { number, sink, mode, prefetch, unacked: VecDeque::new(), last_delivery: 0 };
        self.queue(topic)?.consumers.push(consumer);
        self.pump(topic);
        Ok(number)
    }

    /// Removes a consumer: what it has not acknowledged is ready again, before all else and in order.
    pub(super) fn leave(&mut self, topic: &TopicName, number: u64) {
        let Some(queue) = self.by_topic.get_mut(topic) else { return };
        let Some(index) = queue.consumers.iter().position(|consumer| consumer.number == number) else { return };
        let consumer = queue.consumers.remove(index);
        if queue.next > index {
            queue.next -= 1;
        }
        consumer.unacked.into_iter().rev().for_each(|(_, item)| queue.put_back(item));
        self.pump(topic);
        self.forget_if_unused(topic);
    }

    /// Acknowledges a delivery, with `AckMode::Client` also all before it. `false`: there is no such delivery.
    pub(super) fn ack(&mut self, topic: &TopicName, number: u64, delivery: u64) -> bool {
        let taken = self.settle(topic, number, delivery);
        let is_known = !taken.is_empty();
        self.bytes -= taken.iter().map(|item| item.draft.bytes()).sum::<usize>();
        if let Some(queue) = self.by_topic.get_mut(topic) {
            queue.depth -= taken.len();
        }
        self.pump(topic);
        self.forget_if_unused(topic);
        is_known
    }

    /// Rejects a delivery, with `AckMode::Client` also all before it: they are ready again.
    pub(super) fn nack(&mut self, topic: &TopicName, number: u64, delivery: u64) -> bool {
        let taken = self.settle(topic, number, delivery);
        let is_known = !taken.is_empty();
        if let Some(queue) = self.by_topic.get_mut(topic) {
            taken.into_iter().rev().for_each(|item| queue.put_back(item));
            // Another one has the next turn, if there is one.
            let index = queue.consumers.iter().position(|consumer| consumer.number == number);
            queue.next = index.map_or(queue.next, |index| index + 1);
        }
        self.pump(topic);
        is_known
    }

    /// Offers what is ready to consumers with room, in turn. Call it again later for consumers that took no more.
    pub(super) fn pump(&mut self, topic: &TopicName) {
        let Some(queue) = self.by_topic.get_mut(topic) else { return };
        let mut refusals = 0;
        while refusals < queue.consumers.len() {
            let Some(item) = queue.ready.front() else { break };
            queue.next %= queue.consumers.len();
            let consumer = &mut queue.consumers[queue.next];
            queue.next += 1;
            let delivery = consumer.last_delivery + 1;
            let has_room = consumer.unacked.len() < consumer.prefetch;
            if !has_room || !consumer.sink.offer(&delivery_id(consumer.number, delivery), item) {
                refusals += 1;
                continue;
            }
            refusals = 0;
            let item = queue.ready.pop_front().expect("it is at the front");
            consumer.last_delivery = delivery;
            match consumer.mode {
                AckMode::Auto => {
                    queue.depth -= 1;
                    self.bytes -= item.draft.bytes();
                }
                AckMode::Client | AckMode::Individual => consumer.unacked.push_back((delivery, item)),
            }
        }
    }

    /// Takes what an acknowledgement is about.
    fn settle(&mut self, topic: &TopicName, number: u64, delivery: u64) -> Vec<Item> {
        let Some(queue) = self.by_topic.get_mut(topic) else { return Vec::new() };
        let Some(consumer) = queue.consumers.iter_mut().find(|consumer| consumer.number == number) else {
            return Vec::new();
        };
        let Some(index) = consumer.unacked.iter().position(|(found, _)| *found == delivery) else {
            return Vec::new();
        };
        let first = if consumer.mode == AckMode::Client { 0 } else { index };
        consumer.unacked.drain(first..=index).map(|(_, item)| item).collect()
    }

    fn queue(&mut self, topic: &TopicName) -> Result<&mut Queue<S>, QueueError> {
        if !self.by_topic.contains_key(topic) && self.by_topic.len() >= STOMP_QUEUES_MAX {
            return Err(QueueError::TooManyQueues);
        }
        Ok(self.by_topic.entry(topic.clone()).or_default())
    }

    fn forget_if_unused(&mut self, topic: &TopicName) {
        if self.by_topic.get(topic).is_some_and(|queue| queue.depth == 0 && queue.consumers.is_empty()) {
            self.by_topic.remove(topic);
        }
    }
}

impl<S> Queue<S> {
    fn put_back(&mut self, item: Item) {
        self.ready.push_front(Item { is_redelivered: true, ..item });
    }
}

impl<S> Default for Queue<S> {
    fn default() -> Self {
        Queue { ready: VecDeque::new(), consumers: Vec::new(), next: 0, depth: 0 }
    }
}

impl QueueError {
    pub(super) fn text(self) -> &'static str {
        match self {
            QueueError::Full => "the queue is full: send again when its consumers have acknowledged some messages",
            QueueError::TooManyQueues => "there are too many queues: use fewer",
        }
    }
}

/// Names a delivery.
fn delivery_id(consumer: u64, delivery: u64) -> String {
    format!("q{consumer}-{delivery}")
}

/// The consumer and the delivery that an id names.
pub(super) fn parse_delivery(id: &str) -> Option<(u64, u64)> {
    let (consumer, delivery) = id.strip_prefix('q')?.split_once('-')?;
    Some((consumer.parse().ok()?, delivery.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// Keeps what it is offered, unless it is full.
    #[derive(Clone, Default)]
    struct Kept {
        received: Rc<RefCell<Vec<(String, String, bool)>>>,
        is_full: Rc<Cell<bool>>,
    }

    impl Sink for Kept {
        fn offer(&self, id: &str, item: &Item) -> bool {
            if !self.is_full.get() {
                let text = String::from_utf8(item.draft.payload.to_vec()).unwrap();
                self.received.borrow_mut().push((id.to_owned(), text, item.is_redelivered));
            }
            !self.is_full.get()
        }
    }

    fn topic() -> TopicName {
        TopicName::new("queue/a").unwrap()
    }

    fn draft(text: &str) -> Draft {
        Draft::new(topic(), true, Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn consumers_take_turns_and_what_one_leaves_another_gets() {
        let mut queues = Queues::new(10);
        for text in ["1", "2", "3"] {
            queues.push(draft(text)).unwrap();
        }
        let (a, b) = (Kept::default(), Kept::default());
        let first = queues.join(&topic(), a.clone(), AckMode::Client, 2).unwrap();
        let second = queues.join(&topic(), b.clone(), AckMode::Individual, 8).unwrap();
        assert_eq!(a.received.borrow().len(), 2, "its prefetch");
        assert_eq!(b.received.borrow()[0].1, "3");
        assert!(queues.nack(&topic(), first, 1));
        assert_eq!(b.received.borrow()[1..], [("q2-2".to_owned(), "1".to_owned(), true)]);
        queues.leave(&topic(), first);
        assert_eq!(b.received.borrow()[2], ("q2-3".to_owned(), "2".to_owned(), true));
        assert!(queues.ack(&topic(), second, 2) && !queues.ack(&topic(), second, 2) && !queues.ack(&topic(), 9, 1));
        queues.leave(&topic(), second);
        assert_eq!(queues.by_topic[&topic()].ready.len(), 2, "two have no acknowledgement");
    }

    #[test]
    fn queues_are_bounded() {
        let mut queues: Queues<Kept> = Queues::new(2);
        queues.push(draft("1")).unwrap();
        queues.push(draft("2")).unwrap();
        assert_eq!(queues.push(draft("3")), Err(QueueError::Full));
        let number = queues.join(&topic(), Kept::default(), AckMode::Client, 1000).unwrap();
        assert_eq!(queues.push(draft("3")), Err(QueueError::Full), "they have no acknowledgement yet");
        assert!(queues.ack(&topic(), number, 2));
        queues.push(draft("3")).unwrap();
        let large = "x".repeat(STOMP_QUEUE_BYTES_MAX);
        assert_eq!(queues.push(draft(&large)), Err(QueueError::Full));
        queues.leave(&topic(), number);
        let reader = queues.join(&topic(), Kept::default(), AckMode::Auto, 1).unwrap();
        queues.leave(&topic(), reader);
        assert!(queues.by_topic.is_empty() && queues.bytes == 0, "an empty queue is forgotten");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        Join(AckMode, usize),
        Leave(usize),
        Settle { consumer: usize, delivery: usize, is_ack: bool },
        SetFull(usize, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let mode = prop_oneof![Just(AckMode::Auto), Just(AckMode::Client), Just(AckMode::Individual)];
        let step = prop_oneof![
            4 => Just(Step::Push),
            1 => (mode, 1..5_usize).prop_map(|(mode, prefetch)| Step::Join(mode, prefetch)),
            1 => any::<usize>().prop_map(Step::Leave),
            3 => (any::<usize>(), any::<usize>(), any::<bool>())
                .prop_map(|(consumer, delivery, is_ack)| Step::Settle { consumer, delivery, is_ack }),
            1 => (any::<usize>(), any::<bool>()).prop_map(|(consumer, is_full)| Step::SetFull(consumer, is_full)),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        /// A model beside the queue: each message is ready, with one consumer, or done; nothing is lost or doubled.
        #[test]
        fn each_message_is_in_one_place(steps in steps()) {
            let mut queues = Queues::new(usize::MAX);
            let mut consumers: Vec<(u64, Kept, AckMode, usize)> = Vec::new();
            let (mut pushed, mut done) = (0, Vec::new());
            // By consumer: the deliveries that it has not settled.
            let mut open: HashMap<u64, Vec<(u64, String)>> = HashMap::new();
            for step in steps {
                match step {
                    Step::Push => {
                        queues.push(draft(&pushed.to_string())).unwrap();
                        pushed += 1;
                    }
                    Step::Join(mode, prefetch) => {
                        let sink = Kept::default();
                        let number = queues.join(&topic(), sink.clone(), mode, prefetch).unwrap();
                        consumers.push((number, sink, mode, prefetch));
                    }
                    Step::Leave(index) if !consumers.is_empty() => {
                        let (number, ..) = consumers.remove(index % consumers.len());
                        // What it received in this very step counts as received by it.
                        open.remove(&number);
                        queues.leave(&topic(), number);
                    }
                    Step::Settle { consumer, delivery, is_ack } if !consumers.is_empty() => {
                        let (number, _, mode, _) = &consumers[consumer % consumers.len()];
                        let held = open.entry(*number).or_default();
                        if held.is_empty() {
                            prop_assert!(!queues.ack(&topic(), *number, 1_000_000));
                            continue;
                        }
                        let index = delivery % held.len();
                        let id = held[index].0;
                        let first = if *mode == AckMode::Client { 0 } else { index };
                        let settled: Vec<_> = held.drain(first..=index).collect();
                        if is_ack {
                            done.extend(settled.into_iter().map(|(_, text)| text));
                            prop_assert!(queues.ack(&topic(), *number, id));
                        } else {
                            prop_assert!(queues.nack(&topic(), *number, id));
                        }
                    }
                    Step::SetFull(index, is_full) if !consumers.is_empty() => {
                        let index = index % consumers.len();
                        consumers[index].1.is_full.set(is_full);
                        queues.pump(&topic());
                    }
                    _ => {}
                }
                for (number, sink, mode, prefetch) in &consumers {
                    for (id, text, _) in sink.received.borrow_mut().drain(..) {
                        let (of, delivery) = parse_delivery(&id).unwrap();
                        prop_assert_eq!(of, *number);
                        match mode {
                            AckMode::Auto => done.push(text),
                            _ => open.entry(*number).or_default().push((delivery, text)),
                        }
                    }
                    prop_assert!(open.get(number).is_none_or(|held| held.len() <= *prefetch));
                }
                let queue = queues.by_topic.get(&topic());
                let ready = queue.into_iter().flat_map(|queue| &queue.ready);
                let ready = ready.map(|item| String::from_utf8(item.draft.payload.to_vec()).unwrap());
                let held = open.values().flatten().map(|(_, text)| text.clone());
                let mut all: Vec<usize> =
                    ready.chain(held).chain(done.iter().cloned()).map(|text| text.parse().unwrap()).collect();
                all.sort_unstable();
                prop_assert_eq!(all, (0..pushed).collect::<Vec<_>>());
            }
        }
    }
}
