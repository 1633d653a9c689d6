//! The result of a run, as `--json` writes it (see SCHEMA.md) and `compare` reads it, and the verdict.

pub(crate) mod agents;
pub(crate) mod compare;
pub(crate) mod expect;
pub(crate) mod figure;
pub(crate) mod html;
pub(crate) mod junit;
pub(crate) mod latency;
pub(crate) mod live;
pub(crate) mod output;
pub(crate) mod percentiles;
pub(crate) mod plot;
pub(crate) mod progress;
pub(crate) mod recorder;
pub(crate) mod self_check;
pub(crate) mod table;
pub(crate) mod tally;
pub(crate) mod text;
pub(crate) mod timeline;

use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::agents::wire::Found;
use crate::check::faults::{FaultReport, Faults};
use crate::error::Error;
use crate::host::machine;
use crate::report::agents::AgentReport;
use crate::report::expect::Expectation;
use crate::report::figure::Figure;
use crate::report::latency::Summary;
use crate::report::recorder::Recorded;
use crate::report::self_check::SelfCheck;
use crate::report::timeline::History;
use crate::scenario::run::Measured;

/// The value of `schema` in the file.
const SCHEMA: &str = "ringfeed-loadgen-report";

/// Raised whenever a field is removed or changes its meaning; new fields do not raise it.
const VERSION: u32 = 2;

/// The oldest version that can still be read: in it, latencies are never `null`.
const VERSION_MIN: u32 = 1;

/// All results of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: String,
    pub(crate) version: u32,
    /// Version of this program.
    pub(crate) loadgen: String,
    /// End of the run, RFC 3339.
    pub(crate) finished_at: String,
    pub(crate) verdict: Verdict,
    pub(crate) scenario: String,
    pub(crate) url: String,
    pub(crate) connections: u32,
    pub(crate) payload_bytes: u32,
    /// The load, in words.
    pub(crate) load: String,
    /// Length of the measured part.
    pub(crate) seconds: f64,
    /// Unit of the count: deliveries or round trips.
    pub(crate) unit: String,
    pub(crate) count: u64,
    pub(crate) per_second: f64,
    pub(crate) latency: LatencyReport,
    /// Messages of the connection that received the fewest, as a share of the average.
    pub(crate) slowest_share: f64,
    /// 1 is one CPU, busy all the time.
    pub(crate) client_cpus: f64,
    pub(crate) server: Option<ServerReport>,
    /// Figures that only this scenario reports.
    pub(crate) figures: Vec<Figure>,
    pub(crate) faults: FaultReport,
    pub(crate) self_check: SelfCheck,
    /// The agents of the run, without this program.
    #[serde(default)]
    pub(crate) agents: Vec<AgentReport>,
    /// What became of the expectations.
    #[serde(default)]
    pub(crate) expectations: Vec<expect::Outcome>,
    /// Where and how the run was made.
    #[serde(default)]
    pub(crate) made: Made,
    pub(crate) history: History,
}

/// The circumstances of a run, to make it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) command: Vec<String>,
    pub(crate) host: String,
    pub(crate) kernel: String,
    pub(crate) cpu_model: String,
    pub(crate) cpus: u32,
}

/// Whether the figures are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// No faults, and the figures describe the server.
    Clean,
    /// Messages or connections had faults.
    Faulty,
    /// No faults, but the load generator was the bottleneck.
    ClientBound,
    /// No faults, and nothing was measured.
    Empty,
}

impl Verdict {
    fn of(count: u64, faults: u64, client_bound: bool) -> Verdict {
        match (faults, client_bound) {
            (1.., _) => Verdict::Faulty,
            (0, _) if count == 0 => Verdict::Empty,
            (0, true) => Verdict::ClientBound,
            (0, false) => Verdict::Clean,
        }
    }
}

/// From publishing to receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LatencyReport {
    /// From the scheduled time. `None` in a closed loop, which has no schedule.
    pub(crate) corrected: Option<Summary>,
    /// From the time the message was passed to the kernel. `None` if nothing was measured.
    pub(crate) uncorrected: Option<Summary>,
    /// From the scheduled time, on the watched topic only. The other fields do not include its messages.
    #[serde(default)]
    pub(crate) watched: Option<Summary>,
    /// From the time a publication was passed to the kernel to its acknowledgement.
    #[serde(default)]
    pub(crate) acknowledged: Option<Summary>,
}

impl LatencyReport {
    /// The latency to rely on: corrected if there is a schedule. `None` if nothing was measured.
    pub(crate) fn honest(&self) -> Option<&Summary> {
        self.corrected.as_ref().or(self.uncorrected.as_ref())
    }

    /// All latencies that were measured, each with its name and the time that it runs from.
    pub(crate) fn named(&self) -> Vec<(&'static str, &'static str, &Summary)> {
        let all = [
            ("corrected", "intended", self.corrected.as_ref()),
            ("uncorrected", "actual", self.uncorrected.as_ref()),
            ("watched", "intended", self.watched.as_ref()),
            ("acknowledged", "actual", self.acknowledged.as_ref()),
        ];
        all.into_iter().filter_map(|(name, from, summary)| Some((name, from, summary?))).collect()
    }
}

/// CPU and memory of the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServerReport {
    pub(crate) cpu_seconds: f64,
    /// 1 is one CPU, busy all the time.
    pub(crate) cpus: f64,
    pub(crate) cpu_ns_each: f64,
    pub(crate) per_cpu_second: f64,
    pub(crate) resident_bytes: u64,
}

/// The results of a scenario, from which the report is computed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: &'static str,
    pub(crate) url: String,
    pub(crate) payload_bytes: u32,
    pub(crate) load: String,
    /// Whether the run had a schedule.
    pub(crate) open_loop: bool,
    pub(crate) unit: &'static str,
    /// Messages of each connection in the measured part.
    pub(crate) counts: Vec<u64>,
    /// One entry per worker.
    pub(crate) findings: Vec<Findings>,
    pub(crate) measured: Measured,
    /// Figures that only this scenario reports, in the order shown.
    pub(crate) figures: Vec<Figure>,
    pub(crate) agents: Vec<AgentReport>,
}

impl Outcome {
    /// What an agent sends to its coordinator, with the time of its last message.
    pub(crate) fn found(self, last_ns: u64) -> Found {
        let Measured { cost, history, pauses, .. } = self.measured;
        let Findings { recorded, faults } = merged(self.findings);
        Found {
            counts: self.counts,
            recorded: recorded.found(),
            faults: faults.found(),
            last_ns,
            client_cpu: cost.client_cpu,
            throttled: cost.starvation.throttled,
            stolen: cost.starvation.stolen,
            longest_pause: pauses.longest,
            all_pauses: pauses.total,
            ticks: history.ticks,
        }
    }
}

/// Latencies that one worker measured, and its faults from the start of the run.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) recorded: Recorded,
    pub(crate) faults: Faults,
}

#[cfg(test)]
impl Findings {
    pub(crate) fn none() -> Findings {
        Findings { recorded: Recorded::new(), faults: Faults::new(std::time::Duration::MAX) }
    }
}

/// The findings of all workers, merged.
fn merged(findings: Vec<Findings>) -> Findings {
    let all = findings.into_iter().reduce(|mut all, one| {
        all.recorded.merge(&one.recorded);
        all.faults.merge(one.faults);
        all
    });
    all.expect("a run has a worker")
}

impl Report {
    pub(crate) fn new(outcome: Outcome) -> Report {
        let counts = &outcome.counts;
        let Measured { cost, history, pauses, .. } = outcome.measured;
        let Findings { recorded, faults } = merged(outcome.findings);
        let count: u64 = counts.iter().sum();
        let seconds = cost.elapsed.as_secs_f64();
        let slowest = counts.iter().min().copied().unwrap_or(0);
        let self_check = SelfCheck::of(&recorded, pauses, &cost);
        let agents = outcome.agents;
        // The publications of another machine have only their scheduled time.
        let (is_alone, tells) = (agents.is_empty(), agents.iter().all(|agent| agent.tells_latency));
        let history = if tells { history } else { history.without_latencies() };
        Report {
            schema: SCHEMA.to_owned(),
            version: VERSION,
            loadgen: env!("CARGO_PKG_VERSION").to_owned(),
            finished_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            verdict: Verdict::of(count, faults.sum(), self_check.client_bound),
            connections: counts.len() as u32,
            seconds,
            count,
            per_second: ratio(count as f64, seconds),
            latency: LatencyReport {
                corrected: recorded.corrected.summary_if_any().filter(|_| outcome.open_loop && tells),
                uncorrected: recorded.uncorrected.summary_if_any().filter(|_| is_alone),
                watched: recorded.watched.summary_if_any().filter(|_| tells),
                acknowledged: recorded.acknowledged.summary_if_any(),
            },
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
            faults: faults.report(),
            self_check,
            scenario: outcome.scenario.to_owned(),
            url: outcome.url,
            payload_bytes: outcome.payload_bytes,
            load: outcome.load,
            unit: outcome.unit.to_owned(),
            figures: outcome.figures,
            agents,
            expectations: Vec::new(),
            made: machine::made(),
            history,
        }
    }

    /// The same, with what became of `expectations`.
    pub(crate) fn expecting(mut self, expectations: &[Expectation]) -> Report {
        self.expectations = expectations.iter().map(|expectation| expectation.check(&self)).collect();
        self
    }

    /// Reads a report that `--json` wrote.
    ///
    /// # Errors
    /// If the file does not exist, or is not a report of this version.
    pub(crate) fn read(path: &Path) -> Result<Report, Error> {
        let fail = |what: String| Error::new(format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        parse(&text).map_err(fail)
    }
}

fn parse(text: &str) -> Result<Report, String> {
    #[derive(Deserialize)]
    struct Head {
        schema: String,
        version: u32,
    }
    let not_a_report = |error| format!("not a report of loadgen: {error}");
    let head: Head = serde_json::from_str(text).map_err(not_a_report)?;
    if head.schema != SCHEMA || !(VERSION_MIN..=VERSION).contains(&head.version) {
        return Err(format!("it is {} {}, expected {SCHEMA} {VERSION}", head.schema, head.version));
    }
    serde_json::from_str(text).map_err(not_a_report)
}

/// `part / whole`, or zero if `whole` is zero.
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::check::faults::Label;
    use crate::host::heartbeat::Pauses;
    use crate::host::meter::Cost;
    use crate::host::process::Usage;
    use crate::host::starvation::Starvation;
    use crate::report::recorder::Times;
    use crate::report::timeline::{ServerSample, Tick};

    /// A run of three connections that received 1,200 messages in two seconds, with latencies of 1 to 1,000 us, each
    /// published 0.9 ms late.
    pub(crate) fn outcome() -> Outcome {
        let mut recorded = Recorded::new();
        for us in 1..=1000 {
            let times = Times { intended_ns: 0, actual_ns: 900_000 };
            recorded.lateness.record(times.actual_ns);
            recorded.uncorrected.record(us * 1000);
            recorded.corrected.record(times.actual_ns + us * 1000);
        }
        let tick = |at_s| Tick {
            at_s,
            per_second: 600.0,
            p50_us: 1500.0,
            p99_us: 1990.0,
            connections: 3,
            faults: 0,
            client_cpus: 0.5,
        };
        Outcome {
            scenario: "fanout",
            url: "ws://a:1/".to_owned(),
            payload_bytes: 64,
            load: "600 publications a second".to_owned(),
            open_loop: true,
            unit: "deliveries",
            counts: vec![300, 400, 500],
            measured: Measured {
                cost: Cost {
                    elapsed: Duration::from_secs(2),
                    client_cpu: Duration::from_secs(1),
                    server: Some(Usage { cpu: Duration::from_millis(1200), resident_bytes: 5_000_000 }),
                    starvation: Starvation::default(),
                },
                history: History {
                    tick_s: 1.0,
                    measured_from_s: 1.0,
                    measured_to_s: 3.0,
                    ticks: [1.0, 2.0, 3.0].map(tick).to_vec(),
                    server: [1.0, 2.0, 3.0]
                        .map(|at_s| ServerSample { at_s, cpus: 0.6, resident_bytes: 5_000_000 })
                        .to_vec(),
                    intervals: Vec::new(),
                },
                pauses: Pauses::default(),
                since_start: Duration::from_secs(3),
            },
            figures: vec![Figure::new("away", 2.5, "s")],
            agents: Vec::new(),
            findings: vec![Findings { recorded, faults: Faults::new(Duration::MAX) }],
        }
    }

    #[test]
    fn figures_follow_from_counts_and_cost() {
        let report = Report::new(outcome());
        assert_eq!((report.count, report.per_second), (1200, 600.0));
        assert_eq!((report.slowest_share, report.client_cpus), (0.75, 0.5));
        let server = report.server.as_ref().unwrap();
        assert_eq!((server.cpu_ns_each, server.per_cpu_second, server.cpus), (1e6, 1000.0, 0.6));
        let LatencyReport { corrected, uncorrected, watched, acknowledged } = &report.latency;
        assert_eq!((watched, acknowledged), (&None, &None));
        assert!((uncorrected.as_ref().unwrap().p50_us - 500.0).abs() < 1.0);
        assert!((corrected.as_ref().unwrap().p50_us - 1400.0).abs() < 2.0);
        assert_eq!(report.latency.honest(), corrected.as_ref());
    }

    #[test]
    fn the_watched_topic_and_acknowledgements_have_their_own_latency() {
        let mut outcome = outcome();
        outcome.findings[0].recorded.watched.record(2_000);
        outcome.findings[0].recorded.acknowledged.record(3_000);
        let latency = Report::new(outcome).latency;
        let shown: Vec<_> = latency.named().into_iter().map(|(name, _, summary)| (name, summary.count)).collect();
        let expected = [("corrected", 1000), ("uncorrected", 1000), ("watched", 1), ("acknowledged", 1)];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_report_of_an_earlier_version_has_fewer_latencies() {
        let report = Report::new(outcome());
        let text = serde_json::to_string(&report).unwrap();
        let earlier = text.replacen(",\"watched\":null,\"acknowledged\":null", "", 1);
        assert_ne!(earlier, text);
        assert_eq!(parse(&earlier), Ok(report));
    }

    #[test]
    fn a_closed_loop_has_one_latency() {
        let latency = Report::new(Outcome { open_loop: false, ..outcome() }).latency;
        assert_eq!(latency.corrected, None);
        assert_eq!(latency.honest(), latency.uncorrected.as_ref());
    }

    #[test]
    fn a_run_without_messages_is_empty_and_has_no_latency() {
        let mut outcome = Outcome { counts: vec![0, 0], ..outcome() };
        outcome.findings[0].recorded = Recorded::new();
        let report = Report::new(outcome);
        assert_eq!((report.verdict, report.latency.honest()), (Verdict::Empty, None));
        assert!(serde_json::to_string(&report).unwrap().contains("\"corrected\":null,\"uncorrected\":null"));
    }

    #[test]
    fn a_run_without_messages_has_zero_ratios() {
        let report = Report::new(Outcome { counts: vec![0], ..outcome() });
        assert_eq!((report.slowest_share, report.server.as_ref().unwrap().cpu_ns_each), (0.0, 0.0));
        assert!(serde_json::to_string(&report).unwrap().contains("\"cpu_ns_each\":0.0"));
    }

    #[test]
    fn faults_outweigh_a_bound_client_and_both_outweigh_a_clean_run() {
        let run = |faulty: bool, busy_share: f64| {
            let mut outcome = outcome();
            outcome.findings[0].recorded.busy_share = busy_share;
            if faulty {
                outcome.findings[0].faults.skip(7, Label { sequence: 9, number: 9, topic: None });
            }
            Report::new(outcome).verdict
        };
        assert_eq!(run(false, 0.5), Verdict::Clean);
        assert_eq!(run(false, 0.95), Verdict::ClientBound);
        assert_eq!([run(true, 0.5), run(true, 0.95)], [Verdict::Faulty; 2]);
    }

    #[test]
    fn findings_of_workers_add_up() {
        let mut two = outcome();
        two.findings.extend(outcome().findings);
        two.findings[1].faults.refused("503");
        let report = Report::new(two);
        assert_eq!((report.latency.uncorrected.unwrap().count, report.faults.counts.refused), (2000, 1));
    }

    #[test]
    fn a_report_reads_back_and_other_versions_are_rejected() {
        let report = Report::new(outcome());
        let text = serde_json::to_string_pretty(&report).unwrap();
        assert_eq!(parse(&text), Ok(report));
        let of_version = |version| text.replacen("\"version\": 2", &format!("\"version\": {version}"), 1);
        assert_eq!(parse(&of_version(1)).unwrap().version, 1);
        let newer = parse(&of_version(3)).unwrap_err();
        assert_eq!(newer, "it is ringfeed-loadgen-report 3, expected ringfeed-loadgen-report 2");
        assert!(parse("{}").unwrap_err().starts_with("not a report of loadgen: "));
    }
}
