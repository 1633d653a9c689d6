//! What a shard counts.
//!
//! Each number is written by its shard only and read by the control plane.

use std::sync::OnceLock;

pub use crate::conn::CloseCause;
pub use crate::conn::Transport;
pub use crate::counts::{Cell, Histogram, HistogramSnapshot};
use crate::tls::{Alert, Failure, Suite};
use crate::topics::NamespaceId;

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
    /// Of these, connections whose conversation is over: bytes leave, or the kernel lets go of them. Gauge.
    pub closing: Cell,
    /// Connections that a handler serves, by route or protocol, once the shard has started.
    routes: OnceLock<Box<[(String, Cell)]>>,
    /// Time from the accepting of a connection to the end of its opening handshake, TLS included.
    pub handshake: Histogram,
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
    /// Time from a publish request to the offset that its topic's home gives it here.
    pub order: Histogram,
    /// Time from the arrival of a publication on this shard to the last send for its subscribers here.
    pub fan_out: Histogram,
    /// Numbers of each namespace, once the shard has started.
    namespaces: OnceLock<Box<[NamespaceMetrics]>>,
    /// Publications that were refused here.
    pub publications_refused: Cell,
    /// Connections closed here since publications may have been missed.
    pub gaps: Cell,
    /// Topics whose home is here. Gauge.
    pub home_topics: Cell,
    /// Of these, without any publication. Gauge.
    pub home_topics_unpublished: Cell,
    /// Of these, with subscribers on any shard. Gauge.
    pub home_topics_occupied: Cell,
    /// Connections that an operator has closed.
    pub disconnected: Cell,
    /// Idempotency keys that are remembered here. Gauge.
    pub idempotency_keys: Cell,
    /// Publications refused here since their idempotency keys could not be remembered.
    pub idempotency_refused: Cell,
    /// Subscriptions refused here since too many topics have subscribers.
    pub subscriptions_refused: Cell,
    /// Subscribers here that have received what they missed.
    pub recovered: Cell,
    /// Subscribers here whose missed publications were not available.
    pub recoveries_lost: Cell,
    /// Of these, recoveries refused here since more waited, or would have, than may.
    pub recoveries_cut: Cell,
    /// Subscribe requests that wait for the catch-ups of others. Gauge.
    pub catch_ups_waiting: Cell,
    /// Payload bytes that their histories keep. Gauge.
    pub history_bytes: Cell,
    /// Values of the keyed topics with this home. Gauge.
    pub state_keys: Cell,
    /// Bytes of these, and of removals. Gauge.
    pub state_bytes: Cell,
    /// Values removed since they had expired.
    pub state_expired: Cell,
    /// Publications refused since their value is too large or its topic has no room for it.
    pub state_refused: Cell,
    /// Publications refused since their key had another value than expected.
    pub state_conflicts: Cell,
    /// Pages of states that subscribers here have received.
    pub state_pages: Cell,
    /// Pages of states that this home has made.
    pub state_pages_made: Cell,
    /// Subscribe requests and queries that this shard rejected because shards were behind.
    pub requests_refused: Cell,
    /// Subscribe requests that waited here for a position that the log of the cluster had not brought yet.
    pub requests_ahead: Cell,
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
    /// Publications made into deltas here, each once for all shards.
    pub deltas: Cell,
    /// Bytes of their payloads.
    pub deltas_bytes_in: Cell,
    /// Bytes of the deltas.
    pub deltas_bytes_out: Cell,
    /// Publications that are too large for a delta, or whose delta is no smaller: they leave whole.
    pub deltas_declined: Cell,
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
    /// TLS handshakes in full, by [`Suite`].
    pub tls_full: [Cell; Suite::COUNT],
    /// TLS handshakes by a session ticket, by [`Suite`].
    pub tls_resumed: [Cell; Suite::COUNT],
    /// TLS connections of clients that have shown a certificate.
    pub tls_client_certificates: Cell,
    /// Connections whose TLS has failed, by [`Failure`].
    pub tls_failures: [Cell; Failure::NAMES.len()],
    /// Alerts that clients have sent, by [`Alert`].
    pub tls_alerts: [Cell; Alert::ALL.len()],
    /// Bytes received from peers.
    pub bytes_received: Cell,
    /// Bytes handed to sockets.
    pub bytes_sent: Cell,
    /// Bytes waiting in outboxes. Gauge.
    pub outbox_bytes: Cell,
    /// Connections with something in their outbox. Gauge.
    pub outbox_connections: Cell,
    /// How long bytes have waited in an outbox that has just sent them: of each send, those that have waited longest.
    pub outbox_wait: Histogram,
    /// Times that receive buffers were scarce.
    pub recv_buffers_scarce: Cell,
    /// Times that a connection had sent more than was received of it, and waited for its turn.
    pub recv_turns_awaited: Cell,
    /// Times that messages of a connection waited, for answers to those before or for the peer to read them.
    pub inputs_paused: Cell,
    /// Pings sent.
    pub pings: Cell,
    /// Time from a ping to the peer's next bytes, by [`Transport`].
    pub ping_round_trip: [Histogram; Transport::ALL.len()],
    /// Turns of the loop.
    pub turns: Cell,
    /// The length of each turn.
    pub turn: Histogram,
    /// The time of all turns, in nanoseconds. The rest of the time the shard has waited.
    pub busy_nanoseconds: Cell,
    /// Kernel rings. Gauge.
    pub rings: Cell,
    /// Sockets that these can hold. Gauge.
    pub descriptors_max: Cell,
    /// Connections that all shards may have together: each shard has the same number here. Gauge.
    pub connections_max: Cell,
    /// Times that completions found the completion queue full and waited in the kernel.
    pub completion_overflows: Cell,
}

/// The numbers of one namespace on one shard.
#[derive(Debug, Default)]
pub struct NamespaceMetrics {
    /// Publications that were given their offset here.
    pub publications: Cell,
    /// Messages handed to subscribers' sockets or outboxes.
    pub deliveries: Cell,
    /// Bytes of these, before TLS. Bytes that a protocol encodes for each connection are not among them.
    pub delivered_bytes: Cell,
    /// Publications dropped since their subscriber was slow.
    pub dropped: Cell,
    /// Publications replaced by a newer one since their subscriber was slow.
    pub conflated: Cell,
    /// Connections closed here since they did not read this namespace's publications as fast as these came.
    pub slow_closed: Cell,
    /// Subscriptions here. Gauge.
    pub subscriptions: Cell,
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

    /// Begins to count for these routes and protocols, and for so many namespaces.
    pub(crate) fn begin(&self, routes: impl Iterator<Item = String>, namespaces: usize) {
        self.routes.get_or_init(|| routes.map(|route| (route, Cell::default())).collect());
        self.namespaces.get_or_init(|| (0..namespaces).map(|_| NamespaceMetrics::default()).collect());
    }

    /// Connections that a handler serves, by route or protocol: none before the shard has started.
    pub fn routes(&self) -> &[(String, Cell)] {
        self.routes.get().map_or(&[], |routes| routes)
    }

    /// The numbers of each namespace, in the order of [`Namespaces::iter`](crate::topics::Namespaces::iter): none
    /// before the shard has started.
    pub fn namespaces(&self) -> &[NamespaceMetrics] {
        self.namespaces.get().map_or(&[], |namespaces| namespaces)
    }

    /// The numbers of a namespace.
    pub(super) fn namespace(&self, id: NamespaceId) -> &NamespaceMetrics {
        &self.namespaces()[usize::from(id.number())]
    }
}
