//! The cost of publishing over HTTP: publications a second, and CPU time of the control plane and the shard for each.
//!
//! ```text
//! cargo bench --bench ingest [-- [--rounds N] [--seconds N] [--record] [NAME …]]
//! ```
//!
//! The server has one shard without subscribers and CPU 0, also for its control plane; the client has CPU 1. Each case
//! is a closed loop: every connection keeps the case's number of requests in flight. A row is the median of the
//! rounds; cases take turns. The client counts an acknowledgement for every publication, and a case ends with an error
//! at any other answer. Without `--bench` each case runs for an instant, as a test of the bench.

mod case;
mod client;
#[path = "../support/cpu.rs"]
mod cpu;
#[path = "../support/record.rs"]
mod record;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use case::Case;
use client::Client;
use cpu::run_on;
use record::Record;
use support::server::Server;

/// Time after the start of the clients until measuring begins.
const RUN_UP: Duration = Duration::from_millis(200);

/// One measurement.
struct Figures {
    per_second: f64,
    /// CPU time of the control plane for each publication, in microseconds.
    control_us: f64,
    /// The same of all shards.
    shard_us: f64,
}

fn main() {
    let mut record = Record::from_command_line("ingest");
    let (mut rounds, mut seconds, mut names) = (if record.measures { 5 } else { 1 }, 0.02, Vec::new());
    if record.measures {
        seconds = 1.0;
    }
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench" && argument != "--record");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().and_then(|value| value.parse().ok()).expect("a number follows the flag");
        match &*argument {
            "--rounds" => rounds = value() as usize,
            "--seconds" => seconds = value(),
            _ => names.push(argument),
        }
    }
    let cases = case::all();
    let cases: Vec<_> =
        cases.iter().filter(|case| names.is_empty() || names.iter().any(|name| case.name.contains(&**name))).collect();
    let mut figures: Vec<Vec<Figures>> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (case, figures) in cases.iter().zip(&mut figures) {
            figures.push(measure(case, Duration::from_secs_f64(seconds)));
        }
    }
    record.line("| case | publications a second | control plane, µs each | shard, µs each |");
    record.line("| --- | --- | --- | --- |");
    for (case, figures) in cases.iter().zip(&figures) {
        let of = |figure: fn(&Figures) -> f64| median(figures.iter().map(figure).collect());
        let (per_second, control, shard) =
            (of(|figures| figures.per_second), of(|figures| figures.control_us), of(|figures| figures.shard_us));
        record.line(&format!("| {} | {per_second:.0} | {control:.2} | {shard:.2} |", case.name));
    }
    record.finish();
}

fn measure(case: &Case, duration: Duration) -> Figures {
    run_on(0);
    let server = Server::start(&["--shards", "1"]);
    run_on(1);
    let mut client = Client::connect(case, server.control);
    client.run(RUN_UP.min(duration));
    let (before, start) = (cpu_times(server.id()), Instant::now());
    let acknowledged = client.run(duration) as f64;
    let (elapsed, after) = (start.elapsed(), cpu_times(server.id()));
    assert!(acknowledged > 0.0, "{}: no publication was acknowledged", case.name);
    let each_us = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / acknowledged;
    Figures {
        per_second: acknowledged / elapsed.as_secs_f64(),
        control_us: each_us(before.control, after.control),
        shard_us: each_us(before.shards, after.shards),
    }
}

/// CPU time so far.
struct CpuTimes {
    control: Duration,
    shards: Duration,
}

/// The kernel's account of the server's threads; shards have names.
fn cpu_times(process: u32) -> CpuTimes {
    let mut times = CpuTimes { control: Duration::ZERO, shards: Duration::ZERO };
    for task in std::fs::read_dir(format!("/proc/{process}/task")).expect("the server runs").flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let run = read("schedstat").split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok());
        let run = Duration::from_nanos(run.unwrap_or(0));
        match read("comm").starts_with("shard-") {
            true => times.shards += run,
            false => times.control += run,
        }
    }
    times
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
