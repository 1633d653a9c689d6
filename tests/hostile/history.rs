//! Clients that request much history: the backlog of a client is bounded over all its topics, and a slow client
//! receives everything it missed.

use std::fmt::Write as _;

use ringfeed::limits::OUTBOX_BYTES_MAX;
use serde_json::json;

use crate::json::read_replies;
use crate::metrics::{await_left, await_that, closed, resident_bytes, total};
use crate::peer::{Peer, upgrade_request};
use crate::support::server::Server;
use crate::topics::{centrifugo, configured, narrow, publish};

const CONFIG: &str = "[centrifuge]\nanonymous = true\n[namespaces.default]\nhistory_size = 300\n";

const TOPICS: usize = 16;

fn name(topic: usize) -> String {
    format!("t{topic}")
}

/// Fills each topic with `count` publications of one text. Returns the epochs.
fn fill(server: &Server, topics: usize, count: usize, text: &str) -> Vec<String> {
    let fill = |topic| {
        (1..count).for_each(|_| drop(publish(server, &name(topic), text)));
        publish(server, &name(topic), text).0
    };
    (0..topics).map(fill).collect()
}

/// Checks the backlog of `clients` clients that read nothing, once all their topics have answered.
fn await_bounded(server: &Server, clients: u64, what: &str) {
    let subscriptions = clients * TOPICS as u64;
    await_that(what, || total(server, "ringfeed_subscriptions", "") == subscriptions);
    assert_bounded(server, clients, what);
}

fn assert_bounded(server: &Server, clients: u64, what: &str) {
    let waiting = total(server, "ringfeed_outbox_bytes", "");
    let bound = clients * 2 * OUTBOX_BYTES_MAX as u64;
    assert!(waiting <= bound, "{what}: the backlog of {clients} clients that read nothing is {waiting} bytes");
}

/// A request for many topics with long histories, over each transport, by clients that read nothing.
#[test]
fn one_request_for_many_histories_is_bounded() {
    let server = configured("histories.toml", CONFIG);
    let epochs = fill(&server, TOPICS, 10, &"x".repeat(100_000));
    let names: Vec<String> = (0..TOPICS).map(name).collect();
    let (names, since) = (names.join(","), epochs.join(":0,") + ":0");
    let before = resident_bytes(&server);
    let requests = [
        upgrade_request(&format!("/feed/{names}?history=300")),
        upgrade_request(&format!("/feed/{names}?since={since}"))
            .replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: ringfeed.envelope\r\n\r\n"),
        format!("GET /sse/{names} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {since}\r\n\r\n"),
    ];
    for request in requests {
        let mut peers: Vec<Peer> = (0..4).map(|_| narrow(&server)).collect();
        peers.iter_mut().for_each(|peer| peer.send(request.as_bytes()));
        await_bounded(&server, 4, &request);
        drop(peers);
        await_left(&server, 0);
    }
    let peers: Vec<Peer> = (0..4).map(|_| recovering(&server, &epochs)).collect();
    assert_bounded(&server, 4, "recovery");
    let more = resident_bytes(&server).saturating_sub(before);
    assert!(more < 40 << 20, "four clients that read nothing take {more} bytes");
    assert!(total(&server, "ringfeed_recoveries_cut_total", "") > 0);
    drop(peers);
    await_left(&server, 0);
    assert_eq!(total(&server, "ringfeed_outbox_bytes", ""), 0);
}

/// A client over a narrow socket that requests the history of all topics in one message, and reads nothing yet. The
/// server executes its first commands, and the rest when it reads.
fn recovering(server: &Server, epochs: &[String]) -> Peer {
    let subscriptions = || total(server, "ringfeed_subscriptions", "");
    let before = subscriptions();
    let mut peer = centrifugo(server, true);
    let mut commands = String::new();
    for (topic, epoch) in epochs.iter().enumerate() {
        let subscribe = json!({"channel": name(topic), "recover": true, "epoch": epoch, "offset": 0});
        writeln!(commands, "{}", json!({"id": 2, "subscribe": subscribe})).expect("a string takes all");
    }
    peer.send(&crate::peer::frame(crate::peer::FIN | crate::peer::TEXT, commands.trim_end().as_bytes()));
    await_that("it has its first subscription", || subscriptions() > before);
    peer
}

/// Reads the answers to `count` subscribes, and publications up to `end`. Returns the number of recovered topics.
/// Offsets must be consecutive.
fn catch_up(peer: &mut Peer, count: usize, end: &str) -> usize {
    let (mut answers, mut recovered, mut offset, mut has_ended) = (0, 0, None, false);
    while !has_ended || answers < count {
        for reply in read_replies(peer) {
            if let Some(answer) = reply.get("subscribe") {
                answers += 1;
                recovered += usize::from(answer["recovered"] == true);
                assert_eq!(answer["was_recovering"], true);
            }
            let publication = &reply["push"]["pub"];
            if publication.is_object() {
                assert_eq!(reply["push"]["channel"], name(0));
                let next = publication["offset"].as_u64().expect("an offset");
                assert!(offset.is_none_or(|offset| next == offset + 1), "{next} after {offset:?}");
                offset = Some(next);
                has_ended |= publication["data"] == end;
            }
        }
    }
    recovered
}

/// A client with much recovered history is not a slow consumer: it stays connected while it reads, and receives new
/// publications.
#[test]
fn a_slow_reader_of_recovered_history_catches_up() {
    let long = "x".repeat(3600);
    // A quote takes two bytes in a JSON string.
    let quotes = "\"".repeat(3600);
    // Of many topics, the server recovers as many as the client reads meanwhile, and at least two.
    let rows = [(8, 110, &long, 2..=8), (1, 280, &long, 1..=1), (1, 280, &quotes, 0..=0), (1, 140, &quotes, 1..=1)];
    for (topics, count, text, expected) in rows {
        let server = configured("reader.toml", CONFIG);
        let epochs = fill(&server, topics, count, text);
        let mut peer = recovering(&server, &epochs);
        for number in 0..20 {
            publish(&server, &name(0), &number.to_string());
        }
        // More than fits beside the recovered history, if that counted.
        (0..6).for_each(|_| drop(publish(&server, &name(0), &"y".repeat(100_000))));
        publish(&server, &name(0), "end");
        await_that("all publications have left", || total(&server, "ringfeed_deliveries_total", "") == 27);
        assert_eq!(closed(&server, "slow_consumer"), 0, "{topics} topics of {count}");
        let waiting = total(&server, "ringfeed_outbox_bytes", "");
        assert!(waiting <= 2 * OUTBOX_BYTES_MAX as u64, "the backlog is {waiting} bytes");
        let recovered = catch_up(&mut peer, topics, "end");
        assert!(expected.contains(&recovered), "{recovered} of {topics} topics of {count}");
    }
}

/// A client that catches up has a bound for the rest of its backlog.
#[test]
fn a_client_that_reads_nothing_is_closed_while_it_catches_up() {
    let server = configured("never.toml", CONFIG);
    let epochs = fill(&server, 1, 10, &"x".repeat(100_000));
    let peer = recovering(&server, &epochs);
    let mut published = 0;
    while closed(&server, "slow_consumer") == 0 {
        let waiting = total(&server, "ringfeed_outbox_bytes", "");
        assert!(waiting <= 2 * OUTBOX_BYTES_MAX as u64, "the backlog is {waiting} bytes");
        publish(&server, &name(0), &"y".repeat(100_000));
        published += 1;
        assert!(published < 40, "the server does not close the client");
    }
    drop(peer);
    await_left(&server, 0);
    assert_eq!(total(&server, "ringfeed_outbox_bytes", ""), 0);
}
