//! Medians of few runs, and how far to trust them.

use crate::wire::masking_keys::MaskingKeys;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;

/// The share of a confidence interval.
const CONFIDENCE: f64 = 0.95;

/// The median; of an even number of values the mean of the middle two.
///
/// # Panics
/// Without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The smallest and the largest value.
pub(crate) fn range(values: &[f64]) -> [f64; 2] {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    [min, values.iter().copied().fold(f64::NEG_INFINITY, f64::max)]
}

/// A 95 % confidence interval of the median: that of a bootstrap, widened to that of the sign test. Of so few runs a
/// bootstrap alone promises too much: of seven equal pairs it would find a difference in one of eight cases.
pub(crate) fn interval(values: &[f64]) -> [f64; 2] {
    let [low, high] = bootstrap(values);
    let [sign_low, sign_high] = by_signs(values);
    [low.min(sign_low), high.max(sign_high)]
}

/// The interval in which the medians of most resamples lie.
fn bootstrap(values: &[f64]) -> [f64; 2] {
    let mut random = MaskingKeys::new();
    let mut pick = || values[u32::from_ne_bytes(random.next()) as usize % values.len()];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let resample: Vec<f64> = (0..values.len()).map(|_| pick()).collect();
            median(&resample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let cut = (RESAMPLES as f64 * (1.0 - CONFIDENCE) / 2.0) as usize;
    [medians[cut], medians[RESAMPLES - 1 - cut]]
}

/// The order statistics between which the median lies with enough confidence, whatever the distribution.
fn by_signs(values: &[f64]) -> [f64; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (count, mut outside, mut ways, mut rank) = (sorted.len(), 0.0, 1.0, 0);
    let all = 2f64.powi(count as i32);
    // Both tails together must stay below the rest of the confidence.
    while rank < count / 2 {
        outside += 2.0 * ways / all;
        if outside > 1.0 - CONFIDENCE {
            break;
        }
        rank += 1;
        ways = ways * (count - rank + 1) as f64 / rank as f64;
    }
    let rank = rank.saturating_sub(1);
    [sorted[rank], sorted[count - 1 - rank]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!([median(&[5.0, 1.0, 3.0]), median(&[4.0, 1.0, 3.0, 2.0])], [3.0, 2.5]);
        assert_eq!(range(&[5.0, 1.0, 3.0]), [1.0, 5.0]);
    }

    #[test]
    fn the_sign_test_leaves_out_as_many_as_it_may() {
        let numbers = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(by_signs(&numbers(6)), [1.0, 6.0], "3 % outside");
        assert_eq!(by_signs(&numbers(8)), [1.0, 8.0], "the second of eight would have 7 % outside");
        assert_eq!(by_signs(&numbers(9)), [2.0, 8.0], "4 % outside");
        assert_eq!(by_signs(&numbers(12)), [3.0, 10.0], "4 % outside");
        assert_eq!(by_signs(&numbers(1)), [1.0, 1.0]);
    }

    /// Ratios of a server with itself: noise of some 10 %, as on a busy machine.
    fn ratios(rounds: usize, factor: f64, random: &mut MaskingKeys) -> Vec<f64> {
        let mut noise = || f64::from(u32::from_ne_bytes(random.next())) / f64::from(u32::MAX) - 0.5;
        (0..rounds).map(|_| factor * (1.0 + 0.1 * (noise() + noise() + noise() + noise()))).collect()
    }

    #[test]
    fn equal_servers_seldom_differ_and_a_clear_difference_is_found() {
        let mut random = MaskingKeys::new();
        let mut share_that_differs = |rounds, factor| {
            let differs = |_: &u32| {
                let [low, high] = interval(&ratios(rounds, factor, &mut random));
                low > 1.0 || high < 1.0
            };
            (0..50).filter(differs).count()
        };
        assert!(share_that_differs(7, 1.0) <= 2, "one in twenty at most");
        assert!(share_that_differs(12, 1.0) <= 4);
        assert!(share_that_differs(12, 1.15) >= 47);
    }
}
