//! Frames of STOMP 1.0, 1.1 and 1.2: decoding and encoding, without state.
//!
//! ```text
//! COMMAND            \n or \r\n ends a line
//! name:value         escaped, except in CONNECT and CONNECTED, and in STOMP 1.0
//!
//! body \0            up to the first \0, or as many bytes as content-length says
//! ```

use std::borrow::Cow;
use std::fmt;

use crate::limits::{STOMP_HEAD_BYTES_MAX, STOMP_HEADERS_MAX};

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// STOMP 1.0: no escapes, no heart-beats.
    V10,
    /// STOMP 1.1
    V11,
    /// STOMP 1.2
    V12,
}

/// A command of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the protocol's names")]
pub enum Command {
    /// Also `STOMP`.
    Connect,
    Send,
    Subscribe,
    Unsubscribe,
    Ack,
    Nack,
    Begin,
    Commit,
    Abort,
    Disconnect,
}

/// How a subscription acknowledges messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// Not at all: a message that was sent is acknowledged.
    #[default]
    Auto,
    /// Each acknowledgement counts for all messages before, too.
    Client,
    /// Each acknowledgement counts for one message.
    Individual,
}

impl AckMode {
    /// The mode of a SUBSCRIBE with this header `ack`. Unknown modes acknowledge one message.
    pub fn of(header: Option<&str>) -> AckMode {
        match header {
            None | Some("auto") => AckMode::Auto,
            Some("client") => AckMode::Client,
            Some(_) => AckMode::Individual,
        }
    }
}

/// A frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The command.
    pub command: Command,
    /// The header fields in order, unescaped.
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The body.
    pub body: &'a [u8],
}

/// What lies at the front of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// Ends of lines between frames: a heart-beat.
    HeartBeat,
}

/// The input is no frame. The text states the reason and the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameError(pub &'static str);

impl Version {
    /// The version in `accept-version`, `version` and the subprotocols.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V10 => "1.0",
            Version::V11 => "1.1",
            Version::V12 => "1.2",
        }
    }

    /// The highest version in a list such as `1.0,1.2`; without a list it is 1.0.
    pub fn choose(accepted: Option<&str>) -> Option<Version> {
        let Some(accepted) = accepted else { return Some(Version::V10) };
        let is_accepted = |version: &Version| accepted.split(',').any(|listed| listed.trim() == version.as_str());
        [Version::V12, Version::V11, Version::V10].into_iter().find(is_accepted)
    }
}

impl<'a> Frame<'a> {
    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_ref())
    }
}

/// Decodes what lies at the front of `input`; the `usize` is its length. `Ok(None)`: it is incomplete, call again with
/// more bytes. A body has at most `body_bytes_max` bytes.
///
/// # Errors
/// [`FrameError`]: nothing after it can be decoded.
pub fn decode(
    input: &[u8],
    version: Version,
    body_bytes_max: usize,
) -> Result<Option<(Decoded<'_>, usize)>, FrameError> {
    let blank = input.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    if blank > 0 {
        return Ok(Some((Decoded::HeartBeat, blank)));
    }
    let Some(head_len) = head_len(input)? else { return Ok(None) };
    let head = std::str::from_utf8(&input[..head_len]).map_err(|_| FrameError("header fields must be UTF-8"))?;
    let mut lines = head.lines();
    let command = command(lines.next().unwrap_or_default())?;
    let version = if command == Command::Connect { Version::V10 } else { version };
    let mut headers = Vec::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        if headers.len() == STOMP_HEADERS_MAX {
            return Err(FrameError("too many header fields: send at most 64"));
        }
        let (name, value) = line.split_once(':').ok_or(FrameError("a header field must be name:value"))?;
        headers.push((unescape(name, version)?, unescape(value, version)?));
    }
    let mut frame = Frame { command, headers, body: &[] };
    let Some((body, body_len)) = find_body(&frame, &input[head_len..], body_bytes_max)? else { return Ok(None) };
    frame.body = body;
    Ok(Some((Decoded::Frame(frame), head_len + body_len)))
}

/// Bytes of the command and the header fields, with the blank line after them.
fn head_len(input: &[u8]) -> Result<Option<usize>, FrameError> {
    let head = &input[..input.len().min(STOMP_HEAD_BYTES_MAX)];
    let mut line_start = 0;
    for (index, byte) in head.iter().enumerate() {
        match byte {
            b'\n' if matches!(&head[line_start..index], b"" | b"\r") => return Ok(Some(index + 1)),
            b'\n' => line_start = index + 1,
            0 => return Err(FrameError("a blank line must precede the body and the final NUL")),
            _ => {}
        }
    }
    if head.len() < STOMP_HEAD_BYTES_MAX { Ok(None) } else { Err(FrameError("the header fields are too large")) }
}

/// The body, and its length with the NUL after it; `None` if it is incomplete.
fn find_body<'a>(
    frame: &Frame<'_>,
    input: &'a [u8],
    body_bytes_max: usize,
) -> Result<Option<(&'a [u8], usize)>, FrameError> {
    const TOO_LARGE: FrameError = FrameError("the body is too large: raise message_bytes_max in [stomp], or send less");
    let Some(length) = frame.header("content-length") else {
        let searched = &input[..input.len().min(body_bytes_max + 1)];
        return match searched.iter().position(|byte| *byte == 0) {
            Some(end) => Ok(Some((&input[..end], end + 1))),
            None if searched.len() <= body_bytes_max => Ok(None),
            None => Err(TOO_LARGE),
        };
    };
    let length: usize = length.trim().parse().map_err(|_| FrameError("content-length must be a number of bytes"))?;
    if length > body_bytes_max {
        return Err(TOO_LARGE);
    }
    match input.get(length) {
        Some(0) => Ok(Some((&input[..length], length + 1))),
        Some(_) => Err(FrameError("NUL must follow the body: content-length counts bytes, not characters")),
        None => Ok(None),
    }
}

fn command(line: &str) -> Result<Command, FrameError> {
    Ok(match line {
        "CONNECT" | "STOMP" => Command::Connect,
        "SEND" => Command::Send,
        "SUBSCRIBE" => Command::Subscribe,
        "UNSUBSCRIBE" => Command::Unsubscribe,
        "ACK" => Command::Ack,
        "NACK" => Command::Nack,
        "BEGIN" => Command::Begin,
        "COMMIT" => Command::Commit,
        "ABORT" => Command::Abort,
        "DISCONNECT" => Command::Disconnect,
        _ => return Err(FrameError("unknown command: send STOMP 1.0, 1.1 or 1.2")),
    })
}

fn unescape(text: &str, version: Version) -> Result<Cow<'_, str>, FrameError> {
    if version == Version::V10 || !text.contains('\\') {
        return Ok(text.into());
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, version) {
            ('\\', _) => out.push(match (chars.next(), version) {
                (Some('n'), _) => '\n',
                (Some('c'), _) => ':',
                (Some('\\'), _) => '\\',
                (Some('r'), Version::V12) => '\r',
                _ => return Err(FrameError("a header field has an undefined escape")),
            }),
            (char, _) => out.push(char),
        }
    }
    Ok(out.into())
}

/// Appends a frame of the server.
pub fn encode<'h>(
    out: &mut Vec<u8>,
    command: &str,
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    body: &[u8],
    version: Version,
) {
    out.extend_from_slice(command.as_bytes());
    out.push(b'\n');
    for (name, value) in headers {
        escape(out, name, version);
        out.push(b':');
        escape(out, value, version);
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(body);
    out.push(0);
}

/// STOMP 1.0 has no escapes: an end of a line becomes a blank.
fn escape(out: &mut Vec<u8>, text: &str, version: Version) {
    for byte in text.bytes() {
        match (byte, version) {
            (b'\n' | b'\r' | 0, Version::V10) | (0, _) => out.push(b' '),
            (_, Version::V10) => out.push(byte),
            (b'\n', _) => out.extend_from_slice(b"\\n"),
            (b':', _) => out.extend_from_slice(b"\\c"),
            (b'\\', _) => out.extend_from_slice(b"\\\\"),
            (b'\r', Version::V12) => out.extend_from_slice(b"\\r"),
            // STOMP 1.1 can't express it.
            (b'\r', _) => out.push(b' '),
            _ => out.push(byte),
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 100;

    fn frame(input: &[u8], version: Version) -> Frame<'_> {
        match decode(input, version, MAX) {
            Ok(Some((Decoded::Frame(frame), len))) if len == input.len() => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn frames_are_decoded() {
        let whole = frame(b"SEND\r\ndestination:/topic/a\r\nx:1\nx:2\n\r\nhello\0", Version::V12);
        assert_eq!((whole.command, whole.body), (Command::Send, &b"hello"[..]));
        assert_eq!(
            (whole.header("destination"), whole.header("x"), whole.header("y")),
            (Some("/topic/a"), Some("1"), None)
        );
        let binary = frame(b"SEND\ncontent-length:3\n\n\0\xff\0\0", Version::V12);
        assert_eq!(binary.body, b"\0\xff\0");
        assert_eq!(decode(b"\n\r\n\nSEND", Version::V12, MAX), Ok(Some((Decoded::HeartBeat, 4))));
    }

    #[test]
    fn escapes_depend_on_the_version() {
        let header = |version, command: &str, value: &str| {
            let input = format!("{command}\nx:{value}\n\n\0");
            decode(input.as_bytes(), version, MAX).map(|decoded| match decoded {
                Some((Decoded::Frame(frame), _)) => frame.header("x").unwrap().to_owned(),
                other => panic!("{other:?}"),
            })
        };
        let undefined = Err(FrameError("a header field has an undefined escape"));
        assert_eq!(header(Version::V12, "SEND", r"a\nb\cc\\d\re"), Ok("a\nb:c\\d\re".to_owned()));
        assert_eq!(header(Version::V11, "SEND", r"a\r"), undefined);
        assert_eq!(header(Version::V12, "SEND", r"a\t"), undefined);
        assert_eq!(header(Version::V12, "SEND", r"a\"), undefined);
        assert_eq!(header(Version::V10, "SEND", r"a\nb"), Ok(r"a\nb".to_owned()));
        assert_eq!(header(Version::V12, "CONNECT", r"a\nb"), Ok(r"a\nb".to_owned()));
    }

    #[test]
    fn frames_are_incomplete_at_every_split() {
        let whole = b"SEND\ndestination:/topic/a\ncontent-length:5\n\nhe\0lo\0";
        for split in 0..whole.len() {
            assert_eq!(decode(&whole[..split], Version::V12, MAX), Ok(None), "split at {split}");
        }
        frame(whole, Version::V12);
    }

    #[test]
    fn violations_have_a_reason() {
        let long = format!("SEND\nx:{}", "a".repeat(STOMP_HEAD_BYTES_MAX));
        let many = format!("SEND\n{}\n\0", "x:1\n".repeat(STOMP_HEADERS_MAX + 1));
        let body = format!("SEND\n\n{}", "a".repeat(MAX + 1));
        let rows: [(&[u8], &str); 9] = [
            (b"HELLO\n\n\0", "unknown command"),
            (b"SEND\nx\n\n\0", "a header field must be"),
            (b"SEND\nx:1\0", "a blank line must precede"),
            (b"SEND\nx:\xff\n\n\0", "header fields must be UTF-8"),
            (b"SEND\ncontent-length:x\n\n\0", "content-length must be"),
            (b"SEND\ncontent-length:1\n\nab\0", "NUL must follow"),
            (b"SEND\ncontent-length:101\n\n", "the body is too large"),
            (body.as_bytes(), "the body is too large"),
            (many.as_bytes(), "too many header fields"),
        ];
        for (input, reason) in rows {
            let error = decode(input, Version::V12, MAX).unwrap_err();
            assert!(error.0.starts_with(reason), "{error}");
        }
        assert_eq!(decode(long.as_bytes(), Version::V12, MAX), Err(FrameError("the header fields are too large")));
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        let rows = [
            (None, Some(Version::V10)),
            (Some("1.0,1.1, 1.2"), Some(Version::V12)),
            (Some("1.1"), Some(Version::V11)),
            (Some("2.0"), None),
        ];
        for (accepted, expected) in rows {
            assert_eq!(Version::choose(accepted), expected, "{accepted:?}");
        }
    }

    proptest! {
        #[test]
        fn values_survive_encoding(value in "[a-z:\\\\\n\r é]{0,40}", body in proptest::collection::vec(any::<u8>(), 0..50)) {
            let mut out = Vec::new();
            let length = body.len().to_string();
            encode(&mut out, "SEND", [("x", value.as_str()), ("content-length", length.as_str())], &body, Version::V12);
            let decoded = frame(&out, Version::V12);
            prop_assert_eq!((decoded.header("x"), decoded.body), (Some(value.as_str()), &body[..]));
        }

        #[test]
        fn no_input_is_a_panic(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            for version in [Version::V10, Version::V11, Version::V12] {
                let _ = decode(&input, version, MAX);
                let _ = decode(&[b"SEND\n", &input[..]].concat(), version, MAX);
            }
        }
    }
}
