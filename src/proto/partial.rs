//! The memory of an unfinished frame or message: a split header, the payload so far of a control frame, the fragments
//! so far of a message.
//!
//! It grows only with received bytes, not with announced lengths: a peer that announces a gigabyte and sends ten bytes
//! costs ten bytes. Text is validated as it arrives, so it fails at the first invalid byte. The decoder checks headers
//! and sizes before bytes arrive here.

use std::mem;

use super::assembly::Part;
use super::{Event, FrameHeader, Message, MessageKind, Opcode, ProtocolError};
use crate::limits::FRAME_HEADER_BYTES_MAX;
use crate::simd::mask::unmask;
use crate::simd::utf8::Utf8Stream;

/// State kept between two calls of the decoder.
#[derive(Debug, Default)]
pub(super) struct Partial {
    position: Position,
    /// The unfinished message. Control frames may arrive between its fragments.
    message: Option<PartialMessage>,
}

/// The position of the next byte in the stream of frames, and the bytes kept until it arrives.
#[derive(Debug)]
enum Position {
    /// In a frame header, of which these bytes have arrived: none at a frame boundary.
    Header { bytes: [u8; FRAME_HEADER_BYTES_MAX], len: usize },
    /// In the payload of a control frame, of which `bytes` have arrived.
    Control { opcode: Opcode, payload: Payload, bytes: Vec<u8> },
    /// In the payload of a frame of `message`; `last` if the message ends with it.
    Data { payload: Payload, last: bool },
    /// At a header; a control frame was returned and can be freed.
    AfterControl { opcode: Opcode, bytes: Vec<u8> },
    /// At a header; a message was returned and can be freed.
    AfterMessage { kind: MessageKind, is_deflated: bool, bytes: Vec<u8> },
}

impl Default for Position {
    fn default() -> Self {
        Position::Header { bytes: [0; FRAME_HEADER_BYTES_MAX], len: 0 }
    }
}

/// The length of one frame's payload, and how much has arrived.
#[derive(Debug)]
struct Payload {
    masking_key: Option<[u8; 4]>,
    len: u64,
    received: u64,
}

/// A message with outstanding payload.
#[derive(Debug)]
struct PartialMessage {
    kind: MessageKind,
    bytes: Vec<u8>,
    /// Whether it is compressed, so that its text can't be validated yet.
    is_deflated: bool,
    /// The state of text validation.
    utf8: Utf8Stream,
}

/// The result of more payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The input ended before the frame.
    InputUsedUp,
    /// The frame is whole, its message is not: a header comes next.
    FragmentFinished,
    /// [`Partial::delivered`] is now an event.
    EventFinished,
    /// [`Partial::delivered`] is now a Close frame, after which no frame counts.
    CloseFinished,
}

impl Partial {
    /// Frees the event returned by the previous call.
    pub(super) fn release_delivered(&mut self) {
        match self.position {
            Position::AfterControl { .. } | Position::AfterMessage { .. } => {
                self.position = Position::default();
            }
            Position::Header { .. } | Position::Control { .. } | Position::Data { .. } => {}
        }
    }

    /// Whether no bytes are held: at a frame boundary and outside of any message.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.position, Position::Header { len: 0, .. }) && self.message.is_none()
    }

    /// Whether the next byte belongs to a payload, to be passed to [`Partial::on_payload`].
    pub(super) fn is_in_payload(&self) -> bool {
        matches!(self.position, Position::Control { .. } | Position::Data { .. })
    }

    /// The kind of the unfinished message.
    pub(super) fn open_message(&self) -> Option<MessageKind> {
        self.message.as_ref().map(|message| message.kind)
    }

    /// Bytes received of the unfinished message.
    pub(super) fn message_len(&self) -> usize {
        self.message.as_ref().map_or(0, |message| message.bytes.len())
    }

    /// Bytes of memory held, including this struct.
    pub(super) fn held_bytes(&self) -> usize {
        let at_position = match &self.position {
            Position::Header { .. } | Position::Data { .. } => 0,
            Position::Control { bytes, .. }
            | Position::AfterControl { bytes, .. }
            | Position::AfterMessage { bytes, .. } => bytes.capacity(),
        };
        let in_message = self.message.as_ref().map_or(0, |message| message.bytes.capacity());
        size_of::<Self>() + at_position + in_message
    }

    /// Takes and decodes the header that begins with the held bytes and continues in `input`. `None` if it is still
    /// incomplete: then all of `input` is held.
    pub(super) fn next_header(&mut self, input: &mut &mut [u8]) -> Result<Option<FrameHeader>, ProtocolError> {
        let Position::Header { bytes, len } = &mut self.position else {
            unreachable!("the decoder requests a header only at a header position");
        };
        let held = *len;
        let copied = input.len().min(bytes.len() - held);
        bytes[held..held + copied].copy_from_slice(&input[..copied]);
        let Some((header, header_len)) = FrameHeader::decode(&bytes[..held + copied])? else {
            *len = held + copied;
            take_front(input, copied);
            return Ok(None);
        };
        *len = 0;
        take_front(input, header_len - held);
        Ok(Some(header))
    }

    /// Starts the payload of this frame.
    pub(super) fn begin_payload(&mut self, header: FrameHeader, part: Part) {
        let payload = Payload { masking_key: header.masking_key, len: header.payload_len, received: 0 };
        if let Part::Whole(kind) | Part::First(kind) = part {
            let (bytes, utf8) = (Vec::new(), Utf8Stream::default());
            self.message = Some(PartialMessage { kind, bytes, is_deflated: header.rsv1, utf8 });
        }
        self.position = match part {
            Part::Control => Position::Control { opcode: header.opcode, payload, bytes: Vec::new() },
            Part::Whole(_) | Part::Last => Position::Data { payload, last: true },
            Part::First(_) | Part::Middle => Position::Data { payload, last: false },
        };
    }

    /// Takes payload from the front of `input`, at most to the end of the frame.
    pub(super) fn on_payload(&mut self, input: &mut &mut [u8]) -> Result<Progress, ProtocolError> {
        match &mut self.position {
            Position::Control { payload, bytes, .. } => {
                let piece = payload.take(input);
                if let Some(key) = piece.masking_key {
                    unmask(piece.bytes, key, piece.phase);
                }
                bytes.extend_from_slice(piece.bytes);
                if payload.is_whole() {
                    return Ok(self.on_control_finished());
                }
                Ok(Progress::InputUsedUp)
            }
            Position::Data { payload, last } => {
                let piece = payload.take(input);
                let (whole, last) = (payload.is_whole(), *last);
                if let Some(message) = &mut self.message {
                    message.append(piece)?;
                }
                match (whole, last) {
                    (false, _) => Ok(Progress::InputUsedUp),
                    (true, false) => {
                        self.position = Position::default();
                        Ok(Progress::FragmentFinished)
                    }
                    (true, true) => self.on_message_finished(),
                }
            }
            Position::Header { .. } | Position::AfterControl { .. } | Position::AfterMessage { .. } => {
                unreachable!("the decoder passes payload only at a payload position")
            }
        }
    }

    fn on_control_finished(&mut self) -> Progress {
        let Position::Control { opcode, bytes, .. } = mem::take(&mut self.position) else {
            unreachable!("a control frame was in progress");
        };
        self.position = Position::AfterControl { opcode, bytes };
        if opcode == Opcode::Close {
            // No fragment may follow, so the message will never be complete.
            self.message = None;
            Progress::CloseFinished
        } else {
            Progress::EventFinished
        }
    }

    fn on_message_finished(&mut self) -> Result<Progress, ProtocolError> {
        let Some(PartialMessage { kind, bytes, is_deflated, mut utf8 }) = self.message.take() else {
            unreachable!("a data frame belongs to a message");
        };
        if kind == MessageKind::Text && !is_deflated {
            utf8.finish().map_err(|_| ProtocolError::TextNotUtf8)?;
        }
        self.position = Position::AfterMessage { kind, is_deflated, bytes };
        Ok(Progress::EventFinished)
    }

    /// The event that has just been completed; `None` if there is none.
    pub(super) fn delivered(&self) -> Option<Result<Event<'_>, ProtocolError>> {
        match &self.position {
            Position::AfterControl { opcode, bytes } => Some(Event::control(*opcode, bytes)),
            Position::AfterMessage { kind, is_deflated, bytes } => {
                let message = Message { kind: *kind, payload: bytes };
                Some(Ok(if *is_deflated { Event::Deflated(message) } else { Event::Message(message) }))
            }
            Position::Header { .. } | Position::Control { .. } | Position::Data { .. } => None,
        }
    }
}

/// Part of a frame's payload, still masked.
struct Piece<'i> {
    bytes: &'i mut [u8],
    masking_key: Option<[u8; 4]>,
    /// The offset of `bytes` within the payload, modulo 4.
    phase: usize,
}

impl Payload {
    /// Takes the bytes of this payload from the front of `input`.
    fn take<'i>(&mut self, input: &mut &'i mut [u8]) -> Piece<'i> {
        let outstanding = usize::try_from(self.len - self.received).unwrap_or(usize::MAX);
        let bytes = take_front(input, outstanding.min(input.len()));
        let phase = (self.received & 3) as usize;
        self.received += bytes.len() as u64;
        Piece { bytes, masking_key: self.masking_key, phase }
    }

    fn is_whole(&self) -> bool {
        self.received == self.len
    }
}

impl PartialMessage {
    fn append(&mut self, piece: Piece<'_>) -> Result<(), ProtocolError> {
        let not_utf8 = |_| ProtocolError::TextNotUtf8;
        match (self.kind == MessageKind::Text && !self.is_deflated, piece.masking_key) {
            (true, Some(key)) => self.utf8.unmask_and_feed(piece.bytes, key, piece.phase).map_err(not_utf8)?,
            (true, None) => self.utf8.feed(piece.bytes).map_err(not_utf8)?,
            (false, Some(key)) => unmask(piece.bytes, key, piece.phase),
            (false, None) => {}
        }
        self.bytes.extend_from_slice(piece.bytes);
        Ok(())
    }
}

/// Takes the first `len` bytes from `input`.
#[inline]
pub(super) fn take_front<'i>(input: &mut &'i mut [u8], len: usize) -> &'i mut [u8] {
    let (front, rest) = mem::take(input).split_at_mut(len);
    *input = rest;
    front
}
