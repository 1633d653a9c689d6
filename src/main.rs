//! The `ringfeed` binary.

fn main() {}
