//! Fuzz target: opening handshakes, as a server reads them.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(request);
