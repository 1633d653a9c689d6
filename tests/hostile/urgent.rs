//! TCP's urgent bytes (RFC 9293 §3.8.5) at every stage of a connection. Each wakes up readers of the socket, and a
//! server that does not take them in line finds nothing to read: a receive in the kernel then retries in vain until the
//! kernel hands it to a worker thread, with the buffer it has chosen. These tests check that no bytes reach another
//! client, that no worker threads pile up, and that new clients get answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

use crate::metrics::await_left;
use crate::peer::{BINARY, CLOSE, FIN, Frame, PING, PONG, Peer, TEXT, close_payload, frame, upgrade_request};
use crate::start;
use crate::support::server::Server;

/// Three times the retries after which the kernel hands a receive to a worker (APOLL_MAX_RETRY is 128).
const URGENT: usize = 400;

/// The most worker threads of a process with one shard. A shutdown of a socket takes one.
const WORKERS_MAX: usize = 8;

/// The time within which a new client must receive its answer.
const SOON: Duration = Duration::from_secs(3);

/// A server with one shard, so that all connections share its buffers.
fn server() -> Server {
    start(&["--echo", "--shards", "1", "--handshake-timeout-ms", "60000"])
}

/// Sends `bytes`, of which the last is urgent. Errors of a closed connection are ignored.
fn send_urgent(stream: &TcpStream, bytes: &[u8]) {
    let _ = SockRef::from(stream).send_out_of_band(bytes);
}

/// The kernel's worker threads for the server's rings.
fn workers(server: &Server) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.id())).expect("the server runs");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("iou-wrk")).count()
}

/// A client that must receive all of its own messages, and no other.
struct Witness {
    peer: Peer,
    name: &'static str,
    count: u32,
}

impl Witness {
    fn open(server: &Server, name: &'static str) -> Witness {
        Witness { peer: Peer::open(server.data, "/echo"), name, count: 0 }
    }

    /// Sends a message that no client has sent before, and expects it back.
    fn expect_own_words(&mut self) {
        self.count += 1;
        self.peer.expect_echo(&format!("secret {} of {}, for nobody else", self.count, self.name));
    }
}

/// Two clients that echo, one of which has filled the shard's buffers with frames that the server would take for the
/// other's if it read them at a wrong place.
struct Victims {
    writer: Peer,
    reader: Witness,
}

/// A frame of 32 bytes.
fn forged() -> Vec<u8> {
    frame(FIN | TEXT, b"FORGED, as nobody has said")
}

impl Victims {
    fn open(server: &Server) -> Victims {
        let mut victims = Victims { writer: Peer::open(server.data, "/echo"), reader: Witness::open(server, "reader") };
        // More than one buffer, and more in case there are many.
        for _ in 0..20 {
            victims.expect_writers_own(256);
        }
        victims
    }

    fn expect_writers_own(&mut self, count: usize) {
        self.writer.send(&forged().repeat(count));
        for _ in 0..count {
            let echo = Frame { first_byte: FIN | TEXT, payload: b"FORGED, as nobody has said".to_vec() };
            assert_eq!(self.writer.next_frame(), Some(echo), "an echo of another client");
        }
    }

    /// Sends `bytes` over `attacker`, each of them urgent, with an echo after each.
    fn endure(&mut self, server: &Server, attacker: &TcpStream, bytes: &[u8]) {
        for byte in bytes {
            send_urgent(attacker, &[*byte]);
            self.reader.expect_own_words();
        }
        self.expect_writers_own(32);
        self.reader.expect_own_words();
        let workers = workers(server);
        assert!(workers <= WORKERS_MAX, "{workers} worker threads");
    }
}

/// An attacker without Nagle's algorithm.
fn attacker(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.data).expect("the server accepts");
    stream.set_nodelay(true).expect("an option can be set");
    stream
}

/// An attacker, and the peer that reads and sends on the same connection.
fn attacking_peer(server: &Server) -> (TcpStream, Peer) {
    let stream = attacker(server);
    let peer = Peer::over(stream.try_clone().expect("a descriptor to spare"));
    (stream, peer)
}

#[test]
fn urgent_bytes_before_the_request_is_whole() {
    let server = server();
    let mut victims = Victims::open(&server);
    let mut stream = attacker(&server);
    let request = upgrade_request("/echo");
    let (line, fields) = request.split_at(request.find("Host").expect("a request has a host"));
    stream.write_all(line.as_bytes()).expect("the server reads");
    stream.write_all(b"X-Urgent: ").expect("the server reads");
    victims.endure(&server, &stream, &[b'x'; URGENT]);
    stream.write_all(format!("\r\n{fields}").as_bytes()).expect("the server reads");
    let mut peer = Peer::over(stream);
    peer.expect_accepted();
    peer.expect_echo("as usual");
}

#[test]
fn urgent_bytes_between_the_request_and_the_first_frame() {
    let server = server();
    let mut victims = Victims::open(&server);
    let (stream, mut peer) = attacking_peer(&server);
    // The last byte of the request is urgent, too: the socket seems to hold more than a receive returns.
    send_urgent(&stream, upgrade_request("/echo").as_bytes());
    peer.expect_accepted();
    let pings = frame(FIN | PING, b"").repeat(URGENT / 6);
    victims.endure(&server, &stream, &pings);
    for _ in 0..URGENT / 6 {
        let pong = Frame { first_byte: FIN | PONG, payload: Vec::new() };
        assert_eq!(peer.next_frame(), Some(pong), "urgent bytes are bytes of the stream");
    }
    peer.expect_echo("as usual");
}

#[test]
fn urgent_bytes_in_the_middle_of_a_frame() {
    let server = server();
    let mut victims = Victims::open(&server);
    let (stream, mut peer) = attacking_peer(&server);
    peer.send(upgrade_request("/echo").as_bytes());
    peer.expect_accepted();
    for round in 0..2 {
        let payload = [&[b'a' + round; 40][..], &[b'u'; URGENT]].concat();
        let bytes = frame(FIN | BINARY, &payload);
        let (front, rest) = bytes.split_at(40);
        send_urgent(&stream, front);
        victims.endure(&server, &stream, rest);
        assert_eq!(peer.next_message(), (BINARY, payload), "urgent bytes are bytes of the stream");
    }
}

#[test]
fn urgent_bytes_behind_a_frame_and_behind_a_close() {
    let server = server();
    let mut victims = Victims::open(&server);
    let (stream, mut peer) = attacking_peer(&server);
    peer.send(upgrade_request("/echo").as_bytes());
    peer.expect_accepted();
    // A frame, and an urgent byte that belongs to no frame: it must end the connection, in time.
    send_urgent(&stream, &[&frame(FIN | TEXT, b"hello")[..], b"!"].concat());
    victims.endure(&server, &stream, &[b'!'; URGENT]);
    // The server ignores all bytes behind a Close frame.
    let (stream, mut peer) = attacking_peer(&server);
    peer.send(upgrade_request("/echo").as_bytes());
    peer.expect_accepted();
    send_urgent(&stream, &frame(FIN | CLOSE, &close_payload(1000, b"")));
    peer.expect_close(1000);
    victims.endure(&server, &stream, &[b'!'; URGENT]);
    drop((stream, peer));
    await_left(&server, 2);
}

/// 250 connections that send the beginning of a request, and urgent bytes after it: they must take neither all receive
/// buffers nor a kernel thread each.
#[test]
fn new_clients_get_answers_while_many_connections_send_urgent_bytes() {
    let server = server();
    let mut neighbour = Witness::open(&server, "neighbour");
    let crowd: Vec<TcpStream> = (0..250).map(|_| attacker(&server)).collect();
    for mut stream in &crowd {
        stream.write_all(b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-Urgent: ").expect("the server reads");
    }
    for _ in 0..URGENT {
        crowd.iter().for_each(|stream| send_urgent(stream, b"x"));
        neighbour.expect_own_words();
    }
    let mut newcomer = attacker(&server);
    newcomer.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    newcomer.write_all(upgrade_request("/echo").as_bytes()).expect("the server reads");
    let mut answer = [0; 12];
    newcomer.read_exact(&mut answer).expect("the server answers a new client in time");
    assert_eq!(&answer, b"HTTP/1.1 101");
    neighbour.expect_own_words();
    let workers = workers(&server);
    assert!(workers <= WORKERS_MAX, "{workers} worker threads for 250 connections");
}
