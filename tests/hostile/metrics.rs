//! Counters of the server, from a scrape.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::http;
use crate::support::server::Server;

/// The sum of the metric `name` over all shards, of rows with `label` (`reason="…"`, or nothing).
pub(crate) fn total(server: &Server, name: &str, label: &str) -> u64 {
    let scrape = http::get(server.control, "/metrics");
    let rows = scrape.text().lines().filter(|row| row.starts_with(&format!("{name}{{")) && row.contains(label));
    let values: Vec<u64> = rows.map(value).collect();
    assert!(!values.is_empty(), "no metric {name} with {label:?}");
    values.iter().sum()
}

fn value(row: &str) -> u64 {
    let text = row.rsplit(' ').next().expect("a row ends with its value");
    text.parse().unwrap_or_else(|error| panic!("{row}: {error}"))
}

/// Connections that ended for `reason`.
pub(crate) fn closed(server: &Server, reason: &str) -> u64 {
    total(server, "ringfeed_connections_closed_total", &format!("reason=\"{reason}\""))
}

/// Polls until `has_happened`.
///
/// # Panics
/// If it does not within [`PATIENCE`].
pub(crate) fn await_that(what: &str, has_happened: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !has_happened() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until exactly `count` connections have ended for `reason`.
pub(crate) fn await_closed(server: &Server, reason: &str, count: u64) {
    await_that(&format!("{count} connections ended with {reason}"), || closed(server, reason) >= count);
    assert_eq!(closed(server, reason), count, "{reason}");
}

/// Waits until `count` connections are left.
pub(crate) fn await_left(server: &Server, count: u64) {
    await_that(&format!("{count} connections left"), || total(server, "ringfeed_connections", "") == count);
}

/// The server's resident memory in bytes.
pub(crate) fn resident_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has a VmRSS");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kilobytes * 1024
}
