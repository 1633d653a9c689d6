//! `ringfeed test`: tries a foreign WebSocket service, and writes down what it sends.

mod report;
mod session;
mod warnings;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::network::NetworkArguments;
use super::{bad_input, duration_s, failed, header, runtime};
use crate::client::{ClientError, OwnedMessage};
use crate::import::{Drift, MessageType, Service, asyncapi, drift, infer, json_schema, mask_url, rust, typescript};
use crate::limits::IMPORT_MESSAGE_BYTES_MAX;
use crate::proto::MessageKind;
use report::Report;
use session::Session;

/// Tests a WebSocket service of anybody's: connects, shows each step and what is odd, recognises the protocol, infers
/// the types of its messages, and writes them as AsyncAPI, JSON Schema, TypeScript and Rust.
///
/// Secrets in messages are masked by the names of their fields; look at what you publish. The exit code is 1 if the
/// service cannot be reached, or if its messages do not fit the document of --against; and 2 for bad input.
#[derive(Args, Debug)]
pub(super) struct TestArguments {
    /// The service: ws://HOST:PORT/PATH or wss://…; {NAME} in the path stands for a --path-param
    #[arg(required_unless_present = "samples")]
    url: Option<String>,
    /// A parameter of the query; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    query: Vec<(String, String)>,
    /// The value of {NAME} in the path; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    path_param: Vec<(String, String)>,
    /// A header field to send with the handshake; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// A subprotocol to offer; may be repeated, the best first
    #[arg(long, value_name = "NAME")]
    subprotocol: Vec<String>,
    /// A message to send: text, or the content of @FILE; may be repeated. Each further one is sent after the next
    /// message of the service, or after a second
    #[arg(long, value_name = "TEXT")]
    send: Vec<String>,
    /// End after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = duration_s, default_value = "10s")]
    duration: u64,
    /// End after this many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Take the messages from this file, one JSON value a line, in place of a connection
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    /// Write the messages to this file, one JSON value a line, with secrets masked
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Write the service as AsyncAPI 3.0
    #[arg(long, value_name = "FILE")]
    asyncapi: Option<PathBuf>,
    /// Write the types of messages as JSON Schema
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Write the types of messages as TypeScript
    #[arg(long, value_name = "FILE")]
    typescript: Option<PathBuf>,
    /// Write the types of messages as Rust with serde
    #[arg(long, value_name = "FILE")]
    rust: Option<PathBuf>,
    /// Compare the messages with this document, which --asyncapi or --schema wrote: the exit code is 1 if they differ
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Print one JSON object in place of the report
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkArguments,
}

/// A parameter of the command line: `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be a name, = and a value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Why the command has failed: its input, or the service.
enum Failure {
    Input(String),
    Service(String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Url(_) | ClientError::Header(_) => Failure::Input(error.to_string()),
            _ => Failure::Service(error.to_string()),
        }
    }
}

pub(super) fn run(arguments: TestArguments) -> ExitCode {
    match test(arguments) {
        Ok(exit_code) => exit_code,
        Err(Failure::Input(text)) => bad_input(&text),
        Err(Failure::Service(text)) => failed(&text),
    }
}

fn test(arguments: TestArguments) -> Result<ExitCode, Failure> {
    // Before the connection: a mistake in a file name should not cost its time.
    let document = arguments.against.as_deref().map(read_json).transpose().map_err(Failure::Input)?;
    let requests = arguments.send.iter().map(|text| request(text)).collect::<Result<Vec<_>, _>>();
    let requests = requests.map_err(Failure::Input)?;
    let sent: Vec<Value> = requests.iter().filter_map(|sent| serde_json::from_slice(&sent.payload).ok()).collect();
    let mut report = Report::new(arguments.json);
    let (session, service) = match &arguments.samples {
        Some(file) => (Session::of_file(file).map_err(Failure::Input)?, Service::default()),
        None => {
            let template = arguments.url.as_deref().unwrap_or_default();
            let url = full_url(template, &arguments.path_param, &arguments.query).map_err(Failure::Input)?;
            let plan = session::Plan {
                url: url.clone(),
                headers: arguments.header.clone(),
                subprotocols: arguments.subprotocol.clone(),
                requests,
                duration_s: arguments.duration,
                count: arguments.count,
                network: arguments.network.clone().network(),
            };
            let runtime = runtime().map_err(Failure::Input)?;
            let session = runtime.block_on(Session::run(plan, &mut report))?;
            let service = service(template, &url, &arguments, &session);
            (session, service)
        }
    };
    let types = infer(session.samples.values().iter());
    let sent = infer(sent.iter());
    write_files(&arguments, &service, &session, &types, &sent).map_err(Failure::Input)?;
    let values = session.samples.values();
    let drift = match &document {
        Some(_) if values.is_empty() => {
            return Err(Failure::Service("no message of JSON to compare with --against was received".to_owned()));
        }
        Some(document) => Some(drift(document, values.iter()).map_err(|text| {
            let file = arguments.against.as_deref().unwrap_or(Path::new(""));
            Failure::Input(format!("{}: {text}", file.display()))
        })?),
        None => None,
    };
    report.end(&session, &types, drift.as_ref());
    let is_broken = drift.is_some_and(|Drift { broken, .. }| !broken.is_empty());
    Ok(if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn write_files(
    arguments: &TestArguments,
    service: &Service,
    session: &Session,
    types: &[MessageType],
    sent: &[MessageType],
) -> Result<(), String> {
    let source = match service.host.as_str() {
        "" => "a file of samples",
        host => host,
    };
    let pretty = |value: &Value| format!("{value:#}\n");
    let writes: [(&Option<PathBuf>, &dyn Fn() -> String); 5] = [
        (&arguments.record, &|| session.samples.lines()),
        (&arguments.asyncapi, &|| pretty(&asyncapi(service, types, sent))),
        (&arguments.schema, &|| pretty(&json_schema(&format!("Messages of {source}"), types))),
        (&arguments.typescript, &|| typescript(source, types)),
        (&arguments.rust, &|| rust(source, types)),
    ];
    for (file, text) in writes {
        if let Some(file) = file {
            fs::write(file, text()).map_err(|error| format!("{}: cannot be written: {error}", file.display()))?;
        }
    }
    Ok(())
}

fn read_json(file: &Path) -> Result<Value, String> {
    let text = fs::read(file).map_err(|error| format!("{}: cannot be read: {error}", file.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: is not JSON: {error}", file.display()))
}

/// A message to send: text if it is UTF-8, otherwise binary.
fn request(text: &str) -> Result<OwnedMessage, String> {
    let payload = match text.strip_prefix('@') {
        Some(file) => fs::read(file).map_err(|error| format!("{file}: cannot be read: {error}"))?,
        None => text.as_bytes().to_vec(),
    };
    if payload.len() > IMPORT_MESSAGE_BYTES_MAX as usize {
        return Err(format!("a message to send has more than {IMPORT_MESSAGE_BYTES_MAX} bytes"));
    }
    let kind = if std::str::from_utf8(&payload).is_ok() { MessageKind::Text } else { MessageKind::Binary };
    Ok(OwnedMessage { kind, payload })
}

/// The URL with its parameters.
fn full_url(template: &str, path: &[(String, String)], query: &[(String, String)]) -> Result<String, String> {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut url = template.to_owned();
    for (name, value) in path {
        let place = format!("{{{name}}}");
        if !url.contains(&place) {
            return Err(format!("{place} of --path-param is not in the URL"));
        }
        url = url.replace(&place, &encoded(value));
    }
    if let Some((_, rest)) = url.split_once('{') {
        let name = rest.split('}').next().unwrap_or_default();
        return Err(format!("the URL has {{{name}}}: give its value with --path-param {name}=VALUE"));
    }
    for (name, value) in query {
        let mark = if url.contains('?') { '&' } else { '?' };
        url.push_str(&format!("{mark}{}={}", encoded(name), encoded(value)));
    }
    Ok(url)
}

/// What a document says of the service.
fn service(template: &str, url: &str, arguments: &TestArguments, session: &Session) -> Service {
    let template = mask_url(template);
    let (scheme, rest) = template.split_once("://").unwrap_or(("", &template));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let in_url = url.split_once('?').map_or("", |(_, query)| query).split('&').filter(|pair| !pair.is_empty());
    let in_url = in_url.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    Service {
        is_secure: scheme.eq_ignore_ascii_case("wss"),
        host: host.to_owned(),
        path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
        path_parameters: arguments.path_param.clone(),
        query: in_url.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        headers: arguments.header.iter().map(|(name, _)| name.clone()).collect(),
        protocol: session.protocol.to_string(),
        has_text: session.other_text > 0,
        has_binary: session.other_binary > 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_part_of_the_url() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let url = full_url("ws://h/{a}/x?b=1", &pairs(&[("a", "é/")]), &pairs(&[("c", "d e")]));
        assert_eq!(url.as_deref(), Ok("ws://h/%C3%A9%2F/x?b=1&c=d%20e"));
        assert!(full_url("ws://h/{a}", &[], &[]).unwrap_err().contains("--path-param a=VALUE"));
        assert!(full_url("ws://h/", &pairs(&[("a", "b")]), &[]).unwrap_err().contains("{a}"));
        assert!(pair("a").is_err());
    }
}
