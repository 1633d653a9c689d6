//! Fuzz target: the configuration file.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(settings);
