//! Clients on the network: addresses, sockets, TLS, handshakes, frames, and publishing by POST.

pub(crate) mod clients;
pub(crate) mod conversation;
pub(crate) mod dial;
pub(crate) mod event_stream;
pub(crate) mod frames;
pub(crate) mod masking_keys;
pub(crate) mod publisher;
pub(crate) mod sockets;
pub(crate) mod target;
pub(crate) mod tls;
