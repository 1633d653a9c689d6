//! Events for an application that fails a third of the time, or is gone.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use ring::hmac;
use serde_json::{Value, json};

use crate::json::{read_reply, send_command};
use crate::metrics::{await_that, total};
use crate::peer::Peer;
use crate::start;
use crate::support::http;
use crate::support::server::Server;
use crate::support::target_dir;

const SECRET: &str = "shared with the application";

/// The events of all requests that were answered with 200, in order.
type Received = Arc<Mutex<Vec<Value>>>;

/// An application that answers every third request with 500, or breaks its connection.
fn application() -> (SocketAddr, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (received, count) = (Received::default(), Arc::new(Mutex::new(0)));
    let events = received.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (events, count) = (events.clone(), count.clone());
            thread::spawn(move || serve(BufReader::new(stream), &events, &count));
        }
    });
    (address, received)
}

fn serve(mut reader: BufReader<TcpStream>, events: &Received, count: &Mutex<u32>) -> Option<()> {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mut body = vec![0; field("content-length:")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        assert!(is_signed(field("x-ringfeed-signature:").expect("a signature"), &body), "{head}");
        let mut count = count.lock().expect("nobody panics with the lock");
        *count += 1;
        let status = match *count % 6 {
            3 => return None,
            0 => "500 Sorry",
            _ => "200 OK",
        };
        if status == "200 OK" {
            let batch: Value = serde_json::from_slice(&body).expect("JSON");
            events
                .lock()
                .expect("nobody panics with the lock")
                .extend(batch["events"].as_array().expect("a list").clone());
        }
        write!(reader.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").ok()?;
    }
}

fn is_signed(signature: &str, body: &[u8]) -> bool {
    let (time, digits) =
        signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).expect("time and digest");
    let signed = [time.as_bytes(), b".", body].concat();
    let digest: Vec<u8> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits"))
        .collect();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), &signed, &digest).is_ok()
}

fn server(name: &str, endpoint: SocketAddr, more: &str) -> Server {
    let config = format!(
        "[centrifuge]\nanonymous = true\n[namespaces.default]\npresence = true\n\
         [events]\nendpoint = \"http://{endpoint}/events\"\nsecret = \"{SECRET}\"\n{more}\n"
    );
    let file = target_dir("hostile").join(name);
    fs::write(&file, config).expect("the target directory can be written to");
    start(&["--echo", "--config", file.to_str().expect("a path of UTF-8")])
}

fn visit(address: SocketAddr, channel: &str) {
    let mut peer = Peer::open(address, "/connection/websocket");
    send_command(&mut peer, &json!({"id": 1, "connect": {}}));
    assert!(read_reply(&mut peer)["connect"].is_object());
    send_command(&mut peer, &json!({"id": 2, "subscribe": {"channel": channel}}));
    assert!(read_reply(&mut peer)["subscribe"].is_object());
}

fn count(server: &Server, name: &str) -> u64 {
    let scrape = http::get(server.control, "/metrics");
    let row = scrape.text().lines().find_map(|row| row.strip_prefix(&format!("{name} ")).map(str::to_owned));
    row.unwrap_or_else(|| panic!("no metric {name}")).parse().expect("a number")
}

#[test]
fn a_reload_keeps_events_coming() {
    const VISITS: u64 = 20;
    let (address, _) = application();
    let server = server("reloaded.toml", address, "");
    assert_eq!(http::post(server.control, "/reload", "text/plain", b"").status, 200);
    (0..VISITS).for_each(|visits| visit(server.data, &format!("t{visits}")));
    for kind in ["disconnected", "vacated"] {
        let label = format!("type=\"{kind}\"");
        await_that(kind, || total(&server, "ringfeed_events_total", &label) == VISITS);
    }
}

#[test]
fn each_event_arrives_at_least_once_and_in_order_though_a_third_of_the_requests_fail() {
    const THREADS: usize = 8;
    const VISITS: usize = 150;
    let (address, received) = application();
    let server = server("events.toml", address, "batch_max = 50\ntimeout_ms = 60000");
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let address = server.data;
            scope.spawn(move || (0..VISITS).for_each(|visits| visit(address, &format!("t{}", (thread + visits) % 5))));
        }
    });
    // Of each client: connected, subscribed, member added; member removed, unsubscribed, disconnected.
    let of_clients = 6 * THREADS * VISITS;
    let events = || received.lock().expect("nobody panics with the lock").clone();
    await_that("all clients have gone", || {
        total(&server, "ringfeed_events_total", "type=\"disconnected\"") as usize == THREADS * VISITS
    });
    await_that("all events are taken", || count(&server, "ringfeed_events_queued") == 0);
    assert!(count(&server, "ringfeed_event_posts_failed_total") > 0);
    assert_eq!(total(&server, "ringfeed_events_dropped_total", ""), 0);
    let events = events();
    let sequences: HashSet<u64> = events.iter().filter_map(|event| event["sequence"].as_u64()).collect();
    assert_eq!(sequences.len() as u64, total(&server, "ringfeed_events_total", ""), "each event, once or more often");
    assert!(events.windows(2).all(|pair| pair[0]["sequence"].as_u64() < pair[1]["sequence"].as_u64()), "in order");
    let mut clients: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut channels: HashMap<&str, Vec<&str>> = HashMap::new();
    for event in &events {
        let kind = event["type"].as_str().expect("a type");
        match (kind, event["client"].as_str(), event["channel"].as_str()) {
            ("occupied" | "vacated", _, Some(channel)) => channels.entry(channel).or_default().push(kind),
            (_, Some(client), _) => clients.entry(client).or_default().push(kind),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(clients.values().map(Vec::len).sum::<usize>(), of_clients);
    for kinds in clients.values() {
        let own = |kinds: &[&'static str]| kinds.to_vec();
        let without_members: Vec<&str> = kinds.iter().copied().filter(|kind| !kind.starts_with("member")).collect();
        assert_eq!(without_members, own(&["connected", "subscribed", "unsubscribed", "disconnected"]));
        let members: Vec<&str> = kinds.iter().copied().filter(|kind| kind.starts_with("member")).collect();
        assert_eq!(members, own(&["member_added", "member_removed"]));
    }
    assert_eq!(channels.len(), 5);
    for kinds in channels.values() {
        let alternate = ["occupied", "vacated"].into_iter().cycle().take(kinds.len());
        assert!(kinds.iter().copied().eq(alternate) && kinds.len().is_multiple_of(2), "{kinds:?}");
    }
    let reasons: HashSet<&str> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
    assert_eq!(reasons, HashSet::from(["peer_lost"]));
}

#[test]
fn events_for_an_application_that_is_gone_are_dropped_at_the_bound_and_counted() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let server = server("gone-events.toml", gone, "queue_max = 20\ngive_up_ms = 86400000\ntypes = [\"connected\"]");
    let mut neighbour = Peer::open(server.data, "/echo");
    (0..50).for_each(|_| visit(server.data, "a"));
    neighbour.expect_echo("undisturbed");
    assert_eq!(total(&server, "ringfeed_events_total", ""), 50, "only those of the types that are named");
    assert_eq!(total(&server, "ringfeed_events_dropped_total", "reason=\"full\""), 30);
    assert_eq!(count(&server, "ringfeed_events_queued"), 20);
}

#[test]
fn events_that_are_too_old_are_dropped_and_counted() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let server = server("old-events.toml", gone, "give_up_ms = 1\ntypes = [\"disconnected\"]");
    visit(server.data, "a");
    await_that("the event is dropped", || total(&server, "ringfeed_events_dropped_total", "reason=\"expired\"") == 1);
    assert_eq!(count(&server, "ringfeed_events_queued"), 0);
}
