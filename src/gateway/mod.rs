//! Application protocols over messages: the protocol of each path on the data port.
//!
//! The shard calls a [`Handler`] for each event of a connection. The handler acts through its [`Context`]: messages to
//! the peer, and [`Command`]s to the shard. It never sees a socket, and each call runs to completion.

mod catch_up;
#[cfg(feature = "centrifuge")]
pub mod centrifuge;
mod context;
#[cfg(feature = "product")]
mod demo;
mod echo;
mod encoder;
mod envelope;
mod erased;
mod event;
mod feed;
mod handle;
mod handler;
mod later;
mod origin;
#[cfg(feature = "product")]
mod page;
mod parameters;
mod poll;
mod protocol;
mod readers;
pub(crate) mod refused;
mod request;
mod response;
mod routes;
mod sizes;
pub mod sockjs;
mod sse;
pub mod stomp;

pub use context::{Clock, Command, Context, Subscribe, TooManySubscriptions};
pub(crate) use context::{ContextParts, Input, Outcome, Wire};
#[cfg(feature = "product")]
pub use demo::DemoPages;
pub use echo::Echo;
pub use encoder::{
    Encoder, encode_delta, encode_labelled, encode_presence, encode_publication, encoding_name, register,
};
pub(crate) use erased::ErasedHandler;
pub use feed::Feed;
#[cfg(all(test, feature = "centrifuge"))]
pub(crate) use handle::testing::nowhere;
pub(crate) use handle::{Courier, Letter, Link, Origin};
pub use handle::{Handle, SendError};
pub use handler::{Handler, Identity};
#[cfg(feature = "centrifuge")]
pub use handler::{SubscriptionTerms, UserAction, UserCommand};
pub use later::{CallAnswer, Later, Responder};
pub use origin::{InvalidPattern, OriginPattern, Origins, PageRefused};
#[cfg(feature = "control")]
pub(crate) use origin::{is_loopback_origin, is_same_origin};
#[cfg(feature = "product")]
pub use page::DemoPage;
#[cfg(feature = "control")]
pub(crate) use parameters::unknown_parameter;
pub use poll::Poll;
pub use protocol::Protocol;
pub use readers::{ReaderClaims, Readers, VerifyReader};
pub use request::{Get, Request};
pub use response::{Accept, Page, Refusal, Response, Stream};
pub(crate) use routes::erase;
pub use routes::{RouteError, RouteSet, Routes};
pub use sockjs::SockJs;
pub use sse::Sse;
