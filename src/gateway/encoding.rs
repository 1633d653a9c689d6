//! Encodes publications, joins and leaves, once for all subscribers of an encoding.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

#[cfg(feature = "centrifuge")]
use super::centrifuge::{
    encode_presence_json, encode_presence_protobuf, encode_publication_json, encode_publication_protobuf,
};
use crate::buf::SharedFrame;
use crate::proto::{Message, MessageKind, encode_message};
use crate::topics::{Body, ClientInfo, Encoding, Position, TopicName};

/// The wire bytes of a publication; `None` for [`Encoding::PerConnection`].
pub fn encode_publication(encoding: Encoding, body: &Body) -> Option<SharedFrame> {
    let mut out = Vec::new();
    match encoding {
        Encoding::Raw => return Some(body.frame.clone()),
        Encoding::Envelope => encode_envelope(&mut out, body),
        Encoding::Sse => encode_event(&mut out, body, &position_text(body.position)),
        #[cfg(feature = "centrifuge")]
        Encoding::CentrifugeJson => {
            return Some(frame_of(MessageKind::Text, |out| encode_publication_json(out, body)));
        }
        #[cfg(feature = "centrifuge")]
        Encoding::CentrifugeProtobuf => {
            return Some(frame_of(MessageKind::Binary, |out| encode_publication_protobuf(out, body)));
        }
        Encoding::PerConnection => return None,
    }
    Some(SharedFrame::new(out))
}

/// Maximum bytes of a publication in an encoding: a tight bound, computed without encoding. A missed publication in a
/// subscribe reply takes no more than a pushed one.
pub(super) fn encoded_bytes_max(encoding: Encoding, body: &Body) -> usize {
    let tags = || body.tags.iter().flatten();
    let key = body.key.as_deref().unwrap_or_default();
    let payload = body.payload().len();
    match encoding {
        Encoding::Raw => body.frame.len(),
        Encoding::Envelope | Encoding::PerConnection => {
            let tags: usize =
                tags().map(|(name, value)| 6 + escaped_bytes(name.as_bytes()) + escaped_bytes(value.as_bytes())).sum();
            payload + body.topic.as_str().len() + escaped_bytes(key.as_bytes()) + tags + 160
        }
        #[cfg(feature = "centrifuge")]
        Encoding::CentrifugeJson => {
            let tags: usize =
                tags().map(|(name, value)| 6 + escaped_bytes(name.as_bytes()) + escaped_bytes(value.as_bytes())).sum();
            let data = if body.is_text { escaped_bytes(body.payload()) } else { data_bytes_max(body.payload()) };
            data + escaped_bytes(key.as_bytes()) + tags + info_bytes_max(body) + 60
        }
        #[cfg(feature = "centrifuge")]
        Encoding::CentrifugeProtobuf => {
            let tags: usize = tags().map(|(name, value)| 16 + name.len() + value.len()).sum();
            payload + key.len() + tags + info_bytes_max(body) + 60
        }
        Encoding::Sse if body.is_text => {
            let ends = body.payload().iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
            payload + ends * "data: ".len() + EVENT_BYTES
        }
        Encoding::Sse => base64_bytes(payload) + EVENT_BYTES,
    }
}

/// Bytes of an event without its data, with the longest id of a single topic.
const EVENT_BYTES: usize = 80;

/// Maximum length of [`position_text`], in bytes.
pub(super) const POSITION_BYTES_MAX: usize = 13 + 1 + 20;

#[cfg(feature = "centrifuge")]
/// Maximum bytes of data in JSON: verbatim, as a string, or as base64 if it is not text.
fn data_bytes_max(data: &[u8]) -> usize {
    escaped_bytes(data).max(base64_bytes(data.len()) + 2)
}

/// Maximum bytes of a text in JSON: verbatim or as a string.
fn escaped_bytes(text: &[u8]) -> usize {
    let escapes = text.iter().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    let controls = text.iter().filter(|byte| **byte < b' ').count();
    text.len() + escapes + 5 * controls + 2
}

fn base64_bytes(len: usize) -> usize {
    4 * len.div_ceil(3)
}

#[cfg(feature = "centrifuge")]
/// Maximum bytes of the publisher's client information.
fn info_bytes_max(body: &Body) -> usize {
    let Some(info) = &body.info else { return 0 };
    let more = [&info.conn_info, &info.chan_info];
    let more: usize = more.into_iter().flatten().map(|more| data_bytes_max(more)).sum();
    more + escaped_bytes(info.client.as_bytes()) + escaped_bytes(info.user.as_bytes()) + 80
}

/// The wire bytes of a join or a leave; `None` if the encoding has no such message.
pub fn encode_presence(
    encoding: Encoding,
    topic: &TopicName,
    info: &ClientInfo,
    has_joined: bool,
) -> Option<SharedFrame> {
    match encoding {
        #[cfg(feature = "centrifuge")]
        Encoding::CentrifugeJson => {
            Some(frame_of(MessageKind::Text, |out| encode_presence_json(out, topic, info, has_joined)))
        }
        #[cfg(feature = "centrifuge")]
        Encoding::CentrifugeProtobuf => {
            Some(frame_of(MessageKind::Binary, |out| encode_presence_protobuf(out, topic, info, has_joined)))
        }
        Encoding::Raw | Encoding::Envelope | Encoding::Sse | Encoding::PerConnection => {
            let _ = (topic, info, has_joined);
            None
        }
    }
}

#[cfg(feature = "centrifuge")]
/// A message with the payload that `encode` appends.
fn frame_of(kind: MessageKind, encode: impl FnOnce(&mut Vec<u8>)) -> SharedFrame {
    let (mut payload, mut out) = (Vec::new(), Vec::new());
    encode(&mut payload);
    encode_message(&mut out, Message { kind, payload: &payload }, None);
    SharedFrame::new(out)
}

/// A position in the form that clients receive and send: `<epoch>:<offset>`.
pub(super) fn position_text(position: Position) -> String {
    format!("{}:{}", position.epoch, position.offset)
}

/// Appends a message: a line of JSON about the publication, then its payload.
fn encode_envelope(out: &mut Vec<u8>, body: &Body) {
    let mut head = serde_json::json!({
        "topic": body.topic.as_str(),
        "epoch": body.position.epoch.to_string(),
        "offset": body.position.offset,
        "time": body.time_ms,
    });
    if let Some(key) = &body.key {
        head["key"] = (**key).into();
    }
    if let Some(tags) = &body.tags {
        head["tags"] = tags
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect::<serde_json::Map<_, _>>()
            .into();
    }
    let mut payload = format!("{head}\n").into_bytes();
    payload.extend_from_slice(body.payload());
    let kind = if body.is_text { MessageKind::Text } else { MessageKind::Binary };
    encode_message(out, Message { kind, payload: &payload }, None);
}

/// Appends an event of a `text/event-stream`. A binary payload is base64 in an event named `base64`.
pub(super) fn encode_event(out: &mut Vec<u8>, body: &Body, id: &str) {
    out.extend_from_slice(format!("id: {id}\n").as_bytes());
    match std::str::from_utf8(body.payload()).ok().filter(|_| body.is_text) {
        Some(text) => encode_data(out, text),
        None => {
            out.extend_from_slice(b"event: base64\n");
            encode_data(out, &STANDARD.encode(body.payload()));
        }
    }
    out.push(b'\n');
}

/// Appends a text as `data` fields, one for each line, so that no line of the text is parsed as another field.
fn encode_data(out: &mut Vec<u8>, text: &str) {
    // A line ends with CR LF, LF or CR.
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::FrameHeader;
    use crate::topics::{Epoch, testing::body};

    fn position() -> Position {
        Position { epoch: Epoch::new(33), offset: 7 }
    }

    fn event(payload: &[u8], is_text: bool) -> String {
        let mut body = body("a", position(), 0, payload);
        std::sync::Arc::get_mut(&mut body).unwrap().is_text = is_text;
        let bytes = encode_publication(Encoding::Sse, &body).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn an_event_has_a_data_field_for_each_line() {
        let id = "id: 0000000000011:7\n";
        let rows = [
            ("x", "data: x\n\n"),
            ("", "data: \n\n"),
            ("a\nb\r\nc\rd", "data: a\ndata: b\ndata: c\ndata: d\n\n"),
            ("a\n\nid: 9", "data: a\ndata: \ndata: id: 9\n\n"),
        ];
        for (payload, expected) in rows {
            assert_eq!(event(payload.as_bytes(), true), format!("{id}{expected}"));
        }
        assert_eq!(event(&[0xff, 0], false), format!("{id}event: base64\ndata: /wA=\n\n"));
    }

    proptest::proptest! {
        #[test]
        fn no_publication_takes_more_than_its_bound(
            payload in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            text in "[\"\\\\\n\r\x00-\x1fa-zé☃]{0,100}",
            lines in "[\n\r]{0,50}",
            is_text in proptest::prelude::any::<bool>(),
            has_more in proptest::prelude::any::<bool>(),
            offset in proptest::prelude::any::<u64>(),
        ) {
            let position = Position { epoch: Epoch::new(u64::MAX), offset };
            for payload in [&payload[..], text.as_bytes(), lines.as_bytes(), &vec![b'"'; 300], &vec![1; 300]] {
                let mut body = body("a", position, u64::MAX, payload);
                let entry = std::sync::Arc::get_mut(&mut body).unwrap();
                entry.is_text = is_text && std::str::from_utf8(payload).is_ok();
                if has_more {
                    entry.key = Some(text.as_str().into());
                    entry.tags = Some([(text.clone(), lines.clone()), (lines.clone(), text.clone())].into());
                    let bytes = Some(payload.into());
                    let (client, user) = (text.as_str().into(), lines.as_str().into());
                    let info = ClientInfo { client, user, conn_info: bytes.clone(), chan_info: bytes };
                    entry.info = Some(std::sync::Arc::new(info));
                }
                for encoding in [Encoding::Raw, Encoding::Envelope, Encoding::Sse] {
                    let len = encode_publication(encoding, &body).unwrap().len();
                    let max = encoded_bytes_max(encoding, &body);
                    proptest::prop_assert!(len <= max, "{encoding:?}: {len} of {max}");
                }
                #[cfg(feature = "centrifuge")]
                {
                    let publication = super::super::centrifuge::Publication::from(&*body);
                    let json = serde_json::to_vec(&publication).unwrap().len() + 1;
                    proptest::prop_assert!(json <= encoded_bytes_max(Encoding::CentrifugeJson, &body), "{json}");
                    let protobuf = prost::Message::encoded_len(&publication) + 4;
                    let max = encoded_bytes_max(Encoding::CentrifugeProtobuf, &body);
                    proptest::prop_assert!(protobuf <= max, "{protobuf}");
                }
            }
        }
    }

    #[test]
    fn an_envelope_is_a_line_and_the_payload() {
        let mut body = body("a", position(), 5, b"x\ny");
        let entry = std::sync::Arc::get_mut(&mut body).unwrap();
        entry.key = Some("k".into());
        entry.tags = Some([("t".to_owned(), "1".to_owned())].into());
        let frame = encode_publication(Encoding::Envelope, &body).unwrap();
        let (_, header_len) = FrameHeader::decode(&frame).unwrap().unwrap();
        let text = std::str::from_utf8(&frame[header_len..]).unwrap();
        let (head, payload) = text.split_once('\n').unwrap();
        let head: serde_json::Value = serde_json::from_str(head).unwrap();
        let expected = serde_json::json!({
            "topic": "a", "epoch": "0000000000011", "offset": 7, "time": 5, "key": "k", "tags": {"t": "1"}
        });
        assert_eq!((head, payload), (expected, "x\ny"));
    }
}
