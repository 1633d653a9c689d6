//! A cursor that passes over all slots in rounds, and the topics with pushes for the slots ahead of it.
//!
//! A push boards at the cursor's place and leaves one round later. In between the cursor passes each slot once, so each
//! subscriber receives the push once. A push that boards during a round reaches the remaining slots in the same visits
//! as earlier pushes, and the other slots in the next round.

use std::collections::BTreeSet;

use super::TopicId;

/// A slot in a round. Places only increase: the upper half is the round, the lower half the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// The distance between a slot's places in consecutive rounds.
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

    /// The first place of `slot` at or after this one.
    pub(super) fn first_of(self, slot: u32) -> Place {
        let place = Place(self.0 & !(ROUND - 1) | u64::from(slot));
        if place < self { place.next_round() } else { place }
    }

    /// The last slot before this place; at the beginning of a round, that of the previous round.
    pub(super) fn slot_before(self) -> u32 {
        (self.0 - 1) as u32
    }

    /// The place `slots` slots later, or the end of the round.
    fn step(self, slots: usize) -> Place {
        let round_end = (self.0 | (ROUND - 1)) + 1;
        Place((self.0 + slots as u64).min(round_end))
    }
}

/// One cursor, and the topics with due pushes.
#[derive(Debug, Default)]
pub(super) struct Carousel {
    cursor: Place,
    /// Each topic by the first place where a subscriber may have due pushes.
    order: BTreeSet<(Place, TopicId)>,
}

impl Carousel {
    /// The next place to visit.
    pub(super) fn cursor(&self) -> Place {
        self.cursor
    }

    /// Whether no topic has due pushes.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Adds a topic with due pushes from `place` on.
    pub(super) fn insert(&mut self, place: Place, topic: TopicId) {
        self.order.insert((place, topic));
    }

    /// Removes a topic that was inserted at `place`.
    pub(super) fn remove(&mut self, place: Place, topic: TopicId) {
        assert!(self.order.remove(&(place, topic)), "the topic is not at this place");
    }

    /// Moves the cursor over at most `slots` slots, from the first slot that may have due pushes. Returns the first
    /// place and the end, or `None` if no topic has due pushes.
    pub(super) fn advance(&mut self, slots: usize) -> Option<(Place, Place)> {
        let start = self.order.first()?.0;
        self.cursor = start.step(slots);
        Some((start, self.cursor))
    }

    /// Removes and returns the first topic with due pushes before `end`.
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
    fn topics_are_taken_in_the_order_of_their_places() {
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
