//! Hostile clients of STOMP, on TCP and on WebSockets: each receives ERROR and is closed, and its neighbour goes on.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::json;

use crate::metrics::total;
use crate::peer::{FIN, Peer, TEXT, frame};
use crate::support::server::Server;
use crate::support::token::hs256;
use crate::support::{PATIENCE, http, target_dir};

const CONFIG: &str = r#"
[[listener]]
address = "127.0.0.1:0"

[[listener]]
address = "127.0.0.1:0"
protocol = "stomp"

[namespaces.default]
publish = "anyone"
"#;

const CONNECT: &str = "CONNECT\naccept-version:1.2\nhost:a\n\n\0";

/// A server, and the address of its TCP listener.
fn start(name: &str) -> (Server, SocketAddr) {
    let path = target_dir("hostile").join(name);
    fs::write(&path, CONFIG).expect("the target directory can be written to");
    let server = Server::start_with_config(&path, &[]);
    let address = server.listeners[1].strip_prefix("stomp://").expect("the listener of STOMP");
    let address = address.parse().expect("an address");
    (server, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let peer = TcpStream::connect(address).expect("the server listens");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    peer
}

/// Sends bytes, and returns all that the server sends until it closes. It may close before it has read everything.
fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut peer = connect(address);
    let _ = peer.write_all(bytes);
    let mut received = Vec::new();
    let _ = peer.read_to_end(&mut received);
    String::from_utf8_lossy(&received).into_owned()
}

#[test]
fn each_attack_meets_an_error_and_the_neighbour_goes_on() {
    let (server, address) = start("stomp.toml");
    let mut neighbour = Peer::open(server.data, "/feed/news");
    let after_connect = |text: &str| [CONNECT, text].concat().into_bytes();
    let many = |line: &str, count: usize| line.repeat(count);
    let mut transactions = String::new();
    for id in 0..10_000 {
        write!(transactions, "BEGIN\ntransaction:{id}\n\n\0").expect("a string takes everything");
    }
    let mut subscriptions = String::new();
    for id in 0..1000 {
        write!(subscriptions, "SUBSCRIBE\nid:{id}\ndestination:/topic/t{id}\n\n\0").expect("a string takes everything");
    }
    let in_transaction = format!("SEND\ndestination:/topic/news\ntransaction:t\n\n{}\0", "x".repeat(60_000));
    let rows: [(&str, Vec<u8>, &str); 12] = [
        ("no CONNECT", b"SEND\ndestination:/topic/news\n\nx\0".to_vec(), "send CONNECT first"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "unknown command"),
        (
            "an endless header",
            after_connect(&format!("SEND\nx:{}", many("y", 100_000))),
            "the header fields are too large",
        ),
        ("many headers", after_connect(&format!("SEND\n{}\n\0", many("x:y\n", 1000))), "too many header fields"),
        ("an endless body", after_connect(&format!("SEND\n\n{}", many("y", 200_000))), "the body is too large"),
        ("an announced body", after_connect("SEND\ncontent-length:4294967296\n\n"), "the body is too large"),
        ("transactions", after_connect(&transactions), "too many open transactions"),
        (
            "a large one",
            after_connect(&format!("BEGIN\ntransaction:t\n\n\0{}", many(&in_transaction, 30))),
            "the open transactions are too large",
        ),
        ("subscriptions", after_connect(&subscriptions), "at most 128 subscriptions"),
        ("another's queue", after_connect("SUBSCRIBE\nid:1\ndestination:/topic/queue/a#ann\n\n\0"), "access refused"),
        ("two CONNECTs", after_connect(CONNECT), "connected already"),
        (
            "a long receipt",
            after_connect(&format!("BEGIN\nreceipt:{}\ntransaction:t\n\n\0", many("y", 1000))),
            "the receipt is too long",
        ),
    ];
    let count = rows.len() as u64;
    for (name, bytes, reason) in rows {
        let received = exchange(address, &bytes);
        assert!(received.contains("ERROR\n") && received.contains(reason), "{name}: {received:?}");
        http::post(server.control, "/publish/news", "text/plain", name.as_bytes());
        assert_eq!(neighbour.next_message().1, name.as_bytes());
    }
    assert_eq!(total(&server, "ringfeed_connections_closed_total", "reason=\"application\""), count);
    assert_eq!(total(&server, "ringfeed_connections", "transport=\"framed\""), 0);
    let errors = |cause: &str| total(&server, "ringfeed_stomp_errors_total", cause);
    assert_eq!((errors(""), errors("unexpected_frame"), errors("access_refused")), (count, 2, 1));
    assert_eq!(total(&server, "ringfeed_subscriptions_refused_total", "permission_denied"), 1);
}

/// A million receipts are answered, as fast as the client reads them.
#[test]
fn receipts_wait_for_a_client_that_does_not_read() {
    let (_server, address) = start("receipts.toml");
    let mut peer = connect(address);
    peer.write_all(CONNECT.as_bytes()).expect("the server reads");
    let frame = "ACK\nid:1\nreceipt:r\n\n\0";
    let mut writer = peer.try_clone().expect("a second handle");
    let count = 300_000;
    let thread = std::thread::spawn(move || {
        let many = frame.repeat(1000);
        (0..count / 1000).try_for_each(|_| writer.write_all(many.as_bytes()))
    });
    let receipt = b"RECEIPT\nreceipt-id:r\n\n\0";
    let (mut receipts, mut buffer, mut rest) = (0, vec![0; 64 * 1024], Vec::new());
    while receipts < count {
        let len = peer.read(&mut buffer).expect("the server sends");
        assert!(len > 0, "the server has closed after {receipts} receipts");
        rest.extend_from_slice(&buffer[..len]);
        let ends: Vec<usize> = rest.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at + 1).collect();
        let mut start = 0;
        for end in ends {
            receipts += usize::from(rest[start..end] == *receipt);
            start = end;
        }
        rest.drain(..start);
    }
    thread.join().expect("the writer ends").expect("all was written");
}

/// The server sends no more heart-beats than one a second, whatever the client asks for.
#[test]
fn heart_beats_have_a_lowest_interval() {
    let (_server, address) = start("beats.toml");
    let mut peer = connect(address);
    peer.write_all(b"CONNECT\naccept-version:1.2\nhost:a\nheart-beat:0,1\n\n\0").expect("the server reads");
    let mut received = Vec::new();
    while !received.ends_with(b"\0") {
        let mut byte = [0];
        peer.read_exact(&mut byte).expect("CONNECTED");
        received.push(byte[0]);
    }
    assert!(String::from_utf8(received).expect("text").contains("heart-beat:1000,1000\n"));
    let mut beat = [0; 2];
    peer.read_exact(&mut beat[..1]).expect("a heart-beat");
    let first = std::time::Instant::now();
    peer.read_exact(&mut beat[1..]).expect("a heart-beat");
    assert_eq!(&beat, b"\n\n");
    // A bound of the protocol, not of speed: with the requested interval it would be a millisecond.
    assert!(first.elapsed().as_millis() >= 500, "{:?}", first.elapsed());
}

/// A transaction of thousands of publications is published in its order, some at a time; its receipt is the last.
#[test]
fn a_large_transaction_is_published_in_order() {
    let (server, address) = start("transaction.toml");
    let mut reader = Peer::open(server.data, "/feed/news");
    let mut peer = connect(address);
    let count = 2_000;
    let mut bytes = format!("{CONNECT}BEGIN\ntransaction:t\n\n\0");
    for number in 0..count {
        write!(bytes, "SEND\ndestination:/topic/news\ntransaction:t\n\n{number}\0").expect("a string takes everything");
    }
    bytes.push_str("COMMIT\ntransaction:t\nreceipt:done\n\n\0SEND\ndestination:/topic/news\n\nafter\0");
    peer.write_all(bytes.as_bytes()).expect("the server reads");
    for number in 0..count {
        assert_eq!(reader.next_message().1, number.to_string().as_bytes());
    }
    assert_eq!(reader.next_message().1, b"after");
    let mut received = Vec::new();
    while !received.ends_with(b"RECEIPT\nreceipt-id:done\n\n\0") {
        let mut byte = [0];
        peer.read_exact(&mut byte).expect("the receipt");
        received.push(byte[0]);
    }
}

/// The limit on messages is one of WebSockets; frames on TCP have bounds of their own.
#[test]
fn pieces_of_tcp_are_no_messages() {
    let path = target_dir("hostile").join("pieces.toml");
    fs::write(&path, CONFIG).expect("the target directory can be written to");
    let server = Server::start_with_config(&path, &["--message-bytes-max", "125"]);
    let mut reader = Peer::open(server.data, "/feed/news");
    let address = server.listeners[1].strip_prefix("stomp://").expect("the listener of STOMP").parse();
    let mut peer = connect(address.expect("an address"));
    let frame = format!("{CONNECT}SEND\ndestination:/topic/news\n\n{}\0", "x".repeat(10_000));
    peer.write_all(frame.as_bytes()).expect("the server reads");
    assert_eq!(reader.next_message().1.len(), 10_000);
}

/// Where an application decides about publications, the name of a user in a topic is no permission.
#[test]
fn a_users_own_topic_is_still_the_applications() {
    let secret = "a key that nobody has guessed yet";
    let path = target_dir("hostile").join("asked.toml");
    let decides = "publish = \"backend\"\n[backend.publish]\nendpoint = \"http://127.0.0.1:9/\"\n";
    let config = CONFIG.replace("publish = \"anyone\"\n", decides);
    fs::write(&path, format!("{config}[tokens]\nhmac_secret = \"{secret}\"\n"))
        .expect("the target directory can be written to");
    let server = Server::start_with_config(&path, &[]);
    let address = server.listeners[1].strip_prefix("stomp://").expect("the listener of STOMP").parse();
    let token = hs256(&json!({"sub": "ann"}), secret);
    let frames = format!("CONNECT\naccept-version:1.2\npasscode:{token}\n\n\0SEND\ndestination:/topic/a#ann\n\nx\0");
    let received = exchange(address.expect("an address"), frames.as_bytes());
    // The application can't be reached, so it has not permitted it.
    assert!(received.contains("user-name:ann") && received.contains("message:no answer\n"), "{received:?}");
}

/// A host that has disappeared answers no bytes: the server sends some where the client has asked for no heart-beats.
#[test]
fn a_silent_client_of_tcp_is_probed() {
    let path = target_dir("hostile").join("silent.toml");
    fs::write(&path, CONFIG).expect("the target directory can be written to");
    let server = Server::start_with_config(&path, &["--ping-interval-ms", "200"]);
    let address = server.listeners[1].strip_prefix("stomp://").expect("the listener of STOMP").parse();
    let mut peer = connect(address.expect("an address"));
    peer.write_all(CONNECT.as_bytes()).expect("the server reads");
    let mut received = Vec::new();
    while !received.ends_with(b"\0\n\n") {
        let mut byte = [0];
        peer.read_exact(&mut byte).expect("ends of lines after CONNECTED");
        received.push(byte[0]);
    }
    assert!(received.starts_with(b"CONNECTED\n"));
}

/// The size of bodies is a setting, on TCP and on WebSockets.
#[test]
fn the_bound_of_a_body_is_a_setting() {
    let path = target_dir("hostile").join("body.toml");
    fs::write(&path, format!("{CONFIG}[stomp]\nmessage_bytes_max = 100000\n"))
        .expect("the target directory can be written to");
    let server = Server::start_with_config(&path, &[]);
    let mut reader = Peer::open(server.data, "/feed/news");
    let address = server.listeners[1].strip_prefix("stomp://").expect("the listener of STOMP").parse();
    let address = address.expect("an address");
    let send = |bytes: usize| format!("{CONNECT}SEND\ndestination:/topic/news\n\n{}\0", "x".repeat(bytes)).into_bytes();
    let mut peer = connect(address);
    peer.write_all(&send(100_000)).expect("the server reads");
    assert_eq!(reader.next_message().1.len(), 100_000);
    assert!(exchange(address, &send(100_001)).contains("the body is too large"));
    let mut peer = Peer::open(server.data, "/stomp");
    peer.send(&frame(FIN | TEXT, &send(100_000)));
    assert_eq!(reader.next_message().1.len(), 100_000);
}

/// The frame that precedes a publication, and the ids of the subscriptions that receive the publication.
type Step = (String, &'static [&'static str]);

/// Clients of all kinds share one topic, and change their subscriptions between publications: each subscription
/// receives each publication once, under its own id.
#[test]
fn subscriptions_with_shared_frames_receive_their_own_ids() {
    let (server, address) = start("labels.toml");
    let subscribe =
        |id: &str, more: &str| format!("SUBSCRIBE\nid:{id}\ndestination:/topic/news\n{more}receipt:r\n\n\0");
    let unsubscribe = |id: &str| format!("UNSUBSCRIBE\nid:{id}\nreceipt:r\n\n\0");
    let rows: [(&str, Vec<Step>); 6] = [
        ("1.2", vec![(subscribe("sub-0", ""), &["sub-0"]), (unsubscribe("sub-0"), &[]), (subscribe("1", ""), &["1"])]),
        (
            "1.2",
            vec![
                (subscribe("sub-0", ""), &["sub-0"]),
                (subscribe("sub-1", ""), &["sub-0", "sub-1"]),
                (unsubscribe("sub-0"), &["sub-1"]),
            ],
        ),
        ("1.1", vec![(subscribe("sub-0", ""), &["sub-0"]), (subscribe("1", "ack:client\n"), &["sub-0", "1"])]),
        ("1.2", vec![(subscribe("1", "ack:client\n"), &["1"]), (subscribe("2", ""), &["1", "2"])]),
        ("1.2", vec![(subscribe("a:b", ""), &["a\\cb"]), (unsubscribe("a:b"), &[])]),
        ("1.0", vec![(subscribe("7", ""), &["7"])]),
    ];
    let mut peers: Vec<TcpStream> = rows.iter().map(|_| connect(address)).collect();
    for (peer, (version, _)) in peers.iter_mut().zip(&rows) {
        peer.write_all(CONNECT.replace("1.2", version).as_bytes()).expect("the server reads");
        assert!(next_frame(peer).starts_with("CONNECTED\n"));
    }
    for step in 0..3 {
        for (peer, (_, steps)) in peers.iter_mut().zip(&rows) {
            let Some((frame, _)) = steps.get(step) else { continue };
            peer.write_all(frame.as_bytes()).expect("the server reads");
            assert_eq!(next_frame(peer), "RECEIPT\nreceipt-id:r\n\n", "{frame}");
        }
        let body = format!("publication {step}");
        http::post(server.control, "/publish/news?tag=place:a%3Ab", "text/plain", body.as_bytes());
        for (peer, (version, steps)) in peers.iter_mut().zip(&rows) {
            let (_, ids) = steps.get(step).or(steps.last()).expect("a step");
            for id in *ids {
                let frame = next_frame(peer);
                let place = if *version == "1.0" { "place:a:b" } else { "place:a\\cb" };
                for part in [&format!("\nsubscription:{id}\n"), &format!("\n{place}\n"), "\ndestination:/topic/news\n"]
                {
                    assert!(frame.starts_with("MESSAGE\n") && frame.contains(part), "{version} {id}: {frame}");
                }
                assert!(frame.ends_with(&body), "{version} {id} in step {step}: {frame}");
                assert_eq!(
                    frame.contains("\nack:"),
                    steps
                        .iter()
                        .any(|(frame, _)| { frame.contains("ack:client") && frame.contains(&format!("id:{id}\n")) })
                );
            }
        }
    }
    // Only shared frames leave without their connections' handlers: three, none, two.
    assert_eq!(total(&server, "ringfeed_fan_out_sends_total", ""), 5);
}

/// The next frame of the server, without the NUL.
fn next_frame(peer: &mut TcpStream) -> String {
    let mut frame = Vec::new();
    loop {
        let mut byte = [0];
        peer.read_exact(&mut byte).expect("a frame");
        match byte[0] {
            0 => return String::from_utf8(frame).expect("text"),
            byte => frame.push(byte),
        }
    }
}
