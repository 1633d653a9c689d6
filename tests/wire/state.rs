//! Keyed topics on the wire: the state comes first, then every change; each client ends with the newest values.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use ringfeed::server::{CatchUpConfig, ServerConfig};
use ringfeed::topics::{Condition, Draft, Namespace, Namespaces, Position, PublishError, SlowConsumer, TopicName};
use serde_json::{Value, json};

use crate::inside::{Inside, connect_narrow, without_pings};
use crate::peer::{Peer, upgrade_request};
use crate::support::{PATIENCE, http};

fn keyed() -> Namespace {
    Namespace { keyed: true, ..Namespace::default() }
}

/// A server with keyed topics and pages of three publications.
fn server(namespace: Namespace) -> Inside {
    let catch_up = CatchUpConfig { state_page_keys: 3, ..CatchUpConfig::default() };
    let namespaces = Arc::new(Namespaces::new(namespace, Vec::new()));
    Inside::with(ServerConfig { namespaces, catch_up, ..without_pings() })
}

fn name(topic: &str) -> TopicName {
    TopicName::new(topic).expect("a topic's name")
}

fn put(topic: &str, key: &str, value: &str) -> Draft {
    Draft::put(name(topic), key, true, Bytes::copy_from_slice(value.as_bytes()))
}

fn remove(topic: &str, key: &str) -> Draft {
    Draft::remove(name(topic), key)
}

/// A client that keeps the state of its topics.
struct Reader {
    peer: Peer,
    /// By topic and key.
    values: BTreeMap<(String, String), String>,
    /// Of the last message of each topic.
    positions: BTreeMap<String, String>,
    /// Topics whose state is complete.
    live: Vec<String>,
    snapshots: usize,
}

impl Reader {
    fn open(server: &Inside, target: &str) -> Reader {
        Reader::of(Peer::open_envelope(server.data, target))
    }

    fn of(peer: Peer) -> Reader {
        Reader { peer, values: BTreeMap::new(), positions: BTreeMap::new(), live: Vec::new(), snapshots: 0 }
    }

    /// Reads a message; returns its line.
    #[track_caller]
    fn read(&mut self) -> Value {
        let (_, message) = self.peer.next_message();
        let end = message.iter().position(|byte| *byte == b'\n').expect("a line");
        let head: Value = serde_json::from_slice(&message[..end]).expect("a line of JSON");
        let payload = String::from_utf8(message[end + 1..].to_vec()).expect("text");
        let text = |name: &str| head[name].as_str().unwrap_or_default().to_owned();
        let topic = text("topic");
        let place = (topic.clone(), text("key"));
        match &*text("state") {
            "snapshot" => {
                self.values.retain(|(other, _), _| *other != topic);
                self.snapshots += 1;
            }
            "put" => drop(self.values.insert(place, payload)),
            "remove" => {
                assert!(payload.is_empty(), "{head}");
                self.values.remove(&place);
            }
            _ => {
                assert_eq!(head["subscribed"], true, "{head}");
                self.live.push(topic.clone());
            }
        }
        self.positions.insert(topic, format!("{}:{}", text("epoch"), head["offset"]));
        head
    }

    fn read_until_live(&mut self, topics: usize) {
        while self.live.len() < topics {
            self.read();
        }
    }

    /// Reads up to this position of a topic.
    fn read_up_to(&mut self, topic: &str, position: Position) {
        let position = format!("{}:{}", position.epoch, position.offset);
        while self.positions.get(topic) != Some(&position) || !self.live.iter().any(|live| live == topic) {
            self.read();
        }
    }

    fn values(&self, topic: &str) -> BTreeMap<String, String> {
        let of_topic = self.values.iter().filter(|((other, _), _)| other == topic);
        of_topic.map(|((_, key), value)| (key.clone(), value.clone())).collect()
    }
}

fn map(values: &[(&str, &str)]) -> BTreeMap<String, String> {
    values.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[test]
fn a_subscriber_receives_the_state_and_then_each_change() {
    let mut server = server(keyed());
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("a", "5"), ("e", "6")] {
        server.publish_draft(put("t", key, value));
    }
    let position = server.publish_draft(remove("t", "b"));
    let mut reader = Reader::open(&server, "/feed/t");
    let epoch = position.epoch.to_string();
    assert_eq!(reader.read(), json!({"state": "snapshot", "topic": "t", "epoch": epoch, "offset": 0}));
    reader.read_until_live(1);
    assert_eq!(reader.values("t"), map(&[("a", "5"), ("c", "3"), ("d", "4"), ("e", "6")]));
    assert_eq!(reader.positions["t"], format!("{epoch}:7"));
    server.publish_draft(put("t", "c", "7"));
    server.publish_draft(remove("t", "a"));
    let position = server.publish_draft(put("t", "b", "again"));
    reader.read_up_to("t", position);
    assert_eq!(reader.values("t"), map(&[("b", "again"), ("c", "7"), ("d", "4"), ("e", "6")]));
    assert_eq!(reader.snapshots, 1);
    // A topic without values, and several at once.
    let mut reader = Reader::open(&server, "/feed/empty,t");
    reader.read_until_live(2);
    assert_eq!((reader.values("t").len(), reader.snapshots), (4, 2));
}

#[test]
fn a_reconnecting_client_receives_what_has_changed() {
    let mut server = server(Namespace { keys_max: 4, ..keyed() });
    let first = server.publish_draft(put("t", "a", "1"));
    server.publish_draft(put("t", "b", "2"));
    server.publish_draft(remove("t", "a"));
    server.publish_draft(put("t", "c", "3"));
    server.publish_draft(put("t", "b", "4"));
    let open = |server: &Inside, offset: u64| {
        let mut reader = Reader::open(server, &format!("/feed/t?since={}:{offset}", first.epoch));
        reader.values.insert(("t".to_owned(), "a".to_owned()), "1".to_owned());
        reader.read_until_live(1);
        (reader.values("t"), reader.snapshots)
    };
    assert_eq!(open(&server, 1), (map(&[("b", "4"), ("c", "3")]), 0));
    assert_eq!(open(&server, 5), (map(&[("a", "1")]), 0), "nothing has changed since");
    assert_eq!(open(&server, 6), (map(&[("b", "4"), ("c", "3")]), 1), "there is no such position");
    for number in 0..5 {
        server.publish_draft(put("t", &format!("x{number}"), "x"));
        server.publish_draft(remove("t", &format!("x{number}")));
    }
    assert_eq!(open(&server, 1), (map(&[("b", "4"), ("c", "3")]), 1), "the removal is forgotten");
    let mut reader = Reader::open(&server, "/feed/t?since=0000000000001:1");
    reader.read_until_live(1);
    assert_eq!(reader.snapshots, 1, "another epoch");
}

#[test]
fn readers_join_and_drop_while_the_state_changes() {
    const KEYS: usize = 40;
    let mut server = server(keyed());
    for number in 0..KEYS {
        server.publish_draft(put("t", &format!("k{number}"), "first"));
    }
    let data = server.data;
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|index| {
            let is_over = is_over.clone();
            std::thread::spawn(move || {
                let mut reader = Reader::of(Peer::open_envelope(data, "/feed/t"));
                // Some leave in the midst of a page, and go on from their position.
                while !is_over.load(Ordering::Relaxed) {
                    for _ in 0..7 + index {
                        reader.read();
                    }
                    if index % 2 == 0 {
                        let target = format!("/feed/t?since={}", reader.positions["t"]);
                        reader.peer = Peer::open_envelope(data, &target);
                        reader.live.clear();
                    }
                }
                reader
            })
        })
        .collect();
    let mut model: BTreeMap<String, String> =
        (0..KEYS).map(|number| (format!("k{number}"), "first".to_owned())).collect();
    let mut last = None;
    for round in 0..1500_usize {
        let key = format!("k{}", round * 7 % KEYS);
        let draft = match round % 5 {
            0 if model.remove(&key).is_some() => remove("t", &key),
            _ => {
                model.insert(key.clone(), round.to_string());
                put("t", &key, &round.to_string())
            }
        };
        last = Some(server.publish_draft(draft));
    }
    is_over.store(true, Ordering::Relaxed);
    // Readers may wait for messages.
    for _ in 0..20 {
        last = Some(server.publish_draft(put("t", "k0", "end")));
    }
    model.insert("k0".to_owned(), "end".to_owned());
    for reader in readers {
        let mut reader = reader.join().expect("the reader's checks hold");
        let mut all = Reader::of(Peer::open_envelope(data, &format!("/feed/t?since={}", reader.positions["t"])));
        std::mem::swap(&mut all.values, &mut reader.values);
        all.read_up_to("t", last.expect("there are publications"));
        assert_eq!(all.values("t"), model);
    }
    let (sent, made) = (server.sum(|shard| shard.state_pages.get()), server.sum(|shard| shard.state_pages_made.get()));
    assert!(sent >= 4 * KEYS as u64 / 3 && made <= sent, "{made} of {sent} pages");
}

#[test]
fn readers_at_the_same_time_share_pages() {
    let mut server = Inside::start(keyed());
    for number in 0..500 {
        server.publish_draft(put("t", &format!("k{number}"), &"x".repeat(1000)));
    }
    let mut readers: Vec<Reader> = (0..20).map(|_| Reader::open(&server, "/feed/t")).collect();
    readers.iter_mut().for_each(|reader| reader.read_until_live(1));
    assert!(readers.iter().all(|reader| reader.values("t").len() == 500));
    let (sent, made) = (server.sum(|shard| shard.state_pages.get()), server.sum(|shard| shard.state_pages_made.get()));
    assert!(sent >= 20 * 8 && made < sent, "{made} of {sent} pages");
}

#[test]
fn values_expire() {
    let mut server = server(Namespace { value_ttl_ms: 150, ..keyed() });
    server.publish_draft(put("t", "a", "1"));
    let mut reader = Reader::open(&server, "/feed/t");
    reader.read_until_live(1);
    server.publish_draft(put("t", "b", "2"));
    while !(reader.values("t").is_empty() && reader.positions["t"].ends_with(":4")) {
        reader.read();
    }
    assert_eq!(server.sum(|shard| shard.state_expired.get()), 2);
    let mut late = Reader::open(&server, "/feed/t");
    late.read_until_live(1);
    assert!(late.values("t").is_empty());
}

#[test]
fn a_publication_must_fit_and_meet_its_condition() {
    let bounds = Namespace { keys_max: 2, value_bytes_max: 10, state_bytes_max: 1000, ..keyed() };
    let mut server = server(bounds);
    let first = server.try_publish(Draft { condition: Condition::New, ..put("t", "a", "1") }).expect("it is new");
    let rows = [
        (Draft { condition: Condition::New, ..put("t", "a", "2") }, Err(PublishError::Conflict)),
        (Draft { condition: Condition::Exists, ..put("t", "b", "2") }, Err(PublishError::Conflict)),
        (put("t", "b", "12345678901"), Err(PublishError::ValueTooLarge)),
        (put("t", "b", "2"), Ok(2)),
        (put("t", "c", "3"), Err(PublishError::StateFull)),
        (Draft { condition: Condition::At(first), ..put("t", "a", "4") }, Ok(3)),
        (Draft { condition: Condition::At(first), ..remove("t", "a") }, Err(PublishError::Conflict)),
        (remove("t", "a"), Ok(4)),
        (remove("t", "a"), Err(PublishError::NoSuchKey)),
        (put("t", "c", "3"), Ok(5)),
        (Draft { key: None, ..put("t", "c", "3") }, Err(PublishError::NoKey)),
    ];
    for (index, (draft, expected)) in rows.into_iter().enumerate() {
        assert_eq!(server.try_publish(draft).map(|position| position.offset), expected, "row {index}");
    }
    let counts = [server.sum(|shard| shard.state_refused.get()), server.sum(|shard| shard.state_conflicts.get())];
    assert_eq!(counts, [2, 3]);
    let mut plain = Inside::start(Namespace::default());
    assert_eq!(plain.try_publish(remove("t", "a")), Err(PublishError::NotKeyed));
    assert_eq!(plain.try_publish(put("t", "a", "1")).map(|position| position.offset), Ok(1));
    // A publication that is repeated for its idempotency key is not held against its condition again.
    let draft = Draft { condition: Condition::New, idempotency_key: Some("once".into()), ..put("u", "a", "1") };
    assert_eq!(server.try_publish(draft.clone()), server.try_publish(draft));
}

#[test]
fn a_slow_reader_ends_with_the_newest_values() {
    let namespace = Namespace { slow_consumer: SlowConsumer::Conflate, outbox_bytes_max: 500_000, ..keyed() };
    let mut server = server(namespace);
    let mut reader = Reader::of(Peer::over(connect_narrow(server.data)).upgraded_to_envelope("/feed/t"));
    reader.read_until_live(1);
    let text = "x".repeat(20_000);
    for number in 0..1000 {
        server.publish_draft(put("t", &format!("k{}", number % 5), &format!("{number} {text}")));
    }
    let last = server.publish_draft(remove("t", "k3"));
    assert!(server.sum(|shard| shard.publications_conflated.get()) > 500);
    reader.read_up_to("t", last);
    let newest: Vec<String> =
        reader.values("t").into_values().map(|value| value.split(' ').next().expect("a number").to_owned()).collect();
    assert_eq!(newest, ["995", "996", "997", "999"]);
}

#[test]
fn an_event_stream_has_the_keys_and_continues() {
    let mut server = server(keyed());
    server.publish_draft(put("t", "a", "1\n2"));
    let Position { epoch, .. } = server.publish_draft(put("t", "b", "3"));
    let open = |server: &Inside, target: &str| {
        let mut stream = TcpStream::connect(server.data).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).expect("it reads");
        BufReader::new(stream).lines().map(|line| line.expect("a line"))
    };
    let expect = |lines: &mut dyn Iterator<Item = String>, expected: &str| {
        for line in expected.lines() {
            assert_eq!(lines.next().as_deref(), Some(line));
        }
    };
    let mut stream = open(&server, "/sse/t");
    let mut body = stream.by_ref().skip_while(|line| !line.starts_with("event"));
    let state = format!(
        "event: snapshot\ndata: {{\"epoch\":\"{epoch}\",\"offset\":0,\"topic\":\"t\"}}\nid: {epoch}:0\n\n\
         id: {epoch}:1\nevent: put\ndata: {{\"key\":\"a\",\"topic\":\"t\"}}\ndata: 1\ndata: 2\n\n\
         id: {epoch}:2\nevent: put\ndata: {{\"key\":\"b\",\"topic\":\"t\"}}\ndata: 3\n\n\
         event: live\ndata: {{\"epoch\":\"{epoch}\",\"offset\":2,\"topic\":\"t\"}}\nid: {epoch}:2\n\n"
    );
    expect(&mut body, &state);
    server.publish_draft(remove("t", "a"));
    let removal = format!("id: {epoch}:3\nevent: remove\ndata: {{\"key\":\"a\",\"topic\":\"t\"}}\n\n");
    expect(&mut body, &removal);
    let mut stream = open(&server, &format!("/sse/t?last_event_id={epoch}:2"));
    let mut body = stream.by_ref().skip_while(|line| !line.starts_with("id"));
    expect(&mut body, &removal);
    // A stream of several topics.
    let mut stream = open(&server, "/sse/t,u");
    let mut live = stream.by_ref().skip_while(|line| line != "event: put");
    expect(&mut live, "event: put\ndata: {\"key\":\"b\",\"topic\":\"t\"}\ndata: 3\n\n");
}

#[test]
fn a_reader_that_reads_nothing_holds_one_page() {
    const TOPICS: usize = 12;
    const PAGE_BYTES_MAX: usize = 80 * 1024;
    let mut server = Inside::start(keyed());
    let text = "x".repeat(1000);
    let topics: Vec<String> = (0..TOPICS).map(|topic| format!("t{topic}")).collect();
    for topic in &topics {
        server.publish_all((0..700).map(|number| put(topic, &format!("k{number}"), &text)));
    }
    let target = format!("/feed/{}", topics.join(","));
    let mut reader = Reader::of(Peer::over(connect_narrow(server.data)).upgraded_to_envelope(&target));
    server.wait_until("it is behind", |server| server.sum(|shard| shard.outbox_bytes.get()) > 0);
    for _ in 0..500 {
        let behind: usize = server.slowest().iter().map(|connection| connection.outbox_bytes).sum();
        assert!(behind <= PAGE_BYTES_MAX, "{behind} bytes wait");
    }
    reader.read_until_live(TOPICS);
    assert!(topics.iter().all(|topic| reader.values(topic).len() == 700));
}

#[test]
fn a_keyed_topic_is_not_read_without_keys() {
    let server = server(keyed());
    for (target, reason) in [("/feed/t", "ringfeed.envelope"), ("/feed/t?history=5", "leave the history out")] {
        let response = http::exchange(server.data, upgrade_request(target).as_bytes());
        assert!(response.status == 400 && response.text().contains(reason), "{target}: {}", response.text());
    }
}
