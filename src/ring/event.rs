//! A wake-up from a thread that has no ring of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

/// An eventfd: [`notify`](Self::notify) from anywhere, [`clear`](Self::clear) by the thread that watches it. Clones are
/// the same event.
#[derive(Clone, Debug)]
pub struct Event(Arc<OwnedFd>);

impl Event {
    /// A new event, not notified.
    pub fn new() -> io::Result<Event> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Event(Arc::new(fd)))
    }

    /// A new event for which a read waits.
    pub(super) fn blocking() -> io::Result<Event> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Event(Arc::new(fd)))
    }

    /// Wakes the watcher. Several before it wakes count as one.
    pub fn notify(&self) {
        // It fails only when 2^64 - 2 notifications are waiting, and then the watcher is woken anyway.
        let _ = write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Takes the notifications so far back.
    pub fn clear(&self) {
        // It fails only when there is none.
        let _ = read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
