//! Publications that some subscriber has not got yet, oldest first.

use std::collections::VecDeque;

/// A publication under way.
#[derive(Debug)]
struct Publication {
    payload: Box<[u8]>,
    /// Nanoseconds since the start of the run.
    intended_ns: u64,
    /// Subscribers that have not got it yet.
    awaited: u32,
}

/// All publications from the oldest that somebody still waits for to the newest.
#[derive(Debug, Default)]
pub(crate) struct Window {
    publications: VecDeque<Publication>,
    /// Sequence number of the oldest.
    first: u64,
}

impl Window {
    /// Sequence number that the next publication gets.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.first + self.publications.len() as u64
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.publications.len()
    }

    /// Whether nobody waits for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.publications.is_empty()
    }

    /// Adds the next publication, awaited by `subscribers`, at least one.
    pub(crate) fn push(&mut self, payload: &[u8], intended_ns: u64, subscribers: u32) {
        self.publications.push_back(Publication { payload: payload.into(), intended_ns, awaited: subscribers });
    }

    /// Whether `payload` is exactly publication `sequence`.
    pub(crate) fn matches(&self, sequence: u64, payload: &[u8]) -> bool {
        self.index(sequence).is_some_and(|index| *self.publications[index].payload == *payload)
    }

    /// A subscriber has got publication `sequence`, or never will. Returns its intended time.
    pub(crate) fn settle(&mut self, sequence: u64) -> u64 {
        let index = self.index(sequence).expect("a subscriber settles what it still waits for, once");
        let publication = &mut self.publications[index];
        let intended_ns = publication.intended_ns;
        publication.awaited -= 1;
        while self.publications.front().is_some_and(|oldest| oldest.awaited == 0) {
            self.publications.pop_front();
            self.first += 1;
        }
        intended_ns
    }

    fn index(&self, sequence: u64) -> Option<usize> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        (index < self.publications.len()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_leaves_when_every_subscriber_has_it() {
        let mut window = Window::default();
        window.push(b"a", 100, 2);
        window.push(b"b", 200, 2);
        assert_eq!((window.settle(0), window.settle(1)), (100, 200));
        assert_eq!((window.len(), window.next_sequence()), (2, 2));
        window.settle(1);
        assert_eq!(window.len(), 2, "the newer waits for the older");
        window.settle(0);
        assert_eq!((window.len(), window.next_sequence()), (0, 2));
    }

    #[test]
    fn only_the_same_bytes_under_the_same_number_match() {
        let mut window = Window::default();
        window.push(b"a", 0, 1);
        window.push(b"b", 0, 1);
        assert!(window.matches(0, b"a") && window.matches(1, b"b"));
        assert!(!window.matches(0, b"b") && !window.matches(1, b"") && !window.matches(2, b"b"));
        window.settle(0);
        assert!(!window.matches(0, b"a"));
    }
}
