//! Foreign clients of STOMP: npm's `@stomp/stompjs` on WebSockets, and PyPI's `stomp.py` on TCP.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::clients::{STOMP_NODE, STOMP_PYTHON};
use crate::support::server::Server;
use crate::support::target_dir;
use crate::support::token::hs256;

const SECRET: &str = "a key that nobody has guessed yet";

/// A listener for WebSockets and one for TCP. Everybody may publish to topics without a namespace, nobody to `mute`.
const NAMESPACES: &str = r#"
[[listener]]
address = "127.0.0.1:0"

[[listener]]
address = "127.0.0.1:0"
protocol = "stomp"

[namespaces.default]
publish = "anyone"
history_size = 100

[namespaces.mute]
publish = "nobody"
"#;

/// Without keys, everybody may read what is not said to be closed.
const OPEN: &str = "[namespaces.closed]\nsubscribe = \"nobody\"\n";

fn config(name: &str, more: &str) -> PathBuf {
    let path = target_dir("stomp").join(format!("{name}.toml"));
    fs::write(&path, format!("{NAMESPACES}{more}")).expect("the target directory can be written to");
    path
}

fn check_node(scenario: &str) {
    let server = Server::start_with_config(&config(scenario, OPEN), &[]);
    STOMP_NODE.run(&[scenario, &server.ws_url(""), &server.control_url("")]);
}

#[test]
fn stompjs_publishes_and_subscribes() {
    check_node("pubsub");
}

#[test]
fn stompjs_subscribes_twice_to_a_destination() {
    check_node("twice");
}

#[test]
fn stompjs_commits_and_aborts() {
    check_node("transactions");
}

#[test]
fn stompjs_and_the_server_exchange_heart_beats() {
    check_node("heartbeats");
}

#[test]
fn stompjs_recovers_by_message_id() {
    check_node("recovery");
}

#[test]
fn stompjs_splits_large_frames() {
    check_node("split");
}

#[test]
fn stompjs_receives_the_reason_of_a_refusal() {
    check_node("refusals");
}

#[test]
fn stompjs_connects_with_a_token() {
    let keys = format!("[tokens]\nhmac_secret = \"{SECRET}\"\n");
    let server = Server::start_with_config(&config("users", &keys), &[]);
    let token = hs256(&json!({"sub": "ann"}), SECRET);
    STOMP_NODE.run(&["users", &server.ws_url(""), &server.control_url(""), &token]);
}

#[test]
fn stomp_py_publishes_and_subscribes_on_tcp() {
    let server = Server::start_with_config(&config("tcp", OPEN), &[]);
    let address = server.listeners[1].strip_prefix("stomp://").expect("the listener of STOMP");
    STOMP_PYTHON.run(&[address, &server.control_url("")]);
}
