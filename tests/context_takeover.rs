//! Context takeover and fan-out together: what is compressed once for many goes between what is compressed for one, to
//! peers that inflate all of it with one stream, by a library that is not the server's (RFC 7692 §7.1.1).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringfeed::gateway::{Accept, Context, Handler, Refusal, Request};
use ringfeed::proto::{
    ClientHandshake, Decoder, DeflateConfig, DeflateOffer, DeflateParams, Event, Message, MessageKind, Role,
    encode_deflated,
};
use ringfeed::server::{Server, ServerConfig};
use ringfeed::topics::{Answer, Draft, Namespace, Namespaces, Query, TopicName};
use socket2::{Domain, Socket, Type};

#[path = "proto/foreign.rs"]
mod foreign;
use foreign::{ForeignDeflater, ForeignInflater};

const PATIENCE: Duration = Duration::from_secs(60);
const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);
const PEERS: usize = 4;
const STEPS: usize = 400;

/// Subscribes, and sends everything back.
struct Member;

impl Handler for Member {
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        conn.subscribe(topic()).expect("room for one");
        conn.send(Message::text("welcome, and some more to compress: welcome, and some more to compress"));
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        conn.send(message);
    }
}

const WELCOME: &str = "welcome, after which comes what was published before: welcome, welcome";

/// Subscribes, has what is pushed wait until its peer asks for the welcome, and then welcomes it first. Sends all else
/// back.
struct Polite;

impl Handler for Polite {
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        conn.pause_delivery();
        conn.subscribe(topic()).expect("room for one");
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        match message.payload {
            b"welcome me" => conn.query(topic(), Query::Presence, 0),
            _ => conn.send(message),
        }
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, _: &mut (), _: u32, _: Answer) {
        conn.send(Message::text(WELCOME));
        conn.resume_delivery();
    }
}

fn topic() -> TopicName {
    TopicName::new("all").expect("a valid name")
}

fn start(context_takeover: usize) -> Server {
    let namespace = Namespace { outbox_bytes_max: 1 << 24, ..Namespace::default() };
    let config = ServerConfig {
        listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        shards: 1,
        namespaces: Arc::new(Namespaces::new(namespace, Vec::new())),
        // So little that many subscribers are behind, and much of what they get waits in between.
        socket_notsent_bytes: 4096,
        deflate: Some(DeflateConfig { bytes_min: 20, context_takeover, ..DeflateConfig::default() }),
        ..ServerConfig::default()
    };
    Server::builder(config).route("/member", || Member).route("/polite", || Polite).start().expect("a server")
}

/// A peer with a small receive buffer.
struct Peer {
    stream: TcpStream,
    params: DeflateParams,
    deflater: ForeignDeflater,
    inflater: ForeignInflater,
    decoder: Decoder,
    input: Vec<u8>,
    /// The received message, and the number of its compressed bytes if it was compressed.
    heard: Vec<(String, Option<usize>)>,
}

impl Peer {
    fn connect(server: SocketAddr, path: &str) -> Peer {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("an option can be set");
        socket.set_tcp_nodelay(true).expect("an option can be set");
        socket.set_read_timeout(Some(PATIENCE)).expect("an option can be set");
        socket.connect(&server.into()).expect("the server accepts");
        let mut stream = TcpStream::from(socket);
        let offer = DeflateOffer { context_takeover: true, ..DeflateOffer::default() };
        let handshake = ClientHandshake::new(*b"sixteen byte key").with_deflate(offer);
        let mut request = Vec::new();
        handshake.encode_request(&mut request, "localhost", path, &[], &[]);
        stream.write_all(&request).expect("the server reads");
        let mut input = Vec::new();
        let (accepted, len) = loop {
            read_more(&mut stream, &mut input);
            if let Some(answer) = handshake.decode_response(&input).expect("an answer") {
                break answer;
            }
        };
        let params = accepted.deflate.expect("compression");
        let mut decoder = Decoder::new(Role::Client, 1 << 24);
        decoder.allow_deflated();
        Peer {
            stream,
            params,
            deflater: ForeignDeflater::new(6, params.client_window.get()),
            inflater: ForeignInflater::new(),
            decoder,
            input: input.split_off(len),
            heard: Vec::new(),
        }
    }

    fn say(&mut self, text: &str) {
        if !self.params.client_takes_over {
            self.deflater = ForeignDeflater::new(6, self.params.client_window.get());
        }
        let payload = self.deflater.deflate(text.as_bytes());
        let mut bytes = Vec::new();
        encode_deflated(&mut bytes, Message { kind: MessageKind::Text, payload: &payload }, MASK);
        self.stream.write_all(&bytes).expect("the server reads");
    }

    fn hear(&mut self, count: usize) {
        loop {
            let mut input = &mut self.input[..];
            while let Some(event) = self.decoder.decode(&mut input).expect("valid frames") {
                let (text, len) = match event {
                    Event::Message(message) => (message.payload.to_vec(), None),
                    Event::Deflated(message) => (self.inflater.inflate(message.payload), Some(message.payload.len())),
                    other => panic!("{other:?}"),
                };
                self.heard.push((String::from_utf8(text).expect("text"), len));
            }
            self.input.clear();
            if self.heard.len() >= count {
                return;
            }
            read_more(&mut self.stream, &mut self.input);
        }
    }

    /// Sends a message and receives its echo; returns the number of its compressed bytes if it was compressed.
    fn echo(&mut self, text: &str) -> Option<usize> {
        self.say(text);
        loop {
            self.hear(self.heard.len() + 1);
            if let Some((_, len)) = self.heard.iter().rfind(|(heard, _)| heard == text) {
                let len = *len;
                self.heard.clear();
                return len;
            }
        }
    }

    /// Texts that begin so, in the order in which they came.
    fn heard(&self, beginning: &str) -> Vec<&str> {
        self.heard.iter().map(|(text, _)| &text[..]).filter(|text| text.starts_with(beginning)).collect()
    }
}

fn read_more(stream: &mut TcpStream, input: &mut Vec<u8>) {
    let mut piece = [0; 4096];
    let len = stream.read(&mut piece).expect("the server speaks");
    assert!(len > 0, "the server has closed");
    input.extend_from_slice(&piece[..len]);
}

/// Small numbers without a pattern.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

/// Short and long, like earlier ones and not.
fn text(beginning: &str, index: usize, numbers: &mut Numbers) -> String {
    let words = ["feed", "price", "score", "{\"name\":", "\"grüße\"}", "0123456789abcdef"];
    let count = [0, 3, 30, 300][numbers.below(4)];
    let mut text = format!("{beginning} {index} ");
    for _ in 0..count {
        text.push_str(words[numbers.below(words.len())]);
        if numbers.below(3) == 0 {
            text.push_str(&numbers.below(1 << 30).to_string());
        }
    }
    text
}

#[test]
fn all_is_inflated_however_it_is_interleaved() {
    for seed in 0..4 {
        let server = start(PEERS - 1);
        let mut peers: Vec<Peer> = (0..PEERS).map(|_| Peer::connect(server.address(), "/member")).collect();
        let taking_over: Vec<bool> = peers.iter().map(|peer| peer.params.server_takes_over).collect();
        assert_eq!(taking_over, [true, true, true, false], "one too many");
        assert_eq!(server.status.shards[0].deflate_contexts.get(), PEERS as u64 - 1);

        let mut numbers = Numbers(seed);
        let (mut said, mut published) = (vec![Vec::new(); PEERS], Vec::new());
        for index in 0..STEPS {
            match numbers.below(2 * PEERS) {
                peer if peer < PEERS => {
                    let text = text("to one", index, &mut numbers);
                    peers[peer].say(&text);
                    said[peer].push(text);
                }
                _ => {
                    let text = text("to all", index, &mut numbers);
                    let draft = Draft::new(topic(), true, Bytes::from(text.clone()));
                    let outcome = server.publisher.publish(draft).expect("room in the queue");
                    if numbers.below(2) == 0 {
                        outcome.blocking_recv().expect("an answer").expect("an offset");
                    }
                    published.push(text);
                }
            }
        }
        for (peer, said) in peers.iter_mut().zip(&said) {
            peer.hear(1 + said.len() + published.len());
            assert_eq!(peer.heard("to one"), *said, "seed {seed}");
            assert_eq!(peer.heard("to all"), published, "seed {seed}");
        }
    }
}

#[test]
fn what_was_held_comes_between_the_welcome_and_what_follows() {
    let server = start(1);
    let mut peer = Peer::connect(server.address(), "/polite");
    assert!(peer.params.server_takes_over);
    let published = "something published meanwhile, published and held".to_owned();
    let outcome = server.publisher.publish(Draft::new(topic(), true, Bytes::from(published.clone())));
    outcome.expect("room in the queue").blocking_recv().expect("an answer").expect("an offset");
    peer.say("welcome me");
    peer.hear(2);
    assert_eq!(peer.heard("welcome"), [WELCOME]);
    assert_eq!(peer.heard[1].0, published);
    peer.heard.clear();
    for text in [WELCOME, &published, WELCOME] {
        peer.echo(text);
    }
}

#[test]
fn only_where_it_was_agreed_on_messages_refer_back_to_earlier_ones() {
    let server = start(1);
    let (mut first, mut second) =
        (Peer::connect(server.address(), "/member"), Peer::connect(server.address(), "/member"));
    let mut numbers = Numbers(1);
    let text = "abcdefgh".repeat(3) + &(0..100).map(|_| numbers.below(1 << 30).to_string()).collect::<String>();
    let mut lens = Vec::new();
    for peer in [&mut first, &mut second] {
        lens.push([peer.echo(&text), peer.echo(&text)]);
    }
    // A compressed message for many resets the context.
    let draft = Draft::new(topic(), true, Bytes::from("to many and many ".repeat(10)));
    let outcome = server.publisher.publish(draft).expect("room in the queue");
    outcome.blocking_recv().expect("an answer").expect("an offset");
    for (peer, lens) in [&mut first, &mut second].into_iter().zip(&mut lens) {
        peer.hear(1);
        peer.heard.clear();
        let after = [peer.echo(&text), peer.echo(&text)];
        let is_small = [lens[0], lens[1], after[0], after[1]].map(|len| len.expect("it shrinks") < 250);
        let takes_over = peer.params.server_takes_over;
        assert_eq!(is_small, [false, takes_over, false, takes_over], "{lens:?} {after:?}");
    }
    assert_eq!((first.params.server_takes_over, second.params.server_takes_over), (true, false));
}
