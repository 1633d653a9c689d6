//! Protocols without HTTP on a listener of their own: pieces, bounds, and the policy for slow subscribers.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bytes::Bytes;
use ringfeed::conn::CloseCause;
use ringfeed::gateway::Protocol;
use ringfeed::proto::{Framed, Framing, FramingError};
use ringfeed::server::{ListenerConfig, ServerConfig, Status};
use ringfeed::topics::{Draft, Namespace, Namespaces, SlowConsumer};
use ringfeed::{Accept, Context, Handler, Message, Publisher, Refusal, Server, TopicName};

use crate::inside::connect_narrow;
use crate::support::PATIENCE;

/// Each message is a line; `x` is no message.
struct Lines;

impl Framing for Lines {
    fn decode(&self, input: &[u8]) -> Result<Option<Framed>, FramingError> {
        if input[0] == b'x' {
            return Err(FramingError("send no x"));
        }
        let end = input.iter().position(|byte| *byte == b'\n');
        Ok(end.map(|end| Framed::text(0..end).with_trailer(1)))
    }

    fn encode(&self, out: &mut Vec<u8>, message: Message<'_>) {
        out.extend_from_slice(message.payload);
        out.push(b'\n');
    }
}

static LINES: LazyLock<Protocol> = LazyLock::new(|| Protocol::new(Lines));

/// Subscribes each peer to `news`, and returns its messages.
struct News;

impl Handler for News {
    type State = ();

    fn on_connect(&mut self, conn: &mut Context<'_>, peer: Option<std::net::IpAddr>) -> Result<Accept, Refusal> {
        assert!(peer.is_some_and(|peer| peer.is_loopback()));
        conn.subscribe(news()).expect("the first topic");
        Ok(Accept::default().message_bytes_max(100))
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        conn.send(message);
    }
}

/// A running server. It stops when dropped.
struct Lined {
    address: SocketAddr,
    publisher: Publisher,
    status: Status,
}

impl Lined {
    fn start(namespace: Namespace) -> Lined {
        let address = SocketAddr::from(([127, 0, 0, 1], 0)).into();
        let listener = ListenerConfig { protocol: "lines".to_owned(), ..ListenerConfig::new(address) };
        let namespaces = Arc::new(Namespaces::new(namespace, Vec::new()));
        let socket_notsent_bytes = 16 * 1024;
        let config = ServerConfig {
            listeners: vec![listener],
            shards: 2,
            namespaces,
            socket_notsent_bytes,
            ..Default::default()
        };
        let server = Server::builder(config).protocol("lines", &LINES, || News).start().unwrap();
        Lined { address: server.address(), publisher: server.publisher, status: server.status }
    }

    fn connect(&self) -> TcpStream {
        let peer = TcpStream::connect(self.address).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer
    }

    fn publish(&mut self, text: &str) {
        let draft = Draft::new(news(), true, Bytes::copy_from_slice(text.as_bytes()));
        self.publisher.publish(draft).unwrap().blocking_recv().unwrap().unwrap();
    }

    fn sum(&self, cell: impl Fn(&ringfeed::server::ShardMetrics) -> u64) -> u64 {
        self.status.shards.iter().map(cell).sum()
    }

    #[track_caller]
    fn wait_until(&self, what: &str, is_true: impl Fn(&Lined) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_true(self) {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Lined {
    fn drop(&mut self) {
        let _ = self.publisher.drain();
    }
}

fn news() -> TopicName {
    TopicName::new("news").unwrap()
}

fn read_line(peer: &mut TcpStream) -> String {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        peer.read_exact(&mut byte).unwrap();
        match byte[0] {
            b'\n' => return String::from_utf8(line).unwrap(),
            byte => line.push(byte),
        }
    }
}

/// The rest of what the server sends, to its end of the stream.
fn read_rest(peer: &mut TcpStream) -> String {
    let mut rest = String::new();
    peer.read_to_string(&mut rest).unwrap();
    rest
}

#[test]
fn messages_arrive_byte_by_byte_and_many_at_once() {
    let server = Lined::start(Namespace::default());
    let mut peer = server.connect();
    peer.set_nodelay(true).unwrap();
    for byte in b"one\n" {
        peer.write_all(&[*byte]).unwrap();
    }
    assert_eq!(read_line(&mut peer), "one");
    let many: String = (0..1000).map(|n| format!("{n}\n")).collect();
    peer.write_all(many.as_bytes()).unwrap();
    for n in 0..1000 {
        assert_eq!(read_line(&mut peer), n.to_string());
    }
    assert_eq!(server.sum(|shard| shard.framed.get()), 1);
    assert_eq!(server.sum(|shard| shard.websockets.get()), 0);
    peer.shutdown(Shutdown::Both).unwrap();
    server.wait_until("it is gone", |server| server.sum(|shard| shard.framed.get()) == 0);
}

#[test]
fn violations_have_a_line_as_answer_and_end_the_connection_alone() {
    let mut server = Lined::start(Namespace::default());
    let mut neighbour = server.connect();
    neighbour.write_all(b"hello\n").unwrap();
    assert_eq!(read_line(&mut neighbour), "hello");
    let rows: [(&str, Vec<u8>, &str); 4] = [
        ("a broken message", b"x".to_vec(), "send no x\n"),
        ("after a good one", b"good\nx".to_vec(), "good\nsend no x\n"),
        ("no UTF-8", b"\xff\n".to_vec(), "text must be UTF-8\n"),
        ("an endless message", vec![b'a'; 1000], "the message is too large\n"),
    ];
    for (name, bytes, answer) in rows {
        let mut peer = server.connect();
        peer.write_all(&bytes).unwrap();
        assert_eq!(read_rest(&mut peer), answer, "{name}");
    }
    assert_eq!(server.sum(|shard| shard.closed(CloseCause::Protocol).get()), 4);
    server.publish("to the neighbour");
    assert_eq!(read_line(&mut neighbour), "to the neighbour");
}

#[test]
fn slow_subscribers_fall_under_the_policy() {
    let outbox_bytes_max = 100_000;
    let namespace = Namespace { slow_consumer: SlowConsumer::Close, outbox_bytes_max, ..Namespace::default() };
    let mut server = Lined::start(namespace);
    let mut slow = connect_narrow(server.address);
    slow.write_all(b"hello\n").unwrap();
    let mut quick = server.connect();
    quick.write_all(b"hello\n").unwrap();
    assert_eq!(read_line(&mut quick), "hello");
    server.wait_until("both are subscribed", |server| server.sum(|shard| shard.subscriptions.get()) == 2);
    let text = "y".repeat(1000);
    let slow_count = |server: &Lined| server.sum(|shard| shard.closed(CloseCause::SlowConsumer).get());
    while slow_count(&server) == 0 {
        server.publish(&text);
        assert_eq!(read_line(&mut quick), text);
        assert!(server.sum(|shard| shard.outbox_bytes.get()) <= outbox_bytes_max as u64);
    }
    server.publish("last");
    assert_eq!(read_line(&mut quick), "last");
    assert_eq!(server.sum(|shard| shard.framed.get()), 1);
}
