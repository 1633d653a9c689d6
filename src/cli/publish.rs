//! `ringfeed pub`.

use std::io::{self, Read};
use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;

use super::bad_input;
use crate::client::publish;

/// Publishes one message, and prints its place in the topic's order
#[derive(Args, Debug)]
pub(super) struct PubArguments {
    /// The topic, on the control port: http://HOST:PORT/publish/TOPIC
    url: String,
    /// The message; standard input if it is left out or `-`
    message: Option<String>,
    /// Publish it as binary, whatever it is
    #[arg(long)]
    binary: bool,
}

pub(super) fn run(arguments: PubArguments) -> ExitCode {
    let payload = match arguments.message.filter(|message| message != "-") {
        Some(message) => Bytes::from(message),
        None => match read_input() {
            Ok(input) => input,
            Err(error) => return bad_input(&format!("reading standard input failed: {error}")),
        },
    };
    let content_type = if arguments.binary { "application/octet-stream" } else { "text/plain; charset=utf-8" };
    match tokio_uring::start(publish(&arguments.url, payload, content_type)) {
        Ok(position) => {
            println!("{position}");
            ExitCode::SUCCESS
        }
        Err(error) => bad_input(&error.to_string()),
    }
}

fn read_input() -> io::Result<Bytes> {
    let mut input = Vec::new();
    io::stdin().lock().read_to_end(&mut input)?;
    Ok(Bytes::from(input))
}
