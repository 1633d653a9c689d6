//! The payload of a message: a JSON array of a stamp and filler. The stamp is a sequence number, the name of the run, a
//! time and a checksum of all. The filler consists of market quotes, so that messages compress like those of a feed.
//!
//! A receiver compares a message with the expected one byte by byte, and reads the stamp only if they differ, to name
//! the fault. Payloads are ASCII and JSON, so that the same bytes work as text, as a binary message, and unchanged in
//! protocols that require JSON data.

use std::collections::hash_map::RandomState;
use std::fmt::Write;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

/// Hexadecimal digits of a stamp within a message: 16 of sequence, 4 of run, 12 of time, 8 of checksum.
const STAMP: Range<usize> = 2..42;

/// The digits of the sequence number.
const SEQUENCE: Range<usize> = 2..18;

/// The bytes before and after the stamp, and at the end of a message.
const BEFORE: &[u8] = b"[\"";
const BEHIND: &[u8] = b"\"";
const END: &[u8] = b"]";

/// Size of a message that contains only a stamp.
pub(crate) const PAYLOAD_BYTES_MIN: usize = STAMP.end + BEHIND.len() + END.len();

/// Bytes of a quote, including the comma before it.
const QUOTE_BYTES: usize = 71;

/// Bits of a time: three days in nanoseconds.
const TIME_BITS: u32 = 48;

/// The latest time of a stamp.
const TIME_MAX: u64 = (1 << TIME_BITS) - 1;

/// Tells the messages of runs apart that publish on the same topic.
pub(crate) type RunName = u16;

/// A random name.
pub(crate) fn random_run() -> RunName {
    RandomState::new().build_hasher().finish() as RunName
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) run: RunName,
    /// Position in the sender's order, from 0.
    pub(crate) sequence: u64,
    /// Scheduled sending time, nanoseconds since the start of the run.
    pub(crate) time_ns: u64,
}

/// Fills `payload` with a message that has this stamp. `payload` must have at least [`PAYLOAD_BYTES_MIN`] bytes.
pub(crate) fn write(payload: &mut [u8], stamp: Stamp) {
    let filler = filler(payload.len() - PAYLOAD_BYTES_MIN);
    let parts = [BEFORE, &[0; STAMP.end - STAMP.start], BEHIND, filler.as_bytes(), END];
    payload.copy_from_slice(&parts.concat());
    write_stamp(payload, stamp);
}

/// Overwrites the stamp of a message made by [`write()`].
pub(crate) fn write_stamp(payload: &mut [u8], stamp: Stamp) {
    let digits = &mut payload[STAMP];
    write_hex(&mut digits[..16], stamp.sequence);
    write_hex(&mut digits[16..32], run_and_time(stamp));
    write_hex(&mut digits[32..], u64::from(check(stamp)));
}

/// Reads the stamp of a message; `None` if any byte of it differs from what [`write()`] wrote.
pub(crate) fn read(payload: &[u8]) -> Option<Stamp> {
    let digits = payload.get(STAMP)?;
    let (sequence, second) = (read_hex(&digits[..16])?, read_hex(&digits[16..32])?);
    let stamp = Stamp { run: (second >> TIME_BITS) as RunName, sequence, time_ns: second & TIME_MAX };
    let mut intact = vec![0; payload.len().max(PAYLOAD_BYTES_MIN)];
    write(&mut intact, stamp);
    (intact == payload).then_some(stamp)
}

/// Reads the sequence number at the front of a message without checking it.
pub(crate) fn peek_sequence(payload: &[u8]) -> Option<u64> {
    read_hex(payload.get(SEQUENCE)?)
}

/// `len` bytes of array elements, each with a comma before it: distinct quotes, and the beginning of one more as a
/// string. If not even an empty string fits, spaces.
fn filler(len: usize) -> String {
    let whole = len / QUOTE_BYTES;
    let mut text: String = (0..whole).map(quote).collect();
    let rest = len - text.len();
    match rest.checked_sub(r#","""#.len()) {
        Some(front) => write!(text, r#","{:.front$}""#, quote(whole).replace('"', "'")).expect("to a String"),
        None => text.push_str(&" ".repeat(rest)),
    }
    text
}

/// Quote `index`: [`QUOTE_BYTES`] of ASCII.
fn quote(index: usize) -> String {
    const SYMBOLS: [&str; 8] = ["ACME", "BOLT", "CORE", "DUNE", "ECHO", "FLUX", "GRID", "HALO"];
    let mixed = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let digits = |shift: u32, bound: u64| (mixed >> shift) % bound;
    let symbol = SYMBOLS[digits(61, 8) as usize];
    let side = if digits(60, 2) == 0 { "bid" } else { "ask" };
    // JSON numbers must not begin with a zero.
    let (id, size) = (1_000_000 + digits(30, 9_000_000), 1_000 + digits(40, 9_000));
    let (whole, cents) = (100 + digits(20, 900), digits(10, 100));
    format!(r#",{{"id":{id},"symbol":"{symbol}","price":{whole}.{cents:02},"size":{size},"side":"{side}"}}"#)
}

fn run_and_time(stamp: Stamp) -> u64 {
    u64::from(stamp.run) << TIME_BITS | stamp.time_ns & TIME_MAX
}

/// A checksum that depends on every digit.
fn check(stamp: Stamp) -> u32 {
    let second = run_and_time(stamp);
    let mixed = (stamp.sequence ^ second.rotate_left(32)).wrapping_add(second);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

fn write_hex(digits: &mut [u8], number: u64) {
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
    }
}

fn read_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Stamp = Stamp { run: 0xbeef, sequence: 0x1234, time_ns: 987_654_321_012 };

    fn message(size: usize, stamp: Stamp) -> Vec<u8> {
        let mut payload = vec![0; size];
        write(&mut payload, stamp);
        payload
    }

    #[test]
    fn a_written_stamp_is_read_back() {
        for size in (PAYLOAD_BYTES_MIN..200).chain([1024]) {
            let largest = Stamp { run: u16::MAX, sequence: u64::MAX, time_ns: TIME_MAX };
            for stamp in [ONE, Stamp { run: 0, sequence: 0, time_ns: 0 }, largest] {
                let payload = message(size, stamp);
                assert!(payload.is_ascii());
                assert!(serde_json::from_slice::<Vec<serde_json::Value>>(&payload).is_ok(), "{size}");
                assert_eq!(read(&payload), Some(stamp));
                assert_eq!(peek_sequence(&payload[..SEQUENCE.end]), Some(stamp.sequence));
            }
        }
    }

    #[test]
    fn quotes_have_one_length() {
        assert!((0..1000).all(|index| quote(index).len() == QUOTE_BYTES && quote(index).is_ascii()));
    }

    #[test]
    fn a_new_stamp_makes_the_same_bytes_as_a_new_message() {
        let mut payload = message(64, ONE);
        let next = Stamp { sequence: ONE.sequence + 1, time_ns: 5, ..ONE };
        write_stamp(&mut payload, next);
        assert_eq!(payload, message(64, next));
    }

    #[test]
    fn any_changed_bit_and_any_missing_byte_is_detected() {
        let payload = message(64, ONE);
        for index in 0..payload.len() {
            for bit in 0..8 {
                let mut changed = payload.clone();
                changed[index] ^= 1 << bit;
                assert_eq!(read(&changed), None, "byte {index}, bit {bit}");
            }
        }
        (0..payload.len()).for_each(|len| assert_eq!(read(&payload[..len]), None, "{len}"));
        (0..SEQUENCE.end).for_each(|len| assert_eq!(peek_sequence(&payload[..len]), None, "{len}"));
    }
}
