//! A whole conversation, as a server has it with any peer: what it says is valid, and answers what was asked.

use ringfeed::conn::{CloseCause, Connection, Next, Phase};
use ringfeed::proto::{Decoder, Event, Inflater, MessageKind, Role, WindowBits};

use crate::input::{Input, pieces};

/// Bytes of a message at most.
const MESSAGE_BYTES_MAX: u32 = 1 << 16;

/// Any bytes from a peer: whatever they are, the answers are frames that a strict client accepts, each ping
/// before the end is answered, and the end is told of in a Close frame, after which nothing is said.
pub(crate) fn conversation(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let cuts = input.cuts();
    let bytes = input.rest();
    let mut conn = Connection::new(0);
    conn.open(MESSAGE_BYTES_MAX, (flags & 1 != 0).then_some(WindowBits::MAX));
    if flags & 2 != 0 {
        conn.phase = Phase::Closing;
    }
    let pongs = if flags & 2 == 0 { count_pings(bytes, flags & 1 != 0) } else { 0 };
    let mut said = Vec::new();
    let cause = hear(&mut conn, &pieces(bytes, &cuts), &mut said);
    let heard = listen(&mut said);
    if flags & 2 != 0 {
        assert!(heard.is_empty(), "after its own Close frame a server says nothing");
        return;
    }
    assert_eq!(heard.iter().filter(|heard| matches!(heard, Heard::Pong)).count(), pongs);
    let closes = heard.iter().filter(|heard| matches!(heard, Heard::Close(_))).count();
    assert_eq!(closes, usize::from(cause.is_some()), "{cause:?}: {heard:?}");
    match (cause, heard.last()) {
        (None, _) => assert!(conn.phase == Phase::Open),
        (Some(CloseCause::Peer), Some(Heard::Close(_))) => {}
        (Some(CloseCause::Protocol), Some(Heard::Close(Some(1002 | 1007 | 1009)))) => {}
        end => panic!("an end of another kind: {end:?}"),
    }
}

/// How many pings there are before the end of the conversation.
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
            .and_then(|event| event.map(|event| inflater.inflate_event(event, MESSAGE_BYTES_MAX)).transpose())
        {
            Ok(Some(Event::Ping(_))) => pings += 1,
            Ok(Some(Event::Close(_)) | None) | Err(_) => return pings,
            Ok(Some(_)) => {}
        }
    }
}

/// Has the server hear the pieces; how it ended, if it did.
fn hear(conn: &mut Connection, pieces: &[&[u8]], said: &mut Vec<u8>) -> Option<CloseCause> {
    let mut inflater = Inflater::new();
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let mut rest = bytes.as_mut_slice();
        loop {
            match conn.next(&mut rest, &mut inflater, said) {
                Next::Message(message) => {
                    assert!(message.payload.len() <= MESSAGE_BYTES_MAX as usize, "more than a message may have");
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

/// What a peer hears of what was said.
#[derive(Debug)]
enum Heard {
    Pong,
    Close(Option<u16>),
}

/// What a strict client hears.
fn listen(mut said: &mut [u8]) -> Vec<Heard> {
    let mut client = Decoder::new(Role::Client, MESSAGE_BYTES_MAX);
    let mut heard = Vec::new();
    while let Some(event) = client.decode(&mut said).expect("a server's frames are valid") {
        heard.push(match event {
            Event::Pong(_) => Heard::Pong,
            Event::Close(close) => Heard::Close(close.code.map(|code| code.0)),
            other => panic!("nobody asked for {other:?}"),
        });
    }
    assert!(!client.is_mid_message() && client.held_bytes() == 0 || matches!(heard.last(), Some(Heard::Close(_))));
    heard
}
