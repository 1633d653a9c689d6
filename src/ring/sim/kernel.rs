//! The simulated kernel: virtual time, the network, and what several rings have in common.
//!
//! Everything happens in one queue of events, in the order of virtual time and of scheduling; chance comes from one
//! seed. So the same seed is the same run. It never looks at a real clock and never waits.
//!
//! What must not happen panics here, with a sentence: this is half of the simulator's checkers.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use super::requests::Request;
use super::socket::{PeerState, Place, Socket};
use super::{Faults, Rng};
use crate::limits::TCP_USER_TIMEOUT_MS;
use crate::ring::{Errno, Event, FixedFd, Op, Token};

/// The kernel that several [`SimRing`](super::SimRing)s and peers share. Clones are the same kernel.
#[derive(Clone)]
pub struct SimKernel(pub(super) Rc<RefCell<Kernel>>);

/// A connection, as its peer knows it. Never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub usize);

/// What the world outside the kernel has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The shard with this ring wakes up, and takes a turn.
    Turn(usize),
    /// Something is new for this peer: bytes, room, or an end.
    Peer(PeerId),
    /// A timer of the world itself.
    Timer(u64),
}

/// What a peer can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRead {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing now.
    Nothing,
    /// The shard has ended its half of the stream, and everything was read.
    End,
    /// The connection was reset.
    Reset,
}

/// The operations of one socket that the shard has not heard the end of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations {
    /// The kernel holds a receive, or a poll for one.
    pub recv: bool,
    /// The kernel holds a send.
    pub send: bool,
    /// Receives and sends that wait to be submitted.
    pub queued: usize,
    /// A shutdown is with a worker thread.
    pub shutdown: bool,
    /// Operations that have ended, of which the shard has not been told.
    pub unreaped: usize,
    /// The kernel holds a receive, a poll or a send of which no cancellation waits to be submitted.
    pub uncancelled: bool,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A connection reaches its listener.
    Arrive(usize),
    Accept(usize),
    Recv(usize),
    Send(usize),
    Move(usize, Way),
    /// The peer's reset reaches the shard's end.
    PeerReset(usize),
    /// The shard's reset reaches the peer's end.
    ShardReset(usize),
    /// Nothing has been acknowledged for too long.
    GiveUp(usize),
    /// The end of the shard's half: ring, descriptor and token.
    Shutdown(usize, u32, u64),
    Closed(usize, u64),
    Doorbell {
        from: usize,
        to: usize,
        token: u64,
    },
    Turn(usize, u64),
    Peer(usize),
    Timer(u64),
}

/// A completion on its way to a shard.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) token: Token,
    pub(super) result: Result<u32, Errno>,
    pub(super) more: bool,
    /// Bytes of a receive: the buffer, what was put there, and whether that used it up.
    pub(super) piece: Option<(u16, Vec<u8>, bool)>,
    /// There is more to receive.
    pub(super) has_rest: bool,
    /// The connection that waits for its operation's end.
    pub(super) socket: Option<usize>,
    /// The connection that was accepted.
    pub(super) accepted: Option<usize>,
}

/// A piece that the shard has and has not given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lent {
    pub(super) address: usize,
    pub(super) len: usize,
    pub(super) buffer_id: u16,
}

/// The kernel's side of one ring.
pub(super) struct RingState {
    pub(super) queued: Vec<Request>,
    pub(super) posted: VecDeque<Posted>,
    pub(super) descriptors: Vec<Option<usize>>,
    /// The accepts that wait, in order.
    pub(super) accepting: VecDeque<Token>,
    pub(super) accept_scheduled: bool,
    pub(super) backlog: VecDeque<usize>,
    pub(super) watch: Option<(Event, Token)>,
    /// Buffers that may be filled, in order, and how much of the first was.
    pub(super) offered: VecDeque<u16>,
    pub(super) used: u32,
    /// Buffers that were filled, and of which pieces are lent.
    pub(super) used_up: Vec<u16>,
    pub(super) lent: VecDeque<Lent>,
    /// When the shard's next turn is, and how many times that was changed.
    turn_at: Option<u64>,
    turn_version: u64,
    /// The shard is busy with its last turn until then.
    busy_until: u64,
    pub(super) is_gone: bool,
}

pub(super) struct Kernel {
    pub(super) now_us: u64,
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    /// By time, then by the order of scheduling.
    events: BTreeMap<(u64, u64), Work>,
    event_count: u64,
    pub(super) rings: Vec<RingState>,
    pub(super) sockets: Vec<Socket>,
    last_leap_us: Option<u64>,
    fingerprint: u64,
}

impl SimKernel {
    /// A kernel at time 0 with these faults.
    pub fn new(rng: Rng, faults: Faults) -> SimKernel {
        SimKernel(Rc::new(RefCell::new(Kernel {
            now_us: 0,
            rng,
            faults,
            events: BTreeMap::new(),
            event_count: 0,
            rings: Vec::new(),
            sockets: Vec::new(),
            last_leap_us: None,
            fingerprint: 0,
        })))
    }

    /// Goes on to the next thing that somebody outside has to deal with. `None`: nothing happens until `until_us`,
    /// which it then is.
    pub fn next(&self, until_us: u64) -> Option<Happening> {
        self.0.borrow_mut().next(until_us)
    }

    /// Microseconds of virtual time.
    pub fn now_us(&self) -> u64 {
        self.0.borrow().now_us
    }

    /// When time last leapt.
    pub fn last_leap_us(&self) -> Option<u64> {
        self.0.borrow().last_leap_us
    }

    /// A number that is the same for two runs only if the same happened at the same times.
    pub fn fingerprint(&self) -> u64 {
        self.0.borrow().fingerprint
    }

    /// How many things have happened.
    pub fn event_count(&self) -> u64 {
        self.0.borrow().event_count
    }

    /// From now on nothing goes wrong any more, and the network is quick. What exists keeps its size.
    pub fn calm(&self) {
        let kernel = &mut *self.0.borrow_mut();
        let calm = Faults::none();
        kernel.faults = Faults {
            delay_us_max: kernel.faults.delay_us_max.min(calm.delay_us_max),
            socket_bytes_max: kernel.faults.socket_bytes_max,
            recv_buffers: kernel.faults.recv_buffers,
            recv_buffer_bytes: kernel.faults.recv_buffer_bytes,
            descriptors: kernel.faults.descriptors,
            ..calm
        };
    }

    /// A timer for the world: `Timer(name)` happens after `delay_us`.
    pub fn set_timer(&self, delay_us: u64, name: u64) {
        let kernel = &mut *self.0.borrow_mut();
        kernel.schedule(delay_us, Work::Timer(name));
    }

    /// The shard with `ring` goes to sleep: what it queued reaches the kernel, and its next turn comes when something
    /// completes, or after `timeout`.
    pub fn sleep(&self, ring: usize, timeout: Duration) {
        let kernel = &mut *self.0.borrow_mut();
        kernel.enter(ring);
        let cost_us = kernel.rng.between(1, 20);
        let state = &mut kernel.rings[ring];
        state.busy_until = kernel.now_us + cost_us;
        state.turn_at = None;
        let timeout_us = if state.posted.is_empty() { timeout.as_micros() as u64 } else { 0 };
        let early = kernel.faults.wait_short;
        let timeout_us = if kernel.rng.chance(early) { kernel.rng.below(timeout_us + 1) } else { timeout_us };
        kernel.schedule_turn(ring, timeout_us);
    }

    /// Takes what completed: all of it, or as much as came out at once.
    pub(super) fn reap(&self, ring: usize) -> Vec<Posted> {
        let kernel = &mut *self.0.borrow_mut();
        kernel.enter(ring);
        let mut count = kernel.rings[ring].posted.len();
        if count > 0 && kernel.fails(|faults| faults.wait_short) {
            count = kernel.rng.below(count as u64 + 1) as usize;
        }
        let reaped: Vec<Posted> = kernel.rings[ring].posted.drain(..count).collect();
        for socket in reaped.iter().filter_map(|posted| posted.socket) {
            kernel.sockets[socket].unreaped -= 1;
        }
        reaped
    }

    /// A piece comes back.
    pub(super) fn take_back(&self, ring: usize, address: usize, len: usize) {
        let kernel = &mut *self.0.borrow_mut();
        let state = &mut kernel.rings[ring];
        let is_it = |lent: &Lent| (lent.address, lent.len) == (address, len);
        let index = state.lent.iter().position(is_it).expect("a receive buffer was given back that was not lent");
        let buffer_id = state.lent.remove(index).expect("it is there").buffer_id;
        let is_used_up = state.used_up.contains(&buffer_id);
        if is_used_up && state.lent.iter().all(|lent| lent.buffer_id != buffer_id) {
            state.used_up.retain(|other| *other != buffer_id);
            state.offered.push_back(buffer_id);
        }
    }

    /// Somebody may have notified an event: looks whether a ring watches it.
    pub fn look_at_events(&self) {
        let kernel = &mut *self.0.borrow_mut();
        (0..kernel.rings.len()).for_each(|ring| kernel.look_at_event(ring));
    }

    /// The ring is gone, with the process that had it: all its connections are reset.
    pub fn remove_ring(&self, ring: usize) {
        let kernel = &mut *self.0.borrow_mut();
        kernel.rings[ring].is_gone = true;
        // The real one submits what is queued before it ends. Nobody sees what comes of it, except for doorbells.
        for request in std::mem::take(&mut kernel.rings[ring].queued) {
            if let Request::Doorbell { to, token } = request {
                kernel.schedule(0, Work::Doorbell { from: ring, to, token: token.to_bits() });
            }
        }
        for socket in 0..kernel.sockets.len() {
            let entry = &mut kernel.sockets[socket];
            if entry.ring == ring && entry.place != Place::Gone {
                entry.place = Place::Gone;
                entry.is_harmed = true;
                (entry.recv, entry.poll, entry.send) = (None, None, None);
                kernel.reset_to_peer(socket);
            }
        }
    }

    /// Checks that a shard that serves nobody holds nothing.
    ///
    /// # Panics
    /// If it does.
    pub fn assert_nothing_is_held(&self, ring: usize) {
        let kernel = self.0.borrow();
        let state = &kernel.rings[ring];
        let open = state.descriptors.iter().flatten().count();
        assert_eq!(open, 0, "descriptors were not closed");
        assert!(state.lent.is_empty(), "receive buffers were not given back: {:?}", state.lent);
        assert_eq!(state.offered.len(), usize::from(kernel.faults.recv_buffers), "receive buffers were lost");
    }

    /// A peer begins to connect to the listener of `ring`.
    pub fn connect(&self, ring: usize) -> PeerId {
        let kernel = &mut *self.0.borrow_mut();
        let socket = kernel.sockets.len();
        kernel.sockets.push(Socket::new(ring, kernel.faults.socket_bytes_max));
        let delay_us = kernel.delay();
        kernel.schedule(delay_us, Work::Arrive(socket));
        PeerId(socket)
    }

    /// Writes what there is room for; returns how much that was.
    pub fn write(&self, peer: PeerId, bytes: &[u8]) -> usize {
        let kernel = &mut *self.0.borrow_mut();
        let socket = &mut kernel.sockets[peer.0];
        if socket.is_peer_reset || socket.peer != PeerState::Present {
            return 0;
        }
        let count = bytes.len().min(socket.up.room());
        socket.up.write(&bytes[..count]);
        kernel.schedule_move(peer.0, Way::Up);
        count
    }

    /// Reads at most `bytes_max`.
    pub fn read(&self, peer: PeerId, bytes_max: usize) -> PeerRead {
        let kernel = &mut *self.0.borrow_mut();
        let socket = &mut kernel.sockets[peer.0];
        let count = socket.down.available().min(bytes_max);
        if socket.peer != PeerState::Present {
            return PeerRead::Nothing;
        }
        if count > 0 {
            let bytes = socket.down.read(count);
            kernel.schedule_move(peer.0, Way::Down);
            return PeerRead::Bytes(bytes);
        }
        match (socket.down.available() == 0 && socket.down.is_at_end(), socket.is_peer_reset) {
            (true, _) => PeerRead::End,
            (false, true) => PeerRead::Reset,
            (false, false) => PeerRead::Nothing,
        }
    }

    /// Ends the peer's half of the stream.
    pub fn finish(&self, peer: PeerId) {
        let kernel = &mut *self.0.borrow_mut();
        kernel.sockets[peer.0].up.finish();
        kernel.schedule_move(peer.0, Way::Up);
    }

    /// Closes the peer's socket.
    pub fn close(&self, peer: PeerId) {
        let kernel = &mut *self.0.borrow_mut();
        kernel.sockets[peer.0].peer = PeerState::Closed;
        if kernel.sockets[peer.0].down.available() > 0 {
            // Closing with bytes unread resets the connection.
            kernel.reset_from_peer(peer.0);
        } else {
            kernel.sockets[peer.0].up.finish();
            kernel.schedule_move(peer.0, Way::Up);
        }
    }

    /// Resets the connection.
    pub fn reset(&self, peer: PeerId) {
        let kernel = &mut *self.0.borrow_mut();
        kernel.sockets[peer.0].peer = PeerState::Closed;
        kernel.reset_from_peer(peer.0);
    }

    /// Cuts the peer off without a word.
    pub fn vanish(&self, peer: PeerId) {
        let kernel = &mut *self.0.borrow_mut();
        kernel.sockets[peer.0].peer = PeerState::Vanished;
        kernel.schedule(TCP_USER_TIMEOUT_MS * 1000, Work::GiveUp(peer.0));
    }

    /// Bytes that somebody has sent on this connection and nobody has taken.
    pub fn bytes_on_their_way(&self, peer: PeerId) -> usize {
        let socket = &self.0.borrow().sockets[peer.0];
        [&socket.up, &socket.down].iter().map(|stream| stream.leaving() + stream.available()).sum()
    }

    /// The address that a connection comes from: each from one of its own.
    pub(super) fn address(socket: usize) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + socket as u32).into()
    }

    /// Sockets that a ring holds.
    pub fn descriptors(&self) -> usize {
        self.0.borrow().faults.descriptors as usize
    }

    /// Whether a fault was injected that ended this connection.
    pub fn is_harmed(&self, peer: PeerId) -> bool {
        self.0.borrow().sockets[peer.0].is_harmed
    }

    /// Whether the shard has closed its end.
    pub fn is_closed(&self, peer: PeerId) -> bool {
        self.0.borrow().sockets[peer.0].place == Place::Gone
    }

    /// The operations of the socket with this descriptor.
    pub fn operations(&self, ring: usize, descriptor: FixedFd) -> Operations {
        let kernel = self.0.borrow();
        let state = &kernel.rings[ring];
        let socket = state.descriptors[descriptor.0 as usize].expect("a shard's connection has its descriptor");
        let queued = state.queued.iter().filter(|request| request.is_on(descriptor)).count();
        let socket = &kernel.sockets[socket];
        let held = [socket.recv.map(|recv| recv.token), socket.poll, socket.send.as_ref().map(|waiting| waiting.token)];
        let is_cancelled = |token: Token| state.queued.iter().any(|request| request.cancels(token));
        Operations {
            recv: socket.recv.is_some() || socket.poll.is_some(),
            send: socket.send.is_some(),
            shutdown: socket.is_shutting,
            queued,
            unreaped: socket.unreaped as usize,
            uncancelled: held.into_iter().flatten().any(|token| !is_cancelled(token)),
        }
    }

    /// The accepts of a ring that its shard has not heard the end of.
    pub fn accepts(&self, ring: usize) -> usize {
        let kernel = self.0.borrow();
        let state = &kernel.rings[ring];
        let queued = state.queued.iter().filter(|request| matches!(request, Request::Accept { .. })).count();
        let ended = state.posted.iter().filter(|posted| posted.token.op() == Op::Accept).count();
        queued + state.accepting.len() + ended
    }

    /// Connections that wait to be accepted by a ring.
    pub fn backlog(&self, ring: usize) -> usize {
        self.0.borrow().rings[ring].backlog.len()
    }
}

impl Kernel {
    pub(super) fn add_ring(&mut self) -> usize {
        self.rings.push(RingState {
            queued: Vec::new(),
            posted: VecDeque::new(),
            descriptors: vec![None; self.faults.descriptors as usize],
            accepting: VecDeque::new(),
            accept_scheduled: false,
            backlog: VecDeque::new(),
            watch: None,
            offered: (0..self.faults.recv_buffers).collect(),
            used: 0,
            used_up: Vec::new(),
            lent: VecDeque::new(),
            turn_at: None,
            turn_version: 0,
            busy_until: 0,
            is_gone: false,
        });
        self.rings.len() - 1
    }

    fn next(&mut self, until_us: u64) -> Option<Happening> {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= until_us) {
            let ((at_us, number), work) = entry.remove_entry();
            self.now_us = self.now_us.max(at_us);
            self.leap_perhaps();
            self.note(number);
            if let Some(happening) = self.work(work) {
                return Some(happening);
            }
        }
        self.now_us = self.now_us.max(until_us);
        None
    }

    fn leap_perhaps(&mut self) {
        if self.faults.leaps_per_million > 0 && self.rng.below(1_000_000) < u64::from(self.faults.leaps_per_million) {
            self.now_us += self.rng.choose(&[1_000, 100_000, 5_000_000, 70_000_000]);
            self.last_leap_us = Some(self.now_us);
        }
    }

    fn note(&mut self, number: u64) {
        let mixed = (self.fingerprint ^ self.now_us ^ number.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.fingerprint = mixed ^ (mixed >> 29);
    }

    fn work(&mut self, work: Work) -> Option<Happening> {
        match work {
            Work::Arrive(socket) => self.arrive(socket),
            Work::Accept(ring) => self.accept(ring),
            Work::Recv(socket) => self.recv(socket),
            Work::Send(socket) => self.send(socket),
            Work::Move(socket, way) => self.carry(socket, way),
            Work::PeerReset(socket) => self.peer_reset(socket),
            Work::ShardReset(socket) => {
                self.sockets[socket].is_peer_reset = true;
                self.wake_peer(socket);
            }
            Work::GiveUp(socket) => self.give_up(socket),
            Work::Shutdown(ring, descriptor, token) => {
                self.shutdown(ring, FixedFd(descriptor), Token::from_bits(token));
            }
            Work::Closed(ring, token) => self.post(ring, Posted::of(Token::from_bits(token), Ok(0))),
            Work::Doorbell { from, to, token } => self.doorbell(from, to, Token::from_bits(token)),
            Work::Turn(ring, version) => return self.turn(ring, version),
            Work::Peer(socket) => {
                self.sockets[socket].scheduled.peer = false;
                return Some(Happening::Peer(PeerId(socket)));
            }
            Work::Timer(name) => return Some(Happening::Timer(name)),
        }
        None
    }

    pub(super) fn schedule(&mut self, delay_us: u64, work: Work) {
        self.event_count += 1;
        self.events.insert((self.now_us + delay_us, self.event_count), work);
    }

    /// How long something takes: mostly short, sometimes long.
    pub(super) fn delay(&mut self) -> u64 {
        let max = self.faults.delay_us_max;
        if self.rng.chance(700) { self.rng.below(max / 10 + 1) } else { self.rng.below(max + 1) }
    }

    pub(super) fn fails(&mut self, rate: impl FnOnce(&Faults) -> u32) -> bool {
        let rate = rate(&self.faults);
        self.rng.chance(rate)
    }

    /// Puts a completion into the ring's queue, and wakes the shard.
    pub(super) fn post(&mut self, ring: usize, posted: Posted) {
        if self.rings[ring].is_gone {
            return;
        }
        if let Some(socket) = posted.socket {
            self.sockets[socket].unreaped += 1;
        }
        self.rings[ring].posted.push_back(posted);
        let delay_us = self.delay();
        self.schedule_turn(ring, delay_us);
    }

    fn schedule_turn(&mut self, ring: usize, delay_us: u64) {
        let state = &mut self.rings[ring];
        let at_us = (self.now_us + delay_us).max(state.busy_until);
        if state.is_gone || state.turn_at.is_some_and(|turn_at| turn_at <= at_us) {
            return;
        }
        state.turn_at = Some(at_us);
        state.turn_version += 1;
        let version = state.turn_version;
        self.schedule(at_us - self.now_us, Work::Turn(ring, version));
    }

    fn turn(&mut self, ring: usize, version: u64) -> Option<Happening> {
        let state = &mut self.rings[ring];
        if state.turn_version != version || state.is_gone {
            return None;
        }
        state.turn_at = None;
        Some(Happening::Turn(ring))
    }

    fn doorbell(&mut self, from: usize, to: usize, token: Token) {
        if self.rings[to].is_gone {
            self.post(from, Posted::of(token, Err(Errno::Other(libc::EBADFD))));
        } else if self.fails(|faults| faults.doorbell_fails) {
            self.post(from, Posted::of(token, Err(Errno::NoBuffers)));
        } else {
            self.post(to, Posted::of(token, Ok(0)));
        }
    }

    fn arrive(&mut self, socket: usize) {
        let ring = self.sockets[socket].ring;
        if self.rings[ring].is_gone {
            self.sockets[socket].place = Place::Gone;
            self.sockets[socket].is_harmed = true;
            return self.reset_to_peer(socket);
        }
        self.sockets[socket].place = Place::InBacklog;
        self.rings[ring].backlog.push_back(socket);
        self.schedule_accept(ring);
    }

    /// Lets the peer look at its socket.
    pub(super) fn wake_peer(&mut self, socket: usize) {
        if !self.sockets[socket].scheduled.peer {
            self.sockets[socket].scheduled.peer = true;
            let delay_us = self.delay();
            self.schedule(delay_us, Work::Peer(socket));
        }
    }

    /// The network is to move what it can in one direction.
    pub(super) fn schedule_move(&mut self, socket: usize, way: Way) {
        let entry = &mut self.sockets[socket];
        let (stream, scheduled) = match way {
            Way::Up => (&entry.up, &mut entry.scheduled.up),
            Way::Down => (&entry.down, &mut entry.scheduled.down),
        };
        if *scheduled || entry.is_broken || entry.peer == PeerState::Vanished || !stream.can_move() {
            return;
        }
        *scheduled = true;
        let delay_us = self.delay();
        self.schedule(delay_us, Work::Move(socket, way));
    }

    fn carry(&mut self, socket: usize, way: Way) {
        let bytes_max = self.rng.len(self.faults.segment_bytes_max);
        let entry = &mut self.sockets[socket];
        let (stream, scheduled) = match way {
            Way::Up => (&mut entry.up, &mut entry.scheduled.up),
            Way::Down => (&mut entry.down, &mut entry.scheduled.down),
        };
        *scheduled = false;
        if entry.is_broken || entry.peer == PeerState::Vanished {
            return;
        }
        stream.carry(bytes_max);
        match way {
            Way::Up if entry.place == Place::Gone && entry.up.available() > 0 => self.reset_to_peer(socket),
            Way::Up => {
                self.schedule_recv(socket);
                self.wake_peer(socket);
            }
            Way::Down if entry.peer == PeerState::Closed && entry.down.available() > 0 => self.reset_from_peer(socket),
            Way::Down => {
                self.schedule_send(socket);
                self.wake_peer(socket);
            }
        }
        self.schedule_move(socket, way);
    }

    /// The peer's end sends a reset.
    fn reset_from_peer(&mut self, socket: usize) {
        self.sockets[socket].up.cut();
        let delay_us = self.delay();
        self.schedule(delay_us, Work::PeerReset(socket));
    }

    fn peer_reset(&mut self, socket: usize) {
        let entry = &self.sockets[socket];
        // A socket whose receiving half has ended already gets EPIPE.
        let error = if entry.up.is_finished() && entry.up.is_at_end() { Errno::Ended } else { Errno::Reset };
        self.break_socket(socket, error);
    }

    fn give_up(&mut self, socket: usize) {
        if self.sockets[socket].place == Place::Gone {
            return;
        }
        if self.sockets[socket].down.leaving() > 0 {
            self.break_socket(socket, Errno::PeerLost);
        } else {
            self.schedule(TCP_USER_TIMEOUT_MS * 1000, Work::GiveUp(socket));
        }
    }

    fn break_socket(&mut self, socket: usize, error: Errno) {
        let entry = &mut self.sockets[socket];
        if entry.is_broken {
            return;
        }
        entry.is_broken = true;
        entry.error = Some(error);
        entry.down.cut();
        self.schedule_recv(socket);
        self.schedule_send(socket);
    }

    /// The shard's end sends a reset.
    pub(super) fn reset_to_peer(&mut self, socket: usize) {
        let entry = &mut self.sockets[socket];
        entry.is_broken = true;
        entry.up.cut();
        entry.down.cut();
        let delay_us = self.delay();
        self.schedule(delay_us, Work::ShardReset(socket));
    }
}

impl Posted {
    /// The only completion of an operation that belongs to no socket.
    pub(super) fn of(token: Token, result: Result<u32, Errno>) -> Posted {
        Posted { token, result, more: false, piece: None, has_rest: false, socket: None, accepted: None }
    }
}
