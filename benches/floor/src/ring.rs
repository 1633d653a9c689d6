//! The floor for more subscribers than a process has descriptors, and for handshakes: the same minimal loop on the ring
//! that Ringfeed itself uses.
//!
//! For each connection it accepts, answers the handshake and answers the Close frame; it keeps no other state. A run of
//! frames goes to all sockets in the order of their slots. Bytes that a socket does not accept are lost, and counted.

use std::collections::HashMap;
use std::error::Error;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use ringfeed::buf::{ConnId, SlotId};
use ringfeed::proto::{Upgrade, decode_request_head, encode_accept};
use ringfeed::ring::{ACCEPTS_MAX, Completion, Event, FixedFd, Op, Ring, SendNow, Token, Uring, UringConfig};

use crate::publisher::Publisher;

/// The reply to a Close frame.
const CLOSE: [u8; 4] = [0x88, 2, 0x03, 0xe8];

/// Longest wait of one turn.
const TURN: Duration = Duration::from_secs(1);

/// Frames from a publisher's thread, and the channel to confirm that they are sent.
struct Post {
    run: Vec<u8>,
    done: Sender<()>,
}

/// State of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Opening,
    Open,
    Closing,
}

/// A response to send in this turn.
struct Answer {
    slot: u32,
    bytes: Vec<u8>,
    is_last: bool,
}

pub(crate) struct RingFloor {
    ring: Uring,
    listener: TcpListener,
    posts: Receiver<Post>,
    posted: Event,
    sockets: Vec<State>,
    /// Used slots plus accepts in progress.
    taken: usize,
    /// Accepts in progress, by bit of their tag.
    accepting: u64,
    /// Incomplete requests: one that begins at the end of a receive buffer continues in the next.
    partial: HashMap<u32, Vec<u8>>,
    answers: Vec<Answer>,
    lost: u64,
}

impl RingFloor {
    /// Creates a floor for `sockets` subscribers of `listener`; publications arrive on `control`.
    pub(crate) fn new(sockets: u32, listener: TcpListener, control: TcpListener) -> Result<RingFloor, Box<dyn Error>> {
        let config = UringConfig { descriptors: sockets, recv_buffers: 64, recv_buffer_bytes: 64 * 1024 };
        let mut ring = Uring::new(config)?;
        let (sender, posts) = mpsc::channel();
        let posted = Event::new()?;
        let rung = posted.clone();
        thread::spawn(move || take_publishers(&control, &sender, &rung));
        ring.submit_watch(&posted, Token::new(Op::Wake, 0, 0));
        Ok(RingFloor {
            ring,
            listener,
            posts,
            posted,
            sockets: vec![State::Free; sockets as usize],
            taken: 0,
            accepting: 0,
            partial: HashMap::new(),
            answers: Vec::new(),
            lost: 0,
        })
    }

    /// Runs until the process is killed.
    pub(crate) fn run(mut self) -> ! {
        let mut completions = Vec::new();
        loop {
            self.submit_accepts();
            self.ring.wait(TURN, &mut completions);
            completions.drain(..).for_each(|completion| self.on_completion(completion));
            self.send_answers();
            self.publish();
        }
    }

    fn submit_accepts(&mut self) {
        for tag in 0..ACCEPTS_MAX as u32 {
            if self.taken < self.sockets.len() && self.accepting >> tag & 1 == 0 {
                self.ring.submit_accept(self.listener.as_fd(), Token::new(Op::Accept, tag, 0));
                self.accepting |= 1 << tag;
                self.taken += 1;
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        let slot = completion.token.slot().0;
        match completion.token.op() {
            Op::Accept => self.on_accept(&completion),
            Op::Poll => self.ring.submit_recv_now(FixedFd(slot), token(Op::Recv, slot)),
            Op::Recv => self.on_recv(completion),
            Op::Close => {
                self.sockets[slot as usize] = State::Free;
                self.taken -= 1;
            }
            Op::Wake => self.posted.clear(),
            op => unreachable!("{op:?} was never submitted"),
        }
    }

    fn on_accept(&mut self, completion: &Completion) {
        self.accepting &= !(1 << completion.token.tag());
        match completion.result {
            Ok(slot) => {
                self.sockets[slot as usize] = State::Opening;
                self.ring.submit_recv_now(FixedFd(slot), token(Op::Recv, slot));
            }
            Err(_) => self.taken -= 1,
        }
    }

    fn on_recv(&mut self, completion: Completion) {
        let slot = completion.token.slot().0;
        let state = &mut self.sockets[slot as usize];
        let mut answer = None;
        if let Some(piece) = completion.received {
            let bytes = &*self.ring.received(&piece);
            answer = match (*state, bytes) {
                (State::Opening, bytes) => accept(slot, bytes, &mut self.partial),
                // A Close frame.
                (State::Open, [0x88, ..]) => Some(CLOSE.to_vec()),
                _ => None,
            };
            self.ring.release(piece);
        }
        let is_over = match completion.result {
            Ok(len) => len == 0,
            // A temporary error, such as a lack of buffers: the connection is still open.
            Err(error) => !error.is_temporary(),
        };
        match (*state, answer) {
            (_, None) if is_over => {
                *state = State::Closing;
                self.ring.submit_close(FixedFd(slot), token(Op::Close, slot));
            }
            (State::Opening, Some(bytes)) => {
                *state = State::Open;
                self.answers.push(Answer { slot, bytes, is_last: false });
                self.ring.submit_poll(FixedFd(slot), token(Op::Poll, slot));
            }
            (_, Some(bytes)) => {
                *state = State::Closing;
                self.answers.push(Answer { slot, bytes, is_last: true });
            }
            (_, None) => self.ring.submit_poll(FixedFd(slot), token(Op::Poll, slot)),
        }
    }

    /// A short send only happens if the peer is gone.
    fn send_answers(&mut self) {
        let sends = self.answers.iter().map(|answer| SendNow {
            socket: FixedFd(answer.slot),
            bytes: &answer.bytes,
            is_last: answer.is_last,
            token: token(Op::Reply, answer.slot),
        });
        self.ring.send_now(sends, &mut Vec::new());
        for answer in self.answers.drain(..).filter(|answer| answer.is_last) {
            self.ring.submit_close(FixedFd(answer.slot), token(Op::Close, answer.slot));
        }
    }

    fn publish(&mut self) {
        let mut lost = Vec::new();
        while let Ok(post) = self.posts.try_recv() {
            let open = self.sockets.iter().enumerate().filter(|(_, state)| **state == State::Open);
            let sends = open.map(|(slot, _)| SendNow {
                socket: FixedFd(slot as u32),
                bytes: &post.run,
                is_last: false,
                token: token(Op::Publish, slot as u32),
            });
            self.ring.send_now(sends, &mut lost);
            // The publisher may have disconnected.
            let _ = post.done.send(());
        }
        if !lost.is_empty() {
            self.lost += lost.len() as u64;
            eprintln!("floor: {} messages lost", self.lost);
        }
    }
}

fn take_publishers(control: &TcpListener, posts: &Sender<Post>, posted: &Event) {
    while let Ok((stream, _)) = control.accept() {
        let (posts, posted) = (posts.clone(), posted.clone());
        thread::spawn(move || {
            // An error means that the publisher disconnected or sent an invalid request.
            let _ = Publisher::new(stream).map_err(Into::into).and_then(|publisher| relay(publisher, &posts, &posted));
        });
    }
}

/// Passes on the publications of `publisher`, and answers once they are sent.
fn relay(mut publisher: Publisher, posts: &Sender<Post>, posted: &Event) -> Result<(), Box<dyn Error>> {
    loop {
        let mut run = Vec::new();
        publisher.read(&mut run)?;
        if !run.is_empty() {
            let (done, is_done) = mpsc::channel();
            posts.send(Post { run, done })?;
            posted.notify();
            is_done.recv()?;
            publisher.answer()?;
        }
    }
}

/// The response to an opening handshake, once the request is complete.
fn accept(slot: u32, bytes: &[u8], partial: &mut HashMap<u32, Vec<u8>>) -> Option<Vec<u8>> {
    let mut request = partial.remove(&slot).unwrap_or_default();
    request.extend_from_slice(bytes);
    let Some((head, _)) = decode_request_head(&request).ok()? else {
        partial.insert(slot, request);
        return None;
    };
    let upgrade = Upgrade::from_request(&head).ok()?;
    let mut answer = Vec::new();
    encode_accept(&mut answer, &upgrade, None, None);
    Some(answer)
}

/// A slot is reused only after all operations on the old socket completed.
fn token(op: Op, slot: u32) -> Token {
    Token::of_conn(op, ConnId { slot: SlotId(slot), generation: 0 })
}
