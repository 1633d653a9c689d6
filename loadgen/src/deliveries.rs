//! Who has got which publication, and what was wrong.
//!
//! Every subscriber gets the same bytes, so checking a delivery is one comparison with the publication that this
//! subscriber waits for. Only when they differ the payload's stamp is read, to name the fault.

use std::time::Duration;

use crate::cli::Tolerance;
use crate::faults::Faults;
use crate::payload::{self, Stamp};
use crate::recorder::{Recorder, Times};
use crate::window::Window;

/// What was published, who got it, and what was wrong.
pub(crate) struct Deliveries {
    pub(crate) window: Window,
    /// Subscribers that are still there.
    pub(crate) subscribers: u32,
    /// Position that each subscriber gets next; `None` once it is gone.
    next: Vec<Option<u64>>,
    /// Deliveries to each subscriber in the measured part.
    pub(crate) counts: Vec<u64>,
    pub(crate) recorder: Recorder,
    pub(crate) faults: Faults,
    /// With deliveries awaited and none coming for so long, they are given up.
    patience: Duration,
    /// When the last delivery or publication was made.
    last_progress_ns: u64,
}

impl Deliveries {
    pub(crate) fn new(subscribers: u32, one_publisher: bool, recorder: Recorder, tolerance: Tolerance) -> Deliveries {
        Deliveries {
            window: Window::new(one_publisher),
            subscribers,
            next: vec![Some(0); subscribers as usize],
            counts: vec![0; subscribers as usize],
            recorder,
            faults: Faults::new(tolerance.late),
            patience: tolerance.patience,
            last_progress_ns: 0,
        }
    }

    /// Forgets what the warm-up counted, but not its faults.
    pub(crate) fn start_measuring(&mut self) {
        self.counts.fill(0);
        self.recorder.start_measuring();
    }

    pub(crate) fn publish(&mut self, payload: &[u8], times: Times) {
        if self.window.is_empty() {
            self.last_progress_ns = self.recorder.now_ns();
        }
        self.window.push(payload, times, self.subscribers);
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
        let times = self.window.settle(position);
        self.recorder.received(times, now_ns);
        self.faults.took(subscriber, now_ns.saturating_sub(times.actual_ns));
        self.counts[subscriber as usize] += 1;
        self.next[subscriber as usize] = Some(position + 1);
        self.last_progress_ns = now_ns;
    }

    /// A message that had been taken for missing has come after all. Only its intended time is still known.
    fn deliver_behind(&mut self, subscriber: u32, times: Times, now_ns: u64) {
        self.recorder.received(times, now_ns);
        self.faults.took(subscriber, now_ns.saturating_sub(times.intended_ns));
        self.counts[subscriber as usize] += 1;
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
            (Some(Stamp { sequence, time_ns }), _) => {
                if self.faults.behind(subscriber, sequence) {
                    self.deliver_behind(subscriber, Times::now(time_ns), now_ns);
                }
            }
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
        let missing = self.abandon(subscriber);
        if missing > 0 {
            self.faults.given_up(subscriber, missing);
        }
    }

    /// A turn of the loop is over.
    pub(crate) fn turn_over(&mut self) {
        self.recorder.turn_over(self.subscribers.into(), self.faults.sum());
    }

    /// Whether nothing is awaited any more, nor may come behind later messages.
    pub(crate) fn is_settled(&mut self) -> bool {
        if self.faults.awaits_skipped() && self.is_idle_for_long() {
            self.faults.give_up_skipped();
        }
        self.window.is_empty() && !self.faults.awaits_skipped()
    }

    /// Whether deliveries are awaited and none has come for a long time.
    pub(crate) fn is_stalled(&self) -> bool {
        !self.window.is_empty() && self.is_idle_for_long()
    }

    fn is_idle_for_long(&self) -> bool {
        let idle_ns = self.recorder.now_ns().saturating_sub(self.last_progress_ns);
        Duration::from_nanos(idle_ns) > self.patience
    }

    /// Counts all that is awaited as missing. If it was awaited for too long, those who wait are stalled.
    pub(crate) fn give_up(&mut self) {
        let count = if self.is_stalled() { Faults::stalled } else { Faults::given_up };
        for subscriber in 0..self.next.len() as u32 {
            let missing = self.abandon(subscriber);
            if missing > 0 {
                count(&mut self.faults, subscriber, missing);
            }
        }
    }

    /// Waits no more for what `subscriber` has not got; how much that is.
    fn abandon(&mut self, subscriber: u32) -> u64 {
        let Some(next) = self.next[subscriber as usize].take() else { return 0 };
        self.subscribers -= 1;
        self.window.abandon(next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::faults::Counts;
    use crate::timeline::Timeline;

    /// Messages that take more than 500 ns are late.
    const TOLERANCE: Tolerance = Tolerance { late: Duration::from_nanos(500), patience: Duration::from_secs(5) };

    fn deliveries(tolerance: Tolerance) -> Deliveries {
        let timeline = Arc::new(Timeline::start(Duration::from_secs(1)));
        Deliveries::new(2, true, Recorder::new(timeline), tolerance)
    }

    fn message(sequence: u64) -> Vec<u8> {
        let mut payload = vec![0; 64];
        payload::write(&mut payload, Stamp { sequence, time_ns: sequence * 10 });
        payload
    }

    /// Two subscribers, `published` publications under way; subscriber 0 gets `received`.
    fn receive(published: u64, received: &[Vec<u8>]) -> Deliveries {
        let mut deliveries = deliveries(TOLERANCE);
        (0..published).for_each(|sequence| deliveries.publish(&message(sequence), Times::now(sequence * 10)));
        received.iter().for_each(|payload| deliveries.on_message(0, payload, 500));
        deliveries
    }

    #[test]
    fn in_order_and_once_is_right() {
        let mut deliveries = receive(3, &[message(0), message(1), message(2)]);
        assert_eq!((deliveries.window.len(), deliveries.counts[0]), (3, 3));
        (0..3).for_each(|sequence| deliveries.on_message(1, &message(sequence), 500));
        assert!(deliveries.window.is_empty() && deliveries.faults.sum() == 0);
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
            let Counts { missing, duplicate, reordered, corrupt, late, .. } = receive(3, &received).faults.counts();
            assert_eq!(([missing, duplicate, reordered, corrupt], late), (expected, 0), "{name}");
        }
    }

    #[test]
    fn what_a_closed_subscriber_has_not_got_is_missing_and_nobody_waits_for_it() {
        let mut deliveries = receive(3, &[message(0)]);
        deliveries.on_closed(0, "reset");
        assert_eq!((deliveries.faults.counts().text(), deliveries.subscribers), ("2 missing, 1 closed".to_owned(), 1));
        (0..3).for_each(|sequence| deliveries.on_message(1, &message(sequence), 500));
        assert!(deliveries.window.is_empty());
        deliveries.publish(&message(3), Times::now(30));
        deliveries.on_message(1, &message(3), 500);
        assert!(deliveries.window.is_empty());
    }

    #[test]
    fn giving_up_empties_the_window() {
        let mut deliveries = receive(2, &[message(0)]);
        deliveries.give_up();
        assert!(deliveries.window.is_empty());
        assert_eq!(deliveries.faults.counts().text(), "3 missing");
    }

    #[test]
    fn whoever_waits_for_longer_than_our_patience_is_stalled() {
        let mut deliveries = deliveries(Tolerance { patience: Duration::ZERO, ..TOLERANCE });
        assert!(!deliveries.is_stalled(), "nothing is awaited");
        deliveries.publish(&message(0), Times::now(0));
        deliveries.on_message(0, &message(0), 500);
        while !deliveries.is_stalled() {}
        deliveries.give_up();
        assert_eq!(deliveries.faults.counts().text(), "1 missing, 1 stalled");
    }

    #[test]
    fn late_is_what_took_too_long_after_it_was_sent_in_order_or_behind() {
        let mut deliveries = receive(2, &[]);
        deliveries.on_message(0, &message(1), 510);
        deliveries.on_message(0, &message(0), 510);
        deliveries.publish(&message(2), Times { intended_ns: 20, actual_ns: 400 });
        deliveries.on_message(0, &message(2), 900);
        assert_eq!(deliveries.faults.counts().text(), "1 reordered, 1 late");
        assert_eq!((deliveries.counts[0], deliveries.recorder.recorded.corrected.count()), (3, 3));
    }
}
