//! Bytes go out: replies of a turn, and what waits in outboxes. Publications are in [`publish`](super::publish).

use std::ops::Range;

use super::metrics::{CloseCause, ShardMetrics};
use super::shard::Shard;
use super::slot::{Slot, Stage};
use crate::buf::{ConnId, SharedFrame, SlotId};
use crate::conn::Outbox;
use crate::gateway::{Context, Letter};
use crate::limits::REPLIES_BYTES;
use crate::proto::Message;
use crate::ring::{Completion, Errno, Op, Ring, SendNow, Token};

/// What this turn has to say to single peers, collected to leave in one go.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// The bytes of all, one after the other.
    pub(super) bytes: Vec<u8>,
    /// Whose they are: at most one range for a connection.
    ranges: Vec<(SlotId, Range<usize>)>,
}

/// Changes an outbox and keeps the count of what waits.
pub(super) fn change_outbox<T>(slot: &mut Slot, metrics: &ShardMetrics, change: impl FnOnce(&mut Outbox) -> T) -> T {
    let outbox = &mut slot.conn.outbox;
    let (was_empty, bytes_before) = (outbox.is_empty(), outbox.bytes());
    let result = change(outbox);
    metrics.outbox_bytes.sub(bytes_before as u64);
    metrics.outbox_bytes.add(outbox.bytes() as u64);
    metrics.outbox_connections.sub(u64::from(!was_empty));
    metrics.outbox_connections.add(u64::from(!outbox.is_empty()));
    result
}

impl<R: Ring> Shard<'_, R> {
    /// Begins to collect a reply: what is appended to `replies.bytes` until [`end_reply`](Self::end_reply) is for
    /// `slot`. Returns where it begins.
    pub(super) fn begin_reply(&mut self, slot: SlotId) -> usize {
        let end = self.replies.bytes.len();
        // Right behind what there is for it already, it goes on with that.
        if let Some((_, range)) = self.replies.ranges.pop_if(|(last, range)| *last == slot && range.end == end) {
            self.slots[slot].has_reply = false;
            return range.start;
        }
        if self.slots[slot].has_reply {
            self.send_replies();
        }
        self.replies.bytes.len()
    }

    /// Ends what [`begin_reply`](Self::begin_reply) began at `start`.
    pub(super) fn end_reply(&mut self, slot: SlotId, start: usize) {
        let end = self.replies.bytes.len();
        if start == end {
            return;
        }
        if !self.sessions.can_send(slot) {
            // There is no way to say it before the TLS handshake is over, or after the end.
            self.replies.bytes.truncate(start);
            return;
        }
        let entry = &mut self.slots[slot];
        if !matches!(entry.stage, Stage::Serving | Stage::Flushing) {
            // An earlier send has found the peer gone; its descriptor may be another connection's when this would go.
            self.replies.bytes.truncate(start);
            return;
        }
        if entry.is_behind() {
            let frame = SharedFrame::new(self.replies.bytes.split_off(start));
            let now_ms = self.now_ms;
            change_outbox(entry, self.metrics, |outbox| outbox.push(frame, now_ms));
            self.mark_dirty(slot);
            self.pause_if_flooded(slot);
            return;
        }
        entry.has_reply = true;
        self.replies.ranges.push((slot, start..end));
        if end > REPLIES_BYTES {
            self.send_replies();
        }
    }

    /// Ends the reply that opens the conversation: not even a control frame may leave before it. It waits only behind
    /// records that its TLS session has to send first.
    pub(super) fn end_opening_reply(&mut self, slot: SlotId, start: usize) {
        let entry = &mut self.slots[slot];
        if !entry.is_behind() || !entry.conn.outbox.is_empty() {
            return self.end_reply(slot, start);
        }
        let frame = SharedFrame::new(self.replies.bytes.split_off(start));
        change_outbox(entry, self.metrics, |outbox| outbox.push_front(frame, 0));
        self.mark_dirty(slot);
    }

    /// Ends a reply for which all that was pushed has waited.
    pub(super) fn end_first_reply(&mut self, slot: SlotId, start: usize) {
        let entry = &mut self.slots[slot];
        entry.is_delivery_paused = false;
        if !entry.is_behind() {
            return self.end_reply(slot, start);
        }
        // The backlog was compressed before this and leaves after it: the next message may refer to neither.
        entry.forget_sent();
        let frame = SharedFrame::new(self.replies.bytes.split_off(start));
        change_outbox(entry, self.metrics, |outbox| outbox.push_control(frame));
        self.mark_dirty(slot);
        self.pause_if_flooded(slot);
    }

    /// Sends a control frame, which passes by whatever waits.
    pub(super) fn send_control(&mut self, slot: SlotId, encode: impl FnOnce(&mut Vec<u8>)) {
        let entry = &mut self.slots[slot];
        if entry.is_behind() {
            let mut bytes = Vec::new();
            encode(&mut bytes);
            change_outbox(entry, self.metrics, |outbox| outbox.push_control(SharedFrame::new(bytes)));
            self.mark_dirty(slot);
        } else {
            let start = self.begin_reply(slot);
            encode(&mut self.replies.bytes);
            self.end_reply(slot, start);
        }
    }

    /// Sends all collected replies. What a socket does not take goes to its outbox.
    pub(super) fn send_replies(&mut self) {
        if self.replies.ranges.is_empty() {
            return;
        }
        let Replies { mut bytes, mut ranges } = std::mem::take(&mut self.replies);
        let mut sealed = std::mem::take(&mut self.sessions.sealed);
        let records = self.seal_replies(&bytes, &ranges, &mut sealed);
        let mut incomplete = std::mem::take(&mut self.scratch.incomplete);
        let slots = &mut self.slots;
        let sends = ranges.iter().enumerate().map(|(index, (slot, range))| {
            let entry = &mut slots[*slot];
            entry.has_reply = false;
            let token = Token::of_slot(Op::Reply, index as u32, *slot);
            let records = records_at(&records, &sealed, index);
            // The shard closes a connection without a backlog at the end of this turn; with TLS, after close_notify.
            let is_last = entry.is_close_received && entry.conn.outbox.is_empty() && records.is_none();
            SendNow { socket: entry.socket, bytes: records.unwrap_or(&bytes[range.clone()]), is_last, token }
        });
        self.ring.send_now(sends, &mut incomplete);
        self.metrics.bytes_sent.add(bytes.len() as u64);
        for completion in incomplete.drain(..) {
            let index = completion.token.tag() as usize;
            let (slot, range) = ranges[index].clone();
            let records = records_at(&records, &sealed, index);
            self.on_reply_incomplete(slot, &bytes[range], records, completion.result);
        }
        self.scratch.incomplete = incomplete;
        sealed.clear();
        sealed.shrink_to(4 * REPLIES_BYTES);
        self.sessions.sealed = sealed;
        bytes.clear();
        if bytes.capacity() > 4 * REPLIES_BYTES {
            bytes = Vec::new();
        }
        ranges.clear();
        self.replies = Replies { bytes, ranges };
    }

    /// Makes the records of replies to TLS connections. Returns where those of each reply are.
    fn seal_replies(
        &mut self,
        bytes: &[u8],
        ranges: &[(SlotId, Range<usize>)],
        sealed: &mut Vec<u8>,
    ) -> Vec<Option<Range<usize>>> {
        if self.sessions.is_empty() {
            return Vec::new();
        }
        let seal = |(slot, range): &(SlotId, Range<usize>)| {
            let start = sealed.len();
            self.sessions.get(*slot)?.seal(&bytes[range.clone()], sealed);
            self.metrics.bytes_sent.add((sealed.len() - start - range.len()) as u64);
            Some(start..sealed.len())
        };
        ranges.iter().map(seal).collect()
    }

    fn on_reply_incomplete(&mut self, slot: SlotId, reply: &[u8], records: Option<&[u8]>, result: Result<u32, Errno>) {
        match result {
            Err(error) if Self::is_fatal(error) => self.terminate(slot, CloseCause::PeerLost),
            _ => {
                let sent = result.unwrap_or(0) as usize;
                let sent = records.map_or(sent, |records| self.take_back(slot, records, sent));
                if sent < reply.len() {
                    self.put_back(slot, SharedFrame::new(reply[sent..].to_vec()), 0);
                    self.pause_if_flooded(slot);
                }
            }
        }
    }

    /// Puts the rest of a send that did not go whole before all else that waits.
    pub(super) fn put_back(&mut self, slot: SlotId, frame: SharedFrame, skip: usize) {
        self.metrics.bytes_sent.sub((frame.len() - skip) as u64);
        let entry = &mut self.slots[slot];
        if matches!(entry.stage, Stage::Serving | Stage::Flushing) {
            change_outbox(entry, self.metrics, |outbox| outbox.push_front(frame, skip));
            self.mark_dirty(slot);
        }
    }

    /// At the end of a turn: sends what waits, and goes on with endings that waited for it.
    pub(super) fn settle_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            if let Some(entry) = self.slots.get_mut(slot) {
                entry.is_dirty = false;
                self.settle(slot);
            }
        }
        self.dirty = dirty;
    }

    fn settle(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        if entry.is_sending || !matches!(entry.stage, Stage::Serving | Stage::Flushing) {
            return;
        }
        let (stage, is_close_received) = (entry.stage, entry.is_close_received);
        match self.next_send(slot) {
            Some((run, skip)) => self.submit_send(slot, run, skip),
            None if stage == Stage::Serving => self.submit_state_read(slot),
            None if self.close_session(slot) => self.settle(slot),
            None if is_close_received => self.terminate(slot, CloseCause::Peer),
            None => self.submit_shutdown(slot),
        }
    }

    /// What leaves next, and how many of its first bytes have left already; `None` if nothing may.
    fn next_send(&mut self, slot: SlotId) -> Option<(SharedFrame, usize)> {
        if self.sessions.has(slot) {
            return self.next_sealed(slot).map(|records| (records, 0));
        }
        let entry = &mut self.slots[slot];
        if entry.is_delivery_paused {
            return None;
        }
        entry.conn.outbox.next_run(usize::MAX).map(|(run, bytes)| (run, bytes.start))
    }

    fn submit_send(&mut self, slot: SlotId, run: SharedFrame, skip: usize) {
        let entry = &mut self.slots[slot];
        entry.is_sending = true;
        entry.sending_bytes = (run.len() - skip) as u32;
        self.ring.submit_send(entry.socket, run, skip, Token::of_conn(Op::Send, entry.id));
    }

    pub(super) fn on_send(&mut self, completion: Completion) {
        let slot = self.find(completion.token.conn_id()).expect("a slot is kept while the kernel sends for it");
        let entry = &mut self.slots[slot];
        entry.is_sending = false;
        if entry.stage == Stage::Terminating {
            return self.close_when_idle(slot);
        }
        // Waiting sends go whole or fail; a part is what went before the failure.
        if completion.result != Ok(entry.sending_bytes) {
            return self.terminate(slot, CloseCause::PeerLost);
        }
        self.metrics.bytes_sent.add(u64::from(entry.sending_bytes));
        if let Some(since_ms) = change_outbox(entry, self.metrics, Outbox::on_sent) {
            self.metrics.outbox_wait.record(1000 * self.now_ms.saturating_sub(since_ms));
        }
        self.count_handle_bytes(slot, 0);
        self.resume_if_drained(slot);
        self.mark_dirty(slot);
    }

    /// So many bytes of a connection's handles have just become a reply. Those that are not in its outbox any more make
    /// room for others.
    fn count_handle_bytes(&mut self, slot: SlotId, more: usize) {
        let Slot { conn, extras, .. } = &mut self.slots[slot];
        let Some(extras) = extras.as_deref_mut().filter(|extras| extras.link.is_some()) else { return };
        let before = extras.handle_bytes + more;
        extras.handle_bytes = before.min(conn.outbox.bytes());
        if let Some(link) = &extras.link {
            link.on_sent(before - extras.handle_bytes);
        }
    }

    /// A handle on a connection has sent something.
    pub(super) fn on_letter(&mut self, id: ConnId, letter: Letter) {
        let Some(slot) = self.find(id).filter(|slot| self.is_listening(*slot)) else { return };
        let extras = self.slots[slot].extras.as_ref();
        let is_carried = extras.and_then(|extras| extras.link.as_ref()).is_some_and(|link| link.is_carried);
        let act = |context: &mut Context<'_>, act: &dyn Fn(&mut Context<'_>)| match is_carried {
            true => context.carried(act),
            false => act(context),
        };
        let bytes = match letter {
            Letter::Message(kind, payload) => {
                let message = Message { kind, payload: &payload };
                self.call_handler(slot, |_, context| act(context, &|context| context.send(message)));
                payload.len()
            }
            Letter::Close(code, reason) => {
                self.call_handler(slot, |_, context| act(context, &|context| context.close(code, &reason)));
                0
            }
            Letter::Reply(request_id, reply, _) => {
                self.call_handler(slot, |handler, context| handler.on_reply(context, request_id, &*reply));
                0
            }
        };
        self.count_handle_bytes(slot, bytes);
    }

    /// A send that should have told at once how far it came completed later: nobody knows what the peer has.
    pub(super) fn on_late_send(&mut self, slot: SlotId) {
        if self.slots.get(slot).is_some() {
            self.terminate(slot, CloseCause::PeerLost);
        }
    }
}

/// The records of a reply, if it is one to a TLS connection.
fn records_at<'a>(records: &[Option<Range<usize>>], sealed: &'a [u8], index: usize) -> Option<&'a [u8]> {
    records.get(index)?.clone().map(|range| &sealed[range])
}
