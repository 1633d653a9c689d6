//! Latency histograms in fixed memory, with summaries for tables and curves for plots.
//!
//! A histogram has a fixed number of counters however long the run is; those of several workers are added.

use base64::prelude::{BASE64_STANDARD, Engine};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Longer latencies are recorded as this: a day.
const LATENCY_NS_MAX: u64 = 86_400_000_000_000;

/// The shares of messages in a curve, denser towards 1, where the interesting part is.
const CURVE: [f64; 22] = [
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.9999, 0.99995,
    0.99999, 0.999999, 1.0,
];

/// Latencies in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// Three significant digits: 310 kB.
    pub(crate) fn new() -> Latencies {
        Latencies::of_digits(3)
    }

    /// Two significant digits: 40 kB, for the many short ticks of a timeline.
    pub(crate) fn coarse() -> Latencies {
        Latencies::of_digits(2)
    }

    fn of_digits(digits: u8) -> Latencies {
        Latencies(
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, digits).expect("the bounds and the precision are valid"),
        )
    }

    /// Adds one latency.
    pub(crate) fn record(&mut self, latency_ns: u64) {
        self.record_many(latency_ns, 1);
    }

    /// Adds `count` equal latencies.
    pub(crate) fn record_many(&mut self, latency_ns: u64, count: u64) {
        self.0.saturating_record_n(latency_ns, count);
    }

    /// Removes all latencies.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds all latencies of `other`, which must have the same precision.
    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both histograms have the same bounds");
    }

    /// Number of latencies.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The quantile at `share`, in microseconds. Zero without latencies.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share).min(self.0.max()) as f64 / 1e3
    }

    /// Milliseconds, share of the latencies up to them, and their number, with so many for each halving of the rest.
    pub(crate) fn percentiles(&self, per_halving: u32) -> Vec<(f64, f64, u64)> {
        let mut count = 0;
        let rows = self.0.iter_quantiles(per_halving).map(|row| {
            count += row.count_since_last_iteration();
            (row.value_iterated_to().min(self.0.max()) as f64 / 1e6, row.quantile_iterated_to(), count)
        });
        rows.collect()
    }

    /// Mean, standard deviation and maximum, in milliseconds.
    pub(crate) fn moments_ms(&self) -> [f64; 3] {
        [self.0.mean(), self.0.stdev(), self.0.max() as f64].map(|ns| ns / 1e6)
    }

    /// The histogram in HdrHistogram's encoding V2, compressed, as base64.
    pub(crate) fn encoded(&self) -> String {
        let mut bytes = Vec::new();
        let done = V2DeflateSerializer::new().serialize(&self.0, &mut bytes);
        done.expect("the counts fit, and memory takes all bytes");
        BASE64_STANDARD.encode(bytes)
    }

    /// The histogram that [`encoded`](Self::encoded) wrote, of three significant digits.
    ///
    /// # Errors
    /// If the text is none, or has other bounds.
    pub(crate) fn decoded(text: &str) -> Result<Latencies, String> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|error| format!("no histogram: {error}"))?;
        let decoded: Result<Histogram<u64>, _> = Deserializer::new().deserialize(&mut &bytes[..]);
        let mut latencies = Latencies::new();
        latencies
            .0
            .add(decoded.map_err(|error| format!("no histogram: {error}"))?)
            .map_err(|error| error.to_string())?;
        Ok(latencies)
    }

    /// The usual quantiles; `None` without latencies.
    pub(crate) fn summary_if_any(&self) -> Option<Summary> {
        (self.count() > 0).then(|| self.summary())
    }

    /// The usual quantiles of at least one latency.
    fn summary(&self) -> Summary {
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

    /// The curve, up to the share that the number of messages can resolve.
    fn curve(&self) -> Vec<CurvePoint> {
        let told = |share: &f64| *share == 1.0 || (1.0 - share) * self.count() as f64 >= 1.0;
        let points = CURVE.into_iter().filter(told);
        points.map(|share| CurvePoint { share, us: self.quantile_us(share) }).collect()
    }
}

/// Microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Number of latencies.
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) curve: Vec<CurvePoint>,
}

/// This share of the messages took at most `us` microseconds.
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
        let summary = thousand().summary_if_any().unwrap();
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
    fn a_curve_is_monotonic_and_ends_at_the_resolution_of_the_sample() {
        let curve = thousand().summary_if_any().unwrap().curve;
        assert!(curve.is_sorted_by(|a, b| a.share < b.share && a.us <= b.us));
        let shares: Vec<f64> = curve.iter().map(|point| point.share).collect();
        assert_eq!(shares[shares.len() - 2..], [0.999, 1.0]);
    }

    #[test]
    fn histograms_of_workers_add_up_and_long_latencies_are_capped() {
        let (mut all, mut other) = (thousand(), Latencies::new());
        other.record(u64::MAX);
        all.merge(&other);
        assert_eq!(all.count(), 1001);
        assert!((all.quantile_us(1.0) / 86_400e6 - 1.0).abs() < 1e-3);
        all.clear();
        assert_eq!(all.summary_if_any(), None);
    }

    #[test]
    fn an_encoded_histogram_is_read_back() {
        let decoded = Latencies::decoded(&thousand().encoded()).unwrap();
        assert_eq!(decoded.summary_if_any(), thousand().summary_if_any());
        assert_eq!(Latencies::decoded(&Latencies::new().encoded()).unwrap().count(), 0);
        assert!(Latencies::decoded("?").is_err() && Latencies::decoded("AAAA").is_err());
    }

    #[test]
    fn more_than_a_minute_is_told_in_full() {
        let mut latencies = Latencies::new();
        latencies.record(70_000_000_000);
        assert!((latencies.quantile_us(0.99) / 70e6 - 1.0).abs() < 1e-3);
    }
}
