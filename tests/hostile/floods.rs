//! Single peers that send, or leave unread, more than they may.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::metrics::{await_closed, await_left, await_that, closed, resident_bytes, total};
use ringfeed::limits::{RECV_BUFFER_BYTES, RECV_BUFFERS, RECV_PAUSE_BYTES};

use crate::peer::{BINARY, CLOSE, CONTINUATION, FIN, Frame, PING, Peer, TEXT, frame, frame_header, upgrade_request};
use crate::start;
use crate::support::http;

/// Sends `bytes` repeatedly until it is stopped or the server closes.
struct Flood {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Flood {
    fn start(mut stream: TcpStream, bytes: Vec<u8>) -> Flood {
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        // A server that pauses reading is no error: the flood checks for its end now and then.
        stream.set_write_timeout(Some(std::time::Duration::from_millis(100))).expect("a timeout can be set");
        let thread = thread::spawn(move || {
            let mut sent = 0;
            let mut rest = &bytes[..];
            while !flag.load(Ordering::Relaxed) {
                match stream.write(rest) {
                    Ok(count) => {
                        sent += count as u64;
                        rest = if count == rest.len() { &bytes } else { &rest[count..] };
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => break,
                }
            }
            sent
        });
        Flood { is_over, thread: Some(thread) }
    }

    /// Stops the flood and returns the bytes sent.
    fn stop(mut self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().expect("the flood runs").join().expect("sending does not panic")
    }
}

/// `count` pings in one write.
fn pings(count: usize) -> Vec<u8> {
    frame(FIN | PING, b"are you there?").repeat(count)
}

/// The answers that a peer receives before the server closes it with 1008 for exceeding a rate.
pub(crate) fn answers_until_limited(peer: &mut Peer) -> Vec<Frame> {
    let mut answers = peer.whole_frames_until_end();
    let end = answers.pop().expect("answers");
    assert_eq!((end.first_byte, &end.payload[..2]), (FIN | CLOSE, &1008u16.to_be_bytes()[..]), "{end:?}");
    answers
}

#[test]
fn a_ping_flood_ends_at_its_bound() {
    let server = start(&["--echo", "--messages-per-second-max", "50"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let mut peer = Peer::open(server.data, "/feed/a");
    peer.send(&pings(1000));
    // The rate of one second, and some more if the server is slow.
    let pongs = answers_until_limited(&mut peer);
    assert!((50..1000).contains(&pongs.len()), "{} pongs", pongs.len());
    await_closed(&server, "rate_limited", 1);
    neighbour.expect_echo("undisturbed");
}

#[test]
fn a_message_flood_ends_at_its_bound() {
    let server = start(&["--echo", "--messages-per-second-max", "20"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let mut peer = Peer::open(server.data, "/echo");
    peer.send(&frame(FIN | TEXT, b"again").repeat(1000));
    let echoes = answers_until_limited(&mut peer);
    assert!((20..1000).contains(&echoes.len()), "{} echoes", echoes.len());
    await_closed(&server, "rate_limited", 1);
    neighbour.expect_echo("undisturbed");
}

#[test]
fn a_byte_flood_ends_at_its_bound() {
    let server = start(&["--echo", "--bytes-per-second-max", "200000"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let mut peer = Peer::open(server.data, "/feed/a");
    // Endless fragments of a message that never grows.
    peer.send(&frame(BINARY, b""));
    let flood = Flood::start(peer.sender(), frame(CONTINUATION, b"").repeat(10_000));
    let ends: Vec<Frame> = peer.whole_frames_until_end();
    assert!(flood.stop() > 0);
    assert!(ends.len() <= 1, "{ends:?}");
    await_closed(&server, "rate_limited", 1);
    neighbour.expect_echo("undisturbed");
}

/// Without rate limits, the server pauses reading from a peer that does not read its answers, so its backlog is
/// bounded.
#[test]
fn reading_pauses_for_a_flooder_that_does_not_read() {
    let server = start(&["--echo"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let before = resident_bytes(&server);
    let peers: Vec<Peer> = (0..2).map(|_| Peer::open(server.data, "/echo")).collect();
    let ping_flood = Flood::start(peers[0].sender(), pings(1000));
    let echo_flood = Flood::start(peers[1].sender(), frame(FIN | BINARY, &[7; 60_000]));
    await_that("both are behind", || total(&server, "ringfeed_outbox_connections", "") == 2);
    for _ in 0..200 {
        neighbour.expect_echo("undisturbed");
    }
    // The server answers everything received in one turn before it pauses a client.
    let bound = (RECV_PAUSE_BYTES + usize::from(RECV_BUFFERS) * RECV_BUFFER_BYTES as usize) as u64;
    let waiting = total(&server, "ringfeed_outbox_bytes", "");
    assert!(waiting < 2 * bound, "two peers that don't read have {waiting} bytes of backlog");
    let held = resident_bytes(&server).saturating_sub(before);
    assert!(held < 64 << 20, "two peers that don't read take {held} bytes");
    assert!(ping_flood.stop() > 0 && echo_flood.stop() > 0);
    drop(peers);
    await_left(&server, 1);
    assert_eq!(total(&server, "ringfeed_outbox_bytes", ""), 0);
}

/// A peer that sends as fast as it can must not take all receive buffers from its neighbours.
#[test]
fn one_flooder_does_not_starve_its_neighbours_of_buffers() {
    let server = start(&["--echo", "--shards", "1"]);
    let mut neighbours: Vec<Peer> = (0..20).map(|_| Peer::open(server.data, "/echo")).collect();
    let mut flooder = Peer::open(server.data, "/feed/a");
    let (stream, flood) = (flooder.sender(), Flood::start(flooder.sender(), pings(10_000)));
    // It reads its pongs, so that only the server's fairness limits it. It may end within one.
    let reading = thread::spawn(move || flooder.whole_frames_until_end().len());
    for round in 0..50 {
        neighbours.iter_mut().for_each(|neighbour| neighbour.expect_echo(&format!("round {round}")));
    }
    assert!(flood.stop() > 0);
    stream.shutdown(Shutdown::Both).expect("it was open");
    assert!(reading.join().expect("pongs are valid") > 0);
}

#[test]
fn a_reader_that_never_reads_is_closed_and_the_others_get_everything() {
    let server = start(&["--outbox-bytes-max", "100000"]);
    let dead: Vec<Peer> = (0..3).map(|_| Peer::open(server.data, "/feed/prices")).collect();
    let mut quick = Peer::open(server.data, "/feed/prices");
    let payload = vec![b'x'; 100_000];
    let mut published = 0;
    while closed(&server, "slow_consumer") < 3 {
        for _ in 0..10 {
            let response = http::post(server.control, "/publish/prices", "text/plain", &payload);
            assert_eq!(response.status, 200, "{}", response.head);
            assert_eq!(quick.next_message(), (TEXT, payload.clone()));
            published += 1;
        }
        assert!(published < 1000, "the server does not close a subscriber that never reads");
    }
    assert_eq!(closed(&server, "slow_consumer"), 3);
    drop(dead);
    await_left(&server, 1);
}

#[test]
fn announced_lengths_hold_no_memory() {
    let server = start(&["--echo"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let before = resident_bytes(&server);
    let rows = [(u64::MAX, 1002), (1 << 63, 1002), ((1 << 63) - 1, 1009), ((16 << 20) + 1, 1009), (1 << 32, 1009)];
    for (length, code) in rows {
        let mut peer = Peer::open(server.data, "/echo");
        peer.send(&frame_header(FIN | BINARY, length));
        peer.expect_close(code);
        neighbour.expect_echo("undisturbed");
    }
    // The server reserves no memory for announced bytes.
    let crowd: Vec<Peer> = (0..100)
        .map(|_| {
            let mut peer = Peer::open(server.data, "/echo");
            peer.send(&frame_header(FIN | BINARY, 16 << 20));
            peer.send(b"a few bytes");
            peer
        })
        .collect();
    neighbour.expect_echo("undisturbed");
    let held = resident_bytes(&server).saturating_sub(before);
    assert!(held < 16 << 20, "a hundred unfinished messages take {held} bytes");
    assert_eq!(closed(&server, "protocol"), rows.len() as u64);
    drop(crowd);
}

#[test]
fn fragments_without_end_stop_at_the_bound_of_a_message() {
    let server = start(&["--echo", "--message-bytes-max", "100000"]);
    let mut peer = Peer::open(server.data, "/echo");
    let mut bytes = frame(BINARY, b"x");
    bytes.extend(frame(CONTINUATION, b"x").repeat(100_000));
    let mut sender = peer.sender();
    let sending = thread::spawn(move || sender.write_all(&bytes));
    peer.expect_close(1009);
    // The server reads on for a while, so that a reset does not discard the Close frame.
    let _ = sending.join().expect("sending does not panic");
    await_closed(&server, "protocol", 1);
}

#[test]
fn giant_requests_are_rejected_at_their_bound() {
    let server = start(&["--echo"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let before = resident_bytes(&server);
    let request = upgrade_request("/echo");
    let one_field =
        request.replace("Host: localhost\r\n", &format!("Host: localhost\r\nX: {}\r\n", "x".repeat(1 << 20)));
    let many_fields =
        request.replace("Host: localhost\r\n", &format!("Host: localhost\r\n{}", "X: y\r\n".repeat(1 << 17)));
    let long_target = request.replace("/echo", &format!("/{}", "x".repeat(1 << 20)));
    for (request, status) in [(&one_field, 431), (&many_fields, 431), (&long_target, 414)] {
        assert_eq!(http::exchange(server.data, request.as_bytes()).status, status);
        neighbour.expect_echo("undisturbed");
    }
    await_closed(&server, "refused", 3);
    let held = resident_bytes(&server).saturating_sub(before);
    assert!(held < 16 << 20, "three rejected requests take {held} bytes");
}
