//! Centrifugo's unidirectional transports: clients that only receive, as curl and plain WebSockets.

#[path = "wire/peer.rs"]
#[allow(dead_code, reason = "shared with the wire tests, which use all of it")]
mod peer;
mod support;

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use peer::{FIN, Peer, TEXT, frame};
use serde_json::{Value, json};
use support::process::Process;
use support::server::Server;
use support::token::hs256;
use support::{PATIENCE, http, target_dir};

const KEY: &str = "a key that nobody has guessed yet";

const CONFIG: &str = r#"
[tokens]
hmac_secret = "a key that nobody has guessed yet"

[keep_alive]
ping_interval_ms = 200

[namespaces.default]
subscribe = "users"
history_size = 10
"#;

fn start() -> Server {
    let file = target_dir("uni").join(format!("{}.toml", std::process::id()));
    fs::write(&file, CONFIG).expect("the target directory can be written to");
    Server::start(&["--config", file.to_str().expect("a path of UTF-8"), "--ping-interval-ms", "200"])
}

/// A token of user 42 for these channels.
fn token(channels: &[&str]) -> String {
    hs256(&json!({"sub": "42", "channels": channels}), KEY)
}

fn publish(server: &Server, text: &str) {
    assert_eq!(http::post(server.control, "/publish/news", "application/json", text.as_bytes()).status, 200);
}

/// The next line of curl that is not empty and no ping, without what stands before its JSON.
fn next(curl: &Process, before: &str) -> Value {
    loop {
        let line = curl.next_line(PATIENCE).expect("the stream goes on");
        match line.strip_prefix(before) {
            Some("{}") | None => assert!(line.is_empty() || line == format!("{before}{{}}"), "{line}"),
            Some(text) => return serde_json::from_str(text).expect("JSON"),
        }
    }
}

fn curl(server: &Server, path: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--no-buffer", "--globoff"]).args(arguments);
    command.arg(format!("http://{}{path}", server.data));
    Process::start("curl", command)
}

#[test]
fn a_stream_begins_with_connect_and_goes_on_with_bare_pushes() {
    let server = start();
    publish(&server, "{\"n\":1}");
    let connect = json!({"token": token(&["news"])}).to_string();
    let events = curl(&server, "/connection/uni_sse", &["--get", "--data-urlencode", &format!("cf_connect={connect}")]);
    let lines = curl(&server, "/connection/uni_http_stream", &["--data", &connect]);
    let mut position = Value::Null;
    for (stream, before) in [(&events, "data: "), (&lines, "")] {
        let first = next(stream, before);
        let connected = &first["connect"];
        assert!(connected["client"].as_str().is_some_and(|client| client.len() == 36), "{first}");
        assert_eq!((&connected["pong"], &connected["session"]), (&Value::Null, &Value::Null), "{first}");
        position = connected["subs"]["news"].clone();
        assert_eq!(position["offset"], 1, "{first}");
    }
    publish(&server, "{\"n\":2}");
    for (stream, before) in [(&events, "data: "), (&lines, "")] {
        assert_eq!(next(stream, before), json!({"channel": "news", "pub": {"data": {"n": 2}, "offset": 2}}));
        // A ping, to which nothing has to be said.
        while stream.next_line(PATIENCE).expect("the stream goes on") != format!("{before}{{}}") {}
    }
    // A client that comes back says where it was, and receives what it has missed with the connect push.
    let recover = json!({"recover": true, "epoch": position["epoch"], "offset": 1});
    let connect = json!({"token": token(&["news"]), "subs": {"news": recover}}).to_string();
    let again = next(&curl(&server, "/connection/uni_http_stream", &["--data", &connect]), "");
    let news = &again["connect"]["subs"]["news"];
    assert_eq!((&news["recovered"], &news["publications"][0]["data"]), (&json!(true), &json!({"n": 2})), "{again}");
    let body = br#"{"user":"42","disconnect":{"code":4501,"reason":"bye"}}"#;
    assert_eq!(http::post(server.control, "/api/disconnect", "application/json", body).status, 200);
    for (stream, before) in [(&events, "data: "), (&lines, "")] {
        assert_eq!(next(stream, before), json!({"disconnect": {"code": 4501, "reason": "bye"}}));
    }
}

#[test]
fn a_websocket_sends_its_connect_request_and_only_receives_then() {
    let server = start();
    let mut peer = Peer::open(server.data, "/connection/uni_websocket");
    let say = |peer: &mut Peer, text: &str| peer.send(&frame(FIN | TEXT, text.as_bytes()));
    say(&mut peer, &format!("{{\n\"token\":\"{}\"}}", token(&["news"])));
    let next = |peer: &mut Peer| loop {
        let (_, payload) = peer.next_message();
        if payload != b"{}" {
            return serde_json::from_slice::<Value>(&payload).expect("JSON");
        }
    };
    assert!(next(&mut peer)["connect"]["client"].is_string());
    say(&mut peer, "whatever else it says");
    say(&mut peer, "{\"id\":2,\"subscribe\":{\"channel\":\"other\"}}");
    publish(&server, "\"hello\"");
    assert_eq!(next(&mut peer), json!({"channel": "news", "pub": {"data": "hello", "offset": 1}}));
    server.terminate();
    assert_eq!(next(&mut peer), json!({"disconnect": {"code": 3001, "reason": "shutdown"}}));
}

#[test]
fn a_connect_request_that_fails_ends_with_its_reason() {
    let server = start();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
    let expired = hs256(&json!({"sub": "42", "exp": now_s - 1}), KEY);
    let rows = [
        (json!({"token": hs256(&json!({"sub": "42"}), "another key")}).to_string(), 3500),
        (json!({"token": expired}).to_string(), 3005),
        ("{}".to_owned(), 3501),
        ("nonsense".to_owned(), 3501),
        ("{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"news\"}".to_owned(), 3501),
        ("{},\"subscribe\":{\"channel\":\"news\"}".to_owned(), 3501),
    ];
    for (connect, code) in rows {
        let ended = curl(&server, "/connection/uni_http_stream", &["--data-binary", &connect]);
        let line = ended.next_line(PATIENCE).expect("a push");
        let push: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(push["disconnect"]["code"], code, "{connect}: {line}");
        assert_eq!(ended.next_line(PATIENCE), None, "the stream has ended");
    }
    assert_eq!(http::get(server.data, "/connection/uni_http_stream").status, 405);
    assert_eq!(http::get(server.data, "/connection/uni_websocket").status, 426);
}
