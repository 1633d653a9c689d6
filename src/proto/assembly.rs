//! Which frame may follow which: the whole of RFC 6455 §5.4 in one table. Holds no bytes.
//!
//! ```text
//!             Text or Binary, fin ─► Whole
//!             ┌────┐
//!             │    ▼
//!          ┌──┴──────┐  Text or Binary, not fin ─► First   ┌─────────┐ Continuation, not fin ─► Middle
//!     ────►│  None   ├────────────────────────────────────►│ Some    ├──┐
//!          │         │◄────────────────────────────────────┤ (kind)  │◄─┘
//!          └─────────┘        Continuation, fin ─► Last    └─────────┘
//!
//!          Control frames pass in both states and change neither.
//! ```

use super::{MessageKind, Opcode, ProtocolError};

/// What a frame is to the message it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// None of it: a control frame, which may stand between fragments.
    Control,
    /// The whole message.
    Whole(MessageKind),
    /// The first fragment of several.
    First(MessageKind),
    /// A fragment that is neither the first nor the last.
    Middle,
    /// The last fragment of several.
    Last,
}

impl Part {
    /// Places a frame after what came before: `open` is the kind of the fragmented message that is unfinished.
    #[inline]
    pub(super) fn next(
        open: Option<MessageKind>,
        opcode: Opcode,
        fin: bool,
    ) -> Result<Part, ProtocolError> {
        use MessageKind::{Binary, Text};
        match (open, opcode, fin) {
            (_, Opcode::Close | Opcode::Ping | Opcode::Pong, true) => Ok(Part::Control),
            (_, Opcode::Close | Opcode::Ping | Opcode::Pong, false) => {
                Err(ProtocolError::ControlFragmented)
            }
            (None, Opcode::Text, true) => Ok(Part::Whole(Text)),
            (None, Opcode::Text, false) => Ok(Part::First(Text)),
            (None, Opcode::Binary, true) => Ok(Part::Whole(Binary)),
            (None, Opcode::Binary, false) => Ok(Part::First(Binary)),
            (None, Opcode::Continuation, _) => Err(ProtocolError::UnexpectedContinuation),
            (Some(_), Opcode::Continuation, true) => Ok(Part::Last),
            (Some(_), Opcode::Continuation, false) => Ok(Part::Middle),
            (Some(_), Opcode::Text | Opcode::Binary, _) => Err(ProtocolError::ExpectedContinuation),
        }
    }
}
