//! How fan-outs share a shard's turns, by the sends that each turn makes.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::*;
use crate::gateway::Feed;
use crate::ring::sim::{Faults, PeerId, PeerRead, Rng};
use crate::server::{FanOutConfig, PublishError};
use crate::topics::{Draft, Position, TopicName};

/// Sends of each lane in a turn.
const SLICE: u64 = 4;

/// One shard.
struct Solo<'m> {
    kernel: SimKernel,
    publisher: Publisher,
    shard: SimShard<'m>,
    status: &'m Status,
}

impl Solo<'_> {
    fn start(status: &Status) -> Solo<'_> {
        let kernel = SimKernel::new(Rng::new(1), Faults::none());
        let fan_out = FanOutConfig { slice_us: SLICE, batch_sends: 2, express_subscribers_max: 1 };
        let config = ServerConfig { fan_out, ..ServerConfig::default() };
        let (publisher, mut shards) = start(&kernel, &config, 100, MeshSizes::of(1), status, |_| {
            let mut routes = Routes::default();
            routes.add("/feed/", Feed::default()).unwrap();
            routes
        });
        Solo { kernel, publisher, shard: shards.remove(0), status }
    }

    /// Bytes in flight move for a moment, and the shard takes a turn. Returns how many sends its fan-outs made.
    fn turn(&mut self) -> u64 {
        let sends = |status: &Status| status.shards[0].fan_out_sends.get();
        let before = sends(self.status);
        let until_us = self.kernel.now_us() + 10_000;
        while self.kernel.next(until_us).is_some() {}
        self.shard.turn(self.kernel.now_us() / 1000);
        let timeout = self.shard.fall_asleep();
        self.kernel.sleep(0, timeout);
        self.shard.check(&self.kernel);
        sends(self.status) - before
    }

    fn publish(&mut self, topic: &str, payload: &'static str) -> oneshot::Receiver<Result<Position, PublishError>> {
        self.publisher.publish(Draft::new(TopicName::new(topic).unwrap(), true, Bytes::from(payload))).unwrap()
    }

    /// A subscriber of these topics.
    fn subscribe(&mut self, topics: &str) -> PeerId {
        let peer = self.kernel.connect(0);
        self.turn();
        let request = format!(
            "GET /feed/{topics} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        assert_eq!(self.kernel.write(peer, request.as_bytes()), request.len());
        self.turn();
        self.turn();
        peer
    }

    /// What a peer has got after the answer to its handshake.
    fn read(&mut self, peer: PeerId) -> Vec<u8> {
        let until_us = self.kernel.now_us() + 10_000;
        while self.kernel.next(until_us).is_some() {}
        let PeerRead::Bytes(bytes) = self.kernel.read(peer, usize::MAX) else { panic!("nothing came") };
        let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("the end of a head");
        bytes[end + 4..].to_vec()
    }
}

#[test]
fn what_a_turn_brings_from_several_topics_leaves_in_one_send() {
    let status = Status::new(1);
    let mut solo = Solo::start(&status);
    let peer = solo.subscribe("a,b,c");
    for (topic, payload) in [("a", "1"), ("c", "2"), ("a", "3"), ("b", "4")] {
        drop(solo.publish(topic, payload));
    }
    assert_eq!(solo.turn(), 1);
    assert_eq!(status.shards[0].deliveries.get(), 4);
    let bytes = solo.read(peer);
    assert_eq!(bytes.len(), 4 * 3);
    let place = |payload| bytes.iter().position(|byte| *byte == payload);
    assert!(place(b'1') < place(b'3'), "each topic keeps its order: {bytes:?}");
}

#[test]
fn an_answer_and_a_small_topic_do_not_wait_for_a_crowd() {
    let status = Status::new(1);
    let mut solo = Solo::start(&status);
    let peer = solo.subscribe("small");
    for _ in 0..20 {
        solo.subscribe("crowd");
    }
    drop(solo.publish("crowd", "1"));
    assert_eq!(solo.turn(), SLICE);
    let mut answers = [solo.publish("crowd", "2"), solo.publish("small", "3")];
    assert_eq!(solo.turn(), 1 + SLICE);
    assert!(answers.iter_mut().all(|answer| matches!(answer.try_recv(), Ok(Ok(_)))), "both are sequenced");
    assert_eq!(solo.read(peer), b"\x81\x013");
}

#[test]
fn what_comes_during_a_fan_out_joins_it() {
    let status = Status::new(1);
    let mut solo = Solo::start(&status);
    let peers: Vec<PeerId> = (0..10).map(|_| solo.subscribe("crowd")).collect();
    drop(solo.publish("crowd", "1"));
    let first = solo.turn();
    drop(solo.publish("crowd", "2"));
    let rest: u64 = (0..10).map(|_| solo.turn()).sum();
    assert_eq!((first, rest), (SLICE, 10 - SLICE + SLICE), "one round for those ahead, and one for those before");
    for peer in peers {
        assert_eq!(solo.read(peer), b"\x81\x011\x81\x012");
    }
}
