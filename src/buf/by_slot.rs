//! Values that some of a shard's connections have, beside their slots.

use super::SlotId;

/// A table by slot. It has no memory until the first value is set, and then grows to the highest slot that has one.
#[derive(Debug)]
pub struct BySlot<T>(Vec<Option<T>>);

impl<T> BySlot<T> {
    /// Sets the value of `slot`. Returns the value that it had.
    pub fn set(&mut self, slot: SlotId, value: T) -> Option<T> {
        if self.0.len() <= slot.index() {
            self.0.resize_with(slot.index() + 1, || None);
        }
        self.0[slot.index()].replace(value)
    }

    /// Takes the value of `slot`, if it has one.
    pub fn take(&mut self, slot: SlotId) -> Option<T> {
        self.0.get_mut(slot.index())?.take()
    }

    /// The value of `slot`, if it has one.
    pub fn get(&self, slot: SlotId) -> Option<&T> {
        self.0.get(slot.index())?.as_ref()
    }

    /// The value of `slot`, if it has one.
    pub fn get_mut(&mut self, slot: SlotId) -> Option<&mut T> {
        self.0.get_mut(slot.index())?.as_mut()
    }

    /// Whether no value was ever set.
    pub fn is_unused(&self) -> bool {
        self.0.is_empty()
    }

    /// The values, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }
}

impl<T> Default for BySlot<T> {
    fn default() -> Self {
        BySlot(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_slot_alone() {
        let mut table = BySlot::default();
        assert!(table.is_unused());
        assert!(table.get(SlotId(3)).is_none() && table.take(SlotId(3)).is_none());
        assert_eq!(
            (table.set(SlotId(3), 'a'), table.set(SlotId(1), 'b'), table.set(SlotId(3), 'c')),
            (None, None, Some('a'))
        );
        let get = |slot| table.get(SlotId(slot)).copied();
        assert_eq!((get(3), get(2), get(4)), (Some('c'), None, None));
        *table.get_mut(SlotId(1)).unwrap() = 'd';
        assert!(table.iter().eq(&['d', 'c']));
        assert_eq!(table.take(SlotId(1)), Some('d'));
        assert!(table.get(SlotId(1)).is_none() && !table.is_unused());
    }
}
