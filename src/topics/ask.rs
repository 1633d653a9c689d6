//! Queries to a topic's home shard, and the answers.

use std::fmt;
use std::sync::Arc;

use super::{
    Body, ClientInfo, HistoryPage, HistoryQuery, Position, Recovery, StatePage, StateQuery, TopicName, TopicSummary,
};
#[cfg(doc)]
use crate::limits::{HOME_TOPICS_MAX, IDEMPOTENCY_BYTES_MAX, SHARD_TOPICS_MAX};

/// A query to a topic's home shard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Query {
    /// Read a page of its history.
    History(HistoryQuery),
    /// Remove its history; offsets continue.
    RemoveHistory,
    /// List the present clients.
    Presence,
    /// List the present clients of this node alone.
    PresenceHere,
    /// Describe the topic.
    Summary,
    /// Read a page of its state, if it is keyed.
    State(StateQuery),
    /// Read the value of a key, if it is keyed.
    Value(Box<str>),
}

/// The result of a request with an id.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Answer {
    /// The subscription has begun: the connection receives the publications after `position`.
    Subscribed {
        /// The topic.
        topic: TopicName,
        /// The topic's current position.
        position: Position,
        /// The missed publications.
        recovery: Recovery,
    },
    /// The subscription was rejected.
    NotSubscribed {
        /// The topic.
        topic: TopicName,
        /// The reason.
        error: PublishError,
    },
    /// The position of the publication, or the reason of its rejection.
    Published(Result<Position, PublishError>),
    /// A page of the history; `None` if no shard knows the topic.
    History(Option<HistoryPage>),
    /// The history was removed.
    HistoryRemoved,
    /// The present clients, in no order.
    Presence(Vec<Arc<ClientInfo>>),
    /// The topic; `None` if its home does not know it.
    Summary(Option<TopicSummary>),
    /// A page of the topic's state that is not the last: the subscription has not begun. Subscribe again with
    /// [`CatchUp::State`](super::CatchUp::State) and [`StatePage::next`]; the server sends the request when the
    /// connection has no backlog.
    StatePage {
        /// The topic.
        topic: TopicName,
        /// The page.
        page: Arc<StatePage>,
    },
    /// A page of the topic's state, for a query.
    State(Arc<StatePage>),
    /// The value of a key; `None` if it has none.
    Value(Option<Arc<Body>>),
    /// The query could not be sent to the topic's home shard.
    Refused(PublishError),
}

impl Answer {
    /// Approximate bytes in memory.
    pub fn bytes(&self) -> usize {
        let bodies = |bodies: &[Arc<Body>]| bodies.iter().map(|body| size_of::<Body>() + body.frame.len()).sum();
        let held = match self {
            Answer::Subscribed { recovery: Recovery::Recovered(missed), .. } => bodies(missed),
            Answer::Subscribed { recovery: Recovery::State(page), .. } | Answer::StatePage { page, .. } => {
                bodies(&page.bodies)
            }
            Answer::State(page) => bodies(&page.bodies),
            Answer::Value(body) => bodies(body.as_slice()),
            Answer::History(Some(HistoryPage { publications: Some(publications), .. })) => bodies(publications),
            Answer::Presence(present) => present.iter().map(|info| info.bytes()).sum(),
            _ => 0,
        };
        size_of::<Answer>() + held
    }
}

/// Why a request to a topic's home shard was rejected. The request had no effect, but for
/// [`Unconfirmed`](Self::Unconfirmed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The queues between shards are full. Try again later.
    Busy,
    /// The topic is new, and [`HOME_TOPICS_MAX`] topics have publications or [`SHARD_TOPICS_MAX`] have subscribers.
    TooManyTopics,
    /// The idempotency keys of the last minutes fill [`IDEMPOTENCY_BYTES_MAX`].
    TooManyKeys,
    /// The subscribers of the topic have `TOPIC_FILTERS_MAX` different filters.
    TooManyFilters,
    /// The topic's namespace is not configured, but others are.
    UnknownNamespace,
    /// The topic is one of the server's own, `$sys:…`.
    SystemTopic,
    /// The server is stopping.
    Stopping,
    /// In a cluster: the log that orders publications can't be reached. Nothing was published.
    NoLog,
    /// In a cluster: the log has not confirmed the publication in time. It may be published yet.
    Unconfirmed,
    /// In a cluster: the publication is larger than the broker's largest message.
    TooLarge,
    /// The topic is keyed, and the publication has no key.
    NoKey,
    /// The topic is not keyed: it has no state to read, to change by a removal, or to meet a condition.
    NotKeyed,
    /// The key to remove has no value.
    NoSuchKey,
    /// The topic's state does not meet the publication's condition.
    Conflict,
    /// The value is larger than [`value_bytes_max`](super::Namespace::value_bytes_max).
    ValueTooLarge,
    /// The key is new, and the topic has [`keys_max`](super::Namespace::keys_max) keys; or the value exceeds
    /// [`state_bytes_max`](super::Namespace::state_bytes_max), or the memory of the shard for values.
    StateFull,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PublishError::Busy => "the shards are overloaded: try again later",
            PublishError::TooManyTopics => "too many topics: use fewer, or run more shards",
            PublishError::TooManyKeys => {
                "too many publications with idempotency keys within five minutes: \
                 try again later, use shorter keys or none, or run more shards"
            }
            PublishError::TooManyFilters => "the topic has too many different filters: use one of the others",
            PublishError::UnknownNamespace => {
                "unknown namespace: add [namespaces.NAME] for the part before the first ':'"
            }
            PublishError::SystemTopic => "topics of $sys are the server's own: publish to another one",
            PublishError::Stopping => "the server is stopping: publish to another one",
            PublishError::NoLog => "not published: the cluster's log can't be reached: try again later",
            PublishError::Unconfirmed => {
                "the cluster's log has not confirmed the publication in time, and it may be published yet: \
                 publish with an idempotency key, and repeat with the same key"
            }
            PublishError::TooLarge => "larger than the cluster's log takes: raise max_payload of the NATS servers",
            PublishError::NoKey => "the topic is keyed: publish with a key",
            PublishError::NotKeyed => "the topic is not keyed: set keyed = true in its namespace",
            PublishError::NoSuchKey => "the key has no value",
            PublishError::Conflict => "the key has another value than expected: read it, and try again",
            PublishError::ValueTooLarge => "the value is too large: raise value_bytes_max of its namespace",
            PublishError::StateFull => {
                "the topic has no room for the value: remove others, or raise keys_max and state_bytes_max of its \
                 namespace"
            }
        })
    }
}

impl std::error::Error for PublishError {}
