//! A whole frame through the decoder against the least that must be done to it: unmask the payload and see that it is
//! UTF-8. What the decoder is slower by is the price of the protocol.

mod support;

use ringfeed::proto::{Decoder, Event, Opcode, Role, encode_frame};
use ringfeed::simd::utf8;
use support::{Comparisons, Contender};

/// All bytes are ASCII, so that ASCII text masked with it is ASCII text again: both sides can go on with what the turn
/// before left them.
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

/// A masked text frame, masked once more each time it is worked on.
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

/// Unmasks and validates the payload, knowing where it is.
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
