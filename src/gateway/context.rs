//! What a handler can do from inside a call.

use std::sync::Arc;

use bytes::Bytes;

use crate::buf::ConnId;
use crate::limits::CONN_TOPICS_MAX;
use crate::proto::{CloseCode, Message, MessageKind, PeerDeflater, encode_close, encode_message};
use crate::topics::{CatchUp, ClientInfo, Draft, Query, TopicName};

/// What a handler asks of the shard.
#[derive(Debug)]
pub enum Command {
    /// Subscribe this connection to a topic.
    Subscribe(Subscribe),
    /// End a subscription.
    Unsubscribe(TopicName),
    /// Have what is pushed to this connection wait until its handler says otherwise.
    PauseDelivery,
    /// Publish to a topic, wherever its home is.
    Publish {
        /// What.
        draft: Box<Draft>,
        /// Whether and with which ticket the outcome is wanted.
        request_id: Option<u32>,
    },
    /// Ask something about a topic.
    Query {
        /// The topic.
        topic: TopicName,
        /// What.
        query: Query,
        /// The answer's.
        request_id: u32,
    },
}

/// A subscription that is asked for.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// The topic.
    pub topic: TopicName,
    /// What is wanted of the past. Only with a ticket.
    pub catch_up: CatchUp,
    /// Who subscribes, where others may know.
    pub presence: Option<Arc<ClientInfo>>,
    /// Whether this connection wants to be told who comes and goes.
    pub join_leave: bool,
    /// With a ticket, the answer says where the topic is and what was missed, and the subscription begins then; without
    /// one it begins at once.
    pub request_id: Option<u32>,
}

/// More subscriptions than [`CONN_TOPICS_MAX`] on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySubscriptions;

/// The shard's clock, as a handler sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Milliseconds since the shard began; never goes back.
    pub now_ms: u64,
    /// Milliseconds of Unix time.
    pub unix_ms: u64,
    /// Turns of the shard's loop.
    pub turn: u64,
}

/// Whether a connection's messages are handed to its handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Input {
    /// As they come.
    #[default]
    Open,
    /// Not before the handler says so.
    Paused,
    /// In one of the next turns, once little waits to be sent.
    Ready,
    /// In one of the next turns: it is among those that wait for one.
    Queued,
}

/// A connection, as its handler sees it during a call.
#[derive(Debug)]
pub struct Context<'a> {
    id: ConnId,
    clock: Clock,
    out: &'a mut Vec<u8>,
    /// What compresses for this peer.
    deflate: Option<PeerDeflater<'a>>,
    commands: &'a mut Vec<Command>,
    subscriptions: usize,
    is_stream: bool,
    is_delivery_resumed: bool,
    is_closed: bool,
    /// What is to become of further messages, if this call has changed that.
    input: Option<Input>,
    /// Messages that what came counts as, where the handler says that.
    messages: Option<u32>,
}

/// What a [`Context`] is made of.
pub(crate) struct ContextParts<'a> {
    pub(crate) id: ConnId,
    pub(crate) clock: Clock,
    /// What is sent is appended here.
    pub(crate) out: &'a mut Vec<u8>,
    /// What compresses for this peer; `None` where compression was not agreed on.
    pub(crate) deflate: Option<PeerDeflater<'a>>,
    /// What is asked of the shard is appended here.
    pub(crate) commands: &'a mut Vec<Command>,
    /// Subscriptions that the connection has.
    pub(crate) subscriptions: usize,
    /// It is a response without an end, not a WebSocket.
    pub(crate) is_stream: bool,
}

impl<'a> Context<'a> {
    /// A context for one call.
    pub(crate) fn new(parts: ContextParts<'a>) -> Context<'a> {
        let ContextParts { id, clock, out, deflate, commands, subscriptions, is_stream } = parts;
        Context {
            id,
            clock,
            out,
            deflate,
            commands,
            subscriptions,
            is_stream,
            is_delivery_resumed: false,
            is_closed: false,
            input: None,
            messages: None,
        }
    }

    /// Which connection this is.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// What time it is.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Sends `message` to this peer. It leaves at the end of the turn, in one send with whatever else there is for the
    /// peer. After [`close`](Self::close) it is ignored.
    pub fn send(&mut self, message: Message<'_>) {
        match &mut self.deflate {
            _ if self.is_closed => {}
            Some(deflater) => deflater.encode_message(self.out, message, None),
            None => encode_message(self.out, message, None),
        }
    }

    /// Sends bytes as they are: for a connection that was opened by [`on_get`](super::Handler::on_get).
    pub fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Subscribes this connection to `topic`: from now on it is sent each publication as one message. Subscribing again
    /// changes nothing.
    ///
    /// # Errors
    /// Refused when the connection has [`CONN_TOPICS_MAX`] subscriptions.
    pub fn subscribe(&mut self, topic: TopicName) -> Result<(), TooManySubscriptions> {
        let subscribe =
            Subscribe { topic, catch_up: CatchUp::None, presence: None, join_leave: false, request_id: None };
        self.subscribe_with(subscribe)
    }

    /// The same with all that can be said about it.
    ///
    /// # Errors
    /// Refused when the connection has [`CONN_TOPICS_MAX`] subscriptions.
    pub fn subscribe_with(&mut self, subscribe: Subscribe) -> Result<(), TooManySubscriptions> {
        if self.subscriptions == CONN_TOPICS_MAX {
            return Err(TooManySubscriptions);
        }
        self.subscriptions += 1;
        self.commands.push(Command::Subscribe(subscribe));
        Ok(())
    }

    /// Ends the subscription to `topic`, if there is one. One that was asked for with a ticket is there once it was
    /// answered.
    pub fn unsubscribe(&mut self, topic: TopicName) {
        self.commands.push(Command::Unsubscribe(topic));
    }

    /// From now on what is pushed to this connection waits, until [`resume_delivery`](Self::resume_delivery).
    pub fn pause_delivery(&mut self) {
        self.commands.push(Command::PauseDelivery);
    }

    /// Ends what [`pause_delivery`](Self::pause_delivery) began. What is sent in this call, which must be one of
    /// [`on_answer`](super::Handler::on_answer), leaves before all that waits.
    pub fn resume_delivery(&mut self) {
        self.is_delivery_resumed = true;
    }

    /// Publishes `message` to the subscribers of `topic` on all shards. Where it can't be passed on, since
    /// shards are behind or the server is stopping, nobody gets it and it counts as refused.
    pub fn publish(&mut self, topic: TopicName, message: Message<'_>) {
        let is_text = message.kind == MessageKind::Text;
        self.publish_with(Draft::new(topic, is_text, Bytes::copy_from_slice(message.payload)), None);
    }

    /// The same with all that can be said about it. With a ticket, the outcome is
    /// [`Answer::Published`](crate::topics::Answer::Published).
    pub fn publish_with(&mut self, draft: Draft, request_id: Option<u32>) {
        self.commands.push(Command::Publish { draft: Box::new(draft), request_id });
    }

    /// Asks something about a topic. The answer has this ticket.
    pub fn query(&mut self, topic: TopicName, query: Query, request_id: u32) {
        self.commands.push(Command::Query { topic, query, request_id });
    }

    /// Closes the connection: a Close frame is sent after all that was sent before, and the peer has some seconds to
    /// answer it. No more messages are handed over. What is not a WebSocket just ends.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        if !self.is_closed && !self.is_stream {
            encode_close(self.out, Some(code), reason, None);
        }
        self.is_closed = true;
    }

    /// Takes no more messages of this peer for now: they stay unread, and so do the bytes in the socket. The handler
    /// keeps the rest of a message that it has begun, and calls [`resume_input`](Self::resume_input) when it can go on.
    pub fn pause_input(&mut self) {
        self.input = Some(Input::Paused);
    }

    /// Ends what [`pause_input`](Self::pause_input) began, perhaps in the same call. In one of the next turns, and once
    /// the backlog is small, the shard calls [`on_resume`](super::Handler::on_resume) and hands over messages again.
    pub fn resume_input(&mut self) {
        self.input = Some(Input::Ready);
    }

    /// In [`on_message`](super::Handler::on_message): the message counts as so many towards what a peer may send in a
    /// second, since it holds so many requests. Without this it counts as one. In
    /// [`on_resume`](super::Handler::on_resume): so many requests count that were left before.
    pub fn count_as(&mut self, messages: u32) {
        self.messages = Some(messages);
    }

    /// Messages that what came counts as, where the handler has said that.
    pub(crate) fn messages(&self) -> Option<u32> {
        self.messages
    }

    /// What is to become of further messages, if this call has changed that.
    pub(crate) fn input(&self) -> Option<Input> {
        self.input
    }

    /// Subscriptions of the connection, with those asked for in this call.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Whether [`resume_delivery`](Self::resume_delivery) was called.
    pub(crate) fn is_delivery_resumed(&self) -> bool {
        self.is_delivery_resumed
    }

    /// Whether [`close`](Self::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }
}
