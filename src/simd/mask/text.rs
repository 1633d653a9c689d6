//! Unmasking and validating a text in one pass over memory.
//!
//! ```text
//!   ASCII, as detected while unmasking     | other text: unmasked     a block ahead of the validator
//!   ---------------------------------------+-----------------------------------------------------------
//!                                ascii_len ^   validated_len ^      unmasked_len ^
//! ```
//!
//! The `simdutf8` validator computes more than it loads, so most of the unmasking runs in parallel with it at no cost.
//! It must not read data stored a moment ago: its loads straddle the stores, and would have to wait for both of them.

use simdutf8::basic::imp::ChunkedUtf8Validator;

use super::vector::{Vector, Walk};
use super::{key_at, scalar};

/// Bytes that the validator processes at a time.
const VALIDATOR_BYTES: usize = 64;
/// How far unmasking runs ahead of the validator, a multiple of all vector sizes: far enough that the stores have
/// completed before the validator loads, and near enough that the processor can overlap both kinds of work.
const BLOCK_BYTES: usize = 8 * VALIDATOR_BYTES;

/// Continues after a walk over `bytes`: unmasks the rest, and returns whether all of them are UTF-8.
///
/// # Safety
/// This CPU must have the instructions of `V` and of `U`.
#[inline(always)]
pub(super) unsafe fn unmask_rest_is_utf8<V: Vector, U: ChunkedUtf8Validator>(
    bytes: &mut [u8],
    walk: Walk,
    key: [u8; 4],
    phase: usize,
) -> bool {
    let Walk { mut unmasked_len, ascii_len: mut validated_len } = walk;
    let key = key_at(key, phase.wrapping_add(unmasked_len));
    let vectors_len = bytes.len() - (bytes.len() - unmasked_len) % V::BYTES;
    // Before the loop rather than with its last block, where the key would take a register from the validator. Whole
    // vectors do not shift the phase of the key.
    scalar::unmask_is_ascii(&mut bytes[vectors_len..], key.to_le_bytes(), 0);
    // SAFETY: the caller guarantees the instructions of both.
    unsafe {
        let key = V::splat(key);
        let mut validator = U::new();
        while unmasked_len < vectors_len {
            let next_len = vectors_len.min(unmasked_len + BLOCK_BYTES);
            unmask_vectors(&mut bytes[unmasked_len..next_len], key);
            let ready = (unmasked_len - validated_len) / VALIDATOR_BYTES * VALIDATOR_BYTES;
            validator.update_from_chunks(&bytes[validated_len..validated_len + ready]);
            validated_len += ready;
            unmasked_len = next_len;
        }
        validator.finalize(Some(&bytes[validated_len..])).is_ok()
    }
}

/// Unmasks `bytes`, a whole number of vectors, beginning with the least significant byte of `key`.
///
/// # Safety
/// This CPU must have the instructions of `V`.
#[inline(always)]
unsafe fn unmask_vectors<V: Vector>(bytes: &mut [u8], key: V) {
    for vector in bytes.chunks_exact_mut(V::BYTES) {
        let start = vector.as_mut_ptr();
        // SAFETY: the caller guarantees the instructions, and `vector` has `V::BYTES` bytes.
        unsafe { V::load(start).xor(key).store(start) };
    }
}
