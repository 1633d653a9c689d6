//! Unmasking and validating a text in one pass, compared with two passes and with validating alone.

#[path = "support/placed_bytes.rs"]
mod placed_bytes;
mod support;

use placed_bytes::PlacedBytes;
use ringfeed::simd::utf8::InvalidUtf8;
use ringfeed::simd::{mask, utf8};
use support::{Comparisons, Contender};

/// Exchanges each text of this bench with another valid one of the same shape, so that every call gets masked text and
/// leaves valid text, without a fresh copy.
const KEY: [u8; 4] = [1; 4];
const SIZES: [usize; 7] = [16, 64, 125, 1 << 10, 4 << 10, 64 << 10, 1 << 20];
/// Length of a masked frame header with a 16-bit length (RFC 6455 §5.2): the offset of most large payloads.
const HEADER_BYTES: usize = 8;

/// Maps a random number to the next character of a text.
type Character = fn(u32) -> char;

const TEXTS: [(&str, Character); 4] = [
    ("ASCII", ascii),
    ("2 % accents", |random| if random % 50 == 0 { 'é' } else { ascii(random) }),
    ("CJK", |random| char::from_u32(0x4e00 + random % 0x5000).expect("an ideograph")),
    ("emoji", |random| char::from_u32(0x1f600 + random % 0x50).expect("an emoticon")),
];

fn main() {
    let mut comparisons = Comparisons::from_command_line("utf8");
    comparisons.table("unmask_and_validate against unmask, then validate", "two passes", "one pass");
    compare_texts(&mut comparisons, two_passes);
    comparisons.table(
        "unmask_and_validate against validate alone, of text that was never masked",
        "validate",
        "one pass",
    );
    compare_texts(&mut comparisons, validate_alone);
    comparisons.finish();
}

fn compare_texts(comparisons: &mut Comparisons, baseline: Judge) {
    for (name, character) in TEXTS {
        for size in SIZES {
            let text = text(size, character);
            let place = |copy: usize| HEADER_BYTES + copy * size.next_multiple_of(64);
            comparisons.compare(
                &format!("{name}, {size} B"),
                size,
                |copy| Judgement::new(&text, place(copy), baseline),
                |copy| Judgement::new(&text, place(copy), one_pass),
            );
        }
    }
}

/// A way to validate a text.
type Judge = fn(&mut [u8]) -> Result<(), InvalidUtf8>;

fn one_pass(text: &mut [u8]) -> Result<(), InvalidUtf8> {
    utf8::unmask_and_validate(text, KEY)
}

fn two_passes(text: &mut [u8]) -> Result<(), InvalidUtf8> {
    mask::unmask(text, KEY, 0);
    utf8::validate(text)
}

fn validate_alone(text: &mut [u8]) -> Result<(), InvalidUtf8> {
    utf8::validate(text)
}

/// Validates the same text repeatedly.
struct Judgement {
    judge: Judge,
    original: String,
    text: PlacedBytes,
    valid_count: u64,
    count: u64,
}

impl Judgement {
    fn new(text: &str, offset: usize, judge: Judge) -> Self {
        Self {
            judge,
            original: text.to_owned(),
            text: PlacedBytes::new(text.as_bytes(), offset),
            valid_count: 0,
            count: 0,
        }
    }
}

impl Contender for Judgement {
    fn work(&mut self) {
        self.count += 1;
        self.valid_count += u64::from((self.judge)(&mut self.text).is_ok());
    }

    fn check(&self) {
        assert_eq!(self.valid_count, self.count);
        let is_swapped = self.text.first() != self.original.as_bytes().first();
        let key = if is_swapped { KEY[0] } else { 0 };
        let expected = self.original.bytes().map(|byte| byte ^ key);
        assert!(self.text.iter().copied().eq(expected));
    }
}

/// A text of exactly `size` bytes. It ends in ASCII if the next character would not fit.
fn text(size: usize, character: Character) -> String {
    let mut state = 1_u32;
    let random = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    });
    let mut text = String::with_capacity(size);
    for next in random.map(character) {
        if text.len() + next.len_utf8() > size {
            break;
        }
        text.push(next);
    }
    text.extend(std::iter::repeat_n('.', size - text.len()));
    text
}

fn ascii(random: u32) -> char {
    char::from(b' ' + (random / 64 % 95) as u8)
}
