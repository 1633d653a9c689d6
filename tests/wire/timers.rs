//! Bounds of time and number: each is made small by a flag, and met.

use crate::peer::{CLOSE, FIN, Frame, PING, PONG, Peer, TEXT, frame};
use crate::support::http;
use crate::support::server::Server;

#[test]
fn a_handshake_that_never_comes_is_answered_with_408() {
    let server = Server::start(&["--handshake-timeout-ms", "100"]);
    for beginning in ["", "GET /feed/a HTTP/1.1\r\nHost:"] {
        assert_eq!(http::exchange(server.data, beginning.as_bytes()).status, 408, "{beginning:?}");
    }
}

#[test]
fn a_silent_peer_is_pinged_and_then_told_goodbye() {
    let server = Server::start(&["--ping-interval-ms", "100", "--pong-timeout-ms", "100"]);
    let mut peer = Peer::open(server.data, "/feed/a");
    assert_eq!(peer.next_frame(), Some(Frame { first_byte: FIN | PING, payload: vec![] }));
    peer.expect_close(1008);
    peer.expect_end();
}

#[test]
fn who_answers_pings_stays() {
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
fn an_idle_peer_is_told_goodbye_also_without_pings() {
    let server = Server::start(&["--ping-interval-ms", "0", "--idle-timeout-ms", "100"]);
    let mut peer = Peer::open(server.data, "/feed/a");
    peer.expect_close(1008);
    peer.expect_end();
}

#[test]
fn one_connection_too_many_is_told_to_come_again() {
    let server = Server::start(&["--shards", "1", "--max-connections", "2", "--echo"]);
    let mut first = Peer::open(server.data, "/echo");
    let second = Peer::open(server.data, "/echo");
    let refusal = http::get(server.data, "/");
    assert_eq!(refusal.status, 503);
    let retry_after = refusal.header("Retry-After").and_then(|seconds| seconds.parse().ok());
    assert!(retry_after.is_some_and(|seconds: u64| (1..=10).contains(&seconds)), "{retry_after:?}");
    first.expect_echo("undisturbed");
    drop(second);
    // Until the server has seen the end of the second, there is no place.
    let mut answers = (0..1000).map(|_| http::get(server.data, "/").status);
    assert!(answers.any(|status| status == 200), "the place of a connection that ended is never given again");
}
