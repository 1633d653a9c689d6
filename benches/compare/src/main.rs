//! Runs servers in alternation under `loadgen` and writes tables of what they cost.
//!
//! Servers run on CPU 0, the load generator on CPU 1; each run starts its server anew. Since figures of one machine
//! wobble with whatever else happens on it, servers take turns, the order changes from round to round, and what is
//! compared are runs of the same round. A run in which a message was lost or wrong ends everything; the cases before it
//! are written down. Of a server that promises no order among publishers it is only told that subscribers saw several.

mod measure;
mod plan;
mod results;
mod server;
mod statistics;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use measure::Measurement;
use plan::Plan;
use results::Place;

/// Runs servers in alternation under the load generator.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to compare
    plan: PlanName,
    /// Runs of each server in each case
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each run is measured
    #[arg(long, default_value = "2s")]
    duration: String,
    /// Only cases whose name contains this
    #[arg(long, default_value = "")]
    case: String,
    /// Where the peers are installed
    #[arg(long, default_value = "target/peers")]
    peers: PathBuf,
    /// Where the tables go
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PlanName {
    /// Ringfeed against a bare loop of send(2)
    Floor,
    /// Ringfeed against other servers
    Peers,
    /// What the load generator takes with a CPU, as a multiple of what the fastest servers deliver with one
    Capacity,
    /// Ringfeed with compression against itself without, and against other servers that compress
    Deflate,
    /// Ringfeed to clients of Centrifugo's protocol against itself to those of the raw feed
    Topics,
    /// Ringfeed with a tenth of its subscribers stalled against itself with none
    Stalled,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let place = Place::here()?;
    let binaries = std::env::current_exe()?.parent().ok_or("no directory of binaries")?.to_owned();
    let plan = match arguments.plan {
        PlanName::Floor => Plan::floor(&binaries),
        PlanName::Peers => Plan::peers(&binaries, &arguments.peers),
        PlanName::Capacity => Plan::capacity(&binaries, &arguments.peers),
        PlanName::Deflate => Plan::deflate(&binaries, &arguments.peers),
        PlanName::Topics => Plan::topics(&binaries),
        PlanName::Stalled => Plan::stalled(&binaries),
    };
    let mut measurements = Vec::new();
    let outcome = measure_all(arguments, &plan, &binaries, &mut measurements);
    if !measurements.is_empty() {
        results::write(&place, &plan, &measurements, &arguments.results)?;
    }
    outcome
}

/// Adds each case to `measurements` once all its runs are done: what was measured is kept though a later one fails.
fn measure_all(
    arguments: &Arguments,
    plan: &Plan,
    binaries: &Path,
    measurements: &mut Vec<Measurement>,
) -> Result<(), Box<dyn Error>> {
    for case in plan.cases.iter().filter(|case| case.name.contains(&arguments.case)) {
        let mut of_case = Vec::new();
        for round in 0..arguments.rounds {
            for turn in 0..case.servers.len() {
                let server = case.servers[(round as usize + turn) % case.servers.len()];
                let measurement = measure::run(case, round, &plan.servers[server], binaries, &arguments.duration)?;
                eprintln!("{measurement}");
                of_case.push(measurement);
            }
        }
        measurements.append(&mut of_case);
    }
    Ok(())
}
