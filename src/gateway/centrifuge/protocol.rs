//! What both encodings have in common: commands of clients, and the codes that errors and endings have.
//!
//! A command borrows from the message that it came in. Nothing here has an opinion on what a client may do.

use crate::proto::CloseCode;

/// One command of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Command<'a> {
    /// What the reply will carry; 0 where none is expected.
    pub id: u32,
    /// What the client wants.
    pub request: Request<'a>,
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'a> {
    /// Nothing: it answers a ping.
    Pong,
    /// To be let in. The first command of every conversation.
    Connect(ConnectRequest<'a>),
    /// To be sent what is published to a channel from now on.
    Subscribe(SubscribeRequest<'a>),
    /// Not to be sent it any longer.
    Unsubscribe {
        /// The channel.
        channel: &'a str,
    },
    /// To publish.
    Publish(PublishRequest<'a>),
    /// Who has subscribed to a channel.
    Presence {
        /// The channel.
        channel: &'a str,
    },
    /// How many have.
    PresenceStats {
        /// The channel.
        channel: &'a str,
    },
    /// What was published to a channel.
    History(HistoryRequest<'a>),
    /// A sign of life. SDKs do not send it; they answer ours.
    Ping,
    /// To tell the server's application something.
    Send {
        /// The message.
        data: &'a [u8],
    },
    /// To ask the server's application something.
    Rpc {
        /// What is asked for.
        method: &'a str,
        /// The question.
        data: &'a [u8],
    },
    /// To stay for as long as a new token says.
    Refresh {
        /// The token.
        token: &'a str,
    },
    /// To stay subscribed for as long as a new token says.
    SubRefresh {
        /// The channel.
        channel: &'a str,
        /// The token.
        token: &'a str,
    },
}

/// Who wants to be let in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectRequest<'a> {
    /// Says who it is; empty for nobody in particular.
    pub token: &'a str,
    /// Where it left off in channels that the server subscribes it to.
    pub subs: Vec<SubscribeRequest<'a>>,
}

/// A wish to subscribe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscribeRequest<'a> {
    /// To what.
    pub channel: &'a str,
    /// Allows it, where it is not allowed to everybody.
    pub token: &'a str,
    /// Whether it was subscribed before, and wants what it missed.
    pub recover: bool,
    /// In which epoch it was; empty if it does not know.
    pub epoch: &'a str,
    /// The last offset it has seen.
    pub offset: u64,
    /// Whether it wants to be told who comes and goes.
    pub join_leave: bool,
    /// How it would like publications to be compressed against one another: empty or `fossil`.
    pub delta: &'a str,
    /// Whether it asks for publications to be filtered.
    pub has_filter: bool,
    /// Bits of [`REJECT_UNRECOVERED`](Self::REJECT_UNRECOVERED) and others that change nothing here.
    pub flag: i64,
    /// 0 for a stream of publications. There are other kinds elsewhere.
    pub kind: i32,
}

/// A wish to publish.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublishRequest<'a> {
    /// Where.
    pub channel: &'a str,
    /// What: JSON text from clients that speak JSON, any bytes from others.
    pub data: &'a [u8],
    /// 0 for a stream of publications.
    pub kind: i32,
}

/// A wish to see what was published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistoryRequest<'a> {
    /// Where.
    pub channel: &'a str,
    /// How many publications at most; 0 asks for the position only, and a negative number for all there are.
    pub limit: i32,
    /// What comes after this, or, in reverse, before it.
    pub since: Option<StreamPosition<'a>>,
    /// Whether the newest come first.
    pub reverse: bool,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StreamPosition<'a> {
    /// The last offset seen.
    pub offset: u64,
    /// Of which epoch; empty if that is not known.
    pub epoch: &'a str,
}

impl<'a> Command<'a> {
    /// A command with what was found in it. Without any request it is a pong, if it has no id either.
    ///
    /// # Errors
    /// [`Malformed`]: there is no request or no id, and there should be.
    pub(super) fn new(id: u32, request: Option<Request<'a>>) -> Result<Command<'a>, Malformed> {
        match (id, request) {
            (0, None) => Ok(Command { id, request: Request::Pong }),
            (0, Some(request @ Request::Send { .. })) | (1.., Some(request)) => Ok(Command { id, request }),
            (0, Some(_)) | (1.., None) => Err(Malformed),
        }
    }
}

impl SubscribeRequest<'_> {
    /// Rather no subscription than one with a gap.
    pub const REJECT_UNRECOVERED: i64 = 2;
}

/// What became of a command that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was dealt with; the next one may come.
    Yes,
    /// It was dealt with, and is the last of the conversation.
    Last,
    /// It was not: it has to wait, and with it all that follow.
    Later,
}

/// The message is not made of commands. Who sends such a thing is disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Why a command is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// 100: later, not broken.
    Internal,
    /// 102: there is no such namespace.
    UnknownChannel,
    /// 103
    PermissionDenied,
    /// 105
    AlreadySubscribed,
    /// 106
    LimitExceeded,
    /// 107
    BadRequest,
    /// 108: not here.
    NotAvailable,
    /// 109: a new token may help.
    TokenExpired,
    /// 110
    Expired,
    /// 112: what was missed is not kept any longer, and the client would rather not subscribe.
    UnrecoverablePosition,
}

impl ClientError {
    /// Its number on the wire.
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
            ClientError::UnrecoverablePosition => 112,
        }
    }

    /// Its text on the wire.
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
            ClientError::UnrecoverablePosition => "unrecoverable position",
        }
    }

    /// Whether the client does well to try again.
    pub fn is_temporary(self) -> bool {
        self == ClientError::Internal
    }
}

/// Why a client is disconnected. SDKs come back by themselves after codes below 3500, and not after others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// 3001: the server stops.
    Shutdown,
    /// 3004: later, not broken.
    ServerError,
    /// 3005: its token's time is over.
    Expired,
    /// 3500
    InvalidToken,
    /// 3500, with what is wrong about a token that somebody with the key has signed.
    UnsupportedToken(&'static str),
    /// 3501, with what was wrong about it.
    BadRequest(&'static str),
    /// 3502: it has not said who it is in time.
    Stale,
    /// 3505: its token subscribes it to more channels than a connection may have.
    ChannelLimit,
    /// 3508: what it sent is of no use here.
    NotAvailable,
}

impl Disconnect {
    /// Its number on the wire: a WebSocket close code.
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

    /// Its text on the wire.
    pub fn reason(self) -> &'static str {
        match self {
            Disconnect::Shutdown => "shutdown",
            Disconnect::ServerError => "internal server error",
            Disconnect::Expired => "connection expired",
            Disconnect::InvalidToken => "invalid token",
            Disconnect::BadRequest(what) | Disconnect::UnsupportedToken(what) => what,
            Disconnect::Stale => "stale",
            Disconnect::ChannelLimit => "channel limit",
            Disconnect::NotAvailable => "not available",
        }
    }
}

/// Why the server ends a subscription. SDKs subscribe again after codes from 2500 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsubscribed {
    /// 2000: the server's owner wants it so.
    Server,
    /// 2501: its token's time is over.
    Expired,
}

impl Unsubscribed {
    /// Its number on the wire.
    pub fn code(self) -> u32 {
        match self {
            Unsubscribed::Server => 2000,
            Unsubscribed::Expired => 2501,
        }
    }

    /// Its text on the wire.
    pub fn reason(self) -> &'static str {
        match self {
            Unsubscribed::Server => "server unsubscribe",
            Unsubscribed::Expired => "subscription expired",
        }
    }
}
