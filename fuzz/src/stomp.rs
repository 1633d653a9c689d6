//! Frames of STOMP.

use ringfeed::gateway::stomp::frame::{Decoded, Frame, Version, decode};
use ringfeed::limits::{STOMP_HEAD_BYTES_MAX, STOMP_HEADERS_MAX};

/// A bound that inputs reach.
const BODY_BYTES_MAX: usize = 200;

/// The first byte selects the version, the others are the bytes of a client: the same frames whole or in pieces, and
/// within the bounds.
pub(crate) fn stomp(input: &[u8]) {
    let Some((first, bytes)) = input.split_first() else { return };
    let version = [Version::V10, Version::V11, Version::V12][usize::from(first % 3)];
    let mut rest = bytes;
    while let Ok(Some((decoded, len))) = decode(rest, version, BODY_BYTES_MAX) {
        assert!((1..=rest.len()).contains(&len), "{len} of {}", rest.len());
        if let Decoded::Frame(frame) = decoded {
            check_frame(&frame, &rest[..len], version);
        }
        rest = &rest[len..];
    }
    let is_incomplete = matches!(decode(rest, version, BODY_BYTES_MAX), Ok(None));
    assert!(!is_incomplete || rest.len() <= STOMP_HEAD_BYTES_MAX + BODY_BYTES_MAX, "an incomplete frame has no bound");
}

/// A frame is within the bounds, and no part of it is one.
fn check_frame(frame: &Frame<'_>, bytes: &[u8], version: Version) {
    assert!(frame.headers.len() <= STOMP_HEADERS_MAX && frame.body.len() <= BODY_BYTES_MAX);
    assert_eq!(bytes.last(), Some(&0));
    for split in [bytes.len() - 1, bytes.len() / 2] {
        assert_eq!(decode(&bytes[..split], version, BODY_BYTES_MAX), Ok(None), "a part of a frame");
    }
}
