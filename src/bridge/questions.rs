//! Questions to all other nodes, and orders for them: of the server API, about connections that may be anywhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use crate::cluster::{Ask, Figures, Info, Reply};
use crate::gateway::{SubscriptionTerms, UserAction, UserCommand};
use crate::limits::{CLUSTER_ANSWER_MS, CLUSTER_QUESTIONS_MAX, LIST_ROWS_MAX};
use crate::proto::CloseCode;
use crate::server::{
    ConnectionsQuery, Disconnection, Placement, Publisher, ShardMetrics, Status, Waiter, disconnect_all,
};
use crate::topics::{Answer, ClientInfo, PublishError, Query, TopicName};

/// A question to all other nodes.
#[derive(Clone, Debug)]
pub enum Question {
    /// Have the connections of a user do something.
    Command(UserCommand),
    /// Which topics have subscribers or a history?
    Topics,
    /// Who has subscribed to the topic?
    Presence(TopicName),
    /// How many connections are there?
    Info,
    /// Close the connections from an address, to a topic, or both.
    Disconnect(ConnectionsQuery, Disconnection),
}

/// The asker.
#[derive(Debug)]
pub(super) enum Asker {
    /// The control plane.
    Control(oneshot::Sender<Vec<NodeAnswer>>),
    /// A shard, about the presence of a topic.
    Shard(Waiter),
}

/// The answer of a node.
#[derive(Clone, Debug, Default)]
pub struct NodeAnswer {
    /// The node's name.
    pub node: String,
    /// Whether it has answered in time.
    pub has_answered: bool,
    /// Topics with subscribers or a history, with the number of subscribers.
    pub topics: Vec<(TopicName, u64)>,
    /// Present clients.
    pub clients: Vec<ClientInfo>,
    /// What the node counts.
    pub info: NodeInfo,
    /// Connections that were closed.
    pub disconnected: usize,
}

/// What a node counts.
#[derive(Clone, PartialEq, Message)]
pub struct NodeInfo {
    /// Its id, as text.
    #[prost(string, tag = "1")]
    pub uid: String,
    /// The version of its program.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Connections.
    #[prost(uint64, tag = "3")]
    pub connections: u64,
    /// Subscriptions.
    #[prost(uint64, tag = "4")]
    pub subscriptions: u64,
    /// Topics with subscribers.
    #[prost(uint64, tag = "5")]
    pub topics: u64,
    /// Seconds since it has joined.
    #[prost(uint64, tag = "6")]
    pub uptime_s: u64,
}

/// A question on its way.
#[derive(Clone, PartialEq, Message)]
struct WireQuestion {
    #[prost(enumeration = "Kind", tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    topic: String,
    #[prost(string, tag = "3")]
    user: String,
    #[prost(string, optional, tag = "4")]
    client: Option<String>,
    #[prost(uint32, tag = "5")]
    code: u32,
    #[prost(string, tag = "6")]
    reason: String,
    #[prost(bool, tag = "7")]
    is_expired: bool,
    #[prost(uint64, optional, tag = "8")]
    expire_at: Option<u64>,
    #[prost(string, tag = "9")]
    address: String,
    #[prost(bytes = "bytes", tag = "10")]
    info: Bytes,
    #[prost(bytes = "bytes", tag = "11")]
    data: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unknown = 0,
    Subscribe = 1,
    Unsubscribe = 2,
    Disconnect = 3,
    Refresh = 4,
    Topics = 5,
    Presence = 6,
    Info = 7,
    DisconnectMatching = 8,
}

/// An answer on its way.
#[derive(Clone, PartialEq, Message)]
struct WireAnswer {
    #[prost(bool, tag = "1")]
    is_done: bool,
    #[prost(message, repeated, tag = "2")]
    topics: Vec<WireTopic>,
    #[prost(message, repeated, tag = "3")]
    clients: Vec<Info>,
    #[prost(message, optional, tag = "4")]
    info: Option<NodeInfo>,
    #[prost(uint64, tag = "5")]
    disconnected: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireTopic {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    subscribers: u64,
}

/// A question whose answers are awaited.
struct Pending {
    asker: Asker,
    /// The nodes that have not answered, with their names.
    left: HashMap<u64, String>,
    answers: Vec<NodeAnswer>,
    deadline_ms: u64,
}

/// The questions of this node, and its answers to those of others.
pub(super) struct Questions {
    publisher: Publisher,
    shards: Status,
    start: Instant,
    next: u64,
    placements: Vec<Placement>,
    pending: HashMap<u64, Pending>,
    sender: mpsc::UnboundedSender<(u64, Reply)>,
    answers: mpsc::UnboundedReceiver<(u64, Reply)>,
}

impl Questions {
    /// No questions.
    pub(super) fn new(publisher: Publisher, shards: Status) -> Questions {
        let (sender, answers) = mpsc::unbounded_channel();
        let (start, placements, pending) = (Instant::now(), Vec::new(), HashMap::new());
        Questions { publisher, shards, start, next: 0, placements, pending, sender, answers }
    }

    /// Begins to ask. Returns what to send; `None` if there is no other node.
    pub(super) fn ask(&mut self, question: &Question, asker: Asker, figures: &Figures, now_ms: u64) -> Option<Ask> {
        let left: HashMap<u64, String> = figures.peers.iter().map(|peer| (peer.id, peer.name.clone())).collect();
        if left.is_empty() || self.pending.len() >= CLUSTER_QUESTIONS_MAX {
            let missing = left.into_values().map(|node| NodeAnswer { node, ..NodeAnswer::default() });
            self.tell(asker, missing.collect());
            return None;
        }
        self.next += 1;
        let deadline_ms = now_ms + CLUSTER_ANSWER_MS;
        self.pending.insert(self.next, Pending { asker, left, answers: Vec::new(), deadline_ms });
        Some(Ask { id: self.next, question: WireQuestion::from(question).encode_to_vec().into() })
    }

    /// A node has answered.
    pub(super) fn on_reply(&mut self, from: u64, reply: &Reply) {
        let Some(pending) = self.pending.get_mut(&reply.id) else { return };
        let Some(node) = pending.left.remove(&from) else { return };
        let answer = WireAnswer::decode(reply.answer.clone()).unwrap_or_default();
        let topic = |topic: WireTopic| Some((TopicName::new(&topic.name).ok()?, topic.subscribers));
        let mut info = answer.info.unwrap_or_default();
        info.uid = format!("{from:016x}");
        pending.answers.push(NodeAnswer {
            node,
            has_answered: answer.is_done,
            topics: answer.topics.into_iter().filter_map(topic).collect(),
            clients: answer.clients.into_iter().map(ClientInfo::from).collect(),
            info,
            disconnected: answer.disconnected as usize,
        });
        if pending.left.is_empty() {
            self.end(reply.id);
        }
    }

    /// Ends questions whose time is over, and waits for no node that has gone.
    pub(super) fn on_time(&mut self, now_ms: u64) {
        let over = self.pending.iter().filter(|(_, pending)| pending.deadline_ms <= now_ms).map(|(id, _)| *id);
        for id in over.collect::<Vec<_>>() {
            self.end(id);
        }
    }

    fn end(&mut self, id: u64) {
        let Some(mut pending) = self.pending.remove(&id) else { return };
        let missing = pending.left.into_values().map(|node| NodeAnswer { node, ..NodeAnswer::default() });
        pending.answers.extend(missing);
        self.tell(pending.asker, pending.answers);
    }

    fn tell(&mut self, asker: Asker, answers: Vec<NodeAnswer>) {
        match asker {
            // It may have gone.
            Asker::Control(sender) => drop(sender.send(answers)),
            Asker::Shard(waiter) => {
                let has_all = answers.iter().all(|answer| answer.has_answered);
                let clients = answers.into_iter().flat_map(|answer| answer.clients).map(Arc::new).collect();
                let clients = if has_all { Ok(clients) } else { Err(PublishError::Busy) };
                self.placements.push(Placement::Present { waiter, clients });
            }
        }
    }

    /// Takes the answers to shards.
    pub(super) fn take_placements(&mut self) -> Vec<Placement> {
        std::mem::take(&mut self.placements)
    }

    /// Another node asks: the answer follows by [`take_answers`](Self::take_answers).
    pub(super) fn on_asked(&self, from: u64, ask: Ask) {
        let Ok(question) = WireQuestion::decode(ask.question) else { return };
        let (publisher, sender, shards) = (self.publisher.clone(), self.sender.clone(), self.shards.clone());
        let uptime_s = self.start.elapsed().as_secs();
        tokio::spawn(async move {
            let answer = question.answer(&publisher, &shards, uptime_s).await.unwrap_or_default();
            let _ = sender.send((from, Reply { id: ask.id, answer: answer.encode_to_vec().into() }));
        });
    }

    /// Takes the answers to other nodes.
    pub(super) fn take_answers(&mut self) -> Vec<(u64, Reply)> {
        std::iter::from_fn(|| self.answers.try_recv().ok()).collect()
    }
}

impl From<&Question> for WireQuestion {
    fn from(question: &Question) -> WireQuestion {
        let mut wire = WireQuestion::default();
        let kind = match question {
            Question::Topics => Kind::Topics,
            Question::Info => Kind::Info,
            Question::Presence(topic) => {
                wire.topic = topic.to_string();
                Kind::Presence
            }
            Question::Disconnect(query, how) => {
                wire.topic = query.topic.as_ref().map(TopicName::to_string).unwrap_or_default();
                wire.address = query.address.map(|address| address.to_string()).unwrap_or_default();
                (wire.code, wire.reason) = (how.code.0.into(), how.reason.clone());
                Kind::DisconnectMatching
            }
            Question::Command(UserCommand { user, client, action }) => {
                (wire.user, wire.client) = (user.clone(), client.clone());
                match action {
                    UserAction::Subscribe(topic, SubscriptionTerms { info, data, expire_at }) => {
                        (wire.topic, wire.expire_at) = (topic.to_string(), *expire_at);
                        (wire.info, wire.data) = (info.clone(), data.clone());
                        Kind::Subscribe
                    }
                    UserAction::Unsubscribe(topic) => {
                        wire.topic = topic.to_string();
                        Kind::Unsubscribe
                    }
                    UserAction::Disconnect { code, reason } => {
                        (wire.code, wire.reason) = (code.0.into(), reason.clone());
                        Kind::Disconnect
                    }
                    UserAction::Refresh { is_expired, expire_at } => {
                        (wire.is_expired, wire.expire_at) = (*is_expired, *expire_at);
                        Kind::Refresh
                    }
                }
            }
        };
        WireQuestion { kind: kind.into(), ..wire }
    }
}

impl WireQuestion {
    /// What to close, and how; `None` if that is invalid, or would be everything.
    fn disconnection(&self) -> Option<(ConnectionsQuery, Disconnection)> {
        let topic = Some(&self.topic).filter(|topic| !topic.is_empty()).map(|topic| TopicName::new(topic));
        let address = Some(&self.address).filter(|address| !address.is_empty()).map(|address| address.parse());
        let (topic, address) = (topic.transpose().ok()?, address.transpose().ok()?);
        let query = ConnectionsQuery { limit: LIST_ROWS_MAX, address, topic, ..ConnectionsQuery::default() };
        let code = CloseCode(u16::try_from(self.code).ok()?);
        let how = Disconnection { connections: Vec::new(), code, reason: self.reason.clone() };
        (query.topic.is_some() || query.address.is_some()).then_some((query, how))
    }

    /// Answers from this node's shards; `None` if it can't.
    async fn answer(self, publisher: &Publisher, shards: &Status, uptime_s: u64) -> Option<WireAnswer> {
        let topic = || TopicName::new(&self.topic).ok();
        let mut answer = WireAnswer { is_done: true, ..WireAnswer::default() };
        let action = match self.kind() {
            Kind::Unknown => return None,
            Kind::Topics => {
                let topics = publisher.all_topics().await.ok()?.into_iter();
                answer.topics =
                    topics.map(|(name, subscribers)| WireTopic { name: name.to_string(), subscribers }).collect();
                return Some(answer);
            }
            Kind::Presence => {
                let Answer::Presence(clients) = publisher.ask(topic()?, Query::PresenceHere).ok()?.await.ok()? else {
                    return None;
                };
                answer.clients = clients.iter().map(|client| Info::from(&**client)).collect();
                return Some(answer);
            }
            Kind::Info => {
                let sum = |count: fn(&ShardMetrics) -> u64| shards.shards.iter().map(count).sum();
                answer.info = Some(NodeInfo {
                    uid: String::new(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    connections: sum(|shard| shard.connections.get()),
                    subscriptions: sum(|shard| shard.subscriptions.get()),
                    topics: sum(|shard| shard.home_topics_occupied.get()),
                    uptime_s,
                });
                return Some(answer);
            }
            Kind::DisconnectMatching => {
                let (query, how) = self.disconnection()?;
                answer.disconnected = disconnect_all(publisher, &query, &how).await.ok()? as u64;
                return Some(answer);
            }
            Kind::Subscribe => {
                let terms =
                    SubscriptionTerms { info: self.info.clone(), data: self.data.clone(), expire_at: self.expire_at };
                UserAction::Subscribe(topic()?, terms)
            }
            Kind::Unsubscribe => UserAction::Unsubscribe(topic()?),
            Kind::Disconnect => {
                UserAction::Disconnect { code: CloseCode(u16::try_from(self.code).ok()?), reason: self.reason }
            }
            Kind::Refresh => UserAction::Refresh { is_expired: self.is_expired, expire_at: self.expire_at },
        };
        publisher.order(UserCommand { user: self.user, client: self.client, action }).ok()?;
        Some(answer)
    }
}
