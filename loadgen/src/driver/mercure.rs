//! Mercure: subscribers receive Server-Sent Events of the topics in their address; publishers post a form.
//!
//! Publishing requires a token: pass it as a header, `Authorization: Bearer ...`.

use std::fmt::Write;

use ringfeed::proto::Message;

use super::sse::Sse;
use super::{Driver, Outgoing, Seen};

/// A Mercure hub.
pub(crate) struct Mercure;

impl Driver for Mercure {
    fn is_event_stream(&self) -> bool {
        true
    }

    fn greeting(&self, _topic: Option<&str>) -> Vec<Outgoing> {
        Vec::new()
    }

    fn read(&self, message: Message<'_>, partial: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String> {
        Sse.read(message, partial, seen)
    }

    fn publish(&self, topic: &str, payload: &[u8]) -> Outgoing {
        Sse.publish(topic, payload)
    }

    fn post(&self, topic: &str, payload: &[u8]) -> (&'static str, Vec<u8>) {
        let form = format!("topic={}&data={}", encode(topic.as_bytes()), encode(payload));
        ("application/x-www-form-urlencoded", form.into_bytes())
    }
}

/// Percent-encodes all but letters and digits.
fn encode(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        match byte.is_ascii_alphanumeric() {
            true => encoded.push(char::from(*byte)),
            false => write!(encoded, "%{byte:02X}").expect("writing into memory"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_a_form() {
        let (content_type, body) = Mercure.post("https://a/b", br#"{"x":1}"#);
        assert_eq!(content_type, "application/x-www-form-urlencoded");
        assert_eq!(body, b"topic=https%3A%2F%2Fa%2Fb&data=%7B%22x%22%3A1%7D");
    }
}
