//! What a shard asks of the simulated kernel, and what becomes of it.
//!
//! Each operation is a pair: what starts it when the ring is entered, and the work that goes on with it whenever bytes,
//! room or a connection come.

use std::collections::HashSet;

use rustix::event::{PollFd, PollFlags, poll};

use super::kernel::{Kernel, Posted, Way, Work};
use super::socket::{Place, WaitingRecv, WaitingSend};
use crate::buf::{ConnId, SharedFrame};
use crate::ring::{Completion, Errno, Event, FixedFd, SendNow, Token};

/// An operation that has not reached the kernel.
#[derive(Debug)]
pub(super) enum Request {
    Accept { token: Token },
    Recv { socket: FixedFd, recv: WaitingRecv },
    Poll { socket: FixedFd, token: Token },
    Send { socket: FixedFd, frame: SharedFrame, skip: usize, token: Token },
    Shutdown { socket: FixedFd, token: Token },
    Close { socket: FixedFd, token: Token },
    Cancel { target: Token },
    CancelAccept { target: Token },
    Watch { event: Event, token: Token },
    Doorbell { to: usize, token: Token },
}

impl Request {
    /// Whether this is an operation on `descriptor` that will complete.
    pub(super) fn is_on(&self, descriptor: FixedFd) -> bool {
        match self {
            Request::Recv { socket, .. }
            | Request::Poll { socket, .. }
            | Request::Send { socket, .. }
            | Request::Shutdown { socket, .. } => *socket == descriptor,
            _ => false,
        }
    }

    /// Whether this cancels the operation with this token.
    pub(super) fn cancels(&self, token: Token) -> bool {
        matches!(self, Request::Cancel { target } if *target == token)
    }
}

impl Kernel {
    /// The queued operations reach the kernel, in order.
    pub(super) fn enter(&mut self, ring: usize) {
        for request in std::mem::take(&mut self.rings[ring].queued) {
            self.start(ring, request);
        }
    }

    fn start(&mut self, ring: usize, request: Request) {
        match request {
            Request::Accept { token } => {
                let accepting = &mut self.rings[ring].accepting;
                assert!(!accepting.contains(&token), "two accepts of one name at once");
                accepting.push_back(token);
                self.schedule_accept(ring);
            }
            Request::Recv { socket, recv } => self.start_recv(ring, socket, recv),
            Request::Poll { socket, token } => self.start_poll(ring, socket, token),
            Request::Send { socket, frame, skip, token } => self.start_send(ring, socket, frame, skip, token),
            Request::Shutdown { socket, token } => self.start_shutdown(ring, socket, token),
            Request::Close { socket, token } => self.close_descriptor(ring, socket, token),
            Request::Cancel { target } => self.cancel(ring, target),
            Request::CancelAccept { target } => self.cancel_accept(ring, target),
            Request::Watch { event, token } => {
                let previous = self.rings[ring].watch.replace((event, token));
                assert!(previous.is_none(), "two watches of one event");
                self.look_at_event(ring);
            }
            Request::Doorbell { to, token } => {
                let delay_us = self.delay();
                self.schedule(delay_us, Work::Doorbell { from: ring, to, token: token.to_bits() });
            }
        }
    }

    /// The connection with this descriptor.
    fn open_socket(&self, ring: usize, socket: FixedFd, what: &str) -> usize {
        let open = self.rings[ring].descriptors.get(socket.0 as usize).copied().flatten();
        open.unwrap_or_else(|| panic!("a {what} on descriptor {}, which is closed", socket.0))
    }

    /// Checks that an operation belongs to the connection that has the descriptor now.
    fn check_owner(&mut self, socket: usize, id: ConnId) {
        let owner = *self.sockets[socket].owner.get_or_insert(id);
        assert_eq!(owner, id, "an operation on another connection's descriptor");
    }

    pub(super) fn schedule_accept(&mut self, ring: usize) {
        let state = &mut self.rings[ring];
        if !state.accept_scheduled && !state.accepting.is_empty() && !state.backlog.is_empty() {
            state.accept_scheduled = true;
            let delay_us = self.delay();
            self.schedule(delay_us, Work::Accept(ring));
        }
    }

    pub(super) fn accept(&mut self, ring: usize) {
        self.rings[ring].accept_scheduled = false;
        let state = &mut self.rings[ring];
        if state.backlog.is_empty() {
            return;
        }
        let Some(token) = state.accepting.pop_front() else { return };
        let accepted = self.accept_one(ring);
        let result = accepted.map(|(descriptor, _)| descriptor);
        let accepted = accepted.ok().map(|(_, socket)| socket);
        self.post(ring, Posted { accepted, ..Posted::of(token, result) });
        self.schedule_accept(ring);
    }

    /// The descriptor, and whose it is.
    fn accept_one(&mut self, ring: usize) -> Result<(u32, usize), Errno> {
        if self.fails(|faults| faults.accept_full) {
            return Err(Errno::TableFull);
        }
        if self.fails(|faults| faults.accept_fails) {
            return Err(Errno::Other(libc::EPERM));
        }
        let free: Vec<usize> = (0..self.rings[ring].descriptors.len())
            .filter(|index| self.rings[ring].descriptors[*index].is_none())
            .collect();
        assert!(!free.is_empty(), "a connection was accepted without a descriptor for it, and lost");
        let socket = self.rings[ring].backlog.pop_front().expect("looked at above");
        if self.fails(|faults| faults.accept_aborted) {
            self.sockets[socket].place = Place::Gone;
            self.sockets[socket].is_harmed = true;
            self.reset_to_peer(socket);
            return Err(Errno::Aborted);
        }
        let descriptor = if self.faults.descriptors_are_random { self.rng.choose(&free) } else { free[0] };
        self.rings[ring].descriptors[descriptor] = Some(socket);
        self.sockets[socket].place = Place::Open(descriptor as u32);
        Ok((descriptor as u32, socket))
    }

    fn start_recv(&mut self, ring: usize, socket: FixedFd, recv: WaitingRecv) {
        let socket = self.open_socket(ring, socket, "receive");
        self.check_owner(socket, recv.token.conn_id());
        let previous = self.sockets[socket].recv.replace(recv);
        assert!(previous.is_none(), "two receives at once on a socket");
        let is_late = recv.once_bytes_max.is_some() && !recv.is_now;
        if is_late && self.fails(|faults| faults.poll_early) {
            return self.end_recv(socket, Err(Errno::WouldBlock), None);
        }
        self.schedule_recv(socket);
    }

    fn start_poll(&mut self, ring: usize, socket: FixedFd, token: Token) {
        let socket = self.open_socket(ring, socket, "poll");
        self.check_owner(socket, token.conn_id());
        let previous = self.sockets[socket].poll.replace(token);
        assert!(previous.is_none(), "two polls at once of a socket");
        if self.fails(|faults| faults.poll_early) {
            return self.end_poll(socket, Ok(0));
        }
        self.schedule_recv(socket);
    }

    fn end_poll(&mut self, socket: usize, result: Result<u32, Errno>) {
        let entry = &mut self.sockets[socket];
        let (ring, token) = (entry.ring, entry.poll.take().expect("a poll that ends was there"));
        self.post(ring, Posted { socket: Some(socket), ..Posted::of(token, result) });
    }

    pub(super) fn schedule_recv(&mut self, socket: usize) {
        let entry = &mut self.sockets[socket];
        let is_awaited = entry.recv.is_some() || entry.poll.is_some();
        let is_due = entry.is_readable() || entry.recv.is_some_and(|recv| recv.is_now);
        if !entry.scheduled.recv && is_awaited && is_due {
            entry.scheduled.recv = true;
            let delay_us = self.delay();
            self.schedule(delay_us, Work::Recv(socket));
        }
    }

    pub(super) fn recv(&mut self, socket: usize) {
        self.sockets[socket].scheduled.recv = false;
        if self.sockets[socket].poll.is_some() && self.sockets[socket].is_readable() {
            self.end_poll(socket, Ok(1));
        }
        let pieces_max = self.rng.between(1, 4);
        for _ in 0..pieces_max {
            let entry = &self.sockets[socket];
            let Some(recv) = entry.recv else { return };
            if !entry.is_readable() {
                if recv.is_now {
                    self.end_recv(socket, Err(Errno::WouldBlock), None);
                }
                return;
            }
            if entry.up.available() > 0 { self.recv_piece(socket) } else { self.recv_end(socket) }
        }
        self.schedule_recv(socket);
    }

    fn recv_piece(&mut self, socket: usize) {
        let ring = self.sockets[socket].ring;
        let is_scarce = self.rings[ring].offered.is_empty() || self.fails(|faults| faults.recv_scarce);
        if is_scarce {
            return self.end_recv(socket, Err(Errno::NoBuffers), None);
        }
        if self.fails(|faults| faults.recv_interrupted) {
            return self.end_recv(socket, Err(Errno::Interrupted), None);
        }
        let WaitingRecv { token, once_bytes_max, .. } = self.sockets[socket].recv.expect("looked at by the caller");
        let room = (self.faults.recv_buffer_bytes - self.rings[ring].used).min(once_bytes_max.unwrap_or(u32::MAX));
        let mut count = self.sockets[socket].up.available().min(room as usize);
        if self.fails(|faults| faults.recv_short) {
            count = self.rng.len(count);
        }
        let bytes = self.sockets[socket].up.read(count);
        let piece = self.fill(ring, bytes);
        if once_bytes_max.is_some() || self.fails(|faults| faults.recv_ends) {
            self.end_recv(socket, Ok(count as u32), Some(piece));
        } else {
            let has_rest = self.sockets[socket].up.available() > 0;
            self.post(ring, Posted { more: true, piece: Some(piece), has_rest, ..Posted::of(token, Ok(count as u32)) });
        }
        // Room for the sender.
        self.schedule_move(socket, Way::Up);
    }

    /// Puts bytes into the buffer at the head.
    fn fill(&mut self, ring: usize, bytes: Vec<u8>) -> (u16, Vec<u8>, bool) {
        let state = &mut self.rings[ring];
        let buffer_id = *state.offered.front().expect("looked at by the caller");
        state.used += bytes.len() as u32;
        let last = state.used == self.faults.recv_buffer_bytes;
        if last {
            state.offered.pop_front();
            state.used = 0;
        }
        (buffer_id, bytes, last)
    }

    fn recv_end(&mut self, socket: usize) {
        let result = match self.sockets[socket].error.take() {
            Some(error) => Err(error),
            None => Ok(0),
        };
        self.end_recv(socket, result, None);
    }

    fn end_recv(&mut self, socket: usize, result: Result<u32, Errno>, piece: Option<(u16, Vec<u8>, bool)>) {
        let entry = &mut self.sockets[socket];
        let (ring, token) = (entry.ring, entry.recv.take().expect("a receive that ends was armed").token);
        let has_rest = result.is_ok() && entry.up.available() > 0;
        self.post(ring, Posted { piece, has_rest, socket: Some(socket), ..Posted::of(token, result) });
    }

    fn start_send(&mut self, ring: usize, socket: FixedFd, frame: SharedFrame, skip: usize, token: Token) {
        let socket = self.open_socket(ring, socket, "send");
        self.check_owner(socket, token.conn_id());
        assert!(skip < frame.len(), "a send of nothing");
        let previous = self.sockets[socket].send.replace(WaitingSend { token, frame, skip, sent: 0 });
        assert!(previous.is_none(), "two sends at once on a socket");
        let delay_us = self.delay();
        self.sockets[socket].scheduled.send = true;
        self.schedule(delay_us, Work::Send(socket));
    }

    pub(super) fn schedule_send(&mut self, socket: usize) {
        let entry = &mut self.sockets[socket];
        if !entry.scheduled.send && entry.send.is_some() {
            entry.scheduled.send = true;
            let delay_us = self.delay();
            self.schedule(delay_us, Work::Send(socket));
        }
    }

    pub(super) fn send(&mut self, socket: usize) {
        self.sockets[socket].scheduled.send = false;
        if self.sockets[socket].send.is_none() {
            return;
        }
        if let Some(error) = self.sockets[socket].take_send_error() {
            return self.end_send(socket, Some(error));
        }
        if self.fails(|faults| faults.send_fails) {
            self.sockets[socket].is_harmed = true;
            return self.end_send(socket, Some(Errno::NoBuffers));
        }
        let is_short = self.fails(|faults| faults.send_short);
        let entry = &mut self.sockets[socket];
        let waiting = entry.send.as_mut().expect("looked at above");
        let rest = &waiting.frame[waiting.skip + waiting.sent..];
        let mut count = rest.len().min(entry.down.room());
        if is_short && count > 0 {
            count = self.rng.len(count);
        }
        entry.down.write(&rest[..count]);
        waiting.sent += count;
        let is_whole = count == rest.len();
        self.schedule_move(socket, Way::Down);
        if is_whole {
            self.end_send(socket, None);
        } else if is_short {
            self.schedule_send(socket);
        }
    }

    /// A send that ends early completes with the bytes that had left; with the error only if none had.
    fn end_send(&mut self, socket: usize, error: Option<Errno>) {
        let entry = &mut self.sockets[socket];
        let waiting = entry.send.take().expect("a send that ends was there");
        let result = match error {
            Some(error) if waiting.sent == 0 => Err(error),
            _ => Ok(waiting.sent as u32),
        };
        let ring = entry.ring;
        self.post(ring, Posted { socket: Some(socket), ..Posted::of(waiting.token, result) });
    }

    /// Sends without waiting, all in one call.
    pub(super) fn send_now<'a>(
        &mut self,
        ring: usize,
        sends: impl Iterator<Item = SendNow<'a>>,
        incomplete: &mut Vec<Completion>,
    ) {
        let mut seen = HashSet::new();
        for SendNow { socket: descriptor, bytes, is_last, token } in sends {
            let socket = self.open_socket(ring, descriptor, "send");
            assert!(seen.insert(socket), "two sends for a socket in one call");
            let owner = self.sockets[socket].owner.expect("a socket is received from before it is sent to");
            assert_eq!(owner.slot, token.slot(), "a send on another connection's descriptor");
            assert!(self.sockets[socket].send.is_none(), "a send overtakes one that waits");
            let result = self.send_at_once(socket, bytes);
            if !is_last || result != Ok(bytes.len() as u32) {
                self.schedule_move(socket, Way::Down);
            }
            if result != Ok(bytes.len() as u32) {
                incomplete.push(Completion { token, result, more: false, received: None, has_rest: false });
            }
        }
    }

    fn send_at_once(&mut self, socket: usize, bytes: &[u8]) -> Result<u32, Errno> {
        if let Some(error) = self.sockets[socket].take_send_error() {
            return Err(error);
        }
        if self.fails(|faults| faults.send_refused) {
            return Err(self.rng.choose(&[Errno::NoBuffers, Errno::Interrupted, Errno::WouldBlock]));
        }
        let mut count = bytes.len().min(self.sockets[socket].down.room());
        if count > 0 && self.fails(|faults| faults.send_short) {
            count = self.rng.len(count);
        }
        if count == 0 && !bytes.is_empty() {
            return Err(Errno::WouldBlock);
        }
        self.sockets[socket].down.write(&bytes[..count]);
        Ok(count as u32)
    }

    fn start_shutdown(&mut self, ring: usize, descriptor: FixedFd, token: Token) {
        let socket = self.open_socket(ring, descriptor, "shutdown");
        self.sockets[socket].is_shutting = true;
        let delay_us = self.delay();
        self.schedule(delay_us, Work::Shutdown(ring, descriptor.0, token.to_bits()));
    }

    /// A worker thread gets round to it, and looks the descriptor up only now, as the kernel does.
    pub(super) fn shutdown(&mut self, ring: usize, descriptor: FixedFd, token: Token) {
        if self.rings[ring].is_gone {
            return;
        }
        let socket = self.open_socket(ring, descriptor, "shutdown");
        self.check_owner(socket, token.conn_id());
        let entry = &mut self.sockets[socket];
        entry.is_shutting = false;
        let result = if entry.is_broken { Err(Errno::Ended) } else { Ok(0) };
        if result.is_ok() {
            entry.is_shut_write = true;
            entry.down.finish();
            self.schedule_move(socket, Way::Down);
            self.schedule_send(socket);
        }
        self.post(ring, Posted { socket: Some(socket), ..Posted::of(token, result) });
    }

    fn close_descriptor(&mut self, ring: usize, descriptor: FixedFd, token: Token) {
        let socket = self.open_socket(ring, descriptor, "close");
        self.check_owner(socket, token.conn_id());
        let entry = &mut self.sockets[socket];
        let has_operations = entry.recv.is_some() || entry.poll.is_some() || entry.send.is_some() || entry.is_shutting;
        assert!(!has_operations, "a descriptor was closed under an operation");
        assert_eq!(entry.unreaped, 0, "a descriptor was closed before the shard heard of its operations' end");
        entry.place = Place::Gone;
        self.rings[ring].descriptors[descriptor.0 as usize] = None;
        if !self.sockets[socket].is_broken {
            if self.sockets[socket].up.available() > 0 {
                // Closing with bytes unread resets the connection.
                self.reset_to_peer(socket);
            } else {
                self.sockets[socket].down.finish();
                self.schedule_move(socket, Way::Down);
            }
        }
        let delay_us = self.delay();
        self.schedule(delay_us, Work::Closed(ring, token.to_bits()));
    }

    fn cancel_accept(&mut self, ring: usize, target: Token) {
        let accepting = &mut self.rings[ring].accepting;
        if let Some(index) = accepting.iter().position(|token| *token == target) {
            accepting.remove(index);
            self.post(ring, Posted::of(target, Err(Errno::Canceled)));
        }
    }

    fn cancel(&mut self, ring: usize, target: Token) {
        let open: Vec<usize> = self.rings[ring].descriptors.iter().flatten().copied().collect();
        for socket in open {
            if self.sockets[socket].recv.is_some_and(|recv| recv.token == target) {
                self.end_recv(socket, Err(Errno::Canceled), None);
            } else if self.sockets[socket].poll == Some(target) {
                self.end_poll(socket, Err(Errno::Canceled));
            } else if self.sockets[socket].send.as_ref().is_some_and(|waiting| waiting.token == target) {
                self.end_send(socket, Some(Errno::Canceled));
            }
        }
    }

    /// Posts a completion where a watched event was notified.
    pub(super) fn look_at_event(&mut self, ring: usize) {
        let Some((event, token)) = &self.rings[ring].watch else { return };
        let token = *token;
        let is_notified = {
            let mut fds = [PollFd::new(event, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
        };
        if is_notified {
            let more = !self.fails(|faults| faults.watch_ends);
            if !more {
                self.rings[ring].watch = None;
            }
            self.post(ring, Posted { more, ..Posted::of(token, Ok(1)) });
        }
    }
}
