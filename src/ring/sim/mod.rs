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
//! and stop reading. What the contract forbids a shard to do, it refuses with a panic: an operation on a closed or
//! foreign descriptor, two sends at once, a close under an operation, a receive buffer given back twice.
//!
//! Only in builds with the feature `sim`. It knows nothing of WebSocket, and makes no system calls but to look whether
//! an
//! [`Event`] was notified.

mod faults;
mod kernel;
mod requests;
mod rng;
mod socket;
mod stream;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use faults::Faults;
pub use kernel::{Happening, Operations, PeerId, PeerRead, SimKernel};
pub use rng::Rng;

use self::kernel::Lent;
use self::requests::Request;
use self::socket::WaitingRecv;
use super::{ACCEPTS_MAX, Completion, Event, FixedFd, Ring, SendNow, Token};
use crate::buf::{Received, RecvRing, SharedFrame};

/// The content of a receive buffer after it was given back: a late reader sees nothing of use.
const POISON: u8 = 0xdb;

/// One shard's line to a [`SimKernel`].
pub struct SimRing {
    kernel: SimKernel,
    index: usize,
    recv: RecvRing,
    /// Where accepted connections came from, by the tag of the accept.
    accepted_from: [IpAddr; ACCEPTS_MAX],
    /// Microseconds that the sends of this ring have taken, one each. Nobody else sees that time pass.
    worked_us: u64,
}

impl SimRing {
    /// A ring of `kernel`. Rings are numbered from 0.
    pub fn new(kernel: &SimKernel) -> SimRing {
        let mut state = kernel.0.borrow_mut();
        let buffers = state.faults.recv_buffers;
        let recv = RecvRing::new(0, buffers, buffers, state.faults.recv_buffer_bytes);
        let index = state.add_ring();
        drop(state);
        let accepted_from = [Ipv4Addr::UNSPECIFIED.into(); ACCEPTS_MAX];
        SimRing { kernel: kernel.clone(), index, recv, accepted_from, worked_us: 0 }
    }

    /// The number of this ring.
    pub fn index(&self) -> usize {
        self.index
    }

    fn queue(&mut self, request: Request) {
        self.kernel.0.borrow_mut().rings[self.index].queued.push(request);
    }

    fn queue_recv(&mut self, socket: FixedFd, recv: WaitingRecv) {
        self.queue(Request::Recv { socket, recv });
    }

    /// Puts a piece where the real kernel would have put it.
    fn lend(&mut self, buffer_id: u16, bytes: &[u8], last: bool) -> Received {
        let piece = self.recv.fill(buffer_id, bytes.len() as u32, last);
        let memory = self.recv.bytes(&piece);
        memory.copy_from_slice(bytes);
        let lent = Lent { address: memory.as_ptr() as usize, len: bytes.len(), buffer_id };
        let state = &mut self.kernel.0.borrow_mut().rings[self.index];
        state.lent.push_back(lent);
        state.used_up.extend(last.then_some(buffer_id));
        piece
    }
}

impl Ring for SimRing {
    type Address = usize;

    fn submit_accept(&mut self, _listener: BorrowedFd<'_>, token: Token) {
        self.queue(Request::Accept { token });
    }

    fn accepted_from(&self, token: Token) -> IpAddr {
        self.accepted_from[token.tag() as usize]
    }

    /// Nobody who asks looks at the answer here.
    fn peer(&mut self, _socket: FixedFd) -> Option<SocketAddr> {
        None
    }

    fn submit_recv(&mut self, socket: FixedFd, token: Token) {
        self.queue_recv(socket, WaitingRecv { token, once_bytes_max: None, is_now: false });
    }

    fn submit_recv_now(&mut self, socket: FixedFd, token: Token) {
        self.queue_recv(socket, WaitingRecv { token, once_bytes_max: Some(u32::MAX), is_now: true });
    }

    /// All operations take time here: what has completed by then is in the queue already.
    fn submit_recv_late(&mut self, socket: FixedFd, bytes_max: u32, token: Token) {
        self.queue_recv(socket, WaitingRecv { token, once_bytes_max: Some(bytes_max), is_now: false });
    }

    fn has_recv_buffers(&self, _socket: FixedFd) -> bool {
        self.recv.has_offered()
    }

    fn submit_poll(&mut self, socket: FixedFd, token: Token) {
        self.queue(Request::Poll { socket, token });
    }

    fn submit_send(&mut self, socket: FixedFd, frame: SharedFrame, skip: usize, token: Token) {
        self.queue(Request::Send { socket, frame, skip, token });
    }

    fn send_now<'a>(&mut self, sends: impl Iterator<Item = SendNow<'a>>, incomplete: &mut Vec<Completion>) {
        // The iterator of the sends may use the kernel, so the kernel is not borrowed meanwhile.
        let sends: Vec<SendNow<'a>> = sends.collect();
        self.worked_us += sends.len() as u64;
        let kernel = &mut *self.kernel.0.borrow_mut();
        kernel.enter(self.index);
        kernel.send_now(self.index, sends.into_iter(), incomplete);
    }

    fn submit_shutdown(&mut self, socket: FixedFd, token: Token) {
        self.queue(Request::Shutdown { socket, token });
    }

    fn submit_close(&mut self, socket: FixedFd, token: Token) {
        self.queue(Request::Close { socket, token });
    }

    fn submit_cancel(&mut self, _socket: FixedFd, target: Token) {
        self.queue(Request::Cancel { target });
    }

    fn submit_cancel_accept(&mut self, target: Token) {
        self.queue(Request::CancelAccept { target });
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
            if let Some(socket) = posted.accepted {
                self.accepted_from[posted.token.tag() as usize] = SimKernel::address(socket);
            }
            let received = posted.piece.map(|(buffer_id, bytes, last)| self.lend(buffer_id, &bytes, last));
            completions.push(Completion {
                token: posted.token,
                result: posted.result,
                more: posted.more,
                received,
                has_rest: posted.has_rest,
            });
        }
    }

    fn now_us(&self) -> u64 {
        self.kernel.now_us() + self.worked_us
    }

    fn rings(&self) -> usize {
        1
    }

    fn overflows(&self) -> u64 {
        0
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::buf::{ConnId, SlotId};
    use crate::ring::{Errno, Op};

    const SOON_US: u64 = 1_000_000;

    fn token(op: Op) -> Token {
        Token::of_conn(op, ConnId { slot: SlotId(3), generation: 1 })
    }

    /// A ring on a kernel with these faults, and one connection, accepted and received from.
    fn connect(faults: Faults) -> (SimKernel, SimRing, PeerId, FixedFd) {
        let kernel = SimKernel::new(Rng::new(1), faults);
        let mut ring = SimRing::new(&kernel);
        let listener = File::open("/dev/null").unwrap();
        ring.submit_accept(listener.as_fd(), Token::new(Op::Accept, 5, 0));
        let peer = kernel.connect(ring.index());
        let accepted = completions(&kernel, &mut ring);
        let socket = FixedFd(accepted[0].result.unwrap());
        assert_eq!(ring.accepted_from(accepted[0].token), Ipv4Addr::new(10, 0, 0, 0));
        ring.submit_recv(socket, token(Op::Recv));
        (kernel, ring, peer, socket)
    }

    /// What completes within a second.
    fn completions(kernel: &SimKernel, ring: &mut SimRing) -> Vec<Completion> {
        let mut completions = Vec::new();
        kernel.sleep(ring.index(), Duration::from_secs(60));
        let until_us = kernel.now_us() + SOON_US;
        while kernel.next(until_us).is_some() {}
        ring.wait(Duration::ZERO, &mut completions);
        completions
    }

    fn send_now(ring: &mut SimRing, socket: FixedFd, bytes: &[u8]) -> Vec<Completion> {
        let mut incomplete = Vec::new();
        let send = SendNow { socket, bytes, is_last: false, token: Token::new(Op::Reply, 0, 3) };
        ring.send_now([send].into_iter(), &mut incomplete);
        incomplete
    }

    #[test]
    fn bytes_go_both_ways_and_pieces_come_home() {
        let (kernel, mut ring, peer, socket) = connect(Faults::none());
        assert_eq!(kernel.write(peer, b"hello"), 5);
        let mut received = completions(&kernel, &mut ring);
        let piece = received[0].received.take().unwrap();
        assert_eq!(ring.received(&piece), b"hello");
        ring.release(piece);
        assert_eq!(send_now(&mut ring, socket, b"world"), []);
        assert_eq!(completions(&kernel, &mut ring), []);
        assert_eq!(kernel.read(peer, 100), PeerRead::Bytes(b"world".to_vec()));
        kernel.finish(peer);
        assert_eq!(completions(&kernel, &mut ring)[0].result, Ok(0));
        ring.submit_close(socket, token(Op::Close));
        assert_eq!(completions(&kernel, &mut ring)[0].result, Ok(0));
        assert_eq!(kernel.read(peer, 100), PeerRead::End);
        kernel.assert_nothing_is_held(ring.index());
    }

    #[test]
    fn a_full_socket_takes_a_part_and_a_waiting_send_the_rest() {
        let (kernel, mut ring, peer, socket) = connect(Faults { socket_bytes_max: 10, ..Faults::none() });
        let frame = SharedFrame::new((0..25).collect());
        assert_eq!(send_now(&mut ring, socket, &frame)[0].result, Ok(10));
        assert_eq!(send_now(&mut ring, socket, &frame[10..])[0].result, Err(Errno::WouldBlock));
        ring.submit_send(socket, frame, 10, token(Op::Send));
        let mut read = Vec::new();
        let mut completed = completions(&kernel, &mut ring);
        while let PeerRead::Bytes(bytes) = kernel.read(peer, 100) {
            read.extend(bytes);
            completed.extend(completions(&kernel, &mut ring));
        }
        assert_eq!(read, (0..25).collect::<Vec<u8>>());
        assert_eq!((completed.len(), completed[0].result), (1, Ok(15)));
    }

    #[test]
    fn a_reset_is_told_once_and_then_the_stream_has_ended() {
        let (kernel, mut ring, peer, socket) = connect(Faults::none());
        kernel.reset(peer);
        assert_eq!(completions(&kernel, &mut ring)[0].result, Err(Errno::Reset));
        assert_eq!(send_now(&mut ring, socket, b"x")[0].result, Err(Errno::Ended));
    }

    #[test]
    fn more_than_the_buffers_hold_ends_the_receive() {
        let faults = Faults { recv_buffers: 1, recv_buffer_bytes: 4, ..Faults::none() };
        let (kernel, mut ring, peer, _) = connect(faults);
        kernel.write(peer, b"hello");
        let results: Vec<_> = completions(&kernel, &mut ring).iter().map(|done| (done.result, done.more)).collect();
        assert_eq!(results, [(Ok(4), true), (Err(Errno::NoBuffers), false)]);
    }

    #[test]
    fn a_cancelled_receive_ends() {
        let (kernel, mut ring, _, socket) = connect(Faults::none());
        ring.submit_cancel(socket, token(Op::Recv));
        assert_eq!(completions(&kernel, &mut ring)[0].result, Err(Errno::Canceled));
    }

    #[test]
    fn a_poll_ends_when_bytes_come_and_a_receive_once_after_a_piece() {
        let (kernel, mut ring, peer, socket) = connect(Faults::none());
        ring.submit_cancel(socket, token(Op::Recv));
        completions(&kernel, &mut ring);
        ring.submit_poll(socket, token(Op::Poll));
        assert_eq!(completions(&kernel, &mut ring), []);
        kernel.write(peer, b"hello");
        assert_eq!(completions(&kernel, &mut ring)[0].token, token(Op::Poll));
        ring.submit_recv_late(socket, 3, token(Op::Recv));
        let mut received = completions(&kernel, &mut ring);
        assert_eq!((received[0].result, received[0].more, received[0].has_rest), (Ok(3), false, true));
        ring.release(received[0].received.take().unwrap());
        ring.submit_recv_late(socket, 3, token(Op::Recv));
        let mut received = completions(&kernel, &mut ring);
        assert_eq!((received[0].result, received[0].more, received[0].has_rest), (Ok(2), false, false));
        ring.release(received[0].received.take().unwrap());
        kernel.write(peer, b"world");
        assert_eq!(completions(&kernel, &mut ring), []);
    }

    #[test]
    #[should_panic(expected = "closed under an operation")]
    fn a_close_under_a_receive_is_refused() {
        let (kernel, mut ring, _, socket) = connect(Faults::none());
        ring.submit_close(socket, token(Op::Close));
        completions(&kernel, &mut ring);
    }

    #[test]
    #[should_panic(expected = "overtakes one that waits")]
    fn a_send_that_overtakes_is_refused() {
        let (_, mut ring, _, socket) = connect(Faults::none());
        ring.submit_send(socket, SharedFrame::new(vec![1]), 0, token(Op::Send));
        send_now(&mut ring, socket, b"x");
    }

    #[test]
    #[should_panic(expected = "another connection's descriptor")]
    fn a_foreign_operation_is_refused() {
        let (kernel, mut ring, _, socket) = connect(Faults::none());
        ring.submit_shutdown(socket, Token::of_conn(Op::Shutdown, ConnId { slot: SlotId(3), generation: 2 }));
        completions(&kernel, &mut ring);
    }

    #[test]
    fn a_receive_that_does_not_wait_ends_without_bytes() {
        let (kernel, mut ring, peer, socket) = connect(Faults::none());
        ring.submit_cancel(socket, token(Op::Recv));
        completions(&kernel, &mut ring);
        ring.submit_recv_now(socket, token(Op::Recv));
        assert_eq!(completions(&kernel, &mut ring)[0].result, Err(Errno::WouldBlock));
        kernel.write(peer, b"hello");
        ring.submit_poll(socket, token(Op::Poll));
        completions(&kernel, &mut ring);
        ring.submit_recv_now(socket, token(Op::Recv));
        let mut received = completions(&kernel, &mut ring);
        assert_eq!((received[0].result, received[0].more), (Ok(5), false));
        ring.release(received[0].received.take().unwrap());
    }

    #[test]
    #[should_panic(expected = "was not lent")]
    fn a_piece_that_was_not_lent_is_refused() {
        let (kernel, mut ring, peer, _) = connect(Faults { segment_bytes_max: 1, ..Faults::none() });
        kernel.write(peer, b"a");
        let piece = completions(&kernel, &mut ring).remove(0).received.unwrap();
        ring.kernel.take_back(ring.index, ring.recv.bytes(&piece).as_ptr() as usize + 1, 1);
    }
}
