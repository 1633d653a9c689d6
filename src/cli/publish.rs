//! `ringfeed pub`.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, value_parser};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::network::NetworkArguments;
use super::{bad_input, failed, first_line, header, runtime};
use crate::client::{ClientError, HttpPublisher};
use crate::limits::PUBLISH_BYTES_MAX;

/// The environment variable with the key, for hosts that keep it in no file.
pub(super) const API_KEY: &str = "RINGFEED_API_KEY";

/// Messages per second, at most, that `--rate` takes.
const RATE_MAX: i64 = 1_000_000;

/// Publishes messages, and prints the position of each in its topic.
///
/// Where the control port requires a key, put it into a file (--key-file) or into the environment variable
/// RINGFEED_API_KEY. The exit code is 1 if the server rejects a message or cannot be reached, and 2 for bad input.
#[derive(Args, Debug)]
pub(super) struct PubArguments {
    /// The topic, on the control port: http://HOST:PORT/publish/TOPIC, or unix:PATH:/publish/TOPIC
    url: String,
    /// The message; standard input if it is left out or `-`
    #[arg(conflicts_with = "lines")]
    message: Option<String>,
    /// The key that the message sets, of a keyed topic, or the key by which it replaces others for slow readers
    #[arg(long)]
    key: Option<String>,
    /// Remove the key of a keyed topic: there is no message then
    #[arg(long, requires = "key", conflicts_with_all = ["message", "lines", "binary"])]
    remove: bool,
    /// Publish each line of standard input as a message
    #[arg(long)]
    lines: bool,
    /// Lines per second at most [default: as fast as the server acknowledges them]
    #[arg(long, value_name = "N", requires = "lines", value_parser = value_parser!(u32).range(1..=RATE_MAX))]
    rate: Option<u32>,
    /// Publish it as binary, whatever it is
    #[arg(long)]
    binary: bool,
    /// A file with the key of the control port in its first line
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A header field to send with each message; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    #[command(flatten)]
    network: NetworkArguments,
}

pub(super) fn run(arguments: PubArguments) -> ExitCode {
    let url = with_key(&arguments.url, arguments.key.as_deref(), arguments.remove);
    let headers = match headers(&arguments) {
        Ok(headers) => headers,
        Err(text) => return bad_input(&text),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(text) => return bad_input(&text),
    };
    let content_type = if arguments.binary { "application/octet-stream" } else { "text/plain; charset=utf-8" };
    let network = arguments.network.clone().network();
    let published = runtime.block_on(async {
        let mut publisher = HttpPublisher::connect(&url, &headers, network).await.map_err(PubError::Client)?;
        match arguments.message.filter(|message| message != "-") {
            _ if arguments.remove => publish(&mut publisher, Bytes::new(), content_type).await,
            _ if arguments.lines => publish_lines(&mut publisher, content_type, arguments.rate).await,
            Some(message) => publish(&mut publisher, Bytes::from(message), content_type).await,
            None => publish(&mut publisher, read_input()?, content_type).await,
        }
    });
    match published {
        Ok(()) => ExitCode::SUCCESS,
        Err(PubError::Input(text)) => bad_input(&text),
        Err(PubError::Client(error @ (ClientError::Url(_) | ClientError::Header(_)))) => bad_input(&error.to_string()),
        Err(PubError::Client(error)) => failed(&explained(&error)),
        Err(PubError::Line(line, error)) => failed(&format!("line {line}: {}", explained(&error))),
    }
}

/// Why nothing more is published.
enum PubError {
    /// Standard input can't be used.
    Input(String),
    /// The server can't be reached, or rejects the message.
    Client(ClientError),
    /// The same for this line, counted from 1.
    Line(u64, ClientError),
}

/// The URL with the key of the message, and whether it removes that.
fn with_key(url: &str, key: Option<&str>, removes: bool) -> String {
    let Some(key) = key else { return url.to_owned() };
    let key = utf8_percent_encode(key, NON_ALPHANUMERIC);
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}key={key}{}", if removes { "&remove=true" } else { "" })
}

/// The header fields of each request, with the key.
fn headers(arguments: &PubArguments) -> Result<Vec<(String, String)>, String> {
    let key = key_field(arguments.key_file.as_deref())?;
    Ok(arguments.header.iter().cloned().chain(key).collect())
}

/// The header field with the key of the control port, if there is one.
pub(super) fn key_field(file: Option<&Path>) -> Result<Option<(String, String)>, String> {
    let key = match file {
        Some(file) => Some(first_line(file)?),
        None => std::env::var(API_KEY).ok().filter(|key| !key.is_empty()),
    };
    Ok(key.map(|key| ("X-API-Key".to_owned(), key)))
}

async fn publish(publisher: &mut HttpPublisher, payload: Bytes, content_type: &str) -> Result<(), PubError> {
    println!("{}", publisher.publish(payload, content_type).await.map_err(PubError::Client)?);
    Ok(())
}

async fn publish_lines(publisher: &mut HttpPublisher, content_type: &str, rate: Option<u32>) -> Result<(), PubError> {
    let mut lines = lines();
    let mut ticks = rate.map(|rate| interval(Duration::from_secs(1) / rate));
    ticks.iter_mut().for_each(|ticks| ticks.set_missed_tick_behavior(MissedTickBehavior::Burst));
    let mut line = 0;
    while let Some(read) = lines.recv().await {
        let payload = read.map_err(PubError::Input)?;
        line += 1;
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        println!("{}", publisher.publish(payload, content_type).await.map_err(|error| PubError::Line(line, error))?);
    }
    Ok(())
}

/// The lines of standard input, without their ends. A thread reads them, so that the connection is served meanwhile.
fn lines() -> mpsc::Receiver<Result<Bytes, String>> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Some(line) = next_line(&mut input).transpose() {
            let is_end = line.is_err();
            if sender.blocking_send(line).is_err() || is_end {
                return;
            }
        }
    });
    lines
}

fn next_line(input: &mut impl BufRead) -> Result<Option<Bytes>, String> {
    let mut line = Vec::new();
    let bytes_max = PUBLISH_BYTES_MAX as u64 + 1;
    let read = input.take(bytes_max + 1).read_until(b'\n', &mut line);
    if read.map_err(|error| format!("reading standard input failed: {error}"))? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.len() > PUBLISH_BYTES_MAX {
        return Err(format!("a line of standard input is too long: a message has at most {PUBLISH_BYTES_MAX} bytes"));
    }
    Ok(Some(Bytes::from(line)))
}

fn read_input() -> Result<Bytes, PubError> {
    let mut input = Vec::new();
    let read = io::stdin().lock().take(PUBLISH_BYTES_MAX as u64 + 1).read_to_end(&mut input);
    match read {
        Err(error) => Err(PubError::Input(format!("reading standard input failed: {error}"))),
        Ok(bytes) if bytes > PUBLISH_BYTES_MAX => {
            Err(PubError::Input(format!("standard input is too long: a message has at most {PUBLISH_BYTES_MAX} bytes")))
        }
        Ok(_) => Ok(Bytes::from(input)),
    }
}

/// The error, with the most likely cause where the server's text does not name it.
fn explained(error: &ClientError) -> String {
    match error {
        ClientError::Refused { status: 405, .. } => format!(
            "{error}; this is the data port, it seems: messages are published on the control port, \
             http://127.0.0.1:8001 unless 'ringfeed serve' prints another one after 'control on'"
        ),
        ClientError::Refused { status: 401, .. } => format!("{error}; or use --key-file, or {API_KEY}"),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_a_part_of_the_url() {
        assert_eq!(with_key("http://a/publish/b", None, false), "http://a/publish/b");
        assert_eq!(with_key("http://a/publish/b", Some("x&y"), false), "http://a/publish/b?key=x%26y");
        assert_eq!(
            with_key("http://a/publish/b?tag=c:d", Some("k"), true),
            "http://a/publish/b?tag=c:d&key=k&remove=true"
        );
    }

    #[test]
    fn lines_end_with_the_input_and_have_a_bound() {
        let all = |mut input: &[u8]| -> Result<Vec<Bytes>, String> {
            std::iter::from_fn(|| next_line(&mut input).transpose()).collect()
        };
        assert_eq!(all(b"").unwrap(), [""; 0]);
        assert_eq!(all(b"a\n\nb").unwrap(), ["a", "", "b"]);
        let longest = [vec![b'x'; PUBLISH_BYTES_MAX], b"\ny\n".to_vec()].concat();
        assert_eq!(all(&longest).unwrap().len(), 2);
        assert!(all(&vec![b'x'; PUBLISH_BYTES_MAX + 1]).unwrap_err().contains("too long"));
        assert!(all(&vec![b'x'; PUBLISH_BYTES_MAX + 9]).unwrap_err().contains("too long"));
    }
}
