//! Conflation: a topic that changes 10,000 times a second, read by who looks at it now and then, by who takes so many
//! bytes a second, and by who takes all. What do the slow see, how old is it, and what does the server hold for them?
//!
//! `cargo bench --bench conflate` measures for half a minute; with `-- --record` it keeps what it printed. Without the
//! `--bench` that cargo adds it is over at once, and only the answers are checked.

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

/// Publications each millisecond.
const PER_MS: u64 = 10;

/// What the slow read at once, and how often: 20,000 bytes a second.
const SIP_BYTES: usize = 200;
const SIP_EVERY: Duration = Duration::from_millis(10);

/// How often somebody looks, and for how long.
const GLANCE_EVERY: Duration = Duration::from_millis(200);
const GLANCE: Duration = Duration::from_millis(10);

/// Bytes of a publication.
const PAYLOAD_BYTES: usize = 64;

/// At the end, who has seen nothing new for so long has not got the last one.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let mut record = Record::from_command_line("conflate");
    let duration = if record.measures { Duration::from_secs(30) } else { Duration::from_millis(300) };
    let namespace = Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() };
    let config = ServerConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        shards: 1,
        namespaces: Arc::new(Namespaces::new(namespace, Vec::new())),
        socket_notsent_bytes: 4096,
        // Nobody here answers pings.
        keep_alive: KeepAliveConfig { ping_interval_ms: 0, ..KeepAliveConfig::default() },
        ..ServerConfig::default()
    };
    let of_feed = config.namespaces.clone();
    let server = Server::builder(config).route("/feed/", move || Feed::new(of_feed.clone())).start();
    let Server { address, publisher, status, .. } = server.expect("the server starts");
    let metrics = &status.shards[0];

    let told = Arc::new(Told::default());
    let readers = [Pace::All, Pace::Glance, Pace::Sip].map(|pace| spawn(pace, address, &told));
    while metrics.subscriptions.get() < readers.len() as u64 {
        thread::yield_now();
    }
    let (mut publisher, memory) = publish(publisher, metrics, &told, duration);
    let views = readers.map(|reader| reader.join().expect("the reader has seen what it should"));
    report(&mut record, &views, &memory, metrics, told.published.load(Ordering::Relaxed));
    publisher.drain().expect("the queue has room");
    record.finish();
}

/// What readers are told beside the feed, to judge by.
#[derive(Default)]
struct Told {
    published: AtomicU64,
    is_over: AtomicBool,
}

/// How somebody reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pace {
    All,
    Glance,
    Sip,
}

/// What one reader has seen.
struct View {
    pace: Pace,
    messages: u64,
    /// How many newer ones there were already, of what it judges by: each message, or the last of each glance.
    newer: Vec<u64>,
}

/// What the server held, once in each hundredth of the run.
#[derive(Default)]
struct Memory {
    resident_bytes: Vec<u64>,
    outbox_bytes: Vec<u64>,
}

/// Publishes on schedule, each number once, and watches the server's memory.
fn publish(mut publisher: Publisher, metrics: &ShardMetrics, told: &Told, duration: Duration) -> (Publisher, Memory) {
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
                told.published.store(number, Ordering::Relaxed);
            }
        }
        if start.elapsed() > duration * memory.outbox_bytes.len() as u32 / 100 {
            memory.resident_bytes.push(resident_bytes());
            memory.outbox_bytes.push(metrics.outbox_bytes.get());
        }
        thread::sleep(Duration::from_millis(1));
    }
    told.is_over.store(true, Ordering::Release);
    (publisher, memory)
}

fn spawn(pace: Pace, server: SocketAddr, told: &Arc<Told>) -> JoinHandle<View> {
    let (reader, told) = (Reader::connect(server, pace), told.clone());
    thread::spawn(move || reader.live(&told))
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
            // So that its kernel takes little that it does not read.
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

    /// Reads at its pace until it has seen the last.
    fn live(mut self, told: &Told) -> View {
        let mut silent_since = Instant::now();
        loop {
            let before = self.last;
            match self.view.pace {
                Pace::All => self.look(Duration::from_millis(1)),
                Pace::Sip => {
                    thread::sleep(SIP_EVERY);
                    self.read(SIP_BYTES, told);
                }
                Pace::Glance => {
                    thread::sleep(GLANCE_EVERY);
                    self.look(GLANCE);
                    self.judge(told);
                }
            }
            if self.last != before {
                silent_since = Instant::now();
            }
            // Only then it is known which one is the last.
            if told.is_over.load(Ordering::Acquire) {
                if self.last.map(|last| last + 1) == Some(told.published.load(Ordering::Relaxed)) {
                    return self.view;
                }
                assert!(silent_since.elapsed() < PATIENCE, "{:?} has not got the last", self.view.pace);
            }
        }
    }

    /// Reads all that comes for so long.
    fn look(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            if !self.take(64 * 1024) {
                thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Reads so many bytes, and judges each message by what there is at that time.
    fn read(&mut self, bytes: usize, told: &Told) {
        let before = self.view.messages;
        self.take(bytes);
        if self.view.messages > before && !told.is_over.load(Ordering::Acquire) {
            self.judge(told);
        }
    }

    fn judge(&mut self, told: &Told) {
        let (Some(last), published) = (self.last, told.published.load(Ordering::Relaxed)) else { return };
        if !told.is_over.load(Ordering::Acquire) {
            self.view.newer.push(published.saturating_sub(last + 1));
        }
    }

    /// Reads once, at most so many bytes; whether anything was there.
    fn take(&mut self, bytes_max: usize) -> bool {
        let mut buffer = vec![0; bytes_max];
        let len = match self.stream.read(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("the connection ends: {error}"),
        };
        assert!(len > 0, "the server has closed");
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
    let status = std::fs::read_to_string("/proc/self/status").expect("the system tells of this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the size of this process");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") * 1024
}

fn report(record: &mut Record, views: &[View], memory: &Memory, metrics: &ShardMetrics, published: u64) {
    let seconds = published as f64 / (PER_MS * 1000) as f64;
    record.line(&format!("\n{published} publications of {PAYLOAD_BYTES} B in {seconds:.1} s; policy conflate"));
    record
        .line(&format!("{:<28} {:>10} {:>12}   newer by then, ms: median, p99, max", "reader", "messages", "a second"));
    for View { pace, messages, newer } in views {
        let name = match pace {
            Pace::All => "takes all",
            Pace::Glance => "looks five times a second",
            Pace::Sip => "takes 20,000 B a second",
        };
        let rate = *messages as f64 / seconds;
        record.line(&format!("{name:<28} {messages:>10} {rate:>12.0}   {}", ages(newer)));
    }
    let conflated = metrics.publications_conflated.get();
    let delivered: u64 = views.iter().map(|view| view.messages).sum();
    assert_eq!(delivered + conflated, published * views.len() as u64, "each is delivered, or counted as replaced");
    record.line(&format!("replaced by a newer one: {conflated}; with those delivered that is all of them"));
    assert_eq!(metrics.closed(CloseCause::SlowConsumer).get(), 0, "nobody is closed");
    let outbox_max = memory.outbox_bytes.iter().max().expect("it was looked at");
    record.line(&format!("waiting in the server, for all readers: at most {outbox_max} B when looked at"));
    let tenth = memory.resident_bytes.len() / 10;
    let (early, late) = (memory.resident_bytes[tenth], memory.resident_bytes[memory.resident_bytes.len() - 1]);
    let peak = memory.resident_bytes[tenth..].iter().max().expect("it was looked at");
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    record.line(&format!(
        "resident, server and readers in one process: {:.1} MB after a tenth, {:.1} MB at the end, {:.1} MB at most",
        megabytes(early),
        megabytes(late),
        megabytes(*peak),
    ));
}

/// Median, 99th percentile and maximum, as the time in which so many are published.
fn ages(newer: &[u64]) -> String {
    let mut sorted = newer.to_vec();
    sorted.sort_unstable();
    let at = |fraction: f64| {
        let index = (sorted.len().saturating_sub(1) as f64 * fraction).round() as usize;
        sorted.get(index).map_or("-".to_owned(), |count| format!("{:.1}", *count as f64 / PER_MS as f64))
    };
    format!("{}, {}, {}", at(0.5), at(0.99), at(1.0))
}
