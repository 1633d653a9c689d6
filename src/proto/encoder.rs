//! Encodes frames into bytes. Every function appends to `out` and keeps its present content.
//!
//! `mask` is `None` for a server and a fresh random key for a client (RFC 6455 §5.1, §5.3): this module has no source
//! of randomness.

use super::{CloseCode, FrameHeader, Message, MessageKind, Opcode};
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES_MAX};
use crate::simd::mask::unmask;

/// Bytes of a close frame's code, in front of the reason (RFC 6455 §5.5.1).
const CLOSE_CODE_BYTES: usize = 2;

/// Appends one whole frame, with FIN set.
///
/// # Panics
/// If it is a control frame with more than 125 bytes of payload (RFC 6455 §5.5).
#[inline]
pub fn encode_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    encode_fragment(out, opcode, true, payload, mask);
}

/// Appends one frame of a message: the first has the message's opcode, the others
/// [`Continuation`](Opcode::Continuation), the last has `fin` set (RFC 6455 §5.4).
///
/// # Panics
/// If it is a control frame that has more than 125 bytes of payload or isn't `fin` (RFC 6455 §5.5).
#[inline]
pub fn encode_fragment(out: &mut Vec<u8>, opcode: Opcode, fin: bool, payload: &[u8], mask: Option<[u8; 4]>) {
    let header = FrameHeader { fin, rsv1: false, opcode, masking_key: mask, payload_len: payload.len() as u64 };
    encode(out, header, payload);
}

/// Appends a message as one frame.
#[inline]
pub fn encode_message(out: &mut Vec<u8>, message: Message<'_>, mask: Option<[u8; 4]>) {
    encode_frame(out, opcode(message.kind), message.payload, mask);
}

/// Appends an already compressed message as one frame, marked by RSV1 (RFC 7692 §6). Only for a peer that agreed on
/// permessage-deflate.
pub fn encode_deflated(out: &mut Vec<u8>, deflated: Message<'_>, mask: Option<[u8; 4]>) {
    let payload_len = deflated.payload.len() as u64;
    let header = FrameHeader { fin: true, rsv1: true, opcode: opcode(deflated.kind), masking_key: mask, payload_len };
    encode(out, header, deflated.payload);
}

/// Appends a Close frame. The reason is cut at a character boundary to fit (123 bytes).
///
/// The frame is empty if there is no code, since a reason must follow a code (RFC 6455 §5.5.1), or if the code must not
/// be sent, such as [`NO_STATUS`](CloseCode::NO_STATUS) (§7.4.1).
pub fn encode_close(out: &mut Vec<u8>, code: Option<CloseCode>, reason: &str, mask: Option<[u8; 4]>) {
    let Some(code) = code.filter(|code| code.is_sendable()) else {
        return encode_frame(out, Opcode::Close, &[], mask);
    };
    let mut payload = Vec::with_capacity(CONTROL_PAYLOAD_BYTES_MAX);
    payload.extend_from_slice(&code.0.to_be_bytes());
    payload.extend_from_slice(cut(reason, CONTROL_PAYLOAD_BYTES_MAX - CLOSE_CODE_BYTES).as_bytes());
    encode_frame(out, Opcode::Close, &payload, mask);
}

#[inline]
fn encode(out: &mut Vec<u8>, header: FrameHeader, payload: &[u8]) {
    out.reserve(FRAME_HEADER_BYTES_MAX + payload.len());
    header.encode(out);
    let payload_start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = header.masking_key {
        // Masking is its own inverse (RFC 6455 §5.3).
        unmask(&mut out[payload_start..], key, 0);
    }
}

#[inline]
fn opcode(kind: MessageKind) -> Opcode {
    match kind {
        MessageKind::Text => Opcode::Text,
        MessageKind::Binary => Opcode::Binary,
    }
}

/// The longest prefix of `text` that has at most `bytes_max` bytes and ends at a character boundary.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut len = text.len().min(bytes_max);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    &text[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_after_what_is_there() {
        let mut out = b"before".to_vec();
        encode_message(&mut out, Message::text("Hello"), Some([0x37, 0xfa, 0x21, 0x3d]));
        // The masked "Hello" of RFC 6455 §5.7.
        assert_eq!(out, b"before\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    }

    #[test]
    fn close_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        // 62 two-byte characters are 124 bytes: one too many, and byte 123 is in the middle of the last.
        encode_close(&mut out, Some(CloseCode::NORMAL), &"é".repeat(62), None);
        assert_eq!(out[..4], [0x88, 2 + 122, 0x03, 0xe8]);
        assert_eq!(std::str::from_utf8(&out[4..]), Ok("é".repeat(61).as_str()));
    }

    #[test]
    fn close_without_a_sendable_code_is_empty() {
        for code in [None, Some(CloseCode::NO_STATUS), Some(CloseCode(5000))] {
            let mut out = Vec::new();
            encode_close(&mut out, code, "a reason without a code", None);
            assert_eq!(out, [0x88, 0], "{code:?}");
        }
    }

    #[test]
    #[should_panic(expected = "at most 125 bytes")]
    fn encoding_a_long_ping_panics() {
        encode_frame(&mut Vec::new(), Opcode::Ping, &[0; 126], None);
    }

    #[test]
    #[should_panic(expected = "a control frame is one frame")]
    fn encoding_a_fragmented_ping_panics() {
        encode_fragment(&mut Vec::new(), Opcode::Ping, false, &[], None);
    }
}
