//! What two threads share memory with. [`spsc`](super::spsc) and [`asleep`](super::asleep) take it from here, so that
//! `tests/loom` can compile the same two files with types of its own that try every order of events.

pub(super) use std::sync::Arc;
pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// Memory that is handed from one thread to another.
#[derive(Debug)]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    /// Calls `with` with where the value is. Who writes or reads there vouches for being alone.
    #[inline]
    pub(super) fn with_mut<R>(&self, with: impl FnOnce(*mut T) -> R) -> R {
        with(self.0.get())
    }
}
