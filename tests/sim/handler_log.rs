//! The calls that handlers on all shards receive for each client: one open, one close, and its cause.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::LazyLock;

use ringfeed::buf::ConnId;
use ringfeed::gateway::{
    Accept, Context, Encoder, Get, Handler, Refusal, Request, Response, Subscribe, UserCommand, register,
};
use ringfeed::proto::{CloseCode, Message};
use ringfeed::server::CloseCause;
use ringfeed::topics::{Answer, Body, CatchUp, Encoding, LabelledEncoding, PublishError, Push, TopicName};

/// The log of all handlers of a run.
#[derive(Default)]
pub(crate) struct HandlerLog {
    /// The client of each open connection, by shard and id.
    open: HashMap<(usize, ConnId), usize>,
    /// All ids so far. No id may recur, because late completions of the earlier connection would be taken for its own.
    known: HashSet<(usize, ConnId)>,
    /// The close cause, by client.
    ends: HashMap<usize, CloseCause>,
    /// Closed connections that the simulation has not taken yet, with their clients.
    news: Vec<(ConnId, usize)>,
}

impl HandlerLog {
    /// Why a client's connection ended, once it has.
    pub(crate) fn end(&self, client: usize) -> Option<CloseCause> {
        self.ends.get(&client).copied()
    }

    /// The connections that ended since the last call, with their clients.
    pub(crate) fn take_ended(&mut self) -> Vec<(ConnId, usize)> {
        std::mem::take(&mut self.news)
    }

    /// The number of connections that are open.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    fn on_open(&mut self, shard: usize, conn: ConnId, client: usize) {
        assert!(self.known.insert((shard, conn)), "two connections have one id: {conn:?}");
        self.open.insert((shard, conn), client);
    }

    fn on_close(&mut self, shard: usize, conn: ConnId, cause: CloseCause) {
        let client = self.open.remove(&(shard, conn)).expect("only an open connection ends");
        let before = self.ends.insert(client, cause);
        assert_eq!(before, None, "a client's connection ended twice");
        self.news.push((conn, client));
    }
}

/// The header field in which a client sends its number.
pub(crate) const CLIENT: &str = "Client";

/// Logs the connections of a handler. Clients send their numbers in the header field [`CLIENT`].
pub(crate) struct Logged<H> {
    pub(crate) handler: H,
    pub(crate) shard: usize,
    pub(crate) log: Rc<RefCell<HandlerLog>>,
}

impl<H: Handler> Handler for Logged<H> {
    type State = H::State;

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept<H::State>, Refusal> {
        let accept = self.handler.on_open(conn, request)?;
        self.log.borrow_mut().on_open(self.shard, conn.id(), client(request.head.header(CLIENT)));
        Ok(accept)
    }

    fn on_get(&mut self, conn: &mut Context<'_>, request: &Get<'_>) -> Result<Response<H::State>, Refusal> {
        let response = self.handler.on_get(conn, request)?;
        if let Response::Stream(_) = &response {
            self.log.borrow_mut().on_open(self.shard, conn.id(), client(request.head.header(CLIENT)));
        }
        Ok(response)
    }

    fn on_message(&mut self, conn: &mut Context<'_>, state: &mut H::State, message: Message<'_>) {
        self.check_open(conn);
        self.handler.on_message(conn, state, message);
    }

    fn on_resume(&mut self, conn: &mut Context<'_>, state: &mut H::State) {
        self.check_open(conn);
        self.handler.on_resume(conn, state);
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, state: &mut H::State, request_id: u32, answer: Answer) {
        self.check_open(conn);
        self.handler.on_answer(conn, state, request_id, answer);
    }

    fn missed_bytes_max(&self, conn: ConnId, state: &H::State, encoding: Encoding, body: &Body) -> usize {
        self.handler.missed_bytes_max(conn, state, encoding, body)
    }

    fn on_push(&mut self, conn: &mut Context<'_>, state: &mut H::State, topic: &TopicName, push: &Push) {
        self.check_open(conn);
        self.handler.on_push(conn, state, topic, push);
    }

    fn on_timer(&mut self, conn: &mut Context<'_>, state: &mut H::State) {
        self.check_open(conn);
        self.handler.on_timer(conn, state);
    }

    fn find_connections(&self, command: &UserCommand, found: &mut Vec<ConnId>) {
        self.handler.find_connections(command, found);
    }

    fn on_user_command(&mut self, conn: &mut Context<'_>, state: &mut H::State, command: &UserCommand) {
        self.check_open(conn);
        self.handler.on_user_command(conn, state, command);
    }

    fn on_close(&mut self, conn: &mut Context<'_>, state: H::State, cause: CloseCause) {
        self.handler.on_close(conn, state, cause);
        self.log.borrow_mut().on_close(self.shard, conn.id(), cause);
    }

    fn on_drain(&mut self, conn: &mut Context<'_>, state: &mut H::State) {
        self.check_open(conn);
        self.handler.on_drain(conn, state);
    }
}

impl<H> Logged<H> {
    fn check_open(&self, conn: &Context<'_>) {
        let is_open = self.log.borrow().open.contains_key(&(self.shard, conn.id()));
        assert!(is_open, "the server called a handler for a connection that is not open");
    }
}

/// The number of the client that sends this field.
fn client(field: Option<&str>) -> usize {
    field.and_then(|client| client.parse().ok()).expect("a client sends its number")
}

/// A handler driven by its clients, so that every command of a handler is used: `s <topic>` subscribes, `u <topic>`
/// unsubscribes, `h <topic>` subscribes and holds pushes until the reply, `r <count>` is answered with that many bytes,
/// `p <topic> <message>` publishes, `c <code>` closes. All but the last two are answered with `=` and the same text;
/// the answer to `h` precedes the held pushes. Each `p` also changes the encoding of the client's subscription, which
/// its messages do not show.
pub(crate) struct Room;

/// Publications as they are, whatever the label.
struct Verbatim;

impl Encoder for Verbatim {
    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        out.extend_from_slice(&body.frame);
    }
}

static VERBATIM: LazyLock<Encoding> = LazyLock::new(|| register(Verbatim));

/// The encodings of a room's subscriptions, by any number.
fn encoding(number: usize) -> Option<LabelledEncoding> {
    let label = (number % 4) as u8;
    (label < 3).then_some(LabelledEncoding { encoding: *VERBATIM, label })
}

/// The request id of subscriptions that hold pushes until the reply.
const HELD: u32 = 1;

impl Handler for Room {
    type State = ();

    fn on_open(&mut self, _conn: &mut Context<'_>, _request: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        let text = message.as_str().expect("the clients of a room send text");
        let (verb, rest) = text.split_once(' ').expect("a verb and its object");
        let topic = |name| TopicName::new(name).expect("a topic's name");
        match verb {
            "s" => conn.subscribe(topic(rest)).expect("few topics"),
            "u" => conn.unsubscribe(topic(rest)),
            "h" => {
                let (topic, catch_up, request_id) = (topic(rest), CatchUp::None, Some(HELD));
                let encoding = encoding(topic.as_str().len());
                let subscribe = Subscribe {
                    topic,
                    catch_up,
                    presence: None,
                    join_leave: false,
                    encoding,
                    filter: None,
                    request_id,
                };
                conn.pause_delivery();
                return conn.subscribe_with(subscribe).expect("few topics");
            }
            "r" => return conn.send(Message::text(&bulk_reply(rest.parse().expect("a count")))),
            "p" => {
                let (name, payload) = rest.split_once(' ').expect("a topic and a message");
                conn.encode_as(topic(name), encoding(payload.len()));
                return conn.publish(
                    topic(name),
                    Message { kind: crate::model::kind_of(payload), payload: payload.as_bytes() },
                );
            }
            "c" => return conn.close(CloseCode(rest.parse().expect("a code")), "as you wish"),
            _ => panic!("unknown verb of the room: {text}"),
        }
        conn.send(Message::text(&format!("={text}")));
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, _: &mut (), request_id: u32, answer: Answer) {
        assert_eq!(request_id, HELD);
        match answer {
            Answer::Subscribed { topic, .. } => conn.send(Message::text(&format!("=h {topic}"))),
            // The home shard has stopped.
            Answer::NotSubscribed { error: PublishError::Stopping, .. } => conn.close(CloseCode::TRY_AGAIN_LATER, ""),
            answer => panic!("the home shard rejected the subscription: {answer:?}"),
        }
        conn.resume_delivery();
    }
}

/// The answer to `r <count>`.
pub(crate) fn bulk_reply(count: usize) -> String {
    format!("=r {count}{}", "!".repeat(count))
}
