//! Few publishers, many subscribers: every publication must reach every subscriber once, in order and unchanged.
//!
//! Every subscriber gets the same bytes, so checking a delivery is one comparison with the publication that this
//! subscriber waits for. Only when they differ the payload's stamp is read, to name the fault.

use std::time::{Duration, Instant};

use ringfeed::proto::{Decoder, Inflater};

use crate::cli::FanoutOptions;
use crate::connect;
use crate::error::Error;
use crate::faults::Faults;
use crate::frames;
use crate::masking_keys::MaskingKeys;
use crate::pace::Pace;
use crate::payload::{self, Stamp};
use crate::pin;
use crate::publisher::Publisher;
use crate::report::{Latencies, Meter, Outcome, Report};
use crate::sockets::{Observer, Sockets};
use crate::window::Window;

/// With deliveries awaited and none coming for so long, they are given up.
const STALL: Duration = Duration::from_secs(5);

/// The longest wait of one turn.
const TURN: Duration = Duration::from_millis(100);

/// Runs the scenario.
///
/// # Errors
/// If it can't be set up: the server is not there, refuses, or this host's limits are too low.
pub(crate) fn run(options: &FanoutOptions) -> Result<Report, Error> {
    let common = &options.common;
    pin::to_cpu(common.cpu)?;
    let subscribers = options.connections;
    let mut keys = MaskingKeys::new();
    let publishers = (0..options.publishers).map(|_| Publisher::connect(&options.publish, &mut keys));
    let (publishers, publishing): (Vec<_>, Vec<_>) = publishers.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let mut sockets = Sockets::new(subscribers + options.publishers)?;
    let mut fanout = Fanout::new(publishers, options, keys);
    for index in 0..subscribers {
        let connected = connect::web_socket(&common.url, index, common.deflate, &mut fanout.keys)?;
        sockets.add(connected, &mut fanout)?;
    }
    publishing.into_iter().try_for_each(|connected| sockets.add(connected, &mut fanout))?;

    let pace = || options.rate.map_or(Pace::in_flight(options.in_flight), Pace::rate);
    fanout.run_for(common.warmup, pace(), &mut sockets);
    fanout.deliveries.start_measuring();
    let meter = Meter::start(common.server_pid)?;
    fanout.run_for(common.duration, pace(), &mut sockets);
    let cost = meter.stop()?;

    let Deliveries { counts, latencies, faults, .. } = fanout.deliveries;
    Ok(Report::new(Outcome {
        scenario: "fanout",
        url: common.url.to_string(),
        payload_bytes: common.size,
        load: match options.publishers {
            1 => format!("{} from one publisher", pace()),
            several => format!("{} from {several} publishers", pace()),
        },
        unit: "deliveries",
        counts,
        latencies,
        cost,
        faults,
    }))
}

/// The run: subscribers are sockets 0 and up, publishers are the sockets after them.
struct Fanout {
    decoders: Vec<Decoder>,
    inflater: Inflater,
    publishers: Vec<Publisher>,
    /// A publisher is gone, and with it messages that were to be published.
    publisher_ended: bool,
    keys: MaskingKeys,
    payload: Vec<u8>,
    deliveries: Deliveries,
}

impl Fanout {
    fn new(publishers: Vec<Publisher>, options: &FanoutOptions, keys: MaskingKeys) -> Fanout {
        let (subscribers, common) = (options.connections, &options.common);
        let mut payload = vec![0; common.size as usize];
        payload::write(&mut payload, Stamp { sequence: 0, time_ns: 0 });
        Fanout {
            decoders: (0..subscribers).map(|_| frames::decoder(common.deflate)).collect(),
            inflater: Inflater::new(),
            deliveries: Deliveries::new(subscribers, publishers.len() == 1),
            publishers,
            publisher_ended: false,
            keys,
            payload,
        }
    }

    /// Publishes at this pace for `duration`, then waits until all of it has arrived.
    fn run_for(&mut self, duration: Duration, mut pace: Pace, sockets: &mut Sockets) {
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
                self.publish_due(&mut pace, sockets);
            } else if self.deliveries.window.is_empty() && self.publishers.iter().all(Publisher::is_answered) {
                return;
            }
            let timeout = pace.next_due_in(self.deliveries.clock_ns()).map_or(TURN, |due| due.min(TURN));
            sockets.turn(timeout, self);
        }
    }

    fn publish_due(&mut self, pace: &mut Pace, sockets: &mut Sockets) {
        let now_ns = self.deliveries.clock_ns();
        while let Some(intended_ns) = pace.take_due(self.deliveries.window.len(), now_ns) {
            let sequence = self.deliveries.window.next_sequence();
            payload::write_stamp(&mut self.payload, Stamp { sequence, time_ns: intended_ns });
            self.deliveries.publish(&self.payload, intended_ns);
            let publisher = (sequence % self.publishers.len() as u64) as usize;
            let out = sockets.out((self.decoders.len() + publisher) as u32);
            self.publishers[publisher].publish(&self.payload, out, &mut self.keys);
        }
    }
}

impl Observer for Fanout {
    fn on_bytes(&mut self, socket: u32, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(), String> {
        let now_ns = self.deliveries.clock_ns();
        let subscribers = self.decoders.len();
        match self.decoders.get_mut(socket as usize) {
            Some(decoder) => frames::read(decoder, &mut self.inflater, bytes, &mut self.keys, out, |message, _, _| {
                self.deliveries.on_message(socket, message.payload, now_ns);
            }),
            None => {
                let publisher = &mut self.publishers[socket as usize - subscribers];
                publisher.on_bytes(bytes, &mut self.inflater, out, &mut self.keys)
            }
        }
    }

    fn on_closed(&mut self, socket: u32, reason: &str) {
        if (socket as usize) < self.decoders.len() {
            self.deliveries.on_closed(socket, reason);
        } else {
            self.publisher_ended = true;
            self.deliveries.faults.refused(reason);
        }
    }
}

/// What was published, who got it, and what was wrong.
struct Deliveries {
    start: Instant,
    window: Window,
    /// Subscribers that are still there.
    subscribers: u32,
    /// Position that each subscriber gets next; `None` once it is gone.
    next: Vec<Option<u64>>,
    /// Deliveries to each subscriber in the measured part.
    counts: Vec<u64>,
    latencies: Latencies,
    faults: Faults,
    /// When the last delivery or publication was made.
    last_progress_ns: u64,
}

impl Deliveries {
    fn new(subscribers: u32, one_publisher: bool) -> Deliveries {
        Deliveries {
            start: Instant::now(),
            window: Window::new(one_publisher),
            subscribers,
            next: vec![Some(0); subscribers as usize],
            counts: vec![0; subscribers as usize],
            latencies: Latencies::new(),
            faults: Faults::default(),
            last_progress_ns: 0,
        }
    }

    /// Forgets what the warm-up counted, but not its faults.
    fn start_measuring(&mut self) {
        self.counts.fill(0);
        self.latencies.clear();
    }

    /// Nanoseconds since the start of the run.
    fn clock_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn publish(&mut self, payload: &[u8], intended_ns: u64) {
        if self.window.is_empty() {
            self.last_progress_ns = self.clock_ns();
        }
        self.window.push(payload, intended_ns, self.subscribers);
    }

    fn on_message(&mut self, subscriber: u32, payload: &[u8], now_ns: u64) {
        let Some(next) = self.next[subscriber as usize] else { return };
        if self.window.matches(next, payload) {
            self.deliver(subscriber, next, now_ns);
        } else {
            self.on_unexpected(subscriber, next, payload, now_ns);
        }
    }

    fn deliver(&mut self, subscriber: u32, position: u64, now_ns: u64) {
        let intended_ns = self.window.settle(position);
        self.latencies.record(now_ns.saturating_sub(intended_ns));
        self.counts[subscriber as usize] += 1;
        self.next[subscriber as usize] = Some(position + 1);
        self.last_progress_ns = now_ns;
    }

    /// Names what came instead of what is at position `next`.
    fn on_unexpected(&mut self, subscriber: u32, next: u64, payload: &[u8], now_ns: u64) {
        let stamp = payload::read(payload).filter(|stamp| stamp.sequence < self.window.next_sequence());
        match (stamp, self.window.find(payload)) {
            (_, Some(position)) if position >= next => {
                for skipped in next..position {
                    self.faults.skip(subscriber, self.window.sequence_at(skipped));
                    self.window.settle(skipped);
                }
                self.deliver(subscriber, position, now_ns);
            }
            (Some(Stamp { sequence, .. }), _) => self.faults.late(subscriber, sequence),
            (None, _) => {
                self.faults.corrupt(subscriber, payload);
                // If nothing is awaited, it came out of nowhere.
                if self.window.settle_unknown(next) {
                    self.next[subscriber as usize] = Some(next + 1);
                }
            }
        }
    }

    fn on_closed(&mut self, subscriber: u32, reason: &str) {
        self.faults.closed(subscriber, reason);
        self.abandon(subscriber);
    }

    /// Whether deliveries are awaited and none has come for a long time.
    fn is_stalled(&self) -> bool {
        let idle_ns = self.clock_ns().saturating_sub(self.last_progress_ns);
        !self.window.is_empty() && Duration::from_nanos(idle_ns) > STALL
    }

    /// Counts all that is awaited as missing.
    fn give_up(&mut self) {
        (0..self.next.len() as u32).for_each(|subscriber| self.abandon(subscriber));
    }

    /// Waits no more for what `subscriber` has not got.
    fn abandon(&mut self, subscriber: u32) {
        let Some(next) = self.next[subscriber as usize].take() else { return };
        self.subscribers -= 1;
        let missing = self.window.abandon(next);
        if missing > 0 {
            self.faults.given_up(subscriber, missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: u64) -> Vec<u8> {
        let mut payload = vec![0; 64];
        payload::write(&mut payload, Stamp { sequence, time_ns: sequence * 10 });
        payload
    }

    /// Two subscribers, `published` publications under way; subscriber 0 gets `received`.
    fn receive(published: u64, received: &[Vec<u8>]) -> Deliveries {
        let mut deliveries = Deliveries::new(2, true);
        (0..published).for_each(|sequence| deliveries.publish(&message(sequence), sequence * 10));
        received.iter().for_each(|payload| deliveries.on_message(0, payload, 1000));
        deliveries
    }

    #[test]
    fn in_order_and_once_is_right() {
        let mut deliveries = receive(3, &[message(0), message(1), message(2)]);
        assert_eq!((deliveries.window.len(), deliveries.counts[0]), (3, 3));
        (0..3).for_each(|sequence| deliveries.on_message(1, &message(sequence), 1000));
        assert!(deliveries.window.is_empty() && deliveries.faults.is_empty());
    }

    #[test]
    fn each_fault_gets_its_name() {
        let mut corrupt = message(0);
        corrupt[50] ^= 1;
        // name, received of three published; missing, duplicate, reordered, corrupt
        let table = [
            ("gap", vec![message(0), message(2)], [1, 0, 0, 0]),
            ("again", vec![message(0), message(0), message(1)], [0, 1, 0, 0]),
            ("swapped", vec![message(1), message(0), message(2)], [0, 0, 1, 0]),
            ("changed", vec![corrupt, message(1)], [0, 0, 0, 1]),
            ("not published yet", vec![message(0), message(3)], [0, 0, 0, 1]),
            ("cut", vec![message(0)[..20].to_vec(), message(1)], [0, 0, 0, 1]),
        ];
        for (name, received, expected) in table {
            let Faults { missing, duplicate, reordered, corrupt, .. } = receive(3, &received).faults;
            assert_eq!([missing, duplicate, reordered, corrupt], expected, "{name}");
        }
    }

    #[test]
    fn what_a_closed_subscriber_has_not_got_is_missing_and_nobody_waits_for_it() {
        let mut deliveries = receive(3, &[message(0)]);
        deliveries.on_closed(0, "reset");
        assert_eq!((deliveries.faults.missing, deliveries.faults.closed, deliveries.subscribers), (2, 1, 1));
        (0..3).for_each(|sequence| deliveries.on_message(1, &message(sequence), 1000));
        assert!(deliveries.window.is_empty());
        deliveries.publish(&message(3), 30);
        deliveries.on_message(1, &message(3), 1000);
        assert!(deliveries.window.is_empty());
    }

    #[test]
    fn giving_up_empties_the_window() {
        let mut deliveries = receive(2, &[message(0)]);
        deliveries.give_up();
        assert!(deliveries.window.is_empty());
        assert_eq!(deliveries.faults.missing, 3);
    }
}
