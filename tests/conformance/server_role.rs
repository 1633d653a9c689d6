//! The suite as a client of the real binary's `/echo`.

use serde_json::json;

use crate::report::{AGENT, Report};
use crate::suite::{self, CHUNK_PATIENCE, CaseSet};
use crate::support::PATIENCE;
use crate::support::server::Server;

/// Runs `set` against a server of its own, where compressed messages may refer back to earlier ones on so many
/// connections.
pub(crate) fn run(set: &CaseSet, context_takeover_max: u32) -> Report {
    let context_takeover_max = context_takeover_max.to_string();
    let server = Server::start(&["--echo", "--deflate", "on", "--deflate-takeover-max", &context_takeover_max]);
    judge(set, "server", &server)
}

/// The same over TLS.
pub(crate) fn run_secure(set: &CaseSet) -> Report {
    judge(set, "server-tls", &Server::start_secure(&["--echo", "--deflate", "on"]))
}

fn judge(set: &CaseSet, role: &str, server: &Server) -> Report {
    let options = json!({ "serverConnectionDropTimeout": PATIENCE.as_secs() });
    let peers = json!({ "servers": [{ "agent": AGENT, "url": server.ws_url("/echo"), "options": options }] });
    suite::run_chunks(set, role, |dir, cases| {
        suite::start("fuzzingclient", dir, cases, &peers).succeed(CHUNK_PATIENCE);
    })
}
