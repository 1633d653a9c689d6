//! Tokens on every transport: with a key in `[tokens]`, nobody reads a topic without a token, unless its namespace is
//! open to anyone. Each attempt to read without the right meets a status or a close code, and a counter.

#[path = "wire/peer.rs"]
#[allow(dead_code, reason = "shared with the wire tests, which use all of it")]
mod peer;
mod support;

use std::fs;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use peer::{FIN, Peer, TEXT, frame, upgrade_request};
use serde_json::{Value, json};
use support::http;
use support::process::Process;
use support::server::{Server, ringfeed};
use support::token::hs256;
use support::{PATIENCE, target_dir};

const KEY: &str = "a key that nobody has guessed yet";

const CONFIG: &str = r#"
[tokens]
hmac_secret = "a key that nobody has guessed yet"

[centrifuge]
anonymous = true

[namespaces.chat]

[namespaces.closed]
subscribe = "nobody"

[namespaces.open]
subscribe = "anyone"
"#;

fn start(name: &str) -> Server {
    let file = target_dir("tokens").join(name);
    fs::write(&file, CONFIG).expect("the target directory can be written to");
    Server::start(&["--config", file.to_str().expect("a path of UTF-8")])
}

/// A token of user 42 with these further claims.
fn token(claims: Value) -> String {
    let mut all = json!({"sub": "42"});
    all.as_object_mut().unwrap().extend(claims.as_object().expect("claims").clone());
    hs256(&all, KEY)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}

fn unauthorized(server: &Server) -> u64 {
    total(server, "ringfeed_requests_unauthorized_total{")
}

/// The sum of a metric over all shards.
fn total(server: &Server, name: &str) -> u64 {
    let metrics = http::get(server.control, "/metrics");
    let lines = metrics.text().lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().expect("a number")).sum()
}

/// The ways to send a token.
#[derive(Clone, Copy, Debug)]
enum Way {
    Query,
    Field,
    Subprotocol,
}

/// The status of a request for this topic, as a WebSocket or as an event stream.
fn status(server: &Server, transport: &str, topic: &str, token: Option<(Way, &str)>) -> u16 {
    let (mut query, mut field) = (String::new(), String::new());
    match token {
        Some((Way::Query, token)) => query = format!("?token={token}"),
        Some((Way::Field, token)) => field = format!("\r\nAuthorization: Bearer {token}"),
        Some((Way::Subprotocol, token)) => {
            field = format!("\r\nSec-WebSocket-Protocol: ringfeed.raw, ringfeed.token.{token}");
        }
        None => {}
    }
    let target = format!("/{transport}/{}{query}", topic.replace('#', "%23"));
    let request = match transport {
        "feed" => upgrade_request(&target),
        _ => format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    };
    let head = http::head_of(server.data, request.replace("\r\n\r\n", &format!("{field}\r\n\r\n")).as_bytes());
    if head.starts_with("HTTP/1.1 401 ") {
        assert!(head.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{head}");
    }
    if head.starts_with("HTTP/1.1 101 ") && matches!(token, Some((Way::Subprotocol, _))) {
        assert!(head.contains("\r\nSec-WebSocket-Protocol: ringfeed.raw\r\n"), "the token is no answer: {head}");
    }
    head[9..12].parse().expect("a status")
}

#[test]
fn rejected_tokens_and_subscriptions_are_counted_by_cause() {
    let server = start("causes.toml");
    let tokens = |cause: &str| total(&server, &format!("ringfeed_tokens_refused_total{{cause=\"{cause}\"}}"));
    let subscriptions =
        |cause: &str| total(&server, &format!("ringfeed_subscriptions_refused_total{{cause=\"{cause}\"}}"));
    let attempts = [
        ("signature", hs256(&json!({"sub": "42"}), "another key")),
        ("expired", token(json!({"exp": now_s() - 1}))),
        ("not_yet_valid", token(json!({"nbf": now_s() + 1000}))),
        ("unsupported", token(json!({"subs": {}}))),
        ("malformed", "nonsense".to_owned()),
    ];
    for (cause, token) in &attempts {
        assert_eq!(tokens(cause), 0, "{cause}");
        assert_eq!(status(&server, "feed", "chat:a", Some((Way::Query, token))), 401, "{cause}");
        assert_eq!(tokens(cause), 1, "{cause}");
    }
    assert_eq!(total(&server, "ringfeed_tokens_refused_total"), attempts.len() as u64);
    assert_eq!(total(&server, "ringfeed_subscriptions_refused_total"), 0);
    assert_eq!(status(&server, "feed", "chat:a", None), 401);
    assert_eq!(status(&server, "sse", "closed:a", Some((Way::Query, &token(json!({}))))), 403);
    assert_eq!(status(&server, "feed", "nowhere:a", Some((Way::Query, &token(json!({}))))), 404);
    let causes = ["token_required", "permission_denied", "unknown_namespace"];
    assert_eq!(causes.map(subscriptions), [1, 1, 1]);
}

#[test]
fn feeds_and_event_streams_need_a_token_that_opens_the_topic() {
    let server = start("every-way.toml");
    let user = token(json!({}));
    let ours = token(json!({"channels": ["closed:a", "$chat:b"]}));
    let channel = token(json!({"channel": "closed:a"}));
    let nameless = hs256(&json!({"exp": now_s() + 60}), KEY);
    let forged = hs256(&json!({"sub": "42"}), "another key");
    let expired = token(json!({"exp": now_s() - 1}));
    let of_client = token(json!({"channel": "closed:a", "client": "c"}));
    let rows: [(&str, Option<&str>, u16); 20] = [
        ("chat:a", None, 401),
        ("a", None, 401),
        ("$chat:b", None, 401),
        ("open:a", None, 200),
        ("open:a", Some(&forged), 401),
        ("open:a", Some(&ours), 200),
        ("chat:a", Some(&user), 200),
        ("a", Some(&user), 200),
        ("chat:a#42", Some(&user), 200),
        ("chat:a#43", Some(&user), 403),
        ("closed:a", Some(&user), 403),
        ("$chat:b", Some(&user), 403),
        ("closed:a", Some(&ours), 200),
        ("$chat:b", Some(&ours), 200),
        ("chat:a", Some(&ours), 403),
        ("closed:a", Some(&channel), 200),
        ("closed:b", Some(&channel), 403),
        ("chat:a", Some(&nameless), 403),
        ("chat:a", Some(&expired), 401),
        ("closed:a", Some(&of_client), 401),
    ];
    for (topic, token, expected) in rows {
        for transport in ["feed", "sse"] {
            let ways = match (token, transport) {
                (None, _) => vec![None],
                (Some(token), "feed") => {
                    [Way::Query, Way::Field, Way::Subprotocol].map(|way| Some((way, token))).into()
                }
                (Some(token), _) => [Way::Query, Way::Field].map(|way| Some((way, token))).into(),
            };
            for way in ways {
                let before = unauthorized(&server);
                let accepted = if transport == "feed" { 101 } else { 200 };
                let expected = if expected == 200 { accepted } else { expected };
                assert_eq!(status(&server, transport, topic, way), expected, "/{transport}/{topic} {way:?}");
                let is_counted = unauthorized(&server) - before == 1;
                assert_eq!(is_counted, expected >= 400, "/{transport}/{topic} {way:?}");
            }
        }
    }
    let several = |token| status(&server, "feed", "open:a,chat:a", token);
    assert_eq!(several(None), 401, "one closed topic closes the request");
    assert_eq!(several(Some((Way::Query, &user))), 101);
}

#[test]
fn an_anonymous_client_of_centrifugos_protocol_reads_open_topics_only() {
    let server = start("centrifuge.toml");
    let mut peer = Peer::open(server.data, "/connection/websocket");
    let mut call = |command: Value| -> Value {
        peer.send(&frame(FIN | TEXT, command.to_string().as_bytes()));
        serde_json::from_slice(&peer.next_frame().expect("a reply").payload).expect("a reply in JSON")
    };
    assert!(call(json!({"id": 1, "connect": {}}))["connect"].is_object());
    for topic in ["chat:a", "a", "closed:a"] {
        assert_eq!(call(json!({"id": 2, "subscribe": {"channel": topic}}))["error"]["code"], 103, "{topic}");
    }
    assert!(call(json!({"id": 3, "subscribe": {"channel": "open:a"}}))["subscribe"].is_object());
}

#[test]
fn a_connection_ends_with_its_token() {
    let server = start("expiry.toml");
    let soon = token(json!({"exp": now_s() + 5}));
    // Reads to the end of the stream, which is that of the token.
    let stream = format!("/sse/chat:a?token={soon}");
    let events = thread::scope(|scope| {
        let events = scope.spawn(|| http::get(server.data, &stream));
        let mut feed = Peer::open(server.data, &format!("/feed/chat:a?token={soon}"));
        assert!(feed.expect_close_reason(3005).contains("expired"));
        events.join().expect("a stream")
    });
    assert_eq!(events.status, 200);
    let long = token(json!({"exp": now_s() + 60, "expire_at": 0}));
    let mut lasting = Peer::open(server.data, &format!("/feed/chat:a?token={long}"));
    assert_eq!(http::post(server.control, "/publish/chat:a", "text/plain", b"x").status, 200);
    assert_eq!(lasting.next_message().1, b"x");
    assert_eq!(status(&server, "feed", "chat:a", Some((Way::Query, &soon))), 401);
}

#[test]
fn no_topic_is_read_with_a_token_that_the_log_then_shows() {
    let server = start("log.toml");
    let secret = token(json!({"exp": 1}));
    for way in [Way::Query, Way::Field, Way::Subprotocol] {
        assert_eq!(status(&server, "feed", "chat:a", Some((way, &secret))), 401);
    }
    let log = server.stop();
    assert!(log.contains("it has expired") && !log.contains(&secret), "{log}");
}

#[test]
fn sub_carries_a_token_by_flag_environment_and_file() {
    let server = start("sub.toml");
    let user = token(json!({}));
    let file = target_dir("tokens").join("user.token");
    fs::write(&file, format!("{user}\n")).expect("the target directory can be written to");
    let sub = || {
        let mut command = ringfeed();
        command.args(["sub", "--count", "1", "--once", &server.ws_url("/feed/chat:a")]);
        command
    };
    let refused = sub().output().expect("the binary starts");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("'chat:a' requires a token"), "{refused:?}");
    let (mut by_flag, mut by_environment, mut by_file) = (sub(), sub(), sub());
    by_flag.args(["--token", &user]);
    by_environment.env("RINGFEED_TOKEN", &user);
    by_file.arg("--token-file").arg(&file);
    for command in [by_flag, by_environment, by_file] {
        let process = Process::start("sub", command);
        let deadline = Instant::now() + PATIENCE;
        while total(&server, "ringfeed_subscriptions{") != 1 {
            assert!(Instant::now() < deadline, "sub did not subscribe");
        }
        assert_eq!(http::post(server.control, "/publish/chat:a", "text/plain", b"hi").status, 200);
        assert_eq!(process.succeed(PATIENCE), "hi\n");
    }
}
