//! Medians, and ratios of runs of the same round.

use crate::measure::{Measurement, Report};

/// The median; of an even number of values the mean of the middle two. `None` without values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Median, minimum and maximum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Option<Spread> {
        let median = median(values.iter().copied())?;
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Spread { median, min, max })
    }
}

/// The runs of one server in one case.
pub(crate) fn runs<'m>(
    measurements: &'m [Measurement],
    case: &'m str,
    server: &'m str,
) -> impl Iterator<Item = &'m Measurement> + Clone {
    measurements.iter().filter(move |run| run.case == case && run.server == server)
}

/// `figure` of `server` divided by that of `other`, for each round with a run of both.
pub(crate) fn ratios(
    measurements: &[Measurement],
    case: &str,
    [server, other]: [&str; 2],
    figure: impl Fn(&Report) -> f64,
) -> Vec<f64> {
    runs(measurements, case, server)
        .filter_map(|run| {
            let beside = runs(measurements, case, other).find(|beside| beside.round == run.round)?;
            Some(figure(&run.report) / figure(&beside.report))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Cores, Faults, Latency, SelfCheck, ServerCost, Summary};

    fn measurement(round: u32, server: &'static str, cpu_ns_each: f64) -> Measurement {
        let report = Report {
            count: 1,
            per_second: 1.0,
            latency: Latency::closed_loop(Summary { p50_us: 1.0, p99_us: 1.0, p999_us: 1.0, max_us: 1.0 }),
            slowest_share: 1.0,
            client_cpus: 1.0,
            self_check: SelfCheck { client_bound: false },
            server: ServerCost { cpus: 1.0, cpu_ns_each, per_cpu_second: 1e9 / cpu_ns_each, resident_bytes: 1 },
            figures: Vec::new(),
            faults: Faults::default(),
            afterwards: crate::measure::Afterwards::default(),
            cores: Cores::default(),
        };
        Measurement { case: "case".to_owned(), round, server, report }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(median([5.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(Spread::of(&[5.0, 1.0, 3.0]), Some(Spread { median: 3.0, min: 1.0, max: 5.0 }));
    }

    #[test]
    fn ratios_pair_runs_of_the_same_round() {
        let runs = [
            measurement(0, "a", 20.0),
            measurement(0, "b", 10.0),
            measurement(1, "b", 100.0),
            measurement(1, "a", 150.0),
            measurement(2, "a", 7.0),
        ];
        assert_eq!(ratios(&runs, "case", ["a", "b"], |report| report.server.cpu_ns_each), [2.0, 1.5]);
        assert!(ratios(&runs, "another", ["a", "b"], |report| report.server.cpu_ns_each).is_empty());
    }
}
