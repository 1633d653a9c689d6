//! Subscribers that do not read: each policy for slow subscribers, with undisturbed neighbours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ringfeed::conn::CloseCause;
use ringfeed::server::ServerConfig;
use ringfeed::topics::{Draft, Namespace, Namespaces, SlowConsumer};
use serde_json::Value;

use crate::inside::{Inside, connect_narrow, draft, without_pings};
use crate::peer::{Frame, Peer};
use crate::support::PATIENCE;

/// The outbox bound in these tests, in bytes.
const OUTBOX: usize = 100_000;

/// The outbox holds this much more: the send in flight.
const FLIGHT: u64 = ringfeed::limits::OUTBOX_RUN_BYTES as u64;

fn server(slow_consumer: SlowConsumer) -> Inside {
    with(Namespace { slow_consumer, outbox_bytes_max: OUTBOX, ..Namespace::default() })
}

fn with(namespace: Namespace) -> Inside {
    let namespaces = Arc::new(Namespaces::new(namespace, Vec::new()));
    Inside::with(ServerConfig { namespaces, socket_notsent_bytes: 16 * 1024, ..without_pings() })
}

/// An envelope subscriber that does not read, with small kernel buffers.
fn stalled(server: &Inside, topics: &str) -> Peer {
    let peer = Peer::over(connect_narrow(server.data)).upgraded_to_envelope(&format!("/feed/{topics}"));
    let count = topics.split(',').count() as u64;
    server.wait_until("it is subscribed", |server| server.sum(|shard| shard.subscriptions.get()) == count);
    peer
}

/// The next publication of an envelope peer: its head, and the payload as text.
fn next_envelope(peer: &mut Peer) -> (Value, String) {
    loop {
        let text = String::from_utf8(peer.next_message().1).expect("text");
        let (head, payload) = text.split_once('\n').expect("a line");
        let head: Value = serde_json::from_str(head).expect("a line of JSON");
        if head["subscribed"].is_null() {
            return (head, payload.to_owned());
        }
    }
}

fn slow_count(server: &Inside) -> u64 {
    server.sum(|shard| shard.closed(CloseCause::SlowConsumer).get())
}

/// Waits until `count` messages in all have reached sockets and outboxes, since a shard may lag behind the home; or
/// until the server has closed a slow consumer, which receives no more.
#[track_caller]
fn wait_for_deliveries(server: &Inside, count: u64) {
    server.wait_until("the messages are delivered", |server| {
        server.sum(|shard| shard.deliveries.get()) >= count || slow_count(server) > 0
    });
}

fn outbox_bytes(server: &Inside) -> u64 {
    server.sum(|shard| shard.outbox_bytes.get())
}

#[test]
fn close_ends_the_slow_subscriber_alone() {
    let mut server = server(SlowConsumer::Close);
    let mut slow = stalled(&server, "a");
    let mut quick = Peer::open(server.data, "/feed/a");
    server.wait_until("both are subscribed", |server| server.sum(|shard| shard.subscriptions.get()) == 2);
    let text = "x".repeat(1000);
    let mut count = 0;
    while slow_count(&server) == 0 {
        server.publish("a", &text);
        assert_eq!(quick.next_message().1.len(), 1000);
        wait_for_deliveries(&server, 2 * (count + 1));
        assert!(outbox_bytes(&server) <= OUTBOX as u64, "the backlog is {} bytes", outbox_bytes(&server));
        count += 1;
        assert!(count < 10_000, "the server does not close it");
    }
    server.wait_until("nothing waits", |server| outbox_bytes(server) == 0);
    server.wait_until("it is gone", |server| server.sum(|shard| shard.websockets.get()) == 1);
    assert_eq!(server.sum(|shard| shard.outbox_connections.get()), 0);
    assert_eq!(server.sum(|shard| shard.publications_dropped.get() + shard.publications_conflated.get()), 0);
    let offsets = offsets(slow.whole_frames_until_end());
    let last = offsets.len() as u64;
    assert!(last < count && offsets.iter().copied().eq(1..=last), "its messages have gaps");
    server.publish("a", "after");
    assert_eq!(quick.next_message().1, b"after");
    assert_eq!(slow_count(&server), 1);
    assert_eq!(server.sum(|shard| shard.namespaces()[0].slow_closed.get()), 1);
    assert_eq!(server.sum(|shard| shard.namespaces()[0].deliveries.get()), server.sum(|shard| shard.deliveries.get()));
}

/// The offsets of the publications among whole frames.
fn offsets(frames: Vec<Frame>) -> Vec<u64> {
    let heads = frames.iter().map(|frame| {
        let end = frame.payload.iter().position(|byte| *byte == b'\n').expect("a line");
        serde_json::from_slice::<Value>(&frame.payload[..end]).expect("a line of JSON")
    });
    heads.filter(|head| head["subscribed"].is_null()).map(|head| head["offset"].as_u64().expect("an offset")).collect()
}

#[test]
fn close_applies_to_the_age_of_a_backlog_too() {
    let mut server = with(Namespace { outbox_age_ms: 300, outbox_bytes_max: 1 << 30, ..Namespace::default() });
    let _slow = stalled(&server, "a");
    let text = "x".repeat(1000);
    // On a busy machine the server may close it before the backlog is so large.
    while outbox_bytes(&server) < FLIGHT * 2 && slow_count(&server) == 0 {
        server.publish("a", &text);
    }
    // Age alone closes no connection: the next publication finds the backlog too old.
    let deadline = Instant::now() + PATIENCE;
    while slow_count(&server) == 0 {
        assert!(Instant::now() < deadline, "the server does not close it");
        server.publish("a", "x");
    }
}

#[test]
fn drop_oldest_keeps_it_and_the_newest() {
    let mut server = server(SlowConsumer::DropOldest);
    let mut slow = stalled(&server, "a");
    let text = "x".repeat(1000);
    let dropped = |server: &Inside| server.sum(|shard| shard.publications_dropped.get());
    let mut last = 0;
    while dropped(&server) < 1000 {
        server.publish("a", &text);
        last += 1;
        wait_for_deliveries(&server, last);
        assert!(outbox_bytes(&server) <= OUTBOX as u64 + FLIGHT, "the backlog is {} bytes", outbox_bytes(&server));
        assert!(last < 10_000, "nothing is dropped");
    }
    let mut offsets = Vec::new();
    while offsets.last() != Some(&last) {
        offsets.push(next_envelope(&mut slow).0["offset"].as_u64().expect("an offset"));
    }
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    assert_eq!(offsets[0], 1, "the server dropped a message that had left");
    assert_eq!(last - offsets.len() as u64, dropped(&server), "each gap is counted");
    // The rest of the last hundred kilobytes, at about 1,100 each.
    let tail = offsets.iter().rev().zip((1..=last).rev()).take_while(|(a, b)| *a == b).count();
    assert!(tail >= OUTBOX / 2200, "only the newest {tail} arrived");
    assert_eq!(slow_count(&server), 0);
    server.wait_until("nothing waits", |server| outbox_bytes(server) == 0);
    server.publish("a", "after");
    assert_eq!(next_envelope(&mut slow).1, "after");
}

#[test]
fn drop_oldest_spares_other_namespaces() {
    let lossy = Namespace { slow_consumer: SlowConsumer::DropOldest, outbox_bytes_max: OUTBOX, ..Namespace::default() };
    let careful = Namespace { outbox_bytes_max: 10 * OUTBOX, ..Namespace::default() };
    let others = vec![("lossy".to_owned(), lossy), ("careful".to_owned(), careful)];
    let namespaces = Arc::new(Namespaces::new(Namespace::default(), others));
    let config = ServerConfig { namespaces, socket_notsent_bytes: 16 * 1024, ..without_pings() };
    let mut server = Inside::with(config);
    let mut slow = stalled(&server, "careful:a,lossy:a");
    let text = "x".repeat(1000);
    for round in 0..2000 {
        server.publish("lossy:a", &text);
        if round % 10 == 0 {
            server.publish("careful:a", &text);
        }
    }
    wait_for_deliveries(&server, 2200);
    let dropped = server.sum(|shard| shard.publications_dropped.get());
    assert!(dropped > 0);
    assert_eq!(server.sum(|shard| shard.namespaces().iter().map(|namespace| namespace.dropped.get()).sum()), dropped);
    // All messages of the careful topic arrive, and the last of the other, in any order.
    let (mut careful, mut is_last_here) = (0, false);
    while careful < 200 || !is_last_here {
        let (head, _) = next_envelope(&mut slow);
        if head["topic"] == "careful:a" {
            careful += 1;
            assert_eq!(head["offset"], careful);
        } else if head["offset"] == 2000 {
            is_last_here = true;
        }
    }
    assert_eq!(slow_count(&server), 0);
}

/// Publications of one batch leave in one send; where the socket takes only a part of it, the server may still drop the
/// rest.
#[test]
fn of_a_joined_send_only_the_frame_in_progress_must_leave() {
    let mut server = server(SlowConsumer::Conflate);
    let mut slow = stalled(&server, "a");
    let text = "x".repeat(1000);
    let last = 5000;
    server.publish_all((1..=last).map(|_| draft("a", &text)));
    wait_for_deliveries(&server, last);
    // The newest; and in flight, the newest from when the socket filled, with the frame in progress.
    assert!(outbox_bytes(&server) <= 3 * 1200, "the backlog is {} bytes", outbox_bytes(&server));
    let mut received = 1;
    while next_envelope(&mut slow).0["offset"] != last {
        received += 1;
    }
    assert_eq!(received + server.sum(|shard| shard.publications_conflated.get()), last, "each is counted");
    assert_eq!(slow_count(&server), 0);
}

#[test]
fn the_slowest_are_named_with_their_address() {
    let mut server = server(SlowConsumer::DropOldest);
    let socket = connect_narrow(server.data);
    let address = socket.local_addr().ok();
    let _slow = Peer::over(socket).upgraded_to_envelope("/feed/a");
    let _quick = Peer::open(server.data, "/feed/b");
    server.wait_until("both are subscribed", |server| server.sum(|shard| shard.subscriptions.get()) == 2);
    assert_eq!(server.slowest().len(), 0);
    let text = "x".repeat(1000);
    while outbox_bytes(&server) < OUTBOX as u64 / 2 {
        server.publish("a", &text);
        server.publish("b", "");
    }
    let slowest = server.slowest();
    assert_eq!(slowest.len(), 1, "{slowest:?}");
    assert_eq!(slowest[0].peer, address);
    assert!(slowest[0].topics.iter().map(|topic| topic.as_str()).eq(["a"]), "{slowest:?}");
    assert!(slowest[0].outbox_bytes >= OUTBOX / 2, "{slowest:?}");
}

#[test]
fn conflate_keeps_the_newest_of_each_key() {
    let mut server = server(SlowConsumer::Conflate);
    let mut slow = stalled(&server, "a,b");
    let text = "x".repeat(500);
    // Topic a has five keys, topic b one.
    let keyed =
        |number: u64| Draft { key: Some(format!("k{}", number % 5).into()), ..draft("a", &format!("{number} {text}")) };
    let last: u64 = 30_000;
    let mut peak = 0;
    for start in (0..last).step_by(100) {
        server.publish_all((start..start + 100).flat_map(|number| [keyed(number), draft("b", &number.to_string())]));
        wait_for_deliveries(&server, 2 * (start + 100));
        peak = peak.max(outbox_bytes(&server));
    }
    // In addition, the rest of the batch of one turn that was cut.
    assert!(peak <= 6 * 700 + 2 * FLIGHT, "the backlog is {peak} bytes for six keys");
    let count = |server: &Inside| server.sum(|shard| shard.publications_conflated.get());
    server.wait_until("the last deliveries are queued", |server| {
        server.sum(|shard| shard.namespaces()[0].conflated.get()) == count(server)
    });
    let conflated = count(&server);
    assert!(conflated > last, "only {conflated} of {} were replaced", 2 * last);

    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let mut received = 0;
    let is_newest = |thing: &str, number: &u64| match thing {
        "b" => *number == last - 1,
        key => *number + 5 >= last && key.ends_with(&(*number % 5).to_string()),
    };
    while newest.len() < 6 || !newest.iter().all(|(thing, number)| is_newest(thing, number)) {
        let (head, payload) = next_envelope(&mut slow);
        let thing = head["key"].as_str().unwrap_or("b").to_owned();
        let number = payload.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
        let before = newest.insert(thing, number);
        assert!(before.is_none_or(|before| before < number), "{before:?} is followed by {number}");
        received += 1;
    }
    server.wait_until("all has left", |server| outbox_bytes(server) == 0);
    assert_eq!(received + server.sum(|shard| shard.publications_conflated.get()), 2 * last, "each is counted");
    assert_eq!(slow_count(&server), 0);
    // A subscriber that has caught up receives every message.
    for number in 0..10 {
        server.publish("b", &number.to_string());
        assert_eq!(next_envelope(&mut slow).1, number.to_string());
    }
}

#[test]
fn conflate_bounds_the_number_of_keys() {
    let mut server = server(SlowConsumer::Conflate);
    let _slow = stalled(&server, "a");
    let text = "x".repeat(1000);
    let mut number = 0;
    while slow_count(&server) == 0 {
        server.publish_draft(Draft { key: Some(format!("k{number}").into()), ..draft("a", &text) });
        number += 1;
        wait_for_deliveries(&server, number);
        assert!(outbox_bytes(&server) <= OUTBOX as u64 + 1200, "the backlog is {} bytes", outbox_bytes(&server));
        assert!(number < 10_000, "the server does not close it for too many keys");
    }
}
