//! Latencies: recorded in fixed memory, summed up for people, and as a curve for plots.
//!
//! One histogram holds a fixed number of counters however long the run is; those of several workers are added up.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longer ones count as this long.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// The shares of messages that a curve tells of: closer to 1 ever denser, as the interesting part is there.
const CURVE: [f64; 22] = [
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.9999, 0.99995,
    0.99999, 0.999999, 1.0,
];

/// Latencies in nanoseconds.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// Told apart to three digits: 220 kB.
    pub(crate) fn new() -> Latencies {
        Latencies::of_digits(3)
    }

    /// Told apart to two digits: 18 kB, for the many short stretches of a timeline.
    pub(crate) fn coarse() -> Latencies {
        Latencies::of_digits(2)
    }

    fn of_digits(digits: u8) -> Latencies {
        Latencies(Histogram::new_with_bounds(1, LATENCY_NS_MAX, digits).expect("a minute fits"))
    }

    /// Adds one.
    pub(crate) fn record(&mut self, latency_ns: u64) {
        self.record_many(latency_ns, 1);
    }

    /// Adds `count` that are alike.
    pub(crate) fn record_many(&mut self, latency_ns: u64, count: u64) {
        self.0.saturating_record_n(latency_ns, count);
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds all of `other`, which tells as many digits apart.
    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// So many microseconds or less took this share of them. Zero if there are none.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share).min(self.0.max()) as f64 / 1e3
    }

    /// What people ask for.
    pub(crate) fn summary(&self) -> Summary {
        Summary {
            count: self.count(),
            mean_us: self.0.mean() / 1e3,
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            p999_us: self.quantile_us(0.999),
            max_us: self.quantile_us(1.0),
            curve: self.curve(),
        }
    }

    /// As far as there are messages enough to tell shares apart.
    fn curve(&self) -> Vec<CurvePoint> {
        let told = |share: &f64| *share == 1.0 || (1.0 - share) * self.count() as f64 >= 1.0;
        let points = CURVE.into_iter().filter(told);
        points.map(|share| CurvePoint { share, us: self.quantile_us(share) }).collect()
    }
}

/// Microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Latencies recorded.
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) curve: Vec<CurvePoint>,
}

/// So many microseconds or less took this share of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CurvePoint {
    pub(crate) share: f64,
    pub(crate) us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thousand() -> Latencies {
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|us| latencies.record(us * 1000));
        latencies
    }

    #[test]
    fn a_summary_is_right_to_three_digits() {
        let summary = thousand().summary();
        let near = |is: f64, should: f64| assert!((is - should).abs() <= should / 500.0, "{is} instead of {should}");
        near(summary.mean_us, 500.5);
        near(summary.p50_us, 500.0);
        near(summary.p90_us, 900.0);
        near(summary.p99_us, 990.0);
        near(summary.p999_us, 999.0);
        near(summary.max_us, 1000.0);
        assert_eq!(summary.count, 1000);
    }

    #[test]
    fn a_curve_never_falls_and_tells_no_share_that_one_message_does_not_make() {
        let curve = thousand().summary().curve;
        assert!(curve.is_sorted_by(|a, b| a.share < b.share && a.us <= b.us));
        let shares: Vec<f64> = curve.iter().map(|point| point.share).collect();
        assert_eq!(shares[shares.len() - 2..], [0.999, 1.0]);
    }

    #[test]
    fn histograms_of_workers_add_up_and_nothing_is_too_long() {
        let (mut all, mut other) = (thousand(), Latencies::new());
        other.record(u64::MAX);
        all.merge(&other);
        assert_eq!(all.count(), 1001);
        assert!((all.summary().max_us - 60e6).abs() < 60e3);
        all.clear();
        assert_eq!(all.summary(), Summary { curve: vec![CurvePoint { share: 1.0, us: 0.0 }], ..Summary::default() });
    }
}
