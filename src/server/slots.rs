//! The connections of a shard, by slot.

use std::ops::{Index, IndexMut};

use slab::Slab;

use super::slot::Slot;
use crate::buf::{ConnId, SlotId};

/// The table of a shard's connections.
pub(super) struct Slots {
    slots: Slab<Slot>,
    /// The generation of each slot's next connection.
    generations: Vec<u32>,
}

impl Slots {
    /// A table for `capacity` connections. Its memory is reserved at once: growing later would move a million slots.
    /// The kernel gives a page when it is first used, so unused capacity costs nothing.
    pub(super) fn with_capacity(capacity: usize) -> Slots {
        Slots { slots: Slab::with_capacity(capacity), generations: Vec::with_capacity(capacity) }
    }

    /// Number of connections.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no connection.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Slots below this number may have a connection.
    pub(super) fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Adds a connection, which `make` makes from its id.
    pub(super) fn insert(&mut self, make: impl FnOnce(ConnId) -> Slot) -> SlotId {
        let entry = self.slots.vacant_entry();
        let slot = SlotId(u32::try_from(entry.key()).expect("a shard has fewer than 2^32 descriptors"));
        if self.generations.len() == slot.index() {
            self.generations.push(0);
        }
        entry.insert(make(ConnId { slot, generation: self.generations[slot.index()] }));
        slot
    }

    /// Removes a connection. The next one of its slot has another generation.
    pub(super) fn remove(&mut self, slot: SlotId) {
        let id = self.slots.remove(slot.index()).id;
        self.generations[slot.index()] = id.next().generation;
    }

    /// The slot of a connection, if it is still there.
    pub(super) fn find(&self, id: ConnId) -> Option<SlotId> {
        self.get(id.slot).is_some_and(|slot| slot.id == id).then_some(id.slot)
    }

    /// The connection in `slot`, if there is one.
    pub(super) fn get(&self, slot: SlotId) -> Option<&Slot> {
        self.slots.get(slot.index())
    }

    /// The connection in `slot`, if there is one.
    pub(super) fn get_mut(&mut self, slot: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(slot.index())
    }

    /// The connections, in the order of their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().map(|(_, slot)| slot)
    }
}

impl Index<SlotId> for Slots {
    type Output = Slot;

    fn index(&self, slot: SlotId) -> &Slot {
        &self.slots[slot.index()]
    }
}

impl IndexMut<SlotId> for Slots {
    fn index_mut(&mut self, slot: SlotId) -> &mut Slot {
        &mut self.slots[slot.index()]
    }
}
