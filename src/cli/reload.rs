//! `ringfeed reload`.

use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;

use super::server::{AskError, ServerArguments};
use super::{bad_input, failed};
use crate::client::{ClientError, printable};

/// Has a running server read its configuration again, and says what it applied.
///
/// The server applies all of it or nothing. The exit code is 1 if it rejects the file or cannot be reached.
#[derive(Args, Debug)]
pub(super) struct ReloadArguments {
    #[command(flatten)]
    server: ServerArguments,
}

pub(super) fn run(arguments: ReloadArguments) -> ExitCode {
    let reloaded =
        arguments.server.ask(async |server| server.post("/reload", "text/plain; charset=utf-8", Bytes::new()).await);
    match reloaded {
        Ok(report) => {
            println!("{}", printable(&report));
            ExitCode::SUCCESS
        }
        Err(AskError::Input(text)) => bad_input(&text),
        Err(AskError::Client(ClientError::Refused { reason, .. })) if !reason.is_empty() => failed(&reason),
        Err(AskError::Client(error)) => failed(&error.to_string()),
    }
}
