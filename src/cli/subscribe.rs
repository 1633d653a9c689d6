//! `ringfeed sub`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::network::NetworkArguments;
use super::{bad_input, failed, first_line, header, runtime};
use crate::client::{ClientError, Sub, sub};

/// Prints the messages of a feed, one on a line; binary ones as base64.
///
/// After a cut it reconnects, and receives the messages that it missed where the server keeps a history. The exit code
/// is 1 if the server cannot be reached with --once, or says that reconnecting does not help; and 2 for bad input.
#[derive(Args, Debug)]
pub(super) struct SubArguments {
    /// The feed: ws://HOST:PORT/feed/TOPIC, or several topics separated by commas
    url: String,
    /// End after this many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End with the connection, rather than connect again
    #[arg(long)]
    once: bool,
    /// Print each message as a JSON object with its topic, position and time
    #[arg(long)]
    json: bool,
    /// Print when each message was received, in UTC
    #[arg(long)]
    timestamps: bool,
    /// Begin with the messages after this position: EPOCH:OFFSET for each topic, separated by commas
    #[arg(long, value_name = "POSITIONS", conflicts_with = "history")]
    since: Option<String>,
    /// Begin with the newest messages of each topic, at most this many
    #[arg(long, value_name = "N")]
    history: Option<u32>,
    /// The token with which the server knows you; better in RINGFEED_TOKEN than on the command line
    #[arg(long, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the token in its first line
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A header field to send with each handshake; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    #[command(flatten)]
    network: NetworkArguments,
}

pub(super) fn run(arguments: SubArguments) -> ExitCode {
    let SubArguments { url, count, once, json, timestamps, since, history, token, token_file, mut header, network } =
        arguments;
    match token_file.map_or(Ok(token), |file| first_line(&file).map(Some)) {
        Ok(token) => header.extend(token.map(|token| ("Authorization".to_owned(), format!("Bearer {token}")))),
        Err(text) => return bad_input(&text),
    }
    let clock = timestamps.then_some(now as fn() -> String);
    let network = network.network();
    let arguments = Sub { url, headers: header, since, history, count, once, json, network, clock };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(text) => return bad_input(&text),
    };
    match runtime.block_on(sub(&arguments, &mut io::stdout())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (ClientError::Url(_) | ClientError::Header(_))) => bad_input(&error.to_string()),
        Err(error) => failed(&error.to_string()),
    }
}

/// The time in UTC, as RFC 3339 writes it.
fn now() -> String {
    let mut text = String::new();
    SystemTime.format_time(&mut Writer::new(&mut text)).expect("a string takes any text");
    text
}
