//! permessage-deflate on the wire: negotiation, the close code for each invalid message, and that the server compresses
//! a publication once. The client side uses a library, not the server's code.

use std::time::Instant;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::peer::{BINARY, CLOSE, CONTINUATION, FIN, Frame, PING, Peer, RSV1, TEXT, close_payload, frame};
use crate::support::PATIENCE;
use crate::support::http;
use crate::support::server::Server;

/// Compresses every message, however short.
const ON: [&str; 5] = ["--echo", "--deflate", "on", "--deflate-bytes-min", "1"];

const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A payload as a client compresses it.
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

/// Waits until a metric has this value: a client may see a change before the metric does.
fn expect_metric(server: &Server, name: &str, value: f64) {
    let deadline = Instant::now() + PATIENCE;
    while metric(server, name) != value {
        assert!(Instant::now() < deadline, "{name} is not {value}, even after {PATIENCE:?}");
    }
}

fn expect_contexts(server: &Server, count: f64) {
    expect_metric(server, "ringfeed_deflate_contexts", count);
}

#[test]
fn the_number_of_connections_with_context_takeover_is_bounded() {
    let server = Server::start(&[&ON[..], &["--shards", "1", "--deflate-takeover-max", "2"]].concat());
    let offer = "; client_max_window_bits";
    let taken_over = "permessage-deflate; client_max_window_bits=12";
    let rows = [
        // A client without context takeover uses none of them.
        ("; server_no_context_takeover; client_no_context_takeover", ANSWER, 0.0),
        (offer, taken_over, 1.0),
        (offer, taken_over, 2.0),
        (offer, ANSWER, 2.0),
    ];
    let mut peers = Vec::new();
    for (offer, expected, contexts) in rows {
        let (mut peer, answer) = Peer::open_deflated(server.data, "/echo", offer);
        assert_eq!(answer, expected, "{offer}");
        peer.expect_echo("x");
        expect_contexts(&server, contexts);
        peers.push(peer);
    }
    // One closes, one disconnects, and one was rejected: it never held a context.
    let (mut polite, rude) = (peers.remove(1), peers.remove(1));
    polite.send(&frame(FIN | CLOSE, &close_payload(1000, b"")));
    polite.expect_close(1000);
    drop(rude);
    expect_contexts(&server, 0.0);
    let (_peer, answer) = Peer::open_deflated(server.data, "/echo", offer);
    assert_eq!(answer, taken_over);
    expect_contexts(&server, 1.0);
}

#[test]
fn messages_refer_to_earlier_ones_with_context_takeover() {
    let server = Server::start(&[&ON[..], &["--deflate-takeover-max", "10"]].concat());
    let (mut peer, _) = Peer::open_deflated(server.data, "/echo", "; client_max_window_bits");
    let mut sent = Compress::new_with_window_bits(Compression::best(), false, 12);
    let mut received = Decompress::new(false);
    let mut lens = Vec::new();
    for payload in [text(3000), text(3000), text(100_000), text(2000)] {
        let mut bytes = Vec::with_capacity(payload.len() + 100);
        sent.compress_vec(&payload, &mut bytes, FlushCompress::Sync).expect("room for it");
        bytes.truncate(bytes.len() - 4);
        peer.send(&frame(FIN | RSV1 | TEXT, &bytes));
        let echo = peer.next_frame().expect("an echo");
        assert_eq!(echo.first_byte, FIN | RSV1 | TEXT);
        let mut inflated = Vec::with_capacity(payload.len() + 100);
        let whole = [&echo.payload[..], b"\x00\x00\xff\xff"].concat();
        received.decompress_vec(&whole, &mut inflated, FlushDecompress::Sync).expect("a deflate stream");
        assert!(inflated == payload, "{} bytes", payload.len());
        lens.push((bytes.len(), echo.payload.len()));
    }
    for ((sent, received), is_repeated) in lens.into_iter().zip([false, true, false, false]) {
        assert_eq!((sent < 50, received < 400), (is_repeated, is_repeated), "{sent} and {received} bytes");
    }
    // A message sent uncompressed stays out of the window.
    peer.expect_echo("not in the window");
}

#[test]
fn references_beyond_the_agreed_window_are_rejected() {
    let on = Server::start(&[&ON[..], &["--deflate-takeover-max", "10"]].concat());
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..10_000).map(|_| next()).collect();
    let bomb = vec![0; 64 << 20];
    let rows: [(&str, &str, &[u8], u16); 4] = [
        ("beyond 4 KB", "; client_max_window_bits", &noise[..1000], 1007),
        ("no window agreed for the client", "", &noise[9_000..], 1007),
        ("no context agreed", "; client_no_context_takeover; client_max_window_bits", &noise[9_000..], 1007),
        ("a bomb", "; client_max_window_bits", &bomb, 1009),
    ];
    for (name, params, second, code) in rows {
        let (mut peer, _) = Peer::open_deflated(on.data, "/echo", params);
        let mut stream = Compress::new(Compression::best(), false);
        for payload in [&noise, second] {
            let mut bytes = Vec::with_capacity(payload.len() + 1000);
            stream.compress_vec(payload, &mut bytes, FlushCompress::Sync).expect("room for it");
            bytes.truncate(bytes.len() - 4);
            peer.send(&frame(FIN | RSV1 | BINARY, &bytes));
        }
        assert!(peer.next_frame().is_some_and(|echo| echo.first_byte & 0x0f == BINARY), "{name}");
        peer.expect_close(code);
    }
}

#[test]
fn invalid_offers_are_declined() {
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
    // The server sends a message uncompressed if it does not shrink.
    peer.send(&frame(FIN | RSV1 | BINARY, b"\x00\x02\x00\xfd\xff\xff\x00\x00"));
    assert_eq!(peer.next_frame(), Some(Frame { first_byte: FIN | BINARY, payload: b"\xff\x00".to_vec() }));
    assert!(metric(&server, "ringfeed_inflate_messages_total") >= 7.0);
    assert!(metric(&server, "ringfeed_inflate_output_bytes_total") > 2_000_000.0);
    assert!(metric(&server, "ringfeed_inflate_seconds_total") > 0.0);
    assert!(metric(&server, "ringfeed_deflate_seconds_total") > 0.0);
}

#[test]
fn invalid_compressed_messages_are_rejected_and_neighbours_undisturbed() {
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
fn a_publication_is_compressed_once_for_all_subscribers() {
    let server = Server::start(&ON);
    let windows = ["", "; server_max_window_bits=15", "; server_max_window_bits=11", "; server_max_window_bits=10"];
    // Both shards have subscribers of each kind.
    let mut subscribers: Vec<(&str, Peer)> = windows
        .iter()
        .flat_map(|params| (0..8).map(|_| (*params, Peer::open_deflated(server.data, "/feed/a", params).0)))
        .collect();
    let mut plain = Peer::open(server.data, "/feed/a");

    // The payload fits into 2 KiB, so all windows but the smallest give the same bytes.
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
    expect_metric(&server, "ringfeed_deliveries_deflated_total", 32.0);
    expect_metric(&server, "ringfeed_deliveries_total", 33.0);
    assert!(metric(&server, "ringfeed_deflate_seconds_total") > 0.0);

    // A payload that does not shrink is sent uncompressed, also between compressed ones.
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
