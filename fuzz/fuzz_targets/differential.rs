//! Fuzz target: the decoder against tungstenite's.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(differential);
