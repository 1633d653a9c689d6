//! Compressed messages: hostile ones in, and our own out and back in.

use flate2::{Decompress, FlushDecompress};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use ringfeed::limits::{INFLATE_FREE_BYTES, INFLATE_RATIO_MAX};
use ringfeed::proto::{
    Decoder, DeflateConfig, Deflater, Event, Inflater, Message, MessageKind, ProtocolError, Role, SlidingWindow,
    WindowBits,
};

use crate::input::Input;

/// The bytes that a sender strips from each message and a receiver appends (RFC 7692 §7.2.2).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// An empty final block: an input is complete if it can be decoded after it.
const LAST_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];

/// "Hello" as in RFC 7692 §7.2.3.1.
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

fn kind(is_text: bool) -> MessageKind {
    if is_text { MessageKind::Text } else { MessageKind::Binary }
}

/// Any bytes as a compressed message: the result is within the limits and equals that of another implementation, and
/// leaves no state for the next message.
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
    assert_eq!(hello, Ok(Message::text("Hello")), "the previous message left state");
}

fn check(ours: Result<Vec<u8>, ProtocolError>, theirs: Result<Vec<u8>, Fault>, is_text: bool) {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours, theirs);
            assert!(!is_text || std::str::from_utf8(&ours).is_ok(), "a text that isn't UTF-8");
        }
        (Err(ProtocolError::TextNotUtf8), Ok(theirs)) => assert!(is_text && std::str::from_utf8(&theirs).is_err()),
        (Err(ProtocolError::MessageTooBig), Err(Fault::TooBig)) => {}
        // Whether an invalid block is found before the limit is exceeded depends on how far an implementation looks
        // ahead.
        (Err(ProtocolError::MessageTooBig | ProtocolError::DeflateInvalid), Err(_)) => {}
        (ours, theirs) => panic!("{ours:?}, but {theirs:?}"),
    }
}

/// The errors of the other implementation.
#[derive(Debug)]
enum Fault {
    TooBig,
    Invalid,
}

/// Inflates with the other implementation, stream after stream.
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

/// Inflates one stream at the front of `input`. Returns its length and its content.
fn reference_stream(input: &[u8], bytes_max: usize) -> Result<(usize, Vec<u8>), Fault> {
    let mut state = DecompressorOxide::new();
    let (mut output, mut taken, mut written) = (vec![0; 1 << 12], 0, 0);
    loop {
        // With a buffer that does not wrap, it rejects references before the start.
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

/// Any message, twice: compressed with any window and at any level it is restored unchanged, and refers back no further
/// than that window. With context takeover, the second message refers back to the first.
pub(crate) fn deflate(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let window = WindowBits::new(8 + (flags >> 1) % 8).expect("8 to 15");
    let takes_over = flags & 0x10 != 0 && window.get() > 8;
    let (level, bytes_min) = (1 + input.byte() % 9, usize::from(input.byte()));
    let config = DeflateConfig { level, bytes_min, ..DeflateConfig::default() };
    let repeats = 1 + usize::from(input.byte()) % 64;
    let payload = input.rest().repeat(repeats);
    let kind = kind(flags & 1 != 0 && std::str::from_utf8(&payload).is_ok());
    let mut deflater = Deflater::new(config);
    let mut wire = Vec::new();
    let mut sent = takes_over.then(|| SlidingWindow::new(window.min(SlidingWindow::KEPT_MAX)));
    let mut received = takes_over.then(|| SlidingWindow::new(window));
    for _ in 0..2 {
        wire.clear();
        let mut deflater = deflater.for_peer(window, sent.as_mut());
        deflater.encode_message(&mut wire, Message { kind, payload: &payload }, Some([1, 2, 3, 4]));
        let mut decoder = Decoder::new(Role::Server, u32::MAX);
        decoder.allow_deflated();
        let wire_len = wire.len();
        let mut rest = wire.as_mut_slice();
        let event = decoder.decode(&mut rest).expect("our frames are valid").expect("a whole message");
        if let Event::Deflated(message) = event {
            if !takes_over {
                check_window(message.payload, &payload, window);
            }
            assert!(message.payload.len() < payload.len(), "not smaller");
        }
        let mut inflater = Inflater::new();
        // Our own ratio limit does not apply to other senders.
        let is_bomb = payload.len() > INFLATE_FREE_BYTES.max(wire_len.saturating_mul(INFLATE_RATIO_MAX / 2));
        match inflater.inflate_event(event, u32::MAX, received.as_mut()) {
            Ok(event) => assert_eq!(event, Event::Message(Message { kind, payload: &payload })),
            Err(error) => return assert!(is_bomb && error == ProtocolError::MessageTooBig, "{error}"),
        }
    }
}

/// Inflates with a window no larger than the requested one.
fn check_window(deflated: &[u8], payload: &[u8], window: WindowBits) {
    // The library's smallest window is twice that of the protocol.
    let mut stream = Decompress::new_with_window_bits(false, window.get().max(9));
    let mut output = Vec::with_capacity(payload.len() + 1);
    let whole = [deflated, &FLUSH_TAIL].concat();
    stream.decompress_vec(&whole, &mut output, FlushDecompress::Sync).expect("all references are within the window");
    assert_eq!(output, payload);
}
