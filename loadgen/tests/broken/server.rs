//! A server that sends each publication to every subscriber of its topic, except for one fault, which it counts.
//!
//! `/feed/a,b` subscribes to the topics a and b, `/feed` to all. A publication is a payload, or a topic, a blank and a
//! payload; it arrives on a WebSocket or as a POST.
//!
//! It uses plain threads and sockets. It shares the codec with the program under test, but not the checks: it makes its
//! faults without knowledge of the payloads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ringfeed::proto::{Decoder, Event, Message, Opcode, Role, accept_key, encode_frame, encode_message};

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
    /// Sends this one without its end.
    Truncates(u64),
    /// Sends this one to the first subscriber as a binary message.
    SendsBinary(u64),
    /// Sends the first one again after this one.
    Replays(u64),
    /// Sends a message with this payload after number 100.
    Invents(&'static str),
    /// Sends these bytes before number 100 to the first subscriber.
    Breaks(&'static [u8]),
    /// Sends nothing to the first subscriber from this one on.
    Starves(u64),
    /// Refuses one POST in this many, without publishing it.
    Refuses(u64),
    /// Publishes, but answers no POST from this one on.
    NeverAnswers(u64),
    /// Answers POSTs, but drops one publication in this many.
    AnswersAndDrops(u64),
    /// No fault: answers POSTs in chunks, each after 100 Continue.
    AnswersInChunks,
    /// No fault: closes the connection after each answer to a POST.
    AnswersOnce,
    /// Answers no ping.
    ForgetsPings,
    /// Sends the response to an opening handshake this much later.
    ShakesHandsSlowly(Duration),
    /// Answers no opening handshake after this many.
    IgnoresHandshakes(u64),
    /// Sends each echo with this opcode.
    EchoesAs(u8),
    /// Sends this echo twice.
    RepeatsEcho(u64),
    /// Exchanges this echo and the next.
    SwapsEchoes(u64),
    /// Drops this echo.
    DropsEcho(u64),
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
    /// POSTs so far.
    posts: AtomicU64,
    /// Opening handshakes so far.
    handshakes: AtomicU64,
    /// Other connections than those of subscribers so far.
    connections: AtomicU64,
    /// Publications and messages for an echo so far.
    received: AtomicU64,
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
        let state = Arc::new(State {
            fault,
            subscribers: Mutex::default(),
            first: Mutex::default(),
            made: AtomicU64::new(0),
            posts: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
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

    /// The URL of a POST that publishes.
    pub(crate) fn post_url(&self) -> String {
        format!("http://{}/publish", self.address)
    }

    /// Number of connections so far that completed their handshake outside `/feed`.
    pub(crate) fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Number of publications and messages for an echo so far.
    pub(crate) fn received(&self) -> u64 {
        self.state.received.load(Ordering::Relaxed)
    }

    /// Number of deliveries hit by the fault.
    pub(crate) fn faults_made(&self) -> u64 {
        self.state.made.load(Ordering::Relaxed)
    }
}

/// Ends silently when the connection fails, since no peer is left.
fn serve(mut stream: TcpStream, state: &State) {
    stream.set_nodelay(true).expect("a socket has this option");
    let Some(head) = read_head(&mut stream) else { return };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    if head.starts_with("POST ") {
        return serve_posts(head, &mut stream, state);
    }
    let Some(answer) = answer_handshake(&head) else { return };
    let number = state.handshakes.fetch_add(1, Ordering::Relaxed);
    match state.fault {
        Fault::ShakesHandsSlowly(by) => thread::sleep(by),
        Fault::IgnoresHandshakes(after) if number >= after => sleep_forever(),
        _ => {}
    }
    if let Some(list) = path.strip_prefix("/feed") {
        let topics = list.strip_prefix('/').into_iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
        // Sends the response under the lock, so that a subscriber with a response receives all later publications.
        let mut subscribers = state.subscribers.lock().expect("no thread panics");
        if stream.write_all(answer.as_bytes()).is_ok() {
            subscribers.push(Subscriber { topics, stream });
        }
    } else if stream.write_all(answer.as_bytes()).is_ok() {
        state.connections.fetch_add(1, Ordering::Relaxed);
        let mut number = 0;
        let mut reader = stream.try_clone().expect("a descriptor is free");
        read_events(&mut reader, |event| match event {
            Event::Message(message) => {
                match path == "/publish" {
                    true => publish(state, number, message.payload),
                    false => echo(state, number, message.payload, &mut stream),
                }
                number += 1;
            }
            Event::Ping(payload) if state.fault != Fault::ForgetsPings => {
                let mut pong = Vec::new();
                encode_frame(&mut pong, Opcode::Pong, payload, None);
                let _ = stream.write_all(&pong);
            }
            _ => {}
        });
    }
}

/// Request line and headers.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    String::from_utf8(head).ok()
}

fn header<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
}

/// The response to an opening handshake.
fn answer_handshake(head: &str) -> Option<String> {
    let accept = accept_key(header(head, "sec-websocket-key")?);
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ))
}

/// Publishes the bodies of POSTs, of which `head` begins the first.
fn serve_posts(mut head: String, stream: &mut TcpStream, state: &State) {
    loop {
        let number = state.posts.fetch_add(1, Ordering::Relaxed);
        let len = header(&head, "content-length").expect("a length").parse().expect("a number");
        let mut body = vec![0; len];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let made = || _ = state.made.fetch_add(1, Ordering::Relaxed);
        let fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let answer = match state.fault {
            Fault::Refuses(every) if number % every == every / 2 => {
                made();
                "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
            }
            Fault::NeverAnswers(at) if number >= at => {
                publish(state, number, &body);
                made();
                ""
            }
            Fault::AnswersInChunks => {
                publish(state, number, &body);
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            }
            Fault::AnswersOnce => {
                publish(state, number, &body);
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
            }
            _ => {
                publish(state, number, &body);
                fine
            }
        };
        if stream.write_all(answer.as_bytes()).is_err() || state.fault == Fault::AnswersOnce {
            // Closes only its own half, so that the client reads the answer although it has sent more.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while stream.read(&mut [0; 1024]).is_ok_and(|len| len > 0) {}
            return;
        }
        match read_head(stream) {
            Some(next) => head = next,
            None => return,
        }
    }
}

fn read_events(stream: &mut TcpStream, mut on_event: impl FnMut(Event<'_>)) {
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    let mut buffer = vec![0; 1 << 16];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        let mut input = &mut buffer[..len];
        while let Ok(Some(event)) = decoder.decode(&mut input) {
            on_event(event);
        }
    }
}

fn publish(state: &State, number: u64, message: &[u8]) {
    state.received.fetch_add(1, Ordering::Relaxed);
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
        Fault::Truncates(at) if number == at => {
            made();
            send(&self::frame(&payload[..payload.len() / 2]));
        }
        Fault::SendsBinary(at) if number == at => {
            made_for(1);
            let mut changed = frame.clone();
            changed[0] = 0x82;
            let (first, others) = subscribers.split_first_mut().expect("there are subscribers");
            let _ = first.stream.write_all(&changed);
            others.iter_mut().for_each(|other| _ = other.stream.write_all(&frame));
        }
        Fault::Replays(at) if number == at => {
            made();
            let first = state.first.lock().expect("no thread panics").clone().expect("there was one").1;
            send(&[frame, self::frame(&first)].concat());
        }
        Fault::Replays(_) if number == 0 => {
            let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
            *state.first.lock().expect("no thread panics") = Some((nobody, payload.to_vec()));
            send(&frame);
        }
        Fault::Invents(words) if number == 100 => {
            made();
            send(&[frame, self::frame(words.as_bytes())].concat());
        }
        Fault::Breaks(bytes) if number == 100 => {
            made_for(1);
            let first = &mut subscribers.first_mut().expect("there are subscribers").stream;
            let _ = first.write_all(bytes);
            subscribers.iter_mut().for_each(|one| _ = one.stream.write_all(&frame));
        }
        Fault::Starves(at) if number >= at => {
            made_for(1);
            subscribers.iter_mut().skip(1).for_each(|one| _ = one.stream.write_all(&frame));
        }
        Fault::AnswersAndDrops(every) if number % every == every / 2 => made(),
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
    state.received.fetch_add(1, Ordering::Relaxed);
    let from = stream.peer_addr().expect("it is connected");
    let mut first = state.first.lock().expect("no thread panics");
    let (sender, foreign) = first.get_or_insert_with(|| (from, payload.to_vec()));
    let made = || _ = state.made.fetch_add(1, Ordering::Relaxed);
    let mut bytes = frame(payload);
    match state.fault {
        Fault::Crosses(at) if number == at && *sender != from => {
            made();
            bytes = frame(foreign);
        }
        Fault::EchoesAs(opcode) => {
            made();
            bytes[0] = 0x80 | opcode;
        }
        Fault::RepeatsEcho(at) if number == at => {
            made();
            bytes = bytes.repeat(2);
        }
        Fault::DropsEcho(at) if number == at => {
            made();
            bytes.clear();
        }
        Fault::SwapsEchoes(at) if number == at => {
            made();
            HELD.set(Some((String::new(), std::mem::take(&mut bytes))));
        }
        Fault::SwapsEchoes(_) => bytes.extend(HELD.take().into_iter().flat_map(|(_, held)| held)),
        Fault::Dies(at) if number == at => {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        _ => {}
    }
    let _ = stream.write_all(&bytes);
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
