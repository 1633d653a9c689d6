//! Conflation: a topic that changes 10,000 times a second, with a reader that polls it at intervals, a reader with
//! limited bandwidth, and a reader that receives all messages. Measures the messages of the slow readers, their age,
//! and the memory that the server holds for them.
//!
//! `cargo bench --bench conflate` measures for half a minute; with `-- --record` it also records its output. Without
//! the `--bench` that cargo adds it ends at once, and only checks the results.

#[path = "support/record.rs"]
mod record;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringfeed::conn::{CloseCause, KeepAliveConfig};
use ringfeed::gateway::Feed;
use ringfeed::proto::{Decoder, Event, Role};
use ringfeed::server::{Publisher, Server, ServerConfig, ShardMetrics};
use ringfeed::topics::{Draft, Namespace, Namespaces, SlowConsumer, TopicName};
use socket2::{Domain, Socket, Type};

use record::Record;

/// Publications per millisecond.
const PER_MS: u64 = 10;

/// Bytes per read of the slow reader, and the interval of its reads: 20,000 bytes per second.
const SIP_BYTES: usize = 200;
const SIP_EVERY: Duration = Duration::from_millis(10);

/// Interval and duration of the polling reader's reads.
const GLANCE_EVERY: Duration = Duration::from_millis(200);
const GLANCE: Duration = Duration::from_millis(10);

/// Bytes per publication.
const PAYLOAD_BYTES: usize = 64;

/// At the end, a reader without a new message for this long has missed the last one.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let mut record = Record::from_command_line("conflate");
    let duration = if record.measures { Duration::from_secs(30) } else { Duration::from_millis(300) };
    let namespace = Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() };
    let config = ServerConfig {
        listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        shards: 1,
        namespaces: Arc::new(Namespaces::new(namespace, Vec::new())),
        socket_notsent_bytes: 4096,
        // The readers do not answer pings.
        keep_alive: KeepAliveConfig { ping_interval_ms: 0, ..KeepAliveConfig::default() },
        ..ServerConfig::default()
    };
    let of_feed = config.namespaces.clone();
    let server = Server::builder(config).route("/feed/", move || Feed::new(of_feed.clone())).start();
    let server = server.expect("the server starts");
    let address = server.address();
    let Server { publisher, status, .. } = server;
    let metrics = &status.shards[0];

    let state = Arc::new(PublisherState::default());
    let readers = [Pace::All, Pace::Glance, Pace::Sip].map(|pace| spawn(pace, address, &state));
    while metrics.subscriptions.get() < readers.len() as u64 {
        thread::yield_now();
    }
    let (publisher, memory) = publish(publisher, metrics, &state, duration);
    let views = readers.map(|reader| reader.join().expect("the reader receives the last publication"));
    report(&mut record, &views, &memory, metrics, state.published.load(Ordering::Relaxed));
    publisher.drain().expect("the queue has room");
    record.finish();
}

/// State of the publisher, which the readers compare their messages with.
#[derive(Default)]
struct PublisherState {
    published: AtomicU64,
    is_over: AtomicBool,
}

/// How a reader reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pace {
    All,
    Glance,
    Sip,
}

/// The messages of one reader.
struct View {
    pace: Pace,
    messages: u64,
    /// Number of newer publications at the time of a check: at each read with new messages, or at the end of each poll.
    newer: Vec<u64>,
}

/// Memory of the server, sampled a hundred times in a run.
#[derive(Default)]
struct Memory {
    resident_bytes: Vec<u64>,
    outbox_bytes: Vec<u64>,
}

/// Publishes each number once, on schedule, and samples the server's memory.
fn publish(
    publisher: Publisher,
    metrics: &ShardMetrics,
    state: &PublisherState,
    duration: Duration,
) -> (Publisher, Memory) {
    let topic = TopicName::new("price").expect("a topic's name");
    let (start, mut memory) = (Instant::now(), Memory::default());
    let mut number = 0;
    while start.elapsed() < duration {
        let due = start.elapsed().as_millis() as u64 * PER_MS;
        while number < due {
            let text = format!("{number:<PAYLOAD_BYTES$}");
            let draft = Draft::new(topic.clone(), true, text.into_bytes().into());
            if publisher.publish(draft).is_ok() {
                number += 1;
                state.published.store(number, Ordering::Relaxed);
            }
        }
        if start.elapsed() > duration * memory.outbox_bytes.len() as u32 / 100 {
            memory.resident_bytes.push(resident_bytes());
            memory.outbox_bytes.push(metrics.outbox_bytes.get());
        }
        thread::sleep(Duration::from_millis(1));
    }
    state.is_over.store(true, Ordering::Release);
    (publisher, memory)
}

fn spawn(pace: Pace, server: SocketAddr, state: &Arc<PublisherState>) -> JoinHandle<View> {
    let (reader, state) = (Reader::connect(server, pace), state.clone());
    thread::spawn(move || reader.live(&state))
}

/// A subscriber.
struct Reader {
    stream: TcpStream,
    decoder: Decoder,
    last: Option<u64>,
    view: View,
}

impl Reader {
    fn connect(server: SocketAddr, pace: Pace) -> Reader {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        if pace != Pace::All {
            // Keeps the kernel's buffer of unread bytes small.
            socket.set_recv_buffer_size(4096).expect("an option can be set");
        }
        socket.connect(&server.into()).expect("the server accepts");
        let mut stream = TcpStream::from(socket);
        let request = "GET /feed/price HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the server answers");
            head.extend(byte);
        }
        stream.set_nonblocking(true).expect("an option can be set");
        let view = View { pace, messages: 0, newer: Vec::new() };
        Reader { stream, decoder: Decoder::new(Role::Client, 1 << 20), last: None, view }
    }

    /// Reads at its pace until it has received the last publication.
    fn live(mut self, state: &PublisherState) -> View {
        let mut silent_since = Instant::now();
        loop {
            let before = self.last;
            match self.view.pace {
                Pace::All => self.look(Duration::from_millis(1)),
                Pace::Sip => {
                    thread::sleep(SIP_EVERY);
                    self.read(SIP_BYTES, state);
                }
                Pace::Glance => {
                    thread::sleep(GLANCE_EVERY);
                    self.look(GLANCE);
                    self.judge(state);
                }
            }
            if self.last != before {
                silent_since = Instant::now();
            }
            // The last publication is known only now.
            if state.is_over.load(Ordering::Acquire) {
                if self.last.map(|last| last + 1) == Some(state.published.load(Ordering::Relaxed)) {
                    return self.view;
                }
                assert!(
                    silent_since.elapsed() < PATIENCE,
                    "{:?} has not received the last publication",
                    self.view.pace
                );
            }
        }
    }

    /// Reads all received bytes for `time`.
    fn look(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            if !self.take(64 * 1024) {
                thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Reads at most `bytes`, and compares the newest message with the newest publication.
    fn read(&mut self, bytes: usize, state: &PublisherState) {
        let before = self.view.messages;
        self.take(bytes);
        if self.view.messages > before && !state.is_over.load(Ordering::Acquire) {
            self.judge(state);
        }
    }

    fn judge(&mut self, state: &PublisherState) {
        let (Some(last), published) = (self.last, state.published.load(Ordering::Relaxed)) else { return };
        if !state.is_over.load(Ordering::Acquire) {
            self.view.newer.push(published.saturating_sub(last + 1));
        }
    }

    /// Reads once, at most `bytes_max`. Returns whether any bytes were available.
    fn take(&mut self, bytes_max: usize) -> bool {
        let mut buffer = vec![0; bytes_max];
        let len = match self.stream.read(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("the connection failed: {error}"),
        };
        assert!(len > 0, "the server closed the connection");
        let mut input = &mut buffer[..len];
        while let Some(event) = self.decoder.decode(&mut input).expect("valid frames") {
            let Event::Message(message) = event else { continue };
            let text = std::str::from_utf8(message.payload).expect("text");
            let number = text.trim_end().parse().expect("a number");
            assert!(self.last.is_none_or(|last| last < number), "{number} after {:?}", self.last);
            self.last = Some(number);
            self.view.messages += 1;
        }
        true
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc has this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the status has the resident size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") * 1024
}

fn report(record: &mut Record, views: &[View], memory: &Memory, metrics: &ShardMetrics, published: u64) {
    let seconds = published as f64 / (PER_MS * 1000) as f64;
    record.line(&format!("\n{published} publications of {PAYLOAD_BYTES} B in {seconds:.1} s; policy conflate"));
    record
        .line(&format!("{:<28} {:>10} {:>12}   newer by then, ms: median, p99, max", "reader", "messages", "a second"));
    for View { pace, messages, newer } in views {
        let name = match pace {
            Pace::All => "reads all",
            Pace::Glance => "polls five times a second",
            Pace::Sip => "reads 20,000 B a second",
        };
        let rate = *messages as f64 / seconds;
        record.line(&format!("{name:<28} {messages:>10} {rate:>12.0}   {}", ages(newer)));
    }
    let conflated = metrics.publications_conflated.get();
    let delivered: u64 = views.iter().map(|view| view.messages).sum();
    assert_eq!(
        delivered + conflated,
        published * views.len() as u64,
        "each publication is delivered or counted as conflated"
    );
    record.line(&format!("conflated: {conflated}; together with the delivered messages, these are all publications"));
    assert_eq!(metrics.closed(CloseCause::SlowConsumer).get(), 0, "no reader is closed as slow");
    let outbox_max = memory.outbox_bytes.iter().max().expect("the memory was sampled");
    record.line(&format!("backlog in the server, for all readers: at most {outbox_max} B at the samples"));
    let tenth = memory.resident_bytes.len() / 10;
    let (early, late) = (memory.resident_bytes[tenth], memory.resident_bytes[memory.resident_bytes.len() - 1]);
    let peak = memory.resident_bytes[tenth..].iter().max().expect("the memory was sampled");
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    record.line(&format!(
        "resident, server and readers in one process: {:.1} MB after a tenth, {:.1} MB at the end, {:.1} MB at most",
        megabytes(early),
        megabytes(late),
        megabytes(*peak),
    ));
}

/// Median, 99th percentile and maximum, converted from publications to milliseconds.
fn ages(newer: &[u64]) -> String {
    let mut sorted = newer.to_vec();
    sorted.sort_unstable();
    let at = |fraction: f64| {
        let index = (sorted.len().saturating_sub(1) as f64 * fraction).round() as usize;
        sorted.get(index).map_or("-".to_owned(), |count| format!("{:.1}", *count as f64 / PER_MS as f64))
    };
    format!("{}, {}, {}", at(0.5), at(0.99), at(1.0))
}
