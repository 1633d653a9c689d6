//! Centrifugo's client protocol as JSON: one object per line, several lines per message.
//!
//! Payloads are embedded unchanged, since they are JSON.

use std::borrow::Cow;

use ringfeed::proto::{Message, MessageKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Driver, Outgoing, Seen, text};

/// The id of the last command of a greeting: the client is ready once that succeeds.
const LAST: u32 = 2;

/// The id of a publication; only a rejection matters.
const PUBLISH: u32 = 3;

/// Centrifugo, Ringfeed's `/connection/websocket`, and other servers with this protocol.
pub(crate) struct Centrifugo;

/// The fields of a reply or push that matter here.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    error: Option<Refusal<'a>>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(Deserialize)]
struct Refusal<'a> {
    code: u32,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(borrow, rename = "pub")]
    publication: Option<Publication<'a>>,
}

#[derive(Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Driver for Centrifugo {
    fn is_stateless(&self) -> bool {
        true
    }

    fn carries_one(&self, message: Message<'_>) -> bool {
        !message.payload.contains(&b'\n')
    }

    fn greeting(&self, topic: Option<&str>) -> Vec<Outgoing> {
        let commands = match topic {
            Some(topic) => {
                let channel = json_string(topic);
                format!("{{\"connect\":{{}},\"id\":1}}\n{{\"subscribe\":{{\"channel\":{channel}}},\"id\":{LAST}}}")
            }
            None => format!(r#"{{"connect":{{}},"id":{LAST}}}"#),
        };
        vec![(MessageKind::Text, commands.into_bytes())]
    }

    fn read(&self, message: Message<'_>, _partial: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String> {
        let lines = message.payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.into_iter().try_for_each(|line| read_reply(line, seen))
    }

    fn publish(&self, topic: &str, payload: &[u8]) -> Outgoing {
        let (channel, data) = (json_string(topic), text(payload));
        let command = format!(r#"{{"publish":{{"channel":{channel},"data":{data}}},"id":{PUBLISH}}}"#);
        (MessageKind::Text, command.into_bytes())
    }

    fn post(&self, topic: &str, payload: &[u8]) -> (&'static str, Vec<u8>) {
        let (channel, data) = (json_string(topic), text(payload));
        ("application/json", format!(r#"{{"channel":{channel},"data":{data}}}"#).into_bytes())
    }

    fn check_answer(&self, body: &[u8]) -> Result<(), String> {
        let reply: Reply<'_> = parse(body)?;
        reply.error.map_or(Ok(()), |refusal| Err(refused(&refusal)))
    }
}

fn read_reply(line: &[u8], seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String> {
    // A ping.
    if line == b"{}" {
        seen(Seen::Answer(Message::text("{}")));
        return Ok(());
    }
    let Reply { id, error, push } = parse(line)?;
    if let Some(refusal) = error {
        return Err(refused(&refusal));
    }
    if let Some(Publication { data }) = push.and_then(|push| push.publication) {
        seen(Seen::Payload(Message::text(data.get())));
    } else if id == LAST {
        seen(Seen::Ready);
    }
    Ok(())
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}

fn parse(json: &[u8]) -> Result<Reply<'_>, String> {
    let front = &json[..json.len().min(100)];
    serde_json::from_slice(json).map_err(|error| format!("not a reply: {error}: {}", front.escape_ascii()))
}

fn refused(refusal: &Refusal<'_>) -> String {
    format!("refused with {} {}", refusal.code, refusal.message)
}

#[cfg(test)]
mod tests {
    use super::super::seen;
    use super::*;

    #[test]
    fn replies_pushes_and_pings_are_distinguished() {
        let messages = [
            "{\"id\":1,\"connect\":{\"client\":\"x\",\"ping\":25}}\n{\"id\":2,\"subscribe\":{}}",
            "{\"push\":{\"channel\":\"a\",\"pub\":{\"data\":[\"p\", 1],\"offset\":7}}}\n{}\n",
            "{\"push\":{\"channel\":\"a\",\"join\":{\"info\":{}}}}",
        ];
        assert_eq!(seen(&Centrifugo, &messages).unwrap(), ["ready", "payload [\"p\", 1]", "answer {}"]);
    }

    #[test]
    fn a_rejection_is_an_error_in_a_reply_and_in_a_response() {
        let refusal = r#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#;
        assert_eq!(seen(&Centrifugo, &[refusal]).unwrap_err(), "refused with 103 permission denied");
        let answer = br#"{"error":{"code":102,"message":"unknown channel"}}"#;
        assert_eq!(Centrifugo.check_answer(answer).unwrap_err(), "refused with 102 unknown channel");
        assert_eq!(Centrifugo.check_answer(br#"{"result":{"offset":1,"epoch":"e"}}"#), Ok(()));
        assert!(seen(&Centrifugo, &["nonsense"]).is_err());
    }

    #[test]
    fn commands_follow_the_protocol() {
        let text = |(_, bytes): Outgoing| String::from_utf8(bytes).unwrap();
        assert_eq!(
            text(Centrifugo.greeting(Some("a")).remove(0)),
            "{\"connect\":{},\"id\":1}\n{\"subscribe\":{\"channel\":\"a\"},\"id\":2}"
        );
        assert_eq!(text(Centrifugo.greeting(None).remove(0)), "{\"connect\":{},\"id\":2}");
        let published = text(Centrifugo.publish("a\"b", b"[1]"));
        assert_eq!(published, r#"{"publish":{"channel":"a\"b","data":[1]},"id":3}"#);
        assert_eq!(Centrifugo.post("a", b"[1]").1, br#"{"channel":"a","data":[1]}"#);
    }
}
