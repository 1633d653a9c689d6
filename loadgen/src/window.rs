//! Publications that some subscriber has not got yet.
//!
//! Each has a *position*: its place in the order that subscribers see, from 0. One publisher's messages must be seen in
//! the order it sent them. With several publishers the server chooses, and the first subscriber that gets a message
//! shows the choice; all others must then see the same.

use std::collections::VecDeque;

use crate::recorder::Times;

/// A publication under way.
#[derive(Debug)]
struct Publication {
    /// Its place in the order of publishing, for people.
    sequence: u64,
    payload: Box<[u8]>,
    /// The bytes that it came in, once somebody has got it in a frame of its own; empty until then.
    frame: Box<[u8]>,
    times: Times,
    /// Subscribers that have not got it yet.
    awaited: u32,
}

/// What a subscriber has got in frames that are known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Publications.
    pub(crate) count: u64,
    /// Bytes, the beginning of one more frame among them.
    pub(crate) len: usize,
    /// Bytes of the frame that comes next which it has got by now.
    pub(crate) begun: usize,
}

/// All publications that somebody still waits for, and those between them.
#[derive(Debug)]
pub(crate) struct Window {
    /// Those that somebody has got, in that order.
    ordered: VecDeque<Publication>,
    /// Position of the first of them.
    first: u64,
    /// Those that nobody has got, in the order of publishing.
    unseen: VecDeque<Publication>,
    /// How many have ever been published.
    published: u64,
    /// Deliveries that are still awaited, of all of them.
    awaited: u64,
    /// The order of publishing is the one that subscribers must see.
    one_publisher: bool,
}

impl Window {
    /// Nothing is under way yet.
    pub(crate) fn new(one_publisher: bool) -> Window {
        Window { ordered: VecDeque::new(), first: 0, unseen: VecDeque::new(), published: 0, awaited: 0, one_publisher }
    }

    /// Sequence number that the next publication gets.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.published
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.ordered.len() + self.unseen.len()
    }

    /// How many deliveries of these are awaited.
    pub(crate) fn awaited(&self) -> u64 {
        self.awaited
    }

    /// Adds the next publication, awaited by `subscribers`, at least one.
    pub(crate) fn push(&mut self, payload: &[u8], times: Times, subscribers: u32) {
        let (sequence, payload) = (self.published, payload.into());
        let frame = Box::default();
        self.unseen.push_back(Publication { sequence, payload, frame, times, awaited: subscribers });
        self.published += 1;
        self.awaited += u64::from(subscribers);
    }

    /// Whether `payload` is exactly what comes at `position`. The first to get a message there decides it.
    pub(crate) fn matches(&mut self, position: u64, payload: &[u8]) -> bool {
        if let Some(publication) = self.index(position).map(|index| &self.ordered[index]) {
            return *publication.payload == *payload;
        }
        let candidates = if self.one_publisher { 1 } else { self.unseen.len() };
        let found = self.unseen.iter().take(candidates).position(|unseen| *unseen.payload == *payload);
        match found {
            Some(index) if position == self.end() => {
                self.order(index);
                true
            }
            _ => false,
        }
    }

    /// What comes at `position` lay in `frame`, by itself. That is of use to others who wait for it.
    pub(crate) fn learn_frame(&mut self, position: u64, frame: &[u8]) {
        let index = self.index(position).expect("a position that somebody has seen");
        let publication = &mut self.ordered[index];
        // What is known of a frame stays: some may have got a part of it.
        if publication.awaited > 1 && publication.frame.is_empty() {
            publication.frame = frame.into();
        }
    }

    /// A subscriber that waits for what is at `position`, and has `begun` with so many bytes of its frame, has got
    /// `bytes`: settles what lies at their front in the frames of that and what follows it, as others got them, and
    /// tells the times of each.
    pub(crate) fn settle_frames(
        &mut self,
        position: u64,
        begun: usize,
        bytes: &[u8],
        mut tell: impl FnMut(Times),
    ) -> Settled {
        let mut settled = Settled { count: 0, len: 0, begun };
        let first = self.index(position).unwrap_or(self.ordered.len());
        for Publication { frame, times, awaited, .. } in self.ordered.range_mut(first..) {
            let (rest, frame) = (&bytes[settled.len..], &frame[settled.begun..]);
            let same = frame.len().min(rest.len());
            if same == 0 || frame[..same] != rest[..same] {
                break;
            }
            settled.len += same;
            if same < frame.len() {
                settled.begun += same;
                break;
            }
            settled.begun = 0;
            settled.count += 1;
            *awaited -= 1;
            tell(*times);
        }
        self.awaited -= settled.count;
        self.forget_settled();
        settled
    }

    /// The first `len` bytes of the known frame of what is at `position`.
    pub(crate) fn frame_front(&self, position: u64, len: usize) -> &[u8] {
        &self.ordered[self.index(position).expect("a position that somebody has seen")].frame[..len]
    }

    /// The position of `payload`, wherever it is under way. If nobody has got it, it takes the next position; with one
    /// publisher, after all that were published before it.
    pub(crate) fn find(&mut self, payload: &[u8]) -> Option<u64> {
        if let Some(index) = self.ordered.iter().position(|publication| *publication.payload == *payload) {
            return Some(self.first + index as u64);
        }
        let index = self.unseen.iter().position(|unseen| *unseen.payload == *payload)?;
        if self.one_publisher {
            (0..index).for_each(|_| self.order(0));
            self.order(0);
        } else {
            self.order(index);
        }
        Some(self.end() - 1)
    }

    /// The sequence number of the publication at `position`, which is under way.
    pub(crate) fn sequence_at(&self, position: u64) -> u64 {
        self.ordered[self.index(position).expect("a position that somebody has seen")].sequence
    }

    /// A subscriber has got what is at `position`, or never will. Returns its times.
    pub(crate) fn settle(&mut self, position: u64) -> Times {
        let index = self.index(position).expect("a subscriber settles what it still waits for, once");
        let publication = &mut self.ordered[index];
        let times = publication.times;
        publication.awaited -= 1;
        self.awaited -= 1;
        self.forget_settled();
        times
    }

    /// A subscriber got something unknown in the place of what is at `position`. Returns whether anything is awaited
    /// there.
    pub(crate) fn settle_unknown(&mut self, position: u64) -> bool {
        if position == self.end() && !self.unseen.is_empty() {
            self.order(0);
        }
        let is_awaited = self.index(position).is_some();
        if is_awaited {
            self.settle(position);
        }
        is_awaited
    }

    /// A subscriber that has got everything before `position` waits no more. Returns how many it has not got.
    pub(crate) fn abandon(&mut self, position: u64) -> u64 {
        let seen = self.index(position).unwrap_or(self.ordered.len());
        let not_got = self.ordered.iter_mut().skip(seen).chain(&mut self.unseen);
        let count = not_got.map(|publication| publication.awaited -= 1).count() as u64;
        self.awaited -= count;
        self.unseen.retain(|publication| publication.awaited > 0);
        self.forget_settled();
        count
    }

    /// Gives the unseen publication at `index` the next position.
    fn order(&mut self, index: usize) {
        self.ordered.extend(self.unseen.remove(index));
    }

    fn forget_settled(&mut self) {
        while self.ordered.front().is_some_and(|oldest| oldest.awaited == 0) {
            self.ordered.pop_front();
            self.first += 1;
        }
    }

    /// The position that the next unseen publication takes.
    fn end(&self) -> u64 {
        self.first + self.ordered.len() as u64
    }

    fn index(&self, position: u64) -> Option<usize> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        (index < self.ordered.len()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a`, `b` and `c` are under way to two subscribers.
    fn window(one_publisher: bool) -> Window {
        let mut window = Window::new(one_publisher);
        [b"a", b"b", b"c"]
            .into_iter()
            .zip([100, 200, 300])
            .for_each(|(payload, ns)| window.push(payload, Times::now(ns), 2));
        window
    }

    #[test]
    fn a_publication_leaves_when_every_subscriber_has_it() {
        let mut window = window(true);
        assert!(window.matches(0, b"a") && window.matches(1, b"b"));
        assert_eq!([window.settle(0), window.settle(1), window.settle(1)], [100, 200, 200].map(Times::now));
        assert_eq!(window.len(), 3, "the newer waits for the older");
        window.settle(0);
        assert_eq!((window.len(), window.next_sequence()), (1, 3));
        assert!(!window.matches(0, b"a") && window.matches(2, b"c"));
    }

    #[test]
    fn one_publishers_order_is_the_order() {
        let mut window = window(true);
        assert!(!window.matches(0, b"b"), "b is not first");
        assert!(!window.matches(1, b"a"), "there is no second before a first");
        assert_eq!(window.find(b"b"), Some(1));
        assert!(window.matches(0, b"a") && window.matches(1, b"b") && window.matches(2, b"c"));
    }

    #[test]
    fn of_several_publishers_the_first_to_arrive_decides_for_all() {
        let mut window = window(false);
        assert!(window.matches(0, b"c"));
        assert!(!window.matches(0, b"a"), "c is first for everybody");
        assert!(window.matches(1, b"a"));
        assert_eq!((window.find(b"c"), window.find(b"b"), window.find(b"x")), (Some(0), Some(2), None));
        assert_eq!([0, 1, 2].map(|position| window.sequence_at(position)), [2, 0, 1]);
    }

    #[test]
    fn whoever_leaves_is_waited_for_no_more() {
        let mut window = window(true);
        assert!(window.matches(0, b"a"));
        window.settle(0);
        assert_eq!((window.abandon(1), window.len()), (2, 3));
        assert_eq!((window.abandon(0), window.len()), (3, 0));
        window.push(b"d", Times::now(400), 1);
        assert_eq!(window.abandon(1), 1);
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn a_frame_is_known_by_all_its_bytes_and_only_at_its_position() {
        // position, begun, bytes; times of what was settled, bytes, begun
        type Case = ((u64, usize), &'static [u8], &'static [u64], (usize, usize));
        let table: [Case; 17] = [
            ((0, 0), b"[a]", &[100], (3, 0)),
            ((0, 0), b"[a][b]", &[100, 200], (6, 0)),
            ((0, 0), b"[a]x", &[100], (3, 0)),
            ((0, 0), b"[a][b][c]", &[100, 200], (6, 0)),
            ((1, 0), b"[b][a]", &[200], (3, 0)),
            ((0, 0), b"", &[], (0, 0)),
            ((0, 0), b"x", &[], (0, 0)),
            ((0, 0), b"[b]", &[], (0, 0)),
            ((2, 0), b"[c]", &[], (0, 0)),
            ((9, 0), b"[a]", &[], (0, 0)),
            ((0, 0), b"[a", &[], (2, 2)),
            ((0, 0), b"[a][", &[100], (4, 1)),
            ((0, 1), b"a][b", &[100], (4, 2)),
            ((0, 2), b"][b][", &[100, 200], (4, 0)),
            ((0, 1), b"x]", &[], (0, 1)),
            ((0, 1), b"", &[], (0, 1)),
            ((1, 2), b"][c]", &[200], (1, 0)),
        ];
        for ((position, begun), bytes, expected, (len, left)) in table {
            let mut window = window(true);
            let nothing = Settled { count: 0, len: 0, begun: 0 };
            assert_eq!(window.settle_frames(0, 0, b"[a][b]", |_| unreachable!("nobody has got it")), nothing);
            for (position, payload, frame) in [(0, b"a", b"[a]"), (1, b"b", b"[b]")] {
                assert!(window.matches(position, payload));
                window.learn_frame(position, frame);
                window.learn_frame(position, b"the same in another frame");
            }
            assert_eq!([window.frame_front(0, 3), window.frame_front(1, 2)], [&b"[a]"[..], b"[b"]);
            let mut times = Vec::new();
            let settled = window.settle_frames(position, begun, bytes, |one| times.push(one.intended_ns));
            let count = expected.len() as u64;
            assert_eq!((times, settled), (expected.to_vec(), Settled { count, len, begun: left }));
            assert_eq!((window.awaited(), window.len()), (6 - count, 3));
        }
    }

    #[test]
    fn what_is_awaited_is_counted() {
        let mut window = window(true);
        assert_eq!(window.awaited(), 6);
        assert!(window.matches(0, b"a"));
        window.settle(0);
        assert_eq!(window.awaited(), 5);
        window.abandon(0);
        assert_eq!(window.awaited(), 2, "one subscriber has the first and waits for two");
        window.abandon(1);
        assert_eq!((window.awaited(), window.len()), (0, 0));
    }

    #[test]
    fn something_unknown_takes_a_place_only_where_something_is_awaited() {
        let mut window = window(true);
        assert!(window.settle_unknown(0));
        assert!(window.matches(0, b"a"), "the other subscriber still waits for it");
        window.settle(0);
        assert!(!window.settle_unknown(5));
        assert_eq!(window.len(), 2);
    }
}
