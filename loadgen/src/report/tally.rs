//! Counts the messages of one turn by publishing time. Messages published at the same time and received at the same
//! time have the same latency, so the histogram is updated once for all of them.

use crate::report::recorder::Times;

/// Most publishing times distinguished in one turn. A fan-out with sixteen publications in flight needs seventeen.
const MOMENTS_MAX: usize = 32;

/// The messages received in a turn.
#[derive(Debug)]
pub(crate) struct Tally {
    now_ns: u64,
    /// Number of messages for each publishing time.
    moments: Vec<(Times, u64)>,
    /// Index where the search for the next message starts: subscribers receive runs of publications in the same order.
    next: usize,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally { now_ns: 0, moments: Vec::with_capacity(MOMENTS_MAX), next: 0 }
    }

    /// Counts a message with these times, received at `now_ns`. Returns false if it does not fit: the tally holds one
    /// receive time and at most [`MOMENTS_MAX`] publishing times. Call [`drain`](Tally::drain) first, then add it
    /// again.
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

    /// Passes each entry to `record` and empties the tally: times, time of receipt, count.
    pub(crate) fn drain(&mut self, mut record: impl FnMut(Times, u64, u64)) {
        self.moments.drain(..).for_each(|(times, count)| record(times, self.now_ns, count));
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(tally: &mut Tally) -> Vec<(u64, u64, u64)> {
        let mut drained = Vec::new();
        tally.drain(|times, now_ns, count| drained.push((times.intended_ns, now_ns, count)));
        drained
    }

    #[test]
    fn messages_are_counted_in_any_order() {
        let mut tally = Tally::new();
        assert!([1, 2, 3, 1, 2, 3, 3, 1, 4].into_iter().all(|published| tally.add(Times::now(published), 9)));
        assert_eq!(drained(&mut tally), [(1, 9, 3), (2, 9, 2), (3, 9, 3), (4, 9, 1)]);
        assert_eq!(drained(&mut tally), []);
    }

    #[test]
    fn messages_of_different_times_are_counted_apart() {
        let mut tally = Tally::new();
        assert!(tally.add(Times { intended_ns: 1, actual_ns: 1 }, 9));
        assert!(!tally.add(Times { intended_ns: 1, actual_ns: 1 }, 10), "another receive time does not fit");
        assert!(tally.add(Times { intended_ns: 1, actual_ns: 2 }, 9));
        assert_eq!(drained(&mut tally), [(1, 9, 1), (1, 9, 1)], "other actual times are counted apart");
        assert!(tally.add(Times::now(1), 10));
        let room = (2..).take_while(|published| tally.add(Times::now(*published), 10)).count();
        assert_eq!(room + 1, MOMENTS_MAX);
        assert!(tally.add(Times::now(1), 10), "a known publishing time needs no new entry");
    }
}
