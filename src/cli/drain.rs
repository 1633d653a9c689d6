//! `ringfeed drain`.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;

use super::server::ServerArguments;
use super::top::Scrape;
use crate::client::{HttpClient, printable};

/// Stops a running server gracefully, as SIGTERM does, and waits until it has stopped.
///
/// The server accepts no connection, is not ready any more, and closes its clients over drain_spread_ms; they reconnect
/// elsewhere. The exit code is 1 if the server cannot be reached.
#[derive(Args, Debug)]
pub(super) struct DrainArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Do not wait until the server has stopped
    #[arg(long)]
    no_wait: bool,
}

/// How often the command looks how far the drain has come.
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) fn run(arguments: DrainArguments) -> ExitCode {
    arguments.server.run(async |server| {
        let answer = server.post("/drain", "text/plain; charset=utf-8", Bytes::new()).await?;
        println!("{}", printable(&answer));
        if !arguments.no_wait {
            watch(server).await;
        }
        Ok(())
    })
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
