//! Many peers at once that never complete: slow handshakes, resets, half-open connections.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::metrics::{await_closed, await_left, closed, resident_bytes, total};
use crate::peer::{Peer, upgrade_request};
use crate::start;
use crate::support::PATIENCE;
use crate::support::http::read_response;
use crate::support::server::Server;

const CROWD: usize = 1000;

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// Whether the server has answered. A peer that sends to a closed connection is reset, and loses the answer.
fn is_answered(peer: &TcpStream) -> bool {
    peer.set_nonblocking(true).expect("an option can be set");
    let is_answered = peer.peek(&mut [0]).is_ok();
    peer.set_nonblocking(false).expect("an option can be set");
    is_answered
}

/// A thousand peers send their request byte by byte, and never the last. Each receives 408; they take no more memory
/// than they sent, and the server answers a neighbour between any two of their bytes.
#[test]
fn slow_handshakes_by_the_thousand_receive_408() {
    let server = start(&["--echo", "--handshake-timeout-ms", "2000"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let before = resident_bytes(&server);
    let request = upgrade_request("/echo");
    let mut crowd: Vec<TcpStream> = (0..CROWD).map(|_| connect(server.data)).collect();
    for byte in &request.as_bytes()[..30] {
        for peer in crowd.iter_mut().filter(|peer| !is_answered(peer)) {
            peer.write_all(&[*byte]).expect("the server reads");
        }
        neighbour.expect_echo("undisturbed");
    }
    let held = resident_bytes(&server).saturating_sub(before);
    assert!(held < 16 << 20, "a thousand unfinished requests take {held} bytes");
    for peer in crowd {
        assert_eq!(read_response(peer).status, 408);
    }
    await_closed(&server, "handshake_timeout", CROWD as u64);
    await_left(&server, 1);
    neighbour.expect_echo("still here");
}

/// Peers that reset their connection, at once or in the middle of a request.
#[test]
fn immediate_resets_leave_nothing_behind() {
    let server = start(&["--echo"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let request = upgrade_request("/feed/a");
    for round in 0..CROWD {
        let mut peer = connect(server.data);
        peer.write_all(&request.as_bytes()[..round % (request.len() + 1)]).expect("the server reads");
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("an option can be set");
        drop(peer);
        if round % 100 == 0 {
            neighbour.expect_echo("undisturbed");
        }
    }
    await_left(&server, 1);
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), 0);
    // The kernel may have dropped some before the server accepted them.
    let accepted = total(&server, "ringfeed_connections_accepted_total", "");
    assert_eq!(closed(&server, "peer_lost"), accepted - 1);
    neighbour.expect_echo("still here");
}

/// A peer that ends its half of the stream has left: the server closes the connection.
#[test]
fn half_open_connections_are_ended() {
    let server = start(&["--echo"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    for beginning in ["", "GET /feed/a HTTP/1.1\r\n", &upgrade_request("/feed/a")] {
        let mut peer = connect(server.data);
        peer.write_all(beginning.as_bytes()).expect("the server reads");
        peer.shutdown(Shutdown::Write).expect("it was open");
        let mut rest = Vec::new();
        // A reset is an end, too: an answer may have been in flight.
        let _ = peer.read_to_end(&mut rest);
    }
    await_closed(&server, "peer_lost", 3);
    await_left(&server, 1);
    neighbour.expect_echo("still here");
}

/// Peers that vanish, as far as a process can: they stay open and never send again.
#[test]
fn silent_peers_are_pinged_and_closed() {
    let server = Server::start(&["--ping-interval-ms", "300", "--pong-timeout-ms", "300"]);
    let crowd: Vec<Peer> = (0..100).map(|_| Peer::open(server.data, "/feed/a")).collect();
    await_closed(&server, "ping_timeout", 100);
    assert_eq!(total(&server, "ringfeed_pings_total", ""), 100);
    for mut peer in crowd {
        peer.next_frame().expect("the ping");
        peer.expect_close(1008);
    }
    await_left(&server, 0);
}
