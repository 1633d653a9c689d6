//! Requests with bodies on the data port: smuggling, sizes, foreign pages, and commands for sessions of others.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use ringfeed::limits::EMULATION_BYTES_MAX;

use crate::metrics::{await_left, total};
use crate::peer::Peer;
use crate::start;
use crate::support::http::{self, Response};
use crate::support::server::Server;
use crate::support::{PATIENCE, target_dir};

fn server(name: &str, flags: &[&str]) -> Server {
    let file = target_dir("hostile").join(name);
    let config = "[centrifuge]\nanonymous = true\n[namespaces.default]\npublish = \"anyone\"\n";
    fs::write(&file, config).expect("the target directory can be written to");
    start(&[&["--echo", "--config", file.to_str().expect("a path of UTF-8")], flags].concat())
}

/// A stream whose client has sent a connect command.
struct Stream {
    reader: BufReader<TcpStream>,
    session: String,
}

impl Stream {
    fn connect(server: &Server) -> Stream {
        let mut stream = TcpStream::connect(server.data).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let body = r#"{"id":1,"connect":{}}"#;
        let request = request("/connection/http_stream", &format!("Content-Length: {}\r\n", body.len()));
        // The body comes in pieces.
        stream.write_all(request.as_bytes()).expect("the server reads");
        body.bytes().for_each(|byte| stream.write_all(&[byte]).expect("the server reads"));
        let mut stream = Stream { reader: BufReader::new(stream), session: String::new() };
        while stream.line() != "" {}
        let reply = stream.reply();
        stream.session = reply["connect"]["session"].as_str().expect("a session").to_owned();
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn reply(&mut self) -> Value {
        serde_json::from_str(&self.line()).expect("a reply")
    }

    fn is_at_end(&mut self) -> bool {
        self.reader.read(&mut [0]).expect("the end of the stream") == 0
    }
}

fn request(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}\r\n")
}

fn emulate(server: &Server, session: &str, data: &str) -> Response {
    let body = json!({"session": session, "node": "", "data": data}).to_string();
    http::post(server.data, "/emulation", "application/json", body.as_bytes())
}

#[test]
fn bodies_with_a_doubtful_length_are_rejected() {
    let server = server("bodies.toml", &["--handshake-timeout-ms", "500"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let too_long = format!("Content-Length: {}\r\n", EMULATION_BYTES_MAX + 1);
    let rows: [(&str, &str, u16); 12] = [
        ("/connection/http_stream", "", 400),
        ("/connection/http_stream", "Content-Length: 2\r\nContent-Length: 2\r\n", 400),
        ("/connection/http_stream", "Content-Length: 2\r\nContent-Length: 3\r\n", 400),
        ("/connection/http_stream", "Content-Length: 2, 2\r\n", 400),
        ("/connection/http_stream", "Content-Length: +2\r\n", 400),
        ("/connection/http_stream", "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", 400),
        ("/connection/http_stream", "Transfer-Encoding: chunked\r\n", 400),
        ("/connection/http_stream", &too_long, 413),
        ("/connection/http_stream", "Content-Length: 99999999999999999999999\r\n", 413),
        // The body never comes whole.
        ("/connection/http_stream", "Content-Length: 20000\r\n", 408),
        ("/connection/websocket", "Content-Length: 2\r\n", 405),
        ("/feed/a", "Content-Length: 2\r\n", 405),
    ];
    for (path, fields, status) in rows {
        let response = http::exchange(server.data, format!("{}{{}}", request(path, fields)).as_bytes());
        assert_eq!(response.status, status, "{fields}");
        neighbour.expect_echo("undisturbed");
    }
    let get = http::get(server.data, "/emulation");
    assert_eq!(get.status, 405);
    let malformed = http::exchange(
        server.data,
        format!("{}{{}}{{}}", request("/connection/http_stream", "Content-Length: 1\r\n")).as_bytes(),
    );
    let text = malformed.text();
    assert!(text.contains(r#""disconnect":{"code":3501"#), "{text}");
}

#[test]
fn only_pages_that_may_connect_may_post() {
    let server = server("pages.toml", &["--allowed-origins", "https://app.example"]);
    let preflight = |origin: &str| {
        let fields = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n";
        let text = format!("OPTIONS /emulation HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n{fields}\r\n");
        http::exchange(server.data, text.as_bytes())
    };
    let allowed = preflight("https://app.example");
    assert_eq!((allowed.status, allowed.header("Access-Control-Allow-Origin")), (204, Some("https://app.example")));
    assert_eq!(allowed.header("Access-Control-Allow-Methods"), Some("GET, POST"));
    assert_eq!(allowed.header("Access-Control-Allow-Credentials"), None);
    assert_eq!((preflight("https://evil.example").status, preflight("null").status), (403, 403));
    for path in ["/emulation", "/connection/http_stream", "/connection/sse"] {
        let text = request(path, "Origin: https://evil.example\r\nContent-Length: 2\r\n") + "{}";
        assert_eq!(http::exchange(server.data, text.as_bytes()).status, 403, "{path}");
    }
    let feed = http::exchange(server.data, b"OPTIONS /feed/a HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(feed.status, 405, "a route without bodies has no preflight");
}

#[test]
fn commands_reach_their_own_session_only() {
    let server = server("sessions.toml", &[]);
    let (mut stream, mut other) = (Stream::connect(&server), Stream::connect(&server));
    assert_ne!(stream.session, other.session);
    for unknown in ["", "x", "0", &"0".repeat(32), &stream.session[1..]] {
        assert_eq!(emulate(&server, unknown, r#"{"id":2,"presence":{"channel":"a"}}"#).status, 404, "{unknown}");
    }
    for malformed in ["", "[]", r#"{"session":1,"data":""}"#, r#"{"session":""}"#] {
        let response = http::post(server.data, "/emulation", "application/json", malformed.as_bytes());
        assert_eq!(response.status, 400, "{malformed}");
    }
    let too_long = "x".repeat(EMULATION_BYTES_MAX + 1);
    assert_eq!(emulate(&server, &stream.session, &too_long).status, 413);
    let response =
        emulate(&server, &stream.session, "{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}\n{\"id\":3,\"ping\":{}}");
    assert_eq!((response.status, &response.body[..]), (204, &b""[..]));
    let replies = [stream.reply(), stream.reply()];
    assert!(
        replies.iter().any(|reply| reply["id"] == 2) && replies.iter().any(|reply| reply["id"] == 3),
        "{replies:?}"
    );
    assert_eq!(emulate(&server, &other.session, r#"{"id":2,"publish":{"channel":"a","data":{"n":1}}}"#).status, 204);
    assert_eq!(other.reply(), json!({"id": 2, "publish": {}}));
    assert_eq!(stream.reply()["push"]["pub"]["data"], json!({"n": 1}));
    // A malformed command ends its own stream, with a code.
    assert_eq!(emulate(&server, &other.session, "nonsense").status, 204);
    assert_eq!(other.reply()["push"]["disconnect"]["code"], json!(3501));
    assert!(other.is_at_end());
    assert_eq!(emulate(&server, &other.session, "{}").status, 404);
    let session = stream.session.clone();
    drop(stream);
    await_left(&server, 0);
    assert_eq!(emulate(&server, &session, "{}").status, 404);
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), 0);
}

/// More commands than may wait, since the stream's client does not read their answers.
#[test]
fn a_flood_of_commands_for_a_stream_meets_its_bound() {
    let server = server("emulated-flood.toml", &[]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let stream = Stream::connect(&server);
    let commands = "{\"id\":2,\"presence_stats\":{\"channel\":\"a\"}}\n".repeat(1000);
    let statuses: Vec<u16> = (0..200)
        .map(|_| emulate(&server, &stream.session, &commands).status)
        .take_while(|status| *status == 204)
        .collect();
    assert!(statuses.len() < 200, "all were taken");
    neighbour.expect_echo("undisturbed");
}
