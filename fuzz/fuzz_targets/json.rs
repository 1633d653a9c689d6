//! Fuzz target: commands of Centrifugo's clients in JSON.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(json);
