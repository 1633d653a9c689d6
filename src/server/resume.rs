//! Messages wait: for a handler that has enough to do, or for a peer that has enough to read.
//!
//! ```text
//!            ┌──────── pause ───────► Paused
//!            │                          │ resume
//!          Open ── much to answer ──► Ready ── little waits to be sent ──► Queued
//!            ▲                                                               │
//!            └──────────────── a turn: on_resume, then what was not read ────┘
//! ```
//!
//! Meanwhile a connection is not received from, and what was received of it stays in its slot. A turn resumes a few
//! connections, so that those with much to do share the shard with the others.

use super::receive::Progress;
use super::recv_mode::RecvMode;
use super::shard::Shard;
use super::slot::{ConnExtras, Stage};
use crate::gateway::Input;
use crate::limits::{RECV_PAUSE_BYTES, RESUME_TURN_CONNS};
use crate::ring::Ring;

impl<R: Ring> Shard<'_, R> {
    /// The handler has said what is to become of the connection's messages.
    pub(super) fn set_input(&mut self, slot: u32, input: Input) {
        let entry = self.slot(slot);
        // It is in the queue already.
        if (entry.input(), input) != (Input::Queued, Input::Ready) {
            entry.set_input(input);
        }
        self.settle_input(slot);
    }

    /// The handler has no say any more, and all that comes is read: it may hold the peer's Close frame.
    pub(super) fn open_input(&mut self, slot: u32) {
        let entry = self.slot(slot);
        entry.set_input(if entry.has_unread() { Input::Ready } else { Input::Open });
        self.settle_input(slot);
    }

    /// Nothing that came is read any more.
    pub(super) fn drop_input(&mut self, slot: u32) {
        let entry = self.slot(slot);
        drop(ConnExtras::take_unread(&mut entry.extras));
        entry.set_input(Input::Open);
        self.settle_input(slot);
    }

    /// Holds a peer back that does not read what it is sent, and whose handler would make more.
    pub(super) fn pause_if_flooded(&mut self, slot: u32) {
        let entry = self.slot(slot);
        if entry.conn.outbox.bytes() > RECV_PAUSE_BYTES {
            entry.set_flooded(true);
            self.settle_input(slot);
        }
    }

    pub(super) fn resume_if_drained(&mut self, slot: u32) {
        let entry = self.slot(slot);
        if entry.is_flooded() && entry.conn.outbox.bytes() <= RECV_PAUSE_BYTES / 2 {
            entry.set_flooded(false);
            self.settle_input(slot);
        }
    }

    /// Has the connection received from or not, as it now should be.
    pub(super) fn settle_input(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if matches!(entry.stage, Stage::Terminating | Stage::Closing) {
            return;
        }
        if entry.input() == Input::Ready && !entry.is_flooded() {
            entry.set_input(Input::Queued);
            self.resuming.push_back(entry.id);
        }
        let is_paused = entry.is_flooded() || entry.input() != Input::Open;
        if std::mem::replace(&mut entry.is_paused, is_paused) == is_paused {
            return;
        }
        match (is_paused, entry.recv_mode) {
            // A poll takes no bytes, and whose turn it is is looked at then.
            (true, RecvMode::Poll | RecvMode::Queued | RecvMode::Buffers) => {}
            (true, _) => self.cancel_recv(slot),
            (false, RecvMode::None) => self.arm_recv(slot),
            (false, _) => {}
        }
        self.metrics.inputs_paused.add(u64::from(is_paused));
    }

    /// Goes on with some of those whose messages were waiting.
    pub(super) fn resume_some(&mut self) {
        for _ in 0..self.resuming.len().min(RESUME_TURN_CONNS) {
            let next = self.resuming.pop_front().and_then(|id| self.find(id));
            // It may have ended meanwhile, or be behind again.
            if let Some(slot) = next.filter(|slot| self.slots[*slot as usize].input() == Input::Queued) {
                self.resume(slot);
            }
        }
    }

    fn resume(&mut self, slot: u32) {
        let entry = self.slot(slot);
        if entry.is_flooded() {
            entry.set_input(Input::Ready);
            return;
        }
        entry.set_input(Input::Open);
        let start = self.begin_reply(slot);
        let (progress, _) = match self.slot(slot).stage {
            Stage::Serving => self.converse(slot, |input_context, _| input_context.resume()),
            _ => (Progress::Continue, false),
        };
        self.end_reply(slot, start);
        self.on_progress(slot, progress);
    }
}
