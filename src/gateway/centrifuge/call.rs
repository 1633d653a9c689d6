//! The commands of a client, one method for each.

use bytes::Bytes;

use super::access::{check, check_read, check_subscribe, find_topic, is_for};
use super::backend::{BackendCall, CallKind};
use super::config::CentrifugeConfig;
use super::map::{MAP, map_read};
use super::protocol::{
    ClientError, ConnectRequest, Disconnect, HistoryRequest, PublishRequest, Request, SubscribeRequest,
};
use super::push::with_deltas;
use super::reply::{ConnectResult, Done, RefreshResult, Reply, SubRefreshResult};
use super::session::{
    Asked, Channel, Connecting, Ended, ExpiryRules, Grant, Renewal, RequestKind, Session, Stage, Subscriber,
    Subscribing, WaitingSubscribe,
};
use super::token::{ConnectionClaims, TokenError};
use crate::gateway::refused::{self, SubscribeCause};
use crate::gateway::{Context, Subscribe, TooManySubscriptions};
use crate::limits::{HISTORY_ANSWER_MAX, HISTORY_PAGE_BYTES, KEY_BYTES_MAX};
use crate::topics::{
    Allowed, CatchUp, Draft, Epoch, Event, HistoryQuery, LabelledEncoding, Position, Query, TopicName,
};

/// The server's version in connect replies.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The name of this node: there is one.
const NODE: &str = "ringfeed";

/// A handler call for one client.
pub(super) struct Call<'a, 'c> {
    pub(super) session: &'a mut Session,
    pub(super) config: &'a CentrifugeConfig,
    pub(super) conn: &'a mut Context<'c>,
}

/// Why a command has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The reply is an error.
    Error(ClientError),
    /// The server closes the connection.
    Disconnect(Disconnect),
}

/// The reply to a command; `None` if it follows later, or if there is none.
pub(super) type Outcome = Result<Option<Reply>, Failure>;

/// Counts a rejected subscription.
fn count_refused(failure: &Failure, request: &SubscribeRequest<'_>) {
    let cause = match failure {
        Failure::Error(ClientError::BadRequest) if request.filter.is_some() => SubscribeCause::Filter,
        Failure::Error(ClientError::UnknownChannel) => SubscribeCause::UnknownNamespace,
        Failure::Error(ClientError::PermissionDenied | ClientError::TokenExpired) => SubscribeCause::PermissionDenied,
        Failure::Error(ClientError::LimitExceeded) => SubscribeCause::Limit,
        Failure::Error(_) | Failure::Disconnect(_) => SubscribeCause::BadRequest,
    };
    refused::SUBSCRIPTIONS.count(cause as usize);
}

/// The terms on which a client connects.
#[derive(Debug, Default)]
pub(super) struct Admission {
    pub(super) claims: ConnectionClaims,
    /// From the application, for the client.
    pub(super) data: Bytes,
    /// What the backend attaches.
    pub(super) meta: Bytes,
    /// The terms of server-side subscriptions, by channel.
    pub(super) grants: Vec<(String, Grant)>,
}

impl Call<'_, '_> {
    /// Executes a command.
    pub(super) fn request(&mut self, id: u32, request: &Request<'_>) -> Outcome {
        if let Request::Connect(connect) = request {
            return self.connect(id, connect);
        }
        // The shard has noted it: any byte counts as a sign of life. A client may be pinged before it connects.
        if matches!(request, Request::Pong) {
            return Ok(None);
        }
        if !self.session.stage.accepts_commands() {
            return Err(bad_request("bad request: send a connect command first"));
        }
        match request {
            Request::Pong => unreachable!("a pong is handled above"),
            Request::Connect(_) => unreachable!("a connect command is executed above"),
            Request::Subscribe(subscribe) => {
                self.subscribe(id, subscribe).inspect_err(|failure| count_refused(failure, subscribe))
            }
            Request::Unsubscribe { channel } => self.unsubscribe(id, channel),
            Request::Publish(publish) => self.publish(id, publish),
            Request::Presence { channel } => self.presence(id, channel, RequestKind::Presence),
            Request::PresenceStats { channel } => self.presence(id, channel, RequestKind::PresenceStats),
            Request::History(history) => self.history(id, history),
            // A message to an application has no receiver here, and no reply: close, so that the client notices.
            Request::Send { .. } => Err(Failure::Disconnect(Disconnect::NotAvailable)),
            Request::Rpc { method, data } if self.config.asks(CallKind::Rpc) => {
                self.ask(id, Asked::Rpc, |call| {
                    call.method = Some((*method).to_owned());
                    call.data = Bytes::copy_from_slice(data);
                });
                Ok(None)
            }
            Request::Ping | Request::Rpc { .. } => Err(ClientError::NotAvailable.into()),
            Request::Refresh { token } => self.refresh(id, token),
            Request::SubRefresh { channel, token } => self.sub_refresh(id, channel, token),
        }
    }

    fn connect(&mut self, id: u32, request: &ConnectRequest<'_>) -> Outcome {
        if !matches!(self.session.stage, Stage::New) {
            return Err(bad_request("bad request: already connected"));
        }
        if request.token.is_empty() && self.config.asks(CallKind::Connect) {
            self.session.stage = Stage::Asking;
            let subs = request.subs.iter().map(WaitingSubscribe::new).collect();
            self.ask(id, Asked::Connect(subs), |call| fill_connect(call, request));
            return Ok(None);
        }
        let claims = self.authenticate(request.token).inspect_err(|_| self.session.stage = Stage::Refused)?;
        self.admit(id, Admission { claims, ..Admission::default() }, &request.subs)
    }

    /// Connects a client on these terms. `subs` has its positions in channels with server-side subscriptions.
    pub(super) fn admit(&mut self, id: u32, admission: Admission, subs: &[SubscribeRequest<'_>]) -> Outcome {
        let topics = self.server_side_topics(&admission).inspect_err(|_| self.session.stage = Stage::Refused)?;
        let Admission { claims, data, meta, mut grants } = admission;
        let result = ConnectResult { data, ..self.connect_result(&claims) };
        self.session.user = claims.user.into();
        self.session.is_operator = claims.is_operator;
        self.session.info = claims.info;
        self.session.meta = meta;
        self.session.expires_s = claims.expires_s;
        if topics.is_empty() {
            self.session.stage = Stage::Open;
            return Ok(Some(Reply { id, connect: Some(result), ..Reply::default() }));
        }
        let connecting = Connecting { command: id, result, later: Vec::new(), recovered_bytes: 0 };
        self.session.stage = Stage::Connecting(Box::new(connecting));
        self.conn.pause_delivery();
        for topic in topics {
            let at = subs.iter().find(|sub| sub.channel == topic.as_str()).cloned().unwrap_or_default();
            let granted = grants.iter().position(|(channel, _)| channel == topic.as_str());
            let grant = granted.map_or_else(Grant::default, |index| grants.swap_remove(index).1);
            let limit = |_| Failure::Disconnect(Disconnect::ChannelLimit);
            self.submit_subscribe(0, topic, &at, Subscriber::Connect, grant).map_err(limit)?;
        }
        Ok(None)
    }

    /// The claims of a client that connects with `token`.
    pub(super) fn authenticate(&self, token: &str) -> Result<ConnectionClaims, Failure> {
        match token {
            "" if self.config.anonymous => Ok(ConnectionClaims::default()),
            "" => Err(bad_request("bad request: a token is required")),
            token => self.config.tokens.connection(token, self.now_s()).map_err(|error| match error {
                TokenError::Expired => ClientError::TokenExpired.into(),
                error => unusable(error),
            }),
        }
    }

    /// The topics of the server-side subscriptions: those of the token or the backend, and the user's own.
    fn server_side_topics(&self, admission: &Admission) -> Result<Vec<TopicName>, Failure> {
        let granted = admission.grants.iter().map(|(channel, _)| channel);
        let personal = self.config.personal_channel(&admission.claims.user);
        let channels = admission.claims.channels.iter().chain(granted).chain(&personal);
        let topics = channels.map(|channel| find_topic(self.config, channel).map(|(topic, _)| topic));
        let mut topics = topics.collect::<Result<Vec<_>, _>>()?;
        if topics.iter().any(TopicName::is_system) {
            return Err(ClientError::PermissionDenied.into());
        }
        // A client reads a map by its own requests.
        if topics.iter().any(|topic| self.config.namespaces.is_keyed(topic)) {
            return Err(ClientError::NotAvailable.into());
        }
        topics.sort_unstable();
        topics.dedup();
        if topics.len() > self.conn.subscriptions_max() {
            return Err(Failure::Disconnect(Disconnect::ChannelLimit));
        }
        Ok(topics)
    }

    fn connect_result(&self, claims: &ConnectionClaims) -> ConnectResult {
        let rules = self.expiry_rules();
        let (expires, ttl) = self.time_left(claims.expires_s.filter(|_| !rules.backend_refreshes));
        let ping_ms = if self.session.has_pings { self.config.ping_interval_ms } else { 0 };
        ConnectResult {
            client: self.session.client.to_string(),
            version: VERSION.to_owned(),
            expires,
            ttl,
            // Rounded up: the client gives up some seconds after an expected ping.
            session: self.session.emulation.map(|session| format!("{session:032x}")).unwrap_or_default(),
            node: if self.session.wire.is_stream() { NODE.to_owned() } else { String::new() },
            ping: ping_ms.div_ceil(1000) as u32,
            pong: ping_ms > 0 && !self.session.wire.is_unidirectional(),
            ..ConnectResult::default()
        }
    }

    fn subscribe(&mut self, id: u32, request: &SubscribeRequest<'_>) -> Outcome {
        required(request.channel, "bad request: subscribe without a channel")?;
        if ![0, MAP].contains(&request.kind) {
            return Err(ClientError::NotAvailable.into());
        }
        // Other names are mistakes, as in Centrifugo.
        if !matches!(request.delta, "" | "fossil") {
            return Err(bad_request("bad request: unknown delta"));
        }
        let (topic, namespace) = find_topic(self.config, request.channel)?;
        if namespace.keyed != (request.kind == MAP) {
            return Err(ClientError::NotAvailable.into());
        }
        if namespace.keyed {
            map_read(request)?;
        }
        let is_filter_allowed = !namespace.keyed && namespace.tags_filter;
        if request.filter.as_ref().is_some_and(|filter| filter.is_err() || !is_filter_allowed) {
            return Err(ClientError::BadRequest.into());
        }
        if self.session.channel(request.channel).is_some() {
            return Err(ClientError::AlreadySubscribed.into());
        }
        if self.session.channels.len() >= self.conn.subscriptions_max() {
            return Err(ClientError::LimitExceeded.into());
        }
        let is_open = self.session.is_operator || topic.is_limited();
        let asks = namespace.subscribe == Allowed::Backend && request.token.is_empty() && !is_open;
        if asks {
            self.require_backend(CallKind::Subscribe)?;
            let asked = Asked::Subscribe(topic, WaitingSubscribe::new(request));
            self.ask(id, asked, |call| {
                call.channel = Some(request.channel.to_owned());
                call.data = Bytes::copy_from_slice(request.data);
            });
            return Ok(None);
        }
        let claims = check_subscribe(self.config, self.session, (&topic, namespace), request, self.now_s())?;
        let grant = claims.map_or_else(Grant::default, |claims| Grant {
            expires_s: claims.expires_s,
            info: claims.info,
            data: Bytes::new(),
            renewal: Renewal::Token,
        });
        self.submit_subscribe(id, topic, request, Subscriber::Client, grant)?;
        Ok(None)
    }

    /// Requests a subscription that has been authorized on these terms.
    ///
    /// # Errors
    /// [`ClientError::LimitExceeded`]: the connection has the maximum number of subscriptions; nothing has changed.
    pub(super) fn submit_subscribe(
        &mut self,
        command: u32,
        topic: TopicName,
        request: &SubscribeRequest<'_>,
        by: Subscriber,
        grant: Grant,
    ) -> Result<(), ClientError> {
        let Grant { expires_s, info, data, renewal } = grant;
        self.session.channels.push(Channel {
            topic: topic.clone(),
            expires_s,
            renewal,
            info,
            is_refreshing: false,
            has_begun: false,
        });
        let namespace = self.config.namespaces.get(self.config.namespaces.find(&topic).unwrap_or_default());
        let map = map_read(request).ok().filter(|_| namespace.keyed);
        let catch_up = match map {
            Some((_, catch_up)) => catch_up,
            None if request.recover && namespace.history_size > 0 => {
                let epoch = (!request.epoch.is_empty()).then(|| Epoch::from_text(request.epoch));
                match namespace.cache_recovery {
                    true => CatchUp::Newest { epoch, offset: request.offset },
                    false => CatchUp::Since { epoch, offset: request.offset },
                }
            }
            None => CatchUp::None,
        };
        // Operators are not to be seen.
        let is_present = (namespace.presence || namespace.join_leave) && !self.session.is_operator;
        let presence = is_present.then(|| self.session.client_info(topic.as_str()));
        // The server may decline deltas: also to clients that can't say that they take them.
        let filter = request.filter.clone().and_then(Result::ok).filter(|_| by == Subscriber::Client);
        let may_delta = namespace.delta && by == Subscriber::Client && filter.is_none();
        let has_deltas = may_delta && !request.delta.is_empty();
        let encoding = has_deltas.then(|| LabelledEncoding { encoding: with_deltas(self.session.wire), label: 0 });
        let subscribing = Subscribing {
            topic: topic.clone(),
            by,
            offset: request.offset,
            recovers: request.recover,
            // A cache has gaps.
            rejects_gap: request.flag & SubscribeRequest::REJECT_UNRECOVERED != 0 && !namespace.cache_recovery,
            map: map.map(|(read, _)| read),
            has_deltas,
            data,
            ended: None,
        };
        let request_id = self.session.add_pending(command, RequestKind::Subscribe(subscribing));
        let (channel, request_id, join_leave) = (topic.clone(), Some(request_id), request.join_leave);
        let subscribe = Subscribe { topic, catch_up, presence, join_leave, encoding, filter, request_id };
        self.conn.subscribe_with(subscribe).map_err(|TooManySubscriptions { .. }| {
            request_id.and_then(|request_id| self.session.take_pending(request_id));
            self.session.remove_channel(channel.as_str());
            ClientError::LimitExceeded
        })
    }

    fn unsubscribe(&mut self, id: u32, channel: &str) -> Outcome {
        required(channel, "bad request: unsubscribe without a channel")?;
        let done = Reply { id, unsubscribe: Some(Done {}), ..Reply::default() };
        Ok(if self.end_channel(channel, Ended::Client(id)) { Some(done) } else { None })
    }

    /// Ends a subscription. `false` if it is still pending: it ends with its answer, and the client receives the
    /// message then.
    pub(super) fn end_channel(&mut self, channel: &str, by: Ended) -> bool {
        let client = self.config.events.as_ref().map(|_| self.session.client_info(channel));
        let Some(Channel { topic, has_begun, .. }) = self.session.remove_channel(channel) else { return true };
        if let Some(client) = client.filter(|_| has_begun) {
            self.config.report(|| Event::Unsubscribed(topic.clone(), client));
        }
        if let Some(subscribing) = self.session.subscribing_mut(channel) {
            subscribing.ended = Some(by);
            return false;
        }
        self.conn.unsubscribe(topic);
        true
    }

    fn publish(&mut self, id: u32, request: &PublishRequest<'_>) -> Outcome {
        required(request.channel, "bad request: publish without a channel")?;
        if ![0, MAP].contains(&request.kind) {
            return Err(ClientError::NotAvailable.into());
        }
        if request.data.is_empty() != request.removed || request.key.len() > KEY_BYTES_MAX {
            return Err(ClientError::BadRequest.into());
        }
        let (topic, namespace) = find_topic(self.config, request.channel)?;
        if namespace.keyed != (request.kind == MAP) {
            return Err(ClientError::NotAvailable.into());
        }
        let asks = namespace.publish == Allowed::Backend;
        match asks {
            true => self.require_backend(CallKind::Publish)?,
            false => check(namespace.publish, self.session, &topic)?,
        }
        let is_text = self.session.wire.is_json() || std::str::from_utf8(request.data).is_ok();
        let mut draft = Draft::new(topic, is_text, Bytes::copy_from_slice(request.data));
        draft.info = Some(self.session.client_info(request.channel));
        if namespace.keyed {
            (draft.key, draft.removes) = (Some(request.key.into()), request.removed);
        }
        if asks {
            let payload = draft.payload.clone();
            self.ask(id, Asked::Publish(Box::new(draft)), |call| {
                call.channel = Some(request.channel.to_owned());
                call.data = payload;
            });
            return Ok(None);
        }
        self.submit_publish(id, draft);
        Ok(None)
    }

    pub(super) fn submit_publish(&mut self, command: u32, draft: Draft) {
        let request_id = self.session.add_pending(command, RequestKind::Publish);
        self.conn.publish_with(draft, Some(request_id));
    }

    fn require_backend(&self, kind: CallKind) -> Result<(), ClientError> {
        if self.config.asks(kind) { Ok(()) } else { Err(ClientError::NotAvailable) }
    }

    fn presence(&mut self, id: u32, channel: &str, kind: RequestKind) -> Outcome {
        required(channel, "bad request: presence without a channel")?;
        let (topic, namespace) = find_topic(self.config, channel)?;
        self.check_read(namespace.presence_read, namespace.presence, &topic)?;
        let request_id = self.session.add_pending(id, kind);
        self.conn.query(topic, Query::Presence, request_id);
        Ok(None)
    }

    fn history(&mut self, id: u32, request: &HistoryRequest<'_>) -> Outcome {
        required(request.channel, "bad request: history without a channel")?;
        let (topic, namespace) = find_topic(self.config, request.channel)?;
        self.check_read(namespace.history, namespace.history_size > 0, &topic)?;
        let since = request.since;
        // Nothing is before the first publication.
        if request.reverse && since.is_some_and(|since| since.offset == 0) {
            return Err(ClientError::BadRequest.into());
        }
        let query = HistoryQuery {
            limit: usize::try_from(request.limit).unwrap_or(HISTORY_ANSWER_MAX),
            since: since.map(|since| Position { epoch: Epoch::from_text(since.epoch), offset: since.offset }),
            is_reverse: request.reverse,
            bytes_max: HISTORY_PAGE_BYTES,
        };
        let request_id = self.session.add_pending(id, RequestKind::History);
        self.conn.query(topic, Query::History(query), request_id);
        Ok(None)
    }

    /// Checks whether the client may read a feature of a channel, and whether the channel has that feature.
    fn check_read(&self, allowed: Allowed, exists: bool, topic: &TopicName) -> Result<(), Failure> {
        check_read(allowed, self.session, topic)?;
        if exists { Ok(()) } else { Err(ClientError::NotAvailable.into()) }
    }

    fn refresh(&mut self, id: u32, token: &str) -> Outcome {
        required(token, "bad request: refresh without a token")?;
        if self.expiry_rules().backend_refreshes && !self.session.is_operator {
            return Err(bad_request("bad request: the server refreshes this connection by itself"));
        }
        if self.session.expires_s.is_none() {
            return Err(bad_request("bad request: refresh of a token that does not expire"));
        }
        let claims = self.config.tokens.connection(token, self.now_s()).map_err(|error| match error {
            TokenError::Expired => Failure::Disconnect(Disconnect::Expired),
            error => unusable(error),
        })?;
        if *claims.user != *self.session.user || claims.is_operator != self.session.is_operator {
            return Err(Failure::Disconnect(Disconnect::InvalidToken));
        }
        self.session.expires_s = claims.expires_s;
        self.session.info = claims.info;
        let (expires, ttl) = self.time_left(claims.expires_s);
        let (client, version) = (self.session.client.to_string(), VERSION.to_owned());
        let refresh = RefreshResult { client, version, expires, ttl };
        Ok(Some(Reply { id, refresh: Some(refresh), ..Reply::default() }))
    }

    fn sub_refresh(&mut self, id: u32, channel: &str, token: &str) -> Outcome {
        required(channel, "bad request: sub_refresh without a channel")?;
        let subscription = self.session.channel(channel).ok_or(ClientError::PermissionDenied)?;
        if subscription.renewal != Renewal::Token {
            return Err(bad_request("bad request: refresh of a token that does not expire"));
        }
        if token.is_empty() {
            return Err(ClientError::BadRequest.into());
        }
        let claims = self.config.tokens.subscription(token, self.now_s()).map_err(|error| match error {
            TokenError::Expired => ClientError::Expired.into(),
            error => unusable(error),
        })?;
        if !is_for(&claims, self.session, channel) {
            return Err(Failure::Disconnect(Disconnect::InvalidToken));
        }
        let (expires, ttl) = self.time_left(claims.expires_s);
        if let Some(subscription) = self.session.channel_mut(channel) {
            subscription.expires_s = claims.expires_s;
            subscription.info = claims.info;
        }
        let sub_refresh = Some(SubRefreshResult { expires, ttl });
        Ok(Some(Reply { id, sub_refresh, ..Reply::default() }))
    }

    /// Whether a token expires, and in how many seconds: at least one, since zero would mean never.
    pub(super) fn time_left(&self, expires_s: Option<u64>) -> (bool, u32) {
        let left = |expires_s: u64| u32::try_from(expires_s.saturating_sub(self.now_s())).unwrap_or(u32::MAX).max(1);
        (expires_s.is_some(), expires_s.map_or(0, left))
    }

    pub(super) fn expiry_rules(&self) -> ExpiryRules {
        self.config.expiry_rules()
    }

    pub(super) fn now_s(&self) -> u64 {
        self.conn.clock().unix_ms / 1000
    }
}

fn fill_connect(call: &mut BackendCall, request: &ConnectRequest<'_>) {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    call.name = text(request.name);
    call.version = text(request.version);
    call.channels = request.subs.iter().map(|sub| sub.channel.to_owned()).collect();
    call.data = Bytes::copy_from_slice(request.data);
}

/// A mistake that no SDK makes: the server closes with this reason.
fn bad_request(message: &'static str) -> Failure {
    Failure::Disconnect(Disconnect::BadRequest(message))
}

/// The close for a token that a new one can't replace.
fn unusable(error: TokenError) -> Failure {
    Failure::Disconnect(match error {
        TokenError::Unsupported(why) => Disconnect::UnsupportedToken(why),
        TokenError::Invalid | TokenError::Expired => Disconnect::InvalidToken,
        TokenError::KeyAwaited => return ClientError::Internal.into(),
    })
}

fn required(text: &str, message: &'static str) -> Result<(), Failure> {
    if text.is_empty() { Err(bad_request(message)) } else { Ok(()) }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Error(error)
    }
}
