//! The handler that the shard calls: connections, their messages and the replies.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use super::answer::unsubscribe_reply;
use super::backend::{BackendAnswer, wanted_headers};
use super::call::{Call, Failure};
use super::clients::Clients;
use super::config::CentrifugeConfig;
use super::emulation::Emulated;
use super::json::{JsonReader, connect_command, encode_bare_push, encode_reply_json};
use super::pace::Wait;
use super::protobuf::{encode_reply_protobuf, read_protobuf};
use super::protocol::{ClientError, Command, Disconnect, Request, SubscribeRequest, Taken, Unsubscribed};
use super::push::{
    EVENT_PING, EVENT_STREAM, JSON, JSON_LINES, JSON_PING, LINE_PING, PROTOBUF, PROTOBUF_PING, PROTOBUF_STREAM,
    PROTOBUF_STREAM_PING, UNI_EVENT_PING, UNI_EVENT_STREAM, UNI_JSON, UNI_JSON_PING, UNI_LINE_PING, UNI_LINES,
    encode_event,
};
use super::reply::{Push, RefreshPush, Reply};
use super::session::{Connecting, Ended, Grant, Renewal, Session, Stage, Subscriber, Wire};
use crate::buf::ConnId;
use crate::conn::{CloseCause, Heartbeat};
use crate::gateway::{
    Accept, Context, Get, Handler, Identity, Refusal, Request as Handshake, Response, Stream, SubscriptionTerms,
    UserAction, UserCommand,
};
use crate::limits::{CENTRIFUGE_STALE_MS, EMULATION_BYTES_MAX, EMULATION_UNREAD_BYTES_MAX};
use crate::proto::{CloseCode, Message, MessageKind};
use crate::topics::{Answer, Encoding, Event, Namespaces, TopicName};

/// Serves Centrifugo's client protocol, version 2, in JSON and Protobuf.
pub struct Centrifuge {
    transport: Transport,
    reader: JsonReader,
    conversations: Conversations,
}

/// What carries the replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    WebSocket,
    HttpStream,
    EventStream,
    UniWebSocket,
    UniHttpStream,
    UniEventStream,
}

impl Transport {
    /// Whether it is one with WebSockets.
    fn is_websocket(self) -> bool {
        matches!(self, Transport::WebSocket | Transport::UniWebSocket)
    }
}

/// All except the reader, since commands borrow from its buffers while they run.
struct Conversations {
    config: Arc<CentrifugeConfig>,
    clients: Clients,
    /// The buffer of the current reply.
    scratch: Vec<u8>,
}

impl Centrifuge {
    /// A handler of WebSockets for one shard.
    pub fn new(config: Arc<CentrifugeConfig>) -> Centrifuge {
        Centrifuge::over(Transport::WebSocket, config)
    }

    /// A handler of HTTP streams for one shard: replies are the lines of a response to a POST request, whose body has
    /// the first commands. Further ones arrive by [`Emulation`](super::Emulation).
    pub fn http_stream(config: Arc<CentrifugeConfig>) -> Centrifuge {
        Centrifuge::over(Transport::HttpStream, config)
    }

    /// The same for event streams, where the first commands are the parameter `cf_connect` of a GET request.
    pub fn event_stream(config: Arc<CentrifugeConfig>) -> Centrifuge {
        Centrifuge::over(Transport::EventStream, config)
    }

    /// A handler of unidirectional WebSockets: a client's first message, or the parameter `cf_connect`, is the content
    /// of its connect request. It receives pushes without replies around them, and the server ignores what else it
    /// sends.
    pub fn uni_websocket(config: Arc<CentrifugeConfig>) -> Centrifuge {
        Centrifuge::over(Transport::UniWebSocket, config)
    }

    /// The same for lines of a response to a POST request.
    pub fn uni_http_stream(config: Arc<CentrifugeConfig>) -> Centrifuge {
        Centrifuge::over(Transport::UniHttpStream, config)
    }

    /// The same for event streams.
    pub fn uni_event_stream(config: Arc<CentrifugeConfig>) -> Centrifuge {
        Centrifuge::over(Transport::UniEventStream, config)
    }

    fn over(transport: Transport, config: Arc<CentrifugeConfig>) -> Centrifuge {
        let conversations = Conversations { config, clients: Clients::default(), scratch: Vec::new() };
        Centrifuge { transport, reader: JsonReader::default(), conversations }
    }
}

impl Handler for Centrifuge {
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Handshake<'_>) -> Result<Accept, Refusal> {
        if !self.transport.is_websocket() {
            return Err(Refusal::new(400, "no WebSocket here: connect to /connection/websocket"));
        }
        let (wire, subprotocol) = match self.transport {
            Transport::UniWebSocket => (Wire::UniJson, None),
            _ => choose_wire(request),
        };
        let has_frame_pings = query_has(request, "cf_ws_frame_ping_pong", "true");
        let (encoding, heartbeat) = forms(wire);
        self.conversations.begin(conn, wire, !has_frame_pings, request);
        if let Some(connect) = request.query("cf_connect").filter(|_| wire.is_unidirectional()) {
            self.read(conn, &connect_command(connect.as_bytes()));
        }
        let message_bytes_max = self.conversations.config.message_bytes_max;
        let accept = Accept::default().message_bytes_max(message_bytes_max).encoding(encoding);
        let accept = if has_frame_pings { accept } else { accept.heartbeat(heartbeat) };
        Ok(match subprotocol {
            Some(subprotocol) => accept.subprotocol(subprotocol),
            None => accept,
        })
    }

    fn on_get(&mut self, conn: &mut Context<'_>, request: &Get<'_>) -> Result<Response, Refusal> {
        match (self.transport, request.query("cf_connect")) {
            (Transport::EventStream, Some(commands)) => {
                Ok(self.stream(conn, Wire::EventStream, request, commands.as_bytes()))
            }
            (Transport::UniEventStream, connect) => {
                Ok(self.stream(conn, Wire::UniEventStream, request, connect.unwrap_or_default().as_bytes()))
            }
            (Transport::EventStream, None) => Err(Refusal::new(400, "send a connect command as cf_connect")),
            (Transport::HttpStream | Transport::UniHttpStream, _) => Err(Refusal::new(405, "use POST")),
            (Transport::WebSocket | Transport::UniWebSocket, _) => {
                Err(Refusal::new(426, "this is a WebSocket endpoint: connect to it with a WebSocket client"))
            }
        }
    }

    fn body_bytes_max(&self) -> Option<usize> {
        (!self.transport.is_websocket()).then_some(EMULATION_BYTES_MAX)
    }

    fn on_post(&mut self, conn: &mut Context<'_>, request: &Get<'_>, body: &[u8]) -> Result<Response, Refusal> {
        let wire = match self.transport {
            Transport::EventStream => Wire::EventStream,
            Transport::UniEventStream => Wire::UniEventStream,
            Transport::UniHttpStream => Wire::UniLines,
            _ if request.header("Content-Type") == Some("application/octet-stream") => Wire::ProtobufStream,
            _ => Wire::JsonLines,
        };
        Ok(self.stream(conn, wire, request, body))
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        let Some(session) = self.conversations.clients.get_mut(conn.id()) else { return };
        match (session.wire.is_unidirectional(), matches!(session.stage, Stage::New)) {
            (false, _) => self.read(conn, message.payload),
            (true, true) => self.read(conn, &connect_command(message.payload)),
            (true, false) => {}
        }
    }

    fn on_resume(&mut self, conn: &mut Context<'_>, _: &mut ()) {
        let session = self.conversations.clients.get_mut(conn.id());
        let unread = session.map_or_else(Vec::new, |session| std::mem::take(&mut session.unread));
        if !unread.is_empty() {
            self.read(conn, &unread);
        }
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, _: &mut (), request_id: u32, answer: Answer) {
        let conversations = &mut self.conversations;
        let Some(mut call) = conversations.call(conn) else { return };
        let replies = call.answer(request_id, answer);
        let is_connected = call.is_connected();
        replies.into_iter().for_each(|reply| conversations.reply(conn, reply));
        if is_connected {
            conversations.finish_connect(conn);
        }
        conversations.resume_if_answered(conn);
        conversations.set_timer(conn);
    }

    fn on_reply(&mut self, conn: &mut Context<'_>, _: &mut (), request_id: u32, reply: &(dyn Any + Send + Sync)) {
        if let Some(answer) = reply.downcast_ref() {
            self.conversations.on_backend_answer(conn, request_id, answer);
        }
        if let Some(Emulated(commands)) = reply.downcast_ref() {
            conn.confirm_alive();
            self.read_emulated(conn, commands);
        }
        self.conversations.resume_if_answered(conn);
        self.conversations.set_timer(conn);
    }

    fn on_timer(&mut self, conn: &mut Context<'_>, _: &mut ()) {
        if self.conversations.fail_overdue_calls(conn) || self.conversations.close_expired(conn) {
            self.conversations.resume_if_answered(conn);
            self.conversations.set_timer(conn);
        }
    }

    fn find_connections(&self, command: &UserCommand, found: &mut Vec<ConnId>) {
        self.conversations.clients.of_user(&command.user, found);
    }

    fn on_user_command(&mut self, conn: &mut Context<'_>, _: &mut (), command: &UserCommand) {
        self.conversations.on_user_command(conn, command);
        self.conversations.set_timer(conn);
    }

    fn on_close(&mut self, conn: &mut Context<'_>, _: (), cause: CloseCause) {
        self.conversations.report_end(conn, cause);
        self.conversations.end_emulation(conn);
        self.conversations.clients.remove(conn.id());
    }

    fn identity(&self, conn: ConnId, _: &()) -> Identity {
        let named = |session: &Session| Identity { user: session.user.to_string(), client: session.client.to_string() };
        self.conversations.clients.get(conn).map_or_else(Identity::default, named)
    }

    fn on_disconnect(&mut self, conn: &mut Context<'_>, _: &mut (), code: CloseCode, reason: &str) {
        self.conversations.close_with(conn, code, reason);
    }

    fn on_namespaces(&mut self, namespaces: &Arc<Namespaces>) {
        Arc::make_mut(&mut self.conversations.config).namespaces = namespaces.clone();
    }

    fn on_drain(&mut self, conn: &mut Context<'_>, _: &mut ()) {
        self.conversations.close(conn, Disconnect::Shutdown);
    }
}

impl Centrifuge {
    /// Begins a stream with the first commands.
    fn stream(&mut self, conn: &mut Context<'_>, wire: Wire, request: &Get<'_>, commands: &[u8]) -> Response {
        let (encoding, heartbeat) = forms(wire);
        self.conversations.begin(conn, wire, true, request);
        match wire.is_unidirectional() {
            true => self.read(conn, &connect_command(commands)),
            false => self.read(conn, commands),
        }
        let content_type = match wire {
            Wire::EventStream | Wire::UniEventStream => "text/event-stream",
            Wire::ProtobufStream => "application/octet-stream",
            _ => "application/json",
        };
        let stream = Stream::new(content_type, ()).encoding(encoding).heartbeat(heartbeat);
        stream.header("Cache-Control", "private, no-store").header("X-Accel-Buffering", "no").into()
    }

    /// Executes the commands of a stream, after those that wait.
    fn read_emulated(&mut self, conn: &mut Context<'_>, commands: &[u8]) {
        let Some(session) = self.conversations.clients.get_mut(conn.id()) else { return };
        if session.unread.is_empty() {
            return self.read(conn, commands);
        }
        if session.unread.len() + commands.len() > EMULATION_UNREAD_BYTES_MAX {
            return self.conversations.close(conn, Disconnect::BadRequest("bad request: too many commands wait"));
        }
        if session.wire.is_json() {
            session.unread.push(b'\n');
        }
        session.unread.extend_from_slice(commands);
    }

    /// Executes the commands of a message, or of the rest of one. Keeps commands that have to wait, and pauses the
    /// input then.
    fn read(&mut self, conn: &mut Context<'_>, message: &[u8]) {
        let Centrifuge { reader, conversations, .. } = self;
        let Some(wire) = conversations.clients.get_mut(conn.id()).map(|session| session.wire) else { return };
        let (mut commands, mut wait) = (0, None);
        let mut take = |command: Command<'_>| {
            wait = conversations.pace(conn, &command.request).err();
            if wait.is_some() {
                return Taken::Later;
            }
            commands += 1;
            conversations.on_command(conn, &command)
        };
        let outcome = match wire.is_json() {
            true => reader.read(message, &mut take),
            false => read_protobuf(message, &mut take),
        };
        conn.count_as(commands);
        match (outcome, wait) {
            (Err(_), _) => conversations.close(conn, Disconnect::BadRequest("bad request: malformed command")),
            (Ok(rest), Some(wait)) => conversations.defer(conn, rest, wait),
            (Ok(_), None) => {}
        }
        conversations.set_timer(conn);
    }
}

impl Conversations {
    /// A client begins.
    fn begin(&mut self, conn: &mut Context<'_>, wire: Wire, has_pings: bool, request: &Get<'_>) {
        let name = self.clients.new_name();
        let mut session = Session::new(conn.id(), wire, name, has_pings);
        session.headers =
            self.config.backend.as_deref().map_or_else(Arc::default, |backend| wanted_headers(backend, request));
        if wire.is_stream() {
            let emulation = self.clients.new_name().0;
            session.emulation = Some(emulation);
            self.config.sessions.insert(emulation, conn.handle());
        }
        self.clients.insert(session);
        conn.set_timer(Duration::from_millis(CENTRIFUGE_STALE_MS));
    }

    /// Commands for a stream have no receiver any more.
    fn end_emulation(&mut self, conn: &Context<'_>) {
        if let Some(emulation) = self.clients.get_mut(conn.id()).and_then(|session| session.emulation) {
            self.config.sessions.remove(emulation);
        }
    }

    fn call<'a, 'c>(&'a mut self, conn: &'a mut Context<'c>) -> Option<Call<'a, 'c>> {
        let session = self.clients.get_mut(conn.id())?;
        Some(Call { session, config: &self.config, conn })
    }

    /// Checks whether a command may run now; if so, counts its cost.
    fn pace(&mut self, conn: &Context<'_>, request: &Request<'_>) -> Result<(), Wait> {
        let session = self.clients.get_mut(conn.id());
        session.map_or(Ok(()), |session| session.pace(conn, request))
    }

    /// Keeps commands that have to wait.
    fn defer(&mut self, conn: &mut Context<'_>, commands: &[u8], wait: Wait) {
        let Some(session) = self.clients.get_mut(conn.id()) else { return };
        session.unread = commands.to_vec();
        conn.pause_input();
        if wait == Wait::Turn {
            conn.resume_input();
        }
    }

    /// Resumes commands that waited for answers, once few requests are pending.
    fn resume_if_answered(&mut self, conn: &mut Context<'_>) {
        let Some(session) = self.clients.get_mut(conn.id()) else { return };
        if session.may_resume() {
            conn.resume_input();
        }
    }

    /// Executes a command.
    fn on_command(&mut self, conn: &mut Context<'_>, command: &Command<'_>) -> Taken {
        let Some(mut call) = self.call(conn) else { return Taken::Last };
        let outcome = call.request(command.id, &command.request);
        let session = call.session;
        if matches!(command.request, Request::Connect(_)) && session.stage.accepts_commands() {
            self.add_user(conn);
        }
        match outcome {
            Ok(reply) => reply.into_iter().for_each(|reply| self.reply(conn, reply)),
            Err(Failure::Error(error)) => self.reply(conn, Reply::error(command.id, error)),
            Err(Failure::Disconnect(why)) => {
                self.close(conn, why);
                return Taken::Last;
            }
        }
        self.act_on_early_answers(conn);
        Taken::Yes
    }

    /// A client has connected.
    fn add_user(&mut self, conn: &Context<'_>) {
        let Some(session) = self.clients.get_mut(conn.id()) else { return };
        self.config.report(|| Event::Connected(session.connection_info()));
        let user = session.user.clone();
        self.clients.add_user(&user, conn.id());
    }

    fn close(&mut self, conn: &mut Context<'_>, why: Disconnect) {
        self.close_with(conn, why.code(), why.reason());
    }

    fn close_with(&mut self, conn: &mut Context<'_>, code: CloseCode, reason: &str) {
        match self.call(conn) {
            Some(mut call) => call.close(code, reason),
            None => conn.close(code, reason),
        }
    }

    /// Reports that a client has gone, and with it its subscriptions.
    fn report_end(&mut self, conn: &Context<'_>, cause: CloseCause) {
        let Some(session) = self.clients.get_mut(conn.id()).filter(|session| session.stage.accepts_commands()) else {
            return;
        };
        for channel in session.channels.iter().filter(|channel| channel.has_begun) {
            let topic = &channel.topic;
            self.config.report(|| Event::Unsubscribed(topic.clone(), session.client_info(topic.as_str())));
        }
        self.config.report(|| {
            let (code, reason) = session.closed_with.clone().unzip();
            let reason = reason.unwrap_or_else(|| cause.label().to_owned());
            Event::Disconnected { client: session.connection_info(), code, reason }
        });
    }

    /// The backend has answered a call, or has not.
    fn on_backend_answer(&mut self, conn: &mut Context<'_>, request_id: u32, answer: &BackendAnswer) {
        let Some(mut call) = self.call(conn) else { return };
        let was_asking = matches!(call.session.stage, Stage::Asking);
        let replies = call.answered(request_id, answer);
        if was_asking && call.session.stage.accepts_commands() {
            self.add_user(conn);
        }
        replies.into_iter().for_each(|reply| self.reply(conn, reply));
    }

    /// Acts on the answers that the backend has given at once.
    fn act_on_early_answers(&mut self, conn: &mut Context<'_>) {
        let Some(session) = self.clients.get_mut(conn.id()) else { return };
        for (request_id, answer) in std::mem::take(&mut session.early_answers) {
            self.on_backend_answer(conn, request_id, &answer);
        }
    }

    /// Calls that have had no answer for too long have failed. Returns whether the timer was for a client whose
    /// connection the backend decides on.
    fn fail_overdue_calls(&mut self, conn: &mut Context<'_>) -> bool {
        let now_ms = conn.clock().now_ms;
        let Some(session) = self.clients.get_mut(conn.id()) else { return false };
        let was_asking = matches!(session.stage, Stage::Asking);
        let overdue = session.calls.iter().filter(|call| call.timeout_ms <= now_ms).map(|call| call.request_id);
        for request_id in overdue.collect::<Vec<_>>() {
            self.on_backend_answer(conn, request_id, &BackendAnswer::Failed);
        }
        was_asking
    }

    /// Sends a reply, or keeps it until the connect reply has been sent.
    fn reply(&mut self, conn: &mut Context<'_>, reply: Reply) {
        let Some(session) = self.clients.get_mut(conn.id()) else { return };
        if let Some(error) = reply.error.as_ref().filter(|_| session.wire.is_unidirectional()) {
            let why = end_of(error.code);
            return self.close(conn, why);
        }
        match &mut session.stage {
            Stage::Connecting(connecting) => connecting.later.push(reply),
            Stage::New | Stage::Asking | Stage::Open | Stage::Refused => {
                send(conn, session.wire, &mut self.scratch, &reply)
            }
        }
    }

    /// All server-side subscriptions have begun: sends the connect reply and the replies that wait for it.
    fn finish_connect(&mut self, conn: &mut Context<'_>) {
        let Some(session) = self.clients.get_mut(conn.id()) else { return };
        let Stage::Connecting(connecting) = std::mem::replace(&mut session.stage, Stage::Open) else { return };
        let Connecting { command, result, later, .. } = *connecting;
        let reply = Reply { id: command, connect: Some(result), ..Reply::default() };
        [reply].iter().chain(&later).for_each(|reply| send(conn, session.wire, &mut self.scratch, reply));
        conn.resume_delivery();
    }

    /// Closes an expired connection, and ends expired subscriptions. Returns whether the connection continues.
    fn close_expired(&mut self, conn: &mut Context<'_>) -> bool {
        let now_ms = conn.clock().unix_ms;
        let has_expired = |expiry_ms: Option<u64>| expiry_ms.is_some_and(|expiry_ms| expiry_ms <= now_ms);
        let Some(mut call) = self.call(conn) else { return false };
        let rules = call.expiry_rules();
        call.session.timer = None;
        if !call.session.stage.accepts_commands() {
            self.close(conn, Disconnect::Stale);
            return false;
        }
        if has_expired(call.session.expiry_ms(rules)) {
            if !rules.backend_refreshes || call.session.is_operator {
                self.close(conn, Disconnect::Expired);
                return false;
            }
            call.ask_refresh();
        }
        let over = call.session.channels.iter().filter(|channel| has_expired(channel.expiry_ms(rules)));
        let over: Vec<_> = over.map(|channel| (channel.topic.clone(), channel.renewal)).collect();
        for (topic, renewal) in over {
            if renewal == Renewal::Backend {
                if let Some(mut call) = self.call(conn) {
                    call.ask_sub_refresh(&topic);
                }
                continue;
            }
            let push = Reply::unsubscribed(topic.as_str(), Unsubscribed::Expired);
            let is_ended = self.call(conn).is_some_and(|mut call| call.end_channel(topic.as_str(), Ended::Server));
            // A pending subscription ends with its answer, with the push of a server-side unsubscribe.
            if is_ended {
                self.reply(conn, push);
            }
        }
        self.act_on_early_answers(conn);
        true
    }

    fn on_user_command(&mut self, conn: &mut Context<'_>, command: &UserCommand) {
        let Some(session) = self.clients.get_mut(conn.id()) else { return };
        let is_meant = command.client.as_ref().is_none_or(|client| *client == session.client.to_string());
        if !is_meant || !session.stage.accepts_commands() {
            return;
        }
        match &command.action {
            UserAction::Subscribe(topic, terms) => self.subscribe(conn, topic, terms),
            UserAction::Unsubscribe(topic) => self.unsubscribe(conn, topic),
            UserAction::Disconnect { code, reason } => self.close_with(conn, *code, reason),
            UserAction::Refresh { is_expired: true, .. } => self.close(conn, Disconnect::Expired),
            UserAction::Refresh { is_expired: false, expire_at } => self.refresh(conn, *expire_at),
        }
    }

    /// Subscribes a client for the server API, unless it is subscribed or has the maximum number of subscriptions.
    fn subscribe(&mut self, conn: &mut Context<'_>, topic: &TopicName, terms: &SubscriptionTerms) {
        let Some(mut call) = self.call(conn) else { return };
        let has_room = call.session.channels.len() < call.conn.subscriptions_max();
        if !topic.is_system() && has_room && call.session.channel(topic.as_str()).is_none() {
            let SubscriptionTerms { info, data, expire_at } = terms.clone();
            let grant = Grant { expires_s: expire_at, info, data, renewal: Renewal::Nothing };
            // It can't exceed the limit, which was checked above.
            let _ = call.submit_subscribe(0, topic.clone(), &SubscribeRequest::default(), Subscriber::Server, grant);
        }
    }

    fn unsubscribe(&mut self, conn: &mut Context<'_>, topic: &TopicName) {
        let Some(mut call) = self.call(conn) else { return };
        if call.session.channel(topic.as_str()).is_some() && call.end_channel(topic.as_str(), Ended::Server) {
            self.reply(conn, unsubscribe_reply(topic.as_str(), Ended::Server));
        }
    }

    fn refresh(&mut self, conn: &mut Context<'_>, expires_s: Option<u64>) {
        let Some(call) = self.call(conn) else { return };
        call.session.expires_s = expires_s;
        let (expires, ttl) = call.time_left(expires_s);
        self.reply(conn, Reply::push(Push { refresh: Some(RefreshPush { expires, ttl }), ..Push::default() }));
    }

    /// Sets the client's timer to the next expiry or timeout.
    fn set_timer(&mut self, conn: &mut Context<'_>) {
        let (clock, rules) = (conn.clock(), self.config.expiry_rules());
        match self.clients.get_mut(conn.id()).and_then(|session| session.next_timer(clock, rules)) {
            Some(Some(after)) => conn.set_timer(after),
            Some(None) => conn.clear_timer(),
            None => {}
        }
    }
}

/// How the connection of a unidirectional client ends whose connect request has failed with an error: it has no other
/// way to learn that.
fn end_of(error: u32) -> Disconnect {
    match error {
        code if code == ClientError::TokenExpired.code() || code == ClientError::Expired.code() => Disconnect::Expired,
        code if code == ClientError::Internal.code() || code == ClientError::TooManyRequests.code() => {
            Disconnect::ServerError
        }
        _ => Disconnect::BadRequest("the connect request was rejected"),
    }
}

/// The encoding of pushes on a wire, and its pings.
fn forms(wire: Wire) -> (Encoding, Heartbeat) {
    match wire {
        Wire::Json => (*JSON, *JSON_PING),
        Wire::Protobuf => (*PROTOBUF, *PROTOBUF_PING),
        Wire::JsonLines => (*JSON_LINES, *LINE_PING),
        Wire::ProtobufStream => (*PROTOBUF_STREAM, *PROTOBUF_STREAM_PING),
        Wire::EventStream => (*EVENT_STREAM, *EVENT_PING),
        Wire::UniJson => (*UNI_JSON, *UNI_JSON_PING),
        Wire::UniLines => (*UNI_LINES, *UNI_LINE_PING),
        Wire::UniEventStream => (*UNI_EVENT_STREAM, *UNI_EVENT_PING),
    }
}

/// The encoding that the client requests, and the subprotocol to select.
fn choose_wire(request: &Handshake<'_>) -> (Wire, Option<&'static str>) {
    let is_offered = |name: &str| request.upgrade.subprotocols().any(|offered| offered == name);
    if is_offered("centrifuge-protobuf") {
        (Wire::Protobuf, Some("centrifuge-protobuf"))
    } else if is_offered("centrifuge-json") {
        (Wire::Json, Some("centrifuge-json"))
    } else if query_has(request, "format", "protobuf") || query_has(request, "cf_protocol", "protobuf") {
        (Wire::Protobuf, None)
    } else {
        (Wire::Json, None)
    }
}

fn query_has(request: &Handshake<'_>, name: &str, value: &str) -> bool {
    let pairs = request.head.query.into_iter().flat_map(|query| query.split('&'));
    pairs.filter_map(|pair| pair.split_once('=')).any(|pair| pair == (name, value))
}

/// Sends a reply; `scratch` takes its bytes.
pub(super) fn send(conn: &mut Context<'_>, wire: Wire, scratch: &mut Vec<u8>, reply: &Reply) {
    scratch.clear();
    match wire {
        Wire::Json | Wire::JsonLines => encode_reply_json(scratch, reply),
        Wire::Protobuf | Wire::ProtobufStream => encode_reply_protobuf(scratch, reply),
        Wire::EventStream => encode_event(scratch, |out| encode_reply_json(out, reply)),
        Wire::UniJson | Wire::UniLines => encode_bare_push(scratch, reply),
        Wire::UniEventStream => encode_event(scratch, |out| encode_bare_push(out, reply)),
    }
    match wire {
        Wire::Json | Wire::UniJson => conn.send(Message { kind: MessageKind::Text, payload: scratch }),
        Wire::Protobuf => conn.send(Message { kind: MessageKind::Binary, payload: scratch }),
        Wire::JsonLines | Wire::UniLines => {
            scratch.push(b'\n');
            conn.write(scratch);
        }
        Wire::ProtobufStream | Wire::EventStream | Wire::UniEventStream => conn.write(scratch),
    }
}
