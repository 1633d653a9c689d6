//! Application protocols over messages: the protocol of each path on the data port.
//!
//! The shard calls a [`Handler`] for each event of a connection. The handler acts through its [`Context`]: messages to
//! the peer, and [`Command`]s to the shard. It never sees a socket, and each call runs to completion.

mod catch_up;
pub mod centrifuge;
mod context;
mod echo;
mod encoding;
mod feed;
mod handler;
mod origin;
mod page;
mod routes;
mod sse;

pub use context::{Clock, Command, Context, Subscribe, TooManySubscriptions};
pub(crate) use context::{ContextParts, Input};
pub use echo::Echo;
pub use encoding::{encode_presence, encode_publication};
pub use feed::Feed;
pub use handler::{Accept, Get, Handler, Refusal, Request, Stream, UserAction, UserCommand};
pub(crate) use origin::is_loopback_origin;
pub use origin::{InvalidPattern, OriginPattern, Origins, PageRefused};
pub use page::answer_plain_get;
pub use routes::{RouteError, RouteSet, Routes};
pub use sse::Sse;
