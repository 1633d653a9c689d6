//! A simulated kernel: what stands in for io_uring when a shard is to be tested under every fault there is.
//!
//! ```text
//!   Shard ── SimRing ──┐                        ┌── PeerId: a client of the test
//!                      ├── SimKernel: one seed, ┤
//!   Shard ── SimRing ──┘   one virtual time     └── PeerId
//! ```
//!
//! It keeps the contract of [`Ring`] and no more: whatever that allows, some seed does. Operations take time and end in
//! any order but a stream's own; sends and receives are cut short; buffers and descriptors run out; peers reset, vanish
//! and stop reading. What the contract forbids a shard to do, it refuses with a panic: an operation on a closed or foreign
//! descriptor, two sends at once, a close under an operation, a receive buffer given back twice or out of order.
//!
//! Only in builds with the feature `sim`. It knows nothing of WebSocket, and makes no system calls but to look whether an
//! [`Event`] was notified.

mod faults;
mod kernel;
mod requests;
mod rng;
mod socket;
mod stream;

use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use faults::Faults;
pub use kernel::{Happening, Operations, PeerId, PeerRead, SimKernel};
pub use rng::Rng;

use self::kernel::Lent;
use self::requests::Request;
use super::{Completion, Direct, Event, Ring, SendNow, Shutdown, Token};
use crate::buf::{Received, RecvRing, SharedFrame};

/// What a receive buffer holds after it was given back: whoever still looks at it sees nothing of use.
const POISON: u8 = 0xdb;

/// One shard's line to a [`SimKernel`].
pub struct SimRing {
    kernel: SimKernel,
    index: usize,
    recv: RecvRing,
}

impl SimRing {
    /// A ring of `kernel`. Rings are numbered from 0.
    pub fn new(kernel: &SimKernel) -> SimRing {
        let mut state = kernel.0.borrow_mut();
        let recv = RecvRing::new(state.faults.recv_buffers, state.faults.recv_buffer_bytes);
        let index = state.add_ring();
        drop(state);
        SimRing { kernel: kernel.clone(), index, recv }
    }

    /// The number of this ring.
    pub fn index(&self) -> usize {
        self.index
    }

    fn queue(&mut self, request: Request) {
        self.kernel.0.borrow_mut().rings[self.index].queued.push(request);
    }

    /// Puts a piece where the real kernel would have put it.
    fn lend(&mut self, buffer_id: u16, bytes: &[u8], last: bool) -> Received {
        let piece = self.recv.fill(buffer_id, bytes.len() as u32, last);
        let memory = self.recv.bytes(&piece);
        memory.copy_from_slice(bytes);
        let lent = Lent { address: memory.as_ptr() as usize, len: bytes.len(), buffer_id, last };
        self.kernel.0.borrow_mut().rings[self.index].lent.push_back(lent);
        piece
    }
}

impl Ring for SimRing {
    type Address = usize;

    fn submit_accept(&mut self, _listener: BorrowedFd<'_>, token: Token) {
        self.queue(Request::Accept { token });
    }

    fn submit_recv(&mut self, socket: Direct, token: Token) {
        self.queue(Request::Recv { socket, token });
    }

    fn submit_send(&mut self, socket: Direct, frame: SharedFrame, skip: usize, token: Token) {
        self.queue(Request::Send { socket, frame, skip, token });
    }

    fn send_now<'a>(&mut self, sends: impl Iterator<Item = SendNow<'a>>, incomplete: &mut Vec<Completion>) {
        // Whoever makes the sends may not know that there is a kernel, so it is not borrowed meanwhile.
        let sends: Vec<SendNow<'a>> = sends.collect();
        let kernel = &mut *self.kernel.0.borrow_mut();
        kernel.enter(self.index);
        kernel.send_now(self.index, sends.into_iter(), incomplete);
    }

    fn submit_shutdown(&mut self, socket: Direct, how: Shutdown, token: Token) {
        self.queue(Request::Shutdown { socket, how, token });
    }

    fn submit_close(&mut self, socket: Direct, token: Token) {
        self.queue(Request::Close { socket, token });
    }

    fn submit_cancel(&mut self, target: Token) {
        self.queue(Request::Cancel { target });
    }

    fn submit_watch(&mut self, event: &Event, token: Token) {
        self.queue(Request::Watch { event: event.clone(), token });
    }

    fn submit_doorbell(&mut self, target: &usize, token: Token) {
        self.queue(Request::Doorbell { to: *target, token });
    }

    fn address(&self) -> usize {
        self.index
    }

    /// Never waits: virtual time passes in [`SimKernel::next`], between [`SimKernel::sleep`] and this.
    fn wait(&mut self, _timeout: Duration, completions: &mut Vec<Completion>) {
        for posted in self.kernel.reap(self.index) {
            let received = posted.piece.map(|(buffer_id, bytes, last)| self.lend(buffer_id, &bytes, last));
            completions.push(Completion { token: posted.token, result: posted.result, more: posted.more, received });
        }
    }

    fn received(&mut self, piece: &Received) -> &mut [u8] {
        self.recv.bytes(piece)
    }

    fn release(&mut self, piece: Received) {
        let memory = self.recv.bytes(&piece);
        memory.fill(POISON);
        let (address, len) = (memory.as_ptr() as usize, memory.len());
        self.kernel.take_back(self.index, address, len);
        self.recv.release(piece);
    }
}

impl Drop for SimRing {
    fn drop(&mut self) {
        // A checker that failed may have left anything behind.
        if !std::thread::panicking() {
            self.kernel.remove_ring(self.index);
        }
    }
}
