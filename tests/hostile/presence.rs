//! Clients that join and leave faster than presence pushes travel: presence equals the subscriptions.
//! round.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::SockRef;

use crate::json::{read_replies, send_text};
use crate::metrics::{await_left, await_that};
use crate::peer::Peer;
use crate::start;
use crate::support::http;
use crate::support::server::Server;
use crate::support::target_dir;

const CONFIG: &str = r#"
[centrifuge]
anonymous = true

[namespaces.default]
presence = true
join_leave = true
force_join_leave = true
subscribe = "anyone"
presence_read = "anyone"
history_size = 300
"#;

fn server(name: &str) -> Server {
    let file = target_dir("hostile").join(name);
    fs::write(&file, CONFIG).expect("the target directory can be written to");
    start(&["--config", file.to_str().expect("a path of UTF-8")])
}

/// An anonymous client that has connected.
fn anonymous(server: &Server) -> Peer {
    let mut peer = Peer::open(server.data, "/connection/websocket");
    send_commands(&mut peer, &[json!({"id": 1, "connect": {}})]);
    assert!(await_reply(&mut peer, 1, &mut Vec::new())["connect"].is_object());
    peer
}

/// Sends commands in one message.
fn send_commands(peer: &mut Peer, commands: &[Value]) {
    let lines: Vec<String> = commands.iter().map(Value::to_string).collect();
    send_text(peer, &lines.join("\n"));
}

/// Reads up to the reply to a command. Earlier pushes go to `pushes`.
fn await_reply(peer: &mut Peer, id: u64, pushes: &mut Vec<Value>) -> Value {
    let mut found = None;
    while found.is_none() {
        for reply in read_replies(peer) {
            if reply["id"] == id {
                found = Some(reply);
            } else if reply["push"].is_object() {
                pushes.push(reply["push"].clone());
            }
        }
    }
    found.expect("the loop ends with a reply")
}

fn subscribe(id: u64, channel: &str) -> Value {
    json!({"id": id, "subscribe": {"channel": channel}})
}

fn unsubscribe(id: u64, channel: &str) -> Value {
    json!({"id": id, "unsubscribe": {"channel": channel}})
}

/// The number of clients present in `channel`.
fn present(server: &Server, channel: &str) -> u64 {
    let request = json!({"channel": channel}).to_string();
    let response = http::post(server.control, "/api/presence_stats", "application/json", request.as_bytes());
    let answer: Value = serde_json::from_str(response.text()).expect("an answer in JSON");
    answer["result"]["num_clients"].as_u64().unwrap_or_else(|| panic!("no count: {answer}"))
}

fn publish(server: &Server, topic: &str, payload: &str) {
    let response = http::post(server.control, &format!("/publish/{topic}"), "text/plain", payload.as_bytes());
    assert_eq!(response.status, 200, "{}", response.text());
}

/// Subscribing and unsubscribing in one message leaves no presence, whichever shard is the topic's home, and a witness
/// sees each client join once and then leave once.
#[test]
fn unsubscribing_in_the_same_message_leaves_no_presence() {
    let server = server("presence-at-once.toml");
    for topic in 0..10 {
        let channel = format!("at-once-{topic}");
        let mut witness = anonymous(&server);
        send_commands(&mut witness, &[subscribe(2, &channel)]);
        await_reply(&mut witness, 2, &mut Vec::new());
        for _ in 0..5 {
            let mut client = anonymous(&server);
            send_commands(&mut client, &[subscribe(2, &channel), unsubscribe(3, &channel)]);
            await_reply(&mut client, 3, &mut Vec::new());
        }
        await_that("only the witness is present", || present(&server, &channel) == 1);
        let mut pushes = Vec::new();
        send_commands(&mut witness, &[json!({"id": 3, "presence_stats": {"channel": channel}})]);
        await_reply(&mut witness, 3, &mut pushes);
        let kinds = |kind: &str| pushes.iter().filter(|push| push[kind].is_object()).count();
        // Its own join is among them if its reply and that push came in two messages.
        assert!(matches!((kinds("join"), kinds("leave")), (5 | 6, 5)), "{pushes:?}");
        let mut last: Option<&Value> = None;
        for push in pushes.iter().filter(|push| push["leave"].is_object()) {
            let client = &push["leave"]["info"]["client"];
            let came = pushes.iter().position(|other| other["join"]["info"]["client"] == *client);
            let went = pushes.iter().position(|other| other["leave"]["info"]["client"] == *client);
            assert!(came.is_some() && came < went && last != Some(client), "{pushes:?}");
            last = Some(client);
        }
    }
}

/// A client that subscribes, unsubscribes and subscribes in one message is subscribed and present.
#[test]
fn subscribing_again_in_one_message_is_present() {
    let server = server("presence-again.toml");
    for topic in 0..30 {
        let channel = format!("again-{topic}");
        let mut client = anonymous(&server);
        let commands = [subscribe(2, &channel), unsubscribe(3, &channel), subscribe(4, &channel)];
        match topic % 2 {
            0 => send_commands(&mut client, &commands),
            _ => commands.into_iter().for_each(|command| send_commands(&mut client, &[command])),
        }
        assert!(await_reply(&mut client, 4, &mut Vec::new())["subscribe"].is_object());
        // The reply to a presence request follows those to the subscriptions.
        send_commands(&mut client, &[json!({"id": 5, "presence_stats": {"channel": channel}})]);
        let stats = await_reply(&mut client, 5, &mut Vec::new());
        assert_eq!(stats["presence_stats"]["num_clients"], 1, "{channel}");
        drop(client);
        await_that("the client has left", || present(&server, &channel) == 0);
    }
}

/// A rejected recovery, and one for a client that has just left, leave no presence.
#[test]
fn a_rejected_or_abandoned_subscription_leaves_no_presence() {
    let server = server("presence-gone.toml");
    for topic in 0..4 {
        let channel = format!("gone-{topic}");
        for _ in 0..200 {
            publish(&server, &channel, &"x".repeat(3000));
        }
        let mut client = anonymous(&server);
        let recover = |epoch: &str, flag| {
            json!({"id": 2, "subscribe":
                {"channel": channel, "recover": true, "offset": 0, "epoch": epoch, "flag": flag}})
        };
        send_commands(&mut client, &[recover("never", 2)]);
        assert_eq!(await_reply(&mut client, 2, &mut Vec::new())["error"]["code"], 112);
        assert_eq!(present(&server, &channel), 0);
        for _ in 0..30 {
            let mut client = anonymous(&server);
            send_commands(&mut client, &[recover("", 0)]);
            SockRef::from(&client.sender()).set_linger(Some(Duration::ZERO)).expect("an option can be set");
        }
        drop(client);
    }
    await_left(&server, 0);
    for topic in 0..4 {
        assert_eq!(present(&server, &format!("gone-{topic}")), 0);
    }
}
