//! The window that a connection's next message may refer back to, where context takeover was agreed on (RFC 7692
//! §7.1.1).
//!
//! A connection stores only the preceding bytes, not a compressor, which takes 200 to 300 KB. The compressor and the
//! inflater, which all connections share, load these bytes before each message.

use super::{DeflateParams, WindowBits};
use crate::limits::DEFLATE_CONTEXT_WINDOW_BITS;
use crate::proto::Role;

/// The plain bytes compressed last, for one direction of a connection.
#[derive(Debug)]
pub struct SlidingWindow {
    bits: WindowBits,
    bytes: Vec<u8>,
}

impl SlidingWindow {
    /// The largest window that a server keeps for its own messages.
    pub const KEPT_MAX: WindowBits = WindowBits::new(DEFLATE_CONTEXT_WINDOW_BITS).unwrap();

    /// An empty window. It allocates nothing before the first [`push`](Self::push), and 2 to the power of `bits` bytes
    /// from then on.
    pub fn new(bits: WindowBits) -> Self {
        Self { bits, bytes: Vec::new() }
    }

    /// The bytes that may be referred back to, the oldest first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends the payload of a compressed message.
    pub fn push(&mut self, payload: &[u8]) {
        let bytes_max = self.bits.bytes();
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(bytes_max);
        }
        let tail = &payload[payload.len().saturating_sub(bytes_max)..];
        let overflow = (self.bytes.len() + tail.len()).saturating_sub(bytes_max);
        self.bytes.drain(..overflow);
        self.bytes.extend_from_slice(tail);
    }

    /// Empties the window. Call this after the peer received compressed bytes that are not in the window: later
    /// messages must not refer back beyond those.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// The windows of both directions of a connection.
#[derive(Debug)]
pub struct DeflateContext {
    /// The window of the messages we send, if takeover was agreed on.
    pub sent: Option<SlidingWindow>,
    /// The window of the messages we receive, if takeover was agreed on.
    pub received: Option<SlidingWindow>,
}

impl DeflateContext {
    /// The windows that `params` require us to keep, as `role`; `None` if there are none.
    pub fn new(params: DeflateParams, role: Role) -> Option<Self> {
        let server = params.server_takes_over.then_some(params.server_window);
        let client = params.client_takes_over.then_some(params.client_window);
        let (sent, received) = match role {
            Role::Server => (server, client),
            Role::Client => (client, server),
        };
        // We may use a smaller window than allowed, but must keep as much as the peer may refer to.
        let sent = sent.map(|bits| SlidingWindow::new(bits.min(SlidingWindow::KEPT_MAX)));
        let received = received.map(SlidingWindow::new);
        (sent.is_some() || received.is_some()).then_some(Self { sent, received })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_last_bytes_pushed_in_constant_memory() {
        let mut window = SlidingWindow::new(WindowBits::MIN);
        assert_eq!(window.bytes.capacity(), 0);
        let mut all = Vec::new();
        for len in [1, 0, 100, 154, 1, 2, 256, 255, 3, 257, 1000, 7] {
            let payload: Vec<u8> = (0..len).map(|n| (n + all.len() * 7) as u8).collect();
            window.push(&payload);
            all.extend(payload);
            assert_eq!(window.bytes(), &all[all.len().saturating_sub(256)..], "{len}");
            assert_eq!(window.bytes.capacity(), 256);
        }
        window.clear();
        assert_eq!(window.bytes(), b"");
        window.push(b"a");
        assert_eq!(window.bytes(), b"a");
    }
}
