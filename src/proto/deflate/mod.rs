//! permessage-deflate: RFC 7692, sans-IO, both roles.
//!
//! ```text
//! opening handshake   offers of the request ─► DeflateParams::accept ─► its text in the answer
//!                     DeflateOffer in our request ─► the answer ─► DeflateParams       (params)
//!
//! messages in         Event::Deflated ─► Inflater::inflate ─► Message                  (inflater)
//! messages out        Deflater::deflate ─► encode_deflated, or the plain frame         (deflater)
//! what came before    DeflateContext, where messages may refer back to it              (window)
//! ```
//!
//! One [`Inflater`] and one [`Deflater`] serve all connections of a thread. Most often no message refers back to an
//! earlier one (`no_context_takeover` both ways, RFC 7692 §7.1.1): then a message compressed once is the same bytes for
//! every subscriber, and a connection holds no memory for it.
//!
//! # Context takeover
//!
//! Where it was agreed on, a connection keeps the end of what it has sent and received, in a [`DeflateContext`], so
//! that its messages may refer back to that. What is compressed once for many may still be sent to it: a message that
//! refers only to itself is valid after any other. But it moves the peer's window on, so the connection's own must be
//! [cleared](SlidingWindow::clear): the next message of its own refers only to itself, and those after it to that one.
//! Messages sent as they are, since they are short or would not shrink, do not touch the window (RFC 7692 §7.2.1).
//!
//! # What a peer can make us do
//!
//! What a compressed message inflates to is bounded by the receiver's bound on messages, and beyond
//! [`INFLATE_FREE_BYTES`](crate::limits::INFLATE_FREE_BYTES) by
//! [`INFLATE_RATIO_MAX`](crate::limits::INFLATE_RATIO_MAX) times what came. So memory is bounded, by the largest
//! message and not by the number of peers. *Time is bounded for each message only*: a peer that sends a kilobyte, which
//! inflates to a megabyte, makes us spend the time that a megabyte takes, as often as it can send a kilobyte; and if
//! what answers compresses as much again, that too. Where peers are not trusted, bound the size of their messages, as
//! the feed does with [`FEED_MESSAGE_BYTES_MAX`](crate::limits::FEED_MESSAGE_BYTES_MAX), or their number in a second,
//! as the server's configuration can. [`DeflateTotals`] tell where the time goes.

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

/// What a sender strips from the end of a compressed message, and a receiver puts back (RFC 7692 §7.2.1, §7.2.2).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
