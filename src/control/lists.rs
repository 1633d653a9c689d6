//! Lists of topics and connections of all shards, page by page, and connections closed by an operator.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use tokio::sync::oneshot;

use super::State;
use crate::server::{
    ConnectionSummary, Connections, ConnectionsPage, ConnectionsQuery, Disconnection, PublishError, add_counts,
};
use crate::topics::{SubscriberCounts, TopicName, TopicPattern, TopicSummary, TopicsQuery};

/// A place in a list: a shard, and a place there. To clients it is a text without a meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    shard: usize,
    from: usize,
}

/// The text is not a [`Cursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidCursor;

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) rows: Vec<T>,
    /// Where the next part begins; `None` if this one is the last. Where the time for a search is over, there may be
    /// few rows, or none.
    pub(super) next: Option<Cursor>,
}

/// A topic with the number of its subscribers on this node.
pub(super) type TopicRow = (TopicSummary, u64);

impl Cursor {
    /// The place after the part of a list of `shard` that ends at `next`.
    fn after(shard: usize, next: Option<usize>, shards: usize) -> Option<Cursor> {
        match next {
            Some(from) => Some(Cursor { shard, from }),
            None => Some(Cursor { shard: shard + 1, from: 0 }).filter(|cursor| cursor.shard < shards),
        }
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Cursor, InvalidCursor> {
        let (shard, from) = text.split_once('.').ok_or(InvalidCursor)?;
        let number = |text: &str| text.parse::<u32>().map(|number| number as usize).map_err(|_| InvalidCursor);
        Ok(Cursor { shard: number(shard)?, from: number(from)? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.shard, self.from)
    }
}

impl fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid cursor: send the one of the answer before, or none")
    }
}

impl State {
    /// Topics of this node from `cursor` on, at most `limit`. `patience`: how long to search.
    pub(super) async fn list_topics(
        &self,
        cursor: Cursor,
        limit: usize,
        pattern: Option<TopicPattern>,
        patience: Duration,
    ) -> Result<Page<TopicRow>, PublishError> {
        self.refuse_while_draining()?;
        let (start, shards) = (Instant::now(), self.status.shards.len());
        let (mut found, mut next) = (Vec::new(), Some(cursor).filter(|cursor| cursor.shard < shards));
        while let Some(Cursor { shard, from }) = next.filter(|_| found.len() < limit && start.elapsed() < patience) {
            let query = TopicsQuery { from, limit: limit - found.len(), pattern: pattern.clone() };
            let page = self.with_shards(|to| to.list_topics(shard, query))?;
            let page = page.await.map_err(|_| PublishError::Stopping)?;
            found.extend(page.topics);
            next = Cursor::after(shard, page.next, shards);
        }
        let names: Arc<[TopicName]> = found.iter().map(|topic: &TopicSummary| topic.name.clone()).collect();
        let mut counts = vec![0; found.len()];
        for of_shard in self.count_subscribers(names).await? {
            add_counts(&mut counts, &of_shard);
        }
        Ok(Page { rows: found.into_iter().zip(counts).collect(), next })
    }

    /// By shard, the numbers of subscribers of these topics.
    pub(super) async fn count_subscribers(
        &self,
        topics: Arc<[TopicName]>,
    ) -> Result<Vec<Vec<SubscriberCounts>>, PublishError> {
        self.refuse_while_draining()?;
        let answers = self.with_shards(|shards| shards.count_subscribers(topics))?;
        join_all(answers).await.into_iter().map(|counts| counts.map_err(|_| PublishError::Stopping)).collect()
    }

    /// Connections of this node from `cursor` on, at most `query.limit`. `patience`: how long to search.
    pub(super) async fn list_connections(
        &self,
        cursor: Cursor,
        query: &ConnectionsQuery,
        patience: Duration,
    ) -> Result<Page<ConnectionSummary>, PublishError> {
        self.refuse_while_draining()?;
        let (start, shards) = (Instant::now(), self.status.shards.len());
        let (mut rows, mut next) = (Vec::new(), Some(cursor).filter(|cursor| cursor.shard < shards));
        while let Some(Cursor { shard, from }) = next.filter(|_| rows.len() < query.limit && start.elapsed() < patience)
        {
            let query = ConnectionsQuery { from, limit: query.limit - rows.len(), ..query.clone() };
            let page = Connections::list_connections(self, shard, query)?.await.map_err(|_| PublishError::Stopping)?;
            rows.extend(page.connections);
            next = Cursor::after(shard, page.next, shards);
        }
        Ok(Page { rows, next })
    }

    /// Closes connections of one shard. Returns how many were open.
    pub(super) async fn disconnect(&self, shard: usize, closing: Disconnection) -> Result<usize, PublishError> {
        if shard >= self.status.shards.len() {
            return Ok(0);
        }
        Connections::disconnect(self, shard, closing)?.await.map_err(|_| PublishError::Stopping)
    }
}

impl Connections for State {
    fn shards(&self) -> usize {
        self.status.shards.len()
    }

    fn list_connections(
        &self,
        shard: usize,
        query: ConnectionsQuery,
    ) -> Result<oneshot::Receiver<ConnectionsPage>, PublishError> {
        self.refuse_while_draining()?;
        self.with_shards(|shards| shards.list_connections(shard, query))
    }

    fn disconnect(&self, shard: usize, closing: Disconnection) -> Result<oneshot::Receiver<usize>, PublishError> {
        self.refuse_while_draining()?;
        self.with_shards(|shards| shards.disconnect(shard, closing))
    }
}
