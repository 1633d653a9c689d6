//! `/sse/…` on the wire: events and their ids, resuming with `Last-Event-ID`, and keep-alive comments.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use ringfeed::conn::{CloseCause, KeepAliveConfig};
use ringfeed::server::ServerConfig;
use ringfeed::topics::{Draft, Namespace, Namespaces, Position, TopicName};
use serde_json::json;

use crate::inside::{Inside, connect_narrow, draft, without_pings};
use crate::peer::upgrade_request;
use crate::support::{PATIENCE, http};

/// An event stream, read block by block.
struct Stream {
    input: BufReader<TcpStream>,
    head: String,
}

/// The fields between two empty lines.
#[derive(Debug, Default, PartialEq)]
struct Block {
    id: Option<String>,
    event: Option<String>,
    retry: Option<u64>,
    /// The `data` fields, joined as a browser joins them.
    data: Option<String>,
    is_comment: bool,
}

impl Stream {
    fn open(server: SocketAddr, target: &str, last_event_id: Option<&str>) -> Stream {
        let id = last_event_id.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{id}\r\n");
        let mut stream = TcpStream::connect(server).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut stream = Stream { input: BufReader::new(stream), head: String::new() };
        while !stream.head.ends_with("\r\n\r\n") {
            let line = stream.next_line().expect("a head");
            stream.head.push_str(&format!("{line}\n"));
        }
        assert!(stream.head.starts_with("HTTP/1.1 200 "), "{}", stream.head);
        let retry = stream.next_block().retry.expect("a reconnect time");
        assert!((1000..=5000).contains(&retry), "{retry}");
        stream
    }

    /// The next line without its end; `None` at the end of the stream.
    fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.input.read_line(&mut line).expect("the server sends or closes");
        assert!(count == 0 || line.ends_with('\n'), "the stream ended within a line: {line:?}");
        (count > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    fn next_block(&mut self) -> Block {
        self.try_next_block().expect("the stream goes on")
    }

    /// Reads up to the next empty line; `None` at the end of the stream.
    fn try_next_block(&mut self) -> Option<Block> {
        let mut block = Block::default();
        loop {
            let line = self.next_line()?;
            match line.split_once(':').map_or((&line[..], ""), |(name, value)| (name, value)) {
                ("", _) if line.is_empty() => return Some(block),
                ("", _) => block.is_comment = true,
                (name, value) => block.add(name, value.strip_prefix(' ').unwrap_or(value)),
            }
        }
    }

    /// Expects a block that is an event of a publication.
    #[track_caller]
    fn expect_event(&mut self, id: &str, data: &str) {
        let expected = Block { id: Some(id.to_owned()), data: Some(data.to_owned()), ..Block::default() };
        assert_eq!(self.next_block(), expected);
    }

    /// Expects a block that only has the stream's position.
    #[track_caller]
    fn expect_id(&mut self, id: &str) {
        assert_eq!(self.next_block(), Block { id: Some(id.to_owned()), ..Block::default() });
    }
}

impl Block {
    fn add(&mut self, name: &str, value: &str) {
        match name {
            "id" => self.id = Some(value.to_owned()),
            "event" => self.event = Some(value.to_owned()),
            "retry" => self.retry = Some(value.parse().expect("digits")),
            "data" => match &mut self.data {
                Some(data) => *data = format!("{data}\n{value}"),
                None => self.data = Some(value.to_owned()),
            },
            _ => panic!("unknown field: {name}: {value}"),
        }
    }
}

fn server() -> Inside {
    Inside::start(Namespace { history_size: 5, ..Namespace::default() })
}

fn id(position: Position) -> String {
    format!("{}:{}", position.epoch, position.offset)
}

#[test]
fn a_stream_begins_with_its_position_and_each_event_updates_it() {
    let mut server = server();
    let first = server.publish("a", "before");
    let mut stream = Stream::open(server.data, "/sse/a", None);
    let field = |name: &str| {
        let value = stream.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        value.unwrap_or_else(|| panic!("no {name}: {}", stream.head)).to_owned()
    };
    assert!(field("Content-Type").starts_with("text/event-stream"));
    assert_eq!(field("Cache-Control"), "no-store");
    assert!(!stream.head.contains("Content-Length"), "{}", stream.head);
    stream.expect_id(&id(first));
    for text in ["plain", "", "two\nlines", "id: 7", ":", " leading", "grüße 🦀"] {
        let position = server.publish("a", text);
        stream.expect_event(&id(position), text);
    }
    // Every line end of a text ends a line, so that no text can inject a field.
    for text in ["x\r\ny\rid: 9\n\nevent: lost", "x\ny\nid: 9\n\nevent: lost"] {
        let position = server.publish("a", text);
        stream.expect_event(&id(position), "x\ny\nid: 9\n\nevent: lost");
    }
}

#[test]
fn binary_publications_arrive_as_base64() {
    let mut server = server();
    let mut stream = Stream::open(server.data, "/sse/a", None);
    stream.next_block();
    let topic = TopicName::new("a").unwrap();
    let position = server.publish_draft(Draft::new(topic, false, Bytes::from_static(b"\xff\n\r\x00")));
    let block = stream.next_block();
    assert_eq!((block.id, block.event), (Some(id(position)), Some("base64".to_owned())));
    assert_eq!(block.data.as_deref(), Some("/woNAA=="));
}

#[test]
fn a_reconnecting_client_receives_what_it_missed() {
    let mut server = server();
    let positions: Vec<Position> = (1..=4).map(|number| server.publish("a", &number.to_string())).collect();
    let last = id(positions[1]);
    let targets = [
        ("/sse/a".to_owned(), Some(&last[..])),
        (format!("/sse/a?last_event_id={last}"), None),
        (format!("/sse/a?last_event_id={}", last.replace(':', "%3A")), None),
        // The browser's header takes precedence over the page's parameter.
        (format!("/sse/a?last_event_id={}", id(positions[0])), Some(&last[..])),
    ];
    for (target, last_event_id) in targets {
        let mut stream = Stream::open(server.data, &target, last_event_id);
        stream.expect_event(&id(positions[2]), "3");
        stream.expect_event(&id(positions[3]), "4");
        stream.expect_id(&id(positions[3]));
    }
    let mut stream = Stream::open(server.data, "/sse/a", Some(&id(positions[3])));
    stream.expect_id(&id(positions[3]));
    let position = server.publish("a", "5");
    stream.expect_event(&id(position), "5");
}

#[test]
fn a_client_that_missed_too_much_receives_the_loss_and_goes_on() {
    let mut server = server();
    let positions: Vec<Position> = (1..=9).map(|number| server.publish("a", &number.to_string())).collect();
    let last = positions[8];
    let ids =
        [id(positions[2]), "0000000000001:9".to_owned(), "nonsense".to_owned(), format!("{},{}", id(last), id(last))];
    for last_event_id in ids {
        let mut stream = Stream::open(server.data, "/sse/a", Some(&last_event_id));
        let block = stream.next_block();
        assert_eq!((block.id, block.event.as_deref()), (Some(id(last)), Some("lost")), "{last_event_id}");
        let data: serde_json::Value = serde_json::from_str(&block.data.expect("data")).expect("JSON");
        assert_eq!(data, json!({"topic": "a", "epoch": last.epoch.to_string(), "offset": 9}));
    }
    let mut stream = Stream::open(server.data, "/sse/a", Some("nonsense"));
    stream.next_block();
    let position = server.publish("a", "10");
    stream.expect_event(&id(position), "10");
}

/// Topics with homes on both shards.
#[test]
fn the_id_of_a_stream_of_several_topics_has_all_positions() {
    let mut server = server();
    let topics = ["t0", "t1", "t2", "t3", "t4"];
    let target = format!("/sse/{}", topics.join(","));
    let mut positions: Vec<Position> = topics.iter().map(|topic| server.publish(topic, "before")).collect();
    let whole = |positions: &[Position]| positions.iter().map(|position| id(*position)).collect::<Vec<_>>().join(",");
    let mut stream = Stream::open(server.data, &target, None);
    let mut last = None;
    // Each home answers at its own time.
    for _ in topics {
        last = stream.next_block().id;
    }
    assert_eq!(last, Some(whole(&positions)));
    for index in [3, 0, 4, 0, 1] {
        positions[index] = server.publish(topics[index], "now");
        stream.expect_event(&whole(&positions), "now");
    }
    drop(stream);

    let seen = whole(&positions);
    for index in [2, 2, 0] {
        positions[index] = server.publish(topics[index], topics[index]);
    }
    let mut stream = Stream::open(server.data, &target, Some(&seen));
    let (mut data, mut ids) = (Vec::new(), Vec::new());
    for _ in 0..topics.len() + 3 {
        let block = stream.next_block();
        assert_eq!(block.event, None);
        data.extend(block.data);
        ids.push(block.id.expect("an id"));
    }
    data.sort();
    assert_eq!((data, ids.last()), (vec!["t0".to_owned(), "t2".to_owned(), "t2".to_owned()], Some(&whole(&positions))));
    // A client that is cut off before all homes have answered keeps its positions in the other topics.
    for id in ids {
        let places: Vec<&str> = id.split(',').collect();
        let before: Vec<&str> = seen.split(',').collect();
        assert_eq!(places.len(), topics.len());
        assert!(places.iter().zip(before).all(|(now, before)| now[..13] == before[..13]), "{id} after {seen}");
    }
}

#[test]
fn a_stream_of_several_topics_names_the_topic_with_a_loss() {
    let mut server = server();
    let a = server.publish("a", "1");
    for _ in 0..9 {
        server.publish("b", "x");
    }
    let b = server.publish("b", "x");
    let since = format!("{},{}:1", id(a), b.epoch);
    let mut stream = Stream::open(server.data, "/sse/a,b", Some(&since));
    let blocks = [stream.next_block(), stream.next_block()];
    let lost: Vec<&Block> = blocks.iter().filter(|block| block.event.is_some()).collect();
    assert_eq!(lost.len(), 1, "{blocks:?}");
    assert_eq!(lost[0].event.as_deref(), Some("lost"));
    let data: serde_json::Value = serde_json::from_str(lost[0].data.as_ref().expect("data")).expect("JSON");
    assert_eq!(data, json!({"topic": "b", "epoch": b.epoch.to_string(), "offset": 10}));
    assert_eq!(blocks[1].id, Some(format!("{},{}", id(a), id(b))));
}

#[test]
fn comments_keep_a_quiet_stream_alive() {
    let keep_alive = KeepAliveConfig { ping_interval_ms: 100, pong_timeout_ms: 50, idle_timeout_ms: 0 };
    let mut server = Inside::with(ServerConfig { keep_alive, ..without_pings() });
    let mut stream = Stream::open(server.data, "/sse/a", None);
    // The first comment may precede the position.
    let start = std::iter::from_fn(|| stream.try_next_block()).find(|block| !block.is_comment);
    // Comments need no answer.
    for _ in 0..5 {
        assert_eq!(stream.next_block(), Block { is_comment: true, ..Block::default() });
    }
    let position = server.publish("a", "still here");
    let block = std::iter::from_fn(|| stream.try_next_block()).find(|block| !block.is_comment);
    assert_eq!(block.and_then(|block| block.id), Some(id(position)));
    assert_eq!(position.offset, 1, "{start:?}");
}

#[test]
fn a_stopping_server_sends_a_reconnect_time() {
    let mut server = server();
    let mut streams = ["/sse/a", "/sse/a,b"].map(|target| Stream::open(server.data, target, None));
    streams[0].next_block();
    streams[1].next_block();
    streams[1].next_block();
    server.drain();
    for stream in &mut streams {
        let block = stream.next_block();
        assert!((1000..=5000).contains(&block.retry.expect("a reconnect time")), "{block:?}");
        assert_eq!(stream.try_next_block(), None);
    }
}

#[test]
fn requests_without_a_valid_stream_are_rejected() {
    let others = vec![("news".to_owned(), Namespace::default())];
    let namespaces = Arc::new(Namespaces::new(Namespace::default(), others));
    let server = Inside::with(ServerConfig { namespaces, subscriptions_per_connection_max: 300, ..without_pings() });
    let many = (0..=ringfeed::limits::CONN_TOPICS).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",");
    let rows = [
        ("/sse/", 400),
        ("/sse/a,,b", 400),
        ("/sse/a,b,a", 400),
        ("/sse/../a", 400),
        // A browser reconnects as long as the status is 200.
        ("/sse/other:a", 404),
        ("/sse/a,other:a", 404),
        // Each event of a stream has the positions of all its topics, so this bound does not change.
        (&format!("/sse/{many}"), 400),
    ];
    for (target, status) in rows {
        let response = http::get(server.data, target);
        assert_eq!(response.status, status, "{target}: {}", response.head);
        assert!(!response.text().trim().is_empty(), "{target}: no reason");
    }
    assert_eq!(http::exchange(server.data, upgrade_request("/sse/a").as_bytes()).status, 400);
    assert_eq!(server.sum(|shard| shard.subscriptions.get()), 0);
}

#[test]
fn a_stream_of_several_topics_that_is_not_read_is_closed_alone() {
    let namespace = Namespace { outbox_bytes_max: 20_000, ..Namespace::default() };
    let namespaces = Arc::new(Namespaces::new(namespace, Vec::new()));
    let config = ServerConfig { namespaces, socket_notsent_bytes: 16 * 1024, ..without_pings() };
    let mut server = Inside::with(config);
    // Most of these topics have no other subscriber, and are forgotten with the stream during a fan-out.
    let topics: Vec<String> = (0..10).map(|number| format!("t{number}")).collect();
    let mut stalled = connect_narrow(server.data);
    let request = format!("GET /sse/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", topics.join(","));
    stalled.write_all(request.as_bytes()).expect("the server reads");
    server.wait_until("it is subscribed", |server| server.sum(|shard| shard.subscriptions.get()) == 10);
    let mut reader = Stream::open(server.data, "/sse/t0", None);
    reader.next_block();
    let text = "x".repeat(3000);
    let slow = |server: &Inside| server.sum(|shard| shard.closed(CloseCause::SlowConsumer).get());
    let mut rounds = 0;
    while slow(&server) == 0 {
        server.publish_all(topics.iter().map(|topic| draft(topic, &text)));
        rounds += 1;
        // The other stream keeps up; otherwise it would be too slow as well where its shard lags.
        let block = reader.next_block();
        assert!(block.id.is_some_and(|id| id.ends_with(&format!(":{rounds}"))), "not {rounds}");
        assert!(rounds < 10_000, "the server does not close the stream");
    }
    server.wait_until("its subscriptions end", |server| server.sum(|shard| shard.subscriptions.get()) == 1);
    let after = server.publish("t0", "after");
    reader.expect_event(&id(after), "after");
}
