//! Centrifugo's client protocol, as its SDKs speak it: JSON and Protobuf over WebSocket.

mod access;
mod answer;
mod call;
mod clients;
mod config;
mod handler;
mod json;
mod protobuf;
mod protocol;
mod push;
mod raw;
mod reply;
mod session;
#[cfg(test)]
mod tests;
mod token;

pub use config::{CentrifugeConfig, TokenKeys};
pub use handler::Centrifuge;
pub use json::{JsonReader, encode_reply_json};
pub use protobuf::{encode_reply_protobuf, read_protobuf};
pub use protocol::{
    ClientError, Command, ConnectRequest, Disconnect, HistoryRequest, Malformed, PublishRequest, Request,
    StreamPosition, SubscribeRequest, Unsubscribed,
};
pub use push::{encode_presence_json, encode_presence_protobuf, encode_publication_json, encode_publication_protobuf};
pub use reply::{
    ClientInfo, ConnectResult, Done, ErrorReply, HistoryResult, Presence, PresenceResult, PresenceStatsResult,
    Publication, Push, RefreshPush, RefreshResult, Reply, SubRefreshResult, SubscribePush, SubscribeResult,
    UnsubscribePush,
};
pub use token::{ConnectionClaims, SubscriptionClaims, TokenError, TokenKeyError, TokenVerifier};
