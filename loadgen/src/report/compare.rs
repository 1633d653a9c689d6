//! Two reports side by side: the figures that both have, and the ratio of the second to the first.

use crate::cli::CompareOptions;
use crate::error::Error;
use crate::report::latency::Summary;
use crate::report::text::{bytes, count, microseconds, quantity, three_digits};
use crate::report::{Report, Verdict};

/// A figure that both reports have.
struct Row {
    name: String,
    values: [f64; 2],
    write: fn(f64) -> String,
}

/// Prints the table.
///
/// # Errors
/// If a file is not a report, or the reports are of different scenarios.
pub(crate) fn run(options: &CompareOptions) -> Result<(), Error> {
    let reports = [Report::read(&options.first)?, Report::read(&options.second)?];
    let [first, second] = &reports;
    if first.scenario != second.scenario {
        let (first, second) = (&first.scenario, &second.scenario);
        return Err(Error::new(format!("can't compare scenario {first} with scenario {second}")));
    }
    let names = [&options.first, &options.second].map(|path| path.display().to_string());
    print!("{}", table(&names, &reports));
    Ok(())
}

fn table(names: &[String; 2], reports: &[Report; 2]) -> String {
    let mut lines: Vec<String> = ["A", "B"].into_iter().zip(names).zip(reports).map(about).collect();
    let [first, second] = reports;
    if (first.connections, first.payload_bytes, &first.load) != (second.connections, second.payload_bytes, &second.load)
    {
        lines.push("note: the loads differ".to_owned());
    }
    let rows = rows(reports);
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    lines.push(format!("  {:width$}  {:>12}  {:>12}  {:>9}", "", "A", "B", "B / A"));
    lines.extend(rows.iter().map(|Row { name, values, write }| {
        let [a, b] = values.map(write);
        format!("  {name:width$}  {a:>12}  {b:>12}  {:>9}", quotient(*values))
    }));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn about(((letter, name), report): ((&str, &String), &Report)) -> String {
    let Report { scenario, url, connections, payload_bytes, load, .. } = report;
    let verdict = match report.verdict {
        Verdict::Clean => String::new(),
        Verdict::Faulty => format!(" FAULTS: {}", report.faults.counts.text()),
        Verdict::ClientBound => " client-bound: not a server figure".to_owned(),
        Verdict::Empty => " nothing was measured".to_owned(),
    };
    let connections = count((*connections).into());
    format!("{letter}: {name}: {scenario} {url}, {connections} connections, {payload_bytes} B, {load}{verdict}")
}

fn rows([first, second]: &[Report; 2]) -> Vec<Row> {
    let whole: fn(f64) -> String = |number| count(number.round() as u64);
    let row = |name: &str, values, write| Row { name: name.to_owned(), values, write };
    let mut rows = vec![row(&format!("{} a second", first.unit), [first.per_second, second.per_second], whole)];
    for (name, from, a) in first.latency.named() {
        let of_second = second.latency.named();
        let found = of_second.iter().find(|(other, _, _)| *other == name);
        rows.extend(found.into_iter().flat_map(|(_, _, b)| latency_rows(name, from, [a, b])));
    }
    if let (Some(a), Some(b)) = (&first.server, &second.server) {
        let each: fn(f64) -> String = |ns| microseconds(ns / 1e3);
        rows.push(row("server CPU each", [a.cpu_ns_each, b.cpu_ns_each], each));
        rows.push(row(&format!("{} a CPU second", first.unit), [a.per_cpu_second, b.per_cpu_second], whole));
        rows.push(row("server memory", [a.resident_bytes as f64, b.resident_bytes as f64], bytes));
    }
    rows.push(row("client CPU", [first.client_cpus, second.client_cpus], three_digits));
    rows.push(row("slowest connection's share", [first.slowest_share, second.slowest_share], three_digits));
    rows.extend(first.figures.iter().filter_map(|a| {
        let b = second.figures.iter().find(|b| (&b.name, &b.unit) == (&a.name, &a.unit))?;
        let name = if a.unit.is_empty() { a.name.clone() } else { format!("{}, {}", a.name, a.unit) };
        Some(row(&name, [a.value, b.value], |value| quantity(value, "")))
    }));
    rows
}

fn latency_rows(name: &str, from: &str, summaries: [&Summary; 2]) -> [Row; 4] {
    let row = |figure: &str, value: fn(&Summary) -> f64| Row {
        name: format!("{figure} {name}, from {from} time"),
        values: summaries.map(value),
        write: microseconds,
    };
    [
        row("p50", |summary| summary.p50_us),
        row("p99", |summary| summary.p99_us),
        row("p99.9", |summary| summary.p999_us),
        row("max", |summary| summary.max_us),
    ]
}

/// The ratio, or a dash if the first value is zero.
fn quotient([first, second]: [f64; 2]) -> String {
    if first > 0.0 { format!("{:.3}", second / first) } else { "-".to_owned() }
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
        assert_eq!(quotient([0.0, 1.0]), "-");
    }
}
