//! The frame header (RFC 6455 §5.2), to and from bytes.
//!
//! Checks only the header by itself. The decoder checks the rules that depend on the role (masking), on negotiated
//! extensions (RSV1) or on earlier frames.

use super::ProtocolError;
use crate::limits::CONTROL_PAYLOAD_BYTES_MAX;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_AND_RSV3: u8 = 0x30;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const SHORT_LEN: u8 = 0x7f;
/// A short length of this value: the length is in the next two bytes.
const LEN_IN_TWO_BYTES: u8 = 126;
/// A short length of this value: the length is in the next eight bytes.
const LEN_IN_EIGHT_BYTES: u8 = 127;

/// The kind of a frame (RFC 6455 §5.2, §11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Continues a fragmented message.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// The sender closes the connection.
    Close = 8,
    /// Requests a pong.
    Ping = 9,
    /// Answers a ping, or is sent unsolicited.
    Pong = 10,
}

impl Opcode {
    /// Whether this is a control frame: at most 125 bytes, never fragmented, allowed between the fragments of a message
    /// (RFC 6455 §5.5).
    #[inline]
    pub fn is_control(self) -> bool {
        self as u8 >= Opcode::Close as u8
    }

    #[inline]
    fn from_bits(bits: u8) -> Result<Self, ProtocolError> {
        match bits {
            0 => Ok(Opcode::Continuation),
            1 => Ok(Opcode::Text),
            2 => Ok(Opcode::Binary),
            8 => Ok(Opcode::Close),
            9 => Ok(Opcode::Ping),
            10 => Ok(Opcode::Pong),
            _ => Err(ProtocolError::ReservedOpcode),
        }
    }
}

/// A frame's header (RFC 6455 §5.2): 2 to 14 bytes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The last frame of its message.
    pub fin: bool,
    /// The bit that an extension may define (permessage-deflate: compressed).
    pub rsv1: bool,
    /// The kind of the frame.
    pub opcode: Opcode,
    /// The key that the payload is masked with; `None` if it isn't masked.
    pub masking_key: Option<[u8; 4]>,
    /// Bytes of payload after the header.
    pub payload_len: u64,
}

impl FrameHeader {
    /// Decodes the header at the front of `input`; the `usize` is the header's length in bytes.
    ///
    /// `Ok(None)`: the header (2 to 14 bytes) is incomplete and no bytes are consumed; call again with more.
    ///
    /// # Errors
    /// [`ReservedBits`](ProtocolError::ReservedBits) (RSV2, RSV3), [`ReservedOpcode`](ProtocolError::ReservedOpcode),
    /// [`LengthNotMinimal`](ProtocolError::LengthNotMinimal) and [`LengthTooLarge`](ProtocolError::LengthTooLarge), RFC
    /// 6455 §5.2; [`ControlFragmented`](ProtocolError::ControlFragmented) and
    /// [`ControlTooLong`](ProtocolError::ControlTooLong), §5.5.
    #[inline]
    pub fn decode(input: &[u8]) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
        let [first, second, after_two @ ..] = input else {
            return Ok(None);
        };
        if first & RSV2_AND_RSV3 != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let opcode = Opcode::from_bits(first & OPCODE)?;
        let fin = first & FIN != 0;
        let short_len = second & SHORT_LEN;
        if opcode.is_control() {
            check_control(fin, short_len)?;
        }

        let Some((payload_len, after_len)) = decode_len(short_len, after_two)? else {
            return Ok(None);
        };
        let (masking_key, after_key) = if second & MASKED == 0 {
            (None, after_len)
        } else {
            let Some((key, after_key)) = after_len.split_first_chunk::<4>() else {
                return Ok(None);
            };
            (Some(*key), after_key)
        };

        let header = FrameHeader { fin, rsv1: first & RSV1 != 0, opcode, masking_key, payload_len };
        Ok(Some((header, input.len() - after_key.len())))
    }

    /// Appends the header to `out`, with the length in its shortest form.
    ///
    /// # Panics
    /// If it is the header of a control frame that is fragmented or longer than 125 bytes (RFC 6455 §5.5), or if the
    /// length has its top bit set (§5.2).
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(
            !self.opcode.is_control() || (self.fin && self.payload_len <= CONTROL_PAYLOAD_BYTES_MAX as u64),
            "a control frame is one frame of at most 125 bytes"
        );
        assert!(self.payload_len >> 63 == 0, "the top bit of a payload length is reserved");
        let fin = if self.fin { FIN } else { 0 };
        let rsv1 = if self.rsv1 { RSV1 } else { 0 };
        let masked = if self.masking_key.is_some() { MASKED } else { 0 };

        out.push(fin | rsv1 | self.opcode as u8);
        match self.payload_len {
            0..126 => out.push(masked | self.payload_len as u8),
            126..=0xffff => {
                out.push(masked | LEN_IN_TWO_BYTES);
                out.extend_from_slice(&(self.payload_len as u16).to_be_bytes());
            }
            0x1_0000.. => {
                out.push(masked | LEN_IN_EIGHT_BYTES);
                out.extend_from_slice(&self.payload_len.to_be_bytes());
            }
        }
        if let Some(key) = self.masking_key {
            out.extend_from_slice(&key);
        }
    }
}

/// Checks RFC 6455 §5.5 for a control frame; the first two bytes suffice.
fn check_control(fin: bool, short_len: u8) -> Result<(), ProtocolError> {
    if !fin {
        return Err(ProtocolError::ControlFragmented);
    }
    if usize::from(short_len) > CONTROL_PAYLOAD_BYTES_MAX {
        return Err(ProtocolError::ControlTooLong);
    }
    Ok(())
}

/// The payload's length and the rest of the header; `None` if some of its bytes are missing.
#[inline]
fn decode_len(short_len: u8, input: &[u8]) -> Result<Option<(u64, &[u8])>, ProtocolError> {
    let (len, rest, len_min) = match short_len {
        LEN_IN_TWO_BYTES => {
            let Some((bytes, rest)) = input.split_first_chunk::<2>() else {
                return Ok(None);
            };
            (u64::from(u16::from_be_bytes(*bytes)), rest, 126)
        }
        LEN_IN_EIGHT_BYTES => {
            let Some((bytes, rest)) = input.split_first_chunk::<8>() else {
                return Ok(None);
            };
            (u64::from_be_bytes(*bytes), rest, 0x1_0000)
        }
        _ => return Ok(Some((u64::from(short_len), input))),
    };
    if len < len_min {
        return Err(ProtocolError::LengthNotMinimal);
    }
    if len >> 63 != 0 {
        return Err(ProtocolError::LengthTooLarge);
    }
    Ok(Some((len, rest)))
}
