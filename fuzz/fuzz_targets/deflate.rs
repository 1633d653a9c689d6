//! Fuzz target: compressed messages are restored unchanged.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(deflate);
