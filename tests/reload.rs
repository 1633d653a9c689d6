//! The configuration is read again while the server runs: each key that can change changes what the server does, and no
//! connection ends. `tests/tls/reload.rs` has the certificates.

#[path = "wire/peer.rs"]
#[allow(dead_code, reason = "shared with the wire tests, which use all of it")]
mod peer;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use peer::{FIN, Peer, TEXT, frame, upgrade_request};
use serde_json::{Value, json};
use support::http;
use support::server::{Server, ringfeed};
use support::token::hs256;
use support::{PATIENCE, target_dir};

/// A server and its configuration file.
struct Reloaded {
    server: Server,
    file: PathBuf,
}

impl Reloaded {
    fn start(name: &str, config: &str) -> Reloaded {
        let file = target_dir("reload").join(format!("{name}-{}.toml", std::process::id()));
        fs::write(&file, config).expect("the target directory can be written to");
        let server = Server::start(&["--echo", "--config", file.to_str().expect("a path of UTF-8")]);
        Reloaded { server, file }
    }

    /// Writes the file and requests the reload; returns status and text.
    fn post(&self, config: &str, key: &str) -> (u16, String) {
        fs::write(&self.file, config).expect("the target directory can be written to");
        let request = format!(
            "POST /reload HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let answer = http::exchange(self.server.control, request.as_bytes());
        (answer.status, answer.text().to_owned())
    }

    /// The same for a file that can be applied whole. What the shards do from now on follows it: they take an echo.
    fn apply(&self, config: &str) {
        let (status, text) = self.post(config, "");
        assert!(status == 200 && !text.contains("restart"), "{config}: {text}");
    }

    /// The status of a request.
    fn status(&self, target: &str, fields: &str) -> u16 {
        let request = upgrade_request(target).replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
        let head = http::head_of(self.server.data, request.as_bytes());
        head[9..12].parse().expect("a status")
    }

    /// Waits until `has_happened`: each shard takes the new configuration in its next turn.
    fn await_that(&self, what: &str, mut has_happened: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !has_happened() {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        }
    }

    /// Waits until both shards have done what `is_done` looks for, many times in a row: connections reach either shard.
    fn await_both(&self, what: &str, mut is_done: impl FnMut() -> bool) {
        let mut in_a_row = 0;
        self.await_that(what, || {
            in_a_row = if is_done() { in_a_row + 1 } else { 0 };
            in_a_row == 16
        });
    }

    fn total(&self, name: &str) -> u64 {
        let metrics = http::get(self.server.control, "/metrics");
        let lines = metrics.text().lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().expect("a number")).sum()
    }
}

fn echo(peer: &mut Peer, bytes: usize) -> Option<u8> {
    peer.send(&frame(FIN | TEXT, &vec![b'x'; bytes]));
    peer.next_frame().map(|frame| frame.first_byte)
}

#[test]
fn origins_and_proxies_change() {
    let reloaded = Reloaded::start("origins", "");
    let mut neighbour = Peer::open(reloaded.server.data, "/echo");
    let origin = "Origin: https://a.example\r\n";
    assert_eq!(reloaded.status("/echo", origin), 403);
    reloaded.apply("[server]\nallowed_origins = [\"https://a.example\"]\n");
    reloaded.await_both("the origin is allowed", || reloaded.status("/echo", origin) == 101);
    let lie = "X-Forwarded-For: nonsense\r\n";
    assert_eq!(reloaded.status("/echo", lie), 101);
    assert_eq!(reloaded.total("ringfeed_forwarded_ignored_total{"), 1);
    let counted = |name: &str, field: &str| {
        let before = reloaded.total(name);
        reloaded.status("/echo", field);
        reloaded.total(name) > before
    };
    reloaded.apply("[server]\ntrusted_proxies = [\"127.0.0.1\"]\n");
    reloaded.await_both("the peer is trusted", || counted("ringfeed_forwarded_unreadable_total{", lie));
    reloaded.apply("[server]\ntrusted_proxies = [\"127.0.0.1\"]\nforwarded_header = \"forwarded\"\n");
    let other = "Forwarded: nonsense\r\n";
    reloaded.await_both("the other field counts", || counted("ringfeed_forwarded_unreadable_total{", other));
    assert_eq!(echo(&mut neighbour, 5), Some(FIN | TEXT), "nobody was disconnected");
}

#[test]
fn bounds_on_clients_change() {
    let reloaded = Reloaded::start("bounds", "");
    let mut neighbour = Peer::open(reloaded.server.data, "/echo");
    // Whether fewer messages come back than are sent.
    let is_closed_by = |bytes: usize, count: usize| {
        let mut peer = Peer::open(reloaded.server.data, "/echo");
        let message = frame(FIN | TEXT, &vec![b'x'; bytes]);
        let _ = peer.sender().write_all(&message.repeat(count));
        let echoes = (0..count).map_while(|_| peer.next_frame()).take_while(|frame| frame.first_byte == FIN | TEXT);
        echoes.count() < count
    };
    assert!(!is_closed_by(1000, 1) && !is_closed_by(2, 20) && !is_closed_by(1000, 100));
    reloaded.apply("[server]\nmessage_bytes_max = 500\n");
    reloaded.await_both("a message is too long", || is_closed_by(1000, 1));
    reloaded.apply("[server]\nmessages_per_second_max = 5\n");
    reloaded.await_both("messages are too many", || is_closed_by(2, 20));
    reloaded.apply("[server]\nbytes_per_second_max = 65536\n");
    reloaded.await_both("bytes are too many", || is_closed_by(1000, 100));
    reloaded.apply("[server]\nhandshake_timeout_ms = 50\n");
    reloaded.await_both("half a request ends in time", || {
        let mut stream = TcpStream::connect(reloaded.server.data).expect("the server accepts");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout can be set");
        stream.write_all(b"GET / HTTP").expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 408 ")
    });
    assert_eq!(reloaded.status("/feed/a,b", ""), 101);
    reloaded.apply("[server]\nsubscriptions_per_connection_max = 1\n");
    reloaded.await_both("topics are too many", || reloaded.status("/feed/a,b", "") == 400);
    assert_eq!(echo(&mut neighbour, 5), Some(FIN | TEXT), "nobody was disconnected");
    reloaded.apply("[server]\nhandshakes_per_second = 1\n");
    let start = Instant::now();
    let statuses: Vec<u16> = (0..12).map(|_| reloaded.status("/echo", "")).collect();
    assert!(statuses.contains(&503) || start.elapsed() >= Duration::from_secs(2), "{statuses:?}");
}

#[test]
fn the_pace_and_the_patience_of_a_stop_change() {
    let slow = "[server]\ndrain_spread_ms = 3_600_000\ndrain_timeout_ms = 3_600_000\n";
    let reloaded = Reloaded::start("drain", slow);
    let mut peer = Peer::open(reloaded.server.data, "/echo");
    assert_eq!(echo(&mut peer, 5), Some(FIN | TEXT));
    reloaded.apply("[server]\ndrain_spread_ms = 0\ndrain_timeout_ms = 1\n");
    reloaded.server.terminate();
    peer.expect_close(1001);
    assert_eq!(reloaded.server.wait().code(), Some(0));
}

#[test]
fn keys_of_tokens_and_of_the_control_port_change() {
    let reloaded = Reloaded::start("keys", "[tokens]\nhmac_secret = \"old\"\n");
    let status = |secret: &str| reloaded.status(&format!("/feed/a?token={}", hs256(&json!({"sub": "42"}), secret)), "");
    assert_eq!([status("old"), status("new")], [101, 401]);
    reloaded.apply("[tokens]\nhmac_secret = \"new\"\n");
    assert_eq!([status("old"), status("new")], [401, 101], "both shards have the keys at once");
    reloaded.apply("[tokens]\nhmac_secret = \"new\"\naudience = \"us\"\n");
    assert_eq!(status("new"), 401);
    reloaded.apply("[tokens]\nhmac_secret = \"new\"\nissuer = \"us\"\n");
    assert_eq!(status("new"), 401);
    // Without tokens, everybody reads.
    reloaded.apply("[api]\nkey = \"one\"\n");
    reloaded.await_both("the namespace is open", || reloaded.status("/feed/a", "") == 101);
    let publish = |key: &str| {
        let request = format!(
            "POST /publish/a HTTP/1.1\r\nHost: a.b\r\nHost: localhost\r\nX-API-Key: {key}\r\nConnection: close\r\n\
             Content-Length: 1\r\n\r\nx"
        );
        http::exchange(reloaded.server.control, request.replace("Host: a.b\r\n", "").as_bytes()).status
    };
    assert_eq!([publish(""), publish("one"), publish("two")], [401, 200, 401]);
    let key_file = target_dir("reload").join(format!("two-{}.key", std::process::id()));
    fs::write(&key_file, "two\n").expect("a file");
    let config = format!("[api]\nkey_file = \"{}\"\n", key_file.display());
    assert_eq!(reloaded.post(&config, "two").0, 401, "the old key counts until then");
    assert_eq!(reloaded.post(&config, "one").0, 200);
    assert_eq!([publish("one"), publish("two")], [401, 200]);
    // The same file with another key.
    fs::write(&key_file, "three\n").expect("a file");
    assert_eq!(reloaded.post(&config, "two").0, 200);
    assert_eq!([publish("two"), publish("three")], [401, 200]);
}

#[test]
fn what_namespaces_keep_and_permit_changes() {
    let base = "[centrifuge]\nanonymous = true\n[namespaces.default]\npresence = true\n";
    let with = |keys: &str| format!("{base}{keys}");
    let reloaded = Reloaded::start("namespaces", base);
    let post =
        |body: &[u8]| assert_eq!(http::post(reloaded.server.control, "/publish/a", "text/plain", body).status, 200);
    let history = || {
        let body = json!({"channel": "a", "limit": 100}).to_string();
        let answer = http::post(reloaded.server.control, "/api/history", "application/json", body.as_bytes());
        let answer: Value = serde_json::from_slice(&answer.body).expect("an answer in JSON");
        answer["result"]["publications"].as_array().map(Vec::len)
    };
    post(b"1");
    assert_eq!(history(), None);
    reloaded.apply(&with("history_size = 3\n"));
    assert_eq!(history(), Some(0));
    (0..5).for_each(|_| post(b"2"));
    assert_eq!(history(), Some(3));
    reloaded.apply(&with("history_size = 3\nhistory_bytes_max = 1\n"));
    post(b"3");
    assert_eq!(history(), Some(1));
    reloaded.apply(&with("history_size = 3\nhistory_ttl_ms = 1\n"));
    reloaded.await_that("the history is too old", || history() == Some(0));
    reloaded.apply(&with("history_size = 3\n"));
    (0..2).for_each(|_| post(b"4"));
    reloaded.apply(base);
    post(b"5");
    reloaded.apply(&with("history_size = 3\n"));
    assert_eq!(history(), Some(0), "a history has no gap");
    let call = |command: Value| -> Value {
        let mut peer = Peer::open(reloaded.server.data, "/connection/websocket");
        let mut reply = Value::Null;
        for command in [json!({"id": 1, "connect": {}}), json!({"id": 2, "subscribe": {"channel": "a"}}), command] {
            peer.send(&frame(FIN | TEXT, command.to_string().as_bytes()));
            reply = serde_json::from_slice(&peer.next_frame().expect("a reply").payload).expect("a reply in JSON");
        }
        reply
    };
    let rows = [
        ("publish", json!({"id": 3, "publish": {"channel": "a", "data": {}}})),
        ("history", json!({"id": 3, "history": {"channel": "a"}})),
        ("presence_read", json!({"id": 3, "presence": {"channel": "a"}})),
    ];
    for (key, command) in rows {
        assert_eq!(call(command.clone())["error"]["code"], 103, "{key}");
        reloaded.apply(&with(&format!("history_size = 3\n{key} = \"anyone\"\n")));
        reloaded.await_both(key, || call(command.clone())["error"].is_null());
    }
    reloaded.apply(&with("subscribe = \"nobody\"\n"));
    reloaded.await_both("nobody may subscribe", || reloaded.status("/feed/a", "") == 403);
}

#[test]
fn the_policy_for_slow_readers_changes() {
    let base = "[server]\nsocket_notsent_bytes = 4096\n[namespaces.default]\n";
    let reloaded = Reloaded::start("slow", &format!("{base}outbox_bytes_max = 4_000_000_000\n"));
    let body = vec![b'x'; 500_000];
    let publish = || assert_eq!(http::post(reloaded.server.control, "/publish/a", "text/plain", &body).status, 200);
    // It never reads.
    let reader = Peer::open(reloaded.server.data, "/feed/a");
    reloaded.await_that("it is behind", || {
        publish();
        reloaded.total("ringfeed_outbox_bytes{") > 0
    });
    reloaded.apply(&format!("{base}outbox_bytes_max = 4_000_000_000\nslow_consumer = \"conflate\"\n"));
    reloaded.await_that("its backlog is conflated", || {
        publish();
        reloaded.total("ringfeed_publications_conflated_total{") > 0
    });
    reloaded.apply(&format!("{base}outbox_bytes_max = 1000\nslow_consumer = \"drop-oldest\"\n"));
    publish();
    assert_eq!(reloaded.total("ringfeed_connections_closed_total{reason=\"slow_consumer\""), 0);
    reloaded.apply(&format!("{base}outbox_bytes_max = 4_000_000_000\noutbox_age_ms = 1\n"));
    reloaded.await_that("its backlog is too old", || {
        publish();
        http::get(reloaded.server.control, "/metrics")
            .text()
            .lines()
            .any(|line| line.contains("reason=\"slow_consumer\"") && !line.ends_with(" 0"))
    });
    drop(reader);
}

#[test]
fn the_log_level_changes() {
    let reloaded = Reloaded::start("log", "[server]\nlog_level = \"error\"\n");
    assert_eq!(reloaded.status("/nowhere-one", ""), 404);
    reloaded.apply("[server]\nlog_level = \"info\"\n");
    assert_eq!(reloaded.status("/nowhere-two", ""), 404);
    reloaded.apply("[server]\nlog_level = \"error\"\n");
    assert_eq!(reloaded.status("/nowhere-three", ""), 404);
    let log = reloaded.server.stop();
    assert_eq!(log.matches("request rejected").count(), 1, "{log}");
}

#[test]
fn a_bad_file_changes_nothing_and_other_keys_are_named() {
    let reloaded = Reloaded::start("refused", "[tokens]\nhmac_secret = \"old\"\n");
    let status = || reloaded.status(&format!("/feed/a?token={}", hs256(&json!({"sub": "42"}), "old")), "");
    let rows = [
        ("[tokens]\nhmac_secret = \"new\"\n[server]\nlog_levl = 1\n", ":4: there is no key server.log_levl"),
        ("[tokens]\nhmac_secret = \"new\"\njwks_file = \"/nowhere\"\n", "/nowhere: cannot be read"),
        ("[tokens]\nhmac_secret = \"new\"\n[server]\nallowed_origins = [\"a\"]\n", ":4: server.allowed_origins"),
    ];
    for (config, text) in rows {
        let (code, said) = reloaded.post(config, "");
        assert!(code == 422 && said.starts_with("nothing has changed") && said.contains(text), "{config}: {said}");
        assert_eq!(status(), 101, "{config}");
    }
    let (code, said) =
        reloaded.post("[keep_alive]\npong_timeout_ms = 7\n[namespaces.a]\n[tokens]\nhmac_secret = \"old\"\n", "");
    assert!(code == 200 && said.contains("keep_alive.pong_timeout_ms, namespaces.a\n"), "{said}");
    assert_eq!(status(), 101);
    let (code, said) = reloaded.post("[tokens]\nhmac_secret = \"new\"\n", "");
    assert!(code == 200 && !said.contains("restart"), "{said}");
    assert_eq!(status(), 401);
    assert_eq!(reloaded.total("ringfeed_reloads_total{outcome=\"refused\"}"), 3);
}

#[test]
fn a_command_reloads() {
    let reloaded = Reloaded::start("command", "[api]\nkey = \"secret\"\n");
    let run = |key: &str| {
        let mut command = ringfeed();
        command.args(["reload", &reloaded.server.control_url("")]).env("RINGFEED_API_KEY", key);
        let output = command.output().expect("the binary starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    };
    let (code, text) = run("wrong");
    assert!(code == Some(1) && text.contains("X-API-Key"), "{text}");
    let (code, text) = run("secret");
    assert_eq!((code, text.as_str()), (Some(0), "0 certificates\n"));
    fs::write(&reloaded.file, "[api]\nkye = 1\n").expect("a file");
    let (code, text) = run("secret");
    assert!(code == Some(1) && text.contains(":2: there is no key api.kye"), "{text}");
}
