//! Hostile clients against the real binary: each is held to a bound, told so with a status or a close code, counted in
//! `/metrics`, and its neighbours go on undisturbed.
//!
//! How much slower neighbours become is a matter for `benches/hostile`: nothing here is timed. The peer is written by
//! hand and shares no code with the server.

#[path = "../wire/peer.rs"]
#[allow(dead_code, reason = "shared with the tests of the wire, which use all of it")]
mod peer;
#[path = "../support/mod.rs"]
mod support;

mod answers;
mod commands;
mod control;
mod crowds;
mod floods;
mod history;
mod metrics;
mod paths;
mod presence;
mod topics;
mod urgent;

use support::server::Server;

/// A server that pings nobody, so that a neighbour hears its echoes and nothing else.
fn start(flags: &[&str]) -> Server {
    Server::start(&[&["--ping-interval-ms", "0"], flags].concat())
}
