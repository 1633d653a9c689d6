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

use super::shard::Shard;
use super::slot::{Slot, Stage};
use crate::buf::ConnId;
use crate::conn::Phase;
use crate::limits::{RECV_BUSY_GAP_MS, RECV_BUSY_PIECES, RECV_QUIET_MS};
use crate::ring::{Op, Ring, Token};

/// What the kernel does about bytes that come for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attention {
    /// Nothing.
    None,
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
            Attention::None => None,
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
}

impl Traffic {
    /// A piece came, this long after the one before.
    pub(super) fn on_piece(&mut self, gap_ms: u64) {
        let quick_pieces = (self.quick_pieces + 1).min(RECV_BUSY_PIECES);
        self.quick_pieces = if gap_ms <= RECV_BUSY_GAP_MS { quick_pieces } else { 0 };
    }

    /// Whether it is worth while to have the kernel bring each piece.
    fn is_busy(self) -> bool {
        self.quick_pieces == RECV_BUSY_PIECES
    }
}

impl Slot {
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
        self.submit_attention(slot, attention);
    }

    fn submit_attention(&mut self, slot: u32, attention: Attention) {
        let entry = &mut self.slots[slot as usize];
        entry.attention = attention;
        let Some(op) = attention.op() else { return };
        let (socket, token) = (entry.socket, Token::of_conn(op, entry.id));
        match attention {
            Attention::Stream => self.ring.submit_recv(socket, token),
            Attention::Poll => self.ring.submit_poll(socket, token),
            Attention::Once | Attention::None => self.ring.submit_recv_once(socket, token),
        }
    }

    /// Ends what the kernel does about bytes; it completes then.
    pub(super) fn cancel_attention(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if let Some(op) = entry.attention.op() {
            self.ring.submit_cancel(entry.socket, Token::of_conn(op, entry.id));
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
                let is_busy = entry.traffic.is_busy();
                self.submit_attention(slot, if is_busy { Attention::Stream } else { Attention::Once });
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
}
