//! A blocking client on the standard library's TCP and [`ringfeed::proto`], as small as a client can be: the
//! one under test in the client role.
//!
//! It offers compression, answers pings, echoes messages when asked to, and leaves closing the connection to the
//! server, which RFC 6455 §7.1.1 asks of a client.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use ringfeed::proto::{
    Accepted, ClientHandshake, CloseCode, Decoder, DeflateConfig, DeflateContext, DeflateOffer, Deflater, Event,
    Inflater, Message, MessageKind, Opcode, ProtocolError, Role, SlidingWindow, WindowBits, encode_close, encode_frame,
    encode_message,
};

use crate::support::PATIENCE;

/// The largest message of the suite is 16 MiB.
const MESSAGE_BYTES_MAX: u32 = 16 << 20;

/// What to do with the server's messages.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Messages {
    /// Send each one back.
    Echo,
    /// Return the text messages at the end.
    Collect,
}

/// Opens a connection for `target` and stays on it until the server closes. Compressed messages may refer back to
/// earlier ones with `context_takeover`.
///
/// # Panics
/// When there is no connection, or the server falls silent for [`PATIENCE`].
pub(crate) fn run(server: SocketAddr, target: &str, messages: Messages, context_takeover: bool) -> Vec<String> {
    let stream = TcpStream::connect(server).expect("the suite accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.set_nodelay(true).expect("an option can be set");
    let mut session = Session {
        stream,
        decoder: Decoder::new(Role::Client, MESSAGE_BYTES_MAX),
        inflater: Inflater::new(),
        received: None,
        answers: Answers {
            messages,
            deflater: Deflater::new(DeflateConfig::default()),
            deflate_window: None,
            sent: None,
            output: Vec::new(),
            collected: Vec::new(),
            is_closing: false,
        },
    };
    let early = session.shake_hands(server, target, context_takeover);
    session.serve(early);
    session.answers.collected
}

struct Session {
    stream: TcpStream,
    decoder: Decoder,
    inflater: Inflater,
    /// What messages may refer back to, where that was agreed on.
    received: Option<SlidingWindow>,
    answers: Answers,
}

/// What the client wants to say; apart from the decoder, so that an event may borrow from that meanwhile.
struct Answers {
    messages: Messages,
    deflater: Deflater,
    /// For what is sent compressed; `None` when the server did not agree to that.
    deflate_window: Option<WindowBits>,
    /// What it may refer back to, where that was agreed on.
    sent: Option<SlidingWindow>,
    output: Vec<u8>,
    collected: Vec<String>,
    is_closing: bool,
}

impl Session {
    /// Returns the bytes that came behind the server's answer.
    fn shake_hands(&mut self, server: SocketAddr, target: &str, context_takeover: bool) -> Vec<u8> {
        let offer = DeflateOffer { context_takeover, ..DeflateOffer::default() };
        let handshake = ClientHandshake::new(*b"sixteen byte key").with_deflate(offer);
        let mut request = Vec::new();
        handshake.encode_request(&mut request, &server.to_string(), target, &[], &[]);
        self.stream.write_all(&request).expect("the suite reads the request");
        let mut input = Vec::new();
        loop {
            let answer = handshake.decode_response(&input).expect("the suite accepts the handshake");
            if let Some((accepted, used)) = answer {
                self.on_accepted(&accepted);
                return input.split_off(used);
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).expect("the suite answers");
            assert!(count > 0, "the suite closed within the handshake");
            input.extend_from_slice(&chunk[..count]);
        }
    }

    fn on_accepted(&mut self, accepted: &Accepted) {
        if let Some(params) = accepted.deflate {
            self.answers.deflate_window = Some(params.client_window);
            self.decoder.allow_deflated();
            if let Some(context) = DeflateContext::new(params, Role::Client) {
                (self.received, self.answers.sent) = (context.received, context.sent);
            }
        }
    }

    fn serve(&mut self, mut early: Vec<u8>) {
        self.on_bytes(&mut early);
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => self.on_bytes(&mut chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the suite neither spoke nor closed: {error}"),
            }
        }
    }

    fn on_bytes(&mut self, bytes: &mut [u8]) {
        let mut input = bytes;
        loop {
            let event = match self.decoder.decode(&mut input) {
                Ok(Some(event)) => {
                    self.inflater.inflate_event(event, MESSAGE_BYTES_MAX, self.received.as_mut()).map(Some)
                }
                other => other,
            };
            match event {
                Ok(Some(event)) => self.answers.on_event(event),
                Ok(None) => break,
                Err(error) => {
                    self.answers.on_error(error);
                    break;
                }
            }
        }
        // A server that failed the connection on purpose need not read this any more; the next read tells.
        let _ = self.stream.write_all(&self.answers.output);
        self.answers.output.clear();
    }
}

impl Answers {
    fn on_event(&mut self, event: Event<'_>) {
        if self.is_closing {
            return;
        }
        match event {
            Event::Message(message) if self.messages == Messages::Echo => self.send(message),
            Event::Message(Message { kind: MessageKind::Text, payload }) => {
                self.collected.push(String::from_utf8(payload.to_vec()).expect("the decoder checks text"));
            }
            Event::Message(Message { kind: MessageKind::Binary, .. }) | Event::Pong(_) => {}
            Event::Ping(payload) => encode_frame(&mut self.output, Opcode::Pong, payload, Some(MASK)),
            Event::Close(frame) => self.close(frame.code, ""),
            Event::Deflated(_) => unreachable!("it was inflated"),
        }
    }

    fn send(&mut self, message: Message<'_>) {
        match self.deflate_window {
            Some(window) => {
                let mut deflater = self.deflater.for_peer(window, self.sent.as_mut());
                deflater.encode_message(&mut self.output, message, Some(MASK));
            }
            None => encode_message(&mut self.output, message, Some(MASK)),
        }
    }

    fn on_error(&mut self, error: ProtocolError) {
        if !self.is_closing {
            self.close(Some(error.close_code()), &error.to_string());
        }
    }

    fn close(&mut self, code: Option<CloseCode>, reason: &str) {
        self.is_closing = true;
        encode_close(&mut self.output, code, reason, Some(MASK));
    }
}

/// One key for all frames: the suite runs on this machine, and there is no proxy to protect (RFC 6455 §10.3).
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
