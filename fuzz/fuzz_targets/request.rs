//! Fuzz target: opening handshakes, decoded by a server.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(request);
