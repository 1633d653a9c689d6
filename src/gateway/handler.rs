//! The trait that applications implement.

use std::borrow::Cow;

use super::Context;
use super::encoder::publication_bytes_max;
use crate::buf::ConnId;
use crate::conn::{CloseCause, Heartbeat};
use crate::proto::{CloseCode, Message, RequestHead, Upgrade};
use crate::topics::{Answer, Body, Encoding, Push, TopicName};

/// The behaviour of a path: the shard calls a handler for every event on the path's connections.
///
/// Each shard has its own handler, made on its thread by the factory given to
/// [`ServerBuilder::route`](crate::server::ServerBuilder::route). A handler therefore needs no locks. It serves all
/// connections of its path on its shard: keep state per connection in a map by [`ConnId`], which is unique on the shard
/// while the connection is open, and remove the entry in [`on_close`](Self::on_close).
///
/// A call runs to completion on the shard's thread, and all connections of the shard wait for it. Do not block: move
/// I/O and long computations to another thread, and publish their results with a
/// [`Publisher`](crate::server::Publisher).
///
/// A handler acts through its [`Context`]. Messages that it sends leave at the end of the turn; the shard executes its
/// other requests after the call returns.
///
/// ```
/// use ringfeed::{Accept, Context, Handler, Message, Refusal, Request};
///
/// /// Returns each message to its sender.
/// struct Echo;
///
/// impl Handler for Echo {
///     fn on_open(&mut self, _conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
///         match request.head.header("X-Api-Key") {
///             Some("secret") => Ok(Accept::default()),
///             _ => Err(Refusal::new(403, "send a valid X-Api-Key header")),
///         }
///     }
///
///     fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>) {
///         conn.send(message);
///     }
/// }
/// ```
pub trait Handler {
    /// A peer requests a WebSocket. Return [`Accept`] to open it. Messages sent in this call follow the handshake
    /// response.
    ///
    /// # Errors
    /// Return a [`Refusal`] to reject the request: the peer receives it as the HTTP response, and the shard discards
    /// all that this call has sent and requested. [`on_close`](Self::on_close) is not called.
    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal>;

    /// A peer sends a GET request that is not a WebSocket handshake. Return a [`Page`] to answer it, or a [`Stream`] to
    /// start an endless response: it consists of the bytes that the handler [writes](Context::write) and of
    /// publications. The server ignores further bytes from the peer. A page opens no connection of the handler: its
    /// commands are discarded, and [`on_close`](Self::on_close) is not called.
    ///
    /// # Errors
    /// Return a [`Refusal`] to reject the request: the peer receives it as the HTTP response, and the shard discards
    /// all that this call has written and requested. The default rejects with 426.
    fn on_get(&mut self, conn: &mut Context<'_>, request: &Get<'_>) -> Result<Response, Refusal> {
        let _ = (conn, request);
        Err(Refusal::new(426, "this is a WebSocket endpoint: connect to it with a WebSocket client"))
    }

    /// A complete message has arrived. Text is valid UTF-8.
    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>);

    /// Continues the work that the handler left when it [paused](Context::pause_input) this connection's input. The
    /// shard calls it in a turn after [`Context::resume_input`]; the handler may pause the input again.
    fn on_resume(&mut self, conn: &mut Context<'_>) {
        let _ = conn;
    }

    /// The result of the request with this id: see [`Context::subscribe_with`], [`Context::publish_with`] and
    /// [`Context::query`]. Each request of an open connection has one result.
    fn on_answer(&mut self, conn: &mut Context<'_>, request_id: u32, answer: Answer) {
        let _ = (conn, request_id, answer);
    }

    /// The maximum size, in bytes, of a missed publication on this connection. Before [`on_answer`](Self::on_answer),
    /// the shard adds these sizes up: above the namespace's
    /// [`outbox_bytes_max`](crate::topics::Namespace::outbox_bytes_max) the answer holds only the newest publications,
    /// or [`Recovery::Lost`](crate::topics::Recovery::Lost). Implement it only if `on_answer` sends more per
    /// publication than `encoding` takes.
    fn missed_bytes_max(&self, conn: ConnId, encoding: Encoding, body: &Body) -> usize {
        let _ = conn;
        publication_bytes_max(encoding, body)
    }

    /// A push to a topic of this connection. The shard calls it only for connections that were accepted with
    /// [`Encoding::PER_CONNECTION`].
    fn on_push(&mut self, conn: &mut Context<'_>, topic: &TopicName, push: &Push) {
        let _ = (conn, topic, push);
    }

    /// The time of the next expiry, in milliseconds of [`Clock::now_ms`](super::Clock::now_ms); `None` if no timer is
    /// set. The shard calls it once per turn.
    fn deadline_ms(&self) -> Option<u64> {
        None
    }

    /// Pops a connection with a timer that has expired at `now_ms`; called until `None`. The shard then calls
    /// [`on_timer`](Self::on_timer) for the connection.
    fn take_due(&mut self, now_ms: u64) -> Option<ConnId> {
        let _ = now_ms;
        None
    }

    /// The timer of this connection has expired.
    fn on_timer(&mut self, conn: &mut Context<'_>) {
        let _ = conn;
    }

    #[cfg(feature = "centrifuge")]
    /// Appends to `found` the connections of this handler that a command of the server API addresses.
    fn find_connections(&self, command: &UserCommand, found: &mut Vec<ConnId>) {
        let _ = (command, found);
    }

    #[cfg(feature = "centrifuge")]
    /// Executes a command of the server API for a connection that [`find_connections`](Self::find_connections) has
    /// returned.
    fn on_user_command(&mut self, conn: &mut Context<'_>, command: &UserCommand) {
        let _ = (conn, command);
    }

    /// A connection that this handler had accepted has ended, and so have its subscriptions. The last call for `conn`.
    fn on_close(&mut self, conn: ConnId, cause: CloseCause) {
        let _ = (conn, cause);
    }

    /// The server is stopping and closes this connection now. Send a last message or close with a code of your
    /// protocol; if this call does not [`close`](Context::close) the connection, the server closes it with 1001.
    fn on_drain(&mut self, conn: &mut Context<'_>) {
        conn.close(CloseCode::GOING_AWAY, "the server is stopping");
    }
}

/// A request to open a WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The path after the route's prefix; not percent-decoded.
    pub rest: &'a str,
    /// Path, query and header fields.
    pub head: &'a RequestHead<'a>,
    /// Origin, subprotocols and extensions.
    pub upgrade: &'a Upgrade<'a>,
}

/// A GET request that is not a WebSocket handshake.
#[derive(Clone, Copy, Debug)]
pub struct Get<'a> {
    /// The path after the route's prefix; not percent-decoded.
    pub rest: &'a str,
    /// Path, query and header fields.
    pub head: &'a RequestHead<'a>,
}

/// Accepts a WebSocket. The default selects no subprotocol, the server's message limit, raw payloads and WebSocket
/// pings.
///
/// ```
/// use ringfeed::Accept;
///
/// let accept = Accept { message_bytes_max: Some(1024), ..Accept::default() };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// The subprotocol that the response selects (RFC 6455 §4.2.2). It must be one that the request offers; the server
    /// omits any other.
    pub subprotocol: Option<String>,
    /// Maximum size of a message from this peer, in bytes, if less than
    /// [`ServerConfig::message_bytes_max`](crate::server::ServerConfig::message_bytes_max). The server closes the
    /// connection with 1009 above that.
    pub message_bytes_max: Option<u32>,
    /// The encoding of publications for this connection: [`Encoding::RAW`], or the result of
    /// [`register`](super::register).
    pub encoding: Encoding,
    /// The form of the server's pings.
    pub heartbeat: Heartbeat,
}

/// The response to a GET request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// A complete response. The server closes the connection after it.
    Page(Page),
    /// An endless response.
    Stream(Stream),
}

/// A complete response to a GET request, with status 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The response's `Content-Type`.
    pub content_type: &'static str,
    /// Further header fields. The server omits a value that is not valid in a header field.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Cow<'static, [u8]>,
}

/// Accepts a GET request with an endless response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The response's `Content-Type`.
    pub content_type: &'static str,
    /// Further header fields. The server omits a value that is not valid in a header field.
    pub headers: Vec<(&'static str, String)>,
    /// The encoding of publications for this connection: [`Encoding::RAW`], or the result of
    /// [`register`](super::register).
    pub encoding: Encoding,
    /// The form of the keep-alive bytes.
    pub heartbeat: Heartbeat,
}

/// Rejects a request with an HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status: 400 to 599, or 204.
    pub status: u16,
    /// The response's body: the reason and the remedy, in one line.
    pub text: Cow<'static, str>,
}

/// A command of the server API for the connections of a user.
#[cfg(feature = "centrifuge")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserCommand {
    /// The user; empty addresses all users.
    pub user: String,
    /// Only this connection of the user.
    pub client: Option<String>,
    /// The action.
    pub action: UserAction,
}

/// The action of a [`UserCommand`].
#[cfg(feature = "centrifuge")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UserAction {
    /// Subscribe the connection to this topic.
    Subscribe(TopicName),
    /// End the connection's subscription to this topic.
    Unsubscribe(TopicName),
    /// Close the connection.
    Disconnect {
        /// The close code: 3000 to 4999 (RFC 6455 §7.4.2).
        code: CloseCode,
        /// The close reason: at most 123 bytes.
        reason: String,
    },
    /// Change the time at which the connection expires.
    Refresh {
        /// Whether it has expired already.
        is_expired: bool,
        /// The new time, in seconds of Unix time; `None` never expires.
        expire_at: Option<u64>,
    },
}

impl From<Page> for Response {
    fn from(page: Page) -> Response {
        Response::Page(page)
    }
}

impl From<Stream> for Response {
    fn from(stream: Stream) -> Response {
        Response::Stream(stream)
    }
}

impl Refusal {
    /// A refusal with a status (400 to 599, or 204) and a text of one line.
    pub fn new(status: u16, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status, text: text.into() }
    }
}
