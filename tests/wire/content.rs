//! Echoed messages are byte for byte the same: payloads at every change of the length field, many fragments, large
//! messages, input cut into arbitrary packets.

use std::io::Write;
use std::thread;

use crate::peer::{BINARY, CONTINUATION, FIN, PING, PONG, Peer, TEXT, frame};
use crate::support::server::Server;

/// Pseudo-random numbers, the same on each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // Xorshift with the constants of Marsaglia 2003.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }

    /// Text of `count` characters with one to four bytes each.
    fn text(&mut self, count: usize) -> String {
        let alphabet = ['a', 'z', ' ', 'é', 'ß', '€', '語', '🦀'];
        (0..count).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }
}

/// Sends `frames` in packets of `packet_bytes` and reads the echo meanwhile.
fn exchange(server: &Server, frames: Vec<u8>, packet_bytes: usize) -> (u8, Vec<u8>) {
    let mut peer = Peer::open(server.data, "/echo");
    let mut sender = peer.sender();
    let sending = thread::spawn(move || {
        for packet in frames.chunks(packet_bytes) {
            sender.write_all(packet).expect("the server reads");
        }
    });
    let message = peer.next_message();
    sending.join().expect("sending does not panic");
    message
}

/// One message in fragments of at most `fragment_bytes_max`, of random sizes, some empty.
fn fragments(opcode: u8, payload: &[u8], fragment_bytes_max: usize, numbers: &mut Numbers) -> Vec<u8> {
    let (mut frames, mut rest, mut opcode) = (Vec::new(), payload, opcode);
    while rest.len() > fragment_bytes_max {
        let (fragment, behind) = rest.split_at(numbers.below(fragment_bytes_max + 1));
        frames.extend(frame(opcode, fragment));
        (rest, opcode) = (behind, CONTINUATION);
    }
    frames.extend(frame(FIN | opcode, rest));
    frames
}

fn expect_same(got: (u8, Vec<u8>), opcode: u8, payload: &[u8], name: &str) {
    assert_eq!(got.0, opcode, "{name}");
    assert_eq!(got.1.len(), payload.len(), "{name}: length");
    let difference = got.1.iter().zip(payload).position(|(got, sent)| got != sent);
    assert_eq!(difference, None, "{name}: first byte that differs");
}

#[test]
fn every_length_of_header_keeps_the_content() {
    let server = Server::start(&["--echo"]);
    let mut numbers = Numbers(1);
    for length in [0, 1, 2, 7, 8, 124, 125, 126, 127, 128, 4095, 4096, 4097, 65_534, 65_535, 65_536, 65_537, 1 << 20] {
        let payload = numbers.bytes(length);
        let echo = exchange(&server, frame(FIN | BINARY, &payload), usize::MAX);
        expect_same(echo, BINARY, &payload, &format!("{length} bytes"));
    }
}

#[test]
fn the_largest_message_keeps_its_content() {
    let server = Server::start(&["--echo"]);
    let mut numbers = Numbers(2);
    let length = ringfeed::limits::MESSAGE_BYTES_MAX as usize;
    let payload = numbers.bytes(length);
    expect_same(exchange(&server, frame(FIN | BINARY, &payload), usize::MAX), BINARY, &payload, "one frame");
    let frames = fragments(BINARY, &payload, 300_000, &mut numbers);
    expect_same(exchange(&server, frames, 100_000), BINARY, &payload, "fragments");
}

#[test]
fn text_in_fragments_that_cut_characters_keeps_its_content() {
    let server = Server::start(&["--echo"]);
    let mut numbers = Numbers(3);
    for (characters, fragment_bytes_max) in [(50, 1), (500, 3), (5_000, 17), (200_000, 4096)] {
        let text = numbers.text(characters);
        let frames = fragments(TEXT, text.as_bytes(), fragment_bytes_max, &mut numbers);
        let name = format!("{characters} characters, fragments up to {fragment_bytes_max}");
        expect_same(exchange(&server, frames, 1400), TEXT, text.as_bytes(), &name);
    }
}

#[test]
fn packets_cut_anywhere_keep_the_content() {
    let server = Server::start(&["--echo"]);
    let mut numbers = Numbers(4);
    for packet_bytes in [1, 2, 3, 5, 7, 11, 13] {
        let payload = numbers.bytes(700);
        let frames = fragments(BINARY, &payload, 200, &mut numbers);
        expect_same(exchange(&server, frames, packet_bytes), BINARY, &payload, &format!("packets of {packet_bytes}"));
    }
}

#[test]
fn many_messages_at_once_return_in_order() {
    let server = Server::start(&["--echo"]);
    let mut numbers = Numbers(5);
    let messages: Vec<Vec<u8>> = (0..5_000)
        .map(|_| {
            let length = numbers.below(300);
            numbers.bytes(length)
        })
        .collect();
    let mut peer = Peer::open(server.data, "/echo");
    let mut sender = peer.sender();
    let input: Vec<u8> = messages.iter().flat_map(|message| frame(FIN | BINARY, message)).collect();
    let sending = thread::spawn(move || sender.write_all(&input).expect("the server reads"));
    for (index, message) in messages.iter().enumerate() {
        expect_same(peer.next_message(), BINARY, message, &format!("message {index}"));
    }
    sending.join().expect("sending does not panic");
}

#[test]
fn pings_between_fragments_change_nothing() {
    let server = Server::start(&["--echo"]);
    let mut numbers = Numbers(6);
    let payload = numbers.bytes(100_000);
    let mut peer = Peer::open(server.data, "/echo");
    let mut opcode = BINARY;
    for fragment in payload.chunks(1_000) {
        peer.send(&frame(opcode, fragment));
        peer.send(&frame(FIN | PING, &fragment[..8]));
        let pong = peer.next_frame().expect("a pong");
        assert_eq!((pong.first_byte, &pong.payload[..]), (FIN | PONG, &fragment[..8]));
        opcode = CONTINUATION;
    }
    peer.send(&frame(FIN | CONTINUATION, b""));
    expect_same(peer.next_message(), BINARY, &payload, "100 fragments");
}
