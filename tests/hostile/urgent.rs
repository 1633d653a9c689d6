//! TCP's urgent bytes (RFC 9293 §3.8.5) at every stage of a connection. Each wakes up whoever waits for bytes, and a
//! server that does not take them in line finds nothing to read: a receive that waits in the kernel then tries in vain
//! until it is handed to a worker thread, together with the buffer it has chosen. So what is checked here is that
//! nobody's bytes become another's, that no worker threads pile up, and that new clients are answered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

use crate::metrics::await_left;
use crate::peer::{BINARY, CLOSE, FIN, Frame, PING, PONG, Peer, TEXT, close_payload, frame, upgrade_request};
use crate::start;
use crate::support::server::Server;

/// Three times as often as a receive tries in vain before the kernel hands it to a worker (APOLL_MAX_RETRY is 128).
const URGENT: usize = 400;

/// Worker threads that a process with one shard may have at most. Shutting a socket down takes one.
const WORKERS_MAX: usize = 8;

/// Time for a new client to be answered, whatever others do.
const SOON: Duration = Duration::from_secs(3);

/// All connections share the one shard's buffers.
fn server() -> Server {
    start(&["--echo", "--shards", "1", "--handshake-timeout-ms", "60000"])
}

/// Sends `bytes`, of which the last is urgent. A connection that has ended takes no more.
fn send_urgent(stream: &TcpStream, bytes: &[u8]) {
    let _ = SockRef::from(stream).send_out_of_band(bytes);
}

/// The kernel's worker threads for rings of the server.
fn workers(server: &Server) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.id())).expect("the server runs");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("iou-wrk")).count()
}

/// A client that must be sent nothing but its own words, and all of them.
struct Witness {
    peer: Peer,
    name: &'static str,
    count: u32,
}

impl Witness {
    fn open(server: &Server, name: &'static str) -> Witness {
        Witness { peer: Peer::open(server.data, "/echo"), name, count: 0 }
    }

    /// Says something that nobody has said before.
    fn expect_own_words(&mut self) {
        self.count += 1;
        self.peer.expect_echo(&format!("secret {} of {}, for nobody else", self.count, self.name));
    }
}

/// Two clients whose words go back and forth, one of which has filled the shard's buffers with frames that would be
/// taken for the other's if they were read at a wrong place.
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
        // More than a buffer, and some more of them should there be many.
        for _ in 0..20 {
            victims.expect_writers_own(256);
        }
        victims
    }

    fn expect_writers_own(&mut self, count: usize) {
        self.writer.send(&forged().repeat(count));
        for _ in 0..count {
            let echo = Frame { first_byte: FIN | TEXT, payload: b"FORGED, as nobody has said".to_vec() };
            assert_eq!(self.writer.next_frame(), Some(echo), "another one's words");
        }
    }

    /// Sends `bytes` over `attacker`, each of them urgent, and has words go back and forth after each.
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

/// An attacker that does not wait for packets to become large.
fn attacker(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.data).expect("the server accepts");
    stream.set_nodelay(true).expect("an option can be set");
    stream
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
    peer.expect_echo("as for everybody else");
}

#[test]
fn urgent_bytes_between_the_request_and_the_first_frame() {
    let server = server();
    let mut victims = Victims::open(&server);
    let stream = attacker(&server);
    let mut peer = Peer::over(stream.try_clone().expect("a descriptor to spare"));
    // The last byte of the request is urgent, too: more seems to be there than a receive brings.
    send_urgent(&stream, upgrade_request("/echo").as_bytes());
    peer.expect_accepted();
    let pings = frame(FIN | PING, b"").repeat(URGENT / 6);
    victims.endure(&server, &stream, &pings);
    for _ in 0..URGENT / 6 {
        let pong = Frame { first_byte: FIN | PONG, payload: Vec::new() };
        assert_eq!(peer.next_frame(), Some(pong), "urgent bytes are bytes of the stream");
    }
    peer.expect_echo("as for everybody else");
}

#[test]
fn urgent_bytes_in_the_middle_of_a_frame() {
    let server = server();
    let mut victims = Victims::open(&server);
    let stream = attacker(&server);
    let mut peer = Peer::over(stream.try_clone().expect("a descriptor to spare"));
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
    let stream = attacker(&server);
    let mut peer = Peer::over(stream.try_clone().expect("a descriptor to spare"));
    peer.send(upgrade_request("/echo").as_bytes());
    peer.expect_accepted();
    // As the audit did it: a frame, and an urgent byte that belongs to no frame. It ends the connection, in time.
    send_urgent(&stream, &[&frame(FIN | TEXT, b"hello")[..], b"!"].concat());
    victims.endure(&server, &stream, &[b'!'; URGENT]);
    // Behind a Close frame nothing counts any more.
    let stream = attacker(&server);
    let mut peer = Peer::over(stream.try_clone().expect("a descriptor to spare"));
    peer.send(upgrade_request("/echo").as_bytes());
    peer.expect_accepted();
    send_urgent(&stream, &frame(FIN | CLOSE, &close_payload(1000, b"")));
    peer.expect_close(1000);
    victims.endure(&server, &stream, &[b'!'; URGENT]);
    drop((stream, peer));
    await_left(&server, 2);
}

/// 250 connections that have sent the beginning of a request, and urgent bytes after it: they must take neither all
/// receive buffers nor a kernel thread each.
#[test]
fn new_clients_are_answered_while_urgent_bytes_come_on_many_connections() {
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
    newcomer.read_exact(&mut answer).expect("a new client is answered soon");
    assert_eq!(&answer, b"HTTP/1.1 101");
    neighbour.expect_own_words();
    let workers = workers(&server);
    assert!(workers <= WORKERS_MAX, "{workers} worker threads for 250 connections");
}
