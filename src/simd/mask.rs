//! Masking (RFC 6455 §5.3).

/// Applies `key` to `bytes` in place; `phase` is the offset of `bytes[0]` within the payload, modulo 4.
pub fn unmask(bytes: &mut [u8], key: [u8; 4], phase: usize) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= key[(phase + index) & 3];
    }
}

/// As [`unmask`], and says whether all of the *unmasked* bytes are ASCII.
pub fn unmask_is_ascii(bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
    unmask(bytes, key, phase);
    bytes.is_ascii()
}
