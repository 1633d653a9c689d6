//! The real binary over raw TCP: which input it rejects, with which status or close code, with undisturbed neighbours.
//!
//! Covers the limits of the Autobahn|Testsuite (masking, a close frame of one byte, content byte by byte), the opening
//! handshake, and input cut into packets. Where a test needs settings without a flag, or the metrics of single shards,
//! the server runs inside the test (`inside`). The peer shares no code with the server.

#[path = "../support/mod.rs"]
mod support;

mod content;
mod crowd;
mod deflate;
mod drain;
mod feed;
mod framed;
mod frames;
mod handshake;
mod history;
mod inside;
mod metrics;
mod order;
mod peer;
mod slow;
mod sse;
mod state;
mod timers;
