//! The flags for connecting and publishing, shared by all scenarios.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::driver::DriverName;
use crate::error::Error;
use crate::report::expect::{self, Expectation};
use crate::wire::target::Target;

/// The longest time: stamps of messages reach further.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(86_400);

/// How clients connect.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub(crate) struct ConnectOptions {
    /// The protocol of the server
    #[arg(long, value_enum, default_value = "raw")]
    pub(crate) driver: DriverName,
    /// Use the protocol described in this file; see loadgen/README.md
    #[arg(long, value_name = "FILE", conflicts_with = "driver")]
    pub(crate) script: Option<PathBuf>,
    /// The topic name; replaces {topic} in addresses. With --topics, -0, -1 and so on are appended
    #[arg(long, default_value = "load")]
    pub(crate) topic: String,
    /// Header for the opening handshake, as 'Name: value'; may be repeated
    #[arg(long, value_parser = parse_header)]
    pub(crate) header: Vec<(String, String)>,
    /// Accept any server certificate
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Trust the certificate authorities in this PEM file instead of the public ones
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) ca: Option<PathBuf>,
    /// Resume earlier TLS sessions where the server has given tickets, as returning clients do
    #[arg(long)]
    pub(crate) tls_resume: bool,
    /// Addresses of this host to connect from. Default on loopback: as many of 127.0.0.0/8 as the connections need
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) source: Vec<IpAddr>,
    /// Addresses of the server to connect to, instead of the one in the URL
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) destination: Vec<IpAddr>,
    /// Most new connections per second
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connect_rate: Option<u32>,
    /// Most handshakes in progress at a time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) handshakes: u32,
    /// Longest time until a client is connected and, if it subscribes, its subscription is confirmed
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) connect_timeout: Duration,
}

impl ConnectOptions {
    /// Whether a subscriber can name its topic only in the address it connects to.
    pub(crate) fn needs_topic_in_address(&self) -> bool {
        self.script.is_none() && matches!(self.driver, DriverName::Raw | DriverName::Sse | DriverName::Mercure)
    }

    /// Whether a subscriber can have several topics: those of a script and in an address are separated by commas.
    pub(crate) fn takes_several_topics(&self) -> bool {
        self.script.is_some() || matches!(self.driver, DriverName::Raw | DriverName::Sse)
    }

    /// Whether a publisher can name its topic only in the address of a POST.
    pub(crate) fn needs_topic_in_publish_address(&self) -> bool {
        self.script.is_none() && matches!(self.driver, DriverName::Raw | DriverName::Sse)
    }
}

/// Other machines that take a part of the subscribers.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AgentOptions {
    /// Agents (loadgen agent) that take equal parts of the subscribers, as this program does: HOST:PORT,HOST:PORT.
    /// Needs a schedule (--rate)
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) agents: Vec<String>,
    /// File with the key that the agents have, too
    #[arg(long, value_name = "FILE", requires = "agents")]
    pub(crate) agent_key_file: Option<PathBuf>,
}

/// Where the result goes, and what it has to be.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OutputOptions {
    /// Also write the report to this file, as JSON. With -, standard output has the JSON, and standard error the table
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Also write the report to this file, as an HTML page with plots
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Also write the latencies to this file, as the table of percentiles that HdrHistogram's plotter reads
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
    /// Also write the latencies of each tick to this file, as an HdrHistogram interval log
    #[arg(long, value_name = "FILE")]
    pub(crate) hlog: Option<PathBuf>,
    /// Also write the figures of each tick to this file, as CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Also write the result to this file, as JUnit XML for CI servers
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// While the run lasts, serve the figures so far at http://ADDRESS/metrics, for Prometheus
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Exit with 4 unless this holds: 'p99<250ms', 'faults==0', 'per_second>=1000'; see loadgen/README.md
    #[arg(long, value_name = "EXPECTATION", num_args = 1..)]
    pub(crate) expect: Vec<Expectation>,
    /// The same for each line of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) expect_file: Vec<PathBuf>,
    /// End the run as soon as an expectation of faults or of the longest latency can't be met any more
    #[arg(long)]
    pub(crate) abort_on_fail: bool,
}

impl OutputOptions {
    /// All expectations.
    ///
    /// # Errors
    /// If a file of them can't be read.
    pub(crate) fn expectations(&self) -> Result<Vec<Expectation>, Error> {
        let mut all = self.expect.clone();
        for path in &self.expect_file {
            all.extend(expect::read_file(path)?);
        }
        Ok(all)
    }

    /// The expectations that end a run as soon as they can't be met any more.
    ///
    /// # Errors
    /// As for [`expectations`](Self::expectations).
    pub(crate) fn aborting(&self) -> Result<Vec<Expectation>, Error> {
        if self.abort_on_fail { self.expectations() } else { Ok(Vec::new()) }
    }
}

/// How messages are published.
#[derive(Clone, Debug, Args)]
pub(crate) struct PublishOptions {
    /// Where to publish: http://HOST:PORT/PATH sends each message as a POST, ws://HOST:PORT/PATH over a WebSocket
    #[arg(long)]
    pub(crate) publish: Target,
    /// Header for each POST, or for the WebSocket handshake, as 'Name: value'; may be repeated
    #[arg(long, value_parser = parse_header)]
    pub(crate) publish_header: Vec<(String, String)>,
    /// Connections to publish on, in rotation. With one, subscribers must see its order; with several, all must see the
    /// same order
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    /// Most POSTs without an answer on each connection; the rest waits. Default: no limit
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) posts_in_flight: Option<u32>,
}

/// Parses a time with a unit, such as `5s`, `500ms`, `1h` or `1m 30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|_| "expected a number with a unit, such as 5s or 500ms")?;
    if duration > DURATION_MAX { Err("expected at most a day".to_owned()) } else { Ok(duration) }
}

/// Splits `Name: value`.
pub(crate) fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected 'Name: value'")?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_name || value.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("expected 'Name: value', of printable characters".to_owned());
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        let table = [("250ms", 250), ("5s", 5000), ("2m", 120_000), ("1h", 3_600_000), ("1m 30s", 90_000)];
        for (text, ms) in table {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
        }
        for wrong in ["", "5", "s", "-1s", "25h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_have_a_name_and_a_value() {
        let parsed = parse_header("Authorization: Bearer a:b");
        assert_eq!(parsed, Ok(("Authorization".to_owned(), "Bearer a:b".to_owned())));
        for wrong in ["Name", ": x", "A b: c", "A: b\r\nC: d"] {
            assert!(parse_header(wrong).is_err(), "{wrong}");
        }
    }
}
