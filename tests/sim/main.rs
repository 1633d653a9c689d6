//! The simulator: real shards on a simulated kernel, with simulated clients and injected faults, by seed.
//!
//! `cargo sim` runs some hundred seeds, `cargo sim -- SEED` one, `cargo sim -- --seeds COUNT [--from SEED]` many, with
//! progress. The same seed and commit give the same run. `README.md` in this directory lists the checks.

mod client;
mod guest;
mod handler_log;
mod keyed;
mod model;
mod namespaces;
mod order;
mod plan;
mod resuming_client;
mod simulation;
mod stream_checker;
#[path = "../support/token.rs"]
mod token;
mod verify_ends;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use ringfeed::conn::CloseCause;
use ringfeed::ring::sim::Rng;

use self::plan::Plan;
use self::simulation::{Summary, run};

/// Seeds of a run without arguments.
const SEEDS: u64 = 400;

/// One seed in this many runs twice, and must give the same result.
const REPLAY_EVERY: u64 = 50;

/// The seeds to run.
struct Arguments {
    first: u64,
    count: u64,
    is_single: bool,
    keeps_going: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}: cargo sim -- [SEED | --seeds COUNT [--from SEED] [--keep-going]]");
            return ExitCode::from(2);
        }
    };
    let (start, mut reported) = (Instant::now(), Instant::now());
    let (mut total, mut failures) = (Summary::default(), 0);
    for seed in arguments.first..arguments.first + arguments.count {
        match catch_unwind(AssertUnwindSafe(|| run_checked(seed, arguments.is_single))) {
            Ok(summary) => total.add(&summary),
            Err(_) => {
                failures += 1;
                eprintln!("FAILED seed={seed} commit={}\nreplay: cargo sim -- {seed}", commit());
                if !arguments.keeps_going {
                    return ExitCode::FAILURE;
                }
            }
        }
        if reported.elapsed() > Duration::from_secs(10) {
            reported = Instant::now();
            eprintln!("{} seeds in {:.0?}", seed + 1 - arguments.first, start.elapsed());
        }
    }
    println!("{} seeds from {} in {:.1?}, {failures} failed", arguments.count, arguments.first, start.elapsed());
    total.print();
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_checked(seed: u64, is_single: bool) -> Summary {
    if is_single {
        println!("{:#?}", Plan::new(&mut Rng::new(seed)));
    }
    let summary = run(seed);
    if is_single || seed.is_multiple_of(REPLAY_EVERY) {
        assert_eq!(summary.fingerprint, run(seed).fingerprint, "the same seed gave another run");
    }
    summary
}

/// The commit of the checkout, if this is one.
fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or("unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Arguments {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut parsed = Arguments { first: 0, count: SEEDS, is_single: false, keeps_going: false };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let number = |text: Option<String>| {
                let text = text.ok_or("a number is missing")?;
                text.parse::<u64>().map_err(|_| format!("'{text}' is not a number"))
            };
            match argument.as_str() {
                "--seeds" => parsed.count = number(arguments.next())?,
                "--from" => parsed.first = number(arguments.next())?,
                "--keep-going" => parsed.keeps_going = true,
                // Arguments that the test runner passes to every test binary.
                "--quiet" | "-q" | "--" => {}
                _ => {
                    parsed.first = number(Some(argument))?;
                    (parsed.count, parsed.is_single) = (1, true);
                }
            }
        }
        Ok(parsed)
    }
}

impl Summary {
    fn add(&mut self, other: &Summary) {
        self.latency = self.latency.max(other.latency);
        self.events += other.events;
        self.virtual_us += other.virtual_us;
        self.publications += other.publications;
        self.deliveries += other.deliveries;
        self.messages += other.messages;
        self.recv_buffers_scarce += other.recv_buffers_scarce;
        self.accept_stalls += other.accept_stalls;
        self.returns += other.returns;
        self.tally.add(&other.tally);
        self.closed.iter_mut().zip(other.closed).for_each(|(sum, count)| *sum += count);
    }

    fn print(&self) {
        println!(
            "{} events in {} virtual seconds; {} messages in, {} publications, {} deliveries; buffers scarce {}, accepts \
             stalled {}",
            self.events,
            self.virtual_us / 1_000_000,
            self.messages,
            self.publications,
            self.deliveries,
            self.recv_buffers_scarce,
            self.accept_stalls
        );
        let tally = &self.tally;
        println!(
            "came back {} times: {} times all that was missed of a topic came ({} publications), {} times its loss was \
             told; slow ones skipped {}",
            self.returns, tally.recoveries, tally.recovered, tally.losses, tally.skipped
        );
        println!("max latency to a quick client: {} network delays", self.latency);
        let closed: Vec<String> =
            CloseCause::ALL.iter().zip(self.closed).map(|(c, n)| format!("{} {n}", c.label())).collect();
        println!("closed: {}", closed.join(", "));
    }
}
