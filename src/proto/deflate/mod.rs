//! permessage-deflate: RFC 7692, sans-IO, both roles.
//!
//! ```text
//! opening handshake   offers of the request ─► DeflateParams::accept ─► its text in the response
//!                     DeflateOffer in our request ─► the response ─► DeflateParams     (params)
//!
//! messages in         Event::Deflated ─► Inflater::inflate ─► Message                  (inflater)
//! messages out        Deflater::deflate ─► encode_deflated, or the plain frame         (deflater)
//! earlier messages    DeflateContext, if messages may refer back to them               (window)
//! ```
//!
//! One [`Inflater`] and one [`Deflater`] serve all connections of a thread. Usually no message refers back to an
//! earlier one (`no_context_takeover` in both directions, RFC 7692 §7.1.1): then a message compressed once has the same
//! bytes for every subscriber, and a connection holds no memory for compression.
//!
//! # Context takeover
//!
//! A connection with context takeover keeps the last bytes it sent and received in a [`DeflateContext`], for its later
//! messages to refer back to. It can still receive a message compressed once for many subscribers: a message that
//! refers only to itself is valid after any other. But that message advances the peer's window, so the connection's own
//! window must be [cleared](SlidingWindow::clear): its next message refers only to itself, and later ones at most back
//! to that one. Uncompressed messages, which are short or would not shrink, do not change the window (RFC 7692 §7.2.1).
//!
//! # Costs that a peer can cause
//!
//! The inflated size of a message is limited by the receiver's message size, and above
//! [`INFLATE_FREE_BYTES`](crate::limits::INFLATE_FREE_BYTES) also to
//! [`INFLATE_RATIO_MAX`](crate::limits::INFLATE_RATIO_MAX) times the compressed size. So memory is bounded by the
//! largest message, independent of the number of peers. *Time is bounded only per message*: a peer that sends a
//! kilobyte which inflates to a megabyte costs the time for a megabyte, as often as it can send a kilobyte, and the
//! same again if the reply is compressed. For untrusted peers, limit the size of their messages, as the feed does with
//! [`FEED_MESSAGE_BYTES_MAX`](crate::limits::FEED_MESSAGE_BYTES_MAX), or their rate, as the server's configuration can.
//! [`DeflateTotals`] shows the time spent.

mod deflater;
mod inflater;
mod params;
mod totals;
mod window;

pub use deflater::{DeflateConfig, Deflater, PeerDeflater};
pub use inflater::Inflater;
pub use params::{DeflateOffer, DeflateParams, WindowBits};
pub(super) use params::{InvalidAnswer, NAME};
pub use totals::DeflateTotals;
pub use window::{DeflateContext, SlidingWindow};

/// The end of a compressed message, which a sender strips and a receiver appends (RFC 7692 §7.2.1, §7.2.2).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
