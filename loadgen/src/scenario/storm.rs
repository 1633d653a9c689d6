//! Many clients lose their connections at once and reconnect, while other subscribers stay: a server restarts behind a
//! proxy, or a network fails for a moment.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::check::topics::Topics;
use crate::cli::StormOptions;
use crate::error::Error;
use crate::host::pin;
use crate::report::Outcome;
use crate::report::figure::Figure;
use crate::report::latency::Latencies;
use crate::scenario::feed::{self, Feed, Feeding};
use crate::scenario::pace::Pace;
use crate::scenario::reconnect::Sdk;
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Incoming, Out, Ready, Sink, TURN};
use crate::wire::masking_keys::MaskingKeys;
use crate::wire::sockets::Attention;

/// Most connections opened before received data is processed again.
const OPENED_PER_TURN: usize = 64;

/// Most connections cut before received data is processed again: cutting a hundred thousand takes this host a second,
/// during which the watchers would not be read.
const CUT_PER_TURN: u32 = 256;

/// Delay before checking again whether a number is free.
const RETRY_NS: u64 = 1_000_000;

/// Longest time for the clients to reconnect beyond the requested duration.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the scenario.
///
/// # Errors
/// If the server is unreachable or refuses the connections, or this host's limits are too low.
pub(crate) fn run(options: &StormOptions) -> Result<Outcome, Error> {
    let StormOptions { common, publishing, connections: crowd, watchers, rate, .. } = options;
    pin::to_cpu(common.cpu_of(0))?;
    let topics = Arc::new(Topics::split(&common.connect.topic, *watchers, *crowd));
    let mut run = Run::start(common, feed::UNIT)?;
    let mut clients = Clients::new(common, Arc::clone(&topics), watchers + crowd, Some(publishing))?;
    let pace = Pace::new(Some(*rate), None);
    let feed = Feed::of_one(common, &clients, topics, *watchers, publishing.publishers, pace, run.recorder())?;
    let feed = feed.on_topics(1);
    let mut storm = Storm::new(options, feed);
    clients.listen_as(Attention::Busy);
    clients.connect(0..*watchers, &mut storm)?;
    clients.listen_as(Attention::Idle);
    clients.connect(*watchers..watchers + crowd, &mut storm)?;
    clients.connect_publishers(&mut storm)?;

    feed::run_for(&mut storm, common.warmup, &mut clients, &mut run);
    storm.feed.deliveries.start_measuring();
    run.start_measuring()?;
    feed::run_for(&mut storm, options.calm, &mut clients, &mut run);
    let calm = mem::replace(&mut storm.feed.deliveries.recorder.recorded.corrected, Latencies::new());
    storm.break_out();
    let end = Instant::now() + common.duration + PATIENCE;
    feed::run_for(&mut storm, common.duration, &mut clients, &mut run);
    while storm.has_disconnected() && !storm.feed.is_over() && Instant::now() < end {
        feed::run_for(&mut storm, Duration::from_millis(500), &mut clients, &mut run);
    }
    let figures = storm.figures(&calm);
    storm.feed.deliveries.recorder.recorded.corrected.merge(&calm);
    let load = format!("{rate} publications a second to {watchers} while {crowd} come back {}", options.reconnect);
    feed::report(run, storm.feed, common, "storm", load, true, figures)
}

/// Watchers have the first numbers, the crowd of reconnecting clients those after them.
struct Storm {
    feed: Feed,
    watchers: u32,
    crowd: u32,
    sdk: Sdk,
    keys: MaskingKeys,
    /// Start of the storm, once it has begun.
    since_ns: Option<u64>,
    /// The next client to cut; the end of the crowd when all are cut.
    cut_next: u32,
    /// Time of the next attempt, and its client.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    /// Failed attempts of each client of the crowd.
    failed: Vec<u32>,
    /// Time from the start of the storm until each client was back.
    away: Latencies,
    /// The longest of them.
    away_max_ns: u64,
    /// Duration of the successful attempts.
    handshakes: Latencies,
    back: u32,
    failures: u64,
    failure: Option<String>,
}

impl Storm {
    fn new(options: &StormOptions, feed: Feed) -> Storm {
        Storm {
            feed,
            watchers: options.watchers,
            crowd: options.connections,
            sdk: options.reconnect,
            keys: MaskingKeys::new(),
            since_ns: None,
            cut_next: options.watchers,
            due: BinaryHeap::new(),
            failed: vec![0; options.connections as usize],
            away: Latencies::new(),
            away_max_ns: 0,
            handshakes: Latencies::new(),
            back: 0,
            failures: 0,
            failure: None,
        }
    }

    /// Starts to cut the crowd, as fast as possible.
    fn break_out(&mut self) {
        self.since_ns = Some(self.feed.deliveries.recorder.now_ns());
    }

    /// Cuts some more of the crowd. Returns whether any are left.
    fn cut(&mut self, clients: &mut Clients) -> bool {
        let crowd_end = self.watchers + self.crowd;
        let end = match self.since_ns {
            Some(_) => crowd_end.min(self.cut_next + CUT_PER_TURN),
            None => self.cut_next,
        };
        let now_ns = self.feed.deliveries.recorder.now_ns();
        for client in self.cut_next..end {
            clients.vanish(client);
            self.plan(client, now_ns);
        }
        self.cut_next = end;
        self.since_ns.is_some() && end < crowd_end
    }

    fn plan(&mut self, client: u32, now_ns: u64) {
        let attempt = self.failed[(client - self.watchers) as usize];
        let pause = self.sdk.pause(attempt, u32::from_ne_bytes(self.keys.next()));
        self.due.push(Reverse((now_ns + pause.as_nanos() as u64, client)));
    }

    fn on_failure(&mut self, client: u32, reason: &str) {
        self.failures += 1;
        self.failure.get_or_insert_with(|| reason.to_owned());
        self.failed[(client - self.watchers) as usize] += 1;
        let now_ns = self.feed.deliveries.recorder.now_ns();
        self.plan(client, now_ns);
    }

    fn has_disconnected(&self) -> bool {
        self.back < self.crowd
    }

    fn open_due(&mut self, clients: &mut Clients) {
        let now_ns = self.feed.deliveries.recorder.now_ns();
        for _ in 0..OPENED_PER_TURN {
            let Some(Reverse((due_ns, client))) = self.due.peek().copied() else { return };
            if due_ns > now_ns {
                return;
            }
            self.due.pop();
            if !clients.is_free(client) {
                self.due.push(Reverse((now_ns + RETRY_NS, client)));
            } else if let Err(reason) = clients.open(client) {
                self.on_failure(client, &reason);
            }
        }
    }

    fn figures(&self, calm: &Latencies) -> Vec<Figure> {
        let during = &self.feed.deliveries.recorder.recorded.corrected;
        let ms = |latencies: &Latencies, share| latencies.quantile_us(share) / 1e3;
        let mut figures = vec![
            Figure::new("calm p50", ms(calm, 0.5), "ms"),
            Figure::new("calm p99", ms(calm, 0.99), "ms"),
            Figure::new("storm p50", ms(during, 0.5), "ms"),
            Figure::new("storm p99", ms(during, 0.99), "ms"),
            Figure::new("storm max", ms(during, 1.0), "ms"),
            Figure::new("back", f64::from(self.back), ""),
            Figure::new("not back", f64::from(self.crowd - self.back), ""),
            Figure::new("half back after", ms(&self.away, 0.5), "ms"),
            Figure::new("all back after", self.away_max_ns as f64 / 1e6, "ms"),
            Figure::new("handshake p50", ms(&self.handshakes, 0.5), "ms"),
            Figure::new("handshake p99", ms(&self.handshakes, 0.99), "ms"),
            Figure::new("failed attempts", self.failures as f64, ""),
        ];
        figures.extend(self.failure.iter().map(|reason| Figure::new(format!("first failure: {reason}"), 1.0, "")));
        figures
    }
}

impl Feeding for Storm {
    fn feed(&mut self) -> &mut Feed {
        &mut self.feed
    }

    fn on_turn(&mut self, clients: &mut Clients) -> Duration {
        if self.cut(clients) {
            return Duration::ZERO;
        }
        self.open_due(clients);
        let now_ns = self.feed.deliveries.recorder.now_ns();
        self.due.peek().map_or(TURN, |Reverse((due_ns, _))| Duration::from_nanos(due_ns.saturating_sub(now_ns)))
    }
}

impl Sink for Storm {
    fn woken(&mut self) -> u64 {
        self.feed.deliveries.woken()
    }

    fn awaited(&self) -> u64 {
        self.feed.deliveries.awaited()
    }

    fn on_ready(&mut self, client: u32, ready: Ready, now_ns: u64) {
        if client < self.watchers {
            self.feed.deliveries.join(client);
        } else if let Some(since_ns) = self.since_ns.filter(|_| client < self.watchers + self.crowd) {
            self.back += 1;
            self.away.record(now_ns - since_ns);
            self.away_max_ns = now_ns - since_ns;
            self.handshakes.record(ready.took.as_nanos() as u64);
        }
    }

    fn on_message(&mut self, client: u32, incoming: Incoming<'_>, _out: Out<'_>) {
        if client < self.watchers {
            self.feed.deliveries.on_message(client, incoming.message, None, incoming.now_ns);
        }
    }

    fn on_acknowledged(&mut self, latency_ns: u64, now_ns: u64) {
        self.feed.deliveries.on_acknowledged(latency_ns, now_ns);
    }

    fn on_refused(&mut self, topic: u32, number: u64, reason: &str) {
        self.feed.deliveries.on_refused(topic, number, reason);
    }

    fn on_closed(&mut self, client: u32, was_ready: bool, reason: &str) {
        if client < self.watchers {
            self.feed.deliveries.on_closed(client, reason);
        } else if client >= self.watchers + self.crowd {
            self.feed.on_publisher_closed(reason);
        } else if self.since_ns.is_some() && client < self.cut_next {
            self.back -= u32::from(was_ready);
            self.on_failure(client, reason);
        } else {
            self.feed.deliveries.faults.closed(client, reason);
        }
    }
}
