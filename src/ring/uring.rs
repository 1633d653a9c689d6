//! The real ring.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use super::{Completion, Direct, Errno, Event, Op, Ring, SendNow, StartError, Token};
use crate::buf::{Received, RecvRing, SharedFrame};

/// Sends submitted with one system call. 64 to 512 measure alike; more gains nothing.
const SEND_BATCH: usize = 256;

/// Entries of the submission queue.
const SUBMISSIONS: u32 = 1024;

/// Entries of the completion queue. A turn posts some hundreds; the rest is room for a storm.
const COMPLETIONS: u32 = 16 * 1024;

/// The only group of receive buffers.
const RECV_GROUP: u16 = 0;

/// `IOU_PBUF_RING_INC`: buffers are consumed incrementally.
const PBUF_RING_INC: u16 = 2;

/// How large a ring is to be.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Sockets it can hold: the size of its table of direct descriptors, at most `RLIMIT_NOFILE`.
    pub descriptors: u32,
    /// Receive buffers, a power of two.
    pub recv_buffers: u16,
    /// Bytes of each.
    pub recv_buffer_bytes: u32,
}

/// Reaches a [`Uring`] from another one. Once that ring is gone, doorbells to it fail and nothing else happens.
#[derive(Clone, Copy, Debug)]
pub struct RingAddress(RawFd);

/// An io_uring instance. It must be made and used on one thread (`IORING_SETUP_SINGLE_ISSUER`).
pub struct Uring {
    ring: IoUring,
    recv: RecvRing,
    /// Frames that the kernel is sending from, by the token of the send.
    in_flight: HashMap<u64, SharedFrame>,
    /// Completions that were taken from the kernel's queue, but not asked for yet.
    reaped: Vec<Completion>,
}

impl Uring {
    /// Sets a ring up.
    ///
    /// # Errors
    /// [`StartError`], whose text names the remedy.
    pub fn new(config: UringConfig) -> Result<Uring, StartError> {
        StartError::check_kernel()?;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            .map_err(|error| StartError::diagnose("io_uring_setup", error))?;
        ring.submitter().register_files_sparse(config.descriptors).map_err(|error| match error.raw_os_error() {
            Some(libc::EMFILE) => StartError::TooManyFiles(config.descriptors),
            _ => StartError::diagnose("registering the table of descriptors", error),
        })?;
        let recv = RecvRing::new(config.recv_buffers, config.recv_buffer_bytes);
        // SAFETY: the entries stay where they are until `recv` is dropped; `drop` unregisters them before that.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                recv.entries_address(),
                recv.count(),
                RECV_GROUP,
                PBUF_RING_INC,
            )
        }
        .map_err(|error| StartError::diagnose("registering the receive buffers", error))?;
        Ok(Uring { ring, recv, in_flight: HashMap::new(), reaped: Vec::new() })
    }

    /// Moves a connected socket into slot `socket` of the table of descriptors; the caller's descriptor is closed.
    ///
    /// # Errors
    /// If the slot lies outside the table.
    pub fn install(&mut self, fd: OwnedFd, socket: Direct) -> io::Result<()> {
        self.ring.submitter().register_files_update(socket.0, &[fd.as_raw_fd()]).map(drop)
    }

    /// Queues an operation that borrows no memory, or memory that the ring owns until it completes.
    fn push(&mut self, entry: Entry, token: Token) {
        let entry = entry.user_data(token.to_bits());
        // SAFETY: what the entry points to outlives the operation: nothing for most; a frame kept in `in_flight` for
        // `submit_send`; borrowed bytes for `send_now`, which does not return before the kernel is done with them.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit();
        }
    }

    /// Hands all queued operations to the kernel.
    fn submit(&mut self) {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                // The completion queue is full, or the kernel is out of requests: take completions, then go on.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => self.reap(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("io_uring_enter refused a submission: {error}"),
            }
        }
    }

    /// Takes what completed, also what found the completion queue full and waits behind it: were the end of a send
    /// taken for that of a later one, the wrong bytes would be sent again.
    fn reap_sends(&mut self, incomplete: &mut Vec<Completion>) {
        self.reap(Some(incomplete));
        while self.ring.submission().cq_overflow() {
            // Lets the kernel move what waits into the queue.
            let _ = self.ring.submit();
            self.reap(Some(incomplete));
        }
    }

    /// Takes what completed. Sends that end at once go to `incomplete` where one is given.
    fn reap(&mut self, mut incomplete: Option<&mut Vec<Completion>>) {
        for entry in self.ring.completion() {
            let token = Token::from_bits(entry.user_data());
            let result = u32::try_from(entry.result()).map_err(|_| Errno::from_raw(-entry.result()));
            let received = cqueue::buffer_select(entry.flags()).map(|buffer_id| {
                let last = !cqueue::buffer_more(entry.flags());
                self.recv.fill(buffer_id, result.unwrap_or(0), last)
            });
            let completion = Completion { token, result, more: cqueue::more(entry.flags()), received };
            match (token.op(), &mut incomplete) {
                (Op::Cancel, _) => {}
                (Op::Reply | Op::Publish, Some(incomplete)) => incomplete.push(completion),
                (Op::Send, _) => {
                    self.in_flight.remove(&token.to_bits());
                    self.reaped.push(completion);
                }
                _ => self.reaped.push(completion),
            }
        }
    }
}

impl Ring for Uring {
    type Address = RingAddress;

    fn submit_accept(&mut self, listener: BorrowedFd<'_>, token: Token) {
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true);
        self.push(accept.build(), token);
    }

    fn submit_recv(&mut self, socket: Direct, token: Token) {
        self.push(opcode::RecvMulti::new(Fixed(socket.0), RECV_GROUP).build(), token);
    }

    fn submit_send(&mut self, socket: Direct, frame: SharedFrame, skip: usize, token: Token) {
        let rest = &frame[skip..];
        let len = u32::try_from(rest.len()).expect("a frame is smaller than 4 GiB");
        let send = opcode::Send::new(Fixed(socket.0), rest.as_ptr(), len).flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        let previous = self.in_flight.insert(token.to_bits(), frame);
        assert!(previous.is_none(), "two sends at once on a socket");
        self.push(send.build(), token);
    }

    fn send_now<'a>(&mut self, sends: impl Iterator<Item = SendNow<'a>>, incomplete: &mut Vec<Completion>) {
        // Submits also when `sends` panics half-way, since the queue then holds pointers to borrowed bytes.
        struct SubmitOnDrop<'r>(&'r mut Uring);
        impl Drop for SubmitOnDrop<'_> {
            fn drop(&mut self) {
                self.0.submit();
            }
        }
        let guard = SubmitOnDrop(self);
        let mut queued = 0;
        for send in sends {
            let len = u32::try_from(send.bytes.len()).expect("a send is smaller than 4 GiB");
            // With MSG_DONTWAIT the kernel copies what fits while it is submitted, and never looks at the bytes again.
            // With MSG_WAITALL, less than all counts as a failure, so that success needs no completion.
            let entry = opcode::Send::new(Fixed(send.socket.0), send.bytes.as_ptr(), len)
                .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                .build()
                .flags(Flags::SKIP_SUCCESS);
            guard.0.push(entry, send.token);
            queued += 1;
            if queued == SEND_BATCH {
                guard.0.submit();
                guard.0.reap_sends(incomplete);
                queued = 0;
            }
        }
        drop(guard);
        self.reap_sends(incomplete);
    }

    fn submit_shutdown(&mut self, socket: Direct, token: Token) {
        self.push(opcode::Shutdown::new(Fixed(socket.0), libc::SHUT_WR).build(), token);
    }

    fn submit_close(&mut self, socket: Direct, token: Token) {
        self.push(opcode::Close::new(Fixed(socket.0)).build(), token);
    }

    fn submit_cancel(&mut self, target: Token) {
        let cancel = opcode::AsyncCancel::new(target.to_bits()).build();
        self.push(cancel.flags(Flags::SKIP_SUCCESS), Token::new(Op::Cancel, 0, target.slot()));
    }

    fn submit_watch(&mut self, event: &Event, token: Token) {
        let poll = opcode::PollAdd::new(Fd(event.as_fd().as_raw_fd()), libc::POLLIN as u32).multi(true);
        self.push(poll.build(), token);
    }

    fn submit_doorbell(&mut self, target: &RingAddress, token: Token) {
        let message = opcode::MsgRingData::new(Fd(target.0), 0, token.to_bits(), None).build();
        self.push(message.flags(Flags::SKIP_SUCCESS), token);
    }

    fn address(&self) -> RingAddress {
        RingAddress(self.ring.as_raw_fd())
    }

    fn wait(&mut self, timeout: Duration, completions: &mut Vec<Completion>) {
        let want = usize::from(self.reaped.is_empty());
        let timespec = Timespec::from(timeout);
        match self.ring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&timespec)) {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // Time passed, a signal came, or completions must be taken first: the caller comes back.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => panic!("io_uring_enter refused to wait: {error}"),
            },
        }
        self.reap(None);
        completions.append(&mut self.reaped);
    }

    fn received(&mut self, piece: &Received) -> &mut [u8] {
        self.recv.bytes(piece)
    }

    fn release(&mut self, piece: Received) {
        self.recv.release(piece);
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel must not touch frames or receive buffers once their memory is freed. Both steps fail only when
        // there is nothing to do.
        self.submit();
        let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        let _ = self.ring.submitter().unregister_buf_ring(RECV_GROUP);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::buf::ConnId;

    const SOON: Duration = Duration::from_millis(20);

    fn uring() -> Uring {
        Uring::new(UringConfig { descriptors: 64, recv_buffers: 4, recv_buffer_bytes: 4096 }).expect("io_uring")
    }

    fn token(op: Op, slot: u32) -> Token {
        Token::of_conn(op, ConnId { slot, generation: 1 })
    }

    /// A socket in slot 0 of `ring`, and its other end.
    fn connect(ring: &mut Uring) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        ring.install(socket.into(), Direct(0)).unwrap();
        peer
    }

    /// The next completion of `op`; others are an error.
    fn next(ring: &mut Uring, op: Op) -> Completion {
        let mut completions = Vec::new();
        for _ in 0..500 {
            ring.wait(SOON, &mut completions);
            if let Some(completion) = completions.pop() {
                assert!(completions.is_empty(), "{completions:?}");
                assert_eq!(completion.token.op(), op);
                return completion;
            }
        }
        panic!("no completion of {op:?}");
    }

    fn assert_quiet(ring: &mut Uring) {
        let mut completions = Vec::new();
        ring.wait(SOON, &mut completions);
        assert_eq!(completions, []);
    }

    #[test]
    fn accepted_sockets_receive_and_close() {
        let mut ring = uring();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        ring.submit_accept(listener.as_fd(), token(Op::Accept, 9));
        let mut peers = Vec::new();
        for _ in 0..3 {
            peers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let accepted = next(&mut ring, Op::Accept);
            assert!(accepted.more);
            let slot = accepted.result.unwrap();
            ring.submit_recv(Direct(slot), token(Op::Recv, slot));
        }
        for (slot, peer) in (0..).zip(&mut peers) {
            peer.write_all(b"hello").unwrap();
            let received = next(&mut ring, Op::Recv);
            assert_eq!((received.token, received.more), (token(Op::Recv, slot), true));
            let piece = received.received.unwrap();
            assert_eq!(ring.received(&piece), b"hello");
            ring.release(piece);
        }
        drop(peers.pop());
        let end = next(&mut ring, Op::Recv);
        assert_eq!((end.result, end.more), (Ok(0), false));
        ring.submit_close(Direct(2), token(Op::Close, 2));
        assert_eq!(next(&mut ring, Op::Close).result, Ok(0));
        assert_quiet(&mut ring);
    }

    #[test]
    fn more_data_than_buffers_ends_the_receive_and_none_is_lost() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        let data: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
        let sent = data.clone();
        let sender = std::thread::spawn(move || peer.write_all(&sent).map(|()| peer));
        let (mut got, mut scarce, mut completions) = (Vec::new(), 0, Vec::new());
        ring.submit_recv(Direct(0), token(Op::Recv, 0));
        while got.len() < data.len() {
            ring.wait(SOON, &mut completions);
            for completion in completions.drain(..) {
                if let Some(piece) = completion.received {
                    got.extend_from_slice(ring.received(&piece));
                    ring.release(piece);
                }
                if !completion.more {
                    assert_eq!(completion.result, Err(Errno::NoBuffers));
                    scarce += 1;
                    ring.submit_recv(Direct(0), completion.token);
                }
            }
        }
        assert!(got == data);
        assert!(scarce > 0, "four buffers of 4 KiB can't hold it all");
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn a_send_now_that_goes_whole_leaves_no_trace() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        let mut incomplete = Vec::new();
        let send = SendNow { socket: Direct(0), bytes: b"hello", token: Token::new(Op::Reply, 3, 0) };
        ring.send_now([send].into_iter(), &mut incomplete);
        assert_eq!(incomplete, []);
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        assert_quiet(&mut ring);
    }

    #[test]
    fn a_full_socket_says_how_much_went_and_a_send_finishes_it() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        let frame = SharedFrame::new((0..8_000_000u32).map(|n| (n % 253) as u8).collect());
        let mut incomplete = Vec::new();
        let send = SendNow { socket: Direct(0), bytes: &frame, token: Token::new(Op::Publish, 7, 0) };
        ring.send_now([send].into_iter(), &mut incomplete);
        let went = incomplete.pop().unwrap();
        assert_eq!((went.token.op(), went.token.tag()), (Op::Publish, 7));
        let went = went.result.unwrap() as usize;
        assert!(0 < went && went < frame.len());
        ring.send_now([send].into_iter(), &mut incomplete);
        assert_eq!(incomplete.pop().unwrap().result, Err(Errno::WouldBlock));

        ring.submit_send(Direct(0), frame.clone(), went, token(Op::Send, 0));
        assert_quiet(&mut ring);
        let expected = frame.clone();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; expected.len()];
            peer.read_exact(&mut got).unwrap();
            assert!(got == *expected);
        });
        assert_eq!(next(&mut ring, Op::Send).result, Ok((frame.len() - went) as u32));
        assert!(ring.in_flight.is_empty(), "the frame came home");
        reader.join().unwrap();
    }

    #[test]
    fn sends_are_told_of_at_once_though_the_completion_queue_is_full() {
        let mut ring = uring();
        let nobody = RingAddress(-1);
        for slot in 0..COMPLETIONS + 2 * SUBMISSIONS {
            ring.submit_doorbell(&nobody, Token::new(Op::Doorbell, 0, slot));
        }
        let mut incomplete = Vec::new();
        let send = SendNow { socket: Direct(0), bytes: b"nobody there", token: Token::new(Op::Publish, 7, 0) };
        ring.send_now([send].into_iter(), &mut incomplete);
        let tokens: Vec<Token> = incomplete.iter().map(|completion| completion.token).collect();
        assert_eq!(tokens, [send.token]);
        let mut completions = Vec::new();
        ring.wait(SOON, &mut completions);
        let slots = completions.iter().map(|completion| completion.token.slot());
        assert!(slots.eq(0..COMPLETIONS + 2 * SUBMISSIONS), "each once and in order");
    }

    #[test]
    fn cancelled_receives_end_and_a_shutdown_is_seen_by_the_peer() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        ring.submit_recv(Direct(0), token(Op::Recv, 0));
        assert_quiet(&mut ring);
        ring.submit_cancel(token(Op::Recv, 0));
        let ended = next(&mut ring, Op::Recv);
        assert_eq!((ended.result, ended.more), (Err(Errno::Canceled), false));
        ring.submit_cancel(token(Op::Recv, 0));
        assert_quiet(&mut ring);

        ring.submit_recv(Direct(0), token(Op::Recv, 0));
        ring.submit_shutdown(Direct(0), token(Op::Shutdown, 0));
        assert_eq!(next(&mut ring, Op::Shutdown).result, Ok(0));
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        drop(peer);
        assert_eq!(next(&mut ring, Op::Recv).result, Ok(0));
    }

    #[test]
    fn doorbells_and_events_wake_a_waiting_ring() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (woke, rung) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let mut ring = uring();
            let event = Event::new().unwrap();
            ring.submit_watch(&event, Token::new(Op::Wake, 0, 0));
            sender.send((ring.address(), event.clone())).unwrap();
            assert_eq!(next(&mut ring, Op::Doorbell).token.slot(), 5);
            woke.send(()).unwrap();
            let woken = next(&mut ring, Op::Wake);
            assert!(woken.more);
            event.clear();
            assert_quiet(&mut ring);
        });
        let (address, event) = receiver.recv().unwrap();
        let mut ring = uring();
        ring.submit_doorbell(&address, Token::new(Op::Doorbell, 0, 5));
        assert_quiet(&mut ring);
        rung.recv().unwrap();
        event.notify();
        waiter.join().unwrap();
    }

    #[test]
    fn a_table_beyond_the_limit_names_the_remedy() {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let Some(descriptors) = limit.and_then(|limit| u32::try_from(limit + 1).ok()) else { return };
        let error = Uring::new(UringConfig { descriptors, recv_buffers: 1, recv_buffer_bytes: 4096 }).err().unwrap();
        assert!(error.to_string().contains("ulimit -n"), "{error}");
    }
}
