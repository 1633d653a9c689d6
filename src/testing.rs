//! Tests of handlers without sockets, threads or waiting: real shards on a simulated kernel with virtual time.
//!
//! ```
//! use std::time::Duration;
//!
//! use ringfeed::testing::{Received, TestServer};
//! use ringfeed::{Accept, Context, Handler, Message, Refusal, Request};
//!
//! /// Returns each message, and complains after a minute.
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type State = ();
//!
//!     fn on_open(&mut self, conn: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
//!         conn.set_timer(Duration::from_secs(60));
//!         Ok(Accept::default())
//!     }
//!
//!     fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
//!         conn.send(message);
//!     }
//!
//!     fn on_timer(&mut self, conn: &mut Context<'_>, _: &mut ()) {
//!         conn.send(Message::text("are you there?"));
//!     }
//! }
//!
//! let server = TestServer::builder().route("/echo", || Echo).start();
//! let mut client = server.connect("/echo").unwrap();
//! client.send("hello");
//! assert_eq!(client.receive(), Some(Received::text("hello")));
//! assert_eq!(client.receive(), None);
//! server.advance(Duration::from_secs(61));
//! assert_eq!(client.receive(), Some(Received::text("are you there?")));
//! ```
//!
//! Messages that other threads send, by a [`Handle`](crate::Handle) or a [`Publisher`], come in real time:
//! [`TestClient::wait`] waits for them.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use crate::gateway::{Handler, Routes};
use crate::proto::{
    ClientHandshake, ClientHandshakeError, CloseCode, Decoder, Event, Message, MessageKind, Opcode, Role, encode_close,
    encode_frame, encode_message,
};
use crate::ring::sim::{Faults, Happening, PeerId, PeerRead, Rng, SimKernel};
use crate::server::sim::{self, SimShard};
use crate::server::{MeshSizes, Publisher, ServerConfig, Status};

/// Connections of a test server, at most.
const CONNECTIONS_MAX: usize = 1000;

/// Virtual time in which all that has begun reaches its end: many times the delay of the simulated network.
const SETTLE_US: u64 = 20_000;

/// Virtual time after which clients read.
const STEP_US: u64 = 10_000;

/// Real time that another thread may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The masking key of all clients: they have nothing to hide.
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// Adds a route to the routes of a shard.
type AddRoute = Box<dyn Fn(&mut Routes)>;

/// A test server that is being put together.
pub struct TestServerBuilder {
    config: ServerConfig,
    shards: usize,
    routes: Vec<AddRoute>,
}

/// A server in virtual time. Clones are the same server.
#[derive(Clone)]
pub struct TestServer(Rc<RefCell<World>>);

/// A WebSocket client of a [`TestServer`]. It reads, and answers pings and Close frames, by itself. Dropping it closes
/// its socket, without a Close frame.
pub struct TestClient {
    world: Rc<RefCell<World>>,
    peer: PeerId,
}

/// Something that a [`TestClient`] has received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// The server's Close frame: its code, if any, and its reason.
    Close(Option<u16>, String),
    /// The end of the connection.
    End,
}

/// The server has rejected the WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The HTTP status.
    pub status: u16,
    /// The response's body.
    pub text: String,
}

struct World {
    kernel: SimKernel,
    publisher: Publisher,
    /// `None` once a shard has drained.
    shards: Vec<Option<SimShard<'static>>>,
    clients: BTreeMap<PeerId, Conversation>,
    /// Clients that have connected so far.
    connects: usize,
}

/// The state of a client.
struct Conversation {
    decoder: Decoder,
    /// Bytes that are no whole frame yet.
    input: Vec<u8>,
    received: VecDeque<Received>,
    /// The handshake is over.
    is_open: bool,
    has_sent_close: bool,
    is_reading: bool,
    is_at_end: bool,
}

impl Received {
    /// A text message.
    pub fn text(text: impl Into<String>) -> Received {
        Received::Text(text.into())
    }
}

impl TestServerBuilder {
    /// Sets the configuration. Listeners, shards and limits of connections have no effect.
    pub fn config(mut self, config: ServerConfig) -> TestServerBuilder {
        self.config = config;
        self
    }

    /// Sets the number of shards; 1 is the default. Clients connect to one after the other.
    pub fn shards(mut self, shards: usize) -> TestServerBuilder {
        self.shards = shards;
        self
    }

    /// As [`ServerBuilder::route`](crate::server::ServerBuilder::route). The factory need not be `Send`: tests may
    /// share state with their handlers.
    ///
    /// # Panics
    /// [`start`](Self::start) panics if the path is not usable.
    pub fn route<H: Handler + 'static>(mut self, path: &str, factory: impl Fn() -> H + 'static) -> TestServerBuilder {
        let path = path.to_owned();
        self.routes.push(Box::new(move |routes| {
            routes.add(&path, factory()).unwrap_or_else(|error| panic!("{error}"));
        }));
        self
    }

    /// Starts the server.
    ///
    /// # Panics
    /// If a route is not usable.
    pub fn start(self) -> TestServer {
        let kernel = SimKernel::new(Rng::new(1), Faults { descriptors: CONNECTIONS_MAX as u32, ..Faults::none() });
        // A shard borrows its status. The few hundred bytes last as long as the test's process.
        let status: &'static Status = Box::leak(Box::new(Status::new(self.shards)));
        let (publisher, shards) =
            sim::start(&kernel, &self.config, CONNECTIONS_MAX, MeshSizes::of(self.shards), status, |_| {
                let mut routes = Routes::default();
                self.routes.iter().for_each(|add| add(&mut routes));
                routes
            });
        let shards = shards.into_iter().map(Some).collect();
        let server = TestServer(Rc::new(RefCell::new(World {
            kernel,
            publisher,
            shards,
            clients: BTreeMap::new(),
            connects: 0,
        })));
        server.settle();
        server
    }
}

impl TestServer {
    /// A server with the default configuration and no routes.
    pub fn builder() -> TestServerBuilder {
        TestServerBuilder { config: ServerConfig::default(), shards: 1, routes: Vec::new() }
    }

    /// Opens a WebSocket to a path, which may have a query.
    ///
    /// # Errors
    /// [`Rejected`]
    pub fn connect(&self, target: &str) -> Result<TestClient, Rejected> {
        self.connect_with(target, &[], &[])
    }

    /// Opens a WebSocket with these subprotocols and header fields.
    ///
    /// # Errors
    /// [`Rejected`]
    ///
    /// # Panics
    /// If an argument would corrupt the request, or if the server violates the protocol.
    pub fn connect_with(
        &self,
        target: &str,
        subprotocols: &[&str],
        headers: &[(&str, &str)],
    ) -> Result<TestClient, Rejected> {
        let handshake = ClientHandshake::new(*b"sixteen byte key");
        let mut request = Vec::new();
        handshake.encode_request(&mut request, "localhost", target, subprotocols, headers);
        let peer = self.0.borrow_mut().connect();
        let client = TestClient { world: self.0.clone(), peer };
        client.write(&request);
        let mut world = self.0.borrow_mut();
        let conversation = world.conversation(peer);
        match handshake.decode_response(&conversation.input) {
            Ok(Some((_, head_len))) => {
                conversation.input.drain(..head_len);
                conversation.is_open = true;
                world.read_clients();
                drop(world);
                Ok(client)
            }
            Err(ClientHandshakeError::Status(status)) => {
                let text = String::from_utf8_lossy(&conversation.input).into_owned();
                let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                drop(world);
                Err(Rejected { status, text: body.trim_end().to_owned() })
            }
            other => panic!("not an answer to a handshake: {other:?}"),
        }
    }

    /// Lets virtual time pass.
    pub fn advance(&self, time: Duration) {
        self.0.borrow_mut().run(time.as_micros() as u64);
    }

    /// Milliseconds of Unix time.
    pub fn unix_ms(&self) -> u64 {
        sim::UNIX_START_MS + self.0.borrow().kernel.now_us() / 1000
    }

    /// Lets everything that has begun reach its end, in some milliseconds of virtual time.
    pub fn settle(&self) {
        self.0.borrow_mut().run(SETTLE_US);
    }

    /// Publishes to the server's topics, also from other threads.
    pub fn publisher(&self) -> Publisher {
        self.0.borrow().publisher.clone()
    }

    /// Stops the server gracefully, and waits in virtual time until it has stopped.
    pub fn shutdown(&self) {
        let publisher = self.publisher();
        while publisher.drain().is_err() {
            self.settle();
        }
        while self.0.borrow().shards.iter().any(Option::is_some) {
            self.advance(Duration::from_millis(50));
        }
    }
}

impl World {
    fn connect(&mut self) -> PeerId {
        let shard = self.connects % self.shards.len();
        self.connects += 1;
        let peer = self.kernel.connect(shard);
        self.clients.insert(peer, Conversation::new());
        self.run(SETTLE_US);
        peer
    }

    fn conversation(&mut self, peer: PeerId) -> &mut Conversation {
        self.clients.get_mut(&peer).expect("a client has its conversation")
    }

    /// Lets virtual time pass. All shards take a turn first, since another thread may have sent them something.
    fn run(&mut self, us: u64) {
        let end_us = self.kernel.now_us() + us;
        self.kernel.look_at_events();
        (0..self.shards.len()).for_each(|shard| self.turn(shard));
        while self.kernel.now_us() < end_us {
            let step_end_us = end_us.min(self.kernel.now_us() + STEP_US);
            while let Some(happening) = self.kernel.next(step_end_us) {
                if let Happening::Turn(shard) = happening {
                    self.turn(shard);
                }
            }
            self.read_clients();
        }
    }

    /// Lets each client read what has come, and answer pings and Close frames.
    fn read_clients(&mut self) {
        for (peer, conversation) in &mut self.clients {
            while conversation.is_reading && !conversation.is_at_end {
                match self.kernel.read(*peer, usize::MAX) {
                    PeerRead::Bytes(bytes) => conversation.input.extend_from_slice(&bytes),
                    PeerRead::Nothing => break,
                    PeerRead::End | PeerRead::Reset => conversation.is_at_end = true,
                }
            }
            if conversation.is_open {
                let replies = conversation.decode();
                self.kernel.write(*peer, &replies);
            }
        }
    }

    fn turn(&mut self, index: usize) {
        let Some(shard) = &mut self.shards[index] else { return };
        shard.turn(self.kernel.now_us() / 1000);
        if shard.has_left() {
            self.shards[index] = None;
            return self.kernel.remove_ring(index);
        }
        let timeout = shard.fall_asleep();
        self.kernel.sleep(index, timeout);
    }
}

impl Conversation {
    fn new() -> Conversation {
        Conversation {
            decoder: Decoder::new(Role::Client, u32::MAX),
            input: Vec::new(),
            received: VecDeque::new(),
            is_open: false,
            has_sent_close: false,
            is_reading: true,
            is_at_end: false,
        }
    }

    /// Decodes what has come. Returns the replies.
    fn decode(&mut self) -> Vec<u8> {
        let mut replies = Vec::new();
        let mut rest = &mut self.input[..];
        while let Some(event) = self.decoder.decode(&mut rest).expect("the server keeps to the protocol") {
            match event {
                Event::Ping(payload) => encode_frame(&mut replies, Opcode::Pong, payload, Some(MASK)),
                Event::Message(Message { kind: MessageKind::Text, payload }) => {
                    let text = String::from_utf8(payload.to_vec()).expect("the decoder has validated it");
                    self.received.push_back(Received::Text(text));
                }
                Event::Message(Message { payload, .. }) => self.received.push_back(Received::Binary(payload.to_vec())),
                Event::Close(close) => {
                    if !std::mem::replace(&mut self.has_sent_close, true) {
                        encode_close(&mut replies, close.code, "", Some(MASK));
                    }
                    let code = close.code.map(|code| code.0);
                    self.received.push_back(Received::Close(code, close.reason.to_owned()));
                }
                Event::Pong(_) | Event::Deflated(_) => {}
            }
        }
        self.input.clear();
        replies
    }
}

impl TestClient {
    /// Sends a text message.
    pub fn send(&mut self, text: &str) {
        self.send_message(Message::text(text));
    }

    /// Sends a message.
    pub fn send_message(&mut self, message: Message<'_>) {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, message, Some(MASK));
        self.write(&bytes);
    }

    /// Sends a Close frame. The server's Close frame and the end of the connection follow.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        let mut bytes = Vec::new();
        encode_close(&mut bytes, Some(code), reason, Some(MASK));
        self.world.borrow_mut().conversation(self.peer).has_sent_close = true;
        self.write(&bytes);
    }

    /// Reads no more, as a slow client, or reads again. A client that does not read answers no pings either.
    pub fn set_reading(&mut self, is_reading: bool) {
        self.world.borrow_mut().conversation(self.peer).is_reading = is_reading;
    }

    /// Returns the next message, close or end, if it has come.
    ///
    /// # Panics
    /// If the server violates the protocol.
    pub fn receive(&mut self) -> Option<Received> {
        let mut world = self.world.borrow_mut();
        if world.conversation(self.peer).received.is_empty() {
            world.run(SETTLE_US);
        }
        let conversation = world.conversation(self.peer);
        conversation.received.pop_front().or_else(|| conversation.is_at_end.then_some(Received::End))
    }

    /// Returns the next message, close or end, and waits in real time for what another thread sends.
    ///
    /// # Panics
    /// If nothing comes within ten seconds.
    pub fn wait(&mut self) -> Received {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(received) = self.receive() {
                return received;
            }
            assert!(Instant::now() < deadline, "nothing came within {PATIENCE:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn write(&self, mut bytes: &[u8]) {
        let mut world = self.world.borrow_mut();
        while !bytes.is_empty() && !world.kernel.is_closed(self.peer) {
            let written = world.kernel.write(self.peer, bytes);
            bytes = &bytes[written..];
            world.run(SETTLE_US);
        }
    }
}

impl Drop for TestClient {
    fn drop(&mut self) {
        // A handler that panicked has borrowed the world.
        if let Ok(mut world) = self.world.try_borrow_mut()
            && !thread::panicking()
        {
            world.kernel.close(self.peer);
            world.clients.remove(&self.peer);
            world.run(SETTLE_US);
        }
    }
}

impl fmt::Debug for TestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestClient").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.text)
    }
}

impl std::error::Error for Rejected {}
