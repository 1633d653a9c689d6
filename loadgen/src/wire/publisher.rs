//! Publishes by POST, pipelined on one persistent connection, and checks the responses.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::check::topics::Topics;
use crate::driver::Driver;
use crate::wire::target::Target;

/// Most header fields of a response.
const ANSWER_HEADERS_MAX: usize = 32;

/// One publishing connection. Publications are sent without waiting for responses.
pub(crate) struct HttpPublisher {
    driver: Arc<dyn Driver>,
    /// Request line and headers of a publication on each topic, up to the content type.
    heads: Vec<Vec<u8>>,
    /// An incomplete response.
    answer: Vec<u8>,
    /// The publishing time of each request without a response.
    awaited: VecDeque<u64>,
}

impl HttpPublisher {
    /// Publishes to `target`, with these headers in addition to the usual ones.
    pub(crate) fn new(
        driver: Arc<dyn Driver>,
        target: &Target,
        topics: &Topics,
        headers: &[(String, String)],
    ) -> HttpPublisher {
        let head = |topic| {
            let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let path = target.path(topics.name(topic));
            format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{more}Content-Type: ", target.authority).into_bytes()
        };
        let heads = (0..topics.count()).map(head).collect();
        HttpPublisher { driver, heads, answer: Vec::new(), awaited: VecDeque::new() }
    }

    /// Appends one publication to `out`, to be sent at `now_ns`.
    pub(crate) fn publish(&mut self, topic: u32, topic_name: &str, payload: &[u8], now_ns: u64, out: &mut Vec<u8>) {
        let (content_type, body) = self.driver.post(topic_name, payload);
        out.extend_from_slice(&self.heads[topic as usize]);
        out.extend_from_slice(format!("{content_type}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
        out.extend_from_slice(&body);
        self.awaited.push_back(now_ns);
    }

    /// Reads responses, and passes the publishing time of each publication that they acknowledge.
    ///
    /// # Errors
    /// If the server rejected a publication.
    pub(crate) fn on_bytes(&mut self, bytes: &[u8], mut on_answer: impl FnMut(u64)) -> Result<(), String> {
        self.answer.extend_from_slice(bytes);
        while let Some((head_len, body_len)) = answer_len(&self.answer)? {
            self.driver.check_answer(&self.answer[head_len..head_len + body_len])?;
            self.answer.drain(..head_len + body_len);
            on_answer(self.awaited.pop_front().ok_or("an answer to no request")?);
        }
        Ok(())
    }

    /// Number of publications without a response.
    pub(crate) fn unanswered(&self) -> usize {
        self.awaited.len()
    }
}

/// Head and body length of the response at the front of `input`, or `None` if it is incomplete.
fn answer_len(input: &[u8]) -> Result<Option<(usize, usize)>, String> {
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
    Ok((input.len() >= head_len + body_len).then_some((head_len, body_len)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{self, DriverName};

    fn publisher(name: DriverName) -> HttpPublisher {
        let (ws, target) = ("ws://127.0.0.1:1/".parse().unwrap(), "http://127.0.0.1:8001/publish/{topic}".parse());
        let driver = driver::choose(name, None, &ws).unwrap();
        let headers = [("X-API-Key".to_owned(), "secret".to_owned())];
        HttpPublisher::new(driver, &target.unwrap(), &Topics::several("t", 2, 2, 1, 0.0), &headers)
    }

    #[test]
    fn a_post_is_valid_http() {
        let (mut publisher, mut out) = (publisher(DriverName::Raw), Vec::new());
        publisher.publish(1, "t-1", b"hello", 7, &mut out);
        let expected = "POST /publish/t-1 HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nX-API-Key: secret\r\n\
                        Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(str::from_utf8(&out).unwrap(), expected);
        assert_eq!(publisher.unanswered(), 1);
    }

    #[test]
    fn responses_may_be_cut_anywhere_and_pipelined() {
        let answers = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 204 No Content\r\n\r\n";
        for cut in 0..answers.len() {
            let mut publisher = publisher(DriverName::Raw);
            publisher.publish(0, "t-0", b"a", 7, &mut Vec::new());
            publisher.publish(0, "t-0", b"b", 9, &mut Vec::new());
            let mut answered = Vec::new();
            publisher.on_bytes(&answers[..cut], |sent_ns| answered.push(sent_ns)).unwrap();
            assert_eq!(publisher.unanswered(), 2 - answered.len());
            publisher.on_bytes(&answers[cut..], |sent_ns| answered.push(sent_ns)).unwrap();
            assert_eq!((publisher.unanswered(), answered), (0, vec![7, 9]));
        }
    }

    #[test]
    fn a_rejection_names_the_status_or_the_error_of_the_driver() {
        let refusal = answer_len(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap_err();
        assert_eq!(refusal, "refused with 503 Service Unavailable");
        assert!(answer_len(b"HTTP/1.1 200 OK\r\n\r\n").unwrap_err().contains("Content-Length"));
        let unexpected = publisher(DriverName::Raw).on_bytes(b"HTTP/1.1 204 No Content\r\n\r\n", |_| ());
        assert_eq!(unexpected.unwrap_err(), "an answer to no request");
        let body = r#"{"error":{"code":102,"message":"unknown"}}"#;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let refused = publisher(DriverName::Centrifugo).on_bytes(answer.as_bytes(), |_| ());
        assert_eq!(refused.unwrap_err(), "refused with 102 unknown");
    }
}
