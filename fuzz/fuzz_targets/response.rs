//! Fuzz target: opening handshakes, decoded by a client.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(response);
