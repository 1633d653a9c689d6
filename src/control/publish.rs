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
use crate::topics::{Position, TopicName};

/// What the control plane asks of the shards. A seam: tests answer in their place.
pub(super) trait Publish {
    /// As [`Publisher::publish`].
    fn publish(&mut self, topic: TopicName, kind: MessageKind, payload: Bytes) -> Result<Outcome, PublishError>;
    /// As [`Publisher::drain`].
    fn drain(&mut self) -> Result<(), PublishError>;
}

/// Yields what has become of a publication; fails when its shard has stopped.
pub(super) type Outcome = oneshot::Receiver<Result<Position, PublishError>>;

impl Publish for Publisher {
    fn publish(&mut self, topic: TopicName, kind: MessageKind, payload: Bytes) -> Result<Outcome, PublishError> {
        Publisher::publish(self, topic, kind, payload)
    }

    fn drain(&mut self) -> Result<(), PublishError> {
        Publisher::drain(self)
    }
}

impl State {
    /// Publishes, and waits for the publication's place.
    pub(super) async fn publish(
        &self,
        topic: TopicName,
        kind: MessageKind,
        payload: Bytes,
    ) -> Result<Position, PublishError> {
        if self.status.is_draining() {
            return Err(PublishError::Stopping);
        }
        let outcome = self.with_publisher(|publisher| publisher.publish(topic, kind, payload))?;
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
    match state.publish(topic, kind, payload).await {
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
    }
}
