//! The way from the control plane to the shards.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::State;
use crate::gateway::UserCommand;
use crate::server::{ConnectionsPage, ConnectionsQuery, Disconnection, PublishError, Publisher, SlowConnection};
use crate::topics::{Answer, Draft, Position, Query, SubscriberCounts, TopicName, TopicsPage, TopicsQuery};

/// What the control plane asks of the shards. A seam: tests answer in their place.
pub(super) trait ToShards {
    /// As [`Publisher::publish`].
    fn publish(&mut self, draft: Draft) -> Result<Outcome, PublishError>;
    /// As [`Publisher::ask`].
    fn ask(&mut self, topic: TopicName, query: Query) -> Result<oneshot::Receiver<Answer>, PublishError>;
    /// As [`Publisher::list_topics`].
    fn list_topics(&mut self, shard: usize, query: TopicsQuery) -> Result<oneshot::Receiver<TopicsPage>, PublishError>;
    /// As [`Publisher::count_subscribers`].
    fn count_subscribers(&mut self, topics: Arc<[TopicName]>) -> Result<Vec<CountsOfShard>, PublishError>;
    /// As [`Publisher::list_connections`].
    fn list_connections(
        &mut self,
        shard: usize,
        query: ConnectionsQuery,
    ) -> Result<oneshot::Receiver<ConnectionsPage>, PublishError>;
    /// As [`Publisher::disconnect`].
    fn disconnect(
        &mut self,
        shard: usize,
        disconnection: Disconnection,
    ) -> Result<oneshot::Receiver<usize>, PublishError>;
    /// As [`Publisher::slowest`].
    fn slowest(&mut self, count: usize) -> Result<Vec<oneshot::Receiver<Vec<SlowConnection>>>, PublishError>;
    /// As [`Publisher::order`].
    fn order(&mut self, order: UserCommand) -> Result<(), PublishError>;
    /// As [`Publisher::drain`].
    fn drain(&mut self) -> Result<(), PublishError>;
}

/// Yields what has become of a publication; fails when its shard has stopped.
pub(super) type Outcome = oneshot::Receiver<Result<Position, PublishError>>;

/// Yields the numbers of subscribers on one shard, by topic; fails when the shard has stopped.
pub(super) type CountsOfShard = oneshot::Receiver<Vec<SubscriberCounts>>;

impl ToShards for Publisher {
    fn publish(&mut self, draft: Draft) -> Result<Outcome, PublishError> {
        Publisher::publish(self, draft)
    }

    fn ask(&mut self, topic: TopicName, query: Query) -> Result<oneshot::Receiver<Answer>, PublishError> {
        Publisher::ask(self, topic, query)
    }

    fn list_topics(&mut self, shard: usize, query: TopicsQuery) -> Result<oneshot::Receiver<TopicsPage>, PublishError> {
        Publisher::list_topics(self, shard, query)
    }

    fn count_subscribers(&mut self, topics: Arc<[TopicName]>) -> Result<Vec<CountsOfShard>, PublishError> {
        Publisher::count_subscribers(self, topics)
    }

    fn list_connections(
        &mut self,
        shard: usize,
        query: ConnectionsQuery,
    ) -> Result<oneshot::Receiver<ConnectionsPage>, PublishError> {
        Publisher::list_connections(self, shard, query)
    }

    fn disconnect(
        &mut self,
        shard: usize,
        disconnection: Disconnection,
    ) -> Result<oneshot::Receiver<usize>, PublishError> {
        Publisher::disconnect(self, shard, disconnection)
    }

    fn slowest(&mut self, count: usize) -> Result<Vec<oneshot::Receiver<Vec<SlowConnection>>>, PublishError> {
        Publisher::slowest(self, count)
    }

    fn order(&mut self, order: UserCommand) -> Result<(), PublishError> {
        Publisher::order(self, order)
    }

    fn drain(&mut self) -> Result<(), PublishError> {
        Publisher::drain(self)
    }
}

impl State {
    /// Sends a publication to its shard. The outcome follows.
    pub(super) fn send(&self, draft: Draft) -> Result<Outcome, PublishError> {
        if draft.topic.is_system() {
            return Err(PublishError::SystemTopic);
        }
        self.send_any(draft)
    }

    /// The same to any topic, those of the server among them.
    pub(super) fn send_any(&self, draft: Draft) -> Result<Outcome, PublishError> {
        self.refuse_while_draining()?;
        self.with_shards(|shards| shards.publish(draft))
    }

    /// Publishes, and waits for the publication's place.
    pub(super) async fn publish(&self, draft: Draft) -> Result<Position, PublishError> {
        self.send(draft)?.await.unwrap_or(Err(PublishError::Stopping))
    }

    /// Asks about a topic, and waits for the answer.
    pub(super) async fn ask(&self, topic: TopicName, query: Query) -> Result<Answer, PublishError> {
        self.refuse_while_draining()?;
        let answer = self.with_shards(|shards| shards.ask(topic, query))?;
        answer.await.map_err(|_| PublishError::Stopping)
    }

    /// Of each shard the `count` connections that have the most waiting.
    pub(super) async fn slowest(&self, count: usize) -> Result<Vec<SlowConnection>, PublishError> {
        self.refuse_while_draining()?;
        collect(self.with_shards(|shards| shards.slowest(count))?).await
    }

    /// Has the shards carry out an order.
    pub(super) fn order(&self, order: UserCommand) -> Result<(), PublishError> {
        self.refuse_while_draining()?;
        self.with_shards(|shards| shards.order(order))
    }

    /// Shards that leave take nothing out of their queues, and would never answer.
    pub(super) fn refuse_while_draining(&self) -> Result<(), PublishError> {
        if self.status.is_draining() { Err(PublishError::Stopping) } else { Ok(()) }
    }
}

/// What all shards have answered, one after the other.
async fn collect<T>(answers: Vec<oneshot::Receiver<Vec<T>>>) -> Result<Vec<T>, PublishError> {
    let mut joined = Vec::new();
    for answer in answers {
        joined.append(&mut answer.await.map_err(|_| PublishError::Stopping)?);
    }
    Ok(joined)
}
