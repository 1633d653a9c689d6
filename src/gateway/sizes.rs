//! Bounds on the sizes of encoded texts and data, computed without encoding.

use crate::topics::Body;

/// Maximum bytes of data in JSON: verbatim, as a string, or as base64 if it is not text.
#[cfg(feature = "centrifuge")]
pub(super) fn data_bytes_max(data: &[u8]) -> usize {
    escaped_bytes(data).max(base64_bytes(data.len()) + 2)
}

/// Maximum bytes of a text in JSON: verbatim or as a string.
pub(super) fn escaped_bytes(text: &[u8]) -> usize {
    let escapes = text.iter().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    let controls = text.iter().filter(|byte| **byte < b' ').count();
    text.len() + escapes + 5 * controls + 2
}

pub(super) fn base64_bytes(len: usize) -> usize {
    4 * len.div_ceil(3)
}

/// Maximum bytes of a publication's key and tags in JSON.
pub(super) fn attribute_bytes_max(body: &Body) -> usize {
    let tag = |(name, value): &(String, String)| 6 + escaped_bytes(name.as_bytes()) + escaped_bytes(value.as_bytes());
    let tags = body.tags.iter().flatten().map(tag);
    escaped_bytes(body.key.as_deref().unwrap_or_default().as_bytes()) + tags.sum::<usize>()
}
