//! The effect of hostile clients on other clients: round trips and a feed, with and without each attack, in turns.
//!
//! ```text
//! cargo bench --bench hostile [-- [--rounds N] [--seconds N] [--server BINARY] [NAME …]]
//! ```
//!
//! The server has one shard and CPU 0; neighbours and attackers share CPU 1, where attackers get only the time that
//! neighbours leave (`SCHED_IDLE`), as if they had machines of their own. The attack `elsewhere` keeps CPU 1 and the
//! loopback device busy without a byte for the server: its effect on neighbours is caused by the machine, not by the
//! server. A table row is an attack: the neighbours' latencies over all rounds, the median and range of the ratio of
//! each round's two halves, and the server's memory before the first attack and at most in any. The outcomes of the
//! attackers and the counters of the server go to standard error. With `--server` another binary is attacked, for
//! example one of an earlier commit.

mod attack;
mod attacks;
#[path = "../support/cpu.rs"]
mod cpu;
mod neighbours;
#[path = "../../tests/wire/peer.rs"]
#[allow(dead_code, reason = "shared with the tests of the wire, which use all of it")]
mod peer;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::Command;
use std::time::Duration;

use attack::{Attack, Attackers, Tally};
use cpu::run_on;
use neighbours::{Latencies, Neighbours};
use support::http::Response;
use support::server::Server;
use support::target_dir;

/// Time after the start of the attackers until measuring begins: all of them are connected by then.
const RUN_UP: Duration = Duration::from_millis(700);

/// Number of the neighbours' connections, including the publisher.
const NEIGHBOURS: u64 = 2;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == attack::ARGUMENT) {
        return attack::run(&arguments[1..]);
    }
    let is_bench = take_flag(&mut arguments, "--bench");
    let rounds = take_value(&mut arguments, "--rounds").unwrap_or(if is_bench { 7 } else { 1 });
    let seconds = take_value(&mut arguments, "--seconds").unwrap_or(if is_bench { 2.0 } else { 0.1 });
    let binary: Option<String> = take_value(&mut arguments, "--server");
    let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_ringfeed").to_owned());
    println!(
        "| attack | round trip p50, p99 | under attack | ratio p99 | feed p50, p99 | under attack | ratio p99 | memory | \
         at most |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for attack in attacks::ATTACKS {
        if arguments.is_empty() || arguments.iter().any(|name| name == attack.name) {
            compare(attack, &binary, rounds, Duration::from_secs_f64(seconds));
        }
    }
}

fn take_flag(arguments: &mut Vec<String>, name: &str) -> bool {
    let index = arguments.iter().position(|argument| argument == name);
    index.map(|index| arguments.remove(index)).is_some()
}

fn take_value<T: std::str::FromStr>(arguments: &mut Vec<String>, name: &str) -> Option<T> {
    let index = arguments.iter().position(|argument| argument == name)?;
    let value = arguments.drain(index..index + 2).nth(1)?;
    value.parse().ok()
}

/// One half of a round.
#[derive(Default)]
struct Half {
    round_trips: Latencies,
    feed: Latencies,
}

impl Half {
    fn measure(neighbours: &mut Neighbours, duration: Duration) -> Half {
        let (round_trips, feed) = neighbours.measure(duration);
        Half { round_trips, feed }
    }

    fn add(&mut self, other: &Half) {
        self.round_trips.add(&other.round_trips);
        self.feed.add(&other.feed);
    }
}

fn compare(attack: &'static Attack, binary: &str, rounds: usize, duration: Duration) {
    let config = target_dir("hostile").join("bench.toml");
    std::fs::write(&config, attacks::CONFIG).expect("the target directory can be written to");
    let config = config.to_str().expect("a path of UTF-8");
    run_on(0);
    let flags = [&["--shards", "1", "--echo", "--config", config], attack.flags].concat();
    let server = Server::start_as(Command::new(binary), &flags);
    run_on(1);
    let mut neighbours = Neighbours::new(server.data, server.control);
    let (mut quiet, mut attacked, mut tally) = (Half::default(), Half::default(), Tally::default());
    let (mut round_trip_ratios, mut feed_ratios) = (Vec::new(), Vec::new());
    let (memory_before, mut memory_max) = (memory(&server, "VmRSS"), 0);
    for _ in 0..rounds {
        let calm = attack.counterpart.map(|counterpart| Attackers::start(counterpart, &server));
        std::thread::sleep(RUN_UP);
        let without = Half::measure(&mut neighbours, duration);
        drop(calm.map(Attackers::stop));
        forget_peak(&server);
        let attackers = Attackers::start(attack.name, &server);
        std::thread::sleep(RUN_UP);
        let with = Half::measure(&mut neighbours, duration);
        tally.add(attackers.stop());
        memory_max = memory_max.max(memory(&server, "VmHWM"));
        await_alone(&server);
        round_trip_ratios.push(with.round_trips.quantile(0.99) / without.round_trips.quantile(0.99));
        feed_ratios.push(with.feed.quantile(0.99) / without.feed.quantile(0.99));
        quiet.add(&without);
        attacked.add(&with);
    }
    println!(
        "| {} | {} | {} | {} | {} | {} | {} | {memory_before} MB | {memory_max} MB |",
        attack.name,
        quiet.round_trips,
        attacked.round_trips,
        median(round_trip_ratios),
        quiet.feed,
        attacked.feed,
        median(feed_ratios),
    );
    eprintln!("{}: outcomes {tally}; server counters {}", attack.name, counted(&server));
}

/// Resets the kernel's record of the server's peak memory.
fn forget_peak(server: &Server) {
    std::fs::write(format!("/proc/{}/clear_refs", server.id()), "5").expect("the server is this user's");
}

/// A figure of the server's memory, in MB.
fn memory(server: &Server, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a process has a size");
    let kilobytes: u64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number of kB");
    kilobytes / 1024
}

/// The metrics of the server.
fn metrics(server: &Server) -> Response {
    attack::ask(server.control, "GET /metrics", b"")
}

/// Waits until the attackers' connections are closed.
fn await_alone(server: &Server) {
    while metrics(server).text().lines().filter_map(connections).sum::<u64>() > NEIGHBOURS {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn connections(line: &str) -> Option<u64> {
    line.strip_prefix("ringfeed_connections{")?.rsplit_once(' ')?.1.parse().ok()
}

/// The server's counters by reason.
fn counted(server: &Server) -> String {
    let metrics = metrics(server);
    let rows = metrics.text().lines().filter_map(|line| {
        let (labels, count) = line.strip_prefix("ringfeed_connections_closed_total{")?.rsplit_once(' ')?;
        let reason = labels.split("reason=\"").nth(1)?.split('"').next()?;
        (count != "0").then(|| format!("{reason} {count}"))
    });
    rows.collect::<Vec<_>>().join(", ")
}

fn median(mut values: Vec<f64>) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = (values[0], values[values.len() - 1]);
    format!("{:.2} ({low:.2} to {high:.2})", values[values.len() / 2])
}
