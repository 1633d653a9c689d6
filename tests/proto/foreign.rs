//! The other end's compression, by libraries and as peers commonly do it: one stream for all messages.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush};
use ringfeed::proto::WindowBits;

const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Inflates by a library that is not the server's.
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

/// Inflates with no more memory than its window, which it fills byte by byte.
pub(crate) struct WithinWindow(Decompress);

impl WithinWindow {
    pub(crate) fn new(window: WindowBits) -> Self {
        Self(Decompress::new_with_window_bits(false, window.get()))
    }

    /// The payload of the next message.
    pub(crate) fn inflate(&mut self, deflated: &[u8]) -> Vec<u8> {
        let (begin, mut output, mut byte) = (self.0.total_in(), Vec::new(), [0]);
        let input = [deflated, &FLUSH_TAIL].concat();
        loop {
            let (taken, given) = ((self.0.total_in() - begin) as usize, self.0.total_out());
            self.0.decompress(&input[taken..], &mut byte, FlushDecompress::None).expect("within the window");
            if self.0.total_out() == given {
                return output;
            }
            output.push(byte[0]);
        }
    }
}

/// Compresses with one stream for all messages.
pub(crate) struct ForeignDeflater(Compress);

impl ForeignDeflater {
    /// One that refers back as far as 2 to the power of `window_bits` bytes.
    pub(crate) fn new(level: u32, window_bits: u8) -> Self {
        Self(Compress::new_with_window_bits(Compression::new(level), false, window_bits))
    }

    /// The next message's payload.
    pub(crate) fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        // The library does not flush what is flushed already (RFC 7692 §7.2.3.6).
        if payload.is_empty() {
            return vec![0];
        }
        let mut bytes = Vec::with_capacity(payload.len() + payload.len() / 8 + 100);
        self.0.compress_vec(payload, &mut bytes, FlushCompress::Sync).expect("compressing can't fail");
        bytes.strip_suffix(&FLUSH_TAIL).expect("a flush").to_vec()
    }

    /// Refers to nothing that came before from now on.
    pub(crate) fn forget(&mut self) {
        self.0.reset();
    }
}
