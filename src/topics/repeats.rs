//! Publications with idempotency keys, for as long as publishers may retry.
//!
//! A publication with a key that does not fit is rejected: forgetting a key early would publish a retry twice.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::{Position, TopicName};
use crate::limits::{IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_OVERHEAD_BYTES, IDEMPOTENCY_TTL_MS};

/// Maximum number of expired keys that a publication removes: it adds at most one.
const FORGET_PER_PUBLICATION: usize = 8;

/// A topic and the key of a publication in it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Repeat {
    pub(super) topic: TopicName,
    pub(super) key: Box<str>,
}

/// All publications of a home shard with keys within the last [`IDEMPOTENCY_TTL_MS`].
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// The position and the expiry time of each.
    made: HashMap<Rc<Repeat>, (Position, u64)>,
    /// The expiry time of each, in order.
    ends: VecDeque<(u64, Rc<Repeat>)>,
    bytes: usize,
}

impl Repeats {
    /// The position of an earlier publication with this key.
    pub(super) fn find(&self, repeat: &Repeat, now_ms: u64) -> Option<Position> {
        self.made.get(repeat).filter(|(_, end_ms)| now_ms < *end_ms).map(|(position, _)| *position)
    }

    /// Removes some expired keys. Returns whether one more fits.
    pub(super) fn make_room(&mut self, repeat: &Repeat, now_ms: u64) -> bool {
        self.forget(now_ms, FORGET_PER_PUBLICATION);
        self.bytes + size(repeat) <= IDEMPOTENCY_BYTES_MAX
    }

    /// Remembers a publication; call [`make_room`](Self::make_room) before.
    pub(super) fn insert(&mut self, repeat: Repeat, position: Position, now_ms: u64) {
        let end_ms = now_ms.saturating_add(IDEMPOTENCY_TTL_MS);
        let repeat = Rc::new(repeat);
        self.bytes += size(&repeat);
        // An expired publication may have the same key: its expiry then finds a later time here, and leaves the entry.
        self.made.insert(repeat.clone(), (position, end_ms));
        self.ends.push_back((end_ms, repeat));
    }

    /// Removes at most `count_max` expired keys.
    pub(super) fn forget(&mut self, now_ms: u64, count_max: usize) {
        for _ in 0..count_max {
            if self.ends.front().is_none_or(|(end_ms, _)| now_ms < *end_ms) {
                break;
            }
            let (end_ms, repeat) = self.ends.pop_front().expect("there is a first one");
            self.bytes -= size(&repeat);
            if self.made.get(&repeat).is_some_and(|(_, other_ms)| *other_ms == end_ms) {
                self.made.remove(&repeat);
            }
        }
        if self.ends.is_empty() {
            *self = Repeats::default();
        }
    }

    /// Number of remembered publications.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

fn size(repeat: &Repeat) -> usize {
    repeat.key.len() + IDEMPOTENCY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::super::Epoch;
    use super::*;

    fn repeat(key: &str) -> Repeat {
        Repeat { topic: TopicName::new("a").unwrap(), key: key.into() }
    }

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::new(5), offset }
    }

    #[test]
    fn a_key_that_is_reused_after_its_expiry_has_its_new_position() {
        let mut repeats = Repeats::default();
        (0..20).for_each(|number| repeats.insert(repeat(&number.to_string()), at(number), 0));
        let later_ms = IDEMPOTENCY_TTL_MS + 7;
        assert_eq!(repeats.find(&repeat("19"), later_ms), None, "it has expired, but is still in memory");
        repeats.insert(repeat("19"), at(20), later_ms);
        repeats.forget(later_ms, 100);
        assert_eq!((repeats.len(), repeats.find(&repeat("19"), later_ms)), (1, Some(at(20))));
        repeats.forget(later_ms + IDEMPOTENCY_TTL_MS, 100);
        assert_eq!((repeats.len(), repeats.bytes), (0, 0));
    }

    #[test]
    fn memory_stays_within_its_limit() {
        let mut repeats = Repeats::default();
        let key = |number: usize| format!("{number:0255}");
        let mut count = 0;
        while repeats.make_room(&repeat(&key(count)), 0) {
            repeats.insert(repeat(&key(count)), at(count as u64), 0);
            count += 1;
        }
        assert_eq!(count, IDEMPOTENCY_BYTES_MAX / (255 + IDEMPOTENCY_OVERHEAD_BYTES));
        assert_eq!(repeats.find(&repeat(&key(0)), 1), Some(at(0)), "no key is forgotten early");
        assert!(repeats.make_room(&repeat(&key(count)), IDEMPOTENCY_TTL_MS), "the oldest make room when they expire");
        assert_eq!(repeats.len(), count - FORGET_PER_PUBLICATION);
    }
}
