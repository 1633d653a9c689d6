//! A whole message, as the application sees it: independent of frames.

/// The type of a message's payload (RFC 6455 §5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

/// A whole message, received or to be sent.
///
/// The payload of a received text message is valid UTF-8: the decoder has checked it (RFC 6455 §8.1). The code that
/// builds a message to send must ensure the same; [`Message::text`] always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Text or binary.
    pub kind: MessageKind,
    /// The payload, unmasked and with all fragments joined.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// A text message.
    pub fn text(text: &'a str) -> Self {
        Self { kind: MessageKind::Text, payload: text.as_bytes() }
    }

    /// A binary message.
    pub fn binary(payload: &'a [u8]) -> Self {
        Self { kind: MessageKind::Binary, payload }
    }

    /// The text of a text message, `None` for a binary one.
    ///
    /// This validates the payload again (several GB/s), since the fields are public and the type alone does not prove
    /// valid UTF-8. Code that only forwards the payload should use the bytes.
    pub fn as_str(&self) -> Option<&'a str> {
        match self.kind {
            MessageKind::Text => simdutf8::basic::from_utf8(self.payload).ok(),
            MessageKind::Binary => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_is_a_str() {
        assert_eq!(Message::text("grüß").as_str(), Some("grüß"));
        assert_eq!(Message::binary(b"plain").as_str(), None);
    }
}
