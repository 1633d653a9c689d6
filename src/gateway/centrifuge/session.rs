//! What is kept of one client: who it is, what it has subscribed to, and which of its commands wait for an answer.

use std::sync::Arc;

use bytes::Bytes;

use super::pace::Pace;
use super::reply::{ConnectResult, Reply, ServerSubscription, SubscribeResult};
use crate::buf::ConnId;
use crate::gateway::Clock;
use crate::topics::{self, TopicName};

/// A client that has opened a WebSocket.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: ConnId,
    pub(super) wire: Wire,
    pub(super) stage: Stage,
    /// Whether it is pinged with empty replies.
    pub(super) has_pings: bool,
    /// Its name, which no other has.
    pub(super) client: ClientId,
    /// Empty for nobody in particular.
    pub(super) user: Box<str>,
    /// What its token tells of it: JSON, perhaps empty.
    pub(super) info: Bytes,
    /// When its token's time is over, in seconds since 1970.
    pub(super) expires_s: Option<u64>,
    pub(super) channels: Vec<Channel>,
    /// What was asked of topics' homes and has not been answered.
    pub(super) waiting: Vec<Waiting>,
    /// What their answers cost.
    pub(super) waiting_cost: u32,
    /// What was done for it in this turn.
    pub(super) pace: Pace,
    /// The end of a message, as it came: commands that have to wait.
    pub(super) unread: Vec<u8>,
    next_request_id: u32,
    /// When it is to be looked at, in milliseconds of the shard's clock.
    pub(super) timer_ms: Option<u64>,
    /// When its first token's time is over, if at all, as the timer has it; `None` if the timer is for something else.
    pub(super) watched_s: Option<Option<u64>>,
}

/// In which encoding a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Json,
    Protobuf,
}

/// How far a client has come.
///
/// ```text
/// New ──connect──► Connecting ──server's subscriptions answered──► Open
///  └───error reply──► Refused
/// ```
#[derive(Debug)]
pub(super) enum Stage {
    /// It has not said who it is.
    New,
    /// It is welcome. What it is told so with waits until the server has subscribed it.
    Connecting(Box<Connecting>),
    /// It may do what it is allowed to.
    Open,
    /// It was told why it is not let in, and should go.
    Refused,
}

/// The answer to a connect command, as far as it has come.
#[derive(Debug)]
pub(super) struct Connecting {
    /// The command's.
    pub(super) command: u32,
    /// With the subscriptions so far.
    pub(super) result: ConnectResult,
    /// Pushes that must not come before.
    pub(super) later: Vec<Reply>,
    /// Bytes of publications that were recovered so far.
    pub(super) recovered_bytes: usize,
}

/// The random name of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientId(pub(super) u128);

/// A channel that a client has subscribed to, or is about to.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    pub(super) topic: TopicName,
    /// When its token's time is over, in seconds since 1970.
    pub(super) expires_s: Option<u64>,
    /// Whether a token has allowed it.
    pub(super) has_token: bool,
    /// What its token tells of the subscriber: JSON, perhaps empty.
    pub(super) info: Bytes,
}

/// Something that was asked of a topic's home.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Which the answer has.
    pub(super) request_id: u32,
    /// The id of the command that led to it; 0 if none did.
    pub(super) command: u32,
    pub(super) what: What,
}

/// See [`Waiting`].
#[derive(Debug)]
pub(super) enum What {
    Subscribe(Subscribing),
    Publish,
    History,
    Presence,
    PresenceStats,
}

/// A subscription that was asked for.
#[derive(Debug)]
pub(super) struct Subscribing {
    pub(super) topic: TopicName,
    pub(super) by: Subscriber,
    /// Where the client says it was.
    pub(super) offset: u64,
    /// Whether it wants what it has missed.
    pub(super) recovers: bool,
    /// Whether it would rather not subscribe than have a gap.
    pub(super) rejects_gap: bool,
    /// It was to end before it began.
    pub(super) ended: Option<Ended>,
}

/// Who wants a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscriber {
    /// The client, by a command.
    Client,
    /// The client's token.
    Token,
    /// The server's owner.
    Server,
}

/// Who wants a subscription to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client, by this command.
    Client(u32),
    /// The server's owner.
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
            waiting: Vec::new(),
            waiting_cost: 0,
            pace: Pace::default(),
            unread: Vec::new(),
            next_request_id: 0,
            timer_ms: None,
            watched_s: None,
        }
    }

    /// Notes what was asked of a topic's home; returns the ticket for it.
    pub(super) fn wait_for(&mut self, command: u32, what: What) -> u32 {
        let request_id = self.next_request_id;
        self.next_request_id = request_id.wrapping_add(1);
        self.waiting_cost += what.cost();
        self.waiting.push(Waiting { request_id, command, what });
        request_id
    }

    /// What has been answered.
    pub(super) fn take_waiting(&mut self, request_id: u32) -> Option<Waiting> {
        let index = self.waiting.iter().position(|waiting| waiting.request_id == request_id)?;
        let waiting = self.waiting.remove(index);
        self.waiting_cost -= waiting.what.cost();
        Some(waiting)
    }

    pub(super) fn channel(&self, topic: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.topic.as_str() == topic)
    }

    pub(super) fn channel_mut(&mut self, topic: &str) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.topic.as_str() == topic)
    }

    /// Takes a channel off the list; `None` if it is not on it.
    pub(super) fn remove_channel(&mut self, topic: &str) -> Option<Channel> {
        let index = self.channels.iter().position(|channel| channel.topic.as_str() == topic)?;
        Some(self.channels.swap_remove(index))
    }

    /// The subscription to `topic` that has been asked for and not been answered, unless it is to end again.
    pub(super) fn subscribing_mut(&mut self, topic: &str) -> Option<&mut Subscribing> {
        self.waiting.iter_mut().find_map(|waiting| match &mut waiting.what {
            What::Subscribe(subscribing) if subscribing.topic.as_str() == topic && subscribing.ended.is_none() => {
                Some(subscribing)
            }
            _ => None,
        })
    }

    /// Who it is, as others are told where it has subscribed to `topic`.
    pub(super) fn client_info(&self, topic: &str) -> Arc<topics::ClientInfo> {
        let boxed = |info: &Bytes| (!info.is_empty()).then(|| info.as_ref().into());
        Arc::new(topics::ClientInfo {
            client: self.client.to_string().into(),
            user: self.user.clone(),
            conn_info: boxed(&self.info),
            chan_info: self.channel(topic).and_then(|channel| boxed(&channel.info)),
        })
    }

    /// When the first of its tokens' time is over, in seconds since 1970.
    pub(super) fn first_expiry_s(&self) -> Option<u64> {
        self.channels.iter().map(|channel| channel.expires_s).chain([self.expires_s]).flatten().min()
    }
}

impl Stage {
    /// Whether commands are listened to.
    pub(super) fn is_welcome(&self) -> bool {
        matches!(self, Stage::Connecting(_) | Stage::Open)
    }
}

impl Connecting {
    /// A subscription of the server's has been answered.
    pub(super) fn add(&mut self, topic: &TopicName, result: SubscribeResult) {
        let (channel, result) = (topic.to_string(), Some(result));
        self.result.subs.push(ServerSubscription { channel, result });
    }
}

/// Whether a token's time was over `grace_ms` ago.
pub(super) fn is_over(expires_s: Option<u64>, clock: Clock, grace_ms: u64) -> bool {
    expires_s.is_some_and(|expires_s| expires_s.saturating_mul(1000).saturating_add(grace_ms) <= clock.unix_ms)
}

impl std::fmt::Display for ClientId {
    /// As a UUID is written.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}
