//! The suite as a client of the real binary's `/echo`.

use serde_json::json;

use crate::report::{AGENT, Report};
use crate::suite::{self, CHUNK_PATIENCE, CaseSet};
use crate::support::PATIENCE;
use crate::support::server::Server;

/// Runs `set` against a server of its own.
pub(crate) fn run(set: &CaseSet) -> Report {
    let server = Server::start(&["--echo", "--deflate", "on"]);
    let options = json!({ "serverConnectionDropTimeout": PATIENCE.as_secs() });
    let peers = json!({ "servers": [{ "agent": AGENT, "url": server.ws_url("/echo"), "options": options }] });
    suite::run_chunks(set, "server", |dir, cases| {
        suite::start("fuzzingclient", dir, cases, &peers).succeed(CHUNK_PATIENCE);
    })
}
