//! What can be asked of a topic's home, and what it answers.

use std::fmt;
use std::sync::Arc;

use super::{Body, ClientInfo, HistoryPage, HistoryQuery, Position, Recovery, TopicName};
#[cfg(doc)]
use crate::limits::{HOME_TOPICS_MAX, IDEMPOTENCY_BYTES_MAX, SHARD_TOPICS_MAX};

/// A question about a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// What was published to it.
    History(HistoryQuery),
    /// Forget what was published to it; its order goes on.
    RemoveHistory,
    /// Who has subscribed to it.
    Presence,
}

/// What came of something that was asked.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The connection has subscribed, and is sent what comes after `position`.
    Subscribed {
        /// The topic.
        topic: TopicName,
        /// Where the topic is.
        position: Position,
        /// What it has missed.
        recovery: Recovery,
    },
    /// It has not.
    NotSubscribed {
        /// The topic.
        topic: TopicName,
        /// Why.
        error: PublishError,
    },
    /// A publication has its place, or was refused.
    Published(Result<Position, PublishError>),
    /// What was published; `None` where nobody knows the topic.
    History(Option<HistoryPage>),
    /// The history was removed.
    HistoryRemoved,
    /// Who has subscribed, in no order.
    Presence(Vec<Arc<ClientInfo>>),
    /// The question could not be passed on.
    Refused(PublishError),
}

impl Answer {
    /// Bytes that it keeps in memory, about.
    pub fn bytes(&self) -> usize {
        let bodies = |bodies: &[Arc<Body>]| bodies.iter().map(|body| size_of::<Body>() + body.frame.len()).sum();
        let held = match self {
            Answer::Subscribed { recovery: Recovery::Recovered(missed), .. } => bodies(missed),
            Answer::History(Some(HistoryPage { publications: Some(publications), .. })) => bodies(publications),
            Answer::Presence(present) => present.iter().map(|info| info.bytes()).sum(),
            _ => 0,
        };
        size_of::<Answer>() + held
    }
}

/// Why something that was asked of a topic's home was refused. Nothing has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The queues between shards are full. Later, not broken.
    Busy,
    /// The topic is new, and [`HOME_TOPICS_MAX`] have publications, or [`SHARD_TOPICS_MAX`] have subscribers.
    TooManyTopics,
    /// The idempotency keys of the last minutes take [`IDEMPOTENCY_BYTES_MAX`].
    TooManyKeys,
    /// The topic's namespace is not configured, and others are.
    UnknownNamespace,
    /// The server is stopping.
    Stopping,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PublishError::Busy => "the shards are behind and take no more at the moment: try again later",
            PublishError::TooManyTopics => "too many topics: use fewer, or run more shards",
            PublishError::TooManyKeys => {
                "too many publications with idempotency keys within five minutes: \
                 try again later, use shorter keys or none, or run more shards"
            }
            PublishError::UnknownNamespace => {
                "unknown namespace: what stands before the first colon of a topic's name must be configured"
            }
            PublishError::Stopping => "the server is stopping: publish to another one",
        })
    }
}

impl std::error::Error for PublishError {}
