//! The state of one client: identity, subscriptions and pending requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::pace::Pace;
use super::reply::{ConnectResult, Reply, ServerSubscription, SubscribeResult};
use crate::buf::ConnId;
use crate::gateway::Clock;
use crate::topics::{self, TopicName};

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
    /// The `info` claim of its token: JSON, or empty.
    pub(super) info: Bytes,
    /// The expiry of its token, in seconds of Unix time.
    pub(super) expires_s: Option<u64>,
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
    /// The first expiry of its tokens, if any, for which the timer is set; `None` if the timer is for something else.
    pub(super) timer_expiry_s: Option<Option<u64>>,
}

/// The encoding of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Json,
    Protobuf,
}

/// The stage of a client.
///
/// ```text
/// New ──connect──► Connecting ──server's subscriptions answered──► Open
///  └───error reply──► Refused
/// ```
#[derive(Debug)]
pub(super) enum Stage {
    /// The client has not connected.
    New,
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
    /// Whether a subscription token authorized it.
    pub(super) has_token: bool,
    /// The `info` claim of its subscription token: JSON, or empty.
    pub(super) info: Bytes,
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
    /// Set if it must end as soon as it begins.
    pub(super) ended: Option<Ended>,
}

/// The initiator of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscriber {
    /// The client, by a command.
    Client,
    /// The client's token.
    Token,
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
            info: Bytes::new(),
            expires_s: None,
            channels: Vec::new(),
            pending: Vec::new(),
            pending_cost: 0,
            pace: Pace::default(),
            unread: Vec::new(),
            next_request_id: 0,
            timer_expiry_s: None,
        }
    }

    /// Adds a pending request; returns its id.
    pub(super) fn add_pending(&mut self, command: u32, kind: RequestKind) -> u32 {
        let request_id = self.next_request_id;
        self.next_request_id = request_id.wrapping_add(1);
        self.pending_cost += kind.cost();
        self.pending.push(PendingRequest { request_id, command, kind });
        request_id
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

    /// The time after which its timer must expire, if that has changed: `grace_ms` after the first expiry of its
    /// tokens, or never.
    pub(super) fn next_timer(&mut self, clock: Clock, grace_ms: u64) -> Option<Option<Duration>> {
        let first_s = self.first_expiry_s();
        if !self.stage.accepts_commands() || self.timer_expiry_s == Some(first_s) {
            return None;
        }
        self.timer_expiry_s = Some(first_s);
        let over_ms = first_s.map(|first_s| first_s.saturating_mul(1000).saturating_add(grace_ms));
        Some(over_ms.map(|over_ms| Duration::from_millis(over_ms.saturating_sub(clock.unix_ms))))
    }

    /// The first expiry of its tokens, in seconds of Unix time.
    pub(super) fn first_expiry_s(&self) -> Option<u64> {
        self.channels.iter().map(|channel| channel.expires_s).chain([self.expires_s]).flatten().min()
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

/// Whether a token has expired at least `grace_ms` ago.
pub(super) fn has_expired(expires_s: Option<u64>, clock: Clock, grace_ms: u64) -> bool {
    expires_s.is_some_and(|expires_s| expires_s.saturating_mul(1000).saturating_add(grace_ms) <= clock.unix_ms)
}

impl std::fmt::Display for ClientId {
    /// In the form of a UUID.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}
