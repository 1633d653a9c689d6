//! Frames of clients become requests of the shard, and publications become MESSAGE frames.

use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;

use super::application::Application;
use super::broker::{Broker, Receiver, is_queue};
use super::destination::{self, Access};
use super::frame::{AckMode, Command, Decoded, Frame, Version, decode, encode};
use super::message::{self, MESSAGE_OVERHEAD_BYTES, message_id};
use super::session::{Asked, Pending, Session, Settled, Subscription, Transaction, parse_heart_beat};
use crate::buf::ConnId;
use crate::conn::{CloseCause, Heartbeat};
use crate::counts::Causes;
#[cfg(feature = "centrifuge")]
use crate::gateway::centrifuge::{Backend, CallKind, wanted_headers};
use crate::gateway::readers::bearer;
use crate::gateway::{Accept, Context, Handler, Identity, Readers, Refusal, Request, Subscribe};
use crate::limits::{
    RECV_BUFFER_BYTES, STOMP_BODY_BYTES_MAX, STOMP_CONNECT_MS, STOMP_HEAD_BYTES_MAX, STOMP_HEART_BEAT_MS_MIN,
    STOMP_ID_BYTES_MAX, STOMP_PREFETCH, STOMP_QUEUE_RETRY_MS, TAGS_BYTES_MAX,
};
use crate::proto::{CloseCode, Message, MessageKind};
use crate::topics::{
    Allowed, Answer, Body, CatchUp, Draft, Encoding, Epoch, Namespaces, Position, PublishError, Push, Recovery,
    TopicName,
};

/// The subprotocols, best first.
const SUBPROTOCOLS: [&str; 3] = ["v12.stomp", "v11.stomp", "v10.stomp"];

/// Header fields of SEND that are not the publisher's own.
const OWN_HEADERS: [&str; 5] = ["destination", "content-length", "receipt", "transaction", "message-id"];

/// The `message` headers of ERROR frames, and their names in metrics.
const ERRORS: [(&str, &str); 16] = [
    ("malformed frame", "malformed_frame"),
    ("unexpected frame", "unexpected_frame"),
    ("unsupported version", "unsupported_version"),
    ("access refused", "access_refused"),
    ("unusable destination", "unusable_destination"),
    ("cannot subscribe", "cannot_subscribe"),
    ("cannot unsubscribe", "cannot_unsubscribe"),
    ("cannot publish", "cannot_publish"),
    ("cannot acknowledge", "cannot_acknowledge"),
    ("transaction failed", "transaction_failed"),
    ("the server rejects the request", "request_rejected"),
    ("the application rejects the frame", "application_rejected"),
    ("no answer", "no_answer"),
    ("timeout", "timeout"),
    ("the server is stopping", "stopping"),
    ("disconnected by an operator", "disconnected"),
];

/// ERROR frames that servers of this process have sent, by `message`.
pub(crate) static ERROR_COUNTS: Causes<{ ERRORS.len() }> = Causes::new(error_labels());

const fn error_labels() -> [&'static str; ERRORS.len()] {
    let mut labels = [""; ERRORS.len()];
    let mut index = 0;
    while index < ERRORS.len() {
        labels[index] = ERRORS[index].1;
        index += 1;
    }
    labels
}

/// On TCP the server sends ends of lines at its ping interval: otherwise it would keep connections to hosts that have
/// disappeared, where the client has asked for no heart-beats. STOMP allows them between frames.
static END_OF_LINE: LazyLock<Heartbeat> = LazyLock::new(|| Heartbeat::regular(b"\n", None));

/// The tags of a publication.
pub(super) type Tags = Box<[(String, String)]>;

/// Why the server sends ERROR and closes: the `message` header, and the body.
pub(super) struct Failure(pub(super) &'static str, pub(super) String);

/// Serves STOMP. Topics have the same names as in the other protocols: `/topic/prices` is `prices`.
#[derive(Clone, Debug)]
pub struct Stomp {
    readers: Readers,
    body_bytes_max: u32,
    queues: Option<Broker>,
    pub(super) application: Option<Arc<dyn Application>>,
    #[cfg(feature = "centrifuge")]
    pub(super) backend: Option<Arc<dyn Backend>>,
}

impl Stomp {
    /// Clients subscribe as `readers` permits, with the token in `passcode`, `token` or `Authorization` of CONNECT, and
    /// publish as the [`publish`](crate::topics::Namespace::publish) setting of a namespace permits.
    pub fn new(readers: Readers) -> Stomp {
        Stomp {
            readers,
            body_bytes_max: STOMP_BODY_BYTES_MAX,
            queues: None,
            application: None,
            #[cfg(feature = "centrifuge")]
            backend: None,
        }
    }

    /// Sets the maximum size of a frame's body, in bytes. The default is Spring's, 64 KiB.
    #[must_use]
    pub fn body_bytes_max(self, body_bytes_max: u32) -> Stomp {
        Stomp { body_bytes_max, ..self }
    }

    /// Destinations below `/queue/` have competing consumers, of these queues. All handlers of a server share them.
    #[must_use]
    pub fn with_queues(self, queues: Broker) -> Stomp {
        Stomp { queues: Some(queues), ..self }
    }

    /// The queues, if this topic is one.
    pub(super) fn queues_of(&self, topic: &TopicName) -> Option<&Broker> {
        self.queues.as_ref().filter(|_| is_queue(topic))
    }

    /// This application answers frames to `/app`.
    #[must_use]
    pub fn with_application(self, application: Arc<dyn Application>) -> Stomp {
        Stomp { application: Some(application), ..self }
    }

    /// The backend answers frames to `/app` by rpc calls, unless an [`Application`] does, and decides on publications
    /// in namespaces with `publish = "backend"`.
    #[cfg(feature = "centrifuge")]
    #[must_use]
    pub fn with_backend(self, backend: Option<Arc<dyn Backend>>) -> Stomp {
        Stomp { backend, ..self }
    }

    /// A connection that has to send CONNECT.
    fn open(conn: &mut Context<'_>, is_websocket: bool) -> Accept<Session> {
        conn.set_timer(Duration::from_millis(STOMP_CONNECT_MS));
        Accept::new(Session::new(conn.clock().now_ms, is_websocket)).encoding(Encoding::PER_CONNECTION)
    }

    fn on_bytes(&self, conn: &mut Context<'_>, session: &mut Session, bytes: &[u8]) {
        session.beats.last_received_ms = conn.clock().now_ms;
        let held = session.unread.len();
        session.unread.extend_from_slice(bytes);
        // Only these bytes can complete a frame, or a heart-beat: the rest of a large body is searched once.
        let ends_line = held <= STOMP_HEAD_BYTES_MAX && bytes.contains(&b'\n');
        let is_large = session.unread.len() > STOMP_HEAD_BYTES_MAX + self.body_bytes_max as usize;
        if bytes.contains(&0) || ends_line || is_large {
            self.read_frames(conn, session);
        }
    }

    fn read_frames(&self, conn: &mut Context<'_>, session: &mut Session) {
        let unread = std::mem::take(&mut session.unread);
        let (mut at, mut frames) = (0, 0);
        loop {
            if let Err(failure) = self.publish_committed(conn, session) {
                return fail(conn, session, &failure, None);
            }
            if at == unread.len() && session.committed.is_empty() {
                break;
            }
            if session.is_full() {
                session.is_paused = true;
                conn.pause_input();
                break;
            }
            let failure = match decode(&unread[at..], session.version, self.body_bytes_max as usize) {
                Ok(None) => break,
                Ok(Some((Decoded::HeartBeat, len))) => {
                    at += len;
                    continue;
                }
                Ok(Some((Decoded::Frame(frame), len))) => {
                    (at, frames) = (at + len, frames + 1);
                    match self.on_frame(conn, session, &frame) {
                        Ok(true) => continue,
                        Ok(false) => return,
                        Err(failure) => (failure, frame.header("receipt").map(str::to_owned)),
                    }
                }
                Err(error) => (Failure("malformed frame", error.to_string()), None),
            };
            return fail(conn, session, &failure.0, failure.1.as_deref());
        }
        conn.count_as(frames);
        session.unread = unread;
        session.unread.drain(..at);
    }

    /// Executes a frame. `false`: the connection ends.
    fn on_frame(&self, conn: &mut Context<'_>, session: &mut Session, frame: &Frame<'_>) -> Result<bool, Failure> {
        if session.is_connected == (frame.command == Command::Connect) {
            let text = if session.is_connected { "the client is connected already" } else { "send CONNECT first" };
            return Err(Failure("unexpected frame", text.to_owned()));
        }
        let receipt = receipt(frame)?;
        match frame.command {
            Command::Connect => self.connect(conn, session, frame)?,
            Command::Send => return self.send(conn, session, frame, receipt).map(|()| true),
            Command::Subscribe => return self.subscribe(conn, session, frame, receipt).map(|()| true),
            Command::Unsubscribe => self.unsubscribe(conn, session, frame)?,
            Command::Ack | Command::Nack => {
                let name = if session.version == Version::V12 { "id" } else { "message-id" };
                self.settle(session, frame, required(frame, name)?)?;
            }
            Command::Begin => session.begin_transaction(required(frame, "transaction")?).map_err(of_transaction)?,
            Command::Abort => {
                session.end_transaction(required(frame, "transaction")?).map_err(of_transaction)?;
            }
            Command::Commit => {
                let transaction = session.end_transaction(required(frame, "transaction")?).map_err(of_transaction)?;
                let Transaction { drafts, settled, .. } = transaction;
                settled.into_iter().try_for_each(|settled| self.settle_now(settled))?;
                if !drafts.is_empty() {
                    session.commit(drafts, receipt);
                    return Ok(true);
                }
            }
            Command::Disconnect => {
                send_receipt(conn, session.version, receipt.as_deref());
                conn.close(CloseCode::NORMAL, "");
                return Ok(false);
            }
        }
        send_receipt(conn, session.version, receipt.as_deref());
        Ok(true)
    }

    fn connect(&self, conn: &mut Context<'_>, session: &mut Session, frame: &Frame<'_>) -> Result<(), Failure> {
        let Some(version) = Version::choose(frame.header("accept-version")) else {
            return Err(Failure("unsupported version", "the supported versions are 1.0, 1.1 and 1.2".to_owned()));
        };
        let clock = conn.clock();
        let of_readers = |refusal: Refusal| Failure("access refused", refusal.text.into_owned());
        session.claims = self.readers.verify(token(frame), clock.unix_ms / 1000).map_err(of_readers)?;
        let expires_s = session.claims.as_ref().and_then(|claims| claims.expires_s);
        session.expires_ms = expires_s
            .map(|expires_s| clock.now_ms.saturating_add(expires_s.saturating_mul(1000).saturating_sub(clock.unix_ms)));
        let asked = frame.header("heart-beat").unwrap_or("0,0");
        let (can_send_ms, wants_ms) = parse_heart_beat(asked)
            .ok_or_else(|| Failure("malformed frame", "heart-beat must be two numbers of milliseconds".to_owned()))?;
        session.beats.agree(can_send_ms, wants_ms, clock.now_ms);
        (session.is_connected, session.version) = (true, version);
        set_timer(conn, session);
        let beat = format!("{STOMP_HEART_BEAT_MS_MIN},{STOMP_HEART_BEAT_MS_MIN}");
        let server = concat!("ringfeed/", env!("CARGO_PKG_VERSION"));
        let mut headers = vec![("version", version.as_str()), ("server", server)];
        if version > Version::V10 {
            headers.push(("heart-beat", &beat));
        }
        if !session.user().is_empty() {
            headers.push(("user-name", session.user()));
        }
        // CONNECTED has no escapes, as CONNECT has none.
        send_frame(conn, "CONNECTED", headers, b"", Version::V10);
        Ok(())
    }

    fn send(
        &self,
        conn: &mut Context<'_>,
        session: &mut Session,
        frame: &Frame<'_>,
        receipt: Option<Box<str>>,
    ) -> Result<(), Failure> {
        let destination = required(frame, "destination")?;
        if self.is_answered(destination) {
            return self.ask(conn, session, (destination, frame), Asked::Send { receipt });
        }
        let topic = destination::topic(destination, Access::Send).map_err(of_destination)?;
        let is_subscribed = session.of_topic(&topic).next().is_some();
        let namespaces = self.readers.namespaces();
        let namespace =
            namespaces.find(&topic).map_err(|_| of_destination(PublishError::UnknownNamespace.to_string()))?;
        let allowed = namespaces.get(namespace).publish;
        // The name of a user in a topic is no permission where the backend decides.
        let is_asked = allowed == Allowed::Backend;
        if is_asked && !self.decides_publications()
            || !is_asked && !allowed.includes(&topic, session.user(), is_subscribed)
        {
            let text =
                format!("clients may not publish to '{topic}': set publish of its namespace, or use the server API");
            return Err(Failure("access refused", text));
        }
        let draft =
            Draft { tags: tags(frame)?, ..Draft::new(topic, is_text(frame.body), Bytes::copy_from_slice(frame.body)) };
        let transaction = frame.header("transaction");
        #[cfg(feature = "centrifuge")]
        if is_asked {
            let of_call = (draft.topic.to_string(), draft.payload.clone());
            let (draft, transaction) = (Box::new(draft), transaction.map(Into::into));
            return self.ask_publish(conn, session, Asked::Publish { draft, receipt, transaction }, of_call);
        }
        self.publish(conn, session, draft, (receipt, transaction))
    }

    /// Whether a backend decides on publications.
    fn decides_publications(&self) -> bool {
        #[cfg(feature = "centrifuge")]
        return self.backend.as_ref().is_some_and(|backend| backend.answers(CallKind::Publish));
        #[cfg(not(feature = "centrifuge"))]
        false
    }

    fn subscribe(
        &self,
        conn: &mut Context<'_>,
        session: &mut Session,
        frame: &Frame<'_>,
        receipt: Option<Box<str>>,
    ) -> Result<(), Failure> {
        let failure = |text: String| Failure("cannot subscribe", text);
        let destination = required(frame, "destination")?;
        let id = match (frame.header("id"), session.version) {
            (Some(id), _) if id.len() <= STOMP_ID_BYTES_MAX => id,
            (None, Version::V10) => destination,
            (Some(_), _) => return Err(failure(format!("the id is too long: at most {STOMP_ID_BYTES_MAX} bytes"))),
            (None, _) => return Err(failure("the header id is missing".to_owned())),
        };
        if frame.header("selector").is_some() {
            return Err(failure("selectors are not supported: subscribe to a topic with less".to_owned()));
        }
        if session.subscriptions.iter().any(|subscription| *subscription.id == *id) {
            return Err(failure(format!("the id '{id}' is in use: UNSUBSCRIBE first")));
        }
        let max = conn.subscriptions_max();
        if session.subscriptions.len() >= max {
            return Err(failure(format!("at most {max} subscriptions on one connection: open another")));
        }
        let has_acks = frame.header("ack").is_some_and(|mode| mode != "auto");
        if self.is_answered(destination) {
            session.subscriptions.push(of_application(id, destination, has_acks));
            let asked = Asked::Subscribe { id: id.into(), receipt };
            return self.ask(conn, session, (destination, frame), asked);
        }
        if session.user().is_empty() && destination.starts_with("/user/") && self.has_application() {
            // Nobody can publish to it, but the application can send to this client.
            session.subscriptions.push(of_application(id, destination, has_acks));
            send_receipt(conn, session.version, receipt.as_deref());
            return Ok(());
        }
        let topic = destination::topic(destination, Access::Subscribe(session.user())).map_err(failure)?;
        self.readers
            .check_topic(&topic, session.claims.as_ref())
            .map_err(|refusal| Failure("access refused", refusal.text.into_owned()))?;
        if self.readers.namespaces().is_keyed(&topic) {
            return Err(failure(format!("'{topic}' is keyed: read it at /feed or /sse, which have the keys")));
        }
        if let Some(queues) = self.queues_of(&topic) {
            let consumer = consume(conn, session, (queues, &topic), frame, (id, destination)).map_err(failure)?;
            let (id, destination, consumer) = (id.into(), destination.into(), Some((topic, consumer)));
            session.subscriptions.push(Subscription { id, destination, topic: None, has_acks, consumer });
            set_timer(conn, session);
            send_receipt(conn, session.version, receipt.as_deref());
            return Ok(());
        }
        let catch_up = match frame.header("since") {
            None => CatchUp::None,
            Some(since) => position(since).ok_or_else(|| failure("since must be a message-id".to_owned()))?,
        };
        let has_topic = session.of_topic(&topic).next().is_some();
        if has_topic && catch_up != CatchUp::None {
            return Err(failure(format!("the connection is subscribed to '{topic}' already: since has no effect")));
        }
        let (id, destination) = (id.into(), destination.into());
        session.subscriptions.push(Subscription {
            id,
            destination,
            topic: Some(topic.clone()),
            has_acks,
            consumer: None,
        });
        let encoding = message::encoding(session, &topic);
        if has_topic {
            conn.encode_as(topic, encoding);
            send_receipt(conn, session.version, receipt.as_deref());
            return Ok(());
        }
        let request_id = Some(session.begin(Pending::Subscribe(receipt)));
        let subscribe = Subscribe { encoding, ..Subscribe::new(topic, catch_up, request_id) };
        conn.subscribe_with(subscribe).map_err(|error| failure(Refusal::from(error).text.into_owned()))
    }
}

impl Stomp {
    /// Publishes, or adds to a transaction.
    pub(super) fn publish(
        &self,
        conn: &mut Context<'_>,
        session: &mut Session,
        draft: Draft,
        (receipt, transaction): (Option<Box<str>>, Option<&str>),
    ) -> Result<(), Failure> {
        if let Some(id) = transaction {
            session.add_to_transaction(id, draft).map_err(of_transaction)?;
            send_receipt(conn, session.version, receipt.as_deref());
            return Ok(());
        }
        self.publish_now(conn, session, draft, receipt)
    }

    fn publish_now(
        &self,
        conn: &mut Context<'_>,
        session: &mut Session,
        draft: Draft,
        receipt: Option<Box<str>>,
    ) -> Result<(), Failure> {
        if let Some(queues) = self.queues_of(&draft.topic) {
            queues.push(draft).map_err(|error| Failure("cannot publish", error.text().to_owned()))?;
            send_receipt(conn, session.version, receipt.as_deref());
            return Ok(());
        }
        let request_id = session.begin(Pending::Publish(receipt));
        conn.publish_with(draft, Some(request_id));
        Ok(())
    }

    /// Publishes what transactions have committed, as far as requests may wait for answers.
    fn publish_committed(&self, conn: &mut Context<'_>, session: &mut Session) -> Result<(), Failure> {
        while !session.is_full() {
            let Some((draft, receipt)) = session.committed.pop_front() else { break };
            self.publish_now(conn, session, draft, receipt)?;
        }
        Ok(())
    }

    /// Ends the last of a client's subscriptions to a topic.
    fn unsubscribe(&self, conn: &mut Context<'_>, session: &mut Session, frame: &Frame<'_>) -> Result<(), Failure> {
        let id = match (frame.header("id"), session.version) {
            (None, Version::V10) => required(frame, "destination")?,
            _ => required(frame, "id")?,
        };
        let index = session.subscriptions.iter().position(|subscription| *subscription.id == *id);
        let index = index.ok_or_else(|| Failure("cannot unsubscribe", format!("there is no subscription '{id}'")))?;
        let Subscription { topic, consumer, .. } = session.subscriptions.remove(index);
        self.stop_consuming(consumer);
        let Some(topic) = topic else { return Ok(()) };
        if session.of_topic(&topic).next().is_none() {
            conn.unsubscribe(topic);
        } else {
            let encoding = message::encoding(session, &topic);
            conn.encode_as(topic, encoding);
        }
        Ok(())
    }

    fn stop_consuming(&self, consumer: Option<(TopicName, u64)>) {
        if let (Some(queues), Some((topic, number))) = (&self.queues, consumer) {
            queues.leave(&topic, number);
        }
    }

    /// An ACK or a NACK. Those of topics have no effect, and neither have those of subscriptions that have ended.
    fn settle(&self, session: &mut Session, frame: &Frame<'_>, id: &str) -> Result<(), Failure> {
        let Some((topic, delivery)) = session.delivery(id) else { return Ok(()) };
        let settled = Settled { topic, delivery, is_ack: frame.command == Command::Ack };
        match frame.header("transaction") {
            Some(id) => session.settle_in_transaction(id, settled).map_err(of_transaction),
            None => self.settle_now(settled),
        }
    }

    fn settle_now(&self, Settled { topic, delivery, is_ack }: Settled) -> Result<(), Failure> {
        let is_known = self.queues.as_ref().is_some_and(|queues| queues.settle(&topic, delivery, is_ack));
        let unknown = || {
            let text = "there is no such delivery: acknowledge each message once".to_owned();
            Failure("cannot acknowledge", text)
        };
        if is_known { Ok(()) } else { Err(unknown()) }
    }
}

impl Handler for Stomp {
    type State = Session;

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept<Session>, Refusal> {
        let offered = |name: &&&str| request.upgrade.subprotocols().any(|offered| offered == **name);
        let chosen = SUBPROTOCOLS.iter().find(offered);
        #[cfg_attr(not(feature = "centrifuge"), expect(unused_mut, reason = "only a backend wants header fields"))]
        let mut accept = Stomp::open(conn, true);
        #[cfg(feature = "centrifuge")]
        if let Some(backend) = &self.backend {
            accept.state.headers = wanted_headers(&**backend, &request.get);
        }
        let accept = accept.message_bytes_max(STOMP_HEAD_BYTES_MAX as u32 + self.body_bytes_max);
        Ok(match chosen {
            Some(chosen) => accept.subprotocol(*chosen),
            None => accept,
        })
    }

    fn on_connect(&mut self, conn: &mut Context<'_>, _: Option<IpAddr>) -> Result<Accept<Session>, Refusal> {
        Ok(Stomp::open(conn, false).message_bytes_max(RECV_BUFFER_BYTES).heartbeat(*END_OF_LINE))
    }

    fn on_message(&mut self, conn: &mut Context<'_>, session: &mut Session, message: Message<'_>) {
        self.on_bytes(conn, session, message.payload);
    }

    fn on_resume(&mut self, conn: &mut Context<'_>, session: &mut Session) {
        self.read_frames(conn, session);
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, session: &mut Session, request_id: u32, answer: Answer) {
        let pending = session.end(request_id);
        session.resume_if_answered(conn);
        match (pending, answer) {
            (Some(Pending::Subscribe(receipt)), Answer::Subscribed { topic, position, recovery }) => {
                if session.of_topic(&topic).next().is_none() {
                    // The client has sent UNSUBSCRIBE meanwhile.
                    conn.unsubscribe(topic);
                } else {
                    send_missed(conn, session, &topic, position, recovery);
                    // Its subscriptions to the topic may be others than at the request.
                    let encoding = message::encoding(session, &topic);
                    conn.encode_as(topic, encoding);
                }
                send_receipt(conn, session.version, receipt.as_deref());
            }
            (Some(Pending::Publish(receipt)), Answer::Published(Ok(_))) => {
                send_receipt(conn, session.version, receipt.as_deref());
            }
            (Some(Pending::Subscribe(receipt)), Answer::NotSubscribed { error, .. })
            | (Some(Pending::Publish(receipt)), Answer::Published(Err(error)) | Answer::Refused(error)) => {
                fail(conn, session, &Failure("the server rejects the request", error.to_string()), receipt.as_deref());
            }
            (pending, answer) => debug_assert!(pending.is_none(), "{pending:?} has the answer {answer:?}"),
        }
    }

    fn on_reply(
        &mut self,
        conn: &mut Context<'_>,
        session: &mut Session,
        request_id: u32,
        reply: &(dyn Any + Send + Sync),
    ) {
        self.replied(conn, session, request_id, reply);
    }

    fn missed_bytes_max(&self, _: ConnId, session: &Session, _: Encoding, body: &Body) -> usize {
        let tags: usize = body.tags.iter().flatten().map(|(name, value)| 2 * (name.len() + value.len()) + 2).sum();
        let names = |subscription: &Subscription| 2 * (subscription.id.len() + subscription.destination.len());
        let of_one = |subscription| body.payload().len() + tags + names(subscription) + MESSAGE_OVERHEAD_BYTES;
        session.of_topic(&body.topic).map(of_one).sum()
    }

    fn on_push(&mut self, conn: &mut Context<'_>, session: &mut Session, topic: &TopicName, push: &Push) {
        if let Push::Publication(publication) = push {
            send_publication(conn, session, topic, &publication.body);
        }
    }

    fn on_timer(&mut self, conn: &mut Context<'_>, session: &mut Session) {
        let now_ms = conn.clock().now_ms;
        if !session.is_connected {
            let text = format!("send CONNECT within {} s", STOMP_CONNECT_MS / 1000);
            return fail(conn, session, &Failure("timeout", text), None);
        }
        if session.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms) {
            let text = "the token has expired: reconnect with a new one".to_owned();
            return fail(conn, session, &Failure("access refused", text), None);
        }
        let receipt = session.asked.as_ref().and_then(|waiting| waiting.asked.receipt().map(str::to_owned));
        if let Err(failure) = self.fail_overdue(conn, session) {
            return fail(conn, session, &failure, receipt.as_deref());
        }
        if let Some(queues) = &self.queues {
            // Consumers that have taken no more may have read meanwhile.
            session
                .subscriptions
                .iter()
                .filter_map(|one| one.consumer.as_ref())
                .for_each(|(topic, _)| queues.pump(topic));
        }
        // While the server does not read, no heart-beat can arrive.
        if session.is_paused {
            session.beats.last_received_ms = now_ms;
        }
        if session.beats.lost_ms().is_some_and(|lost_ms| now_ms >= lost_ms) {
            let text = "no heart-beat: send an end of line at the agreed interval".to_owned();
            return fail(conn, session, &Failure("timeout", text), None);
        }
        if session.beats.send_ms().is_some_and(|send_ms| now_ms >= send_ms) {
            conn.send(Message::text("\n"));
            session.beats.next_send_ms = now_ms + session.beats.send_every_ms;
        }
        set_timer(conn, session);
    }

    fn on_namespaces(&mut self, namespaces: &Arc<Namespaces>) {
        self.readers.set_namespaces(namespaces);
    }

    fn identity(&self, _: ConnId, session: &Session) -> Identity {
        Identity { user: session.user().to_owned(), client: String::new() }
    }

    fn on_close(&mut self, _: &mut Context<'_>, session: Session, _: CloseCause) {
        session.subscriptions.into_iter().for_each(|subscription| self.stop_consuming(subscription.consumer));
    }

    fn on_disconnect(&mut self, conn: &mut Context<'_>, session: &mut Session, code: CloseCode, reason: &str) {
        send_error(conn, session.version, &Failure("disconnected by an operator", reason.to_owned()), None);
        conn.close(code, reason);
    }

    fn on_drain(&mut self, conn: &mut Context<'_>, session: &mut Session) {
        let failure = Failure("the server is stopping", "reconnect to another one".to_owned());
        send_error(conn, session.version, &failure, None);
        conn.close(CloseCode::GOING_AWAY, "the server is stopping");
    }
}

/// A subscription to which only the application sends.
fn of_application(id: &str, destination: &str, has_acks: bool) -> Subscription {
    let (id, destination) = (id.into(), destination.into());
    Subscription { id, destination, topic: None, has_acks, consumer: None }
}

/// Begins to consume a queue. Returns the number of the consumer.
fn consume(
    conn: &mut Context<'_>,
    session: &Session,
    (queues, topic): (&Broker, &TopicName),
    frame: &Frame<'_>,
    (id, destination): (&str, &str),
) -> Result<u64, String> {
    if frame.header("since").is_some() {
        return Err("a queue has no history: SUBSCRIBE without since".to_owned());
    }
    let mode = AckMode::of(frame.header("ack"));
    let prefetch = match frame.header("prefetch-count").map(str::parse) {
        None => STOMP_PREFETCH,
        Some(Ok(count)) => count,
        Some(Err(_)) => return Err("prefetch-count must be a number of messages".to_owned()),
    };
    let (id, destination, has_acks) = (id.into(), destination.into(), mode != AckMode::Auto);
    let receiver = Receiver { handle: conn.handle(), version: session.version, id, destination, has_acks };
    queues.join(topic, receiver, mode, prefetch).map_err(|error| error.text().to_owned())
}

/// The token of CONNECT.
fn token<'f>(frame: &'f Frame<'_>) -> Option<&'f str> {
    let bearer = frame.header("Authorization").and_then(bearer);
    frame.header("token").or(bearer).or_else(|| frame.header("passcode")).map(str::trim)
}

fn receipt(frame: &Frame<'_>) -> Result<Option<Box<str>>, Failure> {
    match frame.header("receipt") {
        Some(receipt) if receipt.len() > STOMP_ID_BYTES_MAX => {
            Err(Failure("malformed frame", format!("the receipt is too long: at most {STOMP_ID_BYTES_MAX} bytes")))
        }
        receipt => Ok(receipt.map(Into::into)),
    }
}

fn required<'f>(frame: &'f Frame<'_>, name: &str) -> Result<&'f str, Failure> {
    let value = frame.header(name).filter(|value| value.len() <= 2 * STOMP_ID_BYTES_MAX);
    value.ok_or_else(|| Failure("malformed frame", format!("the header {name} is missing, or too long")))
}

/// The header fields of a publisher, as tags: sorted, the first of a name.
pub(super) fn tags(frame: &Frame<'_>) -> Result<Option<Tags>, Failure> {
    let own = frame.headers.iter().filter(|(name, _)| !OWN_HEADERS.contains(&name.as_ref()));
    let mut tags: Vec<(String, String)> = own.map(|(name, value)| (name.to_string(), value.to_string())).collect();
    if tags.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > TAGS_BYTES_MAX {
        let text = format!("the header fields are too large: at most {TAGS_BYTES_MAX} bytes of your own");
        return Err(Failure("cannot publish", text));
    }
    // The sort keeps the order of equal names.
    tags.sort_by(|(a, _), (b, _)| a.cmp(b));
    tags.dedup_by(|(later, _), (first, _)| later == first);
    Ok((!tags.is_empty()).then(|| tags.into()))
}

pub(super) fn is_text(body: &[u8]) -> bool {
    Message { kind: MessageKind::Text, payload: body }.as_str().is_some()
}

/// Parses a `message-id`.
fn position(text: &str) -> Option<CatchUp> {
    let (epoch, offset) = text.split_once('-')?;
    Some(CatchUp::Since { epoch: Some(Epoch::from_text(epoch)), offset: offset.parse().ok()? })
}

fn send_missed(conn: &mut Context<'_>, session: &Session, topic: &TopicName, position: Position, recovery: Recovery) {
    match recovery {
        Recovery::NotAsked | Recovery::State(_) => {}
        Recovery::Recovered(missed) => missed.iter().for_each(|body| send_publication(conn, session, topic, body)),
        Recovery::Lost => {
            let id = message_id(position);
            for Subscription { id: subscription, destination, .. } in session.of_topic(topic) {
                let headers = [
                    ("subscription", &**subscription),
                    ("message-id", id.as_str()),
                    ("destination", destination),
                    ("lost", "true"),
                    ("content-length", "0"),
                ];
                send_frame(conn, "MESSAGE", headers, b"", session.version);
            }
        }
    }
}

fn send_publication(conn: &mut Context<'_>, session: &Session, topic: &TopicName, body: &Body) {
    for Subscription { id, destination, has_acks, .. } in session.of_topic(topic) {
        let mut out = Vec::with_capacity(MESSAGE_OVERHEAD_BYTES + body.payload().len());
        message::encode_publication(&mut out, body, (id, destination, *has_acks), session.version);
        conn.send(Message { kind: message::kind(body), payload: &out });
    }
}

pub(super) fn send_receipt(conn: &mut Context<'_>, version: Version, receipt: Option<&str>) {
    if let Some(receipt) = receipt {
        send_frame(conn, "RECEIPT", [("receipt-id", receipt)], b"", version);
    }
}

/// Sends ERROR and closes the connection.
pub(super) fn fail(conn: &mut Context<'_>, session: &mut Session, failure: &Failure, receipt: Option<&str>) {
    send_error(conn, session.version, failure, receipt);
    session.unread = Vec::new();
    conn.close(CloseCode::PROTOCOL_ERROR, failure.0);
}

fn send_error(conn: &mut Context<'_>, version: Version, Failure(message, text): &Failure, receipt: Option<&str>) {
    let known = ERRORS.iter().position(|(known, _)| known == message);
    ERROR_COUNTS.count(known.expect("each message of an ERROR frame has a name in metrics"));
    let length = text.len().to_string();
    let fixed = [("message", *message), ("content-type", "text/plain"), ("content-length", length.as_str())];
    let headers = fixed.into_iter().chain(receipt.map(|receipt| ("receipt-id", receipt)));
    send_frame(conn, "ERROR", headers, text.as_bytes(), version);
}

/// Sends a frame of the server's own as a message, whose body is text.
fn send_frame<'h>(
    conn: &mut Context<'_>,
    command: &str,
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    body: &[u8],
    version: Version,
) {
    let mut out = Vec::with_capacity(MESSAGE_OVERHEAD_BYTES + body.len());
    encode(&mut out, command, headers, body, version);
    conn.send(Message { kind: MessageKind::Text, payload: &out });
}

/// Sets the timer to the next heart-beat, loss, or expiry.
pub(super) fn set_timer(conn: &mut Context<'_>, session: &Session) {
    let timeout_ms = session.asked.as_ref().map(|waiting| waiting.timeout_ms);
    let consumes = session.subscriptions.iter().any(|subscription| subscription.consumer.is_some());
    let retry_ms = consumes.then(|| conn.clock().now_ms + STOMP_QUEUE_RETRY_MS);
    let times = [session.beats.send_ms(), session.beats.lost_ms(), session.expires_ms, timeout_ms, retry_ms];
    match times.into_iter().flatten().min() {
        Some(next_ms) => conn.set_timer(Duration::from_millis(next_ms.saturating_sub(conn.clock().now_ms))),
        None => conn.clear_timer(),
    }
}

fn of_destination(text: String) -> Failure {
    Failure("unusable destination", text)
}

pub(super) fn of_transaction(text: &'static str) -> Failure {
    Failure("transaction failed", text.to_owned())
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0, self.1)
    }
}
