//! Requests: one structure for each method, with Centrifugo's names of fields.
//!
//! serde_json reads them, since what is to be published stays the text that it was, a slice of the body. Fields that
//! nobody here knows are ignored, as they are there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::gateway::SubscriptionTerms;

/// Calls one method.
pub(super) enum Call<'a> {
    Publish(Publish<'a>),
    Broadcast(Publish<'a>),
    Subscribe(Subscribe<'a>),
    Unsubscribe(Unsubscribe),
    Disconnect(Disconnect),
    Refresh(Refresh),
    Presence(Channel),
    PresenceStats(Channel),
    History(History),
    HistoryRemove(Channel),
    Channels(Channels),
    MapPublish(MapPublish<'a>),
    MapRemove(MapRemove),
    MapReadState(MapReadState),
    MapStats(Channel),
    Info,
}

/// Calls several methods.
pub(super) struct Batch<'a> {
    /// In order.
    pub(super) calls: Vec<BatchCall<'a>>,
    /// Whether none need wait for the one before it.
    pub(super) parallel: bool,
}

/// One part of a batch.
pub(super) struct BatchCall<'a> {
    /// The method's name, by which its result is found.
    pub(super) method: String,
    /// `None` if there is no such method.
    pub(super) call: Option<Result<Call<'a>, Malformed>>,
}

/// The body is not what the method takes.
#[derive(Debug)]
pub(super) struct Malformed(serde_json::Error);

/// To one channel, or, as a broadcast, to several.
#[derive(Deserialize)]
pub(super) struct Publish<'a> {
    pub(super) channel: Option<String>,
    pub(super) channels: Option<Vec<String>>,
    /// The message: any JSON.
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    /// The message, if it is binary.
    pub(super) b64data: Option<String>,
    /// What it is the newest state of. Centrifugo has no such thing for streams.
    pub(super) key: Option<String>,
    pub(super) tags: Option<BTreeMap<String, String>>,
    pub(super) skip_history: Option<bool>,
    pub(super) idempotency_key: Option<String>,
    /// Only newer ones are published; this server does not compare them.
    pub(super) version: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Subscribe<'a> {
    pub(super) user: Option<String>,
    pub(super) client: Option<String>,
    pub(super) session: Option<String>,
    pub(super) channel: Option<String>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64info: Option<String>,
    b64data: Option<String>,
    #[serde(borrow)]
    recover_since: Option<&'a RawValue>,
    #[serde(rename = "override", borrow)]
    overriding: Option<&'a RawValue>,
    expire_at: Option<i64>,
}

#[derive(Deserialize)]
pub(super) struct Unsubscribe {
    pub(super) user: Option<String>,
    pub(super) client: Option<String>,
    pub(super) session: Option<String>,
    pub(super) channel: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Disconnect {
    pub(super) user: Option<String>,
    pub(super) client: Option<String>,
    pub(super) session: Option<String>,
    /// One connection of this node. Centrifugo has neither this nor the next two.
    pub(super) connection: Option<Connection>,
    /// All connections of this node from an address.
    pub(super) address: Option<IpAddr>,
    /// All connections of this node that have subscribed to a topic.
    pub(super) topic: Option<String>,
    pub(super) whitelist: Option<Vec<String>>,
    pub(super) disconnect: Option<CloseWith>,
}

/// A connection, as lists name it.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Connection {
    pub(super) shard: u16,
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// How a connection is to be closed.
#[derive(Deserialize)]
pub(super) struct CloseWith {
    pub(super) code: Option<u32>,
    pub(super) reason: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Refresh {
    pub(super) user: Option<String>,
    pub(super) client: Option<String>,
    pub(super) session: Option<String>,
    pub(super) expired: Option<bool>,
    pub(super) expire_at: Option<i64>,
}

/// For methods that take no more than that.
#[derive(Deserialize)]
pub(super) struct Channel {
    pub(super) channel: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct History {
    pub(super) channel: Option<String>,
    /// Negative: all there are.
    pub(super) limit: Option<i32>,
    pub(super) since: Option<StreamPosition>,
    pub(super) reverse: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct StreamPosition {
    pub(super) offset: Option<u64>,
    pub(super) epoch: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Channels {
    pub(super) pattern: Option<String>,
    /// How many at most; all without it. Centrifugo has neither this nor a cursor.
    pub(super) limit: Option<usize>,
    /// Where to go on, from the result before.
    pub(super) cursor: Option<String>,
}

/// Sets a key of a map.
#[derive(Deserialize)]
pub(super) struct MapPublish<'a> {
    pub(super) channel: Option<String>,
    pub(super) key: Option<String>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    pub(super) b64data: Option<String>,
    pub(super) tags: Option<BTreeMap<String, String>>,
    pub(super) idempotency_key: Option<String>,
    /// `if_new` or `if_exists`.
    pub(super) key_mode: Option<String>,
    #[serde(borrow)]
    stream_data: Option<&'a RawValue>,
    #[serde(borrow)]
    b64stream_data: Option<&'a RawValue>,
    version: Option<u64>,
    score: Option<i64>,
}

/// Removes a key of a map.
#[derive(Deserialize)]
pub(super) struct MapRemove {
    pub(super) channel: Option<String>,
    pub(super) key: Option<String>,
    pub(super) idempotency_key: Option<String>,
}

/// Reads a page of a map, or one key.
#[derive(Deserialize)]
pub(super) struct MapReadState {
    pub(super) channel: Option<String>,
    pub(super) cursor: Option<String>,
    pub(super) limit: Option<usize>,
    pub(super) key: Option<String>,
    asc: Option<bool>,
    revision_offset: Option<u64>,
}

impl MapPublish<'_> {
    /// Whether it asks for something that keyed topics do not have.
    pub(super) fn asks_for_more(&self) -> bool {
        let extras = [self.stream_data, self.b64stream_data].iter().any(Option::is_some);
        extras || self.version.is_some_and(|version| version > 0) || self.score.is_some_and(|score| score != 0)
    }
}

impl MapReadState {
    /// Whether it asks for an order or a past that keyed topics do not have.
    pub(super) fn asks_for_more(&self) -> bool {
        self.asc == Some(true) || self.revision_offset.is_some_and(|offset| offset > 0)
    }
}

impl<'a> Call<'a> {
    /// All methods, for people.
    pub(super) const METHODS: &'static str = "publish, broadcast, subscribe, unsubscribe, disconnect, refresh, presence, \
                                              presence_stats, history, history_remove, channels, map_publish, \
                                              map_remove, map_read_state, map_stats, info and batch";

    /// Whether the call changes nothing, so that a key that only reads may make it.
    pub(super) fn is_read(&self) -> bool {
        let is_map_read = matches!(self, Call::MapReadState(_) | Call::MapStats(_));
        is_map_read
            || matches!(
                self,
                Call::Presence(_) | Call::PresenceStats(_) | Call::History(_) | Call::Channels(_) | Call::Info
            )
    }

    /// Reads what `method` is called with; `None` if there is no such method.
    pub(super) fn parse(method: &str, json: &'a [u8]) -> Option<Result<Call<'a>, Malformed>> {
        Some(match method {
            "publish" => read(json, Call::Publish),
            "broadcast" => read(json, Call::Broadcast),
            "subscribe" => read(json, Call::Subscribe),
            "unsubscribe" => read(json, Call::Unsubscribe),
            "disconnect" => read(json, Call::Disconnect),
            "refresh" => read(json, Call::Refresh),
            "presence" => read(json, Call::Presence),
            "presence_stats" => read(json, Call::PresenceStats),
            "history" => read(json, Call::History),
            "history_remove" => read(json, Call::HistoryRemove),
            "channels" => read(json, Call::Channels),
            "map_publish" => read(json, Call::MapPublish),
            "map_remove" => read(json, Call::MapRemove),
            "map_read_state" => read(json, Call::MapReadState),
            "map_stats" => read(json, Call::MapStats),
            "info" => read(json, |_: BTreeMap<String, &RawValue>| Call::Info),
            _ => return None,
        })
    }
}

/// The only place where JSON is read.
fn read<'a, T: Deserialize<'a>, R>(json: &'a [u8], make: impl FnOnce(T) -> R) -> Result<R, Malformed> {
    serde_json::from_slice(json).map(make).map_err(Malformed)
}

impl<'a> Batch<'a> {
    /// Reads `{"commands": [{"METHOD": {…}}, …], "parallel": false}`.
    ///
    /// # Errors
    /// [`Malformed`] if it is not such a body. An error within a command is in its [`BatchCall`].
    pub(super) fn parse(json: &'a [u8]) -> Result<Batch<'a>, Malformed> {
        #[derive(Deserialize)]
        struct Commands<'a> {
            #[serde(borrow)]
            commands: Option<Vec<BTreeMap<String, &'a RawValue>>>,
            parallel: Option<bool>,
        }
        read(json, |Commands { commands, parallel }| {
            let calls = commands.unwrap_or_default().into_iter().map(BatchCall::new).collect();
            Batch { calls, parallel: parallel.unwrap_or(false) }
        })
    }
}

impl<'a> BatchCall<'a> {
    fn new(command: BTreeMap<String, &'a RawValue>) -> BatchCall<'a> {
        let call = |(method, json): (String, &'a RawValue)| {
            let call = Call::parse(&method, json.get().as_bytes())?;
            Some(BatchCall { method, call: Some(call) })
        };
        command.into_iter().find_map(call).unwrap_or(BatchCall { method: String::new(), call: None })
    }
}

impl Subscribe<'_> {
    /// Whether it asks for something that a subscription here does not have.
    pub(super) fn asks_for_more(&self) -> bool {
        self.recover_since.is_some() || self.overriding.is_some()
    }

    /// The terms of the subscription; `None` if Base64 or the time is malformed.
    pub(super) fn terms(&self) -> Option<SubscriptionTerms> {
        let bytes =
            |text: &Option<String>, value: Option<&RawValue>| match text.as_deref().filter(|b64| !b64.is_empty()) {
                Some(b64) => STANDARD.decode(b64).ok().map(Bytes::from),
                None => Some(value.map_or_else(Bytes::new, |value| Bytes::copy_from_slice(value.get().as_bytes()))),
            };
        let expire_at = u64::try_from(self.expire_at.unwrap_or(0)).ok()?;
        Some(SubscriptionTerms {
            info: bytes(&self.b64info, self.info)?,
            data: bytes(&self.b64data, self.data)?,
            expire_at: Some(expire_at).filter(|time| *time > 0),
        })
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body is not what this method takes: {}", self.0)
    }
}
