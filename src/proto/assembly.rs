//! The order of the frames of a message: RFC 6455 §5.4 as one table. Holds no bytes.
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
//!          Control frames are allowed in both states and change neither.
//! ```

use super::{MessageKind, Opcode, ProtocolError};

/// The role of a frame in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// None: a control frame, which may arrive between fragments.
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
    /// Places a frame in its message: `open` is the kind of the unfinished fragmented message, if there is one.
    #[inline]
    pub(super) fn next(open: Option<MessageKind>, opcode: Opcode, fin: bool) -> Result<Part, ProtocolError> {
        use MessageKind::{Binary, Text};
        match (open, opcode, fin) {
            (_, Opcode::Close | Opcode::Ping | Opcode::Pong, true) => Ok(Part::Control),
            (_, Opcode::Close | Opcode::Ping | Opcode::Pong, false) => Err(ProtocolError::ControlFragmented),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every frame in every state, written out.
    const TABLE: &str = "\
                          None                   Some(Text)             Some(Binary)
        Continuation      UnexpectedContinuation Middle                 Middle
        Continuation, fin UnexpectedContinuation Last                   Last
        Text              First(Text)            ExpectedContinuation   ExpectedContinuation
        Text, fin         Whole(Text)            ExpectedContinuation   ExpectedContinuation
        Binary            First(Binary)          ExpectedContinuation   ExpectedContinuation
        Binary, fin       Whole(Binary)          ExpectedContinuation   ExpectedContinuation
        Close             ControlFragmented      ControlFragmented      ControlFragmented
        Close, fin        Control                Control                Control
        Ping              ControlFragmented      ControlFragmented      ControlFragmented
        Ping, fin         Control                Control                Control
        Pong              ControlFragmented      ControlFragmented      ControlFragmented
        Pong, fin         Control                Control                Control";

    #[test]
    fn state_by_event() {
        let states = [None, Some(MessageKind::Text), Some(MessageKind::Binary)];
        let mut rows = vec![format!("{:17}", "") + &states.map(|state| cell(&state)).concat()];
        for opcode in [Opcode::Continuation, Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong] {
            for (fin, suffix) in [(false, ""), (true, ", fin")] {
                let outcomes = states.map(|state| match Part::next(state, opcode, fin) {
                    Ok(part) => cell(&part),
                    Err(error) => cell(&error),
                });
                rows.push(format!("{:17}", format!("{opcode:?}{suffix}")) + &outcomes.concat());
            }
        }
        let expected: Vec<_> = TABLE.lines().map(str::trim).collect();
        let seen: Vec<_> = rows.iter().map(|row| row.trim()).collect();
        assert_eq!(seen, expected, "\n{}", rows.join("\n"));
    }

    fn cell(value: &impl std::fmt::Debug) -> String {
        format!(" {:22}", format!("{value:?}"))
    }
}
