//! Decoding a whole frame, compared with the minimum work: unmask the payload and validate it as UTF-8. The difference
//! is the cost of the protocol.

mod support;

use ringfeed::proto::{Decoder, Event, Opcode, Role, encode_frame};
use ringfeed::simd::utf8;
use support::{Comparisons, Contender};

/// All bytes are ASCII, so that ASCII text masked with this key is ASCII text again: each turn can continue with the
/// result of the turn before.
const KEY: [u8; 4] = [0x37, 0x7a, 0x21, 0x3d];
const SIZES: [usize; 6] = [16, 64, 125, 1 << 10, 16 << 10, 64 << 10];

fn main() {
    let mut comparisons = Comparisons::from_command_line("frame");
    let title = "decode one masked text frame of n bytes of payload, whole in the input, against its bare unmasking and \
                 validation (n / speed = ns a frame)";
    comparisons.table(title, "unmask, validate", "decode");
    for size in SIZES {
        let text: Vec<u8> = (0..size).map(|index| b' ' + (index % 64) as u8).collect();
        comparisons.compare(&format!("{size} B"), size, |_| Bare(Frame::new(&text)), |_| Decode::new(&text));
    }
    comparisons.finish();
}

/// A masked text frame, masked once more each time it is processed.
struct Frame {
    text: Vec<u8>,
    bytes: Vec<u8>,
    header_len: usize,
    is_masked: bool,
}

impl Frame {
    fn new(text: &[u8]) -> Self {
        let mut bytes = Vec::new();
        encode_frame(&mut bytes, Opcode::Text, text, Some(KEY));
        let header_len = bytes.len() - text.len();
        Self { text: text.to_vec(), bytes, header_len, is_masked: true }
    }

    fn check(&self) {
        let key = if self.is_masked { KEY } else { [0; 4] };
        let payload = self.bytes[self.header_len..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
        assert!(payload.eq(self.text.iter().copied()));
    }
}

/// Unmasks and validates the payload at its known position.
struct Bare(Frame);

impl Contender for Bare {
    fn work(&mut self) {
        let payload = &mut self.0.bytes[self.0.header_len..];
        utf8::unmask_and_validate(payload, KEY).expect("ASCII either way");
        self.0.is_masked = !self.0.is_masked;
    }

    fn check(&self) {
        self.0.check();
    }
}

/// Decodes the frame.
struct Decode {
    frame: Frame,
    decoder: Decoder,
}

impl Decode {
    fn new(text: &[u8]) -> Self {
        Self { frame: Frame::new(text), decoder: Decoder::new(Role::Server, 1 << 20) }
    }
}

impl Contender for Decode {
    fn work(&mut self) {
        let mut input = self.frame.bytes.as_mut_slice();
        let Ok(Some(Event::Message(message))) = self.decoder.decode(&mut input) else { panic!("no message") };
        assert_eq!(message.payload.len(), self.frame.text.len());
        self.frame.is_masked = !self.frame.is_masked;
    }

    fn check(&self) {
        self.frame.check();
    }
}
