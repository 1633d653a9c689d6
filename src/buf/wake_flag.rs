//! Whether a thread sleeps and wants to be woken, so that a sender knows when to ring its doorbell.
//!
//! Says only *that* it must be woken; how is its owner's. The one who sleeps: [`fall_asleep`](Asleep::fall_asleep),
//! look at the queues once more, wait, [`woke`](Asleep::woke). The one who sends: put it into a queue,
//! [`take`](Asleep::take), ring if it says so. `tests/loom` tries all ways in which the two can meet.

use super::sync::{Arc, AtomicBool, Ordering, fence};

/// Set by a thread before it waits, taken by the thread that wakes it. Clones are the same.
#[derive(Clone, Debug)]
pub struct WakeFlag(Arc<AtomicBool>);

impl WakeFlag {
    /// A thread that is awake.
    pub fn new() -> WakeFlag {
        WakeFlag(Arc::new(AtomicBool::new(false)))
    }

    /// From now on this thread wants to be woken. Its queues may already hold items without a
    /// doorbell: look at them after this, and before waiting.
    pub fn fall_asleep(&self) {
        self.0.store(true, Ordering::Relaxed);
        // Pairs with the fence in `take`: either the sender sees this thread asleep, or this thread what was sent.
        fence(Ordering::SeqCst);
    }

    /// This thread is awake: nobody needs to wake it.
    pub fn woke(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// After putting something into a queue of that thread: whether the caller must wake it, which is true
    /// for one sender only.
    pub fn take(&self) -> bool {
        // Pairs with the fence in `fall_asleep`.
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

impl Default for WakeFlag {
    fn default() -> WakeFlag {
        WakeFlag::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_is_woken_by_one_and_only_while_it_sleeps() {
        let sleeper = WakeFlag::new();
        let senders = [sleeper.clone(), sleeper.clone()];
        assert!(!senders[0].take());
        sleeper.fall_asleep();
        assert!(senders[0].take());
        assert!(!senders[1].take());
        sleeper.fall_asleep();
        sleeper.woke();
        assert!(!senders[1].take());
    }
}
