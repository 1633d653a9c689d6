//! The encodings of Centrifugo's client protocol, and its pings.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::json::{encode_bare_push, encode_reply_json};
use super::protobuf::encode_reply_protobuf;
use super::reply::{ClientInfo, Presence, Publication, Push, Reply, quoted};
use super::session::Wire;
use crate::conn::Heartbeat;
use crate::gateway::encoder::{Encoder, register};
use crate::gateway::sizes::{attribute_bytes_max, data_bytes_max, escaped_bytes};
use crate::proto::{CloseCode, Message, MessageKind, encode_message};
use crate::topics::{self, Body, Encoding, TopicName};

/// Pushes in JSON.
pub static JSON: LazyLock<Encoding> = LazyLock::new(|| register(Json));

/// Pushes in Protobuf.
pub static PROTOBUF: LazyLock<Encoding> = LazyLock::new(|| register(Protobuf));

/// Pushes as lines of JSON.
pub static JSON_LINES: LazyLock<Encoding> = LazyLock::new(|| register(Lines));

/// Pushes in Protobuf, each with its length.
pub static PROTOBUF_STREAM: LazyLock<Encoding> = LazyLock::new(|| register(ProtobufStream));

/// Pushes in JSON as events of an event stream.
pub static EVENT_STREAM: LazyLock<Encoding> = LazyLock::new(|| register(EventStream));

/// Pushes in JSON to clients with deltas.
static JSON_DELTAS: LazyLock<Encoding> = LazyLock::new(|| {
    register(Strings {
        name: "Centrifugo, JSON with deltas",
        write: |out, reply| encode_as(MessageKind::Text, out, |out| encode_reply_json(out, reply)),
    })
});

/// The same as lines.
static LINES_DELTAS: LazyLock<Encoding> = LazyLock::new(|| {
    let write = |out: &mut Vec<u8>, reply: &Reply| {
        encode_reply_json(out, reply);
        out.push(b'\n');
    };
    register(Strings { name: "Centrifugo, HTTP stream with deltas", write })
});

/// The same as events of an event stream.
static EVENTS_DELTAS: LazyLock<Encoding> = LazyLock::new(|| {
    register(Strings {
        name: "Centrifugo, event stream with deltas",
        write: |out, reply| encode_event(out, |out| encode_reply_json(out, reply)),
    })
});

/// The encoding of pushes on a wire to a subscriber that receives publications as deltas. In Protobuf, whole
/// publications are those of all others.
pub(super) fn with_deltas(wire: Wire) -> Encoding {
    let encoding = match wire {
        Wire::Protobuf => *PROTOBUF,
        Wire::ProtobufStream => *PROTOBUF_STREAM,
        Wire::JsonLines | Wire::UniLines => *LINES_DELTAS,
        Wire::EventStream | Wire::UniEventStream => *EVENTS_DELTAS,
        Wire::Json | Wire::UniJson => *JSON_DELTAS,
    };
    encoding.with_deltas()
}

/// Pushes in JSON without a reply around them.
pub(super) static UNI_JSON: LazyLock<Encoding> = LazyLock::new(|| register(UniJson));

/// The same as lines.
pub(super) static UNI_LINES: LazyLock<Encoding> = LazyLock::new(|| register(UniLines));

/// The same as events of an event stream.
pub(super) static UNI_EVENT_STREAM: LazyLock<Encoding> = LazyLock::new(|| register(UniEventStream));

/// The pings of these, which have no answer.
pub(super) static UNI_JSON_PING: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b"\x81\x02{}", None));

/// See [`UNI_JSON_PING`].
pub(super) static UNI_LINE_PING: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b"{}\n", None));

/// See [`UNI_JSON_PING`].
pub(super) static UNI_EVENT_PING: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b"data: {}\n\n", None));

const NO_PONG: Option<(CloseCode, &str)> = Some((CloseCode(3012), "no pong"));

/// The ping in JSON: an empty reply, as one frame.
pub(super) static JSON_PING: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b"\x81\x02{}", NO_PONG));

/// The ping in Protobuf: a reply of no bytes, as one frame.
pub(super) static PROTOBUF_PING: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b"\x82\x01\0", NO_PONG));

/// The ping as a line.
pub(super) static LINE_PING: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b"{}\n", NO_PONG));

/// The ping in a Protobuf stream.
pub(super) static PROTOBUF_STREAM_PING: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b"\0", NO_PONG));

/// The ping as an event.
pub(super) static EVENT_PING: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b"data: {}\n\n", NO_PONG));

/// Bytes of names, numbers and punctuation in a publication's push.
const FIXED_BYTES: usize = 60;

struct Json;

impl Encoder for Json {
    fn name(&self) -> &'static str {
        "Centrifugo, JSON"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        encode_as(MessageKind::Text, out, |out| encode_publication_json(out, body));
    }

    fn publication_bytes_max(&self, body: &Body) -> usize {
        let data = if body.is_text { escaped_bytes(body.payload()) } else { data_bytes_max(body.payload()) };
        data + attribute_bytes_max(body) + info_bytes_max(body) + FIXED_BYTES
    }

    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
        encode_as(MessageKind::Text, out, |out| encode_presence_json(out, topic, info, has_joined));
    }
}

/// JSON for clients with deltas: the payload is a string, with JSON or with what makes JSON of the one before.
struct Strings {
    name: &'static str,
    write: fn(&mut Vec<u8>, &Reply),
}

impl Encoder for Strings {
    fn name(&self) -> &'static str {
        self.name
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        (self.write)(out, &push_with(body, quoted(body.payload()), false));
    }

    fn encode_delta(&self, out: &mut Vec<u8>, body: &Body, base: &Body, patch: &[u8]) {
        // Other payloads are not sent verbatim, and the patch is between what was published.
        if is_json(base.payload()) && is_json(body.payload()) {
            let patch = std::str::from_utf8(patch).expect("the delta of a text is a text");
            let data = serde_json::to_vec(patch).expect("a text has a JSON form");
            (self.write)(out, &push_with(body, data.into(), true));
        }
    }

    fn publication_bytes_max(&self, body: &Body) -> usize {
        // Other text is a string in a string.
        let twice = if is_json(body.payload()) { 0 } else { Json.publication_bytes_max(body) };
        Json.publication_bytes_max(body) + twice
    }

    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
        (self.write)(out, &presence_push(topic, info, has_joined));
    }
}

fn is_json(payload: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(payload).is_ok()
}

struct Protobuf;

impl Encoder for Protobuf {
    fn name(&self) -> &'static str {
        "Centrifugo, Protobuf"
    }

    fn encode_delta(&self, out: &mut Vec<u8>, body: &Body, _: &Body, patch: &[u8]) {
        let push = push_with(body, Bytes::copy_from_slice(patch), true);
        encode_as(MessageKind::Binary, out, |out| encode_reply_protobuf(out, &push));
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        encode_as(MessageKind::Binary, out, |out| encode_publication_protobuf(out, body));
    }

    fn publication_bytes_max(&self, body: &Body) -> usize {
        let tags: usize = body.tags.iter().flatten().map(|(name, value)| 16 + name.len() + value.len()).sum();
        let key = body.key.as_ref().map_or(0, |key| key.len());
        body.payload().len() + key + tags + info_bytes_max(body) + FIXED_BYTES
    }

    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
        encode_as(MessageKind::Binary, out, |out| encode_presence_protobuf(out, topic, info, has_joined));
    }
}

struct Lines;

impl Encoder for Lines {
    fn name(&self) -> &'static str {
        "Centrifugo, HTTP stream"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        encode_publication_json(out, body);
        out.push(b'\n');
    }

    fn publication_bytes_max(&self, body: &Body) -> usize {
        Json.publication_bytes_max(body)
    }

    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
        encode_presence_json(out, topic, info, has_joined);
        out.push(b'\n');
    }
}

struct ProtobufStream;

impl Encoder for ProtobufStream {
    fn name(&self) -> &'static str {
        "Centrifugo, Protobuf stream"
    }

    fn encode_delta(&self, out: &mut Vec<u8>, body: &Body, _: &Body, patch: &[u8]) {
        encode_reply_protobuf(out, &push_with(body, Bytes::copy_from_slice(patch), true));
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        encode_publication_protobuf(out, body);
    }

    fn publication_bytes_max(&self, body: &Body) -> usize {
        Protobuf.publication_bytes_max(body)
    }

    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
        encode_presence_protobuf(out, topic, info, has_joined);
    }
}

struct EventStream;

impl Encoder for EventStream {
    fn name(&self) -> &'static str {
        "Centrifugo, event stream"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        encode_event(out, |out| encode_publication_json(out, body));
    }

    fn publication_bytes_max(&self, body: &Body) -> usize {
        Json.publication_bytes_max(body)
    }

    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
        encode_event(out, |out| encode_presence_json(out, topic, info, has_joined));
    }
}

struct UniJson;

impl Encoder for UniJson {
    fn name(&self) -> &'static str {
        "Centrifugo, unidirectional"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        encode_as(MessageKind::Text, out, |out| encode_bare_push(out, &publication_push(body)));
    }

    fn publication_bytes_max(&self, body: &Body) -> usize {
        Json.publication_bytes_max(body)
    }

    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
        encode_as(MessageKind::Text, out, |out| encode_bare_push(out, &presence_push(topic, info, has_joined)));
    }
}

struct UniLines;

impl Encoder for UniLines {
    fn name(&self) -> &'static str {
        "Centrifugo, unidirectional HTTP stream"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        encode_bare_push(out, &publication_push(body));
        out.push(b'\n');
    }

    fn publication_bytes_max(&self, body: &Body) -> usize {
        Json.publication_bytes_max(body)
    }

    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
        encode_bare_push(out, &presence_push(topic, info, has_joined));
        out.push(b'\n');
    }
}

struct UniEventStream;

impl Encoder for UniEventStream {
    fn name(&self) -> &'static str {
        "Centrifugo, unidirectional event stream"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        encode_event(out, |out| encode_bare_push(out, &publication_push(body)));
    }

    fn publication_bytes_max(&self, body: &Body) -> usize {
        Json.publication_bytes_max(body)
    }

    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
        encode_event(out, |out| encode_bare_push(out, &presence_push(topic, info, has_joined)));
    }
}

/// Appends an event with the JSON that `encode` appends; it has no newlines.
pub(super) fn encode_event(out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"data: ");
    encode(out);
    out.extend_from_slice(b"\n\n");
}

/// Appends a message with the payload that `encode` appends.
fn encode_as(kind: MessageKind, out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
    let mut payload = Vec::new();
    encode(&mut payload);
    encode_message(out, Message { kind, payload: &payload }, None);
}

/// Maximum bytes of the publisher's client information.
fn info_bytes_max(body: &Body) -> usize {
    let Some(info) = &body.info else { return 0 };
    let more = [&info.conn_info, &info.chan_info];
    let more: usize = more.into_iter().flatten().map(|more| data_bytes_max(more)).sum();
    more + escaped_bytes(info.client.as_bytes()) + escaped_bytes(info.user.as_bytes()) + 80
}

/// Appends the push of a publication, in JSON.
pub fn encode_publication_json(out: &mut Vec<u8>, body: &Body) {
    encode_reply_json(out, &publication_push(body));
}

/// Appends the push of a publication, in Protobuf.
pub fn encode_publication_protobuf(out: &mut Vec<u8>, body: &Body) {
    encode_reply_protobuf(out, &publication_push(body));
}

/// Appends the push of a join or a leave, in JSON.
pub fn encode_presence_json(out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
    encode_reply_json(out, &presence_push(topic, info, has_joined));
}

/// Appends the push of a join or a leave, in Protobuf.
pub fn encode_presence_protobuf(out: &mut Vec<u8>, topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) {
    encode_reply_protobuf(out, &presence_push(topic, info, has_joined));
}

fn publication_push(body: &Body) -> Reply {
    let (channel, publication) = (body.topic.to_string(), Some(Publication::from(body)));
    Reply::push(Push { channel, publication, ..Push::default() })
}

/// The push of a publication with other data.
fn push_with(body: &Body, data: Bytes, delta: bool) -> Reply {
    let publication = Some(Publication { data, delta, ..Publication::from(body) });
    Reply::push(Push { channel: body.topic.to_string(), publication, ..Push::default() })
}

fn presence_push(topic: &TopicName, info: &topics::ClientInfo, has_joined: bool) -> Reply {
    let presence = Some(Presence { info: Some(ClientInfo::from(info)) });
    let (join, leave) = if has_joined { (presence, None) } else { (None, presence) };
    Reply::push(Push { channel: topic.to_string(), join, leave, ..Push::default() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::topics::{Epoch, Position, testing};

    fn text(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_publication_push_contains_all_fields() {
        let position = Position { epoch: Epoch::new(1), offset: 7 };
        let mut body = testing::body("news", position, 0, b"{\"a\":\n1}");
        let expected = r#"{"push":{"channel":"news","pub":{"data":{"a": 1},"offset":7}}}"#;
        assert_eq!(text(|out| encode_publication_json(out, &body)), expected);
        let entry = Arc::get_mut(&mut body).unwrap();
        entry.key = Some("k".into());
        entry.tags = Some([("t".to_owned(), "1".to_owned())].into());
        let info = topics::ClientInfo { client: "c".into(), user: "u".into(), conn_info: None, chan_info: None };
        entry.info = Some(Arc::new(info));
        let expected = concat!(
            r#"{"push":{"channel":"news","pub":{"data":{"a": 1},"info":{"user":"u","client":"c"},"offset":7,"#,
            r#""tags":{"t":"1"},"key":"k"}}}"#
        );
        assert_eq!(text(|out| encode_publication_json(out, &body)), expected);
    }

    #[test]
    fn protobuf_keeps_the_payload_verbatim() {
        let position = Position { epoch: Epoch::new(1), offset: 7 };
        let body = testing::body("a", position, 0, b"\xff\n");
        let mut out = Vec::new();
        encode_publication_protobuf(&mut out, &body);
        assert_eq!(out, b"\x0d\x22\x0b\x12\x01a\x22\x06\x22\x02\xff\n\x30\x07");
    }

    #[test]
    fn joins_and_leaves_are_pushed() {
        let topic = TopicName::new("room").unwrap();
        let info = topics::ClientInfo {
            client: "c".into(),
            user: "u".into(),
            conn_info: Some(b"{\"n\":1}".as_slice().into()),
            chan_info: Some(b"2".as_slice().into()),
        };
        let join = text(|out| encode_presence_json(out, &topic, &info, true));
        let info_json = r#"{"user":"u","client":"c","conn_info":{"n":1},"chan_info":2}"#;
        assert_eq!(join, format!(r#"{{"push":{{"channel":"room","join":{{"info":{info_json}}}}}}}"#));
        let leave = text(|out| encode_presence_json(out, &topic, &info, false));
        assert_eq!(leave, join.replace("join", "leave"));
        let mut out = Vec::new();
        encode_presence_protobuf(&mut out, &topic, &info, false);
        let info = b"\x0a\x01u\x12\x01c\x1a\x07{\"n\":1}\x22\x012";
        assert_eq!(out, [b"\x1e\x22\x1c\x12\x04room\x32\x14\x0a\x12".as_slice(), info].concat());
    }
}
