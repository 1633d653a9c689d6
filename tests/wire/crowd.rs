//! Many connections at once: more than one descriptor table holds, and more than the limits allow.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::peer::{Peer, TEXT};
use crate::support::http;
use crate::support::server::Server;

fn publish(server: &Server, payload: &str) {
    let response = http::post(server.control, "/publish/crowd", "text/plain", payload.as_bytes());
    assert_eq!(response.status, 200, "{}", response.head);
}

fn open(server: &Server, count: usize) -> Vec<Peer> {
    (0..count).map(|_| Peer::open(server.data, "/feed/crowd")).collect()
}

#[test]
fn more_connections_than_the_file_limit_all_get_each_publication() {
    // About ten rings for each shard.
    let server = Server::start_with_files(60, &["--max-connections", "1000", "--ping-interval-ms", "0"]);
    let mut peers = open(&server, 400);
    for payload in ["first", "second"] {
        publish(&server, payload);
        peers.iter_mut().for_each(|peer| assert_eq!(peer.next_message(), (TEXT, payload.into())));
    }
    // Some leave, and others take their places.
    let mut index = 0;
    peers.retain(|_| {
        index += 1;
        index % 2 == 0
    });
    peers.extend(open(&server, 300));
    publish(&server, "third");
    peers.iter_mut().for_each(|peer| assert_eq!(peer.next_message(), (TEXT, b"third".to_vec())));
    server.terminate();
    peers.iter_mut().for_each(|peer| peer.expect_close(1001));
    drop(peers);
    assert!(server.wait().success());
}

#[test]
fn the_server_reads_from_busy_and_quiet_connections_on_many_rings() {
    let server = Server::start_with_files(60, &["--max-connections", "400", "--echo"]);
    let mut peers: Vec<Peer> = (0..200).map(|_| Peer::open(server.data, "/echo")).collect();
    for round in 0..10 {
        peers.iter_mut().for_each(|peer| peer.expect_echo("to all"));
        // Some send far more than others.
        peers.iter_mut().step_by(20).for_each(|peer| (0..round).for_each(|_| peer.expect_echo("to some")));
    }
}

#[test]
fn an_address_has_a_bound_and_a_close_makes_room() {
    let server = Server::start(&["--connections-per-address-max", "3"]);
    let mut peers = open(&server, 3);
    let refusal = http::get(server.data, "/");
    assert_eq!(refusal.status, 429);
    assert!(refusal.header("Retry-After").is_some());
    publish(&server, "undisturbed");
    peers.iter_mut().for_each(|peer| assert_eq!(peer.next_message(), (TEXT, b"undisturbed".to_vec())));
    drop(peers.pop());
    // The place is free once the server has seen the end.
    let mut answers = (0..1000).map(|_| http::get(server.data, "/").status);
    assert!(answers.any(|status| status == 200), "a closed connection does not make room");
}

#[test]
fn the_accept_rate_is_bounded_and_no_connection_is_lost() {
    let server = Server::start(&["--handshakes-per-second", "100", "--shards", "1", "--ping-interval-ms", "0"]);
    let start = Instant::now();
    let mut peers = open(&server, 120);
    // The server accepts a tenth of a second's worth at once, besides the accepts submitted before any connection.
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
    publish(&server, "hello");
    peers.iter_mut().for_each(|peer| assert_eq!(peer.next_message(), (TEXT, b"hello".to_vec())));
}

#[test]
fn an_overloaded_server_rejects_some_connections_with_a_retry_time() {
    let server = Server::start(&["--handshakes-per-second", "20", "--shards", "1"]);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let data = server.data;
            std::thread::spawn(move || {
                let start = Instant::now();
                let mut statuses = BTreeSet::new();
                while !statuses.contains(&503) && start.elapsed() < Duration::from_secs(20) {
                    statuses.insert(http::get(data, "/").status);
                }
                statuses
            })
        })
        .collect();
    let statuses: BTreeSet<u16> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(statuses, BTreeSet::from([200, 503]));
}
