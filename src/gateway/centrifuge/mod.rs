//! Centrifugo's client protocol, as its SDKs speak it: JSON and Protobuf over WebSocket.

mod config;
mod json;
mod protobuf;
mod protocol;
mod raw;
mod reply;
mod token;

pub use config::{CentrifugeConfig, TokenKeys};
pub use json::{JsonReader, encode_reply_json};
pub use protobuf::{encode_reply_protobuf, read_protobuf};
pub use protocol::{
    ClientError, Command, ConnectRequest, Disconnect, HistoryRequest, Malformed, PublishRequest, Request,
    StreamPosition, SubscribeRequest, Unsubscribed,
};
pub use reply::{
    ClientInfo, ConnectResult, Done, ErrorReply, HistoryResult, Presence, PresenceResult, PresenceStatsResult,
    Publication, Push, RefreshPush, RefreshResult, Reply, SubRefreshResult, SubscribePush, SubscribeResult,
    UnsubscribePush,
};
pub use token::{ConnectionClaims, SubscriptionClaims, TokenError, TokenKeyError, TokenVerifier};
