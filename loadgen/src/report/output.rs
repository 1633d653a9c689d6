//! Where the result of a run goes: a table, files, and an exit code.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::Error;
use crate::options::OutputOptions;
use crate::report::timeline::Tick;
use crate::report::{Findings, Outcome, Report, Verdict, html, junit, merged, percentiles, table};

/// Writes the report to standard output instead of a file.
const STDOUT: &str = "-";

/// Exit code of a run that does not meet an expectation.
const NOT_AS_EXPECTED: u8 = 4;

/// Fails now rather than after a run if a file can't be written or an expectation can't be read.
///
/// # Errors
/// If so.
pub(crate) fn check(options: &OutputOptions) -> Result<(), Error> {
    let OutputOptions { json, html, hgrm, hlog, csv, junit, .. } = options;
    let files = [json, html, hgrm, hlog, csv, junit].into_iter().flatten();
    files.filter(|path| path.as_os_str() != STDOUT).try_for_each(|path| check_writable(path))?;
    if options.expectations()?.is_empty() && options.abort_on_fail {
        return Err(Error::new("--abort-on-fail needs an expectation: give --expect or --expect-file"));
    }
    Ok(())
}

/// Prints the report and writes it to the files. Returns the exit code.
///
/// # Errors
/// If a file can't be written.
pub(crate) fn publish(options: &OutputOptions, outcome: Outcome) -> Result<u8, Error> {
    let OutputOptions { json, html, hgrm, hlog, csv, junit, .. } = options;
    let started = SystemTime::now() - outcome.measured.since_start;
    let findings = merged(outcome.findings);
    let tells = outcome.agents.iter().all(|agent| agent.tells_latency);
    let hgrm =
        hgrm.as_ref().filter(|_| tells).map(|path| (path, percentiles::table(honest(&findings, outcome.open_loop))));
    let report = Report::new(Outcome { findings: vec![findings], ..outcome }).expecting(&options.expectations()?);
    let text = || serde_json::to_string_pretty(&report).expect("a report serializes");
    match json {
        Some(path) if path.as_os_str() == STDOUT => {
            eprint!("{}", table::of_run(&report));
            println!("{}", text());
        }
        Some(path) => {
            print!("{}", table::of_run(&report));
            write(path, &text())?;
        }
        None => print!("{}", table::of_run(&report)),
    }
    let files: [(&Option<PathBuf>, &dyn Fn() -> String); 4] = [
        (html, &|| html::page(&report)),
        (hlog, &|| percentiles::log(&report.history, started)),
        (csv, &|| csv_of(&report.history.ticks)),
        (junit, &|| junit::xml(&report)),
    ];
    for (path, text) in files {
        path.iter().try_for_each(|path| write(path, &text()))?;
    }
    hgrm.iter().try_for_each(|(path, text)| write(path, text))?;
    Ok(exit_code(&report))
}

/// The latencies to rely on.
fn honest(findings: &Findings, open_loop: bool) -> &crate::report::latency::Latencies {
    let recorded = &findings.recorded;
    if open_loop { &recorded.corrected } else { &recorded.uncorrected }
}

/// An unmet expectation outweighs faults: it says which of them matter.
fn exit_code(report: &Report) -> u8 {
    match report.verdict {
        Verdict::Empty => 2,
        _ if report.expectations.iter().any(|outcome| !outcome.holds) => NOT_AS_EXPECTED,
        Verdict::Clean => 0,
        Verdict::Faulty => 1,
        Verdict::ClientBound => 3,
    }
}

/// One line per tick.
fn csv_of(ticks: &[Tick]) -> String {
    let mut text = "at_s,per_second,p50_us,p99_us,connections,faults,client_cpus\n".to_owned();
    for Tick { at_s, per_second, p50_us, p99_us, connections, faults, client_cpus } in ticks {
        text.push_str(&format!("{at_s},{per_second},{p50_us},{p99_us},{connections},{faults},{client_cpus}\n"));
    }
    text
}

fn check_writable(path: &Path) -> Result<(), Error> {
    let is_new = !path.exists();
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| Error::new(format!("can't write {}: {error}", path.display())))?;
    if is_new {
        // A run that can't be measured leaves no file.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|error| Error::new(format!("can't write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    #[test]
    fn each_result_has_its_exit_code() {
        let code = |faulty: bool, busy_share: f64, count: u64, expectation: &str| {
            let mut outcome = outcome();
            outcome.counts = vec![count];
            outcome.findings[0].recorded.busy_share = busy_share;
            if faulty {
                outcome.findings[0].faults.closed(0, "reset");
            }
            exit_code(&Report::new(outcome).expecting(&[expectation.parse().unwrap()]))
        };
        assert_eq!(code(false, 0.5, 1, "p99<1s"), 0);
        assert_eq!(code(true, 0.5, 1, "p99<1s"), 1);
        assert_eq!(code(false, 0.5, 0, "p99<1us"), 2);
        assert_eq!(code(false, 0.95, 1, "p99<1s"), 3);
        assert_eq!([code(false, 0.5, 1, "p99<1us"), code(true, 0.95, 1, "faults==0")], [4, 4]);
    }

    #[test]
    fn a_line_of_csv_has_a_value_for_each_column() {
        let text = csv_of(&Report::new(outcome()).history.ticks);
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [7; 4]);
        assert!(text.ends_with("3,600,1500,1990,3,0,0.5\n"), "{text}");
    }
}
