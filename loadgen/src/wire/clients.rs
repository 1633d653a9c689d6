//! The clients of a worker: subscribers, followed by number by the publishing connections.
//!
//! Joins sockets and conversations, opens connections at a given pace, and passes received messages to a [`Sink`]. A
//! scenario decides when each client connects, and handles the messages.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfeed::proto::{DeflateParams, Message, MessageKind, encode_message};
use ringfeed::ring::{Event, Gather};

use crate::check::topics::Topics;
use crate::cli::CommonOptions;
use crate::driver::{self, Seen};
use crate::error::Error;
use crate::host::interrupt;
use crate::options::{ConnectOptions, PublishOptions};
use crate::scenario::pace::Pace;
use crate::wire::conversation::{Conversation, Opening, Request, Tools};
use crate::wire::dial::Dialer;
use crate::wire::frames::FrameCache;
use crate::wire::masking_keys::MaskingKeys;
use crate::wire::publisher::{Answer, HttpPublisher};
use crate::wire::sockets::{Attention, Observer, Sockets};
use crate::wire::target::Target;
use crate::wire::tls::{self, Tls, Trust};

/// Above this number, clients receive with as little kernel memory as possible, unless the scenario chooses otherwise:
/// with so many clients, the message rate per client is too low for the faster mode to matter.
const BUSY_MAX: u32 = 100_000;

/// Longest wait of one turn.
pub(crate) const TURN: Duration = Duration::from_millis(100);

/// While many clients expect messages, the loop waits for a batch, so that one wake-up handles all of them: this
/// fraction of the expected messages, up to [`GATHER_MAX`].
const GATHER_SHARE: u64 = 4;
const GATHER_MAX: u64 = 64;

/// Longest wait for a batch. Reported latencies can be too long by this; they are never too short.
const GATHER_WITHIN: Duration = Duration::from_micros(50);

/// Handles the events of the clients.
pub(crate) trait Sink {
    /// Called when data arrives. Returns the time in nanoseconds since the start of the run.
    fn woken(&mut self) -> u64;

    /// A lower bound for the number of clients that expect messages.
    fn awaited(&self) -> u64;

    /// `client` is connected and, if it subscribes, its subscription is confirmed.
    fn on_ready(&mut self, client: u32, ready: Ready, now_ns: u64);

    /// Takes known frames, and possibly the beginning of one more, from the front of the bytes received by `client`,
    /// without decoding them. `None` if this sink keeps no frames.
    fn take_known(&mut self, _client: u32, _bytes: &[u8], _now_ns: u64) -> Option<Known<'_>> {
        None
    }

    /// `client` received a message. Bytes appended to `out` are sent back.
    fn on_message(&mut self, client: u32, incoming: Incoming<'_>, out: Out<'_>);

    /// `client` answered a ping.
    fn on_pong(&mut self, _client: u32) {}

    /// The server acknowledged a publication at `now_ns`, `latency_ns` after it was published.
    fn on_acknowledged(&mut self, _latency_ns: u64, _now_ns: u64) {}

    /// The server refused message `number` of `topic`.
    fn on_refused(&mut self, _topic: u32, _number: u64, _reason: &str) {}

    /// `client` was closed since it was not ready in time.
    fn on_overdue(&mut self, client: u32, reason: &str) {
        self.on_closed(client, false, reason);
    }

    /// `client` ended without [`leave`](Clients::leave), or never became ready.
    fn on_closed(&mut self, client: u32, was_ready: bool, reason: &str);
}

/// The result of the handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// The compression agreed on, if any.
    pub(crate) deflate: Option<DeflateParams>,
    /// Time since the start of the TCP connection.
    pub(crate) took: Duration,
}

/// The known frames at the front of received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known<'a> {
    /// Their length in bytes.
    pub(crate) len: usize,
    /// Earlier bytes that were taken for the beginning of a known frame but differ from it: decode them before the
    /// rest.
    pub(crate) taken_back: &'a [u8],
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) message: Message<'a>,
    /// The bytes of its frame, if the message had a frame to itself and the sink keeps frames.
    pub(crate) frame: Option<&'a [u8]>,
    pub(crate) now_ns: u64,
}

/// Where to append frames sent by a client.
pub(crate) struct Out<'a> {
    pub(crate) bytes: &'a mut Vec<u8>,
    pub(crate) keys: &'a mut MaskingKeys,
}

/// The destination of a group of clients.
struct Route {
    target: Target,
    dialer: Dialer,
    /// The name that the server's certificate must have; `None` without TLS.
    name: Option<tls::Name>,
    headers: Vec<(String, String)>,
}

/// All clients of a worker.
pub(crate) struct Clients {
    sockets: Sockets,
    connections: Connections,
    to_subscribe: Route,
    to_publish: Option<Route>,
    publishers: u32,
    connect_rate: Option<u32>,
    handshakes_max: u32,
    attention: Attention,
    /// Most POSTs without an answer on a connection.
    posts_max: Option<u32>,
}

/// The conversations of the clients.
struct Connections {
    tools: Tools,
    topics: Arc<Topics>,
    deflate: bool,
    /// Longest time until a client is ready.
    ready_within: Duration,
    /// Clients from this number on are publishers.
    subscribers: u32,
    all: Vec<Conversation>,
    /// Opened clients with the time of opening, in that order; some are already ready or gone.
    opened: VecDeque<(u32, Instant)>,
    opening_count: u32,
    ready_count: u32,
    /// The first client that ended by itself, and the reason, since the last query.
    failure: Option<(u32, String)>,
    /// Publishers to be connected again.
    away: Vec<u32>,
    /// A copy of the bytes being decoded.
    copy: Vec<u8>,
}

impl Clients {
    /// Creates clients for `subscribers` and for the publishers. None is connected yet.
    ///
    /// # Errors
    /// If the options contradict each other, or this host's limits are too low.
    pub(crate) fn new(
        common: &CommonOptions,
        topics: Arc<Topics>,
        subscribers: u32,
        publishing: Option<&PublishOptions>,
    ) -> Result<Clients, Error> {
        let connect = &common.connect;
        let driver = driver::choose(connect.driver, connect.script.as_deref(), &common.url)?;
        let publishers = publishing.map_or(0, |options| options.publishers);
        let to_publish =
            publishing.map(|options| Route::new(&options.publish, publishers, &options.publish_header, connect));
        let to_subscribe = Route::new(&common.url, subscribers, &connect.header, connect)?;
        let to_publish = to_publish.transpose()?;
        let count = subscribers + publishers;
        let is_encrypted =
            [Some(&to_subscribe), to_publish.as_ref()].into_iter().flatten().any(|route| route.name.is_some());
        let tls = is_encrypted.then(|| Tls::new(trust(connect), connect.tls_resume, count)).transpose()?;
        Ok(Clients {
            sockets: Sockets::new(count, tls)?,
            connections: Connections {
                tools: Tools { driver, frames: FrameCache::new() },
                topics,
                deflate: common.deflate,
                ready_within: connect.connect_timeout,
                subscribers,
                all: (0..count).map(|_| Conversation::None).collect(),
                opened: VecDeque::new(),
                opening_count: 0,
                ready_count: 0,
                failure: None,
                away: Vec::new(),
                copy: Vec::new(),
            },
            to_subscribe,
            to_publish,
            publishers,
            connect_rate: connect.connect_rate,
            handshakes_max: connect.handshakes,
            attention: if count > BUSY_MAX { Attention::Idle } else { Attention::Busy },
            posts_max: publishing.and_then(|options| options.posts_in_flight),
        })
    }

    /// Connects these subscribers, and returns when all are ready.
    ///
    /// # Errors
    /// If one of them, or a client that was ready before, fails.
    pub(crate) fn connect(&mut self, subscribers: Range<u32>, sink: &mut impl Sink) -> Result<(), Error> {
        self.connections.failure = None;
        let mut pace = Pace::new(self.connect_rate, Some(u32::MAX));
        pace.start(sink.woken());
        let (mut next, ready_at_end) = (subscribers.start, self.connections.ready_count + subscribers.len() as u32);
        while self.connections.ready_count < ready_at_end {
            let now_ns = sink.woken();
            while next < subscribers.end && self.connections.opening_count < self.handshakes_max {
                if pace.take_due(0, now_ns).is_none() {
                    break;
                }
                self.open(next).map_err(|reason| self.describe(next, &reason))?;
                next += 1;
            }
            let timeout = pace.next_due_in(0, now_ns).map_or(TURN, |due| due.min(TURN));
            self.turn(timeout, sink);
            if let Some((client, reason)) = self.connections.failure.take() {
                return Err(self.describe(client, &reason));
            }
            if interrupt::has_come() {
                return Err(Error::new("interrupted before all clients were connected"));
            }
        }
        Ok(())
    }

    /// Connects the publishers, and returns when all are ready. Call this last: a server would time out an idle
    /// publisher while a million subscribers connect.
    ///
    /// # Errors
    /// If one of them fails.
    pub(crate) fn connect_publishers(&mut self, sink: &mut impl Sink) -> Result<(), Error> {
        let publishers = self.connections.subscribers..self.connections.subscribers + self.publishers;
        match &self.to_publish {
            Some(route) if route.target.is_web_socket() => self.connect(publishers, sink),
            Some(_) => {
                for client in publishers {
                    self.open_http(client).map_err(|reason| self.describe(client, &reason))?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Starts to connect `client`, which [must be free](Self::is_free). The sink is called when it is ready or fails.
    ///
    /// # Errors
    /// If this host can't open the connection.
    pub(crate) fn open(&mut self, client: u32) -> Result<(), String> {
        let Clients { sockets, connections, to_subscribe, to_publish, attention, .. } = self;
        let topics = Arc::clone(&connections.topics);
        let topic = (client < connections.subscribers).then(|| topics.names_of(client));
        let topic = topic.as_deref();
        let route = match topic {
            Some(_) => to_subscribe,
            None => to_publish.as_mut().expect("a publisher has a target"),
        };
        let socket = route.dialer.dial().map_err(|error| format!("can't connect: {error}"))?;
        sockets.open(client, socket, route.name.as_ref(), *attention)?;
        let path = route.target.path(topic.unwrap_or(topics.name(0)));
        // Publications are not compressed.
        let deflate = connections.deflate && topic.is_some();
        let request =
            Request { authority: &route.target.authority, path: &path, headers: &route.headers, deflate, topic };
        let opening = Opening::begin(&request, &mut connections.tools, sockets.out(client));
        connections.opened.push_back((client, opening.since));
        connections.opening_count += 1;
        connections.all[client as usize] = Conversation::Opening(Box::new(opening));
        Ok(())
    }

    /// Connects `client`, which publishes by POST.
    fn open_http(&mut self, client: u32) -> Result<(), String> {
        let Clients { sockets, connections, to_publish, posts_max, .. } = self;
        let route = to_publish.as_mut().expect("a publisher has a target");
        let socket = route.dialer.dial_and_wait().map_err(|error| format!("can't connect: {error}"))?;
        sockets.open(client, socket, route.name.as_ref(), Attention::Busy)?;
        let publisher = HttpPublisher::new(
            Arc::clone(&connections.tools.driver),
            &route.target,
            &connections.topics,
            &route.headers,
            *posts_max,
        );
        connections.all[client as usize] = Conversation::Publishing(Box::new(publisher));
        connections.ready_count += 1;
        Ok(())
    }

    /// Connects publishers again whose server closes connections.
    fn reopen_away(&mut self, sink: &mut impl Sink) {
        for client in std::mem::take(&mut self.connections.away) {
            if !self.sockets.is_free(client) {
                self.connections.away.push(client);
            } else if let Err(reason) = self.reopen(client, sink.woken()) {
                self.connections.on_closed(client, &reason, sink);
            }
        }
    }

    fn reopen(&mut self, client: u32, now_ns: u64) -> Result<(), String> {
        let Clients { sockets, connections, to_publish, .. } = self;
        let route = to_publish.as_mut().expect("a publisher has a target");
        let socket = route.dialer.dial().map_err(|error| format!("can't connect: {error}"))?;
        sockets.open(client, socket, route.name.as_ref(), Attention::Busy)?;
        if let Conversation::Publishing(publisher) = &mut connections.all[client as usize] {
            publisher.on_reopened(now_ns, sockets.out(client));
        }
        Ok(())
    }

    /// Whether `client` is closed and its number can be reused.
    pub(crate) fn is_free(&self, client: u32) -> bool {
        self.sockets.is_free(client)
    }

    /// Number of clients in the handshake.
    pub(crate) fn opening_count(&self) -> u32 {
        self.connections.opening_count
    }

    /// Whether one more client may begin its handshake.
    pub(crate) fn may_open(&self) -> bool {
        self.connections.opening_count < self.handshakes_max
    }

    /// Number of ready clients, including publishers.
    pub(crate) fn ready_count(&self) -> u32 {
        self.connections.ready_count
    }

    /// From now on, `wake` ends a turn.
    pub(crate) fn wake_by(&mut self, wake: Event) {
        self.sockets.wake_by(wake);
    }

    /// Sets how clients receive that connect from now on.
    pub(crate) fn listen_as(&mut self, attention: Attention) {
        self.attention = attention;
    }

    /// Changes how `client` receives.
    pub(crate) fn attend(&mut self, client: u32, attention: Attention) {
        self.sockets.attend(client, attention);
    }

    /// Receives once on `client`, which receives on demand.
    pub(crate) fn read_once(&mut self, client: u32) {
        self.sockets.receive_once(client);
    }

    /// Number of pings answered.
    pub(crate) fn pings(&self) -> u64 {
        self.connections.tools.frames.pings
    }

    /// The kind of messages in which payloads arrive.
    pub(crate) fn payload_kind(&self) -> MessageKind {
        self.connections.tools.driver.payload_kind()
    }

    /// Sends a ping on `client`, if it is ready and its protocol has pings. Returns whether it was sent.
    pub(crate) fn ping(&mut self, client: u32) -> bool {
        match &self.connections.all[client as usize] {
            Conversation::Ready(link) => link.ping(&mut self.connections.tools, self.sockets.out(client)),
            _ => false,
        }
    }

    /// Closes `client` after a closing message. Does not call the sink.
    pub(crate) fn leave(&mut self, client: u32) {
        if let Conversation::Ready(link) = &self.connections.all[client as usize] {
            link.close(&mut self.connections.tools, self.sockets.out(client));
        }
        self.vanish(client);
    }

    /// Closes `client` without a closing message, as when its network fails. Does not call the sink.
    pub(crate) fn vanish(&mut self, client: u32) {
        self.connections.take(client);
        self.sockets.leave(client);
    }

    /// The send buffer of `client`.
    pub(crate) fn out(&mut self, client: u32) -> Out<'_> {
        Out { bytes: self.sockets.out(client), keys: &mut self.connections.tools.frames.keys }
    }

    /// Publishes `payload`, message `number` of `topic`, at `now_ns`. Does nothing if the publisher has ended: the sink
    /// already knows.
    pub(crate) fn publish(&mut self, publisher: u32, (topic, number): (u32, u64), payload: &[u8], now_ns: u64) {
        let Connections { tools, topics, all, subscribers, .. } = &mut self.connections;
        let client = *subscribers + publisher;
        let topic_name = topics.name(topic);
        match &mut all[client as usize] {
            Conversation::Publishing(publisher) => {
                publisher.publish((topic, number), topic_name, payload, now_ns, self.sockets.out(client));
            }
            Conversation::Ready(_) => {
                let (kind, payload) = tools.driver.publish(topic_name, payload);
                let message = Message { kind, payload: &payload };
                encode_message(self.sockets.out(client), message, Some(tools.frames.keys.next()));
            }
            Conversation::None | Conversation::Opening(_) => {}
        }
    }

    /// Number of publications without an acknowledgement, where the protocol has acknowledgements.
    pub(crate) fn unanswered(&self) -> usize {
        let publishers = &self.connections.all[self.connections.subscribers as usize..];
        let unanswered = publishers.iter().map(|conversation| match conversation {
            Conversation::Publishing(publisher) => publisher.unanswered(),
            Conversation::None | Conversation::Opening(_) | Conversation::Ready(_) => 0,
        });
        unanswered.sum()
    }

    /// No longer expects the acknowledgements that have not come.
    pub(crate) fn give_up_unanswered(&mut self) {
        for conversation in &mut self.connections.all[self.connections.subscribers as usize..] {
            if let Conversation::Publishing(publisher) = conversation {
                publisher.give_up();
            }
        }
    }

    /// Runs one turn: sends pending bytes, waits until data arrives or `timeout` has passed, and calls `sink`.
    pub(crate) fn turn(&mut self, timeout: Duration, sink: &mut impl Sink) {
        let count = (sink.awaited() / GATHER_SHARE).clamp(1, GATHER_MAX) as u32;
        let want = Gather { count, within: GATHER_WITHIN.min(timeout) };
        self.sockets.turn(want, timeout, &mut Listening { connections: &mut self.connections, sink, now_ns: 0 });
        self.reopen_away(sink);
        while let Some(client) = self.connections.next_overdue() {
            self.sockets.leave(client);
            let seconds = self.connections.ready_within.as_secs_f64();
            let reason = format!("not ready within {seconds} s");
            self.connections.take(client);
            self.connections.failure.get_or_insert_with(|| (client, reason.clone()));
            sink.on_overdue(client, &reason);
        }
    }

    /// The error for the failure of `client`.
    fn describe(&self, client: u32, reason: &str) -> Error {
        match client.checked_sub(self.connections.subscribers) {
            None => Error::new(format!("{}: connection {client}: {reason}", self.to_subscribe.target)),
            Some(_) => {
                let target = self.to_publish.as_ref().map_or(String::new(), |route| route.target.to_string());
                Error::new(format!("{target}: publishing: {reason}"))
            }
        }
    }
}

impl Route {
    fn new(
        target: &Target,
        connections: u32,
        headers: &[(String, String)],
        connect: &ConnectOptions,
    ) -> Result<Route, Error> {
        let name = target.is_encrypted().then(|| tls::name(target.host())).transpose()?;
        let dialer = Dialer::new(target, connections, &connect.source, &connect.destination)?;
        Ok(Route { target: target.clone(), dialer, name, headers: headers.to_vec() })
    }
}

fn trust(connect: &ConnectOptions) -> Trust<'_> {
    match &connect.ca {
        _ if connect.insecure => Trust::Any,
        Some(path) => Trust::Authorities(path),
        None => Trust::Public,
    }
}

impl Connections {
    fn on_bytes(
        &mut self,
        client: u32,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        now_ns: u64,
        sink: &mut impl Sink,
    ) -> Result<(), String> {
        let is_subscriber = client < self.subscribers;
        match &mut self.all[client as usize] {
            Conversation::None => Ok(()),
            Conversation::Opening(_) => self.on_opening(client, bytes, out, now_ns, sink),
            Conversation::Publishing(publisher) => publisher.on_bytes(bytes, now_ns, out, |answer| match answer {
                Answer::Accepted { sent_ns } => sink.on_acknowledged(now_ns.saturating_sub(sent_ns), now_ns),
                Answer::Refused { topic, number, reason } => sink.on_refused(topic, number, &reason),
            }),
            Conversation::Ready(link) => {
                self.copy.clear();
                let (mut rest, mut joined) = (bytes, Vec::new());
                if is_subscriber
                    && link.is_between_payloads(&self.tools)
                    && let Some(Known { len, taken_back }) = sink.take_known(client, rest, now_ns)
                {
                    rest = &mut rest[len..];
                    self.copy.extend_from_slice(taken_back);
                    self.copy.extend_from_slice(rest);
                    if !taken_back.is_empty() {
                        joined.extend_from_slice(&self.copy);
                        rest = &mut joined;
                    }
                }
                let pongs = self.tools.frames.pongs;
                let result = link.read(&mut self.tools, rest, &self.copy, out, |seen, frame, bytes, keys| match seen {
                    Seen::Payload(message) if is_subscriber => {
                        sink.on_message(client, Incoming { message, frame, now_ns }, Out { bytes, keys });
                    }
                    Seen::Payload(_) | Seen::Ready | Seen::Answer(_) => {}
                });
                if self.tools.frames.pongs > pongs {
                    sink.on_pong(client);
                }
                result
            }
        }
    }

    fn on_opening(
        &mut self,
        client: u32,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        now_ns: u64,
        sink: &mut impl Sink,
    ) -> Result<(), String> {
        let is_subscriber = client < self.subscribers;
        let Conversation::Opening(opening) = &mut self.all[client as usize] else { return Ok(()) };
        let mut early;
        let bytes = if opening.has_greeted() {
            bytes
        } else {
            early = opening.shake_hands(bytes, self.deflate && is_subscriber, &mut self.tools, out)?;
            &mut early[..]
        };
        let mut is_ready = opening.is_ready();
        let ready = Ready { deflate: opening.deflate(), took: opening.since.elapsed() };
        if is_ready {
            sink.on_ready(client, ready, now_ns);
        }
        let result = match opening.link() {
            Some(link) => link.read(&mut self.tools, bytes, &[], out, |seen, frame, bytes, keys| match seen {
                Seen::Ready if !is_ready => {
                    is_ready = true;
                    sink.on_ready(client, ready, now_ns);
                }
                Seen::Payload(message) if is_ready && is_subscriber => {
                    sink.on_message(client, Incoming { message, frame, now_ns }, Out { bytes, keys });
                }
                Seen::Payload(_) | Seen::Ready | Seen::Answer(_) => {}
            }),
            None => Ok(()),
        };
        if is_ready {
            self.be_ready(client);
        }
        result
    }

    /// `client` is ready: shrinks its conversation to the memory of a ready one.
    fn be_ready(&mut self, client: u32) {
        let slot = &mut self.all[client as usize];
        if let Conversation::Opening(opening) = std::mem::take(slot) {
            *slot = Conversation::Ready(opening.into_link());
            self.opening_count -= 1;
            self.ready_count += 1;
        }
    }

    /// Removes the conversation of `client`. Returns whether it was ready.
    fn take(&mut self, client: u32) -> bool {
        match std::mem::take(&mut self.all[client as usize]) {
            Conversation::None => false,
            Conversation::Opening(_) => {
                self.opening_count -= 1;
                false
            }
            Conversation::Ready(_) | Conversation::Publishing(_) => {
                self.ready_count -= 1;
                true
            }
        }
    }

    fn on_closed(&mut self, client: u32, reason: &str, sink: &mut impl Sink) {
        if let Conversation::Publishing(publisher) = &mut self.all[client as usize]
            && publisher.reconnects()
        {
            publisher.on_closed();
            self.away.push(client);
            return;
        }
        let was_ready = self.take(client);
        self.failure.get_or_insert_with(|| (client, reason.to_owned()));
        sink.on_closed(client, was_ready, reason);
    }

    /// The next client with a timed-out handshake.
    fn next_overdue(&mut self) -> Option<u32> {
        while let Some((client, since)) = self.opened.front().copied() {
            let is_waiting = match &self.all[client as usize] {
                Conversation::Opening(opening) => opening.since == since,
                Conversation::None | Conversation::Ready(_) | Conversation::Publishing(_) => false,
            };
            if is_waiting && since.elapsed() < self.ready_within {
                return None;
            }
            self.opened.pop_front();
            if is_waiting {
                return Some(client);
            }
        }
        None
    }
}

/// Passes the bytes of sockets to conversations.
struct Listening<'a, A> {
    connections: &'a mut Connections,
    sink: &'a mut A,
    /// Time of receipt of the current data.
    now_ns: u64,
}

impl<A: Sink> Observer for Listening<'_, A> {
    fn on_woken(&mut self) {
        self.now_ns = self.sink.woken();
    }

    fn on_bytes(&mut self, socket: u32, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(), String> {
        self.connections.on_bytes(socket, bytes, out, self.now_ns, self.sink)
    }

    fn on_closed(&mut self, socket: u32, reason: &str) {
        self.connections.on_closed(socket, reason, self.sink);
    }
}
