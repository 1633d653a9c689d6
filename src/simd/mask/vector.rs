//! Masking with vectors, written once for all instruction sets.
//!
//! ```text
//!   bytes     |-----------------------------------------------|
//!   head      |-------|                                           first vector, wherever the payload begins
//!   middle        |-------|-------|-------|-------|-------|       aligned, so that no store straddles cache lines
//!   tail                                          |-------|       last vector, wherever the payload ends
//! ```
//!
//! Head and tail may overlap the middle. They are loaded and unmasked before the middle is written and stored after it, so
//! each byte is unmasked from what was received, never twice. That leaves no odd bytes to loop over.

use super::{key_at, scalar};

/// A register of bytes.
///
/// # Safety
/// All functions ask of the caller that this CPU has the instructions of the vector; implementations may count on it.
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

/// Does what [`unmask_is_ascii`](super::unmask_is_ascii) promises, with vectors of type `V`.
///
/// # Safety
/// This CPU has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn unmask_is_ascii<V: Vector>(bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
    let length = bytes.len();
    if length < V::BYTES {
        return scalar::unmask_is_ascii(bytes, key, phase);
    }
    let start = bytes.as_mut_ptr();
    let tail_offset = length - V::BYTES;
    let middle_offset = V::BYTES - start.addr() % V::BYTES;
    let middle_phase = phase.wrapping_add(middle_offset);
    let tail_phase = phase.wrapping_add(tail_offset);

    // SAFETY: the caller vouches for the instructions. Every access lies within `bytes`: the head because `length` is at
    // least `V::BYTES`, the tail because it ends at `length`, the middle because each step checks that it ends there, too.
    unsafe {
        let head = V::load(start).xor(V::splat(key_at(key, phase)));
        let tail = V::load(start.add(tail_offset)).xor(V::splat(key_at(key, tail_phase)));
        let middle_key = V::splat(key_at(key, middle_phase));

        let mut seen = head.or(tail);
        let mut offset = middle_offset;
        while offset + 4 * V::BYTES <= length {
            let first = V::load(start.add(offset)).xor(middle_key);
            let second = V::load(start.add(offset + V::BYTES)).xor(middle_key);
            let third = V::load(start.add(offset + 2 * V::BYTES)).xor(middle_key);
            let fourth = V::load(start.add(offset + 3 * V::BYTES)).xor(middle_key);
            seen = seen.or(first.or(second).or(third.or(fourth)));
            first.store(start.add(offset));
            second.store(start.add(offset + V::BYTES));
            third.store(start.add(offset + 2 * V::BYTES));
            fourth.store(start.add(offset + 3 * V::BYTES));
            offset += 4 * V::BYTES;
        }
        while offset < tail_offset {
            let unmasked = V::load(start.add(offset)).xor(middle_key);
            seen = seen.or(unmasked);
            unmasked.store(start.add(offset));
            offset += V::BYTES;
        }
        head.store(start);
        tail.store(start.add(tail_offset));
        seen.is_ascii()
    }
}
