//! Deltas in the format of Fossil: what turns one text into another, as Centrifugo's SDKs apply it.
//!
//! A delta is the length of its outcome and a newline, then copies from the base (`length@offset,`), inserted bytes
//! (`length:bytes`), and a checksum of the outcome (`sum;`). Numbers have base 64. See "Fossil Delta Format" in
//! Fossil's documentation.

/// Bytes that a copy is found by.
const WINDOW: usize = 8;

/// Distance of the places of the base that copies are found at.
const STRIDE: usize = 4;

/// Places of the base that are compared with one place of the target: bounds the time of repetitive texts.
const CANDIDATES_MAX: usize = 8;

/// The digits of numbers.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// Ends a list of places.
const NONE: u32 = u32::MAX;

/// A part of the base that is a part of the target as well.
#[derive(Clone, Copy, Debug)]
struct Copy {
    base: usize,
    target: usize,
    len: usize,
}

/// A delta that turns `base` into `target`. If `target` is UTF-8, the delta is, too. It takes time in proportion to
/// both lengths; it may be longer than `target`.
///
/// # Panics
/// If `base` has 4 GiB or more.
pub fn fossil_delta(base: &[u8], target: &[u8]) -> Vec<u8> {
    let index = Index::new(base);
    let is_text = std::str::from_utf8(target).is_ok();
    let mut delta = Vec::with_capacity(64);
    push_number(&mut delta, target.len() as u64);
    delta.push(b'\n');
    // Bytes of the target before `done` are in the delta. The end of the last copy in the base is `follows`.
    let (mut at, mut done, mut follows) = (0, 0, 0);
    while at + WINDOW <= target.len() {
        let same_shift = (follows + at).checked_sub(done);
        let copy = index.find(target, at, done, same_shift).map(|copy| if is_text { copy.whole(target) } else { copy });
        let Some(copy) = copy.filter(|copy| copy.len > copy.cost()) else {
            at += 1;
            continue;
        };
        push_insert(&mut delta, &target[done..copy.target]);
        push_number(&mut delta, copy.len as u64);
        delta.push(b'@');
        push_number(&mut delta, copy.base as u64);
        delta.push(b',');
        (done, follows) = (copy.target + copy.len, copy.base + copy.len);
        at = done;
    }
    push_insert(&mut delta, &target[done..]);
    push_number(&mut delta, u64::from(checksum(target)));
    delta.push(b';');
    delta
}

/// Places of the base by a hash of the bytes there.
struct Index<'a> {
    base: &'a [u8],
    /// By hash: the last place with it, in strides.
    last: Vec<u32>,
    /// By place: the one before with the same hash.
    before: Vec<u32>,
}

impl<'a> Index<'a> {
    fn new(base: &'a [u8]) -> Index<'a> {
        let places = base.len().saturating_sub(WINDOW - 1).div_ceil(STRIDE);
        assert!(places < NONE as usize, "the base is too long");
        let mut index =
            Index { base, last: vec![NONE; places.next_power_of_two().max(2)], before: Vec::with_capacity(places) };
        for place in 0..places {
            let bucket = index.bucket(base, place * STRIDE);
            index.before.push(std::mem::replace(&mut index.last[bucket], place as u32));
        }
        index
    }

    fn bucket(&self, bytes: &[u8], at: usize) -> usize {
        let window = bytes[at..at + WINDOW].try_into().expect("a whole window");
        let bits = self.last.len().trailing_zeros();
        (u64::from_le_bytes(window).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize
    }

    /// The longest copy that includes `at` of the target and begins at or after `done`. `same_shift`: the place of the
    /// base that continues the last copy, as if only bytes had changed since.
    fn find(&self, target: &[u8], at: usize, done: usize, same_shift: Option<usize>) -> Option<Copy> {
        let mut best = same_shift.and_then(|place| self.extend(target, at, done, place));
        let mut place = self.last[self.bucket(target, at)];
        for _ in 0..CANDIDATES_MAX {
            if place == NONE {
                break;
            }
            let copy = self.extend(target, at, done, place as usize * STRIDE);
            if copy.map_or(0, |copy| copy.len) > best.map_or(0, |copy| copy.len) {
                best = copy;
            }
            place = self.before[place as usize];
        }
        best
    }

    /// The copy that includes `at` of the target and `place` of the base, if a window of both is equal.
    fn extend(&self, target: &[u8], at: usize, done: usize, place: usize) -> Option<Copy> {
        if self.base.get(place..place + WINDOW)? != &target[at..at + WINDOW] {
            return None;
        }
        let equal = |(a, b): &(&u8, &u8)| a == b;
        let ahead = self.base[place..].iter().zip(&target[at..]).take_while(equal).count();
        let behind = self.base[..place].iter().rev().zip(target[done..at].iter().rev()).take_while(equal).count();
        Some(Copy { base: place - behind, target: at - behind, len: ahead + behind })
    }
}

impl Copy {
    /// The same without the parts of characters at both ends: what is between copies stays UTF-8.
    fn whole(self, target: &[u8]) -> Copy {
        let Copy { base, target: start, len } = self;
        let is_inside = |at: &usize| target.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let skipped = (start..start + len).take_while(is_inside).count();
        let end = (start + skipped..=start + len).rev().find(|at| !is_inside(at)).unwrap_or(start + skipped);
        Copy { base: base + skipped, target: start + skipped, len: end - start - skipped }
    }

    /// Bytes of the copy in a delta, with those of the insert that it ends.
    fn cost(self) -> usize {
        digits(self.len as u64) + digits(self.base as u64) + 2 + 2
    }
}

fn push_insert(delta: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        push_number(delta, bytes.len() as u64);
        delta.push(b':');
        delta.extend_from_slice(bytes);
    }
}

fn push_number(delta: &mut Vec<u8>, number: u64) {
    for place in (0..digits(number)).rev() {
        delta.push(DIGITS[(number >> (6 * place)) as usize & 63]);
    }
}

fn digits(number: u64) -> usize {
    (64 - number.leading_zeros()).div_ceil(6).max(1) as usize
}

/// The sum of the bytes as numbers of 32 bits, the first byte of each the highest.
fn checksum(bytes: &[u8]) -> u32 {
    let number = |chunk: &[u8]| {
        let mut whole = [0; 4];
        whole[..chunk.len()].copy_from_slice(chunk);
        u32::from_be_bytes(whole)
    };
    bytes.chunks(4).map(number).fold(0, u32::wrapping_add)
}

/// Applies deltas, for tests of several modules.
#[cfg(test)]
pub(crate) mod testing {
    use super::{DIGITS, checksum};

    /// What `delta` makes of `base`; `None` if it is malformed.
    pub(crate) fn apply(base: &[u8], mut delta: &[u8]) -> Option<Vec<u8>> {
        let len = number(&mut delta)?;
        take(&mut delta, 1).filter(|end| *end == b"\n")?;
        let mut outcome = Vec::new();
        loop {
            let count = number(&mut delta)?;
            match take(&mut delta, 1)? {
                b"@" => {
                    let from = number(&mut delta)?;
                    take(&mut delta, 1).filter(|end| *end == b",")?;
                    outcome.extend_from_slice(base.get(from..from + count)?);
                }
                b":" => outcome.extend_from_slice(take(&mut delta, count)?),
                b";" => {
                    let is_right = delta.is_empty() && outcome.len() == len && checksum(&outcome) as usize == count;
                    return is_right.then_some(outcome);
                }
                _ => return None,
            }
        }
    }

    fn take<'d>(delta: &mut &'d [u8], count: usize) -> Option<&'d [u8]> {
        let (first, rest) = delta.split_at_checked(count)?;
        *delta = rest;
        Some(first)
    }

    fn number(delta: &mut &[u8]) -> Option<usize> {
        let end = delta.iter().position(|byte| !DIGITS.contains(byte))?;
        let digit = |byte: &u8| DIGITS.iter().position(|digit| digit == byte).expect("a digit");
        let number = delta[..end].iter().fold(0, |sum, byte| sum << 6 | digit(byte));
        *delta = &delta[end..];
        (end > 0).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::apply;
    use super::*;

    #[track_caller]
    fn check(base: &[u8], target: &[u8]) -> usize {
        let delta = fossil_delta(base, target);
        assert_eq!(apply(base, &delta).as_deref(), Some(target), "{}", String::from_utf8_lossy(&delta));
        let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
        assert!(is_text(&delta) || !is_text(target), "the delta of a text is a text");
        delta.len()
    }

    #[test]
    fn a_delta_has_the_published_form() {
        assert_eq!(fossil_delta(b"", b""), b"0\n0;");
        assert_eq!(fossil_delta(b"", b"abcd"), b"4\n4:abcd1XObD_;");
        let base = b"The quick brown fox jumps over the lazy dog";
        assert_eq!(fossil_delta(base, base), b"g\ng@0,1tF1KR;");
    }

    #[test]
    fn small_changes_make_small_deltas() {
        let padding = "x".repeat(500);
        let document = |n: u32| format!(r#"{{"index":{n},"padding":"{padding}","end":true}}"#).into_bytes();
        assert!(check(&document(1), &document(2)) < 30);
        assert!(check(&document(9), &document(10)) < 30, "what follows has moved");
        assert!(check(&document(10), &document(9)) < 30);
        let table = |changed: u32| {
            let row = |n| format!(r#"{{"symbol":"S{n}","bid":{},"ask":{}}}"#, n * 7919 % 1009, n * 104_729 % 1013);
            let rows = (0..20).map(|n| if n == changed { row(n + 1000) } else { row(n) });
            rows.collect::<Vec<_>>().join(",").into_bytes()
        };
        assert!(check(&table(5), &table(11)) * 6 < table(11).len());
    }

    #[test]
    fn repetitive_texts_take_linear_time() {
        let bytes = |count: usize, unit: &[u8]| unit.iter().copied().cycle().take(count).collect::<Vec<u8>>();
        for unit in [&b"a"[..], b"ab", b"abcdefg1", b"abcdefgh1"] {
            check(&bytes(60_000, unit), &bytes(65_000, unit));
            check(&bytes(60_000, unit), &bytes(65_000, b"abcdefgh2"));
        }
    }

    #[test]
    fn characters_stay_whole() {
        check("ä".repeat(50).as_bytes(), ("ö".repeat(9) + &"ä".repeat(50)).as_bytes());
        check("äöäöäöäöäöxxxxxxxxxx".as_bytes(), "ääöäöäöäöäöéxxxxxxxxxx".as_bytes());
        check("😀😁😂🤣😃😄😅😆".as_bytes(), "😀😁😂🤣😃😄😅😇😀😁😂🤣".as_bytes());
    }

    /// Texts that have long parts in common.
    fn edited() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let edit = (any::<prop::sample::Index>(), 0..40_usize, "[a-cä☃]{0,20}");
        ("[ab\"ö0-9]{0,400}", prop::collection::vec(edit, 0..6)).prop_map(|(base, edits)| {
            let mut target: Vec<char> = base.chars().collect();
            for (at, removed, inserted) in edits {
                let at = at.index(target.len() + 1);
                let end = (at + removed).min(target.len());
                target.splice(at..end, inserted.chars());
            }
            (base.into_bytes(), target.into_iter().collect::<String>().into_bytes())
        })
    }

    proptest! {
        #[test]
        fn a_delta_makes_the_target_of_the_base((base, target) in edited()) {
            check(&base, &target);
        }

        #[test]
        fn so_it_does_of_any_bytes(
            base in prop::collection::vec(0_u8..4, 0..300),
            target in prop::collection::vec(any::<u8>(), 0..50),
            more in prop::collection::vec(0x80_u8..0x84, 0..300),
        ) {
            check(&base, &[&base[base.len() / 3..], &target[..], &more[..]].concat());
            check(&more, &[&more[more.len() / 2..], &base[..]].concat());
        }
    }
}
