//! All connections of a run, on one ring.
//!
//! Moves bytes and knows nothing of what they mean: an [`Observer`] does. What is to be sent in one turn of the loop
//! goes out in one batch, one send for each socket.

use std::time::Duration;

use ringfeed::buf::ConnId;
use ringfeed::buf::SharedFrame;
use ringfeed::ring::{Completion, Direct, Errno, Op, Ring, SendNow, Token, Uring, UringConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::connect::Connected;
use crate::error::Error;

/// Receive buffers: enough for what a thousand sockets bring in one turn, small enough to stay in the cache.
const RECV_BUFFERS: u16 = 64;

/// Bytes of each.
const RECV_BUFFER_BYTES: u32 = 64 * 1024;

/// Who reads what the sockets bring.
pub(crate) trait Observer {
    /// Bytes came on `socket`. What is put into `out` is sent there. An error closes the socket, with that reason.
    fn on_bytes(&mut self, socket: u32, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(), String>;

    /// `socket` has ended, and nothing more will come. Called once.
    fn on_closed(&mut self, socket: u32, reason: &str);
}

/// One connection as the ring sees it.
#[derive(Default)]
struct Socket {
    /// Bytes not handed to the kernel yet.
    pending: Vec<u8>,
    /// It is in the list of those to be flushed.
    listed: bool,
    /// The kernel is still sending earlier bytes: what is pending must wait.
    sending: bool,
    closed: bool,
}

/// Connections by number, in the order of [`add`](Sockets::add).
pub(crate) struct Sockets {
    ring: Uring,
    sockets: Vec<Socket>,
    /// Sockets with pending bytes.
    unsent: Vec<u32>,
    completions: Vec<Completion>,
    incomplete: Vec<Completion>,
}

impl Sockets {
    /// Room for `count` connections.
    ///
    /// # Errors
    /// If the ring can't be set up; says why.
    pub(crate) fn new(count: u32) -> Result<Sockets, Error> {
        raise_descriptor_limit();
        let config =
            UringConfig { descriptors: count, recv_buffers: RECV_BUFFERS, recv_buffer_bytes: RECV_BUFFER_BYTES };
        let ring = Uring::new(config).map_err(|error| Error::new(error.to_string()))?;
        let sockets = Vec::with_capacity(count as usize);
        Ok(Sockets { ring, sockets, unsent: Vec::new(), completions: Vec::new(), incomplete: Vec::new() })
    }

    /// Takes a connection over. The numbers given out are 0, 1, 2, and so on.
    ///
    /// # Errors
    /// If there is no room for it.
    pub(crate) fn add(&mut self, connected: Connected, observer: &mut impl Observer) -> Result<(), Error> {
        let number = self.sockets.len() as u32;
        self.ring
            .install(connected.socket, Direct(number))
            .map_err(|error| Error::new(format!("can't hold connection {number}: {error}")))?;
        self.sockets.push(Socket::default());
        self.ring.submit_recv(Direct(number), token(Op::Recv, number));
        let mut early = connected.early;
        let result = observer.on_bytes(number, &mut early, &mut self.sockets[number as usize].pending);
        self.after_bytes(number, result, observer);
        Ok(())
    }

    /// Bytes put in here are sent on `socket` with the next turn.
    pub(crate) fn out(&mut self, socket: u32) -> &mut Vec<u8> {
        self.list(socket);
        &mut self.sockets[socket as usize].pending
    }

    /// One turn of the loop: sends what is pending, waits until something happens or `timeout` passed, and shows what
    /// came to `observer`.
    pub(crate) fn turn(&mut self, timeout: Duration, observer: &mut impl Observer) {
        self.flush();
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.wait(timeout, &mut completions);
        for completion in completions.drain(..) {
            match completion.token.op() {
                Op::Recv => self.on_recv(completion, observer),
                Op::Send => self.on_send(completion, observer),
                // The peer sees the end of the stream, and its own end comes as a receive.
                Op::Shutdown => {}
                op => unreachable!("{op:?} was never submitted"),
            }
        }
        self.completions = completions;
    }

    fn on_recv(&mut self, completion: Completion, observer: &mut impl Observer) {
        let number = completion.token.slot();
        if let Some(piece) = completion.received {
            let socket = &mut self.sockets[number as usize];
            let result = match socket.closed {
                true => Ok(()),
                false => observer.on_bytes(number, self.ring.received(&piece), &mut socket.pending),
            };
            self.ring.release(piece);
            self.after_bytes(number, result, observer);
        }
        match completion.result {
            _ if completion.more => {}
            Err(Errno::NoBuffers) => self.ring.submit_recv(Direct(number), completion.token),
            Ok(0) => self.close(number, "the server ended the stream", observer),
            Ok(_) => self.ring.submit_recv(Direct(number), completion.token),
            Err(error) => self.close(number, &error.to_string(), observer),
        }
    }

    fn after_bytes(&mut self, number: u32, result: Result<(), String>, observer: &mut impl Observer) {
        if !self.sockets[number as usize].pending.is_empty() {
            self.list(number);
        }
        if let Err(reason) = result {
            self.close(number, &reason, observer);
        }
    }

    fn on_send(&mut self, completion: Completion, observer: &mut impl Observer) {
        let number = completion.token.slot();
        self.sockets[number as usize].sending = false;
        match completion.result {
            Ok(_) => self.list(number),
            Err(error) => self.close(number, &error.to_string(), observer),
        }
    }

    fn close(&mut self, number: u32, reason: &str, observer: &mut impl Observer) {
        let socket = &mut self.sockets[number as usize];
        if !std::mem::replace(&mut socket.closed, true) {
            self.ring.submit_shutdown(Direct(number), token(Op::Shutdown, number));
            observer.on_closed(number, reason);
        }
    }

    fn list(&mut self, number: u32) {
        let socket = &mut self.sockets[number as usize];
        if !std::mem::replace(&mut socket.listed, true) {
            self.unsent.push(number);
        }
    }

    /// Sends what is pending. Where a socket is full, the kernel gets the rest to keep, and later bytes wait behind it.
    fn flush(&mut self) {
        let Sockets { ring, sockets, unsent, incomplete, .. } = self;
        unsent.iter().for_each(|number| sockets[*number as usize].listed = false);
        unsent.retain(|number| {
            let socket = &sockets[*number as usize];
            !socket.pending.is_empty() && !socket.sending && !socket.closed
        });
        let sends = unsent.iter().map(|number| SendNow {
            socket: Direct(*number),
            bytes: &sockets[*number as usize].pending,
            token: token(Op::Reply, *number),
        });
        ring.send_now(sends, incomplete);
        for completion in incomplete.drain(..) {
            let number = completion.token.slot();
            let socket = &mut sockets[number as usize];
            // A broken socket fails again, and then completes as a send.
            let sent = completion.result.unwrap_or(0) as usize;
            let frame = SharedFrame::new(std::mem::take(&mut socket.pending));
            ring.submit_send(Direct(number), frame, sent, token(Op::Send, number));
            socket.sending = true;
        }
        unsent.drain(..).for_each(|number| sockets[number as usize].pending.clear());
    }
}

/// Sockets keep their numbers for the whole run, so all are of generation 0.
fn token(op: Op, number: u32) -> Token {
    Token::of_conn(op, ConnId { slot: number, generation: 0 })
}

/// As many descriptors as this user may have.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Lowering nothing and raising only up to the hard limit is always allowed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    /// Sends back what comes, and notes it.
    #[derive(Default)]
    struct Echo {
        got: usize,
        closed: Vec<String>,
    }

    impl Observer for Echo {
        fn on_bytes(&mut self, _socket: u32, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(), String> {
            self.got += bytes.len();
            out.extend_from_slice(bytes);
            if bytes == b"leave" { Err("asked to".to_owned()) } else { Ok(()) }
        }

        fn on_closed(&mut self, _socket: u32, reason: &str) {
            self.closed.push(reason.to_owned());
        }
    }

    fn connect(sockets: &mut Sockets, echo: &mut Echo, early: &[u8]) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        sockets.add(Connected { socket: socket.into(), early: early.to_vec(), deflate: None }, echo).unwrap();
        listener.accept().unwrap().0
    }

    #[test]
    fn early_bytes_come_first_and_a_peer_that_leaves_is_told_once() {
        let (mut sockets, mut echo) = (Sockets::new(4).unwrap(), Echo::default());
        let mut peer = connect(&mut sockets, &mut echo, b"early");
        peer.write_all(b"later").unwrap();
        while echo.got < 10 {
            sockets.turn(SOON, &mut echo);
        }
        sockets.turn(SOON, &mut echo);
        let mut back = [0; 10];
        peer.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"earlylater");
        drop(peer);
        while echo.closed.is_empty() {
            sockets.turn(SOON, &mut echo);
        }
        sockets.turn(SOON, &mut echo);
        assert_eq!(echo.closed, ["the server ended the stream"]);
    }

    #[test]
    fn an_observer_that_has_enough_closes() {
        let (mut sockets, mut echo) = (Sockets::new(4).unwrap(), Echo::default());
        let mut peer = connect(&mut sockets, &mut echo, b"");
        peer.write_all(b"leave").unwrap();
        while echo.closed.is_empty() {
            sockets.turn(SOON, &mut echo);
        }
        assert_eq!(echo.closed, ["asked to"]);
        sockets.turn(SOON, &mut echo);
        let ended = peer.read(&mut [0]).map_or(true, |len| len == 0);
        assert!(ended, "nothing is sent on a closed socket");
    }

    #[test]
    fn more_than_a_socket_takes_arrives_whole_and_in_order() {
        let (mut sockets, mut echo) = (Sockets::new(4).unwrap(), Echo::default());
        let mut peer = connect(&mut sockets, &mut echo, b"");
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
        sockets.turn(SOON, &mut echo);
        sockets.out(0).extend_from_slice(b"tail");
        while echo.got < 4 {
            sockets.turn(SOON, &mut echo);
        }
        reader.join().unwrap();
    }
}
