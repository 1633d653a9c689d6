//! A stand-in for the shards, for tests. What becomes of a publication is in its topic's name.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::metrics::MemoryInUse;
use super::shards::{CountsOfShard, Outcome, ToShards};
use super::{Access, State};
use crate::buf::{ConnId, SlotId};
use crate::gateway::{Identity, UserCommand};
use crate::proto::MessageKind;
use crate::server::{
    ConnectionSummary, ConnectionsPage, ConnectionsQuery, Disconnection, PublishError, SlowConnection, Status,
};
use crate::topics::{
    Answer, ClientInfo, Draft, Encoding, Epoch, HistoryPage, Namespace, Namespaces, Position, Query, SubscriberCounts,
    TopicName, TopicSummary, TopicsPage, TopicsQuery,
};

/// Publishes to nobody and keeps a record. Clones keep the same one.
///
/// The topic `busy` finds its queue full, the shard of `full` has too many topics, that of `gone` has stopped. Topics
/// of the namespace `kept` have history and presence: in `kept:empty` nothing and nobody, elsewhere two clients of
/// Ann's and one of Bob's; positions of another epoch than [`epoch`](Self::epoch) are not there.
#[derive(Clone, Default)]
pub(super) struct Shards {
    /// Publications, in order.
    pub(super) published: Rc<RefCell<Vec<(String, MessageKind, Bytes)>>>,
    /// The same, with all that was said of it.
    pub(super) drafts: Rc<RefCell<Vec<Draft>>>,
    /// Queries, in order.
    pub(super) asked: Rc<RefCell<Vec<(String, Query)>>>,
    /// Commands for users' connections, in order.
    pub(super) ordered: Rc<RefCell<Vec<UserCommand>>>,
    /// Searches for connections, in order.
    pub(super) sought: Rc<RefCell<Vec<ConnectionsQuery>>>,
    /// Connections that were closed, with their shard.
    pub(super) disconnected: Rc<RefCell<Vec<(usize, Disconnection)>>>,
    /// How often a drain finds a queue full before it succeeds.
    pub(super) drain_refusals: Rc<Cell<u32>>,
    /// Whether it has succeeded.
    pub(super) drained: Rc<Cell<bool>>,
}

impl Shards {
    /// The epoch of all topics.
    pub(super) fn epoch() -> Epoch {
        Epoch::new(33)
    }

    /// The state of a control plane for these shards.
    pub(super) fn state(&self) -> State {
        self.state_with(None)
    }

    /// The same, where requests must carry this key.
    pub(super) fn state_with_key(&self, key: &str) -> State {
        self.state_with(Some(key.to_owned()))
    }

    fn state_with(&self, key: Option<String>) -> State {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 8001)).into();
        let access = Access::new(&address, key).expect("it is on loopback");
        let kept = Namespace { history_size: 10, presence: true, ..Namespace::default() };
        let others = vec![("kept".to_owned(), kept), ("plain".to_owned(), Namespace::default())];
        let namespaces = Arc::new(Namespaces::new(Namespace::default(), others));
        State::new(Box::new(self.clone()), Status::new(2), namespaces, access, address, MemoryInUse::default())
    }
}

impl ToShards for Shards {
    fn publish(&mut self, draft: Draft) -> Result<Outcome, PublishError> {
        let (reply, outcome) = oneshot::channel();
        let verdict = match draft.topic.as_str() {
            "busy" => return Err(PublishError::Busy),
            "gone" => return Ok(outcome),
            "full" => Err(PublishError::TooManyTopics),
            "keys" => Err(PublishError::TooManyKeys),
            "unknown:topic" => Err(PublishError::UnknownNamespace),
            _ => {
                let kind = if draft.is_text { MessageKind::Text } else { MessageKind::Binary };
                let mut published = self.published.borrow_mut();
                published.push((draft.topic.to_string(), kind, draft.payload.clone()));
                self.drafts.borrow_mut().push(draft);
                Ok(Position { epoch: Shards::epoch(), offset: published.len() as u64 })
            }
        };
        reply.send(verdict).expect("the outcome is still held");
        Ok(outcome)
    }

    fn ask(&mut self, topic: TopicName, query: Query) -> Result<oneshot::Receiver<Answer>, PublishError> {
        let (reply, answer) = oneshot::channel();
        let is_empty = topic.as_str() == "kept:empty";
        self.asked.borrow_mut().push((topic.to_string(), query.clone()));
        let is_here = |position: Position| position.epoch == Shards::epoch();
        let answered = match query {
            Query::History(_) if is_empty => Answer::History(None),
            Query::History(query) => Answer::History(Some(HistoryPage {
                position: Position { epoch: Shards::epoch(), offset: 7 },
                publications: query.since.is_none_or(is_here).then(Vec::new),
            })),
            Query::RemoveHistory => Answer::HistoryRemoved,
            Query::Summary => Answer::Summary(None),
            Query::State(_) | Query::Value(_) => Answer::Refused(PublishError::NotKeyed),
            Query::Presence | Query::PresenceHere if is_empty => Answer::Presence(Vec::new()),
            Query::Presence | Query::PresenceHere => {
                Answer::Presence([("1", "ann"), ("2", "bob"), ("3", "ann")].map(client).to_vec())
            }
        };
        reply.send(answered).expect("the answer is still held");
        Ok(answer)
    }

    fn list_topics(&mut self, shard: usize, query: TopicsQuery) -> Result<oneshot::Receiver<TopicsPage>, PublishError> {
        let names = [&["plain:a", "kept:a"][..], &["b"]][shard];
        let summary = |name: &str| TopicSummary {
            name: TopicName::new(name).expect("a valid name"),
            position: Position { epoch: Shards::epoch(), offset: 7 },
            published_ms: 0,
            history_len: 2,
            history_bytes: 10,
            keys: 0,
            present: 0,
            has_subscribers: true,
        };
        let is_wanted = |name: &&&str| query.pattern.as_ref().is_none_or(|pattern| pattern.matches(name));
        let found = names.iter().skip(query.from).take(query.limit);
        let next = Some(query.from.saturating_add(query.limit)).filter(|next| *next < names.len());
        Ok(answered(TopicsPage { topics: found.filter(is_wanted).map(|name| summary(name)).collect(), next }))
    }

    fn count_subscribers(&mut self, topics: Arc<[TopicName]>) -> Result<Vec<CountsOfShard>, PublishError> {
        let count = |topic: &TopicName| match topic.as_str() {
            "kept:a" => [(Encoding::RAW, 2)].into_iter().collect(),
            _ => SubscriberCounts::new(),
        };
        Ok((0..2).map(|_| answered(topics.iter().map(count).collect())).collect())
    }

    fn list_connections(
        &mut self,
        shard: usize,
        query: ConnectionsQuery,
    ) -> Result<oneshot::Receiver<ConnectionsPage>, PublishError> {
        let connection = |slot: usize| ConnectionSummary {
            shard: shard as u16,
            id: ConnId { slot: SlotId(slot as u32), generation: 3 },
            peer: Some(([192, 0, 2, slot as u8], 40_000).into()),
            client_subject: Some("CN=ann".to_owned()),
            route: "/feed/".to_owned(),
            transport: "websocket",
            state: "open",
            identity: Identity::default(),
            subscriptions: 1,
            topics: vec![TopicName::new("a").expect("a valid name")],
            outbox_bytes: 0,
            oldest_age_ms: 0,
        };
        let all = (query.from..3).map(connection);
        let is_wanted = |row: &ConnectionSummary| query.address.is_none_or(|address| row.peer.unwrap().ip() == address);
        self.sought.borrow_mut().push(query.clone());
        Ok(answered(ConnectionsPage { connections: all.filter(is_wanted).take(query.limit).collect(), next: None }))
    }

    fn disconnect(
        &mut self,
        shard: usize,
        disconnection: Disconnection,
    ) -> Result<oneshot::Receiver<usize>, PublishError> {
        let count = disconnection.connections.len();
        self.disconnected.borrow_mut().push((shard, disconnection));
        Ok(answered(count))
    }

    fn slowest(&mut self, count: usize) -> Result<Vec<oneshot::Receiver<Vec<SlowConnection>>>, PublishError> {
        let connection = |shard, outbox_bytes| SlowConnection {
            shard,
            id: ConnId { slot: SlotId(2), generation: 0 },
            peer: Some(([192, 0, 2, 7], 40_000).into()),
            outbox_bytes,
            oldest_age_ms: 5,
            topics: vec![TopicName::new("a").expect("a valid name")],
        };
        let lists = [vec![connection(0, 200)], vec![connection(1, 300), connection(1, 100)]];
        let list = |mut connections: Vec<SlowConnection>| {
            let (reply, list) = oneshot::channel();
            connections.truncate(count);
            reply.send(connections).expect("the list is still held");
            list
        };
        Ok(lists.map(list).into())
    }

    fn order(&mut self, order: UserCommand) -> Result<(), PublishError> {
        self.ordered.borrow_mut().push(order);
        Ok(())
    }

    fn drain(&mut self) -> Result<(), PublishError> {
        match self.drain_refusals.get() {
            0 => self.drained.set(true),
            left => {
                self.drain_refusals.set(left - 1);
                return Err(PublishError::Busy);
            }
        }
        Ok(())
    }
}

/// A receiver that has its answer.
fn answered<T: std::fmt::Debug>(answer: T) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    sender.send(answer).expect("the answer is still held");
    receiver
}

fn client((client, user): (&str, &str)) -> Arc<ClientInfo> {
    let conn_info = (user == "ann").then(|| b"{\"name\":\"Ann\"}".as_slice().into());
    Arc::new(ClientInfo { client: client.into(), user: user.into(), conn_info, chan_info: None })
}
