//! Masking, compared with the fastest operation on as many bytes: copying them.

#[path = "support/placed_bytes.rs"]
mod placed_bytes;
mod support;

use placed_bytes::PlacedBytes;
use ringfeed::simd::mask;
use support::{Comparisons, Contender};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const SIZES: [usize; 8] = [16, 64, 125, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20];
/// Length of a masked frame header with a 16-bit length (RFC 6455 §5.2): the offset of most large payloads.
const HEADER_BYTES: usize = 8;

fn main() {
    let mut comparisons = Comparisons::from_command_line("mask");
    for (place, offset) in [("at the start of a page", 0), ("behind a header of 8 bytes", HEADER_BYTES)] {
        let title =
            format!("unmask n bytes in place, {place}, against memcpy of n bytes from there to an aligned buffer");
        comparisons.table(&title, "memcpy", "unmask");
        for size in SIZES {
            let payload: Vec<u8> = (0..size).map(|index| (index * 31) as u8).collect();
            let place = |copy: usize| offset + copy * size.next_multiple_of(64);
            comparisons.compare(
                &format!("{size} B"),
                size,
                |copy| Copy::new(&payload, place(copy)),
                |copy| Unmask::new(&payload, place(copy)),
            );
        }
    }
    comparisons.finish();
}

/// Copies a payload to another buffer.
struct Copy {
    source: PlacedBytes,
    target: PlacedBytes,
}

impl Copy {
    /// The target begins at a cache line half a page away, to avoid address aliasing that would slow the copy down.
    fn new(payload: &[u8], offset: usize) -> Self {
        let nothing = vec![0; payload.len()];
        Self { source: PlacedBytes::new(payload, offset), target: PlacedBytes::new(&nothing, offset / 64 * 64 + 2048) }
    }
}

impl Contender for Copy {
    fn work(&mut self) {
        self.target.copy_from_slice(&self.source);
    }

    fn check(&self) {
        assert!(*self.target == *self.source);
    }
}

/// Masks a payload in place, and unmasks it the next time.
struct Unmask {
    payload: Vec<u8>,
    bytes: PlacedBytes,
    is_masked: bool,
}

impl Unmask {
    fn new(payload: &[u8], offset: usize) -> Self {
        Self { payload: payload.to_vec(), bytes: PlacedBytes::new(payload, offset), is_masked: false }
    }
}

impl Contender for Unmask {
    fn work(&mut self) {
        mask::unmask(&mut self.bytes, KEY, 0);
        self.is_masked = !self.is_masked;
    }

    fn check(&self) {
        let key = if self.is_masked { KEY } else { [0; 4] };
        let mut expected = self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
        assert!(self.bytes.iter().all(|byte| Some(*byte) == expected.next()));
    }
}
