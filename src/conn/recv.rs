//! Received bytes become messages; pings and Close frames are answered on the way.

use super::{CloseCause, Connection, Phase};
use crate::proto::{CloseFrame, Event, Inflater, Message, Opcode, SlidingWindow, encode_close, encode_frame};

/// What the next bytes brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A message for the application.
    Message(Message<'a>),
    /// Something that the connection has dealt with itself; there may be more.
    Handled,
    /// The bytes are used up.
    NeedBytes,
    /// The conversation is over; what is in `out` is the last that it says.
    End(CloseCause),
}

impl Connection {
    /// Takes the next frame from the front of `input`; answers to the peer are appended to `out`. A compressed message
    /// is inflated, and then lies in `inflater`; where it may refer back to earlier ones, those are in `received`. Call
    /// again until it needs bytes or is over.
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i mut [u8],
        inflater: &'s mut Inflater,
        received: Option<&mut SlidingWindow>,
        out: &mut Vec<u8>,
    ) -> Next<'s> {
        let message_bytes_max = self.decoder.message_bytes_max();
        let event = match self.decoder.decode(input) {
            Ok(Some(event)) if self.phase == Phase::Open => {
                inflater.inflate_event(event, message_bytes_max, received).map(Some)
            }
            other => other,
        };
        match event {
            Ok(None) => Next::NeedBytes,
            Ok(Some(Event::Message(message))) if self.phase == Phase::Open => Next::Message(message),
            Ok(Some(Event::Message(_) | Event::Deflated(_) | Event::Pong(_))) => Next::Handled,
            Ok(Some(Event::Ping(payload))) => {
                // After a Close frame nothing more may be sent (RFC 6455 §5.5.1).
                if self.phase == Phase::Open {
                    encode_frame(out, Opcode::Pong, payload, None);
                }
                Next::Handled
            }
            Ok(Some(Event::Close(close))) => {
                if self.phase == Phase::Open {
                    answer_close(close, out);
                }
                self.phase = Phase::Ended;
                Next::End(CloseCause::Peer)
            }
            Err(error) => {
                if self.phase == Phase::Open {
                    encode_close(out, Some(error.close_code()), &error.to_string(), None);
                }
                self.phase = Phase::Ended;
                Next::End(CloseCause::Protocol)
            }
        }
    }

    /// Bytes of memory that an unfinished handshake, frame or message holds.
    pub fn held_bytes(&self) -> usize {
        match &self.phase {
            Phase::Handshake(head) => head.capacity(),
            _ => self.decoder.held_bytes(),
        }
    }
}

/// The answer carries the code it was sent, and no code if it was sent none (RFC 6455 §5.5.1).
fn answer_close(close: CloseFrame<'_>, out: &mut Vec<u8>) {
    encode_close(out, close.code, "", None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{CloseCode, encode_message};

    const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

    fn open() -> Connection {
        let mut conn = Connection::new(0);
        conn.open(1024, None);
        conn
    }

    /// Feeds `input` whole; the texts received, what was answered, and how it ended.
    fn feed(conn: &mut Connection, mut input: Vec<u8>) -> (Vec<String>, Vec<u8>, Option<CloseCause>) {
        let (mut rest, mut texts, mut out) = (&mut input[..], Vec::new(), Vec::new());
        let mut inflater = Inflater::new();
        loop {
            match conn.next(&mut rest, &mut inflater, None, &mut out) {
                Next::Message(message) => texts.push(message.as_str().unwrap().to_owned()),
                Next::Handled => {}
                Next::NeedBytes => return (texts, out, None),
                Next::End(cause) => return (texts, out, Some(cause)),
            }
        }
    }

    fn close_frame(code: CloseCode, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_close(&mut bytes, Some(code), "", mask);
        bytes
    }

    #[test]
    fn pings_are_answered_between_messages() {
        let mut input = Vec::new();
        encode_message(&mut input, Message::text("a"), MASK);
        encode_frame(&mut input, Opcode::Ping, b"42", MASK);
        encode_frame(&mut input, Opcode::Pong, b"unasked", MASK);
        encode_message(&mut input, Message::text("b"), MASK);
        let (texts, out, end) = feed(&mut open(), input);
        assert_eq!((texts, end), (vec!["a".to_owned(), "b".to_owned()], None));
        assert_eq!(out, [0x8a, 2, b'4', b'2']);
    }

    #[test]
    fn a_close_frame_is_answered_with_its_code_and_ends_it() {
        let mut input = close_frame(CloseCode(4001), MASK);
        encode_message(&mut input, Message::text("too late"), MASK);
        let (texts, out, end) = feed(&mut open(), input);
        assert_eq!((texts, end), (vec![], Some(CloseCause::Peer)));
        assert_eq!(out, close_frame(CloseCode(4001), None));
    }

    #[test]
    fn a_broken_frame_is_told_and_ends_it() {
        let mut input = Vec::new();
        encode_message(&mut input, Message::text("not masked"), None);
        let (_, out, end) = feed(&mut open(), input);
        assert_eq!(end, Some(CloseCause::Protocol));
        assert_eq!(out[2..4], CloseCode::PROTOCOL_ERROR.0.to_be_bytes());
    }

    #[test]
    fn after_our_close_frame_only_the_peers_is_of_interest() {
        let mut conn = open();
        conn.phase = Phase::Closing;
        let mut input = Vec::new();
        encode_message(&mut input, Message::text("crossed"), MASK);
        encode_frame(&mut input, Opcode::Ping, b"", MASK);
        input.extend(close_frame(CloseCode::GOING_AWAY, MASK));
        assert_eq!(feed(&mut conn, input), (vec![], vec![], Some(CloseCause::Peer)));
    }
}
