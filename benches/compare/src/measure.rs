//! One run: a fresh server, the load generator, its report.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::plan::{Case, Publish, Scenario, ServerPlan, words};
use crate::server::{SERVER_CPU, Server};

/// The CPU that the load generator runs on.
pub(crate) const CLIENT_CPU: &str = "1";

/// Exit code of `loadgen` if messages were lost or wrong.
const FAULTS: i32 = 1;

/// Exit code of `loadgen` if it was the bottleneck itself.
const CLIENT_BOUND: i32 = 3;

/// One run of one server.
pub(crate) struct Measurement {
    pub(crate) case: String,
    pub(crate) round: u32,
    pub(crate) server: &'static str,
    pub(crate) report: Report,
}

/// The part of `loadgen`'s report that is used here.
#[derive(Clone, Deserialize)]
pub(crate) struct Report {
    pub(crate) count: u64,
    pub(crate) per_second: f64,
    pub(crate) latency: Latency,
    pub(crate) slowest_share: f64,
    pub(crate) client_cpus: f64,
    pub(crate) self_check: SelfCheck,
    pub(crate) server: ServerCost,
    pub(crate) figures: Vec<Figure>,
    pub(crate) faults: Faults,
    /// Not from `loadgen`: read after the run from the system and the server.
    #[serde(skip)]
    pub(crate) afterwards: Afterwards,
    /// Not from `loadgen`: read from the system.
    #[serde(skip)]
    pub(crate) cores: Cores,
}

/// State of a server after a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Afterwards {
    /// Peak of its resident memory, in bytes.
    pub(crate) peak_bytes: u64,
    /// Subscribers closed as slow.
    pub(crate) closed: u64,
    /// Publications dropped for a slow subscriber.
    pub(crate) dropped: u64,
    /// Publications replaced by a newer one.
    pub(crate) conflated: u64,
}

/// Seconds in which the CPUs were not idle, for any reason: including packets that arrived while their program slept,
/// which the kernel charges to no process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cores {
    pub(crate) server: f64,
    pub(crate) client: f64,
}

impl Cores {
    /// The seconds so far.
    fn now() -> Result<Cores, Box<dyn Error>> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let busy = |cpu| busy_seconds(&stat, cpu).ok_or_else(|| format!("/proc/stat has no CPU {cpu}"));
        Ok(Cores { server: busy(SERVER_CPU)?, client: busy(CLIENT_CPU)? })
    }

    fn since(self, before: Cores) -> Cores {
        Cores { server: self.server - before.server, client: self.client - before.client }
    }
}

/// The fields of `/proc/stat`, in hundredths of a second: user, nice, system, idle, I/O wait, two kinds of interrupts,
/// and steal.
fn busy_seconds(stat: &str, cpu: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu")?.strip_prefix(cpu)?.strip_prefix(' '))?;
    let ticks: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _, _, interrupts, soft_interrupts, ..] = ticks[..] else { return None };
    Some((user + nice + system + interrupts + soft_interrupts) / 100.0)
}

impl Report {
    /// Like [`client_capacity`](Self::client_capacity), for all work of the two CPUs.
    pub(crate) fn core_capacity(&self) -> f64 {
        self.cores.server / self.cores.client
    }

    /// Deliveries that the load generator can receive per CPU, as a multiple of those that the server can send.
    pub(crate) fn client_capacity(&self) -> f64 {
        let client_cpu_ns_each = self.client_cpus * 1e9 / self.per_second;
        self.server.cpu_ns_each / client_cpu_ns_each
    }

    /// A figure that only some scenarios report; NaN if there is none.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        self.figures.iter().find(|figure| figure.name == name).map_or(f64::NAN, |figure| figure.value)
    }
}

/// Fault counts by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Faults {
    pub(crate) missing: u64,
    pub(crate) duplicate: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupt: u64,
    pub(crate) late: u64,
    pub(crate) stalled: u64,
    pub(crate) closed: u64,
    pub(crate) refused: u64,
}

impl Faults {
    /// Whether the only fault is the order of messages.
    fn is_order_only(self) -> bool {
        self == Faults { reordered: self.reordered, ..Faults::default() }
    }
}

/// A figure with a name.
#[derive(Clone, Deserialize)]
pub(crate) struct Figure {
    name: String,
    value: f64,
}

#[derive(Clone, Deserialize)]
pub(crate) struct SelfCheck {
    /// The load generator was the bottleneck: rate and latency do not describe the server, its CPU time does.
    pub(crate) client_bound: bool,
}

/// From publishing to receipt.
#[derive(Clone, Deserialize)]
pub(crate) struct Latency {
    corrected: Option<Summary>,
    uncorrected: Summary,
    /// On the topic of the watchers.
    pub(crate) watched: Option<Summary>,
    /// From publishing to the answer.
    pub(crate) acknowledged: Option<Summary>,
}

impl Latency {
    /// The latency to rely on: from the scheduled times if there is a schedule.
    pub(crate) fn honest(&self) -> &Summary {
        self.corrected.as_ref().unwrap_or(&self.uncorrected)
    }

    /// The latency of a run without a schedule.
    #[cfg(test)]
    pub(crate) fn closed_loop(summary: Summary) -> Latency {
        Latency { corrected: None, uncorrected: summary, watched: None, acknowledged: None }
    }
}

#[derive(Clone, Deserialize)]
pub(crate) struct Summary {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

#[derive(Clone, Deserialize)]
pub(crate) struct ServerCost {
    pub(crate) cpus: f64,
    pub(crate) cpu_ns_each: f64,
    pub(crate) per_cpu_second: f64,
    pub(crate) resident_bytes: u64,
}

/// Starts `plan`, drives it with `case`, and stops it.
///
/// # Errors
/// If the server or the load generator can't be started, or a message was lost or wrong.
pub(crate) fn run(
    case: &Case,
    round: u32,
    plan: &ServerPlan,
    binaries: &Path,
    duration: &str,
) -> Result<Measurement, Box<dyn Error>> {
    let server = Server::start(plan)?;
    let mut loadgen = Command::new(binaries.join("loadgen"));
    loadgen.args(task(case.scenario, plan.stalled)).args(addresses(case.scenario, plan, &server)?).args(&case.load);
    if plan.deflate {
        loadgen.arg("--deflate");
    }
    if plan.is_secure {
        loadgen.arg("--insecure");
    }
    loadgen.args(["--duration", duration, "--warmup", case.warmup, "--cpu", CLIENT_CPU]);
    // A slow server is not a fault: its latency is a result.
    loadgen.args(["--late", "1m"]);
    loadgen.args(["--server-pid", &server.pid().to_string()]);
    let before = Cores::now()?;
    let json = std::env::temp_dir().join(format!("compare-{}.json", std::process::id()));
    let output = loadgen.arg("--json").arg(&json).output()?;
    let cores = Cores::now()?.since(before);
    let report = std::fs::read(&json).map_err(Box::from).and_then(|report| read(&report));
    let is_fine = match (output.status.code(), &report) {
        // CLIENT_BOUND runs have no faults, either, and the server's CPU time per delivery is still valid.
        (Some(0 | CLIENT_BOUND), _) => true,
        (Some(FAULTS), Ok(report)) => plan.mixes_publishers && report.faults.is_order_only(),
        _ => false,
    };
    if !is_fine {
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return Err(format!("{}, {}: {stdout}{stderr}", case.name, plan.name).into());
    }
    let mut report = Report { cores, ..report? };
    std::fs::remove_file(&json)?;
    if case.scenario == Scenario::Slow {
        report.afterwards = server.afterwards()?;
    }
    Ok(Measurement { case: case.name.clone(), round, server: plan.name, report })
}

fn read(report: &[u8]) -> Result<Report, Box<dyn Error>> {
    Ok(serde_json::from_slice(report)?)
}

/// The scenario of `loadgen`: plain fan-out if no subscribers are stalled.
fn task(scenario: Scenario, stalled: u32) -> Vec<String> {
    match (scenario, stalled) {
        (Scenario::Slow, 0) => words(Scenario::Fanout.name()),
        (Scenario::Slow, percent) => words(&format!("{} --slow-share {percent}", scenario.name())),
        _ => words(scenario.name()),
    }
}

fn addresses(scenario: Scenario, plan: &ServerPlan, server: &Server) -> Result<Vec<String>, Box<dyn Error>> {
    let listening = server.listening()?;
    let on_one_address = |driver| words(&format!("--driver {driver} --topic bench --url {listening}/"));
    let publishing_there = || words(&format!("--publish {listening}/"));
    Ok(match (scenario, plan.publish) {
        (Scenario::Echo, _) => words(&format!("--url {listening}/echo")),
        (Scenario::Fanout | Scenario::Slow, Publish::Centrifugo) => words(&format!(
            "--driver centrifugo --topic bench --url {listening}/connection/websocket --publish {}/api/publish",
            server.control()?
        )),
        (Scenario::Fanout | Scenario::Slow, Publish::Driver(driver)) => {
            [on_one_address(driver), publishing_there()].concat()
        }
        (Scenario::Fanout | Scenario::Slow, Publish::Post) => {
            fanout(listening, &format!("{}/publish/{{topic}}", server.control()?))
        }
        (Scenario::Fanout | Scenario::Slow, Publish::Script(script)) => {
            [words(&format!("--script {script}")), fanout(listening, &format!("{listening}/publish/topics"))].concat()
        }
        (Scenario::Fanout | Scenario::Slow, Publish::WebSocket) => fanout(listening, &format!("{listening}/publish")),
        (Scenario::Connect | Scenario::Idle, Publish::Driver(driver)) => on_one_address(driver),
        (Scenario::Connect | Scenario::Idle, _) => words(&format!("--url {listening}/feed/bench")),
    })
}

fn fanout(listening: &str, publish: &str) -> Vec<String> {
    words(&format!("--topic bench --url {listening}/feed/{{topic}} --publish {publish}"))
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measurement { case, round, server, report } = self;
        write!(
            f,
            "{case}, round {}, {server}: {:.0} ns each, {:.0} a CPU second, p50 {:.0} us, p99.9 {:.0} us",
            round + 1,
            report.server.cpu_ns_each,
            report.server.per_cpu_second,
            report.latency.honest().p50_us,
            report.latency.honest().p999_us
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_order_is_not_a_loss() {
        let reordered = Faults { reordered: 1000, ..Faults::default() };
        assert!(reordered.is_order_only() && Faults::default().is_order_only());
        assert!(
            !Faults { missing: 1, ..reordered }.is_order_only() && !Faults { closed: 1, ..reordered }.is_order_only()
        );
    }

    #[test]
    fn a_cpu_is_busy_when_it_is_not_idle() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 30 1000 2000 4 5 600 0 0\ncpu10 1 0 0 0 0 0 0 0 0 0\nintr 5\n";
        assert_eq!(busy_seconds(stat, "0"), Some(1.59));
        assert_eq!(busy_seconds(stat, "10"), Some(0.01));
        assert_eq!((busy_seconds(stat, "1"), busy_seconds("cpu1 1 2", "1")), (None, None));
        let (before, after) = (Cores { server: 1.0, client: 2.0 }, Cores { server: 4.0, client: 4.0 });
        assert_eq!(after.since(before), Cores { server: 3.0, client: 2.0 });
    }
}
