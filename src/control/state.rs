//! `/state/<topic>` and `/state/<topic>/<key>`: the values of keyed topics.
//!
//! `PUT` sets a value and `DELETE` removes it; both are publications, and the answer is their position. `GET` reads one
//! value, or a page of all of them. The entity tag of a value is its position, so that `If-Match` and
//! `If-None-Match: *` (RFC 9110 §13.1) change a value only if nobody else has changed it, or only if there is none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Body as HttpBody;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::access::Right;
use super::answer::{Answer, JSON, TEXT, answer, text};
use super::http::READ_ONLY;
use super::publish::{describe, message_kind, published, refused};
use super::query::pairs;
use super::{State, body};
use crate::gateway::unknown_parameter;
use crate::limits::{KEY_BYTES_MAX, PUBLISH_BYTES_MAX, STATE_PAGE_KEYS};
use crate::proto::MessageKind;
use crate::topics::{
    self, Body, Condition, Draft, Effect, Epoch, Position, Query, StateCursor, StatePage, StateQuery, TopicName,
};

/// The methods of a topic and of a key.
pub(super) const METHODS: &str = "GET, HEAD, PUT, DELETE";

/// The content type of values that are no text.
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Answers one request of a client with this right; `path` is what follows `/state/`.
pub(super) async fn respond<B: HttpBody<Data = Bytes>>(
    state: &State,
    path: &str,
    request: Request<B>,
    right: Right,
) -> Answer {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_read && right < Right::All {
        return text(StatusCode::FORBIDDEN, READ_ONLY);
    }
    let responded = match parse_path(path) {
        Ok((topic, None)) if is_read => get_page(state, topic, request.uri().query()).await,
        Ok((_, None)) => Err("name the key: /state/<topic>/<key>".to_owned()),
        Ok((topic, Some(key))) if is_read => Ok(get_value(state, topic, key).await),
        Ok((topic, Some(key))) => change(state, topic, &key, request).await,
        Err(remedy) => Err(remedy),
    };
    responded.unwrap_or_else(|remedy| text(StatusCode::BAD_REQUEST, remedy))
}

/// The topic and the key of a path.
fn parse_path(path: &str) -> Result<(TopicName, Option<String>), String> {
    let (topic, key) = path.split_once('/').map_or((path, None), |(topic, key)| (topic, Some(key)));
    let topic = TopicName::from_path(topic).map_err(|error| error.to_string())?;
    let Some(key) = key else { return Ok((topic, None)) };
    if key.contains('/') {
        return Err("the path is /state/<topic>/<key>: write a '/' of the topic or the key as %2F".to_owned());
    }
    let key = percent_decode_str(key).decode_utf8().map_err(|_| "the key is not UTF-8")?;
    match key.len() {
        1..=KEY_BYTES_MAX => Ok((topic, Some(key.into_owned()))),
        _ => Err(format!("the key must have 1 to {KEY_BYTES_MAX} bytes")),
    }
}

/// `PUT` and `DELETE`.
async fn change<B: HttpBody<Data = Bytes>>(
    state: &State,
    topic: TopicName,
    key: &str,
    request: Request<B>,
) -> Result<Answer, String> {
    let mut draft = Draft { removes: request.method() == Method::DELETE, ..Draft::put(topic, key, true, Bytes::new()) };
    describe(&mut draft, request.uri().query(), request.headers(), &["tag"])?;
    draft.condition = condition(request.headers())?;
    draft.is_text = draft.removes || message_kind(request.headers().get(CONTENT_TYPE)) == MessageKind::Text;
    draft.payload = match body::read(request.into_body(), PUBLISH_BYTES_MAX).await {
        Ok(payload) => payload,
        Err(error) => return Ok(error.answer()),
    };
    if draft.removes && !draft.payload.is_empty() {
        return Err("DELETE has no body".to_owned());
    }
    if draft.is_text && simdutf8::basic::from_utf8(&draft.payload).is_err() {
        return Err("the body is not valid UTF-8: send binary with 'Content-Type: application/octet-stream'".to_owned());
    }
    Ok(match state.publish(draft).await {
        Ok(position) => with_tag(published(position), position),
        Err(error) => refused(error),
    })
}

/// What the header fields require of the present value.
fn condition(headers: &HeaderMap) -> Result<Condition, String> {
    let field = |name: HeaderName| headers.get(&name).map(|value| value.to_str().unwrap_or_default());
    match (field(IF_MATCH), field(IF_NONE_MATCH)) {
        (None, None) => Ok(Condition::None),
        (Some("*"), None) => Ok(Condition::Exists),
        (None, Some("*")) => Ok(Condition::New),
        (Some(tag), None) => {
            let position = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).and_then(position);
            position.map(Condition::At).ok_or_else(|| "If-Match is * or the ETag of a value".to_owned())
        }
        (None, Some(_)) => Err("If-None-Match is *: set the value if there is none".to_owned()),
        (Some(_), Some(_)) => Err("send either If-Match or If-None-Match".to_owned()),
    }
}

async fn get_value(state: &State, topic: TopicName, key: String) -> Answer {
    match state.ask(topic, Query::Value(key.into())).await {
        Ok(topics::Answer::Value(Some(value))) => {
            let content_type = if value.is_text { TEXT } else { BINARY };
            let payload = Bytes::copy_from_slice(value.payload());
            with_tag(answer(StatusCode::OK, content_type, payload), value.position)
        }
        Ok(topics::Answer::Value(None)) => text(StatusCode::NOT_FOUND, "the key has no value"),
        Ok(topics::Answer::Refused(error)) | Err(error) => refused(error),
        Ok(other) => unreachable!("a home answers what it was asked: {other:?}"),
    }
}

async fn get_page(state: &State, topic: TopicName, query: Option<&str>) -> Result<Answer, String> {
    let mut wanted = StateQuery { from: None, limit: STATE_PAGE_KEYS };
    for pair in pairs(query.unwrap_or_default()) {
        let (name, value) = pair?;
        match &*name {
            "since" => {
                let remedy = "since is the 'next' of the page before, or <epoch>:<offset>";
                wanted.from = Some(StateCursor::from_text(&value).ok_or(remedy)?);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=STATE_PAGE_KEYS).contains(limit));
                wanted.limit = limit.ok_or_else(|| format!("limit is a number from 1 to {STATE_PAGE_KEYS}"))?;
            }
            unknown => return Err(unknown_parameter(unknown, &["since", "limit"])),
        }
    }
    Ok(match state.ask(topic, Query::State(wanted)).await {
        Ok(topics::Answer::State(page)) => answer(StatusCode::OK, JSON, format!("{}\n", page_json(&page))),
        Ok(topics::Answer::Refused(error)) | Err(error) => refused(error),
        Ok(other) => unreachable!("a home answers what it was asked: {other:?}"),
    })
}

fn page_json(page: &StatePage) -> Value {
    let Position { epoch, offset } = page.position;
    json!({
        "epoch": epoch.to_string(),
        "offset": offset,
        "snapshot": page.begins,
        "values": page.bodies.iter().map(|body| body_json(body)).collect::<Vec<_>>(),
        "next": page.next.map(|next| next.to_string()),
    })
}

fn body_json(body: &Body) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("key".to_owned(), body.key.as_deref().unwrap_or_default().into());
    object.insert("offset".to_owned(), body.position.offset.into());
    object.insert("time".to_owned(), body.time_ms.into());
    let (name, value) = match (body.effect, std::str::from_utf8(body.payload()).ok().filter(|_| body.is_text)) {
        (Effect::Remove, _) => ("removed", true.into()),
        (_, Some(text)) => ("text", text.into()),
        (_, None) => ("base64", STANDARD.encode(body.payload()).into()),
    };
    object.insert(name.to_owned(), value);
    let tags = body.tags.iter().flatten().map(|(name, value)| (name.clone(), Value::from(value.clone())));
    let tags: Map<String, Value> = tags.collect();
    if !tags.is_empty() {
        object.insert("tags".to_owned(), tags.into());
    }
    object
}

fn position(text: &str) -> Option<Position> {
    let (epoch, offset) = text.split_once(':')?;
    Some(Position { epoch: Epoch::from_text(epoch), offset: offset.parse().ok()? })
}

fn with_tag(mut answer: Answer, Position { epoch, offset }: Position) -> Answer {
    let tag = HeaderValue::from_str(&format!("\"{epoch}:{offset}\"")).expect("an epoch and a number are ASCII");
    answer.headers_mut().insert(ETAG, tag);
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::control::fake::Shards;

    /// Runs one request; returns its status, its entity tag and its body.
    fn ask(
        shards: &Shards,
        method: Method,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> (u16, String, String) {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let path = target.split('?').next().unwrap().strip_prefix("/state/").unwrap().to_owned();
        let state = shards.state();
        tokio_uring::start(async {
            let (parts, body) = respond(&state, &path, request, Right::All).await.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let tag = parts.headers.get(ETAG).map_or("", |tag| tag.to_str().unwrap()).to_owned();
            (parts.status.as_u16(), tag, String::from_utf8(body.to_vec()).unwrap())
        })
    }

    #[test]
    fn a_change_is_a_publication_with_a_key() {
        let shards = Shards::default();
        let (status, tag, body) = ask(&shards, Method::PUT, "/state/news%2Fa/b%2Fc?tag=x:1", &[], "grün");
        assert_eq!((status, tag.as_str()), (200, "\"0000000000011:1\""));
        assert_eq!(body, "{\"offset\":1,\"epoch\":\"0000000000011\"}\n");
        let fields = [("If-Match", tag.as_str()), ("Idempotency-Key", "once")];
        assert_eq!(ask(&shards, Method::DELETE, "/state/a/k", &fields, "").0, 200);
        assert_eq!(ask(&shards, Method::PUT, "/state/a/k", &[("If-None-Match", "*")], "").0, 200);
        assert_eq!(ask(&shards, Method::PUT, "/state/a/k", &[("If-Match", "*")], "").0, 200);
        let drafts = shards.drafts.borrow();
        assert_eq!((drafts[0].topic.as_str(), drafts[0].key.as_deref()), ("news/a", Some("b/c")));
        assert!(!drafts[0].removes && drafts[0].condition == Condition::None && drafts[0].tags.is_some());
        let position = Position { epoch: Shards::epoch(), offset: 1 };
        assert!(drafts[1].removes && drafts[1].condition == Condition::At(position));
        assert_eq!(drafts[1].idempotency_key.as_deref(), Some("once"));
        assert_eq!((drafts[2].condition, drafts[3].condition), (Condition::New, Condition::Exists));
    }

    /// Method, target, header fields, body, and the reason.
    type Nonsense<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);

    #[test]
    fn requests_that_make_no_sense_are_refused_with_a_reason() {
        let shards = Shards::default();
        let long = format!("/state/a/{}", "k".repeat(KEY_BYTES_MAX + 1));
        let rows: [Nonsense<'_>; 14] = [
            (Method::PUT, "/state/a", &[], "", "name the key"),
            (Method::GET, "/state/", &[], "", "missing"),
            (Method::PUT, "/state/a,b/k", &[], "", "must consist of ASCII letters"),
            (Method::PUT, "/state/a/b/c", &[], "", "%2F"),
            (Method::PUT, "/state/a/", &[], "", "1 to 255 bytes"),
            (Method::PUT, &long, &[], "", "1 to 255 bytes"),
            (Method::PUT, "/state/a/%ff", &[], "", "not UTF-8"),
            (Method::PUT, "/state/a/k?key=b", &[], "", "did you mean 'tag'?"),
            (Method::PUT, "/state/a/k", &[("If-Match", "7")], "", "the ETag of a value"),
            (Method::PUT, "/state/a/k", &[("If-None-Match", "\"7\"")], "", "if there is none"),
            (Method::PUT, "/state/a/k", &[("If-Match", "*"), ("If-None-Match", "*")], "", "either"),
            (Method::DELETE, "/state/a/k", &[], "x", "no body"),
            (Method::GET, "/state/a?since=7", &[], "", "<epoch>:<offset>"),
            (Method::GET, "/state/a?limit=1001", &[], "", "1 to 1000"),
        ];
        for (method, target, fields, body, reason) in rows {
            let (status, _, text) = ask(&shards, method, target, fields, body);
            assert_eq!(status, 400, "{target}: {text}");
            assert!(text.contains(reason), "{target}: {text}");
        }
        assert!(shards.published.borrow().is_empty() && shards.asked.borrow().is_empty());
        assert_eq!(ask(&shards, Method::GET, "/state/a?limit=5&since=e:7:9", &[], "").0, 400, "the topic is not keyed");
        let from = Some(StateCursor { position: Position { epoch: Epoch::from_text("e"), offset: 7 }, began: 9 });
        assert_eq!(shards.asked.borrow()[0].1, Query::State(StateQuery { from, limit: 5 }));
    }
}
