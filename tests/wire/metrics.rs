//! What shards count: by namespace, by state, and as histograms.

use std::sync::Arc;

use ringfeed::conn::{KeepAliveConfig, Transport};
use ringfeed::server::metrics::{Histogram, HistogramSnapshot, NamespaceMetrics};
use ringfeed::server::{ServerConfig, ShardMetrics};
use ringfeed::topics::{Namespace, Namespaces};

use crate::inside::{Inside, without_pings};
use crate::peer::{Peer, frame};

const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A server with the namespaces `a` and `b`, which keep ten publications.
fn server() -> Inside {
    let kept = || Namespace { history_size: 10, ..Namespace::default() };
    let others = vec![("a".to_owned(), kept()), ("b".to_owned(), kept())];
    Inside::with(ServerConfig { namespaces: Arc::new(Namespaces::new(kept(), others)), ..without_pings() })
}

fn sum(server: &Inside, histogram: impl Fn(&ShardMetrics) -> &Histogram) -> HistogramSnapshot {
    let sum = std::cell::RefCell::new(HistogramSnapshot::default());
    server.sum(|shard| {
        sum.borrow_mut().add(&histogram(shard).snapshot());
        0
    });
    sum.into_inner()
}

/// Where metrics have the namespaces: `default`, `a` and `b`. The server's own comes before those of the configuration.
const NAMESPACES: [usize; 3] = [0, 2, 3];

/// A number of each of these namespaces.
fn by_namespace(server: &Inside, number: impl Fn(&NamespaceMetrics) -> u64) -> [u64; 3] {
    NAMESPACES.map(|index| server.sum(|shard| number(&shard.namespaces()[index])))
}

#[test]
fn publications_and_deliveries_are_counted_by_namespace() {
    let mut server = server();
    let peers =
        ["a:1", "a:1", "a:1,b:1", "b:1,a:1,x"].map(|topics| Peer::open(server.data, &format!("/feed/{topics}")));
    server.wait_until("they are subscribed", |server| server.sum(|shard| shard.subscriptions.get()) == 7);
    assert_eq!(by_namespace(&server, |namespace| namespace.subscriptions.get()), [1, 4, 2]);
    let shards_of = |server: &Inside, index: usize| {
        server.sum(|shard| u64::from(shard.namespaces()[index].subscriptions.get() > 0))
    };
    let fan_outs = shards_of(&server, NAMESPACES[0])
        + 2 * shards_of(&server, NAMESPACES[1])
        + 3 * shards_of(&server, NAMESPACES[2]);
    for topic in ["x", "a:1", "a:1", "b:1", "b:1", "b:1", "a:nobody"] {
        server.publish(topic, "1234567890");
    }
    server.wait_until("all have left", |server| sum(server, |shard| &shard.fan_out).count() >= fan_outs);
    assert_eq!(sum(&server, |shard| &shard.fan_out).count(), fan_outs, "one for each publication and shard");
    assert_eq!(by_namespace(&server, |namespace| namespace.publications.get()), [1, 3, 3]);
    assert_eq!(by_namespace(&server, |namespace| namespace.deliveries.get()), [1, 8, 6]);
    assert_eq!(by_namespace(&server, |namespace| namespace.delivered_bytes.get()), [12, 96, 72]);
    assert_eq!(server.sum(|shard| shard.deliveries.get()), 15);
    assert_eq!(sum(&server, |shard| &shard.order).count(), 7);
    drop(peers);
    server.wait_until("nobody is subscribed", |server| server.sum(|shard| shard.subscriptions.get()) == 0);
    assert_eq!(by_namespace(&server, |namespace| namespace.subscriptions.get()), [0; 3]);
}

#[test]
fn connections_are_counted_by_route_and_state() {
    let server = server();
    let silent = Peer::connect(server.data);
    let peer = Peer::open(server.data, "/feed/x");
    let routes = |server: &Inside| {
        server.sum(|shard| {
            assert_eq!(shard.routes()[0].0, "/feed/");
            shard.routes()[0].1.get()
        })
    };
    server.wait_until("both are there", |server| server.sum(|shard| shard.connections.get()) == 2);
    assert_eq!((routes(&server), server.sum(|shard| shard.closing.get())), (1, 0));
    let handshakes = sum(&server, |shard| &shard.handshake);
    assert_eq!(handshakes.count(), 1);
    drop((silent, peer));
    server.wait_until("both have gone", |server| server.sum(|shard| shard.connections.get()) == 0);
    assert_eq!((routes(&server), server.sum(|shard| shard.closing.get())), (0, 0));
}

#[test]
fn recoveries_are_counted_by_their_result() {
    let mut server = server();
    let epoch = server.publish("x", "one").epoch;
    let counts =
        |server: &Inside| (server.sum(|shard| shard.recovered.get()), server.sum(|shard| shard.recoveries_lost.get()));
    let _new = Peer::open_envelope(server.data, "/feed/x?history=5");
    let mut back = Peer::open(server.data, &format!("/feed/x?since={epoch}:0"));
    assert_eq!(back.next_message().1, b"one");
    assert_eq!(counts(&server), (1, 0), "a new subscriber recovers nothing");
    Peer::open(server.data, "/feed/x?since=0000000000001:0").expect_close(3010);
    assert_eq!(counts(&server), (1, 1));
}

#[test]
fn the_answer_to_a_ping_is_timed() {
    let keep_alive = KeepAliveConfig { ping_interval_ms: 20, ..KeepAliveConfig::default() };
    let server = Inside::with(ServerConfig { keep_alive, ..without_pings() });
    let mut peer = Peer::open(server.data, "/feed/x");
    let answers = |server: &Inside| sum(server, |shard| &shard.ping_round_trip[Transport::WebSocket as usize]).count();
    assert_eq!(answers(&server), 0);
    while answers(&server) == 0 {
        let ping = peer.next_frame().expect("pings come");
        assert_eq!(ping.first_byte, PING);
        peer.send(&frame(PONG, &ping.payload));
    }
}

#[test]
fn the_time_of_turns_is_the_time_that_a_shard_is_busy() {
    let mut server = server();
    server.publish("x", "one");
    server.wait_until("a turn has ended", |server| sum(server, |shard| &shard.turn).count() > 0);
    let turns = sum(&server, |shard| &shard.turn);
    let busy = server.sum(|shard| shard.busy_nanoseconds.get());
    assert!(turns.count() > 0 && busy > 0 && turns.sum().as_nanos() <= u128::from(busy) + 1_000_000);
}
