//! The state of one client: identity, subscriptions and pending requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::backend::{BackendAnswer, CallKind};
use super::filter::BadFilter;
use super::pace::Pace;
use super::protocol::SubscribeRequest;
use super::reply::{ConnectResult, Reply, ServerSubscription, SubscribeResult};
use crate::buf::ConnId;
use crate::gateway::Clock;
use crate::topics::{self, Draft, TagsFilter, TopicName};

/// A client with an open WebSocket.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: ConnId,
    pub(super) wire: Wire,
    pub(super) stage: Stage,
    /// Whether the server pings it with empty replies.
    pub(super) has_pings: bool,
    /// Its unique name.
    pub(super) client: ClientId,
    /// Empty if anonymous.
    pub(super) user: Box<str>,
    /// An operator may read any topic.
    pub(super) is_operator: bool,
    /// The `info` claim of its token: JSON, or empty.
    pub(super) info: Bytes,
    /// The expiry of its token, in seconds of Unix time.
    pub(super) expires_s: Option<u64>,
    /// The backend is deciding on the expiry.
    pub(super) is_refreshing: bool,
    /// The header fields of its handshake that calls of the backend contain.
    pub(super) headers: Arc<[(Box<str>, Box<str>)]>,
    /// What the backend has attached: JSON, or empty.
    pub(super) meta: Bytes,
    /// Calls that the backend has not answered.
    pub(super) calls: Vec<PendingCall>,
    /// Answers that the backend has given at once, by the ids of the calls.
    pub(super) early_answers: Vec<(u32, BackendAnswer)>,
    pub(super) channels: Vec<Channel>,
    /// Requests to home shards that have no answer yet.
    pub(super) pending: Vec<PendingRequest>,
    /// The cost of their answers.
    pub(super) pending_cost: u32,
    /// The cost of its commands in this turn.
    pub(super) pace: Pace,
    /// The rest of a message, verbatim: commands that have to wait.
    pub(super) unread: Vec<u8>,
    next_request_id: u32,
    /// The name of a stream's session, under which its commands arrive.
    pub(super) emulation: Option<u128>,
    /// With what the server has closed the connection, if it has.
    pub(super) closed_with: Option<(u16, String)>,
    /// What the timer is set for; `None` if that is something else.
    pub(super) timer: Option<Due>,
}

/// The next times at which something has to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The first expiry, in milliseconds of Unix time.
    expiry_unix_ms: Option<u64>,
    /// The first timeout of a call, by the shard's clock.
    timeout_ms: Option<u64>,
}

/// The encoding of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// A reply is a text message on a WebSocket.
    Json,
    /// A reply is a binary message on a WebSocket.
    Protobuf,
    /// A reply is a line of an HTTP response.
    JsonLines,
    /// Replies with their lengths are an HTTP response.
    ProtobufStream,
    /// A reply is an event of an event stream.
    EventStream,
    /// Unidirectional: a push is a text message on a WebSocket.
    UniJson,
    /// Unidirectional: a push is a line of an HTTP response.
    UniLines,
    /// Unidirectional: a push is an event of an event stream.
    UniEventStream,
}

impl Wire {
    pub(super) fn is_json(self) -> bool {
        !matches!(self, Wire::Protobuf | Wire::ProtobufStream)
    }

    /// Whether the client's commands arrive by other requests.
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Wire::JsonLines | Wire::ProtobufStream | Wire::EventStream)
    }

    /// Whether the client sends its connect request and nothing more. It receives pushes, not replies.
    pub(super) fn is_unidirectional(self) -> bool {
        matches!(self, Wire::UniJson | Wire::UniLines | Wire::UniEventStream)
    }

    /// The name of the transport in calls of the backend.
    pub(super) fn transport(self) -> &'static str {
        match self {
            Wire::Json | Wire::Protobuf => "websocket",
            Wire::JsonLines | Wire::ProtobufStream => "http_stream",
            Wire::EventStream => "sse",
            Wire::UniJson => "uni_websocket",
            Wire::UniLines => "uni_http_stream",
            Wire::UniEventStream => "uni_sse",
        }
    }
}

/// The stage of a client.
///
/// ```text
/// New ──connect──► Asking ──► Connecting ──server's subscriptions answered──► Open
///  └───error reply────┴────► Refused
/// ```
#[derive(Debug)]
pub(super) enum Stage {
    /// The client has not connected.
    New,
    /// The backend decides on the connection.
    Asking,
    /// The server has accepted the client. The connect reply waits for its server-side subscriptions.
    Connecting(Box<Connecting>),
    /// The client is connected.
    Open,
    /// The client has received an error, and should close the connection.
    Refused,
}

/// An incomplete connect reply.
#[derive(Debug)]
pub(super) struct Connecting {
    /// The command's id.
    pub(super) command: u32,
    /// The result, with the confirmed subscriptions.
    pub(super) result: ConnectResult,
    /// Replies to send after the connect reply.
    pub(super) later: Vec<Reply>,
    /// Bytes of the recovered publications so far.
    pub(super) recovered_bytes: usize,
}

/// The random name of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientId(pub(super) u128);

/// A channel that a client has subscribed to, or has requested.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    pub(super) topic: TopicName,
    /// The expiry of its subscription token, in seconds of Unix time.
    pub(super) expires_s: Option<u64>,
    /// What can renew it when it expires.
    pub(super) renewal: Renewal,
    /// The backend is deciding on the expiry.
    pub(super) is_refreshing: bool,
    /// The subscription has begun.
    pub(super) has_begun: bool,
    /// The `info` claim of its subscription token, or the backend's: JSON, or empty.
    pub(super) info: Bytes,
}

/// What can renew a subscription that expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Renewal {
    /// Nothing: it does not expire, or ends then.
    #[default]
    Nothing,
    /// A token of the client.
    Token,
    /// The backend.
    Backend,
}

/// The terms of a subscription.
#[derive(Clone, Debug, Default)]
pub(super) struct Grant {
    /// When it expires, in seconds of Unix time.
    pub(super) expires_s: Option<u64>,
    /// Information for other subscribers.
    pub(super) info: Bytes,
    /// For the client.
    pub(super) data: Bytes,
    pub(super) renewal: Renewal,
}

/// A subscribe request that waits.
#[derive(Debug)]
pub(super) struct WaitingSubscribe {
    channel: String,
    recover: bool,
    epoch: String,
    offset: u64,
    join_leave: bool,
    flag: i64,
    kind: i32,
    phase: i32,
    cursor: String,
    delta: String,
    filter: Option<Result<Arc<TagsFilter>, BadFilter>>,
}

/// A call that the backend has not answered.
#[derive(Debug)]
pub(super) struct PendingCall {
    /// The id of the answer.
    pub(super) request_id: u32,
    /// The id of the client's command; 0 if there was none.
    pub(super) command: u32,
    /// When it has failed, by the shard's clock.
    pub(super) timeout_ms: u64,
    pub(super) asked: Asked,
}

/// What a [`PendingCall`] decides on.
#[derive(Debug)]
pub(super) enum Asked {
    Connect(Vec<WaitingSubscribe>),
    Refresh,
    Subscribe(TopicName, WaitingSubscribe),
    SubRefresh(TopicName),
    Publish(Box<Draft>),
    Rpc,
}

/// A request to a home shard.
#[derive(Debug)]
pub(super) struct PendingRequest {
    /// The id of the answer.
    pub(super) request_id: u32,
    /// The id of the client's command; 0 if there was none.
    pub(super) command: u32,
    pub(super) kind: RequestKind,
}

/// The kind of a [`PendingRequest`].
#[derive(Debug)]
pub(super) enum RequestKind {
    Subscribe(Subscribing),
    Publish,
    History,
    Presence,
    PresenceStats,
}

/// A pending subscription.
#[derive(Debug)]
pub(super) struct Subscribing {
    pub(super) topic: TopicName,
    pub(super) by: Subscriber,
    /// The offset of the client's position.
    pub(super) offset: u64,
    /// Whether it requested a recovery.
    pub(super) recovers: bool,
    /// Whether it rejects a subscription with a gap.
    pub(super) rejects_gap: bool,
    /// What it reads of a map; `None` for a stream.
    pub(super) map: Option<MapRead>,
    /// Whether it receives publications as deltas.
    pub(super) has_deltas: bool,
    /// From the application, for the client.
    pub(super) data: Bytes,
    /// Set if it must end as soon as it begins.
    pub(super) ended: Option<Ended>,
}

/// What a client reads of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MapRead {
    /// The first page of its state.
    Start,
    /// A later page: values up to this offset, since the client expects later ones as changes.
    State(u64),
    /// Its changes.
    Changes,
}

/// The initiator of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscriber {
    /// The client, by a command.
    Client,
    /// The client's token, or the backend, when the client connects.
    Connect,
    /// The server API.
    Server,
}

/// The initiator of an unsubscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client, by this command.
    Client(u32),
    /// The server API.
    Server,
}

impl Session {
    pub(super) fn new(id: ConnId, wire: Wire, client: ClientId, has_pings: bool) -> Session {
        Session {
            id,
            wire,
            stage: Stage::New,
            has_pings,
            client,
            user: Box::default(),
            is_operator: false,
            info: Bytes::new(),
            expires_s: None,
            is_refreshing: false,
            headers: Arc::default(),
            meta: Bytes::new(),
            calls: Vec::new(),
            early_answers: Vec::new(),
            channels: Vec::new(),
            pending: Vec::new(),
            pending_cost: 0,
            pace: Pace::default(),
            unread: Vec::new(),
            next_request_id: 0,
            emulation: None,
            closed_with: None,
            timer: None,
        }
    }

    /// Adds a pending request; returns its id.
    pub(super) fn add_pending(&mut self, command: u32, kind: RequestKind) -> u32 {
        let request_id = self.take_request_id();
        self.pending_cost += kind.cost();
        self.pending.push(PendingRequest { request_id, command, kind });
        request_id
    }

    /// An id for a request.
    pub(super) fn take_request_id(&mut self) -> u32 {
        let request_id = self.next_request_id;
        self.next_request_id = request_id.wrapping_add(1);
        request_id
    }

    /// Removes the call of the backend with this id.
    pub(super) fn take_call(&mut self, request_id: u32) -> Option<PendingCall> {
        let index = self.calls.iter().position(|call| call.request_id == request_id)?;
        Some(self.calls.remove(index))
    }

    /// Whether further commands wait for the backend.
    pub(super) fn is_asking(&self) -> bool {
        self.calls.iter().any(|call| call.asked.kind().is_command())
    }

    /// Removes the pending request with this id.
    pub(super) fn take_pending(&mut self, request_id: u32) -> Option<PendingRequest> {
        let index = self.pending.iter().position(|pending| pending.request_id == request_id)?;
        let pending = self.pending.remove(index);
        self.pending_cost -= pending.kind.cost();
        Some(pending)
    }

    pub(super) fn channel(&self, topic: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.topic.as_str() == topic)
    }

    pub(super) fn channel_mut(&mut self, topic: &str) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.topic.as_str() == topic)
    }

    /// Removes a channel; `None` if there is no such channel.
    pub(super) fn remove_channel(&mut self, topic: &str) -> Option<Channel> {
        let index = self.channels.iter().position(|channel| channel.topic.as_str() == topic)?;
        Some(self.channels.swap_remove(index))
    }

    /// The pending subscription to `topic`, unless it must end as soon as it begins.
    pub(super) fn subscribing_mut(&mut self, topic: &str) -> Option<&mut Subscribing> {
        self.pending.iter_mut().find_map(|pending| match &mut pending.kind {
            RequestKind::Subscribe(subscribing)
                if subscribing.topic.as_str() == topic && subscribing.ended.is_none() =>
            {
                Some(subscribing)
            }
            _ => None,
        })
    }

    /// The client, apart from any subscription.
    pub(super) fn connection_info(&self) -> Arc<topics::ClientInfo> {
        self.client_info("")
    }

    /// The client as other subscribers of `topic` see it.
    pub(super) fn client_info(&self, topic: &str) -> Arc<topics::ClientInfo> {
        let boxed = |info: &Bytes| (!info.is_empty()).then(|| info.as_ref().into());
        Arc::new(topics::ClientInfo {
            client: self.client.to_string().into(),
            user: self.user.clone(),
            conn_info: boxed(&self.info),
            chan_info: self.channel(topic).and_then(|channel| boxed(&channel.info)),
        })
    }

    /// The time after which its timer must expire, if that has changed: at the first expiry or timeout, or never.
    pub(super) fn next_timer(&mut self, clock: Clock, rules: ExpiryRules) -> Option<Option<Duration>> {
        let due = Due {
            expiry_unix_ms: self.first_expiry_ms(rules),
            timeout_ms: self.calls.iter().map(|call| call.timeout_ms).min(),
        };
        let is_connecting = self.stage.accepts_commands() || matches!(self.stage, Stage::Asking);
        if !is_connecting || self.timer == Some(due) {
            return None;
        }
        self.timer = Some(due);
        let expiry = due.expiry_unix_ms.map(|at_ms| at_ms.saturating_sub(clock.unix_ms));
        let timeout = due.timeout_ms.map(|at_ms| at_ms.saturating_sub(clock.now_ms));
        Some([expiry, timeout].into_iter().flatten().min().map(Duration::from_millis))
    }

    /// When the connection or a subscription of it has expired, in milliseconds of Unix time.
    fn first_expiry_ms(&self, rules: ExpiryRules) -> Option<u64> {
        let channels = self.channels.iter().map(|channel| channel.expiry_ms(rules));
        channels.chain([self.expiry_ms(rules)]).flatten().min()
    }

    /// When the connection has expired, unless the backend is deciding on that.
    pub(super) fn expiry_ms(&self, rules: ExpiryRules) -> Option<u64> {
        let grace_ms = if rules.backend_refreshes { 0 } else { rules.grace_ms };
        expiry_ms(self.expires_s, grace_ms).filter(|_| !self.is_refreshing)
    }
}

impl Stage {
    /// Whether the client has connected, so the server executes its commands.
    pub(super) fn accepts_commands(&self) -> bool {
        matches!(self, Stage::Connecting(_) | Stage::Open)
    }
}

impl Connecting {
    /// Adds a confirmed server-side subscription.
    pub(super) fn add(&mut self, topic: &TopicName, result: SubscribeResult) {
        let (channel, result) = (topic.to_string(), Some(result));
        self.result.subs.push(ServerSubscription { channel, result });
    }
}

impl Channel {
    /// When the subscription has expired, unless the backend is deciding on that.
    pub(super) fn expiry_ms(&self, rules: ExpiryRules) -> Option<u64> {
        let grace_ms = if self.renewal == Renewal::Backend { 0 } else { rules.grace_ms };
        expiry_ms(self.expires_s, grace_ms).filter(|_| !self.is_refreshing)
    }
}

impl WaitingSubscribe {
    pub(super) fn new(request: &SubscribeRequest<'_>) -> WaitingSubscribe {
        WaitingSubscribe {
            channel: request.channel.to_owned(),
            recover: request.recover,
            epoch: request.epoch.to_owned(),
            offset: request.offset,
            join_leave: request.join_leave,
            flag: request.flag,
            kind: request.kind,
            phase: request.phase,
            cursor: request.cursor.to_owned(),
            delta: request.delta.to_owned(),
            filter: request.filter.clone(),
        }
    }

    pub(super) fn request(&self) -> SubscribeRequest<'_> {
        SubscribeRequest {
            channel: &self.channel,
            recover: self.recover,
            epoch: &self.epoch,
            offset: self.offset,
            join_leave: self.join_leave,
            flag: self.flag,
            kind: self.kind,
            phase: self.phase,
            cursor: &self.cursor,
            delta: &self.delta,
            filter: self.filter.clone(),
            ..SubscribeRequest::default()
        }
    }
}

impl Asked {
    pub(super) fn kind(&self) -> CallKind {
        match self {
            Asked::Connect(_) => CallKind::Connect,
            Asked::Refresh => CallKind::Refresh,
            Asked::Subscribe(..) => CallKind::Subscribe,
            Asked::SubRefresh(_) => CallKind::SubRefresh,
            Asked::Publish(_) => CallKind::Publish,
            Asked::Rpc => CallKind::Rpc,
        }
    }
}

/// When connections and subscriptions have expired.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpiryRules {
    /// Time for a client to send a new token.
    pub(super) grace_ms: u64,
    /// Whether the backend refreshes connections, so that clients need not.
    pub(super) backend_refreshes: bool,
}

/// `grace_ms` after an expiry, in milliseconds of Unix time.
fn expiry_ms(expires_s: Option<u64>, grace_ms: u64) -> Option<u64> {
    expires_s.map(|expires_s| expires_s.saturating_mul(1000).saturating_add(grace_ms))
}

impl std::fmt::Display for ClientId {
    /// In the form of a UUID.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}
