//! Frames at each change of the length field, in both directions, masked or not; and the memory of a decoder meanwhile.

use ringfeed::proto::{Decoder, Event, FrameHeader, MessageKind, Opcode, Role, encode_fragment, encode_frame};

use crate::support::Seen::{Binary, Text};
use crate::support::{ROLES, decode_cut, feed, frame};

const MESSAGE_BYTES_MAX: u32 = 1 << 20;

#[test]
fn lengths_at_their_boundaries() {
    // (payload bytes, header bytes without a masking key)
    let rows = [(0, 2), (1, 2), (125, 2), (126, 4), (127, 4), (65535, 4), (65536, 10), (65537, 10)];
    for (payload_len, header_len) in rows {
        let payload: Vec<u8> = (0..payload_len).map(|index| (index % 251) as u8).collect();
        for role in ROLES {
            let mask = match role {
                Role::Server => Some([0x37, 0xfa, 0x21, 0x3d]),
                Role::Client => None,
            };
            let mut bytes = Vec::new();
            encode_frame(&mut bytes, Opcode::Binary, &payload, mask);
            assert_eq!(bytes, frame(role, 0x82, &payload), "{payload_len}, {role:?}");
            let header_len = header_len + mask.map_or(0, |key| key.len());
            assert_eq!(bytes.len(), header_len + payload.len(), "{payload_len}, {role:?}");

            let header = FrameHeader {
                fin: true,
                rsv1: false,
                opcode: Opcode::Binary,
                masking_key: mask,
                payload_len: payload_len as u64,
            };
            assert_eq!(FrameHeader::decode(&bytes), Ok(Some((header, header_len))));
            for short in 0..header_len {
                assert_eq!(FrameHeader::decode(&bytes[..short]), Ok(None), "{payload_len}, {short}");
            }
            for cut in (0..bytes.len().min(20)).chain([bytes.len() - 1, bytes.len()]) {
                let seen = decode_cut(role, MESSAGE_BYTES_MAX, &bytes, &[cut]);
                assert_eq!(seen, [Binary(payload.clone())], "{payload_len}, {role:?}, {cut}");
            }
        }
    }
}

#[test]
fn fragments_are_encoded_with_their_own_first_byte() {
    // (opcode, fin, the header's first byte)
    let rows = [
        (Opcode::Text, false, 0x01),
        (Opcode::Continuation, false, 0x00),
        (Opcode::Continuation, true, 0x80),
        (Opcode::Binary, false, 0x02),
        (Opcode::Ping, true, 0x89),
        (Opcode::Pong, true, 0x8a),
        (Opcode::Close, true, 0x88),
    ];
    for (opcode, fin, first) in rows {
        let mut bytes = Vec::new();
        encode_fragment(&mut bytes, opcode, fin, b"payload", None);
        assert_eq!(bytes, frame(Role::Client, first, b"payload"), "{opcode:?}, {fin}");
    }
}

#[test]
fn a_whole_message_stays_in_the_input() {
    for (first, kind) in [(0x81, MessageKind::Text), (0x82, MessageKind::Binary)] {
        let mut bytes = frame(Role::Server, first, b"not copied");
        let in_input = bytes.as_ptr_range();
        let mut input = bytes.as_mut_slice();
        let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
        let Ok(Some(Event::Message(message))) = decoder.decode(&mut input) else {
            panic!("no message");
        };
        assert_eq!((message.kind, message.payload), (kind, &b"not copied"[..]));
        assert!(in_input.contains(&message.payload.as_ptr()));
        assert_eq!(decoder.held_bytes(), 0);
    }
}

#[test]
fn an_idle_decoder_holds_no_memory() {
    for role in ROLES {
        let mut decoder = Decoder::new(role, MESSAGE_BYTES_MAX);
        let mut seen = Vec::new();
        let fragments = [
            frame(role, 0x01, b"one "),
            frame(role, 0x89, b"meanwhile"),
            frame(role, 0x80, b"message"),
            frame(role, 0x81, b"another"),
        ];
        assert_eq!(decoder.held_bytes(), 0);
        for fragment in &fragments {
            for byte in fragment {
                feed(&mut decoder, &[*byte], &mut seen);
            }
        }
        assert_eq!(seen.len(), 3);
        assert_eq!(decoder.held_bytes(), 0, "{role:?}");
    }
}

#[test]
fn the_next_call_frees_a_delivered_message() {
    let bytes = frame(Role::Server, 0x82, &[1; 5000]);
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
    feed(&mut decoder, &bytes[..100], &mut Vec::new());
    let mut rest = bytes[100..].to_vec();
    let mut input = rest.as_mut_slice();
    assert!(matches!(decoder.decode(&mut input), Ok(Some(Event::Message(_)))));
    assert!(decoder.held_bytes() >= 5000);
    assert!(!decoder.is_mid_message());
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn memory_grows_with_received_bytes_not_with_announced_ones() {
    let announced = b"\x82\xff\0\0\0\0\x40\0\0\0\0\0\0\0";
    let mut decoder = Decoder::new(Role::Server, u32::MAX);
    let mut seen = Vec::new();
    feed(&mut decoder, announced, &mut seen);
    feed(&mut decoder, &[1; 10], &mut seen);
    assert_eq!(seen, []);
    assert!(decoder.is_mid_message());
    assert!(decoder.held_bytes() < 512, "{} bytes held", decoder.held_bytes());
}

#[test]
fn an_end_frees_an_unfinished_message() {
    // (name, the frame that ends it)
    let rows: [(&str, u8, &[u8]); 2] = [("close", 0x88, b"\x03\xe8"), ("error", 0x81, b"")];
    for (name, first, payload) in rows {
        let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
        let mut seen = Vec::new();
        feed(&mut decoder, &frame(Role::Server, 0x02, &[1; 5000]), &mut seen);
        assert!(decoder.held_bytes() >= 5000);
        feed(&mut decoder, &frame(Role::Server, first, payload), &mut seen);
        assert_eq!((decoder.held_bytes(), seen.len()), (0, 1), "{name}");
        assert!(!decoder.is_mid_message());
    }
}

#[test]
fn a_close_frame_frees_an_unfinished_message_at_once() {
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
    feed(&mut decoder, &frame(Role::Server, 0x02, &[1; 5000]), &mut Vec::new());
    let mut close = frame(Role::Server, 0x88, b"\x03\xe8");
    let (first, mut rest) = close.split_at_mut(7);
    feed(&mut decoder, first, &mut Vec::new());
    assert!(matches!(decoder.decode(&mut rest), Ok(Some(Event::Close(_)))));
    assert!(decoder.held_bytes() < 512, "{} bytes held", decoder.held_bytes());
    assert!(!decoder.is_mid_message());
}

#[test]
fn mid_message_is_from_the_first_header_to_the_last_byte() {
    let mut decoder = Decoder::new(Role::Client, MESSAGE_BYTES_MAX);
    let mut seen = Vec::new();
    // (bytes, whether a message is unfinished after them)
    let rows: [(&[u8], bool); 6] = [
        (b"\x89", false),
        (b"\x01!\x01", false),
        (b"\x01a", true),
        (b"\x89\x00", true),
        (b"\x80\x02b", true),
        (b"c", false),
    ];
    for (bytes, mid_message) in rows {
        feed(&mut decoder, bytes, &mut seen);
        assert_eq!(decoder.is_mid_message(), mid_message, "after {bytes:?}");
    }
    assert_eq!(seen.last(), Some(&Text("abc".into())));
}
