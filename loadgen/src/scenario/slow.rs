//! Some subscribers of a feed read slowly or not at all: phones in tunnels. Measures whether that delays the others,
//! and how the server treats the slow ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::check::topics::Topics;
use crate::cli::SlowOptions;
use crate::error::Error;
use crate::host::pin;
use crate::report::Outcome;
use crate::report::figure::Figure;
use crate::scenario::feed::{self, Feed, Feeding};
use crate::scenario::pace::Pace;
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Incoming, Out, Ready, Sink, TURN};
use crate::wire::sockets::Attention;

/// Interval of checks whether a slow subscriber is due to read.
const LOOK_NS: u64 = 10_000_000;

/// At the end, the slow subscribers read their backlog until nothing arrives for this long.
const QUIET: Duration = Duration::from_millis(500);

/// Runs the scenario.
///
/// # Errors
/// If the server is unreachable or refuses the connections, or this host's limits are too low.
pub(crate) fn run(options: &SlowOptions) -> Result<Outcome, Error> {
    let SlowOptions { common, publishing, connections, rate, .. } = options;
    pin::to_cpu(common.cpu_of(0))?;
    let slow = slow_count(options)?;
    let topics = Arc::new(Topics::one(&common.connect.topic, *connections));
    let mut run = Run::start(common, feed::UNIT)?;
    let mut clients = Clients::new(common, Arc::clone(&topics), *connections, Some(publishing))?;
    let pace = Pace::new(Some(*rate), None);
    let feed = Feed::of_one(common, &clients, topics, connections - slow, publishing.publishers, pace, run.recorder())?;
    let mut scenario = Slow::new(options, slow, feed);
    clients.connect(0..*connections, &mut scenario)?;
    clients.connect_publishers(&mut scenario)?;
    (connections - slow..*connections).for_each(|client| clients.attend(client, Attention::OnDemand));

    feed::run_for(&mut scenario, common.warmup, &mut clients, &mut run);
    scenario.feed.deliveries.start_measuring();
    run.start_measuring()?;
    feed::run_for(&mut scenario, common.duration, &mut clients, &mut run);
    scenario.feed.stop_recording();
    scenario.read_backlog(&mut clients);
    let figures = scenario.figures();
    let reading = match options.slow_read {
        0 => "do not read".to_owned(),
        bytes => format!("read {bytes} B/s"),
    };
    let load = format!("{rate} publications a second while {slow} {reading}");
    feed::report(run, scenario.feed, common, "slow", load, true, figures)
}

/// The number of slow subscribers: at least one, and not all.
fn slow_count(options: &SlowOptions) -> Result<u32, Error> {
    let slow = (f64::from(options.connections) * options.slow_share / 100.0).round().max(1.0) as u32;
    if slow >= options.connections {
        return Err(Error::new("all subscribers would be slow: lower --slow-share, or raise --connections"));
    }
    Ok(slow)
}

/// The fast subscribers have the first numbers, the slow ones the rest.
struct Slow {
    feed: Feed,
    quick: u32,
    connections: u32,
    /// Bytes per second that each slow subscriber reads.
    slow_read: u32,
    readers: Vec<Reader>,
    next_look_ns: u64,
    /// Why the server closed slow subscribers, and how often.
    ends: BTreeMap<String, u32>,
    last_heard: Instant,
}

/// A slow subscriber.
#[derive(Clone, Copy, Default)]
struct Reader {
    messages: u64,
    /// Payload bytes read so far, and the time by which they were due.
    bytes: u64,
    started_ns: Option<u64>,
}

impl Slow {
    fn new(options: &SlowOptions, slow: u32, feed: Feed) -> Slow {
        Slow {
            feed,
            quick: options.connections - slow,
            connections: options.connections,
            slow_read: options.slow_read,
            readers: vec![Reader::default(); slow as usize],
            next_look_ns: 0,
            ends: BTreeMap::new(),
            last_heard: Instant::now(),
        }
    }

    /// Reads once on each slow subscriber that is behind its rate.
    fn read_due(&mut self, clients: &mut Clients) {
        let now_ns = self.feed.deliveries.recorder.now_ns();
        if self.slow_read == 0 || now_ns < self.next_look_ns {
            return;
        }
        self.next_look_ns = now_ns + LOOK_NS;
        for (client, reader) in (self.quick..).zip(&mut self.readers) {
            let started_ns = *reader.started_ns.get_or_insert(now_ns);
            let allowed = u128::from(now_ns - started_ns) * u128::from(self.slow_read) / 1_000_000_000;
            if u128::from(reader.bytes) <= allowed {
                clients.read_once(client);
            }
        }
    }

    /// Reads the backlog of the slow subscribers, to see which messages the server kept or whether it closed them.
    fn read_backlog(&mut self, clients: &mut Clients) {
        (self.quick..self.connections).for_each(|client| clients.attend(client, Attention::Busy));
        let start = Instant::now();
        self.last_heard = start;
        while self.last_heard.elapsed() < QUIET && start.elapsed() < 10 * QUIET {
            clients.turn(TURN, self);
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let closed: u32 = self.ends.values().sum();
        let slow = self.readers.len() as u32;
        let messages: u64 = self.readers.iter().map(|reader| reader.messages).sum();
        let mut figures = vec![
            Figure::new("slow", f64::from(slow), ""),
            Figure::new("slow and still there", f64::from(slow - closed), ""),
            Figure::new("messages to each slow", messages as f64 / f64::from(slow), ""),
            Figure::new("publications", self.feed.published as f64, ""),
        ];
        let ends =
            self.ends.iter().map(|(reason, count)| Figure::new(format!("slow: {reason}"), f64::from(*count), ""));
        figures.extend(ends);
        figures
    }
}

impl Feeding for Slow {
    fn feed(&mut self) -> &mut Feed {
        &mut self.feed
    }

    fn on_turn(&mut self, clients: &mut Clients) -> Duration {
        self.read_due(clients);
        if self.slow_read == 0 { TURN } else { Duration::from_nanos(LOOK_NS) }
    }
}

impl Sink for Slow {
    fn woken(&mut self) -> u64 {
        self.feed.deliveries.woken()
    }

    fn awaited(&self) -> u64 {
        self.feed.deliveries.awaited()
    }

    fn on_ready(&mut self, client: u32, _ready: Ready, _now_ns: u64) {
        if client < self.quick {
            self.feed.deliveries.join(client);
        }
    }

    fn on_message(&mut self, client: u32, incoming: Incoming<'_>, _out: Out<'_>) {
        match client.checked_sub(self.quick) {
            None => self.feed.deliveries.on_message(client, incoming.message, None, incoming.now_ns),
            Some(index) => {
                let reader = &mut self.readers[index as usize];
                reader.messages += 1;
                reader.bytes += incoming.message.payload.len() as u64;
                self.last_heard = Instant::now();
            }
        }
    }

    fn on_acknowledged(&mut self, latency_ns: u64, now_ns: u64) {
        self.feed.deliveries.on_acknowledged(latency_ns, now_ns);
    }

    fn on_refused(&mut self, topic: u32, number: u64, reason: &str) {
        self.feed.deliveries.on_refused(topic, number, reason);
    }

    fn on_closed(&mut self, client: u32, _was_ready: bool, reason: &str) {
        if client < self.quick {
            self.feed.deliveries.on_closed(client, reason);
        } else if client < self.connections {
            *self.ends.entry(reason.to_owned()).or_default() += 1;
            self.last_heard = Instant::now();
        } else {
            self.feed.on_publisher_closed(reason);
        }
    }
}
