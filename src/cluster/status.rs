//! What the rest of the process may know of the cluster.

use std::sync::{Arc, Mutex, PoisonError};

/// Where a node is in the log of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketStatus {
    /// The sequence of the last record that was read.
    pub applied: u64,
    /// Names the last reset.
    pub generation: u64,
    /// Records that are known to be in the log and were not read.
    pub behind: u64,
    /// Whether the positions are known.
    pub is_following: bool,
    /// Whether a record has newer rules than this build knows.
    pub is_outdated: bool,
    /// Bytes that wait for a record.
    pub queue_bytes: usize,
    /// Topics with publications.
    pub topics: usize,
    /// A hash of all counted records: equal on all nodes at the same `applied`.
    pub digest: u64,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its id.
    pub id: u64,
    /// Its configured name.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// Milliseconds since its last message.
    pub silent_ms: u64,
    /// Its clock less this node's, in milliseconds.
    pub skew_ms: i64,
    /// Whether settings differ that should be alike.
    pub has_other_settings: bool,
}

/// Counters of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that were appended, with those that were sent again.
    pub appended: u64,
    /// Records that the broker did not take or acknowledge in time.
    pub append_failures: u64,
    /// Entries that counted.
    pub applied: u64,
    /// Records that did not count.
    pub void: u64,
    /// Records that were fetched from a log.
    pub fetched: u64,
    /// Resets that were read.
    pub resets: u64,
    /// Ledgers that were taken from peers.
    pub transfers: u64,
    /// How often a log was rewritten or had left the node behind.
    pub lost: u64,
    /// Connections to the broker.
    pub connects: u64,
    /// Rejections by the broker: of credentials, or of what the node may not do.
    pub rejections: u64,
    /// Joins of this node's clients that others do not learn of, for want of room.
    pub members_left_out: u64,
    /// Figures of other nodes that were not taken: too large, or not text.
    pub figures_rejected: u64,
    /// How often the clients of another node were requested, since changes were missed.
    pub members_requested: u64,
}

/// The state of a node.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Whether the broker can be reached.
    pub is_connected: bool,
    /// Whether the positions of all topics are known.
    pub is_ready: bool,
    /// By bucket.
    pub buckets: Vec<BucketStatus>,
    /// All other nodes.
    pub peers: Vec<PeerStatus>,
    /// Clients of other nodes, in topics that announce joins and leaves.
    pub members: usize,
    /// Counters.
    pub counts: Counts,
}

/// The state of a node, as its bridge has last written it. Clones read the same one.
#[derive(Clone, Debug, Default)]
pub struct ClusterStatus(Arc<Mutex<Figures>>);

impl ClusterStatus {
    /// Replaces the state.
    pub fn set(&self, figures: Figures) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    /// The state.
    pub fn get(&self) -> Figures {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
