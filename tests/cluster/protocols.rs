//! The protocols of the subscribers: envelopes, event streams, and Centrifugo's in JSON.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

/// The last position of a subscriber, by topic.
pub(crate) type Positions = HashMap<String, (String, u64)>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Envelope,
    Sse,
    Centrifugo,
}

/// What a server sends. Each has the topic, an epoch and an offset.
#[derive(Debug)]
pub(crate) enum Event {
    /// The subscription begins at the position. Nothing was missed, if a position was stated.
    Subscribed(String, String, u64),
    /// The subscription begins at the position, and publications before it are missing.
    Lost(String, String, u64),
    /// A publication. It may be a missed one.
    Message(String, String, u64, String),
}

pub(crate) enum Next {
    Event(Event),
    Nothing,
    End,
}

/// A connection.
pub(crate) struct Stream {
    protocol: Protocol,
    socket: TcpStream,
    input: Vec<u8>,
    topics: Vec<String>,
    /// The epoch of each topic, where messages don't name it.
    epochs: HashMap<String, String>,
    events: VecDeque<Event>,
    /// The client's id, in Centrifugo's protocol.
    pub(crate) client: String,
    /// Clients that have joined (`true`) or left, in Centrifugo's protocol.
    pub(crate) members: Vec<(String, bool)>,
}

impl Stream {
    /// Subscribes from the positions that are known; `None` if the node does not accept that now.
    pub(crate) fn connect(
        protocol: Protocol,
        address: SocketAddr,
        topics: &[String],
        positions: &Positions,
    ) -> Option<Stream> {
        Stream::connect_as(protocol, address, topics, positions, None)
    }

    /// The same in Centrifugo's protocol, from no position, with a token.
    pub(crate) fn connect_with_token(address: SocketAddr, topics: &[String], token: &str) -> Option<Stream> {
        Stream::connect_as(Protocol::Centrifugo, address, topics, &Positions::new(), Some(token))
    }

    fn connect_as(
        protocol: Protocol,
        address: SocketAddr,
        topics: &[String],
        positions: &Positions,
        token: Option<&str>,
    ) -> Option<Stream> {
        let socket = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
        let (topics, epochs, events) = (topics.to_vec(), HashMap::new(), VecDeque::new());
        let (input, client, members) = (Vec::new(), String::new(), Vec::new());
        let mut stream = Stream { protocol, socket, input, topics, epochs, events, client, members };
        let request = request(protocol, topics_and_positions(&stream.topics, positions));
        stream.socket.write_all(request.as_bytes()).ok()?;
        stream.read_head()?;
        if let Protocol::Centrifugo = protocol {
            stream.send(&centrifugo_commands(&stream.topics, positions, token))?;
        }
        Some(stream)
    }

    fn read_head(&mut self) -> Option<()> {
        for _ in 0..50 {
            if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                let is_accepted = self.input.starts_with(b"HTTP/1.1 101") || self.input.starts_with(b"HTTP/1.1 200");
                self.input.drain(..end + 4);
                return is_accepted.then_some(());
            }
            if !self.read() {
                return None;
            }
        }
        None
    }

    /// Sends a text frame under the mask 0.
    fn send(&mut self, text: &str) -> Option<()> {
        let length = u16::try_from(text.len()).expect("a short text").to_be_bytes();
        let mut frame = match text.len() {
            0..126 => vec![0x81, 0x80 | length[1]],
            _ => vec![0x81, 0x80 | 126, length[0], length[1]],
        };
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        self.socket.write_all(&frame).ok()
    }

    /// Reads what has arrived. Returns `false` at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    pub(crate) fn next(&mut self) -> Next {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Next::Event(event);
            }
            let is_open = match self.protocol {
                Protocol::Sse => self.take_block(),
                Protocol::Envelope | Protocol::Centrifugo => self.take_frame(),
            };
            match is_open {
                Some(true) => continue,
                Some(false) => return Next::End,
                None => {}
            }
            let before = self.input.len();
            if !self.read() {
                return Next::End;
            }
            if self.input.len() == before {
                return Next::Nothing;
            }
        }
    }

    /// Takes a frame, if one is there. `Some(false)` at the end.
    fn take_frame(&mut self) -> Option<bool> {
        let [first, second] = *self.input.first_chunk()?;
        let (length, start) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(*self.input[2..].first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*self.input[2..].first_chunk()?) as usize, 10),
            length => (usize::from(length), 2),
        };
        let payload = self.input.get(start..start + length)?.to_vec();
        self.input.drain(..start + length);
        match (first & 0x0f, self.protocol) {
            (1, Protocol::Envelope) => self.on_envelope(&String::from_utf8(payload).expect("text")),
            (1, _) => String::from_utf8(payload).expect("text").lines().for_each(|line| self.on_centrifugo(line)),
            (8, _) => return Some(false),
            _ => {}
        }
        Some(true)
    }

    fn on_envelope(&mut self, text: &str) {
        let (head, payload) = text.split_once('\n').expect("a line before the payload");
        let head: Value = serde_json::from_str(head).expect("a line of JSON");
        let (topic, epoch) = (string(&head["topic"]), string(&head["epoch"]));
        let offset = head["offset"].as_u64().expect("an offset");
        self.events.push_back(match (head["subscribed"] == true, head["recovered"] == false) {
            (false, _) => Event::Message(topic, epoch, offset, payload.to_owned()),
            (true, false) => Event::Subscribed(topic, epoch, offset),
            (true, true) => Event::Lost(topic, epoch, offset),
        });
    }

    /// Takes a block of an event stream, if one is there.
    fn take_block(&mut self) -> Option<bool> {
        let end = self.input.windows(2).position(|window| window == b"\n\n")?;
        let block = String::from_utf8(self.input.drain(..end + 2).collect()).expect("text");
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let Some((epoch, offset)) = field("id").and_then(|id| id.split_once(':')) else { return Some(true) };
        let (topic, epoch) = (self.topics[0].clone(), epoch.to_owned());
        let offset = offset.parse().expect("an offset");
        self.events.push_back(match (field("event"), field("data")) {
            (Some("lost"), _) => Event::Lost(topic, epoch, offset),
            (None, Some(data)) => Event::Message(topic, epoch, offset, data.to_owned()),
            (None, None) => Event::Subscribed(topic, epoch, offset),
            (Some(other), _) => panic!("unknown event: {other}"),
        });
        Some(true)
    }

    fn on_centrifugo(&mut self, line: &str) {
        let message: Value = serde_json::from_str(line).expect("a line of JSON");
        if message == json!({}) {
            // The connection may have ended meanwhile.
            let _ = self.send("{}");
            return;
        }
        if let Some(id) = message["id"].as_u64().filter(|id| *id >= FIRST_SUBSCRIBE) {
            // An error is a node that can't accept subscribers now: the connection has no further messages then.
            let topic = self.topics[(id - FIRST_SUBSCRIBE) as usize].clone();
            return self.on_result(topic, &message["subscribe"]);
        }
        if let Some(client) = message["connect"]["client"].as_str() {
            self.client = client.to_owned();
        }
        let push = &message["push"];
        for (name, has_joined) in [("join", true), ("leave", false)] {
            if let Some(client) = push[name]["info"]["client"].as_str() {
                self.members.push((client.to_owned(), has_joined));
            }
        }
        if push["pub"].is_object() {
            self.on_publication(&string(&push["channel"]), &push["pub"]);
        }
    }

    fn on_result(&mut self, topic: String, result: &Value) {
        let Some(epoch) = result["epoch"].as_str().map(str::to_owned) else { return };
        self.epochs.insert(topic.clone(), epoch.clone());
        let missed = result["publications"].as_array().cloned().unwrap_or_default();
        let is_lost = result["was_recovering"] == true && result["recovered"] != true;
        missed.iter().for_each(|publication| self.on_publication(&topic, publication));
        let last = missed.last().and_then(|last| last["offset"].as_u64());
        let offset = last.or(result["offset"].as_u64()).unwrap_or(0);
        self.events.push_back(match is_lost {
            false => Event::Subscribed(topic, epoch, offset),
            true => Event::Lost(topic, epoch, offset),
        });
    }

    fn on_publication(&mut self, topic: &str, publication: &Value) {
        let epoch = self.epochs.get(topic).expect("the answer comes first").clone();
        let offset = publication["offset"].as_u64().expect("an offset");
        let payload = publication["data"].to_string();
        self.events.push_back(Event::Message(topic.to_owned(), epoch, offset, payload));
    }
}

/// The id of the command that subscribes to the first topic.
const FIRST_SUBSCRIBE: u64 = 10;

fn string(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The topics and, where all are known, their positions.
fn topics_and_positions(topics: &[String], positions: &Positions) -> (String, Option<String>) {
    let known: Option<Vec<String>> =
        topics.iter().map(|topic| positions.get(topic).map(|(epoch, offset)| format!("{epoch}:{offset}"))).collect();
    (topics.join(","), known.map(|known| known.join(",")))
}

fn request(protocol: Protocol, (topics, since): (String, Option<String>)) -> String {
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Version: 13\r\n";
    let (target, head) = match protocol {
        Protocol::Envelope => {
            let query = since.map_or("history=0".to_owned(), |since| format!("since={since}"));
            (format!("/feed/{topics}?{query}"), format!("{upgrade}Sec-WebSocket-Protocol: ringfeed.envelope\r\n"))
        }
        Protocol::Sse => {
            (format!("/sse/{topics}"), since.map_or(String::new(), |since| format!("Last-Event-ID: {since}\r\n")))
        }
        Protocol::Centrifugo => ("/connection/websocket".to_owned(), upgrade.to_owned()),
    };
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n")
}

fn centrifugo_commands(topics: &[String], positions: &Positions, token: Option<&str>) -> String {
    let subscribe = |(id, topic): (u64, &String)| {
        let known = positions.get(topic).map(|(epoch, offset)| json!({ "epoch": epoch, "offset": offset }));
        let mut request = known.unwrap_or_else(|| json!({}));
        request["channel"] = json!(topic);
        request["positioned"] = json!(true);
        request["recoverable"] = json!(true);
        request["recover"] = json!(positions.contains_key(topic));
        json!({ "id": id, "subscribe": request }).to_string()
    };
    let subscribes = (FIRST_SUBSCRIBE..).zip(topics).map(subscribe);
    let commands = std::iter::once(json!({ "id": 1, "connect": { "token": token.unwrap_or_default() } }).to_string())
        .chain(subscribes);
    commands.collect::<Vec<_>>().join("\n")
}
