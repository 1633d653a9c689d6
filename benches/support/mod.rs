//! A harness that compares two contenders in one process: they take turns, many times, and it reports medians.
//!
//! Turns make a ratio meaningful on a machine with other load: both sides of a pair run under the same load and clock
//! frequency, and the ratio is the median over the pairs. Absolute numbers are only for orientation.
//!
//! `cargo bench` measures. With `-- --record` it also writes its output to `benches/results/`. Without the `--bench`
//! that cargo adds, as in `cargo test --benches`, everything runs just often enough to check the results.

mod record;

use std::hint::black_box;
use std::time::{Duration, Instant};

use record::Record;

/// Number of pairs for the medians.
const PAIRS: usize = 41;
/// Approximate length of one turn: far longer than reading the clock, far shorter than a time slice.
const TURN: Duration = Duration::from_micros(200);

/// One of the two sides of a comparison.
pub(crate) trait Contender {
    /// The work that is timed.
    fn work(&mut self);

    /// Panics unless all work so far was correct. Called after each turn, outside the measured time.
    fn check(&self);
}

/// The comparisons of one bench target, and their results.
pub(crate) struct Comparisons {
    record: Record,
}

impl Comparisons {
    /// Reads from the command line whether to measure and whether to record; `name` is part of the file name.
    pub(crate) fn from_command_line(name: &'static str) -> Self {
        Self { record: Record::from_command_line(name) }
    }

    /// Begins a table: `title` describes the comparison in full.
    pub(crate) fn table(&mut self, title: &str, baseline: &str, candidate: &str) {
        self.record.line(&format!("\n{title}"));
        self.record.line(&format!("{:<28} {baseline:>16} {candidate:>16}   ratio (quartiles)", "median GB/s"));
    }

    /// Lets the two contenders take turns at a work of `bytes` bytes, and adds a row: the speed of both, and the
    /// speed-up of the candidate.
    ///
    /// Each contender has several copies that are used in rotation, see [`copies`].
    pub(crate) fn compare<B: Contender, C: Contender>(
        &mut self,
        row: &str,
        bytes: usize,
        baseline: impl Fn(usize) -> B,
        candidate: impl Fn(usize) -> C,
    ) {
        let mut baseline: Vec<B> = (0..copies(bytes)).map(baseline).collect();
        let mut candidate: Vec<C> = (0..copies(bytes)).map(candidate).collect();
        let (pairs, rounds) = if self.record.measures { (PAIRS, rounds_per_turn(&mut baseline)) } else { (1, 2) };
        let mut baseline_seconds = Vec::new();
        let mut candidate_seconds = Vec::new();
        for _ in 0..pairs {
            baseline_seconds.push(turn(&mut baseline, rounds).as_secs_f64());
            candidate_seconds.push(turn(&mut candidate, rounds).as_secs_f64());
        }
        let mut ratios: Vec<f64> = baseline_seconds.iter().zip(&candidate_seconds).map(|(b, c)| b / c).collect();
        let gigabytes = (bytes * rounds * copies(bytes)) as f64 / 1e9;
        self.record.line(&format!(
            "{row:<28} {:>16.2} {:>16.2}   {:>5.2} ({:.2} to {:.2})",
            gigabytes / quantile(&mut baseline_seconds, 0.5),
            gigabytes / quantile(&mut candidate_seconds, 0.5),
            quantile(&mut ratios, 0.5),
            quantile(&mut ratios, 0.25),
            quantile(&mut ratios, 0.75),
        ));
    }

    /// Writes the record, if requested.
    pub(crate) fn finish(self) {
        self.record.finish();
    }
}

/// The number of copies of a work of `bytes` bytes to use in rotation: enough that small copies do not read data the
/// processor is still writing, which would be slow and unrealistic, and few enough that all stay in the first-level
/// cache.
fn copies(bytes: usize) -> usize {
    (8192 / bytes).clamp(1, 16)
}

/// The number of rounds per turn: doubled until a turn is long enough.
fn rounds_per_turn(copies: &mut [impl Contender]) -> usize {
    let mut rounds = 1;
    while turn(copies, rounds) < TURN {
        rounds *= 2;
    }
    rounds
}

fn turn(copies: &mut [impl Contender], rounds: usize) -> Duration {
    let start = Instant::now();
    for _ in 0..rounds {
        for contender in &mut *copies {
            black_box(contender).work();
        }
    }
    let elapsed = start.elapsed();
    copies.iter().for_each(Contender::check);
    elapsed
}

fn quantile(values: &mut [f64], fraction: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * fraction).round() as usize]
}
