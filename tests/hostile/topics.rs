//! Topics by the thousand, which any client can name: topics without publications must not cost other clients anything.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use crate::json::{read_replies, send_command};
use crate::metrics::{await_left, await_that, resident_bytes, total};
use crate::peer::Peer;
use crate::start;
use crate::support::http;
use crate::support::server::Server;
use crate::support::target_dir;

/// A server with this configuration file, and one shard.
pub(crate) fn configured(name: &str, config: &str) -> Server {
    let file = target_dir("hostile").join(name);
    fs::write(&file, config).expect("the target directory can be written to");
    start(&["--shards", "1", "--config", file.to_str().expect("a path of UTF-8")])
}

/// Publishes a text. Returns the epoch and the offset.
#[track_caller]
pub(crate) fn publish(server: &Server, topic: &str, text: &str) -> (String, u64) {
    let response = http::post(server.control, &format!("/publish/{topic}"), "text/plain", text.as_bytes());
    assert_eq!(response.status, 200, "{}", response.text());
    let place: Value = serde_json::from_slice(&response.body).expect("an answer in JSON");
    (place["epoch"].as_str().expect("an epoch").to_owned(), place["offset"].as_u64().expect("an offset"))
}

/// The first line of the next message of an envelope peer.
fn next_head(peer: &mut Peer) -> Value {
    let (_, message) = peer.next_message();
    let line = message.split(|byte| *byte == b'\n').next().expect("a line");
    serde_json::from_slice(line).expect("a line of JSON")
}

/// Topics that homes keep, but for the server's own.
fn home_topics(server: &Server) -> u64 {
    total(server, "ringfeed_home_topics", "").saturating_sub(1)
}

/// A client that subscribes to other topics each time leaves nothing behind, over any transport.
#[test]
fn topics_without_publications_are_forgotten() {
    let server = configured("topics.toml", "[namespaces.default]\nhistory_size = 10\npresence = true\n");
    let mut before = 0;
    for round in 0..300 {
        let names: Vec<String> = (0..128).map(|number| format!("t{round}-{number}")).collect();
        let history = if round % 2 == 0 { "" } else { "?history=1" };
        drop(Peer::open(server.data, &format!("/feed/{}{history}", names.join(","))));
        if round == 100 {
            // The first answer of the control plane takes some megabytes for good.
            home_topics(&server);
            before = resident_bytes(&server);
        }
    }
    await_left(&server, 0);
    await_that("no topic is kept", || home_topics(&server) == 0);
    let more = resident_bytes(&server).saturating_sub(before);
    assert!(more < 4 << 20, "25,600 topics without publications take {more} bytes");
    assert_eq!(publish(&server, "new", "x").1, 1);
    await_that("only one is kept", || home_topics(&server) == 1);
    assert_eq!(total(&server, "ringfeed_home_topics_unpublished", ""), 0);
    assert_eq!(total(&server, "ringfeed_subscriptions_refused_total", "too_many_topics"), 0);
}

/// The epoch of a topic without publications stays valid even after the server has forgotten the topic.
#[test]
fn a_subscriber_from_before_the_first_publication_recovers_it() {
    let server = configured("early.toml", "[namespaces.default]\nhistory_size = 10\n");
    let mut early = Peer::open_envelope(server.data, "/feed/a");
    let epoch = next_head(&mut early)["epoch"].as_str().expect("an epoch").to_owned();
    drop(early);
    await_that("the topic is forgotten", || home_topics(&server) == 0);
    assert_eq!(publish(&server, "a", "first"), (epoch.clone(), 1));
    let mut again = Peer::open_envelope(server.data, &format!("/feed/a?since={epoch}:0"));
    assert_eq!(next_head(&mut again)["recovered"], true);
    assert_eq!(next_head(&mut again)["offset"], 1);
}

/// Names that would all have one home if it depended on the name only.
#[test]
fn names_can_not_be_chosen_to_have_one_home() {
    let server = start(&["--shards", "4"]);
    let home = |name: &str| {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        hasher.finish() % 4
    };
    let names: Vec<String> =
        (0..).map(|number| format!("t{number}")).filter(|name| home(name) == 0).take(128).collect();
    let _peer = Peer::open(server.data, &format!("/feed/{}", names.join(",")));
    await_that("all homes have their topics", || home_topics(&server) == 128);
    let most = (0..4).map(|shard| total(&server, "ringfeed_home_topics", &format!("shard=\"{shard}\""))).max();
    assert!(most < Some(80), "{most:?} of 128 topics have one home");
}

/// An idempotency key is known for five minutes, however many keys follow.
#[test]
fn an_idempotency_key_is_not_forgotten_for_others() {
    let server = configured("keys.toml", "");
    let place = |key: &str| {
        let request = json!({"channel": "a", "data": 1, "idempotency_key": key}).to_string();
        let response = http::post(server.control, "/api/publish", "application/json", request.as_bytes());
        let answer: Value = serde_json::from_slice(&response.body).expect("an answer in JSON");
        answer["result"]["offset"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    };
    assert_eq!(place("first"), 1);
    for batch in 0..51 {
        let command = |number: usize| {
            let key = format!("{batch}.{number}");
            json!({"publish": {"channel": "b", "data": 1, "idempotency_key": key}})
        };
        let commands: Vec<Value> = (0..2000).map(command).collect();
        let request = json!({ "commands": commands }).to_string();
        let response = http::post(server.control, "/api/batch", "application/json", request.as_bytes());
        assert!(response.status == 200 && !response.text().contains("error"), "{}", response.head);
    }
    assert_eq!((place("first"), place("second")), (1, 2));
    await_that("all are counted", || total(&server, "ringfeed_idempotency_keys", "") == 102_002);
    assert_eq!(total(&server, "ringfeed_idempotency_refused_total", ""), 0);
}

/// A connected client of Centrifugo's protocol, over a socket with tiny buffers where `is_narrow`.
pub(crate) fn centrifugo(server: &Server, is_narrow: bool) -> Peer {
    let mut peer = if is_narrow { narrow(server) } else { Peer::connect(server.data) };
    peer.send(crate::peer::upgrade_request("/connection/websocket").as_bytes());
    peer.expect_accepted();
    send_command(&mut peer, &json!({"id": 1, "connect": {}}));
    assert!(read_replies(&mut peer)[0]["connect"].is_object());
    peer
}

/// A connection with tiny kernel buffers.
pub(crate) fn narrow(server: &Server) -> Peer {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an option can be set");
    socket.connect(&server.data.into()).expect("the server accepts");
    Peer::over(socket.into())
}

/// A join does not displace a topic's newest publication in the backlog: its offset shows the subscriber that others
/// are missing.
#[test]
fn a_join_does_not_displace_the_last_publication() {
    let config = "[server]\nsocket_notsent_bytes = 2048\n[centrifuge]\nanonymous = true\n[namespaces.default]\n\
                  slow_consumer = \"drop-oldest\"\noutbox_bytes_max = 20000\njoin_leave = true\n\
                  force_join_leave = true\nhistory_size = 10\n";
    let server = configured("last-word.toml", config);
    let mut slow = centrifugo(&server, true);
    for channel in ["quiet", "busy"] {
        send_command(&mut slow, &json!({"id": 2, "subscribe": {"channel": channel}}));
        while read_replies(&mut slow).iter().all(|reply| reply["subscribe"].is_null()) {}
    }
    let dropped = || total(&server, "ringfeed_publications_dropped_total", "");
    let padding = json!("x".repeat(4000)).to_string();
    while dropped() == 0 {
        publish(&server, "busy", &padding);
    }
    let (_, last) = publish(&server, "quiet", "\"the last word\"");
    let mut other = centrifugo(&server, false);
    send_command(&mut other, &json!({"id": 2, "subscribe": {"channel": "quiet"}}));
    while read_replies(&mut other).iter().all(|reply| reply["subscribe"].is_null()) {}
    let before = dropped();
    while dropped() < before + 20 {
        publish(&server, "busy", &padding);
    }
    let (_, end) = publish(&server, "busy", "\"the end\"");
    let mut seen = HashSet::new();
    while !seen.contains(&("busy".to_owned(), end)) {
        for reply in read_replies(&mut slow) {
            let push = &reply["push"];
            if let Some(offset) = push["pub"]["offset"].as_u64() {
                seen.insert((push["channel"].as_str().expect("a channel").to_owned(), offset));
            }
        }
    }
    assert!(seen.contains(&("quiet".to_owned(), last)), "the server dropped the last publication of a quiet topic");
}
