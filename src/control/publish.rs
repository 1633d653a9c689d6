//! `POST /publish/<topic>`: the body becomes a publication, the answer is its place in the topic's order.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};
use tokio::sync::oneshot;

use super::State;
use super::answer::{Answer, JSON, answer, text, with_header};
use crate::limits::{CONTROL_BODY_MS, PUBLISH_BYTES_MAX};
use crate::proto::MessageKind;
use crate::server::{PublishError, Publisher};
use crate::topics::{Draft, Position, TopicName};

/// What the control plane asks of the shards. A seam: tests answer in their place.
pub(super) trait Publish {
    /// As [`Publisher::publish`].
    fn publish(&mut self, draft: Draft) -> Result<Outcome, PublishError>;
    /// As [`Publisher::drain`].
    fn drain(&mut self) -> Result<(), PublishError>;
}

/// Yields what has become of a publication; fails when its shard has stopped.
pub(super) type Outcome = oneshot::Receiver<Result<Position, PublishError>>;

impl Publish for Publisher {
    fn publish(&mut self, draft: Draft) -> Result<Outcome, PublishError> {
        Publisher::publish(self, draft)
    }

    fn drain(&mut self) -> Result<(), PublishError> {
        Publisher::drain(self)
    }
}

impl State {
    /// Publishes, and waits for the publication's place.
    pub(super) async fn publish(&self, draft: Draft) -> Result<Position, PublishError> {
        if self.status.is_draining() {
            return Err(PublishError::Stopping);
        }
        let outcome = self.with_publisher(|publisher| publisher.publish(draft))?;
        outcome.await.unwrap_or(Err(PublishError::Stopping))
    }
}

/// Answers one request; `path` is what follows `/publish/`.
pub(super) async fn post<B: Body<Data = Bytes>>(state: &State, path: &str, request: Request<B>) -> Answer {
    let topic = match TopicName::from_path(path) {
        Ok(topic) => topic,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    let kind = message_kind(request.headers().get(CONTENT_TYPE));
    let payload = match read(request.into_body()).await {
        Ok(payload) => payload,
        Err(error) => return error.answer(),
    };
    if kind == MessageKind::Text && simdutf8::basic::from_utf8(&payload).is_err() {
        let remedy = "the body is not valid UTF-8: send binary with 'Content-Type: application/octet-stream'";
        return text(StatusCode::BAD_REQUEST, remedy);
    }
    match state.publish(Draft::new(topic, kind == MessageKind::Text, payload)).await {
        Ok(position) => published(position),
        Err(error) => refused(error),
    }
}

/// Binary if it says so, else text.
fn message_kind(content_type: Option<&HeaderValue>) -> MessageKind {
    let value = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default();
    if media_type.trim_ascii().eq_ignore_ascii_case(b"application/octet-stream") {
        MessageKind::Binary
    } else {
        MessageKind::Text
    }
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyError {
    /// It is longer than [`PUBLISH_BYTES_MAX`].
    TooLong,
    /// It took longer than [`CONTROL_BODY_MS`].
    TooSlow,
    /// It ended early or is not what its header fields say.
    Broken,
}

impl BodyError {
    /// After which the connection is closed, for the rest of the body may still come.
    fn answer(self) -> Answer {
        let answer = match self {
            BodyError::TooLong => {
                let remedy = format!("the body is too long: at most {PUBLISH_BYTES_MAX} bytes are published at once");
                text(StatusCode::PAYLOAD_TOO_LARGE, remedy)
            }
            BodyError::TooSlow => text(StatusCode::REQUEST_TIMEOUT, "the body took too long to come"),
            BodyError::Broken => text(StatusCode::BAD_REQUEST, "the body could not be read"),
        };
        with_header(answer, CONNECTION, "close")
    }
}

/// Reads the body, as it is where it came in one piece.
async fn read<B: Body<Data = Bytes>>(body: B) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > PUBLISH_BYTES_MAX as u64 {
        return Err(BodyError::TooLong);
    }
    let read = tokio::time::timeout(Duration::from_millis(CONTROL_BODY_MS), read_pieces(body));
    read.await.unwrap_or(Err(BodyError::TooSlow))
}

async fn read_pieces<B: Body<Data = Bytes>>(body: B) -> Result<Bytes, BodyError> {
    let mut body = pin!(body);
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if first.len().max(joined.len()) + piece.len() > PUBLISH_BYTES_MAX {
            return Err(BodyError::TooLong);
        }
        if first.is_empty() {
            first = piece;
            continue;
        }
        if joined.is_empty() {
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&piece);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

fn published(position: Position) -> Answer {
    let Position { epoch, offset } = position;
    answer(StatusCode::OK, JSON, format!("{{\"offset\":{offset},\"epoch\":\"{epoch}\"}}\n"))
}

fn refused(error: PublishError) -> Answer {
    match error {
        PublishError::Busy | PublishError::Stopping => {
            with_header(text(StatusCode::SERVICE_UNAVAILABLE, error), RETRY_AFTER, "1")
        }
        PublishError::TooManyTopics => text(StatusCode::INSUFFICIENT_STORAGE, error),
        PublishError::UnknownNamespace => text(StatusCode::BAD_REQUEST, error),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body_util::Full;
    use hyper::body::Frame;

    use super::*;
    use crate::control::fake::Shards;

    /// Runs one POST and returns its status and body.
    fn post_to(shards: &Shards, path: &str, content_type: Option<&str>, body: &[u8]) -> (u16, String) {
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
        if let Some(content_type) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        }
        let state = shards.state();
        tokio_uring::start(async {
            let (parts, body) = post(&state, path, request).await.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
        })
    }

    #[test]
    fn a_body_becomes_a_publication() {
        let shards = Shards::default();
        let (status, body) = post_to(&shards, "news/a%23b", None, "grün".as_bytes());
        assert_eq!((status, body.as_str()), (200, "{\"offset\":1,\"epoch\":\"0000000000011\"}\n"));
        let (status, _) = post_to(&shards, "b", Some("application/octet-stream"), b"\xff\x00");
        assert_eq!(status, 200);
        let expected = [
            ("news/a#b".to_owned(), MessageKind::Text, Bytes::from("grün")),
            ("b".to_owned(), MessageKind::Binary, Bytes::from_static(b"\xff\x00")),
        ];
        assert_eq!(*shards.published.borrow(), expected);
    }

    #[test]
    fn what_cannot_be_published_is_refused_with_a_reason() {
        let too_long = vec![b'x'; PUBLISH_BYTES_MAX + 1];
        let rows: [(&str, &[u8], u16, &str); 8] = [
            ("a,b", b"x", 400, "only ASCII letters"),
            ("", b"x", 400, "missing"),
            ("a//b", b"x", 400, "segment"),
            ("a", b"\xff", 400, "application/octet-stream"),
            ("a", &too_long, 413, "at most 1048576 bytes"),
            ("busy", b"x", 503, "try again later"),
            ("gone", b"x", 503, "stopping"),
            ("full", b"x", 507, "too many topics"),
        ];
        let shards = Shards::default();
        for (path, body, expected, reason) in rows {
            let (status, text) = post_to(&shards, path, None, body);
            assert_eq!(status, expected, "{path}");
            assert!(text.contains(reason), "{path}: {text}");
        }
        assert!(shards.published.borrow().is_empty());
    }

    #[test]
    fn the_longest_body_and_none_at_all_are_published() {
        let shards = Shards::default();
        for body in [vec![b'x'; PUBLISH_BYTES_MAX], Vec::new()] {
            assert_eq!(post_to(&shards, "a", None, &body).0, 200, "{} bytes", body.len());
        }
    }

    #[test]
    fn content_types_tell_text_from_binary() {
        let rows = [
            (None, MessageKind::Text),
            (Some("text/plain"), MessageKind::Text),
            (Some("application/json; charset=utf-8"), MessageKind::Text),
            (Some("application/x-www-form-urlencoded"), MessageKind::Text),
            (Some("application/octet-stream"), MessageKind::Binary),
            (Some("Application/Octet-Stream ; x=y"), MessageKind::Binary),
            (Some("application/octet-stream2"), MessageKind::Text),
        ];
        for (content_type, expected) in rows {
            let value = content_type.map(HeaderValue::from_static);
            assert_eq!(message_kind(value.as_ref()), expected, "{content_type:?}");
        }
    }

    /// A body of unknown length that comes in pieces.
    struct Pieces(std::vec::IntoIter<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
        }
    }

    #[test]
    fn pieces_are_joined_up_to_the_bound() {
        let half = Bytes::from(vec![b'x'; PUBLISH_BYTES_MAX / 2]);
        let rest = Bytes::from_static(b"x");
        let rows = [
            (vec![], Ok(0)),
            (vec![half.clone()], Ok(PUBLISH_BYTES_MAX / 2)),
            (vec![half.clone(), half.clone()], Ok(PUBLISH_BYTES_MAX)),
            (vec![half.clone(), half.clone(), rest.clone()], Err(BodyError::TooLong)),
            (vec![rest.clone(), half.clone(), half.clone()], Err(BodyError::TooLong)),
        ];
        for (pieces, expected) in rows {
            let count = pieces.len();
            let read = tokio_uring::start(read(Pieces(pieces.into_iter())));
            assert_eq!(read.map(|payload| payload.len()), expected, "{count} pieces");
        }
        let pieces = ["a", "b", "", "c"].map(Bytes::from).to_vec();
        assert_eq!(tokio_uring::start(read(Pieces(pieces.into_iter()))).unwrap(), "abc");
    }

    #[test]
    fn answers_that_ask_to_come_back_say_when() {
        let retry = |answer: Answer| answer.headers().get(RETRY_AFTER).cloned();
        assert_eq!(retry(refused(PublishError::Busy)).unwrap(), "1");
        assert_eq!(retry(refused(PublishError::Stopping)).unwrap(), "1");
        assert_eq!(retry(refused(PublishError::TooManyTopics)), None);
    }
}
