//! Subscribers that connect and leave by the stages of a plan, at one worker.

use std::ops::Range;
use std::time::Duration;

use crate::check::deliveries::Deliveries;
use crate::scenario::curve::Curve;
use crate::wire::clients::{Clients, TURN};

/// Time between two looks at the stages.
const LOOK_NS: u64 = 10_000_000;

/// Most connections opened or closed before received data is processed again.
const CHANGES_PER_TURN: u32 = 64;

/// The subscribers of one worker.
pub(crate) struct Crowd {
    parts: Vec<Part>,
    /// The beginning of the stages; `None` during the warm-up.
    started_ns: Option<u64>,
    next_look_ns: u64,
}

/// The subscribers of one group at this worker.
pub(crate) struct Part {
    /// The first of them, as the worker counts.
    pub(crate) first: u32,
    /// Which of the group they are, and how many the group has.
    pub(crate) of_group: Range<u32>,
    pub(crate) group: u32,
    /// The share of the group that is connected.
    pub(crate) connected: Curve,
    /// So many of the first are connected or about to be.
    pub(crate) open: u32,
}

impl Part {
    /// So many have to be connected after so many seconds.
    fn due(&self, seconds: f64) -> u32 {
        // Rounded up, but not for the rounding error of a sum.
        let connected = (self.connected.value_at(seconds) * f64::from(self.group) - 1e-6).ceil() as u64;
        let up_to = |end: u32| connected * u64::from(end) / u64::from(self.group);
        (up_to(self.of_group.end) - up_to(self.of_group.start)) as u32
    }
}

impl Crowd {
    /// A crowd of these parts. None is connected.
    pub(crate) fn new(parts: Vec<Part>) -> Crowd {
        Crowd { parts, started_ns: None, next_look_ns: 0 }
    }

    /// The subscribers to connect before the warm-up. They count as connected from now on.
    pub(crate) fn begin(&mut self) -> Vec<Range<u32>> {
        let begin = |part: &mut Part| {
            part.open = part.due(0.0);
            part.first..part.first + part.open
        };
        self.parts.iter_mut().map(begin).collect()
    }

    /// The stages begin now.
    pub(crate) fn start(&mut self, now_ns: u64) {
        self.started_ns = Some(now_ns);
    }

    /// Connects and disconnects as the stages say. Returns how long it can wait for the next.
    pub(crate) fn turn(&mut self, clients: &mut Clients, deliveries: &mut Deliveries) -> Duration {
        let Some(started_ns) = self.started_ns else { return TURN };
        let now_ns = deliveries.recorder.now_ns();
        if now_ns < self.next_look_ns {
            return Duration::from_nanos(self.next_look_ns - now_ns);
        }
        self.next_look_ns = now_ns + LOOK_NS;
        let seconds = now_ns.saturating_sub(started_ns) as f64 / 1e9;
        let mut left = CHANGES_PER_TURN;
        for part in &mut self.parts {
            let due = part.due(seconds);
            while part.open < due && left > 0 && clients.may_open() {
                let client = part.first + part.open;
                if !clients.is_free(client) {
                    break;
                }
                part.open += 1;
                left -= 1;
                if let Err(reason) = clients.open(client) {
                    deliveries.on_closed(client, &reason);
                }
            }
            while part.open > due && left > 0 {
                part.open -= 1;
                left -= 1;
                let client = part.first + part.open;
                deliveries.leave(client);
                clients.leave(client);
            }
        }
        if left == 0 {
            self.next_look_ns = 0;
            return Duration::ZERO;
        }
        Duration::from_nanos(LOOK_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::crew;

    #[test]
    fn the_parts_of_all_workers_add_up_to_the_group() {
        let stages = [(10, 0.1), (10, 1.0), (10, 0.25)].map(|(s, share)| (Duration::from_secs(s), share));
        let connected = Curve::through(&stages);
        for workers in [1, 3, 7] {
            let part =
                |of_group: Range<u32>| Part { first: 0, of_group, group: 101, connected: connected.clone(), open: 0 };
            let parts: Vec<Part> = crew::split(101, workers).into_iter().map(part).collect();
            let at = |seconds: f64| parts.iter().map(|part| part.due(seconds)).sum::<u32>();
            assert_eq!([0.0, 15.0, 20.0, 99.0].map(at), [11, 56, 101, 26], "{workers}");
        }
        let one = Part { first: 0, of_group: 0..1, group: 1, connected, open: 0 };
        assert_eq!(one.due(0.0), 1, "a group is never empty");
    }
}
