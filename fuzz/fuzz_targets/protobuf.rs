//! Fuzz target: commands of Centrifugo's clients in Protobuf.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(protobuf);
