//! The trait that applications implement.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;

#[cfg(feature = "centrifuge")]
use bytes::Bytes;

use super::encoder::publication_bytes_max;
use super::{Accept, Context, Get, Refusal, Request, Response};
use crate::buf::ConnId;
use crate::conn::CloseCause;
use crate::proto::{CloseCode, Message};
use crate::topics::{Answer, Body, Encoding, Namespaces, Push, TopicName};

/// The behaviour of a path: the shard calls a handler for every event on the path's connections.
///
/// Each shard has its own handler, made on its thread by the factory given to
/// [`ServerBuilder::route`](crate::server::ServerBuilder::route). A handler therefore needs no locks. It serves all
/// connections of its path on its shard. Each connection has a [`State`](Self::State), which the shard keeps and
/// passes to every call.
///
/// A call runs to completion on the shard's thread, and all connections of the shard wait for it. Do not block: move
/// I/O and long computations to another thread, which replies with the connection's [`Handle`](super::Handle) or
/// publishes with a [`Publisher`](crate::server::Publisher).
///
/// A handler acts through its [`Context`]. Messages that it sends leave at the end of the turn; the shard executes its
/// other requests after the call returns.
///
/// ```
/// use ringfeed::{Accept, Context, Handler, Message, Refusal, Request};
///
/// /// Returns each message to its sender, with its number.
/// struct Counter;
///
/// impl Handler for Counter {
///     type State = u64;
///
///     fn on_open(&mut self, _conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept<u64>, Refusal> {
///         match request.header("X-Api-Key") {
///             Some("secret") => Ok(Accept::new(0)),
///             _ => Err(Refusal::new(403, "send a valid X-Api-Key header")),
///         }
///     }
///
///     fn on_message(&mut self, conn: &mut Context<'_>, count: &mut u64, message: Message<'_>) {
///         *count += 1;
///         conn.send(Message::text(&format!("{count}: {}", message.as_str().unwrap_or("not text"))));
///     }
/// }
/// ```
pub trait Handler {
    /// The state of one connection. `()` is none, and costs nothing; any other state costs an allocation per
    /// connection.
    type State: 'static;

    /// A peer requests a WebSocket. Return [`Accept`] to open it, with its state. Messages sent in this call follow the
    /// handshake response.
    ///
    /// # Errors
    /// Return a [`Refusal`] to reject the request: the peer receives it as the HTTP response, and the shard discards
    /// all that this call has sent and requested. [`on_close`](Self::on_close) is not called.
    /// The default rejects with 400.
    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept<Self::State>, Refusal> {
        let _ = (conn, request);
        Err(Refusal::new(400, "this path serves no WebSockets"))
    }

    /// A peer sends a GET request that is not a WebSocket handshake. Return a [`Page`](super::Page) to answer it, or a
    /// [`Stream`](super::Stream) to start an endless response: it consists of the bytes that the handler
    /// [writes](Context::write) and of publications. The server ignores further bytes from the peer. A page opens no
    /// connection of the handler: its commands are discarded, and [`on_close`](Self::on_close) is not called.
    ///
    /// # Errors
    /// Return a [`Refusal`] to reject the request: the peer receives it as the HTTP response, and the shard discards
    /// all that this call has written and requested. The default rejects with 426.
    fn on_get(&mut self, conn: &mut Context<'_>, request: &Get<'_>) -> Result<Response<Self::State>, Refusal> {
        let _ = (conn, request);
        Err(Refusal::new(426, "this is a WebSocket endpoint: connect to it with a WebSocket client"))
    }

    /// A peer of a listener with a [`Protocol`](super::Protocol) has sent its first bytes; `peer` is its address, where
    /// it has one. Return [`Accept`] to serve it: publications have the protocol's framing unless it names an encoding,
    /// without a heartbeat the server sends no pings, and a maximum size of messages replaces the server's.
    ///
    /// # Errors
    /// Return a [`Refusal`] to reject it: the peer receives the text as a message. The default rejects.
    fn on_connect(&mut self, conn: &mut Context<'_>, peer: Option<IpAddr>) -> Result<Accept<Self::State>, Refusal> {
        let _ = (conn, peer);
        Err(Refusal::new(400, "this handler serves HTTP only"))
    }

    /// The maximum size, in bytes, of the body of a POST request to this route; `None`, the default, rejects POST
    /// requests with 405. Where they are accepted, the server also answers preflight requests of the pages that may
    /// connect.
    fn body_bytes_max(&self) -> Option<usize> {
        None
    }

    /// A peer sends a POST request; `request` has its path, query and header fields. Respond as in
    /// [`on_get`](Self::on_get). The body has arrived whole.
    ///
    /// # Errors
    /// As [`on_get`](Self::on_get).
    fn on_post(
        &mut self,
        conn: &mut Context<'_>,
        request: &Get<'_>,
        body: &[u8],
    ) -> Result<Response<Self::State>, Refusal> {
        let _ = (conn, request, body);
        Err(Refusal::new(405, "use GET"))
    }

    /// A complete message has arrived. Text is valid UTF-8.
    fn on_message(&mut self, conn: &mut Context<'_>, state: &mut Self::State, message: Message<'_>);

    /// Continues the work that the handler left when it [paused](Context::pause_input) this connection's input. The
    /// shard calls it in a turn after [`Context::resume_input`]; the handler may pause the input again.
    fn on_resume(&mut self, conn: &mut Context<'_>, state: &mut Self::State) {
        let _ = (conn, state);
    }

    /// The result of the request with this id: see [`Context::subscribe_with`], [`Context::publish_with`] and
    /// [`Context::query`]. Each request of an open connection has one result.
    fn on_answer(&mut self, conn: &mut Context<'_>, state: &mut Self::State, request_id: u32, answer: Answer) {
        let _ = (conn, state, request_id, answer);
    }

    /// The reply to a request that this handler has given to another thread: see
    /// [`Handle::reply`](super::Handle::reply).
    fn on_reply(
        &mut self,
        conn: &mut Context<'_>,
        state: &mut Self::State,
        request_id: u32,
        reply: &(dyn Any + Send + Sync),
    ) {
        let _ = (conn, state, request_id, reply);
    }

    /// The maximum size, in bytes, of a missed publication on this connection. Before [`on_answer`](Self::on_answer),
    /// the shard adds these sizes up: above the namespace's
    /// [`outbox_bytes_max`](crate::topics::Namespace::outbox_bytes_max) the answer holds only the newest publications,
    /// or [`Recovery::Lost`](crate::topics::Recovery::Lost). Implement it only if `on_answer` sends more per
    /// publication than `encoding` takes.
    fn missed_bytes_max(&self, conn: ConnId, state: &Self::State, encoding: Encoding, body: &Body) -> usize {
        let _ = (conn, state);
        publication_bytes_max(encoding, body)
    }

    /// A push to a topic of this connection. The shard calls it only for connections that were accepted with
    /// [`Encoding::PER_CONNECTION`].
    fn on_push(&mut self, conn: &mut Context<'_>, state: &mut Self::State, topic: &TopicName, push: &Push) {
        let _ = (conn, state, topic, push);
    }

    /// The timer of this connection has expired: see [`Context::set_timer`].
    fn on_timer(&mut self, conn: &mut Context<'_>, state: &mut Self::State) {
        let _ = (conn, state);
    }

    /// Appends to `found` the connections of this handler that a command of the server API addresses.
    #[cfg(feature = "centrifuge")]
    fn find_connections(&self, command: &UserCommand, found: &mut Vec<ConnId>) {
        let _ = (command, found);
    }

    /// Executes a command of the server API for a connection that [`find_connections`](Self::find_connections) has
    /// returned.
    #[cfg(feature = "centrifuge")]
    fn on_user_command(&mut self, conn: &mut Context<'_>, state: &mut Self::State, command: &UserCommand) {
        let _ = (conn, state, command);
    }

    /// The client of a connection, for lists. The default knows nobody.
    fn identity(&self, conn: ConnId, state: &Self::State) -> Identity {
        let _ = (conn, state);
        Identity::default()
    }

    /// An operator closes this connection. Send a last message of your protocol; if this call does not
    /// [`close`](Context::close) the connection, the server closes it with this code and reason.
    fn on_disconnect(&mut self, conn: &mut Context<'_>, state: &mut Self::State, code: CloseCode, reason: &str) {
        let _ = state;
        conn.close(code, reason);
    }

    /// The settings of topics have changed: what this handler permits from now on depends on these.
    fn on_namespaces(&mut self, namespaces: &Arc<Namespaces>) {
        let _ = namespaces;
    }

    /// A connection that this handler had accepted has ended, and so have its subscriptions. The last call for the
    /// connection, which takes its state. Of the context's actions only [`publish`](Context::publish) has an effect:
    /// the publication leaves this turn or the next one, unless the server is stopping.
    fn on_close(&mut self, conn: &mut Context<'_>, state: Self::State, cause: CloseCause) {
        let _ = (conn, state, cause);
    }

    /// The server is stopping and closes this connection now. Send a last message or close with a code of your
    /// protocol; if this call does not [`close`](Context::close) the connection, the server closes it with 1001.
    fn on_drain(&mut self, conn: &mut Context<'_>, state: &mut Self::State) {
        let _ = state;
        conn.close(CloseCode::GOING_AWAY, "the server is stopping");
    }
}

/// The client of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user; empty if anonymous, or if the protocol has no users.
    pub user: String,
    /// The name of the client; empty if the protocol gives none.
    pub client: String,
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

/// The terms of a subscription that the server API begins.
#[cfg(feature = "centrifuge")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionTerms {
    /// Information about the client for other subscribers: JSON, or empty.
    pub info: Bytes,
    /// For the client.
    pub data: Bytes,
    /// When it ends, in seconds of Unix time; `None` is never.
    pub expire_at: Option<u64>,
}

/// The action of a [`UserCommand`].
#[cfg(feature = "centrifuge")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UserAction {
    /// Subscribe the connection to this topic, on these terms.
    Subscribe(TopicName, SubscriptionTerms),
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
