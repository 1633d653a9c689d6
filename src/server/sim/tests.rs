//! What the simulator has found, each as a scene of its own.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;

use super::*;
use crate::buf::ConnId;
use crate::conn::{CloseCause, KeepAliveConfig};
use crate::gateway::{Accept, Context, Feed, Handler, Refusal, Request};
use crate::limits::{
    DRAIN_SETTLE_MS, MESH_PARCELS_PER_TURN, RECV_BUSY_PIECES, RECV_PAUSE_BYTES, RECV_TURN_BYTES, RECV_TURN_CONNS,
    REPLIES_BYTES,
};
use crate::proto::Message;
use crate::ring::sim::{Faults, PeerId, PeerRead, Rng};
use crate::topics::{Answer, Draft, Query, TopicName};

/// A text message to the server: "x".
const MESSAGE: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, b'x'];

const PING_INTERVAL_MS: u64 = 1000;

fn topic() -> TopicName {
    TopicName::new("a").unwrap()
}

/// Two shards, of which one is the topic's home, and the other has the peers.
struct Pair<'m> {
    kernel: SimKernel,
    publisher: Publisher,
    shards: Vec<SimShard<'m>>,
}

impl Pair<'_> {
    /// `handler` makes what serves feeds.
    fn start<H: Handler + 'static>(status: &Status, handler: impl Fn() -> H) -> Pair<'_> {
        let kernel = SimKernel::new(Rng::new(1), Faults::none());
        let keep_alive = KeepAliveConfig { ping_interval_ms: PING_INTERVAL_MS, ..KeepAliveConfig::default() };
        let config = ServerConfig { keep_alive, ..ServerConfig::default() };
        let (publisher, shards) = start(&kernel, &config, 100, MeshSizes::of(2), status, |_| {
            let mut routes = Routes::default();
            routes.add("/feed/", Box::new(handler())).unwrap();
            routes
        });
        Pair { kernel, publisher, shards }
    }

    fn publish(&mut self, payload: &'static str) {
        drop(self.publisher.publish(Draft::new(topic(), true, Bytes::from(payload))).unwrap());
    }

    /// What is on its way moves for so long.
    fn pass(&mut self, us: u64) {
        let until_us = self.kernel.now_us() + us;
        while self.kernel.next(until_us).is_some() {}
    }

    /// The shard takes one turn now.
    fn turn_now(&mut self, shard: usize) {
        self.shards[shard].turn(self.kernel.now_us() / 1000);
        let timeout = self.shards[shard].fall_asleep();
        self.kernel.sleep(shard, timeout);
        self.shards[shard].check(&self.kernel);
    }

    fn turn(&mut self, shard: usize) {
        self.pass(10_000);
        self.turn_now(shard);
    }

    /// The server is told to stop, and those with peers may now tell them.
    fn drain(&mut self) {
        self.publisher.drain().unwrap();
        self.turn(Self::other());
        self.pass(DRAIN_SETTLE_MS * 1000);
    }

    fn home() -> usize {
        topic().home(2)
    }

    fn other() -> usize {
        1 - Self::home()
    }

    /// A peer that has opened a WebSocket.
    fn connect(&mut self) -> PeerId {
        let peer = self.accept();
        self.ask(peer);
        peer
    }

    /// A peer that has not said anything.
    fn accept(&mut self) -> PeerId {
        let peer = self.kernel.connect(Self::other());
        self.turn(Self::other());
        peer
    }

    fn ask(&mut self, peer: PeerId) {
        self.say(
            peer,
            b"GET /feed/a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
    }

    fn say(&mut self, peer: PeerId, bytes: &[u8]) {
        assert_eq!(self.kernel.write(peer, bytes), bytes.len());
        self.turn(Self::other());
    }

    /// What the peer was sent after the answer to its handshake.
    fn read(&mut self, peer: PeerId) -> Vec<u8> {
        self.turn(Self::other());
        self.pass(10_000);
        let PeerRead::Bytes(bytes) = self.kernel.read(peer, usize::MAX) else { panic!("nothing came") };
        let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("the end of a head");
        bytes[end + 4..].to_vec()
    }
}

#[test]
fn who_comes_when_all_others_have_just_gone_has_no_gap() {
    let status = Status::new(2);
    let mut pair = Pair::start(&status, Feed::default);
    let before = pair.connect();
    let after = pair.accept();
    pair.turn(Pair::home());
    // More than a turn takes: the rest is still in the queue when the last subscriber has gone.
    (0..=MESH_PARCELS_PER_TURN).for_each(|_| pair.publish("old"));
    pair.turn(Pair::home());
    pair.kernel.reset(before);
    pair.turn(Pair::other());
    pair.publish("for nobody");
    pair.turn(Pair::home());
    pair.ask(after);
    pair.turn(Pair::home());
    pair.publish("new");
    pair.turn(Pair::home());
    assert_eq!(pair.read(after), b"\x81\x03new");
}

/// A handler that has what is pushed wait for something that never comes.
struct Reticent;

impl Handler for Reticent {
    fn on_open(&mut self, conn: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        conn.hold();
        conn.subscribe(topic()).unwrap();
        Ok(Accept::default())
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: Message<'_>) {}
}

#[test]
fn what_waits_for_a_word_that_is_not_said_never_comes() {
    let status = Status::new(2);
    let mut pair = Pair::start(&status, || Reticent);
    let peer = pair.connect();
    pair.turn(Pair::home());
    pair.publish("held");
    pair.turn(Pair::home());
    pair.turn(Pair::other());
    pair.drain();
    let close = pair.read(peer);
    assert_eq!(close[..4], [0x88, close[1], 0x03, 0xe9], "{close:?}");
    assert_eq!(close.len(), 2 + usize::from(close[1]), "{close:?}");
}

/// A handler that answers once a topic's home has, and may not be called for a connection that is over.
struct Asker {
    over: Rc<RefCell<Vec<ConnId>>>,
}

impl Asker {
    fn check(&self, conn: &Context<'_>) {
        assert!(!self.over.borrow().contains(&conn.id()), "a call for a connection that is over");
    }
}

impl Handler for Asker {
    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: Message<'_>) {
        conn.query(topic(), Query::Presence, 0);
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, _: u32, _: Answer) {
        self.check(conn);
        conn.send(Message::text("y"));
    }

    fn on_drain(&mut self, conn: &mut Context<'_>) {
        self.check(conn);
    }

    fn on_close(&mut self, conn: ConnId, _: CloseCause) {
        self.over.borrow_mut().push(conn);
    }
}

/// Two peers are answered in one turn, the first of which has just reset its connection: whether or not the shard has
/// heard of that, depending on how long ago it was. In the same turn there is more to say to the first, by what was
/// done `before`.
fn answer_one_who_has_just_gone(before: impl Fn(&mut Pair<'_>)) {
    for us in 0..300 {
        let (status, over) = (Status::new(2), Rc::default());
        let mut pair = Pair::start(&status, || Asker { over: Rc::clone(&over) });
        let (first, second) = (pair.connect(), pair.connect());
        pair.say(first, MESSAGE);
        pair.say(second, MESSAGE);
        before(&mut pair);
        pair.turn(Pair::home());
        pair.kernel.reset(first);
        pair.pass(us);
        pair.turn_now(Pair::other());
        (0..3).for_each(|_| pair.turn(Pair::other()));
        assert!(!over.borrow().is_empty(), "the first is over");
    }
}

#[test]
fn who_is_found_gone_is_not_pinged() {
    answer_one_who_has_just_gone(|pair| pair.pass(2 * PING_INTERVAL_MS * 1000));
}

#[test]
fn who_is_found_gone_is_not_heard_of_again() {
    answer_one_who_has_just_gone(|pair| pair.drain());
}

/// A text message to the server: "y".
const QUESTION: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, b'y'];

const ANSWER: &[u8] = b"\x81\x01z";

/// A handler that answers a [`QUESTION`] and nothing else.
struct Curt;

impl Handler for Curt {
    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>) {
        if message.payload == b"y" {
            conn.send(Message::text("z"));
        }
    }
}

impl Pair<'_> {
    /// A peer for which the kernel brings each piece.
    fn connect_busy(&mut self) -> PeerId {
        let peer = self.connect();
        for _ in 0..=RECV_BUSY_PIECES {
            self.say(peer, MESSAGE);
            self.turn(Self::other());
        }
        peer
    }

    /// The peer, which has sent so many bytes of messages, sends more until nobody has room.
    fn flood(&mut self, peer: PeerId, sent: &mut usize) {
        let messages = MESSAGE.repeat(RECV_TURN_BYTES as usize);
        loop {
            match self.kernel.write(peer, &messages[*sent % MESSAGE.len()..]) {
                0 => return,
                count => *sent += count,
            }
            self.pass(1_000);
        }
    }
}

#[test]
fn however_much_some_send_they_are_heard_in_turns_and_their_neighbour_in_each() {
    let status = Status::new(2);
    let mut pair = Pair::start(&status, || Curt);
    let mut floods: Vec<(PeerId, usize)> = (0..=2 * RECV_TURN_CONNS).map(|_| (pair.connect_busy(), 0)).collect();
    let neighbour = pair.connect_busy();
    let bytes_received = &status.shards[Pair::other()].bytes_received;
    pair.read(neighbour);
    // At first the kernel brings what it was asked for while they sent little.
    for _ in 0..5 {
        floods.iter_mut().for_each(|(peer, sent)| pair.flood(*peer, sent));
        pair.turn(Pair::other());
    }
    for turn in 0..200 {
        floods.iter_mut().for_each(|(peer, sent)| pair.flood(*peer, sent));
        pair.kernel.write(neighbour, QUESTION);
        let before = bytes_received.get();
        pair.turn(Pair::other());
        let heard = (bytes_received.get() - before) as usize;
        assert!(heard > QUESTION.len(), "nobody was heard in turn {turn}");
        assert!(heard <= RECV_TURN_BYTES as usize + QUESTION.len(), "{heard} bytes in turn {turn}");
        pair.pass(1_000);
        assert_eq!(pair.kernel.read(neighbour, usize::MAX), PeerRead::Bytes(ANSWER.to_vec()), "turn {turn}");
    }
    let each = 100 * RECV_TURN_BYTES as usize / floods.len();
    assert!(floods.iter().all(|(_, sent)| *sent > each), "one of them was forgotten: {floods:?}");
}

const GENEROUS_BYTES: usize = 100_000;

/// A handler that answers each message with much more.
struct Generous;

impl Handler for Generous {
    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: Message<'_>) {
        conn.send(Message::binary(&[0; GENEROUS_BYTES]));
    }
}

#[test]
fn messages_of_one_piece_wait_for_a_peer_that_does_not_read() {
    const MESSAGES: usize = 100;
    let status = Status::new(2);
    let mut pair = Pair::start(&status, || Generous);
    let peer = pair.connect();
    pair.read(peer);
    let shard = &status.shards[Pair::other()];
    pair.say(peer, &MESSAGE.repeat(MESSAGES));
    for _ in 0..50 {
        pair.turn(Pair::other());
        let waiting = shard.outbox_bytes.get() as usize;
        assert!(waiting < RECV_PAUSE_BYTES + REPLIES_BYTES + 2 * GENEROUS_BYTES, "{waiting} bytes wait");
    }
    assert!(shard.inputs_paused.get() > 0);
    let (mut came, mut turns) = (0, 0);
    while came < MESSAGES * (GENEROUS_BYTES + 10) {
        turns += 1;
        assert!(turns < 10_000, "{came} bytes came");
        pair.turn(Pair::other());
        if let PeerRead::Bytes(bytes) = pair.kernel.read(peer, usize::MAX) {
            came += bytes.len();
        }
    }
    assert_eq!(shard.messages_received.get(), MESSAGES as u64);
}

/// A handler that asks the topic's home for each message, and takes no other before that has answered. It may not be
/// called for a connection that is over.
struct Paced {
    asker: Asker,
    is_waiting: bool,
}

impl Handler for Paced {
    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        self.asker.on_open(conn, request)
    }

    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>) {
        self.asker.check(conn);
        assert!(!std::mem::replace(&mut self.is_waiting, true), "a message before the one before was answered");
        conn.pause();
        self.asker.on_message(conn, message);
    }

    fn on_resume(&mut self, conn: &mut Context<'_>) {
        self.asker.check(conn);
        assert!(!self.is_waiting, "it may not go on yet");
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, ticket: u32, answer: Answer) {
        assert!(std::mem::replace(&mut self.is_waiting, false));
        self.asker.on_answer(conn, ticket, answer);
        conn.resume();
    }

    fn on_close(&mut self, conn: ConnId, cause: CloseCause) {
        self.asker.on_close(conn, cause);
    }
}

fn paced(over: &Rc<RefCell<Vec<ConnId>>>) -> Paced {
    Paced { asker: Asker { over: Rc::clone(over) }, is_waiting: false }
}

/// A Close frame to the server, with code 1000.
const CLOSE: &[u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

#[test]
fn messages_wait_for_answers_and_a_goodbye_behind_them() {
    let (status, over) = (Status::new(2), Rc::default());
    let mut pair = Pair::start(&status, || paced(&over));
    let peer = pair.connect();
    pair.read(peer);
    let (first, second) = MESSAGE.split_at(3);
    pair.say(peer, &[MESSAGE, MESSAGE, first].concat());
    // The kernel may bring what it was asked for before.
    pair.say(peer, &[second, MESSAGE, CLOSE].concat());
    let mut told = Vec::new();
    for _ in 0..20 {
        pair.turn(Pair::other());
        pair.turn(Pair::home());
        if let PeerRead::Bytes(bytes) = pair.kernel.read(peer, usize::MAX) {
            told.extend(bytes);
        }
    }
    let expected = [&b"\x81\x01y".repeat(4)[..], b"\x88\x02\x03\xe8"].concat();
    assert_eq!((told, over.borrow().len()), (expected, 1));
}

#[test]
fn who_ends_while_messages_wait_is_over_whatever_is_left() {
    for us in [0, 50, 500] {
        for is_drained in [false, true] {
            let (status, over) = (Status::new(2), Rc::default());
            let mut pair = Pair::start(&status, || paced(&over));
            let peer = pair.connect();
            pair.say(peer, &MESSAGE.repeat(10));
            if is_drained {
                pair.drain();
            } else {
                pair.kernel.reset(peer);
            }
            pair.pass(us);
            pair.turn_now(Pair::other());
            for _ in 0..20 {
                pair.turn(Pair::home());
                pair.turn(Pair::other());
            }
            assert_eq!(over.borrow().len(), 1, "{us} {is_drained}");
        }
    }
}
