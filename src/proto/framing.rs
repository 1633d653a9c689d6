//! Byte streams with messages in them: the wire format of a protocol that runs on a listener of its own, without HTTP
//! and WebSocket.

use std::fmt;
use std::ops::Range;

use super::{Message, MessageKind};

/// Splits a byte stream into messages, and makes the bytes of messages. It has no state: a message's bytes depend on
/// nothing that precedes them.
///
/// ```
/// use ringfeed::proto::{Framed, Framing, FramingError, Message};
///
/// /// Each message is a line.
/// struct Lines;
///
/// impl Framing for Lines {
///     fn decode(&self, input: &[u8]) -> Result<Option<Framed>, FramingError> {
///         let end = input.iter().position(|byte| *byte == b'\n');
///         Ok(end.map(|end| Framed::text(0..end).with_trailer(1)))
///     }
///
///     fn encode(&self, out: &mut Vec<u8>, message: Message<'_>) {
///         out.extend_from_slice(message.payload);
///         out.push(b'\n');
///     }
/// }
///
/// let framed = Lines.decode(b"hello\nwor")?.expect("a whole line");
/// assert_eq!((framed.payload, framed.bytes), (0..5, 6));
/// # Ok::<(), FramingError>(())
/// ```
pub trait Framing: Send + Sync + 'static {
    /// Finds the message at the front of `input`, which is not empty. `Ok(None)`: the message is incomplete; the call
    /// repeats with more bytes. The server bounds the bytes of an incomplete message: see
    /// [`FRAMING_BYTES_MAX`](crate::limits::FRAMING_BYTES_MAX).
    ///
    /// # Errors
    /// [`FramingError`]: the bytes are no message, and none can follow. The server sends the text of the error as a
    /// message and closes the connection.
    fn decode(&self, input: &[u8]) -> Result<Option<Framed>, FramingError>;

    /// Appends the bytes of a message.
    fn encode(&self, out: &mut Vec<u8>, message: Message<'_>);
}

/// Where a message lies in a byte stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Framed {
    /// Text or binary. The server validates text.
    pub kind: MessageKind,
    /// The payload: a range of the input.
    pub payload: Range<usize>,
    /// All bytes of the message, from the start of the input: at least one.
    pub bytes: usize,
}

/// The bytes are no message. The text states the reason and the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramingError(pub &'static str);

impl Framed {
    /// A text message that ends with its payload.
    pub fn text(payload: Range<usize>) -> Framed {
        Framed { kind: MessageKind::Text, bytes: payload.end, payload }
    }

    /// A binary message that ends with its payload.
    pub fn binary(payload: Range<usize>) -> Framed {
        Framed { kind: MessageKind::Binary, bytes: payload.end, payload }
    }

    /// The message with so many further bytes after its payload.
    #[must_use]
    pub fn with_trailer(mut self, bytes: usize) -> Framed {
        self.bytes += bytes;
        self
    }
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for FramingError {}
