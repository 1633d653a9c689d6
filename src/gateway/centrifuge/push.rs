//! Encodes pushes to the subscribers of a topic: once per encoding, for any number of subscribers.

use super::json::encode_reply_json;
use super::protobuf::encode_reply_protobuf;
use super::reply::{ClientInfo, Presence, Publication, Push, Reply};
use crate::topics::{self, Body, TopicName};

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
