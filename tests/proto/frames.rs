//! Tables of frames: input, and the expected events. Every row is fed whole, byte by byte and at every split.

use ringfeed::proto::ProtocolError::{self, *};
use ringfeed::proto::{Decoder, Role};

use crate::support::Seen::{self, *};
use crate::support::{ROLES, decode_cut, feed, frame};

/// The message bound of every table: small, so that rows can exceed it.
const MESSAGE_BYTES_MAX: u32 = 1000;

/// Checks one row, cut in every way.
fn check(name: &str, role: Role, bytes: &[u8], expected: &[Seen]) {
    let decode = |cuts: &[usize]| decode_cut(role, MESSAGE_BYTES_MAX, bytes, cuts);
    assert_eq!(decode(&[]), expected, "{name}, {role:?}, whole");
    let every_byte: Vec<usize> = (1..bytes.len()).collect();
    assert_eq!(decode(&every_byte), expected, "{name}, {role:?}, byte by byte");
    for split in 0..=bytes.len() {
        assert_eq!(decode(&[split]), expected, "{name}, {role:?}, split at {split}");
    }
}

/// A name, frames as `(first byte, payload)`, and the expected events.
type Row<'a> = (&'a str, &'a [(u8, &'a [u8])], &'a [Seen]);

/// Checks rows of frames, with the lengths and the masking that each role's peer must use.
fn check_frames(rows: &[Row<'_>]) {
    for (name, frames, expected) in rows {
        for role in ROLES {
            let bytes: Vec<u8> = frames.iter().flat_map(|&(first, payload)| frame(role, first, payload)).collect();
            check(name, role, &bytes, expected);
        }
    }
}

fn text(text: &str) -> Seen {
    Text(text.into())
}

fn binary(payload: &[u8]) -> Seen {
    Binary(payload.into())
}

fn ping(payload: &[u8]) -> Seen {
    Ping(payload.into())
}

fn pong(payload: &[u8]) -> Seen {
    Pong(payload.into())
}

fn close(code: u16, reason: &str) -> Seen {
    Close(Some(code), reason.into())
}

#[test]
#[rustfmt::skip] // One row, one line.
fn messages_and_control_frames() {
    check_frames(&[
        ("nothing", &[], &[]),
        ("text", &[(0x81, b"Hello")], &[text("Hello")]),
        ("empty text", &[(0x81, b"")], &[text("")]),
        ("text outside of ASCII", &[(0x81, "κόσμε 🦀".as_bytes())], &[text("κόσμε 🦀")]),
        ("binary that is not UTF-8", &[(0x82, b"\xff\x00\xfe")], &[binary(b"\xff\x00\xfe")]),
        ("empty binary", &[(0x82, b"")], &[binary(b"")]),
        ("two messages", &[(0x81, b"a"), (0x82, b"b")], &[text("a"), binary(b"b")]),
        ("two-byte length", &[(0x82, &[7; 126])], &[binary(&[7; 126])]),
        ("ping", &[(0x89, b"are you there")], &[ping(b"are you there")]),
        ("empty ping", &[(0x89, b"")], &[ping(b"")]),
        ("longest ping", &[(0x89, &[9; 125])], &[ping(&[9; 125])]),
        ("ping that is not UTF-8", &[(0x89, b"\xff")], &[ping(b"\xff")]),
        ("unasked pong", &[(0x8a, b"yes")], &[pong(b"yes")]),
        ("as large as allowed", &[(0x82, &[1; 1000])], &[binary(&[1; 1000])]),
    ]);
}

#[test]
#[rustfmt::skip] // One row, one line.
fn fragments() {
    check_frames(&[
        ("two", &[(0x01, b"Hel"), (0x80, b"lo")], &[text("Hello")]),
        ("three, binary", &[(0x02, b"\xff"), (0x00, b"\xfe"), (0x80, b"\xfd")], &[binary(b"\xff\xfe\xfd")]),
        ("all empty", &[(0x01, b""), (0x00, b""), (0x80, b"")], &[text("")]),
        ("empty last", &[(0x01, b"all"), (0x80, b"")], &[text("all")]),
        ("empty first", &[(0x02, b""), (0x80, b"all")], &[binary(b"all")]),
        ("cut inside a character", &[(0x01, b"\xf0\x9f"), (0x00, b"\xa6"), (0x80, b"\x80")], &[text("🦀")]),
        (
            "control frames between",
            &[
                (0x01, b"a"), (0x89, b"1"), (0x8a, b""),
                (0x00, b"b"), (0x89, b"2"), (0x80, b"c"),
            ],
            &[ping(b"1"), pong(b""), ping(b"2"), text("abc")],
        ),
        ("ping inside a character", &[(0x01, b"\xc3"), (0x89, b"\xa9"), (0x80, b"\xa9")], &[ping(b"\xa9"), text("é")]),
        ("a message after", &[(0x01, b"a"), (0x80, b"b"), (0x82, b"c")], &[text("ab"), binary(b"c")]),
        ("two fragmented", &[(0x01, b"a"), (0x80, b"b"), (0x02, b"c"), (0x80, b"d")], &[text("ab"), binary(b"cd")]),
        ("as large as allowed", &[(0x02, &[1; 999]), (0x80, &[1; 1])], &[binary(&[1; 1000])]),
    ]);
}

#[test]
#[rustfmt::skip] // One row, one line.
fn fragments_out_of_order() {
    check_frames(&[
        ("continuation of nothing", &[(0x80, b"x")], &[Failed(UnexpectedContinuation)]),
        ("unfinished continuation of nothing", &[(0x00, b"x")], &[Failed(UnexpectedContinuation)]),
        (
            "continuation after a whole message",
            &[(0x81, b"a"), (0x80, b"b")],
            &[text("a"), Failed(UnexpectedContinuation)],
        ),
        (
            "continuation after the last",
            &[(0x01, b"a"), (0x80, b"b"), (0x80, b"c")],
            &[text("ab"), Failed(UnexpectedContinuation)],
        ),
        ("text inside text", &[(0x01, b"a"), (0x81, b"b")], &[Failed(ExpectedContinuation)]),
        ("binary inside text", &[(0x01, b"a"), (0x02, b"b")], &[Failed(ExpectedContinuation)]),
        (
            "text inside binary, after a ping",
            &[(0x02, b"a"), (0x89, b""), (0x81, b"b")],
            &[ping(b""), Failed(ExpectedContinuation)],
        ),
        ("fragmented ping", &[(0x09, b"a")], &[Failed(ControlFragmented)]),
        ("fragmented close inside a message", &[(0x01, b"a"), (0x08, b"")], &[Failed(ControlFragmented)]),
    ]);
}

#[test]
#[rustfmt::skip] // One row, one line.
fn closing() {
    check_frames(&[
        ("without a code", &[(0x88, b"")], &[Close(None, String::new())]),
        ("with a code", &[(0x88, b"\x03\xe8")], &[close(1000, "")]),
        ("with a reason", &[(0x88, b"\x03\xe9bye")], &[close(1001, "bye")]),
        ("with a reason outside of ASCII", &[(0x88, b"\x03\xe9adi\xc3\xb3s")], &[close(1001, "adiós")]),
        ("private code", &[(0x88, b"\x13\x87")], &[close(4999, "")]),
        ("inside a message", &[(0x01, b"a"), (0x88, b"\x03\xe8")], &[close(1000, "")]),
        ("data after it", &[(0x88, b"\x03\xe8"), (0x81, b"late")], &[close(1000, "")]),
        ("nonsense after it", &[(0x88, b""), (0xff, b"\xff\xff")], &[Close(None, String::new())]),
        ("second close", &[(0x88, b""), (0x88, b"\x03\xe8")], &[Close(None, String::new())]),
        ("payload of one byte", &[(0x88, b"\x03")], &[Failed(ClosePayloadTooShort)]),
        ("code 0", &[(0x88, b"\x00\x00")], &[Failed(CloseCodeInvalid)]),
        ("code 999", &[(0x88, b"\x03\xe7")], &[Failed(CloseCodeInvalid)]),
        ("code 1004", &[(0x88, b"\x03\xec")], &[Failed(CloseCodeInvalid)]),
        ("code 1005", &[(0x88, b"\x03\xed")], &[Failed(CloseCodeInvalid)]),
        ("code 1006", &[(0x88, b"\x03\xee")], &[Failed(CloseCodeInvalid)]),
        ("code 1015", &[(0x88, b"\x03\xf7")], &[Failed(CloseCodeInvalid)]),
        ("code 2999", &[(0x88, b"\x0b\xb7")], &[Failed(CloseCodeInvalid)]),
        ("code 5000", &[(0x88, b"\x13\x88")], &[Failed(CloseCodeInvalid)]),
        ("reason that is not UTF-8", &[(0x88, b"\x03\xe8\xff")], &[Failed(CloseReasonNotUtf8)]),
        ("reason cut in a character", &[(0x88, b"\x03\xe8\xc3")], &[Failed(CloseReasonNotUtf8)]),
    ]);
}

#[test]
#[rustfmt::skip] // One row, one line.
fn input_after_an_error_is_ignored() {
    check_frames(&[
        ("a good message", &[(0x80, b""), (0x81, b"late")], &[Failed(UnexpectedContinuation)]),
        ("another error", &[(0x80, b""), (0x80, b"")], &[Failed(UnexpectedContinuation)]),
        ("after a bad close", &[(0x88, b"\x03"), (0x81, b"late")], &[Failed(ClosePayloadTooShort)]),
    ]);
}

#[test]
fn reserved_bits_and_opcodes() {
    for role in ROLES {
        for rsv in [0x40, 0x20, 0x10, 0x70] {
            for first in [0x81, 0x01, 0x89, 0x88] {
                check("reserved bit", role, &frame(role, first | rsv, b"x"), &[Failed(ReservedBits)]);
            }
        }
        for opcode in (3..=7).chain(11..=15) {
            check("reserved opcode", role, &frame(role, 0x80 | opcode, b"x"), &[Failed(ReservedOpcode)]);
            check("reserved opcode, not fin", role, &frame(role, opcode, b"x"), &[Failed(ReservedOpcode)]);
        }
    }
}

#[test]
fn clients_must_mask_and_servers_must_not() {
    for first in [0x81, 0x02, 0x89, 0x88] {
        let masked = frame(Role::Server, first, b"\x03\xe8");
        let plain = frame(Role::Client, first, b"\x03\xe8");
        check("not masked", Role::Server, &plain, &[Failed(NotMasked)]);
        check("masked", Role::Client, &masked, &[Failed(Masked)]);
    }
}

#[test]
#[rustfmt::skip] // One row, one line.
fn invalid_lengths() {
    let rows: &[(&str, &[u8], ProtocolError)] = &[
        ("0 in two bytes", b"\x82\xfe\x00\x00", LengthNotMinimal),
        ("125 in two bytes", b"\x82\xfe\x00\x7d", LengthNotMinimal),
        ("125 in eight bytes", b"\x82\xff\0\0\0\0\0\0\0\x7d", LengthNotMinimal),
        ("65535 in eight bytes", b"\x82\xff\0\0\0\0\0\0\xff\xff", LengthNotMinimal),
        ("top bit", b"\x82\xff\x80\0\0\0\0\0\0\0", LengthTooLarge),
        ("all bits", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", LengthTooLarge),
        ("long ping in two bytes", b"\x89\xfe\x00\x7e", ControlTooLong),
        ("short ping in two bytes", b"\x89\xfe\x00\x01", ControlTooLong),
        ("long close in eight bytes", b"\x88\xff\0\0\0\0\0\x01\0\0", ControlTooLong),
    ];
    for (name, masked, error) in rows {
        check(name, Role::Server, masked, &[Failed(*error)]);
        let mut plain = masked.to_vec();
        plain[1] &= 0x7f;
        check(name, Role::Client, &plain, &[Failed(*error)]);
    }
}

#[test]
#[rustfmt::skip] // One row, one line.
fn messages_that_are_too_big() {
    check_frames(&[
        ("one frame", &[(0x82, &[1; 1001])], &[Failed(MessageTooBig)]),
        ("all fragments together", &[(0x02, &[1; 600]), (0x80, &[1; 401])], &[Failed(MessageTooBig)]),
        ("a ping does not count", &[(0x02, &[1; 1000]), (0x89, b"x"), (0x80, b"")], &[ping(b"x"), binary(&[1; 1000])]),
        (
            "each message by itself",
            &[(0x82, &[1; 1000]), (0x82, &[2; 1000])],
            &[binary(&[1; 1000]), binary(&[2; 1000])],
        ),
    ]);
    // The header alone decides: the payload has not arrived.
    check(
        "announced",
        Role::Server,
        b"\x82\xfe\x03\xe9\0\0\0\0",
        &[Failed(MessageTooBig)],
    );
    check(
        "largest",
        Role::Client,
        b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
        &[Failed(MessageTooBig)],
    );
    // 1000 bytes are held already; the sum must not overflow.
    let mut bytes = frame(Role::Client, 0x02, &[1; 1000]);
    bytes.extend(b"\x80\x7f\x7f\xff\xff\xff\xff\xff\xff\xff");
    check(
        "largest continuation",
        Role::Client,
        &bytes,
        &[Failed(MessageTooBig)],
    );
}

#[test]
fn text_that_is_not_utf8() {
    let rows: &[(&str, &[u8])] = &[
        ("lone continuation", b"a\x80"),
        ("impossible byte", b"a\xff"),
        ("overlong slash", b"\xc0\xaf"),
        ("overlong in three", b"\xe0\x80\xaf"),
        ("surrogate", b"\xed\xa0\x80"),
        ("above U+10FFFF", b"\xf4\x90\x80\x80"),
        ("cut at the end", b"a\xf0\x9f\xa6"),
        ("bad after good", b"\xce\xba\xc0"),
    ];
    for (name, payload) in rows {
        assert!(std::str::from_utf8(payload).is_err(), "{name}");
        let expected = &[Failed(TextNotUtf8)];
        for role in ROLES {
            check(name, role, &frame(role, 0x81, payload), expected);
            for cut in 0..=payload.len() {
                let fragments = [frame(role, 0x01, &payload[..cut]), frame(role, 0x80, &payload[cut..])].concat();
                check(name, role, &fragments, expected);
            }
        }
    }
}

/// `(name, payload, index of the byte that must fail)`: the message is much longer, but no later byte can repair it.
#[test]
#[rustfmt::skip] // One row, one line.
fn text_fails_at_the_first_impossible_byte() {
    let rows: &[(&str, &[u8], usize)] = &[
        ("impossible byte", b"ab\xffcd", 3),
        ("lone continuation", b"ab\x80cd", 3),
        ("overlong", b"\xc0\xaf", 1),
        ("overlong in three", b"\xe0\x80\xaf", 2),
        ("surrogate", b"\xed\xa0\x80", 2),
        ("above U+10FFFF", b"ab\xf4\x90\x80\x80", 4),
        ("broken off by ASCII", b"\xf0\x9fab", 3),
    ];
    for (name, payload, fails_at) in rows {
        for role in ROLES {
            let long = [payload, &b"more"[..], &[b'x'; 300]].concat();
            let bytes = frame(role, 0x81, &long);
            let header_len = bytes.len() - long.len();
            let mut decoder = Decoder::new(role, MESSAGE_BYTES_MAX);
            let mut seen = Vec::new();
            for (index, byte) in bytes.iter().enumerate().take(header_len + fails_at) {
                assert_eq!(seen, [], "{name}, {role:?}: failed before byte {index}");
                feed(&mut decoder, &[*byte], &mut seen);
            }
            assert_eq!(seen, [Failed(TextNotUtf8)], "{name}, {role:?}");
        }
    }
}

/// `(name, bytes, number of bytes until the error)`: an invalid header fails before it is whole.
#[test]
#[rustfmt::skip] // One row, one line.
fn headers_fail_as_early_as_they_can() {
    let rows: &[(&str, &[u8], ProtocolError, usize)] = &[
        ("reserved bit", b"\x91\xff\0", ReservedBits, 2),
        ("reserved opcode", b"\x83\xff\0", ReservedOpcode, 2),
        ("fragmented ping", b"\x09\x81\0", ControlFragmented, 2),
        ("long ping", b"\x89\xfe\0", ControlTooLong, 2),
        ("length not minimal", b"\x82\xfe\0\0\0", LengthNotMinimal, 4),
        ("length too large", b"\x82\xff\xff\0\0\0\0\0\0\0\0", LengthTooLarge, 10),
    ];
    for (name, bytes, error, fails_at) in rows {
        let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
        let mut seen = Vec::new();
        for byte in &bytes[..*fails_at] {
            assert_eq!(seen, [], "{name}");
            feed(&mut decoder, &[*byte], &mut seen);
        }
        assert_eq!(seen, [Failed(*error)], "{name}");
    }
}
