//! A protocol described by a file: the messages of a client, and the place of payloads in received messages.

use std::collections::BTreeMap;
use std::path::Path;

use ringfeed::proto::{Message, MessageKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Driver, Outgoing, Seen, text};
use crate::error::Error;

/// The file, as JSON. In all texts `{topic}` is replaced by the topic name.
///
/// ```json
/// {
///   "subprotocol": "x.v1",
///   "subscribe": ["{\"type\":\"subscribe\",\"to\":\"{topic}\"}"],
///   "ready": "\"subscribed\"",
///   "refused": "\"error\"",
///   "payload_after": "\"data\":",
///   "json": true,
///   "answers": {"{\"type\":\"ping\"}": "{\"type\":\"pong\"}"},
///   "publish": "{\"type\":\"publish\",\"to\":\"{topic}\",\"data\":{payload}}"
/// }
/// ```
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Script {
    subprotocol: Option<String>,
    /// Messages are binary instead of text.
    #[serde(default)]
    binary: bool,
    /// The first messages of a subscriber.
    #[serde(default)]
    subscribe: Vec<String>,
    /// The first messages of a publisher.
    #[serde(default)]
    introduce: Vec<String>,
    /// A message that contains this marks the client as ready. Required if the client sends first messages.
    ready: Option<String>,
    /// A message that contains this is a rejection.
    refused: Option<String>,
    /// The payload follows this, in a message that contains it. Without it, a whole message is a payload.
    payload_after: Option<String>,
    /// Messages are JSON, and a payload is one JSON value; otherwise it is the rest of the message.
    #[serde(default)]
    json: bool,
    /// Replies to messages that are exactly equal to the key.
    #[serde(default)]
    answers: BTreeMap<String, String>,
    /// The publication, by WebSocket or as the body of a POST; `{payload}` is replaced by the payload, which is a JSON
    /// array of strings and objects.
    publish: Option<String>,
}

impl Script {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it can't be read, or is not a valid script.
    pub(crate) fn read(path: &Path) -> Result<Script, Error> {
        let fail = |why: String| Error::new(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        Script::parse(&text).map_err(fail)
    }

    fn parse(text: &str) -> Result<Script, String> {
        let script: Script = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if script.ready.is_none() && !(script.subscribe.is_empty() && script.introduce.is_empty()) {
            return Err("\"subscribe\" and \"introduce\" need \"ready\", which shows that they succeeded".to_owned());
        }
        Ok(script)
    }

    fn kind(&self) -> MessageKind {
        if self.binary { MessageKind::Binary } else { MessageKind::Text }
    }

    /// Reports the payload in `rest`, the bytes after the mark.
    fn read_payload(&self, kind: MessageKind, rest: &[u8], seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String> {
        if !self.json {
            seen(Seen::Payload(Message { kind, payload: rest }));
            return Ok(());
        }
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
        match values.next() {
            Some(Ok(payload)) => {
                seen(Seen::Payload(Message { kind, payload: payload.get().as_bytes() }));
                Ok(())
            }
            Some(Err(error)) => Err(format!("payload is no JSON value: {error}")),
            None => Err("no payload after its mark".to_owned()),
        }
    }

    fn publication(&self, topic: &str, payload: &[u8]) -> Vec<u8> {
        let template = self.publish.as_deref().unwrap_or("{payload}");
        template.replace("{topic}", topic).replace("{payload}", text(payload)).into_bytes()
    }
}

impl Driver for Script {
    fn is_stateless(&self) -> bool {
        true
    }

    fn payload_kind(&self) -> MessageKind {
        self.kind()
    }

    fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    fn greeting(&self, topic: Option<&str>) -> Vec<Outgoing> {
        let messages = if topic.is_some() { &self.subscribe } else { &self.introduce };
        let fill = |text: &String| text.replace("{topic}", topic.unwrap_or_default()).into_bytes();
        messages.iter().map(|text| (self.kind(), fill(text))).collect()
    }

    fn read(&self, message: Message<'_>, _partial: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String> {
        let text = String::from_utf8_lossy(message.payload);
        let contains = |mark: &Option<String>| mark.as_ref().is_some_and(|mark| text.contains(&**mark));
        if let Some(answer) = self.answers.get(&*text) {
            seen(Seen::Answer(Message { kind: self.kind(), payload: answer.as_bytes() }));
        } else if contains(&self.refused) {
            return Err(format!("refused: {text}"));
        } else if contains(&self.ready) {
            seen(Seen::Ready);
        } else if let Some(mark) = &self.payload_after {
            let Some(at) = text.find(&**mark) else { return Ok(()) };
            return self.read_payload(message.kind, &text.as_bytes()[at + mark.len()..], seen);
        } else {
            return self.read_payload(message.kind, message.payload, seen);
        }
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8]) -> Outgoing {
        (self.kind(), self.publication(topic, payload))
    }

    fn post(&self, topic: &str, payload: &[u8]) -> (&'static str, Vec<u8>) {
        let content_type = if self.json { "application/json" } else { "text/plain" };
        (content_type, self.publication(topic, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::super::seen;
    use super::*;

    const EXAMPLE: &str = r#"{
        "subscribe": ["{\"to\":\"{topic}\"}"], "ready": "\"ok\"", "refused": "\"no\"",
        "payload_after": "\"data\":", "json": true, "answers": {"ping": "pong"},
        "publish": "{\"on\":\"{topic}\",\"data\":{payload}}"
    }"#;

    #[test]
    fn a_script_defines_sent_and_received_messages() {
        let script = Script::parse(EXAMPLE).unwrap();
        assert_eq!(script.greeting(Some("t")), [(MessageKind::Text, br#"{"to":"t"}"#.to_vec())]);
        assert!(script.greeting(None).is_empty());
        assert_eq!(script.publish("t", b"[\"p\"]").1, br#"{"on":"t","data":["p"]}"#);
        let messages = [r#"{"ok":1}"#, r#"{"on":"t","data":["p", 1],"x":1}"#, "ping", "whatever"];
        assert_eq!(seen(&script, &messages).unwrap(), ["ready", "payload [\"p\", 1]", "answer pong"]);
        assert!(seen(&script, &[r#"{"no":1}"#]).unwrap_err().contains("refused"));
        assert!(seen(&script, &[r#"{"data":}"#]).unwrap_err().contains("no JSON value"));
    }

    #[test]
    fn an_empty_script_sends_plain_payloads() {
        let script = Script::parse("{}").unwrap();
        assert_eq!(seen(&script, &["hello"]).unwrap(), ["payload hello"]);
        assert_eq!(script.publish("t", b"hello").1, b"hello");
    }

    #[test]
    fn errors_in_a_script_are_named() {
        assert!(Script::parse(r#"{"subscribe": ["x"]}"#).unwrap_err().contains("ready"));
        assert!(Script::parse(r#"{"subscibe": ["x"]}"#).unwrap_err().contains("subscibe"));
        assert!(Script::read(Path::new("not/there")).unwrap_err().to_string().starts_with("not/there: "));
    }
}
