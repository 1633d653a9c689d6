//! One connection after it was accepted, still sans-IO: bytes in, messages out, what waits to be sent, how it ends.
//!
//! Never sees the ring and never looks at a clock: the shard hands it bytes and the time, and asks what is next. It
//! knows nothing of topics; the shard joins the two.

mod close;
mod framed;
mod heartbeat;
mod outbox;
mod rate;
mod recv;
mod timers;

pub use close::CloseCause;
pub use heartbeat::Heartbeat;
pub use outbox::{Outbox, OutboxFull, QueueKey};
pub use rate::{Rate, RateConfig, TooMuch};
pub use recv::Next;
pub use timers::{KeepAlive, KeepAliveAction, KeepAliveConfig};

use crate::proto::{Decoder, Role, WindowBits};

/// How far the conversation with the peer has come.
///
/// ```text
/// Handshake ──► Open ──► Closing ──► Ended
///     │          └──────────────────► ▲
///     ├──► Streaming ────────────────►│
///     ├──► Framed ───────────────────►│
///     └───────────────────────────────┘
/// ```
#[derive(Debug, PartialEq, Eq)]
pub enum Phase {
    /// The opening handshake has not come whole; holds what has come when more than one receive is needed.
    Handshake(Vec<u8>),
    /// Messages go both ways.
    Open,
    /// It gets a response without an end, and is not listened to.
    Streaming,
    /// Messages in a [`Framing`](crate::proto::Framing) go both ways; holds the received bytes of an incomplete one.
    /// A slice, which leaves the phase as small as it is with one vector.
    Framed(Box<[u8]>),
    /// We have sent a Close frame, and wait for the peer's. Its messages are of no interest any more.
    Closing,
    /// Neither side sends any more.
    Ended,
}

/// The form of a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket, or a request for one.
    #[default]
    WebSocket,
    /// An endless HTTP response.
    Stream,
    /// A byte stream with messages in a [`Framing`](crate::proto::Framing).
    Framed,
}

impl Transport {
    /// All of them.
    pub const ALL: [Transport; 3] = [Transport::WebSocket, Transport::Stream, Transport::Framed];

    /// The value of the metrics' label.
    pub fn label(self) -> &'static str {
        match self {
            Transport::WebSocket => "websocket",
            Transport::Stream => "stream",
            Transport::Framed => "framed",
        }
    }
}

/// The conversation with one peer.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    /// The backlog.
    pub outbox: Outbox,
    /// Signs of life.
    pub keep_alive: KeepAlive,
    /// The form of the server's pings.
    pub heartbeat: Heartbeat,
    /// How far back what is compressed for this peer may refer; `None` when compression was not agreed on.
    pub deflate_window: Option<WindowBits>,
    /// Its form.
    pub transport: Transport,
    decoder: Decoder,
}

impl Phase {
    /// Whether a handler serves the connection.
    pub fn is_served(&self) -> bool {
        matches!(self, Phase::Open | Phase::Streaming | Phase::Framed(_))
    }

    /// Whether the handler takes messages of the peer.
    pub fn takes_messages(&self) -> bool {
        matches!(self, Phase::Open | Phase::Framed(_))
    }
}

impl Connection {
    /// A connection that was accepted at `now_ms`.
    pub fn new(now_ms: u64) -> Connection {
        Connection {
            phase: Phase::Handshake(Vec::new()),
            outbox: Outbox::default(),
            keep_alive: KeepAlive::new(now_ms),
            heartbeat: Heartbeat::WEBSOCKET,
            deflate_window: None,
            transport: Transport::WebSocket,
            decoder: Decoder::new(Role::Server, 0),
        }
    }

    /// How far it has come.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Keeps the first bytes of an opening handshake that has not come whole.
    pub fn hold_handshake(&mut self, head: Vec<u8>) {
        assert!(matches!(self.phase, Phase::Handshake(_)), "an opening handshake goes on");
        self.phase = Phase::Handshake(head);
    }

    /// Takes the bytes that [`hold_handshake`](Self::hold_handshake) has kept.
    pub fn take_handshake(&mut self) -> Vec<u8> {
        match &mut self.phase {
            Phase::Handshake(head) => std::mem::take(head),
            _ => Vec::new(),
        }
    }

    /// The server has sent a Close frame (RFC 6455 §7.1.2).
    pub fn begin_close(&mut self) {
        assert!(matches!(self.phase, Phase::Open | Phase::Closing), "only an open WebSocket sends a Close frame");
        self.phase = Phase::Closing;
    }

    /// Neither side sends any more.
    pub fn end(&mut self) {
        self.phase = Phase::Ended;
    }

    /// The peer gets a response without an end.
    pub fn open_stream(&mut self) {
        assert!(matches!(self.phase, Phase::Handshake(_)), "a request opens a stream");
        self.phase = Phase::Streaming;
        self.transport = Transport::Stream;
    }

    /// Messages in a [`Framing`](crate::proto::Framing) go both ways from now on, each of at most `message_bytes_max`.
    pub fn open_framed(&mut self, message_bytes_max: u32) {
        assert!(matches!(self.phase, Phase::Handshake(_)), "a connection opens once");
        self.phase = Phase::Framed(Box::default());
        self.transport = Transport::Framed;
        self.decoder = Decoder::new(Role::Server, message_bytes_max);
    }

    /// The opening handshake was accepted. Messages beyond `message_bytes_max` end the connection from now on. With
    /// `deflate_window` they may be compressed, both ways.
    pub fn open(&mut self, message_bytes_max: u32, deflate_window: Option<WindowBits>) {
        assert!(matches!(self.phase, Phase::Handshake(_)), "a connection opens once");
        self.phase = Phase::Open;
        self.deflate_window = deflate_window;
        self.decoder = Decoder::new(Role::Server, message_bytes_max);
        if deflate_window.is_some() {
            self.decoder.allow_deflated();
        }
    }
}
