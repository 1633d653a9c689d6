//! Masking eight bytes at a time, in safe code, on any CPU.
//!
//! This is the reference for the tests of every other kernel, the path for short payloads, and the fallback without
//! vector instructions. It has no loop over odd bytes: the last word is read before any is written and is written after
//! all others. It may overlap words masked in between, since both contain the same bytes.

use super::choose::Kernel;
use super::key_at;

/// The bit that no ASCII byte has, in each byte of a word.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Like [`unmask_is_ascii`](super::unmask_is_ascii), without vector instructions.
#[inline]
pub fn unmask_is_ascii(bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
    let word_key = key_at(key, phase);
    let Some(last) = bytes.last_chunk::<8>() else {
        return unmask_below_eight(bytes, word_key);
    };
    let last_key = key_at(key, phase.wrapping_add(bytes.len()));
    let last = u64::from_le_bytes(*last) ^ twice(last_key);
    let key = twice(word_key);
    let mut seen = last;
    for word in bytes.as_chunks_mut::<8>().0 {
        let unmasked = u64::from_le_bytes(*word) ^ key;
        seen |= unmasked;
        *word = unmasked.to_le_bytes();
    }
    if let Some(end) = bytes.last_chunk_mut::<8>() {
        *end = last.to_le_bytes();
    }
    seen & HIGH_BITS == 0
}

/// Unmasks fewer than eight bytes in one word.
#[inline]
fn unmask_below_eight(bytes: &mut [u8], key: u32) -> bool {
    let mut seen = 0;
    for (byte, key) in bytes.iter_mut().zip(twice(key).to_le_bytes()) {
        *byte ^= key;
        seen |= *byte;
    }
    seen.is_ascii()
}

/// The key repeated to eight bytes.
#[inline]
fn twice(key: u32) -> u64 {
    u64::from(key) << 32 | u64::from(key)
}

/// The scalar kernel, supported by every CPU.
pub(super) struct Scalar;

impl Kernel for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn unmask_is_ascii(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        unmask_is_ascii(bytes, key, phase)
    }
}
