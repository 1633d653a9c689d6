//! `/stomp`: STOMP 1.0, 1.1 and 1.2 on WebSockets and on TCP, for the clients of Spring and RabbitMQ.
//!
//! ```text
//! bytes ──► frame::decode ──► handler: CONNECT, SUBSCRIBE, SEND …  ──► requests of the shard
//!                                      │ destination::topic
//!                                      └ session: subscriptions, transactions, heart-beats
//! publication ──► message: one MESSAGE for all subscribers with the same subscription id
//! ```
//!
//! Beyond the protocol: `message-id` is the position `<epoch>-<offset>` of a publication in its topic, and a SUBSCRIBE
//! with the header `since` and such an id receives the publications that followed it; if they are no longer available,
//! the first MESSAGE has the header `lost:true`, no body, and the topic's current position as its id.
//!
//! All frames may have a `receipt`. Acknowledgements are accepted and have no effect: each subscriber receives each
//! publication. Not supported: selectors, durable subscriptions, temporary queues, exchanges; an ERROR names them.

mod application;
mod ask;
mod broker;
mod destination;
pub mod frame;
mod handler;
mod message;
mod queue;
mod session;

use std::sync::LazyLock;

pub use application::{Answer, Application, Call, Client, Reply};
pub use broker::Broker;
#[cfg(feature = "control")]
pub(crate) use handler::ERROR_COUNTS;
pub use handler::Stomp;

use super::Protocol;
use crate::limits::RECV_BUFFER_BYTES;
use crate::proto::{Framed, Framing, FramingError, Message};

/// STOMP on TCP. The [`Stomp`] handler finds the frames, as it does on a WebSocket.
pub static STOMP: LazyLock<Protocol> = LazyLock::new(|| Protocol::new(Bytes));

/// Passes bytes as they come: the bounds are those of frames.
struct Bytes;

impl Framing for Bytes {
    fn decode(&self, input: &[u8]) -> Result<Option<Framed>, FramingError> {
        Ok(Some(Framed::binary(0..input.len().min(RECV_BUFFER_BYTES as usize))))
    }

    fn encode(&self, out: &mut Vec<u8>, message: Message<'_>) {
        out.extend_from_slice(message.payload);
    }
}
