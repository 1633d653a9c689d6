//! Responses, with Centrifugo's names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;

use hyper::StatusCode;
use serde::{Serialize, Serializer};

use crate::gateway::centrifuge::{ClientInfo, HistoryResult, PresenceResult, PresenceStatsResult, Publication};
use crate::topics::{self, Body, Effect, Position, PublishError};

/// The response to a call: `{"result":…}` or `{"error":…}`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Result(Outcome),
    Error(ApiError),
}

/// The result of a call.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Outcome {
    Published {
        offset: u64,
        epoch: String,
    },
    Broadcast {
        responses: Vec<Reply>,
    },
    Presence(PresenceResult),
    PresenceStats(PresenceStatsResult),
    History(HistoryResult),
    Channels {
        channels: BTreeMap<String, ChannelInfo>,
        /// Where the next part of the list begins, if the request limits it and there is more.
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
    },
    Disconnected {
        num_connections: usize,
    },
    /// A change of a map that was not made.
    Suppressed {
        suppressed: bool,
        suppress_reason: &'static str,
    },
    MapState {
        entries: Vec<MapEntry>,
        offset: u64,
        epoch: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        cursor: String,
    },
    MapStats {
        num_keys: usize,
    },
    Info {
        nodes: Vec<Node>,
    },
    Done {},
}

/// A value of a map, or that it has none any more.
#[derive(Debug, Serialize)]
pub(super) struct MapEntry {
    #[serde(flatten)]
    publication: Publication,
    time: u64,
}

impl From<&Body> for MapEntry {
    fn from(body: &Body) -> MapEntry {
        MapEntry { publication: publication(body), time: body.time_ms }
    }
}

/// Whatever there is to say about a channel.
#[derive(Debug, Serialize)]
pub(super) struct ChannelInfo {
    /// Subscribers.
    pub(super) num_clients: u64,
}

/// A server: this one.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) version: Cow<'static, str>,
    pub(super) num_clients: u64,
    pub(super) num_subs: u64,
    pub(super) num_channels: u64,
    /// In seconds.
    pub(super) uptime: u64,
}

/// The responses to the calls of a batch.
#[derive(Debug, Serialize)]
pub(super) struct BatchReply {
    pub(super) replies: Vec<NamedReply>,
}

/// `{"METHOD":…}` with the result of a call, or `{"error":…}`.
#[derive(Debug)]
pub(super) struct NamedReply {
    pub(super) method: String,
    pub(super) result: Result<Outcome, ApiError>,
}

/// Why nothing has come of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiError {
    /// 100: later, perhaps.
    Internal,
    /// 102: there is no such namespace.
    UnknownChannel,
    /// 104: there is no such method.
    NotFound,
    /// 107: something is missing, or too long, or not as it should be.
    BadRequest,
    /// 108: this server does not do it.
    NotAvailable,
    /// 108: the namespace keeps no history.
    NoHistory,
    /// 108: the namespace keeps no presence.
    NoPresence,
    /// 108: the topic is the server's own.
    SystemTopic,
    /// 112: the history does not go back so far, or is another one.
    UnrecoverablePosition,
}

impl Reply {
    /// The status for clients that want to know the error by it, as Centrifugo has them.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Reply::Result(_) => StatusCode::OK,
            Reply::Error(error) => match error.code() {
                100 => StatusCode::INTERNAL_SERVER_ERROR,
                107 | 108 => StatusCode::BAD_REQUEST,
                112 => StatusCode::RANGE_NOT_SATISFIABLE,
                _ => StatusCode::NOT_FOUND,
            },
        }
    }
}

impl ApiError {
    fn code(self) -> u32 {
        match self {
            ApiError::Internal => 100,
            ApiError::UnknownChannel => 102,
            ApiError::NotFound => 104,
            ApiError::BadRequest => 107,
            ApiError::NotAvailable | ApiError::NoHistory | ApiError::NoPresence | ApiError::SystemTopic => 108,
            ApiError::UnrecoverablePosition => 112,
        }
    }

    fn message(self) -> &'static str {
        match self {
            ApiError::Internal => "internal server error",
            ApiError::UnknownChannel => "unknown channel",
            ApiError::NotFound => "not found",
            ApiError::BadRequest => "bad request",
            ApiError::NotAvailable => "not available",
            ApiError::NoHistory => "not available: history_size of this namespace is 0",
            ApiError::NoPresence => "not available: presence of this namespace is false",
            ApiError::SystemTopic => "not available: topics of $sys are the server's own",
            ApiError::UnrecoverablePosition => "unrecoverable position",
        }
    }
}

/// An error as clients read it.
#[derive(Serialize)]
struct ErrorText<'a> {
    code: u32,
    message: &'a str,
}

/// The body `{"error":…}`, with what exactly is wrong.
pub(super) fn detailed(error: ApiError, detail: impl Display) -> Vec<u8> {
    let message = format!("{}: {detail}", error.message());
    let reply = BTreeMap::from([("error", ErrorText { code: error.code(), message: &message })]);
    serde_json::to_vec(&reply).expect("an error has no maps whose keys are not text")
}

impl Serialize for ApiError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ErrorText { code: self.code(), message: self.message() }.serialize(serializer)
    }
}

impl Serialize for NamedReply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.result {
            Ok(outcome) => serializer.collect_map([(&self.method, outcome)]),
            Err(error) => serializer.collect_map([("error", error)]),
        }
    }
}

impl From<Result<Outcome, ApiError>> for Reply {
    fn from(result: Result<Outcome, ApiError>) -> Reply {
        match result {
            Ok(outcome) => Reply::Result(outcome),
            Err(error) => Reply::Error(error),
        }
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> ApiError {
        match error {
            PublishError::Busy
            | PublishError::TooManyTopics
            | PublishError::TooManyKeys
            | PublishError::Stopping
            | PublishError::NoLog
            | PublishError::Unconfirmed => ApiError::Internal,
            PublishError::TooLarge
            | PublishError::TooManyFilters
            | PublishError::NoKey
            | PublishError::NoSuchKey
            | PublishError::Conflict
            | PublishError::ValueTooLarge
            | PublishError::StateFull => ApiError::BadRequest,
            PublishError::NotKeyed => ApiError::NotAvailable,
            PublishError::SystemTopic => ApiError::SystemTopic,
            PublishError::UnknownNamespace => ApiError::UnknownChannel,
        }
    }
}

impl From<Position> for Outcome {
    fn from(position: Position) -> Outcome {
        Outcome::Published { offset: position.offset, epoch: position.epoch.to_string() }
    }
}

/// A client in responses to backends.
pub(super) fn client_info(info: &topics::ClientInfo) -> ClientInfo {
    let bytes = |bytes: &Option<Box<[u8]>>| bytes.as_deref().map(<[u8]>::to_vec).unwrap_or_default().into();
    ClientInfo {
        user: info.user.to_string(),
        client: info.client.to_string(),
        conn_info: bytes(&info.conn_info),
        chan_info: bytes(&info.chan_info),
    }
}

/// A publication in responses to backends.
pub(super) fn publication(body: &Body) -> Publication {
    Publication {
        data: body.payload().to_vec().into(),
        info: body.info.as_deref().map(client_info),
        offset: body.position.offset,
        tags: body.tags.iter().flatten().cloned().collect(),
        delta: false,
        key: body.key.as_deref().unwrap_or_default().to_owned(),
        removed: body.effect == Effect::Remove,
    }
}
