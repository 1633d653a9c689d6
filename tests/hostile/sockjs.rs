//! Hostile clients of SockJS: sessions and their requests have bounds, and neighbours are undisturbed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use ringfeed::limits::{SOCKJS_BODY_BYTES_MAX, SOCKJS_RESPONSE_BYTES, SOCKJS_UNREAD_BYTES_MAX};

use crate::metrics::{await_that, total};
use crate::peer::{FIN, Peer, TEXT, frame};
use crate::start;
use crate::support::http::{self, Response, exchange};
use crate::support::server::Server;
use crate::support::{PATIENCE, target_dir};

fn server(name: &str, flags: &[&str]) -> Server {
    let file = target_dir("hostile").join(name);
    fs::write(&file, "[server]\nsockjs = true\n[namespaces.default]\npublish = \"anyone\"\n")
        .expect("the target directory can be written to");
    start(&[&["--echo", "--config", file.to_str().expect("a path of UTF-8")], flags].concat())
}

/// A request of HTTP/1.0, whose response is not chunked.
fn request(method: &str, path: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
        .into_bytes()
}

fn post(server: &Server, path: &str, body: &str) -> Response {
    exchange(server.data, &request("POST", path, "", body))
}

/// A response that waits for frames. Its head has been read.
fn receive(server: &Server, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.data).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.write_all(&request("POST", path, "", "")).expect("the server reads");
    assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 200 "));
    stream
}

fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("bytes"), 1, "the stream ends after {}", bytes.escape_ascii());
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).expect("text")
}

/// Opens a session.
fn open(server: &Server, session: &str) {
    assert_eq!(post(server, &format!("/echo/0/{session}/xhr"), "").text(), "o\n");
}

fn refused(server: &Server, cause: &str) -> u64 {
    total(server, "ringfeed_sockjs_refused_total", cause)
}

fn ended(server: &Server, cause: &str) -> u64 {
    total(server, "ringfeed_sockjs_sessions_ended_total", cause)
}

#[test]
fn sockjs_is_off_unless_it_is_wanted() {
    let server = start(&["--echo"]);
    for path in ["/stomp/info", "/echo/info"] {
        assert_eq!(http::get(server.data, path).status, 404, "{path}");
    }
}

#[test]
fn bad_requests_have_a_status_and_the_session_goes_on() {
    let server = server("sockjs-bad.toml", &[]);
    let mut neighbour = Peer::open(server.data, "/echo");
    open(&server, "a");
    let too_large = format!("[\"{}\"]", "x".repeat(SOCKJS_BODY_BYTES_MAX));
    let nested = "[".repeat(SOCKJS_BODY_BYTES_MAX);
    let rows: [(&str, &str, &str, u16); 12] = [
        ("POST", "/echo/0/a/xhr_send", "[\"x", 500),
        ("POST", "/echo/0/a/xhr_send", "", 500),
        ("POST", "/echo/0/a/xhr_send", "[1]", 500),
        ("POST", "/echo/0/a/xhr_send", &nested, 500),
        ("POST", "/echo/0/a/xhr_send", &too_large, 413),
        ("POST", "/echo/0/nobody/xhr_send", "[\"x\"]", 404),
        ("POST", "/echo/0/a./xhr", "", 404),
        ("POST", "/echo/0/a/jsonp_send", "", 404),
        ("GET", "/echo/iframe.html", "", 404),
        ("GET", "/echo/0/a/htmlfile", "", 404),
        ("GET", "/echo/0/a/xhr", "", 405),
        ("GET", "/echo/0/a/websocket", "", 400),
    ];
    for (method, path, body, status) in rows {
        let response = exchange(server.data, &request(method, path, "", body));
        assert_eq!(response.status, status, "{method} {path} {:.20}", body);
    }
    assert_eq!((refused(&server, "broken_json"), refused(&server, "unknown_session")), (4, 1));
    // The session of the same name below another route is another one.
    assert_eq!(post(&server, "/stomp/0/a/xhr_send", "[\"x\"]").status, 404);
    assert_eq!(post(&server, "/echo/9/a/xhr_send", "[\"x\"]").status, 204);
    assert_eq!(post(&server, "/echo/0/a/xhr", "").text(), "a[\"x\"]\n");
    neighbour.expect_echo("undisturbed");
}

#[test]
fn broken_json_on_a_websocket_ends_it() {
    let server = server("sockjs-json.toml", &[]);
    let mut peer = Peer::open(server.data, "/echo/0/a/websocket");
    assert_eq!(peer.next_message().1, b"o");
    for payload in ["", "[]", "[\"a\",\"b\"]"] {
        peer.send(&frame(FIN | TEXT, payload.as_bytes()));
    }
    for message in ["a[\"a\"]", "a[\"b\"]"] {
        assert_eq!(peer.next_message().1, message.as_bytes());
    }
    peer.send(&frame(FIN | TEXT, b"[\"a"));
    peer.expect_close(1002);
    assert_eq!(refused(&server, "broken_json"), 1);
}

#[test]
fn a_session_has_one_receiver_and_ends_without_one() {
    let server = server("sockjs-receivers.toml", &[]);
    open(&server, "a");
    let first = receive(&server, "/echo/0/a/xhr");
    assert_eq!(post(&server, "/echo/0/a/xhr", "").text(), "c[2010,\"Another connection still open\"]\n");
    // Nobody knows what a receiver that disappears has received.
    drop(first);
    await_that("the session is interrupted", || ended(&server, "interrupted") == 1);
    assert_eq!(post(&server, "/echo/0/a/xhr_send", "[\"x\"]").status, 404);
    open(&server, "a");
    await_that("the session ends without a receiver", || ended(&server, "no_receiver") == 1);
    assert_eq!(post(&server, "/echo/0/a/xhr_send", "[\"x\"]").status, 404);
    await_that("its conversation ends, too", || total(&server, "ringfeed_connections", "websocket") == 0);
}

#[test]
fn a_streaming_response_ends_and_the_next_one_goes_on() {
    let server = server("sockjs-stream.toml", &[]);
    let mut stream = receive(&server, "/echo/0/a/xhr_streaming");
    assert_eq!(read_until(&mut stream, "\n"), format!("{}\n", "h".repeat(2048)));
    assert_eq!(read_until(&mut stream, "\n"), "o\n");
    let message = "x".repeat(SOCKJS_RESPONSE_BYTES / 2);
    for _ in 0..2 {
        assert_eq!(post(&server, "/echo/0/a/xhr_send", &format!("[\"{message}\"]")).status, 204);
        assert_eq!(read_until(&mut stream, "\n"), format!("a[\"{message}\"]\n"));
    }
    assert_eq!(stream.read(&mut [0]).expect("the end of the response"), 0);
    assert_eq!(post(&server, "/echo/0/a/xhr_send", "[\"more\"]").status, 204);
    assert_eq!(post(&server, "/echo/0/a/xhr", "").text(), "a[\"more\"]\n");
}

/// A client that sends and never reads: its conversation stops reading, and its requests are rejected.
#[test]
fn a_client_that_only_sends_is_rejected_in_time() {
    let server = server("sockjs-flood.toml", &[]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let mut stream = receive(&server, "/echo/0/a/xhr_streaming");
    let message = format!("[\"{}\"]", "x".repeat(SOCKJS_BODY_BYTES_MAX - 100));
    let most = 64 * 1024 * 1024 / message.len() + SOCKJS_UNREAD_BYTES_MAX / message.len();
    let mut statuses = (0..most).map(|_| post(&server, "/echo/0/a/xhr_send", &message).status);
    assert!(statuses.any(|status| status == 503), "all {most} messages were accepted");
    assert!(refused(&server, "too_many_bytes") > 0);
    neighbour.expect_echo("undisturbed");
    // The accepted messages arrive once the client reads.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the response");
    assert!(rest.len() > SOCKJS_RESPONSE_BYTES && rest.ends_with(b"\"]\n"));
}

#[test]
fn an_address_has_a_bound_of_sessions() {
    let server = server("sockjs-address.toml", &["--connections-per-address-max", "3"]);
    for session in ["a", "b", "c"] {
        open(&server, session);
    }
    let response = post(&server, "/echo/0/d/xhr", "");
    assert_eq!((response.status, refused(&server, "too_many_sessions")), (503, 1));
    await_that("the sessions end", || ended(&server, "no_receiver") == 3);
    open(&server, "d");
}

#[test]
fn only_pages_that_may_connect_open_sessions() {
    let server = server("sockjs-origin.toml", &["--allowed-origins", "https://good.example"]);
    for (path, method) in [("/echo/info", "GET"), ("/echo/0/a/xhr", "POST"), ("/echo/0/a/xhr_send", "POST")] {
        let bad = exchange(server.data, &request(method, path, "Origin: https://bad.example\r\n", ""));
        assert_eq!((bad.status, bad.header("Access-Control-Allow-Origin")), (403, None), "{path}");
    }
    let fields = "Origin: https://good.example\r\n";
    let good = exchange(server.data, &request("POST", "/echo/0/a/xhr", fields, ""));
    assert_eq!(good.text(), "o\n");
    assert_eq!(good.header("Access-Control-Allow-Origin"), Some("https://good.example"));
    assert_eq!(good.header("Access-Control-Allow-Credentials"), Some("true"));
}

/// The drain of the server reaches those who wait for frames, and is not held up by them.
#[test]
fn a_drain_ends_sessions() {
    let server = server("sockjs-drain.toml", &[]);
    let mut stream = receive(&server, "/stomp/0/a/xhr_streaming");
    read_until(&mut stream, "\no\n");
    server.terminate();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the end of the response");
    assert_eq!(server.wait().code(), Some(0));
}
