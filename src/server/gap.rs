//! Subscribers that may have missed publications: the server closes their connections, at an even pace. Each states its
//! position when it reconnects, and receives what it missed or learns of the loss, whatever its protocol.

use std::collections::HashSet;

use super::drain::Drain;
use super::shard::Shard;
use super::slot::Slot;
use crate::limits::GAP_SPREAD_MS;
use crate::ring::Ring;
use crate::topics::{TopicId, TopicName};

impl<R: Ring> Shard<'_, R> {
    /// The subscribers of `topics` may have missed publications.
    pub(super) fn on_gap(&mut self, topics: &[TopicName]) {
        let topics: HashSet<TopicId> = topics.iter().filter_map(|topic| self.topics.find(topic)).collect();
        let mut concerned = self.gap.take().map(Drain::into_left).unwrap_or_default();
        let is_concerned =
            |slot: &Slot| slot.subscriptions.iter().any(|subscription| topics.contains(&subscription.topic));
        concerned.extend(self.slots.iter().filter(|slot| is_concerned(slot)).map(|slot| slot.id));
        self.gap = Some(Drain::new(concerned, &mut self.random, self.now_ms, GAP_SPREAD_MS, 0));
        self.close_gap();
    }

    /// Closes the connections that are due.
    pub(super) fn close_gap(&mut self) {
        let now_ms = self.now_ms;
        if let Some(gap) = &mut self.gap {
            gap.begin(now_ms, false);
        }
        while let Some(id) = self.gap.as_mut().and_then(|gap| gap.next(now_ms)) {
            if let Some(slot) = self.find(id) {
                self.metrics.gaps.add(1);
                self.refuse_early(slot, "messages may be missing: reconnect and state your position");
            }
        }
        if self.gap.as_ref().is_some_and(|gap| gap.is_over(now_ms)) {
            self.gap = None;
        }
    }

    /// When the next ones are due, if any.
    pub(super) fn next_gap_ms(&self) -> Option<u64> {
        self.gap.as_ref().map(|gap| gap.next_ms(self.now_ms))
    }
}
