//! Shared by the tests of `proto`: a separate encoder, so that a mistake in the crate's encoder does not cancel out the
//! same mistake in its decoder, and one way to feed a decoder and record its events.

use ringfeed::proto::{Decoder, Event, MessageKind, ProtocolError, Role};

/// Both sides of a connection.
pub(crate) const ROLES: [Role; 2] = [Role::Server, Role::Client];

/// An event of a decoder, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Deflated(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Failed(ProtocolError),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message(message) => match message.kind {
                MessageKind::Text => Seen::Text(message.as_str().expect("checked text").into()),
                MessageKind::Binary => Seen::Binary(message.payload.to_vec()),
            },
            Event::Deflated(message) => Seen::Deflated(message.kind, message.payload.to_vec()),
            Event::Ping(payload) => Seen::Ping(payload.to_vec()),
            Event::Pong(payload) => Seen::Pong(payload.to_vec()),
            Event::Close(close) => Seen::Close(close.code.map(|code| code.0), close.reason.into()),
        }
    }
}

/// Feeds one piece and adds the events.
pub(crate) fn feed(decoder: &mut Decoder, piece: &[u8], seen: &mut Vec<Seen>) {
    let mut piece = piece.to_vec();
    let mut input = piece.as_mut_slice();
    loop {
        match decoder.decode(&mut input) {
            Ok(Some(event)) => seen.push(event.into()),
            Ok(None) => break,
            Err(error) => seen.push(Seen::Failed(error)),
        }
    }
    assert!(input.is_empty(), "None means that the decoder has used up the input");
}

/// Feeds `bytes`, cut at these offsets, to a new decoder.
pub(crate) fn decode_cut(role: Role, message_bytes_max: u32, bytes: &[u8], cuts: &[usize]) -> Vec<Seen> {
    decode_cut_by(Decoder::new(role, message_bytes_max), bytes, cuts)
}

/// Feeds `bytes`, cut at these offsets, to a new decoder with permessage-deflate.
pub(crate) fn decode_deflated_cut(role: Role, message_bytes_max: u32, bytes: &[u8], cuts: &[usize]) -> Vec<Seen> {
    let mut decoder = Decoder::new(role, message_bytes_max);
    decoder.allow_deflated();
    decode_cut_by(decoder, bytes, cuts)
}

fn decode_cut_by(mut decoder: Decoder, bytes: &[u8], cuts: &[usize]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut start = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        feed(&mut decoder, &bytes[start..cut], &mut seen);
        start = cut;
    }
    seen
}

/// One frame as the peer of `role` must send it: `first` is the header's first byte, FIN, RSV and opcode.
pub(crate) fn frame(role: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    let mask_bit = match role {
        Role::Server => 0x80,
        Role::Client => 0,
    };
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(mask_bit | len as u8),
        len @ 126..=65535 => {
            bytes.push(mask_bit | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(mask_bit | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    match role {
        Role::Server => {
            let key = [0x37, 0xfa, 0x21, 0x3d];
            bytes.extend(key);
            bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        }
        Role::Client => bytes.extend(payload),
    }
    bytes
}
