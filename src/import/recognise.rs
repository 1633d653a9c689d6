//! Which protocol a foreign service speaks above WebSocket, and what follows from it: what its messages carry, and
//! which pings have to be answered.

use std::fmt;

use serde_json::{Value, json};

use crate::proto::{Message, MessageKind};

/// Ends a message of SignalR.
const RECORD_SEPARATOR: u8 = 0x1e;

/// A protocol above WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Engine.IO 4 below Socket.IO 5, or alone.
    SocketIo,
    /// SockJS.
    SockJs,
    /// The JSON hub protocol of ASP.NET Core.
    SignalR,
    /// STOMP 1.0 to 1.2.
    Stomp,
    /// MQTT 3.1 to 5.
    Mqtt,
    /// Pusher Channels.
    Pusher,
    /// Centrifugo's client protocol as JSON.
    Centrifugo,
    /// GraphQL by the subprotocol `graphql-transport-ws`.
    GraphqlTransport,
    /// GraphQL by the older subprotocol `graphql-ws`.
    Graphql,
    /// Channels of Phoenix.
    Phoenix,
    /// JSON-RPC 2.0.
    JsonRpc,
    /// NATS.
    Nats,
    /// Messages of JSON without a known frame around them.
    Json,
    /// Text that is not JSON.
    Text,
    /// Binary messages.
    Binary,
    /// Nothing was received.
    Silent,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::SocketIo => "Socket.IO",
            Protocol::SockJs => "SockJS",
            Protocol::SignalR => "SignalR",
            Protocol::Stomp => "STOMP",
            Protocol::Mqtt => "MQTT",
            Protocol::Pusher => "Pusher",
            Protocol::Centrifugo => "Centrifugo",
            Protocol::GraphqlTransport => "GraphQL (graphql-transport-ws)",
            Protocol::Graphql => "GraphQL (graphql-ws)",
            Protocol::Phoenix => "Phoenix",
            Protocol::JsonRpc => "JSON-RPC 2.0",
            Protocol::Nats => "NATS",
            Protocol::Json => "JSON",
            Protocol::Text => "text",
            Protocol::Binary => "binary",
            Protocol::Silent => "nothing yet",
        })
    }
}

impl Protocol {
    /// What to send so that more comes.
    pub fn advice(self) -> Option<&'static str> {
        Some(match self {
            Protocol::SocketIo => "--send 40 joins the namespace /; pings are answered",
            Protocol::SignalR => {
                "send the handshake {\"protocol\":\"json\",\"version\":1} and the byte 0x1e, from a file: --send @FILE"
            }
            Protocol::Stomp => "offer --subprotocol v12.stomp and send CONNECT and SUBSCRIBE frames: --send @FILE",
            Protocol::Mqtt => "offer --subprotocol mqtt and send CONNECT and SUBSCRIBE packets: --send @FILE",
            Protocol::Pusher => "--send '{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"NAME\"}}'",
            Protocol::Centrifugo => {
                "--send '{\"id\":1,\"connect\":{}}' --send '{\"id\":2,\"subscribe\":{\"channel\":\"NAME\"}}'"
            }
            Protocol::GraphqlTransport => {
                "--send '{\"type\":\"connection_init\"}' --send '{\"id\":\"1\",\"type\":\"subscribe\",\"payload\":{\"query\":\"…\"}}'"
            }
            Protocol::Graphql => {
                "--send '{\"type\":\"connection_init\"}' --send '{\"id\":\"1\",\"type\":\"start\",\"payload\":{\"query\":\"…\"}}'"
            }
            Protocol::Phoenix => "--send '[\"1\",\"1\",\"TOPIC\",\"phx_join\",{}]'",
            Protocol::Silent => "the service may wait for a request: --send TEXT",
            _ => return None,
        })
    }

    /// The pong for a ping of the protocol, which ends conversations in which nobody answers.
    pub fn pong(self, message: Message<'_>) -> Option<Vec<u8>> {
        let text = message.payload;
        let json = || serde_json::from_slice::<Value>(text).ok();
        match self {
            Protocol::SocketIo if text == b"2" => Some(b"3".to_vec()),
            Protocol::Centrifugo if text.trim_ascii() == b"{}" => Some(b"{}".to_vec()),
            Protocol::SignalR if text.ends_with(b"{\"type\":6}\x1e") => Some(b"{\"type\":6}\x1e".to_vec()),
            Protocol::Pusher if json()?["event"] == "pusher:ping" => Some(pusher_pong()),
            Protocol::GraphqlTransport if json()?["type"] == "ping" => Some(json!({"type": "pong"}).to_string().into()),
            Protocol::Nats if text.starts_with(b"PING\r\n") => Some(b"PONG\r\n".to_vec()),
            _ => None,
        }
    }

    /// The JSON values that a message carries, without what the protocol puts around them. `None`: none.
    pub fn payloads(self, message: Message<'_>) -> Option<Vec<Value>> {
        let text = std::str::from_utf8(message.payload).ok()?;
        match self {
            Protocol::SocketIo => socket_io(text).map(|value| vec![value]),
            Protocol::SockJs => {
                let strings: Vec<String> = serde_json::from_str(text.strip_prefix('a')?).ok()?;
                strings.iter().map(|text| serde_json::from_str(text).ok()).collect()
            }
            Protocol::SignalR => pieces(text.split(char::from(RECORD_SEPARATOR))),
            Protocol::Centrifugo => pieces(text.lines()),
            Protocol::Stomp => {
                let (_, body) = text.split_once("\n\n").or_else(|| text.split_once("\r\n\r\n"))?;
                serde_json::from_str(body.trim_end_matches(['\0', '\n', '\r'])).ok().map(|value| vec![value])
            }
            Protocol::Nats | Protocol::Mqtt => None,
            _ => serde_json::from_str(text).ok().map(|value| vec![value]),
        }
    }
}

fn pusher_pong() -> Vec<u8> {
    json!({"event": "pusher:pong", "data": {}}).to_string().into()
}

/// Several JSON values in one message.
fn pieces<'a>(pieces: impl Iterator<Item = &'a str>) -> Option<Vec<Value>> {
    let pieces = pieces.filter(|piece| !piece.trim().is_empty());
    pieces.map(|piece| serde_json::from_str(piece).ok()).collect()
}

/// An event of Socket.IO: `42`, maybe a namespace and an identifier, and an array.
fn socket_io(text: &str) -> Option<Value> {
    let rest = text.strip_prefix("42").or_else(|| text.strip_prefix("43"))?;
    let start = rest.find('[')?;
    serde_json::from_str(&rest[start..]).ok()
}

/// By which a service is recognised.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Path and query of the URL.
    pub target: &'a str,
    /// What the service chose.
    pub subprotocol: Option<&'a str>,
    /// Its first messages.
    pub messages: &'a [Message<'a>],
}

/// The protocol, and what it was recognised by.
pub fn recognise(evidence: Evidence<'_>) -> (Protocol, String) {
    if let Some(name) = evidence.subprotocol
        && let Some(protocol) = by_subprotocol(name)
    {
        return (protocol, format!("the service chose the subprotocol {name}"));
    }
    let found = evidence.messages.iter().find_map(|message| by_message(*message));
    if let Some((protocol, because)) = found {
        return (protocol, because.to_owned());
    }
    if let Some((protocol, path)) = by_target(evidence.target) {
        return (protocol, format!("the URL has {path}, as is usual there"));
    }
    let is_json = |message: &&Message<'_>| serde_json::from_slice::<Value>(message.payload).is_ok();
    let json = evidence.messages.iter().filter(is_json).count();
    match evidence.messages {
        [] => (Protocol::Silent, "no message was received".to_owned()),
        messages if json * 2 >= messages.len() => (Protocol::Json, "its messages are JSON".to_owned()),
        [first, ..] if first.kind == MessageKind::Text => (Protocol::Text, "its messages are text".to_owned()),
        _ => (Protocol::Binary, "its messages are binary".to_owned()),
    }
}

fn by_subprotocol(name: &str) -> Option<Protocol> {
    Some(match name {
        "v10.stomp" | "v11.stomp" | "v12.stomp" | "stomp" => Protocol::Stomp,
        "mqtt" | "mqttv3.1" => Protocol::Mqtt,
        "graphql-transport-ws" => Protocol::GraphqlTransport,
        "graphql-ws" => Protocol::Graphql,
        "centrifuge-json" => Protocol::Centrifugo,
        _ => return None,
    })
}

fn by_message(message: Message<'_>) -> Option<(Protocol, &'static str)> {
    let bytes = message.payload;
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if bytes.starts_with(b"INFO {") && text.contains("\"server_id\"") {
        return Some((Protocol::Nats, "it greets with INFO"));
    }
    let is_stomp = ["CONNECTED", "MESSAGE", "ERROR", "RECEIPT"].iter().any(|command| {
        text.strip_prefix(command).is_some_and(|rest| rest.starts_with('\n') || rest.starts_with("\r\n"))
    });
    if is_stomp && text.trim_end().ends_with('\0') {
        return Some((Protocol::Stomp, "it sends frames of STOMP"));
    }
    if message.kind == MessageKind::Binary
        && bytes.len() >= 4
        && bytes[0] == 0x20
        && usize::from(bytes[1]) == bytes.len() - 2
    {
        return Some((Protocol::Mqtt, "it sends CONNACK"));
    }
    if text == "o" || text.starts_with("a[\"") {
        return Some((Protocol::SockJs, "it sends frames of SockJS"));
    }
    if let Some(open) = text.strip_prefix('0').and_then(|open| serde_json::from_str::<Value>(open).ok()) {
        return (open["sid"].is_string() && open["pingInterval"].is_u64())
            .then_some((Protocol::SocketIo, "it begins with the open packet of Engine.IO"));
    }
    if bytes.last() == Some(&RECORD_SEPARATOR) && text.starts_with('{') {
        return Some((Protocol::SignalR, "its messages are JSON that ends with the byte 0x1e"));
    }
    let value: Value = serde_json::from_str(text.lines().next()?).or_else(|_| serde_json::from_str(text)).ok()?;
    by_json(&value)
}

fn by_json(value: &Value) -> Option<(Protocol, &'static str)> {
    if let Value::Array(elements) = value {
        let is_phoenix =
            elements.len() == 5 && elements[2].is_string() && elements[3].is_string() && elements[4].is_object();
        return is_phoenix.then_some((Protocol::Phoenix, "its messages are [join, ref, topic, event, payload]"));
    }
    let event = value["event"].as_str().unwrap_or_default();
    if event.starts_with("pusher:") || event.starts_with("pusher_internal:") {
        return Some((Protocol::Pusher, "it sends events of Pusher"));
    }
    if value["jsonrpc"] == "2.0" {
        return Some((Protocol::JsonRpc, "its messages say jsonrpc 2.0"));
    }
    if value["connect"]["client"].is_string() || value["push"]["channel"].is_string() {
        return Some((Protocol::Centrifugo, "it sends replies of Centrifugo"));
    }
    let has = |name: &str| value.get(name).is_some();
    if has("topic") && event.starts_with("phx_") && has("payload") {
        return Some((Protocol::Phoenix, "it sends events of Phoenix"));
    }
    match value["type"].as_str() {
        Some("connection_ack") => Some((Protocol::GraphqlTransport, "it acknowledges a connection of GraphQL")),
        Some("ka") if value.as_object().is_some_and(|members| members.len() == 1) => {
            Some((Protocol::Graphql, "it sends ka messages"))
        }
        _ => None,
    }
}

fn by_target(target: &str) -> Option<(Protocol, &'static str)> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.trim_end_matches('/');
    let rows = [
        (path.ends_with("/socket.io") || query.contains("EIO="), Protocol::SocketIo, "/socket.io/"),
        (path.ends_with("/connection/websocket"), Protocol::Centrifugo, "/connection/websocket"),
        (path.ends_with("/socket/websocket") && query.contains("vsn="), Protocol::Phoenix, "/socket/websocket?vsn="),
        (path.contains("/app/") && query.contains("protocol="), Protocol::Pusher, "/app/KEY?protocol="),
        (path.ends_with("/graphql"), Protocol::GraphqlTransport, "/graphql"),
        (path.ends_with("/mqtt"), Protocol::Mqtt, "/mqtt"),
        (path.ends_with("/stomp"), Protocol::Stomp, "/stomp"),
    ];
    rows.into_iter().find(|(is_it, ..)| *is_it).map(|(_, protocol, path)| (protocol, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_recognised_by_their_first_messages() {
        let rows = [
            ("0{\"sid\":\"a\",\"upgrades\":[],\"pingInterval\":25000}", Protocol::SocketIo),
            ("o", Protocol::SockJs),
            ("{}\u{1e}", Protocol::SignalR),
            ("CONNECTED\nversion:1.2\n\n\0\n", Protocol::Stomp),
            ("{\"event\":\"pusher:connection_established\",\"data\":\"{}\"}", Protocol::Pusher),
            ("{\"id\":1,\"connect\":{\"client\":\"c\"}}\n{\"push\":{\"channel\":\"a\"}}", Protocol::Centrifugo),
            ("{\"type\":\"connection_ack\"}", Protocol::GraphqlTransport),
            ("[\"1\",\"1\",\"room\",\"phx_reply\",{\"status\":\"ok\"}]", Protocol::Phoenix),
            ("{\"jsonrpc\":\"2.0\",\"method\":\"a\"}", Protocol::JsonRpc),
            ("INFO {\"server_id\":\"a\"} \r\n", Protocol::Nats),
            ("{\"price\":1}", Protocol::Json),
            ("hello", Protocol::Text),
            ("", Protocol::Text),
        ];
        for (text, protocol) in rows {
            let messages = [Message::text(text)];
            let found = recognise(Evidence { target: "/", subprotocol: None, messages: &messages });
            assert_eq!(found.0, protocol, "{text}");
        }
        let messages = [Message::binary(&[0x20, 2, 0, 0])];
        assert_eq!(recognise(Evidence { target: "/", subprotocol: None, messages: &messages }).0, Protocol::Mqtt);
        let by_url = Evidence { target: "/socket.io/?EIO=4", subprotocol: None, messages: &[] };
        assert_eq!(recognise(by_url).0, Protocol::SocketIo);
        assert_eq!(recognise(Evidence { target: "/x", ..by_url }).0, Protocol::Silent);
    }

    #[test]
    fn payloads_are_taken_out_of_their_frames() {
        let rows = [
            (Protocol::SocketIo, "42/admin,7[\"price\",{\"a\":1}]", json!([["price", {"a": 1}]])),
            (Protocol::SockJs, "a[\"{\\\"a\\\":1}\",\"2\"]", json!([{"a": 1}, 2])),
            (Protocol::SignalR, "{\"type\":1}\u{1e}{\"type\":6}\u{1e}", json!([{"type": 1}, {"type": 6}])),
            (Protocol::Stomp, "MESSAGE\na:b\n\n{\"a\":1}\0", json!([{"a": 1}])),
            (Protocol::Json, "[1]", json!([[1]])),
        ];
        for (protocol, text, expected) in rows {
            assert_eq!(protocol.payloads(Message::text(text)).map(Value::from), Some(expected), "{text}");
        }
        assert_eq!(Protocol::SocketIo.payloads(Message::text("2")), None);
        assert_eq!(Protocol::SocketIo.pong(Message::text("2")), Some(b"3".to_vec()));
        assert_eq!(Protocol::Json.pong(Message::text("2")), None);
    }
}
