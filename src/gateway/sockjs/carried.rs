//! Messages and publications of a conversation, carried as frames of SockJS on a WebSocket.

use std::sync::OnceLock;

use super::framing::frame_of;
use crate::gateway::encoder::{Encoder, encode_labelled, encode_presence, encode_publication, register};
use crate::limits::ENCODINGS_MAX;
use crate::proto::{FrameHeader, Message, encode_message};
use crate::topics::{Body, ClientInfo, Encoding, TopicName};

/// The encoding that carries the messages of another one. All subscribers of SockJS share it.
pub fn carried_encoding(inner: Encoding) -> Encoding {
    static CARRIED: [OnceLock<Encoding>; ENCODINGS_MAX] = [const { OnceLock::new() }; ENCODINGS_MAX];
    match inner {
        Encoding::PER_CONNECTION => Encoding::PER_CONNECTION,
        inner => *CARRIED[inner.number()].get_or_init(|| register(Carried(inner))),
    }
}

/// Appends a message as a frame of SockJS. SockJS carries text only: other bytes become U+FFFD.
pub(crate) fn write_carried(out: &mut Vec<u8>, payload: &[u8]) {
    let frame = frame_of(&String::from_utf8_lossy(payload));
    encode_message(out, Message::text(&frame), None);
}

/// Publications in another encoding, whose messages are frames of WebSockets.
struct Carried(Encoding);

impl Encoder for Carried {
    fn name(&self) -> &'static str {
        "SockJS"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        match self.0 {
            Encoding::RAW => write_carried(out, body.payload()),
            inner => carry(out, encode_publication(inner, body).as_deref()),
        }
    }

    fn encode_labelled(&self, out: &mut Vec<u8>, body: &Body, label: u8) {
        match self.0 {
            Encoding::RAW => write_carried(out, body.payload()),
            inner => carry(out, encode_labelled(inner, label, body).as_deref()),
        }
    }

    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &ClientInfo, has_joined: bool) {
        carry(out, encode_presence(self.0, topic, info, has_joined).as_deref());
    }
}

/// Appends the message of a whole, unmasked frame.
fn carry(out: &mut Vec<u8>, frame: Option<&[u8]>) {
    let Some(frame) = frame else { return };
    if let Ok(Some((_, header_len))) = FrameHeader::decode(frame) {
        write_carried(out, &frame[header_len..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::{Epoch, Position, testing};

    #[test]
    fn publications_are_carried() {
        let position = Position { epoch: Epoch::new(7), offset: 3 };
        for payload in [&b"1.\"09\""[..], &[b'x'; 200], &[b'y'; 70_000]] {
            let body = testing::body("prices/EUR", position, 0, payload);
            let encoding = carried_encoding(Encoding::RAW);
            assert_eq!(encoding, carried_encoding(Encoding::RAW));
            let carried = encode_publication(encoding, &body).unwrap();
            let mut expected = Vec::new();
            write_carried(&mut expected, payload);
            assert_eq!(&carried[..], &expected[..]);
            // The same, out of a frame.
            let (mut frame, mut again) = (Vec::new(), Vec::new());
            encode_message(&mut frame, Message::binary(payload), None);
            carry(&mut again, Some(&frame));
            assert_eq!(again, expected);
        }
        assert_eq!(carried_encoding(Encoding::PER_CONNECTION), Encoding::PER_CONNECTION);
    }
}
