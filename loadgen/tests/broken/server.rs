//! A server that sends each publication to every subscriber of its topic, except for one fault, which it counts.
//!
//! `/feed/a,b` subscribes to the topics a and b, `/feed` to all. A publication is a payload, or a topic, a blank and a
//! payload.
//!
//! It uses plain threads and sockets. It shares the codec with the program under test, but not the checks: it makes its
//! faults without knowledge of the payloads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ringfeed::proto::{Decoder, Event, Message, Role, accept_key, encode_message};

/// The fault of the server. Numbers count the publications of a connection from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No fault.
    None,
    /// Drops one publication in this many.
    Drops(u64),
    /// Sends this one twice.
    Repeats(u64),
    /// Exchanges this one and the next of its topic.
    Swaps(u64),
    /// Sends this one to the subscribers of other topics, too.
    Misroutes(u64),
    /// Sends this one only to the subscribers of other topics.
    Exchanges(u64),
    /// Delays each publication of this topic by this much.
    SlowsTopic(&'static str, Duration),
    /// Sends this one later by this much, after others.
    Delays(u64, Duration),
    /// Changes a byte of this one.
    Corrupts(u64),
    /// After this many messages for an echo, returns the first message of another connection instead.
    Crosses(u64),
    /// Stops reading from publishers, and from connections that request echoes, at this one.
    StopsReading(u64),
    /// Stalls for this long before this one.
    Stalls(u64, Duration),
    /// Closes every connection after this one; a connection that requests echoes, after this many of its own.
    Dies(u64),
    /// Accepts no connection after this many.
    ShutsTheDoor(u64),
}

/// A running server. Its threads end with the test.
pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    fault: Fault,
    subscribers: Mutex<Vec<Subscriber>>,
    /// The first message for an echo, and its sender.
    first: Mutex<Option<(SocketAddr, Vec<u8>)>>,
    /// Deliveries hit by the fault so far.
    made: AtomicU64,
}

struct Subscriber {
    /// None stands for all.
    topics: Vec<String>,
    stream: TcpStream,
}

impl Subscriber {
    fn has(&self, topic: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|name| name == topic)
    }
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

    /// The URL of `path`: `/feed` or `/feed/a,b` to subscribe, `/publish` to publish, `/echo`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// Number of deliveries hit by the fault.
    pub(crate) fn faults_made(&self) -> u64 {
        self.state.made.load(Ordering::Relaxed)
    }
}

/// Ends silently when the connection fails, since no peer is left.
fn serve(mut stream: TcpStream, state: &State) {
    let Some((path, answer)) = read_handshake(&mut stream) else { return };
    stream.set_nodelay(true).expect("a socket has this option");
    if let Some(list) = path.strip_prefix("/feed") {
        let topics = list.strip_prefix('/').into_iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
        // Sends the response under the lock, so that a subscriber with a response receives all later publications.
        let mut subscribers = state.subscribers.lock().expect("no thread panics");
        if stream.write_all(answer.as_bytes()).is_ok() {
            subscribers.push(Subscriber { topics, stream });
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

/// The path in the opening handshake, and the response to it.
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

fn publish(state: &State, number: u64, message: &[u8]) {
    let (topic, payload) = split_topic(message);
    let frame = frame(payload);
    if let Fault::SlowsTopic(slow, by) = state.fault
        && slow == topic
    {
        thread::sleep(by);
    }
    let mut subscribers = state.subscribers.lock().expect("no thread panics");
    let hit = subscribers.iter().filter(|subscriber| subscriber.has(topic)).count() as u64;
    let others = subscribers.len() as u64 - hit;
    let made_for = |count: u64| _ = state.made.fetch_add(count, Ordering::Relaxed);
    let made = || made_for(hit);
    let mut send_where = |wants: &dyn Fn(&Subscriber) -> bool, frame: &[u8]| {
        let those = subscribers.iter_mut().filter(|subscriber| wants(subscriber));
        those.for_each(|subscriber| _ = subscriber.stream.write_all(frame));
    };
    let mut send = |frame: &[u8]| send_where(&|subscriber| subscriber.has(topic), frame);
    match state.fault {
        Fault::Drops(every) if number % every == every / 2 => made(),
        Fault::Repeats(at) if number == at => {
            made();
            send(&[frame.clone(), frame].concat());
        }
        Fault::Swaps(at) if number == at => HELD.set(Some((topic.to_owned(), frame))),
        Fault::Swaps(_) => match HELD.take() {
            Some((of, held)) if of == topic => {
                made();
                send(&[frame, held].concat());
            }
            held => {
                HELD.set(held);
                send(&frame);
            }
        },
        Fault::Misroutes(at) if number == at => {
            made_for(others);
            send_where(&|_| true, &frame);
        }
        Fault::Exchanges(at) if number == at => {
            made_for(others);
            send_where(&|subscriber| !subscriber.has(topic), &frame);
        }
        Fault::Delays(at, by) if number == at => {
            made();
            let those = subscribers.iter().filter(|subscriber| subscriber.has(topic));
            let streams: Vec<_> = those.map(|one| one.stream.try_clone().expect("a descriptor is free")).collect();
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
            sleep_forever();
        }
        Fault::Stalls(at, how_long) if number == at => {
            thread::sleep(how_long);
            send(&frame);
        }
        Fault::Dies(at) if number == at => {
            made();
            let ended = subscribers.drain(..).map(|one| one.stream.shutdown(std::net::Shutdown::Both));
            ended.for_each(|result| result.expect("the socket is open"));
        }
        _ => send(&frame),
    }
}

thread_local! {
    /// The frame that is sent after the next one of its topic.
    static HELD: std::cell::Cell<Option<(String, Vec<u8>)>> = const { std::cell::Cell::new(None) };
}

/// The topic and the payload of a publication. Payloads begin with a bracket.
fn split_topic(message: &[u8]) -> (&str, &[u8]) {
    let Some(blank) = message.iter().position(|byte| *byte == b' ').filter(|_| message[0] != b'[') else {
        return ("", message);
    };
    (str::from_utf8(&message[..blank]).expect("topics are text"), &message[blank + 1..])
}

fn echo(state: &State, number: u64, payload: &[u8], stream: &mut TcpStream) {
    if matches!(state.fault, Fault::StopsReading(at) if number >= at) {
        state.made.fetch_add(1, Ordering::Relaxed);
        sleep_forever();
    }
    let from = stream.peer_addr().expect("it is connected");
    let mut first = state.first.lock().expect("no thread panics");
    let (sender, foreign) = first.get_or_insert_with(|| (from, payload.to_vec()));
    let _ = match state.fault {
        Fault::Crosses(at) if number == at && *sender != from => {
            state.made.fetch_add(1, Ordering::Relaxed);
            stream.write_all(&frame(foreign))
        }
        Fault::Dies(at) if number == at => stream.shutdown(std::net::Shutdown::Both),
        _ => stream.write_all(&frame(payload)),
    };
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_message(&mut frame, Message::text(str::from_utf8(payload).expect("messages are text")), None);
    frame
}

/// Sleeps until the process ends, with its sockets open.
fn sleep_forever() -> ! {
    loop {
        thread::park();
    }
}
