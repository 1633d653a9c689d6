//! How a connection waits for bytes: with a poll while it receives little, which costs 250 bytes of kernel memory, and
//! with a multishot receive while it receives much, which is quicker and costs 900.
//!
//! ```text
//! accepted ──► Now ◄──── bytes ─────┐
//!               │                   │
//!               └── all received ──► Poll             few bytes: each piece takes a poll and a receive
//!               │
//!   RECV_BUSY_PIECES in quick succession
//!               ▼
//!             Stream ── silence ──► Poll
//! ```
//!
//! Only the multishot receive of `Stream` waits in the kernel. It takes a buffer only when bytes are there and never
//! moves to a worker thread.
//!
//! A connection with unread input, or with a recent large piece (*greedy*), joins a queue. At the end of each turn the
//! shard receives one small piece from a few queued connections, after it has served the others. So one fast sender
//! can't starve the other connections.
//!
//! A connection joins another queue when its receive finds no buffer, until buffers are free.

use super::shard::Shard;
use super::slot::{Slot, Stage};
use crate::buf::{ConnId, SlotId};
use crate::limits::{RECV_BUSY_GAP_MS, RECV_BUSY_PIECES, RECV_QUIET_MS, RECV_SCARCE_PAUSE_MS, RECV_TURN_CONNS};
use crate::ring::{Op, Ring, Token};

/// The receive operation that the kernel holds for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecvMode {
    /// No operation.
    None,
    /// No operation: the connection is in `recv_queue`.
    Queued,
    /// No operation: the connection is in `awaiting_buffers`.
    Buffers,
    /// A poll: completes when bytes are readable.
    Poll,
    /// A receive that doesn't wait: completes with one piece, or with none.
    Now,
    /// A queued receive of one piece.
    Late,
    /// A multishot receive.
    Stream,
}

impl RecvMode {
    /// The operation of this mode, if the kernel holds one.
    pub(super) fn op(self) -> Option<Op> {
        match self {
            RecvMode::None | RecvMode::Queued | RecvMode::Buffers => None,
            RecvMode::Poll => Some(Op::Poll),
            RecvMode::Now | RecvMode::Late | RecvMode::Stream => Some(Op::Recv),
        }
    }
}

/// How much a connection has sent recently.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Pieces in quick succession, up to [`RECV_BUSY_PIECES`].
    quick_pieces: u8,
    /// The peer sent a large piece, so the shard limits each receive.
    is_greedy: bool,
}

impl Traffic {
    /// Counts a piece that arrived `gap_ms` after the previous one.
    pub(super) fn on_piece(&mut self, gap_ms: u64) {
        let quick_pieces = (self.quick_pieces + 1).min(RECV_BUSY_PIECES);
        self.quick_pieces = if gap_ms <= RECV_BUSY_GAP_MS { quick_pieces } else { 0 };
        self.is_greedy &= gap_ms < RECV_QUIET_MS;
    }

    /// The mode that receives readable bytes.
    fn mode_for_bytes(self) -> RecvMode {
        match (self.is_greedy, self.is_busy()) {
            (true, _) => RecvMode::Queued,
            (false, true) => RecvMode::Stream,
            (false, false) => RecvMode::Now,
        }
    }

    /// Whether a multishot receive pays off.
    fn is_busy(self) -> bool {
        self.quick_pieces == RECV_BUSY_PIECES && !self.is_greedy
    }
}

impl Slot {
    /// Whether the peer sent a large piece recently.
    pub(super) fn is_greedy(&self) -> bool {
        self.traffic.is_greedy
    }

    /// The mode that waits for the next bytes.
    fn next_recv_mode(&self) -> RecvMode {
        match (self.stage, self.conn.phase()) {
            (Stage::Serving, phase) if phase.takes_messages() && self.traffic.is_busy() => RecvMode::Stream,
            // The peer has ended its half of the stream.
            (Stage::Flushing | Stage::Lingering, _) if self.is_close_received => RecvMode::None,
            _ => RecvMode::Poll,
        }
    }
}

impl<R: Ring> Shard<'_, R> {
    /// Submits the next receive operation of a connection that has none.
    pub(super) fn arm_recv(&mut self, slot: SlotId) {
        let recv_mode = self.slots[slot].next_recv_mode();
        self.set_recv_mode(slot, recv_mode);
    }

    /// Queues a connection after a receive that left bytes in the socket.
    pub(super) fn arm_rest(&mut self, slot: SlotId) {
        let recv_mode = match self.slots[slot].next_recv_mode() {
            RecvMode::None => RecvMode::None,
            _ => RecvMode::Queued,
        };
        self.set_recv_mode(slot, recv_mode);
    }

    /// Submits the first receive of an accepted connection. Its request has most likely arrived, since the kernel
    /// defers the accept until the first bytes.
    pub(super) fn arm_accepted(&mut self, slot: SlotId) {
        self.set_recv_mode(slot, RecvMode::Now);
    }

    /// Queues a connection after a receive that found no buffer.
    pub(super) fn await_buffers(&mut self, slot: SlotId) {
        self.metrics.recv_buffers_scarce.add(1);
        self.set_recv_mode(slot, RecvMode::Buffers);
    }

    fn set_recv_mode(&mut self, slot: SlotId, recv_mode: RecvMode) {
        let entry = &mut self.slots[slot];
        entry.recv_mode = recv_mode;
        let (socket, id) = (entry.socket, entry.id);
        match recv_mode {
            RecvMode::None => {}
            RecvMode::Queued => {
                self.queues.receive.push_back(id);
                self.metrics.recv_turns_awaited.add(1);
            }
            RecvMode::Buffers => self.queues.buffers.push(id),
            RecvMode::Poll => self.ring.submit_poll(socket, Token::of_conn(Op::Poll, id)),
            RecvMode::Now => self.ring.submit_recv_now(socket, Token::of_conn(Op::Recv, id)),
            RecvMode::Late => unreachable!("only `recv_queued` submits a late receive"),
            RecvMode::Stream => self.ring.submit_recv(socket, Token::of_conn(Op::Recv, id)),
        }
    }

    /// At the end of a turn: submits receives for the next connections in the queue.
    pub(super) fn submit_queued_recvs(&mut self) {
        let count = self.queues.receive.len().min(RECV_TURN_CONNS);
        for _ in 0..count {
            let next = self.queues.receive.pop_front().and_then(|id| self.find(id));
            // The connection may have ended since it was queued.
            if let Some(slot) = next.filter(|slot| self.slots[*slot].recv_mode == RecvMode::Queued) {
                self.recv_queued(slot, self.config.recv_turn_bytes / count as u32);
            }
        }
    }

    fn recv_queued(&mut self, slot: SlotId, bytes_max: u32) {
        let entry = &mut self.slots[slot];
        if entry.is_paused {
            entry.recv_mode = RecvMode::None;
        } else {
            entry.recv_mode = RecvMode::Late;
            self.ring.submit_recv_late(entry.socket, bytes_max, Token::of_conn(Op::Recv, entry.id));
        }
    }

    /// At the end of a turn: rearms the connections that found no buffer, if buffers are free by now. Most
    /// are, since the turn has consumed the pieces that filled them. Otherwise the shard retries after a pause, so that
    /// it does not submit receives that must fail.
    pub(super) fn submit_scarce(&mut self) {
        let mut index = 0;
        while let Some(id) = self.queues.buffers.get(index).copied() {
            let waiting = self.find(id).filter(|slot| self.slots[*slot].recv_mode == RecvMode::Buffers);
            match waiting {
                Some(slot) if !self.ring.has_recv_buffers(self.slots[slot].socket) => {
                    index += 1;
                    continue;
                }
                Some(slot) if self.slots[slot].is_paused => self.slots[slot].recv_mode = RecvMode::None,
                Some(slot) => self.arm_rest(slot),
                None => {}
            }
            self.queues.buffers.swap_remove(index);
        }
    }

    /// When the shard looks for free buffers again, if a connection needs one.
    pub(super) fn next_scarce_ms(&self) -> Option<u64> {
        (!self.queues.buffers.is_empty()).then_some(self.now_ms + RECV_SCARCE_PAUSE_MS)
    }

    /// Ends the multishot receive of a connection after a large piece.
    pub(super) fn throttle_if_greedy(&mut self, slot: SlotId, len: u32) {
        let entry = &mut self.slots[slot];
        if len < self.config.recv_turn_bytes || std::mem::replace(&mut entry.traffic.is_greedy, true) {
            return;
        }
        if entry.recv_mode == RecvMode::Stream {
            self.cancel_recv(slot);
        }
    }

    /// Cancels the receive operation. The kernel still completes it.
    pub(super) fn cancel_recv(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        match entry.recv_mode.op() {
            Some(op) => self.ring.submit_cancel(entry.socket, Token::of_conn(op, entry.id)),
            None => entry.recv_mode = RecvMode::None,
        }
    }

    /// The socket is readable, or its poll was cancelled.
    pub(super) fn on_poll(&mut self, id: ConnId) {
        let slot = self.find(id).expect("a slot is kept while the kernel polls its socket");
        let entry = &mut self.slots[slot];
        entry.recv_mode = RecvMode::None;
        match entry.stage {
            Stage::Terminating => self.close_when_idle(slot),
            _ if entry.is_paused => {}
            _ => {
                let recv_mode = entry.traffic.mode_for_bytes();
                self.set_recv_mode(slot, recv_mode);
            }
        }
    }

    /// Returns a silent connection from the multishot receive to the poll.
    pub(super) fn poll_if_quiet(&mut self, slot: SlotId) {
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot];
        let is_quiet = entry.conn.keep_alive.silence_ms(now_ms) >= RECV_QUIET_MS;
        if is_quiet && entry.recv_mode == RecvMode::Stream {
            entry.traffic = Traffic::default();
            self.cancel_recv(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pieces_in_quick_succession_make_a_connection_busy() {
        let mut traffic = Traffic::default();
        for _ in 0..2 * RECV_BUSY_PIECES {
            traffic.on_piece(RECV_BUSY_GAP_MS + 1);
            assert!(!traffic.is_busy());
        }
        for _ in 1..RECV_BUSY_PIECES {
            traffic.on_piece(RECV_BUSY_GAP_MS);
            assert!(!traffic.is_busy());
        }
        for _ in 0..300 {
            traffic.on_piece(0);
            assert!(traffic.is_busy());
        }
        traffic.on_piece(RECV_BUSY_GAP_MS + 1);
        assert!(!traffic.is_busy());
    }

    #[test]
    fn a_greedy_connection_is_busy_only_after_a_quiet_time() {
        let mut traffic = Traffic { quick_pieces: 0, is_greedy: true };
        for gap_ms in [0, 1, RECV_BUSY_GAP_MS + 1, RECV_QUIET_MS - 1] {
            (0..2 * RECV_BUSY_PIECES).for_each(|_| traffic.on_piece(gap_ms));
            assert!(!traffic.is_busy(), "{gap_ms}");
        }
        traffic.on_piece(RECV_QUIET_MS);
        (0..RECV_BUSY_PIECES).for_each(|_| traffic.on_piece(0));
        assert!(traffic.is_busy());
    }
}
