//! Pauses and resumes a connection's input: while its handler does not take messages, or while its peer does not read.
//!
//! ```text
//!            ┌──────── pause ───────► Paused
//!            │                          │ resume
//!          Open ─── many replies ───► Ready ────── small backlog ────────► Queued
//!            ▲                                                               │
//!            └──────────── a turn: on_resume, then the unread bytes ─────────┘
//! ```
//!
//! The shard does not receive from a paused connection, and its slot keeps the unread bytes. Each turn resumes a few
//! connections, so that busy ones share the shard with the others.

use super::receive::Progress;
use super::recv_mode::RecvMode;
use super::shard::Shard;
use super::slot::{ConnExtras, Stage};
use crate::buf::SlotId;
use crate::gateway::Input;
use crate::limits::{RECV_PAUSE_BYTES, RESUME_TURN_CONNS};
use crate::ring::Ring;

impl<R: Ring> Shard<'_, R> {
    /// Applies the handler's choice for the connection's messages.
    pub(super) fn set_input(&mut self, slot: SlotId, input: Input) {
        let entry = &mut self.slots[slot];
        // It is in the queue already.
        if (entry.input(), input) != (Input::Queued, Input::Ready) {
            entry.set_input(input);
        }
        self.settle_input(slot);
    }

    /// Reads all further input without the handler: the peer's Close frame may be in it.
    pub(super) fn open_input(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        entry.set_input(if entry.has_unread() { Input::Ready } else { Input::Open });
        self.settle_input(slot);
    }

    /// Drops unread input.
    pub(super) fn drop_input(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        drop(ConnExtras::take_unread(&mut entry.extras));
        entry.set_input(Input::Open);
        self.settle_input(slot);
    }

    /// Stops receiving from a peer with a backlog above the limit: its requests would add to it.
    pub(super) fn pause_if_flooded(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        if entry.conn.outbox.bytes() > RECV_PAUSE_BYTES {
            entry.set_flooded(true);
            self.settle_input(slot);
        }
    }

    pub(super) fn resume_if_drained(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        if entry.is_flooded() && entry.conn.outbox.bytes() <= RECV_PAUSE_BYTES / 2 {
            entry.set_flooded(false);
            self.settle_input(slot);
        }
    }

    /// Starts or stops receiving from the connection, as its state requires.
    pub(super) fn settle_input(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        if matches!(entry.stage, Stage::Terminating | Stage::Closing) {
            // The connection ended while the shard read its messages.
            drop(ConnExtras::take_unread(&mut entry.extras));
            entry.set_input(Input::Open);
            return;
        }
        if entry.input() == Input::Ready && !entry.is_flooded() {
            entry.set_input(Input::Queued);
            self.queues.resume.push_back(entry.id);
        }
        let is_paused = entry.is_flooded() || entry.input() != Input::Open;
        if std::mem::replace(&mut entry.is_paused, is_paused) == is_paused {
            return;
        }
        match (is_paused, entry.recv_mode) {
            // A poll takes no bytes; the other two check `is_paused` before they receive.
            (true, RecvMode::Poll | RecvMode::Queued | RecvMode::Buffers) => {}
            (true, _) => self.cancel_recv(slot),
            (false, RecvMode::None) => self.arm_recv(slot),
            (false, _) => {}
        }
        self.metrics.inputs_paused.add(u64::from(is_paused));
    }

    /// Resumes the next paused connections.
    pub(super) fn resume_some(&mut self) {
        for _ in 0..self.queues.resume.len().min(RESUME_TURN_CONNS) {
            let next = self.queues.resume.pop_front().and_then(|id| self.find(id));
            // The connection may have ended or been paused again.
            if let Some(slot) = next.filter(|slot| self.slots[*slot].input() == Input::Queued) {
                self.resume(slot);
            }
        }
    }

    fn resume(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        if entry.is_flooded() {
            entry.set_input(Input::Ready);
            return;
        }
        entry.set_input(Input::Open);
        let start = self.begin_reply(slot);
        let (progress, _) = match self.slots[slot].stage {
            Stage::Serving => self.converse(slot, |input_context, _| input_context.resume()),
            _ => (Progress::Continue, false),
        };
        self.end_reply(slot, start);
        self.on_progress(slot, progress);
    }
}
