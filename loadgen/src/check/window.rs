//! Publications with outstanding deliveries.
//!
//! Each has a *position*: its place in the order that subscribers see, from 0. Messages of one publisher must arrive in
//! the order of sending. With several publishers the server chooses the order, and the first subscriber that receives a
//! message determines it; all others must then see the same.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::check::board::{Posting, Ticket};
use crate::report::recorder::Times;

/// A publication in flight.
#[derive(Debug)]
struct Publication {
    /// Its place in the order of publishing, for fault reports.
    sequence: u64,
    payload: Arc<[u8]>,
    /// The bytes of its frame, once a subscriber has received it in a frame of its own; empty until then.
    frame: Box<[u8]>,
    times: Times,
    /// Number of subscribers that have not received it.
    awaited: u32,
    /// `None` if the server refused it: no subscriber has to receive it.
    ticket: Option<Arc<Ticket>>,
}

impl Publication {
    fn is_refused(&self) -> bool {
        self.ticket.is_none()
    }
}

/// Publications that a subscriber received in known frames.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Number of publications.
    pub(crate) count: u64,
    /// Bytes, including the beginning of one more frame.
    pub(crate) len: usize,
    /// Bytes received so far of the next frame.
    pub(crate) begun: usize,
}

/// All publications with outstanding deliveries, and those between them.
#[derive(Debug)]
pub(crate) struct Window {
    /// Publications received by some subscriber, in that order.
    ordered: VecDeque<Publication>,
    /// Position of the first of them.
    first: u64,
    /// Publications received by no subscriber, in the order of publishing.
    unseen: VecDeque<Publication>,
    /// Number of publications so far.
    published: u64,
    /// Outstanding deliveries of all of them, without those that the server refused.
    awaited: u64,
    /// Number of publications here that the server refused.
    refused: usize,
    /// Whether subscribers must see the order of publishing.
    one_publisher: bool,
}

impl Window {
    /// A window without publications.
    pub(crate) fn new(one_publisher: bool) -> Window {
        Window {
            ordered: VecDeque::new(),
            first: 0,
            unseen: VecDeque::new(),
            published: 0,
            awaited: 0,
            refused: 0,
            one_publisher,
        }
    }

    /// The sequence number of the next publication.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.published
    }

    /// Number of publications in flight.
    pub(crate) fn len(&self) -> usize {
        self.ordered.len() + self.unseen.len() - self.refused
    }

    /// Number of outstanding deliveries.
    pub(crate) fn awaited(&self) -> u64 {
        self.awaited
    }

    /// Adds the next publication, to be received by `subscribers`.
    pub(crate) fn push(&mut self, posting: Posting, subscribers: u32) {
        let Posting { number, payload, times, ticket, .. } = posting;
        self.published = number + 1;
        if subscribers > 0 {
            let (frame, ticket) = (Box::default(), Some(ticket));
            self.unseen.push_back(Publication {
                sequence: number,
                payload,
                frame,
                times,
                awaited: subscribers,
                ticket,
            });
            self.awaited += u64::from(subscribers);
        }
    }

    /// Whether `payload` is exactly the publication at `position`. The first subscriber to receive a message there
    /// determines it.
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

    /// Records that the publication at `position` arrived in `frame`, by itself, for the subscribers that still expect
    /// it.
    pub(crate) fn learn_frame(&mut self, position: u64, frame: &[u8]) {
        let index = self.index(position).expect("a position in use");
        let publication = &mut self.ordered[index];
        // A known frame is not replaced: some subscribers may have received a part of it.
        if publication.awaited > 1 && publication.frame.is_empty() {
            publication.frame = frame.into();
        }
    }

    /// A subscriber that expects the publication at `position`, and has `begun` bytes of its frame, received `bytes`.
    /// Settles the known frames at their front, of that publication and those after it, and passes the times of each to
    /// the callback.
    pub(crate) fn settle_frames(
        &mut self,
        position: u64,
        begun: usize,
        bytes: &[u8],
        mut tell: impl FnMut(Times),
    ) -> Settled {
        let mut settled = Settled { count: 0, len: 0, begun };
        let mut due = 0;
        let first = self.index(position).unwrap_or(self.ordered.len());
        for Publication { frame, times, awaited, ticket, .. } in self.ordered.range_mut(first..) {
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
            due += u64::from(ticket.is_some());
            *awaited -= 1;
            tell(*times);
        }
        self.awaited -= due;
        self.forget_settled();
        settled
    }

    /// The first `len` bytes of the known frame of the publication at `position`.
    pub(crate) fn frame_front(&self, position: u64, len: usize) -> &[u8] {
        &self.ordered[self.index(position).expect("a position in use")].frame[..len]
    }

    /// The position of `payload` among the publications in flight. If no subscriber has received it, it takes the next
    /// position; with one publisher, after all publications before it.
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

    /// The sequence number of the publication at `position`, which is in flight.
    pub(crate) fn sequence_at(&self, position: u64) -> u64 {
        self.ordered[self.index(position).expect("a position in use")].sequence
    }

    /// A subscriber has received the publication at `position`, or never will. Returns its times.
    pub(crate) fn settle(&mut self, position: u64) -> Times {
        let index = self.index(position).expect("a subscriber settles each expected position once");
        let publication = &mut self.ordered[index];
        let times = publication.times;
        publication.awaited -= 1;
        self.awaited -= u64::from(!publication.is_refused());
        self.forget_settled();
        times
    }

    /// The server refused publication `sequence`: subscribers may receive it or not.
    pub(crate) fn refuse(&mut self, sequence: u64) {
        let all = self.ordered.iter_mut().chain(&mut self.unseen);
        let found = all.into_iter().find(|publication| publication.sequence == sequence && !publication.is_refused());
        if let Some(publication) = found {
            publication.ticket = None;
            self.refused += 1;
            self.awaited -= u64::from(publication.awaited);
        }
    }

    /// Whether the server refused the publication at `position`, which is in flight.
    pub(crate) fn is_refused(&self, position: u64) -> bool {
        self.ordered[self.index(position).expect("a position in use")].is_refused()
    }

    /// The sequence number of the first publication at or after `position`.
    pub(crate) fn sequence_from(&self, position: u64) -> u64 {
        let found = self.index(position).map(|index| &self.ordered[index]).or(self.unseen.front());
        found.map_or(self.published, |publication| publication.sequence)
    }

    /// When the oldest publication in flight was published.
    pub(crate) fn oldest_ns(&self) -> Option<u64> {
        let oldest = [self.ordered.front(), self.unseen.front()].into_iter().flatten();
        oldest.map(|publication| publication.times.actual_ns).min()
    }

    /// A subscriber that has received everything before `position` no longer expects what was published before
    /// `until_ns`. Returns the number of outstanding deliveries among that, and the position that it receives next.
    pub(crate) fn give_up(&mut self, position: u64, until_ns: u64) -> (u64, u64) {
        while self.unseen.front().is_some_and(|unseen| unseen.times.actual_ns < until_ns) {
            self.order(0);
        }
        let (mut count, mut next) = (0, position);
        let first = self.index(position).unwrap_or(self.ordered.len());
        for publication in self.ordered.range_mut(first..).take_while(|one| one.times.actual_ns < until_ns) {
            publication.awaited -= 1;
            count += u64::from(!publication.is_refused());
            next += 1;
        }
        self.awaited -= count;
        self.forget_settled();
        (count, next)
    }

    /// A subscriber received an unknown message instead of the publication at `position`. Returns the sequence number
    /// of that publication if its delivery was outstanding.
    pub(crate) fn settle_unknown(&mut self, position: u64) -> Option<u64> {
        if position == self.end() && !self.unseen.is_empty() {
            self.order(0);
        }
        let sequence = self.ordered[self.index(position)?].sequence;
        self.settle(position);
        Some(sequence)
    }

    /// A subscriber that has received everything before `position` ends. Returns the number of its outstanding
    /// deliveries.
    pub(crate) fn abandon(&mut self, position: u64) -> u64 {
        let seen = self.index(position).unwrap_or(self.ordered.len());
        let not_got = self.ordered.iter_mut().skip(seen).chain(&mut self.unseen);
        let give_up = |publication: &mut Publication| {
            publication.awaited -= 1;
            u64::from(!publication.is_refused())
        };
        let count = not_got.map(give_up).sum();
        self.awaited -= count;
        let refused = &mut self.refused;
        self.unseen.retain(|publication| {
            let is_awaited = publication.awaited > 0;
            *refused -= usize::from(publication.is_refused() && !is_awaited);
            is_awaited
        });
        self.forget_settled();
        count
    }

    /// Gives the unseen publication at `index` the next position.
    fn order(&mut self, index: usize) {
        self.ordered.extend(self.unseen.remove(index));
    }

    fn forget_settled(&mut self) {
        while let Some(oldest) = self.ordered.front().filter(|oldest| oldest.awaited == 0) {
            self.refused -= usize::from(oldest.is_refused());
            self.ordered.pop_front();
            self.first += 1;
        }
    }

    /// The position of the next unseen publication.
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
    use crate::check::board::{Board, Group};

    /// Message `number`, published after as many 100 ns.
    fn posting(number: u64, payload: &[u8]) -> Posting {
        let times = Times::now(100 * (number + 1));
        Board::new(1).unwrap().publish((0, number), payload, times, Group::InRotation)
    }

    /// `a`, `b` and `c` are in flight to two subscribers.
    fn window(one_publisher: bool) -> Window {
        let mut window = Window::new(one_publisher);
        for (number, payload) in (0..).zip([b"a", b"b", b"c"]) {
            window.push(posting(number, payload), 2);
        }
        window
    }

    #[test]
    fn a_publication_leaves_when_every_subscriber_has_it() {
        let mut window = window(true);
        assert!(window.matches(0, b"a") && window.matches(1, b"b"));
        assert_eq!([window.settle(0), window.settle(1), window.settle(1)], [100, 200, 200].map(Times::now));
        assert_eq!(window.len(), 3, "a newer publication stays until the older ones are settled");
        window.settle(0);
        assert_eq!((window.len(), window.next_sequence()), (1, 3));
        assert!(!window.matches(0, b"a") && window.matches(2, b"c"));
    }

    #[test]
    fn one_publishers_order_is_the_order() {
        let mut window = window(true);
        assert!(!window.matches(0, b"b"), "b is not first");
        assert!(!window.matches(1, b"a"), "no publication is at position 1 before one is at 0");
        assert_eq!(window.find(b"b"), Some(1));
        assert!(window.matches(0, b"a") && window.matches(1, b"b") && window.matches(2, b"c"));
    }

    #[test]
    fn with_several_publishers_the_first_arrival_sets_the_order() {
        let mut window = window(false);
        assert!(window.matches(0, b"c"));
        assert!(!window.matches(0, b"a"), "c is first for all subscribers");
        assert!(window.matches(1, b"a"));
        assert_eq!((window.find(b"c"), window.find(b"b"), window.find(b"x")), (Some(0), Some(2), None));
        assert_eq!([0, 1, 2].map(|position| window.sequence_at(position)), [2, 0, 1]);
    }

    #[test]
    fn an_ended_subscriber_has_no_outstanding_deliveries() {
        let mut window = window(true);
        assert!(window.matches(0, b"a"));
        window.settle(0);
        assert_eq!((window.abandon(1), window.len()), (2, 3));
        assert_eq!((window.abandon(0), window.len()), (3, 0));
        window.push(posting(3, b"d"), 1);
        assert_eq!(window.abandon(1), 1);
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn a_frame_is_known_by_all_its_bytes_and_only_at_its_position() {
        // position, begun, bytes; times of settled publications, bytes, begun
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
            assert_eq!(
                window.settle_frames(0, 0, b"[a][b]", |_| unreachable!("no subscriber has received it")),
                nothing
            );
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
    fn outstanding_deliveries_are_counted() {
        let mut window = window(true);
        assert_eq!(window.awaited(), 6);
        assert!(window.matches(0, b"a"));
        window.settle(0);
        assert_eq!(window.awaited(), 5);
        window.abandon(0);
        assert_eq!(window.awaited(), 2, "one subscriber has the first and expects two");
        window.abandon(1);
        assert_eq!((window.awaited(), window.len()), (0, 0));
    }

    #[test]
    fn a_refused_publication_is_not_due_and_may_arrive_at_some() {
        let mut window = window(true);
        window.refuse(1);
        assert_eq!((window.len(), window.awaited()), (2, 4));
        assert!(window.matches(0, b"a") && window.matches(1, b"b"));
        window.settle(0);
        window.settle(1);
        assert_eq!((window.find(b"c"), window.is_refused(1), window.awaited()), (Some(2), true, 3));
        // The other subscriber receives the two around it.
        [0, 1, 2].into_iter().for_each(|position| _ = window.settle(position));
        assert_eq!((window.len(), window.awaited()), (1, 1));
        window.settle(2);
        window.push(posting(3, b"d"), 1);
        window.refuse(3);
        assert_eq!((window.len(), window.awaited(), window.abandon(3)), (0, 0, 0));
        window.refuse(3);
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn what_is_given_up_by_one_subscriber_is_due_for_the_other() {
        let mut window = window(true);
        assert_eq!((window.oldest_ns(), window.give_up(0, 100)), (Some(100), (0, 0)));
        assert_eq!((window.give_up(0, 300), window.awaited()), ((2, 2), 4));
        assert!(window.matches(0, b"a") && window.matches(2, b"c"), "the order of one publisher is known");
        assert_eq!((window.give_up(0, 1000), window.give_up(2, 1000)), ((3, 3), (1, 3)));
        assert_eq!((window.len(), window.awaited(), window.oldest_ns()), (0, 0, None));
    }

    #[test]
    fn an_unknown_message_settles_only_an_outstanding_delivery() {
        let mut window = window(true);
        assert_eq!(window.settle_unknown(0), Some(0));
        assert!(window.matches(0, b"a"), "the other subscriber still expects it");
        window.settle(0);
        assert_eq!(window.settle_unknown(5), None);
        assert_eq!(window.len(), 2);
    }
}
