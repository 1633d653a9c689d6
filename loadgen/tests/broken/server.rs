//! A server that repeats what is published to every subscriber, but for one fault, and keeps count of that.
//!
//! Plain threads and sockets. It shares the codec with what it tests; what must not be shared is the judgement, and the
//! faults here are made without knowledge of what a message carries.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ringfeed::proto::{Decoder, Event, Message, Role, accept_key, encode_message};

/// What is wrong with it. Numbers count publications from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// One publication in so many reaches nobody.
    Drops(u64),
    /// This one is sent twice.
    Repeats(u64),
    /// This one and the next change places.
    Swaps(u64),
    /// This one is sent so much later, after others.
    Delays(u64, Duration),
    /// A byte of this one is changed.
    Corrupts(u64),
    /// Who has sent so many for an echo gets the first one that anybody else has sent instead of its own.
    Crosses(u64),
    /// From this one on, nothing is read from publishers, and from who wants an echo.
    StopsReading(u64),
    /// Before this one, everything stands still for so long.
    Stalls(u64, Duration),
    /// After this one, it closes every connection; of those that want an echo, each after so many of its own.
    Dies(u64),
    /// After so many connections it accepts none any more.
    ShutsTheDoor(u64),
}

/// A running server. Its threads end with the test.
pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    fault: Fault,
    subscribers: Mutex<Vec<TcpStream>>,
    /// The first message that was sent for an echo, and from where.
    first: Mutex<Option<(SocketAddr, Vec<u8>)>>,
    /// The fault so far, once for each subscriber that it hits.
    made: AtomicU64,
}

impl Server {
    /// Listens on a free port of loopback.
    pub(crate) fn start(fault: Fault) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state =
            Arc::new(State { fault, subscribers: Mutex::default(), first: Mutex::default(), made: AtomicU64::new(0) });
        let shared = Arc::clone(&state);
        let connections_max = if let Fault::ShutsTheDoor(count) = fault { count as usize } else { usize::MAX };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok).take(connections_max) {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &state));
            }
        });
        Server { address, state }
    }

    /// The URL of `path`: `/feed` to subscribe, `/publish` to publish, `/echo`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// How many deliveries the fault has hit.
    pub(crate) fn faults_made(&self) -> u64 {
        self.state.made.load(Ordering::Relaxed)
    }
}

/// Nobody is left to tell when a connection breaks.
fn serve(mut stream: TcpStream, state: &State) {
    let Some((path, answer)) = read_handshake(&mut stream) else { return };
    stream.set_nodelay(true).expect("a socket has this option");
    if path == "/feed" {
        // Under the lock, so that who has been answered gets all that is published from then on.
        let mut subscribers = state.subscribers.lock().expect("no thread panics");
        if stream.write_all(answer.as_bytes()).is_ok() {
            subscribers.push(stream);
        }
    } else if stream.write_all(answer.as_bytes()).is_ok() {
        let mut number = 0;
        read_messages(&mut stream.try_clone().expect("a descriptor is free"), |payload| {
            if path == "/publish" {
                publish(state, number, payload);
            } else {
                echo(state, number, payload, &mut stream);
            }
            number += 1;
        });
    }
}

/// The path that the opening handshake asks for, and the answer to it.
fn read_handshake(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    let head = String::from_utf8(head).ok()?;
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    })?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        accept_key(key)
    );
    head.split(' ').nth(1).map(|path| (path.to_owned(), answer))
}

fn read_messages(stream: &mut TcpStream, mut on_message: impl FnMut(&[u8])) {
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    let mut buffer = vec![0; 1 << 16];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        let mut input = &mut buffer[..len];
        while let Ok(Some(event)) = decoder.decode(&mut input) {
            if let Event::Message(message) = event {
                on_message(message.payload);
            }
        }
    }
}

fn publish(state: &State, number: u64, payload: &[u8]) {
    let frame = frame(payload);
    let mut subscribers = state.subscribers.lock().expect("no thread panics");
    let hit = subscribers.len() as u64;
    let made = || _ = state.made.fetch_add(hit, Ordering::Relaxed);
    let mut send = |frame: &[u8]| subscribers.iter_mut().for_each(|stream| _ = stream.write_all(frame));
    match state.fault {
        Fault::Drops(every) if number % every == every / 2 => made(),
        Fault::Repeats(at) if number == at => {
            made();
            send(&[frame.clone(), frame].concat());
        }
        Fault::Swaps(at) if number == at => HELD.set(frame),
        Fault::Swaps(at) if number == at + 1 => {
            made();
            send(&[frame, HELD.take()].concat());
        }
        Fault::Delays(at, by) if number == at => {
            made();
            let streams: Vec<_> = subscribers.iter().map(|stream| stream.try_clone().expect("one is free")).collect();
            thread::spawn(move || {
                thread::sleep(by);
                streams.into_iter().for_each(|mut stream| _ = stream.write_all(&frame));
            });
        }
        Fault::Corrupts(at) if number == at => {
            made();
            let mut changed = frame;
            *changed.last_mut().expect("a frame has bytes") ^= 1;
            send(&changed);
        }
        Fault::StopsReading(at) if number >= at => {
            drop(subscribers);
            rest_for_ever();
        }
        Fault::Stalls(at, how_long) if number == at => {
            thread::sleep(how_long);
            send(&frame);
        }
        Fault::Dies(at) if number == at => {
            made();
            let ended = subscribers.drain(..).map(|stream| stream.shutdown(std::net::Shutdown::Both));
            ended.for_each(|result| result.expect("it was open"));
        }
        _ => send(&frame),
    }
}

thread_local! {
    /// The frame that waits for the next one to go first.
    static HELD: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
}

fn echo(state: &State, number: u64, payload: &[u8], stream: &mut TcpStream) {
    if matches!(state.fault, Fault::StopsReading(at) if number >= at) {
        state.made.fetch_add(1, Ordering::Relaxed);
        rest_for_ever();
    }
    let from = stream.peer_addr().expect("it is connected");
    let mut first = state.first.lock().expect("no thread panics");
    let (whose, foreign) = first.get_or_insert_with(|| (from, payload.to_vec()));
    let _ = match state.fault {
        Fault::Crosses(at) if number == at && *whose != from => {
            state.made.fetch_add(1, Ordering::Relaxed);
            stream.write_all(&frame(foreign))
        }
        Fault::Dies(at) if number == at => stream.shutdown(std::net::Shutdown::Both),
        _ => stream.write_all(&frame(payload)),
    };
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_message(&mut frame, Message::text(str::from_utf8(payload).expect("text was sent")), None);
    frame
}

/// Until the process ends, with its sockets open.
fn rest_for_ever() -> ! {
    loop {
        thread::park();
    }
}
