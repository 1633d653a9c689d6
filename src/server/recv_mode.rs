//! How a connection waits for bytes: on a poll while few come, which costs the kernel 250 bytes, and on a receive that
//! brings one piece after the other while many do, which is quicker and costs 900.
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
//! No receive waits in the kernel with a buffer but the multishot one of `Stream`, which takes a buffer only when bytes
//! are there and never moves to a worker thread.
//!
//! A connection with unread input, or one that has sent much at once (*eager*), joins a queue: at the end of each turn
//! of the shard a few of the queued connections are received from once, little of each, and after whatever others have
//! sent by then. So a peer that sends as fast as it can is served as fast as the shard can, and the others in between.
//!
//! A connection whose receive found no buffer waits until buffers are back.

use super::shard::Shard;
use super::slot::{Slot, Stage};
use crate::buf::ConnId;
use crate::conn::Phase;
use crate::limits::{RECV_BUSY_GAP_MS, RECV_BUSY_PIECES, RECV_QUIET_MS, RECV_SCARCE_PAUSE_MS, RECV_TURN_CONNS};
use crate::ring::{Op, Ring, Token};

/// What the kernel does about bytes that come for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecvMode {
    /// Nothing.
    None,
    /// Nothing, until it is its turn: it is among those who await one.
    Queued,
    /// Nothing, until there are receive buffers again: it is among those who await some.
    Buffers,
    /// Completes when there are some.
    Poll,
    /// Brings a piece of what is there, or nothing.
    Now,
    /// Waits for one piece.
    Late,
    /// Brings one piece after the other.
    Stream,
}

impl RecvMode {
    /// The operation that the kernel holds.
    pub(super) fn op(self) -> Option<Op> {
        match self {
            RecvMode::None | RecvMode::Queued | RecvMode::Buffers => None,
            RecvMode::Poll => Some(Op::Poll),
            RecvMode::Now | RecvMode::Late | RecvMode::Stream => Some(Op::Recv),
        }
    }
}

/// How much has been coming on a connection of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Pieces that came in quick succession, as far as that matters.
    quick_pieces: u8,
    /// So much has come at once that the kernel is not to bring all of it at once again.
    is_greedy: bool,
}

impl Traffic {
    /// A piece came, this long after the one before.
    pub(super) fn on_piece(&mut self, gap_ms: u64) {
        let quick_pieces = (self.quick_pieces + 1).min(RECV_BUSY_PIECES);
        self.quick_pieces = if gap_ms <= RECV_BUSY_GAP_MS { quick_pieces } else { 0 };
        self.is_greedy &= gap_ms < RECV_QUIET_MS;
    }

    /// How to receive what has come.
    fn mode_for_bytes(self) -> RecvMode {
        match (self.is_greedy, self.is_busy()) {
            (true, _) => RecvMode::Queued,
            (false, true) => RecvMode::Stream,
            (false, false) => RecvMode::Now,
        }
    }

    /// Whether it is worth while to have the kernel bring each piece.
    fn is_busy(self) -> bool {
        self.quick_pieces == RECV_BUSY_PIECES && !self.is_greedy
    }
}

impl Slot {
    /// Whether it has sent much at once of late.
    pub(super) fn is_greedy(&self) -> bool {
        self.traffic.is_greedy
    }

    /// How to wait for the next bytes.
    fn next_recv_mode(&self) -> RecvMode {
        match (self.stage, &self.conn.phase) {
            (Stage::Serving, Phase::Open) if self.traffic.is_busy() => RecvMode::Stream,
            // The peer has ended its half: nothing more will come.
            (Stage::Flushing | Stage::Lingering, _) if self.is_close_received => RecvMode::None,
            _ => RecvMode::Poll,
        }
    }
}

impl<R: Ring> Shard<'_, R> {
    /// Has the kernel pay attention to a connection that it pays none to.
    pub(super) fn arm_recv(&mut self, slot: u32) {
        let recv_mode = self.slot(slot).next_recv_mode();
        self.set_recv_mode(slot, recv_mode);
    }

    /// Has the kernel go on where it has not brought all that there was.
    pub(super) fn arm_rest(&mut self, slot: u32) {
        let recv_mode = match self.slot(slot).next_recv_mode() {
            RecvMode::None => RecvMode::None,
            _ => RecvMode::Queued,
        };
        self.set_recv_mode(slot, recv_mode);
    }

    /// Has the kernel pay attention to a connection that was just accepted, and has most likely sent something: the
    /// kernel keeps it to itself until then.
    pub(super) fn arm_accepted(&mut self, slot: u32) {
        self.set_recv_mode(slot, RecvMode::Now);
    }

    /// A receive of this connection found no buffer.
    pub(super) fn await_buffers(&mut self, slot: u32) {
        self.metrics.recv_buffers_scarce.add(1);
        self.set_recv_mode(slot, RecvMode::Buffers);
    }

    fn set_recv_mode(&mut self, slot: u32, recv_mode: RecvMode) {
        let entry = &mut self.slots[slot as usize];
        entry.recv_mode = recv_mode;
        let (socket, id) = (entry.socket, entry.id);
        match recv_mode {
            RecvMode::None => {}
            RecvMode::Queued => {
                self.recv_queue.push_back(id);
                self.metrics.recv_turns_awaited.add(1);
            }
            RecvMode::Buffers => self.awaiting_buffers.push(id),
            RecvMode::Poll => self.ring.submit_poll(socket, Token::of_conn(Op::Poll, id)),
            RecvMode::Now => self.ring.submit_recv_now(socket, Token::of_conn(Op::Recv, id)),
            RecvMode::Late => unreachable!("only a connection's turn makes it wait so"),
            RecvMode::Stream => self.ring.submit_recv(socket, Token::of_conn(Op::Recv, id)),
        }
    }

    /// At the end of a turn: receives from those who wait for one and are next.
    pub(super) fn submit_queued_recvs(&mut self) {
        let count = self.recv_queue.len().min(RECV_TURN_CONNS);
        for _ in 0..count {
            let next = self.recv_queue.pop_front().and_then(|id| self.find(id));
            // It may have ended meanwhile.
            if let Some(slot) = next.filter(|slot| self.slots[*slot as usize].recv_mode == RecvMode::Queued) {
                self.recv_queued(slot, self.config.recv_turn_bytes / count as u32);
            }
        }
    }

    fn recv_queued(&mut self, slot: u32, bytes_max: u32) {
        let entry = &mut self.slots[slot as usize];
        if entry.is_paused {
            entry.recv_mode = RecvMode::None;
        } else {
            entry.recv_mode = RecvMode::Late;
            self.ring.submit_recv_late(entry.socket, bytes_max, Token::of_conn(Op::Recv, entry.id));
        }
    }

    /// At the end of a turn: attends again to the connections whose receives found no buffer, where buffers are back.
    /// Most are by now, since the turn has used what filled them. Otherwise after a pause, so that the shard does not
    /// ask the kernel for nothing.
    pub(super) fn submit_scarce(&mut self) {
        let mut index = 0;
        while let Some(id) = self.awaiting_buffers.get(index).copied() {
            let waiting = self.find(id).filter(|slot| self.slots[*slot as usize].recv_mode == RecvMode::Buffers);
            match waiting {
                Some(slot) if !self.ring.has_recv_buffers(self.slots[slot as usize].socket) => {
                    index += 1;
                    continue;
                }
                Some(slot) if self.slots[slot as usize].is_paused => self.slot(slot).recv_mode = RecvMode::None,
                Some(slot) => self.arm_rest(slot),
                None => {}
            }
            self.awaiting_buffers.swap_remove(index);
        }
    }

    /// When buffers are looked for again, where connections wait for some.
    pub(super) fn next_scarce_ms(&self) -> Option<u64> {
        (!self.awaiting_buffers.is_empty()).then_some(self.now_ms + RECV_SCARCE_PAUSE_MS)
    }

    /// So many bytes came in one piece: where that is much, the kernel is not to go on bringing all there is.
    pub(super) fn throttle_if_greedy(&mut self, slot: u32, len: u32) {
        let entry = &mut self.slots[slot as usize];
        if len < self.config.recv_turn_bytes || std::mem::replace(&mut entry.traffic.is_greedy, true) {
            return;
        }
        if entry.recv_mode == RecvMode::Stream {
            self.cancel_recv(slot);
        }
    }

    /// Ends what the kernel does about bytes; it completes then.
    pub(super) fn cancel_recv(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        match entry.recv_mode.op() {
            Some(op) => self.ring.submit_cancel(entry.socket, Token::of_conn(op, entry.id)),
            None => entry.recv_mode = RecvMode::None,
        }
    }

    /// There may be something to receive.
    pub(super) fn on_poll(&mut self, id: ConnId) {
        let slot = self.find(id).expect("a slot is kept while the kernel polls its socket");
        let entry = self.slot(slot);
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

    /// Has a connection that has fallen silent wait on a poll again.
    pub(super) fn poll_if_quiet(&mut self, slot: u32) {
        let now_ms = self.now_ms;
        let entry = self.slot(slot);
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
    fn only_pieces_in_quick_succession_make_it_busy() {
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
    fn who_was_eager_is_not_busy_before_it_was_quiet() {
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
