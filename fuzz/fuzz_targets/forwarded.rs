//! Fuzz target: X-Forwarded-For and Forwarded.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(forwarded);
