//! `ringfeed drain`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;

use super::network::NetworkArguments;
use super::publish::key_field;
use super::top::Scrape;
use super::{bad_input, failed, runtime};
use crate::client::{ClientError, HttpClient};

/// Stops a running server gracefully, as SIGTERM does, and waits until it has stopped.
///
/// The server accepts no connection, is not ready any more, and closes its clients over drain_spread_ms; they reconnect
/// elsewhere. The exit code is 1 if the server cannot be reached.
#[derive(Args, Debug)]
pub(super) struct DrainArguments {
    /// The server's control port
    #[arg(default_value = "http://127.0.0.1:8001")]
    url: String,
    /// Do not wait until the server has stopped
    #[arg(long)]
    no_wait: bool,
    /// A file with the key of the control port in its first line; or else RINGFEED_API_KEY has the key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArguments,
}

/// How often the command looks how far the drain has come.
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) fn run(arguments: DrainArguments) -> ExitCode {
    let (key, runtime) = match (key_field(arguments.key_file.as_deref()), runtime()) {
        (Ok(key), Ok(runtime)) => (key, runtime),
        (Err(text), _) | (_, Err(text)) => return bad_input(&text),
    };
    let headers: Vec<_> = key.into_iter().collect();
    let network = arguments.network.network();
    let drained = runtime.block_on(async {
        let mut server = HttpClient::connect(&arguments.url, &headers, network).await?;
        let answer = server.post("/drain", "text/plain; charset=utf-8", Bytes::new()).await?;
        println!("{}", String::from_utf8_lossy(&answer).trim_end());
        if !arguments.no_wait {
            watch(&mut server).await;
        }
        Ok::<(), ClientError>(())
    });
    match drained {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (ClientError::Url(_) | ClientError::Header(_))) => bad_input(&error.to_string()),
        Err(error) => failed(&error.to_string()),
    }
}

/// Prints how many connections are left until the port closes, which it does when the last one has ended.
async fn watch(server: &mut HttpClient) {
    let mut left = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Ok(text) = server.get("/metrics").await else { return };
        let connections = Scrape::parse(&String::from_utf8_lossy(&text)).sum("ringfeed_connections", "");
        if left.replace(connections) != Some(connections) {
            println!("{connections} connections left");
        }
    }
}
