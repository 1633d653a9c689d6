//! When the next publication is due.

use std::fmt;
use std::time::Duration;

/// How a run is driven.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Closed loop: so many publications under way.
    InFlight(usize),
    /// Open loop: on schedule, whatever the server does.
    Rate {
        /// Publications per second.
        per_second: u32,
        /// Time of the first, nanoseconds.
        start_ns: u64,
        /// How many have been taken.
        taken: u64,
    },
}

impl Pace {
    pub(crate) fn in_flight(publications: u32) -> Pace {
        Pace::InFlight(publications as usize)
    }

    pub(crate) fn rate(per_second: u32) -> Pace {
        Pace::Rate { per_second, start_ns: 0, taken: 0 }
    }

    /// The schedule begins now.
    pub(crate) fn start(&mut self, now_ns: u64) {
        if let Pace::Rate { start_ns, .. } = self {
            *start_ns = now_ns;
        }
    }

    /// If a publication is due: the time it was meant for.
    pub(crate) fn take_due(&mut self, under_way: usize, now_ns: u64) -> Option<u64> {
        match self {
            Pace::InFlight(publications) => (under_way < *publications).then_some(now_ns),
            Pace::Rate { per_second, start_ns, taken } => {
                let intended_ns = scheduled_ns(*per_second, *start_ns, *taken);
                (intended_ns <= now_ns).then(|| {
                    *taken += 1;
                    intended_ns
                })
            }
        }
    }

    /// How long until the next is due, if that is a matter of time.
    pub(crate) fn next_due_in(&self, now_ns: u64) -> Option<Duration> {
        match self {
            Pace::InFlight(_) => None,
            Pace::Rate { per_second, start_ns, taken } => {
                let intended_ns = scheduled_ns(*per_second, *start_ns, *taken);
                Some(Duration::from_nanos(intended_ns.saturating_sub(now_ns)))
            }
        }
    }
}

/// From the count, not from the previous time, so that rounding never adds up.
fn scheduled_ns(per_second: u32, start_ns: u64, index: u64) -> u64 {
    start_ns + (u128::from(index) * 1_000_000_000 / u128::from(per_second)) as u64
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pace::InFlight(publications) => write!(f, "{publications} in flight"),
            Pace::Rate { per_second, .. } => write!(f, "{per_second} publications a second"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_fills_up_to_its_bound() {
        let mut pace = Pace::in_flight(2);
        assert_eq!(pace.take_due(1, 70), Some(70));
        assert_eq!(pace.take_due(2, 70), None);
    }

    #[test]
    fn a_schedule_that_fell_behind_keeps_its_intended_times() {
        let mut pace = Pace::rate(3);
        pace.start(1000);
        assert_eq!(pace.take_due(0, 999), None);
        assert_eq!(pace.next_due_in(400), Some(Duration::from_nanos(600)));
        let late: Vec<u64> = std::iter::from_fn(|| pace.take_due(100, 1_000_001_000)).collect();
        assert_eq!(late, [1000, 333_334_333, 666_667_666, 1_000_001_000]);
    }
}
