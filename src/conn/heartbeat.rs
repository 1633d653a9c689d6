//! The forms of the server's pings.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::HEARTBEATS_MAX;
use crate::proto::{CloseCode, Opcode, encode_frame};

/// The form of the server's pings to a connection. One byte, since each connection keeps one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat(u8);

/// A ping that leaves at each interval.
#[derive(Debug)]
struct Regular {
    bytes: &'static [u8],
    lost: Option<(CloseCode, &'static str)>,
}

/// Those that protocols have registered, from number 1 on.
static REGISTERED: [OnceLock<Regular>; HEARTBEATS_MAX] = [const { OnceLock::new() }; HEARTBEATS_MAX];
static COUNT: AtomicUsize = AtomicUsize::new(0);

impl Heartbeat {
    /// A ping frame (RFC 6455 §5.5.2) after a silence of the peer. The server closes the connection with 1008 if no
    /// answer follows.
    pub const WEBSOCKET: Heartbeat = Heartbeat(0);

    /// None at all, and no answer: for protocols with pings of their own.
    pub const SILENT: Heartbeat = Heartbeat(u8::MAX);

    /// Registers the ping of a protocol: these bytes, at each interval, whether the peer is silent or not. `lost` is
    /// the close code and reason for a peer that does not answer; `None` if the protocol has no answer. A process
    /// registers each form once: keep the result in a [`LazyLock`](std::sync::LazyLock).
    ///
    /// # Panics
    /// If the process has registered [`HEARTBEATS_MAX`] forms.
    pub fn regular(bytes: &'static [u8], lost: Option<(CloseCode, &'static str)>) -> Heartbeat {
        let index = COUNT.fetch_add(1, Ordering::Relaxed);
        assert!(index < HEARTBEATS_MAX, "too many heartbeats: register each once");
        REGISTERED[index].set(Regular { bytes, lost }).expect("each number is given once");
        Heartbeat(index as u8 + 1)
    }

    fn as_regular(self) -> Option<&'static Regular> {
        REGISTERED.get(usize::from(self.0).checked_sub(1)?)?.get()
    }

    /// Appends a ping.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self.as_regular() {
            _ if self == Heartbeat::SILENT => {}
            None => encode_frame(out, Opcode::Ping, b"", None),
            Some(regular) => out.extend_from_slice(regular.bytes),
        }
    }

    /// Whether a ping leaves at each interval, not only when the peer is silent.
    pub fn is_regular(self) -> bool {
        self != Heartbeat::WEBSOCKET
    }

    /// Whether a peer that does not answer is lost.
    pub fn has_answer(self) -> bool {
        self != Heartbeat::SILENT && self.as_regular().is_none_or(|regular| regular.lost.is_some())
    }

    /// The close code and reason for a peer that has not answered.
    pub fn lost_code(self) -> (CloseCode, &'static str) {
        let default = (CloseCode::POLICY_VIOLATION, "ping timeout: answer pings");
        self.as_regular().and_then(|regular| regular.lost).unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_has_its_bytes_and_its_end() {
        let answered = Heartbeat::regular(b"\x81\x02{}", Some((CloseCode(3012), "no pong")));
        let unanswered = Heartbeat::regular(b":\n\n", None);
        let rows: [(Heartbeat, &[u8], bool, bool, u16); 4] = [
            (Heartbeat::SILENT, b"", true, false, 1008),
            (Heartbeat::WEBSOCKET, b"\x89\x00", false, true, 1008),
            (answered, b"\x81\x02{}", true, true, 3012),
            (unanswered, b":\n\n", true, false, 1008),
        ];
        for (heartbeat, bytes, is_regular, has_answer, code) in rows {
            let mut out = Vec::new();
            heartbeat.encode(&mut out);
            assert_eq!((&out[..], heartbeat.is_regular(), heartbeat.has_answer()), (bytes, is_regular, has_answer));
            assert_eq!(heartbeat.lost_code().0, CloseCode(code));
        }
    }
}
