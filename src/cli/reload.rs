//! `ringfeed reload`.

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;

use super::network::NetworkArguments;
use super::publish::key_field;
use super::{bad_input, failed, runtime};
use crate::client::{ClientError, HttpPublisher};

/// Has a running server read its configuration again, and says what it applied.
///
/// The server applies all of it or nothing. The exit code is 1 if it rejects the file or cannot be reached.
#[derive(Args, Debug)]
pub(super) struct ReloadArguments {
    /// The server's control port
    #[arg(default_value = "http://127.0.0.1:8001")]
    url: String,
    /// A file with the key of the control port in its first line; or else RINGFEED_API_KEY has the key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArguments,
}

pub(super) fn run(arguments: ReloadArguments) -> ExitCode {
    let (key, runtime) = match (key_field(arguments.key_file.as_deref()), runtime()) {
        (Ok(key), Ok(runtime)) => (key, runtime),
        (Err(text), _) | (_, Err(text)) => return bad_input(&text),
    };
    let url = format!("{}/reload", arguments.url.trim_end_matches('/'));
    let headers: Vec<_> = key.into_iter().collect();
    let reloaded = runtime.block_on(async {
        let mut server = HttpPublisher::connect(&url, &headers, arguments.network.network()).await?;
        server.publish(Bytes::new(), "text/plain; charset=utf-8").await
    });
    match reloaded {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(ClientError::Refused { reason, .. }) if !reason.is_empty() => failed(&reason),
        Err(error) => failed(&error.to_string()),
    }
}
