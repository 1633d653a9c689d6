//! What a connection's next message may refer back to, where that was agreed on: context takeover, RFC 7692 §7.1.1.
//!
//! Not a compressor for each connection, which takes 200 to 300 KB, but only the bytes that came before. The compressor
//! and the inflater that all connections share are shown them before a message begins.

use super::{DeflateParams, WindowBits};
use crate::limits::DEFLATE_CONTEXT_WINDOW_BITS;
use crate::proto::Role;

/// The end of all that was compressed for one direction of a connection, plain.
#[derive(Debug)]
pub struct SlidingWindow {
    bits: WindowBits,
    bytes: Vec<u8>,
}

impl SlidingWindow {
    /// The largest that a server keeps.
    pub const KEPT_MAX: WindowBits = WindowBits::new(DEFLATE_CONTEXT_WINDOW_BITS).unwrap();

    /// An empty window, which takes no memory before the first [`push`](Self::push), and 2 to the power of `bits` bytes
    /// from then on.
    pub fn new(bits: WindowBits) -> Self {
        Self { bits, bytes: Vec::new() }
    }

    /// What may be referred back to, the oldest first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A message was compressed; this was its payload.
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

    /// The peer has got something compressed that is not in here: nothing that follows may refer back beyond that.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// What both directions of a connection may refer back to.
#[derive(Debug)]
pub struct DeflateContext {
    /// By what we send, where that was agreed on.
    pub sent: Option<SlidingWindow>,
    /// By what we receive, where that was agreed on.
    pub received: Option<SlidingWindow>,
}

impl DeflateContext {
    /// What `params` ask us to keep, as `role`; `None` if that is nothing.
    pub fn new(params: DeflateParams, role: Role) -> Option<Self> {
        let server = params.server_takes_over.then_some(params.server_window);
        let client = params.client_takes_over.then_some(params.client_window);
        let (sent, received) = match role {
            Role::Server => (server, client),
            Role::Client => (client, server),
        };
        // We need not refer back as far as we might, but must follow the peer as far as it may.
        let sent = sent.map(|bits| SlidingWindow::new(bits.min(SlidingWindow::KEPT_MAX)));
        let received = received.map(SlidingWindow::new);
        (sent.is_some() || received.is_some()).then_some(Self { sent, received })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_end_of_all_that_was_pushed_in_memory_that_does_not_grow() {
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
