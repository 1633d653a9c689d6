//! `ringfeed sub`.

use std::io;
use std::process::ExitCode;

use clap::Args;

use super::bad_input;
use crate::client::{Sub, sub};

/// Prints the messages of a feed, one on a line; binary ones as base64
#[derive(Args, Debug)]
pub(super) struct SubArguments {
    /// The feed: ws://HOST:PORT/feed/TOPIC
    url: String,
    /// End after this many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End with the connection, rather than connect again
    #[arg(long)]
    once: bool,
}

pub(super) fn run(arguments: SubArguments) -> ExitCode {
    let SubArguments { url, count, once } = arguments;
    let result = tokio_uring::start(async { sub(&Sub { url, count, once }, &mut io::stdout()).await });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => bad_input(&error.to_string()),
    }
}
