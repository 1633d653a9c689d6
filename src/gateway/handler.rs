//! The trait that applications implement.

use std::borrow::Cow;

use super::Context;
use super::encoding::encoded_bytes_max;
use crate::buf::ConnId;
use crate::conn::{CloseCause, Heartbeat};
use crate::proto::{CloseCode, Message, RequestHead, Upgrade};
use crate::topics::{Answer, Body, Encoding, Push, TopicName};

/// What happens on the connections of a path.
///
/// Each shard has a handler of its own, made by the factory given to
/// [`ServerBuilder::route`](crate::server::ServerBuilder::route), so nothing needs to be shared or locked. Calls run to
/// completion on the shard's thread: whatever takes long belongs elsewhere. A connection is known by its [`ConnId`],
/// which is unique on its shard for as long as it is open.
pub trait Handler {
    /// A peer asks to open a WebSocket. What is sent from here follows the answer to the handshake.
    ///
    /// # Errors
    /// A [`Refusal`] is sent to the peer instead, and nothing of what was done from here happens.
    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal>;

    /// A peer asks for something else than a WebSocket, by GET. If it is accepted, it gets a response without an end,
    /// made of what is [written](Context::write) and of publications; what it sends after its request is ignored.
    ///
    /// # Errors
    /// A [`Refusal`] is sent to the peer instead, and nothing of what was done from here happens. By default that
    /// there is only a WebSocket here.
    fn on_get(&mut self, conn: &mut Context<'_>, request: &Get<'_>) -> Result<Stream, Refusal> {
        let _ = (conn, request);
        Err(Refusal::new(426, "this is a WebSocket endpoint: connect to it with a WebSocket client"))
    }

    /// A whole message came. Text is valid UTF-8.
    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>);

    /// Called when the handler may continue the messages that it [paused](Context::pause_input) on this connection,
    /// before the shard hands over further ones. It may pause again.
    fn on_resume(&mut self, conn: &mut Context<'_>) {
        let _ = conn;
    }

    /// What was asked for with this ticket has come about, or has not.
    fn on_answer(&mut self, conn: &mut Context<'_>, request_id: u32, answer: Answer) {
        let _ = (conn, request_id, answer);
    }

    /// Bytes at most that this connection is sent of a publication that it has missed. What would wait for it in vain
    /// is left out of [`on_answer`](Self::on_answer).
    fn missed_bytes_max(&self, conn: ConnId, encoding: Encoding, body: &Body) -> usize {
        let _ = conn;
        encoded_bytes_max(encoding, body)
    }

    /// Something was pushed to a topic that this connection has subscribed to with [`Encoding::PerConnection`].
    fn on_push(&mut self, conn: &mut Context<'_>, topic: &TopicName, push: &Push) {
        let _ = (conn, topic, push);
    }

    /// When [`take_due`](Self::take_due) is to be asked next, if ever: shard time, in milliseconds. Asked in each turn.
    fn deadline_ms(&self) -> Option<u64> {
        None
    }

    /// A connection whose time has come, and which [`on_timer`](Self::on_timer) is then called for. Asked until there
    /// is none.
    fn take_due(&mut self, now_ms: u64) -> Option<ConnId> {
        let _ = now_ms;
        None
    }

    /// The connection's time has come.
    fn on_timer(&mut self, conn: &mut Context<'_>) {
        let _ = conn;
    }

    /// The server API wants something of a user's connections: appends those of them that are here.
    fn find_connections(&self, command: &UserCommand, found: &mut Vec<ConnId>) {
        let _ = (command, found);
    }

    /// The server API wants something of this connection, which [`find_connections`](Self::find_connections) has named.
    fn on_user_command(&mut self, conn: &mut Context<'_>, command: &UserCommand) {
        let _ = (conn, command);
    }

    /// The connection that was opened is over, and its subscriptions have ended.
    fn on_close(&mut self, conn: ConnId, cause: CloseCause) {
        let _ = (conn, cause);
    }

    /// The server stops, and it is this connection's turn to go: closes it with the code after which its client comes
    /// back gently. Where this does not [`close`](Context::close) the connection, 1001 does.
    fn on_drain(&mut self, conn: &mut Context<'_>) {
        conn.close(CloseCode::GOING_AWAY, "the server is stopping");
    }
}

/// The opening handshake, as far as an application may want to look at it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What follows the route's prefix in the path; not percent-decoded.
    pub rest: &'a str,
    /// Path, query and header fields.
    pub head: &'a RequestHead<'a>,
    /// Origin, subprotocols and extensions.
    pub upgrade: &'a Upgrade<'a>,
}

/// A GET that asks for no WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct Get<'a> {
    /// What follows the route's prefix in the path; not percent-decoded.
    pub rest: &'a str,
    /// Path, query and header fields.
    pub head: &'a RequestHead<'a>,
}

/// The peer is welcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// One of those that the request offers.
    pub subprotocol: Option<String>,
    /// Bytes of one message from this peer, if that should be less than the server's bound.
    pub message_bytes_max: Option<u32>,
    /// In which form this connection is sent what is pushed to its topics.
    pub encoding: Encoding,
    /// How a silent peer is asked for a sign of life.
    pub heartbeat: Heartbeat,
}

/// The peer gets a response without an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The response's `Content-Type`.
    pub content_type: &'static str,
    /// Further header fields.
    pub headers: Vec<(&'static str, String)>,
    /// In which form this connection is sent what is pushed to its topics.
    pub encoding: Encoding,
    /// What is sent so that the connection is not thought dead.
    pub heartbeat: Heartbeat,
}

/// The peer is not welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status: 400 to 599, or 204.
    pub status: u16,
    /// Tells the peer why, and what to do about it.
    pub text: Cow<'static, str>,
}

/// What the server API wants of the connections of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserCommand {
    /// The user; empty is every one.
    pub user: String,
    /// Only this connection of the user's.
    pub client: Option<String>,
    /// What is wanted.
    pub action: UserAction,
}

/// See [`UserCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserAction {
    /// Subscribe it to this topic.
    Subscribe(TopicName),
    /// End its subscription to this topic.
    Unsubscribe(TopicName),
    /// Close it with this code.
    Disconnect {
        /// As in RFC 6455 §7.4.2: 3000 to 4999.
        code: CloseCode,
        /// At most 123 bytes.
        reason: String,
    },
    /// Prolong it, or end it.
    Refresh {
        /// Whether it has expired.
        is_expired: bool,
        /// When it will, in seconds of Unix time.
        expire_at: Option<u64>,
    },
}

impl Refusal {
    /// A refusal with a status and a text of one line.
    pub fn new(status: u16, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status, text: text.into() }
    }
}
