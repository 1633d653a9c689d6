//! The seam for the giver of offsets: the topic's home shard, or a log outside of the process.
//!
//! Usually a home shard gives each publication its offset at once. With an [`Order`] it hands the publication over
//! instead, and waits for nothing: later the order returns it, or a publication of another process, by
//! [`Publisher::place`](super::Publisher::place). Joins, history, recovery and fan-out do not know the difference.

use std::sync::Arc;

use super::mesh::{Parcel, ReplyTo};
use super::shard::Shard;
use crate::ring::Ring;
use crate::topics::{Answer, ClientInfo, Draft, HomeId, Position, PublishError, Push, Query, TopicName};

/// Gives publications their positions in the place of home shards. Called on the shards' threads: it must not wait.
pub trait Order: Send + Sync {
    /// The buckets into which topics are divided; see [`bucket_of`](crate::topics::bucket_of).
    fn buckets(&self) -> u16;

    /// Takes a request. Its outcome follows by [`Publisher::place`](super::Publisher::place).
    ///
    /// # Errors
    /// The waiter, and why the request is rejected.
    fn submit(&self, request: OrderRequest, waiter: Waiter) -> Result<(), (Waiter, PublishError)>;

    /// A client has joined or left a topic whose namespace announces this, in this process.
    fn on_member(&self, topic: &TopicName, client: &Arc<ClientInfo>, has_joined: bool);
}

/// A request to an [`Order`].
#[derive(Clone, Debug)]
pub enum OrderRequest {
    /// Give the publication its position.
    Publish(Draft),
    /// Remove the topic's history at this point of its order.
    RemoveHistory(TopicName),
    /// List the clients that are present in the topic in other processes.
    Presence(TopicName),
}

/// The sender of a request, which waits for its outcome.
#[derive(Debug)]
pub struct Waiter {
    /// The home shard of the topic.
    pub(super) home: u16,
    pub(super) reply: WaiterReply,
    /// When it was requested, on the clock of the ring.
    pub(super) requested_us: u64,
}

#[derive(Debug)]
pub(super) enum WaiterReply {
    Publication(ReplyTo<Result<Position, PublishError>>),
    Removal(ReplyTo<Answer>),
    Presence(TopicName, ReplyTo<Answer>),
}

/// What an [`Order`] has decided.
#[derive(Debug)]
pub enum Placement {
    /// The publication has this position, one after the topic's last one or the first of an epoch.
    Published {
        /// The publication.
        draft: Draft,
        /// Its position.
        position: Position,
        /// Its time, in milliseconds of Unix time.
        time_ms: u64,
        /// Its sender, if that is in this process.
        waiter: Option<Waiter>,
    },
    /// The outcome of a request that brings nothing new.
    Answered {
        /// Its sender.
        waiter: Waiter,
        /// The position that the publication had before, or the reason of its rejection.
        result: Result<Position, PublishError>,
    },
    /// The history of the topic ends here.
    HistoryRemoved {
        /// The topic.
        topic: TopicName,
        /// Who has removed it, if that is in this process.
        waiter: Option<Waiter>,
    },
    /// These clients are present in other processes.
    Present {
        /// Who has asked.
        waiter: Waiter,
        /// The clients, in no order, or why they are unknown.
        clients: Result<Vec<Arc<ClientInfo>>, PublishError>,
    },
    /// A client has joined or left the topic in another process.
    Member {
        /// The topic.
        topic: TopicName,
        /// The client.
        client: Arc<ClientInfo>,
        /// Whether it has joined; it has left otherwise.
        has_joined: bool,
    },
    /// The topic is forgotten: its next publication begins another epoch.
    Evicted(TopicName),
    /// The epochs of the bucket's topics without publications are made from this number now.
    Lineage {
        /// The bucket.
        bucket: u16,
        /// The number.
        lineage: u64,
    },
    /// The positions of the bucket's topics are unknown: nobody can subscribe to them.
    Unsettled {
        /// The bucket.
        bucket: u16,
    },
    /// These are the positions in the bucket; its other topics have none. Earlier publications may follow. Subscribers
    /// may have missed publications: the server closes their connections, so that they state their
    /// positions when they reconnect.
    Rebased {
        /// The bucket.
        bucket: u16,
        /// As for `Lineage`.
        lineage: u64,
        /// The topics with publications.
        positions: Arc<[(TopicName, Position)]>,
    },
    /// The positions of the bucket's topics are those of the log's end: clients can subscribe to them.
    Settled {
        /// The bucket.
        bucket: u16,
    },
}

/// The shards that a placement concerns.
pub(super) enum Target<'a> {
    /// The home of this topic.
    HomeOf(&'a TopicName),
    /// This shard.
    Shard(u16),
    /// All shards.
    All,
}

impl Placement {
    pub(super) fn target(&self) -> Target<'_> {
        match self {
            Placement::Published { draft, .. } => Target::HomeOf(&draft.topic),
            Placement::HistoryRemoved { topic, .. } | Placement::Member { topic, .. } | Placement::Evicted(topic) => {
                Target::HomeOf(topic)
            }
            Placement::Answered { waiter, .. } | Placement::Present { waiter, .. } => Target::Shard(waiter.home),
            Placement::Lineage { .. }
            | Placement::Unsettled { .. }
            | Placement::Rebased { .. }
            | Placement::Settled { .. } => Target::All,
        }
    }

    /// The same for one of all shards.
    pub(super) fn copy(&self) -> Option<Placement> {
        match self {
            Placement::Lineage { bucket, lineage } => Some(Placement::Lineage { bucket: *bucket, lineage: *lineage }),
            Placement::Unsettled { bucket } => Some(Placement::Unsettled { bucket: *bucket }),
            Placement::Settled { bucket } => Some(Placement::Settled { bucket: *bucket }),
            Placement::Rebased { bucket, lineage, positions } => {
                Some(Placement::Rebased { bucket: *bucket, lineage: *lineage, positions: positions.clone() })
            }
            _ => None,
        }
    }

    /// Approximate memory that it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let held = match self {
            Placement::Published { draft, .. } => draft.bytes(),
            Placement::Member { client, .. } => client.bytes(),
            _ => 0,
        };
        size_of::<Placement>() + held
    }
}

impl<R: Ring> Shard<'_, R> {
    /// At the topic's home: hands a publication to the order.
    pub(super) fn submit_publication(
        &mut self,
        draft: Draft,
        reply: ReplyTo<Result<Position, PublishError>>,
        requested_us: u64,
    ) {
        let error = if self.drain.is_some() {
            Some(PublishError::Stopping)
        } else if self.mesh.is_congested() {
            Some(PublishError::Busy)
        } else {
            self.config.namespaces.find(&draft.topic).err().map(|_| PublishError::UnknownNamespace)
        };
        match error {
            Some(error) => self.refuse_publication(reply, error),
            None => self.submit_request(OrderRequest::Publish(draft), WaiterReply::Publication(reply), requested_us),
        }
    }

    /// At the topic's home: hands a query to the order that only it can answer.
    pub(super) fn submit_query(&mut self, topic: TopicName, query: Query, reply: ReplyTo<Answer>) {
        match query {
            Query::RemoveHistory => {
                self.submit_request(OrderRequest::RemoveHistory(topic), WaiterReply::Removal(reply), self.now_us)
            }
            _ => {
                let waiter = WaiterReply::Presence(topic.clone(), reply);
                self.submit_request(OrderRequest::Presence(topic), waiter, self.now_us)
            }
        }
    }

    fn submit_request(&mut self, request: OrderRequest, reply: WaiterReply, requested_us: u64) {
        let waiter = Waiter { home: self.number(), reply, requested_us };
        let order = self.mesh.order().expect("there is an order");
        if let Err((waiter, error)) = order.submit(request, waiter) {
            self.on_outcome(waiter, Err(error));
        }
    }

    /// A request that the order answers without a placement.
    fn on_outcome(&mut self, waiter: Waiter, result: Result<Position, PublishError>) {
        match (waiter.reply, result) {
            (WaiterReply::Publication(reply), Err(error)) => self.refuse_publication(reply, error),
            (WaiterReply::Publication(reply), Ok(position)) => {
                self.metrics.order.record(self.now_us.saturating_sub(waiter.requested_us));
                self.answer(reply, Ok(position), Answer::Published);
            }
            (WaiterReply::Removal(reply) | WaiterReply::Presence(_, reply), Err(error)) => {
                self.refuse_query(reply, error);
            }
            (WaiterReply::Presence(topic, reply), Ok(_)) => self.answer_presence(&topic, reply, Vec::new()),
            (WaiterReply::Removal(reply), Ok(_)) => self.answer(reply, Answer::HistoryRemoved, |answer| answer),
        }
    }

    /// Answers with the clients that are present here and elsewhere.
    fn answer_presence(&mut self, topic: &TopicName, reply: ReplyTo<Answer>, mut clients: Vec<Arc<ClientInfo>>) {
        clients.append(&mut self.home.presence(topic));
        self.answer(reply, Answer::Presence(clients), |answer| answer);
    }

    /// At a home: the order has decided.
    pub(super) fn on_placement(&mut self, placement: Placement) {
        match placement {
            Placement::Published { draft, position, time_ms, waiter } => {
                // Without a namespace nobody can subscribe here, and other nodes may know it.
                if let Ok(id) = self.home.place(&draft.topic, position) {
                    self.metrics.namespace(self.home.namespace_id(id)).publications.add(1);
                    let awaited = (!self.ahead.is_empty()).then(|| draft.topic.clone());
                    self.pass_on(id, position, time_ms, draft);
                    awaited.into_iter().for_each(|topic| self.on_reached(&topic, position));
                }
                self.metrics.publications.add(1);
                waiter.into_iter().for_each(|waiter| self.on_outcome(waiter, Ok(position)));
            }
            Placement::Answered { waiter, result } => self.on_outcome(waiter, result),
            Placement::HistoryRemoved { topic, waiter } => {
                self.home.remove_history(&topic);
                if let Some(Waiter { reply: WaiterReply::Removal(reply), .. }) = waiter {
                    self.answer(reply, Answer::HistoryRemoved, |answer| answer);
                }
            }
            Placement::Present { waiter, clients } => match (waiter.reply, clients) {
                (WaiterReply::Presence(topic, reply), Ok(clients)) => self.answer_presence(&topic, reply, clients),
                (reply, Ok(_)) => unreachable!("only presence has clients: {reply:?}"),
                (reply, Err(error)) => self.on_outcome(Waiter { reply, ..waiter }, Err(error)),
            },
            Placement::Member { topic, client, has_joined } => self.on_member_elsewhere(&topic, client, has_joined),
            Placement::Evicted(topic) => self.home.evict(&topic),
            Placement::Lineage { bucket, lineage } => self.home.set_lineage(bucket, lineage),
            Placement::Unsettled { bucket } => {
                self.home.unsettle(bucket);
                self.on_positions_changed();
            }
            Placement::Settled { bucket } => self.home.settle(bucket),
            Placement::Rebased { bucket, lineage, positions } => {
                self.rebase(bucket, lineage, &positions);
                self.on_positions_changed();
            }
        }
    }

    /// At the topic's home: tells the order of a client here.
    pub(super) fn announce_member(&self, topic: &TopicName, client: &Arc<ClientInfo>, has_joined: bool) {
        if let Some(order) = self.mesh.order() {
            order.on_member(topic, client, has_joined);
        }
    }

    /// At the topic's home: passes a join or a leave of another process on to the subscribers here.
    fn on_member_elsewhere(&mut self, topic: &TopicName, client: Arc<ClientInfo>, has_joined: bool) {
        let Some(id) = self.home.find(topic) else { return };
        if self.home.namespace(id).join_leave {
            let push = if has_joined { Push::Joined(client) } else { Push::Left(client) };
            self.push_to_all(id, topic, &push);
        }
    }

    /// At a home: all positions in a bucket are other ones. The shards with subscribers learn of the gap behind
    /// everything that they were sent before, and before everything that follows.
    fn rebase(&mut self, bucket: u16, lineage: u64, positions: &[(TopicName, Position)]) {
        let here = self.mesh.shard();
        let mine = positions.iter().filter(|(topic, _)| self.mesh.home(topic) == here);
        let subscribed: Vec<HomeId> = self.home.rebase(bucket, lineage, mine);
        let mut gaps: Vec<(u16, Vec<TopicName>)> = Vec::new();
        for id in subscribed {
            let topic = self.home.name(id);
            for shard in self.home.shards(id) {
                match gaps.iter_mut().find(|(other, _)| other == shard) {
                    Some((_, topics)) => topics.push(topic.clone()),
                    None => gaps.push((*shard, vec![topic.clone()])),
                }
            }
        }
        for (shard, topics) in gaps {
            if usize::from(shard) == here {
                self.on_gap(&topics);
            } else {
                self.mesh.send(usize::from(shard), Parcel::Gap(topics.into()));
            }
        }
    }
}
