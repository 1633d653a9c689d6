//! A small server that sends each publication to every subscriber, in a given protocol.
//!
//! It uses plain threads and sockets, optionally with TLS, and understands only enough of the protocol to find the
//! payloads.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use ringfeed::proto::{Decoder, Event, Message, MessageKind, Opcode, Role, accept_key, encode_frame, encode_message};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The protocol of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// Messages are payloads, published by POST or on a WebSocket to `/publish`.
    Raw,
    /// One JSON object per line, published by POST.
    Centrifugo,
    /// The text protocol in binary messages, published over the same WebSockets.
    Nats,
    /// Packets in binary messages, published over the same WebSockets.
    Mqtt,
    /// A chunked event stream, published by POST.
    EventStream,
}

/// A connection, with or without TLS.
trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// A running server. Its threads end with the test.
pub(crate) struct Hub {
    address: SocketAddr,
}

struct State {
    speech: Speech,
    subscribers: Mutex<Vec<Box<dyn Stream>>>,
}

impl Hub {
    /// Listens on a free port of loopback.
    pub(crate) fn start(speech: Speech) -> Hub {
        Hub::start_with(speech, None)
    }

    /// Listens with TLS, using the certificate in `certificates/`.
    pub(crate) fn start_with_tls(speech: Speech) -> Hub {
        let path = |name| format!("{}/tests/scenarios/certificates/{name}", env!("CARGO_MANIFEST_DIR"));
        let certificate = CertificateDer::from_pem_file(path("localhost.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(path("localhost.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("the provider supports them").with_no_client_auth();
        let config = builder.with_single_cert(vec![certificate], key).expect("they belong together");
        Hub::start_with(speech, Some(Arc::new(config)))
    }

    fn start_with(speech: Speech, tls: Option<Arc<ServerConfig>>) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(State { speech, subscribers: Mutex::default() });
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&state);
                socket.set_nodelay(true).expect("a socket has this option");
                let stream: Box<dyn Stream> = match &tls {
                    None => Box::new(socket),
                    Some(config) => {
                        let session = ServerConnection::new(Arc::clone(config)).expect("a fixed configuration");
                        Box::new(StreamOwned::new(session, socket))
                    }
                };
                thread::spawn(move || serve(stream, &state));
            }
        });
        Hub { address }
    }

    /// The URL of `path`.
    pub(crate) fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.address)
    }
}

/// Ends silently when the connection fails, since no peer is left.
fn serve(mut stream: Box<dyn Stream>, state: &State) {
    while let Some(head) = read_head(&mut stream) {
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if path == "/refused" {
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        } else if let Some(key) = header("sec-websocket-key") {
            let accept = accept_key(&key);
            let protocol = header("sec-websocket-protocol");
            let protocol = protocol.map_or(String::new(), |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 {protocol}Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            return serve_web_socket(stream, answer, &path, state);
        } else if head.starts_with("POST") {
            let len = header("content-length").expect("a length").parse().expect("a number");
            let mut body = vec![0; len];
            if stream.read_exact(&mut body).is_err() {
                return;
            }
            publish(state, &posted_payload(state.speech, &body));
            if path != "/unanswered" {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            }
        } else if state.speech == Speech::EventStream && path == "/sse/load" {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            return subscribe(state, stream, head.as_bytes());
        } else {
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
    }
}

fn serve_web_socket(mut stream: Box<dyn Stream>, answer: String, path: &str, state: &State) {
    match (state.speech, path) {
        (Speech::Raw, "/publish") => {
            let _ = stream.write_all(answer.as_bytes());
            while let Some(messages) = read_messages(&mut stream) {
                messages.iter().for_each(|payload| publish(state, payload));
            }
        }
        (Speech::Raw | Speech::EventStream, _) => subscribe(state, stream, answer.as_bytes()),
        (Speech::Centrifugo, _) => {
            let _ = stream.write_all(answer.as_bytes());
            let Some(greeting) = read_messages(&mut stream) else { return };
            let wanted = "{\"connect\":{},\"id\":1}\n{\"subscribe\":{\"channel\":\"load\"},\"id\":2}";
            assert_eq!(greeting, [wanted.as_bytes()]);
            let reply = "{\"id\":1,\"connect\":{\"ping\":25}}\n{\"id\":2,\"subscribe\":{}}";
            subscribe(state, stream, &frame(MessageKind::Text, reply.as_bytes()));
        }
        (Speech::Mqtt, _) => serve_mqtt(stream, &answer, state),
        (Speech::Nats, _) => {
            let _ = stream.write_all(&[answer.into_bytes(), frame(MessageKind::Binary, b"INFO {}\r\n")].concat());
            while let Some(messages) = read_messages(&mut stream) {
                for message in messages {
                    let text = String::from_utf8(message).expect("ASCII");
                    if text.contains("SUB load 1\r\n") {
                        return subscribe(state, stream, &frame(MessageKind::Binary, b"PONG\r\n"));
                    } else if text.starts_with("PUB load ") {
                        publish(state, text.split("\r\n").nth(1).expect("a payload").as_bytes());
                    } else {
                        let _ = stream.write_all(&frame(MessageKind::Binary, b"PONG\r\n"));
                    }
                }
            }
        }
    }
}

/// Answers each packet; a SUBSCRIBE packet ends the loop and makes the connection a subscriber.
fn serve_mqtt(mut stream: Box<dyn Stream>, answer: &str, state: &State) {
    assert!(answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
    let _ = stream.write_all(answer.as_bytes());
    while let Some(messages) = read_messages(&mut stream) {
        let mut packets = &messages.concat()[..];
        let mut answers = Vec::new();
        // All packets here are so short that their length is one byte.
        while let [first, len, rest @ ..] = packets {
            let (body, more) = rest.split_at(usize::from(*len));
            match first >> 4 {
                1 => answers.extend(b"\x20\x02\x00\x00"),
                3 => publish(state, body.strip_prefix(b"\x00\x04load").expect("the topic")),
                8 => {
                    assert_eq!(body, b"\x00\x01\x00\x04load\x00");
                    answers.extend(b"\x90\x03\x00\x01\x00");
                    return subscribe(state, stream, &frame(MessageKind::Binary, &answers));
                }
                12 => answers.extend(b"\xd0\x00"),
                other => panic!("a packet of type {other}"),
            }
            packets = more;
        }
        if !answers.is_empty() {
            let _ = stream.write_all(&frame(MessageKind::Binary, &answers));
        }
    }
}

/// Sends the response under the lock, so that a subscriber with a response receives all later publications.
fn subscribe(state: &State, mut stream: Box<dyn Stream>, answer: &[u8]) {
    let mut subscribers = state.subscribers.lock().expect("no thread panics");
    if stream.write_all(answer).and_then(|()| stream.flush()).is_ok() {
        subscribers.push(stream);
    }
}

fn publish(state: &State, payload: &[u8]) {
    let text = String::from_utf8_lossy(payload);
    let bytes = match state.speech {
        Speech::Raw => [&frame_of_ping()[..], &frame(MessageKind::Text, payload)].concat(),
        Speech::Centrifugo => {
            let push = format!("{{}}\n{{\"push\":{{\"channel\":\"load\",\"pub\":{{\"data\":{text},\"offset\":1}}}}}}");
            frame(MessageKind::Text, push.as_bytes())
        }
        Speech::Nats => {
            let message = format!("PING\r\nMSG load 1 {}\r\n{text}\r\n", payload.len());
            let (front, back) = message.as_bytes().split_at(message.len() / 2);
            [frame(MessageKind::Binary, front), frame(MessageKind::Binary, back)].concat()
        }
        Speech::Mqtt => {
            let len = u8::try_from(6 + payload.len()).expect("a short packet");
            let packet = [&[0x30, len][..], b"\x00\x04load", payload].concat();
            let (front, back) = packet.split_at(packet.len() / 2);
            [frame(MessageKind::Binary, front), frame(MessageKind::Binary, back)].concat()
        }
        Speech::EventStream => {
            let event = format!(": x\nid: 7\ndata: {text}\n\n");
            format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
        }
    };
    let mut subscribers = state.subscribers.lock().expect("no thread panics");
    subscribers.retain_mut(|stream| stream.write_all(&bytes).and_then(|()| stream.flush()).is_ok());
}

/// A publication in Centrifugo's API.
#[derive(Deserialize)]
struct PublishBody<'a> {
    channel: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

fn posted_payload(speech: Speech, body: &[u8]) -> Vec<u8> {
    match speech {
        Speech::Centrifugo => {
            let command: PublishBody<'_> = serde_json::from_slice(body).expect("a body of the server API");
            assert_eq!(command.channel, "load");
            command.data.get().as_bytes().to_vec()
        }
        Speech::Raw | Speech::Nats | Speech::Mqtt | Speech::EventStream => body.to_vec(),
    }
}

/// Request line and headers.
fn read_head(stream: &mut impl Read) -> Option<String> {
    let (mut head, mut bytes) = (Vec::new(), BufReader::with_capacity(1, stream).bytes());
    while !head.ends_with(b"\r\n\r\n") {
        head.push(bytes.next()?.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Reads the next messages, at least one, up to the end of a frame.
fn read_messages(stream: &mut impl Read) -> Option<Vec<Vec<u8>>> {
    let (mut decoder, mut messages) = (Decoder::new(Role::Server, 1 << 20), Vec::new());
    while messages.is_empty() || decoder.held_bytes() > 0 {
        let mut buffer = vec![0; 1 << 16];
        let len = stream.read(&mut buffer).ok().filter(|len| *len > 0)?;
        let mut input = &mut buffer[..len];
        while let Some(event) = decoder.decode(&mut input).ok()? {
            if let Event::Message(message) = event {
                messages.push(message.payload.to_vec());
            }
        }
    }
    Some(messages)
}

fn frame(kind: MessageKind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_message(&mut frame, Message { kind, payload }, None);
    frame
}

fn frame_of_ping() -> Vec<u8> {
    let mut frame = Vec::new();
    encode_frame(&mut frame, Opcode::Ping, b"there?", None);
    frame
}
