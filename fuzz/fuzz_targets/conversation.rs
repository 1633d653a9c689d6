//! Fuzz target: a whole conversation of a server with a peer.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(conversation);
