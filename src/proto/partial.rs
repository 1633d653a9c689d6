//! The memory of a frame or message that has not come whole: a header cut short, the payload so far of a control
//! frame, the fragments so far of a message.
//!
//! It grows with what has arrived, never on the word of a header: a peer that announces a gigabyte and sends ten
//! bytes costs ten bytes. Text is validated as it comes, so it fails at the first impossible byte. It judges
//! neither headers nor sizes: the decoder does that before anything gets here.

use std::mem;

use super::assembly::Part;
use super::{Event, FrameHeader, Message, MessageKind, Opcode, ProtocolError};
use crate::limits::FRAME_HEADER_BYTES_MAX;
use crate::simd::mask::unmask;
use crate::simd::utf8::Utf8Stream;

/// What is held between two calls of the decoder.
#[derive(Debug, Default)]
pub(super) struct Partial {
    position: Position,
    /// The message whose fragments, or whose only frame, are not all here. Control frames may come meanwhile.
    message: Option<PartialMessage>,
}

/// Where in the stream of frames the next byte belongs, and what is kept until it comes.
#[derive(Debug)]
enum Position {
    /// Into a frame header, of which these bytes have come: none at a frame boundary.
    Header { bytes: [u8; FRAME_HEADER_BYTES_MAX], len: usize },
    /// Into the payload of a control frame, which has come as far as `bytes`.
    Control { opcode: Opcode, payload: Payload, bytes: Vec<u8> },
    /// Into the payload of a frame of `message`; `last` when the message ends with it.
    Data { payload: Payload, last: bool },
    /// Into a header; a control frame was handed over and can go.
    AfterControl { opcode: Opcode, bytes: Vec<u8> },
    /// Into a header; a message was handed over and can go.
    AfterMessage { kind: MessageKind, is_deflated: bool, bytes: Vec<u8> },
}

impl Default for Position {
    fn default() -> Self {
        Position::Header { bytes: [0; FRAME_HEADER_BYTES_MAX], len: 0 }
    }
}

/// How much of one frame's payload has come.
#[derive(Debug)]
struct Payload {
    masking_key: Option<[u8; 4]>,
    len: u64,
    received: u64,
}

/// A message some of whose payload is outstanding.
#[derive(Debug)]
struct PartialMessage {
    kind: MessageKind,
    bytes: Vec<u8>,
    /// It is compressed, so that nothing can be said of its text yet.
    is_deflated: bool,
    /// Where the validation of a text stands.
    utf8: Utf8Stream,
}

/// What more payload led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The input is used up before the frame's end.
    InputUsedUp,
    /// The frame is whole, its message is not: a header comes next.
    FragmentFinished,
    /// [`Partial::delivered`] is an event now.
    EventFinished,
    /// [`Partial::delivered`] is a close frame now, after which nothing counts.
    CloseFinished,
}

impl Partial {
    /// Lets go of what was handed over by the call before.
    pub(super) fn release_delivered(&mut self) {
        match self.position {
            Position::AfterControl { .. } | Position::AfterMessage { .. } => {
                self.position = Position::default();
            }
            Position::Header { .. } | Position::Control { .. } | Position::Data { .. } => {}
        }
    }

    /// Whether nothing is held: at a frame boundary and outside of any message.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.position, Position::Header { len: 0, .. }) && self.message.is_none()
    }

    /// Whether the next byte belongs to a payload, so that [`Partial::on_payload`] takes it.
    pub(super) fn is_in_payload(&self) -> bool {
        matches!(self.position, Position::Control { .. } | Position::Data { .. })
    }

    /// The kind of the message that is unfinished.
    pub(super) fn open_message(&self) -> Option<MessageKind> {
        self.message.as_ref().map(|message| message.kind)
    }

    /// Bytes of the unfinished message that have come.
    pub(super) fn message_len(&self) -> usize {
        self.message.as_ref().map_or(0, |message| message.bytes.len())
    }

    /// Bytes of memory held, this struct included.
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

    /// Decodes the header that begins with the bytes held and goes on in `input`, and takes it off. `None`: all of
    /// `input` belongs to it and is held now.
    pub(super) fn next_header(&mut self, input: &mut &mut [u8]) -> Result<Option<FrameHeader>, ProtocolError> {
        let Position::Header { bytes, len } = &mut self.position else {
            unreachable!("the decoder asks for a header only where one is due");
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

    /// The payload of this frame comes next.
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

    /// Takes payload off the front of `input`, at most to the frame's end.
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
                unreachable!("the decoder hands payload on only where some is due")
            }
        }
    }

    fn on_control_finished(&mut self) -> Progress {
        let Position::Control { opcode, bytes, .. } = mem::take(&mut self.position) else {
            unreachable!("only a control frame can finish as one");
        };
        self.position = Position::AfterControl { opcode, bytes };
        if opcode == Opcode::Close {
            // No fragment can follow, so the message will never be whole.
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

    /// The event that has just become whole; `None` when there is none.
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

/// Some of a frame's payload, still masked.
struct Piece<'i> {
    bytes: &'i mut [u8],
    masking_key: Option<[u8; 4]>,
    /// The offset of `bytes` within the payload, modulo 4.
    phase: usize,
}

impl Payload {
    /// Takes what belongs to this payload off the front of `input`.
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

/// Takes the first `len` bytes off `input`.
#[inline]
pub(super) fn take_front<'i>(input: &mut &'i mut [u8], len: usize) -> &'i mut [u8] {
    let (front, rest) = mem::take(input).split_at_mut(len);
    *input = rest;
    front
}
