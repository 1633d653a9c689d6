//! The flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::options::{ConnectOptions, PublishOptions};
use crate::payload::PAYLOAD_BYTES_MIN;
use crate::target::Target;

/// Load generator for WebSocket push servers.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// One publisher, many subscribers of one topic: a score, a price, a chat room. Every subscriber must get every
    /// message once, in order and unchanged.
    Fanout(FanoutOptions),
    /// Every connection sends a message and waits for it to come back: request and response over WebSocket.
    Echo(EchoOptions),
}

impl Scenario {
    pub(crate) fn common(&self) -> &CommonOptions {
        match self {
            Scenario::Fanout(options) => &options.common,
            Scenario::Echo(options) => &options.common,
        }
    }
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
    /// Write the report to this file as JSON, too
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) connect: ConnectOptions,
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
    /// Publications under way at a time: the next goes out when every subscriber has got the oldest
    #[arg(long, default_value_t = 1, conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: u32,
    /// Publications per second, sent on schedule whether or not the server keeps up
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
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
        assert!(!accepts(&["--size", "39"]));
        assert!(!accepts(&["--in-flight", "2", "--rate", "5"]));
        assert!(!accepts(&["--url", "ftp://127.0.0.1:1/"]));
    }
}
