//! Fuzz target: the kernels for masks and UTF-8 against plain loops.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(text);
