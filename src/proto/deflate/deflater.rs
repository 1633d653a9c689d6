//! Plain messages to compressed ones: RFC 7692 §7.2.1.

use flate2::{Compress, Compression, FlushCompress};

use super::totals::{Clock, stopped_clock};
use super::{DeflateTotals, FLUSH_TAIL, SlidingWindow, WindowBits};
use crate::limits::{DEFLATE_BYTES_MIN, DEFLATE_LEVEL};
use crate::proto::{Message, encode_deflated, encode_message};

/// The smallest window that the library compresses with.
pub(super) const LIBRARY_WINDOW_BITS_MIN: u8 = 9;

/// How many windows there are from there on.
const WINDOWS: usize = (WindowBits::MAX.get() - LIBRARY_WINDOW_BITS_MIN + 1) as usize;

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateConfig {
    /// 1, the fastest, to 9, the smallest.
    pub level: u8,
    /// Messages with fewer bytes are sent as they are.
    pub bytes_min: usize,
    /// Connections of a shard, or of a client, whose messages may refer back to earlier ones (context takeover), which
    /// makes similar small ones much smaller. Each takes 8 KB and some for that
    /// ([`DEFLATE_CONTEXT_WINDOW_BITS`](crate::limits::DEFLATE_CONTEXT_WINDOW_BITS)), a client 36 KB. Beyond that
    /// number, and by default, each message stands by itself.
    pub context_takeover: usize,
}

impl Default for DeflateConfig {
    fn default() -> Self {
        Self { level: DEFLATE_LEVEL, bytes_min: DEFLATE_BYTES_MIN, context_takeover: 0 }
    }
}

/// Compresses whole messages. 300 KB of memory for each window that is used, most often one; one serves any number of
/// connections.
#[derive(Debug)]
pub struct Deflater {
    config: DeflateConfig,
    /// By window, from the smallest; made when first needed.
    streams: [Option<Compress>; WINDOWS],
    output: Vec<u8>,
    totals: DeflateTotals,
    clock: Clock,
}

impl Deflater {
    /// A deflater that has not allocated anything.
    pub fn new(config: DeflateConfig) -> Self {
        let (streams, output, totals) = (Default::default(), Vec::new(), DeflateTotals::default());
        Self { config, streams, output, totals, clock: stopped_clock }
    }

    /// The same with a clock, which tells nanoseconds and never goes back, for the time in [`totals`](Self::totals).
    pub fn timed_by(self, clock: fn() -> u64) -> Self {
        Self { clock, ..self }
    }

    /// What was compressed so far, also where it did not become smaller.
    pub fn totals(&self) -> DeflateTotals {
        self.totals
    }

    /// The window to compress a message with for a peer that asks for `window`; `None` where it is best sent as it is.
    ///
    /// Nothing in a message that fits into the peer's window can refer back beyond it. So most messages are compressed
    /// with the largest window, whatever peers ask for, and what is the same for one peer is the same for others.
    pub fn window_for(&self, payload_len: usize, window: WindowBits) -> Option<WindowBits> {
        self.window_after(0, payload_len, window)
    }

    /// The same for a message that may refer back to that many bytes before it.
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

    /// The same, with `before` to refer back to.
    fn deflate_after(&mut self, before: &[u8], payload: &[u8], window: WindowBits) -> Option<&[u8]> {
        let start = (self.clock)();
        let level = Compression::new(self.config.level.into());
        let stream = self.streams[usize::from(window.get() - LIBRARY_WINDOW_BITS_MIN)]
            .get_or_insert_with(|| Compress::new_with_window_bits(level, false, window.get()));
        stream.reset();
        if !before.is_empty() {
            stream.set_dictionary(before).expect("a stream that has just begun takes any");
        }
        self.output.clear();
        // Room for all that is worth having. A stream that had more to say is cut off, and seen below to be too long.
        self.output.reserve(payload.len() + FLUSH_TAIL.len());
        stream.compress_vec(payload, &mut self.output, FlushCompress::Sync).expect("compressing can't fail");
        self.totals.add(payload.len(), self.output.len(), (self.clock)() - start);
        let deflated = self.output.strip_suffix(&FLUSH_TAIL)?;
        (deflated.len() < payload.len()).then_some(deflated)
    }

    /// To compress for a peer that asks for `window`. Messages may refer back to `sent`, where that was agreed on: what
    /// the peer was sent compressed before.
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
    /// Appends a message as one frame: compressed if that makes it smaller.
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

    /// Repeats itself near and far.
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
    fn what_does_not_shrink_is_not_compressed() {
        let mut deflater = deflater();
        for len in [1, 20, 100, 1000, 70_000] {
            assert_eq!(deflater.deflate(&random(len), WindowBits::MAX), None, "{len} random bytes");
        }
        let payload = compressible(70_000);
        assert!(deflater.deflate(&payload, WindowBits::MAX).is_some_and(|deflated| deflated.len() < payload.len() / 2));
    }

    /// A receiver with no more memory than its window, which it fills byte by byte.
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
    fn nothing_refers_back_beyond_the_window() {
        // All of it again after 600, 5,000 and 20,000 digits, so that a larger window would be used if it could.
        let digits = |len| random(len).iter().map(|byte| b'0' + byte % 10).collect::<Vec<u8>>();
        let payload: Vec<u8> = [600, 5_000, 20_000].map(|len| digits(len).repeat(2)).concat();
        let mut deflater = deflater();
        let mut lens = Vec::new();
        for bits in 9..=15 {
            let deflated = deflater.deflate(&payload, window(bits)).expect("it repeats itself").to_vec();
            assert!(inflate_within(window(bits), &deflated) == payload, "{bits} bits");
            lens.push(deflated.len());
        }
        assert!(lens[0] > lens[6] + 10_000, "{lens:?}");
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
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
