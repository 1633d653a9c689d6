//! `POST /publish/<topic>`: the body becomes a publication, the answer is its place in the topic's order.
//!
//! The query may give it a key and tags (`?key=EURUSD&tag=venue:XETRA&tag=side:buy`), or remove the key of a keyed
//! topic (`?key=EURUSD&remove=true`), and the header field `Idempotency-Key` makes it safe to send a second time when
//! the answer to the first was lost.

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};

use super::State;
use super::answer::{Answer, JSON, answer, text, with_header};
use super::body;
use super::query::pairs;
use crate::gateway::unknown_parameter;
use crate::limits::{KEY_BYTES_MAX, PUBLISH_BYTES_MAX, TAGS_BYTES_MAX};
use crate::proto::MessageKind;
use crate::server::PublishError;
use crate::topics::{Draft, Position, TopicName};

/// Tags as a [`Draft`] has them.
pub(super) type Tags = Option<Box<[(String, String)]>>;

/// The header field that makes publishing again harmless.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Answers one request; `path` is what follows `/publish/`.
pub(super) async fn post<B: Body<Data = Bytes>>(state: &State, path: &str, request: Request<B>) -> Answer {
    let topic = match TopicName::from_path(path) {
        Ok(topic) => topic,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    let kind = message_kind(request.headers().get(CONTENT_TYPE));
    let mut draft = Draft::new(topic, kind == MessageKind::Text, Bytes::new());
    if let Err(remedy) = describe(&mut draft, request.uri().query(), request.headers(), &["key", "tag", "remove"]) {
        return text(StatusCode::BAD_REQUEST, remedy);
    }
    draft.payload = match body::read(request.into_body(), PUBLISH_BYTES_MAX).await {
        Ok(payload) => payload,
        Err(error) => return error.answer(),
    };
    if draft.is_text && simdutf8::basic::from_utf8(&draft.payload).is_err() {
        let remedy = "the body is not valid UTF-8: send binary with 'Content-Type: application/octet-stream'";
        return text(StatusCode::BAD_REQUEST, remedy);
    }
    match state.publish(draft).await {
        Ok(position) => published(position),
        Err(error) => refused(error),
    }
}

/// Takes over what the request says of its publication, by these parameters and the header fields.
pub(super) fn describe(
    draft: &mut Draft,
    query: Option<&str>,
    headers: &HeaderMap,
    parameters: &[&str],
) -> Result<(), String> {
    let mut tags = Vec::new();
    for pair in pairs(query.unwrap_or_default()) {
        let (name, value) = pair?;
        if !parameters.contains(&&*name) {
            return Err(unknown_parameter(&name, parameters));
        }
        match &*name {
            "key" => draft.key = Some(checked_key("key", &value)?),
            "tag" => {
                let (name, value) = value.split_once(':').ok_or("a tag is NAME:VALUE")?;
                tags.push((name.to_owned(), value.to_owned()));
            }
            _ if value == "true" => draft.removes = true,
            _ => return Err("remove is true, or left out".to_owned()),
        }
    }
    draft.tags = sorted_tags(tags)?;
    if let Some(value) = headers.get(IDEMPOTENCY_KEY) {
        let value = value.to_str().map_err(|_| "Idempotency-Key must be visible ASCII")?;
        draft.idempotency_key = Some(checked_key("Idempotency-Key", value)?);
    }
    Ok(())
}

/// A publication's key or idempotency key, if it is not too long.
///
/// # Errors
/// A text for people; `name` is what they call it.
pub(super) fn checked_key(name: &str, key: &str) -> Result<Box<str>, String> {
    if key.len() > KEY_BYTES_MAX {
        return Err(format!("{name} is too long: at most {KEY_BYTES_MAX} bytes"));
    }
    Ok(key.into())
}

/// A publication's tags, if they are not too long; `None` if there are none.
///
/// # Errors
/// A text for people.
pub(super) fn sorted_tags(mut tags: Vec<(String, String)>) -> Result<Tags, String> {
    if tags.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > TAGS_BYTES_MAX {
        return Err(format!("the tags are too long: at most {TAGS_BYTES_MAX} bytes together"));
    }
    tags.sort_unstable();
    Ok(Some(tags.into_boxed_slice()).filter(|tags| !tags.is_empty()))
}

/// Binary if it says so, else text.
pub(super) fn message_kind(content_type: Option<&HeaderValue>) -> MessageKind {
    let value = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default();
    if media_type.trim_ascii().eq_ignore_ascii_case(b"application/octet-stream") {
        MessageKind::Binary
    } else {
        MessageKind::Text
    }
}

pub(super) fn published(position: Position) -> Answer {
    let Position { epoch, offset } = position;
    answer(StatusCode::OK, JSON, format!("{{\"offset\":{offset},\"epoch\":\"{epoch}\"}}\n"))
}

pub(super) fn refused(error: PublishError) -> Answer {
    match error {
        PublishError::Busy
        | PublishError::TooManyKeys
        | PublishError::Stopping
        | PublishError::NoLog
        | PublishError::Unconfirmed => with_header(text(StatusCode::SERVICE_UNAVAILABLE, error), RETRY_AFTER, "1"),
        PublishError::TooManyTopics | PublishError::StateFull => text(StatusCode::INSUFFICIENT_STORAGE, error),
        PublishError::TooLarge | PublishError::ValueTooLarge => text(StatusCode::PAYLOAD_TOO_LARGE, error),
        PublishError::NoSuchKey => text(StatusCode::NOT_FOUND, error),
        PublishError::Conflict => text(StatusCode::PRECONDITION_FAILED, error),
        PublishError::UnknownNamespace
        | PublishError::SystemTopic
        | PublishError::NoKey
        | PublishError::NotKeyed
        | PublishError::TooManyFilters => text(StatusCode::BAD_REQUEST, error),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

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

    /// Runs one POST with this target and these header fields.
    fn describe_with(shards: &Shards, target: &str, fields: &[(&'static str, &str)]) -> (u16, String) {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from_static(b"x"))).unwrap();
        let state = shards.state();
        tokio_uring::start(async {
            let (parts, body) = post(&state, "a", request).await.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
        })
    }

    #[test]
    fn the_query_and_the_header_describe_the_publication() {
        let shards = Shards::default();
        let target = "/publish/a?key=EUR%2FUSD&tag=venue:X:1&tag=side:buy";
        assert_eq!(describe_with(&shards, target, &[("Idempotency-Key", "once")]).0, 200);
        assert_eq!(describe_with(&shards, "/publish/a?", &[]).0, 200);
        let drafts = shards.drafts.borrow();
        assert_eq!((drafts[0].key.as_deref(), drafts[0].idempotency_key.as_deref()), (Some("EUR/USD"), Some("once")));
        let tags: Vec<_> = drafts[0].tags.as_deref().unwrap().iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(tags, [("side", "buy"), ("venue", "X:1")]);
        assert!(drafts[1].key.is_none() && drafts[1].tags.is_none() && drafts[1].idempotency_key.is_none());
    }

    /// Target, header fields, and what is said about them.
    type Nonsense<'a> = (&'a str, &'a [(&'static str, &'a str)], &'a str);

    #[test]
    fn descriptions_that_make_no_sense_are_refused_with_a_reason() {
        let long = "x".repeat(KEY_BYTES_MAX + 1);
        let tags = format!("/publish/a?tag=x:{}", "x".repeat(TAGS_BYTES_MAX));
        let rows: [Nonsense<'_>; 7] = [
            ("/publish/a?kee=k", &[], "did you mean 'key'?"),
            (&format!("/publish/a?key={long}"), &[], "at most 255 bytes"),
            ("/publish/a?key=%ff", &[], "UTF-8"),
            ("/publish/a?tag=venue", &[], "NAME:VALUE"),
            (&tags, &[], "at most 4096 bytes"),
            ("/publish/a", &[("Idempotency-Key", &long)], "at most 255 bytes"),
            ("/publish/a", &[("Idempotency-Key", "é")], "visible ASCII"),
        ];
        let shards = Shards::default();
        for (target, fields, reason) in rows {
            let (status, text) = describe_with(&shards, target, fields);
            assert_eq!(status, 400, "{target}: {text}");
            assert!(text.contains(reason), "{target}: {text}");
        }
        assert!(shards.published.borrow().is_empty());
    }

    #[test]
    fn what_cannot_be_published_is_refused_with_a_reason() {
        let too_long = vec![b'x'; PUBLISH_BYTES_MAX + 1];
        let rows: [(&str, &[u8], u16, &str); 9] = [
            ("a,b", b"x", 400, "must consist of ASCII letters"),
            ("", b"x", 400, "missing"),
            ("a//b", b"x", 400, "segment"),
            ("a", b"\xff", 400, "application/octet-stream"),
            ("a", &too_long, 413, "at most 1048576 bytes"),
            ("busy", b"x", 503, "try again later"),
            ("gone", b"x", 503, "stopping"),
            ("full", b"x", 507, "too many topics"),
            ("keys", b"x", 503, "idempotency keys"),
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

    #[test]
    fn answers_that_ask_to_come_back_say_when() {
        let retry = |answer: Answer| answer.headers().get(RETRY_AFTER).cloned();
        assert_eq!(retry(refused(PublishError::Busy)).unwrap(), "1");
        assert_eq!(retry(refused(PublishError::TooManyKeys)).unwrap(), "1");
        assert_eq!(retry(refused(PublishError::Stopping)).unwrap(), "1");
        assert_eq!(retry(refused(PublishError::TooManyTopics)), None);
    }
}
