//! What `src/buf/sync.rs` is elsewhere.

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::Arc;
use loom::sync::atomic::AtomicBool as LoomBool;
pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering, fence};

/// A flag whose stores are swaps. These allow the same executions, since nobody uses the value that is swapped out, and
/// loom judges them rightly: it orders stores by what the threads know of each other only, so that a plain store may
/// come between another thread's swap and the value which that swap has read. No machine does that ([atomics.order]/10
/// of C++20), and a model with two senders ends in a deadlock that can't be.
#[derive(Debug)]
pub(crate) struct AtomicBool(LoomBool);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> AtomicBool {
        AtomicBool(LoomBool::new(value))
    }

    pub(crate) fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: bool, order: Ordering) {
        self.0.swap(value, order);
    }

    pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value, order)
    }
}
