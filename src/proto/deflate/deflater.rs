//! Compresses messages: RFC 7692 §7.2.1.

use flate2::{Compress, Compression, FlushCompress};

use super::totals::{Clock, stopped_clock};
use super::{DeflateTotals, FLUSH_TAIL, SlidingWindow, WindowBits};
use crate::limits::{DEFLATE_BYTES_MIN, DEFLATE_LEVEL};
use crate::proto::{Message, encode_deflated, encode_message};

/// The smallest window that the library can compress with.
pub(super) const LIBRARY_WINDOW_BITS_MIN: u8 = 9;

/// The number of windows from that size up to the largest.
const WINDOWS: usize = (WindowBits::MAX.get() - LIBRARY_WINDOW_BITS_MIN + 1) as usize;

/// Settings of the compressor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateConfig {
    /// 1 (fastest) to 9 (smallest output).
    pub level: u8,
    /// Shorter messages are sent uncompressed.
    pub bytes_min: usize,
    /// Number of connections, per shard or per client, with messages that may refer back to earlier ones (context
    /// takeover), which makes similar small messages much smaller. Each such connection takes some more than 8 KB
    /// ([`DEFLATE_CONTEXT_WINDOW_BITS`](crate::limits::DEFLATE_CONTEXT_WINDOW_BITS)), in a client 36 KB. Further
    /// connections, and all by default, compress each message by itself.
    pub context_takeover: usize,
}

impl Default for DeflateConfig {
    fn default() -> Self {
        Self { level: DEFLATE_LEVEL, bytes_min: DEFLATE_BYTES_MIN, context_takeover: 0 }
    }
}

/// Compresses whole messages. Takes 300 KB of memory for each window size in use, most often one; one deflater serves
/// any number of connections.
#[derive(Debug)]
pub struct Deflater {
    config: DeflateConfig,
    /// By window size, from the smallest; created on first use.
    streams: [Option<Compress>; WINDOWS],
    output: Vec<u8>,
    totals: DeflateTotals,
    clock: Clock,
}

impl Deflater {
    /// Creates a deflater. Allocates nothing until the first message.
    pub fn new(config: DeflateConfig) -> Self {
        let (streams, output, totals) = (Default::default(), Vec::new(), DeflateTotals::default());
        Self { config, streams, output, totals, clock: stopped_clock }
    }

    /// Sets a monotonic clock in nanoseconds, for the time in [`totals`](Self::totals).
    pub fn timed_by(self, clock: fn() -> u64) -> Self {
        Self { clock, ..self }
    }

    /// The totals so far, including messages that compression did not make smaller.
    pub fn totals(&self) -> DeflateTotals {
        self.totals
    }

    /// The window to compress a message with, for a peer that allows `window`; `None` if it should be sent
    /// uncompressed.
    ///
    /// A message no longer than the peer's window cannot refer back beyond it. So most messages are compressed with the
    /// largest window, whatever peers allow, and the result is the same for all of them.
    pub fn window_for(&self, payload_len: usize, window: WindowBits) -> Option<WindowBits> {
        self.window_after(0, payload_len, window)
    }

    /// The same for a message that may refer back to `before_len` preceding bytes.
    fn window_after(&self, before_len: usize, payload_len: usize, window: WindowBits) -> Option<WindowBits> {
        match window {
            _ if payload_len < self.config.bytes_min => None,
            _ if before_len + payload_len <= window.bytes() => Some(WindowBits::MAX),
            _ => Some(window).filter(|window| window.get() >= LIBRARY_WINDOW_BITS_MIN),
        }
    }

    /// Compresses a payload by itself, with a window from [`window_for`](Self::window_for), for [`encode_deflated`].
    /// `None` if it would not become smaller.
    pub fn deflate(&mut self, payload: &[u8], window: WindowBits) -> Option<&[u8]> {
        self.deflate_after(&[], payload, window)
    }

    /// The same, with the preceding bytes `before` to refer back to.
    fn deflate_after(&mut self, before: &[u8], payload: &[u8], window: WindowBits) -> Option<&[u8]> {
        let start = (self.clock)();
        let level = Compression::new(self.config.level.into());
        let stream = self.streams[usize::from(window.get() - LIBRARY_WINDOW_BITS_MIN)]
            .get_or_insert_with(|| Compress::new_with_window_bits(level, false, window.get()));
        stream.reset();
        if !before.is_empty() {
            stream.set_dictionary(before).expect("a new stream accepts any dictionary");
        }
        self.output.clear();
        // Reserves only as much as useful output can have. Longer output is cut off, which the check below detects.
        self.output.reserve(payload.len() + FLUSH_TAIL.len());
        stream.compress_vec(payload, &mut self.output, FlushCompress::Sync).expect("compressing can't fail");
        self.totals.add(payload.len(), self.output.len(), (self.clock)() - start);
        let deflated = self.output.strip_suffix(&FLUSH_TAIL)?;
        (deflated.len() < payload.len()).then_some(deflated)
    }

    /// A deflater for a peer that allows `window`. Messages may refer back to `sent`, if takeover was agreed on: the
    /// messages sent compressed to this peer.
    pub fn for_peer<'d>(&'d mut self, window: WindowBits, sent: Option<&'d mut SlidingWindow>) -> PeerDeflater<'d> {
        PeerDeflater { deflater: self, window, sent }
    }
}

/// A [`Deflater`] for one peer.
#[derive(Debug)]
pub struct PeerDeflater<'d> {
    deflater: &'d mut Deflater,
    window: WindowBits,
    sent: Option<&'d mut SlidingWindow>,
}

impl PeerDeflater<'_> {
    /// Appends a message as one frame, compressed if that makes it smaller.
    pub fn encode_message(&mut self, out: &mut Vec<u8>, message: Message<'_>, mask: Option<[u8; 4]>) {
        let before = self.sent.as_deref().map_or(&[][..], SlidingWindow::bytes);
        let window = self.deflater.window_after(before.len(), message.payload.len(), self.window);
        match window.and_then(|window| self.deflater.deflate_after(before, message.payload, window)) {
            Some(payload) => {
                encode_deflated(out, Message { payload, ..message }, mask);
                if let Some(sent) = &mut self.sent {
                    sent.push(message.payload);
                }
            }
            None => encode_message(out, message, mask),
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};

    use super::*;
    use crate::proto::{Decoder, Event, Inflater, Role};

    const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

    fn window(bits: u8) -> WindowBits {
        WindowBits::new(bits).unwrap()
    }

    fn deflater() -> Deflater {
        Deflater::new(DeflateConfig { level: 6, bytes_min: 20, context_takeover: 0 })
    }

    /// Bytes that repeat at short and long distances.
    fn compressible(len: usize) -> Vec<u8> {
        (0..len as u32).map(|n| b"0123456789abcdef"[((n / 7) ^ (n % 5) ^ (n >> 9)) as usize % 16]).collect()
    }

    /// Bytes without a pattern.
    fn random(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn most_messages_are_the_same_for_all_windows() {
        let rows = [
            (19, 15, None),
            (20, 8, Some(15)),
            (256, 8, Some(15)),
            (257, 8, None),
            (512, 9, Some(15)),
            (513, 9, Some(9)),
            (40_000, 14, Some(14)),
            (40_000, 15, Some(15)),
        ];
        for (len, bits, expected) in rows {
            let seen = deflater().window_for(len, window(bits));
            assert_eq!(seen.map(WindowBits::get), expected, "{len} bytes, {bits} bits");
        }
    }

    #[test]
    fn messages_that_do_not_shrink_are_sent_uncompressed() {
        let mut deflater = deflater();
        for len in [1, 20, 100, 1000, 70_000] {
            assert_eq!(deflater.deflate(&random(len), WindowBits::MAX), None, "{len} random bytes");
        }
        let payload = compressible(70_000);
        assert!(deflater.deflate(&payload, WindowBits::MAX).is_some_and(|deflated| deflated.len() < payload.len() / 2));
    }

    /// Inflates byte by byte, with no more memory than the window.
    fn inflate_within(window: WindowBits, deflated: &[u8]) -> Vec<u8> {
        let mut stream = Decompress::new_with_window_bits(false, window.get());
        let (mut output, mut byte) = (Vec::new(), [0]);
        let input = [deflated, &FLUSH_TAIL].concat();
        loop {
            let (taken, given) = (stream.total_in() as usize, stream.total_out());
            stream.decompress(&input[taken..], &mut byte, FlushDecompress::None).expect("within the window");
            if stream.total_out() == given {
                return output;
            }
            output.push(byte[0]);
        }
    }

    #[test]
    fn no_reference_exceeds_the_window() {
        // Each part repeats after 600, 5,000 and 20,000 digits, so that a compressor with a larger window would refer
        // further back.
        let digits = |len| random(len).iter().map(|byte| b'0' + byte % 10).collect::<Vec<u8>>();
        let payload: Vec<u8> = [600, 5_000, 20_000].map(|len| digits(len).repeat(2)).concat();
        let mut deflater = deflater();
        let mut lens = Vec::new();
        for bits in 9..=15 {
            let deflated = deflater.deflate(&payload, window(bits)).expect("repeated bytes shrink").to_vec();
            assert!(inflate_within(window(bits), &deflated) == payload, "{bits} bits");
            lens.push(deflated.len());
        }
        assert!(lens[0] > lens[6] + 10_000, "{lens:?}");
    }

    #[test]
    fn a_message_survives_compression_unchanged() {
        let (mut deflater, mut inflater) = (deflater(), Inflater::new());
        for (role, mask) in [(Role::Server, MASK), (Role::Client, None)] {
            for len in [0, 19, 300, 5_000, 100_000] {
                let payload = compressible(len);
                let mut bytes = Vec::new();
                deflater.for_peer(window(10), None).encode_message(&mut bytes, Message::binary(&payload), mask);
                let mut decoder = Decoder::new(role, 1 << 20);
                decoder.allow_deflated();
                let message = match decoder.decode(&mut &mut bytes[..]) {
                    Ok(Some(Event::Deflated(deflated))) if len >= 20 => inflater.inflate(deflated, 1 << 20).unwrap(),
                    Ok(Some(Event::Message(message))) if len < 20 => message,
                    other => panic!("{len} bytes: {other:?}"),
                };
                assert!(message == Message::binary(&payload), "{len} bytes");
            }
        }
    }
}
