//! `ringfeed serve`: a configuration file, and the flags that win over it.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum, value_parser};

use super::{bad_input, jwks, log, runtime};
use crate::backend::{HttpBackend, HttpEvents};
use crate::bridge::{Bridge, Cluster};
use crate::config::{self, LogFormat, LogLevel, Preflight, QueueKind, ServerSettings, Settings};
use crate::control::{self, Control, DataPort, Ended, Reload, Reloaded};
use crate::gateway::centrifuge::{Centrifuge, Emulation, TokenVerifier};
use crate::gateway::sockjs::Sessions;
use crate::gateway::stomp::{Broker, STOMP, Stomp};
use crate::gateway::{DemoPage, DemoPages, Echo, Feed, OriginPattern, Poll, Readers, SockJs, Sse};
use crate::limits::{
    CONN_TOPICS_MAX, CONTROL_SLICE_US, DURATION_MS_MAX, EVENT_FLUSH_MS, HANDSHAKES_PER_SECOND_MAX, RECV_BUFFER_BYTES,
    RELOAD_PATIENCE_MS, SHARDS_MAX,
};
use crate::relay::RelaySocket;
use crate::ring;
use crate::server::{ListenAddress, ListenerConfig, ProxyProtocol, Publisher, Server, ServerConfig, listen_alone};
use crate::tls::Acceptor;
use crate::topics::{Namespace, stable_hash};
use crate::version;

/// Where SockJS carries STOMP, and the echo.
const SOCKJS_STOMP: &str = "/stomp/";
const SOCKJS_ECHO: &str = "/echo/";

/// The path of Centrifugo's protocol.
const CENTRIFUGE: &str = "/connection/websocket";

/// Serves WebSocket subscribers and takes publications.
///
/// What is set in the configuration file (`ringfeed config example` prints one) may be set by flags, which win. Of a
/// flag that is there twice, the last counts.
#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
pub(super) struct ServeArguments {
    /// A configuration file
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where subscribers connect: an IP address and a port, unix:PATH, or fd:NAME for a socket of systemd's. May be
    /// repeated; replaces the listeners of the file [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<ListenAddress>,
    /// Where messages are published and metrics are read: an IP address and a port, unix:PATH or fd:NAME. An address
    /// that other hosts reach needs a key [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDRESS")]
    control: Option<ListenAddress>,
    /// A file whose first line is the key that requests to the control port must carry
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Web pages that may connect, besides the server's own, as https://*.example.com [default: those of loopback
    /// addresses]
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',', value_parser = origin)]
    allowed_origins: Option<Vec<String>>,
    /// Shards, each a thread with a ring of its own; 0: one for each CPU [default: 0]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(..=i64::from(SHARDS_MAX)))]
    shards: Option<u16>,
    /// Connections at most, over all shards; 0: as many as RLIMIT_NOFILE, for each shard [default: 0]
    #[arg(long, value_name = "N")]
    max_connections: Option<u32>,
    /// Connections that are let in each second; 0: as many as come. The others wait, and are told to come back later
    /// (503) when that takes long [default: 0]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(..=HANDSHAKES_PER_SECOND_MAX))]
    handshakes_per_second: Option<u64>,
    /// Connections from one IPv4 address, or one IPv6 network of 64 bits, at most; 0: as many as come [default: 0]
    #[arg(long, value_name = "N")]
    connections_per_address_max: Option<u32>,
    /// Topics that one connection may subscribe to, at most [default: 128]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=CONN_TOPICS_MAX as i64))]
    subscriptions_per_connection_max: Option<u16>,
    /// Bytes of one message from a client at most [default: 16777216]
    #[arg(long, value_name = "BYTES", value_parser = value_parser!(u32).range(125..))]
    message_bytes_max: Option<u32>,
    /// Messages, pings and pongs of one client in a second, more of which end it; 0: any number [default: 0]
    #[arg(long, value_name = "N")]
    messages_per_second_max: Option<u32>,
    /// Bytes of one client in a second, more of which end it: 65,536 at least; 0: any number [default: 0]
    #[arg(long, value_name = "BYTES", value_parser = bytes_per_second)]
    bytes_per_second_max: Option<u32>,
    /// Bytes that may wait for a subscriber before it is slow, in every namespace [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    outbox_bytes_max: Option<usize>,
    /// Compress messages for clients that offer permessage-deflate, and take compressed ones [default: off]
    #[arg(long, value_name = "WHETHER", value_enum)]
    deflate: Option<Switch>,
    /// How hard to compress: 1, the fastest, to 9, the smallest [default: 2]
    #[arg(long, value_name = "LEVEL", value_parser = value_parser!(u8).range(1..=9))]
    deflate_level: Option<u8>,
    /// Bytes of a message from which on it is compressed [default: 128]
    #[arg(long, value_name = "BYTES")]
    deflate_bytes_min: Option<usize>,
    /// Connections of a shard whose compressed messages may refer back to earlier ones (context takeover), which takes
    /// 8 KB for each; those beyond do without. Makes replies smaller, not publications: those are compressed once for
    /// all [default: 0]
    #[arg(long, value_name = "N")]
    deflate_takeover_max: Option<usize>,
    /// Time for an opening handshake to come whole [default: 10000]
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(1..=DURATION_MS_MAX))]
    handshake_timeout_ms: Option<u64>,
    /// Silence after which a client is pinged; 0: never [default: 25000]
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(..=DURATION_MS_MAX))]
    ping_interval_ms: Option<u64>,
    /// Time to answer a ping [default: 10000]
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(1..=DURATION_MS_MAX))]
    pong_timeout_ms: Option<u64>,
    /// Silence after which a client is disconnected, pinged or not; 0: never [default: 0]
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(..=DURATION_MS_MAX))]
    idle_timeout_ms: Option<u64>,
    /// Time over which the server closes its clients, at an even pace, when it stops; 0: all at once
    /// [default: 0]
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(..=DURATION_MS_MAX))]
    drain_spread_ms: Option<u64>,
    /// Time for clients to answer their Close frames when the server stops, after the last was sent [default: 5000]
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(..=DURATION_MS_MAX))]
    drain_timeout_ms: Option<u64>,
    /// How log lines are written to standard error [default: text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<Format>,
    /// Which log lines are written; RUST_LOG wins [default: info]
    #[arg(long, value_name = "LEVEL", value_enum)]
    log_level: Option<Level>,
    /// Serve /echo, which sends every message back
    #[arg(long)]
    echo: bool,
    /// Serve the demo pages at /demo/ and publish their data: this host's figures to the topic `demo`, the rest to
    /// topics whose names begin with `demo-`. Any page may publish to some of these
    #[arg(long)]
    demo: bool,
}

/// A bound on bytes in a second: less than one receive may bring would be a bound on how the network joins packets.
fn bytes_per_second(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(bytes @ (0 | RECV_BUFFER_BYTES..)) => Ok(bytes),
        Ok(_) => Err(format!("less than {RECV_BUFFER_BYTES}, which may come at once")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// The least important log lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> LogLevel {
        match level {
            Level::Error => LogLevel::Error,
            Level::Warn => LogLevel::Warn,
            Level::Info => LogLevel::Info,
            Level::Debug => LogLevel::Debug,
            Level::Trace => LogLevel::Trace,
        }
    }
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> LogFormat {
        match format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        }
    }
}

impl ServeArguments {
    /// Has the flags that are there win.
    fn apply(self, settings: &mut Settings) {
        if !self.listen.is_empty() {
            settings.listener = self.listen.into_iter().map(ListenerConfig::new).collect();
        }
        let Settings { server, keep_alive, deflate, api, .. } = settings;
        set(&mut server.control, self.control);
        set(&mut server.allowed_origins, self.allowed_origins);
        set(&mut server.shards, self.shards.map(usize::from));
        set(&mut server.max_connections, self.max_connections.map(|count| count as usize));
        set(&mut server.handshakes_per_second, self.handshakes_per_second);
        set(&mut server.connections_per_address_max, self.connections_per_address_max);
        let subscriptions_max = self.subscriptions_per_connection_max.map(usize::from);
        set(&mut server.subscriptions_per_connection_max, subscriptions_max);
        set(&mut server.message_bytes_max, self.message_bytes_max);
        set(&mut server.handshake_timeout_ms, self.handshake_timeout_ms);
        set(&mut server.messages_per_second_max, self.messages_per_second_max);
        set(&mut server.bytes_per_second_max, self.bytes_per_second_max);
        set(&mut server.drain_spread_ms, self.drain_spread_ms);
        set(&mut server.drain_timeout_ms, self.drain_timeout_ms);
        set(&mut server.log_format, self.log_format.map(LogFormat::from));
        set(&mut server.log_level, self.log_level.map(LogLevel::from));
        server.echo |= self.echo;
        server.demo |= self.demo;
        set(&mut keep_alive.ping_interval_ms, self.ping_interval_ms);
        set(&mut keep_alive.pong_timeout_ms, self.pong_timeout_ms);
        set(&mut keep_alive.idle_timeout_ms, self.idle_timeout_ms);
        set(&mut deflate.enabled, self.deflate.map(|switch| switch == Switch::On));
        set(&mut deflate.level, self.deflate_level);
        set(&mut deflate.bytes_min, self.deflate_bytes_min);
        set(&mut deflate.takeover_max, self.deflate_takeover_max);
        if let Some(file) = self.api_key_file {
            (api.key, api.key_file) = (String::new(), file);
        }
        if let Some(bytes) = self.outbox_bytes_max {
            settings.default_namespace_mut();
            settings.namespaces.values_mut().for_each(|namespace| namespace.outbox_bytes_max = bytes);
        }
    }
}

fn set<T>(setting: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *setting = value;
    }
}

fn origin(text: &str) -> Result<String, String> {
    OriginPattern::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Serves until a signal. The exit code is 0 after a graceful stop, and 2 if the server could not start.
pub(super) fn run(arguments: ServeArguments) -> ExitCode {
    let started = settings(arguments.clone()).and_then(|settings| {
        log::start(settings.server.log_format, settings.server.log_level);
        serve(&settings, arguments)
    });
    match started {
        Ok(Ended::ShardsEnded) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::FAILURE,
        Err(text) => bad_input(&text),
    }
}

/// What the file and the flags come to.
pub(super) fn settings(arguments: ServeArguments) -> Result<Settings, String> {
    let mut settings = match &arguments.config {
        Some(path) => config::load(path).map_err(|error| error.to_string())?,
        None => Settings::default(),
    };
    arguments.apply(&mut settings);
    Ok(settings)
}

fn serve(settings: &Settings, arguments: ServeArguments) -> Result<Ended, String> {
    // Before the shards: if any of it fails, nobody has connected yet.
    let Preflight { access, mut centrifuge } = config::preflight(settings)?;
    let backend = settings.backend.is_used().then(|| HttpBackend::start(&settings.backend)).transpose();
    let backend = backend.map_err(|error| format!("the backend's thread could not start: {error}"))?;
    let backend_counts = backend.as_ref().map(HttpBackend::counts);
    centrifuge.backend = backend.map(|backend| Arc::new(backend) as _);
    let events = settings.events.is_used().then(|| HttpEvents::start(&settings.events)).transpose();
    let events = events.map_err(|error| format!("the thread of events could not start: {error}"))?;
    centrifuge.events = events.clone().map(|events| Arc::new(events) as _);
    let (centrifuge, tokens) = (Arc::new(centrifuge.clone()), centrifuge.tokens);
    let (of_http_stream, of_event_stream) = (centrifuge.clone(), centrifuge.clone());
    let (of_uni, of_uni_http, of_uni_sse) = (centrifuge.clone(), centrifuge.clone(), centrifuge.clone());
    let sessions = centrifuge.sessions.clone();
    let runtime = runtime()?;
    let ServerSettings { control: address, control_mode, .. } = &settings.server;
    let (address, listener) = listen_alone(address, *control_mode).map_err(|error| in_use(address, &error))?;
    let relay = settings.server.sockjs.then(RelaySocket::new).transpose();
    let relay = relay.map_err(|error| format!("no directory for SockJS: {error}: set TMPDIR to one to write to"))?;
    let mut config =
        ServerConfig { events: events.clone().map(|events| Arc::new(events) as _), ..settings.server_config() };
    if let Some(relay) = &relay {
        let echo = settings.server.echo.then_some(SOCKJS_ECHO);
        config.listeners.push(relay.listener([SOCKJS_STOMP].into_iter().chain(echo).map(str::to_owned).collect()));
    }
    let namespaces = config.namespaces.clone();
    let readers = Readers::new(namespaces.clone()).with_tokens(Arc::new(tokens.clone()));
    let (of_feed, of_sse, of_poll) = (readers.clone(), readers.clone(), readers.clone());
    let stomp = Stomp::new(readers).with_backend(centrifuge.backend.clone());
    let stomp = stomp.body_bytes_max(settings.stomp.message_bytes_max);
    let stomp = match settings.stomp.queues {
        QueueKind::Spring => stomp,
        QueueKind::Broker => stomp.with_queues(Broker::new(settings.stomp.queue_messages_max)),
    };
    let (stomp_at_spring, stomp_on_tcp, stomp_on_sockjs) = (stomp.clone(), stomp.clone(), stomp.clone());
    let bridge = match settings.cluster.enabled {
        true => Some(connect_cluster(settings)?),
        false => None,
    };
    let mut builder = Server::builder(config)
        .route("/", || DemoPage)
        .route("/feed/", move || Feed::of(of_feed.clone()))
        .route("/sse/", move || Sse::of(of_sse.clone()))
        .route("/poll/", move || Poll::of(of_poll.clone()))
        .route("/stomp", move || stomp.clone())
        // Where Spring serves WebSockets beside SockJS.
        .route("/stomp/websocket", move || stomp_at_spring.clone())
        .protocol("stomp", &STOMP, move || stomp_on_tcp.clone())
        .route(CENTRIFUGE, move || Centrifuge::new(centrifuge.clone()))
        .route("/connection/http_stream", move || Centrifuge::http_stream(of_http_stream.clone()))
        .route("/connection/sse", move || Centrifuge::event_stream(of_event_stream.clone()))
        .route("/connection/uni_websocket", move || Centrifuge::uni_websocket(of_uni.clone()))
        .route("/connection/uni_http_stream", move || Centrifuge::uni_http_stream(of_uni_http.clone()))
        .route("/connection/uni_sse", move || Centrifuge::uni_event_stream(of_uni_sse.clone()))
        .route("/emulation", move || Emulation::new(sessions.clone()));
    if settings.server.echo {
        builder = builder.route("/echo", || Echo);
    }
    let (sockjs, requests) = Sessions::new(settings.server.connections_per_address_max);
    if settings.server.sockjs {
        let of_echo = sockjs.clone();
        builder = builder.route(SOCKJS_STOMP, move || SockJs::new(stomp_on_sockjs.clone(), Some(sockjs.clone())));
        if settings.server.echo {
            builder = builder.route(SOCKJS_ECHO, move || SockJs::new(Echo, Some(of_echo.clone())));
        }
    }
    if settings.server.demo {
        builder = builder.route("/demo/", DemoPages::new);
    }
    if let Some(bridge) = &bridge {
        builder = builder.order(bridge.order());
    }
    let Server { addresses, connections_max, publisher, status, tls, ended } =
        builder.start().map_err(|error| error.to_string())?;
    // That of the data ports, if one speaks TLS.
    let tls = if tls.is_some() { tls } else { settings.acceptor()? };
    if let Some(relay) = &relay {
        relay.start(requests).map_err(|error| format!("the thread of SockJS could not start: {error}"))?;
    }
    log_start(settings, status.shards.len(), connections_max);
    let cluster = bridge.map(|bridge| bridge.run(publisher.clone(), status.clone()));
    let others = control::Others::new(cluster.as_ref().map(Cluster::peers));
    let live = Live { tls: tls.clone(), tokens: tokens.clone(), publisher: publisher.clone() };
    let reload = reload(arguments, settings.clone(), live);
    let (demo, is_secure) = (settings.server.demo, settings.server.control_tls);
    let event_counts = events.as_ref().map(HttpEvents::counts);
    let (announced, fetching) = (address.clone(), tokens.clone());
    let control = Control {
        listener,
        address,
        access,
        publisher,
        namespaces,
        status,
        tls,
        is_secure,
        tokens,
        data: data_port(settings, &addresses),
        settings: config::shown(settings),
        reload,
        backend_counts,
        event_counts,
        demo,
        others,
    };
    let announce = || announce(settings, &addresses, &announced);
    let shards_ended = async { drop(ended.await) };
    shorten_slice();
    let ended = runtime
        .block_on(async {
            tokio::task::spawn_local(jwks::run(fetching));
            control::serve(control, announce, shards_ended).await
        })
        .map_err(|error| format!("the control plane could not start: {error}"))?;
    if events.is_some_and(|events| !events.flush(Duration::from_millis(EVENT_FLUSH_MS))) {
        tracing::warn!("the application has not taken the last events");
    }
    if let Some(cluster) = cluster {
        cluster.leave();
    }
    Ok(ended)
}

/// A hash of what all nodes of a cluster should have alike.
pub(super) fn settings_hash(settings: &Settings) -> u64 {
    let namespaces = toml::to_string(&settings.namespaces).unwrap_or_default();
    stable_hash(0, namespaces.as_bytes())
}

/// Reaches the cluster's log.
fn connect_cluster(settings: &Settings) -> Result<Bridge, String> {
    let hash = settings_hash(settings);
    let history_ms = settings.namespaces.values().map(Namespace::history_ms).max().unwrap_or(0);
    Bridge::connect(&settings.cluster, hash, history_ms).map_err(|error| error.to_string())
}

/// Reads the file again, and applies all or nothing. Names what needs a restart.
fn reload(arguments: ServeArguments, running: Settings, server: Live) -> Reload {
    let running = RefCell::new(running);
    Box::new(move || {
        if arguments.config.is_none() {
            return Err("there is no configuration file: start the server with --config FILE".to_owned());
        }
        let read = settings(arguments.clone())?;
        let (applied, left) = config::apply(&running.borrow(), &read);
        // The file as it stands must be good, and so must be the part of it that is applied.
        config::preflight(&read)?;
        let Preflight { access, centrifuge } = config::preflight(&applied)?;
        let certificates = server.apply(&applied, &centrifuge.tokens)?;
        let namespaces = centrifuge.namespaces.clone();
        let settings = config::shown(&applied);
        *running.borrow_mut() = applied;
        let report = match left.is_empty() {
            true => format!("{certificates} certificates"),
            false => format!("{certificates} certificates; these keys need a restart: {}", left.join(", ")),
        };
        Ok(Reloaded { report, access, namespaces, settings })
    })
}

/// What of a running server can change.
struct Live {
    tls: Option<Acceptor>,
    tokens: TokenVerifier,
    publisher: Publisher,
}

impl Live {
    /// Serves with these settings. Returns the number of certificates.
    fn apply(&self, settings: &Settings, tokens: &TokenVerifier) -> Result<usize, String> {
        let certificates = match &self.tls {
            Some(tls) => {
                tls.reload(&settings.tls).map_err(|error| error.to_string())?;
                tls.certificates().len()
            }
            None => 0,
        };
        let config = Arc::new(settings.server_config());
        let deadline = Instant::now() + Duration::from_millis(RELOAD_PATIENCE_MS);
        while let Err(error) = self.publisher.reconfigure(&config) {
            if Instant::now() >= deadline {
                return Err(format!("the shards take no configuration: {error}; try again"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.tokens.replace(tokens);
        log::set_level(settings.server.log_level);
        Ok(certificates)
    }
}

/// One line that says what runs, and what anyone may read.
fn log_start(settings: &Settings, shards: usize, connections_max: usize) {
    let open = config::open_namespaces(settings).join(",");
    let api_key = !settings.api.key.is_empty() || !settings.api.key_file.as_os_str().is_empty();
    let (version, revision) = (version::VERSION, version::REVISION);
    tracing::info!(version, revision, shards, connections_max, api_key, read_by_anyone = open, "started");
}

/// So that whoever publishes need not wait for the slice of a busy shard on the same CPU to be over.
fn shorten_slice() {
    if let Err(error) = ring::shorten_slice(Duration::from_micros(CONTROL_SLICE_US)) {
        tracing::warn!(%error, "the control plane may have to wait for busy shards");
    }
}

fn in_use(address: &ListenAddress, error: &io::Error) -> String {
    format!("cannot listen on {address}: {error}: choose another address with --control")
}

/// One line for each address, then `ready`. With the demo, also the page to open.
fn announce(settings: &Settings, addresses: &[ListenAddress], control: &ListenAddress) -> io::Result<()> {
    let (listeners, has_demo) = (&settings.listener, settings.server.demo);
    let mut out = io::stdout().lock();
    for (listener, address) in listeners.iter().zip(addresses) {
        let scheme = match (listener.protocol.as_str(), listener.tls) {
            ("", false) => "ws".to_owned(),
            ("", true) => "wss".to_owned(),
            (protocol, false) => protocol.to_owned(),
            (protocol, true) => format!("{protocol}+ssl"),
        };
        match address {
            ListenAddress::Ip(address) => writeln!(out, "listening on {scheme}://{address}")?,
            _ => writeln!(out, "listening on {address}")?,
        }
    }
    match control {
        ListenAddress::Ip(address) => {
            let scheme = if settings.server.control_tls { "https" } else { "http" };
            writeln!(out, "control on {scheme}://{address}")?;
        }
        _ => writeln!(out, "control on {control}")?,
    }
    let page = listeners.iter().zip(addresses).find_map(|(listener, address)| match address {
        ListenAddress::Ip(address) => Some(page_url(listener.tls, *address)),
        _ => None,
    });
    if let Some(url) = page.filter(|_| has_demo) {
        writeln!(out, "open {url}")?;
        writeln!(out, "open {url}demo/")?;
    }
    writeln!(out, "ready")?;
    out.flush()
}

/// The first listener on which a browser can speak Centrifugo's protocol.
fn data_port(settings: &Settings, addresses: &[ListenAddress]) -> Option<DataPort> {
    settings.listener.iter().zip(addresses).find_map(|(listener, address)| {
        let serves = listener.routes.is_empty() || listener.routes.iter().any(|route| route == CENTRIFUGE);
        let is_open = listener.protocol.is_empty() && listener.proxy_protocol != ProxyProtocol::Require;
        match address {
            ListenAddress::Ip(address) if serves && is_open => {
                Some(DataPort { address: *address, is_secure: listener.tls })
            }
            _ => None,
        }
    })
}

/// The URL of the page for a browser on this host.
fn page_url(has_tls: bool, data: SocketAddr) -> String {
    let address = match data.ip() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        address => address,
    };
    let scheme = if has_tls { "https" } else { "http" };
    format!("{scheme}://{}/", SocketAddr::new(address, data.port()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Arguments;

    fn settings_with(flags: &[&str]) -> Settings {
        #[derive(Parser)]
        struct Serve {
            #[command(flatten)]
            arguments: ServeArguments,
        }
        settings(Serve::parse_from([&["serve"], flags].concat()).arguments).unwrap()
    }

    #[test]
    fn the_page_can_be_opened_on_this_host() {
        let rows = [
            ("127.0.0.1:8000", "http://127.0.0.1:8000/"),
            ("0.0.0.0:8000", "http://127.0.0.1:8000/"),
            ("[::]:8000", "http://[::1]:8000/"),
            ("192.0.2.1:80", "http://192.0.2.1:80/"),
        ];
        for (address, url) in rows {
            assert_eq!(page_url(false, address.parse().unwrap()), url);
        }
    }

    #[test]
    fn without_flags_there_are_the_defaults() {
        assert_eq!(settings_with(&[]), Settings::default());
    }

    /// Flags, and what they change.
    type Row<'a> = (&'a [&'a str], fn(&mut Settings));

    #[test]
    fn each_flag_changes_its_setting_and_no_other() {
        let rows: [Row<'_>; 28] = [
            (&["--log-level", "debug"], |settings| settings.server.log_level = LogLevel::Debug),
            (&["--log-format", "json"], |settings| settings.server.log_format = LogFormat::Json),
            (&["--listen", "[::1]:1", "--listen", "unix:a"], |settings| {
                settings.listener = ["[::1]:1", "unix:a"].map(|text| ListenerConfig::new(text.parse().unwrap())).into()
            }),
            (&["--control", "[::1]:2"], |settings| settings.server.control = "[::1]:2".parse().unwrap()),
            (&["--api-key-file", "key"], |settings| settings.api.key_file = "key".into()),
            (&["--allowed-origins", "https://a,*"], |settings| {
                settings.server.allowed_origins = vec!["https://a".to_owned(), "*".to_owned()]
            }),
            (&["--shards", "3"], |settings| settings.server.shards = 3),
            (&["--max-connections", "3"], |settings| settings.server.max_connections = 3),
            (&["--handshakes-per-second", "3"], |settings| settings.server.handshakes_per_second = 3),
            (&["--connections-per-address-max", "3"], |settings| settings.server.connections_per_address_max = 3),
            (&["--subscriptions-per-connection-max", "3"], |settings| {
                settings.server.subscriptions_per_connection_max = 3;
            }),
            (&["--message-bytes-max", "130"], |settings| settings.server.message_bytes_max = 130),
            (&["--deflate", "on"], |settings| settings.deflate.enabled = true),
            (&["--deflate", "on", "--deflate", "off"], |_| {}),
            (&["--deflate-level", "3"], |settings| settings.deflate.level = 3),
            (&["--deflate-bytes-min", "3"], |settings| settings.deflate.bytes_min = 3),
            (&["--deflate-takeover-max", "3"], |settings| settings.deflate.takeover_max = 3),
            (&["--handshake-timeout-ms", "3"], |settings| settings.server.handshake_timeout_ms = 3),
            (&["--ping-interval-ms", "3"], |settings| settings.keep_alive.ping_interval_ms = 3),
            (&["--pong-timeout-ms", "3"], |settings| settings.keep_alive.pong_timeout_ms = 3),
            (&["--idle-timeout-ms", "3"], |settings| settings.keep_alive.idle_timeout_ms = 3),
            (&["--messages-per-second-max", "3"], |settings| settings.server.messages_per_second_max = 3),
            (&["--bytes-per-second-max", "70000"], |settings| settings.server.bytes_per_second_max = 70_000),
            (&["--drain-spread-ms", "3"], |settings| settings.server.drain_spread_ms = 3),
            (&["--drain-timeout-ms", "3"], |settings| settings.server.drain_timeout_ms = 3),
            (&["--echo"], |settings| settings.server.echo = true),
            (&["--demo"], |settings| settings.server.demo = true),
            (&["--outbox-bytes-max", "3"], |settings| settings.default_namespace_mut().outbox_bytes_max = 3),
        ];
        for (flags, change) in rows {
            let mut expected = Settings::default();
            change(&mut expected);
            assert_eq!(settings_with(flags), expected, "{flags:?}");
        }
    }

    #[test]
    fn flags_tell_the_defaults_of_the_file() {
        let example: toml::Table = config::example().parse().unwrap();
        let sections = ["server", "keep_alive", "deflate"].map(|section| &example[section]);
        let sections = sections.into_iter().chain([&example["namespaces"]["default"], &example["listener"][0]]);
        let values: Vec<(&String, &toml::Value)> = sections.flat_map(|section| section.as_table().unwrap()).collect();
        let command = Arguments::command();
        let serve = command.find_subcommand("serve").unwrap();
        let mut told = 0;
        for flag in serve.get_arguments() {
            let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
            let Some((_, default)) = help.split_once("[default: ") else { continue };
            let default = default.trim_end_matches(']');
            if !default.starts_with(|first: char| first.is_ascii_digit()) {
                continue;
            }
            let name = match flag.get_id().as_str() {
                "listen" => "address",
                name => name.trim_start_matches("deflate_"),
            };
            let (_, value) = values.iter().find(|(key, _)| *key == name).unwrap_or_else(|| panic!("no key {name}"));
            assert_eq!(default, value.to_string().trim_matches('"'), "{name}");
            told += 1;
        }
        assert_eq!(told, 20);
    }
}
