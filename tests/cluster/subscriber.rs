//! A subscriber that moves from node to node and checks everything that it receives: the order, that no message is
//! missing untold, and that a position has one message on all nodes.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A topic, an epoch and an offset.
pub(crate) type Place = (String, String, u64);

/// What all subscribers and publishers know.
#[derive(Default)]
pub(crate) struct Truth {
    /// The message at each place.
    pub(crate) places: HashMap<Place, String>,
    /// The place of each message.
    pub(crate) messages: HashMap<String, Place>,
    pub(crate) deliveries: u64,
    pub(crate) recoveries: u64,
    pub(crate) losses: u64,
    /// The longest time without a message, by subscriber.
    pub(crate) pauses: Vec<Duration>,
}

impl Truth {
    /// A message has been seen at a place.
    pub(crate) fn see(&mut self, place: Place, message: &str) {
        let known = self.places.entry(place.clone()).or_insert_with(|| message.to_owned());
        assert_eq!(known, message, "two messages at {place:?}");
        let other = self.messages.entry(message.to_owned()).or_insert_with(|| place.clone());
        assert_eq!(*other, place, "{message} has two places");
    }
}

/// The nodes' data ports now.
pub(crate) type Nodes = Arc<Mutex<Vec<SocketAddr>>>;

pub(crate) struct Subscriber {
    pub(crate) nodes: Nodes,
    pub(crate) truth: Arc<Mutex<Truth>>,
    pub(crate) topics: Vec<String>,
    /// The first node.
    pub(crate) node: usize,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Subscriber {
    /// Receives until `stop`, and moves on after some messages or when a connection ends.
    pub(crate) fn run(mut self) {
        let mut positions: HashMap<String, (String, u64)> = HashMap::new();
        let (mut last, mut pause) = (Instant::now(), Duration::ZERO);
        while !self.stop.load(Ordering::Relaxed) {
            self.node += 1;
            let addresses = self.nodes.lock().unwrap().clone();
            let address = addresses[self.node % addresses.len()];
            let Some(mut stream) = connect(address, &self.topics, &positions) else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let mut left = 300;
            while left > 0 && !self.stop.load(Ordering::Relaxed) {
                match stream.next() {
                    Next::Message(text) => {
                        left -= 1;
                        (pause, last) = (pause.max(last.elapsed()), Instant::now());
                        self.check(&text, &mut positions);
                    }
                    Next::Nothing => {}
                    Next::End => break,
                }
            }
        }
        self.truth.lock().unwrap().pauses.push(pause);
    }

    fn check(&self, text: &str, positions: &mut HashMap<String, (String, u64)>) {
        let (head, payload) = text.split_once('\n').expect("a line before the payload");
        let head: Value = serde_json::from_str(head).expect("a line of JSON");
        let topic = head["topic"].as_str().expect("a topic").to_owned();
        let (epoch, offset) = (head["epoch"].as_str().expect("an epoch"), head["offset"].as_u64().expect("an offset"));
        let mut truth = self.truth.lock().unwrap();
        if head["subscribed"] == true {
            let here = (epoch.to_owned(), offset);
            match positions.get(&topic) {
                Some(_) if head["recovered"] == true => truth.recoveries += 1,
                Some(before) if *before != here => {
                    truth.losses += 1;
                    positions.insert(topic, here);
                }
                Some(_) => {}
                None => drop(positions.insert(topic, here)),
            }
            return;
        }
        let before = positions.get(&topic).expect("the position comes first");
        if before.0 == epoch {
            assert_eq!(offset, before.1 + 1, "a gap in {topic} that nobody was told of");
        }
        truth.deliveries += 1;
        truth.see((topic.clone(), epoch.to_owned(), offset), payload);
        positions.insert(topic, (epoch.to_owned(), offset));
    }
}

enum Next {
    Message(String),
    Nothing,
    End,
}

struct Stream {
    socket: TcpStream,
    input: Vec<u8>,
}

/// Subscribes with the envelope, from the positions that are known; `None` if the node does not accept that now.
fn connect(address: SocketAddr, topics: &[String], positions: &HashMap<String, (String, u64)>) -> Option<Stream> {
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
    let known: Vec<String> = topics
        .iter()
        .filter_map(|topic| positions.get(topic))
        .map(|(epoch, offset)| format!("{epoch}:{offset}"))
        .collect();
    let query = if known.len() == topics.len() { format!("since={}", known.join(",")) } else { "history=0".to_owned() };
    let request = format!(
        "GET /feed/{}?{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: ringfeed.envelope\r\n\r\n",
        topics.join(",")
    );
    socket.write_all(request.as_bytes()).ok()?;
    let mut stream = Stream { socket, input: Vec::new() };
    for _ in 0..50 {
        if let Some(end) = stream.input.windows(4).position(|window| window == b"\r\n\r\n") {
            let is_accepted = stream.input.starts_with(b"HTTP/1.1 101");
            stream.input.drain(..end + 4);
            return is_accepted.then_some(stream);
        }
        if !stream.read() {
            return None;
        }
    }
    None
}

impl Stream {
    /// Reads what has arrived. Returns `false` at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) => matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        }
    }

    fn next(&mut self) -> Next {
        loop {
            let Some((opcode, payload)) = self.take_frame() else {
                let before = self.input.len();
                if !self.read() {
                    return Next::End;
                }
                if self.input.len() == before {
                    return Next::Nothing;
                }
                continue;
            };
            match opcode {
                1 => return Next::Message(String::from_utf8(payload).expect("text")),
                8 => return Next::End,
                _ => {}
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, second] = *self.input.first_chunk()?;
        let (length, start) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(*self.input[2..].first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*self.input[2..].first_chunk()?) as usize, 10),
            length => (usize::from(length), 2),
        };
        if self.input.len() < start + length {
            return None;
        }
        let payload = self.input[start..start + length].to_vec();
        self.input.drain(..start + length);
        Some((first & 0x0f, payload))
    }
}
