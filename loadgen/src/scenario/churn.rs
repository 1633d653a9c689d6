//! Subscribers of a feed leave and return all the time, as people do who open and close pages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::check::topics::Topics;
use crate::cli::ChurnOptions;
use crate::error::Error;
use crate::host::pin;
use crate::report::Outcome;
use crate::report::figure::Figure;
use crate::report::latency::Latencies;
use crate::scenario::feed::{self, Feed, Feeding};
use crate::scenario::pace::Pace;
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Incoming, Out, Ready, Sink, TURN};

/// Delay before checking again whether a number is free.
const RETRY: Duration = Duration::from_millis(1);

/// Runs the scenario.
///
/// # Errors
/// If the server is unreachable or refuses the connections, or this host's limits are too low.
pub(crate) fn run(options: &ChurnOptions) -> Result<Outcome, Error> {
    let ChurnOptions { common, publishing, connections, rate, leave_rate } = options;
    if publishing.publishers > 1 {
        return Err(Error::new(
            "the order of several publishers is unknown to a joining subscriber: use --publishers 1",
        ));
    }
    pin::to_cpu(common.cpu_of(0))?;
    let topics = Arc::new(Topics::one(&common.connect.topic, *connections));
    let mut run = Run::start(common, feed::UNIT)?;
    let mut clients = Clients::new(common, Arc::clone(&topics), *connections, Some(publishing))?;
    let pace = Pace::new(Some(*rate), None);
    let feed = Feed::of_one(common, &clients, topics, *connections, publishing.publishers, pace, run.recorder())?;
    let mut churn = Churn::new(options, feed);
    clients.connect(0..*connections, &mut churn)?;
    clients.connect_publishers(&mut churn)?;
    churn.leaving.start(churn.feed.deliveries.recorder.now_ns());

    feed::run_for(&mut churn, common.warmup, &mut clients, &mut run);
    churn.start_measuring();
    run.start_measuring()?;
    feed::run_for(&mut churn, common.duration, &mut clients, &mut run);
    let figures = churn.figures();
    let load = format!("{rate} publications a second while {leave_rate} a second leave and return");
    feed::report(run, churn.feed, common, "churn", load, true, figures)
}

struct Churn {
    feed: Feed,
    connections: u32,
    /// Schedule of the departures.
    leaving: Pace,
    /// The next subscriber to leave.
    next: u32,
    is_there: Vec<bool>,
    /// Subscribers that have left and are to return.
    away: VecDeque<u32>,
    left: u64,
    returned: u64,
    /// Time from connecting to the confirmed subscription.
    returning: Latencies,
}

impl Churn {
    fn new(options: &ChurnOptions, feed: Feed) -> Churn {
        Churn {
            feed,
            connections: options.connections,
            leaving: Pace::new(Some(options.leave_rate), None),
            next: 0,
            is_there: vec![false; options.connections as usize],
            away: VecDeque::new(),
            left: 0,
            returned: 0,
            returning: Latencies::new(),
        }
    }

    fn start_measuring(&mut self) {
        self.feed.deliveries.start_measuring();
        (self.left, self.returned) = (0, 0);
        self.returning.clear();
    }

    fn leave_due(&mut self, clients: &mut Clients) {
        let now_ns = self.feed.deliveries.recorder.now_ns();
        while self.leaving.take_due(0, now_ns).is_some() {
            let client = self.next;
            self.next = (self.next + 1) % self.connections;
            if std::mem::take(&mut self.is_there[client as usize]) {
                self.feed.deliveries.leave(client);
                clients.leave(client);
                self.away.push_back(client);
                self.left += 1;
            }
        }
    }

    fn reconnect_away(&mut self, clients: &mut Clients) {
        while let Some(client) = self.away.front().copied().filter(|client| clients.is_free(*client)) {
            self.away.pop_front();
            if let Err(reason) = clients.open(client) {
                self.feed.deliveries.faults.closed(client, &reason);
            }
        }
    }

    fn figures(&self) -> Vec<Figure> {
        vec![
            Figure::new("left", self.left as f64, ""),
            Figure::new("returned", self.returned as f64, ""),
            Figure::new("subscribed after, p50", self.returning.quantile_us(0.5) / 1e3, "ms"),
            Figure::new("subscribed after, p99", self.returning.quantile_us(0.99) / 1e3, "ms"),
        ]
    }
}

impl Feeding for Churn {
    fn feed(&mut self) -> &mut Feed {
        &mut self.feed
    }

    fn on_turn(&mut self, clients: &mut Clients) -> Duration {
        self.leave_due(clients);
        self.reconnect_away(clients);
        let now_ns = self.feed.deliveries.recorder.now_ns();
        let next = self.leaving.next_due_in(0, now_ns).unwrap_or(TURN);
        if self.away.is_empty() { next } else { next.min(RETRY) }
    }
}

impl Sink for Churn {
    fn woken(&mut self) -> u64 {
        self.feed.deliveries.woken()
    }

    fn awaited(&self) -> u64 {
        self.feed.deliveries.awaited()
    }

    fn on_ready(&mut self, client: u32, ready: Ready, _now_ns: u64) {
        if client < self.connections {
            self.feed.deliveries.join(client);
            self.is_there[client as usize] = true;
            self.returned += 1;
            self.returning.record(ready.took.as_nanos() as u64);
        }
    }

    fn on_message(&mut self, client: u32, incoming: Incoming<'_>, _out: Out<'_>) {
        self.feed.deliveries.on_message(client, incoming.message, None, incoming.now_ns);
    }

    fn on_acknowledged(&mut self, latency_ns: u64, now_ns: u64) {
        self.feed.deliveries.on_acknowledged(latency_ns, now_ns);
    }

    fn on_refused(&mut self, topic: u32, number: u64, reason: &str) {
        self.feed.deliveries.on_refused(topic, number, reason);
    }

    fn on_closed(&mut self, client: u32, _was_ready: bool, reason: &str) {
        if client < self.connections {
            self.is_there[client as usize] = false;
            self.feed.deliveries.on_closed(client, reason);
        } else {
            self.feed.on_publisher_closed(reason);
        }
    }
}
