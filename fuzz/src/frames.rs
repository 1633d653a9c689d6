//! Frames in: the decoder alone, and compared with another one.

use std::io::{self, Read, Write};

use ringfeed::proto::{Decoder, Event, MessageKind, ProtocolError, Role};
use tungstenite::protocol::{Role as PeerRole, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use crate::input::{Input, pieces};

/// Message size limits; an input chooses one of them.
const MESSAGE_BYTES_MAX: [u32; 4] = [125, 1000, 70_000, 1 << 20];

/// Bytes that a decoder may hold in addition to twice its input.
const HELD_BYTES: usize = 512;

/// The events of a decoder, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Message(MessageKind, Vec<u8>),
    Deflated(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Seen {
        match event {
            Event::Message(message) => {
                if message.kind == MessageKind::Text {
                    assert!(std::str::from_utf8(message.payload).is_ok(), "a text that isn't UTF-8");
                }
                Seen::Message(message.kind, message.payload.to_vec())
            }
            Event::Deflated(message) => Seen::Deflated(message.kind, message.payload.to_vec()),
            Event::Ping(payload) => Seen::Ping(payload.to_vec()),
            Event::Pong(payload) => Seen::Pong(payload.to_vec()),
            Event::Close(close) => Seen::Close(close.code.map(|code| code.0), close.reason.to_owned()),
        }
    }
}

/// Feeds the pieces. Returns the events, and the error if there was one.
fn decode(mut decoder: Decoder, pieces: &[&[u8]]) -> (Vec<Seen>, Option<ProtocolError>) {
    let (mut seen, mut error, mut fed) = (Vec::new(), None, 0);
    for piece in pieces {
        fed += piece.len();
        let mut bytes = piece.to_vec();
        let mut input = bytes.as_mut_slice();
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(event)) => {
                    assert!(error.is_none(), "an event after an error");
                    assert!(!matches!(seen.last(), Some(Seen::Close(..))), "an event after a close frame");
                    seen.push(event.into());
                }
                Ok(None) => break,
                Err(failure) => assert!(error.replace(failure).is_none(), "an error after an error"),
            }
        }
        assert!(input.is_empty(), "a decoder that needs more input has used it up");
        assert!(decoder.held_bytes() <= 2 * fed + HELD_BYTES, "{} bytes held of {fed}", decoder.held_bytes());
    }
    (seen, error)
}

fn role(is_server: bool) -> Role {
    if is_server { Role::Server } else { Role::Client }
}

/// Any bytes as frames, for both roles: no panic, memory bounded by the input, the same result however the input is
/// split.
pub(crate) fn decoder(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let message_bytes_max = input.choose(&MESSAGE_BYTES_MAX);
    let cuts = input.cuts();
    let bytes = input.rest();
    let new = || {
        let mut decoder = Decoder::new(role(flags & 1 == 0), message_bytes_max);
        if flags & 2 != 0 {
            decoder.allow_deflated();
        }
        decoder
    };
    let whole = decode(new(), &[bytes]);
    for seen in &whole.0 {
        let (len, max) = match seen {
            Seen::Message(_, payload) | Seen::Deflated(_, payload) => (payload.len(), message_bytes_max as usize),
            Seen::Ping(payload) | Seen::Pong(payload) => (payload.len(), 125),
            Seen::Close(_, reason) => (reason.len(), 123),
        };
        assert!(len <= max, "{len} bytes where {max} are allowed");
    }
    assert_eq!(decode(new(), &pieces(bytes, &cuts)), whole, "cut at {cuts:?}");
    if bytes.len() <= 256 {
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(decode(new(), &single), whole, "byte by byte");
    }
}

/// Our decoder and tungstenite's: both return the same events and fail on the same input, except for violations of RFC
/// 6455 that tungstenite accepts.
pub(crate) fn differential(input: &[u8]) {
    let mut input = Input::new(input);
    let is_server = input.byte() & 1 == 0;
    let message_bytes_max = input.choose(&MESSAGE_BYTES_MAX);
    let bytes = input.rest();
    let (mut ours, error) = decode(Decoder::new(role(is_server), message_bytes_max), &[bytes]);
    if let Some(Seen::Close(code @ Some(1014), reason)) = ours.last_mut() {
        // IANA has registered the code since, but tungstenite does not know it, and replaces it like any invalid code.
        (*code, *reason) = (Some(1002), "Protocol violation".to_owned());
    }
    let (theirs, has_failed) = decode_theirs(is_server, message_bytes_max, bytes);
    match error {
        None => {
            assert_eq!(ours, theirs);
            assert!(!has_failed, "only tungstenite fails");
        }
        Some(error) if theirs.len() > ours.len() => {
            assert_eq!(ours, theirs[..ours.len()]);
            // Our decoder rejects a control frame with an extended length encoding, whatever its length.
            let is_laxer = matches!(
                error,
                ProtocolError::LengthNotMinimal | ProtocolError::ControlTooLong | ProtocolError::CloseCodeInvalid
            );
            assert!(is_laxer, "only our decoder fails: {error:?}");
        }
        Some(_) => assert_eq!(ours, theirs),
    }
}

/// The events of tungstenite, and whether it failed before the end of the input.
fn decode_theirs(is_server: bool, message_bytes_max: u32, bytes: &[u8]) -> (Vec<Seen>, bool) {
    let role = if is_server { PeerRole::Server } else { PeerRole::Client };
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(message_bytes_max as usize))
        // tungstenite applies this limit also to control frames.
        .max_frame_size(Some(message_bytes_max.max(125) as usize));
    let mut socket = WebSocket::from_raw_socket(Incoming(bytes), role, Some(config));
    let mut seen = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => seen.push(Seen::Message(MessageKind::Text, text.as_bytes().to_vec())),
            Ok(Message::Binary(payload)) => seen.push(Seen::Message(MessageKind::Binary, payload.to_vec())),
            Ok(Message::Ping(payload)) => seen.push(Seen::Ping(payload.to_vec())),
            Ok(Message::Pong(payload)) => seen.push(Seen::Pong(payload.to_vec())),
            Ok(Message::Close(close)) => {
                // tungstenite has replaced an invalid code here, which the rule for that error allows.
                let code = close.as_ref().map(|close| u16::from(close.code));
                let reason = close.map_or(String::new(), |close| close.reason.to_string());
                seen.push(Seen::Close(code, reason));
                return (seen, false);
            }
            Ok(Message::Frame(_)) => unreachable!("only written, never read"),
            Err(tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                return (seen, false);
            }
            Err(_) => return (seen, true),
        }
    }
}

/// A stream that reads from these bytes and accepts all writes.
struct Incoming<'a>(&'a [u8]);

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Incoming<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
