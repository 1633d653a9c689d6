//! Time passes: handshakes that take too long, silent peers, endings that get no answer.

use super::metrics::{CloseCause, ShardMetrics};
use super::shard::Shard;
use super::slot::{Slot, Stage};
use crate::buf::{ConnId, SlotId};
use crate::conn::{KeepAliveAction, Phase, Transport};
use crate::proto::{encode_close, encode_response};
use crate::ring::Ring;

/// Notes a sign of life of a peer.
pub(super) fn note_alive(slot: &mut Slot, metrics: &ShardMetrics, now_ms: u64) {
    let conn = &mut slot.conn;
    if let Some(since_ping_ms) = conn.keep_alive.on_recv(now_ms, conn.heartbeat) {
        metrics.ping_round_trip[conn.transport as usize].record(since_ping_ms * 1000);
    }
}

impl<R: Ring> Shard<'_, R> {
    /// The connection's present state must not last longer than this.
    pub(super) fn set_deadline(&mut self, slot: SlotId, deadline_ms: u64) {
        self.slots[slot].deadline_ms = deadline_ms;
        self.set_timer(slot, deadline_ms);
    }

    /// Sets the connection's one timer in the wheel: to `at_ms`, or to its handler's timer if that expires earlier.
    fn set_timer(&mut self, slot: SlotId, at_ms: u64) {
        let entry = &mut self.slots[slot];
        let at_ms = entry.timer_ms().map_or(at_ms, |timer_ms| timer_ms.min(at_ms));
        entry.timer_tick = self.wheel.set(entry.id, at_ms) as u32;
    }

    /// After a call of the handler: has the wheel fire for its timer, unless it fires earlier anyway. A later time
    /// changes nothing in the wheel, so a handler that sets its timer often does not fill it.
    pub(super) fn arm_handler_timer(&mut self, slot: SlotId) {
        let entry = &self.slots[slot];
        let Some(timer_ms) = entry.timer_ms() else { return };
        let ticks_earlier = entry.timer_tick.wrapping_sub(self.wheel.tick(timer_ms) as u32);
        if (ticks_earlier as i32) > 0 {
            self.set_timer(slot, timer_ms);
        }
    }

    /// Calls the handler if its timer has expired.
    fn run_handler_timer(&mut self, slot: SlotId) {
        let now_ms = self.now_ms;
        let extras = self.slots[slot].extras.as_mut();
        if extras.and_then(|extras| extras.timer_ms.take_if(|timer_ms| *timer_ms <= now_ms)).is_some() {
            self.call_handler(slot, |handler, context| handler.on_timer(context));
        }
    }

    /// Messages go both ways from now on: signs of life are what counts.
    pub(super) fn watch_life(&mut self, slot: SlotId) {
        let now_ms = self.now_ms;
        let conn = &mut self.slots[slot].conn;
        let heartbeat = conn.heartbeat;
        let action = conn.keep_alive.on_timer(now_ms, &self.config.keep_alive, heartbeat);
        match action {
            KeepAliveAction::Wait { until_ms } => self.set_timer(slot, until_ms),
            KeepAliveAction::Ping { until_ms } => {
                self.send_control(slot, |out| heartbeat.encode(out));
                self.metrics.pings.add(1);
                self.set_timer(slot, until_ms);
            }
            KeepAliveAction::Lost => {
                let (code, reason) = heartbeat.lost_code();
                if self.slots[slot].conn.transport == Transport::WebSocket {
                    self.reply_with(slot, |out| encode_close(out, Some(code), reason, None));
                }
                self.finish(slot, CloseCause::PingTimeout);
            }
        }
    }

    pub(super) fn on_timer(&mut self, id: ConnId, tick: u64) {
        let Some(slot) = self.find(id) else { return };
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot];
        if entry.timer_tick != tick as u32 {
            return;
        }
        match (entry.stage, entry.conn.phase()) {
            (Stage::Terminating | Stage::Closing, _) => {}
            (Stage::Serving, phase) if phase.is_served() => {
                self.run_handler_timer(slot);
                if self.is_listening(slot) {
                    self.poll_if_quiet(slot);
                    self.watch_life(slot);
                }
            }
            _ if now_ms < entry.deadline_ms => {
                let deadline_ms = entry.deadline_ms;
                self.set_timer(slot, deadline_ms);
            }
            (Stage::Serving, Phase::Handshake(_)) => {
                let text = "text/plain; charset=utf-8";
                if self.listener_of(slot).protocol.is_none() {
                    self.reply_with(slot, |out| encode_response(out, 408, text, b"the handshake took too long\n", &[]));
                }
                self.finish(slot, CloseCause::HandshakeTimeout);
            }
            _ => self.terminate(slot, CloseCause::PeerLost),
        }
    }

    fn reply_with(&mut self, slot: SlotId, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.begin_reply(slot);
        encode(&mut self.replies.bytes);
        self.end_reply(slot, start);
    }
}
