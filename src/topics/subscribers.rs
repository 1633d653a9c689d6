//! The subscribers of one topic on one shard.

use roaring::RoaringBitmap;
use smallvec::SmallVec;

/// Maximum size of a set that is stored inline.
const FEW: usize = 4;

/// A set of slots, iterated in ascending order: inline if small, otherwise a compressed bitmap.
#[derive(Clone, Debug)]
pub enum Subscribers {
    /// Up to four, sorted.
    Few(SmallVec<[u32; FEW]>),
    /// More.
    Many(RoaringBitmap),
}

impl Subscribers {
    /// The empty set.
    pub fn new() -> Subscribers {
        Subscribers::Few(SmallVec::new())
    }

    /// Adds `slot`; `false` if the set contains it already.
    pub fn insert(&mut self, slot: u32) -> bool {
        match self {
            Subscribers::Many(bitmap) => bitmap.insert(slot),
            Subscribers::Few(few) => match few.binary_search(&slot) {
                Ok(_) => false,
                Err(index) if few.len() < FEW => {
                    few.insert(index, slot);
                    true
                }
                Err(_) => {
                    *self = Subscribers::Many(few.iter().copied().chain([slot]).collect());
                    true
                }
            },
        }
    }

    /// Removes `slot`; `false` if the set does not contain it.
    pub fn remove(&mut self, slot: u32) -> bool {
        match self {
            Subscribers::Few(few) => few.binary_search(&slot).map(|index| few.remove(index)).is_ok(),
            Subscribers::Many(bitmap) => {
                let removed = bitmap.remove(slot);
                // Only at half the inline size, so that one subscriber that leaves and rejoins does not convert the set
                // each time.
                if bitmap.len() <= FEW as u64 / 2 {
                    *self = Subscribers::Few(bitmap.iter().collect());
                }
                removed
            }
        }
    }

    /// Calls `visit` with each slot from `first` to `last`, in ascending order. Returns the next slot after `last`; if
    /// there is none, the first of all.
    pub fn walk(&self, first: u32, last: u32, visit: impl FnMut(u32)) -> Option<u32> {
        match self {
            Subscribers::Few(few) => {
                let start = few.partition_point(|slot| *slot < first);
                visit_until(few[start..].iter().copied(), last, visit).or(few.first().copied())
            }
            Subscribers::Many(bitmap) => {
                let mut slots = bitmap.iter();
                slots.advance_to(first);
                visit_until(slots, last, visit).or_else(|| bitmap.min())
            }
        }
    }

    /// The first slot at or after `first`; if there is none, the first of all.
    pub fn next_from(&self, first: u32) -> Option<u32> {
        match first.checked_sub(1) {
            Some(last) => self.walk(first, last, |_| {}),
            None => self.iter().next(),
        }
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        match self {
            Subscribers::Few(few) => few.len(),
            Subscribers::Many(bitmap) => bitmap.len() as usize,
        }
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slots in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let (few, many) = match self {
            Subscribers::Few(few) => (Some(few.iter().copied()), None),
            Subscribers::Many(bitmap) => (None, Some(bitmap.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

/// Calls `visit` with each slot up to `last`; returns the first one after it.
fn visit_until(slots: impl Iterator<Item = u32>, last: u32, mut visit: impl FnMut(u32)) -> Option<u32> {
    for slot in slots {
        if slot > last {
            return Some(slot);
        }
        visit(slot);
    }
    None
}

impl Default for Subscribers {
    fn default() -> Self {
        Subscribers::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_sorted_set(steps in prop::collection::vec((any::<bool>(), 0u32..12), 0..200)) {
            let (mut subscribers, mut model) = (Subscribers::new(), BTreeSet::new());
            for (insert, slot) in steps {
                if insert {
                    prop_assert_eq!(subscribers.insert(slot), model.insert(slot));
                } else {
                    prop_assert_eq!(subscribers.remove(slot), model.remove(&slot));
                }
                prop_assert_eq!(subscribers.len(), model.len());
                prop_assert!(subscribers.iter().eq(model.iter().copied()));
            }
        }

        #[test]
        fn walk_visits_a_range_and_returns_the_next_slot(
            slots in prop::collection::btree_set(0u32..300, 0..50),
            first in 0u32..310,
            len in 0u32..100,
        ) {
            let mut subscribers = Subscribers::new();
            for slot in &slots {
                subscribers.insert(*slot);
            }
            let (last, mut walked) = (first + len, Vec::new());
            let next = subscribers.walk(first, last, |slot| walked.push(slot));
            prop_assert!(slots.range(first..=last).copied().eq(walked));
            prop_assert_eq!(next, slots.range(last + 1..).next().or(slots.first()).copied());
            prop_assert_eq!(subscribers.next_from(first), slots.range(first..).next().or(slots.first()).copied());
        }
    }
}
