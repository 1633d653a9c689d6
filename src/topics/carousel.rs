//! A cursor that goes round over all slots, and the topics that have something for the slots ahead of it.
//!
//! A push boards at the cursor's place and leaves one round later. Between these the cursor passes each slot once, so
//! each subscriber gets the push once. What boards during a round reaches the rest of the slots in the same visits as
//! what is there already, and the others in the next round.

use std::collections::BTreeSet;

use super::TopicId;

/// A slot in a round. Places only grow: the round is in the upper half, the slot in the lower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// From a slot's place in one round to its place in the next.
const ROUND: u64 = 1 << 32;

impl Place {
    /// The slot.
    pub(super) fn slot(self) -> u32 {
        self.0 as u32
    }

    /// The same slot in the next round.
    pub(super) fn next_round(self) -> Place {
        Place(self.0 + ROUND)
    }

    /// The first place of `slot` from this one on.
    pub(super) fn first_of(self, slot: u32) -> Place {
        let place = Place(self.0 & !(ROUND - 1) | u64::from(slot));
        if place < self { place.next_round() } else { place }
    }

    /// The last slot before this place, which is in the round before if this is the beginning of one.
    pub(super) fn slot_before(self) -> u32 {
        (self.0 - 1) as u32
    }

    /// So many slots further, or the end of the round.
    fn step(self, slots: usize) -> Place {
        let round_end = (self.0 | (ROUND - 1)) + 1;
        Place((self.0 + slots as u64).min(round_end))
    }
}

/// One cursor, and the topics that it has something to send of.
#[derive(Debug, Default)]
pub(super) struct Carousel {
    cursor: Place,
    /// Each topic by the first place from which on it may have a subscriber that is due something.
    order: BTreeSet<(Place, TopicId)>,
}

impl Carousel {
    /// The next place that is visited.
    pub(super) fn cursor(&self) -> Place {
        self.cursor
    }

    /// Whether no topic has anything to send.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A topic has something to send from `place` on.
    pub(super) fn insert(&mut self, place: Place, topic: TopicId) {
        self.order.insert((place, topic));
    }

    /// A topic that was put at `place` has nothing to send any more.
    pub(super) fn remove(&mut self, place: Place, topic: TopicId) {
        assert!(self.order.remove(&(place, topic)), "a topic is not where it boarded");
    }

    /// Moves the cursor over the next `slots` slots at most, from the first that may be due something on. Returns the
    /// first and the end, or `None` if no topic has anything to send.
    pub(super) fn advance(&mut self, slots: usize) -> Option<(Place, Place)> {
        let start = self.order.first()?.0;
        self.cursor = start.step(slots);
        Some((start, self.cursor))
    }

    /// Takes out the first topic with something to send before `end`.
    pub(super) fn take_before(&mut self, end: Place) -> Option<(Place, TopicId)> {
        let (place, _) = *self.order.first()?;
        if place < end { self.order.pop_first() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_place_in_each_round() {
        let place = Place::default().first_of(7);
        assert_eq!(place.first_of(7), place);
        assert_eq!(place.first_of(8).slot(), 8);
        assert!(place < place.first_of(6) && place.first_of(6) < place.next_round());
        assert_eq!(place.first_of(6).slot(), 6);
    }

    #[test]
    fn a_window_ends_with_its_round() {
        let last = Place::default().first_of(u32::MAX);
        assert_eq!((last.step(64).slot(), last.step(64).slot_before()), (0, u32::MAX));
        assert_eq!(last.step(64), Place::default().next_round());
    }

    #[test]
    fn topics_come_by_in_the_order_of_their_places() {
        let (mut carousel, [a, b]) = (Carousel::default(), [1, 2].map(TopicId::of));
        let start = carousel.cursor();
        carousel.insert(start.first_of(9), a);
        carousel.insert(start.first_of(70), b);
        let (first, end) = carousel.advance(10).unwrap();
        assert_eq!((first.slot(), end.slot(), carousel.cursor()), (9, 19, end));
        assert_eq!(carousel.take_before(end), Some((first, a)));
        assert_eq!(carousel.take_before(end), None);
        carousel.insert(end.first_of(9), a);
        carousel.remove(end.first_of(9), a);
        assert_eq!(carousel.advance(10).unwrap().0.slot(), 70);
    }
}
