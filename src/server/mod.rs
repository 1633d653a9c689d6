//! Where state meets the kernel: shards, their listeners, the mesh between them, and how they start and stop.

mod accept;
mod addresses;
mod admission;
mod ahead;
mod catch_up;
mod clients;
mod close;
mod config;
mod drain;
mod fan_out;
mod gap;
mod listener;
mod lists;
mod mesh;
pub mod metrics;
mod order;
mod publish;
mod random;
mod receive;
mod recv_mode;
mod resume;
mod secure;
mod send;
mod shard;
#[cfg(feature = "sim")]
pub mod sim;
mod slot;
mod slots;
mod slowest;
mod start;
mod state;
mod subscribe;
mod timers;
mod variant;
mod wheel;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use crate::topics::PublishError;
#[cfg(feature = "control")]
pub(crate) use addresses::Network;
#[cfg(feature = "control")]
pub(crate) use clients::address_text;
pub use clients::{InvalidNetwork, ProxyNetwork, TrustedProxies};
pub use config::{CatchUpConfig, FanOutConfig, ServerConfig};
#[cfg(feature = "product")]
pub(crate) use listener::listen_alone;
pub use listener::{InvalidAddress, InvalidMode, ListenAddress, ListenerConfig, ProxyProtocol, SocketMode};
pub use lists::{ConnectionSummary, ConnectionsPage, ConnectionsQuery, Disconnection};
#[cfg(feature = "control")]
pub(crate) use lists::{Connections, add_counts, disconnect_all};
pub use mesh::{MeshSizes, Publisher};
pub use metrics::{CloseCause, ShardMetrics, Transport};
pub use order::{Order, OrderRequest, Placement, Waiter};
#[cfg(feature = "product")]
pub(crate) use random::Random;
pub use slowest::SlowConnection;
pub use start::{ServeError, Server, ServerBuilder};

/// What the rest of the process may know of the running shards.
#[derive(Clone, Debug)]
pub struct Status {
    /// By shard.
    pub shards: Arc<[ShardMetrics]>,
    draining: Arc<AtomicBool>,
}

impl Status {
    /// The status of `shards` shards that have not counted anything.
    pub fn new(shards: usize) -> Status {
        let shards = (0..shards).map(|_| ShardMetrics::default()).collect();
        Status { shards, draining: Arc::new(AtomicBool::new(false)) }
    }

    /// Whether the server is leaving: new connections should go elsewhere.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Says that the server is leaving.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}
