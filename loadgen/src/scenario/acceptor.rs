//! A minimal server that answers the opening handshake and then holds the connection, as the peer for client
//! measurements with a million connections. Beyond the handshake it only answers pings.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use ringfeed::buf::{ConnId, SlotId};
use ringfeed::proto::{
    Decoder, Event, Opcode, RequestHead, Role, Upgrade, decode_request_head, encode_accept, encode_frame,
};
use ringfeed::ring::{ACCEPTS_MAX, Completion, FixedFd, Op, Ring, SendNow, Token, Uring, UringConfig};
use socket2::{Domain, Socket, Type};

use crate::cli::AcceptOptions;
use crate::error::Error;
use crate::host::pin;
use crate::wire::sockets::raise_descriptor_limit;

/// Length of the kernel's accept queue.
const BACKLOG: i32 = 65_535;

/// Longest message of a client: it sends none.
const MESSAGE_BYTES_MAX: u32 = 1024;

/// Longest wait of one turn.
const TURN: Duration = Duration::from_secs(1);

/// Runs until the process is killed.
///
/// # Errors
/// If it can't listen, or this host's limits are too low.
pub(crate) fn run(options: &AcceptOptions) -> Result<(), Error> {
    pin::to_cpu(options.cpu)?;
    raise_descriptor_limit();
    let listener =
        listen(options.listen).map_err(|error| Error::new(format!("can't listen on {}: {error}", options.listen)))?;
    let config = UringConfig { descriptors: options.connections, recv_buffers: 64, recv_buffer_bytes: 16 * 1024 };
    let ring = Uring::new(config).map_err(|error| Error::new(error.to_string()))?;
    let address = listener.local_addr().map_err(|error| Error::new(error.to_string()))?;
    println!("listening on ws://{address}\nready");
    let mut acceptor = Acceptor {
        ring,
        listener,
        room: options.connections,
        accepting: 0,
        partial: HashMap::new(),
        answers: Vec::new(),
    };
    let mut completions = Vec::new();
    loop {
        acceptor.turn(&mut completions);
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(OwnedFd::from(socket).into())
}

struct Acceptor {
    ring: Uring,
    listener: TcpListener,
    /// Connections that can still be accepted.
    room: u32,
    /// Accepts in progress, by bit of their tag.
    accepting: u64,
    /// Incomplete requests: one that begins at the end of a receive buffer continues in the next.
    partial: HashMap<u32, Vec<u8>>,
    /// Responses to send at the end of the turn.
    answers: Vec<(u32, Vec<u8>)>,
}

impl Acceptor {
    fn turn(&mut self, completions: &mut Vec<Completion>) {
        self.submit_accepts();
        self.ring.wait(TURN, completions);
        for completion in completions.drain(..) {
            let slot = completion.token.slot().0;
            match completion.token.op() {
                Op::Accept => self.on_accept(&completion),
                Op::Poll => self.ring.submit_recv_now(FixedFd(slot), token(Op::Recv, slot)),
                Op::Recv => self.on_recv(completion),
                Op::Close => self.room += 1,
                op => unreachable!("{op:?} was never submitted"),
            }
        }
        self.send_answers();
    }

    fn submit_accepts(&mut self) {
        for tag in 0..ACCEPTS_MAX as u32 {
            if self.room > 0 && self.accepting >> tag & 1 == 0 {
                self.ring.submit_accept(self.listener.as_fd(), Token::new(Op::Accept, tag, 0));
                self.accepting |= 1 << tag;
                self.room -= 1;
            }
        }
    }

    fn on_accept(&mut self, completion: &Completion) {
        self.accepting &= !(1 << completion.token.tag());
        match completion.result {
            Ok(socket) => self.ring.submit_recv_now(FixedFd(socket), token(Op::Recv, socket)),
            Err(_) => self.room += 1,
        }
    }

    /// Answers the request and, after it, pings.
    fn on_recv(&mut self, completion: Completion) {
        let slot = completion.token.slot().0;
        if let Some(piece) = completion.received {
            let mut request = self.partial.remove(&slot).unwrap_or_default();
            request.extend_from_slice(self.ring.received(&piece));
            self.ring.release(piece);
            match decode_request_head(&request) {
                _ if request.first().is_some_and(|first| first & 0x80 != 0) => self.answer_pings(slot, &mut request),
                Ok(Some((head, _))) => self.answers.extend(answer(&head).map(|answer| (slot, answer))),
                Ok(None) => _ = self.partial.insert(slot, request),
                Err(_) => {}
            }
        }
        match completion.result {
            Ok(1..) => self.ring.submit_poll(FixedFd(slot), token(Op::Poll, slot)),
            // A temporary error, such as a lack of buffers: the connection is still open.
            Err(error) if error.is_temporary() => self.ring.submit_poll(FixedFd(slot), token(Op::Poll, slot)),
            Ok(0) | Err(_) => {
                self.partial.remove(&slot);
                self.ring.submit_close(FixedFd(slot), token(Op::Close, slot));
            }
        }
    }

    /// Answers the pings in `frames`. A ping is so short that it arrives whole.
    fn answer_pings(&mut self, slot: u32, mut frames: &mut [u8]) {
        let (mut decoder, mut pongs) = (Decoder::new(Role::Server, MESSAGE_BYTES_MAX), Vec::new());
        while let Ok(Some(event)) = decoder.decode(&mut frames) {
            if let Event::Ping(payload) = event {
                encode_frame(&mut pongs, Opcode::Pong, payload, None);
            }
        }
        if !pongs.is_empty() {
            self.answers.push((slot, pongs));
        }
    }

    /// A short send only happens if the peer is gone, since nothing was sent before the response.
    fn send_answers(&mut self) {
        let sends = self.answers.iter().map(|(slot, bytes)| SendNow {
            socket: FixedFd(*slot),
            bytes,
            is_last: false,
            token: token(Op::Reply, *slot),
        });
        self.ring.send_now(sends, &mut Vec::new());
        self.answers.clear();
    }
}

/// The response to an opening handshake, or `None` for any other request.
fn answer(head: &RequestHead<'_>) -> Option<Vec<u8>> {
    let upgrade = Upgrade::from_request(head).ok()?;
    let mut answer = Vec::new();
    encode_accept(&mut answer, &upgrade, None, None);
    Some(answer)
}

/// A slot is reused only after all operations on the old socket completed, so one generation suffices.
fn token(op: Op, slot: u32) -> Token {
    Token::of_conn(op, ConnId { slot: SlotId(slot), generation: 0 })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_handshake_is_answered_and_a_closed_connection_makes_room() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let config = UringConfig { descriptors: 2, recv_buffers: 4, recv_buffer_bytes: 1024 };
        let ring = Uring::new(config).unwrap();
        let mut acceptor =
            Acceptor { ring, listener, room: 2, accepting: 0, partial: HashMap::new(), answers: Vec::new() };
        let knocking = std::thread::spawn(move || {
            for _ in 0..100 {
                let mut stream = TcpStream::connect(address).unwrap();
                let request = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                               Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
                stream.write_all(request.as_bytes()).unwrap();
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"HTTP/1.1 101");
            }
        });
        let mut completions = Vec::new();
        while !knocking.is_finished() {
            acceptor.turn(&mut completions);
        }
        knocking.join().unwrap();
    }
}
