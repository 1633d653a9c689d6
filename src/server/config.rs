//! The configuration of a server.

use std::sync::Arc;

use super::{ListenerConfig, TrustedProxies};
use crate::conn::{KeepAliveConfig, RateConfig};
use crate::gateway::Origins;
use crate::limits;
use crate::proto::{DeflateConfig, ForwardedHeader};
use crate::tls::{Acceptor, TlsError, TlsSettings};
use crate::topics::{EventSink, Namespaces};

/// Everything that an operator can choose. The default listens on loopback and is safe to run.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The data ports, at least one and at most [`LISTENERS_MAX`](limits::LISTENERS_MAX).
    pub listeners: Vec<ListenerConfig>,
    /// The certificates of TLS listeners.
    pub tls: TlsSettings,
    /// How many shards; 0 is one for each CPU that the process may use.
    pub shards: usize,
    /// Maximum number of connections; 0 is as many as `RLIMIT_NOFILE` and one io_uring per shard allow.
    pub connections_max: usize,
    /// Handshakes that the server accepts per second; 0 is no limit. Further connections queue, and the server rejects
    /// some with a retry time while the queue is long.
    pub handshakes_per_second: u64,
    /// Maximum number of connections from one IPv4 address or one IPv6 /64 network; 0 is no limit.
    pub connections_per_address_max: u32,
    /// Maximum number of topics that a connection may subscribe to, at most
    /// [`CONN_TOPICS_MAX`](limits::CONN_TOPICS_MAX).
    pub subscriptions_per_connection_max: usize,
    /// Proxies that the server believes about a client's address.
    pub trusted_proxies: TrustedProxies,
    /// The header field in which they state it, unless they speak the PROXY protocol.
    pub forwarded_header: ForwardedHeader,
    /// Origins of the web pages that may connect.
    pub allowed_origins: Origins,
    /// Maximum size of a peer's message, in bytes.
    pub message_bytes_max: u32,
    /// Messages and bytes that a peer may send per second; the server closes the connection with 1008 above that.
    pub rate: RateConfig,
    /// Settings of topics, by the first part of their name.
    pub namespaces: Arc<Namespaces>,
    /// Receives what happens to topics; `None` is nobody.
    pub events: Option<Arc<dyn EventSink>>,
    /// Maximum unsent bytes of a connection in the kernel (`TCP_NOTSENT_LOWAT`); the rest of its backlog stays in the
    /// server.
    pub socket_notsent_bytes: u32,
    /// How fan-outs share a shard's turns with other work.
    pub fan_out: FanOutConfig,
    /// How a shard paces the recoveries and backlogs that its connections request.
    pub catch_up: CatchUpConfig,
    /// Bytes that a shard receives per turn from all connections in its receive queue together; at least
    /// [`RECV_TURN_CONNS`](limits::RECV_TURN_CONNS).
    pub recv_turn_bytes: u32,
    /// Compression for peers that offer it (RFC 7692); `None` declines.
    pub deflate: Option<DeflateConfig>,
    /// Timeout of the opening handshake, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Ping interval, and the timeout of a silent peer.
    pub keep_alive: KeepAliveConfig,
    /// Time over which a stopping server closes its connections evenly, in milliseconds; 0 closes all at once.
    pub drain_spread_ms: u64,
    /// Time for peers to answer their Close frames when the server stops, in milliseconds after the last one.
    pub drain_timeout_ms: u64,
}

/// How fan-outs share a shard's turns with other work.
#[derive(Clone, Copy, Debug)]
pub struct FanOutConfig {
    /// Time of each lane's fan-out in a turn, in microseconds; the rest continues in the next turn.
    pub slice_us: u64,
    /// Sends in one batch, at least 1. The shard reads the clock between batches.
    pub batch_sends: usize,
    /// Maximum number of subscribers per shard of a topic in the express lane.
    pub express_subscribers_max: usize,
}

impl Default for FanOutConfig {
    fn default() -> Self {
        FanOutConfig {
            slice_us: limits::FAN_OUT_SLICE_US,
            batch_sends: limits::FAN_OUT_BATCH_SENDS,
            express_subscribers_max: limits::EXPRESS_SUBSCRIBERS_MAX,
        }
    }
}

/// How a shard paces catch-ups: subscribe requests that ask for earlier publications.
#[derive(Clone, Copy, Debug)]
pub struct CatchUpConfig {
    /// Bytes of earlier publications that a shard encodes in one turn before it begins no further catch-up; at least 1.
    pub turn_bytes: usize,
    /// Catch-ups that other shards are answering, at most, while answers are large; at least 1.
    pub in_progress_min: usize,
    /// The same while answers are small; at least `in_progress_min`.
    pub in_progress_max: usize,
    /// Publications of one page of a keyed topic's state; at least 1.
    pub state_page_keys: usize,
}

impl Default for CatchUpConfig {
    fn default() -> Self {
        CatchUpConfig {
            turn_bytes: limits::CATCH_UP_TURN_BYTES,
            in_progress_min: limits::CATCH_UPS_IN_PROGRESS_MIN,
            in_progress_max: limits::CATCH_UPS_IN_PROGRESS_MAX,
            state_page_keys: limits::STATE_PAGE_KEYS,
        }
    }
}

impl ServerConfig {
    /// What makes the TLS sessions of its listeners; `None` if none of them speaks TLS.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn acceptor(&self) -> Result<Option<Acceptor>, TlsError> {
        let has_tls = self.listeners.iter().any(|listener| listener.tls);
        has_tls.then(|| Acceptor::new(&self.tls)).transpose()
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            listeners: vec![ListenerConfig::default()],
            tls: TlsSettings::default(),
            shards: 0,
            connections_max: 0,
            handshakes_per_second: 0,
            connections_per_address_max: 0,
            subscriptions_per_connection_max: limits::CONN_TOPICS,
            trusted_proxies: TrustedProxies::default(),
            forwarded_header: ForwardedHeader::default(),
            allowed_origins: Origins::default(),
            message_bytes_max: limits::MESSAGE_BYTES_MAX,
            rate: RateConfig::default(),
            namespaces: Arc::default(),
            events: None,
            socket_notsent_bytes: limits::SOCKET_NOTSENT_BYTES,
            fan_out: FanOutConfig::default(),
            catch_up: CatchUpConfig::default(),
            recv_turn_bytes: limits::RECV_TURN_BYTES,
            deflate: None,
            handshake_timeout_ms: limits::HANDSHAKE_TIMEOUT_MS,
            keep_alive: KeepAliveConfig::default(),
            drain_spread_ms: 0,
            drain_timeout_ms: limits::DRAIN_TIMEOUT_MS,
        }
    }
}
