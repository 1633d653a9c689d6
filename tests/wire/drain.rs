//! A stopping server closes its connections at an even pace, with a reason, and accepts no more.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::peer::{CLOSE, FIN, Peer, close_payload, frame};
use crate::support::http;
use crate::support::server::Server;

#[test]
fn connections_close_one_after_the_other_over_the_given_time() {
    const SPREAD: Duration = Duration::from_secs(2);
    let server = Server::start(&["--drain-spread-ms", "2000"]);
    let peers: Vec<Peer> = (0..60).map(|_| Peer::open(server.data, "/feed/a")).collect();
    let start = Instant::now();
    server.terminate();
    let threads: Vec<_> = peers
        .into_iter()
        .map(|mut peer| {
            std::thread::spawn(move || {
                peer.expect_close(1001);
                start.elapsed()
            })
        })
        .collect();
    let times: Vec<Duration> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let early = times.iter().filter(|time| **time < SPREAD / 4).count();
    assert!(early <= 30, "{early} of 60 were closed in the first quarter");
    assert!(times.iter().any(|time| *time > SPREAD / 2), "{times:?}");
    assert!(!times.is_sorted(), "the connections were closed in the order of their accepts");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_stopping_server_sends_1001_and_accepts_no_more() {
    let server = Server::start(&["--drain-spread-ms", "60000"]);
    let mut peer = Peer::open(server.data, "/feed/a");
    server.terminate();
    while http::get(server.control, "/readyz").status != 503 {}
    while TcpStream::connect(server.data).is_ok() {}
    let metrics = http::get(server.control, "/metrics");
    let left = metrics.text().lines().filter(|line| line.starts_with("ringfeed_drain_left{"));
    let left: u64 = left.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(left, 1);
    // The server may close first.
    peer.send(&frame(FIN | CLOSE, &close_payload(1000, b"")));
    peer.expect_close(1000);
    drop(peer);
    assert_eq!(server.wait().code(), Some(0));
}
