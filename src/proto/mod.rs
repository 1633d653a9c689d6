//! RFC 6455 and RFC 7692 as a sans-IO core, both roles: bytes in, events out; messages in, bytes out.
//!
//! ```text
//!              decode_request_head ─► Upgrade::from_request ─► encode_accept | encode_refusal
//! opening      (http, host)           (handshake)
//! handshake    ClientHandshake::encode_request ─► ClientHandshake::decode_response
//!              (handshake_client)
//!
//! frames in    &mut [u8] ─► Decoder::decode ─► Event::{Message, Deflated, Ping, Pong, Close}
//!                           (decoder: returns a whole frame in place, without a copy)
//!                              │ split or fragmented
//!                              └► partial (its memory) · assembly (order of frames)
//!
//! frames out   encode_frame, encode_fragment, encode_message, encode_deflated, encode_close ─► Vec<u8>
//!              (encoder)
//!
//! compression  Inflater, Deflater, and their negotiation in the handshake
//!              (deflate)
//!
//! deltas       fossil_delta: what turns one publication into the next
//!              (fossil)
//!
//! others       Framing: messages of protocols that run without HTTP and WebSocket
//!              (framing)
//! ```
//!
//! The core is independent of sockets, time, connections and topics. A violation by the peer is a small `Copy` error,
//! mapped to the wire in one place: [`ProtocolError::close_code`], [`HandshakeError::status`].

mod assembly;
mod close;
mod decoder;
mod deflate;
mod encoder;
mod error;
mod extensions;
mod forwarded;
pub(crate) mod fossil;
mod frame;
mod framing;
mod handshake;
mod handshake_client;
mod host;
mod http;
mod message;
mod partial;
mod proxied;

pub use close::{CloseCode, CloseFrame};
pub use decoder::{Decoder, Event};
pub use deflate::{
    DeflateConfig, DeflateContext, DeflateOffer, DeflateParams, DeflateTotals, Deflater, Inflater, PeerDeflater,
    SlidingWindow, WindowBits,
};
pub use encoder::{encode_close, encode_deflated, encode_fragment, encode_frame, encode_message};
pub use error::{ClientHandshakeError, HandshakeError, ProtocolError};
pub use extensions::ExtensionOffer;
pub use forwarded::{ForwardedClient, ForwardedHeader};
pub use fossil::fossil_delta;
pub use frame::{FrameHeader, Opcode};
pub use framing::{Framed, Framing, FramingError};
pub use handshake::{
    Upgrade, accept_key, encode_accept, encode_refusal, encode_response, encode_stream_head, is_header_value,
};
pub use handshake_client::{Accepted, ClientHandshake};
pub use host::Host;
pub use http::{RequestHead, decode_request_head};
pub use message::{Message, MessageKind};
pub use proxied::{NotProxied, PROXY_HEADER_BYTES_MAX, ProxyHeader};

/// The side of the connection that *we* are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We accepted the connection: frames we receive must be masked, frames we send must not (RFC 6455 §5.1).
    Server,
    /// We opened the connection: frames we receive must not be masked, frames we send must (RFC 6455 §5.1).
    Client,
}
