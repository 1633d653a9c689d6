//! What a shard counts.
//!
//! Each number is written by its shard only and read by the control plane, so no read-modify-write is needed: a relaxed
//! load and store on a line that nobody else writes.

use std::sync::atomic::{AtomicU64, Ordering};

pub use crate::conn::CloseCause;
use crate::conn::Transport;
use crate::tls::Failure;

/// A number that one thread writes and others may read.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `count`. By the owning shard only.
    pub(super) fn add(&self, count: u64) {
        self.set(self.get().wrapping_add(count));
    }

    /// Takes `count` off. By the owning shard only.
    pub(super) fn sub(&self, count: u64) {
        self.set(self.get().wrapping_sub(count));
    }

    /// Sets the value. By the owning shard only.
    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The numbers of one shard.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Connections now, in any state. Gauge.
    pub connections: Cell,
    /// Of these, upgraded to WebSocket and not closing. Gauge.
    pub websockets: Cell,
    /// Of these, that get a response without an end and are not closing. Gauge.
    pub streams: Cell,
    /// Of these, that speak a protocol without HTTP and are not closing. Gauge.
    pub framed: Cell,
    /// Connections accepted.
    pub accepted: Cell,
    /// Connections ended, by [`CloseCause`].
    pub closed: [Cell; CloseCause::ALL.len()],
    /// Handshakes refused for the web page that they came from.
    pub origins_refused: Cell,
    /// Requests that a handler rejected for want of a right: with 401 or 403.
    pub unauthorized: Cell,
    /// Of these, told to come back later.
    pub shed: Cell,
    /// Times that accepting stopped since the system had no file or memory for a connection.
    pub accept_stalls: Cell,
    /// Connections that are still to be told that the server stops. Gauge.
    pub drain_left: Cell,
    /// Topics with subscribers here. Gauge.
    pub topics: Cell,
    /// Subscriptions here. Gauge.
    pub subscriptions: Cell,
    /// Publications that were given their offset here.
    pub publications: Cell,
    /// Publications that were refused here.
    pub publications_refused: Cell,
    /// Connections closed here since publications may have been missed.
    pub gaps: Cell,
    /// Topics whose home is here. Gauge.
    pub home_topics: Cell,
    /// Of these, without any publication. Gauge.
    pub home_topics_unpublished: Cell,
    /// Idempotency keys that are remembered here. Gauge.
    pub idempotency_keys: Cell,
    /// Publications refused here since their idempotency keys could not be remembered.
    pub idempotency_refused: Cell,
    /// Subscriptions refused here since too many topics have subscribers.
    pub subscriptions_refused: Cell,
    /// Recoveries refused here since more waited, or would have, than may.
    pub recoveries_cut: Cell,
    /// Subscribe requests that wait for the catch-ups of others. Gauge.
    pub catch_ups_waiting: Cell,
    /// Payload bytes that their histories keep. Gauge.
    pub history_bytes: Cell,
    /// Subscribe requests and queries that this shard rejected because shards were behind.
    pub requests_refused: Cell,
    /// Bytes that this shard has sent to others and that they have not taken. Gauge.
    pub mesh_bytes: Cell,
    /// Doorbells of other shards that failed and were rung once more.
    pub doorbells_failed: Cell,
    /// Publications dropped since their subscriber was slow.
    pub publications_dropped: Cell,
    /// Publications replaced by a newer one since their subscriber was slow.
    pub publications_conflated: Cell,
    /// Messages handed to subscribers' sockets or outboxes.
    pub deliveries: Cell,
    /// Sends that they left with at once: as many as deliveries where each left alone.
    pub fan_out_sends: Cell,
    /// Of deliveries, to subscribers with which compression was agreed on.
    pub deliveries_deflated: Cell,
    /// Publications whose compressed bytes were there already, made by another shard or for other subscribers.
    pub deflate_shared: Cell,
    /// Messages compressed here, whether that made them smaller or not.
    pub deflate_messages: Cell,
    /// Bytes of these before.
    pub deflate_bytes_in: Cell,
    /// Bytes of these after.
    pub deflate_bytes_out: Cell,
    /// Connections that keep what their compressed messages may refer back to. Gauge.
    pub deflate_contexts: Cell,
    /// Time spent on compressing.
    pub deflate_nanoseconds: Cell,
    /// Messages inflated here.
    pub inflate_messages: Cell,
    /// Bytes of these before.
    pub inflate_bytes_in: Cell,
    /// Bytes of these after.
    pub inflate_bytes_out: Cell,
    /// Time spent on inflating.
    pub inflate_nanoseconds: Cell,
    /// Messages received from peers.
    pub messages_received: Cell,
    /// Connections of proxies refused since they did not begin with a header of the PROXY protocol.
    pub proxy_headers_refused: Cell,
    /// Requests of untrusted peers that state the address of a client, which was ignored.
    pub forwarded_ignored: Cell,
    /// Requests of trusted proxies that state the address of a client in no readable way.
    pub forwarded_unreadable: Cell,
    /// TLS 1.3 handshakes in full.
    pub tls13_full: Cell,
    /// TLS 1.3 handshakes by a session ticket.
    pub tls13_resumed: Cell,
    /// TLS 1.2 handshakes in full.
    pub tls12_full: Cell,
    /// TLS 1.2 handshakes by a session ticket.
    pub tls12_resumed: Cell,
    /// Connections whose TLS has failed, by [`Failure`].
    pub tls_failures: [Cell; Failure::ALL.len()],
    /// Bytes received from peers.
    pub bytes_received: Cell,
    /// Bytes handed to sockets.
    pub bytes_sent: Cell,
    /// Bytes waiting in outboxes. Gauge.
    pub outbox_bytes: Cell,
    /// Connections with something in their outbox. Gauge.
    pub outbox_connections: Cell,
    /// Times that receive buffers were scarce.
    pub recv_buffers_scarce: Cell,
    /// Times that a connection had sent more than was received of it, and waited for its turn.
    pub recv_turns_awaited: Cell,
    /// Times that messages of a connection waited, for answers to those before or for the peer to read them.
    pub inputs_paused: Cell,
    /// Pings sent.
    pub pings: Cell,
    /// Turns of the loop.
    pub turns: Cell,
}

impl ShardMetrics {
    /// Connections of this form that a handler serves.
    pub fn open(&self, transport: Transport) -> &Cell {
        match transport {
            Transport::WebSocket => &self.websockets,
            Transport::Stream => &self.streams,
            Transport::Framed => &self.framed,
        }
    }

    /// Connections ended because of `cause`.
    pub fn closed(&self, cause: CloseCause) -> &Cell {
        &self.closed[cause as usize]
    }
}
