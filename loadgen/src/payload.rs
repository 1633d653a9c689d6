//! What a message carries: its sequence number, its time and a check over the two, as text, then filler up to its size:
//! quotes of a market as JSON, so that it compresses as a feed's messages do.
//!
//! A receiver compares a message with what it expects byte by byte, and reads the stamp only when they differ, to say
//! which fault it is. ASCII throughout, so that the same bytes pass as text and as binary messages.

/// Hexadecimal digits: 16 of sequence, 16 of time, 8 of check.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 40;

/// Bytes of a quote.
const QUOTE_BYTES: usize = 71;

/// What is written at the front of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Position in the sender's order, from 0.
    pub(crate) sequence: u64,
    /// When it was meant to be sent, nanoseconds since the start of the run.
    pub(crate) time_ns: u64,
}

/// Writes a message with this stamp into all of `payload`, which is at least [`PAYLOAD_BYTES_MIN`] long.
pub(crate) fn write(payload: &mut [u8], stamp: Stamp) {
    let (front, filler) = payload.split_at_mut(PAYLOAD_BYTES_MIN);
    write_stamp(front, stamp);
    for (index, chunk) in filler.chunks_mut(QUOTE_BYTES).enumerate() {
        chunk.copy_from_slice(&quote(index).as_bytes()[..chunk.len()]);
    }
}

/// Overwrites the stamp of a message made by [`write()`].
pub(crate) fn write_stamp(payload: &mut [u8], stamp: Stamp) {
    write_hex(&mut payload[..16], stamp.sequence);
    write_hex(&mut payload[16..32], stamp.time_ns);
    write_hex(&mut payload[32..40], u64::from(check(stamp)));
}

/// The stamp of a message; `None` if any byte of it is not as [`write()`] left it.
pub(crate) fn read(payload: &[u8]) -> Option<Stamp> {
    let (front, filler) = payload.split_at_checked(PAYLOAD_BYTES_MIN)?;
    let stamp = Stamp { sequence: read_hex(&front[..16])?, time_ns: read_hex(&front[16..32])? };
    let intact = read_hex(&front[32..])? == u64::from(check(stamp))
        && filler.chunks(QUOTE_BYTES).enumerate().all(|(index, chunk)| quote(index).as_bytes().starts_with(chunk));
    intact.then_some(stamp)
}

/// Piece `index` of the filler, different for each: [`QUOTE_BYTES`] of ASCII.
fn quote(index: usize) -> String {
    const SYMBOLS: [&str; 8] = ["ACME", "BOLT", "CORE", "DUNE", "ECHO", "FLUX", "GRID", "HALO"];
    let mixed = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let digits = |shift: u32, bound: u64| (mixed >> shift) % bound;
    let symbol = SYMBOLS[digits(61, 8) as usize];
    let side = if digits(60, 2) == 0 { "bid" } else { "ask" };
    let (id, whole, cents, size) = (digits(30, 10_000_000), digits(20, 1000), digits(10, 100), digits(40, 10_000));
    format!(r#"{{"id":{id:07},"symbol":"{symbol}","price":{whole:03}.{cents:02},"size":{size:04},"side":"{side}"}},"#)
}

/// Mixes both numbers, so that a changed digit of either changes it.
fn check(stamp: Stamp) -> u32 {
    let mixed = (stamp.sequence ^ stamp.time_ns.rotate_left(32)).wrapping_add(stamp.time_ns);
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

    const STAMP: Stamp = Stamp { sequence: 0x1234, time_ns: 987_654_321_012 };

    fn message(size: usize, stamp: Stamp) -> Vec<u8> {
        let mut payload = vec![0; size];
        write(&mut payload, stamp);
        payload
    }

    #[test]
    fn a_stamp_comes_back() {
        for size in [PAYLOAD_BYTES_MIN, 41, 64, 1024] {
            for stamp in [STAMP, Stamp { sequence: 0, time_ns: 0 }, Stamp { sequence: u64::MAX, time_ns: u64::MAX }] {
                let payload = message(size, stamp);
                assert!(payload.is_ascii());
                assert_eq!(read(&payload), Some(stamp));
            }
        }
    }

    #[test]
    fn quotes_are_of_one_length() {
        assert!((0..1000).all(|index| quote(index).len() == QUOTE_BYTES && quote(index).is_ascii()));
    }

    #[test]
    fn a_new_stamp_makes_the_same_bytes_as_a_new_message() {
        let mut payload = message(64, STAMP);
        let next = Stamp { sequence: STAMP.sequence + 1, time_ns: 5 };
        write_stamp(&mut payload, next);
        assert_eq!(payload, message(64, next));
    }

    #[test]
    fn any_changed_bit_and_any_missing_byte_of_the_stamp_shows() {
        let payload = message(64, STAMP);
        for index in 0..payload.len() {
            for bit in 0..8 {
                let mut changed = payload.clone();
                changed[index] ^= 1 << bit;
                assert_eq!(read(&changed), None, "byte {index}, bit {bit}");
            }
        }
        assert_eq!(read(&payload[..PAYLOAD_BYTES_MIN - 1]), None);
    }
}
