//! The real binary over raw TCP: what it must refuse, with which status or close code, and that nobody else notices.
//!
//! Covers what the Autobahn|Testsuite cannot see (masking, a close frame of one byte, content byte by byte), the
//! opening handshake, and how input is cut into packets. Where a test needs settings that no flag gives, or to look at
//! single shards, the server runs inside the test (`inside`). The peer is written by hand and shares no code
//! with the server.

#[path = "../support/mod.rs"]
mod support;

mod content;
mod crowd;
mod deflate;
mod drain;
mod feed;
mod frames;
mod handshake;
mod history;
mod inside;
mod peer;
mod slow;
mod sse;
mod timers;
