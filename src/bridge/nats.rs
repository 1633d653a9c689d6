//! Logs in NATS JetStream: a stream for each bucket, whose records the servers also publish as live copies.
//!
//! Only core requests are used, with JetStream's JSON interface (`$JS.API`): no consumers, so that the servers keep
//! nothing of a node, and no state can be out of step after a fault. A stream's leader answers for it, so that a node
//! never reads from a copy that is behind. Whatever the servers or the client drop shows as a gap, and is fetched.

use std::time::Instant;

use async_nats::{Client, Message, Request, RequestErrorKind, Subscriber};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::BridgeError;
use super::config::{ClusterConfig, Storage};
use super::connect::{CONNECT_MAX, CONNECT_RETRY, REMEDY_PERMISSIONS, REQUEST_MAX, Rejections, connect};
use super::log::Log;
use crate::cluster::Event;

/// Records that one fetch returns, and bytes of them.
const FETCH_RECORDS: u64 = 4096;
const FETCH_BYTES: usize = 16 * 1024 * 1024;

/// Requests of a fetch that are under way at the same time.
const FETCH_PARALLEL: usize = 64;

/// Streams that are checked at the same time.
const CHECK_PARALLEL: usize = 4;

/// The oldest servers that work: older ones publish no live copies. Then the oldest that production should run, since
/// older ones lost streams when their processes were killed.
const VERSION_MIN: [u64; 3] = [2, 9, 0];
const VERSION_GOOD: [u64; 3] = [2, 10, 23];

/// JetStream's error codes: a stream that is not there, and more copies than there are servers.
pub(super) const STREAM_NOT_FOUND: u64 = 10059;
const REPLICAS_NOT_CLUSTERED: u64 = 10074;
const NO_SUITABLE_PEERS: u64 = 10005;

/// A connection to NATS.
pub(super) struct Nats {
    client: Client,
    config: ClusterConfig,
    /// Live copies of records.
    live: Subscriber,
    /// Messages to all nodes, and to this one.
    to_all: Subscriber,
    to_me: Subscriber,
    sender: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Nats {
    /// Connects, checks the servers and the streams, and makes the streams that are not there.
    pub(super) async fn connect(config: &ClusterConfig, node: u64) -> Result<Nats, BridgeError> {
        let (sender, events) = mpsc::unbounded_channel();
        let deadline = Instant::now() + CONNECT_MAX;
        let rejections = Rejections::default();
        let client = connect(config, &sender, &rejections, deadline).await?;
        check_server(&client, &rejections, deadline).await?;
        let checks = (0..config.buckets).map(|bucket| check_stream(&client, config, bucket, deadline));
        let mut checks = stream::iter(checks).buffer_unordered(CHECK_PARALLEL);
        while let Some(checked) = checks.next().await {
            checked?;
        }
        drop(checks);
        let subscribe = async |subject: String| {
            let failed = |error| BridgeError(format!("cannot subscribe to {subject}: {error}"));
            client.subscribe(subject.clone()).await.map_err(failed)
        };
        let live = subscribe(config.live_subjects()).await?;
        let to_all = subscribe(config.all_subject()).await?;
        let to_me = subscribe(config.node_subject(node)).await?;
        // The servers know the subscriptions before the node joins.
        client.flush().await.map_err(|error| BridgeError(format!("the NATS server has gone: {error}")))?;
        // The first event of a node, whatever the connection's own events were.
        let _ = sender.send(Event::Connected);
        Ok(Nats { client, config: config.clone(), live, to_all, to_me, sender, events })
    }

    /// Bytes of the largest message that the servers take.
    pub(super) fn payload_max(&self) -> usize {
        self.client.max_payload()
    }

    fn live_record(&self, message: Message) -> Option<Event> {
        let bucket = message.subject.rsplit('.').next()?.parse().ok().filter(|bucket| *bucket < self.config.buckets)?;
        let sequence = message.headers?.get("Nats-Sequence")?.as_str().parse().ok()?;
        Some(Event::Record { bucket, sequence, bytes: message.payload, fetch: None })
    }
}

impl Log for Nats {
    fn append(&mut self, bucket: u16, record: Bytes) {
        let (client, sender, subject) = (self.client.clone(), self.sender.clone(), self.config.log_subject(bucket));
        tokio::spawn(async move {
            let event = match request(&client, &subject, record).await {
                Ok(answer) => match answer["seq"].as_u64() {
                    Some(sequence) => Event::Appended { bucket, sequence },
                    None => {
                        tracing::warn!(bucket, error = %answer["error"], "NATS has not taken a record");
                        Event::AppendFailed { bucket }
                    }
                },
                Err(_) => Event::AppendFailed { bucket },
            };
            let _ = sender.send(event);
        });
    }

    fn fetch(&mut self, bucket: u16, after: u64, fetch: u64) {
        let (client, sender, config) = (self.client.clone(), self.sender.clone(), self.config.clone());
        tokio::spawn(async move {
            let range = fetch_records(&client, &config, bucket, after, fetch, &sender).await;
            let _ = sender.send(Event::Fetched { bucket, fetch, range });
        });
    }

    fn broadcast(&mut self, message: Bytes) {
        let (client, subject) = (self.client.clone(), self.config.all_subject());
        // It may be lost.
        tokio::spawn(async move { drop(client.publish(subject, message).await) });
    }

    fn send(&mut self, to: u64, message: Bytes) {
        let (client, subject) = (self.client.clone(), self.config.node_subject(to));
        tokio::spawn(async move { drop(client.publish(subject, message).await) });
    }

    async fn next(&mut self) -> Event {
        loop {
            let message = tokio::select! {
                Some(event) = self.events.recv() => return event,
                Some(message) = self.live.next() => match self.live_record(message) {
                    Some(event) => return event,
                    None => continue,
                },
                Some(message) = self.to_all.next() => message,
                Some(message) = self.to_me.next() => message,
                // The client has ended, which it does only when it is dropped.
                else => std::future::pending().await,
            };
            return Event::Message(message.payload);
        }
    }

    fn try_next(&mut self) -> Option<Event> {
        if let Ok(event) = self.events.try_recv() {
            return Some(event);
        }
        let message = futures_util::FutureExt::now_or_never(self.live.next()).flatten()?;
        self.live_record(message)
    }

    async fn flush(&mut self) {
        tokio::task::yield_now().await;
        let _ = tokio::time::timeout(REQUEST_MAX, self.client.flush()).await;
    }
}

/// Checks the version, and that JetStream is on.
async fn check_server(client: &Client, rejections: &Rejections, deadline: Instant) -> Result<(), BridgeError> {
    let version = client.server_info().version;
    match old_version(&version) {
        Some((true, remedy)) => return Err(BridgeError(format!("NATS server {version} is too old: {remedy}"))),
        Some((false, remedy)) => tracing::warn!(version, "this NATS server is old: {remedy}"),
        None => {}
    }
    loop {
        let answer = request(client, "$JS.API.INFO", Bytes::new()).await;
        if let (Err(Failure::NoAnswer), Some(rejection)) = (&answer, rejections.take()) {
            return Err(BridgeError(format!("JetStream can't be used: {rejection}: {REMEDY_PERMISSIONS}")));
        }
        match answer {
            Ok(answer) if answer["error"].is_null() => return Ok(()),
            Ok(answer) if Instant::now() >= deadline => {
                return Err(BridgeError(format!("JetStream can't be used: {}: {REMEDY_JETSTREAM}", answer["error"])));
            }
            Err(Failure::NoResponders) if Instant::now() >= deadline || !is_clustered(client) => {
                return Err(BridgeError(format!("JetStream is off: {REMEDY_JETSTREAM}")));
            }
            Err(failure) if Instant::now() >= deadline => {
                return Err(BridgeError(format!("JetStream does not answer ({failure:?}): {REMEDY_JETSTREAM}")));
            }
            Ok(_) | Err(_) => tokio::time::sleep(CONNECT_RETRY).await,
        }
    }
}

pub(super) const REMEDY_JETSTREAM: &str = "start the servers with -js, or jetstream {} in their configuration";

fn is_clustered(client: &Client) -> bool {
    client.server_info().cluster.is_some()
}

/// Whether servers of this version can't be used, or should not, and the remedy.
pub(super) fn old_version(text: &str) -> Option<(bool, &'static str)> {
    match version(text) {
        numbers if numbers < VERSION_MIN => Some((true, "run 2.9.0 or newer")),
        numbers if numbers < VERSION_GOOD => {
            Some((false, "it may lose streams when it is killed: run 2.10.23 or newer in production"))
        }
        _ => None,
    }
}

/// The numbers of a version; what is not a number counts as 0.
fn version(text: &str) -> [u64; 3] {
    let mut numbers = text.split(['.', '-', '+']).map(|number| number.parse().unwrap_or(0));
    [0; 3].map(|_: u64| numbers.next().unwrap_or(0))
}

/// The settings of a bucket's stream, as JetStream has them.
pub(super) fn stream_settings(config: &ClusterConfig, bucket: u16) -> Value {
    json!({
        "name": config.stream(bucket),
        "description": config.description(),
        "subjects": [config.log_subject(bucket)],
        "retention": "limits",
        "discard": "old",
        "storage": if config.storage == Storage::File { "file" } else { "memory" },
        "num_replicas": config.replicas,
        "max_age": config.log_max_age_ms * 1_000_000,
        "max_bytes": config.log_max_bytes,
        "max_msgs": -1,
        "max_consumers": -1,
        "republish": { "src": config.log_subject(bucket), "dest": config.live_subject(bucket) },
    })
}

/// Settings of streams that must be as configured, and the keys that configure them.
const CHECKED: [(&str, &str); 7] = [
    ("description", "buckets"),
    ("subjects", "name"),
    ("storage", "storage"),
    ("num_replicas", "replicas"),
    ("max_age", "log_max_age_ms"),
    ("max_bytes", "log_max_bytes"),
    ("republish", "name"),
];

/// Makes the stream of a bucket, or checks the one that is there.
async fn check_stream(
    client: &Client,
    config: &ClusterConfig,
    bucket: u16,
    deadline: Instant,
) -> Result<(), BridgeError> {
    let stream = config.stream(bucket);
    let wanted = stream_settings(config, bucket);
    loop {
        let error = match stream_info(client, config, bucket).await {
            Ok(answer) if answer["error"].is_null() => {
                return compare(&stream, &wanted, &answer["config"])
                    .map_err(|(found, remedy)| BridgeError(format!("{found}: {remedy}")));
            }
            Ok(answer) if answer["error"]["err_code"] == STREAM_NOT_FOUND => {
                match create_stream(client, config, bucket).await {
                    Ok(answer) if answer["error"].is_null() => return Ok(()),
                    Ok(answer) => answer["error"].clone(),
                    Err(failure) => json!(format!("{failure:?}")),
                }
            }
            Ok(answer) => answer["error"].clone(),
            Err(failure) => json!(format!("{failure:?}")),
        };
        let code = error["err_code"].as_u64().unwrap_or_default();
        let is_alone = code == REPLICAS_NOT_CLUSTERED || code == NO_SUITABLE_PEERS && !is_clustered(client);
        if is_alone || Instant::now() >= deadline {
            let remedy = stream_remedy(code);
            return Err(BridgeError(format!("stream {stream} can't be made: {error}: {remedy}")));
        }
        tokio::time::sleep(CONNECT_RETRY).await;
    }
}

/// What to do where a stream can't be made, by JetStream's code of the error.
pub(super) fn stream_remedy(code: u64) -> &'static str {
    match code {
        REPLICAS_NOT_CLUSTERED | NO_SUITABLE_PEERS => {
            "run as many NATS servers as replicas in one cluster, or set replicas = 1"
        }
        _ => "look at the logs of the NATS servers, and at the limits of the account",
    }
}

/// Whether a stream that is there is as it should be.
///
/// # Errors
/// What differs, and the remedy.
pub(super) fn compare(stream: &str, wanted: &Value, found: &Value) -> Result<(), (String, String)> {
    let is_other = |name: &&(&str, &str)| match name.0 {
        "republish" => ["src", "dest"].iter().any(|end| wanted[name.0][end] != found[name.0][end]),
        name => wanted[name] != found[name],
    };
    match CHECKED.iter().find(is_other) {
        None => Ok(()),
        Some((name, key)) => Err((
            format!("stream {stream} has {name} {}, not {}", found[name], wanted[name]),
            format!("set {key} as the other nodes have it, or stop them all and delete the streams RF_*"),
        )),
    }
}

pub(super) async fn stream_info(client: &Client, config: &ClusterConfig, bucket: u16) -> Result<Value, Failure> {
    request(client, &format!("$JS.API.STREAM.INFO.{}", config.stream(bucket)), Bytes::new()).await
}

async fn create_stream(client: &Client, config: &ClusterConfig, bucket: u16) -> Result<Value, Failure> {
    let subject = format!("$JS.API.STREAM.CREATE.{}", config.stream(bucket));
    request(client, &subject, stream_settings(config, bucket).to_string().into()).await
}

/// Fetches records behind `after`. Returns the first and last sequence of the log, or `None` if it does not answer.
async fn fetch_records(
    client: &Client,
    config: &ClusterConfig,
    bucket: u16,
    after: u64,
    fetch: u64,
    sender: &mpsc::UnboundedSender<Event>,
) -> Option<(u64, u64)> {
    let mut info = stream_info(client, config, bucket).await.ok()?;
    if info["error"]["err_code"] == STREAM_NOT_FOUND {
        tracing::error!(stream = config.stream(bucket), "the stream was deleted: making it anew");
        info = create_stream(client, config, bucket).await.ok()?;
    }
    let state = &info["state"];
    let (first, last) = (state["first_seq"].as_u64()?, state["last_seq"].as_u64()?);
    let subject = format!("$JS.API.STREAM.MSG.GET.{}", config.stream(bucket));
    let get = async |sequence: u64| {
        let answer = request(client, &subject, json!({ "seq": sequence }).to_string().into()).await.ok()?;
        let data = answer["message"]["data"].as_str().unwrap_or_default();
        if answer["message"].is_null() {
            return None;
        }
        Some((sequence, Bytes::from(STANDARD.decode(data).ok()?)))
    };
    let mut records = stream::iter((after + 1).max(first)..=last.min(after + FETCH_RECORDS)).map(get);
    let mut records = records.by_ref().buffered(FETCH_PARALLEL);
    let mut bytes_left = FETCH_BYTES;
    while let Some(record) = records.next().await {
        let (sequence, bytes) = record?;
        bytes_left = bytes_left.saturating_sub(bytes.len());
        let _ = sender.send(Event::Record { bucket, sequence, bytes, fetch: Some(fetch) });
        if bytes_left == 0 {
            break;
        }
    }
    Some((first, last))
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody serves its subject.
    NoResponders,
    /// No answer, or one that is not JSON.
    NoAnswer,
}

/// Sends a request, and reads its answer as JSON.
pub(super) async fn request(client: &Client, subject: &str, payload: Bytes) -> Result<Value, Failure> {
    let request = Request::new().payload(payload).timeout(Some(REQUEST_MAX));
    match client.send_request(subject.to_owned(), request).await {
        Ok(message) => serde_json::from_slice(&message.payload).map_err(|_| Failure::NoAnswer),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(Failure::NoResponders),
        Err(_) => Err(Failure::NoAnswer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(version("2.9.10") < version("2.10.1") && version("2.10.23-RC.1") == VERSION_GOOD);
        assert!(version("v2") < VERSION_MIN);
    }

    #[test]
    fn a_stream_with_other_settings_is_named_with_the_key() {
        let config = ClusterConfig::default();
        let wanted = stream_settings(&config, 3);
        assert!(compare("RF_ringfeed_3", &wanted, &wanted).is_ok());
        for (name, key) in CHECKED {
            let mut found = wanted.clone();
            found[name] = json!({});
            let (error, remedy) = compare("RF_ringfeed_3", &wanted, &found).unwrap_err();
            assert!(
                error.contains(&format!("has {name}")) && remedy.contains(&format!("set {key} ")),
                "{error}: {remedy}"
            );
        }
    }
}
