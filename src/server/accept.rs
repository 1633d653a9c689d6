//! Connections come in.

use super::metrics::CloseCause;
use super::shard::Shard;
use super::slot::Slot;
use crate::buf::ConnId;
use crate::conn::{Connection, Phase};
use crate::limits::ACCEPT_RETRY_MS;
use crate::proto::encode_response;
use crate::ring::{Completion, Direct, Errno, Op, Ring, Token};

impl<R: Ring> Shard<'_, R> {
    pub(super) fn on_accept(&mut self, completion: Completion) {
        if !completion.more {
            self.is_accepting = false;
        }
        match completion.result {
            Ok(socket) => self.open_slot(Direct(socket)),
            Err(Errno::Canceled) => {}
            Err(error) if error == Errno::TableFull || error.is_temporary() => {
                // Connections wait in the kernel's backlog until one of ours ends, or some time has passed.
                self.metrics.accept_stalls.add(1);
                self.accept_retry_ms = Some(self.now_ms + ACCEPT_RETRY_MS);
            }
            Err(Errno::Aborted) => {}
            Err(error) => {
                tracing::warn!(shard = self.mesh.shard(), %error, "accepting failed");
                self.accept_retry_ms = Some(self.now_ms + ACCEPT_RETRY_MS);
            }
        }
        if !self.is_accepting && self.accept_retry_ms.is_none() {
            self.submit_accept();
        }
    }

    /// Stops accepting, for good.
    pub(super) fn stop_accepting(&mut self) {
        self.accept_retry_ms = None;
        if self.is_accepting {
            self.ring.submit_cancel(Self::listener_token());
        }
    }

    fn open_slot(&mut self, socket: Direct) {
        let entry = self.slots.vacant_entry();
        let slot = entry.key() as u32;
        if self.generations.len() == entry.key() {
            self.generations.push(0);
        }
        let id = ConnId { slot, generation: self.generations[entry.key()] };
        entry.insert(Slot::new(id, socket, Connection::new(self.now_ms)));
        self.metrics.accepted.add(1);
        self.metrics.connections.set(self.slots.len() as u64);
        self.submit_recv(slot);
        if self.slots.len() > self.connections_max || self.drain_deadline_ms.is_some() {
            self.shed(slot);
        } else {
            self.set_deadline(slot, self.now_ms.saturating_add(self.config.handshake_timeout_ms));
        }
    }

    /// Tells a connection too many to come again later.
    fn shed(&mut self, slot: u32) {
        let start = self.begin_reply(slot);
        let text = "text/plain; charset=utf-8";
        encode_response(&mut self.replies.bytes, 503, text, b"too many connections\n", &[("Retry-After", "5")]);
        self.slot(slot).conn.phase = Phase::Ended;
        self.end_reply(slot, start);
        self.finish(slot, CloseCause::Refused);
    }

    pub(super) fn submit_recv(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.is_receiving = true;
        self.ring.submit_recv(entry.socket, Token::of_conn(Op::Recv, entry.id));
    }
}
