//! `/queue` with competing consumers: what connections and the queues of the server share.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use super::frame::{AckMode, Version};
use super::message;
use super::queue::{Item, QueueError, Queues, Sink};
use crate::gateway::Handle;
use crate::proto::{Message, MessageKind};
use crate::topics::{Draft, TopicName};

/// The queues of a server. Clones share them.
#[derive(Clone)]
pub struct Broker(Arc<Mutex<Queues<Receiver>>>);

/// A subscription to a queue.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) handle: Handle,
    pub(super) version: Version,
    pub(super) id: Box<str>,
    pub(super) destination: Box<str>,
    pub(super) has_acks: bool,
}

impl Broker {
    /// No queues. Each has at most `depth_max` messages.
    pub fn new(depth_max: usize) -> Broker {
        Broker(Arc::new(Mutex::new(Queues::new(depth_max))))
    }

    pub(super) fn push(&self, draft: Draft) -> Result<(), QueueError> {
        self.lock().push(draft)
    }

    pub(super) fn join(
        &self,
        topic: &TopicName,
        receiver: Receiver,
        mode: AckMode,
        prefetch: usize,
    ) -> Result<u64, QueueError> {
        self.lock().join(topic, receiver, mode, prefetch)
    }

    pub(super) fn leave(&self, topic: &TopicName, consumer: u64) {
        self.lock().leave(topic, consumer);
    }

    pub(super) fn settle(&self, topic: &TopicName, (consumer, delivery): (u64, u64), is_ack: bool) -> bool {
        match is_ack {
            true => self.lock().ack(topic, consumer, delivery),
            false => self.lock().nack(topic, consumer, delivery),
        }
    }

    pub(super) fn pump(&self, topic: &TopicName) {
        self.lock().pump(topic);
    }

    fn lock(&self) -> MutexGuard<'_, Queues<Receiver>> {
        self.0.lock().expect("nobody panics with the lock")
    }
}

/// Whether a topic is a queue: not a user's.
pub(super) fn is_queue(topic: &TopicName) -> bool {
    topic.as_str().starts_with("queue/") && !topic.as_str().contains('#')
}

impl Sink for Receiver {
    fn offer(&self, id: &str, item: &Item) -> bool {
        let frame = message::encode_delivery(self, id, item);
        let kind = if item.draft.is_text { MessageKind::Text } else { MessageKind::Binary };
        self.handle.send(Message { kind, payload: &frame }).is_ok()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Broker")
    }
}
