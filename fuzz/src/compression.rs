//! Compressed messages: hostile ones in, ours out and back again.

use flate2::{Decompress, FlushDecompress};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use ringfeed::limits::{INFLATE_FREE_BYTES, INFLATE_RATIO_MAX};
use ringfeed::proto::{
    Decoder, DeflateConfig, Deflater, Event, Inflater, Message, MessageKind, ProtocolError, Role, WindowBits,
};

use crate::input::Input;

/// What a sender cuts off each message and a receiver puts back (RFC 7692 §7.2.2).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// An empty last block: an input is whole where one is understood as such.
const LAST_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];

/// "Hello" as in RFC 7692 §7.2.3.1.
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

fn kind(is_text: bool) -> MessageKind {
    if is_text { MessageKind::Text } else { MessageKind::Binary }
}

/// Any bytes as a compressed message: within its bounds, as another implementation has it, and nothing of it left over
/// in the next message.
pub(crate) fn inflate(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let bytes_max = input.choose(&[0, 10, 1000, 1 << 16, 3 << 20]);
    let payload = input.rest();
    let mut inflater = Inflater::new();
    let message = Message { kind: kind(flags & 1 != 0), payload };
    let ours = inflater.inflate(message, bytes_max).map(|message| message.payload.to_vec());
    let by_ratio = payload.len().saturating_mul(INFLATE_RATIO_MAX).max(INFLATE_FREE_BYTES);
    check(ours, reference(payload, by_ratio.min(bytes_max as usize)), flags & 1 != 0);
    let hello = inflater.inflate(Message { kind: MessageKind::Text, payload: &HELLO }, 5);
    assert_eq!(hello, Ok(Message::text("Hello")), "the message before has left something");
}

fn check(ours: Result<Vec<u8>, ProtocolError>, theirs: Result<Vec<u8>, Fault>, is_text: bool) {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours, theirs);
            assert!(!is_text || std::str::from_utf8(&ours).is_ok(), "a text that isn't UTF-8");
        }
        (Err(ProtocolError::TextNotUtf8), Ok(theirs)) => assert!(is_text && std::str::from_utf8(&theirs).is_err()),
        (Err(ProtocolError::MessageTooBig), Err(Fault::TooBig)) => {}
        // Whether what is wrong with it comes before the byte too many depends on who looks how far ahead.
        (Err(ProtocolError::MessageTooBig | ProtocolError::DeflateInvalid), Err(_)) => {}
        (ours, theirs) => panic!("{ours:?}, but {theirs:?}"),
    }
}

/// What the other implementation finds wrong.
#[derive(Debug)]
enum Fault {
    TooBig,
    Invalid,
}

/// Inflates with another implementation, stream after stream.
fn reference(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, Fault> {
    if payload.is_empty() {
        return Ok(Vec::new());
    }
    let whole = [payload, &FLUSH_TAIL, &LAST_BLOCK].concat();
    let (mut rest, mut output) = (&whole[..], Vec::new());
    while !rest.is_empty() {
        let (taken, stream) = reference_stream(rest, bytes_max - output.len())?;
        output.extend_from_slice(&stream);
        rest = &rest[taken..];
    }
    Ok(output)
}

/// Inflates one stream at the front of `input`: how long it is, and what it holds.
fn reference_stream(input: &[u8], bytes_max: usize) -> Result<(usize, Vec<u8>), Fault> {
    let mut state = DecompressorOxide::new();
    let (mut output, mut taken, mut written) = (vec![0; 1 << 12], 0, 0);
    loop {
        // Told of a buffer that does not wrap, it refuses what refers back beyond the beginning.
        let (status, more_taken, more_written) =
            decompress(&mut state, &input[taken..], &mut output, written, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
        taken += more_taken;
        written += more_written;
        if written > bytes_max {
            return Err(Fault::TooBig);
        }
        match status {
            TINFLStatus::Done => {
                output.truncate(written);
                return Ok((taken, output));
            }
            TINFLStatus::HasMoreOutput => output.resize(2 * output.len(), 0),
            _ => return Err(Fault::Invalid),
        }
    }
}

/// Any message: compressed for any window and at any level it comes back as it was, and refers no further back than
/// that window.
pub(crate) fn deflate(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let window = WindowBits::new(8 + (flags >> 1) % 8).expect("8 to 15");
    let config = DeflateConfig { level: 1 + input.byte() % 9, bytes_min: usize::from(input.byte()) };
    let repeats = 1 + usize::from(input.byte()) % 64;
    let payload = input.rest().repeat(repeats);
    let kind = kind(flags & 1 != 0 && std::str::from_utf8(&payload).is_ok());
    let mut deflater = Deflater::new(config);
    let mut wire = Vec::new();
    for _ in 0..2 {
        wire.clear();
        deflater.encode_message(&mut wire, Message { kind, payload: &payload }, window, Some([1, 2, 3, 4]));
        let mut decoder = Decoder::new(Role::Server, u32::MAX);
        decoder.allow_deflated();
        let wire_len = wire.len();
        let mut rest = wire.as_mut_slice();
        let event = decoder.decode(&mut rest).expect("what we send is valid").expect("a whole message");
        if let Event::Deflated(message) = event {
            check_window(message.payload, &payload, window);
            assert!(message.payload.len() < payload.len(), "not smaller");
        }
        let mut inflater = Inflater::new();
        // Our own bound on what inflates to much more than came does not bind others.
        let is_bomb = payload.len() > INFLATE_FREE_BYTES.max(wire_len.saturating_mul(INFLATE_RATIO_MAX / 2));
        match inflater.inflate_event(event, u32::MAX) {
            Ok(event) => assert_eq!(event, Event::Message(Message { kind, payload: &payload })),
            Err(error) => assert!(is_bomb && error == ProtocolError::MessageTooBig, "{error}"),
        }
    }
}

/// Inflates with no larger a window than was asked for.
fn check_window(deflated: &[u8], payload: &[u8], window: WindowBits) {
    // The library's smallest window is twice the protocol's.
    let mut stream = Decompress::new_with_window_bits(false, window.get().max(9));
    let mut output = Vec::with_capacity(payload.len() + 1);
    let whole = [deflated, &FLUSH_TAIL].concat();
    stream.decompress_vec(&whole, &mut output, FlushDecompress::Sync).expect("nothing refers beyond the window");
    assert_eq!(output, payload);
}
