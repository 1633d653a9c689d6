//! Few publishers, many subscribers: every publication must reach every subscriber once, in order and unchanged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfeed::proto::{DeflateParams, Message};

use crate::cli::FanoutOptions;
use crate::clients::{Audience, Clients, Out, TURN};
use crate::deliveries::Deliveries;
use crate::error::Error;
use crate::figure::Figure;
use crate::pace::Pace;
use crate::payload::{self, Stamp};
use crate::pin;
use crate::report::{Meter, Outcome, Report};
use crate::topics::Topics;

/// Runs the scenario.
///
/// # Errors
/// If it can't be set up: the server is not there, refuses, or this host's limits are too low.
pub(crate) fn run(options: &FanoutOptions) -> Result<Report, Error> {
    let common = &options.common;
    pin::to_cpu(common.cpu)?;
    let topics = Arc::new(Topics::one(&common.connect.topic, options.connections));
    let mut clients = Clients::new(common, topics, options.connections, Some(&options.publishing))?;
    let mut fanout = Fanout::new(options);
    clients.connect_publishers(&mut fanout)?;
    clients.connect(0..options.connections, &mut fanout)?;

    let pace = || options.rate.map_or(Pace::in_flight(options.in_flight), Pace::rate);
    fanout.run_for(common.warmup, pace(), &mut clients);
    fanout.deliveries.start_measuring();
    let published = fanout.deliveries.window.next_sequence();
    let meter = Meter::start(common.server_pid)?;
    fanout.run_for(common.duration, pace(), &mut clients);
    let cost = meter.stop()?;

    let Deliveries { window, counts, latencies, faults, .. } = fanout.deliveries;
    let published = window.next_sequence() - published;
    Ok(Report::new(Outcome {
        scenario: "fanout",
        url: common.url.to_string(),
        payload_bytes: common.size,
        load: match options.publishing.publishers {
            1 => format!("{} from one publisher", pace()),
            several => format!("{} from {several} publishers", pace()),
        },
        unit: "deliveries",
        counts,
        latencies,
        cost,
        figures: vec![Figure::new("publications", published as f64, "")],
        faults,
    }))
}

/// The run.
struct Fanout {
    publishers: u32,
    subscribers: u32,
    /// A publisher is gone, and with it messages that were to be published.
    publisher_ended: bool,
    payload: Vec<u8>,
    deliveries: Deliveries,
}

impl Fanout {
    fn new(options: &FanoutOptions) -> Fanout {
        let (subscribers, publishers) = (options.connections, options.publishing.publishers);
        let mut payload = vec![0; options.common.size as usize];
        payload::write(&mut payload, Stamp { sequence: 0, time_ns: 0 });
        Fanout {
            publishers,
            subscribers,
            publisher_ended: false,
            payload,
            deliveries: Deliveries::new(subscribers, publishers == 1),
        }
    }

    /// Publishes at this pace for `duration`, then waits until all of it has arrived.
    fn run_for(&mut self, duration: Duration, mut pace: Pace, clients: &mut Clients) {
        let end = Instant::now() + duration;
        pace.start(self.deliveries.clock_ns());
        loop {
            if self.deliveries.is_stalled() {
                return self.deliveries.give_up();
            }
            if self.publisher_ended || self.deliveries.subscribers == 0 {
                return self.deliveries.give_up();
            }
            if Instant::now() < end {
                self.publish_due(&mut pace, clients);
            } else if self.deliveries.window.is_empty() && clients.is_answered() {
                return;
            }
            let timeout = pace.next_due_in(self.deliveries.clock_ns()).map_or(TURN, |due| due.min(TURN));
            clients.turn(timeout, self);
        }
    }

    fn publish_due(&mut self, pace: &mut Pace, clients: &mut Clients) {
        let now_ns = self.deliveries.clock_ns();
        while let Some(intended_ns) = pace.take_due(self.deliveries.window.len(), now_ns) {
            let sequence = self.deliveries.window.next_sequence();
            payload::write_stamp(&mut self.payload, Stamp { sequence, time_ns: intended_ns });
            self.deliveries.publish(&self.payload, intended_ns);
            clients.publish((sequence % u64::from(self.publishers)) as u32, 0, &self.payload);
        }
    }
}

impl Audience for Fanout {
    fn woken(&mut self) -> u64 {
        self.deliveries.clock_ns()
    }

    fn on_ready(&mut self, _client: u32, _deflate: Option<DeflateParams>, _now_ns: u64) {}

    fn on_message(&mut self, client: u32, message: Message<'_>, now_ns: u64, _out: Out<'_>) {
        self.deliveries.on_message(client, message.payload, now_ns);
    }

    fn on_closed(&mut self, client: u32, _was_ready: bool, reason: &str) {
        if client < self.subscribers {
            self.deliveries.on_closed(client, reason);
        } else {
            self.publisher_ended = true;
            self.deliveries.faults.refused(reason);
        }
    }
}
