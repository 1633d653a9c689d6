//! The comparisons: servers, and the cases they run.

use std::path::Path;

use crate::certificate::Certificate;
use crate::measure::Report;

/// A server program, and how to connect to it.
pub(crate) struct ServerPlan {
    pub(crate) name: &'static str,
    /// Program and arguments. It prints `listening on ws://…`, optionally `control on http://…`, then `ready`.
    pub(crate) command: Vec<String>,
    pub(crate) publish: Publish,
    /// Whether clients use compression.
    pub(crate) deflate: bool,
    /// Percentage of its subscribers that do not read.
    pub(crate) stalled: u32,
    /// It keeps each publisher's order, but promises no order among several: subscribers may see different orders.
    pub(crate) mixes_publishers: bool,
    /// Whether its control plane runs on the load generator's CPU instead of that of its shards.
    pub(crate) control_apart: bool,
    /// Whether clients connect over TLS, and accept its certificate.
    pub(crate) is_secure: bool,
}

/// How to publish to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publish {
    /// `POST /publish/<topic>` on the control address.
    Post,
    /// A message on a WebSocket at `/publish`.
    WebSocket,
    /// `POST /api/publish` on the control address, to subscribers that use Centrifugo's protocol as JSON.
    Centrifugo,
    /// In the protocol of this driver, on the same address as subscribers.
    Driver(&'static str),
    /// A message on a WebSocket at `/publish/topics`, as this script of `loadgen` describes it.
    Script(&'static str),
}

/// One kind of load.
pub(crate) struct Case {
    pub(crate) name: String,
    /// Arguments of `loadgen`, without addresses and durations.
    pub(crate) load: Vec<String>,
    pub(crate) scenario: Scenario,
    /// Length of the warm-up.
    pub(crate) warmup: &'static str,
    /// Indices of the servers that take part. The others are compared with the first.
    pub(crate) servers: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Fanout,
    /// Fan-out at a rate, while some subscribers do not read.
    Slow,
    Echo,
    Connect,
    Idle,
}

impl Scenario {
    /// Its name in `loadgen`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::Fanout => "fanout",
            Scenario::Slow => "slow",
            Scenario::Echo => "echo",
            Scenario::Connect => "connect",
            Scenario::Idle => "idle",
        }
    }

    /// The unit of the count, in the singular.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Scenario::Fanout | Scenario::Slow => "delivery",
            Scenario::Echo => "round trip",
            Scenario::Connect => "handshake",
            Scenario::Idle => "connection held",
        }
    }
}

/// A whole comparison.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) servers: Vec<ServerPlan>,
    pub(crate) cases: Vec<Case>,
    /// The columns of the summary table.
    pub(crate) summary: Vec<Column>,
}

/// A column of the summary table.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Name of the case.
    pub(crate) case: String,
    pub(crate) figure: fn(&Report) -> f64,
    pub(crate) shown: Shown,
}

/// How the summary table shows the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The first server's absolute, the others as multiples of it.
    AsMultiple,
    /// Absolute, since they are already ratios.
    AsIs,
}

impl Plan {
    /// Ringfeed against the bare loop: fewer and more subscribers, small and large messages, one and many in flight.
    pub(crate) fn floor(binaries: &Path) -> Plan {
        let floor = server("floor", vec![path(binaries, "floor")], Publish::Post);
        let mut cases = Vec::new();
        for connections in [1_000, 10_000] {
            for size in [64, 1024] {
                for (in_flight, publishers) in IN_FLIGHT {
                    cases.push(fanout(connections, size, in_flight, publishers, vec![0, 1]));
                }
            }
        }
        Plan { name: "floor", servers: vec![ringfeed(binaries), floor], cases, summary: Vec::new() }
    }

    /// Ringfeed against other servers, each configured for its best speed.
    pub(crate) fn peers(binaries: &Path, peers: &Path) -> Plan {
        let peer = |name, command| server(name, command, Publish::WebSocket);
        let script = |name, file, publish| server(name, vec![path(Path::new("benches/peers"), file)], publish);
        let nats = script("nats-server", "nats.sh", Publish::Driver("nats"));
        let servers = vec![
            ringfeed(binaries),
            peer("Bun", bun(peers)),
            peer("ws", ws(peers)),
            peer("axum", vec![path(peers, "release/axum")]),
            ServerPlan { mixes_publishers: true, ..nats },
            script("mosquitto", "mosquitto.sh", Publish::Driver("mqtt")),
            script("nginx with nchan", "nchan.sh", Publish::Post),
            peer("tokio-tungstenite", vec![path(peers, "release/tokio-tungstenite")]),
            peer("fastwebsockets", vec![path(peers, "release/fastwebsockets")]),
        ];
        let (fan_out, all) = (|| (0..7).collect(), || (0..9).collect());
        let mut cases = vec![at_rate(1_000, 64, 40, fan_out())];
        cases.extend(IN_FLIGHT.map(|(in_flight, publishers)| fanout(1_000, 64, in_flight, publishers, fan_out())));
        cases.push(fanout(1_000, 1024, 1, 1, fan_out()));
        cases.push(echo(200, 64, vec![0, 1, 2, 3, 7, 8]));
        cases.push(connect(all()));
        cases.push(idle(5_000, all()));
        let case = |index: usize| cases[index].name.clone();
        let column = |title, index, figure| Column { title, case: case(index), figure, shown: Shown::AsMultiple };
        let summary = vec![
            column("deliveries a CPU second, 1 in flight", 1, |report| report.server.per_cpu_second),
            column("the same, 16 in flight", 2, |report| report.server.per_cpu_second),
            column("p50 us, 40 publications a second", 0, |report| report.latency.honest().p50_us),
            column("p99 us", 0, |report| report.latency.honest().p99_us),
            column("p99.9 us", 0, |report| report.latency.honest().p999_us),
            column("round trips a CPU second", 5, |report| report.server.per_cpu_second),
            column("handshakes a CPU second", 6, |report| report.server.per_cpu_second),
            column("resident B a connection", 7, |report| report.figure(SERVER_MEMORY)),
        ];
        Plan { name: "peers", servers, cases, summary }
    }

    /// Deliveries that the load generator receives per CPU, as a multiple of those that a server sends: the fastest
    /// servers, and the cases in which that matters most.
    pub(crate) fn capacity(binaries: &Path, peers: &Path) -> Plan {
        let peer = |name, command| server(name, command, Publish::WebSocket);
        let axum = peer("axum", vec![path(peers, "release/axum")]);
        let servers = vec![ringfeed(binaries), peer("Bun", bun(peers)), axum];
        let cases: Vec<Case> = IN_FLIGHT
            .iter()
            .map(|(in_flight, publishers)| fanout(1_000, 64, *in_flight, *publishers, vec![0, 1, 2]))
            .collect();
        let column =
            |title, index: usize, figure| Column { title, case: cases[index].name.clone(), figure, shown: Shown::AsIs };
        let summary = vec![
            column("1 in flight", 0, Report::client_capacity),
            column("of whole CPUs", 0, Report::core_capacity),
            column("16 in flight from 16 publishers", 1, Report::client_capacity),
            column("of whole CPUs", 1, Report::core_capacity),
            column("16 in flight from one publisher", 2, Report::client_capacity),
            column("of whole CPUs", 2, Report::core_capacity),
        ];
        Plan { name: "loadgen-capacity", servers, cases, summary }
    }

    /// The cost of compression: Ringfeed with it against Ringfeed without, and against other servers that compress.
    pub(crate) fn deflate(binaries: &Path, peers: &Path) -> Plan {
        let compressing = |plan: ServerPlan, name, flags: &str| {
            let command = plan.command.into_iter().chain(words(flags)).collect();
            ServerPlan { name, command, deflate: true, ..plan }
        };
        let peer = |name, command| server(name, command, Publish::WebSocket);
        let servers = vec![
            compressing(ringfeed(binaries), "Ringfeed, compressed", "--deflate on"),
            ringfeed(binaries),
            compressing(peer("Bun", bun(peers)), "Bun, compressed", "--deflate"),
            compressing(peer("ws", ws(peers)), "ws, compressed", "--deflate"),
        ];
        let cases = vec![
            fanout(10_000, 1024, 1, 1, vec![0, 1]),
            fanout(1_000, 1024, 1, 1, vec![0, 1, 2, 3]),
            fanout(1_000, 1024, 16, 16, vec![0, 1, 2, 3]),
            fanout(1_000, 16_384, 1, 1, vec![0, 1, 2, 3]),
            echo(200, 1024, vec![0, 1, 2, 3]),
        ];
        Plan { name: "deflate", servers, cases, summary: Vec::new() }
    }

    /// The cost of delivering to clients of Centrifugo's protocol instead of the raw feed.
    pub(crate) fn topics(binaries: &Path) -> Plan {
        let centrifugo = ServerPlan {
            name: "Ringfeed, Centrifugo's JSON",
            publish: Publish::Centrifugo,
            ..configured(binaries, "centrifugo.toml")
        };
        let raw = ServerPlan { name: "Ringfeed, raw", ..configured(binaries, "centrifugo.toml") };
        let mut cases = Vec::new();
        // The same rate for both, since clients of the two protocols differ in speed.
        for (connections, rates) in [(1_000, [100, 128]), (10_000, [10, 16])] {
            for size in [64, 1024] {
                cases.push(at_rate(connections, size, rates[0], vec![0, 1]));
                cases.push(in_bursts(connections, size, rates[1], 16, vec![0, 1]));
            }
        }
        Plan { name: "topics", servers: vec![centrifugo, raw], cases, summary: Vec::new() }
    }

    /// Subscribers with many topics each, at rates that both servers can sustain.
    pub(crate) fn tickers(binaries: &Path, peers: &Path) -> Plan {
        let coalescing = ServerPlan { name: "Ringfeed, coalesce_ms = 20", ..configured(binaries, "coalesce.toml") };
        let servers = vec![ringfeed(binaries), bun_of_topics(peers), coalescing];
        let mut cases = Vec::new();
        for (connections, topics, each, skew) in [(1_000, 100, 100, 0), (10_000, 1_000, 10, 1), (100, 1_000, 100, 0)] {
            cases.extend([100, 300, 600].map(|rate| of_topics(connections, [topics, each], skew, rate, vec![0, 1, 2])));
        }
        Plan { name: "tickers", servers, cases, summary: Vec::new() }
    }

    /// The time until a publication is acknowledged while others are sent to many subscribers, with the control plane
    /// on the shards' CPU and on another.
    pub(crate) fn acknowledgements(binaries: &Path) -> Plan {
        let apart = |plan, name| ServerPlan { name, control_apart: true, ..plan };
        let servers = vec![
            apart(roomy(binaries), "Ringfeed, control plane apart"),
            ServerPlan { name: "Ringfeed, one CPU", ..roomy(binaries) },
        ];
        let cases = vec![
            fanout(10_000, 64, 4, 4, vec![0, 1]),
            at_rate(10_000, 64, 20, vec![0, 1]),
            fanout(100_000, 64, 4, 4, vec![0, 1]),
        ];
        Plan { name: "acknowledgements", servers, cases, summary: Vec::new() }
    }

    /// The latency of a topic with one subscriber beside a topic with many that is published to without pause, and
    /// beside none.
    pub(crate) fn neighbours(binaries: &Path, peers: &Path) -> Plan {
        let servers = vec![roomy(binaries), bun_of_topics(peers)];
        let watched = |case: Case, name: &str| {
            let load = case.load.into_iter().chain(words("--watchers 1 --watch-rate 200")).collect();
            Case { name: format!("one subscriber, 200 publications a second, {name}"), load, ..case }
        };
        let cases = vec![
            watched(at_rate(1, 64, 1, vec![0, 1]), "alone"),
            watched(fanout(10_000, 64, 2, 1, vec![0, 1]), "beside 10000 with 2 in flight"),
            watched(fanout(100_000, 64, 2, 1, vec![0]), "beside 100000 with 2 in flight"),
        ];
        Plan { name: "neighbours", servers, cases, summary: Vec::new() }
    }

    /// The cost of TLS: Ringfeed with it against Ringfeed without, and against other servers with the same certificate.
    pub(crate) fn tls(binaries: &Path, peers: &Path, certificate: &Certificate) -> Plan {
        let files = [&certificate.cert_file, &certificate.key_file].map(|file| file.display().to_string());
        let secure = |name, publish, command| ServerPlan { is_secure: true, ..server(name, command, publish) };
        let ringfeed_over_tls = vec![
            path(binaries, "ringfeed"),
            "serve".to_owned(),
            "--config".to_owned(),
            certificate.configuration.display().to_string(),
        ];
        let bun = [bun(peers), vec!["--tls".to_owned()], files.to_vec()].concat();
        let nchan = [vec![path(Path::new("benches/peers"), "nchan.sh")], files.to_vec()].concat();
        let servers = vec![
            secure("Ringfeed over TLS", Publish::Post, ringfeed_over_tls),
            ringfeed(binaries),
            secure("Bun over TLS", Publish::WebSocket, bun),
            secure("nginx with nchan over TLS", Publish::Post, nchan),
        ];
        let mut cases: Vec<Case> =
            IN_FLIGHT.map(|(in_flight, publishers)| fanout(1_000, 64, in_flight, publishers, vec![0, 1, 2])).into();
        cases.push(connect(vec![0, 1, 2, 3]));
        cases.push(idle(5_000, vec![0, 1, 2, 3]));
        Plan { name: "tls", servers, cases, summary: Vec::new() }
    }

    /// The effect of a tenth of stalled subscribers on the others, by slow-consumer policy.
    pub(crate) fn stalled(binaries: &Path) -> Plan {
        let stalled = |name, config| ServerPlan { name, stalled: 10, ..configured(binaries, config) };
        let servers = vec![
            ServerPlan { name: "all read", ..configured(binaries, "close.toml") },
            stalled("10 % stalled, close", "close.toml"),
            stalled("10 % stalled, drop-oldest", "drop-oldest.toml"),
            stalled("10 % stalled, conflate", "conflate.toml"),
        ];
        // Fast enough that a stalled subscriber is behind after some seconds, and slow enough that the server has time
        // left.
        let Case { load, .. } = at_rate(10_000, 4096, 6, Vec::new());
        let case = Case {
            name: "10000 subscribers, 4096 B, 6 publications a second".to_owned(),
            load,
            scenario: Scenario::Slow,
            warmup: "5s",
            servers: vec![0, 1, 2, 3],
        };
        Plan { name: "stalled", servers, cases: vec![case], summary: Vec::new() }
    }
}

fn server(name: &'static str, command: Vec<String>, publish: Publish) -> ServerPlan {
    ServerPlan {
        name,
        command,
        publish,
        deflate: false,
        stalled: 0,
        mixes_publishers: false,
        control_apart: false,
        is_secure: false,
    }
}

fn bun(peers: &Path) -> Vec<String> {
    vec![node_module(peers, ".bin/bun"), path(Path::new("benches/peers"), "bun.js")]
}

fn bun_of_topics(peers: &Path) -> ServerPlan {
    server("Bun", bun(peers), Publish::Script("benches/peers/bun-topics.json"))
}

fn ws(peers: &Path) -> Vec<String> {
    vec!["node".to_owned(), path(Path::new("benches/peers"), "ws.js"), node_module(peers, "ws")]
}

fn node_module(peers: &Path, module: &str) -> String {
    path(peers, &format!("node/node_modules/{module}"))
}

fn ringfeed(binaries: &Path) -> ServerPlan {
    let serve = "serve --listen 127.0.0.1:0 --control 127.0.0.1:0 --shards 1 --echo";
    let mut command = vec![path(binaries, "ringfeed")];
    command.extend(serve.split(' ').map(str::to_owned));
    server("Ringfeed", command, Publish::Post)
}

/// Ringfeed with room for a hundred thousand connections.
fn roomy(binaries: &Path) -> ServerPlan {
    let mut plan = ringfeed(binaries);
    plan.command.extend(words("--max-connections 110000"));
    plan
}

/// Ringfeed with one of these configuration files.
fn configured(binaries: &Path, file: &str) -> ServerPlan {
    let mut plan = ringfeed(binaries);
    plan.command.extend(["--config".to_owned(), path(Path::new("benches/compare/servers"), file)]);
    plan
}

/// `loadgen`'s name of the server's resident memory per connection.
pub(crate) const SERVER_MEMORY: &str = "server memory each";

/// Long enough for cases in which all connections are open from the start.
const WARMUP: &str = "500ms";

/// Publications in flight, and publishers. A server answers the requests of one HTTP publisher in order, so sixteen
/// publications from one publisher or from sixteen are different loads.
const IN_FLIGHT: [(u32, u32); 3] = [(1, 1), (16, 16), (16, 1)];

fn fanout(connections: u32, size: u32, in_flight: u32, publishers: u32, servers: Vec<usize>) -> Case {
    let from = if publishers == 1 { "one publisher".to_owned() } else { format!("{publishers} publishers") };
    let load = format!("--connections {connections} --size {size} --in-flight {in_flight} --publishers {publishers}");
    Case {
        name: format!("fanout, {connections} subscribers, {size} B, {in_flight} in flight from {from}"),
        load: words(&load),
        scenario: Scenario::Fanout,
        warmup: WARMUP,
        servers,
    }
}

fn echo(connections: u32, size: u32, servers: Vec<usize>) -> Case {
    Case {
        name: format!("echo, {connections} connections, {size} B"),
        load: words(&format!("--connections {connections} --size {size}")),
        scenario: Scenario::Echo,
        warmup: WARMUP,
        servers,
    }
}

/// An open loop, at a rate that every server can sustain, so that latencies are comparable.
fn at_rate(connections: u32, size: u32, rate: u32, servers: Vec<usize>) -> Case {
    Case {
        name: format!("fanout, {connections} subscribers, {size} B, {rate} publications a second"),
        load: words(&format!("--connections {connections} --size {size} --rate {rate}")),
        scenario: Scenario::Fanout,
        warmup: WARMUP,
        servers,
    }
}

/// Subscribers with `each` of `topics`, at `rate` publications a second over all topics.
fn of_topics(connections: u32, [topics, each]: [u32; 2], skew: u32, rate: u32, servers: Vec<usize>) -> Case {
    let law = if skew > 0 { " by Zipf's law" } else { "" };
    let flags = format!("--topics {topics} --topics-per-connection {each} --skew {skew}");
    let Case { mut load, .. } = at_rate(connections, 64, rate, Vec::new());
    load.extend(words(&flags));
    Case {
        name: format!("{connections} subscribers, {each} of {topics} topics{law}, 64 B, {rate} publications a second"),
        load,
        scenario: Scenario::Fanout,
        warmup: "1s",
        servers,
    }
}

/// The same in bursts, from as many publishers.
fn in_bursts(connections: u32, size: u32, rate: u32, burst: u32, servers: Vec<usize>) -> Case {
    let Case { name, mut load, .. } = at_rate(connections, size, rate, Vec::new());
    load.extend(words(&format!("--burst {burst} --publishers {burst}")));
    let name = format!("{name}, {burst} at once");
    Case { name, load, scenario: Scenario::Fanout, warmup: WARMUP, servers }
}

fn connect(servers: Vec<usize>) -> Case {
    let name = "connect, 100 handshakes at a time, each closed again".to_owned();
    Case { name, load: Vec::new(), scenario: Scenario::Connect, warmup: WARMUP, servers }
}

fn idle(connections: u32, servers: Vec<usize>) -> Case {
    Case {
        name: format!("idle, {connections} connections"),
        load: words(&format!("--connections {connections}")),
        scenario: Scenario::Idle,
        warmup: WARMUP,
        servers,
    }
}

/// Splits a command line without quotes into words.
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn path(directory: &Path, file: &str) -> String {
    directory.join(file).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_servers_and_a_unique_name() {
        let (binaries, peers) = (Path::new("bin"), Path::new("peers"));
        let plans = [
            Plan::floor(binaries),
            Plan::peers(binaries, peers),
            Plan::capacity(binaries, peers),
            Plan::deflate(binaries, peers),
            Plan::topics(binaries),
            Plan::stalled(binaries),
            Plan::tickers(binaries, peers),
            Plan::acknowledgements(binaries),
            Plan::neighbours(binaries, peers),
        ];
        for plan in plans {
            let mut names: Vec<&str> = plan.cases.iter().map(|case| case.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), plan.cases.len());
            assert!(plan.summary.iter().all(|column| names.contains(&column.case.as_str())));
            for case in &plan.cases {
                assert!(case.servers.iter().collect::<std::collections::HashSet<_>>().len() == case.servers.len());
                assert!(!case.servers.is_empty() && case.servers.iter().all(|index| *index < plan.servers.len()));
            }
        }
    }
}
