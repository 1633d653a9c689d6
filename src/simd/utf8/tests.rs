//! Tables and random texts, split everywhere, compared with the tables themselves and with `std::str::from_utf8`.

use proptest::prelude::*;

use super::{CHUNK_BYTES, InvalidUtf8, Utf8Stream, unmask_and_validate, validate};
use crate::simd::mask;

const KEY: [u8; 4] = [0x8f, 0x01, 0xe2, 0x7c];

/// Valid texts.
const VALID: &[(&str, &[u8])] = &[
    ("empty", b""),
    ("ASCII", b"Hello, \0\x7f"),
    ("first of two bytes, U+0080", &[0xc2, 0x80]),
    ("last of two bytes, U+07FF", &[0xdf, 0xbf]),
    ("first of three bytes, U+0800", &[0xe0, 0xa0, 0x80]),
    ("last before the surrogates, U+D7FF", &[0xed, 0x9f, 0xbf]),
    ("first after the surrogates, U+E000", &[0xee, 0x80, 0x80]),
    ("noncharacter, U+FFFF", &[0xef, 0xbf, 0xbf]),
    ("first of four bytes, U+10000", &[0xf0, 0x90, 0x80, 0x80]),
    ("last of all, U+10FFFF", &[0xf4, 0x8f, 0xbf, 0xbf]),
    ("one of each length", "aé水𝄞".as_bytes()),
];

/// Invalid texts, and the index of the byte that excludes every continuation; the length if only the end does.
const INVALID: &[(&str, &[u8], usize)] = &[
    ("lone continuation", &[0x80], 0),
    ("lone continuation after ASCII", &[b'a', 0xbf, b'a'], 1),
    ("one continuation too many", &[0xc3, 0xa9, 0xa9], 2),
    ("overlong of two bytes, C0", &[0xc0, 0x80], 0),
    ("overlong of two bytes, C1", &[0xc1, 0xbf], 0),
    ("overlong of three bytes", &[0xe0, 0x9f, 0xbf], 1),
    ("overlong of four bytes", &[0xf0, 0x8f, 0xbf, 0xbf], 1),
    ("first surrogate, U+D800", &[0xed, 0xa0, 0x80], 1),
    ("last surrogate, U+DFFF", &[0xed, 0xbf, 0xbf], 1),
    ("above U+10FFFF", &[0xf4, 0x90, 0x80, 0x80], 1),
    ("lead of a range never assigned, F5", &[0xf5, 0x80, 0x80, 0x80], 0),
    ("lead of five bytes", &[0xf8, 0x88, 0x80, 0x80, 0x80], 0),
    ("lead of six bytes", &[0xfc, 0x84, 0x80, 0x80, 0x80, 0x80], 0),
    ("FE", &[0xfe], 0),
    ("FF", &[0xff], 0),
    ("two bytes cut after one", &[0xc3], 1),
    ("three bytes cut after one", &[0xe6], 1),
    ("three bytes cut after two", &[0xe6, 0xb0], 2),
    ("four bytes cut after one", &[0xf0], 1),
    ("four bytes cut after two", &[0xf0, 0x9f], 2),
    ("four bytes cut after three", &[0xf0, 0x9f, 0x98], 3),
    ("two bytes broken by ASCII", &[0xc3, b'a'], 1),
    ("three bytes broken by ASCII", &[0xe6, 0xb0, b'a'], 2),
    ("four bytes broken by ASCII", &[0xf0, 0x9f, 0x98, b'a'], 3),
    ("four bytes broken by a lead", &[0xf0, 0x9f, 0xf0, 0x9f], 2),
    ("the text of Autobahn 6.4", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited", 12),
];

/// Lengths of ASCII around a case: none, and enough for each code path of the validator and each edge of a chunk.
const PADDING: [usize; 10] =
    [0, 1, 62, 64, 129, CHUNK_BYTES - 3, CHUNK_BYTES - 2, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 60];

/// Whether some continuation could make `bytes` valid, according to the standard library.
fn is_viable(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none()) || std::str::from_utf8(bytes).is_ok()
}

/// Feeds the pieces between the `cuts`, unmasked and masked, and compares each result with the standard library's.
fn check_pieces(text: &[u8], cuts: &[usize]) {
    let (mut plain, mut fused) = (Utf8Stream::default(), Utf8Stream::default());
    let mut masked = text.to_vec();
    mask::unmask(&mut masked, KEY, 0);
    let edges: Vec<usize> = [0].into_iter().chain(cuts.iter().copied()).chain([text.len()]).collect();
    for edge in edges.windows(2) {
        let (start, end) = (edge[0], edge[1]);
        let expected = if is_viable(&text[..end]) { Ok(()) } else { Err(InvalidUtf8) };
        assert_eq!(plain.feed(&text[start..end]), expected, "{text:x?} cut at {cuts:?}: {start}..{end}");
        let piece = &mut masked[start..end];
        assert_eq!(
            fused.unmask_and_feed(piece, KEY, start),
            expected,
            "masked {text:x?} cut at {cuts:?}: {start}..{end}"
        );
        if expected.is_err() {
            return;
        }
    }
    assert_eq!(masked, text);
    let expected = std::str::from_utf8(text).map(drop).map_err(|_| InvalidUtf8);
    assert_eq!(plain.finish(), expected, "{text:x?} cut at {cuts:?}, at the end");
    assert_eq!(fused.finish(), expected, "masked {text:x?} cut at {cuts:?}, at the end");
}

/// Checks the functions for whole texts.
fn check_whole(text: &[u8]) {
    let expected = std::str::from_utf8(text).map(drop).map_err(|_| InvalidUtf8);
    assert_eq!(validate(text), expected);
    let mut bytes = text.to_vec();
    mask::unmask(&mut bytes, KEY, 0);
    assert_eq!(unmask_and_validate(&mut bytes, KEY), expected);
    if expected.is_ok() {
        assert_eq!(bytes, text);
    }
}

/// `case` with `before` bytes of ASCII in front and `after` bytes behind.
fn padded(case: &[u8], before: usize, after: usize) -> Vec<u8> {
    [&vec![b'x'; before][..], case, &vec![b'y'; after]].concat()
}

fn all_cases() -> impl Iterator<Item = &'static [u8]> {
    VALID.iter().map(|(_, case)| *case).chain(INVALID.iter().map(|(_, case, _)| *case))
}

#[test]
fn a_stream_is_four_bytes() {
    assert_eq!(size_of::<Utf8Stream>(), 4);
}

#[test]
fn valid_texts_pass_byte_by_byte() {
    for (name, case) in VALID {
        let mut stream = Utf8Stream::default();
        for byte in *case {
            assert_eq!(stream.feed(&[*byte]), Ok(()), "{name}");
        }
        assert_eq!(stream.finish(), Ok(()), "{name}");
    }
}

#[test]
fn invalid_texts_fail_at_the_first_impossible_byte() {
    for (name, case, hopeless) in INVALID {
        let mut stream = Utf8Stream::default();
        for byte in &case[..*hopeless] {
            assert_eq!(stream.feed(&[*byte]), Ok(()), "{name}");
        }
        let last = match case.get(*hopeless) {
            Some(byte) => stream.feed(&[*byte]),
            None => stream.finish(),
        };
        assert_eq!(last, Err(InvalidUtf8), "{name}");
    }
}

#[test]
fn every_case_split_at_every_pair_of_points() {
    for text in all_cases().map(|case| padded(case, 2, 2)) {
        for first in 0..=text.len() {
            for second in first..=text.len() {
                check_pieces(&text, &[first, second]);
            }
        }
    }
}

#[test]
fn every_case_among_long_ascii_whole_and_split_around_it() {
    for case in all_cases() {
        for before in PADDING {
            for after in [0, 1, 63, 200] {
                let text = padded(case, before, after);
                check_whole(&text);
                for cut in before..=before + case.len() {
                    check_pieces(&text, &[cut]);
                }
            }
        }
    }
}

#[test]
fn every_case_after_other_text() {
    for case in all_cases() {
        for count in [1, 21, 43, CHUNK_BYTES / 3] {
            let text = ["水".repeat(count).as_bytes(), case].concat();
            check_whole(&text);
            check_pieces(&text, &[3 * count - 1]);
        }
    }
}

#[test]
fn a_stream_is_reusable_after_an_error_and_after_the_end() {
    for (name, case, _) in INVALID {
        let mut stream = Utf8Stream::default();
        let verdict = stream.feed(case).and_then(|()| stream.finish());
        assert_eq!(verdict, Err(InvalidUtf8), "{name}");
        assert_eq!(stream.feed("水".as_bytes()), Ok(()), "{name}");
        assert_eq!(stream.finish(), Ok(()), "{name}");
    }
}

/// Texts of which about half are valid: characters of all lengths, and sometimes a few random bytes.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let characters = prop::collection::vec(any::<char>(), 0..40)
        .prop_map(|chars| chars.into_iter().collect::<String>().into_bytes());
    let ascii = "[ -~]{0,200}".prop_map(String::into_bytes);
    let bytes = prop::collection::vec(0x7f_u8.., 1..4);
    let part = prop_oneof![8 => characters, 4 => ascii, 1 => bytes];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_text_in_any_pieces_has_the_result_of_the_standard_library(
        text in any_text(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        check_whole(&text);
        check_pieces(&text, &cuts);
    }
}
