//! How a connection waits for bytes: on a poll while few come, which costs the kernel 250 bytes, and on a receive that
//! brings one piece after the other while many do, which is quicker and costs 900.
//!
//! ```text
//!                  ┌──────── bytes ────────┐
//!                  ▼                       │
//! handshake ──► Once ──► Poll ──► Once ──► Poll …         few bytes: each piece takes a poll and a receive
//!                                   │
//!                   RECV_BUSY_PIECES in quick succession
//!                                   ▼
//!                                 Stream ── silence ──► Poll
//! ```
//!
//! Whose receive has not brought all that there was waits for its turn, as does the *eager*, who has sent much at once,
//! with whatever it sends: at the end of each turn of the shard a few of those who wait are received from once, little
//! of each, and after whatever others have sent by then. So whoever sends as fast as it can is heard as fast as the
//! shard can, and those who don't are heard in between.

use super::shard::Shard;
use super::slot::{Slot, Stage};
use crate::buf::ConnId;
use crate::conn::Phase;
use crate::limits::{RECV_BUSY_GAP_MS, RECV_BUSY_PIECES, RECV_QUIET_MS, RECV_TURN_CONNS};
use crate::ring::{Op, Ring, Token};

/// What the kernel does about bytes that come for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attention {
    /// Nothing.
    None,
    /// Nothing, until it is its turn: it is among those who await one.
    Turn,
    /// Tells when there are some.
    Poll,
    /// Brings one piece.
    Once,
    /// Brings one piece after the other.
    Stream,
}

impl Attention {
    /// The operation that the kernel holds.
    pub(super) fn op(self) -> Option<Op> {
        match self {
            Attention::None | Attention::Turn => None,
            Attention::Poll => Some(Op::Poll),
            Attention::Once | Attention::Stream => Some(Op::Recv),
        }
    }
}

/// How much has been coming on a connection of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Pieces that came in quick succession, as far as that matters.
    quick_pieces: u8,
    /// So much has come at once that the kernel is not to bring all of it at once again.
    is_eager: bool,
}

impl Traffic {
    /// A piece came, this long after the one before.
    pub(super) fn on_piece(&mut self, gap_ms: u64) {
        let quick_pieces = (self.quick_pieces + 1).min(RECV_BUSY_PIECES);
        self.quick_pieces = if gap_ms <= RECV_BUSY_GAP_MS { quick_pieces } else { 0 };
        self.is_eager &= gap_ms < RECV_QUIET_MS;
    }

    /// How to receive what has come.
    fn attention_to_bytes(self) -> Attention {
        match (self.is_eager, self.is_busy()) {
            (true, _) => Attention::Turn,
            (false, true) => Attention::Stream,
            (false, false) => Attention::Once,
        }
    }

    /// Whether it is worth while to have the kernel bring each piece.
    fn is_busy(self) -> bool {
        self.quick_pieces == RECV_BUSY_PIECES && !self.is_eager
    }
}

impl Slot {
    /// Whether it has sent much at once of late.
    pub(super) fn is_eager(&self) -> bool {
        self.traffic.is_eager
    }

    /// How to wait for the next bytes.
    fn next_attention(&self) -> Attention {
        match (self.stage, &self.conn.phase) {
            (Stage::Serving, Phase::Open) if self.traffic.is_busy() => Attention::Stream,
            (Stage::Serving, Phase::Open | Phase::Streaming) => Attention::Poll,
            // The peer has said that nothing more will come.
            _ if self.is_settled => Attention::None,
            // Something is to come soon: the rest of a handshake, or the end.
            _ => Attention::Once,
        }
    }
}

impl<R: Ring> Shard<'_, R> {
    /// Has the kernel pay attention to a connection that it pays none to.
    pub(super) fn attend(&mut self, slot: u32) {
        let attention = self.slot(slot).next_attention();
        self.start_attention(slot, attention);
    }

    /// Has the kernel go on where it has not brought all that there was.
    pub(super) fn attend_rest(&mut self, slot: u32) {
        let attention = match self.slot(slot).next_attention() {
            Attention::None => Attention::None,
            Attention::Turn | Attention::Poll | Attention::Once | Attention::Stream => Attention::Turn,
        };
        self.start_attention(slot, attention);
    }

    fn start_attention(&mut self, slot: u32, attention: Attention) {
        let entry = &mut self.slots[slot as usize];
        entry.attention = attention;
        let (socket, id) = (entry.socket, entry.id);
        match attention {
            Attention::None => {}
            Attention::Turn => {
                self.awaiting_turn.push_back(id);
                self.metrics.recv_turns_awaited.add(1);
            }
            Attention::Poll => self.ring.submit_poll(socket, Token::of_conn(Op::Poll, id)),
            Attention::Once => self.ring.submit_recv_once(socket, Token::of_conn(Op::Recv, id)),
            Attention::Stream => self.ring.submit_recv(socket, Token::of_conn(Op::Recv, id)),
        }
    }

    /// At the end of a turn: receives from those who wait for one and are next.
    pub(super) fn submit_turns(&mut self) {
        let count = self.awaiting_turn.len().min(RECV_TURN_CONNS);
        for _ in 0..count {
            let next = self.awaiting_turn.pop_front().and_then(|id| self.find(id));
            // It may have ended meanwhile.
            if let Some(slot) = next.filter(|slot| self.slots[*slot as usize].attention == Attention::Turn) {
                self.take_turn(slot, self.config.recv_turn_bytes / count as u32);
            }
        }
    }

    fn take_turn(&mut self, slot: u32, bytes_max: u32) {
        let entry = &mut self.slots[slot as usize];
        if entry.is_paused {
            entry.attention = Attention::None;
        } else {
            entry.attention = Attention::Once;
            self.ring.submit_recv_late(entry.socket, bytes_max, Token::of_conn(Op::Recv, entry.id));
        }
    }

    /// So many bytes came in one piece: where that is much, the kernel is not to go on bringing all there is.
    pub(super) fn calm_if_eager(&mut self, slot: u32, len: u32) {
        let entry = &mut self.slots[slot as usize];
        if len < self.config.recv_turn_bytes || std::mem::replace(&mut entry.traffic.is_eager, true) {
            return;
        }
        if entry.attention == Attention::Stream {
            self.cancel_attention(slot);
        }
    }

    /// Ends what the kernel does about bytes; it completes then.
    pub(super) fn cancel_attention(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        match entry.attention.op() {
            Some(op) => self.ring.submit_cancel(entry.socket, Token::of_conn(op, entry.id)),
            None => entry.attention = Attention::None,
        }
    }

    /// There may be something to receive.
    pub(super) fn on_poll(&mut self, id: ConnId) {
        let slot = self.find(id).expect("a slot is kept while the kernel polls its socket");
        let entry = self.slot(slot);
        entry.attention = Attention::None;
        match entry.stage {
            Stage::Terminating => self.join(slot),
            _ if entry.is_paused => {}
            _ => {
                let attention = entry.traffic.attention_to_bytes();
                self.start_attention(slot, attention);
            }
        }
    }

    /// Has a connection that has fallen silent wait on a poll again.
    pub(super) fn rest_if_quiet(&mut self, slot: u32) {
        let now_ms = self.now_ms;
        let entry = self.slot(slot);
        let is_quiet = entry.conn.keep_alive.silence_ms(now_ms) >= RECV_QUIET_MS;
        if is_quiet && entry.attention == Attention::Stream {
            entry.traffic = Traffic::default();
            self.cancel_attention(slot);
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
        let mut traffic = Traffic { quick_pieces: 0, is_eager: true };
        for gap_ms in [0, 1, RECV_BUSY_GAP_MS + 1, RECV_QUIET_MS - 1] {
            (0..2 * RECV_BUSY_PIECES).for_each(|_| traffic.on_piece(gap_ms));
            assert!(!traffic.is_busy(), "{gap_ms}");
        }
        traffic.on_piece(RECV_QUIET_MS);
        (0..RECV_BUSY_PIECES).for_each(|_| traffic.on_piece(0));
        assert!(traffic.is_busy());
    }
}
