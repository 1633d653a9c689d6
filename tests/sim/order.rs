//! The order of one topic, as far as anybody was told of it, and what of it must have been kept.

use std::collections::{BTreeMap, HashMap};

use ringfeed::limits::RECOVERY_PUBLICATIONS_MAX;
use ringfeed::topics::{Epoch, Namespace, Position};

use crate::model::Id;

/// A publication that has its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) id: Id,
    pub(crate) len: usize,
    /// It was published then at the earliest.
    pub(crate) since_us: u64,
}

/// What is known of a topic's order. Whoever learns more must find that it fits.
#[derive(Debug, Default)]
pub(crate) struct Order {
    epoch: Option<Epoch>,
    placed: BTreeMap<u64, Placed>,
    offsets: HashMap<Id, u64>,
    /// Nobody has heard of a later one.
    top: u64,
}

impl Order {
    /// The topic is at `position`, or beyond.
    pub(crate) fn note_top(&mut self, position: Position) {
        let epoch = *self.epoch.get_or_insert(position.epoch);
        assert_eq!(epoch, position.epoch, "a topic has two epochs");
        self.top = self.top.max(position.offset);
    }

    /// A publication has this place.
    pub(crate) fn note(&mut self, position: Position, placed: Placed) {
        self.note_top(position);
        let known = self.placed.entry(position.offset).or_insert(placed).id;
        assert_eq!(known, placed.id, "two publications have the place {position:?}");
        let offset = *self.offsets.entry(placed.id).or_insert(position.offset);
        assert_eq!(offset, position.offset, "{:?} has two places", placed.id);
    }

    /// Where a publication is, if anybody knows.
    pub(crate) fn position(&self, id: Id) -> Option<Position> {
        let offset = *self.offsets.get(&id)?;
        Some(Position { epoch: self.epoch?, offset })
    }

    /// The last that anybody has heard of.
    pub(crate) fn top(&self) -> Option<Position> {
        self.epoch.map(|epoch| Position { epoch, offset: self.top })
    }

    /// All after `offset` that anybody knows.
    pub(crate) fn after(&self, offset: u64) -> impl Iterator<Item = (u64, Id)> {
        self.placed.range(offset + 1..).map(|(offset, placed)| (*offset, placed.id))
    }

    /// Whether all after `since`, up to `top`, must have been kept until now, and may be sent to somebody at once.
    /// Where it is not known, it need not.
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
            // In whatever form.
            && 2 * bytes + 300 * count <= namespace.outbox_bytes_max
            && !missed.iter().any(|placed| is_old(placed))
    }
}
