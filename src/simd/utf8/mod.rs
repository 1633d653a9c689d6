//! UTF-8 validation (RFC 6455 §8.1, RFC 3629) of a whole text, or of one that arrives in pieces.
//!
//! The `simdutf8` crate validates. This module adds sequences split between two pieces, failing as soon as no
//! continuation could make the text valid, and unmasking in the same pass. It does not store the text.

#[cfg(test)]
mod tests;

use super::mask;

/// Bytes validated at a time. Few enough to stay in the second-level cache for a second pass, which is then as fast as
/// the first, since validation is slower than both caches; enough to make the cost of chunk ends negligible. A multiple
/// of 4, so that each chunk begins at the same phase of the key.
const CHUNK_BYTES: usize = 64 * 1024;

/// The text so far can't be the beginning of any valid UTF-8 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

/// Validates one text that arrives in pieces, split anywhere.
///
/// It takes four bytes of memory. After an error, and after [`finish`](Self::finish), it is ready for the next text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8Stream {
    /// An unfinished sequence at the end of the input so far: up to three bytes, which some continuation would make
    /// valid.
    pending: [u8; 3],
    pending_len: u8,
}

impl Utf8Stream {
    /// Validates the next piece, which may be empty.
    ///
    /// # Errors
    /// [`InvalidUtf8`] as soon as no continuation could make the text valid (RFC 6455 §8.1).
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), InvalidUtf8> {
        let rest = self.complete_pending(piece)?;
        let (whole, unfinished) = split_unfinished(rest);
        validate(whole)?;
        self.keep_pending(unfinished)
    }

    /// Unmasks the next piece in place and validates it, like [`unmask`](mask::unmask) followed by
    /// [`feed`](Self::feed), but reads memory once, or again only while it is still in the cache.
    ///
    /// # Errors
    /// As for [`feed`](Self::feed). Part of the piece may then still be masked.
    pub fn unmask_and_feed(&mut self, piece: &mut [u8], key: [u8; 4], phase: usize) -> Result<(), InvalidUtf8> {
        piece.chunks_mut(CHUNK_BYTES).try_for_each(|chunk| self.unmask_and_feed_chunk(chunk, key, phase))
    }

    fn unmask_and_feed_chunk(&mut self, chunk: &mut [u8], key: [u8; 4], phase: usize) -> Result<(), InvalidUtf8> {
        let mut fed = 0;
        while self.pending_len > 0 && fed < chunk.len() {
            let next = &mut chunk[fed..=fed];
            mask::unmask(next, key, phase.wrapping_add(fed));
            self.feed(next)?;
            fed += 1;
        }
        let rest = &mut chunk[fed..];
        let rest_phase = phase.wrapping_add(fed);
        let (whole, unfinished) = rest.split_at_mut(rest.len() - unfinished_len_of_masked(rest, key, rest_phase));
        if !mask::unmask_is_utf8(whole, key, rest_phase) {
            return Err(InvalidUtf8);
        }
        mask::unmask(unfinished, key, rest_phase.wrapping_add(whole.len()));
        self.keep_pending(unfinished)
    }

    /// Ends the text.
    ///
    /// # Errors
    /// [`InvalidUtf8`] if it ended in the middle of a sequence.
    pub fn finish(&mut self) -> Result<(), InvalidUtf8> {
        let unfinished = std::mem::take(self);
        if unfinished.pending_len == 0 { Ok(()) } else { Err(InvalidUtf8) }
    }

    /// Moves bytes from the front of `piece` to the pending sequence until that is complete. Returns the rest of the
    /// piece.
    fn complete_pending<'a>(&mut self, mut piece: &'a [u8]) -> Result<&'a [u8], InvalidUtf8> {
        while self.pending_len > 0
            && let [next, rest @ ..] = piece
        {
            let pending_len = usize::from(self.pending_len);
            let mut sequence = [0; 4];
            sequence[..pending_len].copy_from_slice(&self.pending[..pending_len]);
            sequence[pending_len] = *next;
            *self = Self::default();
            self.keep_pending(&sequence[..=pending_len])?;
            piece = rest;
        }
        Ok(piece)
    }

    /// Keeps `sequence`, which has at most one character, as pending if it is incomplete.
    fn keep_pending(&mut self, sequence: &[u8]) -> Result<(), InvalidUtf8> {
        match std::str::from_utf8(sequence) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(InvalidUtf8),
            Err(_) => {
                self.pending[..sequence.len()].copy_from_slice(sequence);
                self.pending_len = sequence.len() as u8;
                Ok(())
            }
        }
    }
}

/// Splits `bytes` before the last character if that has several bytes and may be incomplete.
///
/// May also split off a complete character of up to three bytes.
fn split_unfinished(bytes: &[u8]) -> (&[u8], &[u8]) {
    let is_continuation = |byte: &u8| byte & 0b1100_0000 == 0b1000_0000;
    let mut last_three = bytes.iter().rev().take(3);
    match last_three.position(|byte| !is_continuation(byte)) {
        Some(following) if !bytes[bytes.len() - 1 - following].is_ascii() => {
            bytes.split_at(bytes.len() - 1 - following)
        }
        _ => (bytes, &[]),
    }
}

/// The number of bytes that [`split_unfinished`] will split off `bytes` once they are unmasked.
fn unfinished_len_of_masked(bytes: &[u8], key: [u8; 4], phase: usize) -> usize {
    let start = bytes.len().saturating_sub(3);
    let mut last_three = [0; 3];
    let last_three = &mut last_three[..bytes.len() - start];
    last_three.copy_from_slice(&bytes[start..]);
    mask::unmask(last_three, key, phase.wrapping_add(start));
    split_unfinished(last_three).1.len()
}

/// Validates a whole text.
///
/// # Errors
/// [`InvalidUtf8`] if it is not UTF-8.
#[inline]
pub fn validate(bytes: &[u8]) -> Result<(), InvalidUtf8> {
    simdutf8::basic::from_utf8(bytes).map(drop).map_err(|_| InvalidUtf8)
}

/// Unmasks a whole text in place, from phase 0, and validates it in the same pass.
///
/// # Errors
/// [`InvalidUtf8`] if it is not UTF-8. Part of the text may then still be masked.
#[inline]
pub fn unmask_and_validate(bytes: &mut [u8], key: [u8; 4]) -> Result<(), InvalidUtf8> {
    if bytes.len() > CHUNK_BYTES {
        let mut stream = Utf8Stream::default();
        stream.unmask_and_feed(bytes, key, 0)?;
        stream.finish()
    } else if mask::unmask_is_utf8(bytes, key, 0) {
        Ok(())
    } else {
        Err(InvalidUtf8)
    }
}
