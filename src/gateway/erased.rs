//! Handlers of any state behind one type: what a shard calls.

use std::any::{Any, TypeId};
use std::net::IpAddr;
#[cfg(feature = "product")]
use std::sync::Arc;

#[cfg(feature = "centrifuge")]
use super::UserCommand;
use super::{Accept, Context, Get, Handler, Identity, Refusal, Request, Response};
use crate::buf::{BySlot, ConnId};
use crate::conn::CloseCause;
use crate::proto::{CloseCode, Message};
#[cfg(feature = "product")]
use crate::topics::Namespaces;
use crate::topics::{Answer, Body, Encoding, Push, TopicName};

/// A [`Handler`] whose connections' states are kept with it.
pub(crate) trait ErasedHandler {
    /// As [`Handler::on_open`]; keeps the state of an accepted connection.
    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal>;
    /// As [`Handler::on_connect`]; keeps the state of an accepted connection.
    fn on_connect(&mut self, conn: &mut Context<'_>, peer: Option<IpAddr>) -> Result<Accept, Refusal>;
    /// As [`Handler::on_get`]; keeps the state of a stream.
    fn on_get(&mut self, conn: &mut Context<'_>, request: &Get<'_>) -> Result<Response, Refusal>;
    fn body_bytes_max(&self) -> Option<usize>;
    /// As [`Handler::on_post`]; keeps the state of a stream.
    fn on_post(&mut self, conn: &mut Context<'_>, request: &Get<'_>, body: &[u8]) -> Result<Response, Refusal>;
    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>);
    fn on_resume(&mut self, conn: &mut Context<'_>);
    fn on_answer(&mut self, conn: &mut Context<'_>, request_id: u32, answer: Answer);
    fn on_reply(&mut self, conn: &mut Context<'_>, request_id: u32, reply: &(dyn Any + Send + Sync));
    fn missed_bytes_max(&self, conn: ConnId, encoding: Encoding, body: &Body) -> usize;
    fn on_push(&mut self, conn: &mut Context<'_>, topic: &TopicName, push: &Push);
    fn on_timer(&mut self, conn: &mut Context<'_>);
    #[cfg(feature = "centrifuge")]
    fn find_connections(&self, command: &UserCommand, found: &mut Vec<ConnId>);
    fn identity(&self, conn: ConnId) -> Identity;
    fn on_disconnect(&mut self, conn: &mut Context<'_>, code: CloseCode, reason: &str);
    /// As [`Handler::on_namespaces`].
    #[cfg(feature = "product")]
    fn on_namespaces(&mut self, namespaces: &Arc<Namespaces>);
    #[cfg(feature = "centrifuge")]
    fn on_user_command(&mut self, conn: &mut Context<'_>, command: &UserCommand);
    /// As [`Handler::on_close`]; the state ends.
    fn on_close(&mut self, conn: &mut Context<'_>, cause: CloseCause);
    fn on_drain(&mut self, conn: &mut Context<'_>);
}

/// A handler, and the states of its connections.
pub(crate) struct Stateful<H: Handler> {
    handler: H,
    states: States<H::State>,
}

/// States by slot. A handler without state has none.
struct States<S> {
    none: (),
    by_slot: BySlot<Box<S>>,
}

impl<H: Handler> Stateful<H> {
    pub(crate) fn new(handler: H) -> Stateful<H> {
        Stateful { handler, states: States { none: (), by_slot: BySlot::default() } }
    }

    /// Keeps the state of a stream.
    fn keep_state(&mut self, conn: ConnId, response: Response<H::State>) -> Response {
        match response {
            Response::Page(page) => Response::Page(page),
            Response::Stream(stream) => {
                let (state, stream) = stream.split();
                self.states.insert(conn, state);
                Response::Stream(stream)
            }
        }
    }
}

impl<S: 'static> States<S> {
    fn insert(&mut self, conn: ConnId, state: S) {
        if Self::is_none() {
            return;
        }
        let earlier = self.by_slot.set(conn.slot, Box::new(state));
        assert!(earlier.is_none(), "a connection opens where another one has its state");
    }

    fn get(&mut self, conn: ConnId) -> &mut S {
        match (&mut self.none as &mut dyn Any).downcast_mut() {
            Some(none) => none,
            None => self.by_slot.get_mut(conn.slot).expect("an open connection has a state"),
        }
    }

    fn peek(&self, conn: ConnId) -> &S {
        match (&self.none as &dyn Any).downcast_ref() {
            Some(none) => none,
            None => self.by_slot.get(conn.slot).expect("an open connection has a state"),
        }
    }

    fn take(&mut self, conn: ConnId) -> S {
        // A box of () holds no memory.
        match (Box::new(()) as Box<dyn Any>).downcast() {
            Ok(none) => *none,
            Err(_) => *self.by_slot.take(conn.slot).expect("an open connection has a state"),
        }
    }

    /// Whether the state is `()`.
    fn is_none() -> bool {
        TypeId::of::<S>() == TypeId::of::<()>()
    }
}

impl<H: Handler> ErasedHandler for Stateful<H> {
    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        let (state, accept) = self.handler.on_open(conn, request)?.split();
        self.states.insert(conn.id(), state);
        Ok(accept)
    }

    fn on_connect(&mut self, conn: &mut Context<'_>, peer: Option<IpAddr>) -> Result<Accept, Refusal> {
        let (state, accept) = self.handler.on_connect(conn, peer)?.split();
        self.states.insert(conn.id(), state);
        Ok(accept)
    }

    fn on_get(&mut self, conn: &mut Context<'_>, request: &Get<'_>) -> Result<Response, Refusal> {
        let response = self.handler.on_get(conn, request)?;
        Ok(self.keep_state(conn.id(), response))
    }

    fn body_bytes_max(&self) -> Option<usize> {
        self.handler.body_bytes_max()
    }

    fn on_post(&mut self, conn: &mut Context<'_>, request: &Get<'_>, body: &[u8]) -> Result<Response, Refusal> {
        let response = self.handler.on_post(conn, request, body)?;
        Ok(self.keep_state(conn.id(), response))
    }

    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>) {
        let state = self.states.get(conn.id());
        self.handler.on_message(conn, state, message);
    }

    fn on_resume(&mut self, conn: &mut Context<'_>) {
        let state = self.states.get(conn.id());
        self.handler.on_resume(conn, state);
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, request_id: u32, answer: Answer) {
        let state = self.states.get(conn.id());
        self.handler.on_answer(conn, state, request_id, answer);
    }

    fn on_reply(&mut self, conn: &mut Context<'_>, request_id: u32, reply: &(dyn Any + Send + Sync)) {
        let state = self.states.get(conn.id());
        self.handler.on_reply(conn, state, request_id, reply);
    }

    fn missed_bytes_max(&self, conn: ConnId, encoding: Encoding, body: &Body) -> usize {
        self.handler.missed_bytes_max(conn, self.states.peek(conn), encoding, body)
    }

    fn on_push(&mut self, conn: &mut Context<'_>, topic: &TopicName, push: &Push) {
        let state = self.states.get(conn.id());
        self.handler.on_push(conn, state, topic, push);
    }

    fn on_timer(&mut self, conn: &mut Context<'_>) {
        let state = self.states.get(conn.id());
        self.handler.on_timer(conn, state);
    }

    #[cfg(feature = "centrifuge")]
    fn find_connections(&self, command: &UserCommand, found: &mut Vec<ConnId>) {
        self.handler.find_connections(command, found);
    }

    #[cfg(feature = "centrifuge")]
    fn on_user_command(&mut self, conn: &mut Context<'_>, command: &UserCommand) {
        let state = self.states.get(conn.id());
        self.handler.on_user_command(conn, state, command);
    }

    fn identity(&self, conn: ConnId) -> Identity {
        self.handler.identity(conn, self.states.peek(conn))
    }

    fn on_disconnect(&mut self, conn: &mut Context<'_>, code: CloseCode, reason: &str) {
        let state = self.states.get(conn.id());
        self.handler.on_disconnect(conn, state, code, reason);
    }

    #[cfg(feature = "product")]
    fn on_namespaces(&mut self, namespaces: &Arc<Namespaces>) {
        self.handler.on_namespaces(namespaces);
    }

    fn on_close(&mut self, conn: &mut Context<'_>, cause: CloseCause) {
        let state = self.states.take(conn.id());
        self.handler.on_close(conn, state, cause);
    }

    fn on_drain(&mut self, conn: &mut Context<'_>) {
        let state = self.states.get(conn.id());
        self.handler.on_drain(conn, state);
    }
}
