//! What each method does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::value::RawValue;

use super::reply::{
    ApiError, BatchReply, ChannelInfo, MapEntry, NamedReply, Node, Outcome, Reply, client_info, publication,
};
use super::request::{self, Batch, Call};
use crate::buf::{ConnId, SlotId};
use crate::control::lists::Cursor;
use crate::control::others::OtherNode;
use crate::control::publish::{checked_key, sorted_tags};
use crate::control::{State, shards};
use crate::gateway::centrifuge::{HistoryResult, PresenceEntry, PresenceResult, PresenceStatsResult};
use crate::gateway::{UserAction, UserCommand};
use crate::limits::{
    API_PARALLEL_MAX, CONTROL_PAYLOAD_BYTES_MAX, HISTORY_ANSWER_MAX, LIST_ROWS_MAX, PUBLISH_BYTES_MAX, STATE_PAGE_KEYS,
};
use crate::proto::CloseCode;
use crate::server::{ConnectionsQuery, Disconnection, PublishError};
use crate::topics::{
    Answer, ClientInfo, Condition, Draft, Epoch, HistoryPage, HistoryQuery, Namespace, Position, Query, StateCursor,
    StateQuery, TopicName, TopicPattern,
};

/// What a user's connections are closed with unless the request says otherwise: the client does not come back.
const DISCONNECT: (u16, &str) = (3503, "force disconnect");

/// The codes that a request may choose (RFC 6455 §7.4.2).
const CLOSE_CODES: std::ops::RangeInclusive<u32> = 3000..=4999;

/// Bytes of a close reason, beside the two of the code.
const REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;

type Outcomes = Result<Outcome, ApiError>;

/// Calls the methods of a batch: one after the other, or side by side if it says so. Publishing is never one after the
/// other: the shards receive the publications in order, and answer them meanwhile.
pub(super) async fn batch(state: &State, batch: &Batch<'_>, body: &Bytes) -> BatchReply {
    let one = async |part: &request::BatchCall<'_>| {
        let result = match &part.call {
            None => Err(ApiError::NotFound),
            Some(Err(_)) => Err(ApiError::BadRequest),
            Some(Ok(one)) => call(state, one, body).await,
        };
        part.reply(result)
    };
    let mut replies = Vec::with_capacity(batch.calls.len());
    let mut rest = &batch.calls[..];
    while !rest.is_empty() {
        let publications: Vec<_> = rest.iter().map_while(publication_of).take(API_PARALLEL_MAX).collect();
        let others = if batch.parallel { rest.len().min(API_PARALLEL_MAX) } else { 1 };
        let (calls, later) = rest.split_at(if publications.is_empty() { others } else { publications.len() });
        if publications.is_empty() {
            replies.append(&mut join_all(calls.iter().map(&one)).await);
        } else {
            let results = publish_all(state, &publications, body).await.into_iter();
            replies.extend(calls.iter().zip(results).map(|(part, result)| part.reply(result)));
        }
        rest = later;
    }
    BatchReply { replies }
}

/// Sends all publications, then waits for their positions.
async fn publish_all(state: &State, requests: &[&request::Publish<'_>], body: &Bytes) -> Vec<Outcomes> {
    let sent: Vec<_> = requests.iter().map(|request| send(state, request, body)).collect();
    let mut outcomes = Vec::with_capacity(sent.len());
    for sent in sent {
        outcomes.push(published(sent).await);
    }
    outcomes
}

/// The request of a batched call, if it publishes to one topic.
fn publication_of<'b, 'c>(part: &'b request::BatchCall<'c>) -> Option<&'b request::Publish<'c>> {
    match &part.call {
        Some(Ok(Call::Publish(request))) => Some(request),
        _ => None,
    }
}

impl request::BatchCall<'_> {
    fn reply(&self, result: Outcomes) -> NamedReply {
        NamedReply { method: self.method.clone(), result }
    }
}

/// Calls a method. What it publishes is a part of `body`.
pub(super) async fn call(state: &State, call: &Call<'_>, body: &Bytes) -> Outcomes {
    match call {
        Call::Publish(request) => publish(state, request, body).await,
        Call::Broadcast(request) => broadcast(state, request, body).await,
        Call::Subscribe(request) => subscribe(state, request).await,
        Call::Unsubscribe(request) => unsubscribe(state, request).await,
        Call::Disconnect(request) => disconnect(state, request).await,
        Call::Refresh(request) => refresh(state, request).await,
        Call::Presence(request) => presence(state, request).await,
        Call::PresenceStats(request) => presence_stats(state, request).await,
        Call::History(request) => history(state, request).await,
        Call::HistoryRemove(request) => history_remove(state, request).await,
        Call::Channels(request) => channels(state, request).await,
        Call::MapPublish(request) => map_publish(state, request, body).await,
        Call::MapRemove(request) => map_remove(state, request).await,
        Call::MapReadState(request) => map_read_state(state, request).await,
        Call::MapStats(request) => map_stats(state, request).await,
        Call::Info => info(state).await,
    }
}

async fn publish(state: &State, request: &request::Publish<'_>, body: &Bytes) -> Outcomes {
    published(send(state, request, body)).await
}

/// Sends a publication to its shard.
fn send(state: &State, request: &request::Publish<'_>, body: &Bytes) -> Result<shards::Outcome, ApiError> {
    let topic = topic(&request.channel)?;
    Ok(state.send(drafts(request, body)?(topic))?)
}

/// Waits for the position of a publication that was sent.
async fn published(sent: Result<shards::Outcome, ApiError>) -> Outcomes {
    Ok(sent?.await.unwrap_or(Err(PublishError::Stopping))?.into())
}

async fn map_publish(state: &State, request: &request::MapPublish<'_>, body: &Bytes) -> Outcomes {
    if request.asks_for_more() {
        return Err(ApiError::NotAvailable);
    }
    let topic = map_topic(state, &request.channel)?;
    let (is_text, payload) = payload(request.data, request.b64data.as_deref(), body)?;
    let condition = match request.key_mode.as_deref().unwrap_or_default() {
        "" => Condition::None,
        "if_new" => Condition::New,
        "if_exists" => Condition::Exists,
        _ => return Err(ApiError::BadRequest),
    };
    let tags = request.tags.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    let draft = Draft {
        condition,
        tags: sorted_tags(tags).map_err(|_| ApiError::BadRequest)?,
        idempotency_key: optional_key(&request.idempotency_key)?,
        ..Draft::put(topic, &map_key(&request.key)?, is_text, payload)
    };
    changed(state.publish(draft).await, if condition == Condition::New { "key_exists" } else { "key_not_found" })
}

async fn map_remove(state: &State, request: &request::MapRemove) -> Outcomes {
    let topic = map_topic(state, &request.channel)?;
    let idempotency_key = optional_key(&request.idempotency_key)?;
    let draft = Draft { idempotency_key, ..Draft::remove(topic, &map_key(&request.key)?) };
    changed(state.publish(draft).await, "key_not_found")
}

/// The outcome of a change of a map; `reason` is why it was not made if the map is not as expected.
fn changed(outcome: Result<Position, PublishError>, reason: &'static str) -> Outcomes {
    match outcome {
        Ok(position) => Ok(position.into()),
        Err(PublishError::Conflict | PublishError::NoSuchKey) => {
            Ok(Outcome::Suppressed { suppressed: true, suppress_reason: reason })
        }
        Err(error) => Err(error.into()),
    }
}

async fn map_read_state(state: &State, request: &request::MapReadState) -> Outcomes {
    if request.asks_for_more() {
        return Err(ApiError::NotAvailable);
    }
    let topic = map_topic(state, &request.channel)?;
    let cursor = request.cursor.as_deref().filter(|cursor| !cursor.is_empty());
    let from = cursor.map(|cursor| StateCursor::from_text(cursor).ok_or(ApiError::BadRequest)).transpose()?;
    let key = request.key.as_deref().filter(|key| !key.is_empty());
    let limit = if key.is_some() { 1 } else { request.limit.filter(|limit| *limit > 0).unwrap_or(STATE_PAGE_KEYS) };
    let page = match state.ask(topic.clone(), Query::State(StateQuery { from, limit })).await? {
        Answer::State(page) if page.begins && from.is_some() => return Err(ApiError::UnrecoverablePosition),
        Answer::State(page) => page,
        answer => return Err(refusal(&answer)),
    };
    let Position { epoch, offset } = page.position;
    let (entries, cursor) = match key {
        None => {
            let cursor = page.next.map(|next| next.to_string()).unwrap_or_default();
            (page.bodies.iter().map(|body| MapEntry::from(&**body)).collect(), cursor)
        }
        Some(key) => match state.ask(topic, Query::Value(key.into())).await? {
            Answer::Value(value) => (value.iter().map(|body| MapEntry::from(&**body)).collect(), String::new()),
            answer => return Err(refusal(&answer)),
        },
    };
    Ok(Outcome::MapState { entries, offset, epoch: epoch.to_string(), cursor })
}

async fn map_stats(state: &State, request: &request::Channel) -> Outcomes {
    match state.ask(map_topic(state, &request.channel)?, Query::Summary).await? {
        Answer::Summary(summary) => Ok(Outcome::MapStats { num_keys: summary.map_or(0, |summary| summary.keys) }),
        answer => Err(refusal(&answer)),
    }
}

fn map_topic(state: &State, channel: &Option<String>) -> Result<TopicName, ApiError> {
    let topic = topic(channel)?;
    if namespace(state, &topic)?.keyed { Ok(topic) } else { Err(ApiError::NotAvailable) }
}

fn map_key(key: &Option<String>) -> Result<Box<str>, ApiError> {
    optional_key(key)?.ok_or(ApiError::BadRequest)
}

/// A key, if there is one.
fn optional_key(key: &Option<String>) -> Result<Option<Box<str>>, ApiError> {
    let key = key.as_deref().filter(|key| !key.is_empty());
    key.map(|key| checked_key("a key", key)).transpose().map_err(|_| ApiError::BadRequest)
}

async fn broadcast(state: &State, request: &request::Publish<'_>, body: &Bytes) -> Outcomes {
    let channels = request.channels.as_deref().filter(|channels| !channels.is_empty()).ok_or(ApiError::BadRequest)?;
    let draft = drafts(request, body)?;
    let one = async |channel: &String| {
        let topic = TopicName::new(channel).map_err(|_| ApiError::BadRequest)?;
        Ok(Outcome::from(state.publish(draft(topic)).await?))
    };
    let mut responses = Vec::with_capacity(channels.len());
    for channels in channels.chunks(API_PARALLEL_MAX) {
        responses.extend(join_all(channels.iter().map(&one)).await.into_iter().map(Reply::from));
    }
    Ok(Outcome::Broadcast { responses })
}

async fn subscribe(state: &State, request: &request::Subscribe<'_>) -> Outcomes {
    let topic = topic(&request.channel)?;
    let is_keyed = namespace(state, &topic)?.keyed;
    if topic.is_system() {
        return Err(ApiError::SystemTopic);
    }
    // A client reads a map by its own requests.
    if is_keyed || request.asks_for_more() {
        return Err(ApiError::NotAvailable);
    }
    let action = UserAction::Subscribe(topic, request.terms().ok_or(ApiError::BadRequest)?);
    order(state, &request.user, &request.client, &request.session, action).await
}

async fn unsubscribe(state: &State, request: &request::Unsubscribe) -> Outcomes {
    let topic = topic(&request.channel)?;
    namespace(state, &topic)?;
    order(state, &request.user, &request.client, &request.session, UserAction::Unsubscribe(topic)).await
}

async fn disconnect(state: &State, request: &request::Disconnect) -> Outcomes {
    if request.whitelist.as_ref().is_some_and(|clients| !clients.is_empty()) {
        return Err(ApiError::NotAvailable);
    }
    let wanted = request.disconnect.as_ref();
    let code = wanted.and_then(|with| with.code).unwrap_or(u32::from(DISCONNECT.0));
    let reason = wanted.map_or(DISCONNECT.1, |with| with.reason.as_deref().unwrap_or_default());
    if !CLOSE_CODES.contains(&code) || reason.len() > REASON_BYTES_MAX {
        return Err(ApiError::BadRequest);
    }
    let (code, reason) = (CloseCode(code as u16), reason.to_owned());
    if request.connection.is_some() || request.address.is_some() || request.topic.is_some() {
        let how = Disconnection { connections: Vec::new(), code, reason };
        return disconnect_matching(state, request, how).await;
    }
    let action = UserAction::Disconnect { code, reason };
    order(state, &request.user, &request.client, &request.session, action).await
}

/// Closes connections of any protocol: one of this node, or on all nodes those from an address, to a topic, or both.
async fn disconnect_matching(state: &State, request: &request::Disconnect, how: Disconnection) -> Outcomes {
    if request.user.is_some() || request.client.is_some() || request.session.is_some() {
        return Err(ApiError::BadRequest);
    }
    let num_connections = match (request.connection, request.address, &request.topic) {
        (Some(request::Connection { shard, slot, generation }), None, None) => {
            let connections = vec![ConnId { slot: SlotId(slot), generation }];
            state.disconnect(shard.into(), Disconnection { connections, ..how }).await?
        }
        (None, address, name) => {
            let topic = name.as_ref().map(|_| topic(name)).transpose()?;
            let address = address.map(|address| address.to_canonical());
            let query = ConnectionsQuery { limit: LIST_ROWS_MAX, address, topic, ..ConnectionsQuery::default() };
            state.disconnect_everywhere(&query, &how).await?
        }
        _ => return Err(ApiError::BadRequest),
    };
    Ok(Outcome::Disconnected { num_connections })
}

async fn refresh(state: &State, request: &request::Refresh) -> Outcomes {
    let expire_at = request.expire_at.unwrap_or(0);
    let expire_at = u64::try_from(expire_at).map_err(|_| ApiError::BadRequest)?;
    let is_expired = request.expired.unwrap_or(false);
    let action = UserAction::Refresh { is_expired, expire_at: Some(expire_at).filter(|time| *time > 0) };
    order(state, &request.user, &request.client, &request.session, action).await
}

async fn presence(state: &State, request: &request::Channel) -> Outcomes {
    let present = present(state, request).await?;
    let entries =
        present.iter().map(|info| PresenceEntry { client: info.client.to_string(), info: Some(client_info(info)) });
    Ok(Outcome::Presence(PresenceResult { presence: entries.collect() }))
}

async fn presence_stats(state: &State, request: &request::Channel) -> Outcomes {
    let present = present(state, request).await?;
    let users: BTreeSet<&str> = present.iter().map(|info| &*info.user).collect();
    let (num_clients, num_users) = (present.len() as u32, users.len() as u32);
    Ok(Outcome::PresenceStats(PresenceStatsResult { num_clients, num_users }))
}

async fn history(state: &State, request: &request::History) -> Outcomes {
    let topic = topic(&request.channel)?;
    require_history(state, &topic)?;
    let since = match &request.since {
        None => None,
        Some(since) => Some(position(state, &topic, since).await?),
    };
    let limit = usize::try_from(request.limit.unwrap_or(0)).unwrap_or(HISTORY_ANSWER_MAX);
    let query = HistoryQuery { limit, since, is_reverse: request.reverse.unwrap_or(false), ..HistoryQuery::default() };
    let Some(HistoryPage { position, publications }) = page(state, &topic, query).await? else {
        return Ok(Outcome::History(HistoryResult::default()));
    };
    let publications = publications.ok_or(ApiError::UnrecoverablePosition)?;
    Ok(Outcome::History(HistoryResult {
        publications: publications.iter().map(|body| publication(body)).collect(),
        epoch: position.epoch.to_string(),
        offset: position.offset,
    }))
}

/// The position that a request means; where it names no epoch, that is the present one.
async fn position(state: &State, topic: &TopicName, since: &request::StreamPosition) -> Result<Position, ApiError> {
    let offset = since.offset.unwrap_or(0);
    let epoch = match since.epoch.as_deref().unwrap_or_default() {
        "" => {
            let nothing = HistoryQuery::default();
            page(state, topic, nothing).await?.map_or(Epoch::NEVER, |page| page.position.epoch)
        }
        text => Epoch::from_text(text),
    };
    Ok(Position { epoch, offset })
}

async fn page(state: &State, topic: &TopicName, query: HistoryQuery) -> Result<Option<HistoryPage>, ApiError> {
    match state.ask(topic.clone(), Query::History(query)).await? {
        Answer::History(page) => Ok(page),
        answer => Err(refusal(&answer)),
    }
}

async fn history_remove(state: &State, request: &request::Channel) -> Outcomes {
    let topic = topic(&request.channel)?;
    require_history(state, &topic)?;
    match state.ask(topic, Query::RemoveHistory).await? {
        Answer::HistoryRemoved => Ok(Outcome::Done {}),
        answer => Err(refusal(&answer)),
    }
}

async fn channels(state: &State, request: &request::Channels) -> Outcomes {
    let pattern = request.pattern.as_deref().filter(|pattern| !pattern.is_empty());
    let pattern = pattern.map(TopicPattern::new).transpose().map_err(|_| ApiError::BadRequest)?;
    let cursor = request.cursor.as_deref().filter(|cursor| !cursor.is_empty());
    let limit = request.limit.unwrap_or(usize::MAX);
    if limit == 0 {
        return Err(ApiError::BadRequest);
    }
    let (topics, cursor) = match state.is_alone() {
        true => topics_here(state, pattern, cursor, limit).await?,
        false => topics_everywhere(state, pattern, cursor, limit).await?,
    };
    let channels = topics.into_iter().map(|(topic, num_clients)| (topic.to_string(), ChannelInfo { num_clients }));
    Ok(Outcome::Channels { channels: channels.collect(), cursor })
}

/// Topics with their subscribers, and where to go on.
type Topics = (Vec<(TopicName, u64)>, Option<String>);

async fn topics_here(
    state: &State,
    pattern: Option<TopicPattern>,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Topics, ApiError> {
    let start = cursor.map_or(Ok(Cursor::default()), str::parse).map_err(|_| ApiError::BadRequest)?;
    let (mut topics, mut next) = (Vec::new(), Some(start));
    while let Some(cursor) = next.filter(|_| topics.len() < limit) {
        let limit = (limit - topics.len()).min(LIST_ROWS_MAX);
        let page = state.list_topics(cursor, limit, pattern.clone(), Duration::MAX).await?;
        topics.extend(page.rows.into_iter().map(|(topic, count)| (topic.name, count)));
        next = page.next;
    }
    Ok((topics, next.map(|next| next.to_string())))
}

/// In a cluster, each part begins behind a name.
async fn topics_everywhere(
    state: &State,
    pattern: Option<TopicPattern>,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Topics, ApiError> {
    let (mine, _) = topics_here(state, None, None, usize::MAX).await?;
    let all = state.topics_everywhere(mine).await?.into_iter();
    let is_wanted = |(topic, _): &(TopicName, u64)| {
        let is_later = cursor.is_none_or(|cursor| topic.as_str() > cursor);
        is_later && pattern.as_ref().is_none_or(|pattern| pattern.matches(topic.as_str()))
    };
    let mut topics: Vec<_> = all.filter(is_wanted).collect();
    let has_more = topics.len() > limit;
    topics.truncate(limit);
    let cursor = topics.last().filter(|_| has_more).map(|(topic, _)| topic.to_string());
    Ok((topics, cursor))
}

async fn info(state: &State) -> Outcomes {
    let shards = state.status.shards.iter();
    let node = Node {
        uid: state.uid.clone(),
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").into(),
        num_clients: shards.clone().map(|shard| shard.connections.get()).sum(),
        num_subs: shards.clone().map(|shard| shard.subscriptions.get()).sum(),
        num_channels: shards.map(|shard| shard.home_topics_occupied.get()).sum(),
        uptime: SystemTime::now().duration_since(state.started).unwrap_or_default().as_secs(),
    };
    let other = |other: OtherNode| Node {
        uid: other.uid,
        name: other.name,
        version: other.version.into(),
        num_clients: other.connections,
        num_subs: other.subscriptions,
        num_channels: other.topics,
        uptime: other.uptime_s,
    };
    let others = state.other_nodes().await?.into_iter().map(other);
    Ok(Outcome::Info { nodes: std::iter::once(node).chain(others).collect() })
}

/// Makes the draft of a request's message for any topic.
fn drafts(request: &request::Publish<'_>, body: &Bytes) -> Result<impl Fn(TopicName) -> Draft, ApiError> {
    if request.version.is_some_and(|version| version > 0) {
        return Err(ApiError::NotAvailable);
    }
    let (is_text, payload) = payload(request.data, request.b64data.as_deref(), body)?;
    let (key, idempotency_key) = (optional_key(&request.key)?, optional_key(&request.idempotency_key)?);
    let tags = request.tags.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    let tags = sorted_tags(tags).map_err(|_| ApiError::BadRequest)?;
    let skip_history = request.skip_history.unwrap_or(false);
    Ok(move |topic| Draft {
        key: key.clone(),
        tags: tags.clone(),
        idempotency_key: idempotency_key.clone(),
        skip_history,
        ..Draft::new(topic, is_text, payload.clone())
    })
}

/// The payload, and whether it is text: JSON as it stands in `body`, or whatever base64 stands for.
fn payload(data: Option<&RawValue>, b64data: Option<&str>, body: &Bytes) -> Result<(bool, Bytes), ApiError> {
    let (is_text, payload) = match (b64data.filter(|text| !text.is_empty()), data) {
        (Some(text), _) => (false, STANDARD.decode(text).map_err(|_| ApiError::BadRequest)?.into()),
        (None, Some(json)) => (true, body.slice_ref(json.get().as_bytes())),
        (None, None) => return Err(ApiError::BadRequest),
    };
    if payload.len() > PUBLISH_BYTES_MAX { Err(ApiError::BadRequest) } else { Ok((is_text, payload)) }
}

fn topic(channel: &Option<String>) -> Result<TopicName, ApiError> {
    TopicName::new(channel.as_deref().unwrap_or_default()).map_err(|_| ApiError::BadRequest)
}

fn namespace(state: &State, topic: &TopicName) -> Result<Namespace, ApiError> {
    let namespaces = state.namespaces.borrow();
    let id = namespaces.find(topic).map_err(|_| ApiError::UnknownChannel)?;
    Ok(namespaces.get(id).clone())
}

fn require_history(state: &State, topic: &TopicName) -> Result<(), ApiError> {
    if namespace(state, topic)?.history_size == 0 { Err(ApiError::NoHistory) } else { Ok(()) }
}

/// The clients that have subscribed, where the namespace keeps presence.
async fn present(state: &State, request: &request::Channel) -> Result<Vec<Arc<ClientInfo>>, ApiError> {
    let topic = topic(&request.channel)?;
    if !namespace(state, &topic)?.presence {
        return Err(ApiError::NoPresence);
    }
    match state.ask(topic, Query::Presence).await? {
        Answer::Presence(present) => Ok(present),
        answer => Err(refusal(&answer)),
    }
}

/// Why a question was not answered.
fn refusal(answer: &Answer) -> ApiError {
    match answer {
        Answer::Refused(error) => (*error).into(),
        _ => unreachable!("a home answers what it was asked: {answer:?}"),
    }
}

/// Has the connections of a user do something. To the shards no user at all is every one, which is more than anybody
/// means who leaves the name out.
async fn order(
    state: &State,
    user: &Option<String>,
    client: &Option<String>,
    session: &Option<String>,
    action: UserAction,
) -> Outcomes {
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    if given(session).is_some() {
        return Err(ApiError::NotAvailable);
    }
    let (user, client) = (given(user), given(client));
    if user.is_none() && client.is_none() {
        return Err(ApiError::BadRequest);
    }
    state.order_everywhere(UserCommand { user: user.unwrap_or_default(), client, action }).await?;
    Ok(Outcome::Done {})
}
