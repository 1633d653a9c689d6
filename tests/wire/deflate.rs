//! permessage-deflate on the wire: what is agreed on, what is refused with which close code, and that a publication is
//! compressed once. Compression here is a library's, not the server's.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::peer::{BINARY, CLOSE, CONTINUATION, FIN, Frame, PING, Peer, RSV1, TEXT, close_payload, frame};
use crate::support::http;
use crate::support::server::Server;

/// Compresses everything, however short.
const ON: [&str; 5] = ["--echo", "--deflate", "on", "--deflate-bytes-min", "1"];

const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A message's payload as a client sends it compressed.
fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 100);
    let mut stream = Compress::new(Compression::best(), false);
    stream.compress_vec(payload, &mut bytes, FlushCompress::Sync).expect("room for it");
    bytes.strip_suffix(b"\x00\x00\xff\xff").expect("a flush").to_vec()
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 << 22);
    let whole = [payload, b"\x00\x00\xff\xff"].concat();
    Decompress::new(false).decompress_vec(&whole, &mut bytes, FlushDecompress::Sync).expect("a deflate stream");
    bytes
}

fn text(len: usize) -> Vec<u8> {
    (0..).flat_map(|n: u64| format!("{{\"n\":{n},\"of\":{}}},", n * n % 97).into_bytes()).take(len).collect()
}

fn publish(server: &Server, topic: &str, payload: &[u8]) {
    let response = http::post(server.control, &format!("/publish/{topic}"), "text/plain", payload);
    assert_eq!(response.status, 200, "{}", response.head);
}

/// The value of a metric, over all shards.
fn metric(server: &Server, name: &str) -> f64 {
    let metrics = http::get(server.control, "/metrics");
    let lines = metrics.text().lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")).sum()
}

#[test]
fn offers_are_answered() {
    let server = Server::start(&ON);
    let nine = format!("{ANSWER}; server_max_window_bits=9");
    let rows = [
        ("", ANSWER),
        ("; client_max_window_bits", ANSWER),
        ("; client_max_window_bits=9", ANSWER),
        ("; server_max_window_bits=9", &nine),
        ("; unknown, permessage-deflate; server_max_window_bits=9", &nine),
    ];
    for (params, expected) in rows {
        let (mut peer, answer) = Peer::open_deflated(server.data, "/echo", params);
        assert_eq!(answer, expected, "{params}");
        peer.expect_echo("x");
    }
}

#[test]
fn what_cannot_be_agreed_on_is_declined() {
    let (on, off) = (Server::start(&ON), Server::start(&["--echo"]));
    let rows = [
        (&on, "permessage-deflate; unknown"),
        (&on, "permessage-deflate; server_max_window_bits=7"),
        (&on, "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9"),
        (&on, "x-webkit-deflate-frame"),
        (&off, "permessage-deflate"),
    ];
    for (server, offer) in rows {
        let mut peer = Peer::connect(server.data);
        let field = format!("\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n");
        peer.send(crate::peer::upgrade_request("/echo").replace("\r\n\r\n", &field).as_bytes());
        let head = peer.expect_accepted();
        assert!(!head.contains("Sec-WebSocket-Extensions"), "{offer}: {head}");
        peer.expect_echo("plain");
        peer.send(&frame(FIN | RSV1 | TEXT, &deflated(b"compressed all the same")));
        peer.expect_close(1002);
    }
}

#[test]
fn messages_go_both_ways_compressed_or_not() {
    let server = Server::start(&ON);
    let (mut peer, _) = Peer::open_deflated(server.data, "/echo", "");
    for len in [1000, 10_000, 1_000_000] {
        let payload = text(len);
        let compressed = deflated(&payload);
        let (first, rest) = compressed.split_at(100);
        let fragments = [frame(RSV1 | TEXT, first), frame(FIN | PING, b""), frame(FIN | CONTINUATION, rest)].concat();
        for bytes in [frame(FIN | RSV1 | TEXT, &compressed), frame(FIN | TEXT, &payload), fragments] {
            peer.send(&bytes);
            let echo = loop {
                let echo = peer.next_frame().expect("an echo");
                if echo.first_byte & 0x0f == TEXT {
                    break echo;
                }
            };
            assert_eq!(echo.first_byte, FIN | RSV1 | TEXT, "{len}");
            assert!(inflated(&echo.payload) == payload, "{len}");
        }
    }
    // What does not shrink comes back as it is.
    peer.send(&frame(FIN | RSV1 | BINARY, b"\x00\x02\x00\xfd\xff\xff\x00\x00"));
    assert_eq!(peer.next_frame(), Some(Frame { first_byte: FIN | BINARY, payload: b"\xff\x00".to_vec() }));
    assert!(metric(&server, "ringfeed_inflate_messages_total") >= 7.0);
    assert!(metric(&server, "ringfeed_inflate_output_bytes_total") > 2_000_000.0);
}

#[test]
fn what_cannot_be_inflated_is_refused_and_nobody_else_notices() {
    let mut flags = ON.to_vec();
    flags.extend(["--message-bytes-max", "2000000"]);
    let server = Server::start(&flags);
    let mut neighbour = Peer::open(server.data, "/echo");
    let bomb = deflated(&vec![0; 64 << 20]);
    let too_large: Vec<u8> = deflated(&text(2_000_001));
    let rows: [(&str, u8, &[u8], u16); 9] = [
        ("a bomb", FIN | RSV1 | BINARY, &bomb, 1009),
        ("larger than allowed", FIN | RSV1 | TEXT, &too_large, 1009),
        ("not a deflate stream", FIN | RSV1 | BINARY, b"\xff\xff\xff\xff", 1007),
        ("cut short", FIN | RSV1 | TEXT, b"\xf2\x48\xcd", 1007),
        ("a window from before its beginning", FIN | RSV1 | TEXT, b"\xf2\x00\x11\x00\x00", 1007),
        ("text that is not UTF-8", FIN | RSV1 | TEXT, &deflated(b"\xff\xfe"), 1007),
        ("a compressed ping", FIN | RSV1 | PING, b"", 1002),
        ("a compressed continuation", FIN | RSV1 | CONTINUATION, b"", 1002),
        ("another reserved bit", FIN | 0x20 | TEXT, b"", 1002),
    ];
    for (name, first_byte, payload, code) in rows {
        let (mut peer, _) = Peer::open_deflated(server.data, "/echo", "");
        peer.send(&frame(first_byte, payload));
        peer.expect_close(code);
        peer.send(&frame(FIN | CLOSE, &close_payload(code, b"")));
        peer.expect_end();
        neighbour.expect_echo(name);
    }
}

#[test]
fn many_bombs_take_no_memory() {
    let server = Server::start(&ON);
    let bomb = deflated(&vec![0; 128 << 20]);
    for _ in 0..20 {
        let (mut peer, _) = Peer::open_deflated(server.data, "/echo", "");
        peer.send(&frame(FIN | RSV1 | BINARY, &bomb));
        peer.expect_close(1009);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("a running process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak of resident memory");
    let peak_kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("kilobytes");
    assert!(peak_kilobytes < 128 << 10, "{peak_kilobytes} kB, though a message may have 16 MiB");
}

#[test]
fn a_publication_is_compressed_once_for_all_who_want_it() {
    let server = Server::start(&ON);
    let windows = ["", "; server_max_window_bits=15", "; server_max_window_bits=11", "; server_max_window_bits=10"];
    // Both shards have some of each.
    let mut subscribers: Vec<(&str, Peer)> = windows
        .iter()
        .flat_map(|params| (0..8).map(|_| (*params, Peer::open_deflated(server.data, "/feed/a", params).0)))
        .collect();
    let mut plain = Peer::open(server.data, "/feed/a");

    // It fits into 2 KiB, so all windows but the smallest have the same bytes.
    let payload = text(1500);
    publish(&server, "a", &payload);
    let frames: Vec<(&str, Frame)> =
        subscribers.iter_mut().map(|(params, peer)| (*params, peer.next_frame().expect("a publication"))).collect();
    let (_, first) = &frames[0];
    for (params, frame) in &frames {
        assert_eq!(frame.first_byte, FIN | RSV1 | TEXT, "{params}");
        assert!(inflated(&frame.payload) == payload, "{params}");
        assert!(frame.payload.len() < payload.len() / 2, "{params}");
        assert!(params.ends_with("=10") || frame == first, "{params}");
    }
    assert_eq!(plain.next_message(), (TEXT, payload.clone()));
    assert_eq!(metric(&server, "ringfeed_deflate_messages_total"), 2.0, "one for each kind of window");
    assert_eq!(metric(&server, "ringfeed_deflate_input_bytes_total"), 3000.0);
    assert_eq!(metric(&server, "ringfeed_deliveries_deflated_total"), 32.0);
    assert_eq!(metric(&server, "ringfeed_deliveries_total"), 33.0);
    assert!(metric(&server, "ringfeed_deflate_seconds_total") > 0.0);

    // One that does not shrink is sent as it is, also between others.
    for payload in [b"#".to_vec(), text(300), b"!".to_vec()] {
        publish(&server, "a", &payload);
        for (params, peer) in &mut subscribers {
            let frame = peer.next_frame().expect("a publication");
            let seen = if frame.first_byte & RSV1 == 0 { frame.payload } else { inflated(&frame.payload) };
            assert!(seen == payload, "{params}");
            assert_eq!(frame.first_byte & RSV1 == 0, payload.len() == 1, "{params}");
        }
        assert_eq!(plain.next_message(), (TEXT, payload));
    }
}
