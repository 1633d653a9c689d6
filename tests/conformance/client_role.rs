//! The suite as a server; the client under test asks it for one case after the other.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;

use crate::client_session::{self, Messages};
use crate::report::{AGENT, Report};
use crate::suite::{self, CaseSet};
use crate::support::PATIENCE;
use crate::support::process::Process;

/// Runs `set` against the client of [`client_session`], which offers that compressed messages may refer back to earlier
/// ones or not.
pub(crate) fn run(set: &CaseSet, context_takeover: bool) -> Report {
    // Port 0: the system chooses, and wstest.py prints the choice.
    let peers = json!({ "url": "ws://127.0.0.1:0" });
    suite::run_chunks(set, "client", |dir, cases| {
        let server = suite::start("fuzzingserver", dir, cases, &peers);
        run_all_cases(SocketAddr::from((Ipv4Addr::LOCALHOST, announced_port(&server))), context_takeover);
    })
}

fn run_all_cases(server: SocketAddr, context_takeover: bool) {
    let run = |target: &str, messages| client_session::run(server, target, messages, context_takeover);
    let count = run("/getCaseCount", Messages::Collect);
    let count: usize = count.first().and_then(|text| text.parse().ok()).expect("the number of cases, as text");
    for case in 1..=count {
        run(&format!("/runCase?case={case}&agent={AGENT}"), Messages::Echo);
    }
    // The suite writes its reports before it closes this connection.
    run(&format!("/updateReports?agent={AGENT}"), Messages::Collect);
}

fn announced_port(server: &Process) -> u16 {
    while let Some(line) = server.next_line(PATIENCE) {
        if let Some(port) = line.strip_prefix("port ") {
            return port.parse().expect("a port number");
        }
    }
    panic!("wstest ended before it listened");
}
