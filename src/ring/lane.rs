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

use super::{Completion, Errno, Event, FixedFd, Gather, Op, SendNow, StartError, Token};
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

/// Kernel worker threads of a ring at most, for files and for sockets. Only shutdowns run there, and they are short. A
/// receive or a send never does: it waits as a poll, which holds neither a thread nor a buffer.
const KERNEL_WORKERS_MAX: [u32; 2] = [4, 4];

/// Maximum number of times in a turn that the lane has the kernel finish postponed work.
const CATCH_UP_ROUNDS: usize = 8;

/// How large a lane is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneConfig {
    /// Which of the lanes it is: what its receive buffers are known by.
    pub(super) number: u16,
    /// Its first socket; the others follow.
    pub(super) first: FixedFd,
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

/// A send that may wait: the kernel takes what fits each time the socket has room.
struct WaitingSend {
    socket: FixedFd,
    frame: SharedFrame,
    /// Where the first byte of the send is in the frame.
    start: usize,
    /// Bytes of the frame that have left, those before `start` included.
    sent: usize,
    /// The shard has cancelled it: it ends with what has left.
    is_cancelled: bool,
}

/// An io_uring instance.
pub(super) struct Lane {
    ring: IoUring,
    recv: RecvRing,
    first: FixedFd,
    /// Sends that may wait, by token.
    in_flight: HashMap<u64, WaitingSend>,
    /// Those of them that the kernel has taken a part of.
    unfinished: Vec<Token>,
    /// Times that completions found the queue full.
    overflows: u64,
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
        ring.submitter()
            .register_iowq_max_workers(&mut KERNEL_WORKERS_MAX.clone())
            .map_err(|error| StartError::diagnose("bounding the kernel's worker threads", error))?;
        Ok(Lane {
            ring,
            recv,
            first: config.first,
            in_flight: HashMap::new(),
            unfinished: Vec::new(),
            overflows: 0,
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
    pub(super) fn install(&mut self, fd: RawFd, socket: FixedFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(self.fixed(socket).0, &[fd]).map(drop)
    }

    /// The socket as its own table numbers it.
    pub(super) fn fixed(&self, socket: FixedFd) -> Fixed {
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
        // SAFETY: what the entry points to outlives the operation: nothing for most; memory that the `Uring` owns for
        // the address of an accept, and `rung` for the bell, until `drop` has ended all operations; borrowed bytes for
        // `push_send_now`, whose caller submits while they live.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit(reaped);
        }
    }

    /// Queues a poll for `events`, and `entry` after it, which must never wait itself. The poll holds neither a buffer
    /// nor a worker thread, however long it takes; `entry` starts behind the operations of other sockets that can go on
    /// by then. Exactly one of the two completes: the poll if it fails or is cancelled, else `entry`.
    ///
    /// A receive or a send that waits by itself is retried on each wake-up, and urgent data of the peer wakes it as
    /// well; after 128 retries the kernel moves it to a worker thread, which consumes a whole receive buffer.
    fn push_after_poll(
        &mut self,
        socket: Fixed,
        events: i16,
        entry: Entry,
        token: Token,
        reaped: &mut Vec<Completion>,
    ) {
        let before = token.before().expect("receives and sends have a poll before them");
        let poll = opcode::PollAdd::new(socket, events as u32).build();
        let poll = poll.flags(Flags::IO_LINK | Flags::SKIP_SUCCESS).user_data(before.to_bits());
        let pair = [poll, entry.user_data(token.to_bits())];
        // SAFETY: a poll points to nothing; `entry` to nothing (a receive), or into a frame that `in_flight` keeps
        // until the send completes. Both are queued together, so that no submission cuts the link between them.
        while unsafe { self.ring.submission().push_multiple(&pair) }.is_err() {
            self.submit(reaped);
        }
    }

    /// Queues a send of all of `frame` after its first `skip` bytes, and keeps the frame until it ends.
    pub(super) fn push_send(
        &mut self,
        socket: FixedFd,
        frame: SharedFrame,
        skip: usize,
        token: Token,
        reaped: &mut Vec<Completion>,
    ) {
        let send = WaitingSend { socket, frame, start: skip, sent: skip, is_cancelled: false };
        let previous = self.in_flight.insert(token.to_bits(), send);
        assert!(previous.is_none(), "two sends at once on a socket");
        self.continue_send(token, reaped);
    }

    /// Has the kernel take the next bytes of a waiting send once the socket has room.
    fn continue_send(&mut self, token: Token, reaped: &mut Vec<Completion>) {
        let send = &self.in_flight[&token.to_bits()];
        let socket = self.fixed(send.socket);
        let rest = &send.frame[send.sent..];
        let len = u32::try_from(rest.len()).expect("a frame is smaller than 4 GiB");
        let entry = opcode::Send::new(socket, rest.as_ptr(), len).flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        self.push_after_poll(socket, libc::POLLOUT, entry.build(), token, reaped);
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
    pub(super) fn push_recv(&mut self, socket: FixedFd, token: Token, reaped: &mut Vec<Completion>) {
        self.push(opcode::RecvMulti::new(self.fixed(socket), RECV_GROUP).build(), token, reaped);
    }

    /// Queues a receive of what is there: one piece, as long as the buffer has room for.
    pub(super) fn push_recv_now(&mut self, socket: FixedFd, token: Token, reaped: &mut Vec<Completion>) {
        let entry = self.recv_entry(socket, 0);
        self.push(entry, token, reaped);
    }

    /// Queues a receive of one piece that waits for it, behind what other sockets can go on with.
    pub(super) fn push_recv_late(
        &mut self,
        socket: FixedFd,
        bytes_max: u32,
        token: Token,
        reaped: &mut Vec<Completion>,
    ) {
        let entry = self.recv_entry(socket, bytes_max);
        self.push_after_poll(self.fixed(socket), libc::POLLIN, entry, token, reaped);
    }

    /// A receive that never waits, so that it never holds a buffer.
    fn recv_entry(&self, socket: FixedFd, bytes_max: u32) -> Entry {
        let recv = opcode::Recv::new(self.fixed(socket), std::ptr::null_mut(), bytes_max).buf_group(RECV_GROUP);
        recv.flags(libc::MSG_DONTWAIT).build().flags(Flags::BUFFER_SELECT)
    }

    /// Queues the end of the operation of `socket` with this token, and of the poll before it.
    pub(super) fn push_cancel(&mut self, target: Token, reaped: &mut Vec<Completion>) {
        if let Some(send) = self.in_flight.get_mut(&target.to_bits()) {
            send.is_cancelled = true;
        }
        for target in [Some(target), target.before()].into_iter().flatten() {
            let cancel = opcode::AsyncCancel::new(target.to_bits()).build().flags(Flags::SKIP_SUCCESS);
            self.push(cancel, Token::of_slot(Op::Cancel, 0, target.slot()), reaped);
        }
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
    pub(super) fn export(&mut self, socket: FixedFd, token: Token, reaped: &mut Vec<Completion>) -> Option<OwnedFd> {
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

    /// Times that completions found the queue full.
    pub(super) fn overflows(&self) -> u64 {
        self.overflows
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
            // Where the poll before an operation fails, the kernel drops the operation without a completion.
            let token = token.after().unwrap_or(token);
            let mut result = u32::try_from(entry.result()).map_err(|_| Errno::from_raw(-entry.result()));
            let received = cqueue::buffer_select(entry.flags()).map(|buffer_id| {
                let last = !cqueue::buffer_more(entry.flags());
                self.recv.fill(buffer_id, result.unwrap_or(0), last)
            });
            match (token.op(), &mut result) {
                (Op::Accept, Ok(socket)) => *socket += self.first.0,
                (Op::Accept, Err(_)) | (Op::Close, Ok(_)) => self.room += 1,
                (Op::Recv, Err(Errno::NoBuffers)) => was_scarce = true,
                (Op::Send, _) => match on_send(&mut self.in_flight, token, result) {
                    Some(outcome) => result = outcome,
                    None => {
                        self.unfinished.push(token);
                        continue;
                    }
                },
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
        if self.ring.submission().cq_overflow() {
            self.overflows += 1;
        } else {
            self.recv.check_against_kernel();
        }
        if was_scarce {
            self.recv.grow();
        }
        while let Some(token) = self.unfinished.pop() {
            self.continue_send(token, reaped);
        }
    }

    /// Takes what completed, and has the kernel finish what it has put off: it does some twenty operations in each
    /// call, and a turn is worth more than that. Ends sooner or later, so that nobody waits for the end of a storm.
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

    /// Whether the kernel has a receive buffer left.
    pub(super) fn has_recv_buffers(&self) -> bool {
        self.recv.has_offered()
    }

    /// Frames that the kernel is sending from.
    #[cfg(test)]
    pub(super) fn frames_in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

/// The kernel has taken bytes of a waiting send, or could not. The outcome of the send if it has ended.
fn on_send(
    in_flight: &mut HashMap<u64, WaitingSend>,
    token: Token,
    result: Result<u32, Errno>,
) -> Option<Result<u32, Errno>> {
    let send = in_flight.get_mut(&token.to_bits()).expect("a send is known until it has ended");
    send.sent += result.unwrap_or(0) as usize;
    let is_whole = send.sent == send.frame.len();
    let may_continue = matches!(result, Ok(_) | Err(Errno::WouldBlock | Errno::Interrupted)) && !send.is_cancelled;
    if may_continue && !is_whole {
        return None;
    }
    let sent = (send.sent - send.start) as u32;
    in_flight.remove(&token.to_bits());
    // A send that ends early completes with what has left; the error shows only where nothing has.
    Some(if sent > 0 { Ok(sent) } else { result.and(Err(Errno::Canceled)) })
}

impl Drop for Lane {
    fn drop(&mut self) {
        // The kernel must not touch frames or receive buffers once their memory is freed. These steps fail only when
        // there is nothing to do. Polls, accepts and receives that wait are tried again only while a thread is in this
        // ring, which none will be: they end with it. To cancel those as well would take the kernel a look at all of
        // them for each of them.
        self.submit(&mut Vec::new());
        // A send that waits is a poll, and none is retried after that.
        for token in self.in_flight.keys() {
            let before = Token::from_bits(*token).before().expect("a send has a poll before it");
            let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::user_data(before.to_bits()));
        }
        let _ = self.ring.submitter().unregister_buf_ring(RECV_GROUP);
    }
}
