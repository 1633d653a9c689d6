//! Centrifugo's client protocol, version 2, as its SDKs speak it: JSON and Protobuf over WebSocket, and over HTTP
//! streams with [`Emulation`] where a network breaks WebSockets.
//!
//! ```text
//!  message ──json / protobuf──► Command ──call──► request to the shard ──► home shards
//!                                  │                                         │
//!  message ◄─json / protobuf── Reply ◄─────────────────────── answer ◄──────┘
//!  message ◄─push── publications, joins and leaves, encoded once for all subscribers
//! ```
//!
//! [`Centrifuge`] is the handler; `call` has a method for each command, `answer` one for each result, and `session`
//! holds a client's state in between. A client receives the reply to a subscribe command before any push of that
//! channel. Server-side subscriptions are confirmed in the connect reply; pushes are held until then.
//!
//! A [`Backend`] may decide on connections, subscriptions and publications, and answers calls.
//!
//! Not supported: shared polls (error 108), and messages to an application (close code 3508).

mod access;
mod answer;
mod ask;
mod backend;
mod call;
mod clients;
mod config;
mod emulation;
mod fetched;
mod filter;
mod handler;
mod json;
mod map;
mod normalize;
mod pace;
mod protobuf;
mod protocol;
mod push;
mod raw;
mod reply;
mod session;
mod signature;
#[cfg(test)]
mod tests;
mod token;

pub(super) use backend::wanted_headers;
pub use backend::{
    Backend, BackendAnswer, BackendCall, BackendMessage, BackendResult, BadAnswer, CallKind, Later, Responder,
    SubscriptionOptions,
};
pub use config::{CentrifugeConfig, TokenKeys};
pub use emulation::{Emulation, Sessions};
pub use fetched::{FetchOutcome, FetchedKeys};
pub use filter::BadFilter;
pub use handler::Centrifuge;
pub use json::{JsonReader, encode_reply_json};
pub use protobuf::{encode_reply_protobuf, read_protobuf};
pub use protocol::{
    ClientError, Command, ConnectRequest, Disconnect, HistoryRequest, Malformed, PublishRequest, Request,
    StreamPosition, SubscribeRequest, Taken, Unsubscribed,
};
pub use push::{
    EVENT_STREAM, JSON, JSON_LINES, PROTOBUF, PROTOBUF_STREAM, encode_presence_json, encode_presence_protobuf,
    encode_publication_json, encode_publication_protobuf,
};
pub use reply::{
    ClientInfo, ConnectResult, DisconnectPush, Done, ErrorReply, HistoryResult, Presence, PresenceEntry,
    PresenceResult, PresenceStatsResult, Publication, Push, RefreshPush, RefreshResult, Reply, RpcResult,
    ServerSubscription, SubRefreshResult, SubscribePush, SubscribeResult, UnsubscribePush,
};
pub use token::{ConnectionClaims, NoSecret, SubscriptionClaims, TokenError, TokenKeyError, TokenVerifier};
