//! Load generator for WebSocket push servers.

fn main() {}
