//! Fuzz target: compression offers and their negotiation.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(extensions);
