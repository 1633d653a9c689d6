//! Many commands of Centrifugo's protocol, and commands with large answers: one client's backlog is bounded, its
//! neighbours are undisturbed, and once it reads, it receives all answers.

use std::fs;

use serde_json::{Value, json};

use ringfeed::limits::{CONN_TOPICS, HISTORY_PAGE_BYTES, RECV_PAUSE_BYTES};

use crate::json::{read_reply, send_text};
use crate::metrics::{await_that, resident_bytes, total};
use crate::peer::{BINARY, CLOSE, FIN, Peer, TEXT, close_payload, frame};
use crate::start;
use crate::support::http;
use crate::support::server::Server;
use crate::support::target_dir;

const PATH: &str = "/connection/websocket";

const CONFIG: &str = r#"
[centrifuge]
anonymous = true

[namespaces.default]
history_size = 1000
history = "anyone"
publish = "anyone"
presence = true
presence_read = "anyone"
"#;

/// The size of all publications of `large`.
const LARGE_BYTES: usize = 500_000;

/// A server with two histories: `large` has large publications, `small` more than one page of small ones.
fn server(name: &str) -> Server {
    let file = target_dir("hostile").join(name);
    fs::write(&file, CONFIG).expect("the target directory can be written to");
    let server = start(&["--echo", "--config", file.to_str().expect("a path of UTF-8")]);
    let publish = |topic: &str, bytes: usize, count: usize| {
        let body = format!("\"{}\"", "x".repeat(bytes));
        for _ in 0..count {
            let answer = http::post(server.control, &format!("/publish/{topic}"), "application/json", body.as_bytes());
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    };
    publish("large", LARGE_BYTES, 10);
    publish("small", 1000, 200);
    server
}

fn open(server: &Server) -> Peer {
    let mut peer = Peer::open(server.data, PATH);
    send_text(&mut peer, r#"{"id":1,"connect":{}}"#);
    assert_eq!(read_reply(&mut peer)["id"], 1);
    peer
}

fn commands(ids: std::ops::Range<usize>, request: &str) -> String {
    ids.map(|id| format!(r#"{{"id":{id},{request}}}"#)).collect::<Vec<_>>().join("\n")
}

/// Endless commands from clients that do not read: each backlog is a few answers, and the neighbours receive only their
/// own. Once the clients read, all answers arrive in order.
#[test]
fn a_client_that_does_not_read_bounds_its_answers() {
    const COUNT: usize = 1000;
    let server = server("questions.toml");
    let mut neighbour = Peer::open(server.data, "/echo");
    let page = RECV_PAUSE_BYTES + 4 * HISTORY_PAGE_BYTES;
    let rows = [
        (r#""history":{"channel":"large","limit":-1}"#, RECV_PAUSE_BYTES + 3 * LARGE_BYTES, 200),
        (r#""history":{"channel":"small","limit":-1}"#, page, COUNT),
        (r#""presence":{"channel":"small"}"#, page, COUNT),
        (r#""presence_stats":{"channel":"small"}"#, page, COUNT),
        (r#""publish":{"channel":"sink","data":1}"#, page, COUNT),
        (r#""ping":{}"#, page, COUNT),
    ];
    for (request, waiting_max, count) in rows {
        let mut peer = open(&server);
        let before = resident_bytes(&server);
        let paused = total(&server, "ringfeed_inputs_paused_total", "");
        send_text(&mut peer, &commands(10..10 + count, request));
        await_that("messages wait", || total(&server, "ringfeed_inputs_paused_total", "") > paused);
        for _ in 0..20 {
            neighbour.expect_echo("undisturbed");
            let waiting = total(&server, "ringfeed_outbox_bytes", "") as usize;
            assert!(waiting <= waiting_max, "the backlog is {waiting} bytes: {request}");
        }
        let held = resident_bytes(&server).saturating_sub(before);
        assert!(held < 48 << 20, "{count} commands take {held} bytes: {request}");
        for id in 10..10 + count {
            assert_eq!(read_reply(&mut peer)["id"], id, "{request}");
        }
    }
}

/// A page has a maximum size, or one publication, and all pages together have all publications.
#[test]
fn a_history_is_read_page_by_page() {
    let server = server("pages.toml");
    let mut peer = open(&server);
    for (topic, count, bytes) in [("large", 10, LARGE_BYTES), ("small", 200, 1000)] {
        let (mut seen, mut since) = (0, Value::Null);
        while seen < count {
            let history = json!({"id": 2, "history": {"channel": topic, "limit": -1, "since": since}});
            send_text(&mut peer, &history.to_string());
            let result = read_reply(&mut peer)["history"].take();
            let publications = result["publications"].as_array().expect("publications");
            assert!(publications.len() * bytes <= HISTORY_PAGE_BYTES || publications.len() == 1);
            assert_eq!(publications[0]["offset"], seen + 1);
            seen += publications.len();
            since = json!({"offset": seen, "epoch": result["epoch"]});
        }
        assert_eq!(seen, count);
    }
}

/// Messages behind a delayed command keep their order, in either encoding, and so does a Close frame.
#[test]
fn messages_behind_delayed_commands_keep_their_order() {
    let server = server("behind.toml");
    let mut peer = open(&server);
    let mut bytes = Vec::new();
    for message in 0..5 {
        let ids = 10 + 100 * message..10 + 100 * (message + 1);
        bytes.extend(frame(FIN | TEXT, commands(ids, r#""presence":{"channel":"small"}"#).as_bytes()));
    }
    bytes.extend(frame(FIN | CLOSE, &close_payload(1000, b"")));
    peer.send(&bytes);
    // The Close frame does not wait for an answer in flight.
    for id in 10..509 {
        assert_eq!(read_reply(&mut peer)["id"], id);
    }
    let mut ends = peer.whole_frames_until_end();
    assert!(ends.len() <= 2 && ends.pop().is_some_and(|end| end.first_byte == FIN | CLOSE), "{ends:?}");

    let mut peer = Peer::open(server.data, &format!("{PATH}?format=protobuf"));
    let mut bytes = frame(FIN | BINARY, b"\x04\x08\x01\x22\x00");
    for message in 0..5_u8 {
        // {"id":…,"history":{"channel":"small","limit":9}}
        let command = |id: u8| [b"\x0d\x08", &[id][..], b"\x52\x09\x0a\x05small\x38\x09"].concat();
        let message: Vec<u8> = (0..20).flat_map(|index| command(2 + 20 * message + index)).collect();
        bytes.extend(frame(FIN | BINARY, &message));
    }
    peer.send(&bytes);
    for id in 1..=101_u8 {
        let (kind, reply) = peer.next_message();
        let start = reply.iter().position(|byte| byte & 0x80 == 0).expect("an end of the length") + 1;
        assert_eq!((kind, &reply[start..start + 2]), (BINARY, &[0x08, id][..]), "{}", reply.escape_ascii());
    }
}

/// One message subscribes more often than a connection may, but unsubscribes in between.
#[test]
fn a_subscription_after_an_unsubscribe_fits_the_limit() {
    let server = server("room.toml");
    let mut peer = open(&server);
    let pair = |index: usize| {
        let channel = format!(r#"{{"channel":"g{index}"}}"#);
        let (subscribe, unsubscribe) = (10 + 2 * index, 11 + 2 * index);
        format!("{{\"id\":{subscribe},\"subscribe\":{channel}}}\n{{\"id\":{unsubscribe},\"unsubscribe\":{channel}}}\n")
    };
    let pairs: String = (0..CONN_TOPICS).map(pair).collect();
    send_text(&mut peer, &format!("{pairs}{{\"id\":9999,\"subscribe\":{{\"channel\":\"real\"}}}}"));
    let mut ids: Vec<u64> = (0..=2 * CONN_TOPICS)
        .map(|_| {
            let reply = read_reply(&mut peer);
            assert_eq!(reply.get("error"), None, "{reply}");
            reply["id"].as_u64().expect("an id")
        })
        .collect();
    ids.sort_unstable();
    let expected: Vec<u64> = (10..10 + 2 * CONN_TOPICS as u64).chain([9999]).collect();
    assert_eq!(ids, expected);
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), 1);
    http::post(server.control, "/publish/real", "application/json", b"1");
    assert_eq!(read_reply(&mut peer)["push"]["channel"], "real");
}
