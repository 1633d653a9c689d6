//! The other nodes that this node knows.

use std::collections::BTreeMap;

use super::message::Heartbeat;
use crate::limits::{CLUSTER_PEER_GONE_MS, CLUSTER_PEERS_MAX};

/// Another node.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) heartbeat: Heartbeat,
    pub(super) heard_ms: u64,
    /// Its clock less this node's, in milliseconds.
    pub(super) skew_ms: i64,
}

/// The other nodes, by their ids.
#[derive(Debug, Default)]
pub(super) struct Members {
    peers: BTreeMap<u64, Peer>,
}

impl Members {
    /// A heartbeat has arrived. A node that was started again has a new id and the old name, and ends the old one.
    pub(super) fn on_heartbeat(&mut self, id: u64, heartbeat: Heartbeat, now_ms: u64, unix_ms: u64) {
        if heartbeat.is_last {
            self.peers.remove(&id);
            return;
        }
        self.peers.retain(|other, peer| *other == id || peer.heartbeat.name != heartbeat.name);
        if self.peers.len() < CLUSTER_PEERS_MAX || self.peers.contains_key(&id) {
            let skew_ms = heartbeat.unix_ms as i64 - unix_ms as i64;
            self.peers.insert(id, Peer { heartbeat, heard_ms: now_ms, skew_ms });
        }
    }

    /// Forgets nodes that are silent.
    pub(super) fn on_time(&mut self, now_ms: u64) {
        self.peers.retain(|_, peer| now_ms < peer.heard_ms + CLUSTER_PEER_GONE_MS);
    }

    /// Whether it is a node that is here.
    pub(super) fn has(&self, id: u64) -> bool {
        self.peers.contains_key(&id)
    }

    /// The nodes that follow a bucket.
    pub(super) fn following(&self, bucket: u16) -> impl Iterator<Item = u64> {
        let follows = move |peer: &Peer| {
            peer.heartbeat.buckets.get(usize::from(bucket)).is_some_and(|bucket| bucket.is_following)
        };
        self.peers.iter().filter(move |(_, peer)| follows(peer)).map(|(id, _)| *id)
    }

    /// Whether another node has a lower id.
    pub(super) fn has_lower(&self, id: u64) -> bool {
        self.peers.range(..id).next().is_some()
    }

    /// All other nodes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Peer)> {
        self.peers.iter().map(|(id, peer)| (*id, peer))
    }

    /// How many other nodes there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::BucketState;
    use super::*;

    fn heartbeat(name: &str, is_following: bool) -> Heartbeat {
        let bucket = BucketState { applied: 1, is_following, generation: 0 };
        Heartbeat { name: name.to_owned(), unix_ms: 5, buckets: vec![bucket], ..Heartbeat::default() }
    }

    #[test]
    fn a_node_is_gone_when_it_is_silent_or_starts_again_or_says_so() {
        let mut members = Members::default();
        members.on_heartbeat(5, heartbeat("a", true), 0, 7);
        members.on_heartbeat(6, heartbeat("b", false), 1, 7);
        assert_eq!((members.len(), members.following(0).collect::<Vec<_>>()), (2, vec![5]));
        assert!(members.has_lower(6) && !members.has_lower(5));
        assert_eq!(members.iter().next().map(|(_, peer)| peer.skew_ms), Some(-2));
        members.on_time(CLUSTER_PEER_GONE_MS);
        assert_eq!(members.len(), 1, "a has said nothing for long");
        members.on_heartbeat(9, heartbeat("b", true), 10, 7);
        assert_eq!(members.iter().map(|(id, _)| id).collect::<Vec<_>>(), [9]);
        members.on_heartbeat(9, Heartbeat { is_last: true, ..heartbeat("b", true) }, 11, 7);
        assert_eq!(members.len(), 0);
    }

    #[test]
    fn the_nodes_that_are_known_are_bounded() {
        let mut members = Members::default();
        for id in 0..2 * CLUSTER_PEERS_MAX as u64 {
            members.on_heartbeat(id, heartbeat(&id.to_string(), true), 0, 0);
        }
        assert_eq!(members.len(), CLUSTER_PEERS_MAX);
    }
}
