//! Timeouts and limits, each made small by a flag.

use crate::peer::{CLOSE, FIN, Frame, PING, PONG, Peer, TEXT, frame};
use crate::support::http;
use crate::support::server::Server;

#[test]
fn an_endless_handshake_receives_408() {
    let server = Server::start(&["--handshake-timeout-ms", "100"]);
    for beginning in ["", "GET /feed/a HTTP/1.1\r\nHost:"] {
        assert_eq!(http::exchange(server.data, beginning.as_bytes()).status, 408, "{beginning:?}");
    }
}

#[test]
fn a_silent_peer_is_pinged_and_then_closed() {
    let server = Server::start(&["--ping-interval-ms", "100", "--pong-timeout-ms", "100"]);
    let mut peer = Peer::open(server.data, "/feed/a");
    assert_eq!(peer.next_frame(), Some(Frame { first_byte: FIN | PING, payload: vec![] }));
    peer.expect_close(1008);
    peer.expect_end();
}

#[test]
fn a_peer_that_answers_pings_stays() {
    let server = Server::start(&["--echo", "--ping-interval-ms", "50", "--pong-timeout-ms", "5000"]);
    let mut peer = Peer::open(server.data, "/echo");
    for _ in 0..2 {
        assert_eq!(peer.next_frame(), Some(Frame { first_byte: FIN | PING, payload: vec![] }));
        peer.send(&frame(FIN | PONG, b""));
    }
    peer.send(&frame(FIN | TEXT, b"alive"));
    let is_echo = |frame: &Frame| frame.first_byte == FIN | TEXT;
    let next = std::iter::from_fn(|| peer.next_frame()).find(|frame| is_echo(frame) || frame.first_byte == FIN | CLOSE);
    assert_eq!(next, Some(Frame { first_byte: FIN | TEXT, payload: b"alive".to_vec() }));
}

#[test]
fn an_idle_peer_is_closed_even_without_pings() {
    let server = Server::start(&["--ping-interval-ms", "0", "--idle-timeout-ms", "100"]);
    let mut peer = Peer::open(server.data, "/feed/a");
    peer.expect_close(1008);
    peer.expect_end();
}

#[test]
fn one_connection_too_many_receives_503() {
    let server = Server::start(&["--shards", "1", "--max-connections", "2", "--echo"]);
    let mut first = Peer::open(server.data, "/echo");
    let second = Peer::open(server.data, "/echo");
    let refusal = http::get(server.data, "/");
    assert_eq!(refusal.status, 503);
    let retry_after = refusal.header("Retry-After").and_then(|seconds| seconds.parse().ok());
    assert!(retry_after.is_some_and(|seconds: u64| (1..=10).contains(&seconds)), "{retry_after:?}");
    first.expect_echo("undisturbed");
    drop(second);
    // The place is free once the server has seen the end of the second.
    let mut answers = (0..1000).map(|_| http::get(server.data, "/").status);
    assert!(answers.any(|status| status == 200), "a closed connection does not make room");
}
