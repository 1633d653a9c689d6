//! `ringfeed doctor`: whether this host can carry the requested number of connections, and what to change.
//!
//! One line for each thing looked at: what is, what is needed, and the command that gets there. It changes nothing.
//! `tuning/` in the repository holds the same values as files, each with its reason.

mod certificates;
mod checks;
mod cluster;
mod finding;
mod host;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;

use self::checks::Target;
use self::finding::{Finding, Verdict};
use self::host::Host;
use super::bad_input;
use crate::config;
use crate::limits::SHARDS_MAX;
use crate::ring::{Uring, UringConfig};

/// Checks whether this host is set up for many connections, and its clock and certificates, and says what to change.
///
/// The exit code is 1 where something must be changed.
#[derive(Args, Debug)]
pub(super) struct DoctorArguments {
    /// How many connections the host is to carry
    #[arg(long, value_name = "N", default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    connections: u32,
    /// How many shards serve them; 0: one for each CPU [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=i64::from(SHARDS_MAX)))]
    shards: Option<u16>,
    /// A configuration file, whose certificates are checked, too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the NATS servers of the configuration's [cluster] instead of this host
    #[arg(long, requires = "config")]
    cluster: bool,
}

pub(super) fn run(arguments: DoctorArguments) -> ExitCode {
    if let (true, Some(file)) = (arguments.cluster, &arguments.config) {
        return match config::load(file).map_err(|error| error.to_string()).and_then(|read| cluster::examine(&read)) {
            Ok(findings) => report(&findings),
            Err(error) => bad_input(&error),
        };
    }
    let host = Host::new("/");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let shards = arguments.shards.filter(|shards| *shards > 0).map_or(cpus, u64::from);
    let target = Target { connections: u64::from(arguments.connections), shards, cpus };
    let mut findings = checks::examine(&host, &target);
    findings.insert(1, try_ring());
    if let Some(file) = &arguments.config {
        match config::load(file) {
            Ok(settings) => findings.extend(certificates::examine(&settings.tls, now_s())),
            Err(error) => return bad_input(&error.to_string()),
        }
    }
    println!("{} connections on {} shards:", target.connections, target.shards);
    report(&findings)
}

/// Prints the findings. The exit code is 1 where something must be changed.
fn report(findings: &[Finding]) -> ExitCode {
    findings.iter().for_each(|finding| println!("{finding}"));
    match findings.iter().filter(|finding| finding.verdict == Verdict::Required).count() {
        0 => ExitCode::SUCCESS,
        count => {
            println!("{count} to change");
            ExitCode::FAILURE
        }
    }
}

fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// Whether this process may have a ring.
fn try_ring() -> Finding {
    let name = "a ring of our own";
    match Uring::new(UringConfig { descriptors: 64, recv_buffers: 4, recv_buffer_bytes: 4096 }) {
        Ok(_) => Finding::good(name, "can be set up"),
        Err(error) => Finding::new(name, Verdict::Required, error, "io_uring, which the server is made of", ""),
    }
}
