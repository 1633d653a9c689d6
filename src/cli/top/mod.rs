//! `ringfeed top`: the figures of a running server, each second.

mod scrape;
mod view;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
pub(super) use scrape::Scrape;
use view::View;

use super::network::NetworkArguments;
use super::publish::key_field;
use super::{bad_input, failed, runtime};
use crate::client::{ClientError, HttpClient};

/// Shows a running server's connections, rates, latencies, shards and namespaces.
///
/// On a terminal the screen changes each interval; Ctrl+C ends it. All figures are those of /metrics; rates and
/// latencies are those of the last interval. The exit code is 1 if the server cannot be reached.
#[derive(Args, Debug)]
pub(super) struct TopArguments {
    /// The server's control port
    #[arg(default_value = "http://127.0.0.1:8001")]
    url: String,
    /// Print the figures of one interval, and end
    #[arg(long)]
    once: bool,
    /// Print a JSON object for each interval
    #[arg(long)]
    json: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = value_parser!(u16).range(1..=3600))]
    interval: u16,
    /// A file with the key of the control port in its first line; or else RINGFEED_API_KEY has the key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArguments,
}

/// Clears the screen, and begins at its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) fn run(arguments: TopArguments) -> ExitCode {
    let (key, runtime) = match (key_field(arguments.key_file.as_deref()), runtime()) {
        (Ok(key), Ok(runtime)) => (key, runtime),
        (Err(text), _) | (_, Err(text)) => return bad_input(&text),
    };
    let headers: Vec<_> = key.into_iter().collect();
    match runtime.block_on(watch(arguments, headers)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (ClientError::Url(_) | ClientError::Header(_))) => bad_input(&error.to_string()),
        Err(error) => failed(&error.to_string()),
    }
}

async fn watch(arguments: TopArguments, headers: Vec<(String, String)>) -> Result<(), ClientError> {
    let TopArguments { url, once, json, interval, network, .. } = arguments;
    let mut server = HttpClient::connect(&url, &headers, network.network()).await?;
    let is_screen = io::stdout().is_terminal() && !once && !json;
    let mut before = (Instant::now(), scrape(&mut server).await?);
    loop {
        tokio::time::sleep(Duration::from_secs(interval.into())).await;
        let now = (Instant::now(), scrape(&mut server).await?);
        let view = View::new(&before.1, &now.1, now.0 - before.0);
        let text = match json {
            true => format!("{}\n", view.json()),
            false => format!("{}{}\n", if is_screen { CLEAR } else { "" }, view.text(&url)),
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
