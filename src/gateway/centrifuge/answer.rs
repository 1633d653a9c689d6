//! Turns the answers of home shards into replies to commands.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::call::Call;
use super::map::{add_last_page, continues};
use super::protocol::{ClientError, Disconnect, Unsubscribed};
use super::reply::{
    ClientInfo, Done, HistoryResult, PresenceEntry, PresenceResult, PresenceStatsResult, Publication, Push, Reply,
    SubscribePush, SubscribeResult, quoted,
};
use super::session::{Ended, PendingRequest, Renewal, RequestKind, Stage, Subscriber, Subscribing};
use crate::limits::{CONNECT_RECOVERY_BYTES_MAX, PRESENCE_ANSWER_BYTES_MAX};
use crate::topics::{self, Answer, Body, Effect, Event, HistoryPage, Position, PublishError, Recovery};

impl Call<'_, '_> {
    /// The replies to the client for an answer, in order.
    pub(super) fn answer(&mut self, request_id: u32, answer: Answer) -> Vec<Reply> {
        // `None` if the request was from an earlier connection in the same slot.
        let Some(PendingRequest { command: id, kind, .. }) = self.session.take_pending(request_id) else {
            return Vec::new();
        };
        match (kind, answer) {
            (RequestKind::Subscribe(subscribing), Answer::Subscribed { position, recovery, .. }) => {
                self.subscribed(id, &subscribing, position, recovery)
            }
            (RequestKind::Subscribe(subscribing), Answer::StatePage { page, .. }) => {
                self.map_page(id, &subscribing, &page)
            }
            (RequestKind::Subscribe(subscribing), Answer::NotSubscribed { error, .. }) => {
                self.not_subscribed(id, &subscribing, error.into())
            }
            (RequestKind::Subscribe(subscribing), _) => self.not_subscribed(id, &subscribing, ClientError::Internal),
            (_, Answer::Published(Err(error)) | Answer::Refused(error)) => vec![Reply::error(id, error.into())],
            (RequestKind::Publish, _) => vec![Reply { id, publish: Some(Done {}), ..Reply::default() }],
            (RequestKind::History, Answer::History(page)) => vec![history(id, page)],
            (RequestKind::Presence, Answer::Presence(present)) => vec![presence(id, &present)],
            (RequestKind::PresenceStats, Answer::Presence(present)) => vec![presence_stats(id, &present)],
            (RequestKind::History | RequestKind::Presence | RequestKind::PresenceStats, _) => {
                vec![Reply::error(id, ClientError::Internal)]
            }
        }
    }

    fn subscribed(&mut self, id: u32, subscribing: &Subscribing, position: Position, recovery: Recovery) -> Vec<Reply> {
        let Subscribing { topic, by, .. } = subscribing;
        let is_lost = match (&recovery, subscribing.map) {
            (Recovery::State(page), Some(read)) => !continues(read, page),
            (recovery, _) => subscribing.rejects_gap && matches!(recovery, Recovery::Lost),
        };
        if is_lost {
            self.conn.unsubscribe(topic.clone());
            return self.not_subscribed(id, subscribing, ClientError::UnrecoverablePosition);
        }
        let recovery = self.limit_recovery(*by, recovery);
        let result = self.subscribe_result(subscribing, position, recovery);
        let mut replies = match by {
            Subscriber::Client => vec![Reply { id, subscribe: Some(result), ..Reply::default() }],
            Subscriber::Server => vec![subscribe_push(topic.as_str(), result)],
            Subscriber::Connect => {
                if let Stage::Connecting(connecting) = &mut self.session.stage {
                    connecting.add(topic, result);
                }
                Vec::new()
            }
        };
        if subscribing.ended.is_none() {
            if let Some(channel) = self.session.channel_mut(topic.as_str()) {
                channel.has_begun = true;
            }
            self.config.report(|| Event::Subscribed(topic.clone(), self.session.client_info(topic.as_str())));
        }
        if let Some(by) = subscribing.ended {
            self.conn.unsubscribe(topic.clone());
            replies.push(unsubscribe_reply(topic.as_str(), by));
        }
        replies
    }

    /// Limits a recovery: the connect reply holds those of all its channels.
    fn limit_recovery(&mut self, by: Subscriber, recovery: Recovery) -> Recovery {
        let Stage::Connecting(connecting) = &mut self.session.stage else { return recovery };
        let Recovery::Recovered(missed) = &recovery else { return recovery };
        let bytes: usize = missed.iter().map(|body| body.encoded_bytes()).sum();
        if by != Subscriber::Connect || bytes == 0 {
            return recovery;
        }
        let is_first = connecting.recovered_bytes == 0;
        if !is_first && connecting.recovered_bytes + bytes > CONNECT_RECOVERY_BYTES_MAX {
            return Recovery::Lost;
        }
        connecting.recovered_bytes += bytes;
        recovery
    }

    fn subscribe_result(&self, subscribing: &Subscribing, position: Position, recovery: Recovery) -> SubscribeResult {
        let topic = &subscribing.topic;
        let namespace = self.config.namespaces.find(topic).unwrap_or_default();
        let is_recoverable = self.config.namespaces.get(namespace).history_size > 0;
        // Clients need not know of an expiry that the backend decides on.
        let channel = self.session.channel(topic.as_str());
        let channel = channel.filter(|channel| channel.renewal != Renewal::Backend);
        let expires_s = channel.and_then(|channel| channel.expires_s);
        let (expires, ttl) = self.time_left(expires_s);
        let data = subscribing.data.clone();
        let mut result = SubscribeResult { expires, ttl, data, ..SubscribeResult::default() };
        if let (Recovery::State(page), Some(read)) = (&recovery, subscribing.map) {
            add_last_page(&mut result, read, page, subscribing.recovers);
            return result;
        }
        result.delta = subscribing.has_deltas;
        if !is_recoverable {
            return result;
        }
        result.recoverable = true;
        result.positioned = true;
        result.epoch = position.epoch.to_string();
        result.offset = position.offset;
        result.was_recovering = !matches!(recovery, Recovery::NotAsked);
        if let Recovery::Recovered(missed) = recovery {
            result.recovered = true;
            // The client counts on from its own position, publication by publication.
            result.offset = subscribing.offset;
            result.publications = missed.iter().map(|body| self.missed(body, subscribing.has_deltas)).collect();
        }
        result
    }

    /// A missed publication, whole.
    fn missed(&self, body: &Body, has_deltas: bool) -> Publication {
        let publication = Publication::from(body);
        match has_deltas && self.session.wire.is_json() {
            true => Publication { data: quoted(&publication.data), ..publication },
            false => publication,
        }
    }

    pub(super) fn not_subscribed(&mut self, id: u32, subscribing: &Subscribing, error: ClientError) -> Vec<Reply> {
        let Subscribing { topic, by, ended, .. } = subscribing;
        // If the client has unsubscribed, a newer subscription to the channel may exist.
        if ended.is_none() {
            self.session.remove_channel(topic.as_str());
        }
        let mut replies = Vec::new();
        match by {
            Subscriber::Client => replies.push(Reply::error(id, error)),
            // The client can't connect with fewer subscriptions than it was granted; it may reconnect.
            Subscriber::Connect => self.close(Disconnect::ServerError.code(), Disconnect::ServerError.reason()),
            Subscriber::Server => {}
        }
        if let Some(Ended::Client(id)) = ended {
            replies.push(unsubscribe_reply(topic.as_str(), Ended::Client(*id)));
        }
        replies
    }

    /// Whether the client is connecting and all its server-side subscriptions have been answered.
    pub(super) fn is_connected(&self) -> bool {
        let is_of_connect = |kind: &RequestKind| match kind {
            RequestKind::Subscribe(subscribing) => subscribing.by == Subscriber::Connect,
            _ => false,
        };
        let is_connecting = matches!(self.session.stage, Stage::Connecting(_));
        is_connecting && !self.session.pending.iter().any(|pending| is_of_connect(&pending.kind))
    }
}

/// The message about the end of a subscription: the reply to the client's command, or a push.
pub(super) fn unsubscribe_reply(channel: &str, by: Ended) -> Reply {
    match by {
        Ended::Client(id) => Reply { id, unsubscribe: Some(Done {}), ..Reply::default() },
        Ended::Server => Reply::unsubscribed(channel, Unsubscribed::Server),
    }
}

fn subscribe_push(channel: &str, result: SubscribeResult) -> Reply {
    let SubscribeResult { recoverable, epoch, offset, positioned, data, .. } = result;
    let subscribe = Some(SubscribePush { recoverable, epoch, offset, positioned, data });
    Reply::push(Push { channel: channel.to_owned(), subscribe, ..Push::default() })
}

fn history(id: u32, page: Option<HistoryPage>) -> Reply {
    let result = match page {
        // The topic has no publications or subscribers.
        None => HistoryResult::default(),
        Some(HistoryPage { publications: None, .. }) => return Reply::error(id, ClientError::UnrecoverablePosition),
        Some(HistoryPage { position, publications: Some(publications) }) => HistoryResult {
            publications: publications.iter().map(|body| Publication::from(&**body)).collect(),
            epoch: position.epoch.to_string(),
            offset: position.offset,
        },
    };
    Reply { id, history: Some(result), ..Reply::default() }
}

fn presence(id: u32, present: &[Arc<topics::ClientInfo>]) -> Reply {
    // An entry contains the client's name twice: as the key and in its information.
    let bytes: usize = present.iter().map(|info| info.encoded_bytes() + info.client.len()).sum();
    if bytes > PRESENCE_ANSWER_BYTES_MAX {
        return Reply::error(id, ClientError::LimitExceeded);
    }
    let entry = |info: &Arc<topics::ClientInfo>| PresenceEntry {
        client: info.client.to_string(),
        info: Some(ClientInfo::from(&**info)),
    };
    let presence = present.iter().map(entry).collect();
    Reply { id, presence: Some(PresenceResult { presence }), ..Reply::default() }
}

fn presence_stats(id: u32, present: &[Arc<topics::ClientInfo>]) -> Reply {
    let users: HashSet<&str> = present.iter().map(|info| &*info.user).collect();
    let result = PresenceStatsResult { num_clients: present.len() as u32, num_users: users.len() as u32 };
    Reply { id, presence_stats: Some(result), ..Reply::default() }
}

impl From<&topics::ClientInfo> for ClientInfo {
    fn from(info: &topics::ClientInfo) -> ClientInfo {
        let bytes = |info: &Option<Box<[u8]>>| info.as_deref().map_or_else(Bytes::new, Bytes::copy_from_slice);
        ClientInfo {
            user: info.user.to_string(),
            client: info.client.to_string(),
            conn_info: bytes(&info.conn_info),
            chan_info: bytes(&info.chan_info),
        }
    }
}

impl From<&Body> for Publication {
    fn from(body: &Body) -> Publication {
        Publication {
            data: Bytes::copy_from_slice(body.payload()),
            info: body.info.as_deref().map(ClientInfo::from),
            offset: body.position.offset,
            tags: body.tags.iter().flatten().cloned().collect(),
            delta: false,
            key: body.key.as_deref().unwrap_or_default().to_owned(),
            removed: body.effect == Effect::Remove,
        }
    }
}

impl From<PublishError> for ClientError {
    fn from(error: PublishError) -> ClientError {
        match error {
            PublishError::Busy | PublishError::Stopping | PublishError::NoLog | PublishError::Unconfirmed => {
                ClientError::Internal
            }
            PublishError::TooManyTopics
            | PublishError::TooManyKeys
            | PublishError::TooManyFilters
            | PublishError::TooLarge => ClientError::LimitExceeded,
            PublishError::UnknownNamespace => ClientError::UnknownChannel,
            PublishError::SystemTopic => ClientError::PermissionDenied,
            PublishError::NoKey | PublishError::NoSuchKey | PublishError::Conflict => ClientError::BadRequest,
            PublishError::NotKeyed => ClientError::NotAvailable,
            PublishError::ValueTooLarge | PublishError::StateFull => ClientError::LimitExceeded,
        }
    }
}
