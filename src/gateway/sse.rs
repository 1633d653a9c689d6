//! `/sse/<topic>[,<topic>…]`: Server-Sent Events.
//!
//! The id of each event holds the stream's position in all its topics. A browser that reconnects with `Last-Event-ID`
//! receives the events it missed. If they are no longer available, it receives an event `lost` with the topic and its
//! current position, and the stream continues from there.

use std::collections::HashMap;
use std::sync::Arc;

use super::catch_up::{POSITION_BYTES_MAX, from_start, positions, positions_text, topics};
use super::encoder::encode_page;
use super::event::{COMMENT, EVENT, encode_event, event_bytes_max};
use super::parameters::{check_parameters, parameter};
use super::{Accept, Context, Get, Handler, Readers, Refusal, Request, Response, Stream, Subscribe};
use crate::buf::ConnId;
use crate::conn::CloseCause;
use crate::limits::{CONN_TOPICS, SSE_RETRY_MS, SSE_RETRY_SPREAD_MS};
use crate::proto::{CloseCode, Message};
use crate::topics::{
    Answer, Body, CatchUp, Encoding, Epoch, Namespaces, Position, Push, Recovery, StatePage, TopicName,
};

/// Serves event streams of the topics that its [`Readers`] may read.
#[derive(Debug, Default)]
pub struct Sse {
    readers: Readers,
    /// The positions of streams with several topics. A stream of one topic needs none: all its subscribers share the
    /// same events.
    several: HashMap<ConnId, Vec<(TopicName, Position)>>,
}

impl Handler for Sse {
    type State = ();

    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Err(Refusal::new(400, "this is an event stream: read it with EventSource; WebSockets are at /feed/<topic>"))
    }

    fn on_get(&mut self, conn: &mut Context<'_>, request: &Get<'_>) -> Result<Response, Refusal> {
        check_parameters(request.head, &["last_event_id", "token"])?;
        let topics = topics(request.rest)?;
        let expires = self.readers.check(request, std::iter::empty(), topics.iter(), conn.clock())?;
        if has_repeated(&topics) {
            return Err(Refusal::new(400, "duplicate topic"));
        }
        // Each event has the positions of all topics.
        if topics.len() > CONN_TOPICS {
            let too_many = format!("at most {CONN_TOPICS} topics in one stream: open another for the rest");
            return Err(Refusal::new(400, too_many));
        }
        // An id of other topics holds no position in these: the events since then are lost.
        let never = CatchUp::Since { epoch: Some(Epoch::NEVER), offset: 0 };
        let catch_up = match last_event_id(request) {
            Some(id) => positions(id, topics.len()).unwrap_or_else(|| vec![never; topics.len()]),
            None => topics.iter().map(|topic| from_start(self.readers.namespaces(), topic)).collect(),
        };
        // The stream keeps the client's positions until the home shards reply.
        let start = topics.iter().cloned().zip(catch_up.iter().map(|catch_up| start(*catch_up))).collect();
        if let Some(after) = expires {
            conn.set_timer(after);
        }
        // Browsers reconnect by themselves: spread the reconnects of many over time.
        conn.write(format!("retry: {}\n\n", retry_ms(conn.id())).as_bytes());
        let is_one = topics.len() == 1;
        for (request_id, (topic, catch_up)) in topics.into_iter().zip(catch_up).enumerate() {
            let subscribe = Subscribe::new(topic, catch_up, Some(request_id as u32));
            conn.subscribe_with(subscribe)?;
        }
        if !is_one {
            self.several.insert(conn.id(), start);
        }
        let encoding = if is_one { *EVENT } else { Encoding::PER_CONNECTION };
        let stream = Stream::new("text/event-stream", ()).encoding(encoding).heartbeat(*COMMENT);
        Ok(stream.header("Cache-Control", "no-store").header("X-Accel-Buffering", "no").into())
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &mut (), _: Message<'_>) {}

    fn on_answer(&mut self, conn: &mut Context<'_>, _: &mut (), request_id: u32, answer: Answer) {
        let (topic, position, recovery) = match answer {
            Answer::Subscribed { topic, position, recovery: Recovery::State(page) } => {
                self.write_page(conn, request_id, &topic, &page);
                let id = self.advance(conn.id(), request_id as usize, position);
                return conn.write(marker("live", &topic, position, &id).as_bytes());
            }
            Answer::Subscribed { topic, position, recovery } => (topic, position, recovery),
            Answer::StatePage { topic, page } => {
                self.write_page(conn, request_id, &topic, &page);
                return conn.read_on(Subscribe::new(topic, CatchUp::State(page.next), Some(request_id)));
            }
            // An event stream has no close reason that a browser would read: end it, and the browser reconnects.
            _ => return conn.close(CloseCode::TRY_AGAIN_LATER, ""),
        };
        let (is_lost, missed) = match recovery {
            Recovery::NotAsked | Recovery::State(_) => (false, Vec::new()),
            Recovery::Lost => (true, Vec::new()),
            Recovery::Recovered(missed) => (false, missed),
        };
        let mut out = Vec::new();
        for body in &missed {
            let id = self.advance(conn.id(), request_id as usize, body.position);
            encode_event(&mut out, body, &id);
        }
        let id = self.advance(conn.id(), request_id as usize, position);
        if is_lost {
            return conn.write(marker("lost", &topic, position, &id).as_bytes());
        }
        // A block without data is not an event, but a browser that reconnects before the first event sends this id.
        out.extend_from_slice(format!("id: {id}\n\n").as_bytes());
        conn.write(&out);
    }

    fn missed_bytes_max(&self, conn: ConnId, _: &(), _: Encoding, body: &Body) -> usize {
        let others = self.several.get(&conn).map_or(0, |positions| positions.len() - 1);
        event_bytes_max(body) + others * (POSITION_BYTES_MAX + ",".len())
    }

    fn on_push(&mut self, conn: &mut Context<'_>, _: &mut (), topic: &TopicName, push: &Push) {
        let Push::Publication(publication) = push else { return };
        let body: &Body = &publication.body;
        let index = self.several.get(&conn.id()).and_then(|all| all.iter().position(|(other, _)| other == topic));
        let id = self.advance(conn.id(), index.unwrap_or_default(), body.position);
        let mut out = Vec::new();
        encode_event(&mut out, body, &id);
        conn.write(&out);
    }

    /// The token has expired. A browser reconnects with the same token, receives 401, and gives up.
    fn on_timer(&mut self, conn: &mut Context<'_>, _: &mut ()) {
        conn.close(CloseCode::POLICY_VIOLATION, "");
    }

    fn on_namespaces(&mut self, namespaces: &Arc<Namespaces>) {
        self.readers.set_namespaces(namespaces);
    }

    fn on_drain(&mut self, conn: &mut Context<'_>, _: &mut ()) {
        conn.write(format!("retry: {}\n\n", retry_ms(conn.id())).as_bytes());
        conn.close(CloseCode::GOING_AWAY, "");
    }

    fn on_close(&mut self, conn: &mut Context<'_>, _: (), _: CloseCause) {
        self.several.remove(&conn.id());
    }
}

impl Sse {
    /// A handler without streams.
    pub fn new(namespaces: Arc<Namespaces>) -> Sse {
        Sse::of(Readers::new(namespaces))
    }

    /// Streams of the topics that these clients may read.
    pub fn of(readers: Readers) -> Sse {
        Sse { readers, several: HashMap::new() }
    }

    /// Writes a page of a keyed topic's state.
    fn write_page(&mut self, conn: &mut Context<'_>, request_id: u32, topic: &TopicName, page: &StatePage) {
        if page.begins {
            let start = Position { offset: 0, ..page.position };
            let id = self.advance(conn.id(), request_id as usize, start);
            conn.write(marker("snapshot", topic, start, &id).as_bytes());
        }
        if !self.several.contains_key(&conn.id()) {
            return conn.write(encode_page(*EVENT, page));
        }
        let mut out = Vec::new();
        for body in &page.bodies {
            let id = self.advance(conn.id(), request_id as usize, body.position);
            encode_event(&mut out, body, &id);
        }
        conn.write(&out);
    }

    /// Sets the stream's position in the topic with this index. Returns the stream's new id.
    fn advance(&mut self, conn: ConnId, index: usize, position: Position) -> String {
        match self.several.get_mut(&conn) {
            Some(positions) => {
                positions[index].1 = position;
                let positions: Vec<Position> = positions.iter().map(|(_, position)| *position).collect();
                positions_text(&positions)
            }
            None => positions_text(&[position]),
        }
    }
}

/// The client's position: the header of a reconnecting browser, or a parameter of its first request.
fn last_event_id<'a>(request: &Get<'a>) -> Option<&'a str> {
    let id = request.head.header("Last-Event-ID").or_else(|| parameter(request.head, "last_event_id"));
    id.filter(|id| !id.is_empty())
}

/// The reconnect delay in milliseconds; differs between connections.
fn retry_ms(conn: ConnId) -> u64 {
    // Neighbouring slots get distant delays (Knuth's multiplicative hash).
    let mixed = (conn.slot.0 ^ conn.generation.rotate_left(16)).wrapping_mul(2_654_435_769);
    SSE_RETRY_MS + u64::from(mixed) * SSE_RETRY_SPREAD_MS / u64::from(u32::MAX)
}

/// An event about a topic's position.
fn marker(name: &str, topic: &TopicName, position: Position, id: &str) -> String {
    let Position { epoch, offset } = position;
    let data = serde_json::json!({"topic": topic.as_str(), "epoch": epoch.to_string(), "offset": offset});
    format!("event: {name}\ndata: {data}\nid: {id}\n\n")
}

/// The position of a stream before the first reply.
fn start(catch_up: CatchUp) -> Position {
    match catch_up {
        CatchUp::Since { epoch: Some(epoch), offset } => Position { epoch, offset },
        _ => Position { epoch: Epoch::NEVER, offset: 0 },
    }
}

fn has_repeated(topics: &[TopicName]) -> bool {
    let mut names: Vec<_> = topics.iter().collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}
