//! `ringfeed top`: the figures of a running server, each second.

mod scrape;
mod view;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
pub(super) use scrape::Scrape;
use view::View;

use super::server::ServerArguments;
use crate::client::{ClientError, HttpClient};

/// Shows a running server's connections, rates, latencies, shards and namespaces.
///
/// On a terminal the screen changes each interval; Ctrl+C ends it. All figures are those of /metrics; rates and
/// latencies are those of the last interval. The exit code is 1 if the server cannot be reached.
#[derive(Args, Debug)]
pub(super) struct TopArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Print the figures of one interval, and end
    #[arg(long)]
    once: bool,
    /// Print a JSON object for each interval
    #[arg(long)]
    json: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = value_parser!(u16).range(1..=3600))]
    interval: u16,
}

/// Clears the screen, and begins at its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) fn run(arguments: TopArguments) -> ExitCode {
    arguments.server.run(async |server| watch(&arguments, server).await)
}

async fn watch(arguments: &TopArguments, server: &mut HttpClient) -> Result<(), ClientError> {
    let TopArguments { once, json, interval, .. } = *arguments;
    let is_screen = io::stdout().is_terminal() && !once && !json;
    let mut before = (Instant::now(), scrape(server).await?);
    loop {
        tokio::time::sleep(Duration::from_secs(interval.into())).await;
        let now = (Instant::now(), scrape(server).await?);
        let view = View::new(&before.1, &now.1, now.0 - before.0);
        let text = match json {
            true => format!("{}\n", view.json()),
            false => format!("{}{}\n", if is_screen { CLEAR } else { "" }, view.text(&arguments.server.url)),
        };
        // A reader that has seen enough closes the pipe.
        let mut out = io::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || once {
            return Ok(());
        }
        before = now;
    }
}

async fn scrape(server: &mut HttpClient) -> Result<Scrape, ClientError> {
    Ok(Scrape::parse(&String::from_utf8_lossy(&server.get("/metrics").await?)))
}
