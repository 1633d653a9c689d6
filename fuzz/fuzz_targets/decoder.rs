//! Fuzz target: any bytes as frames, cut anywhere.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(decoder);
