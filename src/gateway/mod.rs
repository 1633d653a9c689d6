//! Application protocols over messages: what a path of the data port means.
//!
//! A [`Handler`] is told of connections and messages, and answers through its [`Context`]: bytes for the peer at once,
//! and [`Command`]s for the shard. It never sees a socket, and runs to completion.

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
pub use routes::{RouteError, Routes};
pub use sse::Sse;
