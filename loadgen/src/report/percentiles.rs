//! Latencies in the formats of HdrHistogram: a table of percentiles, and an interval log.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::report::latency::Latencies;
use crate::report::timeline::{History, Interval};

/// Lines per halving of the distance to 100 %, as wrk2 prints them.
const LINES_PER_HALVING: u32 = 5;

/// The table of percentiles that HdrHistogram's plotter reads, in milliseconds.
pub(crate) fn table(latencies: &Latencies) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for (ms, share, count) in latencies.percentiles(LINES_PER_HALVING) {
        let _ = match share {
            ..1.0 => writeln!(text, "{ms:12.3} {share:2.12} {count:10} {:14.2}", 1.0 / (1.0 - share)),
            _ => writeln!(text, "{ms:12.3} {share:2.12} {count:10}"),
        };
    }
    let [mean, deviation, max] = latencies.moments_ms();
    let _ = write!(
        text,
        "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n\
         #[Max     = {max:12.3}, Total count    = {:12}]\n",
        latencies.count()
    );
    text
}

/// The interval log, version 1.3, with histograms in nanoseconds; the longest latency of each tick is in milliseconds.
pub(crate) fn log(history: &History, started: SystemTime) -> String {
    let since_epoch = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut text = format!(
        "#[Histogram log format version 1.3]\n#[StartTime: {since_epoch:.3} (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n"
    );
    for Interval { start_s, length_s, max_ms, encoded } in &history.intervals {
        let _ = writeln!(text, "{start_s:.3},{length_s:.3},{max_ms:.3},{encoded}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_ends_at_the_longest_latency() {
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|us| latencies.record(us * 1000));
        let table = table(&latencies);
        let rows: Vec<Vec<f64>> = table
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|number| number.parse().unwrap()).collect())
            .collect();
        assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]), "{table}");
        let (first, last) = (rows.first().unwrap(), rows.last().unwrap());
        assert_eq!((first[1], last[1], last[2], last.len()), (0.0, 1.0, 1000.0, 3), "{table}");
        assert!((last[0] - 1.0).abs() < 0.002 && table.contains("Total count    =         1000]"), "{table}");
        let median = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((median[0] - 0.5).abs() < 0.002 && median[3] == 2.0, "{median:?}");
    }
}
