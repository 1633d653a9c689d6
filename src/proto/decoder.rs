//! Bytes to events: the receiving half of RFC 6455 §5 to §8, for both roles.
//!
//! A message that is one frame and whole in the input is returned where it lies, unmasked in place, without a copy
//! or an allocation; so is a control frame. Anything cut or fragmented goes through a [`Partial`], boxed, so that
//! the decoder of an idle connection is 16 bytes and nothing else. It sends nothing: to answer a ping or a close is
//! the caller's. Nor does it inflate: a compressed message is handed over as it is.

use super::assembly::Part;
use super::partial::{Partial, Progress, take_front};
use super::{CloseFrame, FrameHeader, Message, MessageKind, Opcode, ProtocolError, Role};
use crate::simd::mask::unmask;
use crate::simd::utf8;

/// What the peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message, its fragments joined.
    Message(Message<'a>),
    /// A whole message as it was compressed (RFC 7692 §6.2), text not validated:
    /// [`Inflater::inflate`](super::Inflater::inflate) does both. Only after
    /// [`allow_deflated`](Decoder::allow_deflated).
    Deflated(Message<'a>),
    /// A ping of at most 125 bytes: answer with a pong of the same payload (RFC 6455 §5.5.2).
    Ping(&'a [u8]),
    /// A pong of at most 125 bytes, asked for or not (RFC 6455 §5.5.3).
    Pong(&'a [u8]),
    /// The peer closes: answer with a close frame unless one was sent (RFC 6455 §5.5.1). The last event.
    Close(CloseFrame<'a>),
}

impl<'a> Event<'a> {
    /// The event of a control frame with this payload, unmasked.
    #[inline]
    pub(super) fn control(opcode: Opcode, payload: &'a [u8]) -> Result<Self, ProtocolError> {
        match opcode {
            Opcode::Ping => Ok(Event::Ping(payload)),
            Opcode::Pong => Ok(Event::Pong(payload)),
            Opcode::Close => CloseFrame::decode(payload).map(Event::Close),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                unreachable!("a data frame is no control frame")
            }
        }
    }
}

/// Turns the bytes of one direction of one connection into [`Event`]s.
///
/// ```
/// use ringfeed::proto::{Decoder, Event, Message, Role};
///
/// let mut decoder = Decoder::new(Role::Server, 1024);
/// let mut bytes = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
/// let mut input = &mut bytes[..];
/// while let Some(event) = decoder.decode(&mut input)? {
///     assert_eq!(event, Event::Message(Message::text("Hello")));
/// }
/// assert!(input.is_empty());
/// # Ok::<(), ringfeed::proto::ProtocolError>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// What has come of an unfinished frame or message, or was handed over by the call before.
    partial: Option<Box<Partial>>,
    message_bytes_max: u32,
    role: Role,
    /// Messages may be compressed, which RSV1 tells.
    is_deflate_allowed: bool,
    /// After a close frame or an error: nothing more is read.
    ended: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 16);

/// Where the next event is.
enum Found<'i> {
    /// Nowhere yet: the input is used up.
    Nothing,
    /// In the input.
    InInput(Event<'i>),
    /// In the partial.
    InPartial,
}

impl Decoder {
    /// A decoder at the start of a connection's frames. `message_bytes_max` bounds a message's payload, all
    /// fragments together.
    pub fn new(role: Role, message_bytes_max: u32) -> Self {
        Self { partial: None, message_bytes_max, role, is_deflate_allowed: false, ended: false }
    }

    /// permessage-deflate was agreed on: the peer may send messages compressed, none of which may be larger,
    /// compressed, than any other.
    pub fn allow_deflated(&mut self) {
        self.is_deflate_allowed = true;
    }

    /// Takes bytes from the front of `*input`, unmasking them in place, and returns the next event.
    ///
    /// `Ok(None)`: the input is used up, call again with more. After an event call again with what is left of the
    /// input. What an event borrows from the decoder is let go by the next call.
    ///
    /// After an error or [`Event::Close`] the input is used up, and further input is discarded and yields nothing
    /// (RFC 6455 §5.5.1, §7.1.7).
    ///
    /// # Errors
    /// Whatever the peer did wrong, as early as it shows; [`ProtocolError::close_code`] is what to close with.
    #[inline]
    pub fn decode<'s, 'i: 's>(&'s mut self, input: &mut &'i mut [u8]) -> Result<Option<Event<'s>>, ProtocolError> {
        match self.advance(input) {
            Ok(Found::InInput(event)) => Ok(Some(event)),
            Ok(Found::Nothing) => Ok(None),
            Ok(Found::InPartial) => self.partial.as_deref().and_then(Partial::delivered).transpose(),
            Err(error) => {
                self.end(input);
                Err(error)
            }
        }
    }

    /// The bound on a message's payload, which holds for a compressed one also once it is inflated.
    pub fn message_bytes_max(&self) -> u32 {
        self.message_bytes_max
    }

    /// Bytes of memory held for an unfinished frame or message, or for the event that the last call returned; 0 when
    /// idle. The decoder's own 16 bytes are not counted.
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.held_bytes())
    }

    /// Whether a message has begun, that is its first frame's header has come, and has not ended.
    pub fn is_mid_message(&self) -> bool {
        self.open_message().is_some()
    }

    fn open_message(&self) -> Option<MessageKind> {
        self.partial.as_ref().and_then(|partial| partial.open_message())
    }

    /// Finds the next event. What it returns borrows nothing from `self`, so that `decode` can act on an error.
    #[inline]
    fn advance<'i>(&mut self, input: &mut &'i mut [u8]) -> Result<Found<'i>, ProtocolError> {
        if self.partial.is_some() || self.ended {
            self.release_delivered(input);
        }
        if self.partial.is_none()
            && let Some((header, header_len)) = FrameHeader::decode(input)?
        {
            take_front(input, header_len);
            if let Some(found) = self.on_header(header, input)? {
                return Ok(found);
            }
        }
        self.advance_partial(input)
    }

    /// Goes on with what is partial, or becomes so. Kept apart from `advance`, so that there a header never leaves the
    /// registers: that halves the time a small frame takes.
    #[inline(never)]
    fn advance_partial<'i>(&mut self, input: &mut &'i mut [u8]) -> Result<Found<'i>, ProtocolError> {
        loop {
            if !self.is_in_payload() {
                if input.is_empty() {
                    return Ok(Found::Nothing);
                }
                let Some(header) = self.partial.get_or_insert_default().next_header(input)? else {
                    return Ok(Found::Nothing);
                };
                if let Some(found) = self.on_header(header, input)? {
                    return Ok(found);
                }
            }
            if let Some(found) = self.on_payload(input)? {
                return Ok(found);
            }
        }
    }

    /// The event of a frame that is whole in the input and needs no other; `None` when the partial must take its
    /// payload.
    #[inline]
    fn on_header<'i>(
        &mut self,
        header: FrameHeader,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Found<'i>>, ProtocolError> {
        let part = self.check(header)?;
        let is_in_input = header.payload_len <= input.len() as u64;
        match part {
            Part::Whole(kind) if is_in_input => {
                let payload = take_front(input, header.payload_len as usize);
                if header.rsv1 {
                    return Ok(Some(deflated_in_place(kind, payload, header.masking_key)));
                }
                message_in_place(kind, payload, header.masking_key).map(Some)
            }
            Part::Control if is_in_input => {
                let payload = take_front(input, header.payload_len as usize);
                self.control_in_place(header, payload, input).map(Some)
            }
            part => {
                self.partial.get_or_insert_default().begin_payload(header, part);
                Ok(None)
            }
        }
    }

    /// Lets go of what the call before handed over, and of all input after the end.
    fn release_delivered(&mut self, input: &mut &mut [u8]) {
        if let Some(partial) = &mut self.partial {
            partial.release_delivered();
            if partial.is_empty() {
                self.partial = None;
            }
        }
        if self.ended {
            self.end(input);
        }
    }

    fn is_in_payload(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.is_in_payload())
    }

    /// Checks what a header by itself can't tell, and places the frame in its message.
    #[inline]
    fn check(&self, header: FrameHeader) -> Result<Part, ProtocolError> {
        if header.rsv1 && !self.may_be_deflated(header.opcode) {
            return Err(ProtocolError::ReservedBits);
        }
        match (self.role, header.masking_key) {
            (Role::Server, Some(_)) | (Role::Client, None) => {}
            (Role::Server, None) => return Err(ProtocolError::NotMasked),
            (Role::Client, Some(_)) => return Err(ProtocolError::Masked),
        }
        let part = Part::next(self.open_message(), header.opcode, header.fin)?;
        if part != Part::Control {
            self.check_message_len(header.payload_len)?;
        }
        Ok(part)
    }

    /// Whether a frame may begin a compressed message (RFC 7692 §6.1).
    #[inline]
    fn may_be_deflated(&self, opcode: Opcode) -> bool {
        self.is_deflate_allowed && matches!(opcode, Opcode::Text | Opcode::Binary)
    }

    /// Checks that the message stays within its bound with `more` bytes.
    #[inline]
    fn check_message_len(&self, more: u64) -> Result<(), ProtocolError> {
        let so_far = self.partial.as_ref().map_or(0, |partial| partial.message_len());
        if so_far as u64 + more > u64::from(self.message_bytes_max) {
            return Err(ProtocolError::MessageTooBig);
        }
        Ok(())
    }

    /// A control frame that is whole in the input.
    #[inline]
    fn control_in_place<'i>(
        &mut self,
        header: FrameHeader,
        payload: &'i mut [u8],
        input: &mut &mut [u8],
    ) -> Result<Found<'i>, ProtocolError> {
        if let Some(key) = header.masking_key {
            unmask(payload, key, 0);
        }
        if header.opcode == Opcode::Close {
            self.end(input);
        }
        Event::control(header.opcode, payload).map(Found::InInput)
    }

    /// Hands payload to the partial; `None` when a header comes next.
    fn on_payload<'i>(&mut self, input: &mut &'i mut [u8]) -> Result<Option<Found<'i>>, ProtocolError> {
        match self.partial.get_or_insert_default().on_payload(input)? {
            Progress::FragmentFinished => Ok(None),
            Progress::InputUsedUp => Ok(Some(Found::Nothing)),
            Progress::EventFinished => Ok(Some(Found::InPartial)),
            Progress::CloseFinished => {
                self.ended = true;
                discard(input);
                Ok(Some(Found::InPartial))
            }
        }
    }

    /// Reads nothing more: discards this input, all that will come, and what is held.
    #[cold]
    fn end(&mut self, input: &mut &mut [u8]) {
        self.ended = true;
        self.partial = None;
        discard(input);
    }
}

/// An unfragmented message that is whole in the input.
#[inline]
fn message_in_place(
    kind: MessageKind,
    payload: &mut [u8],
    masking_key: Option<[u8; 4]>,
) -> Result<Found<'_>, ProtocolError> {
    match (kind, masking_key) {
        (MessageKind::Text, Some(key)) => {
            utf8::unmask_and_validate(payload, key).map_err(|_| ProtocolError::TextNotUtf8)?;
        }
        (MessageKind::Text, None) => {
            utf8::validate(payload).map_err(|_| ProtocolError::TextNotUtf8)?;
        }
        (MessageKind::Binary, Some(key)) => unmask(payload, key, 0),
        (MessageKind::Binary, None) => {}
    }
    Ok(Found::InInput(Event::Message(Message { kind, payload })))
}

/// An unfragmented compressed message that is whole in the input.
fn deflated_in_place(kind: MessageKind, payload: &mut [u8], masking_key: Option<[u8; 4]>) -> Found<'_> {
    if let Some(key) = masking_key {
        unmask(payload, key, 0);
    }
    Found::InInput(Event::Deflated(Message { kind, payload }))
}

fn discard(input: &mut &mut [u8]) {
    take_front(input, input.len());
}
