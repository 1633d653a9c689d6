//! The tests of the examples: each is a complete server, with a test of its handler in virtual time.
#![allow(dead_code, reason = "nobody calls their main functions here")]

#[path = "../examples/chat.rs"]
mod chat;
#[path = "../examples/echo.rs"]
mod echo;
#[path = "../examples/greetings.rs"]
mod greetings;
#[path = "../examples/lengths.rs"]
mod lengths;
#[path = "../examples/lookup.rs"]
mod lookup;
#[path = "../examples/ticker.rs"]
mod ticker;
