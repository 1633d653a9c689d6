//! What the backend decides: starts its calls, and acts on its answers.

use std::time::Duration;

use bytes::Bytes;

use super::backend::{BackendAnswer, BackendCall, BackendResult, CallKind, Later};
use super::call::{Admission, Call, Failure, Outcome};
use super::handler::send;
use super::protocol::{ClientError, Disconnect, SubscribeRequest, Unsubscribed};
use super::reply::{DisconnectPush, ErrorReply, Push, Reply, RpcResult};
use super::session::{Asked, Ended, Grant, PendingCall, Renewal, Stage, Subscriber, WaitingSubscribe};
use super::token::ConnectionClaims;
use crate::limits::{BACKEND_RETRY_S, CENTRIFUGE_STALE_MS};
use crate::proto::CloseCode;
use crate::topics::{Draft, TopicName};

impl Call<'_, '_> {
    /// Closes the connection, and notes with what.
    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        let wire = self.session.wire;
        if (wire.is_stream() || wire.is_unidirectional()) && self.session.closed_with.is_none() {
            // The end of a stream has no code: a push before it has.
            let disconnect = Some(DisconnectPush { code: u32::from(code.0), reason: reason.to_owned() });
            let push = Reply::push(Push { disconnect, ..Push::default() });
            send(self.conn, self.session.wire, &mut Vec::new(), &push);
        }
        self.session.closed_with.get_or_insert_with(|| (code.0, reason.to_owned()));
        self.conn.close(code, reason);
    }

    /// Starts a call for the client's command, or without one. `fill` adds what only this kind of call has.
    pub(super) fn ask(&mut self, command: u32, asked: Asked, fill: impl FnOnce(&mut BackendCall)) {
        let kind = asked.kind();
        let backend = self.config.backend.clone().expect("the caller has checked that there is a backend");
        let request_id = self.session.take_request_id();
        let timeout_ms = u64::try_from(backend.timeout(kind).as_millis()).unwrap_or(u64::MAX);
        let timeout_ms = self.conn.clock().now_ms.saturating_add(timeout_ms);
        self.session.calls.push(PendingCall { request_id, command, timeout_ms, asked });
        let protocol = if self.session.wire.is_json() { "json" } else { "protobuf" };
        let mut call = BackendCall {
            client: self.session.client.to_string(),
            protocol,
            transport: self.session.wire.transport(),
            headers: self.session.headers.clone(),
            user: self.session.user.to_string(),
            meta: self.session.meta.clone(),
            ..BackendCall::new(kind)
        };
        fill(&mut call);
        let later = Later::new(self.conn.handle(), request_id);
        self.session.early_answers.extend(backend.call(call, later).map(|answer| (request_id, answer)));
    }

    /// Acts on an answer. Returns the replies to the client, in order.
    pub(super) fn answered(&mut self, request_id: u32, answer: &BackendAnswer) -> Vec<Reply> {
        // `None` if the call has timed out.
        let Some(PendingCall { command, asked, .. }) = self.session.take_call(request_id) else { return Vec::new() };
        if let BackendAnswer::Disconnect { code, reason } = answer {
            self.close(CloseCode(*code), reason);
            return Vec::new();
        }
        let result = match answer {
            BackendAnswer::Result(result) => Ok(result.as_deref()),
            other => Err(other),
        };
        match (asked, result) {
            (Asked::Refresh, result) => self.refreshed(result),
            (Asked::SubRefresh(topic), result) => self.sub_refreshed(&topic, result),
            (asked, Err(answer)) => {
                if matches!(asked, Asked::Connect(_)) {
                    self.refuse_connect();
                }
                error_reply(command, answer)
            }
            (Asked::Connect(subs), Ok(result)) => {
                let outcome = self.connect_as(command, result, &subs);
                if !self.session.stage.accepts_commands() {
                    self.refuse_connect();
                }
                self.replies(command, outcome)
            }
            (Asked::Subscribe(topic, waiting), Ok(result)) => {
                let outcome = self.subscribe_as(command, topic, &waiting, result);
                self.replies(command, outcome)
            }
            (Asked::Publish(draft), Ok(result)) => {
                self.publish_as(command, *draft, result);
                Vec::new()
            }
            (Asked::Rpc, Ok(result)) => {
                let data = result.map_or_else(Bytes::new, |result| result.data.clone());
                vec![Reply { id: command, rpc: Some(RpcResult { data }), ..Reply::default() }]
            }
        }
    }

    /// The replies to a command that has waited.
    fn replies(&mut self, id: u32, outcome: Outcome) -> Vec<Reply> {
        match outcome {
            Ok(reply) => reply.into_iter().collect(),
            Err(Failure::Error(error)) => vec![Reply::error(id, error)],
            Err(Failure::Disconnect(why)) => {
                self.close(why.code(), why.reason());
                Vec::new()
            }
        }
    }

    /// The client has to leave, and has the usual time for that.
    fn refuse_connect(&mut self) {
        self.session.stage = Stage::Refused;
        self.session.timer = None;
        self.conn.set_timer(Duration::from_millis(CENTRIFUGE_STALE_MS));
    }

    fn connect_as(&mut self, id: u32, result: Option<&BackendResult>, waiting: &[WaitingSubscribe]) -> Outcome {
        let subs: Vec<SubscribeRequest<'_>> = waiting.iter().map(WaitingSubscribe::request).collect();
        self.session.stage = Stage::New;
        let Some(result) = result else {
            // Without a result the client is nobody in particular.
            let claims = self.authenticate("")?;
            return self.admit(id, Admission { claims, ..Admission::default() }, &subs);
        };
        let claims = ConnectionClaims {
            user: result.user.clone(),
            expires_s: later(result.expire_at),
            info: result.info.clone(),
            channels: result.channels.clone(),
            is_operator: false,
        };
        if claims.expires_s.is_some_and(|expires_s| expires_s <= self.now_s()) {
            return Err(ClientError::Expired.into());
        }
        let grants = result.subs.iter().map(|(channel, options)| {
            let renewal = self.renewal(options.expire_at);
            let (info, data) = (options.info.clone(), options.data.clone());
            (channel.clone(), Grant { expires_s: later(options.expire_at), info, data, renewal })
        });
        let grants = grants.collect();
        let (data, meta) = (result.data.clone(), result.meta.clone());
        self.admit(id, Admission { claims, data, meta, grants }, &subs)
    }

    fn subscribe_as(
        &mut self,
        id: u32,
        topic: TopicName,
        waiting: &WaitingSubscribe,
        result: Option<&BackendResult>,
    ) -> Outcome {
        // The server API may have subscribed the client meanwhile.
        if self.session.channel(topic.as_str()).is_some() {
            return Err(ClientError::AlreadySubscribed.into());
        }
        if self.session.channels.len() >= self.conn.subscriptions_max() {
            return Err(ClientError::LimitExceeded.into());
        }
        let grant = result.map_or_else(Grant::default, |result| Grant {
            expires_s: later(result.expire_at),
            info: result.info.clone(),
            data: result.data.clone(),
            renewal: self.renewal(result.expire_at),
        });
        if grant.expires_s.is_some_and(|expires_s| expires_s <= self.now_s()) {
            return Err(ClientError::Expired.into());
        }
        self.submit_subscribe(id, topic, &waiting.request(), Subscriber::Client, grant)?;
        Ok(None)
    }

    /// What renews a subscription that the backend has granted.
    fn renewal(&self, expire_at: u64) -> Renewal {
        match expire_at {
            0 => Renewal::Nothing,
            _ if self.config.asks(CallKind::SubRefresh) => Renewal::Backend,
            _ => Renewal::Token,
        }
    }

    fn publish_as(&mut self, id: u32, mut draft: Draft, result: Option<&BackendResult>) {
        if let Some(result) = result {
            result.apply_to(&mut draft);
        }
        self.submit_publish(id, draft);
    }

    /// Has the backend decide on an expired connection.
    pub(super) fn ask_refresh(&mut self) {
        self.session.is_refreshing = true;
        self.ask(0, Asked::Refresh, |_| {});
    }

    fn refreshed(&mut self, result: Result<Option<&BackendResult>, &BackendAnswer>) -> Vec<Reply> {
        self.session.is_refreshing = false;
        match result {
            // A backend that is down must not end all connections: it is asked again later.
            Err(_) => self.session.expires_s = Some(self.now_s() + BACKEND_RETRY_S),
            Ok(Some(result)) if !result.expired => {
                self.session.expires_s = later(result.expire_at);
                if !result.info.is_empty() {
                    self.session.info = result.info.clone();
                }
                if !result.meta.is_empty() {
                    self.session.meta = result.meta.clone();
                }
            }
            Ok(_) => self.close(Disconnect::Expired.code(), Disconnect::Expired.reason()),
        }
        Vec::new()
    }

    /// Has the backend decide on an expired subscription.
    pub(super) fn ask_sub_refresh(&mut self, topic: &TopicName) {
        if let Some(channel) = self.session.channel_mut(topic.as_str()) {
            channel.is_refreshing = true;
        }
        self.ask(0, Asked::SubRefresh(topic.clone()), |call| call.channel = Some(topic.to_string()));
    }

    fn sub_refreshed(
        &mut self,
        topic: &TopicName,
        result: Result<Option<&BackendResult>, &BackendAnswer>,
    ) -> Vec<Reply> {
        let again_s = self.now_s() + BACKEND_RETRY_S;
        // The subscription may have ended meanwhile, and another may have begun.
        let Some(channel) = self.session.channel_mut(topic.as_str()).filter(|channel| channel.is_refreshing) else {
            return Vec::new();
        };
        channel.is_refreshing = false;
        match result {
            Err(_) => channel.expires_s = Some(again_s),
            Ok(Some(result)) if !result.expired => {
                channel.expires_s = later(result.expire_at);
                if !result.info.is_empty() {
                    channel.info = result.info.clone();
                }
            }
            Ok(_) => {
                if self.end_channel(topic.as_str(), Ended::Server) {
                    return vec![Reply::unsubscribed(topic.as_str(), Unsubscribed::Expired)];
                }
            }
        }
        Vec::new()
    }
}

/// A time of the backend, where 0 is never.
fn later(unix_s: u64) -> Option<u64> {
    Some(unix_s).filter(|unix_s| *unix_s > 0)
}

/// The reply to a command that the backend has not permitted.
fn error_reply(id: u32, answer: &BackendAnswer) -> Vec<Reply> {
    vec![match answer {
        BackendAnswer::Error { code, message, temporary } => {
            let error = ErrorReply { code: *code, message: message.clone(), temporary: *temporary };
            Reply { id, error: Some(error), ..Reply::default() }
        }
        BackendAnswer::Busy => Reply::error(id, ClientError::TooManyRequests),
        _ => Reply::error(id, ClientError::Internal),
    }]
}
