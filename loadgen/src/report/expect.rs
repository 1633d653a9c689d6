//! Expectations of a report, such as `p99<250ms`: a run that does not meet them fails.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::check::faults::Counts;
use crate::error::Error;
use crate::report::Report;
use crate::report::latency::{Latencies, Summary};
use crate::report::text::{bytes, microseconds, three_digits};

/// Longest file of expectations in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// One expectation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expectation {
    text: String,
    figure: Figure,
    relation: Relation,
    value: f64,
}

/// A figure of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Figure {
    /// A latency: which one, `None` for the one to rely on, and which quantile.
    Latency(Option<&'static str>, &'static str),
    /// Faults of this kind, or of all.
    Faults(&'static str),
    Number(&'static str),
    /// A figure that only some scenarios report.
    OfScenario(String),
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Microseconds,
    Nanoseconds,
    Bytes,
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    Other,
}

/// Relations by their signs, the longer ones first.
const RELATIONS: [(&str, Relation); 6] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("==", Relation::Equal),
    ("!=", Relation::Other),
    ("<", Relation::Less),
    (">", Relation::More),
];

/// Latencies that have quantiles of their own.
const LATENCIES: [&str; 4] = ["corrected", "uncorrected", "watched", "acknowledged"];

const QUANTILES: [&str; 6] = ["mean", "p50", "p90", "p99", "p999", "max"];

/// Numbers of the report, with their units.
const NUMBERS: [(&str, Unit); 13] = [
    ("count", Unit::Plain),
    ("per_second", Unit::Plain),
    ("seconds", Unit::Plain),
    ("connections", Unit::Plain),
    ("slowest_share", Unit::Plain),
    ("client_cpus", Unit::Plain),
    ("client_bound", Unit::Plain),
    ("busy_share", Unit::Plain),
    ("server_cpus", Unit::Plain),
    ("cpu_ns_each", Unit::Nanoseconds),
    ("per_cpu_second", Unit::Plain),
    ("server_bytes", Unit::Bytes),
    ("faulty_connections", Unit::Plain),
];

/// Factors of units, relative to microseconds, nanoseconds and bytes.
const TIMES: [(&str, f64); 4] = [("ns", 1e-3), ("us", 1.0), ("ms", 1e3), ("s", 1e6)];
const SIZES: [(&str, f64); 4] = [("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("B", 1.0)];

/// An expectation and what became of it, as the report has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) expected: String,
    pub(crate) holds: bool,
    /// The figure, in words.
    pub(crate) got: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { expected, holds, got } = self;
        if *holds { write!(f, "{expected}: {got}") } else { write!(f, "expected {expected}, got {got}") }
    }
}

impl Figure {
    fn parse(name: &str) -> Option<Figure> {
        if let Some(name) = name.strip_prefix("figure:") {
            return Some(Figure::OfScenario(name.trim().to_owned()));
        }
        let known = |list: &[&'static str], name: &str| list.iter().copied().find(|known| *known == name);
        if let Some(quantile) = known(&QUANTILES, name) {
            return Some(Figure::Latency(None, quantile));
        }
        if let Some((latency, quantile)) = name.split_once('.') {
            return Some(Figure::Latency(Some(known(&LATENCIES, latency)?), known(&QUANTILES, quantile)?));
        }
        let kinds = Counts::default().named().map(|(kind, _)| kind);
        let faults = known(&["faults"], name).or_else(|| known(&kinds, name)).map(Figure::Faults);
        faults.or_else(|| NUMBERS.iter().find(|(known, _)| *known == name).map(|(name, _)| Figure::Number(name)))
    }

    fn unit(&self) -> Unit {
        match self {
            Figure::Latency(..) => Unit::Microseconds,
            Figure::Number(name) => {
                NUMBERS.iter().find(|(known, _)| known == name).map_or(Unit::Plain, |(_, unit)| *unit)
            }
            Figure::Faults(_) | Figure::OfScenario(_) => Unit::Plain,
        }
    }

    /// The figure in `report`, with its unit in words; `None` if the run did not measure it.
    fn of(&self, report: &Report) -> Option<f64> {
        match self {
            Figure::Latency(None, quantile) => report.latency.honest().map(|summary| quantile_us(summary, quantile)),
            Figure::Latency(Some(name), quantile) => {
                let named = report.latency.named();
                let (_, _, summary) = named.into_iter().find(|(known, ..)| known == name)?;
                Some(quantile_us(summary, quantile))
            }
            Figure::Faults(kind) => Some(count_of(&report.faults.counts, kind) as f64),
            Figure::Number(name) => number(report, name),
            Figure::OfScenario(name) => {
                report.figures.iter().find(|figure| figure.name == *name).map(|figure| figure.value)
            }
        }
    }

    fn words(&self, value: f64) -> String {
        match self.unit() {
            Unit::Microseconds => microseconds(value),
            Unit::Nanoseconds => microseconds(value / 1e3),
            Unit::Bytes => bytes(value),
            Unit::Plain if value.fract() == 0.0 => format!("{value}"),
            Unit::Plain => three_digits(value),
        }
    }
}

fn quantile_us(summary: &Summary, quantile: &str) -> f64 {
    match quantile {
        "mean" => summary.mean_us,
        "p50" => summary.p50_us,
        "p90" => summary.p90_us,
        "p99" => summary.p99_us,
        "p999" => summary.p999_us,
        _ => summary.max_us,
    }
}

fn count_of(counts: &Counts, kind: &str) -> u64 {
    match kind {
        "faults" => counts.sum(),
        kind => counts.named().into_iter().find(|(name, _)| *name == kind).map_or(0, |(_, count)| count),
    }
}

fn number(report: &Report, name: &str) -> Option<f64> {
    let server = report.server.as_ref();
    Some(match name {
        "count" => report.count as f64,
        "per_second" => report.per_second,
        "seconds" => report.seconds,
        "connections" => f64::from(report.connections),
        "slowest_share" => report.slowest_share,
        "client_cpus" => report.client_cpus,
        "client_bound" => f64::from(u8::from(report.self_check.client_bound)),
        "busy_share" => report.self_check.busy_share,
        "faulty_connections" => report.faults.connections as f64,
        "server_cpus" => server?.cpus,
        "cpu_ns_each" => server?.cpu_ns_each,
        "per_cpu_second" => server?.per_cpu_second,
        _ => server?.resident_bytes as f64,
    })
}

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Expectation, String> {
        let (at, sign, relation) = RELATIONS
            .iter()
            .filter_map(|(sign, relation)| Some((text.find(sign)?, *sign, *relation)))
            // The first in the text; of two at the same place the longer.
            .min_by_key(|(at, ..)| *at)
            .ok_or("expected a comparison, such as p99<250ms or faults==0")?;
        let (name, value) = (text[..at].trim(), text[at + sign.len()..].trim());
        let figure = Figure::parse(name).ok_or_else(|| unknown_figure(name))?;
        let value = parse_value(value, figure.unit())?;
        Ok(Expectation { text: text.trim().to_owned(), figure, relation, value })
    }
}

fn unknown_figure(name: &str) -> String {
    let kinds = Counts::default().named().map(|(kind, _)| kind);
    let numbers = NUMBERS.map(|(name, _)| name);
    format!(
        "no figure has the name {name:?}: there are {}; each with {} before it, as in corrected.p99; faults, {}; {}; and \
         figure:NAME for one that only the scenario reports",
        QUANTILES.join(", "),
        LATENCIES.map(|name| format!("{name}.")).join(", "),
        kinds.join(", "),
        numbers.join(", ")
    )
}

fn parse_value(text: &str, unit: Unit) -> Result<f64, String> {
    match text {
        "true" => return Ok(1.0),
        "false" => return Ok(0.0),
        _ => {}
    }
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '_'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: f64 =
        number.replace('_', "").parse().map_err(|_| format!("expected a number after the comparison, not {text:?}"))?;
    let factor =
        |units: &[(&str, f64)]| units.iter().find(|(name, _)| *name == suffix.trim()).map(|(_, factor)| *factor);
    let (factor, example) = match unit {
        Unit::Microseconds => (factor(&TIMES), "a time needs a unit: ns, us, ms or s, as in p99<250ms"),
        Unit::Nanoseconds if suffix.is_empty() => (Some(1.0), ""),
        Unit::Nanoseconds => (factor(&TIMES).map(|us| us * 1e3), "expected ns, us, ms or s after the number"),
        Unit::Bytes if suffix.is_empty() => (Some(1.0), ""),
        Unit::Bytes => (factor(&SIZES), "expected B, kB, MB or GB after the number"),
        Unit::Plain => (suffix.is_empty().then_some(1.0), "expected a number without a unit"),
    };
    factor.map(|factor| number * factor).ok_or_else(|| format!("{example}, not {text:?}"))
}

impl Relation {
    fn holds(self, got: f64, value: f64) -> bool {
        match self {
            Relation::Less => got < value,
            Relation::AtMost => got <= value,
            Relation::More => got > value,
            Relation::AtLeast => got >= value,
            Relation::Equal => got == value,
            Relation::Other => got != value,
        }
    }

    /// Whether a figure that only grows can't meet this any more once it does not.
    fn is_upper_bound(self) -> bool {
        matches!(self, Relation::Less | Relation::AtMost | Relation::Equal)
    }
}

impl Expectation {
    /// Compares with `report`. A figure that the run did not measure does not meet anything.
    pub(crate) fn check(&self, report: &Report) -> Outcome {
        let got = self.figure.of(report);
        Outcome {
            expected: self.text.clone(),
            holds: got.is_some_and(|got| self.relation.holds(got, self.value)),
            got: got.map_or("no such figure in this run".to_owned(), |got| self.figure.words(got)),
        }
    }

    /// Whether a run with these faults and latencies so far can no longer meet this: faults only add up, as does the
    /// longest latency.
    pub(crate) fn is_lost(&self, faults: &Counts, latencies: &Latencies) -> bool {
        let got = match self.figure {
            Figure::Faults(kind) => count_of(faults, kind) as f64,
            Figure::Latency(None, "max") => latencies.quantile_us(1.0),
            _ => return false,
        };
        self.relation.is_upper_bound() && got > self.value
    }
}

/// Reads a file with an expectation on each line. Empty lines and those that begin with `#` are skipped.
///
/// # Errors
/// If the file can't be read, or a line is no expectation.
pub(crate) fn read_file(path: &Path) -> Result<Vec<Expectation>, Error> {
    let fail = |why: String| Error::new(format!("{}: {why}", path.display()));
    let len = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
    if len > FILE_BYTES_MAX {
        return Err(fail(format!("{len} bytes are more than the {FILE_BYTES_MAX} of a file of expectations")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| line.parse().map_err(|why| fail(format!("line {number}: {why}")))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    fn check(text: &str) -> String {
        text.parse::<Expectation>().unwrap().check(&Report::new(outcome())).to_string()
    }

    #[test]
    fn each_figure_can_be_expected() {
        let table = [
            ("p99<250ms", "p99<250ms: 1.89 ms"),
            ("p99 < 1.5ms", "expected p99 < 1.5ms, got 1.89 ms"),
            ("uncorrected.p50<=500us", "expected uncorrected.p50<=500us, got 500 us"),
            ("max >= 0.001s", "max >= 0.001s: 1.90 ms"),
            ("faults==0", "faults==0: 0"),
            ("missing!=0", "expected missing!=0, got 0"),
            ("count>1_000", "count>1_000: 1200"),
            ("per_second>=600", "per_second>=600: 600"),
            ("client_bound==false", "client_bound==false: 0"),
            ("cpu_ns_each<3000", "expected cpu_ns_each<3000, got 1.00 ms"),
            ("cpu_ns_each<2ms", "cpu_ns_each<2ms: 1.00 ms"),
            ("server_bytes<6MB", "server_bytes<6MB: 5.00 MB"),
            ("figure:away<3", "figure:away<3: 2.50"),
            ("figure:back==5", "expected figure:back==5, got no such figure in this run"),
            ("watched.p99<1s", "expected watched.p99<1s, got no such figure in this run"),
        ];
        for (text, expected) in table {
            assert_eq!(check(text), expected);
        }
    }

    #[test]
    fn an_error_names_the_remedy() {
        let table = [
            ("p99", "a comparison"),
            ("p98<1ms", "\"p98\": there are mean, p50"),
            ("p98<1ms", "missing, duplicate"),
            ("watched.p98<1ms", "corrected.p99"),
            ("p99<250", "a time needs a unit"),
            ("p99<250kB", "a time needs a unit"),
            ("faults<1ms", "without a unit"),
            ("faults<many", "expected a number"),
            ("server_bytes<1ms", "expected B, kB"),
            ("p99<", "expected a number"),
        ];
        for (text, word) in table {
            let error = text.parse::<Expectation>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn only_what_can_not_become_true_again_is_lost() {
        let (counts, mut latencies) = (Counts { missing: 3, ..Counts::default() }, Latencies::new());
        latencies.record(5_000_000);
        let is_lost = |text: &str| text.parse::<Expectation>().unwrap().is_lost(&counts, &latencies);
        let lost = ["faults==0", "missing<=2", "max<4ms"];
        let open = ["missing<=3", "missing>7", "duplicate==0", "max<6ms", "p99<1ms", "count>1000"];
        assert!(lost.into_iter().all(is_lost) && !open.into_iter().any(is_lost));
    }

    #[test]
    fn a_file_has_an_expectation_on_each_line() {
        let path = std::env::temp_dir().join(format!("loadgen-expect-{}", std::process::id()));
        std::fs::write(&path, "# all\n\np99<1s\n  faults==0\n").unwrap();
        assert_eq!(read_file(&path).unwrap().len(), 2);
        std::fs::write(&path, "p99<1s\nnonsense\n").unwrap();
        assert!(read_file(&path).unwrap_err().to_string().contains("line 2: expected a comparison"));
        std::fs::write(&path, vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(read_file(&path).unwrap_err().to_string().contains("65537 bytes"));
        std::fs::remove_file(&path).unwrap();
        assert!(read_file(&path).is_err());
    }
}
