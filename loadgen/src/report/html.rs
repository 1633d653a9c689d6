//! The report as an HTML page: one file, without scripts or external resources.

use crate::check::faults::FaultReport;
use crate::report::compare::{LETTERS, Row, have_other_loads, reservation, rows};
use crate::report::figure::Figure;
use crate::report::latency::Summary;
use crate::report::plot::{Axis, Line, Scale, svg};
use crate::report::table::CLOCKS_TOO_FAR;
use crate::report::text::{bytes, count, microseconds, quantity};
use crate::report::timeline::{ServerSample, Tick};
use crate::report::{Report, Verdict};

/// Light and dark colours; a grid of plots.
const STYLE: &str = include_str!("report.css");

/// The colours of lines, by class.
const CLASSES: [char; 5] = ['a', 'b', 'c', 'd', 'e'];

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let Report { scenario, url, load, connections, payload_bytes, finished_at, .. } = report;
    let (connections, loadgen) = (count((*connections).into()), &report.loadgen);
    let (url, load) = (escape(url), escape(load));
    let body = [verdict(report), tiles(report), plots(report), details(report)].concat();
    let about = format!("{url}<br>{connections} connections, {payload_bytes} B, {load}");
    let made = &report.made;
    let machine = escape(&format!("{}, {} × {}, Linux {}", made.host, made.cpus, made.cpu_model, made.kernel));
    let command = escape(&made.command.join(" "));
    let foot = format!("loadgen {loadgen}, {finished_at}<br>{machine}<br><code>loadgen {command}</code>");
    document(&format!("{scenario}: {load}"), scenario, &about, &body, &foot)
}

/// A page for several runs, the first of which is the baseline.
pub(crate) fn comparison(names: &[String], reports: &[Report]) -> String {
    let scenario = &reports[0].scenario;
    let run = |((letter, name), report): ((&&str, &String), &Report)| {
        let Report { connections, payload_bytes, load, finished_at, .. } = report;
        let (name, load, but) = (escape(name), escape(load), escape(&reservation(report)));
        let class = if report.verdict == Verdict::Clean { "clean" } else { "faulty" };
        let connections = count((*connections).into());
        format!(
            "<p class=\"verdict {class}\">{letter}: {name}<small>{connections} connections, {payload_bytes} B, {load}; \
             {finished_at}{but}</small></p>\n"
        )
    };
    let runs: String = LETTERS.iter().zip(names).zip(reports).map(run).collect();
    let note = if have_other_loads(reports) { "<p class=\"verdict bound\">The loads differ.</p>\n" } else { "" };
    let body = [runs, note.to_owned(), plots_of_several(reports), comparison_table(reports)].concat();
    let foot = format!("loadgen {}", env!("CARGO_PKG_VERSION"));
    document(&format!("{scenario}: {} runs", reports.len()), scenario, &format!("{} runs", reports.len()), &body, &foot)
}

fn document(title: &str, heading: &str, about: &str, body: &str, foot: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<main>\n\
         <h1>{heading}</h1>\n<p class=\"about\">{about}</p>\n{body}<footer>{foot}</footer>\n</main>\n</html>\n"
    )
}

/// One plot over time, with a line for each run.
fn over_time(title: &str, scale: Scale, write: fn(f64) -> String, lines: Vec<Line>, measured_from_s: f64) -> String {
    let lines: Vec<Line> = lines.into_iter().map(|line| without_zeros(line, scale)).collect();
    let last = lines.iter().filter_map(|line| line.points.last()).map(|point| point[0]);
    let end = last.fold(0.0, f64::max);
    let x = Axis::up_to(end, |seconds| format!("{} s", (seconds * 10.0).round() / 10.0));
    let y = Axis::over(scale, write, lines.iter().flat_map(|line| line.points.iter().map(|point| point[1])));
    figure(title, &lines, &svg(title, &x, &y, &lines, measured_from_s.min(end)))
}

/// The same figures of all runs, in one plot each.
fn plots_of_several(reports: &[Report]) -> String {
    let each = |points: &dyn Fn(&Report) -> Vec<[f64; 2]>| {
        let runs = LETTERS.iter().zip(CLASSES).zip(reports);
        runs.map(|((letter, class), report)| Line { name: (*letter).to_owned(), class, points: points(report) })
            .collect()
    };
    // Each run begins at its measured part, as the others do.
    let ticks = |value: fn(&Tick) -> f64| {
        each(&|report: &Report| {
            let from_s = report.history.measured_from_s;
            let measured = report.history.ticks.iter().filter(|tick| tick.at_s > from_s);
            measured.map(|tick| [tick.at_s - from_s, value(tick)]).collect()
        })
    };
    let server = |value: fn(&ServerSample) -> f64| {
        each(&|report: &Report| {
            let from_s = report.history.measured_from_s;
            let measured = report.history.server.iter().filter(|sample| sample.at_s > from_s);
            measured.map(|sample| [sample.at_s - from_s, value(sample)]).collect()
        })
    };
    let curves: Vec<Line> = each(&|report: &Report| curve(report.latency.honest()));
    let rate = format!("{} a second", reports[0].unit);
    let mut figures = vec![
        on_nines("Latency by percentile", &curves),
        over_time(&rate, Scale::Linear, short, ticks(|tick| tick.per_second), 0.0),
        over_time("p99 over time", Scale::Logarithmic, microseconds, ticks(|tick| tick.p99_us), 0.0),
        over_time("Faults in each tick", Scale::Linear, short, ticks(|tick| tick.faults as f64), 0.0),
    ];
    if reports.iter().any(|report| !report.history.server.is_empty()) {
        figures.push(over_time("Server CPUs", Scale::Linear, short, server(|sample| sample.cpus), 0.0));
        let memory = server(|sample| sample.resident_bytes as f64);
        figures.push(over_time("Server memory", Scale::Linear, bytes, memory, 0.0));
    }
    format!("<section class=\"plots\">{}</section>\n", figures.concat())
}

fn comparison_table(reports: &[Report]) -> String {
    let letters = LETTERS[..reports.len()].iter().map(|letter| format!("<th>{letter}</th>"));
    let ratios = LETTERS[1..reports.len()].iter().map(|letter| format!("<th>{letter} / A</th>"));
    let head: String = letters.chain(ratios).collect();
    let row = |row: Row| {
        let values = row.values.iter().map(|value| (row.write)(*value)).chain(row.quotients());
        let cells: String = values.map(|text| format!("<td>{text}</td>")).collect();
        format!("<tr><th>{}</th>{cells}</tr>", escape(&row.name))
    };
    let rows: String = rows(reports).into_iter().map(row).collect();
    format!(
        "<section class=\"details\"><table><caption>Figures</caption><tr class=\"head\"><th></th>{head}</tr>{rows}</table>\
         </section>\n"
    )
}

fn verdict(report: &Report) -> String {
    let (class, words) = match report.verdict {
        Verdict::Clean => ("clean", "Every message was right.".to_owned()),
        Verdict::Faulty => ("faulty", format!("Faults: {}", report.faults.counts.text())),
        Verdict::ClientBound => {
            let reasons = report.self_check.reasons.join("; ");
            ("bound", format!("Client-bound: not a server figure: {reasons}"))
        }
        Verdict::Empty => ("bound", "Nothing was measured.".to_owned()),
    };
    format!("<p class=\"verdict {class}\">{}</p>\n", escape(&words))
}

/// The most important figures.
fn tiles(report: &Report) -> String {
    let unit = &report.unit;
    let mut tiles = vec![(format!("{unit} a second"), count(report.per_second.round() as u64))];
    if let Some(Summary { p50_us, p99_us, p999_us, .. }) = report.latency.honest() {
        let quantiles = [("p50", p50_us), ("p99", p99_us), ("p99.9", p999_us)];
        tiles.extend(quantiles.map(|(name, us)| (name.to_owned(), microseconds(*us))));
    }
    if let Some(server) = &report.server {
        tiles.push((format!("{unit} a server CPU second"), count(server.per_cpu_second as u64)));
        tiles.push(("server memory".to_owned(), bytes(server.resident_bytes as f64)));
    }
    let tile = |(label, value): &(String, String)| format!("<div><b>{value}</b><span>{label}</span></div>");
    format!("<section class=\"tiles\">{}</section>\n", tiles.iter().map(tile).collect::<String>())
}

fn plots(report: &Report) -> String {
    let history = &report.history;
    let ticks = |value: fn(&Tick) -> f64| history.ticks.iter().map(|tick| [tick.at_s, value(tick)]).collect();
    let server = |value: fn(&ServerSample) -> f64| -> Vec<[f64; 2]> {
        history.server.iter().map(|sample| [sample.at_s, value(sample)]).collect()
    };
    let line = |name: &str, class, points| Line { name: name.to_owned(), class, points };
    let from_s = history.measured_from_s;
    let rate = format!("{} a second", report.unit);
    let latency = vec![line("p50", 'a', ticks(|tick| tick.p50_us)), line("p99", 'b', ticks(|tick| tick.p99_us))];
    let mut cpus = vec![line("load generator", 'b', ticks(|tick| tick.client_cpus))];
    if !history.server.is_empty() {
        cpus.insert(0, line("server", 'a', server(|sample| sample.cpus)));
    }
    let single =
        |title: &str, value| over_time(title, Scale::Linear, short, vec![line(title, 'a', ticks(value))], from_s);
    let mut figures = vec![
        percentiles(report),
        single(&rate, |tick| tick.per_second),
        over_time("Latency over time", Scale::Logarithmic, microseconds, latency, from_s),
        single("Connections", |tick| tick.connections as f64),
        over_time("CPUs", Scale::Linear, short, cpus, from_s),
    ];
    if !history.server.is_empty() {
        let memory = vec![line("memory", 'a', server(|sample| sample.resident_bytes as f64))];
        figures.push(over_time("Server memory", Scale::Linear, bytes, memory, from_s));
    }
    if history.ticks.iter().any(|tick| tick.faults > 0) {
        let faults = vec![line("faults", 'f', ticks(|tick| tick.faults as f64))];
        figures.push(over_time("Faults in each tick", Scale::Linear, short, faults, from_s));
    }
    format!("<section class=\"plots\">{}</section>\n", figures.concat())
}

fn without_zeros(mut line: Line, scale: Scale) -> Line {
    line.points.retain(|point| scale != Scale::Logarithmic || point[1] > 0.0);
    line
}

/// Latency by share of messages: one line, or two if there is a schedule.
fn percentiles(report: &Report) -> String {
    let latency = &report.latency;
    let line =
        |name: &str, class, summary: Option<&Summary>| Line { name: name.to_owned(), class, points: curve(summary) };
    let lines = match &latency.corrected {
        None => vec![line("latency", 'a', latency.uncorrected.as_ref())],
        corrected @ Some(_) => {
            vec![line("corrected", 'a', corrected.as_ref()), line("uncorrected", 'b', latency.uncorrected.as_ref())]
        }
    };
    on_nines("Latency by percentile", &lines)
}

/// Microseconds by share of messages. The maximum is drawn at the last share that the sample can resolve.
fn curve(summary: Option<&Summary>) -> Vec<[f64; 2]> {
    let shares = summary.into_iter().flat_map(|summary| &summary.curve).filter(|point| point.share < 1.0);
    shares.map(|point| [point.share, point.us]).collect()
}

fn on_nines(title: &str, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| line.points.iter());
    let x = Axis::over(Scale::Nines, percentile, all().map(|point| point[0]));
    let y = Axis::over(Scale::Logarithmic, microseconds, all().map(|point| point[1]));
    figure(title, lines, &svg(title, &x, &y, lines, 0.0))
}

/// A plot with its title and, for several lines, a legend.
fn figure(title: &str, lines: &[Line], drawing: &str) -> String {
    let key = |Line { name, class, .. }: &Line| format!("<span class=\"key {class}\">{name}</span>");
    let keys = if lines.len() > 1 { lines.iter().map(key).collect() } else { String::new() };
    format!("<figure><figcaption>{title}{keys}</figcaption>{drawing}</figure>\n")
}

/// The remaining figures, as tables.
fn details(report: &Report) -> String {
    let mut rows = vec![
        ("messages".to_owned(), format!("{} {} in {:.2} s", count(report.count), report.unit, report.seconds)),
        ("slowest connection".to_owned(), format!("{:.3} of the average", report.slowest_share)),
        ("client CPU".to_owned(), format!("{:.2}", report.client_cpus)),
        ("busiest worker".to_owned(), format!("{:.0} % of the time", report.self_check.busy_share * 100.0)),
        ("lateness of the schedule, p99".to_owned(), microseconds(report.self_check.lateness_p99_us)),
        ("receive backlog, p99".to_owned(), microseconds(report.self_check.backlog_p99_us)),
    ];
    rows.extend(report.agents.iter().map(|agent| ("agent".to_owned(), escape(&agent.to_string()))));
    if !report.agents.iter().all(|agent| agent.tells_latency) {
        rows.push(("no latency".to_owned(), CLOCKS_TOO_FAR.to_owned()));
    }
    rows.extend(report.expectations.iter().map(|outcome| {
        let label = if outcome.holds { "as expected" } else { "not as expected" };
        (label.to_owned(), escape(&outcome.to_string()))
    }));
    if let Some(server) = &report.server {
        rows.push(("server CPU".to_owned(), format!("{:.2}", server.cpus)));
        rows.push(("server CPU each".to_owned(), microseconds(server.cpu_ns_each / 1e3)));
    }
    rows.extend(
        report.figures.iter().map(|Figure { name, value, unit }| (escape(name), escape(&quantity(*value, unit)))),
    );
    let row = |(name, value): &(String, String)| format!("<tr><th>{name}</th><td>{value}</td></tr>");
    let run: String = rows.iter().map(row).collect();
    format!(
        "<section class=\"details\"><table><caption>Run</caption>{run}</table>{}{}</section>\n",
        latency_table(report),
        fault_table(&report.faults)
    )
}

fn latency_table(report: &Report) -> String {
    let row = |name: &str, summary: &Summary| {
        let Summary { mean_us, p50_us, p90_us, p99_us, p999_us, max_us, .. } = summary;
        let cells =
            [mean_us, p50_us, p90_us, p99_us, p999_us, max_us].map(|us| format!("<td>{}</td>", microseconds(*us)));
        format!("<tr><th>{name}</th>{}</tr>", cells.concat())
    };
    let rows = report.latency.named().into_iter();
    let rows: String = rows.map(|(name, from, summary)| row(&format!("{name}: from {from} time"), summary)).collect();
    let head = ["", "mean", "p50", "p90", "p99", "p99.9", "max"].map(|name| format!("<th>{name}</th>")).concat();
    format!("<table><caption>Latency</caption><tr class=\"head\">{head}</tr>{rows}</table>")
}

fn fault_table(faults: &FaultReport) -> String {
    if faults.counts.sum() == 0 {
        return String::new();
    }
    let there = faults.counts.named().into_iter().filter(|(_, number)| *number > 0);
    let rows: String =
        there.map(|(name, number)| format!("<tr><th>{name}</th><td>{}</td></tr>", count(number))).collect();
    let worst = faults
        .worst
        .iter()
        .map(|found| format!("<tr><th>connection {}</th><td>{}</td></tr>", found.connection, found.counts.text()));
    let examples: String = faults.examples.iter().map(|words| format!("<li>{}</li>", escape(words))).collect();
    format!(
        "<table><caption>Faults</caption>{rows}</table><table><caption>Connections with most faults, of {}</caption>{}\
         </table><ul>{examples}</ul>",
        count(faults.connections),
        worst.collect::<String>()
    )
}

/// The share as a percentage, with all its nines.
fn percentile(share: f64) -> String {
    let text = format!("{:.6}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// With a suffix for thousands or millions.
fn short(number: f64) -> String {
    let (scaled, letter) = match number {
        ..1e4 => (number, ""),
        ..1e6 => (number / 1e3, "k"),
        _ => (number / 1e6, "M"),
    };
    format!("{}{letter}", (scaled * 100.0).round() / 100.0)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    #[test]
    fn a_page_is_self_contained_and_shows_its_plots() {
        let page = page(&Report::new(outcome()));
        assert_eq!(page.matches("<svg").count(), 6, "without faults there is no plot of them");
        assert!(page.contains("Server memory") && page.contains(">server</span>"), "{page}");
        for foreign in ["<script", "<link", "src=", "@import", "NaN", "inf"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("Every message was right") && page.contains("1.89 ms"));
        assert!(page.contains("corrected"));
    }

    #[test]
    fn the_watched_topic_and_acknowledgements_have_their_own_rows() {
        let mut outcome = outcome();
        outcome.findings[0].recorded.watched.record(2_000_000);
        outcome.findings[0].recorded.acknowledged.record(300_000);
        let page = page(&Report::new(outcome));
        assert!(page.contains("<th>watched: from intended time</th><td>2.00 ms</td>"), "{page}");
        assert!(page.contains("<th>acknowledged: from actual time</th><td>300 us</td>"), "{page}");
    }

    #[test]
    fn text_from_outside_is_escaped() {
        let mut outcome = outcome();
        outcome.url = "ws://a:1/<b>\"".to_owned();
        outcome.findings[0].faults.closed(3, "<script>");
        let page = page(&Report::new(outcome));
        assert!(
            page.contains("ws://a:1/&lt;b&gt;&quot;") && page.contains("&lt;script&gt;") && !page.contains("<script")
        );
        assert!(page.contains("Faults: 1 closed") && page.contains("connection 3"));
    }

    #[test]
    fn a_closed_loop_has_one_line_and_an_empty_run_a_page() {
        let closed = Report::new(crate::report::Outcome { open_loop: false, ..outcome() });
        assert!(!page(&closed).contains("corrected: from intended"));
        let mut empty = closed;
        empty.history = crate::report::timeline::History::default();
        empty.latency.uncorrected = None;
        assert_eq!(page(&empty).matches("<svg").count(), 5);
    }

    #[test]
    fn a_comparison_has_a_line_and_a_column_for_each_run() {
        let mut faulty = outcome();
        faulty.findings[0].faults.closed(3, "<reset>");
        faulty.load = "other".to_owned();
        let reports = [Report::new(outcome()), Report::new(faulty), Report::new(outcome())];
        let page = comparison(&["a<.json", "b.json", "c.json"].map(str::to_owned), &reports);
        assert_eq!((page.matches("<svg").count(), page.matches("<polyline").count()), (6, 18), "{page}");
        assert!(
            page.contains("a&lt;.json") && page.contains(" FAULTS: 1 closed") && page.contains("The loads differ.")
        );
        assert!(page.contains("<th>C / A</th>") && page.contains("<td>600</td><td>600</td><td>600</td><td>1.000</td>"));
        assert!(!page.contains("<script") && !page.contains("src="));
    }

    #[test]
    fn percentiles_have_as_many_nines_as_they_need() {
        let table = [(0.0, "0 %"), (0.9, "90 %"), (0.99, "99 %"), (0.9999, "99.99 %"), (1.0 - 1e-5, "99.999 %")];
        table.into_iter().for_each(|(share, text)| assert_eq!(percentile(share), text));
        assert_eq!([12.5, 12_500.0, 3e6].map(short), ["12.5", "12.5k", "3M"]);
    }
}
