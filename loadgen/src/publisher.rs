//! Publishes: encodes a message the way the server takes it, and watches the answers.

use ringfeed::proto::{Decoder, Inflater, Opcode, encode_frame};

use crate::connect::{self, Connected};
use crate::error::Error;
use crate::frames;
use crate::masking_keys::MaskingKeys;
use crate::target::{PublishTarget, Target};

/// Header fields of an answer.
const ANSWER_HEADERS_MAX: usize = 32;

/// One publishing connection. Publications may follow each other without waiting for answers.
pub(crate) enum Publisher {
    /// `POST`, pipelined on one connection that is kept open.
    Http {
        /// Request line and headers up to the length of the body.
        head: Vec<u8>,
        /// An answer that is not whole yet.
        answer: Vec<u8>,
        /// Requests not answered yet.
        awaited: u64,
    },
    /// A text message for each publication; nothing answers.
    WebSocket(Decoder),
}

impl Publisher {
    /// Connects.
    ///
    /// # Errors
    /// If the server can't be reached or refuses.
    pub(crate) fn connect(target: &PublishTarget, keys: &mut MaskingKeys) -> Result<(Publisher, Connected), Error> {
        match target {
            PublishTarget::Http(target) => {
                let publisher = Publisher::Http { head: request_head(target), answer: Vec::new(), awaited: 0 };
                Ok((publisher, connect::plain(target)?))
            }
            PublishTarget::WebSocket(target) => {
                let connected = connect::web_socket(target, 0, false, keys)?;
                Ok((Publisher::WebSocket(frames::decoder(false)), connected))
            }
        }
    }

    /// Appends one publication to `out`.
    pub(crate) fn publish(&mut self, payload: &[u8], out: &mut Vec<u8>, keys: &mut MaskingKeys) {
        match self {
            Publisher::Http { head, awaited, .. } => {
                *awaited += 1;
                out.extend_from_slice(head);
                out.extend_from_slice(format!("{}\r\n\r\n", payload.len()).as_bytes());
                out.extend_from_slice(payload);
            }
            Publisher::WebSocket(_) => encode_frame(out, Opcode::Text, payload, Some(keys.next())),
        }
    }

    /// Reads answers.
    ///
    /// # Errors
    /// If a publication was refused or the connection ended; says so.
    pub(crate) fn on_bytes(
        &mut self,
        bytes: &mut [u8],
        inflater: &mut Inflater,
        out: &mut Vec<u8>,
        keys: &mut MaskingKeys,
    ) -> Result<(), String> {
        match self {
            Publisher::Http { answer, awaited, .. } => {
                answer.extend_from_slice(bytes);
                while let Some(len) = answer_len(answer)? {
                    answer.drain(..len);
                    *awaited = awaited.checked_sub(1).ok_or("an answer to no request")?;
                }
                Ok(())
            }
            Publisher::WebSocket(decoder) => frames::read(decoder, inflater, bytes, keys, out, |_, _, _| {}),
        }
    }

    /// Whether everything published has been answered, where answers are given.
    pub(crate) fn is_answered(&self) -> bool {
        match self {
            Publisher::Http { awaited, .. } => *awaited == 0,
            Publisher::WebSocket(_) => true,
        }
    }
}

fn request_head(target: &Target) -> Vec<u8> {
    let Target { authority, path } = target;
    format!("POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: text/plain\r\nContent-Length: ").into_bytes()
}

/// Bytes of the answer at the front of `input`, or `None` if it is not whole.
fn answer_len(input: &[u8]) -> Result<Option<usize>, String> {
    let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) = response.parse(input).map_err(|error| format!("bad answer: {error}"))?
    else {
        return Ok(None);
    };
    let status = response.code.unwrap_or(0);
    if !(200..300).contains(&status) {
        return Err(format!("refused with {status} {}", response.reason.unwrap_or("")));
    }
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body_len = match length {
        Some(header) => str::from_utf8(header.value).ok().and_then(|text| text.trim().parse::<usize>().ok()),
        None if status == 204 => Some(0),
        None => None,
    };
    let body_len = body_len.ok_or("an answer without Content-Length")?;
    Ok((input.len() >= head_len + body_len).then_some(head_len + body_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http() -> Publisher {
        let PublishTarget::Http(target) = "http://127.0.0.1:8001/publish/t".parse().unwrap() else { unreachable!() };
        Publisher::Http { head: request_head(&target), answer: Vec::new(), awaited: 0 }
    }

    #[test]
    fn a_post_is_what_http_wants() {
        let (mut publisher, mut out) = (http(), Vec::new());
        publisher.publish(b"hello", &mut out, &mut MaskingKeys::new());
        let expected = "POST /publish/t HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nContent-Type: text/plain\r\n\
                        Content-Length: 5\r\n\r\nhello";
        assert_eq!(str::from_utf8(&out).unwrap(), expected);
        assert!(!publisher.is_answered());
    }

    #[test]
    fn answers_may_be_cut_anywhere_and_follow_each_other() {
        let answers = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 204 No Content\r\n\r\n";
        for cut in 0..answers.len() {
            let (mut publisher, mut out, mut keys) = (http(), Vec::new(), MaskingKeys::new());
            publisher.publish(b"a", &mut out, &mut keys);
            publisher.publish(b"b", &mut out, &mut keys);
            let (mut front, mut back) = (answers[..cut].to_vec(), answers[cut..].to_vec());
            publisher.on_bytes(&mut front, &mut Inflater::new(), &mut out, &mut keys).unwrap();
            assert!(!publisher.is_answered());
            publisher.on_bytes(&mut back, &mut Inflater::new(), &mut out, &mut keys).unwrap();
            assert!(publisher.is_answered());
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_status() {
        let refusal = answer_len(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap_err();
        assert_eq!(refusal, "refused with 503 Service Unavailable");
        assert!(answer_len(b"HTTP/1.1 200 OK\r\n\r\n").unwrap_err().contains("Content-Length"));
        let mut answer = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
        let unasked = http().on_bytes(&mut answer, &mut Inflater::new(), &mut Vec::new(), &mut MaskingKeys::new());
        assert_eq!(unasked.unwrap_err(), "an answer to no request");
    }
}
