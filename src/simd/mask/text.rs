//! Unmasking and validating a text in one pass over memory.
//!
//! ```text
//!   ASCII, as unmasking itself finds out   | something else: unmasked a block ahead of the validator
//!   ---------------------------------------+-----------------------------------------------------------
//!                                ascii_len ^   judged_len ^      unmasked_len ^
//! ```
//!
//! The `simdutf8` validator computes more than it loads, so that most of the unmasking disappears in its shadow. It
//! must not read what was stored a moment ago: its loads straddle the stores, and would have to wait for both of them.

use simdutf8::basic::imp::ChunkedUtf8Validator;

use super::vector::{Vector, Walk};
use super::{key_at, scalar};

/// What the validator takes at a time.
const VALIDATOR_BYTES: usize = 64;
/// How far unmasking runs ahead of the validator, a multiple of all vectors: enough for the stores to be done with when
/// the validator comes, and little enough for the processor to find work of both kinds at once.
const BLOCK_BYTES: usize = 8 * VALIDATOR_BYTES;

/// Goes on where a walk over `bytes` stopped: unmasks the rest of them, and says whether all of them are UTF-8.
///
/// # Safety
/// This CPU has the instructions of `V` and of `U`.
#[inline(always)]
pub(super) unsafe fn unmask_rest_is_utf8<V: Vector, U: ChunkedUtf8Validator>(
    bytes: &mut [u8],
    walk: Walk,
    key: [u8; 4],
    phase: usize,
) -> bool {
    let Walk { mut unmasked_len, ascii_len: mut judged_len } = walk;
    let key = key_at(key, phase.wrapping_add(unmasked_len));
    let vectors_len = bytes.len() - (bytes.len() - unmasked_len) % V::BYTES;
    // Not with the last block, where its key would take a register from the validator. No vector shifts the key.
    scalar::unmask_is_ascii(&mut bytes[vectors_len..], key.to_le_bytes(), 0);
    // SAFETY: the caller vouches for the instructions of both.
    unsafe {
        let key = V::splat(key);
        let mut validator = U::new();
        while unmasked_len < vectors_len {
            let next_len = vectors_len.min(unmasked_len + BLOCK_BYTES);
            unmask_vectors(&mut bytes[unmasked_len..next_len], key);
            let ready = (unmasked_len - judged_len) / VALIDATOR_BYTES * VALIDATOR_BYTES;
            validator.update_from_chunks(&bytes[judged_len..judged_len + ready]);
            judged_len += ready;
            unmasked_len = next_len;
        }
        validator.finalize(Some(&bytes[judged_len..])).is_ok()
    }
}

/// Unmasks `bytes`, a whole number of vectors, beginning with the least significant byte of `key`.
///
/// # Safety
/// This CPU has the instructions of `V`.
#[inline(always)]
unsafe fn unmask_vectors<V: Vector>(bytes: &mut [u8], key: V) {
    for vector in bytes.chunks_exact_mut(V::BYTES) {
        let start = vector.as_mut_ptr();
        // SAFETY: the caller vouches for the instructions, and `vector` has `V::BYTES` bytes.
        unsafe { V::load(start).xor(key).store(start) };
    }
}
