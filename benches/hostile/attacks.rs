//! The attacks, one function each. The outcome is a status, a close code, or the way the stream ended.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use socket2::SockRef;

use crate::attack::{Attack, Target, ask};
use crate::peer::{BINARY, CONTINUATION, FIN, PING, RSV1, TEXT, frame, frame_header, upgrade_request};
use crate::support::token::hs256;

/// The key of tokens and of the control port, as in [`CONFIG`].
pub(crate) const KEY: &str = "a key that nobody has guessed yet";

/// The server's configuration, in addition to flags.
pub(crate) const CONFIG: &str = r#"
[centrifuge]
anonymous = true

[tokens]
hmac_secret = "a key that nobody has guessed yet"

[namespaces.default]
subscribe = "anyone"

[namespaces.private]
subscribe = "nobody"

[namespaces.kept]
history_size = 300
history = "anyone"
presence = true
presence_read = "anyone"

[api]
key = "a key that nobody has guessed yet"
"#;

/// Limits for a server that is open to the public, as in SECURITY.md.
const BOUNDED: &[&str] = &[
    "--messages-per-second-max",
    "1000",
    "--bytes-per-second-max",
    "1000000",
    "--handshakes-per-second",
    "1000",
    "--ping-interval-ms",
    "0",
];

/// Without rate limits.
const UNBOUNDED: &[&str] = &["--ping-interval-ms", "0"];

const DEFLATED: &[&str] = &["--deflate", "on", "--bytes-per-second-max", "1000000", "--ping-interval-ms", "0"];

pub(crate) const ATTACKS: &[Attack] = &[
    attack("elsewhere", BOUNDED, 2, elsewhere),
    attack("slow-handshakes", BOUNDED, 1, slow_handshakes),
    attack("giant-headers", BOUNDED, 4, giant_headers),
    attack("endless-fragments", BOUNDED, 4, endless_fragments),
    attack("lengths-of-64-bits", BOUNDED, 4, long_lengths),
    attack("ping-flood", BOUNDED, 4, ping_flood),
    attack("ping-flood-unbounded", UNBOUNDED, 1, ping_flood),
    attack("message-flood", BOUNDED, 4, message_flood),
    attack("message-flood-unbounded", UNBOUNDED, 1, message_flood),
    attack("large-message-flood-unbounded", UNBOUNDED, 1, large_message_flood),
    Attack { counterpart: Some("reader"), ..attack("reader-that-never-reads", UNBOUNDED, 1, never_reads) },
    attack("echo-never-read", UNBOUNDED, 4, echo_never_read),
    attack("half-open", BOUNDED, 4, half_open),
    attack("resets", BOUNDED, 4, reset),
    attack("topics-100000", BOUNDED, 4, many_topics),
    attack("topics-100000-unbounded", UNBOUNDED, 1, many_topics),
    attack("deep-json", BOUNDED, 4, deep_json),
    attack("huge-json", BOUNDED, 4, huge_json),
    attack("expired-tokens", BOUNDED, 4, expired_token),
    attack("replayed-tokens", BOUNDED, 4, replayed_token),
    attack("wrong-origin", BOUNDED, 4, wrong_origin),
    attack("path-tricks", BOUNDED, 4, path_tricks),
    attack("deflate-bombs", DEFLATED, 4, deflate_bomb),
    attack("urgent-bytes-in-requests", UNBOUNDED, 4, urgent_bytes_in_requests),
    attack("urgent-bytes-in-frames", UNBOUNDED, 4, urgent_bytes_in_frames),
    attack("history-flood", UNBOUNDED, 4, history_flood),
    attack("history-of-128-topics", UNBOUNDED, 4, history_of_many_topics),
    attack("topic-flood", UNBOUNDED, 4, topic_flood),
    attack("presence-flood", UNBOUNDED, 4, presence_flood),
    attack("subscribe-storm", UNBOUNDED, 4, subscribe_storm),
    attack("slow-control-clients", UNBOUNDED, 2, slow_control_clients),
];

/// The loads that run in place of an attack.
const COUNTERPARTS: &[Attack] = &[attack("reader", UNBOUNDED, 1, reads)];

const fn attack(
    name: &'static str,
    flags: &'static [&'static str],
    threads: usize,
    step: fn(&Target) -> String,
) -> Attack {
    Attack { name, flags, threads, step, counterpart: None }
}

pub(crate) fn find(name: &str) -> &'static Attack {
    let mut all = ATTACKS.iter().chain(COUNTERPARTS);
    all.find(|attack| attack.name == name).unwrap_or_else(|| panic!("there is no attack {name}"))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).expect("an option can be set");
    stream
}

/// An open WebSocket, or the status of the response.
fn open(target: &Target, path: &str) -> Result<TcpStream, String> {
    open_with(target, &upgrade_request(path))
}

fn open_with(target: &Target, request: &str) -> Result<TcpStream, String> {
    let mut stream = connect(target.data);
    stream.write_all(request.as_bytes()).map_err(|error| name(&error))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) => return Err("end".to_owned()),
            Err(error) => return Err(name(&error)),
        }
    }
    if head.starts_with(b"HTTP/1.1 101") { Ok(stream) } else { Err(status(&head)) }
}

fn name(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".to_owned(),
        kind => kind.to_string(),
    }
}

fn status(head: &[u8]) -> String {
    head.get(9..12).map_or_else(|| "end".to_owned(), |digits| String::from_utf8_lossy(digits).into_owned())
}

/// Sends `request`, and reads the status of the response.
fn request(target: &Target, request: &[u8]) -> String {
    let mut stream = connect(target.data);
    // A server that rejects a request need not read all of it.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    // If unread bytes remain, a reset follows the response.
    let _ = stream.read_to_end(&mut answer);
    status(&answer)
}

/// Sends `bytes` repeatedly while reading all received bytes. Returns the close code, or how else the connection ended.
fn flood(stream: TcpStream, bytes: &[u8]) -> String {
    thread::scope(|scope| {
        let mut sender = stream.try_clone().expect("a descriptor to spare");
        scope.spawn(move || while sender.write_all(bytes).is_ok() {});
        let end = read_close_code(&stream);
        let _ = stream.shutdown(Shutdown::Both);
        end
    })
}

/// Sends `bytes` once, and reads to the end.
fn send_once(mut stream: TcpStream, bytes: &[u8]) -> String {
    let _ = stream.write_all(bytes);
    read_close_code(&stream)
}

/// Reads frames to the end. Returns the code of the Close frame, if there was one.
fn read_close_code(mut stream: &TcpStream) -> String {
    let (mut input, mut chunk) = (Vec::new(), vec![0; 256 * 1024]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return "end".to_owned(),
            Ok(count) => input.extend_from_slice(&chunk[..count]),
            Err(error) => return name(&error),
        }
        let mut rest = &input[..];
        while let Some((first_byte, payload, after)) = next_frame(rest) {
            if first_byte == FIN | crate::peer::CLOSE {
                return payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code)).to_string();
            }
            rest = after;
        }
        let used = input.len() - rest.len();
        input.drain(..used);
    }
}

/// The first complete frame of `input`: its first byte, its payload, and the rest.
fn next_frame(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (start, length) = match *input.get(1)? {
        126 => (4, u16::from_be_bytes(*input.get(2..)?.first_chunk()?) as usize),
        127 => (10, u64::from_be_bytes(*input.get(2..)?.first_chunk()?) as usize),
        short => (2, usize::from(short)),
    };
    let payload = input.get(start..start + length)?;
    Some((input[0], payload, &input[start + length..]))
}

/// Sends bytes through the loopback device that do not reach the server.
fn elsewhere(_: &Target) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let sender = connect(listener.local_addr().expect("it is bound"));
    let (receiver, _) = listener.accept().expect("the sender has connected");
    flood_to(sender, receiver)
}

fn flood_to(mut sender: TcpStream, mut receiver: TcpStream) -> String {
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while receiver.read_exact(&mut chunk).is_ok() {}
        });
        let chunk = vec![0; 64 * 1024];
        for _ in 0..10_000 {
            sender.write_all(&chunk).expect("the receiver reads");
        }
    });
    "655 MB".to_owned()
}

/// A thousand connections that send a byte a second each, until the server closes one of them.
fn slow_handshakes(target: &Target) -> String {
    let mut crowd: Vec<TcpStream> = (0..1000).map(|_| connect(target.data)).collect();
    let request = upgrade_request("/echo");
    for byte in &request.as_bytes()[..request.len() - 1] {
        for stream in &mut crowd {
            if stream.write(&[*byte]).is_err() {
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                return status(&answer);
            }
            thread::sleep(Duration::from_micros(900));
        }
    }
    "all sent".to_owned()
}

fn giant_headers(target: &Target) -> String {
    let fields = format!("Host: localhost\r\n{}", "X: y\r\n".repeat(1 << 17));
    request(target, upgrade_request("/echo").replace("Host: localhost\r\n", &fields).as_bytes())
}

fn endless_fragments(target: &Target) -> String {
    let Ok(mut stream) = open(target, "/echo") else { return "refused".to_owned() };
    let _ = stream.write_all(&frame(BINARY, b""));
    flood(stream, &frame(CONTINUATION, b"x").repeat(10_000))
}

fn long_lengths(target: &Target) -> String {
    match open(target, "/echo") {
        Ok(stream) => send_once(stream, &frame_header(FIN | BINARY, (1 << 63) - 1)),
        Err(status) => status,
    }
}

fn ping_flood(target: &Target) -> String {
    match open(target, "/echo") {
        Ok(stream) => flood(stream, &frame(FIN | PING, b"are you there?").repeat(10_000)),
        Err(status) => status,
    }
}

fn message_flood(target: &Target) -> String {
    match open(target, "/echo") {
        Ok(stream) => flood(stream, &frame(FIN | TEXT, b"again and again").repeat(10_000)),
        Err(status) => status,
    }
}

fn large_message_flood(target: &Target) -> String {
    match open(target, "/echo") {
        Ok(stream) => flood(stream, &frame(FIN | BINARY, &vec![7; 1 << 20])),
        Err(status) => status,
    }
}

/// A hundred subscribers that never read, while 10 MB a second are published to them.
fn never_reads(target: &Target) -> String {
    let dead: Vec<_> = (0..100).map(|_| open(target, "/feed/ballast")).collect();
    publish_ballast(target);
    drop(dead);
    "a second of 100 stalled subscribers".to_owned()
}

/// The same with subscribers that read.
fn reads(target: &Target) -> String {
    let streams: Vec<_> = (0..100).filter_map(|_| open(target, "/feed/ballast").ok()).collect();
    thread::scope(|scope| {
        for stream in &streams {
            scope.spawn(move || read_close_code(stream));
        }
        publish_ballast(target);
        streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    });
    "a second of 100 subscribers".to_owned()
}

fn publish_ballast(target: &Target) {
    let payload = vec![b'x'; 10_000];
    for _ in 0..100 {
        ask(target.control, "POST /publish/ballast", &payload);
        thread::sleep(Duration::from_millis(9));
    }
}

/// Requests echoes and never reads one.
fn echo_never_read(target: &Target) -> String {
    let Ok(mut stream) = open(target, "/echo") else { return "refused".to_owned() };
    let message = frame(FIN | BINARY, &[7; 60_000]);
    loop {
        if let Err(error) = stream.write_all(&message) {
            return name(&error);
        }
    }
}

fn half_open(target: &Target) -> String {
    let mut stream = connect(target.data);
    let _ = stream.write_all(upgrade_request("/feed/a").as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    status(&answer)
}

fn reset(target: &Target) -> String {
    let mut stream = connect(target.data);
    let _ = stream.write_all(&upgrade_request("/feed/a").as_bytes()[..100]);
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option can be set");
    "left".to_owned()
}

/// A client of Centrifugo's protocol that connects and then sends these messages repeatedly.
fn commands(target: &Target, messages: &[u8]) -> String {
    let Ok(mut stream) = open(target, "/connection/websocket") else { return "refused".to_owned() };
    let _ = stream.write_all(&frame(FIN | TEXT, br#"{"id":1,"connect":{}}"#));
    flood(stream, messages)
}

fn many_topics(target: &Target) -> String {
    let commands: Vec<String> =
        (0..100_000).map(|topic| format!(r#"{{"id":{},"subscribe":{{"channel":"t{topic}"}}}}"#, topic + 2)).collect();
    let messages: Vec<u8> =
        commands.chunks(1000).flat_map(|some| frame(FIN | TEXT, some.join("\n").as_bytes())).collect();
    self::commands(target, &messages)
}

fn deep_json(target: &Target) -> String {
    commands(target, &frame(FIN | TEXT, &b"[".repeat(64 * 1024)))
}

fn huge_json(target: &Target) -> String {
    commands(target, &frame(FIN | TEXT, format!(r#"{{"id":2,"x":"{}"}}"#, "x".repeat(16 << 20)).as_bytes()))
}

/// Connects with an expired token, twice.
fn expired_token(target: &Target) -> String {
    let token = sign(&json!({"sub": "ann", "exp": now_s() - 1}));
    let connect = json!({"id": 1, "connect": {"token": token}}).to_string();
    match open(target, "/connection/websocket") {
        Ok(stream) => send_once(stream, &frame(FIN | TEXT, connect.as_bytes()).repeat(2)),
        Err(status) => status,
    }
}

/// Sends the subscription token of another user repeatedly.
fn replayed_token(target: &Target) -> String {
    let token = sign(&json!({"sub": "ann", "channel": "private:a"}));
    let subscribe = json!({"id": 2, "subscribe": {"channel": "private:a", "token": token}}).to_string();
    commands(target, &frame(FIN | TEXT, subscribe.as_bytes()).repeat(1000))
}

fn sign(claims: &serde_json::Value) -> String {
    hs256(claims, KEY)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs()
}

fn wrong_origin(target: &Target) -> String {
    let fields = "Host: localhost\r\nOrigin: https://evil.example\r\n";
    request(target, upgrade_request("/echo").replace("Host: localhost\r\n", fields).as_bytes())
}

fn path_tricks(target: &Target) -> String {
    request(target, upgrade_request("/feed/%2e%2e/secret").as_bytes())
}

/// Zeros that inflate to two hundred times their size, the largest ratio allowed.
fn deflate_bomb(target: &Target) -> String {
    let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    let bomb = deflated_zeros(15 << 20);
    match open_with(target, &upgrade_request("/feed/a").replace("\r\n\r\n", offer)) {
        Ok(stream) => flood(stream, &frame(FIN | RSV1 | BINARY, &bomb)),
        Err(status) => status,
    }
}

/// Connections of an attack with many.
const CROWD: usize = 60;

/// Duration of an attack without replies.
const A_WHILE: Duration = Duration::from_millis(500);

/// Sends each byte as urgent data on every connection.
fn send_urgently(crowd: &[TcpStream], bytes: &[u8]) {
    for byte in bytes {
        for stream in crowd {
            // The connection may have ended.
            let _ = SockRef::from(stream).send_out_of_band(&[*byte]);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Incomplete requests with every byte urgent.
fn urgent_bytes_in_requests(target: &Target) -> String {
    let crowd: Vec<TcpStream> = (0..CROWD).map(|_| connect(target.data)).collect();
    for mut stream in &crowd {
        let _ = stream.write_all(b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-Urgent: ");
    }
    send_urgently(&crowd, &[b'x'; 500]);
    "500 bytes on 60 connections".to_owned()
}

/// Pings with every byte urgent, one after the other.
fn urgent_bytes_in_frames(target: &Target) -> String {
    let crowd: Vec<TcpStream> = (0..CROWD).filter_map(|_| open(target, "/echo").ok()).collect();
    send_urgently(&crowd, &frame(FIN | PING, b"").repeat(80));
    "480 bytes on 60 connections".to_owned()
}

/// Publishes 10 MB to `kept:ballast`, once; and 1 MB to each of `channels`, if there are any.
fn fill_histories(target: &Target, channels: &'static [String]) {
    static IS_FILLED: OnceLock<()> = OnceLock::new();
    IS_FILLED.get_or_init(|| {
        let body = json!({"channels": channels, "data": "x".repeat(50_000)}).to_string();
        let rounds = if channels.len() == 1 { 200 } else { 20 };
        (0..rounds).for_each(|_| assert_eq!(ask(target.control, "POST /api/broadcast", body.as_bytes()).status, 200));
    });
}

/// A client of Centrifugo's protocol that sends requests repeatedly and never reads.
fn request_and_never_read(target: &Target, message: &str) -> String {
    let Ok(mut stream) = open(target, "/connection/websocket") else { return "refused".to_owned() };
    let _ = stream.write_all(&frame(FIN | TEXT, br#"{"id":1,"connect":{}}"#));
    stream.set_write_timeout(Some(A_WHILE)).expect("a timeout can be set");
    let message = frame(FIN | TEXT, message.as_bytes());
    loop {
        if let Err(error) = stream.write_all(&message) {
            return name(&error);
        }
    }
}

/// As many commands as fit into a few kilobytes.
fn batch(command: impl Fn(usize) -> String) -> String {
    (2..62).map(command).collect::<Vec<_>>().join("\n")
}

/// Requests a long history, sixty times in a message.
fn history_flood(target: &Target) -> String {
    static CHANNEL: OnceLock<[String; 1]> = OnceLock::new();
    fill_histories(target, CHANNEL.get_or_init(|| ["kept:ballast".to_owned()]));
    let history = |id| format!(r#"{{"id":{id},"history":{{"channel":"kept:ballast","limit":300}}}}"#);
    request_and_never_read(target, &batch(history))
}

/// One request for the histories of 128 topics, without reading the response.
fn history_of_many_topics(target: &Target) -> String {
    static CHANNELS: OnceLock<Vec<String>> = OnceLock::new();
    let channels = CHANNELS.get_or_init(|| (0..128).map(|number| format!("kept:{number}")).collect());
    fill_histories(target, channels);
    let path = format!("/feed/{}?history=300", channels.join(","));
    let crowd: Vec<TcpStream> = (0..10).map(|_| connect(target.data)).collect();
    for mut stream in &crowd {
        let _ = stream.write_all(upgrade_request(&path).as_bytes());
    }
    thread::sleep(A_WHILE);
    "10 readers of nothing".to_owned()
}

/// Unused topic names.
fn new_topics(count: usize) -> Vec<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let process = std::process::id();
    (0..count).map(|_| format!("{process}.{}", NEXT.fetch_add(1, Ordering::Relaxed))).collect()
}

/// Subscribes to as many new topics as a connection may, and disconnects.
fn topic_flood(target: &Target) -> String {
    match open(target, &format!("/feed/{}", new_topics(128).join(","))) {
        Ok(_) => "128 topics".to_owned(),
        Err(status) => status,
    }
}

/// Requests the presence of a topic with some hundred members, sixty times in a message.
fn presence_flood(target: &Target) -> String {
    static CROWD: OnceLock<Vec<TcpStream>> = OnceLock::new();
    CROWD.get_or_init(|| {
        let subscribe = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"kept:crowd\"}}";
        let join = || {
            let mut stream = open(target, "/connection/websocket").ok()?;
            stream.write_all(&frame(FIN | TEXT, subscribe.as_bytes())).ok()?;
            Some(stream)
        };
        (0..300).filter_map(|_| join()).collect()
    });
    request_and_never_read(target, &batch(|id| format!(r#"{{"id":{id},"presence":{{"channel":"kept:crowd"}}}}"#)))
}

/// Subscribes and unsubscribes repeatedly on a topic with presence.
fn subscribe_storm(target: &Target) -> String {
    let pair = |id| {
        let channel = format!("kept:storm{}", id % 20);
        format!(
            "{{\"id\":{id},\"subscribe\":{{\"channel\":\"{channel}\"}}}}\n\
             {{\"id\":{},\"unsubscribe\":{{\"channel\":\"{channel}\"}}}}",
            id + 100
        )
    };
    commands(target, &frame(FIN | TEXT, batch(pair).as_bytes()).repeat(100))
}

/// Clients of the control port without the key: some send nothing, some never read their responses.
fn slow_control_clients(target: &Target) -> String {
    let requests = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let crowd: Vec<TcpStream> = (0..200).map(|_| connect(target.control)).collect();
    for mut stream in crowd.iter().step_by(2) {
        let _ = stream.write_all(requests.as_bytes());
    }
    thread::sleep(A_WHILE);
    "200 connections".to_owned()
}

fn deflated_zeros(count: usize) -> Vec<u8> {
    let mut compressor = flate2::Compress::new(flate2::Compression::fast(), false);
    let mut out = Vec::with_capacity(count / 100 + 1000);
    compressor.compress_vec(&vec![0; count], &mut out, flate2::FlushCompress::Sync).expect("zeros can be compressed");
    out.truncate(out.len() - 4);
    out
}
