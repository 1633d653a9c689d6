//! The command-line flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::check::payload::PAYLOAD_BYTES_MIN;
use crate::options::{AgentOptions, ConnectOptions, OutputOptions, PublishOptions, parse_duration, parse_header};
use crate::scenario::reconnect::Sdk;
use crate::wire::target::Target;

/// The table in the README, too.
const EXIT_CODES: &str = "\
Exit codes:
  0  the run is valid and every message arrived as it should
  1  messages or connections had faults
  2  the run could not be measured, or nothing was measured
  3  no faults, but the load generator was the bottleneck
  4  an expectation was not met";

/// Load generator for WebSocket push servers.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Few publishers, many subscribers: a score, a price, a chat room. Checks that every subscriber receives every
    /// message once, in order and unchanged.
    Fanout(FanoutOptions),
    /// Request and response over WebSocket: every connection sends a message and waits for its echo.
    Echo(EchoOptions),
    /// Many handshakes at once: a shop opens, a deployment restarts. Measures how many handshakes a server completes
    /// and how long they take.
    Connect(ConnectScenarioOptions),
    /// Connections without traffic, as most are most of the time: presence, rare notifications. Measures what each
    /// costs in memory and CPU; answers pings.
    Idle(IdleOptions),
    /// Many clients lose their connections at once and reconnect with the backoff of a known SDK: a proxy restarts, a
    /// network fails for a moment. Measures the latency of the subscribers that stay, and the time until all clients
    /// are back. With {topic} in the addresses, the reconnecting clients have a topic of their own without
    /// publications.
    Storm(StormOptions),
    /// Some subscribers read slowly or not at all: phones in tunnels. Measures whether that delays the others, and how
    /// the server treats the slow ones.
    Slow(SlowOptions),
    /// Subscribers leave and return all the time: people open and close pages. Checks that each receives every message
    /// published while it is subscribed.
    Churn(ChurnOptions),
    /// A server gets SIGTERM with all subscribers connected: a deployment. Checks that it closes them at an even pace,
    /// without losing earlier messages.
    Drain(DrainOptions),
    /// Run a plan: a file with stages of connections and rates, groups of topics, and expectations; see
    /// loadgen/README.md.
    Run(RunOptions),
    /// Work on plans.
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Drive a part of the subscribers for runs on other machines. Those runs name this address in --agents.
    Agent(AgentCommandOptions),
    /// Accept and hold connections, and do nothing else: a peer for runs that measure the client
    #[command(hide = true)]
    Accept(AcceptOptions),
    /// Compare reports side by side, with the ratios of the others to the first.
    Compare(CompareOptions),
    /// Run a scenario against two servers in alternation, and say which of their figures differ: the median of the
    /// ratios of paired runs, with a 95 % confidence interval.
    Ab(AbOptions),
}

impl Task {
    /// The options that all scenarios share; `None` for other tasks, and for plans, which have some of them.
    pub(crate) fn common(&self) -> Option<&CommonOptions> {
        match self {
            Task::Fanout(options) => Some(&options.common),
            Task::Echo(options) => Some(&options.common),
            Task::Connect(options) => Some(&options.common),
            Task::Idle(options) => Some(&options.common),
            Task::Storm(options) => Some(&options.common),
            Task::Slow(options) => Some(&options.common),
            Task::Churn(options) => Some(&options.common),
            Task::Drain(options) => Some(&options.common),
            Task::Run(_) | Task::Plan(_) | Task::Agent(_) | Task::Accept(_) | Task::Compare(_) | Task::Ab(_) => None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CommonOptions {
    /// URL to connect to: ws://HOST:PORT/PATH, or wss:// for TLS; http:// or https:// for event streams
    #[arg(long)]
    pub(crate) url: Target,
    /// Payload bytes per message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(PAYLOAD_BYTES_MIN as i64..))]
    pub(crate) size: u32,
    /// Compress messages in both directions; the server must agree
    #[arg(long)]
    pub(crate) deflate: bool,
    /// Length of the measured part: 5s, 500ms, 1m, 1h, or 1m 30s
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Length of the warm-up before it
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) warmup: Duration,
    /// Process id of the server, if it runs on this machine: adds its CPU time and memory to the report
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// Run on this CPU only; with several workers, on these CPUs in rotation
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    pub(crate) cpu: Vec<u32>,
    /// Make the same run so many times, and print the spread of its figures
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
    #[command(flatten)]
    pub(crate) tolerance: Tolerance,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
    #[command(flatten)]
    pub(crate) connect: ConnectOptions,
}

impl CommonOptions {
    /// The CPU of this worker, if it has one.
    pub(crate) fn cpu_of(&self, worker: usize) -> Option<u32> {
        self.cpu.get(worker % self.cpu.len().max(1)).copied()
    }

    /// The CPU of all workers, if it is one.
    pub(crate) fn only_cpu(&self) -> Option<u32> {
        if let [cpu] = self.cpu[..] { Some(cpu) } else { None }
    }
}

/// The limits beyond which a delay is a fault.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Tolerance {
    /// A message that arrives later than this after it was sent is a fault
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) late: Duration,
    /// Count due messages as missing if none arrives for this long
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(crate) patience: Duration,
}

/// The reports to compare.
#[derive(Debug, Args)]
pub(crate) struct CompareOptions {
    /// Two to five reports written with `--json`, the baseline first
    #[arg(required = true, num_args = 2..=5, value_name = "FILE")]
    pub(crate) reports: Vec<PathBuf>,
    /// Also write the comparison to this file, as an HTML page with plots
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// The two servers, and the scenario.
#[derive(Debug, Args)]
pub(crate) struct AbOptions {
    /// Pairs of runs
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(6..=1000))]
    pub(crate) rounds: u32,
    /// Command that starts server A before each of its runs; without it, A runs already
    #[arg(long, value_name = "COMMAND")]
    pub(crate) start_a: Option<String>,
    /// The same for B
    #[arg(long, value_name = "COMMAND")]
    pub(crate) start_b: Option<String>,
    /// Flags only for the runs against A, separated by blanks: '--url ws://... --publish http://...'
    #[arg(long, value_name = "FLAGS", default_value = "", allow_hyphen_values = true)]
    pub(crate) only_a: String,
    /// The same for B
    #[arg(long, value_name = "FLAGS", default_value = "", allow_hyphen_values = true)]
    pub(crate) only_b: String,
    /// The scenario with its flags: fanout --url ws://... -c 1000
    #[arg(value_name = "SCENARIO", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) scenario: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct FanoutOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) publishing: PublishOptions,
    /// Number of subscribers
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Threads, each with its share of the subscribers; the first one publishes, too
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX))]
    pub(crate) workers: u32,
    /// Most publications in flight: the next is sent once every subscriber has received the oldest. Default: 1, or
    /// without limit if --rate is given. With both, a full window delays the schedule, as in most tools: compare
    /// corrected and uncorrected latency to see the effect
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: Option<u32>,
    /// Number of topics. Publications go to the topics in rotation
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=TOPICS_MAX))]
    pub(crate) topics: u32,
    /// Number of topics that each subscriber subscribes to, chosen at random, in every run the same. {topic} in the
    /// address to connect to, or in the messages of a script, is replaced by their names, separated by commas
    #[arg(long, value_name = "TOPICS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) topics_per_connection: u32,
    /// Skew of audience sizes: the audience of topic k is proportional to 1 / k^SKEW, up to all subscribers. 0 makes
    /// all equal, 1 is Zipf's law
    #[arg(long, default_value_t = 0.0, requires = "topics", allow_negative_numbers = true, value_parser = parse_skew)]
    pub(crate) skew: f64,
    /// Number of further subscribers, to one topic of their own with its own publisher. Its latency is reported apart:
    /// the delay that the load of the other topics causes to a topic with few subscribers
    #[arg(long, default_value_t = 0)]
    pub(crate) watchers: u32,
    /// Publications per second to the watchers, on schedule
    #[arg(
        long,
        value_name = "RATE",
        default_value_t = 100,
        requires = "watchers",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(crate) watch_rate: u32,
    /// Publications per second, sent on schedule even if the server falls behind
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// With --rate, publish in bursts of this many, so that the server can always join as many, however fast the
    /// clients are
    #[arg(long, default_value_t = 1, requires = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: u32,
    #[command(flatten)]
    pub(crate) agents: AgentOptions,
}

/// A plan, and the server to run it against.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The plan
    pub(crate) file: PathBuf,
    /// URL to connect to: ws://HOST:PORT/PATH, or wss:// for TLS; http:// or https:// for event streams. Several topics
    /// need {topic} in it
    #[arg(long)]
    pub(crate) url: Target,
    /// Where to publish: http://HOST:PORT/PATH sends each message as a POST, ws://HOST:PORT/PATH over a WebSocket
    #[arg(long)]
    pub(crate) publish: Target,
    /// Header for each POST, or for the WebSocket handshake, as 'Name: value'; may be repeated
    #[arg(long, value_parser = parse_header)]
    pub(crate) publish_header: Vec<(String, String)>,
    /// Stretch or shorten all stages so that together they take this long
    #[arg(long, value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// Length of the warm-up, with the connections and the rate of the first stage's beginning
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) warmup: Duration,
    /// Threads, each with its share of the subscribers; the first one publishes, too
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX))]
    pub(crate) workers: u32,
    /// Compress messages in both directions; the server must agree
    #[arg(long)]
    pub(crate) deflate: bool,
    /// Process id of the server, if it runs on this machine: adds its CPU time and memory to the report
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// Run on this CPU only; with several workers, on these CPUs in rotation
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    pub(crate) cpu: Vec<u32>,
    /// Make the same run so many times, and print the spread of its figures
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
    #[command(flatten)]
    pub(crate) tolerance: Tolerance,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
    #[command(flatten)]
    pub(crate) connect: ConnectOptions,
    #[command(flatten)]
    pub(crate) agents: AgentOptions,
}

#[derive(Debug, Args)]
pub(crate) struct AgentCommandOptions {
    /// Address to listen on; other addresses than those of loopback need a key
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// File with the key, 16 characters or more, that the coordinator has to have, too
    #[arg(long, value_name = "FILE")]
    pub(crate) agent_key_file: Option<PathBuf>,
    /// Set this program's clock ahead, to test what a coordinator makes of it
    #[arg(long, value_name = "MS", default_value_t = 0, hide = true, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-86_400_000..=86_400_000))]
    pub(crate) skew_clock_ms: i64,
    /// Answer pings this much later, for the same reason
    #[arg(long, value_name = "TIME", hide = true, value_parser = parse_duration)]
    pub(crate) answer_after: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// Check plans without a server. An error names the line and the remedy.
    Check(PlanOptions),
}

#[derive(Debug, Args)]
pub(crate) struct PlanOptions {
    /// The plans
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct EchoOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Number of connections
    #[arg(short, long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Threads, each with its share of the connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX))]
    pub(crate) workers: u32,
    /// Messages in flight per connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=PIPELINE_MAX))]
    pub(crate) pipeline: u32,
    /// Send binary messages instead of text
    #[arg(long)]
    pub(crate) binary: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectScenarioOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Handshakes per second, started on schedule even if the server falls behind. Default: as many as possible, with
    /// at most --handshakes in progress
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Raise the rate from 0 to --rate over the run: the history shows where the server saturates
    #[arg(long, requires = "rate")]
    pub(crate) ramp: bool,
    /// Most connections at a time, including those that are closing
    #[arg(short, long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) connections: u32,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptOptions {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Most connections at a time
    #[arg(short, long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(64..))]
    pub(crate) connections: u32,
    /// Run on this CPU only
    #[arg(long)]
    pub(crate) cpu: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct IdleOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Number of connections
    #[arg(short, long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
}

#[derive(Debug, Args)]
pub(crate) struct StormOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) publishing: PublishOptions,
    /// Number of clients that lose their connections and reconnect
    #[arg(short, long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Number of subscribers that stay connected and receive the publications
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) watchers: u32,
    /// Publications per second
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// How long to measure before the clients are disconnected
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) calm: Duration,
    /// Backoff of the reconnecting clients
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) reconnect: Sdk,
}

#[derive(Debug, Args)]
pub(crate) struct SlowOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) publishing: PublishOptions,
    /// Number of subscribers, including the slow ones
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) connections: u32,
    /// Publications per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// Percentage of slow subscribers; at least one is slow
    #[arg(long, default_value_t = 1.0)]
    pub(crate) slow_share: f64,
    /// Payload bytes per second that each slow subscriber reads; 0 reads nothing
    #[arg(long, default_value_t = 0)]
    pub(crate) slow_read: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ChurnOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) publishing: PublishOptions,
    /// Number of subscribers
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Publications per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// Subscribers that leave per second; each returns at once
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) leave_rate: u32,
}

#[derive(Debug, Args)]
pub(crate) struct DrainOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) publishing: PublishOptions,
    /// Number of subscribers
    #[arg(short, long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Publications per second until the server gets SIGTERM (needs --server-pid)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// The period over which the server is configured to close its connections
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    pub(crate) spread: Duration,
}

/// Most topics: the rest of a sequence number counts the messages of one topic.
const TOPICS_MAX: i64 = 1_000_000;

/// Most threads.
const WORKERS_MAX: i64 = 1024;

/// Most messages in flight on one connection.
const PIPELINE_MAX: i64 = 100_000;

/// The largest skew: nearly all subscribers have the same topics.
const SKEW_MAX: f64 = 10.0;

fn parse_skew(text: &str) -> Result<f64, String> {
    let skew: f64 = text.parse().map_err(|_| "expected a number, such as 1.0".to_owned())?;
    let is_in_range = (0.0..=SKEW_MAX).contains(&skew);
    if is_in_range { Ok(skew) } else { Err(format!("expected a number from 0 to {SKEW_MAX}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_out_of_range_are_rejected() {
        let fanout = ["loadgen", "fanout", "--url", "ws://127.0.0.1:1/", "--publish", "http://127.0.0.1:2/"];
        let accepts = |more: &[&str]| Arguments::try_parse_from(fanout.iter().chain(more)).is_ok();
        assert!(accepts(&[]));
        assert!(accepts(&["-c", "10", "--rate", "5"]));
        assert!(!accepts(&["-c", "0"]));
        assert!(!accepts(&["--size", "43"]));
        assert!(accepts(&["--in-flight", "2", "--rate", "5"]));
        assert!(!accepts(&["--late", "1"]));
        assert!(accepts(&["--topics", "9", "--topics-per-connection", "3", "--skew", "1"]));
        for wrong in ["NaN", "-1", "inf", "11", "x"] {
            assert!(!accepts(&["--topics", "9", &format!("--skew={wrong}")]), "{wrong}");
        }
        assert!(!accepts(&["--topics", "9", "--skew", "-3"]));
        assert!(!accepts(&["--watch-rate", "5"]));
        assert!(!accepts(&["--url", "ftp://127.0.0.1:1/"]));
    }
}
