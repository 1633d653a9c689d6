//! Responses: most have a whole body, acknowledgements of a stream have one that grows.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

/// A body that grows while it is sent.
pub(super) type Growing = Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>;

/// A response.
pub(super) type Answer = Response<Either<Full<Bytes>, Growing>>;

/// What JSON is served as.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What plain text is served as.
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A response with this body.
pub(super) fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// A response whose body grows.
pub(super) fn streamed(content_type: HeaderValue, body: Growing) -> Answer {
    let mut answer = Response::new(Either::Right(body));
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// A response of one or more lines of text, without the last newline.
pub(super) fn text(status: StatusCode, text: impl std::fmt::Display) -> Answer {
    answer(status, TEXT, format!("{text}\n"))
}

/// `answer` with one more header field.
pub(super) fn with_header(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}
