//! Masking (RFC 6455 §5.3): in-place exclusive or with a repeating four-byte key.
//!
//! Masking and unmasking are the same operation. Any length, alignment and phase is supported: a payload that arrives
//! in pieces is unmasked piece by piece, each with the phase of its first byte.
//!
//! One pass over the bytes both unmasks and detects bytes that are not ASCII. The detection costs nothing beside the
//! stores, so no kernel exists without it.

mod choose;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod text;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Up to this many bytes the inlined scalar kernel is faster than a call through the chosen kernel.
const SHORT_BYTES: usize = 64;

/// Up to this many bytes two passes over a text that is not ASCII are as fast as one.
const SHORT_TEXT_BYTES: usize = 256;

/// Applies `key` to `bytes` in place. `phase` is the offset of `bytes[0]` within the payload, of which only the
/// remainder modulo 4 matters (RFC 6455 §5.3).
#[inline]
pub fn unmask(bytes: &mut [u8], key: [u8; 4], phase: usize) {
    unmask_is_ascii(bytes, key, phase);
}

/// Like [`unmask`], and returns whether all of the *unmasked* bytes are ASCII. True for an empty slice.
#[inline]
pub fn unmask_is_ascii(bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
    if bytes.len() <= SHORT_BYTES {
        scalar::unmask_is_ascii(bytes, key, phase)
    } else {
        choose::kernel().unmask_is_ascii(bytes, key, phase)
    }
}

/// Like [`unmask`], and returns whether all of the *unmasked* bytes together are UTF-8.
#[inline]
pub(super) fn unmask_is_utf8(bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
    if bytes.len() <= SHORT_TEXT_BYTES {
        unmask_is_ascii(bytes, key, phase) || simdutf8::basic::from_utf8(bytes).is_ok()
    } else {
        choose::kernel().unmask_is_utf8(bytes, key, phase)
    }
}

/// The name of the masking kernel this process uses: `avx512`, `avx2`, `sse2`, `neon` or `scalar`.
pub fn kernel_name() -> &'static str {
    choose::kernel().name()
}

/// The key as the number that masks four bytes in little-endian order, with the first of them at `phase`.
#[inline]
fn key_at(key: [u8; 4], phase: usize) -> u32 {
    u32::from_le_bytes(key).rotate_right(8 * (phase & 3) as u32)
}
