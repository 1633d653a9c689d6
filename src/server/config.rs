//! How a server is to run.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::conn::{KeepAliveConfig, RateConfig};
use crate::gateway::Origins;
use crate::limits;
use crate::proto::DeflateConfig;
use crate::topics::Namespaces;

/// Everything that an operator can choose. The default is a server on loopback that is safe to run.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The data port: WebSockets. Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// How many shards; 0 is one for each CPU that the process may use.
    pub shards: usize,
    /// Connections in all; 0 is as many as `RLIMIT_NOFILE` allows one kernel ring for each shard.
    pub connections_max: usize,
    /// Connections that are let in each second; 0 is as many as come. The others wait, and are told to come back later
    /// when that takes long.
    pub handshakes_per_second: u64,
    /// Connections that come from one IPv4 address, or one IPv6 network of 64 bits; 0 is as many as come.
    pub connections_per_address_max: u32,
    /// Which web pages may connect.
    pub allowed_origins: Origins,
    /// Bytes of one message from a peer.
    pub message_bytes_max: u32,
    /// How much a peer may send in a second; more ends the connection with 1008.
    pub rate: RateConfig,
    /// What topics have in common, by the first part of their name.
    pub namespaces: Arc<Namespaces>,
    /// Bytes that the kernel takes for a connection and has not sent: what waits beyond waits with us.
    pub socket_notsent_bytes: u32,
    /// How fan-outs share a shard's turns with all else.
    pub fan_out: FanOutConfig,
    /// Bytes that those are heard of in one turn, all together, who have sent more than was received of them; at least
    /// [`RECV_TURN_CONNS`](limits::RECV_TURN_CONNS).
    pub recv_turn_bytes: u32,
    /// How to compress for peers that offer it; `None` declines.
    pub deflate: Option<DeflateConfig>,
    /// Time for an opening handshake.
    pub handshake_timeout_ms: u64,
    /// Pings, and when a peer is given up.
    pub keep_alive: KeepAliveConfig,
    /// Time over which connections are closed, at an even pace, when the server stops; 0 closes all at once.
    pub drain_spread_ms: u64,
    /// Time for peers to answer their Close frames when the server stops, after the last was sent.
    pub drain_timeout_ms: u64,
}

/// How fan-outs share a shard's turns with all else.
#[derive(Clone, Copy, Debug)]
pub struct FanOutConfig {
    /// Microseconds of a turn that go to the fan-out of each lane; the rest goes on in the next turn.
    pub slice_us: u64,
    /// Sends that are submitted together, at least 1: the clock is looked at between them.
    pub batch_sends: usize,
    /// Subscribers on a shard of a topic that takes the express lane, at most.
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

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            shards: 0,
            connections_max: 0,
            handshakes_per_second: 0,
            connections_per_address_max: 0,
            allowed_origins: Origins::default(),
            message_bytes_max: limits::MESSAGE_BYTES_MAX,
            rate: RateConfig::default(),
            namespaces: Arc::default(),
            socket_notsent_bytes: limits::SOCKET_NOTSENT_BYTES,
            fan_out: FanOutConfig::default(),
            recv_turn_bytes: limits::RECV_TURN_BYTES,
            deflate: None,
            handshake_timeout_ms: limits::HANDSHAKE_TIMEOUT_MS,
            keep_alive: KeepAliveConfig::default(),
            drain_spread_ms: 0,
            drain_timeout_ms: limits::DRAIN_TIMEOUT_MS,
        }
    }
}
