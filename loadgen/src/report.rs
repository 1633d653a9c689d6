//! The result of a run: printed for people, written as JSON for programs.

use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::error::Error;
use crate::faults::Faults;
use crate::figure::Figure;
use crate::process::Usage;

/// Latencies up to this are told apart to three digits; longer ones count as this long.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Latencies in nanoseconds.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("three digits of a minute fit"))
    }

    pub(crate) fn record(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn summary(&self) -> LatencySummary {
        let quantile = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        LatencySummary {
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: self.0.max() as f64 / 1e3,
        }
    }
}

/// Microseconds.
#[derive(Debug, Serialize)]
struct LatencySummary {
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

/// What the measured part of a run cost, server and client.
pub(crate) struct Cost {
    /// From the first message to the last.
    pub(crate) elapsed: Duration,
    /// CPU time of this program.
    pub(crate) client_cpu: Duration,
    /// CPU time of the server and its memory at the end.
    pub(crate) server: Option<Usage>,
}

/// Watches the clock and the processes while a run is measured.
pub(crate) struct Meter {
    start: std::time::Instant,
    client: Usage,
    server: Option<(u32, Usage)>,
}

impl Meter {
    /// Starts now.
    ///
    /// # Errors
    /// If there is no process `server_pid`.
    pub(crate) fn start(server_pid: Option<u32>) -> Result<Meter, Error> {
        let server = server_pid.map(|pid| Usage::of(pid).map(|usage| (pid, usage))).transpose()?;
        Ok(Meter { start: std::time::Instant::now(), client: Usage::own()?, server })
    }

    /// What it cost since the start. A server that is gone by now has no cost to tell.
    pub(crate) fn stop(self) -> Result<Cost, Error> {
        let elapsed = self.start.elapsed();
        let client_cpu = Usage::own()?.cpu.saturating_sub(self.client.cpu);
        let server = self.server.and_then(|(pid, before)| {
            let now = Usage::of(pid).ok()?;
            Some(Usage { cpu: now.cpu.saturating_sub(before.cpu), ..now })
        });
        Ok(Cost { elapsed, client_cpu, server })
    }
}

/// Everything that a run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    scenario: &'static str,
    url: String,
    connections: u32,
    payload_bytes: u32,
    /// How hard it was driven, in words.
    load: String,
    seconds: f64,
    /// What is counted: deliveries or round trips.
    unit: &'static str,
    count: u64,
    per_second: f64,
    latency: LatencySummary,
    /// The messages of the connection that got the fewest, as a share of the average.
    slowest_share: f64,
    /// 1 is one CPU, all the time.
    client_cpus: f64,
    server: Option<ServerReport>,
    /// What only this scenario tells.
    figures: Vec<Figure>,
    faults: Faults,
}

#[derive(Debug, Serialize)]
struct ServerReport {
    cpu_seconds: f64,
    /// 1 is one CPU, all the time.
    cpus: f64,
    cpu_ns_each: f64,
    per_cpu_second: f64,
    resident_bytes: u64,
}

/// What a scenario knows of its run.
pub(crate) struct Outcome {
    pub(crate) scenario: &'static str,
    pub(crate) url: String,
    pub(crate) payload_bytes: u32,
    pub(crate) load: String,
    pub(crate) unit: &'static str,
    /// Messages of each connection in the measured part.
    pub(crate) counts: Vec<u64>,
    pub(crate) latencies: Latencies,
    pub(crate) cost: Cost,
    /// What only this scenario tells, in the order of telling.
    pub(crate) figures: Vec<Figure>,
    pub(crate) faults: Faults,
}

impl Report {
    pub(crate) fn new(outcome: Outcome) -> Report {
        let Outcome { scenario, url, payload_bytes, load, unit, counts, latencies, cost, figures, faults } = outcome;
        let count: u64 = counts.iter().sum();
        let seconds = cost.elapsed.as_secs_f64();
        let slowest = counts.iter().min().copied().unwrap_or(0);
        Report {
            scenario,
            url,
            connections: counts.len() as u32,
            payload_bytes,
            load,
            seconds,
            unit,
            count,
            per_second: ratio(count as f64, seconds),
            latency: latencies.summary(),
            slowest_share: ratio(slowest as f64 * counts.len() as f64, count as f64),
            client_cpus: ratio(cost.client_cpu.as_secs_f64(), seconds),
            server: cost.server.map(|usage| {
                let cpu_seconds = usage.cpu.as_secs_f64();
                ServerReport {
                    cpu_seconds,
                    cpus: ratio(cpu_seconds, seconds),
                    cpu_ns_each: ratio(cpu_seconds * 1e9, count as f64),
                    per_cpu_second: ratio(count as f64, cpu_seconds),
                    resident_bytes: usage.resident_bytes,
                }
            }),
            figures,
            faults,
        }
    }

    /// Prints the report, and writes it to `json` if given. Returns whether every message was right.
    ///
    /// # Errors
    /// If the file can't be written.
    pub(crate) fn publish(&self, json: Option<&Path>) -> Result<bool, Error> {
        print!("{}", self.text());
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(self).expect("numbers and strings");
            std::fs::write(path, text)
                .map_err(|error| Error::new(format!("can't write {}: {error}", path.display())))?;
        }
        Ok(self.faults.is_empty())
    }

    fn text(&self) -> String {
        let Report { scenario, url, connections, payload_bytes, load, unit, latency, faults, .. } = self;
        let mut lines = vec![
            format!("{scenario} {url}: {connections} connections, {payload_bytes} B, {load}"),
            format!("  {unit:<16}{:>14}  in {:.2} s, {:.0} a second", self.count, self.seconds, self.per_second),
            format!(
                "  latency         p50 {:.0} us   p99 {:.0} us   p99.9 {:.0} us   max {:.0} us",
                latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us
            ),
            format!("  slowest         {:.3} of the average connection's {unit}", self.slowest_share),
            format!("  client CPU      {:.2}", self.client_cpus),
        ];
        if let Some(server) = &self.server {
            lines.push(format!(
                "  server CPU      {:.2}   {:.0} ns each   {:.0} {unit} a CPU second",
                server.cpus, server.cpu_ns_each, server.per_cpu_second
            ));
            lines.push(format!("  server memory   {:.1} MB resident", server.resident_bytes as f64 / 1e6));
        }
        lines.extend(self.figures.iter().map(|Figure { name, value, unit }| {
            let digits = if value.fract() == 0.0 { 0 } else { 2 };
            format!("  {name:<36} {value:.digits$} {unit}").trim_end().to_owned()
        }));
        if faults.is_empty() {
            lines.push("  faults          none".to_owned());
        } else {
            lines.push(format!(
                "  FAULTS          {} missing, {} duplicate, {} reordered, {} corrupt, {} closed, {} refused",
                faults.missing, faults.duplicate, faults.reordered, faults.corrupt, faults.closed, faults.refused
            ));
            lines.extend(faults.examples.iter().map(|example| format!("    {example}")));
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// Zero where there is nothing to divide by.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|us| latencies.record(us * 1000));
        Outcome {
            scenario: "fanout",
            url: "ws://a:1/".to_owned(),
            payload_bytes: 64,
            load: "1 in flight".to_owned(),
            unit: "deliveries",
            counts: vec![300, 400, 500],
            latencies,
            cost: Cost {
                elapsed: Duration::from_secs(2),
                client_cpu: Duration::from_secs(1),
                server: Some(Usage { cpu: Duration::from_millis(1200), resident_bytes: 5_000_000 }),
            },
            figures: vec![Figure::new("away", 2.5, "s")],
            faults: Faults::default(),
        }
    }

    #[test]
    fn figures_follow_from_counts_and_cost() {
        let report = Report::new(outcome());
        assert_eq!((report.count, report.per_second), (1200, 600.0));
        assert_eq!((report.slowest_share, report.client_cpus), (0.75, 0.5));
        let server = report.server.as_ref().unwrap();
        assert_eq!((server.cpu_ns_each, server.per_cpu_second, server.cpus), (1e6, 1000.0, 0.6));
        assert!((report.latency.p50_us - 500.0).abs() < 1.0 && (report.latency.p999_us - 999.0).abs() < 1.0);
        assert!(report.text().contains("faults          none") && report.text().contains(" 2.50 s\n"));
    }

    #[test]
    fn a_run_without_a_single_message_divides_by_nothing() {
        let report = Report::new(Outcome { counts: vec![0], ..outcome() });
        assert_eq!((report.slowest_share, report.server.as_ref().unwrap().cpu_ns_each), (0.0, 0.0));
        assert!(serde_json::to_string(&report).unwrap().contains("\"cpu_ns_each\":0.0"));
    }

    #[test]
    fn faults_are_named_in_the_text_and_make_it_fail() {
        let mut outcome = outcome();
        outcome.faults.skip(7, 9);
        let report = Report::new(outcome);
        assert!(report.text().contains("1 missing") && report.text().contains("connection 7: message 9"));
        assert!(!report.publish(None).unwrap());
    }
}
