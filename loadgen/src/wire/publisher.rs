//! Publishes by POST on one persistent connection, and checks the responses.
//!
//! Requests are pipelined. If the server closes the connection after a response, the client opens another, sends again
//! what was not answered, and from then on waits for each response before it sends the next request.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::check::topics::Topics;
use crate::driver::Driver;
use crate::wire::target::Target;

/// Most header fields of a response.
const ANSWER_HEADERS_MAX: usize = 64;

/// Longest response in bytes. Servers answer with a few words.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One publishing connection.
pub(crate) struct HttpPublisher {
    driver: Arc<dyn Driver>,
    /// Request line and headers of a publication on each topic, up to the content type.
    heads: Vec<Vec<u8>>,
    /// An incomplete response.
    answer: Vec<u8>,
    /// The requests without a response.
    requests: VecDeque<Request>,
    /// How many of them were sent on this connection: the first.
    sent: usize,
    /// Most requests sent without a response.
    in_flight_max: usize,
    /// How many of the first requests are no longer expected to have a response.
    given_up: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Connected, and the server has not answered yet.
    New,
    /// Connected, and the server has answered.
    Answered,
    /// The last response said that the server closes the connection.
    Closing,
    /// Waits for the next connection.
    Away,
}

/// A publication without a response.
struct Request {
    topic: u32,
    number: u64,
    bytes: Vec<u8>,
    /// When it was passed to the kernel.
    sent_ns: u64,
}

/// The server's answer to a publication.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted {
        sent_ns: u64,
    },
    /// The message `number` of `topic` was refused.
    Refused {
        topic: u32,
        number: u64,
        reason: String,
    },
}

impl HttpPublisher {
    /// Publishes to `target`, with these headers in addition to the usual ones, and at most so many requests without a
    /// response.
    pub(crate) fn new(
        driver: Arc<dyn Driver>,
        target: &Target,
        topics: &Topics,
        headers: &[(String, String)],
        in_flight_max: Option<u32>,
    ) -> HttpPublisher {
        let head = |topic| {
            let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let path = target.path(topics.name(topic));
            format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{more}Content-Type: ", target.authority).into_bytes()
        };
        HttpPublisher {
            driver,
            heads: (0..topics.count()).map(head).collect(),
            answer: Vec::new(),
            requests: VecDeque::new(),
            sent: 0,
            in_flight_max: in_flight_max.map_or(usize::MAX, |max| max as usize),
            given_up: 0,
            state: State::New,
        }
    }

    /// Publishes message `number` of `topic`. Appends to `out`, to be sent at `now_ns`, what may be sent by now.
    pub(crate) fn publish(
        &mut self,
        (topic, number): (u32, u64),
        topic_name: &str,
        payload: &[u8],
        now_ns: u64,
        out: &mut Vec<u8>,
    ) {
        let (content_type, body) = self.driver.post(topic_name, payload);
        let mut bytes = self.heads[topic as usize].clone();
        bytes.extend_from_slice(format!("{content_type}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(&body);
        self.requests.push_back(Request { topic, number, bytes, sent_ns: now_ns });
        self.send_due(now_ns, out);
    }

    /// Reads responses, and passes on what they say. Appends to `out` what may be sent by now.
    ///
    /// # Errors
    /// If the connection has to be closed: see [`reconnects`](Self::reconnects).
    pub(crate) fn on_bytes(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        out: &mut Vec<u8>,
        mut on_answer: impl FnMut(Answer),
    ) -> Result<(), String> {
        self.answer.extend_from_slice(bytes);
        while let Some(response) = decode(&self.answer)? {
            let Response { len, status, ref reason, ref body, closes } = response;
            if (100..200).contains(&status) {
                self.answer.drain(..len);
                continue;
            }
            let result = match status {
                200..300 => self.driver.check_answer(body),
                _ => Err(format!("refused with {status} {reason}")),
            };
            self.answer.drain(..len);
            let request = self.requests.pop_front().filter(|_| self.sent > 0).ok_or("an answer to no request")?;
            self.sent -= 1;
            self.state = if closes { State::Closing } else { State::Answered };
            let Request { topic, number, sent_ns, .. } = request;
            match result {
                _ if self.given_up > 0 => self.given_up -= 1,
                Ok(()) => on_answer(Answer::Accepted { sent_ns }),
                Err(reason) => on_answer(Answer::Refused { topic, number, reason }),
            }
            if closes {
                self.in_flight_max = 1;
                return Err("the server closes the connection after each answer".to_owned());
            }
        }
        if self.answer.len() > ANSWER_BYTES_MAX {
            return Err(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"));
        }
        self.send_due(now_ns, out);
        Ok(())
    }

    /// Whether the connection, which has ended, can be replaced without a loss: the server announced its end, or closed
    /// it while no answer was due.
    pub(crate) fn reconnects(&self) -> bool {
        self.state == State::Closing || self.state == State::Answered && self.sent == 0
    }

    /// The connection has ended.
    pub(crate) fn on_closed(&mut self) {
        self.state = State::Away;
        self.sent = 0;
        self.answer.clear();
    }

    /// There is a new connection. Appends to `out` what may be sent by now.
    pub(crate) fn on_reopened(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        self.state = State::New;
        self.send_due(now_ns, out);
    }

    fn send_due(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        if !matches!(self.state, State::New | State::Answered) {
            return;
        }
        let end = self.requests.len().min(self.in_flight_max);
        while self.sent < end {
            let request = &mut self.requests[self.sent];
            request.sent_ns = now_ns;
            out.extend_from_slice(&request.bytes);
            self.sent += 1;
        }
    }

    /// Number of publications without a response.
    pub(crate) fn unanswered(&self) -> usize {
        self.requests.len() - self.given_up
    }

    /// No longer expects the responses that have not come.
    pub(crate) fn give_up(&mut self) {
        self.given_up = self.requests.len();
    }
}

/// A response.
struct Response<'a> {
    /// Its length in bytes.
    len: usize,
    status: u16,
    reason: String,
    body: Cow<'a, [u8]>,
    /// The server closes the connection after it.
    closes: bool,
}

/// The response at the front of `input`, or `None` if it is incomplete.
fn decode(input: &[u8]) -> Result<Option<Response<'_>>, String> {
    let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) = head.parse(input).map_err(|error| format!("bad answer: {error}"))?
    else {
        return Ok(None);
    };
    let value = |name: &str| {
        let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(header.value).trim().to_ascii_lowercase())
    };
    let status = head.code.unwrap_or(0);
    let connection = value("connection").unwrap_or_default();
    let closes = connection.contains("close") || head.version == Some(0) && !connection.contains("keep-alive");
    let after = &input[head_len..];
    let (body, body_len): (Cow<'_, [u8]>, usize) = match (value("content-length"), value("transfer-encoding")) {
        _ if matches!(status, 100..200 | 204 | 304) => (Cow::default(), 0),
        (_, Some(coding)) if coding.ends_with("chunked") => match decode_chunks(after)? {
            Some((body, len)) => (Cow::Owned(body), len),
            None => return Ok(None),
        },
        (Some(length), _) => {
            let length: usize = length.parse().map_err(|_| format!("an answer of {length} bytes"))?;
            match after.get(..length) {
                Some(body) => (Cow::Borrowed(body), length),
                None => return Ok(None),
            }
        }
        (None, _) => return Err("an answer without Content-Length".to_owned()),
    };
    let reason = head.reason.unwrap_or("").to_owned();
    Ok(Some(Response { len: head_len + body_len, status, reason, body, closes }))
}

/// Decodes a chunked body (RFC 9112 §7.1). Returns it and the length of its coding, or `None` if it is incomplete.
fn decode_chunks(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (line_len, size) = match httparse::parse_chunk_size(&input[at..]) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err("a chunk without a size".to_owned()),
        };
        at += line_len;
        if size == 0 {
            return Ok(trailer_len(&input[at..]).map(|len| (body, at + len)));
        }
        let size = usize::try_from(size).ok().filter(|size| *size <= ANSWER_BYTES_MAX).ok_or("too large a chunk")?;
        let Some(chunk) = input.get(at..at + size + 2) else { return Ok(None) };
        let data = chunk.strip_suffix(b"\r\n").ok_or("a chunk without an end")?;
        body.extend_from_slice(data);
        at += size + 2;
    }
}

/// The length of the trailer fields, including the empty line after them.
fn trailer_len(input: &[u8]) -> Option<usize> {
    if input.starts_with(b"\r\n") {
        return Some(2);
    }
    input.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{self, DriverName};

    fn publisher(name: DriverName) -> HttpPublisher {
        let (ws, target) = ("ws://127.0.0.1:1/".parse().unwrap(), "http://127.0.0.1:8001/publish/{topic}".parse());
        let driver = driver::choose(name, None, &ws).unwrap();
        let headers = [("X-API-Key".to_owned(), "secret".to_owned())];
        HttpPublisher::new(driver, &target.unwrap(), &Topics::several("t", 2, 2, 1, 0.0), &headers, None)
    }

    /// A publisher that has sent messages 0 and 1 of topic 1, at 7 and 9 ns.
    fn with_two(name: DriverName) -> HttpPublisher {
        let mut publisher = publisher(name);
        publisher.publish((1, 0), "t-1", b"a", 7, &mut Vec::new());
        publisher.publish((1, 1), "t-1", b"b", 9, &mut Vec::new());
        publisher
    }

    fn answers(publisher: &mut HttpPublisher, bytes: &[u8]) -> Result<Vec<Answer>, String> {
        let mut answers = Vec::new();
        publisher.on_bytes(bytes, 20, &mut Vec::new(), |answer| answers.push(answer)).map(|()| answers)
    }

    fn refused(number: u64, reason: &str) -> Answer {
        Answer::Refused { topic: 1, number, reason: reason.to_owned() }
    }

    #[test]
    fn a_post_is_valid_http() {
        let (mut publisher, mut out) = (publisher(DriverName::Raw), Vec::new());
        publisher.publish((1, 0), "t-1", b"hello", 7, &mut out);
        let expected = "POST /publish/t-1 HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nX-API-Key: secret\r\n\
                        Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(str::from_utf8(&out).unwrap(), expected);
        assert_eq!(publisher.unanswered(), 1);
    }

    #[test]
    fn responses_may_be_cut_anywhere_pipelined_and_in_any_coding() {
        let first: [&[u8]; 3] = [
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n\
              1;x=y\r\n{\r\nA\r\n 12345678}\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
        ];
        for first in first {
            let both = [first, b"HTTP/1.1 204 No Content\r\n\r\n"].concat();
            for cut in 0..both.len() {
                let mut publisher = with_two(DriverName::Raw);
                let mut found = answers(&mut publisher, &both[..cut]).unwrap();
                assert_eq!(publisher.unanswered(), 2 - found.len());
                found.extend(answers(&mut publisher, &both[cut..]).unwrap());
                let expected = [Answer::Accepted { sent_ns: 7 }, Answer::Accepted { sent_ns: 9 }];
                assert_eq!((publisher.unanswered(), &found[..]), (0, &expected[..]));
            }
        }
    }

    #[test]
    fn a_refusal_names_the_publication_and_does_not_end_the_connection() {
        let mut publisher = with_two(DriverName::Raw);
        let busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno";
        assert_eq!(answers(&mut publisher, busy), Ok(vec![refused(0, "refused with 503 Service Unavailable")]));
        assert_eq!(answers(&mut publisher, busy).unwrap().len(), 1);
        assert!(answers(&mut publisher, b"HTTP/1.1 200 OK\r\n\r\n").unwrap_err().contains("Content-Length"));
        let mut publisher = self::publisher(DriverName::Raw);
        let unexpected = answers(&mut publisher, b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(unexpected.unwrap_err(), "an answer to no request");
        let body = r#"{"error":{"code":102,"message":"unknown"}}"#;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let found = answers(&mut with_two(DriverName::Centrifugo), answer.as_bytes());
        assert_eq!(found, Ok(vec![refused(0, "refused with 102 unknown")]));
    }

    #[test]
    fn malformed_and_endless_answers_are_errors() {
        for (answer, word) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"[..], "answer of x bytes"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", "without a size"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", "too large a chunk"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", "without an end"),
            (b"nonsense\r\n\r\n", "bad answer"),
        ] {
            let error = answers(&mut with_two(DriverName::Raw), answer).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        let mut publisher = with_two(DriverName::Raw);
        answers(&mut publisher, b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n").unwrap();
        assert!(answers(&mut publisher, &vec![b'x'; ANSWER_BYTES_MAX + 1]).unwrap_err().contains("more than"));
    }

    #[test]
    fn a_connection_that_the_server_closes_is_replaced_and_unanswered_requests_are_sent_again() {
        let mut publisher = with_two(DriverName::Raw);
        assert!(!publisher.reconnects(), "an answer is due");
        let last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert!(answers(&mut publisher, last).is_err() && publisher.reconnects());
        publisher.on_closed();
        let mut out = Vec::new();
        publisher.publish((1, 2), "t-1", b"c", 12, &mut out);
        assert!(out.is_empty() && publisher.unanswered() == 2, "there is no connection");
        publisher.on_reopened(15, &mut out);
        assert!(out.ends_with(b"\r\n\r\nb"), "only one at a time from now on");
        assert!(!publisher.reconnects());
        let kept = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(answers(&mut publisher, kept), Ok(vec![Answer::Accepted { sent_ns: 15 }]));
        assert_eq!(answers(&mut publisher, kept), Ok(vec![Answer::Accepted { sent_ns: 20 }]));
        assert!(publisher.reconnects(), "no answer is due");
        publisher.on_closed();
        publisher.on_reopened(30, &mut out);
        assert!(!publisher.reconnects(), "a server that never answers is gone");
    }

    #[test]
    fn given_up_answers_may_still_come() {
        let mut publisher = with_two(DriverName::Raw);
        publisher.give_up();
        publisher.publish((1, 2), "t-1", b"c", 12, &mut Vec::new());
        assert_eq!(publisher.unanswered(), 1);
        let three = b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".repeat(3);
        assert_eq!(answers(&mut publisher, &three), Ok(vec![refused(2, "refused with 500 X")]));
    }

    #[test]
    fn the_requests_in_flight_can_be_limited() {
        let (mut publisher, mut out) = (publisher(DriverName::Raw), Vec::new());
        publisher.in_flight_max = 2;
        (0..3).for_each(|number| publisher.publish((0, number), "t-0", b"x", 7, &mut out));
        assert_eq!(str::from_utf8(&out).unwrap().matches("POST").count(), 2);
        out.clear();
        publisher.on_bytes(b"HTTP/1.1 204 X\r\n\r\n", 8, &mut out, |_| ()).unwrap();
        assert_eq!(str::from_utf8(&out).unwrap().matches("POST").count(), 1);
    }
}
