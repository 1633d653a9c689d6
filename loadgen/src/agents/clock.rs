//! Clocks of two machines, and how far apart they are.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The largest uncertainty of an offset, as a share of the median latency, with which the report has latencies.
const UNCERTAINTY_SHARE_MAX: f64 = 0.1;

/// The time of day when the program started, and from then on a clock that nobody sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    base: Instant,
    base_ns: i64,
}

impl Clock {
    /// A clock that is ahead of this machine's by `skew_ns`.
    pub(crate) fn skewed(skew_ns: i64) -> Clock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { base: Instant::now(), base_ns: since_epoch.as_nanos() as i64 + skew_ns }
    }

    /// Nanoseconds since 1970.
    pub(crate) fn now_ns(&self) -> i64 {
        self.at(Instant::now())
    }

    /// The same at this moment.
    pub(crate) fn at(&self, moment: Instant) -> i64 {
        self.base_ns + moment.saturating_duration_since(self.base).as_nanos() as i64
    }

    /// The moment at which the clock shows `ns`, if this machine can express it.
    pub(crate) fn moment(&self, ns: i64) -> Option<Instant> {
        let distance = Duration::from_nanos(ns.abs_diff(self.base_ns));
        if ns >= self.base_ns { self.base.checked_add(distance) } else { self.base.checked_sub(distance) }
    }
}

/// How far another clock is ahead of this one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Offset {
    pub(crate) ahead_ns: i64,
    /// The true value differs from that by at most this.
    pub(crate) uncertain_ns: i64,
}

impl Offset {
    /// From the answer of the other clock to a question: the clock shows `theirs_ns` at some time between both of this
    /// one's.
    fn of([asked_ns, answered_ns]: [i64; 2], theirs_ns: i64) -> Offset {
        let uncertain_ns = (answered_ns - asked_ns + 1) / 2;
        Offset { ahead_ns: theirs_ns - asked_ns - (answered_ns - asked_ns) / 2, uncertain_ns }
    }

    /// The least uncertain of several: the one with the shortest round trip.
    ///
    /// # Panics
    /// Without any.
    pub(crate) fn best(trips: impl Iterator<Item = ([i64; 2], i64)>) -> Offset {
        let all = trips.map(|(ours, theirs)| Offset::of(ours, theirs));
        all.min_by_key(|offset| offset.uncertain_ns).expect("there is a round trip")
    }

    /// The offset at the start, with what the one at the end adds to its uncertainty: the clocks may drift.
    pub(crate) fn until(self, end: Offset) -> Offset {
        let drift_ns = (self.ahead_ns - end.ahead_ns).abs();
        Offset { uncertain_ns: self.uncertain_ns.max(end.uncertain_ns) + drift_ns, ..self }
    }

    /// Whether it is known well enough for latencies with this median.
    pub(crate) fn allows(&self, median_us: f64) -> bool {
        self.uncertain_ns as f64 / 1e3 <= median_us * UNCERTAINTY_SHARE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_round_trip_tells_the_offset() {
        let trips = [([0, 900], 5_400), ([1_000, 1_100], 6_053), ([2_000, 2_500], 7_100)];
        let offset = Offset::best(trips.into_iter());
        assert_eq!(offset, Offset { ahead_ns: 5_003, uncertain_ns: 50 });
        let end = Offset { ahead_ns: 4_983, uncertain_ns: 70 };
        assert_eq!(offset.until(end), Offset { ahead_ns: 5_003, uncertain_ns: 90 });
        assert!(offset.allows(0.5) && !offset.allows(0.4), "50 ns are a tenth of 500 ns");
    }

    #[test]
    fn a_clock_can_be_ahead_and_finds_its_moments() {
        let (clock, ahead) = (Clock::skewed(0), Clock::skewed(3_000_000_000));
        let difference = ahead.now_ns() - clock.now_ns();
        assert!((3_000_000_000..3_500_000_000).contains(&difference), "{difference}");
        let now_ns = ahead.now_ns();
        let moment = ahead.moment(now_ns + 5).unwrap();
        assert_eq!(ahead.at(moment), now_ns + 5);
    }
}
