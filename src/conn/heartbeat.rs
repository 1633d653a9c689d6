//! What a peer is sent so that each side knows of the other.

use crate::proto::{CloseCode, Opcode, encode_frame};
#[cfg(feature = "centrifuge")]
use crate::proto::{Message, encode_message};

/// How a peer is asked for a sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heartbeat {
    /// A ping frame when it was silent (RFC 6455 §5.5.2).
    #[default]
    WebSocket,
    /// An empty reply of Centrifugo's protocol in JSON, at each interval: the client waits for it.
    #[cfg(feature = "centrifuge")]
    CentrifugeJson,
    /// An empty reply of Centrifugo's protocol in Protobuf, at each interval.
    #[cfg(feature = "centrifuge")]
    CentrifugeProtobuf,
    /// A comment in an event stream, at each interval. It has no answer.
    Sse,
}

impl Heartbeat {
    /// Appends what is sent.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Heartbeat::WebSocket => encode_frame(out, Opcode::Ping, b"", None),
            #[cfg(feature = "centrifuge")]
            Heartbeat::CentrifugeJson => encode_message(out, Message::text("{}"), None),
            #[cfg(feature = "centrifuge")]
            Heartbeat::CentrifugeProtobuf => encode_message(out, Message::binary(&[0]), None),
            Heartbeat::Sse => out.extend_from_slice(b":\n\n"),
        }
    }

    /// Whether it is sent at each interval, not only when the peer was silent.
    pub fn is_regular(self) -> bool {
        self != Heartbeat::WebSocket
    }

    /// Whether a peer that does not answer is lost.
    pub fn has_answer(self) -> bool {
        self != Heartbeat::Sse
    }

    /// What a peer that has not answered is closed with.
    pub fn lost_code(self) -> (CloseCode, &'static str) {
        match self {
            Heartbeat::WebSocket | Heartbeat::Sse => (CloseCode::POLICY_VIOLATION, "no sign of life: answer pings"),
            #[cfg(feature = "centrifuge")]
            Heartbeat::CentrifugeJson | Heartbeat::CentrifugeProtobuf => (CloseCode(3012), "no pong"),
        }
    }
}
