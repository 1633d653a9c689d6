//! Topics and connections, page by page.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::super::State;
use super::super::answer::Answer;
use super::super::lists::{Cursor, TopicRow};
use super::super::query::pairs;
use super::{bad_request, json, unavailable};
use crate::gateway::{encoding_name, unknown_parameter};
use crate::limits::{LIST_ROWS_MAX, LIST_SEARCH_MS, TOPIC_PATTERN_BYTES_MAX};
use crate::server::{ConnectionSummary, ConnectionsQuery, address_text};
use crate::topics::{Namespace, Query, SYSTEM_NAMESPACE, TopicName, TopicPattern};

/// Rows of a page without `limit`.
const ROWS: usize = 100;

/// How long a page is searched for.
const PATIENCE: Duration = Duration::from_millis(LIST_SEARCH_MS);

/// The parameters of a request.
#[derive(Default)]
struct Parameters {
    cursor: Cursor,
    limit: usize,
    pattern: Option<TopicPattern>,
    name: Option<TopicName>,
    address: Option<IpAddr>,
    user: Option<String>,
    topic: Option<TopicName>,
}

#[derive(Serialize)]
struct Topic<'a> {
    name: &'a str,
    namespace: &'a str,
    subscribers: u64,
    epoch: String,
    offset: u64,
    history_len: usize,
    history_bytes: usize,
    published_ms: u64,
    present: usize,
}

#[derive(Serialize)]
struct Topics<'a> {
    topics: Vec<Topic<'a>>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct OneTopic<'a> {
    /// `null` if no shard knows it.
    topic: Option<Topic<'a>>,
    settings: &'a Namespace,
    subscribers: Vec<Subscribers>,
}

/// The subscribers with one encoding.
#[derive(Serialize)]
struct Subscribers {
    encoding: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct Connection {
    shard: u16,
    slot: u32,
    generation: u32,
    address: Option<String>,
    /// Of the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    route: String,
    transport: &'static str,
    state: &'static str,
    user: String,
    client: String,
    subscriptions: usize,
    topics: Vec<String>,
    outbox_bytes: usize,
    oldest_age_ms: u64,
}

#[derive(Serialize)]
struct Connections {
    connections: Vec<Connection>,
    cursor: Option<String>,
}

impl Parameters {
    /// Parses a query that may have parameters of these names.
    fn parse(query: &str, known: &[&str]) -> Result<Parameters, String> {
        let mut parameters = Parameters { limit: ROWS, ..Parameters::default() };
        for pair in pairs(query) {
            let (name, value) = pair?;
            if !known.contains(&&*name) {
                return Err(unknown_parameter(&name, known));
            }
            if !value.is_empty() {
                parameters.set(&name, &value)?;
            }
        }
        Ok(parameters)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let topic = || TopicName::new(value).map(Some).map_err(|error| error.to_string());
        match name {
            "cursor" => self.cursor = value.parse().map_err(|error| format!("{error}"))?,
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LIST_ROWS_MAX).contains(limit));
                self.limit = limit.ok_or_else(|| format!("limit must be a number from 1 to {LIST_ROWS_MAX}"))?;
            }
            "match" => self.pattern = Some(TopicPattern::new(value).map_err(|error| error.to_string())?),
            "name" => self.name = topic()?,
            "topic" => self.topic = topic()?,
            "user" if value.len() > TOPIC_PATTERN_BYTES_MAX => {
                return Err(format!("a user to search for must have at most {TOPIC_PATTERN_BYTES_MAX} bytes"));
            }
            "user" => self.user = Some(value.to_owned()),
            _ => {
                let address: Result<IpAddr, _> = value.parse();
                let address = address.map_err(|_| "address must be an IP address, without a port")?;
                self.address = Some(address.to_canonical());
            }
        }
        Ok(())
    }
}

/// `GET /admin/topics?match=PATTERN&limit=N&cursor=CURSOR`.
pub(super) async fn topics(state: &State, query: &str) -> Answer {
    let Parameters { cursor, limit, pattern, .. } = match Parameters::parse(query, &["match", "limit", "cursor"]) {
        Ok(parameters) => parameters,
        Err(remedy) => return bad_request(remedy),
    };
    match state.list_topics(cursor, limit, pattern, PATIENCE).await {
        Ok(page) => {
            let topics = page.rows.iter().map(Topic::new).collect();
            json(&Topics { topics, cursor: page.next.map(|next| next.to_string()) })
        }
        Err(error) => unavailable(error),
    }
}

/// `GET /admin/topic?name=TOPIC`.
pub(super) async fn topic(state: &State, query: &str) -> Answer {
    let name = match Parameters::parse(query, &["name"]) {
        Ok(Parameters { name: Some(name), .. }) => name,
        Ok(_) => return bad_request("name the topic: ?name=TOPIC"),
        Err(remedy) => return bad_request(remedy),
    };
    let namespaces = state.namespaces.borrow().clone();
    let Ok(namespace) = namespaces.find(&name) else {
        return bad_request(crate::server::PublishError::UnknownNamespace);
    };
    let counts = state.count_subscribers(Arc::from([name.clone()])).await;
    let (counts, summary) = match (counts, state.summary(name).await) {
        (Ok(counts), Ok(summary)) => (counts, summary),
        (Err(error), _) | (_, Err(error)) => return unavailable(error),
    };
    let mut subscribers: Vec<Subscribers> = Vec::new();
    for (encoding, count) in counts.into_iter().flatten().flatten() {
        let encoding = encoding_name(encoding);
        match subscribers.iter_mut().find(|known| known.encoding == encoding) {
            Some(known) => known.count += count,
            None => subscribers.push(Subscribers { encoding, count }),
        }
    }
    let row = summary.map(|summary| (summary, subscribers.iter().map(|known| known.count).sum()));
    json(&OneTopic { topic: row.as_ref().map(Topic::new), settings: namespaces.get(namespace), subscribers })
}

/// `GET /admin/connections?address=IP&user=USER&topic=TOPIC&limit=N&cursor=CURSOR`.
pub(super) async fn connections(state: &State, query: &str) -> Answer {
    let known = ["address", "user", "topic", "limit", "cursor"];
    let Parameters { cursor, limit, address, user, topic, .. } = match Parameters::parse(query, &known) {
        Ok(parameters) => parameters,
        Err(remedy) => return bad_request(remedy),
    };
    let query = ConnectionsQuery { from: 0, limit, address, user, topic };
    match state.list_connections(cursor, &query, PATIENCE).await {
        Ok(page) => {
            let connections = page.rows.into_iter().map(Connection::from).collect();
            json(&Connections { connections, cursor: page.next.map(|next| next.to_string()) })
        }
        Err(error) => unavailable(error),
    }
}

impl State {
    /// What the home of a topic knows of it.
    async fn summary(
        &self,
        topic: TopicName,
    ) -> Result<Option<crate::topics::TopicSummary>, crate::server::PublishError> {
        match self.ask(topic, Query::Summary).await? {
            crate::topics::Answer::Summary(summary) => Ok(summary),
            crate::topics::Answer::Refused(error) => Err(error),
            answer => unreachable!("a home answers what it was asked: {answer:?}"),
        }
    }
}

impl<'a> Topic<'a> {
    fn new((summary, subscribers): &'a TopicRow) -> Topic<'a> {
        let namespace = if summary.name.is_system() { Some(SYSTEM_NAMESPACE) } else { summary.name.namespace() };
        Topic {
            name: summary.name.as_str(),
            namespace: namespace.unwrap_or_default(),
            subscribers: *subscribers,
            epoch: summary.position.epoch.to_string(),
            offset: summary.position.offset,
            history_len: summary.history_len,
            history_bytes: summary.history_bytes,
            published_ms: summary.published_ms,
            present: summary.present,
        }
    }
}

impl From<ConnectionSummary> for Connection {
    fn from(summary: ConnectionSummary) -> Connection {
        let ConnectionSummary { shard, id, peer, route, transport, state, identity, subscriptions, topics, .. } =
            summary;
        Connection {
            shard,
            slot: id.slot.0,
            generation: id.generation,
            address: peer.map(address_text),
            subject: summary.client_subject,
            route,
            transport,
            state,
            user: identity.user,
            client: identity.client,
            subscriptions,
            topics: topics.iter().map(TopicName::to_string).collect(),
            outbox_bytes: summary.outbox_bytes,
            oldest_age_ms: summary.oldest_age_ms,
        }
    }
}
