//! Fuzz target: opening handshakes, as a client reads them.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(response);
