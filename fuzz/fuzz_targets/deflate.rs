//! Fuzz target: what is compressed comes back.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(deflate);
