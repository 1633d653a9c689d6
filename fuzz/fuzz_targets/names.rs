//! Fuzz target: topics and paths.
#![cfg_attr(fuzzing, no_main)]

ringfeed_fuzz::target!(names);
