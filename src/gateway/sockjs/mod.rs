//! SockJS: a carrier of conversations for browsers and networks without WebSockets, and for Spring's clients.
//!
//! ```text
//! <path>/info
//! <path>/<server>/<session>/websocket ──────────────► SockJs: frames `a["…"]` ──► any Handler
//!                                                         ▲ the same, on a socket inside the server
//! <path>/<server>/<session>/xhr_streaming, xhr, ──► Sessions ──► relay: one task for each session
//!                           eventsource, xhr_send
//! ```
//!
//! The HTTP transports need sessions that outlive their connections, which a shard has not: its conversations are
//! connections. So a session is a WebSocket of the transport above, which the [relay](crate::relay) opens to the server
//! itself. Back-pressure, policies for slow subscribers, limits and the drain are those of that connection.
//!
//! Not served: `iframe`, `htmlfile` and `jsonp`, which are for browsers of the time before CORS.

mod carried;
mod framing;
mod handler;
mod sessions;

pub use carried::carried_encoding;
pub(crate) use framing::{CLOSED_BY_PEER, INTERRUPTED, SECOND_RECEIVER, close_frame, frame_of, is_close_frame, merge};
pub use handler::SockJs;
pub(crate) use sessions::{ENDED, Ended, Form, NewSession, REJECTED, Receiver, ToSession, write_chunk};
pub use sessions::{Requests, Sessions};
