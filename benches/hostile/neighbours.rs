//! Neighbours: a client that has round trips, and a subscriber of a feed that somebody publishes to.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::peer::{FIN, Peer, TEXT, frame};

/// Between two round trips, and between two publications.
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

/// Beats at a steady pace.
struct Pace {
    next: Instant,
}

impl Pace {
    fn start() -> Pace {
        Pace { next: Instant::now() }
    }

    /// Waits for the next beat. From when a latency counts: now, or when the beat was if that is over already, so that
    /// who waits for a slow server does not measure less often.
    fn beat(&mut self) -> Instant {
        let intended = self.next;
        self.next += PAUSE;
        match intended.checked_duration_since(Instant::now()) {
            Some(rest) => {
                thread::sleep(rest);
                Instant::now()
            }
            None => intended,
        }
    }
}

/// Their connections, which stay for as long as the server does.
pub(crate) struct Neighbours {
    echo: Peer,
    publisher: Publisher,
    /// When what is published was, or was meant to be.
    publish: Sender<Instant>,
    /// How long each publication took.
    heard: Receiver<u64>,
}

impl Neighbours {
    pub(crate) fn new(data: SocketAddr, control: SocketAddr) -> Neighbours {
        let mut subscriber = Peer::open(data, "/feed/load");
        let (publish, published) = channel::<Instant>();
        let (hear, heard) = channel();
        thread::spawn(move || {
            while let Some(message) = subscriber.next_frame() {
                assert_eq!(message.first_byte, FIN | TEXT);
                let start = published.recv().expect("it was published");
                hear.send(start.elapsed().as_nanos() as u64).expect("somebody wants to know");
            }
        });
        Neighbours { echo: Peer::open(data, "/echo"), publisher: Publisher::new(control), publish, heard }
    }

    /// Round trips, and from a publication's request to its subscriber.
    pub(crate) fn measure(&mut self, duration: Duration) -> (Latencies, Latencies) {
        let Neighbours { echo, publisher, publish, heard } = self;
        thread::scope(|scope| {
            let round_trips = scope.spawn(|| round_trips(echo, duration));
            let end = Instant::now() + duration;
            let (mut pace, mut count) = (Pace::start(), 0);
            while Instant::now() < end {
                publish.send(pace.beat()).expect("there is a subscriber");
                publisher.publish();
                count += 1;
            }
            let feed = heard.iter().take(count).collect();
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
    let message = frame(FIN | TEXT, b"is anybody disturbed?");
    let end = Instant::now() + duration;
    let (mut pace, mut latencies) = (Pace::start(), Vec::new());
    while Instant::now() < end {
        let start = pace.beat();
        peer.send(&message);
        assert_eq!(peer.next_frame().expect("an echo").first_byte, FIN | TEXT);
        latencies.push(start.elapsed().as_nanos() as u64);
    }
    Latencies(latencies).sorted()
}

/// A connection to the control port that stays.
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
        let request =
            format!("POST /publish/load HTTP/1.1\r\nHost: {control}\r\nContent-Length: {length}\r\n\r\n{body}");
        Publisher { stream, request, answer: Vec::new() }
    }

    fn publish(&mut self) {
        self.stream.write_all(self.request.as_bytes()).expect("the server reads");
        self.answer.clear();
        // The answer's body is one JSON object.
        while !self.answer.trim_ascii_end().ends_with(b"}") {
            let mut chunk = [0; 1024];
            let count = self.stream.read(&mut chunk).expect("an answer");
            assert!(count > 0, "the server has closed the connection");
            self.answer.extend_from_slice(&chunk[..count]);
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200 "), "{}", self.answer.escape_ascii());
    }
}
