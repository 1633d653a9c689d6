//! Commands of Centrifugo's protocol that exceed a limit, or come with invalid tokens.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use ringfeed::limits::{CENTRIFUGE_MESSAGE_BYTES_MAX, CONN_TOPICS};

use crate::floods::answers_until_limited;
use crate::json::{read_reply, send_command, send_text};
use crate::metrics::{await_closed, resident_bytes, total};
use crate::peer::{FIN, Peer, TEXT, frame, upgrade_request};
use crate::start;
use crate::support::http;
use crate::support::server::Server;
use crate::support::target_dir;
use crate::support::token::hs256;

const PATH: &str = "/connection/websocket";
const KEY: &str = "a key that nobody has guessed yet";

const CONFIG: &str = r#"
[centrifuge]
anonymous = true

[tokens]
hmac_secret = "a key that nobody has guessed yet"

[namespaces.default]
subscribe = "anyone"
publish = "subscribers"

[namespaces.private]
subscribe = "nobody"
"#;

fn server(name: &str) -> Server {
    let file = target_dir("hostile").join(name);
    fs::write(&file, CONFIG).expect("the target directory can be written to");
    start(&["--echo", "--config", file.to_str().expect("a path of UTF-8")])
}

/// A client that has not sent a command.
fn open(server: &Server) -> Peer {
    Peer::open(server.data, PATH)
}

/// An anonymous client that has connected.
fn anonymous(server: &Server) -> Peer {
    let mut peer = open(server);
    assert!(call(&mut peer, &json!({"id": 1, "connect": {}}))["connect"].is_object());
    peer
}

fn call(peer: &mut Peer, command: &Value) -> Value {
    send_command(peer, command);
    read_reply(peer)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs()
}

/// Nested arrays as a publication: the server passes them on, or rejects them if they are too deep or never end.
#[test]
fn deep_json_is_passed_on_or_rejected() {
    let server = server("deep.toml");
    let mut neighbour = Peer::open(server.data, "/echo");
    let (mut peer, mut listener) = (anonymous(&server), Peer::open(server.data, "/feed/a"));
    assert!(call(&mut peer, &json!({"id": 2, "subscribe": {"channel": "a"}}))["subscribe"].is_object());
    let arrays = |depth: usize| [&"[".repeat(depth)[..], &"]".repeat(depth)].concat();
    let publish = |data: &str| format!(r#"{{"id":3,"publish":{{"channel":"a","data":{data}}}}}"#);
    send_text(&mut peer, &publish(&arrays(1000)));
    assert_eq!(listener.next_message(), (TEXT, arrays(1000).into_bytes()));
    let unfinished = ["[", r#"{"a":"#, r#"{"id":1,"publish":{"data":["#]
        .map(|text| text.repeat(CENTRIFUGE_MESSAGE_BYTES_MAX as usize / text.len()));
    let too_deep = publish(&arrays(30_000));
    let refused = [&too_deep].into_iter().chain(&unfinished);
    for (number, text) in refused.enumerate() {
        let mut peer = anonymous(&server);
        send_text(&mut peer, text);
        peer.expect_close(3501);
        await_closed(&server, "application", number as u64 + 1);
        neighbour.expect_echo("undisturbed");
    }
}

/// Each command counts towards the message rate, even if one message holds many.
#[test]
fn a_flood_of_commands_in_few_messages_ends_at_its_bound() {
    let file = target_dir("hostile").join("flood.toml");
    fs::write(&file, CONFIG).expect("the target directory can be written to");
    let file = file.to_str().expect("a path of UTF-8");
    let server = start(&["--echo", "--config", file, "--messages-per-second-max", "100"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let mut peer = anonymous(&server);
    let batch = r#"{"id":2,"presence_stats":{"channel":"a"}}"#.to_owned() + "\n";
    (0..10).for_each(|_| send_text(&mut peer, batch.repeat(40).trim_end()));
    let replies = answers_until_limited(&mut peer);
    // The first command over the limit closes the connection before all answers have left; a slow server may accept
    // some more.
    assert!((64..400).contains(&replies.len()), "{} replies", replies.len());
    await_closed(&server, "rate_limited", 1);
    neighbour.expect_echo("undisturbed");
}

/// A message that is one byte too large, and one that never ends.
#[test]
fn huge_json_ends_at_the_bound_of_a_message() {
    let server = server("huge.toml");
    let mut neighbour = Peer::open(server.data, "/echo");
    let before = resident_bytes(&server);
    for bytes in [CENTRIFUGE_MESSAGE_BYTES_MAX as usize + 1, 16 << 20] {
        let mut peer = anonymous(&server);
        let text = format!(r#"{{"id":2,"publish":{{"channel":"a","data":"{}"}}}}"#, "x".repeat(bytes));
        let mut sender = peer.sender();
        let sending = thread::spawn(move || sender.write_all(&frame(FIN | TEXT, text.as_bytes())));
        peer.expect_close(1009);
        // The server reads on for a while, so that a reset does not discard the Close frame.
        let _ = sending.join().expect("sending does not panic");
        neighbour.expect_echo("undisturbed");
    }
    await_closed(&server, "protocol", 2);
    let held = resident_bytes(&server).saturating_sub(before);
    assert!(held < 16 << 20, "two rejected messages take {held} bytes");
}

/// Subscribes to a hundred thousand topics: the client gets the maximum, and an error for each further topic.
#[test]
fn a_subscriber_to_a_hundred_thousand_topics_gets_as_many_as_allowed() {
    const TOPICS: usize = 100_000;
    let server = server("topics.toml");
    let mut neighbour = Peer::open(server.data, "/echo");
    let mut peer = anonymous(&server);
    let before = resident_bytes(&server);
    let commands: Vec<String> =
        (0..TOPICS).map(|topic| format!(r#"{{"id":{},"subscribe":{{"channel":"t{topic}"}}}}"#, topic + 2)).collect();
    let mut sender = peer.sender();
    let sending = thread::spawn(move || {
        for message in commands.chunks(1000) {
            sender.write_all(&frame(FIN | TEXT, message.join("\n").as_bytes())).expect("the server reads");
        }
    });
    let (mut subscribed, mut refused) = (0, 0);
    for number in 0..TOPICS {
        let reply = read_reply(&mut peer);
        match reply["error"]["code"].as_u64() {
            None => subscribed += 1,
            Some(code) => {
                assert_eq!(code, 106, "{reply}");
                refused += 1;
            }
        }
        if number % 1000 == 0 {
            neighbour.expect_echo("undisturbed");
        }
    }
    sending.join().expect("sending does not panic");
    assert_eq!((subscribed, refused), (CONN_TOPICS, TOPICS - CONN_TOPICS));
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), CONN_TOPICS as u64);
    // The server answers everything received in one turn before it pauses a client.
    let held = resident_bytes(&server).saturating_sub(before);
    assert!(held < 64 << 20, "a hundred thousand subscribes take {held} bytes");
}

/// Tokens that have expired, belong to another user or purpose, or are forged.
#[test]
fn expired_replayed_and_forged_tokens_are_rejected() {
    let server = server("tokens.toml");
    let expired = hs256(&json!({"sub": "ann", "exp": now_s() - 1}), KEY);
    // Twice: a rejected token is rejected again.
    for _ in 0..2 {
        let mut peer = open(&server);
        let reply = call(&mut peer, &json!({"id": 1, "connect": {"token": expired}}));
        assert_eq!(reply["error"]["code"], 109, "{reply}");
        send_text(&mut peer, r#"{"id":2,"subscribe":{"channel":"a"}}"#);
        peer.expect_close(3501);
    }
    let good = hs256(&json!({"sub": "ann"}), KEY);
    let (signed, signature) = good.rsplit_once('.').expect("a signature");
    let forged = [
        hs256(&json!({"sub": "ann"}), "another key"),
        format!("{signed}."),
        format!("eyJhbGciOiJub25lIn0.{}.{signature}", signed.split_once('.').expect("claims").1),
        format!("eyJhbGciOiJub25lIn0.{}.", signed.split_once('.').expect("claims").1),
        format!("{}{}", good, "A".repeat(10_000)),
        ".".repeat(10_000),
        hs256(&json!({"sub": "ann", "nbf": now_s() + 1000}), KEY),
    ];
    for token in &forged {
        let mut peer = open(&server);
        send_command(&mut peer, &json!({"id": 1, "connect": {"token": token}}));
        assert_eq!(peer.expect_close_reason(3500), "invalid token", "{token}");
    }
    await_closed(&server, "application", 2 + forged.len() as u64);
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), 0);
}

/// Half a surrogate pair, as from a client that has cut a text, and numbers beyond 64 bits.
#[test]
fn legal_json_is_passed_on_whatever_it_means() {
    let server = server("legal.toml");
    let mut nobody = open(&server);
    let connect = r#"{"id":1,"connect":{"name":"\ud83d","version":1e400,"data":{"\ude00":1e400}}}"#;
    send_text(&mut nobody, connect);
    assert!(read_reply(&mut nobody)["connect"].is_object());
    let (mut peer, mut listener) = (anonymous(&server), Peer::open(server.data, "/feed/a"));
    assert!(call(&mut peer, &json!({"id": 2, "subscribe": {"channel": "a"}}))["subscribe"].is_object());
    for data in [r#"{"text":"hi \ud83d"}"#, r#""\ude00\ud83d""#, "1e400", "[-1E+999,0.1e-999]"] {
        send_text(&mut peer, &format!(r#"{{"id":3,"publish":{{"channel":"a","data":{data}}}}}"#));
        assert_eq!(listener.next_message(), (TEXT, data.as_bytes().to_vec()));
        let payloads: Vec<Vec<u8>> = (0..2).map(|_| peer.next_message().1).collect();
        let push = format!(r#""data":{data}"#);
        assert!(payloads.iter().any(|payload| String::from_utf8_lossy(payload).contains(&push)), "{data}");
    }
    send_text(&mut peer, r#"{"id":4,"publish":{"channel":"\ud83d","data":1}}"#);
    assert_eq!(read_reply(&mut peer)["error"]["code"], 107, "this name is invalid");
}

/// Names that begin with `$` require a token, and the part after `#` lists the users that may subscribe.
#[test]
fn names_reserved_for_users_are_closed_to_others() {
    let server = server("boundaries.toml");
    let target = |path: &str, name: &str| format!("/{path}/{}", name.replace('#', "%23"));
    for (name, status) in [("dialog%2342", 401), ("$private", 401), ("dialog%23", 401)] {
        for path in ["feed", "sse"] {
            let request = upgrade_request(&target(path, name));
            let request =
                if path == "sse" { format!("GET /sse/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n") } else { request };
            assert_eq!(http::exchange(server.data, request.as_bytes()).status, status, "{path} {name}");
        }
    }
    let user = |name: &str| {
        let mut peer = open(&server);
        let connect = json!({"id": 1, "connect": {"token": hs256(&json!({"sub": name}), KEY)}});
        assert!(call(&mut peer, &connect)["connect"].is_object());
        peer
    };
    let (mut ann, mut bob, mut nobody) = (user("ann"), user("bob"), anonymous(&server));
    let subscribe = |channel: &str| json!({"id": 2, "subscribe": {"channel": channel}});
    for channel in ["dialog#ann", "#ann", "$private"] {
        for peer in [&mut bob, &mut nobody] {
            assert_eq!(call(peer, &subscribe(channel))["error"]["code"], 103, "{channel}");
        }
    }
    assert_eq!(call(&mut ann, &subscribe("$private"))["error"]["code"], 103);
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), 0);
    assert!(call(&mut ann, &subscribe("dialog#ann"))["subscribe"].is_object());
    let token = hs256(&json!({"sub": "bob", "channel": "$private"}), KEY);
    let allowed = json!({"id": 2, "subscribe": {"channel": "$private", "token": token}});
    assert!(call(&mut bob, &allowed)["subscribe"].is_object());
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), 2);
}

/// A subscription token does not authenticate a connection, and a connection token expires at its time.
#[test]
fn a_subscription_token_does_not_authenticate_a_connection() {
    let server = server("kinds.toml");
    let connect = |claims: Value| {
        let mut peer = open(&server);
        send_command(&mut peer, &json!({"id": 1, "connect": {"token": hs256(&claims, KEY)}}));
        peer
    };
    let reason = connect(json!({"sub": "ann", "channel": "private:a"})).expect_close_reason(3500);
    assert!(reason.contains("'channel'"), "{reason}");
    let reason = connect(json!({"sub": "ann", "subs": {"a": {}}})).expect_close_reason(3500);
    assert!(reason.contains("'subs'"), "{reason}");
    let mut peer = connect(json!({"sub": "ann", "exp": now_s() + 1000, "expire_at": now_s() + 100}));
    let ttl = read_reply(&mut peer)["connect"]["ttl"].as_u64().expect("a time");
    assert!((1..=100).contains(&ttl), "{ttl} s");
    let of_another = json!({"sub": "ann", "channel": "private:a", "client": "another"});
    let subscribe = json!({"id": 2, "subscribe": {"channel": "private:a", "token": hs256(&of_another, KEY)}});
    assert_eq!(call(&mut peer, &subscribe)["error"]["code"], 103);
}

/// A subscription token is valid for one user and one channel.
#[test]
fn a_subscription_token_is_rejected_for_others() {
    let server = server("subscription_tokens.toml");
    let user = |name: &str| {
        let mut peer = open(&server);
        let connect = json!({"id": 1, "connect": {"token": hs256(&json!({"sub": name}), KEY)}});
        assert!(call(&mut peer, &connect)["connect"].is_object());
        peer
    };
    let of_ann = hs256(&json!({"sub": "ann", "channel": "private:a"}), KEY);
    let subscribe = |channel: &str, token: &str| json!({"id": 2, "subscribe": {"channel": channel, "token": token}});
    let (mut ann, mut bob, mut nobody) = (user("ann"), user("bob"), anonymous(&server));
    let expired = hs256(&json!({"sub": "ann", "channel": "private:a", "exp": now_s() - 1}), KEY);
    let rows = [
        (&mut bob, "private:a", &of_ann, 103),
        (&mut nobody, "private:a", &of_ann, 103),
        (&mut ann, "private:b", &of_ann, 103),
        // A connection token names no channel.
        (&mut user("ann"), "private:a", &hs256(&json!({"sub": "ann"}), KEY), 103),
        (&mut user("ann"), "private:a", &hs256(&json!({"sub": "ann", "channel": "private:a"}), "another key"), 103),
        (&mut user("ann"), "private:a", &expired, 109),
    ];
    for (peer, channel, token, code) in rows {
        let reply = call(peer, &subscribe(channel, token));
        assert_eq!(reply["error"]["code"], code, "{channel}: {reply}");
    }
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), 0);
    assert!(call(&mut ann, &subscribe("private:a", &of_ann))["subscribe"].is_object());
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), 1);
}
