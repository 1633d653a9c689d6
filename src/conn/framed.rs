//! Received bytes become messages in a framing of the protocol's own.

use super::{CloseCause, Connection, Next, Phase};
use crate::limits::FRAMING_BYTES_MAX;
use crate::proto::{Framed, Framing, Message, MessageKind};

/// The answer to a message, or a part of one, beyond the maximum.
const TOO_LARGE: &str = "the message is too large";
const NOT_UTF8: &str = "text must be UTF-8";

impl Connection {
    /// Takes the next message from the front of `input`. After [`Next::NeedBytes`] [hold](Self::hold) the rest of the
    /// input. A violation by the peer appends a message with its reason to `out`.
    pub fn next_framed<'i>(&mut self, input: &mut &'i mut [u8], framing: &dyn Framing, out: &mut Vec<u8>) -> Next<'i> {
        if input.is_empty() {
            return Next::NeedBytes;
        }
        let message_bytes_max = self.decoder.message_bytes_max() as usize;
        let reason = match framing.decode(input) {
            Ok(None) if input.len() <= message_bytes_max + FRAMING_BYTES_MAX => return Next::NeedBytes,
            Ok(None) => TOO_LARGE,
            Ok(Some(framed)) if framed.payload.len() > message_bytes_max => TOO_LARGE,
            Ok(Some(framed)) => match take_message(input, &framed) {
                Some(message) => return Next::Message(message),
                None => NOT_UTF8,
            },
            Err(error) => error.0,
        };
        framing.encode(out, Message::text(reason));
        self.phase = Phase::Ended;
        Next::End(CloseCause::Protocol)
    }

    /// Keeps the bytes of an incomplete message. [`take_held`](Self::take_held) returns them, to be followed by more.
    pub fn hold(&mut self, rest: &[u8]) {
        if let Phase::Framed(held) = &mut self.phase {
            debug_assert!(held.is_empty(), "earlier bytes precede these");
            *held = rest.into();
        }
    }

    /// Takes the bytes that [`hold`](Self::hold) has kept.
    pub fn take_held(&mut self) -> Vec<u8> {
        match &mut self.phase {
            Phase::Framed(held) => std::mem::take(held).into_vec(),
            _ => Vec::new(),
        }
    }
}

/// Takes a message off the input; `None` if its text is not UTF-8.
fn take_message<'i>(input: &mut &'i mut [u8], framed: &Framed) -> Option<Message<'i>> {
    // Otherwise the shard would find the same message for ever.
    assert!(framed.bytes > 0, "a framing has found a message without bytes");
    let (taken, rest) = std::mem::take(input).split_at_mut(framed.bytes);
    *input = rest;
    let message = Message { kind: framed.kind, payload: &taken[framed.payload.clone()] };
    (message.kind == MessageKind::Binary || message.as_str().is_some()).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::FramingError;

    /// A byte with the length, then the payload. Zero is no length.
    struct Lengths;

    impl Framing for Lengths {
        fn decode(&self, input: &[u8]) -> Result<Option<Framed>, FramingError> {
            let end = 1 + usize::from(input[0]);
            match end {
                1 => Err(FramingError("send no empty messages")),
                _ if input.len() < end => Ok(None),
                _ => Ok(Some(Framed::text(1..end))),
            }
        }

        fn encode(&self, out: &mut Vec<u8>, message: Message<'_>) {
            out.push(message.payload.len() as u8);
            out.extend_from_slice(message.payload);
        }
    }

    fn open(message_bytes_max: u32) -> Connection {
        let mut conn = Connection::new(0);
        conn.open_framed(message_bytes_max);
        conn
    }

    /// Feeds a piece: the messages in it, the reply, and how the conversation ended.
    fn feed(conn: &mut Connection, piece: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>, Option<CloseCause>) {
        let (mut messages, mut out) = (Vec::new(), Vec::new());
        let mut bytes = [conn.take_held(), piece.to_vec()].concat();
        let mut input = &mut bytes[..];
        loop {
            match conn.next_framed(&mut input, &Lengths, &mut out) {
                Next::Message(message) => messages.push(message.payload.to_vec()),
                Next::NeedBytes => {
                    conn.hold(input);
                    return (messages, out, None);
                }
                Next::End(cause) => return (messages, out, Some(cause)),
                Next::Handled => unreachable!("a framing has messages only"),
            }
        }
    }

    #[test]
    fn messages_arrive_whole_at_every_split() {
        let bytes = b"\x05hello\x01!\x05world";
        for split in 0..=bytes.len() {
            let mut conn = open(5);
            let (mut messages, _, end) = feed(&mut conn, &bytes[..split]);
            assert_eq!(end, None);
            messages.extend(feed(&mut conn, &bytes[split..]).0);
            assert_eq!(messages, [&b"hello"[..], b"!", b"world"], "split at {split}");
            assert_eq!(conn.take_held(), b"");
        }
    }

    #[test]
    fn violations_have_an_answer_and_end_the_conversation() {
        let rows: [(&str, &[u8], &str); 3] = [
            ("no message", b"\0", "send no empty messages"),
            ("too large", b"\x06seven!", TOO_LARGE),
            ("not text", b"\x02\xff\xfe", NOT_UTF8),
        ];
        for (name, bytes, reason) in rows {
            let mut conn = open(5);
            let (messages, out, end) = feed(&mut conn, bytes);
            assert_eq!((messages.len(), end), (0, Some(CloseCause::Protocol)), "{name}");
            assert_eq!(&out[1..], reason.as_bytes(), "{name}");
            assert_eq!(conn.phase, Phase::Ended);
        }
    }

    #[test]
    fn an_incomplete_message_has_a_bound() {
        /// Never finds a message.
        struct Endless;
        impl Framing for Endless {
            fn decode(&self, _: &[u8]) -> Result<Option<Framed>, FramingError> {
                Ok(None)
            }

            fn encode(&self, out: &mut Vec<u8>, message: Message<'_>) {
                out.extend_from_slice(message.payload);
            }
        }
        let mut conn = open(100);
        let mut bytes = [0; 100 + FRAMING_BYTES_MAX + 1];
        let (most, mut out) = (bytes.len() - 1, Vec::new());
        assert_eq!(conn.next_framed(&mut &mut bytes[..most], &Endless, &mut out), Next::NeedBytes);
        let end = conn.next_framed(&mut &mut bytes[..], &Endless, &mut out);
        assert_eq!((end, &out[..]), (Next::End(CloseCause::Protocol), TOO_LARGE.as_bytes()));
    }

    #[test]
    #[should_panic(expected = "a message without bytes")]
    fn a_framing_must_consume_its_messages() {
        /// Finds empty messages everywhere.
        struct Nothing;
        impl Framing for Nothing {
            fn decode(&self, _: &[u8]) -> Result<Option<Framed>, FramingError> {
                Ok(Some(Framed::text(0..0)))
            }

            fn encode(&self, _: &mut Vec<u8>, _: Message<'_>) {}
        }
        let _ = open(100).next_framed(&mut &mut b"x".to_vec()[..], &Nothing, &mut Vec::new());
    }
}
