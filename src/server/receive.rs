//! Receives bytes: first the opening handshake, then messages for the handler.

use std::borrow::Cow;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::accept::Shed;
use super::clients::ClientFinder;
use super::listener::ShardListener;
use super::metrics::CloseCause;
use super::recv_mode::RecvMode;
use super::shard::Shard;
use super::slot::{ConnExtras, Slot, Stage, wire};
use super::timers::note_alive;
use crate::buf::{Received, SlotId};
use crate::conn::{Heartbeat, Next, Phase, Rate, RateConfig, TooMuch, Transport};
use crate::gateway::{
    Accept, Clock, Command, Context, ContextParts, Get, Input, Link, Origin, Origins, Outcome, Page, PageRefused,
    Protocol, Refusal, Request, Response, Routes, Stream, Wire,
};
use crate::limits::{INPUT_COMMANDS_MAX, REPLIES_BYTES};
use crate::proto::{
    CloseCode, DeflateContext, DeflateParams, Deflater, HandshakeError, Inflater, Message, RequestHead, Role, Upgrade,
    decode_request_head, encode_accept, encode_close, encode_refusal, encode_response, encode_stream_head,
    is_header_value,
};
use crate::ring::{Completion, Errno, Ring};
use crate::topics::Encoding;

/// What pages may send to routes that take POST requests (Fetch Standard, CORS protocol).
const PREFLIGHT: [(&str, &str); 3] = [
    ("Access-Control-Allow-Methods", "GET, POST"),
    ("Access-Control-Allow-Headers", "content-type, authorization"),
    ("Access-Control-Max-Age", "600"),
];

/// The body of a 404 response to a path without a route.
const NOT_FOUND: &str = "not found: this server has no route for the path";

/// The state of the conversation after some input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The connection waits for more bytes.
    Continue,
    /// The handler has closed the connection, which waits for the peer's Close frame.
    Closed,
    /// The conversation is over.
    Over(CloseCause),
}

/// All state that a conversation needs while its bytes lie in the ring's memory.
pub(super) struct InputContext<'a> {
    clock: Clock,
    slot: &'a mut Slot,
    routes: &'a mut Routes,
    /// The listener that accepted the connection.
    listener: &'a ShardListener,
    out: &'a mut Vec<u8>,
    /// Start of this peer's bytes in `out`.
    out_start: usize,
    commands: &'a mut Vec<Command>,
    inflater: &'a mut Inflater,
    deflater: &'a mut Deflater,
    allowed_origins: &'a Origins,
    is_deflate_on: bool,
    /// Another connection may keep compression contexts.
    may_take_over: bool,
    message_bytes_max: u32,
    subscriptions_max: usize,
    /// Requests rejected because of their `Origin`.
    origins_refused: u64,
    /// Requests that a handler rejected for want of a right.
    unauthorized: u64,
    rate: RateConfig,
    now_ms: u64,
    messages: u64,
    /// The handshake was accepted.
    is_opened: bool,
    /// Why the request was rejected, for the log.
    rejected: Option<Cow<'static, str>>,
    origin: &'a Origin,
    /// Where the peer is, during the handshake; then the client.
    peer: Option<IpAddr>,
    /// The subject of the client's certificate, during the handshake.
    client_subject: Option<&'a str>,
    finder: ClientFinder<'a>,
    /// The connection is one too many.
    shed: Option<Shed>,
}

/// Received bytes.
pub(super) enum InputBytes<'a> {
    /// In the ring's memory.
    Piece(&'a Received),
    /// Bytes that were held, behind a header or a handshake.
    Held(&'a mut [u8]),
}

impl<'a> InputBytes<'a> {
    /// The bytes.
    pub(super) fn bytes<R: Ring>(self, ring: &'a mut R) -> &'a mut [u8] {
        match self {
            InputBytes::Piece(piece) => ring.received(piece),
            InputBytes::Held(bytes) => bytes,
        }
    }
}

impl<R: Ring> Shard<'_, R> {
    pub(super) fn on_recv(&mut self, mut completion: Completion) {
        let slot = self.find(completion.token.conn_id());
        if let Some(piece) = completion.received.take() {
            if let Some(slot) = slot {
                let len = completion.result.unwrap_or(0);
                self.metrics.bytes_received.add(u64::from(len));
                if self.slots[slot].is_greedy() {
                    // Earlier replies need not wait for a large piece.
                    self.send_replies();
                }
                self.run_input(slot, |shard| match shard.clients.await_header(slot) {
                    true => shard.on_proxied_bytes(slot, &piece),
                    false => shard.on_input(slot, InputBytes::Piece(&piece)),
                });
                self.throttle_if_greedy(slot, len);
            }
            self.ring.release(piece);
        }
        if let Some(slot) = slot.filter(|_| !completion.more) {
            self.slots[slot].recv_mode = RecvMode::None;
            self.on_recv_ended(slot, completion.result, completion.has_rest);
        }
    }

    /// Has `on_input` pass input to the conversation, and carries out what follows.
    pub(super) fn run_input(&mut self, slot: SlotId, on_input: impl FnOnce(&mut Self) -> (Progress, bool)) {
        let start = self.begin_reply(slot);
        let (progress, is_opened) = on_input(self);
        if is_opened {
            self.end_opening_reply(slot, start);
            self.on_opened(slot);
        } else {
            self.end_reply(slot, start);
        }
        self.on_progress(slot, progress);
    }

    /// Passes input to the conversation, through TLS if the listener speaks it. Returns the conversation's progress,
    /// and whether it accepted the handshake.
    pub(super) fn on_input(&mut self, slot: SlotId, input: InputBytes<'_>) -> (Progress, bool) {
        if self.slots[slot].stage != Stage::Serving {
            return (Progress::Continue, false);
        }
        if self.sessions.has(slot) {
            return self.on_sealed_bytes(slot, input);
        }
        self.count_piece(slot);
        self.converse(slot, |input_context, ring| input_context.on_bytes(input.bytes(ring)))
    }

    /// Notes that the peer has sent something.
    pub(super) fn count_piece(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        if entry.conn.phase().takes_messages() {
            entry.traffic.on_piece(entry.conn.keep_alive.silence_ms(self.now_ms));
        }
        note_alive(entry, self.metrics, self.now_ms);
    }

    /// Continues a conversation. Returns its progress, and whether it accepted the handshake.
    pub(super) fn converse(
        &mut self,
        slot: SlotId,
        on_bytes: impl FnOnce(&mut InputContext<'_>, &mut R) -> Progress,
    ) -> (Progress, bool) {
        let clock = self.clock();
        let entry = &mut self.slots[slot];
        let (peer, client_subject) = match entry.conn.phase() {
            Phase::Handshake(_) => {
                let named = self.clients.address(slot).map(|address| address.ip());
                (named.or_else(|| self.acceptor.handshake_peers.get(&slot).copied()), self.sessions.subject(slot))
            }
            _ => (None, None),
        };
        let context_takeover = self.config.deflate.map_or(0, |deflate| deflate.context_takeover);
        let mut input_context = InputContext {
            clock,
            listener: &self.listeners[usize::from(entry.listener)],
            slot: entry,
            routes: &mut self.routes,
            out_start: self.replies.bytes.len(),
            out: &mut self.replies.bytes,
            commands: &mut self.scratch.commands,
            inflater: &mut self.inflater,
            deflater: &mut self.deflater,
            allowed_origins: &self.config.allowed_origins,
            is_deflate_on: self.config.deflate.is_some(),
            may_take_over: (self.metrics.deflate_contexts.get() as usize) < context_takeover,
            message_bytes_max: self.config.message_bytes_max,
            subscriptions_max: self.config.subscriptions_per_connection_max,
            origins_refused: 0,
            unauthorized: 0,
            rate: self.config.rate,
            now_ms: self.now_ms,
            messages: 0,
            is_opened: false,
            rejected: None,
            origin: &self.origin,
            peer,
            client_subject,
            finder: ClientFinder {
                proxies: &self.config.trusted_proxies,
                header: self.config.forwarded_header,
                clients: &mut self.clients,
                addresses: self.acceptor.addresses.as_mut(),
                metrics: self.metrics,
            },
            shed: None,
        };
        let progress = on_bytes(&mut input_context, &mut self.ring);
        self.metrics.messages_received.add(input_context.messages);
        self.metrics.origins_refused.add(input_context.origins_refused);
        self.metrics.unauthorized.add(input_context.unauthorized);
        let (is_opened, shed, rejected) = (input_context.is_opened, input_context.shed, input_context.rejected.take());
        if let Some(shed) = shed {
            self.encode_shed(slot, shed);
        }
        if let Some(reason) = rejected {
            self.log_rejected(slot, &reason);
        }
        self.arm_handler_timer(slot);
        if is_opened && self.slots[slot].takes_context_over() {
            self.metrics.deflate_contexts.add(1);
        }
        (progress, is_opened)
    }

    /// The handshake was accepted.
    fn on_opened(&mut self, slot: SlotId) {
        self.acceptor.handshake_peers.remove(&slot);
        let entry = &self.slots[slot];
        self.metrics.open(entry.conn.transport).add(1);
        let route = entry.route.expect("a handler has opened the connection");
        self.metrics.routes()[usize::from(route)].1.add(1);
        // Until now the deadline is the end of the handshake's time.
        let accepted_ms = entry.deadline_ms.saturating_sub(self.config.handshake_timeout_ms);
        self.metrics.handshake.record(1000 * self.now_ms.saturating_sub(accepted_ms));
        if let Some(interval_ms) = NonZeroU64::new(self.config.keep_alive.ping_interval_ms) {
            // Random first pings: connections that opened together would otherwise ping together.
            let first_ms = 1 + self.random.below(interval_ms.get());
            self.slots[slot].conn.keep_alive.ping_first_after(first_ms);
        }
        self.watch_life(slot);
    }

    pub(super) fn on_progress(&mut self, slot: SlotId, progress: Progress) {
        self.apply_commands(slot);
        self.settle_input(slot);
        match progress {
            Progress::Continue => {}
            Progress::Closed => self.close_for(slot, CloseCause::Application),
            Progress::Over(cause) => self.finish(slot, cause),
        }
    }

    /// The kernel has ended a receive.
    fn on_recv_ended(&mut self, slot: SlotId, result: Result<u32, Errno>, has_rest: bool) {
        match self.slots[slot].stage {
            Stage::Terminating => self.close_when_idle(slot),
            Stage::Closing => {}
            Stage::Serving | Stage::Flushing | Stage::Lingering => match result {
                Ok(0) => self.on_end_of_stream(slot),
                Err(error) if Self::is_fatal(error) => self.terminate(slot, CloseCause::PeerLost),
                Ok(_) | Err(_) => self.resume_recv(slot, result == Err(Errno::NoBuffers), has_rest),
            },
        }
    }

    fn resume_recv(&mut self, slot: SlotId, was_scarce: bool, has_rest: bool) {
        match (self.slots[slot].is_paused, was_scarce, has_rest) {
            (true, ..) => {}
            (false, true, _) => self.await_buffers(slot),
            (false, false, true) => self.arm_rest(slot),
            (false, false, false) => self.arm_recv(slot),
        }
    }

    fn on_end_of_stream(&mut self, slot: SlotId) {
        // The peer has ended only its half and may still read the flushed bytes.
        if self.slots[slot].stage != Stage::Flushing {
            self.terminate(slot, CloseCause::PeerLost);
        }
    }
}

impl InputContext<'_> {
    /// Resumes a paused input: first the handler's own backlog, then the unread bytes.
    pub(super) fn resume(&mut self) -> Progress {
        if self.slot.conn.phase().takes_messages() || *self.slot.conn.phase() == Phase::Streaming {
            match self.resume_handler() {
                Ok(Progress::Continue) => {}
                Ok(progress) => return progress,
                Err(too_much) => return self.limit(too_much),
            }
        }
        let mut unread = ConnExtras::take_unread(&mut self.slot.extras);
        match self.slot.conn.phase() {
            Phase::Open | Phase::Framed(_) | Phase::Closing => self.read_frames(&mut unread),
            Phase::Handshake(_) | Phase::Streaming | Phase::Ended => Progress::Continue,
        }
    }

    fn resume_handler(&mut self) -> Result<Progress, TooMuch> {
        let (rate, now_ms) = (self.rate, self.now_ms);
        let Slot { id, route, conn, extras, subscriptions, .. } = &mut *self.slot;
        let (sent, link) = ConnExtras::sent_and_link(extras);
        let mut context = Context::new(ContextParts {
            id: *id,
            clock: self.clock,
            out: self.out,
            wire: wire(conn.transport, conn.deflate_window, self.listener, self.deflater, sent),
            commands: self.commands,
            subscriptions: subscriptions.len(),
            subscriptions_max: self.subscriptions_max,
            origin: self.origin,
            link,
        });
        self.routes.handler(route.expect("an open connection has a handler")).on_resume(&mut context);
        let Outcome { is_closed, input, messages, timer_ms, link, .. } = context.outcome();
        let messages = messages.unwrap_or(0);
        self.slot.keep(timer_ms, link);
        self.slot.set_input(input.unwrap_or_default());
        let progress = if is_closed { self.on_handler_closed() } else { Progress::Continue };
        count(&mut self.slot.extras, rate, |sent| sent.on_messages(messages, now_ms, &rate)).map(|()| progress)
    }

    /// The handler has closed the connection. The input of a WebSocket goes on to the peer's Close frame.
    fn on_handler_closed(&mut self) -> Progress {
        match self.slot.conn.transport {
            Transport::WebSocket => {
                self.slot.conn.begin_close();
                Progress::Continue
            }
            Transport::Stream | Transport::Framed => Progress::Closed,
        }
    }

    /// Whether further messages have to wait: for the peer to read, or for the shard to execute the handler's commands
    /// and to count the subscriptions anew. After the server's Close frame no message gets a reply, and the server
    /// reads all input.
    fn must_wait(&mut self, subscriptions: usize) -> bool {
        if !self.slot.conn.phase().takes_messages() {
            return false;
        }
        let is_behind = self.slot.is_flooded() || self.out.len() - self.out_start > REPLIES_BYTES;
        let is_full = subscriptions >= self.subscriptions_max && !self.commands.is_empty();
        let has_much_to_do = is_full || self.commands.len() >= INPUT_COMMANDS_MAX;
        if (is_behind || has_much_to_do) && self.slot.input() == Input::Open {
            self.slot.set_input(Input::Ready);
        }
        self.slot.input() != Input::Open
    }

    pub(super) fn on_bytes(&mut self, input: &mut [u8]) -> Progress {
        match self.slot.conn.phase() {
            Phase::Handshake(_) => {
                let held = self.slot.conn.take_handshake();
                match &self.listener.protocol {
                    Some((route, protocol)) => self.connect(*route, protocol, input),
                    None => self.read_handshake(held, input),
                }
            }
            Phase::Open | Phase::Framed(_) | Phase::Closing => self.read_new_frames(input),
            Phase::Streaming | Phase::Ended => Progress::Continue,
        }
    }

    /// Parses the opening handshake from `held`, the earlier pieces, and `input`, then any frames behind it.
    fn read_handshake(&mut self, mut held: Vec<u8>, input: &mut [u8]) -> Progress {
        let is_held = !held.is_empty();
        if is_held {
            held.extend_from_slice(input);
        }
        let whole: &mut [u8] = if is_held { &mut held } else { input };
        let (progress, request_len) = match self.whole_request(whole) {
            Ok(Some((head, head_len, request_len))) => {
                (self.on_request(&head, &whole[head_len..request_len]), request_len)
            }
            Ok(None) => {
                let held = if is_held { held } else { whole.to_vec() };
                self.slot.conn.hold_handshake(held);
                return Progress::Continue;
            }
            Err(error) => (self.refuse(error), 0),
        };
        match progress {
            Progress::Continue if matches!(self.slot.conn.phase(), Phase::Open | Phase::Closing) => {
                self.read_new_frames(&mut whole[request_len..])
            }
            other => other,
        }
    }

    /// Handles the first bytes of a connection that speaks `protocol`.
    fn connect(&mut self, route: u8, protocol: &Protocol, input: &mut [u8]) -> Progress {
        let mut first_out = Vec::new();
        let mut context = Context::new(ContextParts {
            id: self.slot.id,
            clock: self.clock,
            out: &mut first_out,
            wire: Wire::Framed(&*protocol.framing),
            commands: self.commands,
            subscriptions: 0,
            subscriptions_max: self.subscriptions_max,
            origin: self.origin,
            link: None,
        });
        let accept = self.routes.handler(route).on_connect(&mut context, self.peer);
        let Outcome { is_closed, timer_ms, link, .. } = context.outcome();
        match accept {
            Ok(accept) => {
                self.slot.keep(timer_ms, link);
                self.out.extend_from_slice(&first_out);
                self.accept_framed(route, protocol, &accept);
                if is_closed { Progress::Closed } else { self.read_new_frames(input) }
            }
            Err(refusal) => {
                discard(self.commands, link);
                protocol.framing.encode(self.out, Message::text(&refusal.text));
                self.rejected = Some(refusal.text);
                self.over(CloseCause::Refused)
            }
        }
    }

    fn accept_framed(&mut self, route: u8, protocol: &Protocol, accept: &Accept) {
        let slot = &mut *self.slot;
        slot.conn.open_framed(accept.message_bytes_max.unwrap_or(self.message_bytes_max));
        slot.conn.heartbeat = if accept.heartbeat.is_regular() { accept.heartbeat } else { Heartbeat::SILENT };
        slot.encoding = if accept.encoding == Encoding::RAW { protocol.encoding } else { accept.encoding };
        slot.route = Some(route);
        self.is_opened = true;
    }

    /// The head of the request at the front of `input`, its length, and the length with the body, once that has arrived
    /// whole.
    fn whole_request<'i>(
        &mut self,
        input: &'i [u8],
    ) -> Result<Option<(RequestHead<'i>, usize, usize)>, HandshakeError> {
        let Some((head, head_len)) = decode_request_head(input)? else { return Ok(None) };
        let body_len = match self.body_bytes_max(&head) {
            Some(max) if head.method == "POST" => head.body_len(max)?,
            _ => 0,
        };
        let request_len = head_len + body_len;
        Ok((input.len() >= request_len).then_some((head, head_len, request_len)))
    }

    /// The maximum size of a body, if the request's route takes one.
    fn body_bytes_max(&mut self, head: &RequestHead<'_>) -> Option<usize> {
        let (route, _) = self.routes.find(head.path, self.listener.routes)?;
        self.routes.handler(route).body_bytes_max()
    }

    fn on_request(&mut self, head: &RequestHead<'_>, body: &[u8]) -> Progress {
        match self.finder.find(self.slot.id.slot, self.peer, head) {
            Ok(client) => self.peer = client,
            Err(shed) => {
                self.shed = Some(shed);
                return self.over(CloseCause::Refused);
            }
        }
        if matches!(head.method, "POST" | "OPTIONS") && self.body_bytes_max(head).is_some() {
            return self.on_body_request(head, body);
        }
        let route = self.routes.find(head.path, self.listener.routes);
        let upgrade = match (Upgrade::from_request(head), route) {
            (Ok(upgrade), _) => upgrade,
            (Err(HandshakeError::NotAnUpgrade), route) => {
                let origin = head.header("Origin");
                if let Err(refused) = self.allowed_origins.check_get(origin, head.host, self.listener.on_loopback) {
                    return self.refuse_page(refused);
                }
                if let Some((route, rest)) = route {
                    return self.respond(route, rest, origin, head, None);
                }
                return self.refuse_with(Refusal::new(404, NOT_FOUND));
            }
            (Err(error), _) => return self.refuse(error),
        };
        let (origin, host) = (upgrade.origin, Some(upgrade.host));
        if let Err(refused) = self.allowed_origins.check_upgrade(origin, host, self.listener.on_loopback) {
            return self.refuse_page(refused);
        }
        let Some((route, rest)) = route else {
            return self.refuse_with(Refusal::new(404, NOT_FOUND));
        };
        let mut first_out = Vec::new();
        let may_take_over = self.may_take_over;
        let params = self.is_deflate_on.then(|| DeflateParams::accept(upgrade.extensions(), may_take_over)).flatten();
        let mut deflate_context = params.and_then(|params| DeflateContext::new(params, Role::Server));
        let mut context = Context::new(ContextParts {
            id: self.slot.id,
            clock: self.clock,
            out: &mut first_out,
            wire: Wire::WebSocket(params.map(|params| {
                self.deflater
                    .for_peer(params.server_window, deflate_context.as_mut().and_then(|context| context.sent.as_mut()))
            })),
            commands: self.commands,
            subscriptions: 0,
            subscriptions_max: self.subscriptions_max,
            origin: self.origin,
            link: None,
        });
        let (path, handler) = self.routes.entry(route);
        let request = Request {
            get: Get { route: path, rest, head, peer: self.peer, client_subject: self.client_subject },
            upgrade: &upgrade,
        };
        let accept = handler.on_open(&mut context, &request);
        let Outcome { is_closed, timer_ms, link, .. } = context.outcome();
        match accept {
            Ok(accept) => {
                self.slot.keep(timer_ms, link);
                if let Some(context) = deflate_context {
                    self.slot.extras.get_or_insert_default().deflate_context = Some(Box::new(context));
                }
                self.accept(route, &upgrade, &accept, params, &first_out);
                if is_closed {
                    self.slot.conn.begin_close();
                }
                Progress::Continue
            }
            Err(refusal) => {
                discard(self.commands, link);
                self.refuse_for_handler(refusal)
            }
        }
    }

    fn accept(
        &mut self,
        route: u8,
        upgrade: &Upgrade<'_>,
        accept: &Accept,
        deflate: Option<DeflateParams>,
        first_out: &[u8],
    ) {
        let extensions = deflate.map(|params| params.to_string());
        // Only an offered subprotocol may be chosen (RFC 6455 §4.2.2 item 5.5), and only offered text is validated.
        let is_offered = |chosen: &&str| upgrade.subprotocols().any(|offered| offered == *chosen);
        let subprotocol = accept.subprotocol.as_deref().filter(is_offered);
        encode_accept(self.out, upgrade, subprotocol, extensions.as_deref());
        self.out.extend_from_slice(first_out);
        let message_bytes_max =
            accept.message_bytes_max.map_or(self.message_bytes_max, |max| max.min(self.message_bytes_max));
        self.slot.conn.open(message_bytes_max, deflate.map(|params| params.server_window));
        self.slot.conn.heartbeat = accept.heartbeat;
        self.slot.encoding = accept.encoding;
        self.slot.route = Some(route);
        self.is_opened = true;
    }

    /// Answers a POST request, or the question of a browser whether its page may send one.
    fn on_body_request(&mut self, head: &RequestHead<'_>, body: &[u8]) -> Progress {
        let origin = head.header("Origin");
        if let Err(refused) = self.allowed_origins.check_get(origin, head.host, self.listener.on_loopback) {
            return self.refuse_page(refused);
        }
        if head.method == "OPTIONS" {
            let mut headers = PREFLIGHT.map(|(name, value)| (name, value.to_owned())).to_vec();
            add_origin(&mut headers, origin);
            encode_page(self.out, 204, "", b"", &headers);
            return self.over(CloseCause::Answered);
        }
        let (route, rest) = self.routes.find(head.path, self.listener.routes).expect("a route takes the body");
        self.respond(route, rest, origin, head, Some(body))
    }

    /// Has the handler answer a GET without an upgrade, or a POST with its body.
    fn respond(
        &mut self,
        route: u8,
        rest: &str,
        origin: Option<&str>,
        head: &RequestHead<'_>,
        body: Option<&[u8]>,
    ) -> Progress {
        let mut first_out = Vec::new();
        let mut context = Context::new(ContextParts {
            id: self.slot.id,
            clock: self.clock,
            out: &mut first_out,
            wire: Wire::Stream,
            commands: self.commands,
            subscriptions: 0,
            subscriptions_max: self.subscriptions_max,
            origin: self.origin,
            link: None,
        });
        let (path, handler) = self.routes.entry(route);
        let request = Get { route: path, rest, head, peer: self.peer, client_subject: self.client_subject };
        let response = match body {
            Some(body) => handler.on_post(&mut context, &request, body),
            None => handler.on_get(&mut context, &request),
        };
        let Outcome { is_closed, input, timer_ms, link, .. } = context.outcome();
        match response {
            Ok(Response::Page(Page { status, content_type, mut headers, body })) => {
                discard(self.commands, link);
                add_origin(&mut headers, origin);
                self.add_transport_security(&mut headers, head);
                encode_page(self.out, status, content_type, &body, &headers);
                self.over(CloseCause::Answered)
            }
            Ok(Response::Stream(Stream { content_type, mut headers, encoding, heartbeat, .. })) => {
                self.slot.keep(timer_ms, link);
                add_origin(&mut headers, origin);
                encode_stream_head(self.out, content_type, &headers);
                self.out.extend_from_slice(&first_out);
                self.slot.conn.open_stream();
                self.slot.conn.heartbeat = heartbeat;
                self.slot.encoding = encoding;
                self.slot.route = Some(route);
                self.slot.set_input(input.unwrap_or_default());
                self.is_opened = true;
                if is_closed { Progress::Closed } else { Progress::Continue }
            }
            Err(refusal) => {
                discard(self.commands, link);
                match refusal.status {
                    426 => self.refuse(HandshakeError::NotAnUpgrade),
                    _ => self.refuse_for_handler(refusal),
                }
            }
        }
    }

    /// Asks browsers to use TLS only for this host (RFC 6797). For `localhost`, whose ports belong to many programs, it
    /// does not.
    fn add_transport_security(&self, headers: &mut Vec<(&'static str, String)>, head: &RequestHead<'_>) {
        let seconds = self.listener.hsts_seconds;
        if seconds > 0 && head.host.is_some_and(|host| !host.is_unnamed()) {
            headers.push(("Strict-Transport-Security", format!("max-age={seconds}")));
        }
    }

    fn refuse_page(&mut self, refused: PageRefused) -> Progress {
        self.origins_refused += 1;
        self.refuse_with(Refusal::new(403, refused.reason()))
    }

    fn refuse(&mut self, error: HandshakeError) -> Progress {
        encode_refusal(self.out, error);
        self.rejected = Some(error.to_string().into());
        self.over(CloseCause::Refused)
    }

    fn refuse_for_handler(&mut self, refusal: Refusal) -> Progress {
        self.unauthorized += u64::from(matches!(refusal.status, 401 | 403));
        self.refuse_with(refusal)
    }

    fn refuse_with(&mut self, refusal: Refusal) -> Progress {
        let body = format!("{}\n", refusal.text);
        // A response with 401 must name a scheme (RFC 9110 §11.6.1).
        let fields: &[(&str, &str)] = if refusal.status == 401 { &[("WWW-Authenticate", "Bearer")] } else { &[] };
        encode_response(self.out, refusal.status, "text/plain; charset=utf-8", body.as_bytes(), fields);
        self.rejected = (refusal.status >= 400).then_some(refusal.text);
        self.over(CloseCause::Refused)
    }

    fn over(&mut self, cause: CloseCause) -> Progress {
        self.slot.conn.end();
        Progress::Over(cause)
    }

    /// Handles newly received frames.
    fn read_new_frames(&mut self, input: &mut [u8]) -> Progress {
        let (rate, now_ms, len) = (self.rate, self.now_ms, input.len());
        match count(&mut self.slot.extras, rate, |sent| sent.on_bytes(len, now_ms, &rate)) {
            Ok(()) if self.slot.has_unread() => {
                // New bytes queue behind the unread ones.
                self.slot.extras.get_or_insert_default().unread.extend_from_slice(input);
                Progress::Continue
            }
            Ok(()) => {
                let mut held = self.slot.conn.take_held();
                if held.is_empty() {
                    return self.read_frames(input);
                }
                held.extend_from_slice(input);
                self.read_frames(&mut held)
            }
            Err(too_much) => self.limit(too_much),
        }
    }

    fn read_frames(&mut self, mut input: &mut [u8]) -> Progress {
        let (rate, now_ms) = (self.rate, self.now_ms);
        // Including the subscriptions requested by `on_open` just now.
        let requested = self.commands.iter().filter(|command| matches!(command, Command::Subscribe(_))).count();
        let mut subscriptions = self.slot.subscriptions.len() + requested;
        loop {
            if !input.is_empty() && self.must_wait(subscriptions) {
                self.slot.extras.get_or_insert_default().unread.extend_from_slice(input);
                return Progress::Continue;
            }
            let Slot { id, route, conn, extras, .. } = &mut *self.slot;
            let (transport, deflate_window) = (conn.transport, conn.deflate_window);
            let next = match &self.listener.protocol {
                None => conn.next(&mut input, self.inflater, ConnExtras::received(extras), self.out),
                Some((_, protocol)) => conn.next_framed(&mut input, &*protocol.framing, self.out),
            };
            match next {
                Next::NeedBytes => {
                    self.slot.conn.hold(input);
                    break;
                }
                Next::End(cause) => return Progress::Over(cause),
                Next::Handled => {
                    if let Err(too_much) = count(extras, rate, |sent| sent.on_messages(1, now_ms, &rate)) {
                        return self.limit(too_much);
                    }
                }
                Next::Message(message) => {
                    if let Err(too_much) = count(extras, rate, |sent| sent.on_messages(1, now_ms, &rate)) {
                        return self.limit(too_much);
                    }
                    self.messages += 1;
                    let route = route.expect("an open connection has a handler");
                    let (sent, link) = ConnExtras::sent_and_link(extras);
                    let mut context = Context::new(ContextParts {
                        id: *id,
                        clock: self.clock,
                        out: self.out,
                        wire: wire(transport, deflate_window, self.listener, self.deflater, sent),
                        commands: self.commands,
                        subscriptions,
                        subscriptions_max: self.subscriptions_max,
                        origin: self.origin,
                        link,
                    });
                    self.routes.handler(route).on_message(&mut context, message);
                    let outcome = context.outcome();
                    subscriptions = outcome.subscriptions;
                    let others = outcome.messages.unwrap_or(1).saturating_sub(1);
                    self.slot.keep(outcome.timer_ms, outcome.link);
                    self.slot.set_input(outcome.input.unwrap_or_default());
                    if outcome.is_closed && self.on_handler_closed() == Progress::Closed {
                        return Progress::Closed;
                    }
                    // The handler has processed this message already, so the limit applies from the next one on.
                    if let Err(too_much) =
                        count(&mut self.slot.extras, rate, |sent| sent.on_messages(others, now_ms, &rate))
                    {
                        return self.limit(too_much);
                    }
                }
            }
        }
        // Only after the loop: the bytes after the handler's Close frame may hold the peer's.
        if *self.slot.conn.phase() == Phase::Closing { Progress::Closed } else { Progress::Continue }
    }

    /// Closes a connection that has exceeded its rate limit.
    fn limit(&mut self, too_much: TooMuch) -> Progress {
        let reason = match too_much {
            TooMuch::Messages => "too many messages in a second: send fewer",
            TooMuch::Bytes => "too many bytes in a second: send fewer",
        };
        match (self.slot.conn.phase(), &self.listener.protocol) {
            (Phase::Open, _) => encode_close(self.out, Some(CloseCode::POLICY_VIOLATION), reason, None),
            (Phase::Framed(_), Some((_, protocol))) => protocol.framing.encode(self.out, Message::text(reason)),
            _ => {}
        }
        self.over(CloseCause::RateLimited)
    }
}

/// Forgets what the handler has requested for a connection that it does not open.
fn discard(commands: &mut Vec<Command>, link: Option<Arc<Link>>) {
    commands.clear();
    if let Some(link) = link {
        link.end();
    }
}

/// Lets the page that sent the request read the response: a browser would hide it otherwise. Removes values that a
/// handler derived from a request and that would add header fields.
fn add_origin(headers: &mut Vec<(&'static str, String)>, origin: Option<&str>) {
    headers.retain(|(_, value)| is_header_value(value));
    if let Some(origin) = origin {
        headers.push(("Access-Control-Allow-Origin", origin.to_owned()));
        headers.push(("Vary", "Origin".to_owned()));
    }
}

/// Appends a whole response.
fn encode_page(out: &mut Vec<u8>, status: u16, content_type: &str, body: &[u8], headers: &[(&'static str, String)]) {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    encode_response(out, status, content_type, body, &headers);
}

/// Counts a peer's input against the rate limit, if there is one.
fn count(
    extras: &mut Option<Box<ConnExtras>>,
    config: RateConfig,
    count: impl FnOnce(&mut Rate) -> Result<(), TooMuch>,
) -> Result<(), TooMuch> {
    if config.is_off() { Ok(()) } else { count(&mut extras.get_or_insert_default().rate) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::{Arc, Mutex, mpsc};
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use socket2::SockRef;

    use super::*;
    use crate::gateway::Handler;
    use crate::limits::REPLIES_BYTES;
    use crate::proto::Message;
    use crate::server::{Server, ServerConfig};
    use crate::topics::{Draft, TopicName};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn topic() -> TopicName {
        TopicName::new("a").unwrap()
    }

    /// On open, waits for the gate, sends a greeting above [`REPLIES_BYTES`], and subscribes.
    struct Greeter {
        entered: mpsc::Sender<()>,
        gate: Arc<Mutex<()>>,
    }

    impl Handler for Greeter {
        type State = ();

        fn on_open(&mut self, conn: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
            self.entered.send(()).unwrap();
            drop(self.gate.lock().unwrap());
            conn.send(Message::binary(&vec![0; 2 * REPLIES_BYTES]));
            conn.subscribe(topic()).unwrap();
            Ok(Accept::default())
        }

        fn on_message(&mut self, _: &mut Context<'_>, _: &mut (), _: Message<'_>) {}
    }

    /// Responds with values that no header field can carry.
    struct Careless;

    impl Handler for Careless {
        type State = ();

        fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
            Ok(Accept::default().subprotocol("a\r\nX-Foreign: 1"))
        }

        fn on_get(&mut self, _: &mut Context<'_>, _: &Get<'_>) -> Result<Response, Refusal> {
            let stream = Stream::new("text/plain", ()).header("X-Good", "1");
            Ok(stream.header("X-Bad", "1\r\nX-Foreign: 1").into())
        }

        fn on_message(&mut self, _: &mut Context<'_>, _: &mut (), _: Message<'_>) {}
    }

    #[test]
    fn a_handler_adds_no_header_fields_by_accident() {
        let config = ServerConfig {
            listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
            shards: 1,
            ..ServerConfig::default()
        };
        let server = Server::builder(config).route("/careless", || Careless).start().unwrap();
        let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: a\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
        for (fields, status, good) in [(upgrade, "101", 0), ("", "200", 1)] {
            let mut peer = TcpStream::connect(server.address()).unwrap();
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            peer.write_all(format!("GET /careless HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").as_bytes()).unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                peer.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            assert_eq!((&head[9..12], head.matches("X-Good: 1").count()), (status, good), "{head}");
            assert!(!head.contains("X-Foreign") && !head.contains("Sec-WebSocket-Protocol"), "{head}");
        }
        server.shutdown();
    }

    #[test]
    fn a_peer_that_resets_before_the_greeting_does_not_stay_subscribed() {
        let (entered, has_entered) = mpsc::channel();
        let gate = Arc::new(Mutex::new(()));
        let config = ServerConfig {
            listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
            shards: 1,
            ..ServerConfig::default()
        };
        let greeter_gate = gate.clone();
        let greeter = move || Greeter { entered: entered.clone(), gate: greeter_gate.clone() };
        let server = Server::builder(config).route("/greet", greeter).start().unwrap();

        let closed_gate = gate.lock().unwrap();
        let mut peer = TcpStream::connect(server.address()).unwrap();
        let request = "GET /greet HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        peer.write_all(request.as_bytes()).unwrap();
        has_entered.recv_timeout(PATIENCE).unwrap();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        drop(closed_gate);

        let metrics = &server.status.shards[0];
        let deadline = Instant::now() + PATIENCE;
        while metrics.accepted.get() == 0 || metrics.connections.get() > 0 {
            assert!(Instant::now() < deadline, "the connection is still there");
            std::thread::yield_now();
        }
        assert_eq!((metrics.websockets.get(), metrics.subscriptions.get(), metrics.topics.get()), (0, 0, 0));
        let publication = server.publisher.publish(Draft::new(topic(), true, Bytes::from("hello")));
        assert_eq!(publication.unwrap().blocking_recv().unwrap().unwrap().offset, 1);
        server.shutdown();
    }
}
