//! Fuzz target: the header of the PROXY protocol.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(proxied);
