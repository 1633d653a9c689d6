//! Keeps the summary of a full run in `results/`, with what one needs to know to compare it: the date, the
//! machine and the commit.

use std::fmt::Write;
use std::process::Command;

use crate::report::{EXCEPTIONS, Report, dotted};
use crate::support::repository;

/// Writes `results/<date>.md`, over an earlier one of the same day.
pub(crate) fn write(roles: &[(&str, &Report)]) {
    let date = output_of("date", &["-u", "+%F"]);
    let commit = output_of("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]);
    let kernel = output_of("uname", &["-sr"]);
    let mut page = format!(
        "# Autobahn|Testsuite, full set, {date}\n\n`cargo autobahn` at commit {commit}, on {} with {kernel}.\n",
        processor()
    );
    for (role, report) in roles {
        write!(page, "\n## Ringfeed as {role}\n\n{}", report.table()).expect("a string takes all");
    }
    if !EXCEPTIONS.is_empty() {
        page.push_str("\n## Exceptions\n\n");
    }
    for exception in EXCEPTIONS {
        let (behavior, reason) = (exception.behavior, exception.reason);
        writeln!(page, "- {} {behavior}: {reason}.", dotted(exception.cases)).expect("a string takes all");
    }
    let path = repository("tests/conformance/results").join(date + ".md");
    std::fs::write(&path, page).expect("the results directory can be written to");
    println!("written: {}", path.display());
}

fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("an unnamed processor", |(_, name)| name).to_owned()
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
