//! The known order of one topic, and which part of it the server must have kept.

use std::collections::{BTreeMap, HashMap};

use ringfeed::limits::RECOVERY_PUBLICATIONS_MAX;
use ringfeed::topics::{Epoch, Namespace, Position};

use crate::model::Id;

/// A publication with a known position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) id: Id,
    pub(crate) len: usize,
    /// The earliest time of its publication.
    pub(crate) since_us: u64,
}

/// What all clients know of a topic's order. New facts must not contradict it.
#[derive(Debug, Default)]
pub(crate) struct Order {
    epoch: Option<Epoch>,
    placed: BTreeMap<u64, Placed>,
    offsets: HashMap<Id, u64>,
    /// The highest offset that a client knows.
    top: u64,
}

impl Order {
    /// The topic is at `position`, or beyond.
    pub(crate) fn note_top(&mut self, position: Position) {
        let epoch = *self.epoch.get_or_insert(position.epoch);
        assert_eq!(epoch, position.epoch, "one topic has two epochs");
        self.top = self.top.max(position.offset);
    }

    /// A publication has this position.
    pub(crate) fn note(&mut self, position: Position, placed: Placed) {
        self.note_top(position);
        let known = self.placed.entry(position.offset).or_insert(placed).id;
        assert_eq!(known, placed.id, "two publications have the position {position:?}");
        let offset = *self.offsets.entry(placed.id).or_insert(position.offset);
        assert_eq!(offset, position.offset, "{:?} has two positions", placed.id);
    }

    /// The position of a publication, if known.
    pub(crate) fn position(&self, id: Id) -> Option<Position> {
        let offset = *self.offsets.get(&id)?;
        Some(Position { epoch: self.epoch?, offset })
    }

    /// The highest known position.
    pub(crate) fn top(&self) -> Option<Position> {
        self.epoch.map(|epoch| Position { epoch, offset: self.top })
    }

    /// All known publications after `offset`.
    pub(crate) fn after(&self, offset: u64) -> impl Iterator<Item = (u64, Id)> {
        self.placed.range(offset + 1..).map(|(offset, placed)| (*offset, placed.id))
    }

    /// Whether the server must still keep all publications after `since`, up to `top`, and can send them at once.
    /// `false` where the model does not know.
    pub(crate) fn must_be_kept(&self, since: u64, top: u64, namespace: &Namespace, now_us: u64) -> bool {
        let count = (top - since) as usize;
        if count == 0 {
            return true;
        }
        let missed: Vec<&Placed> = self.placed.range(since + 1..=top).map(|(_, placed)| placed).collect();
        let bytes: usize = missed.iter().map(|placed| placed.len).sum();
        let is_old = |placed: &Placed| {
            namespace.history_ttl_ms > 0 && placed.since_us / 1000 + namespace.history_ttl_ms <= now_us / 1000
        };
        missed.len() == count
            && count <= namespace.history_size.min(RECOVERY_PUBLICATIONS_MAX)
            && bytes <= namespace.history_bytes_max
            // Whatever the encoding.
            && 2 * bytes + 300 * count <= namespace.outbox_bytes_max
            && !missed.iter().any(|placed| is_old(placed))
    }
}
