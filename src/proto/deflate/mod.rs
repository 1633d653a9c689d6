//! permessage-deflate: RFC 7692, sans-IO, both roles.
//!
//! ```text
//! opening handshake   offers of the request ─► DeflateParams::accept ─► its text in the answer
//!                     DeflateOffer in our request ─► the answer ─► DeflateParams       (params)
//!
//! messages in         Event::Deflated ─► Inflater::inflate ─► Message                  (inflater)
//! messages out        Deflater::deflate ─► encode_deflated, or the plain frame         (deflater)
//! ```
//!
//! No message refers back to an earlier one: whatever end we are, both ends are bound to `no_context_takeover`
//! (RFC 7692 §7.1.1). So a message compressed once is the same bytes for every subscriber, and a connection holds no
//! memory for it: one [`Inflater`] and one [`Deflater`] serve all connections of a thread.

mod deflater;
mod inflater;
mod params;
mod totals;

pub use deflater::{DeflateConfig, Deflater};
pub use inflater::Inflater;
pub use params::{DeflateOffer, DeflateParams, WindowBits};
pub(super) use params::{InvalidAnswer, NAME};
pub use totals::DeflateTotals;

/// What a sender strips from the end of a compressed message, and a receiver puts back (RFC 7692 §7.2.1, §7.2.2).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
