//! Connections end, in three steps so that nothing is closed while the kernel still holds memory of ours:
//! [`terminate`](Shard::terminate), [`close_when_idle`](Shard::close_when_idle), [`on_close`](Shard::on_close).

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::clients::address_text;
use super::mesh::{Publish, ReplyTo};
use super::metrics::CloseCause;
use super::recv_mode::RecvMode;
use super::send::change_outbox;
use super::shard::Shard;
use super::slot::Stage;
use crate::buf::{ConnId, SlotId};
use crate::conn::{Outbox, Transport};
use crate::gateway::{Command, Context, ContextParts, Link, Wire};
use crate::limits::{CLOSE_TIMEOUT_MS, LINGER_MS, LOG_TOPICS_MAX};
use crate::log;
use crate::ring::{Op, Ring, Token};

/// A peer's address in a log line.
pub(super) struct Peer(pub(super) Option<SocketAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => f.write_str(&address_text(address)),
            None => f.write_str("unknown"),
        }
    }
}

impl<R: Ring> Shard<'_, R> {
    /// The handler has closed it: what it has sent is the last.
    pub(super) fn close_for(&mut self, slot: SlotId, cause: CloseCause) {
        match self.slots[slot].conn.transport {
            Transport::WebSocket => self.await_close(slot, cause),
            Transport::Stream | Transport::Framed => self.finish(slot, cause),
        }
    }

    /// We have sent a Close frame; the peer has some seconds to answer it.
    pub(super) fn await_close(&mut self, slot: SlotId, cause: CloseCause) {
        self.slots[slot].conn.begin_close();
        self.leave(slot, cause);
        self.open_input(slot);
        self.set_deadline(slot, self.now_ms + CLOSE_TIMEOUT_MS);
    }

    /// The conversation is over; what was said last still leaves.
    pub(super) fn finish(&mut self, slot: SlotId, cause: CloseCause) {
        if !self.is_serving(slot) {
            return;
        }
        self.leave(slot, cause);
        self.drop_input(slot);
        let entry = &mut self.slots[slot];
        entry.conn.end();
        entry.stage = Stage::Flushing;
        entry.is_close_received = cause == CloseCause::Peer;
        self.set_deadline(slot, self.now_ms + CLOSE_TIMEOUT_MS);
        self.mark_dirty(slot);
    }

    /// All has been said: ends our half of the stream, and gives the peer a moment to end its own.
    pub(super) fn submit_shutdown(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        entry.stage = Stage::Lingering;
        entry.is_shutting = true;
        self.ring.submit_shutdown(entry.socket, Token::of_conn(Op::Shutdown, entry.id));
        // A receive that was paused or has ended is needed once more: it brings the peer's end of stream.
        if entry.recv_mode == RecvMode::None {
            self.arm_recv(slot);
        }
        self.set_deadline(slot, self.now_ms + LINGER_MS);
    }

    pub(super) fn on_shutdown(&mut self, id: ConnId) {
        let slot = self.find(id).expect("a slot is kept while the kernel ends its stream");
        self.slots[slot].is_shutting = false;
        self.close_when_idle(slot);
    }

    /// The handler no longer knows the connection, and its subscriptions end. Only the first time counts.
    fn leave(&mut self, slot: SlotId, cause: CloseCause) {
        let entry = &mut self.slots[slot];
        if entry.cause.is_some() {
            return;
        }
        entry.cause = Some(cause);
        if matches!(cause, CloseCause::SlowConsumer | CloseCause::RateLimited) {
            self.log_close(slot, cause);
        }
        self.acceptor.handshake_peers.remove(&slot);
        let entry = &mut self.slots[slot];
        if std::mem::take(&mut entry.is_delivery_paused) {
            // Pushes that wait for a first reply that will not follow would arrive without it.
            change_outbox(entry, self.metrics, Outbox::drop_pushed);
            self.mark_dirty(slot);
        }
        let entry = &mut self.slots[slot];
        let (id, route, subscriptions) = (entry.id, entry.route, std::mem::take(&mut entry.subscriptions));
        let open = self.metrics.open(entry.conn.transport);
        self.metrics.closed(cause).add(1);
        open.sub(u64::from(route.is_some()));
        route.into_iter().for_each(|route| self.metrics.routes()[usize::from(route)].1.sub(1));
        self.metrics.closing.add(1);
        if entry.extras.as_mut().and_then(|extras| extras.deflate_context.take()).is_some() {
            self.metrics.deflate_contexts.sub(1);
        }
        subscriptions.into_iter().for_each(|subscription| self.end_subscription(slot, subscription));
        let link = self.slots[slot].extras.as_mut().and_then(|extras| {
            extras.timer_ms = None;
            extras.link.take()
        });
        if let Some(link) = &link {
            link.end();
        }
        if let Some(route) = route {
            self.say_goodbye(id, route, cause, link.as_ref());
        }
    }

    /// The handler's last call for a connection. What it publishes waits for [`publish_last`](Self::publish_last): this
    /// may be in the middle of a fan-out.
    fn say_goodbye(&mut self, id: ConnId, route: u8, cause: CloseCause, link: Option<&Arc<Link>>) {
        let (mut out, mut commands) = (Vec::new(), Vec::new());
        let mut context = Context::closed(ContextParts {
            id,
            clock: self.clock(),
            out: &mut out,
            wire: Wire::WebSocket(None),
            commands: &mut commands,
            subscriptions: 0,
            subscriptions_max: 0,
            origin: &self.origin,
            link,
        });
        self.routes.handler(route).on_close(&mut context, cause);
        if let Some(link) = context.outcome().link {
            link.end();
        }
        self.last_drafts.extend(commands.into_iter().filter_map(|command| match command {
            Command::Publish { draft, .. } => Some(*draft),
            _ => None,
        }));
    }

    /// Publishes what handlers have published for connections that ended. A draining shard has nobody to tell.
    pub(super) fn publish_last(&mut self) {
        for draft in std::mem::take(&mut self.last_drafts) {
            if self.drain.is_none() {
                self.publish(Publish { draft, reply: ReplyTo::Nobody, requested_us: self.now_us });
            }
        }
    }

    fn log_close(&mut self, slot: SlotId, cause: CloseCause) {
        let Some(left_out) = log::CLOSED.take() else { return };
        let entry = &self.slots[slot];
        let named = entry.subscriptions.iter().take(LOG_TOPICS_MAX);
        let topics: Vec<&str> = named.map(|subscription| self.topics.name(subscription.topic).as_str()).collect();
        let (topics, topic_count) = (topics.join(","), entry.subscriptions.len());
        let outbox_bytes = entry.conn.outbox.bytes();
        let peer = Peer(self.clients.address(slot).or_else(|| self.ring.peer(entry.socket)));
        let subject = self.sessions.subject(slot);
        tracing::warn!(%peer, subject, cause = cause.label(), outbox_bytes, topics, topic_count, left_out, "connection closed");
    }

    /// A handshake or a request was rejected with this reason.
    pub(super) fn log_rejected(&mut self, slot: SlotId, reason: &str) {
        let Some(left_out) = log::REJECTED.take() else { return };
        let peer = Peer(self.clients.address(slot).or_else(|| self.ring.peer(self.slots[slot].socket)));
        let subject = self.sessions.subject(slot);
        tracing::info!(%peer, subject, reason, left_out, "request rejected");
    }

    /// Ends the connection at once. Its backlog is dropped; operations in the kernel are
    /// cancelled and awaited.
    pub(super) fn terminate(&mut self, slot: SlotId, cause: CloseCause) {
        if self.slots[slot].has_reply {
            // The reply must not be submitted after the descriptor was closed and given to somebody else.
            self.send_replies();
        }
        if matches!(self.slots[slot].stage, Stage::Terminating | Stage::Closing) {
            return;
        }
        self.leave(slot, cause);
        let entry = &mut self.slots[slot];
        entry.conn.end();
        entry.stage = Stage::Terminating;
        change_outbox(entry, self.metrics, |outbox| *outbox = Outbox::default());
        if entry.is_sending {
            self.ring.submit_cancel(entry.socket, Token::of_conn(Op::Send, entry.id));
        }
        self.cancel_recv(slot);
        self.close_when_idle(slot);
    }

    /// Closes a terminated connection's descriptor as soon as the kernel holds no operation of it.
    pub(super) fn close_when_idle(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        if entry.stage == Stage::Terminating && !entry.has_operations() {
            entry.stage = Stage::Closing;
            self.ring.submit_close(entry.socket, Token::of_conn(Op::Close, entry.id));
        }
    }

    /// The descriptor is closed: the slot is free for another connection.
    pub(super) fn on_close(&mut self, id: ConnId) {
        let slot = self.find(id).expect("a slot is kept until its descriptor is closed");
        self.slots.remove(slot);
        self.sessions.end(slot);
        self.clients.end(slot);
        if let Some(addresses) = &mut self.acceptor.addresses {
            addresses.leave(slot);
        }
        self.metrics.closing.sub(1);
        self.metrics.connections.set(self.slots.len() as u64);
    }
}
