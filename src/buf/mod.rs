//! Memory that more than one party looks at: encoded frames shared by many connections, the receive buffers that the
//! kernel fills, and the queue from one shard to another.
//!
//! Knows nothing of sockets or of WebSocket.
#![allow(unsafe_code)]

mod by_slot;
mod conn_id;
mod recv_ring;
mod shared;
mod spsc;
mod sync;
mod wake_flag;

pub use by_slot::BySlot;
pub use conn_id::{ConnId, SlotId};
pub use recv_ring::Received;
pub(crate) use recv_ring::RecvRing;
pub use shared::{LazyFrame, SharedFrame};
pub use spsc::{Consumer, Producer, queue};
pub use wake_flag::WakeFlag;
