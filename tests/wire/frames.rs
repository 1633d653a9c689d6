//! Malformed frames and ends of connections: the close code for each, however the input is cut, and undisturbed
//! neighbours.

use crate::peer::{
    BINARY, CLOSE, CONTINUATION, FIN, Frame, MASKING_KEY, PING, PONG, Peer, TEXT, close_payload, frame, frame_header,
    upgrade_request,
};
use crate::support::server::Server;

/// The largest message that the server accepts.
const MESSAGE_BYTES_MAX: u64 = ringfeed::limits::MESSAGE_BYTES_MAX as u64;

/// Sends `input` on a connection of its own, whole and then byte by byte, and expects the close code; a neighbour
/// echoes after each.
fn check_refused(server: &Server, rows: &[(&str, Vec<u8>, u16)]) {
    let mut neighbour = Peer::open(server.data, "/echo");
    for (name, input, code) in rows {
        println!("{name}");
        let mut peer = Peer::open(server.data, "/echo");
        peer.send(input);
        peer.expect_close(*code);
        peer.expect_end();

        println!("{name}, byte by byte");
        let mut peer = Peer::open(server.data, "/echo");
        peer.send_byte_by_byte(input);
        peer.expect_close(*code);
        neighbour.expect_echo(name);
    }
}

/// A masked frame with the length field `length_field`, first byte included.
fn frame_with_length(first_byte: u8, length_field: &[u8], payload_len: usize) -> Vec<u8> {
    [&[first_byte][..], length_field, &MASKING_KEY, &vec![0; payload_len]].concat()
}

#[test]
fn invalid_frame_headers_are_rejected() {
    let server = Server::start(&["--echo"]);
    let reserved_bits = [0x40, 0x20, 0x10, 0x70].map(|bits| ("reserved bit", frame(FIN | TEXT | bits, b"x"), 1002));
    let opcodes = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15];
    let reserved_opcodes = opcodes.map(|opcode| ("reserved opcode", frame(FIN | opcode, b"x"), 1002));
    let rows = [
        ("not masked", vec![FIN | TEXT, 5, b'h', b'e', b'l', b'l', b'o'], 1002),
        ("not masked, empty", vec![FIN | BINARY, 0], 1002),
        ("ping, not masked", vec![FIN | PING, 0], 1002),
        ("close, not masked", vec![FIN | CLOSE, 2, 0x03, 0xe8], 1002),
        ("16-bit length of 125", frame_with_length(FIN | BINARY, &[0x80 | 126, 0, 125], 125), 1002),
        ("16-bit length of 0", frame_with_length(FIN | BINARY, &[0x80 | 126, 0, 0], 0), 1002),
        ("64-bit length of 125", frame_with_length(FIN | BINARY, &[0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 125], 125), 1002),
        ("64-bit length of 65535", frame_header_64(0xffff), 1002),
        ("64-bit length with its top bit set", frame_header_64(1 << 63), 1002),
        ("64-bit length of all ones", frame_header_64(u64::MAX), 1002),
        ("ping of 126 bytes", frame(FIN | PING, &[b'x'; 126]), 1002),
        ("pong of 126 bytes", frame(FIN | PONG, &[b'x'; 126]), 1002),
        ("close of 126 bytes", frame(FIN | CLOSE, &close_payload(1000, &[b'x'; 124])), 1002),
        ("fragmented ping", frame(PING, b"x"), 1002),
        ("fragmented pong", frame(PONG, b"x"), 1002),
        ("fragmented close", frame(CLOSE, &close_payload(1000, b"")), 1002),
    ];
    check_refused(&server, &reserved_bits);
    check_refused(&server, &reserved_opcodes);
    check_refused(&server, &rows);
}

fn frame_header_64(length: u64) -> Vec<u8> {
    [&[FIN | BINARY, 0x80 | 127][..], &length.to_be_bytes(), &MASKING_KEY].concat()
}

#[test]
fn fragments_out_of_order_are_rejected() {
    let server = Server::start(&["--echo"]);
    let start = frame(TEXT, b"a");
    check_refused(
        &server,
        &[
            ("continuation of nothing", frame(CONTINUATION, b"x"), 1002),
            ("final continuation of nothing", frame(FIN | CONTINUATION, b"x"), 1002),
            ("message inside a message", [start.clone(), frame(FIN | TEXT, b"b")].concat(), 1002),
            ("start inside a message", [start.clone(), frame(BINARY, b"b")].concat(), 1002),
            ("unmasked continuation", [start, vec![FIN, 1, b'b']].concat(), 1002),
        ],
    );
}

#[test]
fn text_that_is_not_utf8_is_rejected() {
    let server = Server::start(&["--echo"]);
    check_refused(
        &server,
        &[
            ("lone continuation byte", frame(FIN | TEXT, b"a\x80"), 1007),
            ("overlong", frame(FIN | TEXT, b"\xc0\xaf"), 1007),
            ("surrogate", frame(FIN | TEXT, b"\xed\xa0\x80"), 1007),
            ("above U+10FFFF", frame(FIN | TEXT, b"\xf4\x90\x80\x80"), 1007),
            ("cut at the end", frame(FIN | TEXT, b"abc\xe2\x82"), 1007),
            ("bad in the second fragment", [frame(TEXT, b"ok"), frame(FIN | CONTINUATION, b"\xff")].concat(), 1007),
            ("bad across fragments", [frame(TEXT, b"\xe2\x82"), frame(FIN | CONTINUATION, b"\x41")].concat(), 1007),
            ("cut at the end of fragments", [frame(TEXT, b"a"), frame(FIN | CONTINUATION, b"\xf0\x9f")].concat(), 1007),
            // The server closes before the end: the message cannot become valid any more.
            ("bad before the end", frame(TEXT, b"a\xff"), 1007),
        ],
    );
}

#[test]
fn invalid_close_frames_are_rejected() {
    let server = Server::start(&["--echo"]);
    let codes = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535];
    let bad_codes = codes.map(|code| ("reserved code", frame(FIN | CLOSE, &close_payload(code, b"")), 1002));
    check_refused(&server, &bad_codes);
    check_refused(
        &server,
        &[
            ("payload of one byte", frame(FIN | CLOSE, &[3]), 1002),
            ("reason that is not UTF-8", frame(FIN | CLOSE, &close_payload(1000, b"\xff")), 1007),
            ("reason cut within a character", frame(FIN | CLOSE, &close_payload(1000, b"\xe2\x82")), 1007),
        ],
    );
}

#[test]
fn a_message_too_big_is_rejected_on_its_header() {
    let server = Server::start(&["--echo"]);
    let half = vec![0; 1 << 20];
    check_refused(
        &server,
        &[
            ("one frame", frame_header(FIN | BINARY, MESSAGE_BYTES_MAX + 1), 1009),
            ("the largest length", frame_header(FIN | BINARY, (1 << 63) - 1), 1009),
        ],
    );
    let mut peer = Peer::open(server.data, "/echo");
    peer.send(&frame(BINARY, &half));
    peer.send(&frame_header(FIN | CONTINUATION, MESSAGE_BYTES_MAX - (1 << 20) + 1));
    peer.expect_close(1009);
}

#[test]
fn a_close_frame_is_answered_in_kind_and_ends_the_connection() {
    let server = Server::start(&["--echo"]);
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        let mut peer = Peer::open(server.data, "/echo");
        peer.send(&frame(FIN | CLOSE, &close_payload(code, "auf Wiederhören".as_bytes())));
        peer.expect_close(code);
        peer.expect_end();
    }
    let mut peer = Peer::open(server.data, "/echo");
    peer.send(&frame(FIN | CLOSE, b""));
    let answer = peer.next_frame().expect("an answer");
    assert_eq!(answer.first_byte, FIN | CLOSE);
    assert!(answer.payload.is_empty() || answer.payload == close_payload(1000, b""), "{answer:?}");
    peer.expect_end();
}

#[test]
fn bytes_behind_a_close_frame_are_ignored() {
    let server = Server::start(&["--echo"]);
    let close = frame(FIN | CLOSE, &close_payload(1000, b""));
    let behind = [frame(FIN | TEXT, b"late"), frame(FIN | PING, b"late"), vec![0xff; 32]];
    for late in behind {
        let mut peer = Peer::open(server.data, "/echo");
        peer.send(&[close.clone(), late].concat());
        peer.expect_close(1000);
        peer.expect_end();
    }
}

#[test]
fn messages_before_an_error_are_answered() {
    let server = Server::start(&["--echo"]);
    let mut peer = Peer::open(server.data, "/echo");
    peer.send(&[frame(FIN | TEXT, b"fine"), frame(FIN | 3, b"")].concat());
    assert_eq!(peer.next_message(), (TEXT, b"fine".to_vec()));
    peer.expect_close(1002);
    peer.expect_end();
}

#[test]
fn pings_are_answered_with_their_payload_even_inside_a_message() {
    let server = Server::start(&["--echo"]);
    let mut peer = Peer::open(server.data, "/echo");
    for payload in [&b""[..], b"x", &[0xff; 125]] {
        peer.send(&frame(FIN | PING, payload));
        let pong = Frame { first_byte: FIN | PONG, payload: payload.to_vec() };
        assert_eq!(peer.next_frame(), Some(pong));
    }
    peer.send(&frame(TEXT, "grü".as_bytes()));
    peer.send(&frame(FIN | PING, b"between"));
    assert_eq!(peer.next_frame(), Some(Frame { first_byte: FIN | PONG, payload: b"between".to_vec() }));
    peer.send(&frame(FIN | PONG, b"nobody asked"));
    peer.send(&frame(FIN | CONTINUATION, "ße".as_bytes()));
    assert_eq!(peer.next_message(), (TEXT, "grüße".as_bytes().to_vec()));
}

#[test]
fn frames_in_one_packet_with_the_handshake_are_served() {
    let server = Server::start(&["--echo"]);
    let mut peer = Peer::connect(server.data);
    let frames = [frame(FIN | TEXT, b"one"), frame(FIN | BINARY, b"two"), frame(FIN | PING, b"three")];
    peer.send(&[upgrade_request("/echo").into_bytes(), frames.concat()].concat());
    peer.expect_accepted();
    assert_eq!(peer.next_message(), (TEXT, b"one".to_vec()));
    assert_eq!(peer.next_message(), (BINARY, b"two".to_vec()));
    assert_eq!(peer.next_frame(), Some(Frame { first_byte: FIN | PONG, payload: b"three".to_vec() }));
}

#[test]
fn half_a_frame_with_the_handshake_is_kept() {
    let server = Server::start(&["--echo"]);
    let mut peer = Peer::connect(server.data);
    let message = frame(FIN | TEXT, b"cut anywhere");
    for cut in 0..message.len() {
        let (early, rest) = message.split_at(cut);
        peer.send(&[upgrade_request("/echo").as_bytes(), early].concat());
        peer.expect_accepted();
        peer.send(rest);
        assert_eq!(peer.next_message(), (TEXT, b"cut anywhere".to_vec()), "cut at {cut}");
        peer = Peer::connect(server.data);
    }
}

#[test]
fn peers_that_vanish_at_any_point_disturb_nobody() {
    let server = Server::start(&["--echo"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let request = upgrade_request("/echo");
    let message = frame(FIN | TEXT, &[b'x'; 200]);
    for cut in [0, 1, request.len() / 2, request.len() - 1] {
        Peer::connect(server.data).send(&request.as_bytes()[..cut]);
        neighbour.expect_echo("a handshake was cut");
    }
    for cut in [0, 1, 2, 3, 7, 8, 100, message.len()] {
        Peer::open(server.data, "/echo").send(&message[..cut]);
        neighbour.expect_echo("a frame was cut");
    }
}

/// An operation on a closed connection must not reach the next one with its descriptor.
#[test]
fn the_end_of_a_connection_does_not_touch_its_successor() {
    let server = Server::start(&["--echo"]);
    for _ in 0..300 {
        let mut predecessor = Peer::open(server.data, "/echo");
        predecessor.send_byte_by_byte(&frame(FIN | 3, b"x"));
        drop(predecessor);
        let mut successor = Peer::open(server.data, "/echo");
        successor.expect_echo("first");
        successor.expect_echo("second");
    }
}
