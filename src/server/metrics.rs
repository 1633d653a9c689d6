//! What a shard counts.
//!
//! Each number is written by its shard only and read by the control plane, so no read-modify-write is needed: a relaxed
//! load and store on a line that nobody else writes.

use std::sync::atomic::{AtomicU64, Ordering};

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

/// Why a connection ended, as logs and metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CloseCause {
    /// The peer sent a Close frame.
    Peer,
    /// The peer went away without one: end of stream, reset, or no longer reachable.
    PeerLost,
    /// The peer broke the protocol.
    Protocol,
    /// The opening handshake was not a valid upgrade, or was refused.
    Refused,
    /// The opening handshake took too long.
    HandshakeTimeout,
    /// A plain HTTP request was answered.
    Answered,
    /// No sign of life: neither a pong nor anything else.
    PingTimeout,
    /// It did not read as fast as its topics are published.
    SlowConsumer,
    /// The application closed it.
    Application,
    /// The server is stopping.
    Drain,
}

impl CloseCause {
    /// All of them.
    pub const ALL: [CloseCause; 10] = [
        CloseCause::Peer,
        CloseCause::PeerLost,
        CloseCause::Protocol,
        CloseCause::Refused,
        CloseCause::HandshakeTimeout,
        CloseCause::Answered,
        CloseCause::PingTimeout,
        CloseCause::SlowConsumer,
        CloseCause::Application,
        CloseCause::Drain,
    ];

    /// The value of the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            CloseCause::Peer => "peer",
            CloseCause::PeerLost => "peer_lost",
            CloseCause::Protocol => "protocol",
            CloseCause::Refused => "refused",
            CloseCause::HandshakeTimeout => "handshake_timeout",
            CloseCause::Answered => "answered",
            CloseCause::PingTimeout => "ping_timeout",
            CloseCause::SlowConsumer => "slow_consumer",
            CloseCause::Application => "application",
            CloseCause::Drain => "drain",
        }
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
    /// Connections accepted.
    pub accepted: Cell,
    /// Connections ended, by [`CloseCause`].
    pub closed: [Cell; CloseCause::ALL.len()],
    /// Times that accepting stopped since the table of descriptors was full.
    pub accept_stalls: Cell,
    /// Topics with subscribers here. Gauge.
    pub topics: Cell,
    /// Subscriptions here. Gauge.
    pub subscriptions: Cell,
    /// Publications that were given their offset here.
    pub publications: Cell,
    /// Publications that were refused here.
    pub publications_refused: Cell,
    /// Messages handed to subscribers' sockets or outboxes.
    pub deliveries: Cell,
    /// Messages received from peers.
    pub messages_received: Cell,
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
    /// Pings sent.
    pub pings: Cell,
    /// Turns of the loop.
    pub turns: Cell,
}

impl ShardMetrics {
    /// Connections ended because of `cause`.
    pub fn closed(&self, cause: CloseCause) -> &Cell {
        &self.closed[cause as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_place_of_its_own() {
        let metrics = ShardMetrics::default();
        for (index, cause) in CloseCause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
            metrics.closed(cause).add(1);
        }
        assert!(metrics.closed.iter().all(|cell| cell.get() == 1));
    }
}
