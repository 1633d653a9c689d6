//! Opening handshakes: the status of each malformed one, valid but unusual ones, and cuts at any byte.

use crate::peer::{Peer, upgrade_request};
use crate::support::http::{self, Response};
use crate::support::server::Server;

/// The correct request for `/echo` with `old` replaced by `new`.
fn altered(old: &str, new: &str) -> String {
    let request = upgrade_request("/echo");
    assert_eq!(request.matches(old).count(), 1, "{old:?} is in the request once");
    request.replace(old, new)
}

/// The correct request for `/echo` with one more header field.
fn with(field: &str) -> String {
    altered("Host: localhost\r\n", &format!("Host: localhost\r\n{field}\r\n"))
}

/// Sends `request`, which the server must reject with `status`; a neighbour echoes after it.
fn check_refused(server: &Server, name: &str, request: &str, status: u16, neighbour: &mut Peer) -> Response {
    let response = http::exchange(server.data, request.as_bytes());
    assert_eq!(response.status, status, "{name}: {}", response.head);
    neighbour.expect_echo(name);
    response
}

#[test]
fn malformed_handshakes_get_their_status() {
    let server = Server::start(&["--echo"]);
    let many_fields = "X-Field: value\r\n".repeat(100);
    let rows = [
        ("no HTTP at all", "hello\r\n\r\n".to_owned(), 400),
        ("a TLS greeting", "\x16\x03\x01\x02\r\n\r\n".to_owned(), 400),
        ("blank in a field name", with("Bad Name: x"), 400),
        ("field without a colon", with("Nonsense"), 400),
        ("control character in a value", with("X-Field: a\x01b"), 400),
        ("target without a slash", altered("/echo", "echo"), 400),
        ("target too long", altered("/echo", &format!("/echo?{}", "x".repeat(4000))), 414),
        ("field too large", with(&format!("X-Field: {}", "x".repeat(10_000))), 431),
        ("too many fields", with(many_fields.trim_end()), 431),
        ("HTTP/1.0", altered("HTTP/1.1", "HTTP/1.0"), 505),
        ("POST", altered("GET", "POST"), 405),
        ("HEAD", altered("GET", "HEAD"), 405),
        ("lower-case method", altered("GET", "get"), 405),
        ("no Host", altered("Host: localhost\r\n", ""), 400),
        ("two Hosts", with("Host: elsewhere"), 400),
        ("no Upgrade", altered("Upgrade: websocket\r\n", ""), 400),
        ("another Upgrade", altered("Upgrade: websocket", "Upgrade: h2c"), 400),
        ("no Connection", altered("Connection: Upgrade\r\n", ""), 400),
        ("another Connection", altered("Connection: Upgrade", "Connection: keep-alive"), 400),
        ("no key", altered("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400),
        ("empty key", altered("dGhlIHNhbXBsZSBub25jZQ==", ""), 400),
        ("key that is not base64", altered("dGhlIHNhbXBsZSBub25jZQ==", "!!!!IHNhbXBsZSBub25jZQ=="), 400),
        ("key of 15 bytes", altered("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j"), 400),
        ("key of 17 bytes", altered("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSE="), 400),
        ("two keys", with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        ("two Origins", with("Origin: http://a\r\nOrigin: http://b"), 400),
        ("two versions", with("Sec-WebSocket-Version: 13"), 400),
        ("no version", altered("Sec-WebSocket-Version: 13\r\n", ""), 426),
        ("version 8", altered("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"), 426),
        ("version 14", altered("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 14"), 426),
        ("version in words", altered("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: new"), 426),
        ("a body", with("Content-Length: 5"), 400),
        ("subprotocols that are no list", with("Sec-WebSocket-Protocol: a b"), 400),
        ("unknown path", upgrade_request("/nowhere"), 404),
        ("path below echo", upgrade_request("/echo/more"), 404),
    ];
    let mut neighbour = Peer::open(server.data, "/echo");
    for (name, request, status) in rows {
        check_refused(&server, name, &request, status, &mut neighbour);
    }
}

#[test]
fn rejections_name_the_remedy() {
    let server = Server::start(&["--echo"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let version = altered("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8");
    let response = check_refused(&server, "version 8", &version, 426, &mut neighbour);
    assert_eq!(response.header("Sec-WebSocket-Version"), Some("13"));
    assert_eq!(response.header("Upgrade"), Some("websocket"));
    let response = check_refused(&server, "POST", &altered("GET", "POST"), 405, &mut neighbour);
    assert_eq!(response.header("Allow"), Some("GET"));
    let response = check_refused(&server, "no Host", &altered("Host: localhost\r\n", ""), 400, &mut neighbour);
    assert!(response.text().contains("Host"), "{}", response.text());
}

/// RFC 9112 §3.2: each HTTP/1.1 request has one `Host`, whatever its target.
#[test]
fn requests_without_one_valid_host_are_malformed_on_both_ports() {
    let server = Server::start(&["--echo"]);
    let rows = [
        ("", 400),
        ("Host: localhost\r\nHost: localhost\r\n", 400),
        ("Host: localhost\r\nhost: elsewhere\r\n", 400),
        ("Host: user@localhost\r\n", 400),
        ("Host: localhost/\r\n", 400),
        ("Host: local host\r\n", 400),
        ("Host: localhost:80:80\r\n", 400),
        ("Host: [::1\r\n", 400),
        ("Host: localhost\r\n", 200),
        ("Host: [::1]:80\r\n", 200),
    ];
    for (host, status) in rows {
        let request = format!("GET /readyz HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        assert_eq!(http::exchange(server.control, request.as_bytes()).status, status, "control port, {host:?}");
        for path in ["/", "/sse/a", "/nowhere"] {
            // An event stream does not end.
            let head = http::head_of(server.data, format!("GET {path} HTTP/1.1\r\n{host}\r\n").as_bytes());
            let expected = if status == 200 && path == "/nowhere" { 404 } else { status };
            assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{path}, {host:?}: {head}");
        }
    }
    for (address, path) in [(server.control, "/readyz"), (server.data, "/")] {
        let response = http::exchange(address, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
        assert_eq!(response.status, 200, "HTTP/1.0 has no Host");
    }
}

#[test]
fn a_plain_get_receives_426() {
    let server = Server::start(&["--echo"]);
    assert_eq!(http::get(server.data, "/echo").status, 426);
    assert_eq!(http::get(server.data, "/nowhere").status, 404);
}

#[test]
fn echo_requires_its_flag() {
    let server = Server::start(&[]);
    let response = http::exchange(server.data, upgrade_request("/echo").as_bytes());
    assert_eq!(response.status, 404);
}

#[test]
fn unusual_but_valid_handshakes_are_accepted() {
    let server = Server::start(&["--echo"]);
    let rows = [
        ("lower-case names", altered("Upgrade: websocket", "upgrade: websocket")),
        ("mixed-case values", altered("Upgrade: websocket", "Upgrade: WebSocket")),
        ("list of connection options", altered("Connection: Upgrade", "Connection: keep-alive, upgrade")),
        ("list in two fields", with("Connection: keep-alive")),
        ("list of protocols to upgrade to", altered("Upgrade: websocket", "Upgrade: h2c, websocket")),
        ("blanks around values", altered("Host: localhost", "Host:   localhost \t")),
        ("no blank before a value", altered("Host: localhost", "Host:localhost")),
        ("query", altered("/echo", "/echo?token=a%20b&x=1")),
        ("absolute target", altered("/echo", "http://localhost/echo")),
        ("empty lines first", format!("\r\n{}", upgrade_request("/echo"))),
        ("Origin", with("Origin: http://localhost:3000")),
        ("cookies", with(&format!("Cookie: session={}", "x".repeat(4000)))),
        ("empty body", with("Content-Length: 0")),
    ];
    for (name, request) in rows {
        println!("{name}");
        let mut peer = Peer::connect(server.data);
        peer.send(request.as_bytes());
        peer.expect_accepted();
        peer.expect_echo(name);
    }
}

#[test]
fn the_answer_accepts_the_key_and_adds_nothing() {
    let server = Server::start(&["--echo"]);
    let mut peer = Peer::connect(server.data);
    let offers = "Sec-WebSocket-Protocol: unheard.of\r\nSec-WebSocket-Extensions: unheard-of; level=11";
    peer.send(with(offers).as_bytes());
    let answer = peer.expect_accepted().to_ascii_lowercase();
    // The example of RFC 6455 §1.3.
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{answer}");
    assert!(answer.contains("\r\nupgrade: websocket\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: upgrade\r\n"), "{answer}");
    assert!(!answer.contains("sec-websocket-protocol"), "{answer}");
    assert!(!answer.contains("sec-websocket-extensions"), "{answer}");
}

#[test]
fn a_handshake_in_one_byte_pieces_is_accepted() {
    let server = Server::start(&["--echo"]);
    let mut peer = Peer::connect(server.data);
    peer.send_byte_by_byte(upgrade_request("/echo").as_bytes());
    peer.expect_accepted();
    peer.expect_echo("after a slow start");
}

#[test]
fn a_handshake_cut_anywhere_is_accepted() {
    let server = Server::start(&["--echo"]);
    let request = upgrade_request("/echo");
    for cut in 1..request.len() {
        let (first, second) = request.as_bytes().split_at(cut);
        let mut peer = Peer::connect(server.data);
        peer.send(first);
        peer.send(second);
        peer.expect_accepted();
    }
}
