//! What the handlers on the shards were told of each client: opened once, closed once, and why.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use ringfeed::buf::ConnId;
use ringfeed::gateway::{Accept, Context, Handler, Refusal, Request};
use ringfeed::proto::{CloseCode, Message};
use ringfeed::server::CloseCause;
use ringfeed::topics::TopicName;

/// What all handlers of a run write down.
#[derive(Default)]
pub(crate) struct Journal {
    /// By shard and connection: whose it is, while it is open.
    open: HashMap<(usize, ConnId), usize>,
    /// All that ever were: no id may come twice, since late news of the one before would be taken for its own.
    known: HashSet<(usize, ConnId)>,
    /// By client.
    ends: HashMap<usize, CloseCause>,
}

impl Journal {
    /// Why a client's conversation ended, once it has.
    pub(crate) fn end(&self, client: usize) -> Option<CloseCause> {
        self.ends.get(&client).copied()
    }

    /// Connections that were opened and not closed.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    fn on_open(&mut self, shard: usize, conn: ConnId, client: usize) {
        assert!(self.known.insert((shard, conn)), "two connections have one id: {conn:?}");
        self.open.insert((shard, conn), client);
    }

    fn on_close(&mut self, shard: usize, conn: ConnId, cause: CloseCause) {
        let client = self.open.remove(&(shard, conn)).expect("a connection ends that was not open");
        let before = self.ends.insert(client, cause);
        assert_eq!(before, None, "a client's connection ended twice");
    }
}

/// A handler whose connections are written down. Clients say who they are in the query: `?client=7`.
pub(crate) struct Watched<H> {
    pub(crate) handler: H,
    pub(crate) shard: usize,
    pub(crate) journal: Rc<RefCell<Journal>>,
}

impl<H: Handler> Handler for Watched<H> {
    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        let accept = self.handler.on_open(conn, request)?;
        let client =
            request.head.query.and_then(|query| query.strip_prefix("client=")).expect("clients say who they are");
        self.journal.borrow_mut().on_open(self.shard, conn.id(), client.parse().expect("a number"));
        Ok(accept)
    }

    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>) {
        let is_open = self.journal.borrow().open.contains_key(&(self.shard, conn.id()));
        assert!(is_open, "a message of a connection that is not open");
        self.handler.on_message(conn, message);
    }

    fn on_close(&mut self, conn: ConnId, cause: CloseCause) {
        self.handler.on_close(conn, cause);
        self.journal.borrow_mut().on_close(self.shard, conn, cause);
    }
}

/// A handler that does what it is told, so that every command of a handler is used: `s <topic>` subscribes, `u <topic>`
/// unsubscribes, `r <count>` is answered with so many bytes more, `p <topic> <message>` publishes, `c <code>` closes.
/// All but the last two are answered with `=` and the same text.
pub(crate) struct Room;

impl Handler for Room {
    fn on_open(&mut self, _conn: &mut Context<'_>, _request: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>) {
        let text = message.as_str().expect("clients of a room send text");
        let (verb, rest) = text.split_once(' ').expect("a verb and its object");
        let topic = |name| TopicName::new(name).expect("a topic's name");
        match verb {
            "s" => conn.subscribe(topic(rest)).expect("few topics"),
            "u" => conn.unsubscribe(topic(rest)),
            "r" => return conn.send(Message::text(&roar(rest.parse().expect("a count")))),
            "p" => {
                let (name, payload) = rest.split_once(' ').expect("a topic and a message");
                return conn.publish(
                    topic(name),
                    Message { kind: crate::model::kind_of(payload), payload: payload.as_bytes() },
                );
            }
            "c" => return conn.close(CloseCode(rest.parse().expect("a code")), "as you wish"),
            _ => panic!("not a verb of the room: {text}"),
        }
        conn.send(Message::text(&format!("={text}")));
    }
}

/// The answer to `r <count>`.
pub(crate) fn roar(count: usize) -> String {
    format!("=r {count}{}", "!".repeat(count))
}
