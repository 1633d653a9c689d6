//! Runs servers in alternation under `loadgen` and writes tables of their costs.
//!
//! Servers run on CPU 0, the load generator on CPU 1; each run starts its server anew. Since figures of one machine
//! vary with its other load, servers take turns, the order changes from round to round, and only runs of the same round
//! are compared. A run with a lost or wrong message ends the comparison; the cases before it are written. For a server
//! that promises no order among publishers, different orders are only reported.

mod certificate;
mod measure;
mod plan;
mod results;
mod server;
mod statistics;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use certificate::Certificate;
use measure::Measurement;
use plan::Plan;
use results::Place;

/// Runs servers in alternation under the load generator.
#[derive(Debug, Parser)]
struct Arguments {
    /// The comparison to run
    plan: PlanName,
    /// Runs of each server in each case
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of each measured run
    #[arg(long, default_value = "2s")]
    duration: String,
    /// Run only cases with this text in their name
    #[arg(long, default_value = "")]
    case: String,
    /// Directory with the installed peers
    #[arg(long, default_value = "target/peers")]
    peers: PathBuf,
    /// Directory for the tables
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PlanName {
    /// Ringfeed against a bare loop of send(2)
    Floor,
    /// Ringfeed against other servers
    Peers,
    /// Deliveries that the load generator receives per CPU, as a multiple of those that the fastest servers send
    Capacity,
    /// Ringfeed with compression against Ringfeed without, and against other servers that compress
    Deflate,
    /// Ringfeed with clients of Centrifugo's protocol against Ringfeed with clients of the raw feed
    Topics,
    /// Ringfeed with a tenth of its subscribers stalled against Ringfeed with none
    Stalled,
    /// Ringfeed against Bun with subscribers of many topics each
    Tickers,
    /// The time until Ringfeed acknowledges a publication while others are sent to many subscribers
    Acknowledgements,
    /// The latency of a topic with one subscriber beside a topic with many
    Neighbours,
    /// Ringfeed over TLS against Ringfeed without, and against other servers over TLS
    Tls,
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
        PlanName::Tickers => Plan::tickers(&binaries, &arguments.peers),
        PlanName::Acknowledgements => Plan::acknowledgements(&binaries),
        PlanName::Neighbours => Plan::neighbours(&binaries, &arguments.peers),
        PlanName::Tls => Plan::tls(&binaries, &arguments.peers, &Certificate::make(&binaries, &arguments.peers)?),
    };
    let mut measurements = Vec::new();
    let outcome = measure_all(arguments, &plan, &binaries, &mut measurements);
    if !measurements.is_empty() {
        results::write(&place, &plan, &measurements, &arguments.results)?;
    }
    outcome
}

/// Adds each case to `measurements` once all its runs are done, so that earlier cases are kept if a later one fails.
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
