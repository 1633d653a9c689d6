//! `/poll/<topic>?since=<epoch>:<offset>&wait=<seconds>`: one response with what a client has missed, as JSON, or with
//! the next publication. For clients that can do nothing but requests: scripts, and devices behind strict proxies.
//!
//! The response begins at once and ends with its JSON, so that nothing on the way takes the wait for silence. Without
//! `since` it says where the topic is, for the next request.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::catch_up::{check_history, positions, topics};
use super::parameters::{check_parameters, parameter};
use super::sizes::attribute_bytes_max;
use super::{Accept, Context, Get, Handler, Readers, Refusal, Request, Response, Stream, Subscribe};
use crate::buf::ConnId;
use crate::conn::CloseCause;
use crate::limits::{POLL_WAIT_S, POLL_WAIT_S_MAX};
use crate::proto::{CloseCode, Message};
use crate::topics::{Answer, Body, CatchUp, Encoding, Namespaces, Position, Push, Recovery, TopicName};

/// Bytes of a publication's punctuation, names and numbers.
const FIXED_BYTES: usize = 160;

/// Bytes that a byte of a payload takes at most: a control character is six in JSON.
const ESCAPED_BYTES_MAX: usize = 6;

/// Serves polls of the topics that its [`Readers`] may read.
#[derive(Debug, Default)]
pub struct Poll {
    readers: Readers,
}

/// A request that waits.
#[derive(Debug)]
pub struct Waiting {
    /// The client has a position: it wants what follows, not the position.
    has_since: bool,
    /// The client's position, then that of the topic.
    position: Option<Position>,
    is_over: bool,
}

impl Poll {
    /// Polls of the topics that these clients may read.
    pub fn of(readers: Readers) -> Poll {
        Poll { readers }
    }
}

impl Handler for Poll {
    type State = Waiting;

    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept<Waiting>, Refusal> {
        Err(Refusal::new(400, "this answers plain requests; WebSockets are at /feed/<topic>"))
    }

    fn on_get(&mut self, conn: &mut Context<'_>, request: &Get<'_>) -> Result<Response<Waiting>, Refusal> {
        check_parameters(request.head, &["since", "token", "wait"])?;
        let topics = topics(request.rest)?;
        let expires = self.readers.check(request, std::iter::empty(), topics.iter(), conn.clock())?;
        let [topic] = <[TopicName; 1]>::try_from(topics)
            .map_err(|_| Refusal::new(400, "a poll is of one topic: send a request for each"))?;
        let wait = wait(request)?;
        let catch_up = match parameter(request.head, "since") {
            Some(text) => {
                check_history(self.readers.namespaces(), &topic)?;
                let since = positions(text, 1).and_then(|positions| positions.first().copied());
                since.ok_or_else(|| Refusal::new(400, "since is <epoch>:<offset>, as the response before says"))?
            }
            None => CatchUp::None,
        };
        conn.set_timer(expires.map_or(wait, |expires| wait.min(expires)));
        let has_since = catch_up != CatchUp::None;
        conn.subscribe_with(Subscribe::new(topic, catch_up, Some(0)))?;
        let stream = Stream::new("application/json", Waiting { has_since, position: start(catch_up), is_over: false });
        let stream = stream.encoding(Encoding::PER_CONNECTION);
        Ok(stream.header("Cache-Control", "no-store").header("X-Accel-Buffering", "no").into())
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &mut Waiting, _: Message<'_>) {}

    fn on_answer(&mut self, conn: &mut Context<'_>, waiting: &mut Waiting, _: u32, answer: Answer) {
        let Answer::Subscribed { position, recovery, .. } = answer else {
            return conn.close(CloseCode::TRY_AGAIN_LATER, "");
        };
        waiting.position = Some(position);
        match recovery {
            Recovery::Lost => finish(conn, waiting, position, true, &[]),
            Recovery::Recovered(missed) if !missed.is_empty() => {
                let missed: Vec<Value> = missed.iter().map(|body| publication(body)).collect();
                finish(conn, waiting, position, false, &missed);
            }
            _ if waiting.has_since => {}
            _ => finish(conn, waiting, position, false, &[]),
        }
    }

    fn missed_bytes_max(&self, _: ConnId, _: &Waiting, _: Encoding, body: &Body) -> usize {
        ESCAPED_BYTES_MAX * body.payload().len() + attribute_bytes_max(body) + FIXED_BYTES
    }

    fn on_push(&mut self, conn: &mut Context<'_>, waiting: &mut Waiting, _: &TopicName, push: &Push) {
        let Push::Publication(pushed) = push else { return };
        let body: &Body = &pushed.body;
        finish(conn, waiting, body.position, false, &[publication(body)]);
    }

    /// The time to wait is over.
    fn on_timer(&mut self, conn: &mut Context<'_>, waiting: &mut Waiting) {
        match waiting.position {
            Some(position) => finish(conn, waiting, position, false, &[]),
            None => conn.close(CloseCode::TRY_AGAIN_LATER, ""),
        }
    }

    fn on_namespaces(&mut self, namespaces: &Arc<Namespaces>) {
        self.readers.set_namespaces(namespaces);
    }

    fn on_drain(&mut self, conn: &mut Context<'_>, waiting: &mut Waiting) {
        self.on_timer(conn, waiting);
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: Waiting, _: CloseCause) {}
}

/// The client's position.
fn start(catch_up: CatchUp) -> Option<Position> {
    match catch_up {
        CatchUp::Since { epoch: Some(epoch), offset } => Some(Position { epoch, offset }),
        _ => None,
    }
}

/// Completes the response: the position of the last of these publications, or the topic's.
fn finish(conn: &mut Context<'_>, waiting: &mut Waiting, at: Position, is_lost: bool, publications: &[Value]) {
    // Others may have been published in the same turn: the next request receives them.
    if std::mem::replace(&mut waiting.is_over, true) {
        return;
    }
    let position = super::catch_up::position_text(at);
    let body = json!({"position": position, "lost": is_lost, "publications": publications});
    conn.write(format!("{body}\n").as_bytes());
    conn.close(CloseCode::NORMAL, "");
}

/// A publication: its payload as text, or in Base64.
fn publication(body: &Body) -> Value {
    let mut object = Map::new();
    object.insert("offset".to_owned(), body.position.offset.into());
    object.insert("time".to_owned(), body.time_ms.into());
    match std::str::from_utf8(body.payload()).ok().filter(|_| body.is_text) {
        Some(text) => object.insert("data".to_owned(), text.into()),
        None => object.insert("base64".to_owned(), STANDARD.encode(body.payload()).into()),
    };
    if let Some(key) = &body.key {
        object.insert("key".to_owned(), (**key).into());
    }
    if let Some(tags) = &body.tags {
        let tags: Map<String, Value> = tags.iter().map(|(name, tag)| (name.clone(), tag.clone().into())).collect();
        object.insert("tags".to_owned(), tags.into());
    }
    object.into()
}

/// How long the client wants to wait.
fn wait(request: &Get<'_>) -> Result<Duration, Refusal> {
    let seconds = match parameter(request.head, "wait") {
        Some(text) => text.parse().ok().filter(|seconds| *seconds <= POLL_WAIT_S_MAX),
        None => Some(POLL_WAIT_S),
    };
    let invalid = || Refusal::new(400, format!("wait is a number of seconds from 0 to {POLL_WAIT_S_MAX}"));
    seconds.map(Duration::from_secs).ok_or_else(invalid)
}
