//! Handles a server's frames: passes on messages, answers pings, and ends the connection on a Close frame.

use ringfeed::proto::{Decoder, Event, Inflater, Message, Opcode, Role, encode_frame};

use crate::wire::masking_keys::MaskingKeys;

/// Largest message in bytes. Far above any message of a run, so that a wrong length is reported as such.
const MESSAGE_BYTES_MAX: u32 = 1 << 30;

/// State for answering frames, shared by all connections.
pub(crate) struct FrameCache {
    pub(crate) inflater: Inflater,
    pub(crate) keys: MaskingKeys,
    /// Number of pings answered.
    pub(crate) pings: u64,
    /// Number of pongs received.
    pub(crate) pongs: u64,
}

impl FrameCache {
    pub(crate) fn new() -> FrameCache {
        FrameCache { inflater: Inflater::new(), keys: MaskingKeys::new(), pings: 0, pongs: 0 }
    }
}

/// A decoder for a server's frames, with compression if `deflate` was agreed on.
pub(crate) fn decoder(deflate: bool) -> Decoder {
    let mut decoder = Decoder::new(Role::Client, MESSAGE_BYTES_MAX);
    if deflate {
        decoder.allow_deflated();
    }
    decoder
}

/// Passes the messages in `bytes` to `on_message`, inflated, and appends pongs to `out`. A message that lies whole in
/// `copy` is passed with its frame; `copy` is a copy of `bytes`, or empty if no frames are needed.
///
/// # Errors
/// The reason why the connection has ended: a Close frame, a protocol error, or an error of `on_message`.
pub(crate) fn read(
    decoder: &mut Decoder,
    cache: &mut FrameCache,
    mut bytes: &mut [u8],
    copy: &[u8],
    out: &mut Vec<u8>,
    mut on_message: impl FnMut(Message<'_>, Option<&[u8]>, &mut Vec<u8>, &mut MaskingKeys) -> Result<(), String>,
) -> Result<(), String> {
    let FrameCache { inflater, keys, pings, pongs } = cache;
    let broken = |error| format!("protocol error: {error}");
    let len = bytes.len();
    loop {
        let (start, begins_here) = (len - bytes.len(), decoder.held_bytes() == 0);
        let Some(event) = decoder.decode(&mut bytes).map_err(broken)? else { return Ok(()) };
        let frame = copy.get(start..len - bytes.len()).filter(|_| begins_here);
        match inflater.inflate_event(event, MESSAGE_BYTES_MAX, None).map_err(broken)? {
            Event::Message(message) => on_message(message, frame, out, keys)?,
            Event::Ping(payload) => {
                encode_frame(out, Opcode::Pong, payload, Some(keys.next()));
                *pings += 1;
            }
            Event::Pong(_) => *pongs += 1,
            Event::Deflated(_) => unreachable!("the decoder inflates messages"),
            Event::Close(close) => {
                let code = close.code.map_or("no code".to_owned(), |code| code.0.to_string());
                return Err(format!("the server closed it: {code} {}", close.reason));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ringfeed::proto::{CloseCode, encode_close, encode_deflated, encode_message};

    use super::*;

    #[test]
    fn messages_are_passed_on_pings_answered_and_a_close_ends_it() {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, Message::text("one"), None);
        encode_frame(&mut bytes, Opcode::Ping, b"here?", None);
        encode_frame(&mut bytes, Opcode::Pong, b"", None);
        // A stored block (RFC 7692 §7.2.3.3).
        encode_deflated(&mut bytes, Message::binary(b"\x00\x03\x00\xfc\xfftwo\x00"), None);
        encode_close(&mut bytes, Some(CloseCode::GOING_AWAY), "bye", None);
        let (mut out, mut seen) = (Vec::new(), Vec::new());
        let (mut decoder, mut cache) = (decoder(true), FrameCache::new());
        let ended = read(&mut decoder, &mut cache, &mut bytes, &[], &mut out, |message, frame, _, _| {
            assert_eq!(frame, None, "no copy was given");
            seen.push(message.payload.to_vec());
            Ok(())
        });
        assert_eq!(ended.unwrap_err(), "the server closed it: 1001 bye");
        assert_eq!(seen, [b"one", b"two"]);
        assert_eq!((cache.pings, cache.pongs), (1, 1));
        let mut server = Decoder::new(Role::Server, 100);
        assert_eq!(server.decode(&mut &mut out[..]), Ok(Some(Event::Pong(b"here?"))));
    }
    /// The messages decoded from `pieces`: payload, and the frame if it is known.
    fn shown(pieces: &[&[u8]]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let (mut decoder, mut cache, mut shown) = (decoder(false), FrameCache::new(), Vec::new());
        for piece in pieces {
            let on_message = |message: Message<'_>, frame: Option<&[u8]>, _: &mut Vec<u8>, _: &mut MaskingKeys| {
                shown.push((message.payload.to_vec(), frame.map(<[u8]>::to_vec)));
                Ok(())
            };
            read(&mut decoder, &mut cache, &mut piece.to_vec(), piece, &mut Vec::new(), on_message).unwrap();
        }
        shown
    }

    #[test]
    fn a_message_comes_with_its_frame_if_that_is_whole_in_the_copy() {
        let (one, two, ping) = (b"\x81\x03one", b"\x81\x03two", b"\x89\x00");
        // A message in two frames.
        let parts = b"\x01\x01a\x80\x01b";
        let stream = [&one[..], ping, two, parts, one].concat();
        let expected = [(&b"one"[..], &one[..]), (b"two", two), (b"ab", parts), (b"one", one)];
        for cut in 0..=stream.len() {
            let shown = shown(&[&stream[..cut], &stream[cut..]]);
            let payloads: Vec<&[u8]> = shown.iter().map(|(payload, _)| &payload[..]).collect();
            assert_eq!(payloads, expected.map(|(payload, _)| payload), "{cut}");
            for ((_, frame), (payload, whole)) in shown.iter().zip(expected) {
                assert!(frame.as_ref().is_none_or(|frame| frame == whole), "{cut}: {}", payload.escape_ascii());
            }
            let unknown = shown.iter().filter(|(_, frame)| frame.is_none()).count();
            assert!(unknown <= 3, "{cut}: only a cut or fragmented message, and the one after it");
        }
    }
}
