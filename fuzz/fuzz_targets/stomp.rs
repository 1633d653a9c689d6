//! Fuzz target: frames of STOMP.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(stomp);
