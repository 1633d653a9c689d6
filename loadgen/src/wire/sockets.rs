//! All sockets of a worker, on one ring.
//!
//! This module only moves bytes; an [`Observer`] interprets them. The bytes queued in one turn of the loop are
//! submitted as one batch, with one send per socket. Each socket has a number, which is reused once the kernel has
//! completed all operations on the old socket.

use std::os::fd::OwnedFd;
use std::time::Duration;

use ringfeed::buf::{ConnId, SharedFrame, SlotId};
use ringfeed::ring::{Completion, Errno, Event, FixedFd, Gather, Op, Ring, SendNow, Token, Uring, UringConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::Error;
use crate::wire::tls::{Name, Tls};

/// Number of receive buffers: enough for the data of a thousand sockets in one turn, few enough to stay in the cache.
const RECV_BUFFERS: u16 = 64;

/// Size of each receive buffer in bytes.
const RECV_BUFFER_BYTES: u32 = 64 * 1024;

/// Most empty send buffers kept for reuse. A million sockets must not keep one each.
const SPARE_BUFFERS: usize = 4096;

/// Size of the largest buffer kept, in bytes.
const SPARE_BUFFER_BYTES: usize = 64 * 1024;

/// Handles the data of the sockets.
pub(crate) trait Observer {
    /// Called when completions arrive, before the other calls of a turn.
    fn on_woken(&mut self);

    /// Handles bytes received on `socket`. Bytes appended to `out` are sent there. An error closes the socket, with
    /// that reason.
    fn on_bytes(&mut self, socket: u32, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(), String>;

    /// Called once when `socket` has ended without [`leave`](Sockets::leave); no more bytes follow.
    fn on_closed(&mut self, socket: u32, reason: &str);
}

/// State of a socket number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Unused.
    #[default]
    Free,
    Open,
    /// Closes once all pending bytes are sent.
    Leaving,
    /// Closed, but the kernel still has operations on it.
    Closing,
}

/// A socket on the ring.
#[derive(Default)]
struct Socket {
    /// Bytes not yet passed to the kernel.
    pending: Vec<u8>,
    state: State,
    /// Listed in `unsent`.
    listed: bool,
    /// A send is in progress: pending bytes must wait.
    sending: bool,
    /// The receive operation in progress.
    receiving: Listening,
    /// How to receive once the current operation completes.
    attention: Attention,
}

/// The operation that reports received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listening {
    #[default]
    Not,
    Receiving,
    Polling,
}

/// How a socket receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Attention {
    /// Receive all the time: the fastest.
    #[default]
    Busy,
    /// Poll all the time, with less kernel memory: for sockets with little traffic.
    Idle,
    /// Receive only on request, once per request.
    OnDemand,
}

const _: () = assert!(size_of::<Socket>() <= 32, "a million sockets must fit in little memory");

/// Sockets by number.
pub(crate) struct Sockets {
    ring: Uring,
    sockets: Vec<Socket>,
    tls: Option<Tls>,
    /// Sockets with pending bytes.
    unsent: Vec<u32>,
    /// Sockets to be closed.
    leaving: Vec<u32>,
    /// Bytes that the observer sends in reply.
    out: Vec<u8>,
    /// Bytes decrypted by a TLS session.
    plain: Vec<u8>,
    spare: Vec<Vec<u8>>,
    completions: Vec<Completion>,
    incomplete: Vec<Completion>,
    /// Sockets with a permanently failed send.
    broken: Vec<(u32, Errno)>,
    /// Ends a wait when another thread notifies it.
    wake: Option<Event>,
}

impl Sockets {
    /// Creates `count` unused numbers. Sockets can be encrypted if `tls` is given.
    ///
    /// # Errors
    /// If the ring can't be set up.
    pub(crate) fn new(count: u32, tls: Option<Tls>) -> Result<Sockets, Error> {
        raise_descriptor_limit();
        let config =
            UringConfig { descriptors: count, recv_buffers: RECV_BUFFERS, recv_buffer_bytes: RECV_BUFFER_BYTES };
        let ring = Uring::new(config).map_err(|error| Error::new(error.to_string()))?;
        Ok(Sockets {
            ring,
            sockets: (0..count).map(|_| Socket::default()).collect(),
            tls,
            unsent: Vec::new(),
            leaving: Vec::new(),
            out: Vec::new(),
            plain: Vec::new(),
            spare: Vec::new(),
            completions: Vec::new(),
            incomplete: Vec::new(),
            broken: Vec::new(),
            wake: None,
        })
    }

    /// From now on, `wake` ends a wait.
    pub(crate) fn wake_by(&mut self, wake: Event) {
        self.ring.submit_watch(&wake, token(Op::Wake, 0));
        self.wake = Some(wake);
    }

    /// Another thread has notified the event. The kernel may end the watch at any time.
    fn on_wake(&mut self, completion: &Completion) {
        let wake = self.wake.as_ref().expect("an event was notified");
        wake.clear();
        if !completion.more {
            self.ring.submit_watch(wake, token(Op::Wake, 0));
        }
    }

    /// Whether `number` is unused.
    pub(crate) fn is_free(&self, number: u32) -> bool {
        self.sockets[number as usize].state == State::Free
    }

    /// Registers a connected or connecting socket under `number`, which must be free. With a `name` the connection uses
    /// TLS, and the server's certificate must have that name.
    ///
    /// # Errors
    /// If the ring has no room for it.
    pub(crate) fn open(
        &mut self,
        number: u32,
        socket: OwnedFd,
        name: Option<&Name>,
        attention: Attention,
    ) -> Result<(), String> {
        assert!(self.is_free(number), "number is in use");
        self.ring.install(socket, FixedFd(number)).map_err(|error| format!("no room for it: {error}"))?;
        self.sockets[number as usize] = Socket { state: State::Open, attention, ..Socket::default() };
        self.listen(number);
        if let (Some(name), Some(tls)) = (name, &mut self.tls) {
            tls.open(number, name);
            self.list(number);
        }
        Ok(())
    }

    /// Changes how `number` receives. A receive in progress continues unless the new mode is [`Attention::OnDemand`].
    pub(crate) fn attend(&mut self, number: u32, attention: Attention) {
        let socket = &mut self.sockets[number as usize];
        socket.attention = attention;
        if socket.state != State::Open {
            return;
        }
        match (attention, socket.receiving) {
            (Attention::Busy | Attention::Idle, Listening::Not) => self.listen(number),
            (Attention::OnDemand, Listening::Receiving) => {
                self.ring.submit_cancel(FixedFd(number), token(Op::Recv, number));
            }
            (Attention::OnDemand, Listening::Polling) => {
                self.ring.submit_cancel(FixedFd(number), token(Op::Poll, number));
            }
            (Attention::Busy | Attention::Idle, _) | (Attention::OnDemand, Listening::Not) => {}
        }
    }

    /// Receives once on `number`, up to one buffer, as soon as data arrives. For [`Attention::OnDemand`].
    pub(crate) fn receive_once(&mut self, number: u32) {
        let socket = &mut self.sockets[number as usize];
        if socket.state == State::Open && socket.receiving == Listening::Not {
            socket.receiving = Listening::Receiving;
            self.ring.submit_recv_late(FixedFd(number), RECV_BUFFER_BYTES, token(Op::Recv, number));
        }
    }

    /// Submits the receive operation for `number`, if it needs one.
    fn listen(&mut self, number: u32) {
        let socket = &mut self.sockets[number as usize];
        socket.receiving = match socket.attention {
            Attention::Busy => {
                self.ring.submit_recv(FixedFd(number), token(Op::Recv, number));
                Listening::Receiving
            }
            Attention::Idle => {
                self.ring.submit_poll(FixedFd(number), token(Op::Poll, number));
                Listening::Polling
            }
            Attention::OnDemand => Listening::Not,
        };
    }

    /// The buffer of bytes to send on `number` in the next turn.
    pub(crate) fn out(&mut self, number: u32) -> &mut Vec<u8> {
        self.list(number);
        let pending = &mut self.sockets[number as usize].pending;
        if pending.capacity() == 0
            && let Some(spare) = self.spare.pop()
        {
            *pending = spare;
        }
        pending
    }

    /// Closes `number` in the next turn, after its pending bytes are passed to the kernel. Does not call the observer.
    pub(crate) fn leave(&mut self, number: u32) {
        let socket = &mut self.sockets[number as usize];
        if socket.state == State::Open {
            socket.state = State::Leaving;
            self.leaving.push(number);
        }
    }

    /// Runs one turn of the loop: sends pending bytes, waits until `want` is gathered or `timeout` has passed, and
    /// passes received bytes to `observer`.
    pub(crate) fn turn(&mut self, want: Gather, timeout: Duration, observer: &mut impl Observer) {
        self.flush(observer);
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.wait_for(want, timeout, &mut completions);
        if !completions.is_empty() {
            observer.on_woken();
        }
        for completion in completions.drain(..) {
            match completion.token.op() {
                Op::Recv => self.on_recv(completion, observer),
                Op::Poll => self.on_poll(completion),
                Op::Send => self.on_send(completion, observer),
                Op::Close => self.on_closed(completion.token.slot().0),
                Op::Wake => self.on_wake(&completion),
                op => unreachable!("{op:?} was never submitted"),
            }
        }
        self.completions = completions;
    }

    /// Data may be available. If the socket has failed, the receive returns the error.
    fn on_poll(&mut self, completion: Completion) {
        let number = completion.token.slot().0;
        let socket = &mut self.sockets[number as usize];
        socket.receiving = Listening::Not;
        match (socket.state, socket.attention) {
            (State::Open | State::Leaving, Attention::Busy | Attention::Idle) => {
                socket.receiving = Listening::Receiving;
                self.ring.submit_recv_now(FixedFd(number), token(Op::Recv, number));
            }
            (State::Open | State::Leaving, Attention::OnDemand) => {}
            (State::Closing | State::Free, _) => self.close_if_quiet(number),
        }
    }

    fn on_recv(&mut self, completion: Completion, observer: &mut impl Observer) {
        let number = completion.token.slot().0;
        let mut result = Ok(());
        if let Some(piece) = completion.received {
            if self.sockets[number as usize].state == State::Open {
                let bytes = self.ring.received(&piece);
                result = match self.tls.as_mut().filter(|tls| tls.covers(number)) {
                    None => observer.on_bytes(number, bytes, &mut self.out),
                    Some(tls) => tls.receive(number, bytes, &mut self.plain).and_then(|()| match &mut self.plain[..] {
                        [] => Ok(()),
                        plain => observer.on_bytes(number, plain, &mut self.out),
                    }),
                };
                self.plain.clear();
                self.take_answer(number);
            }
            self.ring.release(piece);
        }
        let socket = &mut self.sockets[number as usize];
        socket.receiving = if completion.more { Listening::Receiving } else { Listening::Not };
        let ended = match (result, completion.result) {
            (Err(reason), _) => Some(reason),
            _ if completion.more => None,
            (_, Ok(0)) => Some("the server ended the stream".to_owned()),
            // A receive is cancelled when the receive mode changes; a receive after a poll may find no data.
            (_, Ok(_) | Err(Errno::NoBuffers | Errno::WouldBlock | Errno::Canceled)) => None,
            (_, Err(error)) => Some(error.to_string()),
        };
        match (socket.state, ended) {
            (State::Open, Some(reason)) => self.end(number, &reason, observer),
            (State::Open | State::Leaving, None) if !completion.more => self.listen(number),
            (State::Closing, _) if !completion.more => self.close_if_quiet(number),
            (State::Open | State::Leaving | State::Free | State::Closing, _) => {}
        }
    }

    /// Queues the observer's reply for sending.
    fn take_answer(&mut self, number: u32) {
        if !self.out.is_empty() {
            let mut out = std::mem::take(&mut self.out);
            let pending = self.out(number);
            match pending.is_empty() {
                true => std::mem::swap(pending, &mut out),
                false => pending.extend_from_slice(&out),
            }
            out.clear();
            self.out = out;
        } else if self.tls.as_ref().is_some_and(|tls| tls.has_output(number)) {
            self.list(number);
        }
    }

    fn on_send(&mut self, completion: Completion, observer: &mut impl Observer) {
        let number = completion.token.slot().0;
        let socket = &mut self.sockets[number as usize];
        socket.sending = false;
        match (socket.state, completion.result) {
            (State::Open, Ok(_)) => self.list(number),
            // The receive in progress completes, too, and has the reason.
            (State::Open, Err(Errno::Ended)) if socket.receiving == Listening::Receiving => {}
            (State::Open, Err(error)) => self.end(number, &error.to_string(), observer),
            // Checks again in the next turn.
            (State::Leaving, _) => {
                self.leaving.push(number);
                self.list(number);
            }
            (State::Closing | State::Free, _) => self.close_if_quiet(number),
        }
    }

    /// The kernel has closed the descriptor and has no more operations on the socket.
    fn on_closed(&mut self, number: u32) {
        self.sockets[number as usize].state = State::Free;
    }

    /// Handles a socket that ended without [`leave`](Self::leave).
    fn end(&mut self, number: u32, reason: &str, observer: &mut impl Observer) {
        self.close(number);
        observer.on_closed(number, reason);
    }

    /// Cancels the operations in progress, then closes the descriptor.
    fn close(&mut self, number: u32) {
        let socket = &mut self.sockets[number as usize];
        socket.state = State::Closing;
        socket.pending = Vec::new();
        let receiving = match socket.receiving {
            Listening::Not => None,
            Listening::Receiving => Some(Op::Recv),
            Listening::Polling => Some(Op::Poll),
        };
        let sending = socket.sending.then_some(Op::Send);
        for op in receiving.into_iter().chain(sending) {
            self.ring.submit_cancel(FixedFd(number), token(op, number));
        }
        if let Some(tls) = &mut self.tls {
            tls.close(number);
        }
        self.close_if_quiet(number);
    }

    fn close_if_quiet(&mut self, number: u32) {
        let Socket { state, receiving, sending, .. } = self.sockets[number as usize];
        if state == State::Closing && receiving == Listening::Not && !sending {
            self.ring.submit_close(FixedFd(number), token(Op::Close, number));
        }
    }

    fn list(&mut self, number: u32) {
        let socket = &mut self.sockets[number as usize];
        if !std::mem::replace(&mut socket.listed, true) {
            self.unsent.push(number);
        }
    }

    /// Sends pending bytes, then closes the leaving sockets.
    fn flush(&mut self, observer: &mut impl Observer) {
        let mut unsent = std::mem::take(&mut self.unsent);
        // Sockets with neighbouring numbers share cache lines, in the kernel and on the rings.
        unsent.sort_unstable();
        unsent.retain(|number| self.is_ready_to_send(*number));
        self.send(&unsent);
        for number in unsent.drain(..) {
            self.put_by(number);
        }
        self.unsent = unsent;
        for (number, error) in std::mem::take(&mut self.broken) {
            let socket = &self.sockets[number as usize];
            // A receive in progress completes, too, with the reason for the end of the stream.
            let is_reported = error == Errno::Ended && socket.receiving == Listening::Receiving;
            if socket.state == State::Open && !is_reported {
                self.end(number, &error.to_string(), observer);
            }
        }
        for number in std::mem::take(&mut self.leaving) {
            let socket = &self.sockets[number as usize];
            if socket.state == State::Leaving && !socket.sending {
                self.close(number);
            }
        }
    }

    /// Whether `number` has pending bytes and no send in progress.
    fn is_ready_to_send(&mut self, number: u32) -> bool {
        let socket = &mut self.sockets[number as usize];
        socket.listed = false;
        if socket.sending || !matches!(socket.state, State::Open | State::Leaving) {
            return false;
        }
        if let Some(tls) = &mut self.tls {
            tls.seal(number, &mut socket.pending);
        }
        !socket.pending.is_empty()
    }

    /// Sends the pending bytes of these sockets. If a socket buffer is full, the kernel keeps the rest, and later bytes
    /// wait behind it.
    fn send(&mut self, numbers: &[u32]) {
        let Sockets { ring, sockets, incomplete, broken, .. } = self;
        let sends = numbers.iter().map(|number| SendNow {
            socket: FixedFd(*number),
            bytes: &sockets[*number as usize].pending,
            is_last: false,
            token: token(Op::Reply, *number),
        });
        ring.send_now(sends, incomplete);
        for completion in incomplete.drain(..) {
            let number = completion.token.slot().0;
            let sent = match completion.result {
                Ok(sent) => sent as usize,
                Err(error) if error.is_temporary() => 0,
                // Reported here, since the kernel reports an error only once.
                Err(error) => {
                    broken.push((number, error));
                    continue;
                }
            };
            let socket = &mut sockets[number as usize];
            let frame = SharedFrame::new(std::mem::take(&mut socket.pending));
            ring.submit_send(FixedFd(number), frame, sent, token(Op::Send, number));
            socket.sending = true;
        }
    }

    /// All pending bytes of `number` are sent: keeps the buffer for reuse.
    fn put_by(&mut self, number: u32) {
        let mut buffer = std::mem::take(&mut self.sockets[number as usize].pending);
        if self.spare.len() < SPARE_BUFFERS && (1..=SPARE_BUFFER_BYTES).contains(&buffer.capacity()) {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// A number is reused only after all operations on the old socket completed, so every token has generation 0.
fn token(op: Op, number: u32) -> Token {
    Token::of_conn(op, ConnId { slot: SlotId(number), generation: 0 })
}

/// Raises the descriptor limit to the hard limit.
pub(crate) fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Always allowed: it raises the soft limit at most to the hard limit.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::wire::dial::Dialer;

    const SOON: Duration = Duration::from_millis(20);

    /// Echoes received bytes and records them.
    #[derive(Default)]
    struct Echo {
        got: usize,
        closed: Vec<String>,
    }

    impl Observer for Echo {
        fn on_woken(&mut self) {}

        fn on_bytes(&mut self, _socket: u32, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(), String> {
            self.got += bytes.len();
            out.extend_from_slice(bytes);
            if bytes == b"leave" { Err("asked to".to_owned()) } else { Ok(()) }
        }

        fn on_closed(&mut self, _socket: u32, reason: &str) {
            self.closed.push(reason.to_owned());
        }
    }

    fn dial(listener: &TcpListener) -> OwnedFd {
        let target = format!("ws://{}/", listener.local_addr().unwrap()).parse().unwrap();
        Dialer::new(&target, 1, &[], &[]).unwrap().dial().unwrap()
    }

    /// A socket with number 0, and its peer.
    fn connected() -> (Sockets, TcpStream) {
        let mut sockets = Sockets::new(4, None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        sockets.open(0, dial(&listener), None, Attention::Busy).unwrap();
        (sockets, listener.accept().unwrap().0)
    }

    fn turn_until(sockets: &mut Sockets, echo: &mut Echo, is_done: impl Fn(&Sockets, &Echo) -> bool) {
        while !is_done(sockets, echo) {
            sockets.turn(Gather::FIRST, SOON, echo);
        }
    }

    #[test]
    fn a_closed_peer_is_reported_once_and_frees_its_number() {
        let (mut sockets, mut peer) = connected();
        let mut echo = Echo::default();
        peer.write_all(b"hello").unwrap();
        turn_until(&mut sockets, &mut echo, |_, echo| echo.got == 5);
        sockets.turn(Gather::FIRST, SOON, &mut echo);
        let mut back = [0; 5];
        peer.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");
        drop(peer);
        turn_until(&mut sockets, &mut echo, |sockets, _| sockets.is_free(0));
        assert_eq!(echo.closed, ["the server ended the stream"]);
    }

    #[test]
    fn each_receive_mode_receives_all_bytes() {
        for attention in [Attention::Idle, Attention::OnDemand, Attention::Busy] {
            let (mut sockets, mut peer) = connected();
            let mut echo = Echo::default();
            sockets.attend(0, attention);
            for round in 1..=3 {
                peer.write_all(b"hello").unwrap();
                turn_until(&mut sockets, &mut echo, |_, echo| {
                    attention == Attention::OnDemand || echo.got == 5 * round
                });
            }
            if attention == Attention::OnDemand {
                sockets.turn(Gather::FIRST, SOON, &mut echo);
                sockets.turn(Gather::FIRST, SOON, &mut echo);
                let before = echo.got;
                peer.write_all(b"again").unwrap();
                sockets.turn(Gather::FIRST, SOON, &mut echo);
                assert_eq!(echo.got, before, "no receive was requested");
                sockets.receive_once(0);
                turn_until(&mut sockets, &mut echo, |_, echo| echo.got == 20);
                sockets.attend(0, Attention::Idle);
            }
            drop(peer);
            turn_until(&mut sockets, &mut echo, |sockets, _| sockets.is_free(0));
            assert_eq!(echo.closed.len(), 1, "{attention:?}");
        }
    }

    #[test]
    fn a_refused_connection_is_reported_and_frees_its_number() {
        let mut sockets = Sockets::new(1, None).unwrap();
        let mut echo = Echo::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("ws://{}/", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let mut dialer = Dialer::new(&target, 1, &[], &[]).unwrap();
        for _ in 0..3 {
            sockets.open(0, dialer.dial().unwrap(), None, Attention::Idle).unwrap();
            sockets.out(0).extend_from_slice(b"anybody?");
            turn_until(&mut sockets, &mut echo, |sockets, _| sockets.is_free(0));
        }
        assert!(echo.closed.len() == 3 && echo.closed[0].contains("refused"), "{:?}", echo.closed);
    }

    #[test]
    fn an_error_of_the_observer_closes_the_socket() {
        let (mut sockets, mut peer) = connected();
        let mut echo = Echo::default();
        peer.write_all(b"leave").unwrap();
        turn_until(&mut sockets, &mut echo, |sockets, _| sockets.is_free(0));
        assert_eq!(echo.closed, ["asked to"]);
        assert!(peer.read(&mut [0]).map_or(true, |len| len == 0), "a closed socket sends nothing");
    }

    #[test]
    fn a_leaving_socket_sends_its_bytes_first_and_frees_its_number() {
        let (mut sockets, mut peer) = connected();
        let mut echo = Echo::default();
        for round in 0..3 {
            sockets.out(0).extend_from_slice(b"goodbye");
            sockets.leave(0);
            turn_until(&mut sockets, &mut echo, |sockets, _| sockets.is_free(0));
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            assert_eq!(all, b"goodbye", "round {round}");
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            sockets.open(0, dial(&listener), None, Attention::Busy).unwrap();
            peer = listener.accept().unwrap().0;
        }
        assert!(echo.closed.is_empty(), "{:?}", echo.closed);
    }

    #[test]
    fn a_socket_that_leaves_during_a_send_sends_all_bytes() {
        let (mut sockets, mut peer) = connected();
        let mut echo = Echo::default();
        sockets.out(0).resize(12_000_000, 7);
        sockets.turn(Gather::FIRST, SOON, &mut echo);
        sockets.out(0).push(8);
        sockets.leave(0);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all)
        });
        turn_until(&mut sockets, &mut echo, |sockets, _| sockets.is_free(0));
        let all = reader.join().unwrap().unwrap();
        assert_eq!((all.len(), all.last()), (12_000_001, Some(&8)));
    }

    #[test]
    fn more_than_a_socket_buffer_arrives_whole_and_in_order() {
        let (mut sockets, mut peer) = connected();
        let mut echo = Echo::default();
        let data: Vec<u8> = (0..12_000_000u32).map(|n| (n % 251) as u8).collect();
        let expected = data.clone();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; expected.len() + 4];
            peer.read_exact(&mut got).unwrap();
            assert!(got[..expected.len()] == expected && got[expected.len()..] == *b"tail");
            peer.write_all(b"done").unwrap();
            peer
        });
        sockets.out(0).extend_from_slice(&data);
        sockets.turn(Gather::FIRST, SOON, &mut echo);
        sockets.out(0).extend_from_slice(b"tail");
        turn_until(&mut sockets, &mut echo, |_, echo| echo.got == 4);
        reader.join().unwrap();
    }
}
