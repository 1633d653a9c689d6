//! Centrifugo's client protocol, as its SDKs speak it: JSON and Protobuf over WebSocket.

mod config;
mod token;

pub use config::{CentrifugeConfig, TokenKeys};
pub use token::{ConnectionClaims, SubscriptionClaims, TokenError, TokenKeyError, TokenVerifier};
