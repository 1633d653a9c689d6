//! A stand-in for the shards, for tests. What becomes of a publication is in its topic's name.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::metrics::MemoryInUse;
use super::shards::{Outcome, ToShards, TopicList};
use super::{Access, State};
use crate::buf::ConnId;
use crate::gateway::UserCommand;
use crate::proto::MessageKind;
use crate::server::{PublishError, SlowConnection, Status};
use crate::topics::{Answer, ClientInfo, Draft, Epoch, HistoryPage, Namespace, Namespaces, Position, Query, TopicName};

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
        let address = ([127, 0, 0, 1], 8001).into();
        let access = Access::new(address, key).expect("it is on loopback");
        let kept = Namespace { history_size: 10, presence: true, ..Namespace::default() };
        let others = vec![("kept".to_owned(), kept), ("plain".to_owned(), Namespace::default())];
        let namespaces = Arc::new(Namespaces::new(Namespace::default(), others));
        State::new(Box::new(self.clone()), Status::new(1), namespaces, access, address, MemoryInUse::default())
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
        self.asked.borrow_mut().push((topic.to_string(), query));
        let is_here = |position: Position| position.epoch == Shards::epoch();
        let answered = match query {
            Query::History(_) if is_empty => Answer::History(None),
            Query::History(query) => Answer::History(Some(HistoryPage {
                position: Position { epoch: Shards::epoch(), offset: 7 },
                publications: query.since.is_none_or(is_here).then(Vec::new),
            })),
            Query::RemoveHistory => Answer::HistoryRemoved,
            Query::Presence | Query::PresenceHere if is_empty => Answer::Presence(Vec::new()),
            Query::Presence | Query::PresenceHere => {
                Answer::Presence([("1", "ann"), ("2", "bob"), ("3", "ann")].map(client).to_vec())
            }
        };
        reply.send(answered).expect("the answer is still held");
        Ok(answer)
    }

    fn topics(&mut self) -> Result<Vec<TopicList>, PublishError> {
        let lists = [vec![("plain:a", 0), ("kept:a", 3)], vec![("b", 0)]];
        let list = |topics: Vec<(&str, usize)>| {
            let (reply, list) = oneshot::channel();
            let named = topics.into_iter().map(|(topic, count)| (TopicName::new(topic).expect("a valid name"), count));
            reply.send(named.collect()).expect("the list is still held");
            list
        };
        Ok(lists.map(list).into())
    }

    fn slowest(&mut self, count: usize) -> Result<Vec<oneshot::Receiver<Vec<SlowConnection>>>, PublishError> {
        let connection = |shard, outbox_bytes| SlowConnection {
            shard,
            id: ConnId { slot: 2, generation: 0 },
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

fn client((client, user): (&str, &str)) -> Arc<ClientInfo> {
    let conn_info = (user == "ann").then(|| b"{\"name\":\"Ann\"}".as_slice().into());
    Arc::new(ClientInfo { client: client.into(), user: user.into(), conn_info, chan_info: None })
}
