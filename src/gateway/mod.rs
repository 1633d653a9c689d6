//! Application protocols over messages: what a path of the data port means.
//!
//! A [`Handler`] is told of connections and messages, and answers through its [`Context`]: bytes for the peer at once,
//! and [`Command`]s for the shard. It never sees a socket, and runs to completion.

pub mod centrifuge;
mod echo;
mod feed;
mod handler;
mod origin;
mod page;
mod routes;

pub use echo::Echo;
pub use feed::Feed;
pub use handler::{Accept, Command, Context, Handler, Refusal, Request, TooManySubscriptions};
pub(crate) use origin::is_loopback_origin;
pub use origin::{InvalidPattern, OriginPattern, Origins};
pub use page::answer_plain_get;
pub use routes::{RouteError, Routes};
