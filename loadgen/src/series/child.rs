//! One run of this program as a child process, and the figures that series of runs compare.

use std::path::PathBuf;
use std::process::Command;

use crate::error::Error;
use crate::report::text::{bytes, count, microseconds, three_digits};
use crate::report::{Report, Verdict};

/// A figure that runs are compared by.
pub(crate) struct Compared {
    pub(crate) name: &'static str,
    pub(crate) value: fn(&Report) -> Option<f64>,
    pub(crate) write: fn(f64) -> String,
}

/// The figures, in the order shown.
pub(crate) const COMPARED: [Compared; 7] = [
    Compared { name: "per_second", value: |report| Some(report.per_second), write: |rate| count(rate.round() as u64) },
    Compared { name: "p50", value: |report| Some(report.latency.honest()?.p50_us), write: microseconds },
    Compared { name: "p99", value: |report| Some(report.latency.honest()?.p99_us), write: microseconds },
    Compared { name: "p999", value: |report| Some(report.latency.honest()?.p999_us), write: microseconds },
    Compared {
        name: "cpu_ns_each",
        value: |report| Some(report.server.as_ref()?.cpu_ns_each).filter(|ns| *ns > 0.0),
        write: |ns| microseconds(ns / 1e3),
    },
    Compared {
        name: "server_bytes",
        value: |report| Some(report.server.as_ref()?.resident_bytes as f64),
        write: bytes,
    },
    Compared { name: "client_cpus", value: |report| Some(report.client_cpus), write: three_digits },
];

/// Runs this program with these arguments, and reads its report.
///
/// # Errors
/// If the run could not be measured or had faults: its figures do not compare.
pub(crate) fn run(arguments: &[String]) -> Result<Report, Error> {
    let program = std::env::current_exe().map_err(|error| Error::new(format!("can't find this program: {error}")))?;
    let path: PathBuf = std::env::temp_dir().join(format!("loadgen-series-{}.json", std::process::id()));
    let output = Command::new(program).args(arguments).arg("--json").arg(&path).output();
    let output = output.map_err(|error| Error::new(format!("can't run this program again: {error}")))?;
    let report = Report::read(&path);
    let _ = std::fs::remove_file(&path);
    let said = || String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).trim_end().to_owned();
    match report {
        Ok(report) if matches!(report.verdict, Verdict::Clean | Verdict::ClientBound) => Ok(report),
        Ok(report) if report.verdict == Verdict::Faulty => {
            Err(Error::new(format!("a run had faults, so its figures do not compare:\n{}", said())))
        }
        Ok(_) => Err(Error::new(format!("nothing was measured:\n{}", said()))),
        Err(_) => Err(Error::new(format!("a run could not be measured: {}", said()))),
    }
}
