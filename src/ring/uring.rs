//! The real ring: one kernel ring, or several that act as one.
//!
//! The table of direct descriptors of a kernel ring holds at most `RLIMIT_NOFILE` sockets, so a [`Uring`] that is to
//! hold more is made of several **lanes**, each a kernel ring with a table of its own. A [`FixedFd`] says which lane
//! its socket is on; callers need not know. The first lane is the one that sleeps; the others ring a common bell when
//! something happens meanwhile, and are entered only where there is something to do. With one lane there is no bell
//! and no difference to a bare kernel ring.
//!
//! Connections fill one lane after the other, so that those accepted together are sent to together.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{DestinationSlot, Fd, Fixed};
use rustix::net::getpeername;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::lane::{Lane, LaneConfig};
use super::{ACCEPTS_MAX, Completion, Event, FixedFd, Op, Ring, SendNow, StartError, Token};
use crate::buf::{Received, SharedFrame};

/// Sends submitted with one system call. 64 to 512 measure alike; more gains nothing.
const SEND_BATCH: usize = 256;

/// Entries of the first lane's submission queue.
const SUBMISSIONS: u32 = 1024;

/// Entries of the first lane's completion queue. A turn posts some hundreds; the rest is room for a storm.
const COMPLETIONS: u32 = 16 * 1024;

/// The same of each other lane, which has a part of the sockets only.
const LANE_SUBMISSIONS: u32 = 512;
const LANE_COMPLETIONS: u32 = 4 * 1024;

/// Bytes of a receive buffer of each lane where there are several: there are more of them then, and a hundred lanes
/// that need no more than they begin with take some ten megabytes.
const LANE_RECV_BUFFER_BYTES: u32 = 16 * 1024;

/// Kernel rings that a ring is made of, at most. More sockets than these hold want a higher `RLIMIT_NOFILE`, as each
/// of them wants memory and a look in each turn.
pub const LANES_MAX: u32 = 256;

/// The kernel's own bound on a table of direct descriptors (`IORING_MAX_FIXED_FILES`).
pub const TABLE_MAX: u32 = 1 << 20;

/// How large a ring is to be.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Sockets it can hold. Where that is more than `RLIMIT_NOFILE` allows a kernel ring, several are used.
    pub descriptors: u32,
    /// Receive buffers at most, a power of two; a ring begins with one in 64 of them. Where there are several kernel
    /// rings, each has as many bytes of them, in smaller ones.
    pub recv_buffers: u16,
    /// Bytes of each.
    pub recv_buffer_bytes: u32,
}

/// What a wait is to gather before it returns: so many completions, if they come within so long of its beginning. After
/// that one is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    /// Completions.
    pub count: u32,
    /// Less than an hour.
    pub within: Duration,
}

impl Gather {
    /// Returns at once.
    pub(super) const NONE: Gather = Gather { count: 0, within: Duration::ZERO };
    /// Returns with the first.
    pub const FIRST: Gather = Gather { count: 1, within: Duration::ZERO };
}

/// Reaches a [`Uring`] from another one. Once that ring is gone, doorbells to it fail and nothing else happens.
#[derive(Clone, Copy, Debug)]
pub struct RingAddress(RawFd);

/// What io_uring is to a shard. It must be made and used on one thread (`IORING_SETUP_SINGLE_ISSUER`).
pub struct Uring {
    lanes: Vec<Lane>,
    /// Sockets of each lane.
    lane_descriptors: u32,
    /// No lane before this one had room when completions were last taken.
    lane_with_room: usize,
    /// What wakes the first lane when something happens on another. Only with several.
    bell: Option<Event>,
    accepted: Box<[Accepted]>,
    /// Completions that were taken from the kernel's queue, but not asked for yet.
    reaped: Vec<Completion>,
}

/// Where the kernel writes the address of a peer, by the tag of the accept.
struct Accepted {
    address: MaybeUninit<libc::sockaddr_storage>,
    len: libc::socklen_t,
}

/// How many sockets each of how many lanes holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Split {
    lanes: u32,
    descriptors: u32,
}

impl Split {
    /// Of `descriptors` in all, where a table holds `table_max`. `Err` is what it would have to hold.
    fn new(descriptors: u32, table_max: u32) -> Result<Split, u32> {
        let lanes = descriptors.div_ceil(table_max.max(1)).max(1);
        if lanes > LANES_MAX {
            return Err(descriptors.div_ceil(LANES_MAX));
        }
        Ok(Split { lanes, descriptors: descriptors.div_ceil(lanes) })
    }
}

impl Uring {
    /// Sets a ring up.
    ///
    /// # Errors
    /// [`StartError`], whose text names the remedy.
    pub fn new(config: UringConfig) -> Result<Uring, StartError> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Uring::with_table_max(config, u32::try_from(limit).unwrap_or(u32::MAX).min(TABLE_MAX))
    }

    /// How many kernel rings it is made of.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// [`Ring::wait`] that gathers several completions, so that one waking serves them all. Completions arrive up to
    /// `want.within` late, and only while fewer than `want.count` have come.
    pub fn wait_for(&mut self, want: Gather, timeout: Duration, completions: &mut Vec<Completion>) {
        let may_sleep = self.settle_others() && self.reaped.is_empty();
        self.lanes[0].enter(if may_sleep { want } else { Gather::NONE }, timeout);
        self.lanes[0].catch_up(&mut self.reaped);
        self.reap_others();
        self.lane_with_room = 0;
        completions.append(&mut self.reaped);
    }

    /// A ring whose tables hold `table_max` sockets each.
    fn with_table_max(config: UringConfig, table_max: u32) -> Result<Uring, StartError> {
        StartError::check_kernel()?;
        let split = Split::new(config.descriptors, table_max).map_err(StartError::TooManyFiles)?;
        let has_others = split.lanes > 1;
        let recv_buffer_bytes = match has_others {
            true => LANE_RECV_BUFFER_BYTES.min(config.recv_buffer_bytes),
            false => config.recv_buffer_bytes,
        };
        let recv_buffers = config.recv_buffers * (config.recv_buffer_bytes / recv_buffer_bytes) as u16;
        let lane = |number: u32| {
            Lane::new(LaneConfig {
                number: number as u16,
                first: FixedFd(number * split.descriptors),
                submissions: if number == 0 { SUBMISSIONS } else { LANE_SUBMISSIONS },
                completions: if number == 0 { COMPLETIONS } else { LANE_COMPLETIONS },
                descriptors: split.descriptors,
                recv_buffers,
                recv_buffer_bytes,
            })
        };
        let mut lanes = (0..split.lanes).map(lane).collect::<Result<Vec<Lane>, StartError>>()?;
        let bell = if has_others { Some(make_bell(&mut lanes[1..])?) } else { None };
        let accepted = (0..ACCEPTS_MAX).map(|_| Accepted { address: MaybeUninit::zeroed(), len: 0 }).collect();
        let lane_descriptors = split.descriptors;
        Ok(Uring { lanes, lane_descriptors, lane_with_room: 0, bell, accepted, reaped: Vec::new() })
    }

    /// Moves a connected socket into slot `socket` of the table of descriptors; the caller's descriptor is closed. Not
    /// for slots that an accept may take.
    ///
    /// # Errors
    /// If the slot lies outside the table.
    pub fn install(&mut self, fd: OwnedFd, socket: FixedFd) -> io::Result<()> {
        match self.lanes.get_mut((socket.0 / self.lane_descriptors) as usize) {
            Some(lane) => lane.install(fd.as_raw_fd(), socket),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// The lane of a socket, and where its completions go.
    fn lane(&mut self, socket: FixedFd) -> (&mut Lane, &mut Vec<Completion>) {
        (&mut self.lanes[(socket.0 / self.lane_descriptors) as usize], &mut self.reaped)
    }

    fn push(&mut self, socket: FixedFd, token: Token, entry: impl FnOnce(Fixed) -> Entry) {
        let (lane, reaped) = self.lane(socket);
        let entry = entry(lane.fixed(socket));
        lane.push(entry, token, reaped);
    }

    /// Queues what is about no socket of ours.
    fn push_first(&mut self, entry: Entry, token: Token) {
        self.lanes[0].push(entry, token, &mut self.reaped);
    }

    /// Before the first lane sleeps: hands the others' operations to the kernel. Returns whether it may sleep, having
    /// been told to wake up by the bell.
    fn settle_others(&mut self) -> bool {
        let Some(bell) = &self.bell else { return true };
        let (first, others) = self.lanes.split_first_mut().expect("there is a first lane");
        for lane in &mut *others {
            lane.submit(&mut self.reaped);
            lane.ring_bell(true);
        }
        // Either the kernel sees that the bell is to be rung, or we see what it has done before.
        fence(Ordering::SeqCst);
        if others.iter_mut().any(Lane::has_news) {
            return false;
        }
        first.listen_for(bell, &mut self.reaped);
        true
    }

    /// After the first lane was entered: takes what happened on the others.
    fn reap_others(&mut self) {
        for lane in &mut self.lanes[1..] {
            lane.ring_bell(false);
            lane.catch_up(&mut self.reaped);
        }
    }
}

/// A bell that each of `lanes` can ring.
fn make_bell(lanes: &mut [Lane]) -> Result<Event, StartError> {
    let bell = Event::blocking().map_err(|error| StartError::Other("making an eventfd", error))?;
    lanes.iter_mut().try_for_each(|lane| lane.register_bell(&bell))?;
    Ok(bell)
}

impl Ring for Uring {
    type Address = RingAddress;

    fn submit_accept(&mut self, listener: BorrowedFd<'_>, token: Token) {
        // Where no lane has room the last one says so.
        let has_room = self.lanes[self.lane_with_room..].iter().position(Lane::has_room);
        self.lane_with_room = has_room.map_or(self.lanes.len() - 1, |index| self.lane_with_room + index);
        let accepted = &mut self.accepted[token.tag() as usize];
        accepted.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let accept =
            opcode::Accept::new(Fd(listener.as_raw_fd()), accepted.address.as_mut_ptr().cast(), &mut accepted.len);
        let lane = &mut self.lanes[self.lane_with_room];
        lane.reserve_descriptor();
        lane.push(accept.file_index(Some(DestinationSlot::auto_target())).build(), token, &mut self.reaped);
    }

    fn accepted_from(&self, token: Token) -> IpAddr {
        let accepted = &self.accepted[token.tag() as usize];
        // SAFETY: it was zeroed when it was made, which is valid for all its fields; the kernel wrote an address over
        // that, and is done since the accept has completed, which the caller vouches for.
        ip_address(unsafe { accepted.address.assume_init_ref() })
    }

    fn peer(&mut self, socket: FixedFd) -> Option<SocketAddr> {
        let (lane, reaped) = self.lane(socket);
        let fd = lane.export(socket, Token::new(Op::Export, 0, 0), reaped)?;
        SocketAddr::try_from(getpeername(fd).ok()??).ok()
    }

    fn submit_recv(&mut self, socket: FixedFd, token: Token) {
        let (lane, reaped) = self.lane(socket);
        lane.push_recv(socket, token, reaped);
    }

    fn submit_recv_now(&mut self, socket: FixedFd, token: Token) {
        let (lane, reaped) = self.lane(socket);
        lane.push_recv_now(socket, token, reaped);
    }

    fn submit_recv_late(&mut self, socket: FixedFd, bytes_max: u32, token: Token) {
        let (lane, reaped) = self.lane(socket);
        lane.push_recv_late(socket, bytes_max, token, reaped);
    }

    fn submit_poll(&mut self, socket: FixedFd, token: Token) {
        self.push(socket, token, |socket| opcode::PollAdd::new(socket, libc::POLLIN as u32).build());
    }

    fn submit_send(&mut self, socket: FixedFd, frame: SharedFrame, skip: usize, token: Token) {
        let (lane, reaped) = self.lane(socket);
        lane.push_send(socket, frame, skip, token, reaped);
    }

    fn send_now<'a>(&mut self, sends: impl Iterator<Item = SendNow<'a>>, incomplete: &mut Vec<Completion>) {
        // Submits also when `sends` panics half-way, since queues then hold pointers to borrowed bytes.
        struct SubmitOnDrop<'r>(&'r mut Uring);
        impl Drop for SubmitOnDrop<'_> {
            fn drop(&mut self) {
                let with_sends = self.0.lanes.iter_mut().filter(|lane| lane.has_sends_queued());
                with_sends.for_each(|lane| lane.submit(&mut self.0.reaped));
            }
        }
        let guard = SubmitOnDrop(self);
        for send in sends {
            let (lane, reaped) = guard.0.lane(send.socket);
            if lane.push_send_now(&send, reaped) == SEND_BATCH {
                lane.submit_now(reaped, incomplete);
            }
        }
        let Uring { lanes, reaped, .. } = &mut *guard.0;
        let with_sends = lanes.iter_mut().filter(|lane| lane.has_sends_queued());
        with_sends.for_each(|lane| lane.submit_now(reaped, incomplete));
    }

    fn submit_shutdown(&mut self, socket: FixedFd, token: Token) {
        self.push(socket, token, |socket| opcode::Shutdown::new(socket, libc::SHUT_WR).build());
    }

    fn submit_close(&mut self, socket: FixedFd, token: Token) {
        self.push(socket, token, |socket| opcode::Close::new(socket).build());
    }

    fn submit_cancel(&mut self, socket: FixedFd, target: Token) {
        let (lane, reaped) = self.lane(socket);
        lane.push_cancel(target, reaped);
    }

    fn submit_cancel_accept(&mut self, target: Token) {
        // It may be on any lane.
        for lane in &mut self.lanes {
            lane.push_cancel(target, &mut self.reaped);
        }
    }

    fn submit_watch(&mut self, event: &Event, token: Token) {
        let poll = opcode::PollAdd::new(Fd(event.as_fd().as_raw_fd()), libc::POLLIN as u32).multi(true);
        self.push_first(poll.build(), token);
    }

    fn submit_doorbell(&mut self, target: &RingAddress, token: Token) {
        let message = opcode::MsgRingData::new(Fd(target.0), 0, token.to_bits(), None).build();
        self.push_first(message.flags(Flags::SKIP_SUCCESS), token);
    }

    fn address(&self) -> RingAddress {
        RingAddress(self.lanes[0].fd())
    }

    fn wait(&mut self, timeout: Duration, completions: &mut Vec<Completion>) {
        self.wait_for(Gather::FIRST, timeout, completions);
    }

    fn has_recv_buffers(&self, socket: FixedFd) -> bool {
        self.lanes[(socket.0 / self.lane_descriptors) as usize].has_recv_buffers()
    }

    fn now_us(&self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
    }

    fn rings(&self) -> usize {
        self.lanes()
    }

    fn overflows(&self) -> u64 {
        self.lanes.iter().map(Lane::overflows).sum()
    }

    fn received(&mut self, piece: &Received) -> &mut [u8] {
        self.lanes[usize::from(piece.ring())].received(piece)
    }

    fn release(&mut self, piece: Received) {
        self.lanes[usize::from(piece.ring())].release(piece);
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // All lanes before the memory that their operations may still write to.
        self.lanes.clear();
    }
}

/// The address that the kernel wrote.
fn ip_address(address: &libc::sockaddr_storage) -> IpAddr {
    let start: *const libc::sockaddr_storage = address;
    match i32::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what lies there, and a `sockaddr_storage` is large and aligned enough for any.
            let address = unsafe { &*start.cast::<libc::sockaddr_in>() };
            Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into()
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*start.cast::<libc::sockaddr_in6>() };
            Ipv6Addr::from(address.sin6_addr.s6_addr).into()
        }
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use socket2::SockRef;

    use super::super::Errno;
    use super::*;
    use crate::buf::{ConnId, SlotId};

    const SOON: Duration = Duration::from_millis(20);

    fn uring() -> Uring {
        Uring::new(UringConfig { descriptors: 64, recv_buffers: 4, recv_buffer_bytes: 4096 }).expect("io_uring")
    }

    fn token(op: Op, slot: u32) -> Token {
        Token::of_conn(op, ConnId { slot: SlotId(slot), generation: 1 })
    }

    /// A socket in slot 0 of `ring`, and its other end.
    fn connect(ring: &mut Uring) -> TcpStream {
        connect_at(ring, FixedFd(0))
    }

    fn connect_at(ring: &mut Uring, place: FixedFd) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        ring.install(socket.into(), place).unwrap();
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
        (0..3).for_each(|tag| ring.submit_accept(listener.as_fd(), Token::new(Op::Accept, tag, 0)));
        let mut peers = Vec::new();
        for _ in 0..3 {
            peers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let accepted = next(&mut ring, Op::Accept);
            assert!(!accepted.more);
            let slot = accepted.result.unwrap();
            ring.submit_recv(FixedFd(slot), token(Op::Recv, slot));
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
        ring.submit_close(FixedFd(2), token(Op::Close, 2));
        assert_eq!(next(&mut ring, Op::Close).result, Ok(0));
        assert_eq!(ring.peer(FixedFd(2)), None, "nobody is there any more");
        assert_quiet(&mut ring);
    }

    #[test]
    fn a_wait_gathers_what_comes_in_time_and_returns_with_less_when_that_is_over() {
        let mut ring = uring();
        let events = [Event::new().unwrap(), Event::new().unwrap()];
        (0..).zip(&events).for_each(|(slot, event)| ring.submit_watch(event, Token::new(Op::Doorbell, 0, slot)));
        let mut wait = |want, timeout| {
            let (start, mut completions) = (Instant::now(), Vec::new());
            ring.wait_for(want, timeout, &mut completions);
            (completions.len(), start.elapsed())
        };
        let (minute, gathering) = (Duration::from_secs(60), Duration::from_millis(50));
        let two_within = |within| Gather { count: 2, within };
        events[0].notify();
        let (count, took) = wait(two_within(gathering), minute);
        assert!(count == 1 && took >= gathering, "it was alone: {count}, {took:?}");
        let (count, took) = wait(two_within(SOON), gathering);
        assert!(count == 0 && took >= gathering, "nothing came: {count}, {took:?}");
        events.iter().for_each(Event::notify);
        let (count, took) = wait(two_within(minute), 2 * minute);
        assert!(count == 2 && took < minute, "both are there: {count}, {took:?}");
    }

    #[test]
    fn more_data_than_buffers_ends_the_receive_and_none_is_lost() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        let data: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
        let sent = data.clone();
        let sender = std::thread::spawn(move || peer.write_all(&sent).map(|()| peer));
        let (mut got, mut scarce, mut completions) = (Vec::new(), 0, Vec::new());
        ring.submit_recv(FixedFd(0), token(Op::Recv, 0));
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
                    ring.submit_recv(FixedFd(0), completion.token);
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
        let send = SendNow { socket: FixedFd(0), bytes: b"hello", is_last: false, token: Token::new(Op::Reply, 3, 0) };
        ring.send_now([send].into_iter(), &mut incomplete);
        assert_eq!(incomplete, []);
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        assert_quiet(&mut ring);
    }

    #[test]
    fn the_last_bytes_leave_when_the_socket_is_closed() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        let mut incomplete = Vec::new();
        let send = SendNow { socket: FixedFd(0), bytes: b"bye", is_last: true, token: Token::new(Op::Reply, 3, 0) };
        ring.send_now([send].into_iter(), &mut incomplete);
        assert_eq!(incomplete, []);
        ring.submit_close(FixedFd(0), token(Op::Close, 0));
        assert_eq!(next(&mut ring, Op::Close).result, Ok(0));
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"bye");
    }

    #[test]
    fn a_full_socket_says_how_much_went_and_a_send_finishes_it() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        let frame = SharedFrame::new((0..8_000_000u32).map(|n| (n % 253) as u8).collect());
        let mut incomplete = Vec::new();
        let send = SendNow { socket: FixedFd(0), bytes: &frame, is_last: false, token: Token::new(Op::Publish, 7, 0) };
        ring.send_now([send].into_iter(), &mut incomplete);
        let went = incomplete.pop().unwrap();
        assert_eq!((went.token.op(), went.token.tag()), (Op::Publish, 7));
        let went = went.result.unwrap() as usize;
        assert!(0 < went && went < frame.len());
        ring.send_now([send].into_iter(), &mut incomplete);
        assert_eq!(incomplete.pop().unwrap().result, Err(Errno::WouldBlock));

        ring.submit_send(FixedFd(0), frame.clone(), went, token(Op::Send, 0));
        assert_quiet(&mut ring);
        let expected = frame.clone();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; expected.len()];
            peer.read_exact(&mut got).unwrap();
            assert!(got == *expected);
        });
        assert_eq!(next(&mut ring, Op::Send).result, Ok((frame.len() - went) as u32));
        assert!(ring.lanes[0].frames_in_flight() == 0, "the frame came home");
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
        let send = SendNow {
            socket: FixedFd(0),
            bytes: b"nobody there",
            is_last: false,
            token: Token::new(Op::Publish, 7, 0),
        };
        ring.send_now([send].into_iter(), &mut incomplete);
        let tokens: Vec<Token> = incomplete.iter().map(|completion| completion.token).collect();
        assert_eq!(tokens, [send.token]);
        let mut completions = Vec::new();
        ring.wait(SOON, &mut completions);
        let slots = completions.iter().map(|completion| completion.token.slot().0);
        assert!(slots.eq(0..COMPLETIONS + 2 * SUBMISSIONS), "each once and in order");
    }

    #[test]
    fn a_late_receive_completes_behind_what_others_have_sent_by_then() {
        let mut ring = uring();
        let (mut eager, mut other) = (connect_at(&mut ring, FixedFd(0)), connect_at(&mut ring, FixedFd(1)));
        ring.submit_recv(FixedFd(1), token(Op::Recv, 1));
        assert_quiet(&mut ring);
        eager.write_all(b"much").unwrap();
        other.write_all(b"little").unwrap();
        ring.submit_recv_late(FixedFd(0), 3, token(Op::Recv, 0));
        let mut completions = Vec::new();
        while completions.len() < 2 {
            ring.wait(SOON, &mut completions);
        }
        for (received, (slot, expected, has_rest)) in
            completions.into_iter().zip([(1, &b"little"[..], false), (0, &b"muc"[..], true)])
        {
            assert_eq!((received.token.slot().0, received.has_rest), (slot, has_rest));
            let piece = received.received.unwrap();
            assert_eq!(ring.received(&piece), expected);
            ring.release(piece);
        }
    }

    #[test]
    fn cancelled_receives_end_and_a_shutdown_is_seen_by_the_peer() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        ring.submit_recv(FixedFd(0), token(Op::Recv, 0));
        assert_quiet(&mut ring);
        ring.submit_cancel(FixedFd(0), token(Op::Recv, 0));
        let ended = next(&mut ring, Op::Recv);
        assert_eq!((ended.result, ended.more), (Err(Errno::Canceled), false));
        ring.submit_cancel(FixedFd(0), token(Op::Recv, 0));
        assert_quiet(&mut ring);

        ring.submit_recv(FixedFd(0), token(Op::Recv, 0));
        ring.submit_shutdown(FixedFd(0), token(Op::Shutdown, 0));
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
            assert_eq!(next(&mut ring, Op::Doorbell).token.slot().0, 5);
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
    fn sockets_are_split_evenly_over_as_few_tables_as_hold_them() {
        let rows = [
            ((100, 100), Ok((1, 100))),
            ((101, 100), Ok((2, 51))),
            ((1_000_000, 20_000), Ok((50, 20_000))),
            ((0, 20_000), Ok((1, 0))),
            ((25_601, 100), Err(101)),
            ((5, 0), Ok((5, 1))),
        ];
        for ((descriptors, table_max), expected) in rows {
            let expected = expected.map(|(lanes, descriptors)| Split { lanes, descriptors });
            assert_eq!(Split::new(descriptors, table_max), expected, "{descriptors} in tables of {table_max}");
        }
    }

    #[test]
    fn more_than_all_tables_hold_names_the_remedy() {
        let config = UringConfig { descriptors: 10 * LANES_MAX, recv_buffers: 1, recv_buffer_bytes: 4096 };
        let error = Uring::with_table_max(config, 9).err().unwrap();
        assert!(error.to_string().contains("ulimit -n 10"), "{error}");
    }

    #[test]
    fn a_poll_completes_with_bytes_and_a_receive_brings_a_piece() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        ring.submit_poll(FixedFd(0), token(Op::Poll, 0));
        assert_quiet(&mut ring);
        peer.write_all(b"hello").unwrap();
        assert!(!next(&mut ring, Op::Poll).more);
        ring.submit_recv_now(FixedFd(0), token(Op::Recv, 0));
        let received = next(&mut ring, Op::Recv);
        assert!(!received.more && !received.has_rest);
        let piece = received.received.unwrap();
        assert_eq!(ring.received(&piece), b"hello");
        ring.release(piece);
        peer.write_all(b"world").unwrap();
        assert_quiet(&mut ring);
        ring.submit_poll(FixedFd(0), token(Op::Poll, 0));
        next(&mut ring, Op::Poll);
        for (bytes_max, expected, has_rest) in [(3, &b"wor"[..], true), (3, &b"ld"[..], false)] {
            ring.submit_recv_late(FixedFd(0), bytes_max, token(Op::Recv, 0));
            let received = next(&mut ring, Op::Recv);
            assert_eq!((received.more, received.has_rest), (false, has_rest));
            let piece = received.received.unwrap();
            assert_eq!(ring.received(&piece), expected);
            ring.release(piece);
        }
        ring.submit_poll(FixedFd(0), token(Op::Poll, 0));
        drop(peer);
        next(&mut ring, Op::Poll);
        ring.submit_recv_now(FixedFd(0), token(Op::Recv, 0));
        assert_eq!(next(&mut ring, Op::Recv).result, Ok(0));
    }

    #[test]
    fn a_receive_of_nothing_does_not_wait() {
        let mut ring = uring();
        let peer = connect(&mut ring);
        ring.submit_recv_now(FixedFd(0), token(Op::Recv, 0));
        let nothing = next(&mut ring, Op::Recv);
        assert_eq!((nothing.result, nothing.received), (Err(Errno::WouldBlock), None));
        drop(peer);
    }

    /// A piece of `expected` in one completion.
    fn assert_received(ring: &mut Uring, expected: &[u8]) {
        let received = next(ring, Op::Recv);
        let piece = received.received.unwrap_or_else(|| panic!("no bytes: {:?}", received.result));
        assert_eq!(ring.received(&piece), expected);
        ring.release(piece);
    }

    #[test]
    fn a_late_receive_waits_and_ends_once_when_it_is_cancelled() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        ring.submit_recv_late(FixedFd(0), 3, token(Op::Recv, 0));
        assert_quiet(&mut ring);
        peer.write_all(b"ab").unwrap();
        assert_received(&mut ring, b"ab");
        ring.submit_recv_late(FixedFd(0), 3, token(Op::Recv, 0));
        assert_quiet(&mut ring);
        ring.submit_cancel(FixedFd(0), token(Op::Recv, 0));
        assert_eq!(next(&mut ring, Op::Recv).result, Err(Errno::Canceled));
        assert_quiet(&mut ring);
        peer.write_all(b"cd").unwrap();
        ring.submit_recv_late(FixedFd(0), 3, token(Op::Recv, 0));
        assert_received(&mut ring, b"cd");
    }

    /// Kernel worker threads of this process.
    fn kernel_workers() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("iou-wrk")).count()
    }

    /// Takes what a late receive brought, and receives again.
    fn receive_late(ring: &mut Uring, completions: &mut Vec<Completion>, got: &mut Vec<u8>) {
        for completion in completions.drain(..) {
            if let Some(piece) = completion.received {
                got.extend_from_slice(ring.received(&piece));
                ring.release(piece);
            }
            ring.submit_recv_late(FixedFd(0), 2048, completion.token);
        }
    }

    #[test]
    fn urgent_bytes_move_no_receive_to_a_worker_and_no_byte_to_another_place() {
        let mut ring = uring();
        let (mut peer, mut other) = (connect_at(&mut ring, FixedFd(0)), connect_at(&mut ring, FixedFd(1)));
        let workers_before = kernel_workers();
        // The urgent bytes of this socket are not inline: each wakes the kernel, and may bring nothing to receive.
        ring.submit_recv_late(FixedFd(0), 2048, token(Op::Recv, 0));
        let (mut got, mut completions) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            SockRef::from(&peer).send_out_of_band(b"!").unwrap();
            ring.wait(Duration::from_millis(1), &mut completions);
            receive_late(&mut ring, &mut completions, &mut got);
        }
        peer.write_all(b"after").unwrap();
        while !got.ends_with(b"after") {
            ring.wait(SOON, &mut completions);
            receive_late(&mut ring, &mut completions, &mut got);
        }
        assert!(got[..got.len() - 5].iter().all(|byte| *byte == b'!'), "{got:?}");
        other.write_all(b"of another").unwrap();
        ring.submit_recv_late(FixedFd(1), 2048, token(Op::Recv, 1));
        assert_received(&mut ring, b"of another");
        assert_eq!(kernel_workers(), workers_before);
    }

    #[test]
    fn an_urgent_byte_that_is_not_read_moves_no_send_to_a_worker() {
        let mut ring = uring();
        let mut peer = connect(&mut ring);
        let workers_before = kernel_workers();
        SockRef::from(&peer).send_out_of_band(b"!").unwrap();
        let frame = SharedFrame::new((0..8_000_000u32).map(|n| (n % 253) as u8).collect());
        ring.submit_send(FixedFd(0), frame.clone(), 0, token(Op::Send, 0));
        for _ in 0..10 {
            assert_quiet(&mut ring);
        }
        assert_eq!(kernel_workers(), workers_before);
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; frame.len()];
            peer.read_exact(&mut got).unwrap();
            assert!(got == *frame);
        });
        assert_eq!(next(&mut ring, Op::Send).result, Ok(8_000_000));
        reader.join().unwrap();
    }

    #[test]
    fn a_waiting_send_that_is_cancelled_ends_once_and_returns_its_frame() {
        let mut ring = uring();
        let peer = connect(&mut ring);
        let frame = SharedFrame::new(vec![7; 8_000_000]);
        ring.submit_send(FixedFd(0), frame, 0, token(Op::Send, 0));
        assert_quiet(&mut ring);
        ring.submit_cancel(FixedFd(0), token(Op::Send, 0));
        let sent = next(&mut ring, Op::Send).result.unwrap();
        assert!(0 < sent && sent < 8_000_000, "{sent}");
        assert_quiet(&mut ring);
        assert_eq!(ring.lanes[0].frames_in_flight(), 0);
        ring.submit_send(FixedFd(0), SharedFrame::new(vec![7; 5]), 0, token(Op::Send, 0));
        ring.submit_cancel(FixedFd(0), token(Op::Send, 0));
        assert_eq!(next(&mut ring, Op::Send).result, Err(Errno::Canceled));
        drop(peer);
    }

    /// A ring of three lanes of two sockets each.
    fn lanes() -> Uring {
        let config = UringConfig { descriptors: 6, recv_buffers: 4, recv_buffer_bytes: 4096 };
        let ring = Uring::with_table_max(config, 2).expect("io_uring");
        assert_eq!(ring.lanes(), 3);
        ring
    }

    /// Six connections of three lanes, accepted, and their other ends.
    fn connect_lanes(ring: &mut Uring) -> Vec<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peers = (0..6).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
        for socket in 0..6 {
            ring.submit_accept(listener.as_fd(), Token::new(Op::Accept, 3, 0));
            assert_eq!(next(ring, Op::Accept).result, Ok(socket), "one lane after the other");
            assert_eq!(ring.accepted_from(Token::new(Op::Accept, 3, 0)), Ipv4Addr::LOCALHOST);
        }
        peers
    }

    #[test]
    fn lanes_act_as_one_ring() {
        let mut ring = lanes();
        let mut peers = connect_lanes(&mut ring);
        for (slot, peer) in (0..6).zip(&peers) {
            assert_eq!(ring.peer(FixedFd(slot)), peer.local_addr().ok());
        }
        (0..6).for_each(|slot| ring.submit_recv(FixedFd(slot), token(Op::Recv, slot)));
        assert_quiet(&mut ring);
        for (slot, peer) in (0..6).zip(&mut peers) {
            peer.write_all(&[slot as u8; 3]).unwrap();
            let received = next(&mut ring, Op::Recv);
            assert_eq!((received.token.slot().0, received.more), (slot, true));
            let piece = received.received.unwrap();
            assert_eq!(ring.received(&piece), [slot as u8; 3]);
            ring.release(piece);
        }
        let mut incomplete = Vec::new();
        let sends = (0..6).map(|slot| SendNow {
            socket: FixedFd(slot),
            bytes: b"all",
            is_last: false,
            token: token(Op::Publish, slot),
        });
        ring.send_now(sends, &mut incomplete);
        assert_eq!(incomplete, []);
        for peer in &mut peers {
            let mut got = [0; 3];
            peer.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"all");
        }
        ring.submit_send(FixedFd(5), SharedFrame::new(b"_last".to_vec()), 1, token(Op::Send, 5));
        assert_eq!(next(&mut ring, Op::Send).result, Ok(4));
        ring.submit_cancel(FixedFd(4), token(Op::Recv, 4));
        let ended = next(&mut ring, Op::Recv);
        assert_eq!((ended.token.slot().0, ended.result), (4, Err(Errno::Canceled)));
    }

    #[test]
    fn a_lane_that_has_slept_is_woken_by_any_other() {
        let mut ring = lanes();
        let peers = connect_lanes(&mut ring);
        (0..6).for_each(|slot| ring.submit_poll(FixedFd(slot), token(Op::Poll, slot)));
        assert_quiet(&mut ring);
        for slot in [5, 0, 3, 2, 4, 1] {
            let mut peer = peers[slot as usize].try_clone().unwrap();
            let (is_asleep, asleep) = std::sync::mpsc::channel();
            let writer = std::thread::spawn(move || {
                asleep.recv().unwrap();
                peer.write_all(b"wake up").unwrap();
            });
            is_asleep.send(()).unwrap();
            let mut completions = Vec::new();
            let start = std::time::Instant::now();
            while completions.is_empty() {
                ring.wait(Duration::from_secs(5), &mut completions);
                assert!(start.elapsed() < Duration::from_secs(4), "nobody rang the bell");
            }
            assert_eq!(completions[0].token, token(Op::Poll, slot));
            writer.join().unwrap();
        }
        drop(peers);
    }

    #[test]
    fn a_closed_connection_makes_room_on_its_lane() {
        let mut ring = lanes();
        let mut peers = connect_lanes(&mut ring);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        ring.submit_close(FixedFd(2), token(Op::Close, 2));
        assert_eq!(next(&mut ring, Op::Close).result, Ok(0));
        peers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        ring.submit_accept(listener.as_fd(), Token::new(Op::Accept, 0, 0));
        assert_eq!(next(&mut ring, Op::Accept).result, Ok(2));
        ring.submit_close(FixedFd(5), token(Op::Close, 5));
        next(&mut ring, Op::Close);
        ring.submit_accept(listener.as_fd(), Token::new(Op::Accept, 1, 0));
        assert_quiet(&mut ring);
        ring.submit_cancel_accept(Token::new(Op::Accept, 1, 0));
        assert_eq!(next(&mut ring, Op::Accept).result, Err(Errno::Canceled));
        peers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        ring.submit_accept(listener.as_fd(), Token::new(Op::Accept, 1, 0));
        assert_eq!(next(&mut ring, Op::Accept).result, Ok(5), "an accept that failed took nothing");
    }
}
