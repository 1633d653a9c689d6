//! Fuzz target: a whole conversation, as a server has it.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(conversation);
