//! Masking with vectors, written once for all instruction sets.
//!
//! ```text
//!   bytes     |-----------------------------------------------|
//!   head      |-------|                                           first vector, wherever the payload begins
//!   middle        |-------|-------|-------|-------|-------|       aligned, so that no store straddles cache lines
//!   tail                                          |-------|       last vector, wherever the payload ends
//! ```
//!
//! Head and tail may overlap the middle. They are loaded and unmasked before the middle is written and stored after it,
//! so each byte is unmasked from its received value, never twice. That leaves no odd bytes to loop over.

use super::{key_at, scalar};

/// Number of vectors of the middle between two checks of the result: enough to make the checks cheap.
const STEP_VECTORS: usize = 8;

/// A register of bytes.
///
/// # Safety
/// The caller of any function must ensure that this CPU has the instructions of the vector; implementations rely on it.
pub(super) trait Vector: Copy {
    /// The size of the register, a power of two and a multiple of 4.
    const BYTES: usize;

    /// The key, repeated, beginning with its least significant byte.
    unsafe fn splat(key: u32) -> Self;

    /// Reads [`BYTES`](Self::BYTES) bytes. `source` must be readable for as many, at any alignment.
    unsafe fn load(source: *const u8) -> Self;

    /// Writes [`BYTES`](Self::BYTES) bytes. `target` must be writable for as many, at any alignment.
    unsafe fn store(self, target: *mut u8);

    /// Exclusive or.
    unsafe fn xor(self, other: Self) -> Self;

    /// Inclusive or.
    unsafe fn or(self, other: Self) -> Self;

    /// Whether no byte has its highest bit set.
    unsafe fn is_ascii(self) -> bool;
}

/// Implements [`unmask_is_ascii`](super::unmask_is_ascii) with vectors of type `V`.
///
/// # Safety
/// This CPU must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn unmask_is_ascii<V: Vector>(bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
    // SAFETY: the caller guarantees the instructions.
    unsafe { walk::<V, false>(bytes, key, phase) }.ascii_len == bytes.len()
}

/// Unmasks `bytes` as long as they are ASCII, and up to one step beyond.
///
/// # Safety
/// This CPU must have the instructions of `V`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn unmask_while_ascii<V: Vector>(bytes: &mut [u8], key: [u8; 4], phase: usize) -> Walk {
    // SAFETY: the caller guarantees the instructions.
    unsafe { walk::<V, true>(bytes, key, phase) }
}

/// The result of a walk.
pub(super) struct Walk {
    /// Number of bytes unmasked, from the front.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "elsewhere no walk stops early"))]
    pub(super) unmasked_len: usize,
    /// Number of those known to be ASCII. Equals the length of the input if, and only if, all bytes are ASCII.
    pub(super) ascii_len: usize,
}

/// Unmasks `bytes`: all of them, or, if `STOPS`, up to the first step with a byte that is not ASCII.
///
/// # Safety
/// This CPU must have the instructions of `V`.
#[inline(always)]
unsafe fn walk<V: Vector, const STOPS: bool>(bytes: &mut [u8], key: [u8; 4], phase: usize) -> Walk {
    let length = bytes.len();
    if length < V::BYTES {
        let is_ascii = scalar::unmask_is_ascii(bytes, key, phase);
        return Walk { unmasked_len: length, ascii_len: if is_ascii { length } else { 0 } };
    }
    let start = bytes.as_mut_ptr();
    let tail_offset = length - V::BYTES;
    let middle_offset = V::BYTES - start.addr() % V::BYTES;
    let middle_phase = phase.wrapping_add(middle_offset);
    let tail_phase = phase.wrapping_add(tail_offset);

    // SAFETY: the caller guarantees the instructions. Every access lies within `bytes`: the head because `length` is
    // at least `V::BYTES`, the tail because it ends at `length`, the middle because each step checks that it ends
    // there, too.
    unsafe {
        let head = V::load(start).xor(V::splat(key_at(key, phase)));
        let tail = V::load(start.add(tail_offset)).xor(V::splat(key_at(key, tail_phase)));
        let middle_key = V::splat(key_at(key, middle_phase));

        let mut seen = head;
        let mut ascii_len = 0;
        let mut offset = middle_offset;
        while offset + STEP_VECTORS * V::BYTES <= length {
            for _ in 0..STEP_VECTORS {
                let unmasked = V::load(start.add(offset)).xor(middle_key);
                seen = seen.or(unmasked);
                unmasked.store(start.add(offset));
                offset += V::BYTES;
            }
            if STOPS {
                if !seen.is_ascii() {
                    head.store(start);
                    return Walk { unmasked_len: offset, ascii_len };
                }
                ascii_len = offset;
            }
        }
        while offset < tail_offset {
            let unmasked = V::load(start.add(offset)).xor(middle_key);
            seen = seen.or(unmasked);
            unmasked.store(start.add(offset));
            offset += V::BYTES;
        }
        head.store(start);
        tail.store(start.add(tail_offset));
        Walk { unmasked_len: length, ascii_len: if seen.or(tail).is_ascii() { length } else { ascii_len } }
    }
}
