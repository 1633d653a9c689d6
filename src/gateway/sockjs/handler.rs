//! The paths of SockJS below a route, and the conversations that they carry.

use std::any::Any;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use super::carried::carried_encoding;
use super::framing::messages;
use super::sessions::{Form, REJECTED, Rejected, SessionLink, Sessions, write_chunk};
use crate::buf::ConnId;
use crate::conn::{CloseCause, Heartbeat};
#[cfg(feature = "centrifuge")]
use crate::gateway::UserCommand;
use crate::gateway::{Accept, Context, Get, Handler, Identity, Page, Refusal, Request, Response, Stream};
use crate::limits::{SOCKJS_BODY_BYTES_MAX, SOCKJS_PRELUDE_BYTES, SOCKJS_SEGMENT_BYTES_MAX};
use crate::proto::{CloseCode, Message};
use crate::topics::{Answer, Body, Encoding, Namespaces, Push, TopicName};

/// The heart-beat, as one frame.
static HEART_BEAT: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b"\x81\x01h", None));

/// No response may come out of a cache.
const NOT_CACHED: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";

/// Beginnings of such fields. A client's own word on its address would count if Unix sockets are trusted proxies.
const OWN_PREFIXES: [&str; 3] = ["sec-", "x-forwarded-", "forwarded"];

/// Header fields of a request that are not the conversation's.
const OWN_FIELDS: [&str; 9] = [
    "host",
    "connection",
    "upgrade",
    "origin",
    "content-length",
    "content-type",
    "accept-encoding",
    "transfer-encoding",
    "keep-alive",
];

/// Serves SockJS below a route that ends with `/`, and carries the conversations of `H` with it: those that
/// [send](Context::send) and subscribe, and have no pings of their own.
///
/// ```no_run
/// use ringfeed::gateway::{Echo, SockJs};
/// use ringfeed::{Server, ServerConfig};
///
/// // Without sessions, WebSockets are the only transport: new SockJS('http://localhost:8000/echo')
/// let server = Server::builder(ServerConfig::default()).route("/echo/", || SockJs::new(Echo, None)).start()?;
/// # Ok::<(), ringfeed::server::ServeError>(())
/// ```
#[derive(Debug)]
pub struct SockJs<H> {
    inner: H,
    sessions: Option<Sessions>,
    random: RandomState,
    count: u64,
}

/// The state of a connection.
#[derive(Debug)]
pub enum State<S> {
    /// A WebSocket with a conversation.
    Conversation(Conversation<S>),
    /// A response that waits for the frames of a session.
    Receiver(Waiting),
}

/// A conversation on a WebSocket.
#[derive(Debug)]
pub struct Conversation<S> {
    inner: S,
    /// In frames of SockJS; else a WebSocket without.
    is_carried: bool,
    /// Messages that wait until the handler reads on.
    held: VecDeque<Box<str>>,
}

/// A response that waits for the frames of a session.
#[derive(Debug)]
pub struct Waiting {
    session: SessionLink,
    number: u64,
}

/// What a path below the route names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'p> {
    Greeting,
    Info,
    /// A WebSocket without frames of SockJS.
    Raw,
    Transport {
        session: &'p str,
        transport: &'p str,
    },
}

impl<H> SockJs<H> {
    /// Carries the conversations of `inner`. `sessions` are those of the HTTP transports; without them WebSockets are
    /// the only one.
    pub fn new(inner: H, sessions: Option<Sessions>) -> SockJs<H> {
        SockJs { inner, sessions, random: RandomState::new(), count: 0 }
    }

    fn info(&mut self) -> Page {
        self.count += 1;
        let entropy = self.random.hash_one(self.count) as u32;
        let info = serde_json::json!({
            "websocket": true, "cookie_needed": false, "origins": ["*:*"], "entropy": entropy,
        });
        Page::new("application/json; charset=UTF-8", info.to_string().into_bytes())
    }

    /// Begins the response with a session's frames.
    fn receive<S>(
        &mut self,
        conn: &mut Context<'_>,
        request: &Get<'_>,
        session: &str,
        form: Form,
    ) -> Result<Response<State<S>>, Refusal> {
        let sessions = self.sessions.as_ref().ok_or_else(not_found)?;
        let name = name_of(request, session);
        let begin = || (websocket_target(request), fields(request));
        let is_chunked = request.head.takes_chunks();
        let receiver = (conn.handle(), form, is_chunked);
        let (session, number) = sessions.receive(&name, request.peer, receiver, begin).map_err(refusal)?;
        let mut prelude = Vec::new();
        match form {
            Form::Poll => {}
            // So that browsers begin to read.
            Form::Stream => {
                write_chunk(&mut prelude, is_chunked, &[&[b'h'; SOCKJS_PRELUDE_BYTES][..], b"\n"].concat());
            }
            Form::Events => write_chunk(&mut prelude, is_chunked, b"\r\n"),
        }
        conn.write(&prelude);
        let content_type = match form {
            Form::Events => "text/event-stream",
            Form::Poll | Form::Stream => "application/javascript; charset=UTF-8",
        };
        let stream = Stream::new(content_type, State::Receiver(Waiting { session, number }));
        let stream = stream.header("Cache-Control", NOT_CACHED).header("X-Accel-Buffering", "no");
        let stream = if is_chunked { stream.header("Transfer-Encoding", "chunked") } else { stream };
        Ok(stream.header(CREDENTIALS.0, CREDENTIALS.1).heartbeat(Heartbeat::SILENT).into())
    }

    fn send(&self, request: &Get<'_>, session: &str, body: &[u8]) -> Result<Page, Refusal> {
        let sessions = self.sessions.as_ref().ok_or_else(not_found)?;
        if body.is_empty() {
            REJECTED.count(Rejected::BrokenJson as usize);
            return Err(Refusal::new(500, "Payload expected."));
        }
        let found = messages(body).map_err(|_| refusal(Rejected::BrokenJson))?;
        if !found.is_empty() {
            sessions.send(&name_of(request, session), Bytes::copy_from_slice(body)).map_err(refusal)?;
        }
        // Some browsers take a response without a type for XML.
        Ok(page(Page::empty().header("Content-Type", "text/plain; charset=UTF-8")))
    }
}

/// The origin was checked, and its page may send cookies.
const CREDENTIALS: (&str, &str) = ("Access-Control-Allow-Credentials", "true");

fn page(page: Page) -> Page {
    page.header("Cache-Control", NOT_CACHED).header(CREDENTIALS.0, CREDENTIALS.1)
}

fn refusal(rejected: Rejected) -> Refusal {
    REJECTED.count(rejected as usize);
    match rejected {
        Rejected::TooManySessions => Refusal::new(503, "too many sessions: try again later"),
        Rejected::TooManyBytes => Refusal::new(503, "too many messages wait: send slower"),
        Rejected::BrokenJson => Refusal::new(500, "Broken JSON encoding."),
        Rejected::UnknownSession => Refusal::new(404, "there is no such session: connect again"),
    }
}

fn not_found() -> Refusal {
    Refusal::new(404, "SockJS has no such transport here")
}

/// What a path names. Segments with a dot, and empty ones, name nothing.
fn place(rest: &str) -> Option<Place<'_>> {
    let is_segment =
        |segment: &str| !segment.is_empty() && !segment.contains('.') && segment.len() <= SOCKJS_SEGMENT_BYTES_MAX;
    match rest {
        "" => return Some(Place::Greeting),
        "info" => return Some(Place::Info),
        "websocket" => return Some(Place::Raw),
        _ => {}
    }
    let (server, rest) = rest.split_once('/')?;
    let (session, transport) = rest.split_once('/')?;
    (is_segment(server) && is_segment(session)).then_some(Place::Transport { session, transport })
}

/// The server's segment is for balancers: a session has its own name only.
fn name_of(request: &Get<'_>, session: &str) -> String {
    format!("{} {session}", request.route)
}

/// The target of the request that opens the session's conversation.
fn websocket_target(request: &Get<'_>) -> String {
    let (before, _) = request.head.path.rsplit_once('/').expect("the path has segments");
    let query = request.head.query.map_or_else(String::new, |query| format!("?{query}"));
    format!("{before}/websocket{query}")
}

/// The header fields of the request that opens the session's conversation.
fn fields(request: &Get<'_>) -> Vec<(String, String)> {
    let own = |name: &str| {
        let name = name.to_ascii_lowercase();
        OWN_FIELDS.contains(&name.as_str()) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let text = |(name, value): (&str, &[u8])| Some((name.to_owned(), std::str::from_utf8(value).ok()?.to_owned()));
    request.head.headers().filter(|(name, _)| !own(name)).filter_map(text).collect()
}

impl<S> State<S> {
    fn conversation(&mut self) -> Option<&mut Conversation<S>> {
        match self {
            State::Conversation(conversation) => Some(conversation),
            State::Receiver(_) => None,
        }
    }
}

impl<S> Conversation<S> {
    /// Calls the handler, whose messages are carried.
    fn call<T>(&mut self, conn: &mut Context<'_>, call: impl FnOnce(&mut Context<'_>, &mut S) -> T) -> T {
        match self.is_carried {
            true => conn.carried(|conn| call(conn, &mut self.inner)),
            false => call(conn, &mut self.inner),
        }
    }

    /// Passes on messages that were held, until the handler reads no more.
    fn pass<H: Handler<State = S>>(&mut self, conn: &mut Context<'_>, handler: &mut H) {
        let mut count = 0;
        while conn.is_reading() {
            let Some(message) = self.held.pop_front() else { break };
            count += 1;
            self.call(conn, |conn, inner| handler.on_message(conn, inner, Message::text(&message)));
        }
        conn.count_as(count);
    }
}

impl<H: Handler> Handler for SockJs<H> {
    type State = State<H::State>;

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept<Self::State>, Refusal> {
        let is_carried = match place(request.rest) {
            Some(Place::Raw) => false,
            Some(Place::Transport { transport: "websocket", .. }) => true,
            _ => return Err(not_found()),
        };
        let of_conversation = |inner| State::Conversation(Conversation { inner, is_carried, held: VecDeque::new() });
        if !is_carried {
            return Ok(self.inner.on_open(conn, request)?.map(of_conversation));
        }
        conn.send(Message::text("o"));
        let accept = conn.carried(|conn| self.inner.on_open(conn, request))?;
        let (bytes, encoding) = (accept.message_bytes_max, carried_encoding(accept.encoding));
        // Each character may be escaped; SockJS has no subprotocols.
        let accept = Accept { message_bytes_max: bytes.map(|bytes| bytes.saturating_mul(2)), ..accept };
        let accept = Accept { subprotocol: None, encoding, heartbeat: *HEART_BEAT, ..accept };
        Ok(accept.map(of_conversation))
    }

    fn on_get(&mut self, conn: &mut Context<'_>, request: &Get<'_>) -> Result<Response<Self::State>, Refusal> {
        match place(request.rest) {
            Some(Place::Greeting) => Ok(Page::new("text/plain; charset=UTF-8", &b"Welcome to SockJS!\n"[..]).into()),
            Some(Place::Info) => Ok(page(self.info()).into()),
            Some(Place::Raw | Place::Transport { transport: "websocket", .. }) => {
                Err(Refusal::new(400, "Not a valid websocket request"))
            }
            Some(Place::Transport { session, transport: "eventsource" }) => {
                self.receive(conn, request, session, Form::Events)
            }
            Some(Place::Transport { transport: "xhr" | "xhr_streaming" | "xhr_send", .. }) => {
                Err(Refusal::new(405, "use POST"))
            }
            _ => Err(not_found()),
        }
    }

    fn body_bytes_max(&self) -> Option<usize> {
        Some(SOCKJS_BODY_BYTES_MAX)
    }

    fn on_post(
        &mut self,
        conn: &mut Context<'_>,
        request: &Get<'_>,
        body: &[u8],
    ) -> Result<Response<Self::State>, Refusal> {
        let Some(Place::Transport { session, transport }) = place(request.rest) else { return Err(not_found()) };
        match transport {
            "xhr" => self.receive(conn, request, session, Form::Poll),
            "xhr_streaming" => self.receive(conn, request, session, Form::Stream),
            "xhr_send" => self.send(request, session, body).map(Into::into),
            "websocket" | "eventsource" => Err(Refusal::new(405, "use GET")),
            _ => Err(not_found()),
        }
    }

    fn on_message(&mut self, conn: &mut Context<'_>, state: &mut Self::State, message: Message<'_>) {
        let Some(conversation) = state.conversation() else { return };
        if !conversation.is_carried {
            return self.inner.on_message(conn, &mut conversation.inner, message);
        }
        let Ok(found) = messages(message.payload) else {
            REJECTED.count(Rejected::BrokenJson as usize);
            // The client speaks no SockJS, so there is no frame of SockJS to say so.
            return conn.close(CloseCode::PROTOCOL_ERROR, "Broken JSON encoding.");
        };
        conversation.held.extend(found.iter().map(|message| Box::from(&**message)));
        conversation.pass(conn, &mut self.inner);
    }

    fn on_resume(&mut self, conn: &mut Context<'_>, state: &mut Self::State) {
        let Some(conversation) = state.conversation() else { return };
        conversation.call(conn, |conn, inner| self.inner.on_resume(conn, inner));
        if !conversation.held.is_empty() {
            conversation.pass(conn, &mut self.inner);
        }
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, state: &mut Self::State, request_id: u32, answer: Answer) {
        let Some(conversation) = state.conversation() else { return };
        conversation.call(conn, |conn, inner| self.inner.on_answer(conn, inner, request_id, answer));
    }

    fn on_reply(
        &mut self,
        conn: &mut Context<'_>,
        state: &mut Self::State,
        request_id: u32,
        reply: &(dyn Any + Send + Sync),
    ) {
        let Some(conversation) = state.conversation() else { return };
        conversation.call(conn, |conn, inner| self.inner.on_reply(conn, inner, request_id, reply));
    }

    fn missed_bytes_max(&self, conn: ConnId, state: &Self::State, encoding: Encoding, body: &Body) -> usize {
        match state {
            // Most characters that are escaped become two.
            State::Conversation(Conversation { inner, .. }) => {
                2 * self.inner.missed_bytes_max(conn, inner, encoding, body)
            }
            State::Receiver(_) => 0,
        }
    }

    fn on_push(&mut self, conn: &mut Context<'_>, state: &mut Self::State, topic: &TopicName, push: &Push) {
        let Some(conversation) = state.conversation() else { return };
        conversation.call(conn, |conn, inner| self.inner.on_push(conn, inner, topic, push));
    }

    fn on_timer(&mut self, conn: &mut Context<'_>, state: &mut Self::State) {
        let Some(conversation) = state.conversation() else { return };
        conversation.call(conn, |conn, inner| self.inner.on_timer(conn, inner));
    }

    #[cfg(feature = "centrifuge")]
    fn find_connections(&self, command: &UserCommand, found: &mut Vec<ConnId>) {
        self.inner.find_connections(command, found);
    }

    #[cfg(feature = "centrifuge")]
    fn on_user_command(&mut self, conn: &mut Context<'_>, state: &mut Self::State, command: &UserCommand) {
        let Some(conversation) = state.conversation() else { return };
        conversation.call(conn, |conn, inner| self.inner.on_user_command(conn, inner, command));
    }

    fn identity(&self, conn: ConnId, state: &Self::State) -> Identity {
        match state {
            State::Conversation(Conversation { inner, .. }) => self.inner.identity(conn, inner),
            State::Receiver(_) => Identity::default(),
        }
    }

    fn on_disconnect(&mut self, conn: &mut Context<'_>, state: &mut Self::State, code: CloseCode, reason: &str) {
        match state.conversation() {
            Some(conversation) => {
                conversation.call(conn, |conn, inner| self.inner.on_disconnect(conn, inner, code, reason));
            }
            None => conn.close(code, reason),
        }
    }

    fn on_namespaces(&mut self, namespaces: &Arc<Namespaces>) {
        self.inner.on_namespaces(namespaces);
    }

    fn on_close(&mut self, conn: &mut Context<'_>, state: Self::State, cause: CloseCause) {
        match state {
            State::Conversation(Conversation { inner, .. }) => self.inner.on_close(conn, inner, cause),
            State::Receiver(Waiting { session, number }) => session.leave(number),
        }
    }

    fn on_drain(&mut self, conn: &mut Context<'_>, state: &mut Self::State) {
        match state.conversation() {
            Some(conversation) => conversation.call(conn, |conn, inner| self.inner.on_drain(conn, inner)),
            // The conversation of the session ends by itself, and so does this response then.
            None => conn.close(CloseCode::GOING_AWAY, ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_places() {
        let long = "x".repeat(SOCKJS_SEGMENT_BYTES_MAX + 1);
        let of = |session, transport| Some(Place::Transport { session, transport });
        let rows = [
            ("", Some(Place::Greeting)),
            ("info", Some(Place::Info)),
            ("websocket", Some(Place::Raw)),
            ("000/abc/xhr", of("abc", "xhr")),
            ("_/_/xhr", of("_", "xhr")),
            ("a%20b/c/websocket", of("c", "websocket")),
            ("a/b/xhr/more", of("b", "xhr/more")),
            ("a./a/xhr", None),
            ("a/a./xhr", None),
            ("/a/xhr", None),
            ("a//xhr", None),
            ("a/xhr", None),
            ("iframe.html", None),
        ];
        for (path, expected) in rows {
            assert_eq!(place(path), expected, "{path}");
        }
        assert_eq!(place(&format!("a/{long}/xhr")), None);
    }
}
