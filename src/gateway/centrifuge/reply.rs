//! What the server says, with its names in JSON and its numbers in Protobuf side by side.
//!
//! Fields that are empty or zero are left out of either. The field numbers are those of Centrifugo's `client.proto`.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::protocol::{ClientError, Unsubscribed};

/// An answer to a command, or a push.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Reply {
    /// That of the command; 0 for a push.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: u32,
    /// Why there is no result.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReply>,
    /// What nobody asked for.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    /// The answer to a command of this name, as are those that follow.
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
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshResult>,
    /// See [`connect`](Self::connect).
    #[prost(message, optional, tag = "15")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_refresh: Option<SubRefreshResult>,
}

/// Why there is no result.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ErrorReply {
    /// See [`ClientError::code`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// For whoever reads logs.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether it may work later.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub temporary: bool,
}

/// A result that is only that it was done.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct Done {}

/// What the server has to say without being asked: one of the fields that follow `channel`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Push {
    /// What it is about; empty if about the connection.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// Something was published.
    #[prost(message, optional, tag = "4")]
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    pub publication: Option<Publication>,
    /// Somebody has subscribed.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<Presence>,
    /// Somebody's subscription has ended.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leave: Option<Presence>,
    /// Your subscription has ended.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<UnsubscribePush>,
    /// You have been subscribed.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<SubscribePush>,
    /// Your connection lasts until another time.
    #[prost(message, optional, tag = "12")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshPush>,
}

/// Who somebody is.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct ClientInfo {
    /// The user; empty for nobody in particular.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The connection.
    #[prost(string, tag = "2")]
    pub client: String,
    /// What its token tells of it.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(serialize_with = "json", skip_serializing_if = "is_default")]
    pub conn_info: Bytes,
    /// What the subscription's token tells of it.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(serialize_with = "json", skip_serializing_if = "is_default")]
    pub chan_info: Bytes,
}

/// What was published.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Publication {
    /// The message.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(serialize_with = "json")]
    pub data: Bytes,
    /// Who published it, if it was a client.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
    /// Its place in the channel; 0 where no history is kept.
    #[prost(uint64, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// What the publisher says about it.
    #[prost(btree_map = "string, string", tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub tags: BTreeMap<String, String>,
    /// What it is about: it replaces those before it with the same key.
    #[prost(string, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub key: String,
}

/// Somebody came or went.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Presence {
    /// Who.
    #[prost(message, optional, tag = "1")]
    pub info: Option<ClientInfo>,
}

/// A subscription has ended.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct UnsubscribePush {
    /// See [`Unsubscribed::code`].
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// For whoever reads logs.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// The server has subscribed a connection.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SubscribePush {
    /// Whether what is missed can be recovered.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// Where the subscription begins.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// Where the subscription begins.
    #[prost(uint64, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Whether epoch and offset mean anything.
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
}

/// A connection lasts until another time.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct RefreshPush {
    /// Whether it ends at all.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// In how many seconds.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

/// Welcome.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ConnectResult {
    /// The connection's name: no other has it.
    #[prost(string, tag = "1")]
    pub client: String,
    /// Of the server.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the client is to bring a new token in time.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// In how many seconds.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// What the server has subscribed it to.
    #[prost(message, repeated, tag = "6")]
    #[serde(serialize_with = "map", skip_serializing_if = "is_default")]
    pub subs: Vec<ServerSubscription>,
    /// Seconds between pings; 0: there are none.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: u32,
    /// Whether pings are to be answered.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub pong: bool,
}

/// An entry of a map. In Protobuf that is what a map is made of, and this one has a value also where that is empty,
/// without which some SDKs would not see it.
#[derive(Clone, PartialEq, Message)]
pub struct ServerSubscription {
    /// To what.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// The same as in the answer to a command.
    #[prost(message, optional, tag = "2")]
    pub result: Option<SubscribeResult>,
}

/// Subscribed.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SubscribeResult {
    /// Whether the client is to bring a new token in time.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// In how many seconds.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Whether what is missed can be recovered.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// The channel's epoch.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// What was missed.
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub publications: Vec<Publication>,
    /// Whether that is all that was missed.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub recovered: bool,
    /// Where `publications` begin: the client's own offset if recovered, else the channel's.
    #[prost(uint64, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Whether epoch and offset mean anything.
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// Whether the client asked for what it missed.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub was_recovering: bool,
}

/// Who has subscribed.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct PresenceResult {
    /// In no order.
    #[prost(message, repeated, tag = "1")]
    #[serde(serialize_with = "present")]
    pub presence: Vec<PresenceEntry>,
}

/// An entry of a map, as [`ServerSubscription`] is one.
#[derive(Clone, PartialEq, Message)]
pub struct PresenceEntry {
    /// The connection's name.
    #[prost(string, tag = "1")]
    pub client: String,
    /// Who it is.
    #[prost(message, optional, tag = "2")]
    pub info: Option<ClientInfo>,
}

/// How many have subscribed.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct PresenceStatsResult {
    /// Connections.
    #[prost(uint32, tag = "1")]
    pub num_clients: u32,
    /// Users.
    #[prost(uint32, tag = "2")]
    pub num_users: u32,
}

/// What was published.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct HistoryResult {
    /// In the order that was asked for.
    #[prost(message, repeated, tag = "1")]
    pub publications: Vec<Publication>,
    /// The channel's epoch.
    #[prost(string, tag = "2")]
    pub epoch: String,
    /// The offset of the newest publication.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// The connection may stay.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RefreshResult {
    /// The connection's name.
    #[prost(string, tag = "1")]
    pub client: String,
    /// Of the server.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the client is to bring a new token in time.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// In how many seconds.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

/// The subscription may stay.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct SubRefreshResult {
    /// Whether the client is to bring a new token in time.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// In how many seconds.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

impl Reply {
    /// The answer that a command has failed.
    pub fn error(id: u32, error: ClientError) -> Reply {
        let error =
            ErrorReply { code: error.code(), message: error.message().to_owned(), temporary: error.is_temporary() };
        Reply { id, error: Some(error), ..Reply::default() }
    }

    /// A push.
    pub fn push(push: Push) -> Reply {
        Reply { push: Some(push), ..Reply::default() }
    }

    /// Tells a client that its subscription to `channel` has ended.
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

/// Puts bytes into JSON: as they are if they are JSON themselves, without the newlines that would end the reply, as a
/// string if they are other text, and else as a string in Base64.
fn json<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        use base64::Engine;
        return serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes));
    };
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else { return serializer.serialize_str(text) };
    if !raw.get().contains(['\n', '\r']) {
        return raw.serialize(serializer);
    }
    // In JSON these are never part of a string, only ever space between two things.
    let line = raw.get().replace(['\n', '\r'], " ");
    RawValue::from_string(line).expect("space remains space").serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(data: &'static [u8]) -> String {
        let publication = Publication { data: Bytes::from_static(data), ..Publication::default() };
        serde_json::to_string(&publication).unwrap()
    }

    #[test]
    fn data_is_json_whatever_it_is() {
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
    fn what_is_empty_is_left_out() {
        let reply = Reply { id: 3, publish: Some(Done {}), ..Reply::default() };
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"id":3,"publish":{}}"#);
        assert_eq!(reply.encode_to_vec(), [0x08, 3, 0x42, 0]);
        assert_eq!(serde_json::to_string(&Reply::default()).unwrap(), "{}");
        assert_eq!(Reply::default().encode_to_vec(), b"");
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
    fn names_and_numbers_are_the_protocols() {
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
            key: "k".to_owned(),
        };
        let push = Push { channel: "ch".to_owned(), publication: Some(publication), ..Push::default() };
        let reply = Reply::push(push);
        let json = concat!(
            r#"{"push":{"channel":"ch","pub":{"data":0,"info":{"user":"42","client":"c","conn_info":{},"chan_info":1},"#,
            r#""offset":300,"tags":{"t":"a\""},"key":"k"}}}"#
        );
        assert_eq!(serde_json::to_string(&reply).unwrap(), json);
        let protobuf = concat!(
            "\x22\x28\x12\x02ch\x22\x22",
            "\x22\x010",
            "\x2a\x0e\x0a\x0242\x12\x01c\x1a\x02{}\x22\x011",
            "\x30\u{ac}\x02",
            "\x3a\x07\x0a\x01t\x12\x02a\"",
            "\x5a\x01k"
        );
        // 300 is written as ac 02, and the text above has ac as two bytes.
        let protobuf: Vec<u8> = protobuf.chars().map(|character| character as u8).collect();
        assert_eq!(reply.encode_to_vec(), protobuf);
    }

    #[test]
    fn a_subscription_of_the_servers_has_a_value_also_if_that_is_empty() {
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
