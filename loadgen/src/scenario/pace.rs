//! Decides when the next publication is due.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::scenario::curve::Curve;

/// The load model of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Pace {
    /// Closed loop: this many publications in flight.
    InFlight(usize),
    /// Open loop: on schedule, even if the server falls behind.
    Rate {
        /// Publications per second.
        per_second: Curve,
        /// Time of the first publication, nanoseconds.
        start_ns: u64,
        /// Number of publications taken so far.
        taken: u64,
        /// Number of publications due at the same time.
        burst: u32,
        /// Optional limit of publications in flight: at the limit the schedule waits, and due publications go out
        /// later.
        in_flight: Option<usize>,
    },
}

impl Pace {
    /// An open loop at `rate`, or without one a closed loop with `in_flight` publications, by default one.
    pub(crate) fn new(rate: Option<u32>, in_flight: Option<u32>) -> Pace {
        let in_flight = in_flight.map(|publications| publications as usize);
        match rate {
            Some(per_second) => Pace::at(Curve::flat(per_second.into()), in_flight),
            None => Pace::InFlight(in_flight.unwrap_or(1)),
        }
    }

    /// An open loop at this rate, with at most so many publications in flight.
    pub(crate) fn at(per_second: Curve, in_flight: Option<usize>) -> Pace {
        Pace::Rate { per_second, start_ns: 0, taken: 0, burst: 1, in_flight }
    }

    /// The same at another rate.
    pub(crate) fn over(mut self, curve: Curve) -> Pace {
        if let Pace::Rate { per_second, .. } = &mut self {
            *per_second = curve;
        }
        self
    }

    /// The same rate in bursts of `publications`.
    pub(crate) fn in_bursts(mut self, publications: u32) -> Pace {
        if let Pace::Rate { burst, .. } = &mut self {
            *burst = publications;
        }
        self
    }

    /// Whether there is a schedule.
    pub(crate) fn is_open_loop(&self) -> bool {
        matches!(self, Pace::Rate { .. })
    }

    /// Whether only the load generator can delay the schedule: with a limit in flight, the server can, too.
    pub(crate) fn is_client_driven(&self) -> bool {
        matches!(self, Pace::Rate { in_flight: None, .. })
    }

    /// Whether the next publication is due before this time, and nothing can hold it up.
    pub(crate) fn is_due_before(&self, end_ns: u64) -> bool {
        match self {
            Pace::Rate { per_second, start_ns, taken, burst, in_flight: None } => {
                scheduled_ns(per_second, *start_ns, *taken, *burst).is_some_and(|intended_ns| intended_ns < end_ns)
            }
            Pace::Rate { .. } | Pace::InFlight(_) => false,
        }
    }

    /// Starts the schedule at this time, from its beginning.
    pub(crate) fn start(&mut self, now_ns: u64) {
        if let Pace::Rate { start_ns, taken, .. } = self {
            (*start_ns, *taken) = (now_ns, 0);
        }
    }

    /// Takes the next publication if it is due, and returns its scheduled time.
    pub(crate) fn take_due(&mut self, under_way: usize, now_ns: u64) -> Option<u64> {
        match self {
            Pace::InFlight(publications) => (under_way < *publications).then_some(now_ns),
            Pace::Rate { per_second, start_ns, taken, burst, in_flight } => {
                let intended_ns = scheduled_ns(per_second, *start_ns, *taken, *burst)?;
                let is_held_up = in_flight.is_some_and(|publications| under_way >= publications);
                (intended_ns <= now_ns && !is_held_up).then(|| {
                    *taken += 1;
                    intended_ns
                })
            }
        }
    }

    /// Time until the next publication is due; `None` if it depends on deliveries instead, or there is none.
    pub(crate) fn next_due_in(&self, under_way: usize, now_ns: u64) -> Option<Duration> {
        match self {
            Pace::InFlight(_) => None,
            Pace::Rate { in_flight: Some(publications), .. } if under_way >= *publications => None,
            Pace::Rate { per_second, start_ns, taken, burst, .. } => {
                let intended_ns = scheduled_ns(per_second, *start_ns, *taken, *burst)?;
                Some(Duration::from_nanos(intended_ns.saturating_sub(now_ns)))
            }
        }
    }
}

/// Computed from the index, not from the previous time, so that rounding errors do not add up. `None` if the rate stays
/// at zero.
fn scheduled_ns(per_second: &Curve, start_ns: u64, index: u64, burst: u32) -> Option<u64> {
    let first = index - index % u64::from(burst);
    Some(start_ns + (per_second.reaches(first as f64)? * 1e9) as u64)
}

/// The rate, in words.
fn rate(per_second: &Curve) -> String {
    let [low, high] = per_second.range();
    if low == high { format!("{high} publications a second") } else { format!("{low} to {high} publications a second") }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pace::InFlight(publications) => write!(f, "{publications} in flight"),
            Pace::Rate { per_second, burst: burst @ 2.., in_flight: None, .. } => {
                write!(f, "{}, {burst} at once", rate(per_second))
            }
            Pace::Rate { per_second, in_flight: None, .. } => f.write_str(&rate(per_second)),
            Pace::Rate { per_second, in_flight: Some(publications), .. } => {
                write!(f, "{}, at most {publications} in flight", rate(per_second))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_fills_up_to_its_bound() {
        let mut pace = Pace::new(None, Some(2));
        assert_eq!(pace.take_due(1, 70), Some(70));
        assert_eq!(pace.take_due(2, 70), None);
    }

    #[test]
    fn a_schedule_that_fell_behind_keeps_its_intended_times() {
        let mut pace = Pace::new(Some(3), None);
        pace.start(1000);
        assert_eq!(pace.take_due(0, 999), None);
        assert_eq!(pace.next_due_in(100, 400), Some(Duration::from_nanos(600)));
        let late: Vec<u64> = std::iter::from_fn(|| pace.take_due(100, 1_000_001_000)).collect();
        assert_eq!(late, [1000, 333_334_333, 666_667_666, 1_000_001_000]);
    }

    #[test]
    fn a_burst_is_due_at_one_time() {
        let mut pace = Pace::new(Some(1000), None).in_bursts(2);
        let times: Vec<u64> = std::iter::from_fn(|| pace.take_due(0, 3_999_999)).collect();
        assert_eq!(times, [0, 0, 2_000_000, 2_000_000]);
        assert_eq!(pace.to_string(), "1000 publications a second, 2 at once");
    }

    #[test]
    fn a_delayed_schedule_keeps_its_intended_times() {
        let mut pace = Pace::new(Some(1000), Some(1));
        assert_eq!((pace.take_due(0, 0), pace.take_due(1, 2_500_000)), (Some(0), None));
        assert_eq!((pace.next_due_in(1, 2_500_000), pace.next_due_in(0, 2_500_000)), (None, Some(Duration::ZERO)));
        assert_eq!((pace.take_due(0, 2_500_000), pace.take_due(0, 2_500_000)), (Some(1_000_000), Some(2_000_000)));
    }

    #[test]
    fn a_schedule_over_stages_follows_their_rates_and_begins_anew_when_started() {
        let stages = [(1, 2.0), (1, 6.0)].map(|(seconds, rate)| (Duration::from_secs(seconds), rate));
        let mut pace = Pace::new(Some(2), None).over(Curve::through(&stages));
        for start_ns in [0, 5_000_000_000] {
            pace.start(start_ns);
            let times: Vec<u64> = std::iter::from_fn(|| pace.take_due(0, start_ns + 1_999_999_999)).collect();
            assert_eq!((times.len(), times[1] - start_ns, times[2] - start_ns), (6, 500_000_000, 1_000_000_000));
        }
        assert_eq!(pace.to_string(), "2 to 6 publications a second");
    }
}
