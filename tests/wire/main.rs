//! The real binary over raw TCP: what it must refuse, with which status or close code, and that nobody else notices.
//!
//! Covers what the Autobahn|Testsuite cannot see (masking, a close frame of one byte, content byte by byte), the
//! opening handshake, and how input is cut into packets. The peer is written by hand and shares no code
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
mod peer;
mod timers;
