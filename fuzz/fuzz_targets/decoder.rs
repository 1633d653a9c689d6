//! Fuzz target: any bytes as frames, split anywhere.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(decoder);
