//! Lists of topics and connections, for operators: page by page, each a bounded part of a turn.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::mesh::{Parcel, Publisher};
use super::metrics::CloseCause;
use super::shard::Shard;
use super::slot::Slot;
use crate::buf::{ConnId, SlotId};
use crate::conn::{Phase, Transport};
use crate::gateway::Identity;
use crate::limits::{LIST_ADDRESSES, LIST_ROWS_MAX, LIST_TOPICS, LIST_VISITS};
use crate::proto::CloseCode;
use crate::ring::Ring;
use crate::topics::{PublishError, SubscriberCounts, TopicName, TopicsPage, TopicsQuery};

/// Which connections of a shard to list. Each part that is there narrows the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionsQuery {
    /// Where to begin: 0, or [`ConnectionsPage::next`] of the page before.
    pub from: usize,
    /// Maximum number of connections.
    pub limit: usize,
    /// Only connections from this address.
    pub address: Option<IpAddr>,
    /// Only connections of this user.
    pub user: Option<String>,
    /// Only subscribers of this topic.
    pub topic: Option<TopicName>,
}

/// A part of the list of a shard's connections.
#[derive(Clone, Debug, Default)]
pub struct ConnectionsPage {
    /// The connections.
    pub connections: Vec<ConnectionSummary>,
    /// Where the next page begins; `None` if this one is the last.
    pub next: Option<usize>,
}

/// A connection, as its shard knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSummary {
    /// Its shard.
    pub shard: u16,
    /// Its place there.
    pub id: ConnId,
    /// The client's address, if known; port 0 if a proxy has not named the port.
    pub peer: Option<SocketAddr>,
    /// The subject of the client's certificate (RFC 4514), if it has shown one.
    pub client_subject: Option<String>,
    /// The path of its route, or the name of its protocol; empty before the request.
    pub route: String,
    /// How it is served: `websocket`, `stream` or `framed`.
    pub transport: &'static str,
    /// `opening`, `open` or `closing`.
    pub state: &'static str,
    /// The client.
    pub identity: Identity,
    /// Number of its subscriptions.
    pub subscriptions: usize,
    /// The first of these.
    pub topics: Vec<TopicName>,
    /// Bytes of its backlog.
    pub outbox_bytes: usize,
    /// Age of the oldest of these, in milliseconds.
    pub oldest_age_ms: u64,
}

/// Connections of one shard for an operator to close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnection {
    /// The connections; those that have ended are skipped.
    pub connections: Vec<ConnId>,
    /// The close code: 3000 to 4999 (RFC 6455 §7.4.2).
    pub code: CloseCode,
    /// The close reason: at most 123 bytes.
    pub reason: String,
}

/// Shards whose connections can be listed and closed. A seam: tests answer in their place.
pub(crate) trait Connections {
    /// How many shards there are.
    fn shards(&self) -> usize;
    /// As [`Publisher::list_connections`].
    fn list_connections(
        &self,
        shard: usize,
        query: ConnectionsQuery,
    ) -> Result<oneshot::Receiver<ConnectionsPage>, PublishError>;
    /// As [`Publisher::disconnect`].
    fn disconnect(&self, shard: usize, closing: Disconnection) -> Result<oneshot::Receiver<usize>, PublishError>;
}

impl Connections for Publisher {
    fn shards(&self) -> usize {
        Publisher::shards(self)
    }

    fn list_connections(
        &self,
        shard: usize,
        query: ConnectionsQuery,
    ) -> Result<oneshot::Receiver<ConnectionsPage>, PublishError> {
        Publisher::list_connections(self, shard, query)
    }

    fn disconnect(&self, shard: usize, closing: Disconnection) -> Result<oneshot::Receiver<usize>, PublishError> {
        Publisher::disconnect(self, shard, closing)
    }
}

/// Closes all connections that `query` describes, page by page. `how` has the code and the reason. Returns how many
/// were open.
pub(crate) async fn disconnect_all(
    of: &impl Connections,
    query: &ConnectionsQuery,
    how: &Disconnection,
) -> Result<usize, PublishError> {
    let mut count = 0;
    for shard in 0..of.shards() {
        let mut next = Some(0);
        while let Some(from) = next {
            let page = of.list_connections(shard, ConnectionsQuery { from, ..query.clone() })?;
            let page = page.await.map_err(|_| PublishError::Stopping)?;
            let connections: Vec<ConnId> = page.connections.iter().map(|connection| connection.id).collect();
            if !connections.is_empty() {
                let closed = of.disconnect(shard, Disconnection { connections, ..how.clone() })?;
                count += closed.await.map_err(|_| PublishError::Stopping)?;
            }
            next = page.next;
        }
    }
    Ok(count)
}

/// A list, or a disconnection: what an operator wants of a shard.
#[derive(Debug)]
pub(super) enum Listing {
    Topics(TopicsQuery, oneshot::Sender<TopicsPage>),
    Subscribers(Arc<[TopicName]>, oneshot::Sender<Vec<SubscriberCounts>>),
    Connections(ConnectionsQuery, oneshot::Sender<ConnectionsPage>),
    Disconnect(Disconnection, oneshot::Sender<usize>),
}

impl Publisher {
    /// Requests a page of the topics whose home is `shard`.
    ///
    /// # Errors
    /// [`PublishError::Busy`] and [`PublishError::Stopping`]. A receiver that fails means that the shard has stopped.
    pub fn list_topics(&self, shard: usize, query: TopicsQuery) -> Result<oneshot::Receiver<TopicsPage>, PublishError> {
        let (reply, page) = oneshot::channel();
        self.send_listing(shard, Listing::Topics(query, reply)).map(|()| page)
    }

    /// Requests from each shard the numbers of its subscribers of these topics, at most [`LIST_ROWS_MAX`].
    ///
    /// # Errors
    /// As [`list_topics`](Self::list_topics).
    pub fn count_subscribers(
        &self,
        topics: Arc<[TopicName]>,
    ) -> Result<Vec<oneshot::Receiver<Vec<SubscriberCounts>>>, PublishError> {
        let count = |shard| {
            let (reply, counts) = oneshot::channel();
            self.send_listing(shard, Listing::Subscribers(topics.clone(), reply)).map(|()| counts)
        };
        (0..self.shards()).map(count).collect()
    }

    /// Requests a page of the connections of `shard`.
    ///
    /// # Errors
    /// As [`list_topics`](Self::list_topics).
    pub fn list_connections(
        &self,
        shard: usize,
        query: ConnectionsQuery,
    ) -> Result<oneshot::Receiver<ConnectionsPage>, PublishError> {
        let (reply, page) = oneshot::channel();
        self.send_listing(shard, Listing::Connections(query, reply)).map(|()| page)
    }

    /// Closes connections of `shard`, at most [`LIST_ROWS_MAX`] of them. The receiver yields how many were still open.
    ///
    /// # Errors
    /// As [`list_topics`](Self::list_topics).
    pub fn disconnect(
        &self,
        shard: usize,
        disconnection: Disconnection,
    ) -> Result<oneshot::Receiver<usize>, PublishError> {
        let (reply, count) = oneshot::channel();
        self.send_listing(shard, Listing::Disconnect(disconnection, reply)).map(|()| count)
    }

    /// All topics of this node with subscribers or a history, with the number of subscribers.
    ///
    /// # Errors
    /// As [`list_topics`](Self::list_topics).
    pub async fn all_topics(&self) -> Result<Vec<(TopicName, u64)>, PublishError> {
        let mut all = Vec::new();
        for shard in 0..self.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                let query = TopicsQuery { from, limit: LIST_ROWS_MAX, pattern: None };
                let page = self.list_topics(shard, query)?.await.map_err(|_| PublishError::Stopping)?;
                let names: Arc<[TopicName]> = page.topics.into_iter().map(|topic| topic.name).collect();
                let mut counts = vec![0; names.len()];
                for receiver in self.count_subscribers(names.clone())? {
                    add_counts(&mut counts, &receiver.await.map_err(|_| PublishError::Stopping)?);
                }
                all.extend(names.iter().cloned().zip(counts));
                next = page.next;
            }
        }
        Ok(all)
    }

    fn send_listing(&self, shard: usize, listing: Listing) -> Result<(), PublishError> {
        self.send(shard, Parcel::List(Box::new(listing)))
    }
}

/// Adds what one shard has counted.
pub(crate) fn add_counts(sums: &mut [u64], counts: &[SubscriberCounts]) {
    for (sum, counts) in sums.iter_mut().zip(counts) {
        *sum += counts.iter().map(|(_, count)| count).sum::<u64>();
    }
}

impl<R: Ring> Shard<'_, R> {
    pub(super) fn on_listing(&mut self, listing: Listing) {
        // The requester may have gone.
        match listing {
            Listing::Topics(query, reply) => drop(reply.send(self.home.list(&query))),
            Listing::Subscribers(topics, reply) => {
                let topics = topics.iter().take(LIST_ROWS_MAX);
                drop(reply.send(topics.map(|topic| self.topics.count_subscribers(topic)).collect()));
            }
            Listing::Connections(query, reply) => drop(reply.send(self.list_connections(&query))),
            Listing::Disconnect(disconnection, reply) => drop(reply.send(self.disconnect(&disconnection))),
        }
    }

    /// The next part of the list of connections, after a bounded number of steps.
    fn list_connections(&mut self, query: &ConnectionsQuery) -> ConnectionsPage {
        let (mut connections, mut addresses) = (Vec::new(), 0);
        let topic = query.topic.as_ref().map(|topic| self.topics.find(topic));
        let end = (query.from.saturating_add(LIST_VISITS)).min(self.slots.capacity());
        for index in query.from..end {
            if connections.len() >= query.limit || addresses >= LIST_ADDRESSES {
                return ConnectionsPage { connections, next: Some(index) };
            }
            let Some(slot) = self.slots.get(SlotId(index as u32)) else { continue };
            let is_subscribed =
                |slot: &Slot, topic| slot.subscriptions.iter().any(|subscription| Some(subscription.topic) == topic);
            if topic.is_some_and(|topic| !is_subscribed(slot, topic)) {
                continue;
            }
            let identity = self.identity_of(slot);
            if query.user.as_ref().is_some_and(|user| *user != identity.user) {
                continue;
            }
            addresses += 1;
            let peer = self.clients.address(slot.id.slot).or_else(|| self.ring.peer(slot.socket));
            let is_from = |address: &IpAddr| peer.is_some_and(|peer| peer.ip().to_canonical() == *address);
            if query.address.as_ref().is_none_or(is_from) {
                connections.push(self.describe(slot, peer, identity));
            }
        }
        ConnectionsPage { connections, next: (end < self.slots.capacity()).then_some(end) }
    }

    fn identity_of(&self, slot: &Slot) -> Identity {
        // A handler knows only the connections that it serves.
        let route = slot.route.filter(|_| slot.cause.is_none());
        route.map_or_else(Identity::default, |route| self.routes.look_up(route).1.identity(slot.id))
    }

    fn describe(&self, slot: &Slot, peer: Option<SocketAddr>, identity: Identity) -> ConnectionSummary {
        let topics = slot.subscriptions.iter().take(LIST_TOPICS);
        let outbox = &slot.conn.outbox;
        ConnectionSummary {
            shard: self.mesh.shard() as u16,
            id: slot.id,
            peer,
            client_subject: self.sessions.subject(slot.id.slot).map(str::to_owned),
            route: slot.route.map(|route| self.routes.look_up(route).0.to_owned()).unwrap_or_default(),
            transport: match slot.conn.transport {
                Transport::WebSocket => "websocket",
                Transport::Stream => "stream",
                Transport::Framed => "framed",
            },
            state: match slot.conn.phase() {
                Phase::Handshake(_) => "opening",
                _ if slot.cause.is_some() => "closing",
                _ => "open",
            },
            identity,
            subscriptions: slot.subscriptions.len(),
            topics: topics.map(|subscription| self.topics.name(subscription.topic).clone()).collect(),
            outbox_bytes: outbox.bytes(),
            oldest_age_ms: outbox.oldest_ms().map_or(0, |oldest_ms| self.now_ms.saturating_sub(oldest_ms)),
        }
    }

    /// Closes connections for an operator. Returns how many were open.
    fn disconnect(&mut self, disconnection: &Disconnection) -> usize {
        let Disconnection { connections, code, reason } = disconnection;
        let mut count = 0;
        for id in connections.iter().take(LIST_ROWS_MAX) {
            let Some(slot) = self.find(*id).filter(|slot| self.slots[*slot].cause.is_none()) else { continue };
            count += 1;
            if self.is_listening(slot) {
                self.call_handler(slot, |handler, context| handler.on_disconnect(context, *code, reason));
            }
            if self.is_listening(slot) {
                self.call_handler(slot, |_, context| context.close(*code, reason));
            } else if self.slots[slot].cause.is_none() {
                // It has no handler yet.
                self.terminate(slot, CloseCause::Application);
            }
        }
        self.metrics.disconnected.add(count as u64);
        count
    }
}
