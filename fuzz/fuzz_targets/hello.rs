//! Fuzz target: the start of a TLS connection.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(hello);
