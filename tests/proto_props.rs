//! RFC 6455 as properties: decoding returns the encoded messages, however they are fragmented, interleaved with control
//! frames, masked and cut; and no result depends on the cuts.

use flate2::{Decompress, FlushDecompress};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use ringfeed::proto::{
    CloseCode, Decoder, DeflateConfig, Deflater, Event, FrameHeader, Inflater, Message, MessageKind, Opcode, Role,
    SlidingWindow, WindowBits, encode_close, encode_fragment, encode_frame, encode_message,
};

#[path = "proto/foreign.rs"]
mod foreign;
#[path = "proto/support.rs"]
mod support;
use foreign::{FLUSH_TAIL, ForeignDeflater, ForeignInflater};
use support::{ROLES, Seen, decode_cut, decode_deflated_cut, frame};

const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// One message of a peer.
#[derive(Clone, Debug)]
enum Sent {
    /// A text, cut at these places into fragments; a control frame may follow each fragment but the last.
    Text(String, Vec<(Index, Option<Control>)>),
    Binary(Vec<u8>, Vec<(Index, Option<Control>)>),
    Control(Control),
}

#[derive(Clone, Debug)]
struct Control {
    is_ping: bool,
    payload: Vec<u8>,
}

fn any_control() -> impl Strategy<Value = Control> {
    (any::<bool>(), vec(any::<u8>(), 0..=125)).prop_map(|(is_ping, payload)| Control { is_ping, payload })
}

/// Inflates with no more memory than its window, which it fills byte by byte.
struct WithinWindow(Decompress);

impl WithinWindow {
    fn new(window: WindowBits) -> Self {
        Self(Decompress::new_with_window_bits(false, window.get()))
    }

    /// The payload of the next message.
    fn inflate(&mut self, deflated: &[u8]) -> Vec<u8> {
        let (begin, mut output, mut byte) = (self.0.total_in(), Vec::new(), [0]);
        let input = [deflated, &FLUSH_TAIL].concat();
        loop {
            let (taken, given) = ((self.0.total_in() - begin) as usize, self.0.total_out());
            self.0.decompress(&input[taken..], &mut byte, FlushDecompress::None).expect("within the window");
            if self.0.total_out() == given {
                return output;
            }
            output.push(byte[0]);
        }
    }
}

/// Payloads made of the same few pieces, so that they repeat within each payload and across payloads.
fn any_payloads(count: usize) -> impl Strategy<Value = Vec<Vec<u8>>> {
    (vec(vec(any::<u8>(), 1..40), 1..8), vec(vec(any::<Index>(), 0..120), count)).prop_map(|(pieces, orders)| {
        let payload = |order: &Vec<Index>| order.iter().flat_map(|index| index.get(&pieces).clone()).collect();
        orders.iter().map(payload).collect()
    })
}

fn any_cuts() -> impl Strategy<Value = Vec<(Index, Option<Control>)>> {
    vec((any::<Index>(), proptest::option::of(any_control())), 0..4)
}

fn any_sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        (any::<String>(), any_cuts()).prop_map(|(text, cuts)| Sent::Text(text, cuts)),
        (vec(any::<u8>(), 0..300), any_cuts()).prop_map(|(bytes, cuts)| Sent::Binary(bytes, cuts)),
        any_control().prop_map(Sent::Control),
    ]
}

fn any_role() -> impl Strategy<Value = Role> {
    proptest::sample::select(&ROLES[..])
}

/// A masking key where the peer of `role` must use one.
fn mask_to(role: Role, key: u32) -> Option<[u8; 4]> {
    match role {
        Role::Server => Some(key.to_ne_bytes()),
        Role::Client => None,
    }
}

/// Offsets within `len` bytes, in order.
fn offsets(cuts: &[Index], len: usize) -> Vec<usize> {
    let mut offsets: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
    offsets.sort_unstable();
    offsets
}

impl Control {
    fn encode(&self, out: &mut Vec<u8>, mask: Option<[u8; 4]>) -> Seen {
        if self.is_ping {
            encode_frame(out, Opcode::Ping, &self.payload, mask);
            Seen::Ping(self.payload.clone())
        } else {
            encode_frame(out, Opcode::Pong, &self.payload, mask);
            Seen::Pong(self.payload.clone())
        }
    }
}

impl Sent {
    /// Appends the frames to `out` and the expected events to `seen`.
    fn encode(&self, out: &mut Vec<u8>, mask: Option<[u8; 4]>, seen: &mut Vec<Seen>) {
        match self {
            Sent::Control(control) => seen.push(control.encode(out, mask)),
            Sent::Text(text, cuts) if cuts.is_empty() => {
                encode_message(out, Message::text(text), mask);
                seen.push(Seen::Text(text.clone()));
            }
            Sent::Binary(bytes, cuts) if cuts.is_empty() => {
                encode_message(out, Message::binary(bytes), mask);
                seen.push(Seen::Binary(bytes.clone()));
            }
            Sent::Text(text, cuts) => {
                encode_fragments(out, Opcode::Text, text.as_bytes(), cuts, mask, seen);
                seen.push(Seen::Text(text.clone()));
            }
            Sent::Binary(bytes, cuts) => {
                encode_fragments(out, Opcode::Binary, bytes, cuts, mask, seen);
                seen.push(Seen::Binary(bytes.clone()));
            }
        }
    }
}

fn encode_fragments(
    out: &mut Vec<u8>,
    first_opcode: Opcode,
    payload: &[u8],
    cuts: &[(Index, Option<Control>)],
    mask: Option<[u8; 4]>,
    seen: &mut Vec<Seen>,
) {
    let places: Vec<Index> = cuts.iter().map(|(place, _)| *place).collect();
    let mut opcode = first_opcode;
    let mut start = 0;
    for (end, (_, control)) in offsets(&places, payload.len()).into_iter().zip(cuts) {
        encode_fragment(out, opcode, false, &payload[start..end], mask);
        seen.extend(control.as_ref().map(|control| control.encode(out, mask)));
        opcode = Opcode::Continuation;
        start = end;
    }
    encode_fragment(out, opcode, true, &payload[start..], mask);
}

/// A compressed binary message, cut at these offsets into frames, as the peer of `role` sends it.
fn deflated_fragments(role: Role, deflated: &[u8], cuts: &[usize]) -> Vec<u8> {
    let ends = cuts.iter().copied().chain([deflated.len()]);
    let mut start = 0;
    let mut wire = Vec::new();
    for (index, end) in ends.enumerate() {
        let fin = if index == cuts.len() { 0x80 } else { 0 };
        // Only the first frame has the opcode and RSV1 (RFC 7692 §6.1).
        let first = if index == 0 { 0x42 } else { 0 };
        wire.extend(frame(role, fin | first, &deflated[start..end]));
        start = end;
    }
    wire
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_returns_the_encoded_messages(
        role in any_role(),
        key in any::<u32>(),
        sent in vec(any_sent(), 0..6),
        close in proptest::option::of((1000u16..=1003, "\\PC{0,60}")),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let mask = mask_to(role, key);
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for step in &sent {
            step.encode(&mut bytes, mask, &mut expected);
        }
        if let Some((code, reason)) = &close {
            // A reason of at most 120 bytes is not cut.
            let reason: String = reason.chars().take(30).collect();
            encode_close(&mut bytes, Some(CloseCode(*code)), &reason, mask);
            expected.push(Seen::Close(Some(*code), reason));
        }
        let seen = decode_cut(role, MESSAGE_BYTES_MAX, &bytes, &offsets(&cuts, bytes.len()));
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn cuts_do_not_matter_to_damaged_frames(
        role in any_role(),
        sent in vec(any_sent(), 1..5),
        damage in (any::<Index>(), any::<u8>()),
        message_bytes_max in prop_oneof![Just(100u32), Just(MESSAGE_BYTES_MAX)],
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let mut bytes = Vec::new();
        for step in &sent {
            step.encode(&mut bytes, mask_to(role, 0x1234_5678), &mut Vec::new());
        }
        let (place, byte) = damage;
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let whole = decode_cut(role, message_bytes_max, &bytes, &[]);
        let cut = decode_cut(role, message_bytes_max, &bytes, &offsets(&cuts, bytes.len()));
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn cuts_do_not_matter_to_any_bytes(
        role in any_role(),
        bytes in vec(any::<u8>(), 0..200),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let whole = decode_cut(role, MESSAGE_BYTES_MAX, &bytes, &[]);
        let cut = decode_cut(role, MESSAGE_BYTES_MAX, &bytes, &offsets(&cuts, bytes.len()));
        prop_assert_eq!(cut, whole);
    }

    /// The reference is the standard library, on the whole text.
    #[test]
    fn text_is_accepted_if_and_only_if_it_is_utf8(
        role in any_role(),
        mut bytes in any::<String>().prop_map(String::into_bytes),
        damage in vec((any::<Index>(), any::<u8>()), 0..3),
        fragment_cut in any::<Index>(),
        cuts in vec(any::<Index>(), 0..6),
    ) {
        for (place, byte) in damage {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
        }
        let (first, last) = bytes.split_at(fragment_cut.index(bytes.len() + 1));
        let wire = [frame(role, 0x01, first), frame(role, 0x80, last)].concat();
        let seen = decode_cut(role, MESSAGE_BYTES_MAX, &wire, &offsets(&cuts, wire.len()));
        let expected = match String::from_utf8(bytes) {
            Ok(text) => Seen::Text(text),
            Err(_) => Seen::Failed(ringfeed::proto::ProtocolError::TextNotUtf8),
        };
        prop_assert_eq!(seen, [expected]);
    }

    #[test]
    fn inflating_returns_the_compressed_payload(
        role in any_role(),
        payload in any_payloads(1).prop_map(|mut payloads| payloads.remove(0)),
        level in 1u8..=9,
        window in (8u8..=15).prop_map(|bits| WindowBits::new(bits).unwrap()),
        fragment_cuts in vec(any::<Index>(), 0..4),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let mut deflater = Deflater::new(DeflateConfig { level, bytes_min: 0, ..DeflateConfig::default() });
        let deflated = deflater.window_for(payload.len(), window).and_then(|window| deflater.deflate(&payload, window));
        let Some(deflated) = deflated else { return Ok(()) };
        prop_assert!(deflated.len() < payload.len());
        let wire = deflated_fragments(role, deflated, &offsets(&fragment_cuts, deflated.len()));
        let seen = decode_deflated_cut(role, MESSAGE_BYTES_MAX, &wire, &offsets(&cuts, wire.len()));
        prop_assert_eq!(&seen, &[Seen::Deflated(MessageKind::Binary, deflated.to_vec())]);
        let mut inflater = Inflater::new();
        prop_assert_eq!(inflater.inflate(Message::binary(deflated), MESSAGE_BYTES_MAX), Ok(Message::binary(&payload)));
    }

    #[test]
    fn unicast_and_fan_out_inflate_with_context_takeover(
        payloads in any_payloads(20),
        to_many in vec(any::<bool>(), 20),
        level in 1u8..=9,
        window in (9u8..=15).prop_map(|bits| WindowBits::new(bits).unwrap()),
        bytes_min in prop_oneof![Just(0), Just(200)],
    ) {
        let mut deflater = Deflater::new(DeflateConfig { level, bytes_min, ..DeflateConfig::default() });
        let mut sent = SlidingWindow::new(window.min(SlidingWindow::KEPT_MAX));
        let (mut peer, mut within_window) = (ForeignInflater::new(), WithinWindow::new(window));
        for (payload, to_many) in payloads.iter().zip(to_many) {
            let mut wire = Vec::new();
            if to_many {
                let deflated =
                    deflater.window_for(payload.len(), window).and_then(|window| deflater.deflate(payload, window));
                let Some(deflated) = deflated else { continue };
                wire = frame(Role::Client, 0xc2, deflated);
                sent.clear();
            } else {
                let mut deflater = deflater.for_peer(window, Some(&mut sent));
                deflater.encode_message(&mut wire, Message::binary(payload), None);
            }
            match &decode_deflated_cut(Role::Client, MESSAGE_BYTES_MAX, &wire, &[])[..] {
                [Seen::Deflated(MessageKind::Binary, deflated)] => {
                    prop_assert_eq!(&peer.inflate(deflated), payload);
                    prop_assert_eq!(&within_window.inflate(deflated), payload);
                }
                [Seen::Binary(plain)] => prop_assert_eq!(plain, payload),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }

    #[test]
    fn a_peers_messages_inflate_with_context_takeover(
        payloads in any_payloads(20),
        forgets in vec(any::<bool>(), 20),
        level in 1u32..=9,
        bits in 9u8..=15,
        role in any_role(),
    ) {
        let mut peer = ForeignDeflater::new(level, bits);
        let mut received = SlidingWindow::new(WindowBits::new(bits).unwrap());
        let mut inflater = Inflater::new();
        for (payload, forgets) in payloads.iter().zip(forgets) {
            if forgets {
                peer = ForeignDeflater::new(level, bits);
            }
            let mut wire = frame(role, 0xc2, &peer.deflate(payload));
            let mut decoder = Decoder::new(role, MESSAGE_BYTES_MAX);
            decoder.allow_deflated();
            let mut input = &mut wire[..];
            let event = decoder.decode(&mut input).unwrap().unwrap();
            let message = inflater.inflate_event(event, MESSAGE_BYTES_MAX, Some(&mut received));
            prop_assert_eq!(message, Ok(Event::Message(Message::binary(payload))));
        }
    }

    #[test]
    fn inflating_any_bytes_ends(payload in vec(any::<u8>(), 0..300), bytes_max in 0u32..100_000) {
        let mut inflater = Inflater::new();
        if let Ok(message) = inflater.inflate(Message::binary(&payload), bytes_max) {
            prop_assert!(message.payload.len() <= bytes_max as usize);
        }
    }

    #[test]
    fn headers_round_trip(
        fin in any::<bool>(),
        rsv1 in any::<bool>(),
        opcode in prop_oneof![Just(Opcode::Continuation), Just(Opcode::Text), Just(Opcode::Binary)],
        masking_key in any::<Option<[u8; 4]>>(),
        payload_len in prop_oneof![0u64..300, 65_000u64..66_000, 0u64..(1 << 63)],
    ) {
        let header = FrameHeader { fin, rsv1, opcode, masking_key, payload_len };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        prop_assert_eq!(FrameHeader::decode(&bytes), Ok(Some((header, bytes.len()))));
    }
}
