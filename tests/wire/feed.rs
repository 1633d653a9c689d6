//! `/feed/…` on the wire: one publication is one message, subscribers send none, and each ends on its own.

use std::time::Instant;

use ringfeed::server::ServerConfig;

use crate::inside::{Inside, without_pings};

use crate::peer::{BINARY, CLOSE, FIN, Frame, PING, PONG, Peer, TEXT, close_payload, frame, upgrade_request};
use crate::support::PATIENCE;
use crate::support::http;
use crate::support::server::Server;

const PLAIN: &str = "text/plain";
const OCTETS: &str = "application/octet-stream";

fn publish(server: &Server, topic: &str, content_type: &str, payload: &[u8]) {
    let response = http::post(server.control, &format!("/publish/{topic}"), content_type, payload);
    assert_eq!(response.status, 200, "{}", response.head);
}

#[test]
fn a_server_may_allow_more_topics_on_a_connection() {
    let mut server = Inside::with(ServerConfig { subscriptions_per_connection_max: 300, ..without_pings() });
    let topics = |count: usize| (0..count).map(|number| format!("t{number}")).collect::<Vec<_>>().join(",");
    let mut peer = Peer::open_envelope(server.data, &format!("/feed/{}", topics(300)));
    for _ in 0..300 {
        let message = String::from_utf8(peer.next_message().1).unwrap();
        assert!(message.contains("\"subscribed\":true"), "{message}");
    }
    for number in [299, 0, 128] {
        let topic = format!("t{number}");
        server.publish(&topic, "x");
        let message = String::from_utf8(peer.next_message().1).unwrap();
        assert!(message.contains(&format!("\"topic\":\"{topic}\"")) && message.ends_with("\nx"), "{message}");
    }
    let refused = http::exchange(server.data, upgrade_request(&format!("/feed/{}", topics(301))).as_bytes());
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("at most 300 topics"), "{}", refused.text());
}

#[test]
fn a_publication_is_one_message_of_its_kind() {
    let server = Server::start(&[]);
    let mut subscriber = Peer::open(server.data, "/feed/kinds");
    let large = vec![b'x'; ringfeed::limits::PUBLISH_BYTES_MAX];
    let rows: [(&str, u8, &[u8]); 5] = [
        (PLAIN, TEXT, "grüße".as_bytes()),
        (OCTETS, BINARY, b"\x00\xff\xfe"),
        (PLAIN, TEXT, b""),
        (OCTETS, BINARY, b""),
        (PLAIN, TEXT, &large),
    ];
    for (content_type, opcode, payload) in rows {
        publish(&server, "kinds", content_type, payload);
        assert_eq!(subscriber.next_message(), (opcode, payload.to_vec()));
    }
}

#[test]
fn a_subscriber_receives_its_topics_and_no_other() {
    let server = Server::start(&[]);
    let mut both = Peer::open(server.data, "/feed/left,right");
    let mut left = Peer::open(server.data, "/feed/left");
    for (topic, payload) in [("right", "1"), ("elsewhere", "2"), ("left", "3"), ("right", "4"), ("left", "5")] {
        publish(&server, topic, PLAIN, payload.as_bytes());
    }
    for expected in ["3", "5"] {
        assert_eq!(left.next_message(), (TEXT, expected.as_bytes().to_vec()));
    }
    // Each topic has an order; the two together need none.
    let mut received: Vec<Vec<u8>> = (0..4).map(|_| both.next_message().1).collect();
    let position = |payload: &[u8]| received.iter().position(|message| message == payload);
    assert!(position(b"1") < position(b"4") && position(b"3") < position(b"5"), "{received:?}");
    received.sort();
    assert_eq!(received, [b"1", b"3", b"4", b"5"]);
}

#[test]
fn a_subscriber_that_sends_is_closed_alone() {
    let server = Server::start(&[]);
    let mut listener = Peer::open(server.data, "/feed/quiet");
    for (opcode, payload) in [(TEXT, &b"hello"[..]), (BINARY, b""), (TEXT, b"")] {
        let mut speaker = Peer::open(server.data, "/feed/quiet");
        speaker.send(&frame(FIN | opcode, payload));
        speaker.expect_close(1008);
        speaker.send(&frame(FIN | CLOSE, &close_payload(1008, b"")));
        speaker.expect_end();
    }
    publish(&server, "quiet", PLAIN, b"still here");
    assert_eq!(listener.next_message(), (TEXT, b"still here".to_vec()));
}

#[test]
fn a_peer_that_does_not_answer_a_close_frame_is_disconnected() {
    let server = Server::start(&[]);
    let mut speaker = Peer::open(server.data, "/feed/quiet");
    speaker.send(&frame(FIN | TEXT, b"hello"));
    speaker.expect_close(1008);
    speaker.expect_end();
}

#[test]
fn a_subscriber_may_ping_and_close() {
    let server = Server::start(&[]);
    let mut subscriber = Peer::open(server.data, "/feed/control");
    subscriber.send(&frame(FIN | PING, b"there?"));
    assert_eq!(subscriber.next_frame(), Some(Frame { first_byte: FIN | PONG, payload: b"there?".to_vec() }));
    subscriber.send(&frame(FIN | PONG, b""));
    publish(&server, "control", PLAIN, b"yes");
    assert_eq!(subscriber.next_message(), (TEXT, b"yes".to_vec()));
    subscriber.send(&frame(FIN | CLOSE, &close_payload(1000, b"")));
    subscriber.expect_close(1000);
    subscriber.expect_end();
}

#[test]
fn a_subscriber_that_breaks_the_protocol_is_closed_alone() {
    let server = Server::start(&[]);
    let mut listener = Peer::open(server.data, "/feed/broken");
    for (input, code) in [(frame(FIN | 3, b""), 1002), (vec![FIN | PING, 0], 1002), (frame(FIN | CLOSE, b"x"), 1002)] {
        let mut subscriber = Peer::open(server.data, "/feed/broken");
        subscriber.send(&input);
        subscriber.expect_close(code);
        subscriber.expect_end();
    }
    publish(&server, "broken", PLAIN, b"whole");
    assert_eq!(listener.next_message(), (TEXT, b"whole".to_vec()));
}

#[test]
fn a_feed_needs_a_topic() {
    let server = Server::start(&[]);
    for target in ["/feed", "/feed/"] {
        let response = http::exchange(server.data, upgrade_request(target).as_bytes());
        assert!([400, 404].contains(&response.status), "{target}: {}", response.head);
    }
}

/// The number of connections closed as slow consumers, over all shards.
fn closed_as_slow_consumers(server: &Server) -> u64 {
    let metrics = http::get(server.control, "/metrics");
    let lines = metrics.text().lines().filter(|line| {
        line.starts_with("ringfeed_connections_closed_total{") && line.contains(r#"reason="slow_consumer""#)
    });
    let counts: Vec<u64> = lines
        .map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a metric's value"))
        .collect();
    assert!(!counts.is_empty(), "no such metric:\n{}", metrics.text());
    counts.iter().sum()
}

/// The size of a publication that floods a subscriber.
const FLOOD_BYTES: usize = 256 << 10;

/// Enough of them to exceed the socket buffers of both ends and the outbox.
const PUBLICATIONS: usize = 256;

#[test]
fn a_subscriber_that_does_not_read_is_closed_alone() {
    let server = Server::start(&[]);
    let mut stalled = Peer::open(server.data, "/feed/flood");
    let mut listener = Peer::open(server.data, "/feed/flood");
    let payload = vec![b'x'; FLOOD_BYTES];
    for number in 0..PUBLICATIONS {
        publish(&server, "flood", OCTETS, &payload);
        let (opcode, message) = listener.next_message();
        assert_eq!((opcode, message.len()), (BINARY, payload.len()), "publication {number}");
    }
    // Its shard may be behind the listener's.
    let deadline = Instant::now() + PATIENCE;
    while closed_as_slow_consumers(&server) == 0 {
        assert!(Instant::now() < deadline, "the server does not close it");
    }
    assert_eq!(closed_as_slow_consumers(&server), 1);
    // The frames sent before are in order; only the last may be cut.
    let received = stalled.whole_frames_until_end();
    assert!(received.len() < PUBLICATIONS, "the server sent all of {PUBLICATIONS}");
    for frame in received {
        assert_eq!((frame.first_byte, frame.payload.len()), (FIN | BINARY, payload.len()));
    }
    publish(&server, "flood", PLAIN, b"still here");
    assert_eq!(listener.next_message(), (TEXT, b"still here".to_vec()));
}
