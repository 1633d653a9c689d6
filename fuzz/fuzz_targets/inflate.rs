//! Fuzz target: compressed messages, corrupt and hostile.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(inflate);
