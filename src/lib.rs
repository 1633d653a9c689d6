//! Ringfeed: a WebSocket push server and server runtime for Linux on io_uring.

pub mod buf;
pub mod client;
pub mod conn;
pub mod control;
pub mod gateway;
pub mod limits;
pub mod proto;
pub mod ring;
pub mod server;
pub mod simd;
pub mod topics;
