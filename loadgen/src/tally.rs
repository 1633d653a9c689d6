//! Messages of one turn, counted by when they were published: what came at one moment and was published at one moment
//! took equally long, so that a histogram is to be told of all of them but once.

use crate::recorder::Times;

/// Moments told apart in one turn. A fan-out with sixteen publications under way needs seventeen.
const MOMENTS_MAX: usize = 32;

/// What came in a turn.
#[derive(Debug)]
pub(crate) struct Tally {
    now_ns: u64,
    /// How many of each.
    moments: Vec<(Times, u64)>,
    /// Where the next message is looked for first: subscribers get one run of publications after the other.
    next: usize,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally { now_ns: 0, moments: Vec::with_capacity(MOMENTS_MAX), next: 0 }
    }

    /// Counts a message with these times that came at `now_ns`. Returns whether there was room for it: it has none for
    /// what came at another time, nor for too many moments of publishing.
    pub(crate) fn add(&mut self, times: Times, now_ns: u64) -> bool {
        if now_ns != self.now_ns && !self.moments.is_empty() {
            return false;
        }
        let is_next = self.moments.get(self.next).is_some_and(|(next, _)| *next == times);
        let found = if is_next { Some(self.next) } else { self.moments.iter().position(|(known, _)| *known == times) };
        let index = match found {
            Some(index) => index,
            None if self.moments.len() == MOMENTS_MAX => return false,
            None => {
                self.moments.push((times, 0));
                self.moments.len() - 1
            }
        };
        self.now_ns = now_ns;
        self.moments[index].1 += 1;
        self.next = index + 1;
        true
    }

    /// Tells of all, and forgets it: times, when they came, how many.
    pub(crate) fn drain(&mut self, mut tell: impl FnMut(Times, u64, u64)) {
        self.moments.drain(..).for_each(|(times, count)| tell(times, self.now_ns, count));
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tally: &mut Tally) -> Vec<(u64, u64, u64)> {
        let mut told = Vec::new();
        tally.drain(|times, now_ns, count| told.push((times.intended_ns, now_ns, count)));
        told
    }

    #[test]
    fn messages_are_counted_in_any_order() {
        let mut tally = Tally::new();
        assert!([1, 2, 3, 1, 2, 3, 3, 1, 4].into_iter().all(|published| tally.add(Times::now(published), 9)));
        assert_eq!(told(&mut tally), [(1, 9, 3), (2, 9, 2), (3, 9, 3), (4, 9, 1)]);
        assert_eq!(told(&mut tally), []);
    }

    #[test]
    fn nothing_is_counted_that_does_not_belong_together() {
        let mut tally = Tally::new();
        assert!(tally.add(Times { intended_ns: 1, actual_ns: 1 }, 9));
        assert!(!tally.add(Times { intended_ns: 1, actual_ns: 1 }, 10), "it came later");
        assert!(tally.add(Times { intended_ns: 1, actual_ns: 2 }, 9));
        assert_eq!(told(&mut tally), [(1, 9, 1), (1, 9, 1)], "it was published later than intended");
        assert!(tally.add(Times::now(1), 10));
        let room = (2..).take_while(|published| tally.add(Times::now(*published), 10)).count();
        assert_eq!(room + 1, MOMENTS_MAX);
        assert!(tally.add(Times::now(1), 10), "a known moment needs no more room");
    }
}
