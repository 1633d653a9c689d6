//! The timers of a shard: one wheel for all its connections.
//!
//! Adding is a push and nothing is ever taken out: who set a timer anew ignores the old one when it fires. Knows
//! nothing of what the timers mean.

use crate::buf::ConnId;
use crate::limits::TICK_MS;

/// Slots of the wheel. What lies further ahead than this many ticks fires early and must be set again.
const TICKS: u64 = 1024;

/// Timers whose memory a slot keeps when they have fired.
const KEEP: usize = 64;

/// A wheel with one slot per tick.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Vec<Vec<ConnId>>,
    /// The next tick to fire.
    next: u64,
    /// Timers in all slots.
    count: usize,
    /// No timer lies before this tick.
    earliest: u64,
}

impl Wheel {
    /// A wheel whose first tick is the one after `now_ms`.
    pub(super) fn new(now_ms: u64) -> Wheel {
        let next = now_ms / TICK_MS + 1;
        Wheel { slots: vec![Vec::new(); TICKS as usize], next, count: 0, earliest: next }
    }

    /// The tick of a timer for `at_ms`.
    pub(super) fn tick(&self, at_ms: u64) -> u64 {
        at_ms.div_ceil(TICK_MS).clamp(self.next, self.next + TICKS - 1)
    }

    /// Sets a timer for `at_ms`, or the furthest time before that the wheel can hold; it fires within a tick after.
    /// Returns the tick, which tells it from other timers of the same connection.
    pub(super) fn set(&mut self, id: ConnId, at_ms: u64) -> u64 {
        let tick = self.tick(at_ms);
        self.slots[(tick % TICKS) as usize].push(id);
        self.earliest = if self.count == 0 { tick } else { self.earliest.min(tick) };
        self.count += 1;
        tick
    }

    /// Takes the timers that are due at `now_ms`: connection and tick, in the order of their time.
    pub(super) fn take_due(&mut self, now_ms: u64, due: &mut Vec<(ConnId, u64)>) {
        let now = now_ms / TICK_MS;
        while self.next <= now {
            if self.count == 0 {
                self.next = now + 1;
                return;
            }
            let slot = &mut self.slots[(self.next % TICKS) as usize];
            self.count -= slot.len();
            due.extend(slot.drain(..).map(|id| (id, self.next)));
            // Each slot would keep the memory of its fullest tick, and those of a storm are full.
            slot.shrink_to(KEEP);
            self.next += 1;
        }
    }

    /// When the next timer fires, if there is one.
    pub(super) fn next_ms(&mut self) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        self.earliest = self.earliest.max(self.next);
        while self.slots[(self.earliest % TICKS) as usize].is_empty() {
            self.earliest += 1;
        }
        Some(self.earliest * TICK_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::SlotId;

    fn id(slot: u32) -> ConnId {
        ConnId { slot: SlotId(slot), generation: 0 }
    }

    fn due(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.take_due(now_ms, &mut due);
        due.into_iter().map(|(id, _)| id.slot.0).collect()
    }

    #[test]
    fn timers_fire_in_order_and_never_early() {
        let mut wheel = Wheel::new(1000);
        assert_eq!(wheel.next_ms(), None);
        wheel.set(id(2), 3001);
        wheel.set(id(1), 1500);
        assert_eq!(wheel.next_ms(), Some(1500));
        assert_eq!(due(&mut wheel, 1499), [0u32; 0]);
        assert_eq!(due(&mut wheel, 1500), [1]);
        assert_eq!(wheel.next_ms(), Some(3050));
        assert_eq!(due(&mut wheel, 3049), [0u32; 0]);
        assert_eq!(due(&mut wheel, 9000), [2]);
        assert_eq!(wheel.next_ms(), None);
    }

    #[test]
    fn the_past_is_the_next_tick_and_the_far_future_the_last() {
        let mut wheel = Wheel::new(10_000);
        wheel.set(id(1), 0);
        assert_eq!(wheel.set(id(2), u64::MAX - TICK_MS), wheel.next + TICKS - 1);
        assert_eq!(due(&mut wheel, 10_000 + TICK_MS), [1]);
        assert_eq!(due(&mut wheel, 10_000 + TICKS * TICK_MS), [2]);
    }

    #[test]
    fn a_long_sleep_loses_none() {
        let mut wheel = Wheel::new(0);
        for n in 0..2000 {
            wheel.set(id(n), u64::from(n) * 7);
        }
        assert_eq!(due(&mut wheel, 1_000_000), (0..2000).collect::<Vec<_>>());
        wheel.set(id(5), 1_000_100);
        assert_eq!(wheel.next_ms(), Some(1_000_100));
    }
}
