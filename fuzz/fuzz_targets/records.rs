//! Fuzz target: the course of a TLS connection.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(records);
