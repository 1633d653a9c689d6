//! The flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::options::{ConnectOptions, PublishOptions};
use crate::payload::PAYLOAD_BYTES_MIN;
use crate::reconnect::Sdk;
use crate::target::Target;

/// Load generator for WebSocket push servers.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// One publisher, many subscribers of one topic: a score, a price, a chat room. Every subscriber must get every
    /// message once, in order and unchanged.
    Fanout(FanoutOptions),
    /// Every connection sends a message and waits for it to come back: request and response over WebSocket.
    Echo(EchoOptions),
    /// Connections come and go at once: a shop opens, a deployment restarts. How many handshakes a server gets done,
    /// and how long they take.
    Connect(ConnectScenarioOptions),
    /// Connections that only are there, as most are most of the time: presence, rare notifications. What holding them
    /// costs; pings are answered.
    Idle(IdleOptions),
    /// A crowd loses its connections at once and comes back as a known SDK does, while others are served: a proxy
    /// restarts, a network is gone for a moment. What do the others notice, and when are all back? With {topic} in the
    /// addresses the crowd has a topic of its own, on which nothing is published.
    Storm(StormOptions),
    /// Some subscribers read slowly or not at all: phones in tunnels. Do the others notice, and what becomes of the
    /// slow?
    Slow(SlowOptions),
    /// Subscribers leave and return all the time: people open and close pages. Whoever is there must get every message.
    Churn(ChurnOptions),
    /// A server is told to stop while everybody is connected: a deployment. Is everybody told to go elsewhere, at an
    /// even pace, and has anybody lost what was published before?
    Drain(DrainOptions),
    /// Accept connections and hold them, and nothing else: the other end of a run that is about the client
    #[command(hide = true)]
    Accept(AcceptOptions),
    /// Show two reports side by side, as ratios of the second to the first.
    Compare(CompareOptions),
}

#[derive(Debug, Args)]
pub(crate) struct CommonOptions {
    /// Where to connect: ws://HOST:PORT/PATH, wss:// for TLS; http:// or https:// for event streams
    #[arg(long)]
    pub(crate) url: Target,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(PAYLOAD_BYTES_MIN as i64..))]
    pub(crate) size: u32,
    /// Have messages compressed both ways; the server must agree
    #[arg(long)]
    pub(crate) deflate: bool,
    /// How long to measure: 5s, 500ms, 1m
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// How long to run before measuring
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) warmup: Duration,
    /// Process id of the server, on this machine: its CPU time and memory go into the report
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// Run on this CPU only
    #[arg(long)]
    pub(crate) cpu: Option<u32>,
    #[command(flatten)]
    pub(crate) tolerance: Tolerance,
    /// Write the report to this file as JSON, too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the report to this file as a page with plots, too
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) connect: ConnectOptions,
}

/// What is taken for a fault.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Tolerance {
    /// A message that takes longer, from when it was sent, is a fault
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) late: Duration,
    /// If messages are awaited and none comes for so long, they are given up
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(crate) patience: Duration,
}

/// Two reports to be compared.
#[derive(Debug, Args)]
pub(crate) struct CompareOptions {
    /// What `--json` wrote
    pub(crate) first: PathBuf,
    /// What `--json` wrote, of the run that is set against the first
    pub(crate) second: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct FanoutOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) publishing: PublishOptions,
    /// Subscribers
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Publications under way at a time: the next goes out when every subscriber has got the oldest. Without this, 1
    /// or, with --rate, no bound. With both, the schedule waits, as most tools do: see what that does to the
    /// uncorrected latency
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: Option<u32>,
    /// Topics. Each subscriber is on one of them, and publications take them in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) topics: u32,
    /// How unlike the topics' audiences are: topic k has one in proportion to 1 / k^SKEW. 0 is all alike, 1 is Zipf's
    /// law
    #[arg(long, default_value_t = 0.0, requires = "topics")]
    pub(crate) skew: f64,
    /// Publications per second, sent on schedule whether or not the server keeps up
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// With --rate, so many of them are due at once: what there is to join does not depend on how quick clients are
    #[arg(long, default_value_t = 1, requires = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: u32,
}

#[derive(Debug, Args)]
pub(crate) struct EchoOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Connections
    #[arg(short, long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Messages under way at a time on each connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pipeline: u32,
    /// Send binary messages instead of text
    #[arg(long)]
    pub(crate) binary: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectScenarioOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Handshakes a second, begun on schedule whether or not the server keeps up. Without it, as many as --handshakes
    /// at a time
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Begin at nothing and reach --rate at the end: the history shows where it gets too much
    #[arg(long, requires = "rate")]
    pub(crate) ramp: bool,
    /// Connections at a time at most, those that are just leaving among them
    #[arg(short, long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) connections: u32,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptOptions {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Connections at most
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
    /// Connections
    #[arg(short, long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
}

#[derive(Debug, Args)]
pub(crate) struct StormOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) publishing: PublishOptions,
    /// The crowd that is gone at once and comes back
    #[arg(short, long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Subscribers that stay, and get what is published
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) watchers: u32,
    /// Publications per second
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// How long to measure before the storm
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) calm: Duration,
    /// How clients come back
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) reconnect: Sdk,
}

#[derive(Debug, Args)]
pub(crate) struct SlowOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) publishing: PublishOptions,
    /// Subscribers, the slow ones among them
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) connections: u32,
    /// Publications per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// Percent of the subscribers that are slow; at least one is
    #[arg(long, default_value_t = 1.0)]
    pub(crate) slow_share: f64,
    /// Payload bytes a second that each slow one reads; 0 reads nothing
    #[arg(long, default_value_t = 0)]
    pub(crate) slow_read: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ChurnOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) publishing: PublishOptions,
    /// Subscribers
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Publications per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// Subscribers that leave each second, each to return at once
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) leave_rate: u32,
}

#[derive(Debug, Args)]
pub(crate) struct DrainOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) publishing: PublishOptions,
    /// Subscribers
    #[arg(short, long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Publications per second, until it is told to stop: SIGTERM to --server-pid
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// The time over which the server is to tell everybody
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    pub(crate) spread: Duration,
}

/// A whole number with a unit: `ms`, `s` or `m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a number with a unit, such as 5s".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => Err("expected ms, s or m after the number, as in 5s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "5", "s", "-1s", "5 s", "1.5s", "5h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_out_of_range_are_refused() {
        let fanout = ["loadgen", "fanout", "--url", "ws://127.0.0.1:1/", "--publish", "http://127.0.0.1:2/"];
        let accepts = |more: &[&str]| Arguments::try_parse_from(fanout.iter().chain(more)).is_ok();
        assert!(accepts(&[]));
        assert!(accepts(&["-c", "10", "--rate", "5"]));
        assert!(!accepts(&["-c", "0"]));
        assert!(!accepts(&["--size", "43"]));
        assert!(accepts(&["--in-flight", "2", "--rate", "5"]));
        assert!(!accepts(&["--late", "1"]));
        assert!(!accepts(&["--url", "ftp://127.0.0.1:1/"]));
    }
}
