//! The Protobuf encoding: length-delimited commands, concatenated in a binary message, and replies in the same form.
//!
//! The field numbers are those of Centrifugo's `client.proto`. The decoder skips fields without a meaning here.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::filter::read_filter_protobuf;
use super::protocol::{
    Command, ConnectRequest, HistoryRequest, Malformed, PublishRequest, Request, StreamPosition, SubscribeRequest,
    Taken,
};
use super::reply::Reply;

/// Passes each command of `message` to `take`, in order, until `take` stops. Returns the rest of the message from the
/// first command that was not taken.
///
/// # Errors
/// [`Malformed`]; `take` has received the commands before the error.
pub fn read_protobuf(message: &[u8], mut take: impl FnMut(Command<'_>) -> Taken) -> Result<&[u8], Malformed> {
    let mut rest = message;
    loop {
        let before = rest;
        let command = WireCommand::decode_length_delimited(&mut rest).map_err(|_| Malformed)?;
        match take(command.command()?) {
            Taken::Yes if !rest.is_empty() => {}
            Taken::Yes | Taken::Last => return Ok(b""),
            Taken::Later => return Ok(before),
        }
    }
}

/// Appends a reply.
pub fn encode_reply_protobuf(out: &mut Vec<u8>, reply: &Reply) {
    reply.encode_length_delimited(out).expect("a vector grows as needed");
}

#[derive(Clone, PartialEq, Message)]
struct WireCommand {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "4")]
    connect: Option<WireConnect>,
    #[prost(message, optional, tag = "5")]
    subscribe: Option<WireSubscribe>,
    #[prost(message, optional, tag = "6")]
    unsubscribe: Option<WireChannel>,
    #[prost(message, optional, tag = "7")]
    publish: Option<WirePublish>,
    #[prost(message, optional, tag = "8")]
    presence: Option<WireChannel>,
    #[prost(message, optional, tag = "9")]
    presence_stats: Option<WireChannel>,
    #[prost(message, optional, tag = "10")]
    history: Option<WireHistory>,
    #[prost(message, optional, tag = "11")]
    ping: Option<WirePing>,
    #[prost(message, optional, tag = "12")]
    send: Option<WireSend>,
    #[prost(message, optional, tag = "13")]
    rpc: Option<WireRpc>,
    #[prost(message, optional, tag = "14")]
    refresh: Option<WireRefresh>,
    #[prost(message, optional, tag = "15")]
    sub_refresh: Option<WireSubRefresh>,
}

#[derive(Clone, PartialEq, Message)]
struct WireConnect {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
    #[prost(btree_map = "string, message", tag = "3")]
    subs: BTreeMap<String, WireSubscribe>,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "5")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireSubscribe {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(string, tag = "2")]
    token: String,
    #[prost(bool, tag = "3")]
    recover: bool,
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(uint64, tag = "7")]
    offset: u64,
    #[prost(bytes = "bytes", tag = "8")]
    data: Bytes,
    #[prost(bool, tag = "11")]
    join_leave: bool,
    #[prost(string, tag = "12")]
    delta: String,
    #[prost(bytes = "bytes", optional, tag = "13")]
    filter: Option<Bytes>,
    #[prost(int64, tag = "14")]
    flag: i64,
    #[prost(int32, tag = "15")]
    kind: i32,
    #[prost(int32, tag = "16")]
    phase: i32,
    #[prost(string, tag = "17")]
    cursor: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireChannel {
    #[prost(string, tag = "1")]
    channel: String,
}

#[derive(Clone, PartialEq, Message)]
struct WirePublish {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(string, tag = "4")]
    key: String,
    #[prost(bool, tag = "5")]
    removed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WireHistory {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(int32, tag = "7")]
    limit: i32,
    #[prost(message, optional, tag = "8")]
    since: Option<WirePosition>,
    #[prost(bool, tag = "9")]
    reverse: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WirePosition {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(string, tag = "2")]
    epoch: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct WirePing {}

#[derive(Clone, PartialEq, Message)]
struct WireSend {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WireRpc {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    #[prost(string, tag = "2")]
    method: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireRefresh {
    #[prost(string, tag = "1")]
    token: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireSubRefresh {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(string, tag = "2")]
    token: String,
}

impl WireCommand {
    fn command(&self) -> Result<Command<'_>, Malformed> {
        let requests = [
            self.connect.as_ref().map(|connect| Request::Connect(connect.request())),
            self.subscribe.as_ref().map(|subscribe| Request::Subscribe(subscribe.request(&subscribe.channel))),
            self.unsubscribe.as_ref().map(|WireChannel { channel }| Request::Unsubscribe { channel }),
            self.publish.as_ref().map(|publish| Request::Publish(publish.request())),
            self.presence.as_ref().map(|WireChannel { channel }| Request::Presence { channel }),
            self.presence_stats.as_ref().map(|WireChannel { channel }| Request::PresenceStats { channel }),
            self.history.as_ref().map(|history| Request::History(history.request())),
            self.ping.map(|WirePing {}| Request::Ping),
            self.send.as_ref().map(|WireSend { data }| Request::Send { data }),
            self.rpc.as_ref().map(|WireRpc { data, method }| Request::Rpc { method, data }),
            self.refresh.as_ref().map(|WireRefresh { token }| Request::Refresh { token }),
            self.sub_refresh.as_ref().map(|WireSubRefresh { channel, token }| Request::SubRefresh { channel, token }),
        ];
        let mut requests = requests.into_iter().flatten();
        let request = requests.next();
        if requests.next().is_some() {
            return Err(Malformed);
        }
        Command::new(self.id, request)
    }
}

impl WireConnect {
    fn request(&self) -> ConnectRequest<'_> {
        let subs = self.subs.iter().map(|(channel, subscribe)| subscribe.request(channel)).collect();
        let WireConnect { token, data, name, version, .. } = self;
        ConnectRequest { token, subs, data, name, version }
    }
}

impl WireSubscribe {
    fn request<'a>(&'a self, channel: &'a str) -> SubscribeRequest<'a> {
        SubscribeRequest {
            channel,
            token: &self.token,
            recover: self.recover,
            epoch: &self.epoch,
            offset: self.offset,
            join_leave: self.join_leave,
            delta: &self.delta,
            filter: self.filter.as_deref().map(|filter| read_filter_protobuf(filter).map(Arc::new)),
            flag: self.flag,
            kind: self.kind,
            phase: self.phase,
            cursor: &self.cursor,
            data: &self.data,
        }
    }
}

impl WirePublish {
    fn request(&self) -> PublishRequest<'_> {
        let WirePublish { channel, data, kind, key, removed } = self;
        PublishRequest { channel, data, kind: *kind, key, removed: *removed }
    }
}

impl WireHistory {
    fn request(&self) -> HistoryRequest<'_> {
        let since = self.since.as_ref().map(|WirePosition { offset, epoch }| StreamPosition { offset: *offset, epoch });
        HistoryRequest { channel: &self.channel, limit: self.limit, since, reverse: self.reverse }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::json::JsonReader;
    use super::*;

    fn read(message: &[u8]) -> (Vec<String>, Result<(), Malformed>) {
        let mut commands = Vec::new();
        let outcome = read_protobuf(message, |command| {
            commands.push(format!("{command:?}"));
            Taken::Yes
        });
        (commands, outcome.map(drop))
    }

    /// A command with its length prefix.
    fn framed(command: &[u8]) -> Vec<u8> {
        [&[command.len() as u8], command].concat()
    }

    #[test]
    fn both_encodings_decode_to_the_same_commands() {
        let rows: [(&[u8], &str); 15] = [
            (b"", "{}"),
            (b"\x08\x01\x22\x00", r#"{"id":1,"connect":{}}"#),
            (
                b"\x08\x01\x22\x10\x0a\x01t\x1a\x0b\x0a\x01x\x12\x06\x18\x01\x32\x00\x38\x07",
                r#"{"id":1,"connect":{"token":"t","subs":{"x":{"recover":true,"epoch":"","offset":7}}}}"#,
            ),
            (
                b"\x08\x02\x2a\x18\x0a\x01a\x12\x01t\x18\x01\x32\x01e\x38\x07\x58\x01\x62\x01d\x6a\x00\x70\x03\x78\x01",
                r#"{"id":2,"subscribe":{"channel":"a","token":"t","recover":true,"epoch":"e","offset":7,
                    "join_leave":true,"delta":"d","tf":{},"flag":3,"type":1}}"#,
            ),
            (
                b"\x08\x02\x2a\x0c\x0a\x01a\x78\x01\x80\x01\x02\x8a\x01\x01c",
                r#"{"id":2,"subscribe":{"channel":"a","type":1,"phase":2,"cursor":"c"}}"#,
            ),
            (
                b"\x08\x02\x3a\x0a\x0a\x01a\x18\x01\x22\x01k\x28\x01",
                r#"{"id":2,"publish":{"channel":"a","type":1,"key":"k","removed":true}}"#,
            ),
            (b"\x08\x02\x32\x03\x0a\x01a", r#"{"id":2,"unsubscribe":{"channel":"a"}}"#),
            (b"\x08\x02\x3a\x06\x0a\x01a\x12\x01\x31", r#"{"id":2,"publish":{"channel":"a","data":1}}"#),
            (b"\x08\x02\x42\x03\x0a\x01a", r#"{"id":2,"presence":{"channel":"a"}}"#),
            (b"\x08\x02\x4a\x03\x0a\x01a", r#"{"id":2,"presence_stats":{"channel":"a"}}"#),
            (
                b"\x08\x02\x52\x0e\x0a\x01a\x38\x05\x42\x05\x08\x03\x12\x01e\x48\x01",
                r#"{"id":2,"history":{"channel":"a","limit":5,"since":{"offset":3,"epoch":"e"},"reverse":true}}"#,
            ),
            (b"\x08\x02\x5a\x00", r#"{"id":2,"ping":{}}"#),
            (b"\x62\x03\x0a\x01\x31", r#"{"send":{"data":1}}"#),
            (b"\x08\x02\x6a\x06\x0a\x01\x31\x12\x01m", r#"{"id":2,"rpc":{"data":1,"method":"m"}}"#),
            (b"\x08\x02\x7a\x06\x0a\x01a\x12\x01t", r#"{"id":2,"sub_refresh":{"channel":"a","token":"t"}}"#),
        ];
        let mut all = (Vec::new(), Vec::new());
        for (protobuf, json) in rows {
            let json = json.replace('\n', " ");
            let mut expected = Vec::new();
            let outcome = JsonReader::default().read(json.as_bytes(), |command| {
                expected.push(format!("{command:?}"));
                Taken::Yes
            });
            assert_eq!(outcome, Ok(&b""[..]), "{json}");
            assert_eq!(read(&framed(protobuf)), (expected.clone(), Ok(())), "{json}");
            all.0.extend(framed(protobuf));
            all.1.extend(expected);
        }
        assert_eq!(read(&all.0), (all.1, Ok(())), "all in one message");
    }

    #[test]
    fn malformed_commands_are_rejected() {
        let rows: [&[u8]; 8] = [
            b"",
            b"\x05",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xff\xff\xff\xff\x0f",
            b"\x02\x08\x01",
            b"\x06\x08\x01\x22\x00\x5a\x00",
            b"\x02\x5a\x00",
            b"\x06\x08\x02\x32\x02\x0a\x01",
        ];
        for message in rows {
            assert_eq!(read(message), (vec![], Err(Malformed)), "{message:x?}");
        }
        let (commands, outcome) = read(b"\x00\x04\x08\x01\x5a\x00\x07");
        assert_eq!((commands.len(), outcome), (2, Err(Malformed)), "the commands before the error count");
    }

    #[test]
    fn a_command_may_be_left_for_later() {
        let message = b"\x00\x04\x08\x01\x5a\x00\x00";
        for (end, expected) in [(Taken::Later, &message[1..]), (Taken::Last, &[])] {
            let mut seen = 0;
            let outcome = read_protobuf(message, |_| {
                seen += 1;
                if seen < 2 { Taken::Yes } else { end }
            });
            assert_eq!((seen, outcome), (2, Ok(expected)));
        }
    }

    #[test]
    fn replies_have_a_length_prefix() {
        let mut out = Vec::new();
        encode_reply_protobuf(&mut out, &Reply::default());
        assert_eq!(out, [0], "a ping");
    }

    proptest! {
        #[test]
        fn no_message_causes_a_panic(message in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&message);
        }
    }
}
