//! A stand-in for the shards, for tests. What becomes of a publication is in its topic's name.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::State;
use super::publish::{Outcome, Publish};
use crate::proto::MessageKind;
use crate::server::{PublishError, Status};
use crate::topics::{Draft, Epoch, Position};

/// Publishes to nobody and keeps a record. Clones keep the same one.
///
/// The topic `busy` finds its queue full, the shard of `full` has too many topics, that of `gone` has stopped.
#[derive(Clone, Default)]
pub(super) struct Shards {
    /// What was published, in order.
    pub(super) published: Rc<RefCell<Vec<(String, MessageKind, Bytes)>>>,
    /// How often a drain finds a queue full before it succeeds.
    pub(super) drain_refusals: Rc<Cell<u32>>,
    /// Whether it has succeeded.
    pub(super) drained: Rc<Cell<bool>>,
}

impl Shards {
    /// The state of a control plane for these shards.
    pub(super) fn state(&self) -> State {
        State::new(Box::new(self.clone()), Status::new(1))
    }
}

impl Publish for Shards {
    fn publish(&mut self, draft: Draft) -> Result<Outcome, PublishError> {
        let Draft { topic, is_text, payload, .. } = draft;
        let kind = if is_text { MessageKind::Text } else { MessageKind::Binary };
        let (reply, outcome) = oneshot::channel();
        let verdict = match topic.as_str() {
            "busy" => return Err(PublishError::Busy),
            "gone" => return Ok(outcome),
            "full" => Err(PublishError::TooManyTopics),
            _ => {
                let mut published = self.published.borrow_mut();
                published.push((topic.to_string(), kind, payload));
                Ok(Position { epoch: Epoch::new(33), offset: published.len() as u64 })
            }
        };
        reply.send(verdict).expect("the outcome is still held");
        Ok(outcome)
    }

    fn drain(&mut self) -> Result<(), PublishError> {
        match self.drain_refusals.get() {
            0 => self.drained.set(true),
            left => {
                self.drain_refusals.set(left - 1);
                return Err(PublishError::Busy);
            }
        }
        Ok(())
    }
}
