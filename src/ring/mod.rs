//! The shard's line to the kernel: io_uring, and what listeners and threads need beside it.
//!
//! [`Ring`] is everything a shard asks of the kernel, as a trait, so that a seeded fake can stand in for the real
//! [`Uring`]. Knows nothing of WebSocket, connections or topics: sockets are direct descriptors here, and a
//! [`Token`] tells the caller which of its operations completed.
//!
//! Memory that the kernel reads or writes after a call returns is owned by the ring until the completion: frames of
//! [`submit_send`](Ring::submit_send), receive buffers. [`send_now`](Ring::send_now) borrows instead, since the kernel
//! is done with those bytes when it returns.
#![allow(unsafe_code)]

mod completion;
mod defer;
mod errno;
mod event;
mod inherited;
mod lane;
mod probe;
#[cfg(feature = "sim")]
pub mod sim;
mod slice;
mod token;
mod uring;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use completion::Completion;
pub use defer::defer_accept;
pub use errno::Errno;
pub use event::Event;
pub use inherited::{InheritedSocket, inherited_sockets};
pub use probe::{KERNEL_NEEDED, StartError};
pub use slice::shorten_slice;
pub use token::{Op, Token};
pub use uring::{Gather, LANES_MAX, RingAddress, TABLE_MAX, Uring, UringConfig};

use crate::buf::{Received, SharedFrame};

/// Accepts that may be submitted at once: their tokens' tags are below this.
pub const ACCEPTS_MAX: usize = 64;

/// A socket in the ring's own file table. It needs no slot in the process's table and no reference count per call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FixedFd(pub u32);

/// One send of [`Ring::send_now`].
#[derive(Clone, Copy, Debug)]
pub struct SendNow<'a> {
    /// The socket.
    pub socket: FixedFd,
    /// All that should go.
    pub bytes: &'a [u8],
    /// Nothing will be sent after it: it leaves when the socket is closed, together with the end of the stream. For
    /// who closes it at once.
    pub is_last: bool,
    /// Names this send should it not go whole.
    pub token: Token,
}

/// What a shard asks of the kernel.
///
/// `submit_*` queues an operation; it reaches the kernel with the next [`send_now`](Self::send_now) or
/// [`wait`](Self::wait), and its completions come out of `wait`, in the kernel's order.
pub trait Ring {
    /// How another ring reaches this one.
    type Address: Clone + Send + 'static;

    /// Accepts one connection of `listener` into a direct descriptor. Completes once, with the descriptor as its value.
    /// The token's tag tells it from others, and is below [`ACCEPTS_MAX`]. Where no descriptor is free the connection
    /// is lost.
    fn submit_accept(&mut self, listener: BorrowedFd<'_>, token: Token);

    /// Whom the accept that has completed with this token came from. To be asked before the token is used again.
    fn accepted_from(&self, token: Token) -> IpAddr;

    /// Whom `socket` is connected to, as far as that can still be told. Takes some microseconds: not for every socket.
    fn peer(&mut self, socket: FixedFd) -> Option<SocketAddr>;

    /// Receives from `socket` until its end or an error: one completion for each piece, in [`Completion::received`].
    /// A completion without `more` ended it: value 0 is the peer's end of stream, [`Errno::NoBuffers`] means that
    /// buffers were scarce and it should be submitted again.
    ///
    /// The quickest for a socket on which much arrives. The kernel holds some 900 bytes for it, and it must be
    /// cancelled to be replaced.
    fn submit_recv(&mut self, socket: FixedFd, token: Token);

    /// Receives one piece of what is there, as [`submit_recv`](Self::submit_recv) does, and never waits: completes
    /// once, with [`Errno::WouldBlock`] where nothing is there. Poll the socket then.
    fn submit_recv_now(&mut self, socket: FixedFd, token: Token);

    /// Waits for bytes as a poll does, and receives one piece of at most `bytes_max`, which is not 0, after whatever
    /// has come on other sockets by then. Completes once, perhaps with [`Errno::WouldBlock`].
    fn submit_recv_late(&mut self, socket: FixedFd, bytes_max: u32, token: Token);

    /// Whether a receive from `socket` would find a buffer, as far as the completions so far tell. After
    /// [`Errno::NoBuffers`], receive again once this is true.
    fn has_recv_buffers(&self, socket: FixedFd) -> bool;

    /// Completes once, as soon as there may be something to receive. The kernel holds some 250 bytes for it: how a
    /// socket on which little arrives should wait.
    fn submit_poll(&mut self, socket: FixedFd, token: Token);

    /// Sends all of `frame` after its first `skip` bytes, however long that takes. Completes once, with the bytes sent
    /// or the error. At most one at a time for a socket: a stream has one order.
    fn submit_send(&mut self, socket: FixedFd, frame: SharedFrame, skip: usize, token: Token);

    /// Sends each without waiting. What went whole leaves no trace; for the rest a completion is put into `incomplete`:
    /// the bytes that went, or the error ([`Errno::WouldBlock`] if the socket was full). At most one for a socket in
    /// one call.
    fn send_now<'a>(&mut self, sends: impl Iterator<Item = SendNow<'a>>, incomplete: &mut Vec<Completion>);

    /// Ends our half of the stream: the peer reads the end of it after all that was sent. Completes once. The kernel
    /// does this on a worker thread, so the descriptor must not be closed before: the shutdown might reach its next
    /// owner.
    fn submit_shutdown(&mut self, socket: FixedFd, token: Token);

    /// Closes `socket` and frees its descriptor. Completes once.
    fn submit_close(&mut self, socket: FixedFd, token: Token);

    /// Ends the operation of `socket` that was submitted with `target`, which then completes with
    /// [`Errno::Canceled`] if it had not already. Does not complete itself.
    fn submit_cancel(&mut self, socket: FixedFd, target: Token);

    /// Ends the accept that was submitted with `target`, in the same way.
    fn submit_cancel_accept(&mut self, target: Token);

    /// Completes each time `event` was notified, until cancelled.
    fn submit_watch(&mut self, event: &Event, token: Token);

    /// Wakes the shard at `target`: a completion with `token` appears there. Completes here only if that failed.
    fn submit_doorbell(&mut self, target: &Self::Address, token: Token);

    /// How other rings reach this one.
    fn address(&self) -> Self::Address;

    /// Submits what is queued, waits for a completion or until `timeout` passed, and appends what completed.
    fn wait(&mut self, timeout: Duration, completions: &mut Vec<Completion>);

    /// Microseconds of a clock that goes on while the shard works, and never goes back.
    fn now_us(&self) -> u64;

    /// Kernel rings that it is made of.
    fn rings(&self) -> usize;

    /// Times that completions found the completion queue full, and waited in the kernel's memory.
    fn overflows(&self) -> u64;

    /// The bytes of a received piece.
    fn received(&mut self, piece: &Received) -> &mut [u8];

    /// Gives a piece back when its bytes have been used. Each piece once, to the ring that it came from.
    fn release(&mut self, piece: Received);
}
