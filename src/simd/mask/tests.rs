//! One table of cases, run on every kernel of this CPU and on the public functions, and compared byte by byte with the
//! formula of RFC 6455 §5.3.

use super::choose::{Kernel, available};

const LENGTH_MAX: usize = 257;
const ALIGNMENTS: usize = 64;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Large enough for each length at each alignment, with room on both sides to check that it stays untouched.
#[repr(align(64))]
#[derive(Clone)]
struct Arena([u8; ALIGNMENTS + LENGTH_MAX + 64]);

impl Arena {
    /// Bytes without a period that could hide an error of a kernel.
    fn patterned() -> Self {
        let mut state = 1_u32;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }))
    }

    /// Bytes that are ASCII once unmasked with [`KEY`], from `phase`, beginning at `start`.
    fn masked_ascii(start: usize, phase: usize) -> Self {
        let mut arena = Self::patterned();
        arena.0.iter_mut().for_each(|byte| *byte &= 0x7f);
        mask_by_formula(&mut arena.0[start..], phase);
        arena
    }
}

/// "transformed-octet-i = original-octet-i XOR masking-key-octet-j, where j = i MOD 4".
fn mask_by_formula(bytes: &mut [u8], phase: usize) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= KEY[(phase + index) % 4];
    }
}

/// The public function, tested like a kernel.
struct Public;

impl Kernel for Public {
    fn name(&self) -> &'static str {
        "public"
    }

    fn unmask_is_ascii(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        super::unmask_is_ascii(bytes, key, phase)
    }

    fn unmask_is_utf8(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        super::unmask_is_utf8(bytes, key, phase)
    }
}

/// Calls `test` with each kernel of this CPU, and prints the missing ones.
fn for_each_kernel(test: impl Fn(&dyn Kernel)) {
    let kernels = available();
    for missing in ["avx512", "avx2", "sse2", "neon"] {
        if !kernels.iter().any(|kernel| kernel.name() == missing) {
            println!("skipped: this CPU has no {missing}");
        }
    }
    kernels.into_iter().for_each(&test);
    test(&Public);
}

#[test]
fn every_kernel_follows_the_formula_for_all_lengths_alignments_and_phases() {
    let original = Arena::patterned();
    for_each_kernel(|kernel| {
        for length in 0..=LENGTH_MAX {
            for start in 0..ALIGNMENTS {
                for phase in 0..4 {
                    let mut expected = original.clone();
                    mask_by_formula(&mut expected.0[start..start + length], phase);
                    let is_ascii = expected.0[start..start + length].is_ascii();
                    let mut found = original.clone();
                    let verdict = kernel.unmask_is_ascii(&mut found.0[start..start + length], KEY, phase);
                    let case = format!("{} length {length} start {start} phase {phase}", kernel.name());
                    assert_eq!(found.0, expected.0, "{case}");
                    assert_eq!(verdict, is_ascii, "{case}");
                }
            }
        }
    });
}

#[test]
fn every_kernel_detects_one_high_bit_at_each_position() {
    for_each_kernel(|kernel| {
        for start in 0..ALIGNMENTS {
            let phase = start + 1;
            let masked = Arena::masked_ascii(start, phase);
            for length in 0..=LENGTH_MAX {
                let case = format!("{} length {length} start {start}", kernel.name());
                let mut arena = masked.clone();
                let bytes = &mut arena.0[start..start + length];
                assert!(kernel.unmask_is_ascii(bytes, KEY, phase), "{case}");
                for position in 0..length {
                    let mut arena = masked.clone();
                    let bytes = &mut arena.0[start..start + length];
                    bytes[position] ^= 0x80;
                    assert!(!kernel.unmask_is_ascii(bytes, KEY, phase), "{case} position {position}");
                }
            }
        }
    });
}

#[test]
fn bytes_around_the_payload_do_not_affect_the_result() {
    for_each_kernel(|kernel| {
        for length in 0..=LENGTH_MAX {
            let mut arena = Arena([0xff; _]);
            let bytes = &mut arena.0[7..7 + length];
            bytes.fill(b'a');
            mask_by_formula(bytes, 2);
            assert!(kernel.unmask_is_ascii(bytes, KEY, 2), "{} length {length}", kernel.name());
        }
    });
}

#[test]
fn unmasking_in_pieces_equals_unmasking_at_once() {
    let mut whole = vec![0x5a; 1000];
    mask_by_formula(&mut whole, 0);
    for cut in 0..whole.len() {
        let mut pieces = vec![0x5a; 1000];
        let (first, second) = pieces.split_at_mut(cut);
        super::unmask(first, KEY, 0);
        super::unmask(second, KEY, cut);
        assert_eq!(pieces, whole, "cut at {cut}");
    }
}

#[test]
fn the_phase_counts_modulo_four_up_to_the_largest() {
    for phase in [4, 1 << 32, usize::MAX] {
        for length in [3, 40, 200] {
            let (mut found, mut expected) = (vec![0x11; length], vec![0x11; length]);
            super::unmask(&mut found, KEY, phase);
            mask_by_formula(&mut expected, phase % 4);
            assert_eq!(found, expected, "phase {phase} length {length}");
        }
    }
}

/// Lengths around which the code path of a text changes: the shortest, a vector, a step of the walk, a block ahead of
/// the validator, and several of each.
const TEXT_LENGTHS: [usize; 10] = [0, 1, 31, 64, 65, 257, 300, 600, 850, 1500];

/// Checks that `kernel`, given `text` masked, unmasks it, validates it like the standard library, and changes no other
/// bytes.
fn check_text(kernel: &dyn Kernel, text: &[u8], start: usize, phase: usize) {
    let mut expected = AlignedText([0xff; _]);
    expected.0[start..start + text.len()].copy_from_slice(text);
    let mut found = AlignedText(expected.0);
    let bytes = &mut found.0[start..start + text.len()];
    mask_by_formula(bytes, phase);
    let verdict = kernel.unmask_is_utf8(bytes, KEY, phase);
    let name = kernel.name();
    assert_eq!(verdict, std::str::from_utf8(text).is_ok(), "{name} start {start} phase {phase} {text:x?}");
    assert!(found.0 == expected.0, "{name} start {start} phase {phase} {text:x?}");
}

/// Large enough for the longest text at each alignment, with room on both sides.
#[repr(align(64))]
struct AlignedText([u8; ALIGNMENTS + 1500 + 64]);

/// Checks `text` with each of its bytes replaced in turn: by a letter, which is valid only within ASCII, and by a lead
/// byte.
fn check_broken_everywhere(kernel: &dyn Kernel, text: &str) {
    check_text(kernel, text.as_bytes(), 8, 3);
    for position in 0..text.len() {
        for other in [b'a', 0xc3] {
            let mut broken = text.as_bytes().to_vec();
            broken[position] = other;
            check_text(kernel, &broken, position % ALIGNMENTS, position);
        }
    }
}

/// A text of `length` bytes: `ascii_len` of ASCII, then `character` repeatedly, then ASCII where it would not fit.
fn turning_text(length: usize, ascii_len: usize, character: &str) -> String {
    let mut text = "a".repeat(ascii_len) + &character.repeat((length - ascii_len) / character.len());
    text.extend(std::iter::repeat_n('z', length - text.len()));
    text
}

#[test]
fn every_kernel_rejects_text_with_any_byte_broken() {
    for_each_kernel(|kernel| {
        for length in TEXT_LENGTHS {
            check_broken_everywhere(kernel, &turning_text(length, length, "a"));
            check_broken_everywhere(kernel, &turning_text(length, 0, "水"));
            check_broken_everywhere(kernel, &turning_text(length, 0, "😀"));
            check_broken_everywhere(kernel, &turning_text(length, length / 2, "aaaaaaaaaaaaaaaaaaaaaaaaaaaé"));
        }
    });
}

#[test]
fn every_kernel_validates_a_character_whole_or_cut_at_each_position() {
    for_each_kernel(|kernel| {
        for length in TEXT_LENGTHS {
            for character in ["é", "水", "😀"] {
                for position in 0..length {
                    let mut text = vec![b'a'; length];
                    let end = length.min(position + character.len());
                    text[position..end].copy_from_slice(&character.as_bytes()[..end - position]);
                    check_text(kernel, &text, position % ALIGNMENTS, position);
                    text[end - 1] = b'a';
                    check_text(kernel, &text, position % ALIGNMENTS, position);
                }
            }
        }
    });
}

#[test]
fn every_kernel_validates_text_that_changes_from_ascii_at_all_lengths_and_alignments() {
    for_each_kernel(|kernel| {
        for length in (0..LENGTH_MAX).chain([600, 1100, 1363, 1500]) {
            for start in 0..ALIGNMENTS {
                let text = turning_text(length, start * length / ALIGNMENTS, "水");
                check_text(kernel, text.as_bytes(), start, length);
                check_text(kernel, &text.as_bytes()[..length - length.min(1)], start, length);
            }
        }
    });
}
