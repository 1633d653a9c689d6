//! What the simulator has found, each as a scene of its own.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::super::mesh::{Parcel, Publish, ReplyTo};
use super::*;
use crate::buf::ConnId;
use crate::conn::{CloseCause, KeepAliveConfig};
use crate::gateway::{Accept, Context, Feed, Handler, Refusal, Request, Subscribe};
use crate::limits::{
    DRAIN_HANDOVER_MS, DRAIN_SETTLE_MS, MESH_LINK_BYTES_MAX, MESH_PARCELS_PER_TURN, RECV_BUSY_PIECES, RECV_PAUSE_BYTES,
    RECV_TURN_BYTES, RECV_TURN_CONNS, REPLIES_BYTES,
};
use crate::proto::Message;
use crate::ring::sim::{Faults, Happening, PeerId, PeerRead, Rng};
use crate::topics::{
    Answer, CatchUp, ClientInfo, Draft, Homes, Namespace, Namespaces, PublishError, Push, Query, TopicName,
};

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
        Pair::start_with(status, Faults::none(), MeshSizes::of(2), handler)
    }

    fn start_with<H: Handler + 'static>(
        status: &Status,
        faults: Faults,
        mesh_sizes: MeshSizes,
        handler: impl Fn() -> H,
    ) -> Pair<'_> {
        let kernel = SimKernel::new(Rng::new(1), faults);
        let keep_alive = KeepAliveConfig { ping_interval_ms: PING_INTERVAL_MS, ..KeepAliveConfig::default() };
        let namespace = Namespace { presence: true, join_leave: true, ..Namespace::default() };
        let namespaces = Arc::new(Namespaces::new(namespace, Vec::new()));
        let config = ServerConfig { keep_alive, namespaces, ..ServerConfig::default() };
        let (publisher, shards) = start(&kernel, &config, 100, mesh_sizes, status, |_| {
            let mut routes = Routes::default();
            routes.add("/feed/", handler()).unwrap();
            routes
        });
        Pair { kernel, publisher, shards }
    }

    fn publish(&mut self, payload: &'static str) {
        drop(self.publisher.publish(Draft::new(topic(), true, Bytes::from(payload))).unwrap());
    }

    /// Bytes in flight move for so long.
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

    /// The server begins to drain.
    fn drain(&mut self) {
        self.publisher.drain().unwrap();
        self.turn(Self::other());
        self.pass(DRAIN_SETTLE_MS * 1000);
    }

    fn home() -> usize {
        Homes::new(2, HOME_KEY).of(&topic())
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
        // Its first receive found nothing: a poll, and a receive.
        (0..2).for_each(|_| self.turn(Self::other()));
    }

    fn say(&mut self, peer: PeerId, bytes: &[u8]) {
        assert_eq!(self.kernel.write(peer, bytes), bytes.len());
        self.turn(Self::other());
    }

    /// Both shards take turns as the kernel wakes them, for so long.
    fn run(&mut self, us: u64) {
        (0..2).for_each(|shard| self.turn_now(shard));
        let until_us = self.kernel.now_us() + us;
        while let Some(happening) = self.kernel.next(until_us) {
            if let Happening::Turn(shard) = happening {
                self.turn_now(shard);
            }
        }
    }

    /// The clients that are present, by name.
    fn present(&self) -> Vec<String> {
        let mut present = self.shards[Self::home()].shard.home.presence(&topic());
        present.sort_by(|a, b| a.client.cmp(&b.client));
        present.iter().map(|info| info.client.to_string()).collect()
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
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        conn.pause_delivery();
        conn.subscribe(topic()).unwrap();
        Ok(Accept::default())
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &mut (), _: Message<'_>) {}
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
    type State = ();

    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), _: Message<'_>) {
        conn.query(topic(), Query::Presence, 0);
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, _: &mut (), _: u32, _: Answer) {
        self.check(conn);
        conn.send(Message::text("y"));
    }

    fn on_drain(&mut self, conn: &mut Context<'_>, _: &mut ()) {
        self.check(conn);
    }

    fn on_close(&mut self, conn: &mut Context<'_>, _: (), _: CloseCause) {
        self.over.borrow_mut().push(conn.id());
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
    type State = ();

    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
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
    // At first the kernel completes the operations submitted while they sent little.
    for _ in 0..5 {
        floods.iter_mut().for_each(|(peer, sent)| pair.flood(*peer, sent));
        pair.turn(Pair::other());
    }
    for turn in 0..200 {
        floods.iter_mut().for_each(|(peer, sent)| pair.flood(*peer, sent));
        pair.kernel.write(neighbour, QUESTION);
        let before = bytes_received.get();
        pair.turn(Pair::other());
        let progress = (bytes_received.get() - before) as usize;
        assert!(progress > QUESTION.len(), "nobody was progress in turn {turn}");
        assert!(progress <= RECV_TURN_BYTES as usize + QUESTION.len(), "{progress} bytes in turn {turn}");
        pair.pass(1_000);
        assert_eq!(pair.kernel.read(neighbour, usize::MAX), PeerRead::Bytes(ANSWER.to_vec()), "turn {turn}");
    }
    let each = 100 * RECV_TURN_BYTES as usize / floods.len();
    assert!(floods.iter().all(|(_, sent)| *sent > each), "one of them was forgotten: {floods:?}");
}

/// A handler whose connections subscribe under their names with a message "x", and again with each further one. What
/// each is told it writes down. An unsubscribe follows the answers, as many as it was made with.
struct Visitors {
    told: Rc<RefCell<Vec<String>>>,
    unsubscribes: RefCell<u32>,
}

impl Visitors {
    fn new(unsubscribes: u32) -> (Rc<RefCell<Vec<String>>>, impl Fn() -> Visitors) {
        let told: Rc<RefCell<Vec<String>>> = Rc::default();
        let visitors = Rc::clone(&told);
        (told, move || Visitors { told: Rc::clone(&visitors), unsubscribes: RefCell::new(unsubscribes) })
    }

    fn name(conn: &Context<'_>) -> String {
        format!("client {}", conn.id().slot.0)
    }
}

impl Handler for Visitors {
    type State = ();

    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default().encoding(crate::topics::Encoding::PER_CONNECTION))
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        if message.payload == b"y" {
            return conn.publish_with(Draft::new(topic(), true, Bytes::from("y")), Some(1));
        }
        let presence = ClientInfo { client: Self::name(conn).into(), ..ClientInfo::default() };
        let (catch_up, presence, request_id) = (CatchUp::None, Some(Arc::new(presence)), Some(0));
        conn.subscribe_with(Subscribe {
            topic: topic(),
            catch_up,
            presence,
            join_leave: true,
            encoding: None,
            filter: None,
            request_id,
        })
        .unwrap();
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, _: &mut (), _: u32, answer: Answer) {
        self.told.borrow_mut().push(match &answer {
            Answer::Subscribed { .. } => "subscribed".to_owned(),
            Answer::NotSubscribed { error, .. } | Answer::Published(Err(error)) => format!("{error:?}"),
            other => format!("{other:?}"),
        });
        let mut unsubscribes = self.unsubscribes.borrow_mut();
        if *unsubscribes > 0 {
            *unsubscribes -= 1;
            conn.unsubscribe(topic());
        }
    }

    fn on_push(&mut self, _: &mut Context<'_>, _: &mut (), _: &TopicName, push: &Push) {
        let mut told = self.told.borrow_mut();
        match push {
            Push::Joined(info) => told.push(format!("{} came", info.client)),
            Push::Left(info) => told.push(format!("{} went", info.client)),
            Push::Publication(_) => told.push("publication".to_owned()),
        }
    }
}

impl Pair<'_> {
    /// A peer with an open WebSocket on the topic's home shard.
    fn connect_at_home(&mut self) -> PeerId {
        let peer = self.kernel.connect(Self::home());
        let request = "GET /feed/a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        self.kernel.write(peer, request.as_bytes());
        self.run(10_000);
        peer
    }

    fn say_and_run(&mut self, peer: PeerId, bytes: &[u8]) {
        assert_eq!(self.kernel.write(peer, bytes), bytes.len());
        self.run(100_000);
    }
}

#[test]
fn a_client_that_unsubscribes_when_it_is_answered_is_not_present() {
    let status = Status::new(2);
    let (told, visitors) = Visitors::new(1);
    let mut pair = Pair::start(&status, visitors);
    let peer = pair.connect_at_home();
    pair.say_and_run(peer, MESSAGE);
    assert_eq!((pair.present(), &told.borrow()[..]), (vec![], &["subscribed".to_owned()][..]));
    pair.say_and_run(peer, MESSAGE);
    assert_eq!(pair.present(), ["client 0"]);
    assert_eq!(told.borrow()[1..], ["subscribed", "client 0 came"], "it sees itself come, after the answer");
    pair.kernel.reset(peer);
    pair.run(100_000);
    assert!(pair.present().is_empty());
}

#[test]
fn others_see_each_client_come_before_they_see_it_go() {
    let status = Status::new(2);
    let (told, visitors) = Visitors::new(0);
    let mut pair = Pair::start(&status, visitors);
    let (witness, fickle) = (pair.connect_at_home(), pair.connect_at_home());
    pair.say_and_run(witness, MESSAGE);
    *told.borrow_mut() = Vec::new();
    pair.say_and_run(fickle, MESSAGE);
    pair.kernel.reset(fickle);
    pair.run(100_000);
    let news: Vec<String> = told.borrow().iter().filter(|word| word.starts_with("client")).cloned().collect();
    assert_eq!(news, ["client 1 came", "client 1 came", "client 1 went"], "the first is told to itself");
    assert_eq!(pair.present(), ["client 0"]);
}

#[test]
fn a_second_join_outlives_the_end_of_the_first() {
    let status = Status::new(2);
    let (told, visitors) = Visitors::new(1);
    let mut pair = Pair::start(&status, visitors);
    let peer = pair.connect();
    // Both are on their way when the first is answered, and unsubscribed from.
    pair.say_and_run(peer, &MESSAGE.repeat(2));
    assert_eq!(pair.present(), ["client 0"], "{:?}", told.borrow());
    pair.publish("news");
    pair.run(100_000);
    assert_eq!(told.borrow().last().unwrap(), "publication");
    pair.kernel.reset(peer);
    pair.run(100_000);
    assert!(pair.present().is_empty());
}

#[test]
fn a_doorbell_that_failed_is_rung_again() {
    let status = Status::new(2);
    let (told, visitors) = Visitors::new(0);
    let faults = Faults { doorbell_fails: 1000, ..Faults::none() };
    let mut pair = Pair::start_with(&status, faults, MeshSizes::of(2), visitors);
    // A home that has no topics sleeps for a minute.
    pair.run(10_000);
    let peer = pair.connect();
    pair.say_and_run(peer, MESSAGE);
    assert!(told.borrow().is_empty(), "no doorbell has come through");
    let failed = status.shards[Pair::other()].doorbells_failed.get();
    assert!((20..=101).contains(&failed), "it is rung with pauses: {failed}");
    pair.kernel.calm();
    pair.run(10_000);
    assert_eq!(told.borrow()[0], "subscribed");
}

impl Pair<'_> {
    /// Sends the home more than it may have waiting.
    fn congest(&mut self) {
        let payload = Bytes::from(vec![0; 1 << 20]);
        let mesh = &mut self.shards[Self::other()].shard.mesh;
        for _ in 0..MESH_LINK_BYTES_MAX >> 20 {
            let draft = Draft::new(topic(), false, payload.clone());
            mesh.send(
                Self::home(),
                Parcel::Publish(Box::new(Publish { draft, reply: ReplyTo::Nobody, requested_us: 0 })),
            );
        }
    }
}

#[test]
fn joins_are_refused_while_their_home_is_behind() {
    let status = Status::new(2);
    let (told, visitors) = Visitors::new(0);
    let mut pair = Pair::start(&status, visitors);
    let peer = pair.connect();
    pair.congest();
    let before = pair.shards[Pair::other()].shard.mesh.bytes();
    for _ in 0..5 {
        pair.say(peer, MESSAGE);
        pair.turn(Pair::other());
    }
    assert_eq!(told.borrow()[..], ["Busy"; 5]);
    assert_eq!(status.shards[Pair::other()].requests_refused.get(), 5);
    assert_eq!(pair.shards[Pair::other()].shard.mesh.bytes(), before, "nothing was added to what waits");
    pair.turn(Pair::home());
    pair.say_and_run(peer, MESSAGE);
    assert_eq!(told.borrow()[5], "subscribed");
}

#[test]
fn feeds_are_closed_while_their_home_can_not_be_told_of_them() {
    let status = Status::new(2);
    let mesh_sizes = MeshSizes { queue_parcels: 2, turn_parcels: 2 };
    let mut pair = Pair::start_with(&status, Faults::none(), mesh_sizes, Feed::default);
    let mesh = &mut pair.shards[Pair::other()].shard.mesh;
    (0..2).for_each(|_| mesh.send(Pair::home(), Parcel::Interest(topic(), Pair::other() as u16)));
    for _ in 0..5 {
        let peer = pair.connect();
        let close = pair.read(peer);
        assert_eq!(close[..4], [0x88, close[1], 0x03, 0xf5], "1013");
        assert!(!pair.shards[Pair::other()].shard.mesh.has_backlog(), "nothing waits for its sake");
    }
    assert_eq!(status.shards[Pair::other()].requests_refused.get(), 5);
}

#[test]
fn a_shard_hands_over_what_it_has_sent_before_it_ends() {
    let status = Status::new(2);
    let mesh_sizes = MeshSizes { queue_parcels: 2, turn_parcels: 100 };
    let mut pair = Pair::start_with(&status, Faults::none(), mesh_sizes, Feed::default);
    let peer = pair.connect();
    pair.turn(Pair::other());
    pair.turn(Pair::home());
    (0..20).for_each(|_| pair.publish("x"));
    pair.turn(Pair::home());
    pair.publisher.drain().unwrap();
    pair.turn_now(Pair::home());
    assert!(!pair.shards[Pair::home()].has_left(), "it has connections no more, but the other has not taken all");
    for _ in 0..20 {
        pair.turn_now(Pair::other());
        pair.turn_now(Pair::home());
    }
    assert!(pair.shards[Pair::home()].has_left());
    assert_eq!(pair.read(peer)[..60], b"\x81\x01x".repeat(20));
}

#[test]
fn a_shard_does_not_wait_long_for_one_that_takes_nothing() {
    let status = Status::new(2);
    let mesh_sizes = MeshSizes { queue_parcels: 2, turn_parcels: 100 };
    let mut pair = Pair::start_with(&status, Faults::none(), mesh_sizes, Feed::default);
    pair.connect();
    pair.turn(Pair::other());
    pair.turn(Pair::home());
    (0..20).for_each(|_| pair.publish("x"));
    pair.publisher.drain().unwrap();
    pair.turn(Pair::home());
    pair.pass((DRAIN_HANDOVER_MS - 100) * 1000);
    pair.turn_now(Pair::home());
    assert!(!pair.shards[Pair::home()].has_left());
    pair.pass(100_000);
    pair.turn_now(Pair::home());
    assert!(pair.shards[Pair::home()].has_left());
}

#[test]
fn requests_to_a_shard_that_has_left_are_answered() {
    let status = Status::new(2);
    let (told, visitors) = Visitors::new(0);
    let mut pair = Pair::start(&status, visitors);
    let peer = pair.connect();
    pair.turn(Pair::other());
    pair.publisher.drain().unwrap();
    pair.turn_now(Pair::home());
    assert!(pair.shards[Pair::home()].has_left());
    // The home ends; what is left keeps its place in the list.
    let home = pair.shards.remove(Pair::home());
    drop(home);
    for message in [MESSAGE, QUESTION] {
        pair.kernel.write(peer, message);
        for _ in 0..5 {
            pair.pass(1_000);
            pair.shards[0].turn(pair.kernel.now_us() / 1000);
        }
    }
    assert_eq!(told.borrow()[..], [format!("{:?}", PublishError::Stopping), format!("{:?}", PublishError::Stopping)]);
    assert!(pair.shards[0].fall_asleep() > Duration::from_millis(10), "nobody looks again and again");
}

const GENEROUS_BYTES: usize = 100_000;

/// A handler that answers each message with much more.
struct Generous;

impl Handler for Generous {
    type State = ();

    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), _: Message<'_>) {
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
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        self.asker.on_open(conn, request)
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        self.asker.check(conn);
        assert!(!std::mem::replace(&mut self.is_waiting, true), "a message before the one before was answered");
        conn.pause_input();
        self.asker.on_message(conn, &mut (), message);
    }

    fn on_resume(&mut self, conn: &mut Context<'_>, _: &mut ()) {
        self.asker.check(conn);
        assert!(!self.is_waiting, "it may not go on yet");
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, _: &mut (), request_id: u32, answer: Answer) {
        assert!(std::mem::replace(&mut self.is_waiting, false));
        self.asker.on_answer(conn, &mut (), request_id, answer);
        conn.resume_input();
    }

    fn on_close(&mut self, conn: &mut Context<'_>, _: (), cause: CloseCause) {
        self.asker.on_close(conn, (), cause);
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
    // The kernel may complete operations that were submitted before.
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
