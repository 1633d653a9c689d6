//! Recovery on the raw feed: `?since=`, `?history=`, the envelope, and the report of a loss.

use std::sync::Arc;

use bytes::Bytes;
use ringfeed::server::ServerConfig;
use ringfeed::topics::{Draft, Namespace, Namespaces, Position, TopicName};
use serde_json::{Value, json};

use crate::inside::{Inside, draft, without_pings};
use crate::peer::{BINARY, Peer, TEXT, upgrade_request};
use crate::support::http;

/// A server with histories of five publications.
fn server() -> Inside {
    Inside::start(Namespace { history_size: 5, ..Namespace::default() })
}

/// Publishes `1`, `2` … up to `last`. Returns the topic's position.
fn publish_up_to(server: &mut Inside, topic: &str, last: u64) -> Position {
    (1..=last).map(|number| server.publish(topic, &number.to_string())).last().expect("last > 0")
}

#[track_caller]
fn expect_texts(peer: &mut Peer, texts: &[&str]) {
    for text in texts {
        assert_eq!(peer.next_message(), (TEXT, text.as_bytes().to_vec()));
    }
}

/// The next message of an envelope peer: its head, and the payload.
#[track_caller]
fn next_envelope(peer: &mut Peer) -> (Value, Vec<u8>) {
    let (_, message) = peer.next_message();
    let end = message.iter().position(|byte| *byte == b'\n').expect("a line");
    (serde_json::from_slice(&message[..end]).expect("a line of JSON"), message[end + 1..].to_vec())
}

#[test]
fn the_history_precedes_new_publications() {
    let mut server = server();
    publish_up_to(&mut server, "a", 7);
    for (count, expected) in [(0, &[][..]), (1, &["7"]), (2, &["6", "7"]), (99, &["3", "4", "5", "6", "7"])] {
        let mut peer = Peer::open(server.data, &format!("/feed/a?history={count}"));
        expect_texts(&mut peer, expected);
        server.wait_until("it is subscribed", |server| server.sum(|shard| shard.subscriptions.get()) == 1);
        server.publish("a", "new");
        expect_texts(&mut peer, &["new"]);
        drop(peer);
        server.wait_until("it has left", |server| server.sum(|shard| shard.subscriptions.get()) == 0);
        publish_up_to(&mut server, "a", 7);
    }
}

#[test]
fn a_reconnecting_client_receives_what_it_missed() {
    let mut server = server();
    let Position { epoch, .. } = publish_up_to(&mut server, "a", 7);
    for (offset, expected) in [(2, &["3", "4", "5", "6", "7"][..]), (6, &["7"]), (7, &[])] {
        for colon in [":", "%3A", "%3a"] {
            let mut peer = Peer::open(server.data, &format!("/feed/a?since={epoch}{colon}{offset}"));
            expect_texts(&mut peer, expected);
        }
    }
}

#[test]
fn a_client_that_missed_too_much_is_closed_with_the_position() {
    let mut server = server();
    let Position { epoch, .. } = publish_up_to(&mut server, "a", 7);
    for since in
        [format!("{epoch}:1"), format!("{epoch}:0"), format!("{epoch}:8"), "0000000000001:7".into(), "x:7".into()]
    {
        let mut peer = Peer::open(server.data, &format!("/feed/a?since={since}"));
        let reason = peer.expect_close_reason(3010);
        assert!(reason.contains(&format!("{epoch}:7")), "no position in the reason: {reason}");
    }
    // One lost topic of two is enough: the client would take the other's messages for all.
    let mut peer = Peer::open(server.data, &format!("/feed/a,b?since={epoch}:7,{epoch}:1"));
    peer.expect_close(3010);
}

#[test]
fn history_beyond_the_outbox_is_not_recovered() {
    let namespace = Namespace { history_size: 5, outbox_bytes_max: 1000, ..Namespace::default() };
    let mut server = Inside::start(namespace);
    let text = "x".repeat(400);
    let positions: Vec<Position> = (0..5).map(|_| server.publish("a", &text)).collect();
    let since = |index: usize| format!("/feed/a?since={}:{}", positions[index].epoch, positions[index].offset);
    expect_texts(&mut Peer::open(server.data, &since(2)), &[&text, &text]);
    Peer::open(server.data, &since(1)).expect_close(3010);
    let mut peer = Peer::open(server.data, "/feed/a?history=5");
    expect_texts(&mut peer, &[&text, &text]);
    server.wait_until("it is subscribed", |server| server.sum(|shard| shard.subscriptions.get()) == 1);
    server.publish("a", "new");
    expect_texts(&mut peer, &["new"]);
}

#[test]
fn malformed_positions_are_rejected() {
    let server = server();
    let (epoch, other) = ("0000000000001", "0000000000002");
    let targets = [
        "/feed/a?since=".to_owned(),
        "/feed/a?since=1".to_owned(),
        format!("/feed/a?since={epoch}"),
        format!("/feed/a?since={epoch}:x"),
        format!("/feed/a?since={epoch}:-1"),
        format!("/feed/a?since={epoch}:1,{other}:1"),
        format!("/feed/a,b?since={epoch}:1"),
        format!("/feed/a?since={epoch}:1&history=1"),
        "/feed/a?history=".to_owned(),
        "/feed/a?history=-1".to_owned(),
        "/feed/a?history=all".to_owned(),
    ];
    for target in targets {
        let response = http::exchange(server.data, upgrade_request(&target).as_bytes());
        assert_eq!(response.status, 400, "{target}: {}", response.head);
        assert!(
            ["since", "history"].iter().any(|word| response.text().contains(word)),
            "{target}: {}",
            response.text()
        );
    }
}

#[test]
fn a_topic_of_an_unknown_namespace_is_rejected() {
    let others = vec![("news".to_owned(), Namespace::default())];
    let namespaces = Arc::new(Namespaces::new(Namespace::default(), others));
    let mut server = Inside::with(ServerConfig { namespaces, ..without_pings() });
    for target in ["/feed/other:a", "/feed/a,other:a", "/feed/other:a?history=1"] {
        let response = http::exchange(server.data, upgrade_request(target).as_bytes());
        assert_eq!(response.status, 404, "{target}: {}", response.head);
        assert!(response.text().contains("namespace"), "{target}: {}", response.text());
    }
    let mut peer = Peer::open(server.data, "/feed/news:a,a");
    server.publish("news:a", "1");
    server.publish("a", "2");
    let mut received = [peer.next_message().1, peer.next_message().1];
    received.sort();
    assert_eq!(received, [b"1", b"2"]);
}

#[test]
fn the_envelope_has_the_position_of_the_topic_and_of_each_publication() {
    let mut server = server();
    let mut early = Peer::open_envelope(server.data, "/feed/a");
    let (head, rest) = next_envelope(&mut early);
    let epoch = head["epoch"].as_str().expect("an epoch").to_owned();
    assert_eq!(head, json!({"subscribed": true, "topic": "a", "epoch": epoch, "offset": 0}));
    assert!(rest.is_empty());

    let tagged = Draft {
        key: Some("k".into()),
        tags: Some([("colour".to_owned(), "red".to_owned())].into()),
        ..Draft::new(TopicName::new("a").unwrap(), false, Bytes::from_static(b"\xff\n\x00"))
    };
    server.publish_draft(tagged);
    let (_, message) = {
        let (opcode, message) = early.next_message();
        assert_eq!(opcode, BINARY);
        (opcode, message)
    };
    let end = message.iter().position(|byte| *byte == b'\n').expect("a line");
    let mut head: Value = serde_json::from_slice(&message[..end]).expect("a line of JSON");
    assert!(head["time"].take().as_u64().expect("a time") > 1_700_000_000_000);
    let expected = json!({
        "topic": "a", "epoch": epoch, "offset": 1, "time": null, "key": "k", "tags": {"colour": "red"}
    });
    assert_eq!((head, &message[end + 1..]), (expected, &b"\xff\n\x00"[..]));

    for number in 2..=7 {
        server.publish("a", &number.to_string());
    }
    for (since, recovered, offsets) in [(6, true, &[7][..]), (7, true, &[]), (1, false, &[])] {
        let mut peer = Peer::open_envelope(server.data, &format!("/feed/a?since={epoch}:{since}"));
        let (head, _) = next_envelope(&mut peer);
        let expected = json!({"subscribed": true, "topic": "a", "epoch": epoch, "offset": 7, "recovered": recovered});
        assert_eq!(head, expected);
        for offset in offsets {
            let (head, payload) = next_envelope(&mut peer);
            assert_eq!((&head["offset"], payload), (&json!(offset), offset.to_string().into_bytes()));
        }
    }
    // A client with a loss receives the position, and goes on from there.
    let mut lost = Peer::open_envelope(server.data, "/feed/a?since=0000000000001:3");
    assert_eq!(next_envelope(&mut lost).0["recovered"], json!(false));
    server.publish("a", "8");
    let (head, payload) = next_envelope(&mut lost);
    assert_eq!((&head["offset"], &payload[..]), (&json!(8), &b"8"[..]));
}

/// Topics with homes on both shards, so that some joins of one connection travel and some do not.
#[test]
fn one_connection_joins_topics_of_all_homes() {
    let mut server = server();
    let topics: Vec<String> = (0..12).map(|number| format!("t{number}")).collect();
    let positions: Vec<Position> = topics
        .iter()
        .enumerate()
        .map(|(index, topic)| publish_up_to(&mut server, topic, 3 + index as u64 % 3))
        .collect();
    let since: Vec<String> = positions.iter().map(|position| format!("{}:2", position.epoch)).collect();
    let target = format!("/feed/{}?since={}", topics.join(","), since.join(","));
    // Connections on either shard.
    for _ in 0..4 {
        let mut peer = Peer::open_envelope(server.data, &target);
        let mut raw = Peer::open(server.data, &target);
        let missed: u64 = positions.iter().map(|position| position.offset - 2).sum();
        let mut offsets = vec![None; topics.len()];
        for _ in 0..topics.len() as u64 + missed {
            let (head, _) = next_envelope(&mut peer);
            let index = topics.iter().position(|topic| head["topic"] == **topic).expect("one of them");
            if head["subscribed"] == true {
                assert_eq!((&head["recovered"], offsets[index]), (&json!(true), None), "{head}");
                offsets[index] = Some(2);
            } else {
                let next = offsets[index].expect("the reply precedes the publications") + 1;
                assert_eq!(head["offset"], json!(next), "{head}");
                offsets[index] = Some(next);
            }
        }
        assert!(offsets.iter().zip(&positions).all(|(offset, position)| *offset == Some(position.offset)));
        (0..missed).for_each(|_| drop(raw.next_message()));
        drop((peer, raw));
    }
    server.wait_until("all have left", |server| server.sum(|shard| shard.subscriptions.get()) == 0);
    let mut peer = Peer::open(server.data, &format!("/feed/{}?history=0", topics.join(",")));
    server.wait_until("it has joined all", |server| server.sum(|shard| shard.subscriptions.get()) == 12);
    server.publish_all(topics.iter().map(|topic| draft(topic, topic)));
    let mut received: Vec<Vec<u8>> = topics.iter().map(|_| peer.next_message().1).collect();
    received.sort();
    let mut expected: Vec<Vec<u8>> = topics.iter().map(|topic| topic.clone().into_bytes()).collect();
    expected.sort();
    assert_eq!(received, expected);
}
