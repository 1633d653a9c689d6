//! The part that both encodings share: commands of clients, and the codes of errors and disconnects.
//!
//! A command borrows from its message. This module does not check permissions.

use std::sync::Arc;

use super::filter::BadFilter;
use crate::proto::CloseCode;
use crate::topics::TagsFilter;

/// One command of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Command<'a> {
    /// The id of the reply; 0 if the client expects none.
    pub id: u32,
    /// The request.
    pub request: Request<'a>,
}

/// The request of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'a> {
    /// The answer to a ping; requests nothing.
    Pong,
    /// Connect: the first command of every connection.
    Connect(ConnectRequest<'a>),
    /// Subscribe to a channel.
    Subscribe(SubscribeRequest<'a>),
    /// Unsubscribe from a channel.
    Unsubscribe {
        /// The channel.
        channel: &'a str,
    },
    /// Publish to a channel.
    Publish(PublishRequest<'a>),
    /// List the present clients of a channel.
    Presence {
        /// The channel.
        channel: &'a str,
    },
    /// Count the present clients of a channel.
    PresenceStats {
        /// The channel.
        channel: &'a str,
    },
    /// Read a page of a channel's history.
    History(HistoryRequest<'a>),
    /// A ping from the client. SDKs do not send it; they answer the server's pings.
    Ping,
    /// A message to the server's application.
    Send {
        /// The message.
        data: &'a [u8],
    },
    /// A call of the server's application.
    Rpc {
        /// The method.
        method: &'a str,
        /// The argument.
        data: &'a [u8],
    },
    /// Replace the connection token.
    Refresh {
        /// The token.
        token: &'a str,
    },
    /// Replace a subscription token.
    SubRefresh {
        /// The channel.
        channel: &'a str,
        /// The token.
        token: &'a str,
    },
}

/// A request to connect.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectRequest<'a> {
    /// The connection token; empty for an anonymous client.
    pub token: &'a str,
    /// The client's positions in channels with server-side subscriptions.
    pub subs: Vec<SubscribeRequest<'a>>,
    /// For the application: JSON text from JSON clients, any bytes from others.
    pub data: &'a [u8],
    /// The name of the client's program.
    pub name: &'a str,
    /// The version of the client's program.
    pub version: &'a str,
}

/// A request to subscribe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscribeRequest<'a> {
    /// The channel.
    pub channel: &'a str,
    /// The subscription token, where the namespace requires one.
    pub token: &'a str,
    /// Whether to recover missed publications.
    pub recover: bool,
    /// The epoch of the client's position; empty if unknown.
    pub epoch: &'a str,
    /// The offset of the client's position.
    pub offset: u64,
    /// Whether to send joins and leaves.
    pub join_leave: bool,
    /// The requested delta compression between publications: empty or `fossil`.
    pub delta: &'a str,
    /// The filter of publications.
    pub filter: Option<Result<Arc<TagsFilter>, BadFilter>>,
    /// [`REJECT_UNRECOVERED`](Self::REJECT_UNRECOVERED), and bits that have no effect here.
    pub flag: i64,
    /// 0 is a stream of publications, 1 a map; Centrifugo has other kinds.
    pub kind: i32,
    /// What the client requests of a map: 2 is its state, 1 its changes.
    pub phase: i32,
    /// Where the page of the map's state begins; empty for the first one.
    pub cursor: &'a str,
    /// For the application: JSON text from JSON clients, any bytes from others.
    pub data: &'a [u8],
}

/// A request to publish.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublishRequest<'a> {
    /// The channel.
    pub channel: &'a str,
    /// The payload: JSON text from JSON clients, any bytes from others.
    pub data: &'a [u8],
    /// 0 is a stream of publications, 1 a map.
    pub kind: i32,
    /// The key in the map.
    pub key: &'a str,
    /// Whether to remove the key.
    pub removed: bool,
}

/// A request for a page of a history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistoryRequest<'a> {
    /// The channel.
    pub channel: &'a str,
    /// Maximum number of publications; 0 requests only the position, and a negative number is no limit.
    pub limit: i32,
    /// Publications after this position, or before it if reversed.
    pub since: Option<StreamPosition<'a>>,
    /// Whether the newest are first.
    pub reverse: bool,
}

/// A position in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StreamPosition<'a> {
    /// The offset.
    pub offset: u64,
    /// The epoch; empty if unknown.
    pub epoch: &'a str,
}

impl<'a> Command<'a> {
    /// A command from its decoded fields. Without a request and an id it is a pong.
    ///
    /// # Errors
    /// [`Malformed`]: the request or the id is missing.
    pub(super) fn new(id: u32, request: Option<Request<'a>>) -> Result<Command<'a>, Malformed> {
        match (id, request) {
            (0, None) => Ok(Command { id, request: Request::Pong }),
            (0, Some(request @ Request::Send { .. })) | (1.., Some(request)) => Ok(Command { id, request }),
            (0, Some(_)) | (1.., None) => Err(Malformed),
        }
    }
}

impl SubscribeRequest<'_> {
    /// Reject the subscription if it can't recover all missed publications.
    pub const REJECT_UNRECOVERED: i64 = 2;
}

/// The outcome of a decoded command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has run; pass the next one.
    Yes,
    /// It has run, and the connection is closed.
    Last,
    /// It has to wait, as have all that follow.
    Later,
}

/// The message does not consist of valid commands. The server closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The error of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// 100: try again later.
    Internal,
    /// 102: the namespace is unknown.
    UnknownChannel,
    /// 103
    PermissionDenied,
    /// 105
    AlreadySubscribed,
    /// 106
    LimitExceeded,
    /// 107
    BadRequest,
    /// 108: the server or the channel does not support it.
    NotAvailable,
    /// 109: connect or subscribe with a new token.
    TokenExpired,
    /// 110
    Expired,
    /// 111: the application has too many calls to answer; try again later.
    TooManyRequests,
    /// 112: missed publications are no longer available, and the client rejects a gap.
    UnrecoverablePosition,
}

impl ClientError {
    /// The code on the wire.
    pub fn code(self) -> u32 {
        match self {
            ClientError::Internal => 100,
            ClientError::UnknownChannel => 102,
            ClientError::PermissionDenied => 103,
            ClientError::AlreadySubscribed => 105,
            ClientError::LimitExceeded => 106,
            ClientError::BadRequest => 107,
            ClientError::NotAvailable => 108,
            ClientError::TokenExpired => 109,
            ClientError::Expired => 110,
            ClientError::TooManyRequests => 111,
            ClientError::UnrecoverablePosition => 112,
        }
    }

    /// The message on the wire.
    pub fn message(self) -> &'static str {
        match self {
            ClientError::Internal => "internal server error",
            ClientError::UnknownChannel => "unknown channel",
            ClientError::PermissionDenied => "permission denied",
            ClientError::AlreadySubscribed => "already subscribed",
            ClientError::LimitExceeded => "limit exceeded",
            ClientError::BadRequest => "bad request",
            ClientError::NotAvailable => "not available",
            ClientError::TokenExpired => "token expired",
            ClientError::Expired => "expired",
            ClientError::TooManyRequests => "too many requests",
            ClientError::UnrecoverablePosition => "unrecoverable position",
        }
    }

    /// Whether the client should try again.
    pub fn is_temporary(self) -> bool {
        matches!(self, ClientError::Internal | ClientError::TooManyRequests)
    }
}

/// Why the server closes a connection. SDKs reconnect after codes below 3500 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// 3001: the server is stopping.
    Shutdown,
    /// 3004: try again later.
    ServerError,
    /// 3005: the connection token has expired.
    Expired,
    /// 3500
    InvalidToken,
    /// 3500, with the fault of a validly signed token.
    UnsupportedToken(&'static str),
    /// 3501, with the fault of the command.
    BadRequest(&'static str),
    /// 3502: the client has not connected in time.
    Stale,
    /// 3505: the token has more channels than a connection may have.
    ChannelLimit,
    /// 3508: the server does not support the command.
    NotAvailable,
}

impl Disconnect {
    /// The WebSocket close code.
    pub fn code(self) -> CloseCode {
        CloseCode(match self {
            Disconnect::Shutdown => 3001,
            Disconnect::ServerError => 3004,
            Disconnect::Expired => 3005,
            Disconnect::InvalidToken | Disconnect::UnsupportedToken(_) => 3500,
            Disconnect::BadRequest(_) => 3501,
            Disconnect::Stale => 3502,
            Disconnect::ChannelLimit => 3505,
            Disconnect::NotAvailable => 3508,
        })
    }

    /// The close reason.
    pub fn reason(self) -> &'static str {
        match self {
            Disconnect::Shutdown => "shutdown",
            Disconnect::ServerError => "internal server error",
            Disconnect::Expired => "connection expired",
            Disconnect::InvalidToken => "invalid token",
            Disconnect::BadRequest(reason) | Disconnect::UnsupportedToken(reason) => reason,
            Disconnect::Stale => "stale",
            Disconnect::ChannelLimit => "channel limit",
            Disconnect::NotAvailable => "not available",
        }
    }
}

/// Why the server ends a subscription. SDKs subscribe again after codes from 2500 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsubscribed {
    /// 2000: the server API has ended it.
    Server,
    /// 2501: the subscription token has expired.
    Expired,
}

impl Unsubscribed {
    /// The code on the wire.
    pub fn code(self) -> u32 {
        match self {
            Unsubscribed::Server => 2000,
            Unsubscribed::Expired => 2501,
        }
    }

    /// The reason on the wire.
    pub fn reason(self) -> &'static str {
        match self {
            Unsubscribed::Server => "server unsubscribe",
            Unsubscribed::Expired => "subscription expired",
        }
    }
}
