//! Hostile clients against the real binary: each meets a bound, receives a status or a close code, counts in
//! `/metrics`, and its neighbours are undisturbed.
//!
//! `benches/hostile` measures how much slower neighbours become; nothing here is timed. The peer shares no code with
//! the server.

#[path = "../wire/peer.rs"]
#[allow(dead_code, reason = "shared with the wire tests, which use all of it")]
mod peer;
#[path = "../support/mod.rs"]
mod support;

mod answers;
mod backend;
mod commands;
mod control;
mod crowds;
mod emulation;
mod events;
mod floods;
mod history;
mod json;
mod metrics;
mod paths;
mod presence;
mod queues;
mod sockjs;
mod stomp;
mod topics;
mod urgent;

use support::server::Server;

/// A server without pings, so that a neighbour receives only its echoes.
fn start(flags: &[&str]) -> Server {
    Server::start(&[&["--ping-interval-ms", "0"], flags].concat())
}
