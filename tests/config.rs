//! The configuration file as an operator meets it, and what it protects: the control port and the data port.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use support::http;
use support::server::{Server, ringfeed};
use support::target_dir;

/// A file of this name and content, below the target directory.
fn file(name: &str, content: &str) -> PathBuf {
    let path = target_dir("config").join(name);
    fs::write(&path, content).expect("the target directory can be written to");
    path
}

/// Runs the binary to its end.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = ringfeed().args(arguments).output().expect("the binary can be started");
    let text = |bytes| String::from_utf8(bytes).expect("output of text");
    (status.code(), text(stdout), text(stderr))
}

/// Runs the binary, which must refuse its input; returns what it says.
fn refusal(arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

fn as_text(path: &std::path::Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}

#[test]
fn the_example_is_a_good_file() {
    let (code, example, _) = run(&["config", "example"]);
    assert_eq!(code, Some(0));
    let path = file("example.toml", &example);
    let (code, stdout, stderr) = run(&["config", "check", as_text(&path)]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.ends_with("good\n"), "{stdout}");
    let server = Server::start(&["--config", as_text(&path)]);
    assert_eq!(http::get(server.control, "/readyz").status, 200);
}

#[test]
fn bad_files_are_refused_by_line_before_anything_starts() {
    let path = file("bad.toml", "[server]\ncontrl = \"127.0.0.1:1\"\n\n[namespaces.chat]\nhistory_size = -1\n");
    for command in [&["config", "check"][..], &["serve", "--config"]] {
        let said = refusal(&[command, &[as_text(&path)]].concat());
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 2, "{said}");
        assert!(
            lines[0].ends_with("bad.toml:2: there is no key server.contrl: did you mean server.control?"),
            "{said}"
        );
        assert!(lines[1].contains("bad.toml:5: namespaces.chat.history_size = -1: must be"), "{said}");
    }
    let gone = target_dir("config").join("gone.toml");
    assert!(refusal(&["serve", "--config", as_text(&gone)]).contains("cannot be read"));
    let keys = file("keys.toml", "[tokens]\njwks_file = \"/nowhere/keys.json\"\n");
    assert!(refusal(&["config", "check", as_text(&keys)]).contains("/nowhere/keys.json"));
}

#[test]
fn the_file_is_heeded_and_flags_win_over_it() {
    let path = file("echo.toml", "[server]\necho = true\nallowed_origins = [\"https://*.example.com\"]\n");
    let upgrade = |server: &Server, path: &str, origin: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nOrigin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            server.data
        );
        http::head_of(server.data, request.as_bytes())[9..12].parse::<u16>().expect("a status")
    };
    let server = Server::start(&["--config", as_text(&path)]);
    let own = format!("http://{}", server.data);
    assert_eq!(upgrade(&server, "/echo", &own), 101);
    assert_eq!(upgrade(&server, "/echo", "https://a.example.com"), 101);
    assert_eq!(upgrade(&server, "/echo", "http://localhost:3000"), 403);
    assert_eq!(upgrade(&server, "/feed/a", "https://example.org"), 403);
    let refused = |server: &Server| {
        let metrics = http::get(server.control, "/metrics");
        let lines = metrics.text().lines().filter_map(|line| line.strip_prefix("ringfeed_origins_refused_total{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().expect("a number")).sum::<u64>()
    };
    assert_eq!(refused(&server), 2);

    let server = Server::start(&["--config", as_text(&path), "--allowed-origins", "http://localhost:*"]);
    assert_eq!(upgrade(&server, "/echo", "https://a.example.com"), 403);
    assert_eq!(upgrade(&server, "/echo", "http://localhost:3000"), 101);
}

#[test]
fn event_streams_are_for_pages_of_allowed_origins_too() {
    let server = Server::start(&["--allowed-origins", "https://a.example.com"]);
    let get = |origin: &str| {
        let head = format!("GET /sse/a HTTP/1.1\r\nHost: {}\r\nOrigin: {origin}\r\n\r\n", server.data);
        http::head_of(server.data, head.as_bytes())
    };
    assert!(get("https://b.example.com").starts_with("HTTP/1.1 403 "));
    let head = get("https://a.example.com");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("\r\nAccess-Control-Allow-Origin: https://a.example.com\r\n"), "{head}");
}

#[test]
fn a_control_port_for_others_needs_a_key() {
    let said = refusal(&["serve", "--listen", "127.0.0.1:0", "--control", "0.0.0.0:0"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("0.0.0.0:0") && said.contains("--api-key-file"), "{said}");

    let empty = file("empty.key", "\n");
    let said = refusal(&["serve", "--control", "0.0.0.0:0", "--api-key-file", as_text(&empty)]);
    assert!(said.contains("empty.key"), "{said}");

    let key = file("good.key", "secret\n");
    let server = Server::start(&["--control", "0.0.0.0:0", "--api-key-file", as_text(&key)]);
    let control = ([127, 0, 0, 1], server.control.port()).into();
    assert_eq!(http::get(control, "/readyz").status, 200);
    assert_eq!(http::get(control, "/metrics").status, 401);
    assert_eq!(http::post(control, "/publish/a", "text/plain", b"x").status, 401);
    let request = "POST /publish/a HTTP/1.1\r\nHost: a\r\nX-API-Key: secret\r\nConnection: close\r\n\
                   Content-Length: 1\r\n\r\nx";
    assert_eq!(http::exchange(control, request.as_bytes()).status, 200);
}

#[test]
fn topics_of_unknown_namespaces_are_refused() {
    let path = file("namespaces.toml", "[namespaces.chat]\n");
    let server = Server::start(&["--config", as_text(&path)]);
    let publish = |topic: &str| http::post(server.control, &format!("/publish/{topic}"), "text/plain", b"x").status;
    assert_eq!(publish("chat:lobby"), 200);
    assert_eq!(publish("lobby"), 200);
    assert_eq!(publish("other:lobby"), 400);
}

#[test]
fn a_publication_under_the_same_idempotency_key_is_made_once() {
    let server = Server::start(&[]);
    let publish = |key: &str| {
        let request = format!(
            "POST /publish/a?key=k&tag=side:buy HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: {key}\r\n\
             Connection: close\r\nContent-Length: 1\r\n\r\nx"
        );
        let answer = http::exchange(server.control, request.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).expect("an answer in JSON");
        answer["offset"].as_u64().expect("a numeric offset")
    };
    assert_eq!(["1", "1", "2", "1"].map(publish), [1, 1, 2, 1]);
}
