//! Which connections have the most waiting for them.

use std::net::SocketAddr;

use super::shard::Shard;
use super::slot::Slot;
use crate::buf::ConnId;
use crate::ring::Ring;
use crate::topics::TopicName;

/// A connection that is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowConnection {
    /// Its shard.
    pub shard: u16,
    /// Its place there.
    pub id: ConnId,
    /// The client's address, if known; port 0 if a proxy has not named the port.
    pub peer: Option<SocketAddr>,
    /// Bytes that wait for it.
    pub outbox_bytes: usize,
    /// How long the oldest of it has waited, in milliseconds.
    pub oldest_age_ms: u64,
    /// What it subscribes to.
    pub topics: Vec<TopicName>,
}

impl<R: Ring> Shard<'_, R> {
    /// The `count` connections that have the most waiting, those first that have more.
    pub(super) fn slowest(&mut self, count: usize) -> Vec<SlowConnection> {
        let mut behind: Vec<&Slot> = self.slots.iter().filter(|slot| !slot.conn.outbox.is_empty()).collect();
        behind.sort_unstable_by_key(|slot| std::cmp::Reverse(slot.conn.outbox.bytes()));
        behind.truncate(count);
        let describe = |slot: &Slot| {
            let topics = slot.subscriptions.iter().map(|subscription| self.topics.name(subscription.topic).clone());
            let outbox = &slot.conn.outbox;
            SlowConnection {
                shard: self.mesh.shard() as u16,
                id: slot.id,
                peer: self.clients.address(slot.id.slot).or_else(|| self.ring.peer(slot.socket)),
                outbox_bytes: outbox.bytes(),
                oldest_age_ms: outbox.oldest_ms().map_or(0, |oldest_ms| self.now_ms.saturating_sub(oldest_ms)),
                topics: topics.collect(),
            }
        };
        behind.into_iter().map(describe).collect()
    }
}
