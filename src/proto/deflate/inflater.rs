//! Inflates messages: RFC 7692 §7.2.2.

use flate2::{Decompress, FlushDecompress, Status};

use super::totals::{Clock, stopped_clock};
use super::{DeflateTotals, FLUSH_TAIL, SlidingWindow, WindowBits};
use crate::limits::{INFLATE_FREE_BYTES, INFLATE_KEEP_BYTES, INFLATE_RATIO_MAX};
use crate::proto::{Event, Message, MessageKind, ProtocolError};
use crate::simd::utf8;

/// An empty final block. Inflating it succeeds only if the message ended between two blocks.
const LAST_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];

/// Initial output capacity as a multiple of the input: JSON shrinks to a third or a fifth.
const USUAL_RATIO: usize = 4;

/// Inflates whole messages, with any window that a peer may use. Takes 48 KB of memory, in addition to the last
/// message; one inflater serves any number of connections.
#[derive(Debug)]
pub struct Inflater {
    stream: Decompress,
    output: Vec<u8>,
    totals: DeflateTotals,
    clock: Clock,
}

impl Inflater {
    /// Creates an inflater. Allocates nothing for messages yet.
    pub fn new() -> Self {
        Self {
            stream: Decompress::new_with_window_bits(false, WindowBits::MAX.get()),
            output: Vec::new(),
            totals: DeflateTotals::default(),
            clock: stopped_clock,
        }
    }

    /// Sets a monotonic clock in nanoseconds, for the time in [`totals`](Self::totals).
    pub fn timed_by(self, clock: fn() -> u64) -> Self {
        Self { clock, ..self }
    }

    /// The totals so far, including the inflated part of invalid messages.
    pub fn totals(&self) -> DeflateTotals {
        self.totals
    }

    /// Turns [`Event::Deflated`] into [`Event::Message`], and returns any other event unchanged. The message may refer
    /// back to `received`, if takeover was agreed on: the messages received compressed on this connection.
    ///
    /// # Errors
    /// As [`inflate`](Self::inflate).
    #[inline]
    pub fn inflate_event<'e>(
        &'e mut self,
        event: Event<'e>,
        bytes_max: u32,
        received: Option<&mut SlidingWindow>,
    ) -> Result<Event<'e>, ProtocolError> {
        match (event, received) {
            (Event::Deflated(message), None) => self.inflate(message, bytes_max).map(Event::Message),
            (Event::Deflated(message), Some(received)) => {
                let message = self.inflate_after(received.bytes(), message, bytes_max)?;
                received.push(message.payload);
                Ok(Event::Message(message))
            }
            (other, _) => Ok(other),
        }
    }

    /// Inflates a message compressed by itself. The result borrows from the inflater; text is valid UTF-8.
    ///
    /// # Errors
    /// [`DeflateInvalid`](ProtocolError::DeflateInvalid), RFC 7692 §7.2.2;
    /// [`MessageTooBig`](ProtocolError::MessageTooBig) beyond `bytes_max`, and beyond [`INFLATE_RATIO_MAX`] times the
    /// input; [`TextNotUtf8`](ProtocolError::TextNotUtf8), RFC 6455 §8.1.
    pub fn inflate(&mut self, deflated: Message<'_>, bytes_max: u32) -> Result<Message<'_>, ProtocolError> {
        self.inflate_after(&[], deflated, bytes_max)
    }

    /// The same for a message that may refer back to the preceding bytes `before`.
    fn inflate_after(
        &mut self,
        before: &[u8],
        deflated: Message<'_>,
        bytes_max: u32,
    ) -> Result<Message<'_>, ProtocolError> {
        // A peer often sends several large messages, so their memory is freed only after a small one.
        if self.output.len() <= INFLATE_KEEP_BYTES && self.output.capacity() > INFLATE_KEEP_BYTES {
            self.output = Vec::new();
        }
        self.output.clear();
        // RFC 7692 §7.2.3.6 requires a block even in an empty message, but some peers send none.
        if !deflated.payload.is_empty() {
            let start = (self.clock)();
            let by_ratio = deflated.payload.len().saturating_mul(INFLATE_RATIO_MAX).max(INFLATE_FREE_BYTES);
            let outcome = self.inflate_blocks(before, deflated.payload, by_ratio.min(bytes_max as usize));
            self.totals.add(deflated.payload.len(), self.output.len(), (self.clock)() - start);
            outcome?;
        }
        if deflated.kind == MessageKind::Text {
            utf8::validate(&self.output).map_err(|_| ProtocolError::TextNotUtf8)?;
        }
        Ok(Message { kind: deflated.kind, payload: &self.output })
    }

    fn inflate_blocks(&mut self, before: &[u8], deflated: &[u8], bytes_max: usize) -> Result<(), ProtocolError> {
        // One byte more than allowed, to detect a message that is too big.
        self.output.reserve_exact((deflated.len() * USUAL_RATIO).min(bytes_max + 1));
        self.stream.reset(false);
        if !before.is_empty() {
            self.stream.set_dictionary(before).expect("a raw stream accepts any dictionary");
        }
        let mut status = Status::Ok;
        for mut input in [deflated, &FLUSH_TAIL, &LAST_BLOCK] {
            while !input.is_empty() {
                // A peer may mark any block as final and continue with a new stream (RFC 7692 §7.2.3.4), which must not
                // refer back before its start.
                if status == Status::StreamEnd {
                    self.stream.reset(false);
                }
                status = self.inflate_some(&mut input, bytes_max)?;
            }
        }
        match status {
            Status::StreamEnd => Ok(()),
            Status::Ok | Status::BufError => Err(ProtocolError::DeflateInvalid),
        }
    }

    /// Inflates from the front of `input` as much as the output has room for.
    fn inflate_some(&mut self, input: &mut &[u8], bytes_max: usize) -> Result<Status, ProtocolError> {
        let (taken_before, len_before) = (self.stream.total_in(), self.output.len());
        if len_before == self.output.capacity() {
            // Reserves exactly, since a bomb fills all capacity: never more than allowed.
            self.output.reserve_exact(len_before.clamp(1, bytes_max + 1 - len_before));
        }
        let status = self
            .stream
            .decompress_vec(input, &mut self.output, FlushDecompress::None)
            .map_err(|_| ProtocolError::DeflateInvalid)?;
        if self.output.len() > bytes_max {
            return Err(ProtocolError::MessageTooBig);
        }
        let taken = (self.stream.total_in() - taken_before) as usize;
        *input = &input[taken..];
        if taken == 0 && self.output.len() == len_before && status != Status::StreamEnd {
            return Err(ProtocolError::DeflateInvalid);
        }
        Ok(status)
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    const BYTES_MAX: u32 = 1 << 30;

    /// The payload compressed at the highest level.
    fn deflated(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(payload.len() + 100);
        let mut stream = Compress::new(Compression::best(), false);
        stream.compress_vec(payload, &mut bytes, FlushCompress::Sync).unwrap();
        bytes.strip_suffix(&FLUSH_TAIL).unwrap().to_vec()
    }

    #[test]
    fn payloads_and_their_messages() {
        let hello = Ok(&b"Hello"[..]);
        let invalid = Err(ProtocolError::DeflateInvalid);
        type Row<'a> = (&'a str, &'a [u8], Result<&'a [u8], ProtocolError>);
        let rows: [Row<'_>; 15] = [
            ("one block, RFC 7692 §7.2.3.1", b"\xf2\x48\xcd\xc9\xc9\x07\x00", hello),
            ("not compressed, §7.2.3.3", b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", hello),
            ("a last block and another, §7.2.3.4", b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", hello),
            ("two blocks, §7.2.3.5", b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", hello),
            ("two last blocks", b"\x01\x02\x00\xfd\xffHe\x01\x03\x00\xfc\xffllo\x00", hello),
            ("an empty message, §7.2.3.6", b"\x00", Ok(b"")),
            ("an empty message without its block", b"", Ok(b"")),
            ("no block after the last, §7.2.3.4", b"\xf3\x48\xcd\xc9\xc9\x07\x00", invalid),
            ("the message before taken over, §7.2.3.2", b"\xf2\x00\x11\x00\x00", invalid),
            ("cut within a block", b"\xf2\x48\xcd", invalid),
            ("cut within a length", b"\x00\x05\x00", invalid),
            ("a length that contradicts itself", b"\x00\x05\x00\xfa\xfe\x48\x65\x6c\x6c\x6f\x00", invalid),
            ("a reserved kind of block", b"\x06\x00", invalid),
            ("with its flush", b"\xf2\x48\xcd\xc9\xc9\x07\x00\x00\x00\xff\xff", invalid),
            ("not UTF-8", b"\x00\x01\x00\xfe\xff\xff\x00", Err(ProtocolError::TextNotUtf8)),
        ];
        let mut inflater = Inflater::new();
        for (what, payload, expected) in rows {
            let message = Message { kind: MessageKind::Text, payload };
            assert_eq!(inflater.inflate(message, BYTES_MAX).map(|message| message.payload), expected, "{what}");
        }
    }

    #[test]
    fn binary_messages_may_have_any_bytes() {
        let mut inflater = Inflater::new();
        let message = inflater.inflate(Message::binary(b"\x00\x01\x00\xfe\xff\xff\x00"), BYTES_MAX);
        assert_eq!(message, Ok(Message::binary(b"\xff")));
    }

    #[test]
    fn the_bound_applies_to_the_inflated_message() {
        let payload: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let (deflated, len) = (deflated(&payload), payload.len() as u32);
        let mut inflater = Inflater::new();
        assert_eq!(inflater.inflate(Message::binary(&deflated), len), Ok(Message::binary(&payload)));
        let too_big = Err(ProtocolError::MessageTooBig);
        for bytes_max in [0, 1, 1000, len - 1] {
            assert_eq!(inflater.inflate(Message::binary(&deflated), bytes_max), too_big, "{bytes_max}");
        }
    }

    #[test]
    fn a_bomb_ends_at_the_ratio_with_little_memory() {
        let mut inflater = Inflater::new();
        let fair = vec![0; INFLATE_FREE_BYTES];
        assert_eq!(inflater.inflate(Message::binary(&deflated(&fair)), BYTES_MAX), Ok(Message::binary(&fair)));
        let bomb = deflated(&vec![0; 64 << 20]);
        let outcome = inflater.inflate(Message::binary(&bomb), BYTES_MAX);
        assert_eq!(outcome, Err(ProtocolError::MessageTooBig));
        let memory_max = bomb.len() * INFLATE_RATIO_MAX + 2;
        assert!(inflater.output.capacity() < memory_max, "{} for {}", inflater.output.capacity(), bomb.len());
        for _ in 0..2 {
            assert_eq!(inflater.inflate(Message::text(""), BYTES_MAX), Ok(Message::text("")));
        }
        assert_eq!(inflater.output.capacity(), 0, "the memory is freed");
    }
}
