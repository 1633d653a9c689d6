//! The other end's compression by libraries, as peers commonly do it: one stream for all messages.

use flate2::{Compress, Compression, FlushCompress};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush};

/// The tail that a sender removes from each message, and a receiver appends (RFC 7692 §7.2.1, §7.2.2).
pub(crate) const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Inflates with another library than the server.
pub(crate) struct ForeignInflater(Box<InflateState>);

impl ForeignInflater {
    pub(crate) fn new() -> Self {
        Self(InflateState::new_boxed(DataFormat::Raw))
    }

    /// The payload of the next message.
    pub(crate) fn inflate(&mut self, deflated: &[u8]) -> Vec<u8> {
        let whole = [deflated, &FLUSH_TAIL].concat();
        let (mut input, mut output, mut room) = (&whole[..], Vec::new(), [0; 4096]);
        loop {
            let result = inflate(&mut self.0, input, &mut room, MZFlush::None);
            output.extend_from_slice(&room[..result.bytes_written]);
            input = &input[result.bytes_consumed..];
            if result.bytes_written == 0 && (result.bytes_consumed == 0 || input.is_empty()) {
                assert!(input.is_empty(), "{:?} with {} bytes left", result.status, input.len());
                return output;
            }
        }
    }
}

/// Compresses with one stream for all messages.
pub(crate) struct ForeignDeflater(Compress);

impl ForeignDeflater {
    /// A compressor with a window of 2 to the power of `window_bits` bytes.
    pub(crate) fn new(level: u32, window_bits: u8) -> Self {
        Self(Compress::new_with_window_bits(Compression::new(level), false, window_bits))
    }

    /// The next message's payload.
    pub(crate) fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        // The library ignores a second flush (RFC 7692 §7.2.3.6).
        if payload.is_empty() {
            return vec![0];
        }
        let mut bytes = Vec::with_capacity(payload.len() + payload.len() / 8 + 100);
        self.0.compress_vec(payload, &mut bytes, FlushCompress::Sync).expect("compressing can't fail");
        bytes.strip_suffix(&FLUSH_TAIL).expect("a flush").to_vec()
    }
}
