//! RFC 6455 and RFC 7692 as tables of input and expected events. One `check` per table uses the API.

#[path = "proto/boundaries.rs"]
mod boundaries;
#[path = "proto/deflate.rs"]
mod deflate;
#[path = "proto/frames.rs"]
mod frames;
#[path = "proto/handshakes.rs"]
mod handshakes;
#[path = "proto/support.rs"]
mod support;
