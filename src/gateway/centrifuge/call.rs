//! The commands of a client, one method for each.

use bytes::Bytes;

use super::access::{check, check_subscribe, find_topic, is_for};
use super::config::CentrifugeConfig;
use super::protocol::{
    ClientError, ConnectRequest, Disconnect, HistoryRequest, PublishRequest, Request, SubscribeRequest,
};
use super::reply::{ConnectResult, Done, RefreshResult, Reply, SubRefreshResult};
use super::session::{Channel, Connecting, Ended, Session, Stage, Subscriber, Subscribing, What, Wire};
use super::token::{ConnectionClaims, TokenError};
use crate::gateway::{Context, Subscribe, TooManySubscriptions};
use crate::limits::{CONN_TOPICS_MAX, HISTORY_ANSWER_MAX, HISTORY_PAGE_BYTES};
use crate::topics::{Allowed, CatchUp, Draft, Epoch, HistoryQuery, Position, Query, TopicName};

/// The version that clients are told.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A call of the handler for one client.
pub(super) struct Call<'a, 'c> {
    pub(super) session: &'a mut Session,
    pub(super) config: &'a CentrifugeConfig,
    pub(super) conn: &'a mut Context<'c>,
}

/// Why a command has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is answered with an error.
    Error(ClientError),
    /// It is the client's last.
    Disconnect(Disconnect),
}

/// The answer to a command; `None` where it comes later, or not at all.
type Outcome = Result<Option<Reply>, Failure>;

impl Call<'_, '_> {
    /// Does what the client wants.
    pub(super) fn request(&mut self, id: u32, request: &Request<'_>) -> Outcome {
        if let Request::Connect(connect) = request {
            return self.connect(id, connect);
        }
        if !self.session.stage.is_welcome() {
            return Err(bad_request("connect first"));
        }
        match request {
            // That it came is known already: all bytes are a sign of life.
            Request::Pong => Ok(None),
            Request::Connect(_) => unreachable!("it was dealt with before"),
            Request::Subscribe(subscribe) => self.subscribe(id, subscribe),
            Request::Unsubscribe { channel } => self.unsubscribe(id, channel),
            Request::Publish(publish) => self.publish(id, publish),
            Request::Presence { channel } => self.presence(id, channel, What::Presence),
            Request::PresenceStats { channel } => self.presence(id, channel, What::PresenceStats),
            Request::History(history) => self.history(id, history),
            // Nobody listens to it, which the client had better know; it expects no reply.
            Request::Send { .. } => Err(Failure::Disconnect(Disconnect::NotAvailable)),
            Request::Ping | Request::Rpc { .. } => Err(ClientError::NotAvailable.into()),
            Request::Refresh { token } => self.refresh(id, token),
            Request::SubRefresh { channel, token } => self.sub_refresh(id, channel, token),
        }
    }

    fn connect(&mut self, id: u32, request: &ConnectRequest<'_>) -> Outcome {
        if !matches!(self.session.stage, Stage::New) {
            return Err(bad_request("connect once"));
        }
        let claims = self.who(request.token).inspect_err(|_| self.session.stage = Stage::Refused)?;
        let topics = self.topics_of_token(&claims).inspect_err(|_| self.session.stage = Stage::Refused)?;
        let result = self.welcome(&claims);
        self.session.user = claims.user.into();
        self.session.info = claims.info;
        self.session.expires_s = claims.expires_s;
        if topics.is_empty() {
            self.session.stage = Stage::Open;
            return Ok(Some(Reply { id, connect: Some(result), ..Reply::default() }));
        }
        let connecting = Connecting { command: id, result, later: Vec::new(), recovered_bytes: 0 };
        self.session.stage = Stage::Connecting(Box::new(connecting));
        self.conn.pause_delivery();
        for topic in topics {
            let at = request.subs.iter().find(|sub| sub.channel == topic.as_str()).cloned().unwrap_or_default();
            let limit = |_| Failure::Disconnect(Disconnect::ChannelLimit);
            self.submit_subscribe(0, topic, &at, Subscriber::Token, None).map_err(limit)?;
        }
        Ok(None)
    }

    /// Who comes with `token`.
    fn who(&self, token: &str) -> Result<ConnectionClaims, Failure> {
        match token {
            "" if self.config.anonymous => Ok(ConnectionClaims::default()),
            "" => Err(bad_request("bad request: a token is needed")),
            token => self.config.tokens.connection(token, self.now_s()).map_err(|error| match error {
                TokenError::Expired => ClientError::TokenExpired.into(),
                error => unusable(error),
            }),
        }
    }

    /// What the server subscribes a client to that brings such a token.
    fn topics_of_token(&self, claims: &ConnectionClaims) -> Result<Vec<TopicName>, Failure> {
        let topics = claims.channels.iter().map(|channel| find_topic(self.config, channel).map(|(topic, _)| topic));
        let mut topics = topics.collect::<Result<Vec<_>, _>>()?;
        topics.sort_unstable();
        topics.dedup();
        if topics.len() > CONN_TOPICS_MAX {
            return Err(Failure::Disconnect(Disconnect::ChannelLimit));
        }
        Ok(topics)
    }

    fn welcome(&self, claims: &ConnectionClaims) -> ConnectResult {
        let (expires, ttl) = self.time_left(claims.expires_s);
        let ping_ms = if self.session.has_pings { self.config.ping_interval_ms } else { 0 };
        ConnectResult {
            client: self.session.client.to_string(),
            version: VERSION.to_owned(),
            expires,
            ttl,
            // Rather too long than too short: the client gives up some seconds after a ping that it expects.
            ping: ping_ms.div_ceil(1000) as u32,
            pong: ping_ms > 0,
            ..ConnectResult::default()
        }
    }

    fn subscribe(&mut self, id: u32, request: &SubscribeRequest<'_>) -> Outcome {
        required(request.channel, "bad request: subscribe to a channel")?;
        if request.kind != 0 {
            return Err(ClientError::NotAvailable.into());
        }
        // Agreeing to fossil is optional; and other names are mistakes, as elsewhere.
        if !matches!(request.delta, "" | "fossil") {
            return Err(bad_request("bad request: unknown delta"));
        }
        if request.has_filter {
            return Err(ClientError::BadRequest.into());
        }
        let (topic, namespace) = find_topic(self.config, request.channel)?;
        if self.session.channel(request.channel).is_some() {
            return Err(ClientError::AlreadySubscribed.into());
        }
        if self.session.channels.len() >= CONN_TOPICS_MAX {
            return Err(ClientError::LimitExceeded.into());
        }
        let claims = check_subscribe(self.config, self.session, (&topic, namespace), request, self.now_s())?;
        self.submit_subscribe(
            id,
            topic,
            request,
            Subscriber::Client,
            claims.map(|claims| (claims.expires_s, claims.info)),
        )?;
        Ok(None)
    }

    /// Asks for a subscription, which somebody has decided on. `token` is what its token says, if it has one.
    ///
    /// # Errors
    /// [`ClientError::LimitExceeded`], where the connection has as many as it may have; nothing has changed.
    pub(super) fn submit_subscribe(
        &mut self,
        command: u32,
        topic: TopicName,
        request: &SubscribeRequest<'_>,
        by: Subscriber,
        token: Option<(Option<u64>, Bytes)>,
    ) -> Result<(), ClientError> {
        let has_token = token.is_some();
        let (expires_s, info) = token.unwrap_or_default();
        self.session.channels.push(Channel { topic: topic.clone(), expires_s, has_token, info });
        let namespace = self.config.namespaces.get(self.config.namespaces.find(&topic).unwrap_or_default());
        let is_recoverable = namespace.history_size > 0;
        let catch_up = if request.recover && is_recoverable {
            let epoch = (!request.epoch.is_empty()).then(|| Epoch::from_text(request.epoch));
            CatchUp::Since { epoch, offset: request.offset }
        } else {
            CatchUp::None
        };
        let is_present = namespace.presence || namespace.join_leave;
        let presence = is_present.then(|| self.session.client_info(topic.as_str()));
        let subscribing = Subscribing {
            topic: topic.clone(),
            by,
            offset: request.offset,
            recovers: request.recover,
            rejects_gap: request.flag & SubscribeRequest::REJECT_UNRECOVERED != 0,
            ended: None,
        };
        let request_id = self.session.wait_for(command, What::Subscribe(subscribing));
        let (channel, request_id, join_leave) = (topic.clone(), Some(request_id), request.join_leave);
        let subscribe = Subscribe { topic, catch_up, presence, join_leave, request_id };
        self.conn.subscribe_with(subscribe).map_err(|TooManySubscriptions| {
            request_id.and_then(|request_id| self.session.take_waiting(request_id));
            self.session.remove_channel(channel.as_str());
            ClientError::LimitExceeded
        })
    }

    fn unsubscribe(&mut self, id: u32, channel: &str) -> Outcome {
        required(channel, "bad request: unsubscribe from a channel")?;
        let done = Reply { id, unsubscribe: Some(Done {}), ..Reply::default() };
        Ok(if self.end_channel(channel, Ended::Client(id)) { Some(done) } else { None })
    }

    /// Ends a subscription. False if it has not begun: it ends then, and whoever wanted that is told then.
    pub(super) fn end_channel(&mut self, channel: &str, by: Ended) -> bool {
        let Some(Channel { topic, .. }) = self.session.remove_channel(channel) else { return true };
        if let Some(subscribing) = self.session.subscribing_mut(channel) {
            subscribing.ended = Some(by);
            return false;
        }
        self.conn.unsubscribe(topic);
        true
    }

    fn publish(&mut self, id: u32, request: &PublishRequest<'_>) -> Outcome {
        required(request.channel, "bad request: publish to a channel")?;
        if request.kind != 0 {
            return Err(ClientError::NotAvailable.into());
        }
        if request.data.is_empty() {
            return Err(ClientError::BadRequest.into());
        }
        let (topic, namespace) = find_topic(self.config, request.channel)?;
        check(namespace.publish, self.session, &topic)?;
        let is_text = self.session.wire == Wire::Json || std::str::from_utf8(request.data).is_ok();
        let mut draft = Draft::new(topic, is_text, Bytes::copy_from_slice(request.data));
        draft.info = Some(self.session.client_info(request.channel));
        let request_id = self.session.wait_for(id, What::Publish);
        self.conn.publish_with(draft, Some(request_id));
        Ok(None)
    }

    fn presence(&mut self, id: u32, channel: &str, what: What) -> Outcome {
        required(channel, "bad request: presence of a channel")?;
        let (topic, namespace) = find_topic(self.config, channel)?;
        self.check_read(namespace.presence_read, namespace.presence, &topic)?;
        let request_id = self.session.wait_for(id, what);
        self.conn.query(topic, Query::Presence, request_id);
        Ok(None)
    }

    fn history(&mut self, id: u32, request: &HistoryRequest<'_>) -> Outcome {
        required(request.channel, "bad request: history of a channel")?;
        let (topic, namespace) = find_topic(self.config, request.channel)?;
        self.check_read(namespace.history, namespace.history_size > 0, &topic)?;
        let since = request.since;
        let query = HistoryQuery {
            limit: usize::try_from(request.limit).unwrap_or(HISTORY_ANSWER_MAX),
            since: since.map(|since| Position { epoch: Epoch::from_text(since.epoch), offset: since.offset }),
            is_reverse: request.reverse,
            bytes_max: HISTORY_PAGE_BYTES,
        };
        let request_id = self.session.wait_for(id, What::History);
        self.conn.query(topic, Query::History(query), request_id);
        Ok(None)
    }

    /// Whether the client may read something of a channel, and there is such a thing.
    fn check_read(&self, allowed: Allowed, exists: bool, topic: &TopicName) -> Result<(), Failure> {
        check(allowed, self.session, topic)?;
        if exists { Ok(()) } else { Err(ClientError::NotAvailable.into()) }
    }

    fn refresh(&mut self, id: u32, token: &str) -> Outcome {
        required(token, "bad request: refresh with a token")?;
        if self.session.expires_s.is_none() {
            return Err(bad_request("bad request: nothing to refresh"));
        }
        let claims = self.config.tokens.connection(token, self.now_s()).map_err(|error| match error {
            TokenError::Expired => Failure::Disconnect(Disconnect::Expired),
            error => unusable(error),
        })?;
        if *claims.user != *self.session.user {
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
        required(channel, "bad request: refresh the subscription to a channel")?;
        let subscription = self.session.channel(channel).ok_or(ClientError::PermissionDenied)?;
        if !subscription.has_token {
            return Err(bad_request("bad request: nothing to refresh"));
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

    /// Whether a time comes to an end, and in how many seconds: at least one, as zero would mean none.
    pub(super) fn time_left(&self, expires_s: Option<u64>) -> (bool, u32) {
        let left = |expires_s: u64| u32::try_from(expires_s.saturating_sub(self.now_s())).unwrap_or(u32::MAX).max(1);
        (expires_s.is_some(), expires_s.map_or(0, left))
    }

    fn now_s(&self) -> u64 {
        self.conn.clock().unix_ms / 1000
    }
}

/// What no SDK sends: the client is told what is wrong, and disconnected.
fn bad_request(what: &'static str) -> Failure {
    Failure::Disconnect(Disconnect::BadRequest(what))
}

/// What a token that no new one can replace leads to.
fn unusable(error: TokenError) -> Failure {
    Failure::Disconnect(match error {
        TokenError::Unsupported(why) => Disconnect::UnsupportedToken(why),
        TokenError::Invalid | TokenError::Expired => Disconnect::InvalidToken,
    })
}

fn required(text: &str, what: &'static str) -> Result<(), Failure> {
    if text.is_empty() { Err(bad_request(what)) } else { Ok(()) }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Error(error)
    }
}
