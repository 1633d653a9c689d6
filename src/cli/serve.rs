//! `ringfeed serve`.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::bad_input;
use crate::conn::KeepAliveConfig;
use crate::control::{self, Control, Ended};
use crate::gateway::{Echo, Feed, Sse};
use crate::proto::DeflateConfig;
use crate::server::{Server, ServerConfig};
use crate::topics::{Namespace, Namespaces};

/// The longest time that may be asked for: a day.
const TIME_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// Serves WebSocket subscribers and takes publications.
///
/// Of a flag that is there twice, the last counts.
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub(super) struct ServeArguments {
    /// Where subscribers connect
    #[arg(long, value_name = "ADDRESS", default_value_t = ServerConfig::default().listen)]
    listen: SocketAddr,
    /// Where messages are published and metrics are read: keep it to yourself
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8001")]
    control: SocketAddr,
    /// Shards, each a thread with a ring of its own [default: one for each CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: Option<u16>,
    /// Connections at most, over all shards [default: as many as RLIMIT_NOFILE, for each shard]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// Connections that are let in each second; 0: as many as come. The others wait, and are told to come back later
    /// (503) when that takes long
    #[arg(long, value_name = "N", default_value_t = ServerConfig::default().handshakes_per_second,
        value_parser = clap::value_parser!(u64).range(..=10_000_000))]
    handshakes_per_second: u64,
    /// Connections from one IPv4 address, or one IPv6 network of 64 bits, at most; 0: as many as come
    #[arg(long, value_name = "N", default_value_t = ServerConfig::default().connections_per_address_max)]
    connections_per_address_max: u32,
    /// Bytes of one message from a client at most
    #[arg(long, value_name = "BYTES", default_value_t = ServerConfig::default().message_bytes_max,
        value_parser = clap::value_parser!(u32).range(125..))]
    message_bytes_max: u32,
    /// Bytes that may wait for a slow subscriber before it is disconnected
    #[arg(long, value_name = "BYTES", default_value_t = Namespace::default().outbox_bytes_max)]
    outbox_bytes_max: usize,
    /// Compress messages for clients that offer permessage-deflate, and take compressed ones
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = Switch::Off)]
    deflate: Switch,
    /// How hard to compress: 1, the fastest, to 9, the smallest
    #[arg(long, value_name = "LEVEL", default_value_t = DeflateConfig::default().level,
        value_parser = clap::value_parser!(u8).range(1..=9))]
    deflate_level: u8,
    /// Bytes of a message from which on it is compressed
    #[arg(long, value_name = "BYTES", default_value_t = DeflateConfig::default().bytes_min)]
    deflate_bytes_min: usize,
    /// Time for an opening handshake to come whole
    #[arg(long, value_name = "MS", default_value_t = ServerConfig::default().handshake_timeout_ms,
        value_parser = clap::value_parser!(u64).range(1..=TIME_MS_MAX))]
    handshake_timeout_ms: u64,
    /// Silence after which a client is pinged; 0: never
    #[arg(long, value_name = "MS", default_value_t = ServerConfig::default().keep_alive.ping_interval_ms,
        value_parser = clap::value_parser!(u64).range(..=TIME_MS_MAX))]
    ping_interval_ms: u64,
    /// Time to answer a ping
    #[arg(long, value_name = "MS", default_value_t = ServerConfig::default().keep_alive.pong_timeout_ms,
        value_parser = clap::value_parser!(u64).range(1..=TIME_MS_MAX))]
    pong_timeout_ms: u64,
    /// Silence after which a client is disconnected, pinged or not; 0: never
    #[arg(long, value_name = "MS", default_value_t = ServerConfig::default().keep_alive.idle_timeout_ms,
        value_parser = clap::value_parser!(u64).range(..=TIME_MS_MAX))]
    idle_timeout_ms: u64,
    /// Time for clients to answer their Close frames when the server stops
    #[arg(long, value_name = "MS", default_value_t = ServerConfig::default().drain_timeout_ms,
        value_parser = clap::value_parser!(u64).range(..=TIME_MS_MAX))]
    drain_timeout_ms: u64,
    /// Serve /echo, which sends every message back
    #[arg(long)]
    echo: bool,
    /// Publish this host's CPU, memory and network figures to the topic `demo`, each second
    #[arg(long)]
    demo: bool,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl ServeArguments {
    fn config(&self) -> ServerConfig {
        ServerConfig {
            listen: self.listen,
            shards: self.shards.map_or(0, usize::from),
            connections_max: self.max_connections.map_or(0, |count| count as usize),
            handshakes_per_second: self.handshakes_per_second,
            connections_per_address_max: self.connections_per_address_max,
            message_bytes_max: self.message_bytes_max,
            namespaces: Arc::new(Namespaces::new(
                Namespace { outbox_bytes_max: self.outbox_bytes_max, ..Namespace::default() },
                Vec::new(),
            )),
            deflate: (self.deflate == Switch::On)
                .then_some(DeflateConfig { level: self.deflate_level, bytes_min: self.deflate_bytes_min }),
            handshake_timeout_ms: self.handshake_timeout_ms,
            keep_alive: KeepAliveConfig {
                ping_interval_ms: self.ping_interval_ms,
                pong_timeout_ms: self.pong_timeout_ms,
                idle_timeout_ms: self.idle_timeout_ms,
            },
            drain_timeout_ms: self.drain_timeout_ms,
            ..ServerConfig::default()
        }
    }
}

/// Serves until a signal. The exit code is 0 after a graceful stop, and 2 if the server could not start.
pub(super) fn run(arguments: ServeArguments) -> ExitCode {
    // Before the shards: if it fails, nobody has connected yet.
    let control = match TcpListener::bind(arguments.control) {
        Ok(listener) => listener,
        Err(error) => return bad_input(&in_use(arguments.control, &error)),
    };
    let mut builder = Server::builder(arguments.config()).route("/feed/", || Feed).route("/sse/", Sse::default);
    if arguments.echo {
        builder = builder.route("/echo", || Echo);
    }
    let server = match builder.start() {
        Ok(server) => server,
        Err(error) => return bad_input(&error.to_string()),
    };
    let Server { address, publisher, status, ended } = server;
    let control_address = control.local_addr();
    let control = Control { listener: control, publisher, status, demo: arguments.demo };
    let announce = || announce(address, control_address?);
    let shards_ended = async { drop(ended.await) };
    match tokio_uring::start(control::serve(control, announce, shards_ended)) {
        Ok(Ended::ShardsEnded) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::FAILURE,
        Err(error) => bad_input(&format!("the control plane could not start: {error}")),
    }
}

fn in_use(address: SocketAddr, error: &io::Error) -> String {
    format!("cannot listen on {address}: {error}: choose another port with --control")
}

/// One line for each address, then `ready`.
fn announce(data: SocketAddr, control: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on ws://{data}")?;
    writeln!(out, "control on http://{control}")?;
    writeln!(out, "ready")?;
    out.flush()
}
