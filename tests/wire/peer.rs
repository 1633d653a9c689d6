//! A small WebSocket client that can break every rule on purpose.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::PATIENCE;

/// `FIN`, the reserved bits and the opcodes, as first bytes of a frame (RFC 6455 §5.2).
pub(crate) const FIN: u8 = 0x80;
pub(crate) const RSV1: u8 = 0x40;
const RSV: u8 = 0x70;
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The masking key of each [`frame`].
pub(crate) const MASKING_KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame from the server.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame {
    pub first_byte: u8,
    pub payload: Vec<u8>,
}

/// A connection that reads its input frame by frame.
pub(crate) struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    /// RSV1 may be set: compression is negotiated.
    is_deflated: bool,
}

impl Peer {
    /// A TCP connection without a handshake.
    pub(crate) fn connect(server: SocketAddr) -> Peer {
        let stream = TcpStream::connect(server).expect("the server accepts");
        stream.set_nodelay(true).expect("an option can be set");
        Peer::over(stream)
    }

    /// A peer over an existing connection.
    pub(crate) fn over(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Peer { stream, input: Vec::new(), is_deflated: false }
    }

    /// An open WebSocket.
    pub(crate) fn open(server: SocketAddr, target: &str) -> Peer {
        let mut peer = Peer::connect(server);
        peer.send(upgrade_request(target).as_bytes());
        peer.expect_accepted();
        peer
    }

    /// An open WebSocket of the subprotocol `ringfeed.envelope`.
    pub(crate) fn open_envelope(server: SocketAddr, target: &str) -> Peer {
        Peer::connect(server).upgraded_to_envelope(target)
    }

    /// Upgrades a connection to a WebSocket of the subprotocol `ringfeed.envelope`.
    pub(crate) fn upgraded_to_envelope(mut self, target: &str) -> Peer {
        let offer = "\r\nSec-WebSocket-Protocol: other, ringfeed.envelope\r\n\r\n";
        self.send(upgrade_request(target).replace("\r\n\r\n", offer).as_bytes());
        let head = self.expect_accepted();
        assert!(head.contains("\r\nSec-WebSocket-Protocol: ringfeed.envelope\r\n"), "{head}");
        self
    }

    /// An open WebSocket with permessage-deflate, offered with these parameters, and the server's answer to the offer.
    pub(crate) fn open_deflated(server: SocketAddr, target: &str, params: &str) -> (Peer, String) {
        let offer = format!("\r\nSec-WebSocket-Extensions: permessage-deflate{params}\r\n\r\n");
        let mut peer = Peer::connect(server);
        peer.send(upgrade_request(target).replace("\r\n\r\n", &offer).as_bytes());
        let head = peer.expect_accepted();
        let answer = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
        let answer = answer.unwrap_or_else(|| panic!("compression was declined: {head}")).to_owned();
        peer.is_deflated = true;
        (peer, answer)
    }

    /// Sends `bytes` in one write.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Sends each byte in a packet of its own, until the server closes.
    pub(crate) fn send_byte_by_byte(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    }

    /// A second handle, to send while this one reads.
    pub(crate) fn sender(&self) -> TcpStream {
        self.stream.try_clone().expect("a descriptor to spare")
    }

    /// Reads the head of the server's response, which must be 101, and returns it.
    pub(crate) fn expect_accepted(&mut self) -> String {
        let end = loop {
            if let Some(index) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break index + 4;
            }
            assert!(self.read_more(), "closed within the handshake: {:?}", String::from_utf8_lossy(&self.input));
        };
        let head: Vec<u8> = self.input.drain(..end).collect();
        let head = String::from_utf8(head).expect("a head of text");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        head
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            if !self.read_more() {
                assert!(self.input.is_empty(), "closed within a frame: {:?}", self.input);
                return None;
            }
        }
    }

    /// All frames up to the end of the connection, which may cut one more.
    pub(crate) fn whole_frames_until_end(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            frames.extend(std::iter::from_fn(|| self.take_frame()));
            if !self.read_more() {
                return frames;
            }
        }
    }

    /// Reads the frames of one message. Returns its opcode and payload.
    pub(crate) fn next_message(&mut self) -> (u8, Vec<u8>) {
        let first = self.next_frame().expect("a message");
        let (opcode, mut is_final, mut payload) = (first.first_byte & 0x0f, first.first_byte & FIN, first.payload);
        assert!(opcode == TEXT || opcode == BINARY, "not a message: opcode {opcode}");
        while is_final == 0 {
            let next = self.next_frame().expect("the rest of a message");
            assert_eq!(next.first_byte & 0x0f, CONTINUATION);
            payload.extend_from_slice(&next.payload);
            is_final = next.first_byte & FIN;
        }
        (opcode, payload)
    }

    /// Expects a close frame with `code` as the next frame.
    pub(crate) fn expect_close(&mut self, code: u16) {
        drop(self.expect_close_reason(code));
    }

    /// Expects a close frame with `code` as the next frame. Returns its reason.
    pub(crate) fn expect_close_reason(&mut self, code: u16) -> String {
        let frame = self.next_frame().unwrap_or_else(|| panic!("closed without a close frame, not with {code}"));
        assert_eq!(frame.first_byte, FIN | CLOSE, "not a close frame: {frame:?}");
        let got = frame.payload.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        assert_eq!(got, Some(code), "{frame:?}");
        String::from_utf8(frame.payload[2..].to_vec()).expect("a reason is text")
    }

    /// Expects an orderly end of the TCP connection, without further bytes.
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.next_frame(), None);
    }

    /// Sends a text message and expects it back.
    pub(crate) fn expect_echo(&mut self, text: &str) {
        self.send(&frame(FIN | TEXT, text.as_bytes()));
        let echo = self.next_frame().expect("an echo");
        assert_eq!(echo, Frame { first_byte: FIN | TEXT, payload: text.as_bytes().to_vec() });
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let frame = take_frame(&mut self.input)?;
        let allowed = if self.is_deflated { RSV1 } else { 0 };
        assert_eq!(frame.first_byte & RSV & !allowed, 0, "a reserved bit is set");
        Some(frame)
    }

    /// Whether more input arrived. A reset counts as an end: it is a regular answer to a peer that still sends.
    fn read_more(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(count) => {
                self.input.extend_from_slice(&chunk[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("the server neither sent nor closed: {error}"),
        }
    }
}

/// A masked frame with the shortest length field for its payload.
pub(crate) fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame_header(first_byte, payload.len() as u64);
    bytes.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ MASKING_KEY[index % 4]));
    bytes
}

/// The header of a masked frame, masking key included.
pub(crate) fn frame_header(first_byte: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    match length {
        0..=125 => bytes.push(0x80 | length as u8),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASKING_KEY);
    bytes
}

/// A close frame's payload.
pub(crate) fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

/// A correct opening handshake, with the key of RFC 6455 §1.3.
pub(crate) fn upgrade_request(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Takes a whole frame off the front of `input` and checks it against the rules for servers (RFC 6455 §5.1, §5.2).
fn take_frame(input: &mut Vec<u8>) -> Option<Frame> {
    let [first_byte, second_byte] = *input.first_chunk()?;
    assert_eq!(second_byte & 0x80, 0, "a server must not mask");
    let (length, start) = match second_byte {
        126 => (u64::from(u16::from_be_bytes(*input[2..].first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*input[2..].first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    let shortest = match length {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    assert_eq!(start, shortest, "length {length} is not in its shortest form");
    let end = start + usize::try_from(length).expect("a length this machine can hold");
    if input.len() < end {
        return None;
    }
    let payload = input[start..end].to_vec();
    input.drain(..end);
    Some(Frame { first_byte, payload })
}
