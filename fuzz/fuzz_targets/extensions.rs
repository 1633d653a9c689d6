//! Fuzz target: offers of compression and what is agreed on.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(extensions);
