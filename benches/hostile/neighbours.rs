//! Neighbours: a client with round trips, and a subscriber of a feed with a publisher.
//!
//! They share a CPU with the attackers, which would otherwise have machines of their own. On a kernel without
//! preemption a ready thread waits until an attacker's system call ends, sometimes for milliseconds, so a latency
//! excludes the time in which its thread was ready but not running.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::attacks::KEY;
use crate::peer::{FIN, Peer, TEXT, frame};

/// Time between two round trips, and between two publications.
const PAUSE: Duration = Duration::from_millis(2);

/// Some latencies, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    pub(crate) fn add(&mut self, other: &Latencies) {
        self.0.extend_from_slice(&other.0);
        self.0.sort_unstable();
    }

    /// In microseconds.
    pub(crate) fn quantile(&self, fraction: f64) -> f64 {
        let index = ((self.0.len() - 1) as f64 * fraction).round() as usize;
        self.0[index] as f64 / 1000.0
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}, {:.0} µs", self.quantile(0.5), self.quantile(0.99))
    }
}

/// A clock that stops while its thread is ready but not running.
struct OwnClock {
    schedstat: File,
}

impl OwnClock {
    /// A clock for the calling thread.
    fn new() -> OwnClock {
        OwnClock { schedstat: File::open("/proc/thread-self/schedstat").expect("the kernel counts delays of threads") }
    }

    /// The total time in which the thread was ready but not running.
    fn delay(&self) -> Duration {
        let mut text = [0; 100];
        let len = self.schedstat.read_at(&mut text, 0).expect("the counts can be read");
        let fields = std::str::from_utf8(&text[..len]).expect("numbers").split_whitespace();
        Duration::from_nanos(fields.skip(1).find_map(|delay| delay.parse().ok()).expect("a second number"))
    }

    /// The adjusted time. Compare it only with other times of this clock.
    fn now(&self) -> Instant {
        Instant::now() - self.delay()
    }
}

/// A steady schedule, by its thread's own clock.
struct Pace {
    clock: OwnClock,
    next: Instant,
}

impl Pace {
    fn start() -> Pace {
        let clock = OwnClock::new();
        Pace { next: clock.now(), clock }
    }

    /// Waits for the next beat. Returns its delay: a slow server must not make the measurements less frequent.
    fn beat(&mut self) -> Duration {
        let (intended, now) = (self.next, self.clock.now());
        self.next += PAUSE;
        thread::sleep(intended.saturating_duration_since(now));
        now.saturating_duration_since(intended)
    }
}

/// The connections of the neighbours, which stay open as long as the server runs.
pub(crate) struct Neighbours {
    echo: Peer,
    publisher: Publisher,
    /// Scheduled times of publications.
    publish: Sender<Instant>,
    /// Latency of each publication.
    received: Receiver<u64>,
}

impl Neighbours {
    pub(crate) fn new(data: SocketAddr, control: SocketAddr) -> Neighbours {
        let mut subscriber = Peer::open(data, "/feed/load");
        let (publish, published) = channel::<Instant>();
        let (report, received) = channel();
        thread::spawn(move || {
            let clock = OwnClock::new();
            let mut delay_before = clock.delay();
            while let Some(message) = subscriber.next_frame() {
                assert_eq!(message.first_byte, FIN | TEXT);
                let start = published.recv().expect("it was published");
                let (took, delay) = (start.elapsed(), clock.delay());
                // The thread slept until this publication woke it, so its delay belongs to this one.
                let latency = took.saturating_sub(delay - delay_before);
                report.send(latency.as_nanos() as u64).expect("the receiver is open");
                delay_before = delay;
            }
        });
        Neighbours { echo: Peer::open(data, "/echo"), publisher: Publisher::new(control), publish, received }
    }

    /// Measures round trips, and the latency from a publication's request to its subscriber.
    pub(crate) fn measure(&mut self, duration: Duration) -> (Latencies, Latencies) {
        let Neighbours { echo, publisher, publish, received } = self;
        thread::scope(|scope| {
            let round_trips = scope.spawn(|| round_trips(echo, duration));
            let end = Instant::now() + duration;
            let (mut pace, mut count) = (Pace::start(), 0);
            while Instant::now() < end {
                let late = pace.beat();
                publish.send(Instant::now() - late).expect("there is a subscriber");
                publisher.publish();
                count += 1;
            }
            let feed = received.iter().take(count).collect();
            (round_trips.join().expect("echoes come back"), Latencies(feed).sorted())
        })
    }
}

impl Latencies {
    fn sorted(mut self) -> Latencies {
        self.0.sort_unstable();
        self
    }
}

fn round_trips(peer: &mut Peer, duration: Duration) -> Latencies {
    let message = frame(FIN | TEXT, b"a round trip message");
    let end = Instant::now() + duration;
    let (mut pace, mut latencies) = (Pace::start(), Vec::new());
    while Instant::now() < end {
        let (late, start) = (pace.beat(), pace.clock.now());
        peer.send(&message);
        assert_eq!(peer.next_frame().expect("an echo").first_byte, FIN | TEXT);
        latencies.push((late + (pace.clock.now() - start)).as_nanos() as u64);
    }
    Latencies(latencies).sorted()
}

/// A persistent connection to the control port.
struct Publisher {
    stream: TcpStream,
    request: String,
    answer: Vec<u8>,
}

impl Publisher {
    fn new(control: SocketAddr) -> Publisher {
        let stream = TcpStream::connect(control).expect("the server accepts");
        stream.set_nodelay(true).expect("an option can be set");
        let body = "what is new?";
        let length = body.len();
        let request = format!(
            "POST /publish/load HTTP/1.1\r\nHost: {control}\r\nX-API-Key: {KEY}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        Publisher { stream, request, answer: Vec::new() }
    }

    fn publish(&mut self) {
        self.stream.write_all(self.request.as_bytes()).expect("the server reads");
        self.answer.clear();
        // The body of the response is one JSON object.
        while !self.answer.trim_ascii_end().ends_with(b"}") {
            let mut chunk = [0; 1024];
            let count = self.stream.read(&mut chunk).expect("an answer");
            assert!(count > 0, "the server has closed the connection");
            self.answer.extend_from_slice(&chunk[..count]);
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200 "), "{}", self.answer.escape_ascii());
    }
}
