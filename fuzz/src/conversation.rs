//! A whole conversation of a server with any peer: the server's frames are valid and answer the peer's.

use ringfeed::conn::{CloseCause, Connection, Next, Phase};
use ringfeed::proto::{Decoder, Event, Inflater, MessageKind, Role, WindowBits};

use crate::input::{Input, pieces};

/// Largest message in bytes.
const MESSAGE_BYTES_MAX: u32 = 1 << 16;

/// Any bytes from a peer: a strict client accepts the replies, each ping before the end is answered, and the
/// conversation ends with one Close frame, after which the server sends nothing.
pub(crate) fn conversation(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let cuts = input.cuts();
    let bytes = input.rest();
    let mut conn = Connection::new(0);
    conn.open(MESSAGE_BYTES_MAX, (flags & 1 != 0).then_some(WindowBits::MAX));
    if flags & 2 != 0 {
        conn.begin_close();
    }
    let pongs = if flags & 2 == 0 { count_pings(bytes, flags & 1 != 0) } else { 0 };
    let mut sent = Vec::new();
    let cause = feed(&mut conn, &pieces(bytes, &cuts), &mut sent);
    let received = decode_as_client(&mut sent);
    if flags & 2 != 0 {
        assert!(received.is_empty(), "a server sends nothing after its own Close frame");
        return;
    }
    assert_eq!(received.iter().filter(|received| matches!(received, Received::Pong)).count(), pongs);
    let closes = received.iter().filter(|received| matches!(received, Received::Close(_))).count();
    assert_eq!(closes, usize::from(cause.is_some()), "{cause:?}: {received:?}");
    match (cause, received.last()) {
        (None, _) => assert!(*conn.phase() == Phase::Open),
        (Some(CloseCause::Peer), Some(Received::Close(_))) => {}
        (Some(CloseCause::Protocol), Some(Received::Close(Some(1002 | 1007 | 1009)))) => {}
        end => panic!("unexpected end: {end:?}"),
    }
}

/// The number of pings before the end of the conversation.
fn count_pings(bytes: &[u8], is_deflate_agreed: bool) -> usize {
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
    if is_deflate_agreed {
        decoder.allow_deflated();
    }
    let mut inflater = Inflater::new();
    let mut bytes = bytes.to_vec();
    let mut rest = bytes.as_mut_slice();
    let mut pings = 0;
    loop {
        match decoder
            .decode(&mut rest)
            .and_then(|event| event.map(|event| inflater.inflate_event(event, MESSAGE_BYTES_MAX, None)).transpose())
        {
            Ok(Some(Event::Ping(_))) => pings += 1,
            Ok(Some(Event::Close(_)) | None) | Err(_) => return pings,
            Ok(Some(_)) => {}
        }
    }
}

/// Feeds the pieces to the server. Returns why the conversation ended, if it did.
fn feed(conn: &mut Connection, pieces: &[&[u8]], sent: &mut Vec<u8>) -> Option<CloseCause> {
    let mut inflater = Inflater::new();
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let mut rest = bytes.as_mut_slice();
        loop {
            match conn.next(&mut rest, &mut inflater, None, sent) {
                Next::Message(message) => {
                    assert!(message.payload.len() <= MESSAGE_BYTES_MAX as usize, "a message above the limit");
                    let is_text = message.kind == MessageKind::Text;
                    assert!(!is_text || std::str::from_utf8(message.payload).is_ok(), "a text that isn't UTF-8");
                }
                Next::Handled => {}
                Next::NeedBytes => break,
                Next::End(cause) => return Some(cause),
            }
        }
    }
    None
}

/// The frames that a peer may receive.
#[derive(Debug)]
enum Received {
    Pong,
    Close(Option<u16>),
}

/// Decodes the sent bytes as a strict client.
fn decode_as_client(mut sent: &mut [u8]) -> Vec<Received> {
    let mut client = Decoder::new(Role::Client, MESSAGE_BYTES_MAX);
    let mut received = Vec::new();
    while let Some(event) = client.decode(&mut sent).expect("a server's frames are valid") {
        received.push(match event {
            Event::Pong(_) => Received::Pong,
            Event::Close(close) => Received::Close(close.code.map(|code| code.0)),
            other => panic!("unexpected frame: {other:?}"),
        });
    }
    assert!(
        !client.is_mid_message() && client.held_bytes() == 0 || matches!(received.last(), Some(Received::Close(_)))
    );
    received
}
