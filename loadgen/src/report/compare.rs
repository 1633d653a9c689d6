//! Two reports side by side: the figures that both have, and the ratio of the second to the first.

use crate::cli::CompareOptions;
use crate::error::Error;
use crate::report::figure::Figure;
use crate::report::latency::Summary;
use crate::report::text::{bytes, count, microseconds, quantity, three_digits};
use crate::report::{Report, Verdict, html};

/// The names of the reports.
pub(crate) const LETTERS: [&str; 5] = ["A", "B", "C", "D", "E"];

/// A figure that all reports have.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) values: Vec<f64>,
    pub(crate) write: fn(f64) -> String,
}

/// Prints the table, and writes the page.
///
/// # Errors
/// If a file is not a report, or the reports are of different scenarios, or the page can't be written.
pub(crate) fn run(options: &CompareOptions) -> Result<(), Error> {
    let reports = options.reports.iter().map(|path| Report::read(path)).collect::<Result<Vec<_>, _>>()?;
    let first = &reports[0].scenario;
    if let Some(other) = reports.iter().find(|report| report.scenario != *first) {
        return Err(Error::new(format!("can't compare scenario {first} with scenario {}", other.scenario)));
    }
    let names: Vec<String> = options.reports.iter().map(|path| path.display().to_string()).collect();
    print!("{}", table(&names, &reports));
    if let Some(path) = &options.html {
        let fail = |error| Error::new(format!("can't write {}: {error}", path.display()));
        std::fs::write(path, html::comparison(&names, &reports)).map_err(fail)?;
    }
    Ok(())
}

fn table(names: &[String], reports: &[Report]) -> String {
    let mut lines: Vec<String> = LETTERS.into_iter().zip(names).zip(reports).map(about).collect();
    if have_other_loads(reports) {
        lines.push("note: the loads differ".to_owned());
    }
    let rows = rows(reports);
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let (letters, ratios) = (&LETTERS[..reports.len()], &LETTERS[1..reports.len()]);
    let columns =
        |texts: &[String], width: usize| texts.iter().map(|text| format!("  {text:>width$}")).collect::<String>();
    let head = letters.iter().map(|letter| (*letter).to_owned()).collect::<Vec<_>>();
    let of_first = ratios.iter().map(|letter| format!("{letter} / A")).collect::<Vec<_>>();
    lines.push(format!("  {:width$}{}{}", "", columns(&head, 12), columns(&of_first, 9)));
    lines.extend(rows.iter().map(|row| {
        let values: Vec<String> = row.values.iter().map(|value| (row.write)(*value)).collect();
        format!("  {:width$}{}{}", row.name, columns(&values, 12), columns(&row.quotients(), 9))
    }));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Whether the reports are of different loads.
pub(crate) fn have_other_loads(reports: &[Report]) -> bool {
    let load = |report: &Report| (report.connections, report.payload_bytes, report.load.clone());
    reports.iter().any(|report| load(report) != load(&reports[0]))
}

/// The words that belong to every figure of a report that is not clean.
pub(crate) fn reservation(report: &Report) -> String {
    match report.verdict {
        Verdict::Clean => String::new(),
        Verdict::Faulty => format!(" FAULTS: {}", report.faults.counts.text()),
        Verdict::ClientBound => " client-bound: not a server figure".to_owned(),
        Verdict::Empty => " nothing was measured".to_owned(),
    }
}

fn about(((letter, name), report): ((&str, &String), &Report)) -> String {
    let Report { scenario, url, connections, payload_bytes, load, .. } = report;
    let (connections, but) = (count((*connections).into()), reservation(report));
    format!("{letter}: {name}: {scenario} {url}, {connections} connections, {payload_bytes} B, {load}{but}")
}

/// The figures that all reports have.
pub(crate) fn rows(reports: &[Report]) -> Vec<Row> {
    let whole: fn(f64) -> String = |number| count(number.round() as u64);
    let row = |name: &str, value: &dyn Fn(&Report) -> Option<f64>, write| {
        let values = reports.iter().map(value).collect::<Option<Vec<_>>>()?;
        Some(Row { name: name.to_owned(), values, write })
    };
    let first = &reports[0];
    let mut rows = vec![row(&format!("{} a second", first.unit), &|report| Some(report.per_second), whole)];
    for (name, from, _) in first.latency.named() {
        for (figure, value) in QUANTILES {
            let name_of_row = format!("{figure} {name}, from {from} time");
            rows.push(row(&name_of_row, &|report| latency(report, name).map(value), microseconds));
        }
    }
    let each: fn(f64) -> String = |ns| microseconds(ns / 1e3);
    rows.push(row("server CPU each", &|report| Some(report.server.as_ref()?.cpu_ns_each), each));
    let per_cpu = format!("{} a CPU second", first.unit);
    rows.push(row(&per_cpu, &|report| Some(report.server.as_ref()?.per_cpu_second), whole));
    rows.push(row("server memory", &|report| Some(report.server.as_ref()?.resident_bytes as f64), bytes));
    rows.push(row("client CPU", &|report| Some(report.client_cpus), three_digits));
    rows.push(row("slowest connection's share", &|report| Some(report.slowest_share), three_digits));
    for Figure { name, unit, .. } in &first.figures {
        let found = |report: &Report| {
            report.figures.iter().find(|figure| (&figure.name, &figure.unit) == (name, unit)).map(|figure| figure.value)
        };
        let name_of_row = if unit.is_empty() { name.clone() } else { format!("{name}, {unit}") };
        rows.push(row(&name_of_row, &found, |value| quantity(value, "")));
    }
    rows.into_iter().flatten().collect()
}

/// A quantile, by its name.
type Quantile = (&'static str, fn(&Summary) -> f64);

/// The quantiles that are compared.
const QUANTILES: [Quantile; 4] = [
    ("p50", |summary| summary.p50_us),
    ("p99", |summary| summary.p99_us),
    ("p99.9", |summary| summary.p999_us),
    ("max", |summary| summary.max_us),
];

fn latency<'a>(report: &'a Report, name: &str) -> Option<&'a Summary> {
    report.latency.named().into_iter().find(|(known, ..)| *known == name).map(|(.., summary)| summary)
}

impl Row {
    /// The ratios of the others to the first, or dashes if that is zero.
    pub(crate) fn quotients(&self) -> Vec<String> {
        let first = self.values[0];
        let quotient = |other: &f64| if first > 0.0 { format!("{:.3}", other / first) } else { "-".to_owned() };
        self.values[1..].iter().map(quotient).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::faults::Label;
    use crate::report::tests::outcome;

    #[test]
    fn a_table_of_ratios() {
        let mut twice = outcome();
        twice.measured.cost.elapsed *= 2;
        twice.load = "slower".to_owned();
        twice.findings[0].faults.skip(0, Label { sequence: 1, number: 1, topic: None });
        let names = ["a.json", "b.json"].map(str::to_owned);
        let text = table(&names, &[Report::new(outcome()), Report::new(twice)]);
        for expected in [
            "B: b.json: fanout ws://a:1/, 3 connections, 64 B, slower FAULTS: 1 missing",
            "note: the loads differ",
            "deliveries a second                           600           300      0.500",
            "p99 corrected, from intended time         1.89 ms       1.89 ms      1.000",
            "away, s                                      2.50          2.50      1.000",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn figures_of_only_one_report_are_left_out() {
        let mut other = Report::new(outcome());
        (other.server, other.latency.corrected) = (None, None);
        other.figures.clear();
        let text = table(&["a", "b"].map(str::to_owned), &[Report::new(outcome()), other]);
        assert!(!["server", "intended", "away"].iter().any(|word| text.contains(word)), "{text}");
        let none = Row { name: String::new(), values: vec![0.0, 1.0], write: microseconds };
        assert_eq!(none.quotients(), ["-"]);
    }

    #[test]
    fn several_reports_have_a_ratio_each() {
        let mut half = outcome();
        half.counts = vec![600];
        let reports = [Report::new(outcome()), Report::new(half), Report::new(outcome())];
        let text = table(&["a", "b", "c"].map(str::to_owned), &reports);
        let line = text.lines().find(|line| line.contains("deliveries a second")).unwrap();
        let cells: Vec<&str> = line.split_whitespace().skip(3).collect();
        assert_eq!(cells, ["600", "300", "600", "0.500", "1.000"], "{text}");
    }
}
