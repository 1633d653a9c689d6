//! The Autobahn|Testsuite in both roles: it drives the real binary's `/echo`, and it serves a client built on
//! [`ringfeed::proto`].
//!
//! `cargo test` runs the fast set, 321 of the 517 cases; `cargo autobahn` runs all of them. Both install the
//! suite first (`suite/install.sh`, once) below the target directory. What the suite cannot see is tested in
//! `tests/wire/`; what it judges, and the list of exceptions with their reasons, is in `report.rs`.

#[path = "../support/mod.rs"]
mod support;

mod client_role;
mod client_session;
mod record;
mod report;
mod server_role;
mod suite;

use report::{EXCEPTIONS, Report};
use suite::{CaseSet, DEFLATE, FAST, FULL};

#[test]
fn fast_set_against_the_server() {
    accept("server role", &server_role::run(&FAST, 0), &FAST);
}

#[test]
fn fast_set_against_the_server_over_tls() {
    accept("server role over TLS", &server_role::run_secure(&FAST), &FAST);
}

#[test]
fn fast_set_against_the_client() {
    accept("client role", &client_role::run(&FAST, false), &FAST);
}

#[test]
fn compression_in_both_roles_where_context_is_taken_over() {
    accept("server role", &server_role::run(&DEFLATE, 100), &DEFLATE);
    accept("client role", &client_role::run(&DEFLATE, true), &DEFLATE);
}

/// All cases in both roles, some minutes. With `CONFORMANCE_RECORD=1` the summary goes to `results/`.
#[test]
#[ignore = "the full set takes minutes: cargo autobahn"]
fn full_set_in_both_roles() {
    let server = server_role::run(&FULL, 0);
    let client = client_role::run(&FULL, false);
    if std::env::var_os("CONFORMANCE_RECORD").is_some() {
        record::write(&[("server", &server), ("client", &client)]);
    }
    accept("server role", &server, &FULL);
    accept("client role", &client, &FULL);
}

fn accept(role: &str, report: &Report, set: &CaseSet) {
    println!("{role}\n{}", report.table());
    let findings = report.findings(set.case_count, EXCEPTIONS);
    assert!(findings.is_empty(), "{role}: {} findings\n{}\n{}", findings.len(), report.table(), findings.join("\n"));
}
