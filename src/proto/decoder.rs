//! Decodes bytes into events: the receiving half of RFC 6455 §5 to §8, for both roles.
//!
//! A message in a single frame that is complete in the input is returned in place, unmasked, without a copy or an
//! allocation; so is a control frame. Split frames and fragmented messages go through a boxed [`Partial`], so that the
//! decoder of an idle connection takes only 16 bytes. The decoder sends nothing: the caller answers pings and Close
//! frames. It does not inflate: it returns a compressed message as it is.

use super::assembly::Part;
use super::partial::{Partial, Progress, take_front};
use super::{CloseFrame, FrameHeader, Message, MessageKind, Opcode, ProtocolError, Role};
use crate::simd::mask::unmask;
use crate::simd::utf8;

/// Something the peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message, with its fragments joined.
    Message(Message<'a>),
    /// A whole message, still compressed (RFC 7692 §6.2), its text not validated:
    /// [`Inflater::inflate`](super::Inflater::inflate) does both. Only after
    /// [`allow_deflated`](Decoder::allow_deflated).
    Deflated(Message<'a>),
    /// A ping of at most 125 bytes: answer with a pong of the same payload (RFC 6455 §5.5.2).
    Ping(&'a [u8]),
    /// A pong of at most 125 bytes, requested or not (RFC 6455 §5.5.3).
    Pong(&'a [u8]),
    /// The peer closes: answer with a Close frame unless one was sent (RFC 6455 §5.5.1). This is the last event.
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
                unreachable!("a data frame is not a control frame")
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
    /// The unfinished frame or message, or the event returned by the previous call.
    partial: Option<Box<Partial>>,
    message_bytes_max: u32,
    role: Role,
    /// Whether messages may be compressed, as marked by RSV1.
    is_deflate_allowed: bool,
    /// Set by a Close frame or an error: no more input is decoded.
    ended: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 16);

/// The place of the next event.
enum Found<'i> {
    /// No event yet: the input is used up.
    Nothing,
    /// In the input.
    InInput(Event<'i>),
    /// In the partial.
    InPartial,
}

impl Decoder {
    /// A decoder at the first frame of a connection. `message_bytes_max` limits a message's payload, with all its
    /// fragments.
    pub fn new(role: Role, message_bytes_max: u32) -> Self {
        Self { partial: None, message_bytes_max, role, is_deflate_allowed: false, ended: false }
    }

    /// Allows compressed messages, after permessage-deflate was agreed on. The size limit also applies to the
    /// compressed bytes.
    pub fn allow_deflated(&mut self) {
        self.is_deflate_allowed = true;
    }

    /// Takes bytes from the front of `*input`, unmasks them in place, and returns the next event.
    ///
    /// `Ok(None)`: the input is used up, call again with more. After an event, call again with the rest of the input.
    /// The next call frees the memory that an event borrows from the decoder.
    ///
    /// After an error or [`Event::Close`] the input is used up, and further input is discarded without an event (RFC
    /// 6455 §5.5.1, §7.1.7).
    ///
    /// # Errors
    /// A protocol violation by the peer, as early as it can be detected; close the connection with
    /// [`ProtocolError::close_code`].
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

    /// The limit on a message's payload, in bytes. It also applies to an inflated message.
    pub fn message_bytes_max(&self) -> u32 {
        self.message_bytes_max
    }

    /// Bytes of memory held for an unfinished frame or message, or for the event that the last call returned; 0 when
    /// idle. Does not include the decoder's own 16 bytes.
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.held_bytes())
    }

    /// Whether a message is unfinished: its first frame header has arrived, but not its end.
    pub fn is_mid_message(&self) -> bool {
        self.open_message().is_some()
    }

    fn open_message(&self) -> Option<MessageKind> {
        self.partial.as_ref().and_then(|partial| partial.open_message())
    }

    /// Finds the next event. The result borrows nothing from `self`, so that `decode` can handle an error.
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

    /// Continues an unfinished frame or message, or starts one. Separate from `advance`, so that a header stays in
    /// registers there, which halves the time for a small frame.
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

    /// Returns the event of a frame that is whole in the input and unfragmented; `None` if the partial must take its
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

    /// Frees the event returned by the previous call, and discards all input after the end.
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

    /// Checks the header against the state of the connection, and finds the frame's place in its message.
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

    /// Checks that the message stays within its limit with `more` bytes.
    #[inline]
    fn check_message_len(&self, more: u64) -> Result<(), ProtocolError> {
        let so_far = self.partial.as_ref().map_or(0, |partial| partial.message_len());
        if so_far as u64 + more > u64::from(self.message_bytes_max) {
            return Err(ProtocolError::MessageTooBig);
        }
        Ok(())
    }

    /// Returns a control frame that is whole in the input.
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

    /// Passes payload to the partial; `None` if a header comes next.
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

    /// Ends decoding: discards this input, all later input, and the held memory.
    #[cold]
    fn end(&mut self, input: &mut &mut [u8]) {
        self.ended = true;
        self.partial = None;
        discard(input);
    }
}

/// Returns an unfragmented message that is whole in the input.
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

/// Returns an unfragmented compressed message that is whole in the input.
fn deflated_in_place(kind: MessageKind, payload: &mut [u8], masking_key: Option<[u8; 4]>) -> Found<'_> {
    if let Some(key) = masking_key {
        unmask(payload, key, 0);
    }
    Found::InInput(Event::Deflated(Message { kind, payload }))
}

fn discard(input: &mut &mut [u8]) {
    take_front(input, input.len());
}
