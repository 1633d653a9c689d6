//! The report as a table on the terminal.

use crate::check::faults::FaultReport;
use crate::report::figure::Figure;
use crate::report::latency::Summary;
use crate::report::text::{bytes, count, microseconds, quantity};
use crate::report::{Report, ServerReport, Verdict};

/// Why a run with agents has no latencies.
pub(crate) const CLOCKS_TOO_FAR: &str =
    "an agent's clock is not known to a tenth of the median latency: use a faster network, or a slower load";

/// Width of the label column.
const LABEL: usize = 24;

/// The table of a run.
pub(crate) fn of_run(report: &Report) -> String {
    let Report { scenario, url, payload_bytes, load, unit, latency, .. } = report;
    let mut lines = vec![
        format!("{scenario} {url}: {} connections, {payload_bytes} B, {load}", count(report.connections.into())),
        line(unit, &amount(report)),
        line("latency", &columns(["mean", "p50", "p90", "p99", "p99.9", "max"].map(str::to_owned))),
    ];
    let named = latency.named().into_iter();
    lines.extend(named.map(|(name, from, figures)| line(&format!("  {name} ({from})"), &summary(figures))));
    lines.push(line("slowest connection", &format!("{:.3} of the average one's {unit}", report.slowest_share)));
    lines.extend(report.server.iter().flat_map(|server| server_lines(server, unit)));
    lines.extend(report.figures.iter().map(|Figure { name, value, unit }| line(name, &quantity(*value, unit))));
    lines.push(client_line(report));
    lines.extend(report.agents.iter().map(|agent| line("agent", &agent.to_string())));
    if !report.agents.iter().all(|agent| agent.tells_latency) {
        lines.push(line("no latency", CLOCKS_TOO_FAR));
    }
    lines.extend(fault_lines(&report.faults));
    lines.extend(report.expectations.iter().map(|outcome| {
        let label = if outcome.holds { "as expected" } else { "NOT AS EXPECTED" };
        line(label, &outcome.to_string())
    }));
    if report.self_check.client_bound {
        lines.push(format!("client-bound: not a server figure: {}", report.self_check.reasons.join("; ")));
    }
    if report.verdict == Verdict::Empty {
        lines.push("nothing was measured: is the run too short, or the rate too low?".to_owned());
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn line(label: &str, text: &str) -> String {
    format!("  {label:<width$} {text}", width = LABEL - 1)
}

/// How much was counted. Connections that are held have no rate.
fn amount(report: &Report) -> String {
    match &*report.scenario {
        "idle" => format!("{} for {:.2} s", count(report.count), report.seconds),
        _ => {
            let rate = count(report.per_second.round() as u64);
            format!("{} in {:.2} s, {rate} a second", count(report.count), report.seconds)
        }
    }
}

fn columns(cells: [String; 6]) -> String {
    cells.map(|cell| format!("{cell:>9}")).concat()
}

fn summary(summary: &Summary) -> String {
    let Summary { mean_us, p50_us, p90_us, p99_us, p999_us, max_us, .. } = summary;
    columns([mean_us, p50_us, p90_us, p99_us, p999_us, max_us].map(|us| microseconds(*us)))
}

fn server_lines(server: &ServerReport, unit: &str) -> [String; 2] {
    let ServerReport { cpus, cpu_ns_each, per_cpu_second, resident_bytes, .. } = server;
    let each = microseconds(cpu_ns_each / 1e3);
    let per_cpu_second = count(*per_cpu_second as u64);
    [
        line("server CPU", &format!("{cpus:.2} busy, {each} each, {per_cpu_second} {unit} a CPU second")),
        line("server memory", &format!("{} resident", bytes(*resident_bytes as f64))),
    ]
}

fn client_line(report: &Report) -> String {
    let check = &report.self_check;
    let figures = [check.lateness_p99_us, check.backlog_p99_us].map(microseconds);
    let [lateness, backlog] = figures;
    let busy = check.busy_share;
    let cpus = report.client_cpus;
    line("client", &format!("CPU {cpus:.2}, busiest worker {busy:.2}, p99: {lateness} late, {backlog} backlog"))
}

fn fault_lines(faults: &FaultReport) -> Vec<String> {
    if faults.counts.sum() == 0 {
        return vec![line("faults", "none")];
    }
    let connections = match faults.connections {
        0 => String::new(),
        1 => ", on 1 connection".to_owned(),
        several => format!(", on {} connections", count(several)),
    };
    let mut lines = vec![line("FAULTS", &(faults.counts.text() + &connections))];
    lines.extend(faults.examples.iter().map(|example| format!("    {example}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::faults::Label;
    use crate::report::tests::outcome;

    #[test]
    fn a_clean_run_shows_all_lines() {
        let text = of_run(&Report::new(outcome()));
        let expected = "\
fanout ws://a:1/: 3 connections, 64 B, 600 publications a second
  deliveries              1,200 in 2.00 s, 600 a second
  latency                      mean      p50      p90      p99    p99.9      max
  \u{20} corrected (intended)    1.40 ms  1.40 ms  1.80 ms  1.89 ms  1.90 ms  1.90 ms
  \u{20} uncorrected (actual)     501 us   500 us   900 us   990 us   999 us  1.00 ms
  slowest connection      0.750 of the average one's deliveries
  server CPU              0.60 busy, 1.00 ms each, 1,000 deliveries a CPU second
  server memory           5.00 MB resident
  away                    2.50 s
  client                  CPU 0.50, busiest worker 0.00, p99: 900 us late, 0 us backlog
  faults                  none
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_watched_topic_and_acknowledgements_have_their_own_lines() {
        let mut outcome = outcome();
        outcome.findings[0].recorded.watched.record(2_000_000);
        outcome.findings[0].recorded.acknowledged.record(300_000);
        let text = of_run(&Report::new(outcome));
        let expected = "\
  \u{20} watched (intended)      2.00 ms  2.00 ms  2.00 ms  2.00 ms  2.00 ms  2.00 ms
  \u{20} acknowledged (actual)    300 us   300 us   300 us   300 us   300 us   300 us
";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn faults_and_a_bound_client_are_named() {
        let mut outcome = outcome();
        outcome.findings[0].faults.skip(7, Label { sequence: 9, number: 9, topic: None });
        outcome.findings[0].faults.refused("503");
        outcome.findings[0].recorded.busy_share = 0.97;
        let text = of_run(&Report::new(outcome));
        let expected = "\
  FAULTS                  1 missing, 1 refused, on 1 connection
    connection 7: message 9 is missing
    publishing: 503
client-bound: not a server figure: a worker was busy 97 % of the time
";
        assert!(text.ends_with(expected), "{text}");
    }
}
