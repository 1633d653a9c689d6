//! One conversation with a foreign service.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::Failure;
use super::report::Report;
use super::warnings::{Facts, warnings};
use crate::client::{Client, ClientError, Network, Options, OwnedMessage, Step};
use crate::import::{Evidence, Protocol, Samples, mask_url, recognise};
use crate::limits::{IMPORT_MESSAGE_BYTES_MAX, IMPORT_SAMPLE_BYTES_MAX};
use crate::proto::{CloseCode, DeflateConfig, Message, MessageKind};

/// Messages by which a protocol is recognised.
const FIRST_MAX: usize = 20;

/// Bytes of such a message; larger ones say nothing of the protocol.
const FIRST_BYTES_MAX: usize = 64 * 1024;

/// How long a request waits for a message of the service.
const REQUEST_WAIT: Duration = Duration::from_secs(1);

/// What to do.
pub(super) struct Plan {
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) subprotocols: Vec<String>,
    pub(super) requests: Vec<OwnedMessage>,
    pub(super) duration_s: u64,
    pub(super) count: Option<u64>,
    pub(super) network: Network,
}

/// The outcome of a conversation.
pub(super) struct Session {
    pub(super) protocol: Protocol,
    /// What the protocol was recognised by.
    pub(super) because: String,
    pub(super) samples: Samples,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) pings: u64,
    /// Text messages that carry no JSON.
    pub(super) other_text: u64,
    /// Binary messages that carry no JSON.
    pub(super) other_binary: u64,
    /// How the service ended it, if it did.
    pub(super) ended: Option<String>,
    pub(super) warnings: Vec<String>,
    /// Messages that wait until the protocol is known.
    first: Vec<OwnedMessage>,
    is_recognised: bool,
}

impl Session {
    fn new() -> Session {
        Session {
            protocol: Protocol::Silent,
            because: String::new(),
            samples: Samples::default(),
            messages: 0,
            bytes: 0,
            pings: 0,
            other_text: 0,
            other_binary: 0,
            ended: None,
            warnings: Vec::new(),
            first: Vec::new(),
            is_recognised: false,
        }
    }

    /// The messages of a file, one a line.
    pub(super) fn of_file(file: &Path) -> Result<Session, String> {
        let mut text = String::new();
        let bytes_max = 2 * IMPORT_SAMPLE_BYTES_MAX;
        let read = File::open(file).and_then(|open| open.take(bytes_max as u64 + 1).read_to_string(&mut text));
        read.map_err(|error| format!("{}: cannot be read: {error}", file.display()))?;
        if text.len() > bytes_max {
            return Err(format!("{}: has more than {bytes_max} bytes", file.display()));
        }
        let mut session = Session::new();
        (session.protocol, session.because) = (Protocol::Json, "the samples are JSON".to_owned());
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let value: Value = serde_json::from_str(line)
                .map_err(|error| format!("{}: line {}: not JSON: {error}", file.display(), index + 1))?;
            session.messages += 1;
            session.bytes += line.len() as u64;
            session.samples.push(value, line.len());
        }
        Ok(session)
    }

    /// Talks to the service.
    pub(super) async fn run(plan: Plan, report: &mut Report) -> Result<Session, Failure> {
        let Plan { url, headers, subprotocols, requests, duration_s, count, network } = plan;
        let is_insecure = network.tls.insecure;
        let options = Options {
            subprotocols,
            headers,
            message_bytes_max: IMPORT_MESSAGE_BYTES_MAX,
            deflate: Some(DeflateConfig::default()),
            network,
        };
        report.begin(&mask_url(&url));
        let mut facts = Facts { url: url.clone(), is_insecure, ..Facts::default() };
        let mut on_step = |step: Step| {
            facts.on_step(&step);
            report.step(&step);
        };
        let mut client = Client::connect_by_steps(&url, options, &mut on_step).await?;
        report.opened(client.subprotocol(), client.is_compressed());
        let mut session = Session::new();
        let started = Instant::now();
        let outcome = session.talk(&mut client, &url, requests, duration_s, count, report).await;
        facts.duration = started.elapsed();
        session.pings = client.pings();
        session.recognise(&url, client.subprotocol(), true);
        match outcome {
            Ok(()) => drop(client.close(CloseCode::NORMAL, "").await),
            Err(ClientError::Closed(closed)) => {
                facts.close_code = closed.code.map(|code| code.0);
                session.ended = Some(closed.to_string());
            }
            Err(ClientError::Protocol(error)) if error.close_code() == CloseCode::MESSAGE_TOO_BIG => {
                session.ended =
                    Some(format!("a message has more than {IMPORT_MESSAGE_BYTES_MAX} bytes, too many for a test"));
            }
            Err(error) => {
                facts.is_server_at_fault = matches!(error, ClientError::Protocol(_));
                session.ended = Some(error.to_string());
            }
        }
        facts.is_compressed = client.is_compressed();
        (facts.pings, facts.bytes) = (session.pings, session.bytes);
        session.warnings = warnings(&facts);
        Ok(session)
    }

    async fn talk(
        &mut self,
        client: &mut Client,
        url: &str,
        requests: Vec<OwnedMessage>,
        duration_s: u64,
        count: Option<u64>,
        report: &mut Report,
    ) -> Result<(), ClientError> {
        let deadline = Instant::now() + Duration::from_secs(duration_s);
        let mut requests = requests.into_iter();
        let mut next_request = requests.next();
        let mut request_at = Instant::now();
        while count.is_none_or(|count| self.messages < count) && Instant::now() < deadline {
            if next_request.is_some() && Instant::now() >= request_at {
                let request = next_request.take().expect("it is there");
                client.send(request.as_message()).await?;
                next_request = requests.next();
                request_at = Instant::now() + REQUEST_WAIT;
            }
            let until = if next_request.is_some() { deadline.min(request_at) } else { deadline };
            let Ok(received) = timeout_at(until, client.next()).await else { continue };
            let Some(message) = received? else {
                let closed = client.closed().cloned();
                return Err(ClientError::Closed(closed.expect("a connection ends in order only by a Close frame")));
            };
            request_at = Instant::now();
            if self.messages == 0 {
                report.first_message();
            }
            self.messages += 1;
            self.bytes += message.payload.len() as u64;
            self.on_message(message, url, client).await?;
        }
        Ok(())
    }

    async fn on_message(&mut self, message: OwnedMessage, url: &str, client: &mut Client) -> Result<(), ClientError> {
        let pong = if self.is_recognised {
            self.keep(message.as_message());
            self.protocol.pong(message.as_message())
        } else {
            self.first.push(message);
            self.recognise(url, client.subprotocol(), self.first.len() >= FIRST_MAX);
            None
        };
        match pong {
            Some(pong) => {
                let kind = MessageKind::Text;
                client.send(Message { kind, payload: &pong }).await
            }
            None => Ok(()),
        }
    }

    /// Recognises the protocol by the first messages, if they suffice or no more are to come.
    fn recognise(&mut self, url: &str, subprotocol: Option<&str>, is_last: bool) {
        if self.is_recognised {
            return;
        }
        let messages: Vec<Message<'_>> = self
            .first
            .iter()
            .filter(|message| message.payload.len() <= FIRST_BYTES_MAX)
            .map(OwnedMessage::as_message)
            .collect();
        let target = url.split_once("://").map_or("", |(_, rest)| rest);
        let (protocol, because) = recognise(Evidence { target, subprotocol, messages: &messages });
        let is_sure = !matches!(protocol, Protocol::Json | Protocol::Text | Protocol::Binary | Protocol::Silent);
        if is_sure || is_last {
            (self.protocol, self.because, self.is_recognised) = (protocol, because, true);
            let first = std::mem::take(&mut self.first);
            first.iter().for_each(|message| self.keep(message.as_message()));
        }
    }

    fn keep(&mut self, message: Message<'_>) {
        match self.protocol.payloads(message) {
            Some(values) => values.into_iter().for_each(|value| self.samples.push(value, message.payload.len())),
            None if message.kind == MessageKind::Text => self.other_text += 1,
            None => self.other_binary += 1,
        }
    }
}
