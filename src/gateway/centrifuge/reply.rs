//! The messages of the server, with their names in JSON and their field numbers in Protobuf.
//!
//! Both encodings omit fields that are empty or zero. The field numbers are those of Centrifugo's `client.proto`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::protocol::{ClientError, Unsubscribed};

/// A reply to a command, or a push.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Reply {
    /// The command's id; 0 for a push.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: u32,
    /// The error, if the command failed.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReply>,
    /// The push.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    /// The result of a command of this name; so are the fields below.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<ConnectResult>,
    /// See [`connect`](Self::connect).
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<SubscribeResult>,
    /// See [`connect`](Self::connect).
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<Done>,
    /// See [`connect`](Self::connect).
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Done>,
    /// See [`connect`](Self::connect).
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<PresenceResult>,
    /// See [`connect`](Self::connect).
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_stats: Option<PresenceStatsResult>,
    /// See [`connect`](Self::connect).
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryResult>,
    /// See [`connect`](Self::connect).
    #[prost(message, optional, tag = "13")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc: Option<RpcResult>,
    /// See [`connect`](Self::connect).
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshResult>,
    /// See [`connect`](Self::connect).
    #[prost(message, optional, tag = "15")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_refresh: Option<SubRefreshResult>,
}

/// The error of a command.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ErrorReply {
    /// See [`ClientError::code`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// A text for logs.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether the client may try again later.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub temporary: bool,
}

/// An empty result.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct Done {}

/// A message without a command: one of the fields after `channel` is set.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Push {
    /// The channel; empty for a push about the connection.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// A publication.
    #[prost(message, optional, tag = "4")]
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    pub publication: Option<Publication>,
    /// A client has subscribed.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<Presence>,
    /// A client's subscription has ended.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leave: Option<Presence>,
    /// The receiver's subscription has ended.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<UnsubscribePush>,
    /// The server has subscribed the receiver.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<SubscribePush>,
    /// The server ends the receiver's stream.
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnect: Option<DisconnectPush>,
    /// The receiver's connection has a new expiry.
    #[prost(message, optional, tag = "12")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshPush>,
}

/// A client, as other clients see it.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct ClientInfo {
    /// The user; empty if anonymous.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The connection's name.
    #[prost(string, tag = "2")]
    pub client: String,
    /// The `info` claim of the connection token.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(serialize_with = "json", skip_serializing_if = "is_default")]
    pub conn_info: Bytes,
    /// The `info` claim of the subscription token.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(serialize_with = "json", skip_serializing_if = "is_default")]
    pub chan_info: Bytes,
}

/// A publication.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Publication {
    /// The payload.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(serialize_with = "json")]
    pub data: Bytes,
    /// The publishing client; absent for the server API.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
    /// The offset in the channel.
    #[prost(uint64, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// The publisher's tags.
    #[prost(btree_map = "string, string", tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub tags: BTreeMap<String, String>,
    /// Whether the payload is a delta to that of the publication before.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: bool,
    /// The conflation key: this publication replaces earlier ones with the same key.
    #[prost(string, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub key: String,
    /// Whether the key of a map has no value any more.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub removed: bool,
}

/// A join or a leave.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Presence {
    /// The client.
    #[prost(message, optional, tag = "1")]
    pub info: Option<ClientInfo>,
}

/// The push of the end of a subscription.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct UnsubscribePush {
    /// See [`Unsubscribed::code`].
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// A text for logs.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// The push of a server-side subscription.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SubscribePush {
    /// Whether missed publications can be recovered.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// The epoch at which the subscription begins.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// The offset at which the subscription begins.
    #[prost(uint64, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Whether `epoch` and `offset` are valid.
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// From the application.
    #[prost(bytes = "bytes", tag = "7")]
    #[serde(serialize_with = "json", skip_serializing_if = "is_default")]
    pub data: Bytes,
}

/// The push of the end of a stream, which has no Close frame.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct DisconnectPush {
    /// The close code.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// The close reason.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// The push of a new expiry of the connection.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct RefreshPush {
    /// Whether it expires.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until the expiry.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

/// The result of a connect command.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ConnectResult {
    /// The connection's unique name.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The server's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the token expires: the client must send a new one before.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until the expiry.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// From the application.
    #[prost(bytes = "bytes", tag = "5")]
    #[serde(serialize_with = "json", skip_serializing_if = "is_default")]
    pub data: Bytes,
    /// The server-side subscriptions.
    #[prost(message, repeated, tag = "6")]
    #[serde(serialize_with = "map", skip_serializing_if = "is_default")]
    pub subs: Vec<ServerSubscription>,
    /// The ping interval in seconds; 0 is no pings.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: u32,
    /// Whether the client must answer pings.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub pong: bool,
    /// The name under which a stream's commands arrive.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub session: String,
    /// The node that has the session.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub node: String,
}

/// An entry of a map, which Protobuf encodes as a list of entries. This one has a value even if that is empty: some
/// SDKs ignore an entry without one.
#[derive(Clone, PartialEq, Message)]
pub struct ServerSubscription {
    /// The channel.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// The same as in the reply to a subscribe command.
    #[prost(message, optional, tag = "2")]
    pub result: Option<SubscribeResult>,
}

/// The result of a subscribe command.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SubscribeResult {
    /// Whether the token expires: the client must send a new one before.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until the expiry.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Whether missed publications can be recovered.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// The channel's epoch.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// The missed publications.
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub publications: Vec<Publication>,
    /// Whether `publications` holds all missed publications.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub recovered: bool,
    /// The offset before `publications`: the client's own if recovered, otherwise the channel's.
    #[prost(uint64, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Whether `epoch` and `offset` are valid.
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// From the application.
    #[prost(bytes = "bytes", tag = "11")]
    #[serde(serialize_with = "json", skip_serializing_if = "is_default")]
    pub data: Bytes,
    /// Whether the client requested a recovery.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub was_recovering: bool,
    /// Whether publications may be deltas to the ones before. In JSON, payloads are strings with their JSON then.
    #[prost(bool, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: bool,
    /// 1 is a map.
    #[prost(int32, tag = "15")]
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub kind: i32,
    /// What the client requests next of a map: 2 is more of its state, 1 its changes; with 0 the subscription has
    /// begun.
    #[prost(int32, tag = "16")]
    #[serde(skip_serializing_if = "is_default")]
    pub phase: i32,
    /// Where the next page of the map's state begins, if there is one.
    #[prost(string, tag = "17")]
    #[serde(skip_serializing_if = "is_default")]
    pub cursor: String,
    /// Values of the map.
    #[prost(message, repeated, tag = "18")]
    #[serde(skip_serializing_if = "is_default")]
    pub state: Vec<Publication>,
}

/// The result of a presence command.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct PresenceResult {
    /// The present clients, in no order.
    #[prost(message, repeated, tag = "1")]
    #[serde(serialize_with = "present")]
    pub presence: Vec<PresenceEntry>,
}

/// An entry of a map, like [`ServerSubscription`].
#[derive(Clone, PartialEq, Message)]
pub struct PresenceEntry {
    /// The connection's name.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The client.
    #[prost(message, optional, tag = "2")]
    pub info: Option<ClientInfo>,
}

/// The result of a presence_stats command.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct PresenceStatsResult {
    /// Number of connections.
    #[prost(uint32, tag = "1")]
    pub num_clients: u32,
    /// Number of distinct users.
    #[prost(uint32, tag = "2")]
    pub num_users: u32,
}

/// The result of a history command.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct HistoryResult {
    /// The publications in the requested order.
    #[prost(message, repeated, tag = "1")]
    pub publications: Vec<Publication>,
    /// The channel's epoch.
    #[prost(string, tag = "2")]
    pub epoch: String,
    /// The offset of the newest publication.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// The result of an rpc command.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RpcResult {
    /// From the application.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(serialize_with = "json", skip_serializing_if = "is_default")]
    pub data: Bytes,
}

/// The result of a refresh command.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RefreshResult {
    /// The connection's name.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The server's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the token expires: the client must send a new one before.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until the expiry.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

/// The result of a sub_refresh command.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct SubRefreshResult {
    /// Whether the token expires: the client must send a new one before.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until the expiry.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

impl Reply {
    /// The reply to a failed command.
    pub fn error(id: u32, error: ClientError) -> Reply {
        let error =
            ErrorReply { code: error.code(), message: error.message().to_owned(), temporary: error.is_temporary() };
        Reply { id, error: Some(error), ..Reply::default() }
    }

    /// A push.
    pub fn push(push: Push) -> Reply {
        Reply { push: Some(push), ..Reply::default() }
    }

    /// The push that the subscription to `channel` has ended.
    pub fn unsubscribed(channel: &str, why: Unsubscribed) -> Reply {
        let unsubscribe = UnsubscribePush { code: why.code(), reason: why.reason().to_owned() };
        Reply::push(Push { channel: channel.to_owned(), unsubscribe: Some(unsubscribe), ..Push::default() })
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn present<S: Serializer>(entries: &[PresenceEntry], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(entries.iter().map(|entry| (&entry.client, &entry.info)))
}

fn map<S: Serializer>(entries: &[ServerSubscription], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(entries.iter().map(|entry| (&entry.channel, &entry.result)))
}

/// Writes bytes into JSON: verbatim if they are JSON, but without newlines, which would end the reply; as a string if
/// they are other text; otherwise as base64.
fn json<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        use base64::Engine;
        return serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes));
    };
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else { return serializer.serialize_str(text) };
    if !raw.get().contains(['\n', '\r']) {
        return raw.serialize(serializer);
    }
    // In valid JSON, newlines are never part of a string, only space between tokens.
    let line = raw.get().replace(['\n', '\r'], " ");
    RawValue::from_string(line).expect("a space may replace a newline").serialize(serializer)
}

/// The text that the bytes are in JSON, as a string: what clients with deltas parse, and what deltas are to.
pub(super) fn quoted(bytes: &[u8]) -> Bytes {
    let is_verbatim = |text: &&str| serde_json::from_str::<&RawValue>(text).is_ok();
    let text = match std::str::from_utf8(bytes).ok().filter(is_verbatim) {
        Some(text) => Cow::Borrowed(text),
        None => {
            let mut out = Vec::new();
            let written = json(&Bytes::copy_from_slice(bytes), &mut serde_json::Serializer::new(&mut out));
            written.expect("any bytes have a JSON form");
            Cow::Owned(String::from_utf8(out).expect("JSON is text"))
        }
    };
    serde_json::to_vec(&text).expect("a text has a JSON form").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(data: &'static [u8]) -> String {
        let publication = Publication { data: Bytes::from_static(data), ..Publication::default() };
        serde_json::to_string(&publication).unwrap()
    }

    #[test]
    fn any_data_becomes_valid_json() {
        let rows: [(&[u8], &str); 9] = [
            (br#"{"a": 1.10, "b":[12345678901234567890123]}"#, r#"{"a": 1.10, "b":[12345678901234567890123]}"#),
            (b" [1,\r\n\t2\n] ", "[1,  \t2 ]"),
            (br#""a\nb""#, r#""a\nb""#),
            (b"null", "null"),
            (b"hello", r#""hello""#),
            (b"{\"a\":", r#""{\"a\":""#),
            (b"1 2", r#""1 2""#),
            (b"", r#""""#),
            (b"\xff\x00", r#""/wA=""#),
        ];
        for (data, expected) in rows {
            assert_eq!(json_of(data), format!(r#"{{"data":{expected}}}"#));
        }
    }

    #[test]
    fn empty_fields_are_omitted() {
        let reply = Reply { id: 3, publish: Some(Done {}), ..Reply::default() };
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"id":3,"publish":{}}"#);
        assert_eq!(reply.encode_to_vec(), [0x08, 3, 0x42, 0]);
        assert_eq!(serde_json::to_string(&Reply::default()).unwrap(), "{}");
        assert_eq!(Reply::default().encode_to_vec(), b"");
    }

    #[test]
    fn payloads_of_clients_with_deltas_are_strings_with_json() {
        let rows: [(&[u8], &str); 5] = [
            (b"{\"a\": 1}", r#""{\"a\": 1}""#),
            (b"[1,\n2]", r#""[1,\n2]""#),
            (b"\"text\"", r#""\"text\"""#),
            (b"no \"JSON\"", r#""\"no \\\"JSON\\\"\"""#),
            (b"\xff", r#""\"/w==\"""#),
        ];
        for (payload, expected) in rows {
            assert_eq!(std::str::from_utf8(&quoted(payload)).unwrap(), expected);
        }
    }

    #[test]
    fn errors_have_codes_and_texts() {
        let text = |error| serde_json::to_string(&Reply::error(7, error)).unwrap();
        assert_eq!(
            text(ClientError::PermissionDenied),
            r#"{"id":7,"error":{"code":103,"message":"permission denied"}}"#
        );
        assert_eq!(
            text(ClientError::Internal),
            r#"{"id":7,"error":{"code":100,"message":"internal server error","temporary":true}}"#
        );
    }

    #[test]
    fn names_and_numbers_are_those_of_the_protocol() {
        let info = ClientInfo {
            user: "42".to_owned(),
            client: "c".to_owned(),
            conn_info: Bytes::from_static(b"{}"),
            chan_info: Bytes::from_static(b"1"),
        };
        let publication = Publication {
            data: Bytes::from_static(b"0"),
            info: Some(info),
            offset: 300,
            tags: BTreeMap::from([("t".to_owned(), "a\"".to_owned())]),
            delta: true,
            key: "k".to_owned(),
            removed: false,
        };
        let push = Push { channel: "ch".to_owned(), publication: Some(publication), ..Push::default() };
        let reply = Reply::push(push);
        let json = concat!(
            r#"{"push":{"channel":"ch","pub":{"data":0,"info":{"user":"42","client":"c","conn_info":{},"chan_info":1},"#,
            r#""offset":300,"tags":{"t":"a\""},"delta":true,"key":"k"}}}"#
        );
        assert_eq!(serde_json::to_string(&reply).unwrap(), json);
        let protobuf = concat!(
            "\x22\x2a\x12\x02ch\x22\x24",
            "\x22\x010",
            "\x2a\x0e\x0a\x0242\x12\x01c\x1a\x02{}\x22\x011",
            "\x30\u{ac}\x02",
            "\x3a\x07\x0a\x01t\x12\x02a\"",
            "\x40\x01",
            "\x5a\x01k"
        );
        // 300 is encoded as ac 02, and the text above has ac as two bytes.
        let protobuf: Vec<u8> = protobuf.chars().map(|character| character as u8).collect();
        assert_eq!(reply.encode_to_vec(), protobuf);
    }

    #[test]
    fn an_empty_server_side_subscription_has_a_value() {
        let result = Some(SubscribeResult::default());
        let subs = vec![ServerSubscription { channel: "a".to_owned(), result }];
        let connect = ConnectResult { subs, ..ConnectResult::default() };
        assert_eq!(connect.encode_to_vec(), b"\x32\x05\x0a\x01a\x12\x00");
        let text = serde_json::to_string(&connect).unwrap();
        assert_eq!(text, r#"{"client":"","version":"","subs":{"a":{}}}"#);
    }

    #[test]
    fn ends_of_subscriptions_are_pushes() {
        let text = serde_json::to_string(&Reply::unsubscribed("feed", Unsubscribed::Expired)).unwrap();
        let expected = r#"{"push":{"channel":"feed","unsubscribe":{"code":2501,"reason":"subscription expired"}}}"#;
        assert_eq!(text, expected);
    }
}
