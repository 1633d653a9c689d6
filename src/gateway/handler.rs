//! The trait that applications implement, and what they can do from inside.

use std::borrow::Cow;

use bytes::Bytes;

use crate::buf::ConnId;
use crate::conn::CloseCause;
use crate::limits::CONN_TOPICS_MAX;
use crate::proto::{
    CloseCode, Deflater, Message, MessageKind, RequestHead, Upgrade, WindowBits, encode_close, encode_message,
};
use crate::topics::TopicName;

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

    /// A whole message came. Text is valid UTF-8.
    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>);

    /// The server is stopping, and this connection is to go now: says goodbye with the code after which the peer's
    /// software comes back gently. Where this does not [`close`](Context::close) the connection, 1001 does.
    fn on_drain(&mut self, conn: &mut Context<'_>) {
        let _ = conn;
    }

    /// The connection that was opened is over, and its subscriptions have ended.
    fn on_close(&mut self, conn: ConnId, cause: CloseCause) {
        let _ = (conn, cause);
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

/// The peer is welcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// One of those that the request offers.
    pub subprotocol: Option<String>,
    /// Bytes of one message from this peer, if that should be less than the server's bound.
    pub message_bytes_max: Option<u32>,
}

/// The peer is not welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status: 400 to 599.
    pub status: u16,
    /// Tells the peer why, and what to do about it.
    pub text: Cow<'static, str>,
}

/// What a handler asks of the shard.
#[derive(Debug)]
pub enum Command {
    /// Subscribe this connection to a topic.
    Subscribe(TopicName),
    /// End a subscription.
    Unsubscribe(TopicName),
    /// Publish to a topic, wherever its home is.
    Publish {
        /// The topic.
        topic: TopicName,
        /// Text or binary.
        kind: MessageKind,
        /// The message.
        payload: Bytes,
    },
}

/// More subscriptions than [`CONN_TOPICS_MAX`] on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySubscriptions;

/// A connection, as its handler sees it during a call.
#[derive(Debug)]
pub struct Context<'a> {
    id: ConnId,
    out: &'a mut Vec<u8>,
    /// What compresses for this peer, and how far back it may refer.
    deflate: Option<(&'a mut Deflater, WindowBits)>,
    commands: &'a mut Vec<Command>,
    subscriptions: usize,
    is_closed: bool,
}

impl<'a> Context<'a> {
    /// A context that appends frames to `out`, compressed where `deflate` says so, and what is asked of the shard to
    /// `commands`.
    pub(crate) fn new(
        id: ConnId,
        out: &'a mut Vec<u8>,
        deflate: Option<(&'a mut Deflater, WindowBits)>,
        commands: &'a mut Vec<Command>,
        subscriptions: usize,
    ) -> Context<'a> {
        Context { id, out, deflate, commands, subscriptions, is_closed: false }
    }

    /// Which connection this is.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// Sends `message` to this peer. It leaves at the end of the turn, in one send with whatever else there is for the
    /// peer. After [`close`](Self::close) it is ignored.
    pub fn send(&mut self, message: Message<'_>) {
        match &mut self.deflate {
            _ if self.is_closed => {}
            Some((deflater, window)) => deflater.encode_message(self.out, message, *window, None),
            None => encode_message(self.out, message, None),
        }
    }

    /// Subscribes this connection to `topic`: from now on it is sent each publication as one message. Subscribing again
    /// changes nothing.
    ///
    /// # Errors
    /// Refused when the connection has [`CONN_TOPICS_MAX`] subscriptions.
    pub fn subscribe(&mut self, topic: TopicName) -> Result<(), TooManySubscriptions> {
        if self.subscriptions == CONN_TOPICS_MAX {
            return Err(TooManySubscriptions);
        }
        self.subscriptions += 1;
        self.commands.push(Command::Subscribe(topic));
        Ok(())
    }

    /// Ends the subscription to `topic`, if there is one.
    pub fn unsubscribe(&mut self, topic: TopicName) {
        self.commands.push(Command::Unsubscribe(topic));
    }

    /// Publishes `message` to the subscribers of `topic` on all shards. Where it can't be passed on, since
    /// shards are behind or the server is stopping, nobody gets it and it counts as refused.
    pub fn publish(&mut self, topic: TopicName, message: Message<'_>) {
        let payload = Bytes::copy_from_slice(message.payload);
        self.commands.push(Command::Publish { topic, kind: message.kind, payload });
    }

    /// Closes the connection: a Close frame is sent after all that was sent before, and the peer has some seconds to
    /// answer it. No more messages are handed over.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        if !self.is_closed {
            encode_close(self.out, Some(code), reason, None);
            self.is_closed = true;
        }
    }

    /// Subscriptions of the connection, with those asked for in this call.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Whether [`close`](Self::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }
}

impl Refusal {
    /// A refusal with a status and a text of one line.
    pub fn new(status: u16, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status, text: text.into() }
    }
}
