//! Numbers that one thread counts and others read.
//!
//! Only the thread that owns a number writes it, so no read-modify-write is needed: a relaxed load and store on a line
//! that nobody else writes.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that one thread writes and others may read.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `count`. By the owning thread only.
    pub(crate) fn add(&self, count: u64) {
        self.set(self.get().wrapping_add(count));
    }

    /// Takes `count` off. By the owning thread only.
    pub(crate) fn sub(&self, count: u64) {
        self.set(self.get().wrapping_sub(count));
    }

    /// Sets the value. By the owning thread only.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Number of bounded buckets of a histogram.
const BOUNDS: usize = 18;

/// Durations that one thread counts, in buckets. All histograms have the same buckets, so they can be added.
#[derive(Debug, Default)]
pub struct Histogram {
    /// By [`Histogram::BOUNDS_US`], then the longer ones.
    counts: [Cell; BOUNDS + 1],
    sum_us: Cell,
}

impl Histogram {
    /// The upper bounds of the buckets in microseconds: each the double of the one before from 50 µs to 1.6 s, then 5
    /// and 10 s. A longer duration is in a last bucket without a bound.
    pub const BOUNDS_US: [u64; BOUNDS] = bounds_us();

    /// Counts a duration in microseconds. By the owning thread only.
    pub(crate) fn record(&self, us: u64) {
        self.counts[bucket(us)].add(1);
        self.sum_us.add(us);
    }

    /// The counts so far. Their parts are read one after the other: a duration that is counted meanwhile may
    /// be in the sum and not in a bucket, or the other way round.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot { counts: array::from_fn(|index| self.counts[index].get()), sum_us: self.sum_us.get() }
    }

    /// The sum of several histograms, such as those of all shards.
    pub fn sum<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> HistogramSnapshot {
        let mut sum = HistogramSnapshot::default();
        histograms.into_iter().for_each(|histogram| sum.add(&histogram.snapshot()));
        sum
    }
}

const fn bounds_us() -> [u64; BOUNDS] {
    let mut bounds = [0; BOUNDS];
    let mut index = 0;
    while index < DOUBLES {
        bounds[index] = FIRST_US << index;
        index += 1;
    }
    bounds[DOUBLES] = 5_000_000;
    bounds[DOUBLES + 1] = 10_000_000;
    bounds
}

/// The first bound.
const FIRST_US: u64 = 50;

/// Number of bounds of which each is the double of the one before.
const DOUBLES: usize = BOUNDS - 2;

/// The bucket of a duration: the first one whose bound is not less.
fn bucket(us: u64) -> usize {
    // The bits of a quotient say how often the first bound must be doubled.
    let doublings = (u64::BITS - (us.saturating_sub(1) / FIRST_US).leading_zeros()) as usize;
    match doublings {
        0..DOUBLES => doublings,
        _ => DOUBLES + Histogram::BOUNDS_US[DOUBLES..].iter().filter(|bound| us > **bound).count(),
    }
}

/// The counts of one or several histograms at some time.
///
/// The quantiles of a period are those of the difference of two snapshots:
///
/// ```
/// use std::time::Duration;
///
/// use ringfeed::server::metrics::{Histogram, HistogramSnapshot};
///
/// fn p99_since(last: &mut HistogramSnapshot, histogram: &Histogram) -> Option<Duration> {
///     let now = histogram.snapshot();
///     let p99 = now.since(last).quantile(0.99);
///     *last = now;
///     p99
/// }
/// # assert_eq!(p99_since(&mut HistogramSnapshot::default(), &Histogram::default()), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    counts: [u64; BOUNDS + 1],
    sum_us: u64,
}

impl HistogramSnapshot {
    /// The snapshot that a scrape shows: for each upper bound in seconds, how many durations do not exceed it, and the
    /// sum of all in seconds. Several numbers for one bound, of several labels, are added.
    #[cfg(feature = "product")]
    pub(crate) fn of_cumulative(buckets: impl Iterator<Item = (f64, u64)>, sum_s: f64) -> HistogramSnapshot {
        let mut up_to = [0; BOUNDS + 1];
        for (bound_s, count) in buckets {
            let bound_us = (bound_s * 1e6).round();
            let index = Histogram::BOUNDS_US.iter().position(|us| *us as f64 >= bound_us);
            up_to[index.unwrap_or(BOUNDS)] += count;
        }
        let (mut counts, mut below) = ([0; BOUNDS + 1], 0);
        for (count, up_to) in counts.iter_mut().zip(up_to) {
            let up_to = below.max(up_to);
            *count = up_to - below;
            below = up_to;
        }
        HistogramSnapshot { counts, sum_us: (sum_s * 1e6) as u64 }
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &HistogramSnapshot) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, other)| *count += other);
        self.sum_us += other.sum_us;
    }

    /// The counts since an `earlier` snapshot of the same histograms.
    pub fn since(&self, earlier: &HistogramSnapshot) -> HistogramSnapshot {
        HistogramSnapshot {
            counts: array::from_fn(|index| self.counts[index].saturating_sub(earlier.counts[index])),
            sum_us: self.sum_us.saturating_sub(earlier.sum_us),
        }
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of the durations.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }

    /// Each bucket: its upper bound in seconds, infinity for the last, and the number of durations in it alone.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = Histogram::BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts)
    }

    /// The duration that the share `quantile` of the counted ones, from 0 to 1, does not exceed: 0.5 is the median.
    /// `None` if none was counted. As Prometheus's `histogram_quantile`, it takes the durations of a bucket as evenly
    /// spread over it, and returns 10 s, the largest bound, for anything longer.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = quantile.clamp(0.0, 1.0) * self.count() as f64;
        let (mut below, mut lower_us) = (0.0, 0.0);
        for (count, upper_us) in self.counts.iter().zip(Histogram::BOUNDS_US) {
            let (count, upper_us) = (*count as f64, upper_us as f64);
            if count > 0.0 && below + count >= rank {
                let share = ((rank - below) / count).clamp(0.0, 1.0);
                return Some(Duration::from_secs_f64((lower_us + (upper_us - lower_us) * share) / 1e6));
            }
            (below, lower_us) = (below + count, upper_us);
        }
        (self.count() > 0).then(|| Duration::from_micros(Histogram::BOUNDS_US[BOUNDS - 1]))
    }
}

/// Events of several causes, which any thread may count. For what is rare: each count is a read-modify-write.
#[derive(Debug)]
pub(crate) struct Causes<const N: usize> {
    labels: [&'static str; N],
    counts: [AtomicU64; N],
}

impl<const N: usize> Causes<N> {
    /// Causes with these labels, none counted.
    pub(crate) const fn new(labels: [&'static str; N]) -> Causes<N> {
        Causes { labels, counts: [const { AtomicU64::new(0) }; N] }
    }

    /// Counts an event of the cause at `index`.
    pub(crate) fn count(&self, index: usize) {
        self.counts[index].fetch_add(1, Ordering::Relaxed);
    }

    /// The label of each cause, and its number of events.
    #[cfg(feature = "control")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.labels.into_iter().zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_the_first_bucket_that_holds_it() {
        let expected = |us: u64| Histogram::BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS);
        let around = |bound: &u64| [bound - 1, *bound, bound + 1];
        for us in Histogram::BOUNDS_US.iter().flat_map(around).chain([0, 1, 1_700_000, 60_000_000, u64::MAX]) {
            assert_eq!(bucket(us), expected(us), "{us} µs");
        }
        assert_eq!(Histogram::BOUNDS_US[..3], [50, 100, 200]);
        assert_eq!(Histogram::BOUNDS_US[DOUBLES - 1..], [1_638_400, 5_000_000, 10_000_000]);
    }

    #[test]
    fn quantiles_are_spread_over_their_bucket() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot().quantile(0.5), None);
        (0..90).for_each(|_| histogram.record(60));
        (0..10).for_each(|_| histogram.record(300));
        let snapshot = histogram.snapshot();
        let quantile = |q| snapshot.quantile(q).unwrap().as_micros();
        assert_eq!(
            [quantile(0.0), quantile(0.45), quantile(0.9), quantile(0.95), quantile(1.0)],
            [50, 75, 100, 300, 400]
        );
        assert_eq!((snapshot.count(), snapshot.sum()), (100, Duration::from_micros(8400)));
        histogram.record(60_000_000);
        assert_eq!(histogram.snapshot().quantile(1.0), Some(Duration::from_secs(10)));
    }

    #[cfg(feature = "control")]
    #[test]
    fn causes_are_counted_by_their_label() {
        let causes = Causes::new(["one", "two"]);
        causes.count(1);
        assert_eq!(causes.iter().collect::<Vec<_>>(), [("one", 0), ("two", 1)]);
    }

    #[test]
    fn snapshots_are_added_and_subtracted() {
        let (one, two) = (Histogram::default(), Histogram::default());
        one.record(10);
        let earlier = Histogram::sum([&one, &two]);
        one.record(1000);
        two.record(1000);
        let period = Histogram::sum([&one, &two]).since(&earlier);
        assert_eq!((period.count(), period.sum()), (2, Duration::from_millis(2)));
        let full: Vec<(f64, u64)> = period.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(full, [(0.0016, 2)]);
    }
}
