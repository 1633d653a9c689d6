//! The actions of a handler during a call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::handle::{Handle, Link, Origin};
use super::sockjs;
use crate::buf::ConnId;
use crate::proto::{CloseCode, Framing, Message, MessageKind, PeerDeflater, encode_close, encode_message};
use crate::topics::{CatchUp, ClientInfo, Draft, LabelledEncoding, Query, TagsFilter, TopicName};

/// A request of a handler to its shard, which executes it after the call.
#[derive(Debug)]
#[non_exhaustive]
pub enum Command {
    /// Subscribe this connection to a topic.
    Subscribe(Subscribe),
    /// End a subscription.
    Unsubscribe(TopicName),
    /// Change the encoding of a subscription; `None` is the connection's.
    Encode {
        /// The topic.
        topic: TopicName,
        /// The encoding.
        encoding: Option<LabelledEncoding>,
    },
    /// Queue pushes to this connection until [`Context::resume_delivery`].
    PauseDelivery,
    /// Publish to a topic. The shard sends the draft to the topic's home shard.
    Publish {
        /// The publication.
        draft: Box<Draft>,
        /// The id of the result; `None` requests no result.
        request_id: Option<u32>,
    },
    /// Query a topic.
    Query {
        /// The topic.
        topic: TopicName,
        /// The query.
        query: Query,
        /// The id of the result.
        request_id: u32,
    },
}

/// A request to subscribe.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// The topic.
    pub topic: TopicName,
    /// The earlier publications to send. Requires a `request_id`.
    pub catch_up: CatchUp,
    /// The client to show as present, where the namespace keeps presence.
    pub presence: Option<Arc<ClientInfo>>,
    /// Whether to send joins and leaves of the topic's other subscribers.
    pub join_leave: bool,
    /// The encoding of this subscription's pushes; `None` is that of the connection.
    pub encoding: Option<LabelledEncoding>,
    /// The publications that the subscription receives; `None` is all. Requires a `request_id`. Not for connections
    /// with [`Encoding::PER_CONNECTION`](crate::topics::Encoding::PER_CONNECTION), whose handlers filter by themselves.
    pub filter: Option<Arc<TagsFilter>>,
    /// With an id, the subscription begins with [`Answer::Subscribed`](crate::topics::Answer::Subscribed), which holds
    /// the topic's position and the missed publications. Without an id it begins at once, and has no result: the shard
    /// ignores a topic of an unknown namespace, and closes the connection with 1013 if it has no room for the topic.
    pub request_id: Option<u32>,
}

impl Subscribe {
    /// A subscription to all publications, in the connection's encoding, without presence, joins and leaves.
    pub fn new(topic: TopicName, catch_up: CatchUp, request_id: Option<u32>) -> Subscribe {
        Subscribe { topic, catch_up, presence: None, join_leave: false, encoding: None, filter: None, request_id }
    }
}

/// The connection already has as many subscriptions as a connection of this server may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySubscriptions {
    /// That many; see
    /// [`subscriptions_per_connection_max`](crate::server::ServerConfig::subscriptions_per_connection_max).
    pub max: usize,
}

/// The shard's clock at the beginning of the turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Milliseconds since the shard started; monotonic.
    pub now_ms: u64,
    /// Milliseconds of Unix time.
    pub unix_ms: u64,
    /// Number of the turn.
    pub turn: u64,
}

/// Whether the shard passes a connection's messages to its handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Input {
    /// At once.
    #[default]
    Open,
    /// Not until the handler resumes the input.
    Paused,
    /// Soon: the connection joins the queue once its backlog is small.
    Ready,
    /// Soon: the connection is in the queue.
    Queued,
}

/// A connection during a call of its handler: sends messages, and requests actions of the shard.
///
/// A context is valid for one call. To act on a connection later, [set a timer](Self::set_timer), or use the
/// connection's [`Handle`], a topic or a request with a result.
#[derive(Debug)]
pub struct Context<'a> {
    id: ConnId,
    clock: Clock,
    out: &'a mut Vec<u8>,
    wire: Wire<'a>,
    commands: &'a mut Vec<Command>,
    subscriptions: usize,
    subscriptions_max: usize,
    is_delivery_resumed: bool,
    is_closed: bool,
    /// Messages are carried in frames of SockJS.
    is_carried: bool,
    /// The handler's choice in this call, if any.
    input: Option<Input>,
    /// The handler's count of requests in this input, if any.
    messages: Option<u32>,
    /// When the handler's timer expires, if this call has set it; `u64::MAX` is never.
    timer_ms: Option<u64>,
    /// The peer has given a sign of life elsewhere.
    is_alive: bool,
    origin: &'a Origin,
    link: Option<&'a Arc<Link>>,
    /// The link, if this call has made it.
    new_link: Option<Arc<Link>>,
}

/// The results of a call, apart from bytes and commands.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whether [`Context::close`] was called.
    pub(crate) is_closed: bool,
    /// Whether [`Context::resume_delivery`] was called.
    pub(crate) is_delivery_resumed: bool,
    /// The handler's choice for further messages, if it made one.
    pub(crate) input: Option<Input>,
    /// The count of [`Context::count_as`], if it was called.
    pub(crate) messages: Option<u32>,
    /// Number of the connection's subscriptions, including those requested in the call.
    pub(crate) subscriptions: usize,
    /// When the handler's timer expires, if the call has set it; `u64::MAX` is never.
    pub(crate) timer_ms: Option<u64>,
    /// Whether [`Context::confirm_alive`] was called.
    pub(crate) is_alive: bool,
    /// What the connection's handles share, if the call has made it.
    pub(crate) link: Option<Arc<Link>>,
}

/// The form of messages to a peer.
pub(crate) enum Wire<'a> {
    /// Frames of a WebSocket, compressed for this peer if it has agreed (RFC 7692).
    WebSocket(Option<PeerDeflater<'a>>),
    /// The bytes of an endless HTTP response.
    Stream,
    /// Messages in a framing.
    Framed(&'a dyn Framing),
}

/// The parts of a [`Context`].
pub(crate) struct ContextParts<'a> {
    pub(crate) id: ConnId,
    pub(crate) clock: Clock,
    /// Takes the bytes to send.
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) wire: Wire<'a>,
    /// Takes the handler's requests.
    pub(crate) commands: &'a mut Vec<Command>,
    /// Number of the connection's subscriptions.
    pub(crate) subscriptions: usize,
    /// How many it may have.
    pub(crate) subscriptions_max: usize,
    /// The shard, for handles.
    pub(crate) origin: &'a Origin,
    /// What the connection's handles share, once there is one.
    pub(crate) link: Option<&'a Arc<Link>>,
}

impl fmt::Debug for Wire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wire::WebSocket(_) => "WebSocket",
            Wire::Stream => "Stream",
            Wire::Framed(_) => "Framed",
        })
    }
}

impl<'a> Context<'a> {
    /// A context for one call.
    pub(crate) fn new(parts: ContextParts<'a>) -> Context<'a> {
        let ContextParts { id, clock, out, wire, commands, subscriptions, subscriptions_max, origin, link } = parts;
        Context {
            id,
            clock,
            out,
            wire,
            commands,
            subscriptions,
            subscriptions_max,
            is_delivery_resumed: false,
            is_closed: false,
            is_carried: false,
            input: None,
            messages: None,
            timer_ms: None,
            is_alive: false,
            origin,
            link,
            new_link: None,
        }
    }

    /// A context for the last call of a connection, which can't send any more.
    pub(crate) fn closed(parts: ContextParts<'a>) -> Context<'a> {
        Context { is_closed: true, ..Context::new(parts) }
    }

    /// The results of the call.
    pub(crate) fn outcome(self) -> Outcome {
        let Context {
            is_closed,
            is_delivery_resumed,
            input,
            messages,
            subscriptions,
            timer_ms,
            is_alive,
            new_link,
            ..
        } = self;
        Outcome { is_closed, is_delivery_resumed, input, messages, subscriptions, timer_ms, is_alive, link: new_link }
    }

    /// The connection's id: unique on its shard while it is open.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The time at the beginning of this turn.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// A handle on this connection, to send to it later and from other threads. The first one of a connection costs an
    /// allocation.
    pub fn handle(&mut self) -> Handle {
        let link = match (self.link, &self.new_link) {
            (Some(link), _) | (None, Some(link)) => link.clone(),
            (None, None) => self.new_link.insert(Link::new(self.id, self.origin, self.is_carried)).clone(),
        };
        Handle(link)
    }

    /// Sets the connection's timer: the shard calls [`on_timer`](super::Handler::on_timer) once, `after` this turn, and
    /// within [`TICK_MS`](crate::limits::TICK_MS) milliseconds of that. A connection has one timer: a new time replaces
    /// the earlier one.
    pub fn set_timer(&mut self, after: Duration) {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        // The last millisecond of all stands for no timer.
        self.timer_ms = Some(self.clock.now_ms.saturating_add(after_ms).min(u64::MAX - 1));
    }

    /// Clears the connection's timer.
    pub fn clear_timer(&mut self) {
        self.timer_ms = Some(u64::MAX);
    }

    /// Has `call` act with messages that are carried in frames of SockJS.
    pub(crate) fn carried<T>(&mut self, call: impl FnOnce(&mut Context<'a>) -> T) -> T {
        self.is_carried = true;
        let result = call(self);
        self.is_carried = false;
        result
    }

    /// Whether the handler takes further messages.
    pub(super) fn is_reading(&self) -> bool {
        !self.is_closed && self.input.is_none_or(|input| input == Input::Open)
    }

    /// Sends `message` to this peer, on an HTTP stream only its payload. All messages of a turn leave in one send at
    /// its end. After [`close`](Self::close) the call has no effect.
    pub fn send(&mut self, message: Message<'_>) {
        let frame;
        let message = match self.is_carried {
            // SockJS carries text only: other bytes become U+FFFD.
            true => {
                frame = sockjs::frame_of(&String::from_utf8_lossy(message.payload));
                Message::text(&frame)
            }
            false => message,
        };
        match &mut self.wire {
            _ if self.is_closed => {}
            Wire::WebSocket(Some(deflater)) => deflater.encode_message(self.out, message, None),
            Wire::WebSocket(None) => encode_message(self.out, message, None),
            Wire::Stream => self.out.extend_from_slice(message.payload),
            Wire::Framed(framing) => framing.encode(self.out, message),
        }
    }

    /// Sends bytes without framing. Not for a WebSocket: use [`send`](Self::send) there.
    pub fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Subscribes this connection to `topic`: it receives each later publication, in the encoding of its
    /// [`Accept`](super::Accept). A repeated subscription has no effect. The limits are those of a [`Subscribe`]
    /// without `request_id`.
    ///
    /// # Errors
    /// [`TooManySubscriptions`]: the connection has [as many as it may](Self::subscriptions_max).
    pub fn subscribe(&mut self, topic: TopicName) -> Result<(), TooManySubscriptions> {
        self.subscribe_with(Subscribe::new(topic, CatchUp::None, None))
    }

    /// Subscribes with all options. With a `request_id`, the result is
    /// [`Answer::Subscribed`](crate::topics::Answer::Subscribed) or
    /// [`Answer::NotSubscribed`](crate::topics::Answer::NotSubscribed).
    ///
    /// # Errors
    /// [`TooManySubscriptions`]: the connection has [as many as it may](Self::subscriptions_max).
    pub fn subscribe_with(&mut self, mut subscribe: Subscribe) -> Result<(), TooManySubscriptions> {
        subscribe.encoding = self.carry_encoding(subscribe.encoding);
        // A reload may have lowered the bound.
        if self.subscriptions >= self.subscriptions_max {
            return Err(TooManySubscriptions { max: self.subscriptions_max });
        }
        self.subscriptions += 1;
        self.commands.push(Command::Subscribe(subscribe));
        Ok(())
    }

    /// Requests the next page of a keyed topic's state, after [`Answer::StatePage`](crate::topics::Answer::StatePage):
    /// `subscribe` has the topic and the options of the first request, and continues at
    /// [`StatePage::next`](crate::topics::StatePage::next).
    pub fn read_on(&mut self, subscribe: Subscribe) {
        self.commands.push(Command::Subscribe(subscribe));
    }

    /// Ends the subscription to `topic`, if it has begun. A subscription with a `request_id` begins with its result:
    /// unsubscribe after that.
    pub fn unsubscribe(&mut self, topic: TopicName) {
        self.commands.push(Command::Unsubscribe(topic));
    }

    /// Changes the encoding of the pushes that a subscription sends from now on; `None` is the encoding of the
    /// connection's [`Accept`](super::Accept). Without a subscription to `topic` the call has no effect: a subscription
    /// with a `request_id` begins with its result.
    pub fn encode_as(&mut self, topic: TopicName, encoding: Option<LabelledEncoding>) {
        let encoding = self.carry_encoding(encoding);
        self.commands.push(Command::Encode { topic, encoding });
    }

    fn carry_encoding(&self, encoding: Option<LabelledEncoding>) -> Option<LabelledEncoding> {
        let carry = |inner: LabelledEncoding| LabelledEncoding {
            encoding: sockjs::carried_encoding(inner.encoding),
            label: inner.label,
        };
        if self.is_carried { encoding.map(carry) } else { encoding }
    }

    /// Queues pushes to this connection until [`resume_delivery`](Self::resume_delivery).
    pub fn pause_delivery(&mut self) {
        self.commands.push(Command::PauseDelivery);
    }

    /// Ends [`pause_delivery`](Self::pause_delivery). Call it in [`on_answer`](super::Handler::on_answer): messages
    /// that the handler sends in the same call precede the queued pushes.
    pub fn resume_delivery(&mut self) {
        self.is_delivery_resumed = true;
    }

    /// Publishes `message` to the subscribers of `topic` on all shards. A failure has no result here: the shard drops
    /// the message and counts it as refused. Use [`publish_with`](Self::publish_with) for a result.
    pub fn publish(&mut self, topic: TopicName, message: Message<'_>) {
        let is_text = message.kind == MessageKind::Text;
        self.publish_with(Draft::new(topic, is_text, Bytes::copy_from_slice(message.payload)), None);
    }

    /// Publishes with all options. With a `request_id`, the result is
    /// [`Answer::Published`](crate::topics::Answer::Published).
    pub fn publish_with(&mut self, draft: Draft, request_id: Option<u32>) {
        self.commands.push(Command::Publish { draft: Box::new(draft), request_id });
    }

    /// Queries a topic: its history or its presence. The result has this id.
    pub fn query(&mut self, topic: TopicName, query: Query, request_id: u32) {
        self.commands.push(Command::Query { topic, query, request_id });
    }

    /// Closes the connection. On a WebSocket, a Close frame follows all that was sent before, and the peer has some
    /// seconds to answer it; the handler receives no more messages. `reason` has at most 123 bytes. An HTTP stream and
    /// a connection of a [`Protocol`](super::Protocol) end without a code.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        if !self.is_closed && matches!(self.wire, Wire::WebSocket(_)) {
            if std::mem::take(&mut self.is_carried) {
                self.send(Message::text(&sockjs::close_frame(code, reason)));
            }
            encode_close(self.out, Some(code), reason, None);
        }
        self.is_closed = true;
    }

    /// Stops the input: the handler receives no more messages of this peer, and the shard no longer reads its socket.
    /// If the handler leaves a part of the current message for later, it keeps that part itself.
    pub fn pause_input(&mut self) {
        self.input = Some(Input::Paused);
    }

    /// Ends [`pause_input`](Self::pause_input), also within the same call. In a later turn, when the connection's
    /// backlog is small, the shard calls [`on_resume`](super::Handler::on_resume) and passes messages again.
    pub fn resume_input(&mut self) {
        self.input = Some(Input::Ready);
    }

    /// Sets how many messages this call counts for the peer's rate limit. The default is 1 in
    /// [`on_message`](super::Handler::on_message), and 0 in [`on_resume`](super::Handler::on_resume). For protocols
    /// with several requests per message.
    pub fn count_as(&mut self, messages: u32) {
        self.messages = Some(messages);
    }

    /// Counts as a sign of life of the peer: for streams, whose peers answer by other requests.
    pub fn confirm_alive(&mut self) {
        self.is_alive = true;
    }

    /// Number of the connection's subscriptions, including those requested in this call.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// How many subscriptions the connection may have.
    pub fn subscriptions_max(&self) -> usize {
        self.subscriptions_max
    }
}
