//! Parses the records of a stream of publications, sans-IO: bytes go in, drafts come out.
//!
//! Two formats. A *line* is a JSON object (NDJSON). A *frame* is a length and that many bytes:
//!
//! ```text
//! u32 length of the rest (little-endian) │ u8 flags │ u8 topic length │ topic │ u16 key length │ key │ payload
//! ```
//!
//! Bit 0 of the flags marks text; the other bits must be 0. All numbers are little-endian.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::publish::{checked_key, sorted_tags};
use crate::limits::{PUBLISH_BYTES_MAX, STREAM_FRAME_BYTES_MAX, STREAM_LINE_BYTES_MAX};
use crate::topics::{Draft, TopicName};

/// Bytes of a frame's length field.
const LENGTH_BYTES: usize = 4;

/// The flag of a text payload.
const FLAG_TEXT: u8 = 1;

/// How the records of a stream are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// One JSON object a line.
    Lines,
    /// Length-prefixed binary records.
    Frames,
}

/// Splits a stream into records. The caller feeds it only after [`next`](Self::next) has returned `None`, so that it
/// holds one record and one piece at most.
#[derive(Debug)]
pub(super) struct Decoder {
    format: Format,
    buffer: BytesMut,
    /// Bytes of the buffer that contain no newline.
    searched: usize,
    /// Records so far, for error messages.
    count: u64,
}

impl Decoder {
    pub(super) fn new(format: Format) -> Decoder {
        Decoder { format, buffer: BytesMut::new(), searched: 0, count: 0 }
    }

    /// Appends received bytes.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// Whether no part of a record is buffered.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next whole record; `None` if more bytes are needed.
    ///
    /// # Errors
    /// A text that names the record and the remedy. The stream must end.
    pub(super) fn next(&mut self) -> Result<Option<Draft>, String> {
        match self.format {
            Format::Lines => self.next_line(),
            Format::Frames => self.next_frame(),
        }
    }

    /// The last record, after the end of the stream: a line needs no newline there.
    ///
    /// # Errors
    /// As [`next`](Self::next); also if the stream ended within a frame.
    pub(super) fn finish(&mut self) -> Result<Option<Draft>, String> {
        match self.format {
            _ if self.buffer.trim_ascii().is_empty() => Ok(None),
            Format::Lines => {
                let line = self.buffer.split().freeze();
                self.searched = 0;
                self.count += 1;
                self.checked(parse_line(&line)).map(Some)
            }
            Format::Frames => {
                self.count += 1;
                self.checked(Err("the stream ended within the frame: send all of its bytes".to_owned()))
            }
        }
    }

    fn next_line(&mut self) -> Result<Option<Draft>, String> {
        loop {
            let newline = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let len = newline.map_or(self.buffer.len(), |place| self.searched + place);
            if len > STREAM_LINE_BYTES_MAX {
                self.count += 1;
                return self.checked(Err(format!("the line is too long: at most {STREAM_LINE_BYTES_MAX} bytes")));
            }
            if newline.is_none() {
                self.searched = len;
                return Ok(None);
            }
            let line = self.buffer.split_to(len + 1).freeze().slice(..len);
            self.searched = 0;
            self.count += 1;
            if !line.trim_ascii().is_empty() {
                return self.checked(parse_line(&line)).map(Some);
            }
        }
    }

    fn next_frame(&mut self) -> Result<Option<Draft>, String> {
        let Some((length, rest)) = self.buffer.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > STREAM_FRAME_BYTES_MAX {
            self.count += 1;
            return self.checked(Err(format!("the frame is too long: at most {STREAM_FRAME_BYTES_MAX} bytes")));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let frame = self.buffer.split_to(LENGTH_BYTES + length).freeze().slice(LENGTH_BYTES..);
        self.count += 1;
        self.checked(parse_frame(&frame)).map(Some)
    }

    /// Names the record in an error.
    fn checked<T>(&self, parsed: Result<T, String>) -> Result<T, String> {
        let unit = match self.format {
            Format::Lines => "line",
            Format::Frames => "frame",
        };
        parsed.map_err(|error| format!("{unit} {}: {error}", self.count))
    }
}

/// A line's fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    topic: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    text: Option<String>,
    base64: Option<String>,
    key: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    idempotency_key: Option<String>,
    /// Removes the key of a keyed topic: there is no payload then.
    remove: Option<bool>,
}

fn parse_line(line: &Bytes) -> Result<Draft, String> {
    let parsed: Line<'_> = serde_json::from_slice(line).map_err(|error| format!("{error}: send a JSON object"))?;
    let (is_text, payload) = match (parsed.data, parsed.text, parsed.base64) {
        (Some(json), None, None) => (true, line.slice_ref(json.get().as_bytes())),
        (None, Some(text), None) => (true, text.into()),
        (None, None, None) if parsed.remove == Some(true) => (true, Bytes::new()),
        (None, None, Some(text)) => {
            (false, STANDARD.decode(text).map_err(|error| format!("base64 is malformed: {error}"))?.into())
        }
        _ => return Err("the payload is missing or ambiguous: give one of data, text and base64".to_owned()),
    };
    let mut draft = draft(&parsed.topic, is_text, payload)?;
    draft.key = parsed.key.map(|key| checked_key("key", &key)).transpose()?;
    let idempotency_key = parsed.idempotency_key.map(|key| checked_key("idempotency_key", &key));
    draft.idempotency_key = idempotency_key.transpose()?;
    draft.tags = sorted_tags(parsed.tags.into_iter().flatten().collect())?;
    draft.removes = parsed.remove == Some(true);
    Ok(draft)
}

fn parse_frame(frame: &Bytes) -> Result<Draft, String> {
    let short = || "the frame is too short for its topic and key: check the lengths".to_owned();
    let (&[flags, topic_len], rest) = frame.split_first_chunk().ok_or_else(short)?;
    if flags & !FLAG_TEXT != 0 {
        return Err(format!("flags {flags:#04x} are unknown: set bit 0 for text and no other"));
    }
    let (topic, rest) = rest.split_at_checked(topic_len.into()).ok_or_else(short)?;
    let (key_len, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (key, payload) = rest.split_at_checked(u16::from_le_bytes(*key_len).into()).ok_or_else(short)?;
    let topic = simdutf8::basic::from_utf8(topic).map_err(|_| "the topic is not valid UTF-8: use ASCII")?;
    let key = simdutf8::basic::from_utf8(key).map_err(|_| "the key is not valid UTF-8: use UTF-8")?;
    let is_text = flags & FLAG_TEXT != 0;
    if is_text && simdutf8::basic::from_utf8(payload).is_err() {
        return Err("the payload is not valid UTF-8: clear bit 0 of the flags for binary".to_owned());
    }
    let mut draft = draft(topic, is_text, frame.slice_ref(payload))?;
    draft.key = if key.is_empty() { None } else { Some(checked_key("the key", key)?) };
    Ok(draft)
}

fn draft(topic: &str, is_text: bool, payload: Bytes) -> Result<Draft, String> {
    let topic = TopicName::new(topic).map_err(|error| error.to_string())?;
    if payload.len() > PUBLISH_BYTES_MAX {
        return Err(format!("the payload is too long: at most {PUBLISH_BYTES_MAX} bytes"));
    }
    Ok(Draft::new(topic, is_text, payload))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(flags: u8, topic: &str, key: &str, payload: &[u8]) -> Vec<u8> {
        let mut rest = vec![flags, topic.len() as u8];
        rest.extend_from_slice(topic.as_bytes());
        rest.extend_from_slice(&(key.len() as u16).to_le_bytes());
        rest.extend_from_slice(key.as_bytes());
        rest.extend_from_slice(payload);
        [&(rest.len() as u32).to_le_bytes()[..], &rest].concat()
    }

    #[test]
    fn a_line_may_remove_a_key() {
        let draft = parse_line(&Bytes::from_static(b"{\"topic\":\"a\",\"key\":\"k\",\"remove\":true}")).unwrap();
        assert!(draft.removes && draft.key.as_deref() == Some("k") && draft.payload.is_empty());
        let without = parse_line(&Bytes::from_static(b"{\"topic\":\"a\",\"key\":\"k\",\"remove\":false}"));
        assert!(without.unwrap_err().contains("payload"));
    }

    /// Topic, whether text, payload and key of each record, and the error that ends the stream.
    type Decoded = (Vec<(String, bool, Vec<u8>, Option<String>)>, Option<String>);

    fn decode<'a>(format: Format, pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
        let mut decoder = Decoder::new(format);
        let mut found = Vec::new();
        let mut keep = |draft: Draft| {
            let key = draft.key.map(String::from);
            found.push((draft.topic.to_string(), draft.is_text, draft.payload.to_vec(), key));
        };
        for piece in pieces {
            decoder.feed(piece);
            loop {
                match decoder.next() {
                    Ok(Some(draft)) => keep(draft),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        match decoder.finish() {
            Ok(last) => last.into_iter().for_each(keep),
            Err(error) => return (found, Some(error)),
        }
        assert!(matches!(decoder.next(), Ok(None)), "nothing follows the last record");
        (found, None)
    }

    fn streams() -> [(Format, Vec<u8>); 2] {
        let lines = "{\"topic\":\"a\",\"data\":{\"x\": 1}}\r\n\n{\"topic\":\"b\",\"text\":\"gr\u{fc}n\",\"key\":\"k\"}\n\
                     {\"topic\":\"a\",\"base64\":\"/wA=\",\"tags\":{\"n\":\"v\"}}";
        let frames =
            [frame(1, "a", "", b"{\"x\": 1}"), frame(1, "b", "k", "grün".as_bytes()), frame(0, "a", "", b"\xff\0")];
        [(Format::Lines, lines.as_bytes().to_vec()), (Format::Frames, frames.concat())]
    }

    #[test]
    fn records_are_the_same_at_every_split_point() {
        let expected = vec![
            ("a".to_owned(), true, b"{\"x\": 1}".to_vec(), None),
            ("b".to_owned(), true, "grün".as_bytes().to_vec(), Some("k".to_owned())),
            ("a".to_owned(), false, b"\xff\0".to_vec(), None),
        ];
        for (format, stream) in streams() {
            for at in 0..=stream.len() {
                let (head, tail) = stream.split_at(at);
                assert_eq!(decode(format, [head, tail]), (expected.clone(), None), "{format:?} split at {at}");
            }
        }
    }

    #[test]
    fn malformed_records_name_their_place_and_the_remedy() {
        let too_long = [b'x'; 1].repeat(STREAM_LINE_BYTES_MAX + 1);
        let length = (STREAM_FRAME_BYTES_MAX as u32 + 1).to_le_bytes();
        let rows: [(Format, &[u8], &str); 10] = [
            (Format::Lines, b"\n{\"topic\":\"a\"}\n", "line 2: the payload is missing"),
            (Format::Lines, b"{\"topic\":\"a\",\"text\":\"\",\"data\":1}\n", "give one of"),
            (Format::Lines, b"{\"topic\":\"a b\",\"data\":1}\n", "line 1: "),
            (Format::Lines, b"{\"topic\":\"a\",\"base64\":\"?\"}\n", "base64 is malformed"),
            (Format::Lines, b"{\"topic\":\"a\",\"dta\":1}\n", "unknown field"),
            (Format::Lines, &too_long, "the line is too long"),
            (Format::Frames, &length, "frame 1: the frame is too long"),
            (Format::Frames, b"\x01\0\0\0\0", "check the lengths"),
            (Format::Frames, b"\x09\0\0\0\x02\x01a\0\0xxxx", "flags 0x02 are unknown"),
            (Format::Frames, b"\x09\0\0\0\0\x01a", "the stream ended within the frame"),
        ];
        for (format, stream, reason) in rows {
            let (found, error) = decode(format, [stream]);
            assert!(found.is_empty(), "{reason}");
            assert!(error.as_deref().is_some_and(|error| error.contains(reason)), "{reason}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_sizes_give_the_same_records(
            records in prop::collection::vec(("[a-z]{1,20}", any::<Vec<u8>>(), "[a-z]{0,9}"), 0..20),
            size in 1_usize..50,
        ) {
            let stream = records.iter().flat_map(|(topic, payload, key)| frame(0, topic, key, payload));
            let stream: Vec<u8> = stream.collect();
            let expected: Vec<_> = records
                .into_iter()
                .map(|(topic, payload, key)| (topic, false, payload, Some(key).filter(|key| !key.is_empty())))
                .collect();
            prop_assert_eq!(decode(Format::Frames, stream.chunks(size)), (expected, None));
        }

        #[test]
        fn any_bytes_end_in_records_or_an_error(bytes in any::<Vec<u8>>(), size in 1_usize..50) {
            for format in [Format::Lines, Format::Frames] {
                let whole = decode(format, [&bytes[..]]);
                prop_assert_eq!(decode(format, bytes.chunks(size)), whole);
            }
        }
    }
}
