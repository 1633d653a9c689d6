//! Calls of the application behind the server: it decides on connections, subscriptions and publications, and answers
//! calls of clients.
//!
//! The calls, their fields and their answers are those of Centrifugo's proxies.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::gateway::{CallAnswer, Get, later};
use crate::topics::Draft;

/// Makes the [`Responder`] of a call.
pub type Later = later::Later<BackendAnswer>;

/// Answers one call. Dropping it without an answer is [`BackendAnswer::Failed`].
pub type Responder = later::Responder<BackendAnswer>;

/// Answers calls: over HTTP, or in Rust.
///
/// ```
/// use ringfeed::gateway::centrifuge::{Backend, BackendAnswer, BackendCall, BackendResult, CallKind, Later};
///
/// /// Lets everybody connect as the user that the client names.
/// #[derive(Debug)]
/// struct Trusting;
///
/// impl Backend for Trusting {
///     fn answers(&self, kind: CallKind) -> bool {
///         kind == CallKind::Connect
///     }
///
///     fn call(&self, call: BackendCall, _: Later) -> Option<BackendAnswer> {
///         let user = call.name.unwrap_or_default();
///         Some(BackendAnswer::result(BackendResult { user, ..BackendResult::default() }))
///     }
/// }
/// ```
pub trait Backend: Send + Sync + fmt::Debug {
    /// Whether it answers calls of this kind. The answer must not change.
    fn answers(&self, kind: CallKind) -> bool;

    /// Answers a call, or takes the [`Responder`] of `later` and returns `None`. Do not block: all connections of the
    /// shard wait for this method. Until the answer, or until [`timeout`](Self::timeout) has passed, only the client's
    /// own further commands wait.
    fn call(&self, call: BackendCall, later: Later) -> Option<BackendAnswer>;

    /// The time after which a call has failed.
    fn timeout(&self, kind: CallKind) -> Duration {
        let _ = kind;
        Duration::from_secs(10)
    }

    /// Whether calls contain a header field of the client's handshake, with this lowercase name.
    fn wants_header(&self, name: &str) -> bool {
        let _ = name;
        false
    }
}

/// What a call decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// A client connects without a token.
    Connect,
    /// A connection expires.
    Refresh,
    /// A client subscribes in a namespace with `subscribe = "backend"`.
    Subscribe,
    /// A subscription expires in such a namespace.
    SubRefresh,
    /// A client publishes in a namespace with `publish = "backend"`.
    Publish,
    /// A client calls the application.
    Rpc,
}

/// A call. Fields that its kind does not have are empty.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackendCall {
    /// What it decides on.
    pub kind: CallKind,
    /// The connection's name.
    pub client: String,
    /// The transport: `websocket`, `http_stream`, `sse` or `tcp`.
    pub transport: &'static str,
    /// The client's encoding: `json` or `protobuf`; or its protocol: `stomp`.
    pub protocol: &'static str,
    /// The header fields of the client's handshake that the backend [wants](Backend::wants_header).
    pub headers: Arc<[(Box<str>, Box<str>)]>,
    /// The user; empty if anonymous, and in a connect call.
    pub user: String,
    /// The name of the client's program, in a connect call.
    pub name: Option<String>,
    /// The version of the client's program, in a connect call.
    pub version: Option<String>,
    /// The channels that the client wants to be in, in a connect call.
    pub channels: Vec<String>,
    /// The channel of a subscribe, sub_refresh or publish call.
    pub channel: Option<String>,
    /// The method of an rpc call; the destination of a STOMP frame.
    pub method: Option<String>,
    /// The command of a STOMP frame, and its header fields.
    pub frame: Option<(&'static str, Vec<(String, String)>)>,
    /// What the client has sent: JSON, or any bytes from Protobuf clients.
    pub data: Bytes,
    /// What the backend itself has attached to the connection: JSON, or empty.
    pub meta: Bytes,
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BackendAnswer {
    /// The result. `None` permits a subscription or a publication, and expires a connection or a subscription.
    Result(Option<Box<BackendResult>>),
    /// The client receives an error.
    Error {
        /// See [`ClientError::code`](super::ClientError::code); an application's own codes begin at 400.
        code: u32,
        /// A text for logs.
        message: String,
        /// Whether the client may try again later.
        temporary: bool,
    },
    /// The server closes the connection. SDKs reconnect after codes below 3500, and from 4000 to 4499.
    Disconnect {
        /// The close code: 3000 to 4999 (RFC 6455 §7.4.2).
        code: u16,
        /// The close reason: at most 123 bytes.
        reason: String,
    },
    /// The backend has no answer: the client may try again.
    Failed,
    /// Too many calls are waiting for answers: the client may try again.
    Busy,
}

/// The result of a call. Fields that its kind does not have have no effect.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendResult {
    /// The user of a connection; empty is anonymous.
    pub user: String,
    /// When the connection or the subscription expires, in seconds of Unix time; 0 is never.
    pub expire_at: u64,
    /// Whether the connection or the subscription has expired.
    pub expired: bool,
    /// Information for other clients: JSON or any bytes.
    pub info: Bytes,
    /// For the client. In a publish call it replaces the payload, unless it is empty.
    pub data: Bytes,
    /// Channels to subscribe the connection to.
    pub channels: Vec<String>,
    /// The same with options, by channel.
    pub subs: Vec<(String, SubscriptionOptions)>,
    /// What to attach to the connection: later calls contain it. JSON.
    pub meta: Bytes,
    /// Whether to omit the publication from the history.
    pub skip_history: bool,
    /// Tags of the publication, sorted by name.
    pub tags: Vec<(String, String)>,
    /// As [`Draft::idempotency_key`](crate::topics::Draft::idempotency_key).
    pub idempotency_key: String,
    /// Messages that a STOMP frame to the application causes.
    pub to: Vec<BackendMessage>,
}

/// A message of the application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendMessage {
    /// The destination in STOMP, as `/topic/prices`.
    pub destination: String,
    /// Whether only the client of the call receives it, on its subscriptions to the destination.
    pub is_for_session: bool,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub data: Bytes,
}

/// Options of a server-side subscription.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscriptionOptions {
    /// When it expires, in seconds of Unix time; 0 is never.
    pub expire_at: u64,
    /// Information for other subscribers: JSON or any bytes.
    pub info: Bytes,
    /// For the client.
    pub data: Bytes,
}

impl CallKind {
    /// All kinds.
    pub const ALL: [CallKind; 6] = [
        CallKind::Connect,
        CallKind::Refresh,
        CallKind::Subscribe,
        CallKind::SubRefresh,
        CallKind::Publish,
        CallKind::Rpc,
    ];

    /// The name in configuration and metrics.
    pub fn name(self) -> &'static str {
        match self {
            CallKind::Connect => "connect",
            CallKind::Refresh => "refresh",
            CallKind::Subscribe => "subscribe",
            CallKind::SubRefresh => "sub_refresh",
            CallKind::Publish => "publish",
            CallKind::Rpc => "rpc",
        }
    }

    /// Whether a client's command waits for the answer.
    pub(super) fn is_command(self) -> bool {
        !matches!(self, CallKind::Refresh | CallKind::SubRefresh)
    }
}

impl BackendResult {
    /// Changes a publication as the result of its publish call says.
    pub(in crate::gateway) fn apply_to(&self, draft: &mut Draft) {
        if !self.data.is_empty() {
            draft.is_text = std::str::from_utf8(&self.data).is_ok();
            draft.payload = self.data.clone();
        }
        draft.skip_history = self.skip_history;
        if !self.tags.is_empty() {
            draft.tags = Some(self.tags.clone().into_boxed_slice());
        }
        let key = Some(&*self.idempotency_key).filter(|key| !key.is_empty());
        draft.idempotency_key = key.map(Into::into);
    }
}

impl CallAnswer for BackendAnswer {
    fn failed() -> BackendAnswer {
        BackendAnswer::Failed
    }
}

/// The header fields of a handshake that calls of the backend contain, in order.
pub(in crate::gateway) fn wanted_headers(backend: &dyn Backend, request: &Get<'_>) -> Arc<[(Box<str>, Box<str>)]> {
    let text = |(name, value): (&str, &[u8])| {
        let name = name.to_ascii_lowercase();
        let value = std::str::from_utf8(value).ok()?;
        backend.wants_header(&name).then(|| (name.into(), value.into()))
    };
    request.head.headers().filter_map(text).collect()
}

impl BackendCall {
    pub(in crate::gateway) fn new(kind: CallKind) -> BackendCall {
        BackendCall {
            kind,
            client: String::new(),
            transport: "websocket",
            protocol: "json",
            headers: Arc::default(),
            user: String::new(),
            name: None,
            version: None,
            channels: Vec::new(),
            channel: None,
            method: None,
            frame: None,
            data: Bytes::new(),
            meta: Bytes::new(),
        }
    }

    /// The body of the HTTP request, as Centrifugo's proxies send it.
    pub fn to_json(&self) -> Vec<u8> {
        let data = (!self.data.is_empty()).then(|| raw_json(&self.data));
        let wire = WireCall {
            client: &self.client,
            transport: self.transport,
            protocol: self.protocol,
            encoding: if data.is_some_and(|data| data.is_none()) { "binary" } else { "json" },
            user: (self.kind != CallKind::Connect).then_some(&*self.user),
            name: self.name.as_deref(),
            version: self.version.as_deref(),
            channels: &self.channels,
            channel: self.channel.as_deref(),
            method: self.method.as_deref(),
            command: self.frame.as_ref().map(|(command, _)| *command),
            headers: self.frame.as_ref().map(|(_, headers)| {
                // The first of a name counts.
                headers.iter().rev().map(|(name, value)| (name.as_str(), value.as_str())).collect()
            }),
            data: data.flatten(),
            b64data: data.is_some_and(|data| data.is_none()).then(|| STANDARD.encode(&self.data)),
            meta: raw_json(&self.meta),
        };
        serde_json::to_vec(&wire).expect("a call has a JSON form")
    }
}

/// The body of a request. All fields but the first are omitted where the kind has none.
#[derive(Serialize)]
struct WireCall<'a> {
    client: &'a str,
    transport: &'a str,
    protocol: &'a str,
    encoding: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    channels: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
}

/// The text, if it is JSON.
fn raw_json(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

/// The body of a response is not an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAnswer(String);

impl BackendAnswer {
    /// An answer with this result.
    pub fn result(result: BackendResult) -> BackendAnswer {
        BackendAnswer::Result(Some(Box::new(result)))
    }

    /// Reads the body of an HTTP response, as Centrifugo's proxies expect it: `{"result":…}`, `{"error":…}` or
    /// `{"disconnect":…}`.
    ///
    /// # Errors
    /// [`BadAnswer`]: the body is something else, or requests what is not supported.
    pub fn from_json(body: &[u8]) -> Result<BackendAnswer, BadAnswer> {
        let WireAnswer { result, error, disconnect } =
            serde_json::from_slice(body).map_err(|error| BadAnswer(error.to_string()))?;
        if let Some(WireDisconnect { code, reason }) = disconnect {
            let reason = truncated(reason);
            return match u16::try_from(code) {
                Ok(code @ 3000..=4999) => Ok(BackendAnswer::Disconnect { code, reason }),
                _ => Err(BadAnswer(format!("disconnect.code is {code}: it must be from 3000 to 4999"))),
            };
        }
        if let Some(WireError { code, message, temporary }) = error {
            return Ok(BackendAnswer::Error { code, message, temporary });
        }
        let result = result.map(|result| result.read().map(Box::new)).transpose()?;
        Ok(BackendAnswer::Result(result))
    }
}

/// The longest reason that fits a Close frame.
fn truncated(mut reason: String) -> String {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

#[derive(Deserialize)]
struct WireAnswer<'a> {
    #[serde(borrow)]
    result: Option<WireResult<'a>>,
    error: Option<WireError>,
    disconnect: Option<WireDisconnect>,
}

#[derive(Deserialize)]
#[serde(default)]
struct WireError {
    code: u32,
    message: String,
    temporary: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireDisconnect {
    code: u32,
    reason: String,
}

/// The results of all kinds of calls. The fields without a type are those that are not supported.
#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct WireResult<'a> {
    user: String,
    expire_at: i64,
    expired: bool,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    b64info: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: String,
    channels: Option<Vec<String>>,
    #[serde(borrow)]
    subs: Option<BTreeMap<String, WireOptions<'a>>>,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
    skip_history: bool,
    tags: Option<BTreeMap<String, String>>,
    idempotency_key: String,
    #[serde(borrow)]
    to: Option<Vec<WireMessage<'a>>>,
    #[serde(borrow)]
    caps: Option<&'a RawValue>,
    #[serde(borrow)]
    allow: Option<&'a RawValue>,
    #[serde(borrow, rename = "override")]
    overrides: Option<&'a RawValue>,
    #[serde(borrow)]
    server_tags_filter: Option<&'a RawValue>,
    version: u64,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct WireOptions<'a> {
    expire_at: i64,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    b64info: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: String,
    #[serde(borrow, rename = "override")]
    overrides: Option<&'a RawValue>,
    #[serde(borrow)]
    server_tags_filter: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct WireMessage<'a> {
    destination: String,
    session: bool,
    headers: BTreeMap<String, String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: String,
}

impl Default for WireError {
    fn default() -> Self {
        WireError { code: 100, message: String::new(), temporary: false }
    }
}

impl WireResult<'_> {
    fn read(self) -> Result<BackendResult, BadAnswer> {
        let refused = [
            ("caps", self.caps.is_some()),
            ("allow", self.allow.is_some()),
            ("override", self.overrides.is_some()),
            ("server_tags_filter", self.server_tags_filter.is_some()),
            ("version", self.version > 0),
        ];
        refuse(&refused)?;
        let subs = self.subs.into_iter().flatten().map(|(channel, options)| Ok((channel, options.read()?)));
        Ok(BackendResult {
            user: self.user,
            expire_at: seconds(self.expire_at)?,
            expired: self.expired,
            info: bytes("b64info", self.info, &self.b64info)?,
            data: bytes("b64data", self.data, &self.b64data)?,
            channels: self.channels.unwrap_or_default(),
            subs: subs.collect::<Result<_, _>>()?,
            meta: bytes("meta", self.meta, "")?,
            skip_history: self.skip_history,
            tags: self.tags.into_iter().flatten().collect(),
            idempotency_key: self.idempotency_key,
            to: self.to.into_iter().flatten().map(WireMessage::read).collect::<Result<_, _>>()?,
        })
    }
}

impl WireMessage<'_> {
    fn read(self) -> Result<BackendMessage, BadAnswer> {
        Ok(BackendMessage {
            destination: self.destination,
            is_for_session: self.session,
            headers: self.headers.into_iter().collect(),
            data: bytes("b64data", self.data, &self.b64data)?,
        })
    }
}

impl WireOptions<'_> {
    fn read(self) -> Result<SubscriptionOptions, BadAnswer> {
        refuse(&[("override", self.overrides.is_some()), ("server_tags_filter", self.server_tags_filter.is_some())])?;
        Ok(SubscriptionOptions {
            expire_at: seconds(self.expire_at)?,
            info: bytes("b64info", self.info, &self.b64info)?,
            data: bytes("b64data", self.data, &self.b64data)?,
        })
    }
}

/// An option that is not supported fails the call: without it, the client could do more than the backend means.
fn refuse(options: &[(&str, bool)]) -> Result<(), BadAnswer> {
    match options.iter().find(|(_, is_set)| *is_set) {
        Some((name, _)) => Err(BadAnswer(format!("the result has '{name}', which is not supported: leave it out"))),
        None => Ok(()),
    }
}

fn seconds(unix_s: i64) -> Result<u64, BadAnswer> {
    u64::try_from(unix_s).map_err(|_| BadAnswer("expire_at is negative".to_owned()))
}

/// The bytes of a field in either of its forms; base64 wins.
fn bytes(name: &str, json: Option<&RawValue>, base64: &str) -> Result<Bytes, BadAnswer> {
    match (json, base64) {
        (_, base64) if !base64.is_empty() => {
            STANDARD.decode(base64).map(Bytes::from).map_err(|_| BadAnswer(format!("{name} is not base64")))
        }
        (Some(json), _) => Ok(Bytes::copy_from_slice(json.get().as_bytes())),
        (None, _) => Ok(Bytes::new()),
    }
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadAnswer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_centrifugos_proxies() {
        let connect = BackendCall {
            client: "c".into(),
            name: Some("js".into()),
            version: Some("1".into()),
            channels: vec!["a".into()],
            data: Bytes::from_static(b"{\"x\":1}"),
            ..BackendCall::new(CallKind::Connect)
        };
        let expected = concat!(
            r#"{"client":"c","transport":"websocket","protocol":"json","encoding":"json","name":"js","version":"1","#,
            r#""channels":["a"],"data":{"x":1}}"#
        );
        assert_eq!(String::from_utf8(connect.to_json()).unwrap(), expected);
        let rpc = BackendCall {
            protocol: "protobuf",
            method: Some("m".into()),
            data: Bytes::from_static(b"\xff"),
            meta: Bytes::from_static(b"[1]"),
            ..BackendCall::new(CallKind::Rpc)
        };
        let expected = concat!(
            r#"{"client":"","transport":"websocket","protocol":"protobuf","encoding":"binary","user":"","method":"m","#,
            r#""b64data":"/w==","meta":[1]}"#
        );
        assert_eq!(String::from_utf8(rpc.to_json()).unwrap(), expected);
    }

    #[test]
    fn responses_are_read() {
        let read = |text: &str| BackendAnswer::from_json(text.as_bytes());
        for nothing in ["{}", r#"{"result":null}"#, r#"{"more":1}"#] {
            assert_eq!(read(nothing), Ok(BackendAnswer::Result(None)), "{nothing}");
        }
        let text = r#"{"result":{"user":"42","expire_at":7,"info":{"n":1},"b64data":"AP8=","channels":["a"],"meta":2,
            "subs":{"b":{"info":3,"data":4,"expire_at":5},"c":{}},"labels":{}}}"#;
        let expected = BackendResult {
            user: "42".into(),
            expire_at: 7,
            info: Bytes::from_static(b"{\"n\":1}"),
            data: Bytes::from_static(b"\0\xff"),
            channels: vec!["a".into()],
            subs: vec![
                (
                    "b".into(),
                    SubscriptionOptions {
                        expire_at: 5,
                        info: Bytes::from_static(b"3"),
                        data: Bytes::from_static(b"4"),
                    },
                ),
                ("c".into(), SubscriptionOptions::default()),
            ],
            meta: Bytes::from_static(b"2"),
            ..BackendResult::default()
        };
        assert_eq!(read(text), Ok(BackendAnswer::result(expected)));
        let text = r#"{"result":{"to":[{"destination":"/topic/a","headers":{"x":"y"},"data":{"n":1}},
            {"destination":"/user/queue/b","session":true,"b64data":"aGk="}]}}"#;
        let to = vec![
            BackendMessage {
                destination: "/topic/a".into(),
                headers: vec![("x".into(), "y".into())],
                data: Bytes::from_static(b"{\"n\":1}"),
                ..BackendMessage::default()
            },
            BackendMessage {
                destination: "/user/queue/b".into(),
                is_for_session: true,
                data: Bytes::from_static(b"hi"),
                ..BackendMessage::default()
            },
        ];
        assert_eq!(read(text), Ok(BackendAnswer::result(BackendResult { to, ..BackendResult::default() })));
        let error = BackendAnswer::Error { code: 1000, message: "no".into(), temporary: true };
        assert_eq!(read(r#"{"error":{"code":1000,"message":"no","temporary":true}}"#), Ok(error));
        let disconnect = BackendAnswer::Disconnect { code: 4501, reason: "bye".into() };
        assert_eq!(read(r#"{"disconnect":{"code":4501,"reason":"bye"}}"#), Ok(disconnect));
    }

    #[test]
    fn bad_responses_are_rejected() {
        let long = format!(r#"{{"disconnect":{{"code":4500,"reason":"{}"}}}}"#, "é".repeat(100));
        let Ok(BackendAnswer::Disconnect { reason, .. }) = BackendAnswer::from_json(long.as_bytes()) else { panic!() };
        assert_eq!(reason, "é".repeat(61));
        for text in [
            "",
            "[]",
            "<html>",
            r#"{"result":1}"#,
            r#"{"result":{"user":5}}"#,
            r#"{"result":{"expire_at":-1}}"#,
            r#"{"result":{"b64info":"?"}}"#,
            r#"{"result":{"override":{"presence":{"value":false}}}}"#,
            r#"{"result":{"subs":{"a":{"override":{}}}}}"#,
            r#"{"result":{"caps":[]}}"#,
            r#"{"disconnect":{"code":1000,"reason":""}}"#,
            r#"{"error":{"code":-1}}"#,
        ] {
            assert!(BackendAnswer::from_json(text.as_bytes()).is_err(), "{text}");
        }
    }
}
