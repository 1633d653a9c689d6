//! Reads the states of keyed topics for subscribers: a connection requests its next page when it has no backlog.
//!
//! So a subscriber reads at its own pace, holds one page at most, of whatever topic, and costs its topic's home nothing
//! in between. Pages are catch-ups: a shard encodes so many bytes of them in a turn.

use std::collections::VecDeque;

use super::mesh::ToConn;
use super::shard::Shard;
use crate::buf::SlotId;
use crate::gateway::Subscribe;
use crate::limits::STATE_ENTRY_BYTES;
use crate::ring::Ring;
use crate::topics::{CatchUp, StatePage, TopicName};

/// The reads of a connection.
#[derive(Debug, Default)]
pub(super) struct StateReads {
    /// Requests that wait, the next one first.
    waiting: VecDeque<(Subscribe, ToConn)>,
    /// The topic's home has the one before.
    is_reading: bool,
}

impl<R: Ring> Shard<'_, R> {
    /// Whether a request for this reads a state.
    pub(super) fn reads_state(&self, topic: &TopicName, catch_up: CatchUp) -> bool {
        matches!(catch_up, CatchUp::State(_) | CatchUp::Since { .. }) && self.config.namespaces.is_keyed(topic)
    }

    /// Takes a request, which leaves when the connection has no backlog.
    pub(super) fn queue_state_read(&mut self, slot: SlotId, subscribe: Subscribe, to: ToConn) {
        self.slots[slot].extras.get_or_insert_default().state_reads.waiting.push_back((subscribe, to));
        self.mark_dirty(slot);
    }

    /// Requests the next page of a connection, if it has no backlog. Call it after the turn's sends.
    pub(super) fn submit_state_read(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        // A backlog that the handler holds back may wait for this page.
        let is_behind = entry.is_behind() && !entry.is_delivery_paused;
        let Some(reads) = entry.extras.as_mut().map(|extras| &mut extras.state_reads) else { return };
        if is_behind || reads.is_reading {
            return;
        }
        if let Some((subscribe, to)) = reads.waiting.pop_front() {
            reads.is_reading = true;
            self.queue_catch_up(subscribe, to);
        }
    }

    /// A request of this connection has its answer. If it has read a state, the next one may leave.
    pub(super) fn end_state_read(&mut self, to: ToConn, topic: &TopicName, catch_up: CatchUp) {
        let Some(slot) = self.find(to.id).filter(|_| self.reads_state(topic, catch_up)) else { return };
        if let Some(extras) = &mut self.slots[slot].extras {
            extras.state_reads.is_reading = false;
            self.mark_dirty(slot);
        }
    }

    /// The connection receives a page, which the bounds of its backlog do not count. Returns its bytes, about.
    pub(super) fn expect_page(&mut self, slot: SlotId, page: &StatePage) -> usize {
        let bytes = page.bytes + page.bodies.len() * STATE_ENTRY_BYTES;
        self.metrics.state_pages.add(1);
        self.slots[slot].conn.outbox.expect_catch_up(bytes);
        self.mark_dirty(slot);
        bytes
    }

    /// Whether a connection waits for a page that nothing will request.
    #[cfg(feature = "sim")]
    pub(super) fn forgets_state_read(&self, slot: SlotId) -> bool {
        let entry = &self.slots[slot];
        let waits = entry.extras.as_ref().is_some_and(|extras| {
            let reads = &extras.state_reads;
            !reads.is_reading && !reads.waiting.is_empty()
        });
        waits && entry.cause.is_none() && !entry.is_behind() && !entry.is_dirty
    }
}
