//! Who has got which publication, and what was wrong.
//!
//! Every subscriber gets the same bytes, so checking a delivery is one comparison with the publication that this
//! subscriber waits for. Only when they differ the payload's stamp is read, to name the fault.

use std::time::{Duration, Instant};

use crate::faults::Faults;
use crate::payload::{self, Stamp};
use crate::report::Latencies;
use crate::window::Window;

/// With deliveries awaited and none coming for so long, they are given up.
const STALL: Duration = Duration::from_secs(5);

/// What was published, who got it, and what was wrong.
pub(crate) struct Deliveries {
    start: Instant,
    pub(crate) window: Window,
    /// Subscribers that are still there.
    pub(crate) subscribers: u32,
    /// Position that each subscriber gets next; `None` once it is gone.
    next: Vec<Option<u64>>,
    /// Deliveries to each subscriber in the measured part.
    pub(crate) counts: Vec<u64>,
    pub(crate) latencies: Latencies,
    pub(crate) faults: Faults,
    /// When the last delivery or publication was made.
    last_progress_ns: u64,
}

impl Deliveries {
    pub(crate) fn new(subscribers: u32, one_publisher: bool) -> Deliveries {
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
    pub(crate) fn start_measuring(&mut self) {
        self.counts.fill(0);
        self.latencies.clear();
    }

    /// Nanoseconds since the start of the run.
    pub(crate) fn clock_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    pub(crate) fn publish(&mut self, payload: &[u8], intended_ns: u64) {
        if self.window.is_empty() {
            self.last_progress_ns = self.clock_ns();
        }
        self.window.push(payload, intended_ns, self.subscribers);
    }

    pub(crate) fn on_message(&mut self, subscriber: u32, payload: &[u8], now_ns: u64) {
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

    pub(crate) fn on_closed(&mut self, subscriber: u32, reason: &str) {
        self.faults.closed(subscriber, reason);
        self.abandon(subscriber);
    }

    /// Whether deliveries are awaited and none has come for a long time.
    pub(crate) fn is_stalled(&self) -> bool {
        let idle_ns = self.clock_ns().saturating_sub(self.last_progress_ns);
        !self.window.is_empty() && Duration::from_nanos(idle_ns) > STALL
    }

    /// Counts all that is awaited as missing.
    pub(crate) fn give_up(&mut self) {
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
