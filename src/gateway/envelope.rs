//! The encoding of the subprotocol `ringfeed.envelope`: a line of JSON about the publication, then its payload.

use std::sync::LazyLock;

use super::encoder::{Encoder, register};
use super::sizes::attribute_bytes_max;
use crate::proto::{Message, MessageKind, encode_message};
use crate::topics::{Body, Encoding};

/// Publications as envelopes.
pub(super) static ENVELOPE: LazyLock<Encoding> = LazyLock::new(|| register(Envelope));

/// Bytes of an envelope's punctuation, names and numbers.
const FIXED_BYTES: usize = 160;

struct Envelope;

impl Encoder for Envelope {
    fn name(&self) -> &'static str {
        "raw with envelope"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        let mut head = serde_json::json!({
            "topic": body.topic.as_str(),
            "epoch": body.position.epoch.to_string(),
            "offset": body.position.offset,
            "time": body.time_ms,
        });
        if let Some(key) = &body.key {
            head["key"] = (**key).into();
        }
        if let Some(effect) = body.effect.name() {
            head["state"] = effect.into();
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

    fn publication_bytes_max(&self, body: &Body) -> usize {
        body.payload().len() + body.topic.as_str().len() + attribute_bytes_max(body) + FIXED_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::FrameHeader;
    use crate::topics::{Effect, Epoch, Position, testing::body};

    #[test]
    fn an_envelope_is_a_line_and_the_payload() {
        let mut body = body("a", Position { epoch: Epoch::new(33), offset: 7 }, 5, b"x\ny");
        let entry = std::sync::Arc::get_mut(&mut body).unwrap();
        entry.key = Some("k".into());
        entry.tags = Some([("t".to_owned(), "1".to_owned())].into());
        let mut frame = Vec::new();
        Envelope.encode_publication(&mut frame, &body);
        let (_, header_len) = FrameHeader::decode(&frame).unwrap().unwrap();
        let text = std::str::from_utf8(&frame[header_len..]).unwrap();
        let (head, payload) = text.split_once('\n').unwrap();
        let head: serde_json::Value = serde_json::from_str(head).unwrap();
        let expected = serde_json::json!({
            "topic": "a", "epoch": "0000000000011", "offset": 7, "time": 5, "key": "k", "tags": {"t": "1"}
        });
        assert_eq!((head, payload), (expected, "x\ny"));
    }

    #[test]
    fn an_envelope_says_what_becomes_of_the_key() {
        for (effect, expected) in [(Effect::None, None), (Effect::Put, Some("put")), (Effect::Remove, Some("remove"))] {
            let mut body = body("a", Position { epoch: Epoch::new(33), offset: 7 }, 5, b"x");
            std::sync::Arc::get_mut(&mut body).unwrap().effect = effect;
            let mut frame = Vec::new();
            Envelope.encode_publication(&mut frame, &body);
            let (_, header_len) = FrameHeader::decode(&frame).unwrap().unwrap();
            let line = frame[header_len..].split(|byte| *byte == b'\n').next().unwrap();
            let head: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert_eq!(head["state"].as_str(), expected);
        }
    }
}
