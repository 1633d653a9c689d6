//! One kernel ring of a [`Uring`](super::Uring): its queues, its table of descriptors, its receive buffers.
//!
//! It knows nothing of other lanes, but that one of them may sleep on behalf of the rest: then they ring a bell when
//! they have news, which that one listens for.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use super::{Completion, Direct, Errno, Event, Gather, Op, SendNow, StartError, Token};
use crate::buf::{Received, RecvRing, SharedFrame};

/// What the completion of listening for the bell has instead of a token. No token is 0.
const BELL: u64 = 0;

/// The only group of receive buffers.
const RECV_GROUP: u16 = 0;

/// One in so many receive buffers is offered from the start, the others when those are used up: most rings never need
/// them, and the kernel would touch all in turn.
const FIRST_BUFFERS_SHARE: u16 = 64;

/// `IOU_PBUF_RING_INC`: buffers are consumed incrementally.
const PBUF_RING_INC: u16 = 2;

/// `IORING_RECVSEND_POLL_FIRST`: a receive begins with a poll, even where something can be received at once: it takes
/// its place behind the operations of other sockets that can go on by then.
const RECV_POLL_FIRST: u16 = 1;

/// How often in a turn the kernel is asked to finish what it has put off.
const CATCH_UP_ROUNDS: usize = 8;

/// How large a lane is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneConfig {
    /// Which of the lanes it is: what its receive buffers are known by.
    pub(super) number: u16,
    /// Its first socket; the others follow.
    pub(super) first: Direct,
    /// Entries of the submission queue.
    pub(super) submissions: u32,
    /// Entries of the completion queue.
    pub(super) completions: u32,
    /// Sockets.
    pub(super) descriptors: u32,
    /// Receive buffers, a power of two.
    pub(super) recv_buffers: u16,
    /// Bytes of each.
    pub(super) recv_buffer_bytes: u32,
}

/// An io_uring instance.
pub(super) struct Lane {
    ring: IoUring,
    recv: RecvRing,
    first: Direct,
    /// Frames that the kernel is sending from, by the token of the send.
    in_flight: HashMap<u64, SharedFrame>,
    /// Descriptors that neither a connection has nor an accept may take.
    room: u32,
    /// Sends queued that end within the call.
    sends_queued: usize,
    /// The bell is rung when something happens.
    is_ringing: bool,
    /// Where the kernel puts what it read when the bell rang, which nobody wants to know.
    rung: Box<u64>,
    /// The kernel is to tell when the bell rings.
    is_listening: bool,
}

impl Lane {
    /// Sets a ring up.
    pub(super) fn new(config: LaneConfig) -> Result<Lane, StartError> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(config.completions)
            .build(config.submissions)
            .map_err(|error| StartError::diagnose("io_uring_setup", error))?;
        ring.submitter()
            .register_files_sparse(config.descriptors)
            .map_err(|error| StartError::diagnose("registering the table of descriptors", error))?;
        let in_use = (config.recv_buffers / FIRST_BUFFERS_SHARE).max(1);
        let recv = RecvRing::new(config.number, config.recv_buffers, in_use, config.recv_buffer_bytes);
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
        Ok(Lane {
            ring,
            recv,
            first: config.first,
            in_flight: HashMap::new(),
            room: config.descriptors,
            sends_queued: 0,
            is_ringing: true,
            rung: Box::new(0),
            is_listening: false,
        })
    }

    /// The ring's own descriptor.
    pub(super) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Moves a connected socket into slot `socket` of the table; the caller's descriptor stays open.
    pub(super) fn install(&mut self, fd: RawFd, socket: Direct) -> io::Result<()> {
        self.ring.submitter().register_files_update(self.fixed(socket).0, &[fd]).map(drop)
    }

    /// The socket as its own table numbers it.
    pub(super) fn fixed(&self, socket: Direct) -> Fixed {
        Fixed(socket.0 - self.first.0)
    }

    /// Whether a descriptor is free for an accept.
    pub(super) fn has_room(&self) -> bool {
        self.room > 0
    }

    /// An accept is submitted here, which may take a descriptor. It is free again when that fails, or the connection
    /// is closed.
    pub(super) fn reserve_descriptor(&mut self) {
        self.room = self.room.saturating_sub(1);
    }

    /// Queues an operation that borrows no memory, or memory that the ring owns until it completes.
    pub(super) fn push(&mut self, entry: Entry, token: Token, reaped: &mut Vec<Completion>) {
        self.push_entry(&entry.user_data(token.to_bits()), reaped);
    }

    fn push_entry(&mut self, entry: &Entry, reaped: &mut Vec<Completion>) {
        // SAFETY: what the entry points to outlives the operation: nothing for most; a frame kept in `in_flight` for
        // `push_send`; memory that the `Uring` owns for the address of an accept, and `rung` for the bell, until `drop`
        // has ended all operations; borrowed bytes for `push_send_now`, whose caller submits while they live.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit(reaped);
        }
    }

    /// Queues a send of all of `frame` after its first `skip` bytes, and keeps the frame until it ends.
    pub(super) fn push_send(
        &mut self,
        socket: Direct,
        frame: SharedFrame,
        skip: usize,
        token: Token,
        reaped: &mut Vec<Completion>,
    ) {
        let rest = &frame[skip..];
        let len = u32::try_from(rest.len()).expect("a frame is smaller than 4 GiB");
        let send = opcode::Send::new(self.fixed(socket), rest.as_ptr(), len);
        let send = send.flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        let previous = self.in_flight.insert(token.to_bits(), frame);
        assert!(previous.is_none(), "two sends at once on a socket");
        self.push(send.build(), token, reaped);
    }

    /// Queues a send of borrowed bytes, to be submitted while they live. Returns how many such are queued.
    pub(super) fn push_send_now(&mut self, send: &SendNow<'_>, reaped: &mut Vec<Completion>) -> usize {
        let len = u32::try_from(send.bytes.len()).expect("a send is smaller than 4 GiB");
        // With MSG_DONTWAIT the kernel copies what fits while it is submitted, and never looks at the bytes again.
        // With MSG_WAITALL, less than all counts as a failure, so that success needs no completion. With MSG_MORE the
        // bytes wait for what follows: where that is the end of the stream, one packet carries both.
        let more = if send.is_last { libc::MSG_MORE } else { 0 };
        let entry = opcode::Send::new(self.fixed(send.socket), send.bytes.as_ptr(), len)
            .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL | more)
            .build()
            .flags(Flags::SKIP_SUCCESS);
        self.push(entry, send.token, reaped);
        self.sends_queued += 1;
        self.sends_queued
    }

    /// Whether sends of borrowed bytes are queued.
    pub(super) fn has_sends_queued(&self) -> bool {
        self.sends_queued > 0
    }

    /// Queues a receive of many pieces.
    pub(super) fn push_recv(&mut self, socket: Direct, token: Token, reaped: &mut Vec<Completion>) {
        self.push(opcode::RecvMulti::new(self.fixed(socket), RECV_GROUP).build(), token, reaped);
    }

    /// Queues a receive of one piece, as long as the buffer has room for.
    pub(super) fn push_recv_once(&mut self, socket: Direct, token: Token, reaped: &mut Vec<Completion>) {
        let recv = opcode::Recv::new(self.fixed(socket), std::ptr::null_mut(), 0).buf_group(RECV_GROUP);
        self.push(recv.build().flags(Flags::BUFFER_SELECT), token, reaped);
    }

    /// Queues a receive of one piece, behind what other sockets can go on with.
    pub(super) fn push_recv_late(
        &mut self,
        socket: Direct,
        bytes_max: u32,
        token: Token,
        reaped: &mut Vec<Completion>,
    ) {
        let recv = opcode::Recv::new(self.fixed(socket), std::ptr::null_mut(), bytes_max).buf_group(RECV_GROUP);
        let entry = recv.ioprio(RECV_POLL_FIRST).build().flags(Flags::BUFFER_SELECT);
        self.push(entry, token, reaped);
    }

    /// Hands all queued operations to the kernel.
    pub(super) fn submit(&mut self, reaped: &mut Vec<Completion>) {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                // The completion queue is full, or the kernel is out of requests: take completions, then go on.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {
                    self.reap(reaped, None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("io_uring_enter refused a submission: {error}"),
            }
        }
        self.sends_queued = 0;
    }

    /// A descriptor of the process's own for `socket`, which stays where it is; `None` where there is no room for one.
    pub(super) fn export(&mut self, socket: Direct, token: Token, reaped: &mut Vec<Completion>) -> Option<OwnedFd> {
        let mut exported = Vec::new();
        self.push(opcode::FixedFdInstall::new(self.fixed(socket), 0).build(), token, reaped);
        // The kernel does this while it is submitted.
        self.submit_now(reaped, &mut exported);
        let fd = exported.pop()?.result.ok()?;
        // SAFETY: the kernel has just made this descriptor, and told nobody else of it.
        Some(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }

    /// Submits, then takes what completed, also what found the completion queue full and waits behind it: were the end
    /// of a send taken for that of a later one, the wrong bytes would be sent again.
    pub(super) fn submit_now(&mut self, reaped: &mut Vec<Completion>, ended: &mut Vec<Completion>) {
        self.submit(reaped);
        self.reap(reaped, Some(ended));
        while self.ring.submission().cq_overflow() {
            // Lets the kernel move what waits into the queue.
            let _ = self.ring.submit();
            self.reap(reaped, Some(ended));
        }
    }

    /// Submits what is queued, lets the kernel finish what it has put off, and waits until it has gathered what is
    /// wanted or `timeout` passed.
    pub(super) fn enter(&mut self, want: Gather, timeout: Duration) {
        let timespec = Timespec::from(timeout);
        let arguments = SubmitArgs::new().timespec(&timespec).min_wait_usec(want.within.as_micros() as u32);
        match self.ring.submitter().submit_with_args(want.count as usize, &arguments) {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // Time passed, a signal came, or completions must be taken first: the caller comes back.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => panic!("io_uring_enter refused to wait: {error}"),
            },
        }
    }

    /// Lets `bell` be rung when something happens here, while [`ring_bell`](Self::ring_bell) says so.
    pub(super) fn register_bell(&mut self, bell: &Event) -> Result<(), StartError> {
        let registered = self.ring.submitter().register_eventfd(bell.as_fd().as_raw_fd());
        self.ring_bell(false);
        registered.map_err(|error| StartError::diagnose("registering an eventfd", error))
    }

    /// Whether the bell is rung when something happens from now on. What happened before is
    /// [`has_news`](Self::has_news)'s to tell.
    pub(super) fn ring_bell(&mut self, is_ringing: bool) {
        if std::mem::replace(&mut self.is_ringing, is_ringing) == is_ringing {
            return;
        }
        let completions = self.ring.completion();
        if is_ringing { completions.enable_eventfd() } else { completions.disable_eventfd() }
    }

    /// Wakes up when `bell` is rung.
    pub(super) fn listen_for(&mut self, bell: &Event, reaped: &mut Vec<Completion>) {
        if !std::mem::replace(&mut self.is_listening, true) {
            let rung: *mut u64 = &mut *self.rung;
            let read = opcode::Read::new(Fd(bell.as_fd().as_raw_fd()), rung.cast(), size_of::<u64>() as u32);
            self.push_entry(&read.build().user_data(BELL), reaped);
        }
    }

    /// Whether something has happened that was not taken.
    pub(super) fn has_news(&mut self) -> bool {
        let submissions = self.ring.submission();
        let is_waiting = submissions.taskrun() || submissions.cq_overflow();
        drop(submissions);
        is_waiting || !self.ring.completion().is_empty()
    }

    /// Takes what completed. What ends at once goes to `ended` where one is given.
    pub(super) fn reap(&mut self, reaped: &mut Vec<Completion>, mut ended: Option<&mut Vec<Completion>>) {
        let mut was_scarce = false;
        for entry in self.ring.completion() {
            if entry.user_data() == BELL {
                self.is_listening = false;
                continue;
            }
            let token = Token::from_bits(entry.user_data());
            let mut result = u32::try_from(entry.result()).map_err(|_| Errno::from_raw(-entry.result()));
            let received = cqueue::buffer_select(entry.flags()).map(|buffer_id| {
                let last = !cqueue::buffer_more(entry.flags());
                self.recv.fill(buffer_id, result.unwrap_or(0), last)
            });
            match (token.op(), &mut result) {
                (Op::Accept, Ok(socket)) => *socket += self.first.0,
                (Op::Accept, Err(_)) | (Op::Close, Ok(_)) => self.room += 1,
                (Op::Send, _) => drop(self.in_flight.remove(&token.to_bits())),
                (Op::Recv, Err(Errno::NoBuffers)) => was_scarce = true,
                _ => {}
            }
            let (more, has_rest) = (cqueue::more(entry.flags()), cqueue::sock_nonempty(entry.flags()));
            let completion = Completion { token, result, more, received, has_rest };
            match (token.op(), &mut ended) {
                (Op::Cancel, _) => {}
                (Op::Reply | Op::Publish | Op::Export, Some(ended)) => ended.push(completion),
                _ => reaped.push(completion),
            }
        }
        if was_scarce {
            self.recv.grow();
        }
    }

    /// Takes what completed, and has the kernel finish what it has put off: it does some twenty operations each time it
    /// is asked, and a turn is worth more than that. Ends sooner or later, so that nobody waits for the end of a storm.
    pub(super) fn catch_up(&mut self, reaped: &mut Vec<Completion>) {
        self.reap(reaped, None);
        for _ in 0..CATCH_UP_ROUNDS {
            if !self.has_news() {
                return;
            }
            self.enter(Gather::NONE, Duration::ZERO);
            self.reap(reaped, None);
        }
    }

    /// The bytes of a received piece.
    pub(super) fn received(&mut self, piece: &Received) -> &mut [u8] {
        self.recv.bytes(piece)
    }

    /// Takes a piece back.
    pub(super) fn release(&mut self, piece: Received) {
        self.recv.release(piece);
    }

    /// Frames that the kernel is sending from.
    #[cfg(test)]
    pub(super) fn frames_in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // The kernel must not touch frames or receive buffers once their memory is freed. These steps fail only when
        // there is nothing to do. Polls, accepts and receives that wait are tried again only while a thread is in this
        // ring, which none will be: they end with it. To cancel those as well would take the kernel a look at all of
        // them for each of them.
        self.submit(&mut Vec::new());
        for token in self.in_flight.keys() {
            let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::user_data(*token));
        }
        let _ = self.ring.submitter().unregister_buf_ring(RECV_GROUP);
    }
}
