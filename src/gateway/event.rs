//! The encoding of event streams (HTML Living Standard §9.2), and their heartbeat.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::catch_up::position_text;
use super::encoder::{Encoder, register};
use super::sizes::{base64_bytes, escaped_bytes};
use crate::conn::Heartbeat;
use crate::topics::{Body, Effect, Encoding};

/// Publications as events of a stream with one topic.
pub(super) static EVENT: LazyLock<Encoding> = LazyLock::new(|| register(Event));

/// A comment at each interval.
pub(super) static COMMENT: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b":\n\n", None));

/// Bytes of an event without its data, with the longest id of a single topic.
const EVENT_BYTES: usize = 80;

/// Bytes of the names and punctuation in the first line of an event of a keyed topic.
const HEAD_BYTES: usize = 80;

struct Event;

impl Encoder for Event {
    fn name(&self) -> &'static str {
        "event stream"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        encode_event(out, body, &position_text(body.position));
    }

    fn publication_bytes_max(&self, body: &Body) -> usize {
        event_bytes_max(body)
    }
}

/// Maximum bytes of a publication as an event with the longest id of a single topic.
pub(super) fn event_bytes_max(body: &Body) -> usize {
    let payload = body.payload();
    let head = body.effect.name().map_or(0, |_| {
        HEAD_BYTES + body.topic.as_str().len() + escaped_bytes(body.key.as_deref().unwrap_or_default().as_bytes())
    });
    if !body.is_text {
        return base64_bytes(payload.len()) + head + EVENT_BYTES;
    }
    let ends = payload.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
    payload.len() + ends * "data: ".len() + head + EVENT_BYTES
}

/// Appends an event of a `text/event-stream`. A binary payload is base64 in an event named `base64`; see
/// [`encode_change`] for keyed topics.
pub(super) fn encode_event(out: &mut Vec<u8>, body: &Body, id: &str) {
    out.extend_from_slice(format!("id: {id}\n").as_bytes());
    let text = std::str::from_utf8(body.payload()).ok().filter(|_| body.is_text);
    if let Some(effect) = body.effect.name() {
        return encode_change(out, body, effect, text);
    }
    match text {
        Some(text) => encode_data(out, text),
        None => {
            out.extend_from_slice(b"event: base64\n");
            encode_data(out, &STANDARD.encode(body.payload()));
        }
    }
    out.push(b'\n');
}

/// Appends an event of a keyed topic, named by its effect: a line of JSON with topic and key, then the value, in base64
/// where the line says so.
fn encode_change(out: &mut Vec<u8>, body: &Body, effect: &str, text: Option<&str>) {
    let mut head = serde_json::json!({"topic": body.topic.as_str(), "key": body.key.as_deref().unwrap_or_default()});
    if text.is_none() {
        head["base64"] = true.into();
    }
    out.extend_from_slice(format!("event: {effect}\ndata: {head}\n").as_bytes());
    match (body.effect, text) {
        (Effect::Remove, _) => {}
        (_, Some(text)) => encode_data(out, text),
        (_, None) => encode_data(out, &STANDARD.encode(body.payload())),
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
    use crate::topics::{Epoch, Position, testing::body};

    fn event(payload: &[u8], is_text: bool) -> String {
        let mut body = body("a", Position { epoch: Epoch::new(33), offset: 7 }, 0, payload);
        std::sync::Arc::get_mut(&mut body).unwrap().is_text = is_text;
        let mut out = Vec::new();
        Event.encode_publication(&mut out, &body);
        String::from_utf8(out).unwrap()
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

    #[test]
    fn an_event_of_a_keyed_topic_begins_with_its_key() {
        let rows: [(Effect, &[u8], bool, &str); 3] = [
            (Effect::Put, b"x\ny", true, "event: put\ndata: {\"key\":\"k\",\"topic\":\"a\"}\ndata: x\ndata: y\n\n"),
            (
                Effect::Put,
                b"\xff\x00",
                false,
                "event: put\ndata: {\"base64\":true,\"key\":\"k\",\"topic\":\"a\"}\ndata: /wA=\n\n",
            ),
            (Effect::Remove, b"", true, "event: remove\ndata: {\"key\":\"k\",\"topic\":\"a\"}\n\n"),
        ];
        for (effect, payload, is_text, expected) in rows {
            let mut body = body("a", Position { epoch: Epoch::new(33), offset: 7 }, 0, payload);
            let entry = std::sync::Arc::get_mut(&mut body).unwrap();
            (entry.effect, entry.is_text, entry.key) = (effect, is_text, Some("k".into()));
            let mut out = Vec::new();
            Event.encode_publication(&mut out, &body);
            assert!(out.len() <= event_bytes_max(&body));
            assert_eq!(String::from_utf8(out).unwrap(), format!("id: 0000000000011:7\n{expected}"));
        }
    }
}
