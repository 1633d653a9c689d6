//! Tables of RSV1: which frames may have it, and its effect on a message (RFC 7692 §6). Every row is fed whole, byte
//! by byte and at every split.

use ringfeed::proto::MessageKind;
use ringfeed::proto::ProtocolError::{MessageTooBig, ReservedBits, TextNotUtf8};

use crate::support::Seen::{self, *};
use crate::support::{ROLES, decode_cut, decode_deflated_cut, frame};

/// The message bound of every table: small, so that rows can exceed it.
const MESSAGE_BYTES_MAX: u32 = 20;

/// "Hello" (RFC 7692 §7.2.3.1).
const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";

/// A name, frames as `(first byte, payload)`, and the expected events.
type Row<'a> = (&'a str, &'a [(u8, &'a [u8])], &'a [Seen]);

fn deflated(kind: MessageKind, payload: &[u8]) -> Seen {
    Deflated(kind, payload.into())
}

#[test]
#[rustfmt::skip] // One row, one line.
fn rsv1_with_compression_negotiated() {
    use MessageKind::{Binary, Text};
    let hello = &deflated(Text, HELLO);
    let rows: &[Row<'_>] = &[
        ("a text", &[(0xc1, HELLO)], std::slice::from_ref(hello)),
        ("a binary message", &[(0xc2, HELLO)], &[deflated(Binary, HELLO)]),
        ("an empty message", &[(0xc1, b"\0")], &[deflated(Text, b"\0")]),
        ("two fragments, RFC 7692 §7.2.3.1", &[(0x41, &HELLO[..3]), (0x80, &HELLO[3..])], std::slice::from_ref(hello)),
        ("empty fragments", &[(0x41, b""), (0x00, HELLO), (0x80, b"")], std::slice::from_ref(hello)),
        (
            "a ping between fragments",
            &[(0x41, &HELLO[..3]), (0x89, b"?"), (0x80, &HELLO[3..])],
            &[Ping(b"?".into()), hello.clone()],
        ),
        (
            "a plain message as well",
            &[(0xc1, HELLO), (0x81, b"Hello"), (0xc1, HELLO)],
            &[hello.clone(), Seen::Text("Hello".into()), hello.clone()],
        ),
        ("a plain text is still checked", &[(0xc1, HELLO), (0x81, b"\xff")], &[hello.clone(), Failed(TextNotUtf8)]),
        ("a plain text in fragments, too", &[(0x01, b"a"), (0x80, b"\xff")], &[Failed(TextNotUtf8)]),
        ("as large as any other", &[(0xc1, &[0; 20])], &[deflated(Text, &[0; 20])]),
        ("larger than that", &[(0xc1, &[0; 21])], &[Failed(MessageTooBig)]),
        ("larger than that, in fragments", &[(0x41, &[0; 20]), (0x80, &[0])], &[Failed(MessageTooBig)]),
        ("a continuation", &[(0x41, HELLO), (0xc0, HELLO)], &[Failed(ReservedBits)]),
        ("a continuation of a plain message", &[(0x01, b"a"), (0xc0, HELLO)], &[Failed(ReservedBits)]),
        ("a continuation of nothing", &[(0xc0, HELLO)], &[Failed(ReservedBits)]),
        ("a ping", &[(0xc9, b"")], &[Failed(ReservedBits)]),
        ("a pong", &[(0xca, b"")], &[Failed(ReservedBits)]),
        ("a close frame", &[(0xc8, b"")], &[Failed(ReservedBits)]),
        ("RSV2", &[(0xa1, HELLO)], &[Failed(ReservedBits)]),
        ("RSV3", &[(0x91, HELLO)], &[Failed(ReservedBits)]),
        ("RSV1 and RSV2", &[(0xe1, HELLO)], &[Failed(ReservedBits)]),
    ];
    for (name, frames, expected) in rows {
        for role in ROLES {
            let bytes: Vec<u8> = frames.iter().flat_map(|&(first, payload)| frame(role, first, payload)).collect();
            let decode = |cuts: &[usize]| decode_deflated_cut(role, MESSAGE_BYTES_MAX, &bytes, cuts);
            assert_eq!(decode(&[]), *expected, "{name}, {role:?}, whole");
            let every_byte: Vec<usize> = (1..bytes.len()).collect();
            assert_eq!(decode(&every_byte), *expected, "{name}, {role:?}, byte by byte");
            for split in 0..=bytes.len() {
                assert_eq!(decode(&[split]), *expected, "{name}, {role:?}, split at {split}");
            }
        }
    }
}

#[test]
fn rsv1_without_compression_is_an_error() {
    for role in ROLES {
        for first in [0xc1, 0x41, 0xc2, 0x42] {
            let seen = decode_cut(role, MESSAGE_BYTES_MAX, &frame(role, first, HELLO), &[]);
            assert_eq!(seen, [Failed(ReservedBits)], "{role:?}, {first:#x}");
        }
    }
}
