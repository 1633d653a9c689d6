//! Events for the application behind the server.

use std::fmt;
use std::sync::Arc;

use super::{ClientInfo, TopicName};

/// Receives events, from any shard's thread. It must not block.
///
/// The events of one topic come in order, from its home shard, except those of clients; the events of one client come
/// in order, from its connection's shard.
pub trait EventSink: Send + Sync + fmt::Debug {
    /// Takes an event.
    fn take(&self, event: Event);
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A topic has its first subscriber, on whatever protocol.
    Occupied(TopicName),
    /// A topic has no subscribers any more.
    Vacated(TopicName),
    /// A client is present in a topic whose namespace keeps presence, or joins and leaves.
    MemberAdded(TopicName, Arc<ClientInfo>),
    /// A client is no longer present.
    MemberRemoved(TopicName, Arc<ClientInfo>),
    /// A client of Centrifugo's protocol has connected.
    Connected(Arc<ClientInfo>),
    /// It has disconnected.
    Disconnected {
        /// The client.
        client: Arc<ClientInfo>,
        /// The server's close code; `None` if the server has sent none.
        code: Option<u16>,
        /// The server's close reason, or what ended the connection.
        reason: String,
    },
    /// Its subscription has begun.
    Subscribed(TopicName, Arc<ClientInfo>),
    /// Its subscription has ended.
    Unsubscribed(TopicName, Arc<ClientInfo>),
}

impl Event {
    /// The names of all kinds.
    pub const NAMES: [&'static str; 8] = [
        "occupied",
        "vacated",
        "member_added",
        "member_removed",
        "connected",
        "disconnected",
        "subscribed",
        "unsubscribed",
    ];

    /// The kind: an index into [`NAMES`](Self::NAMES).
    pub fn kind(&self) -> usize {
        match self {
            Event::Occupied(_) => 0,
            Event::Vacated(_) => 1,
            Event::MemberAdded(..) => 2,
            Event::MemberRemoved(..) => 3,
            Event::Connected(_) => 4,
            Event::Disconnected { .. } => 5,
            Event::Subscribed(..) => 6,
            Event::Unsubscribed(..) => 7,
        }
    }

    /// The topic; `None` for events of a connection.
    pub fn topic(&self) -> Option<&TopicName> {
        match self {
            Event::Occupied(topic) | Event::Vacated(topic) => Some(topic),
            Event::MemberAdded(topic, _) | Event::MemberRemoved(topic, _) => Some(topic),
            Event::Subscribed(topic, _) | Event::Unsubscribed(topic, _) => Some(topic),
            Event::Connected(_) | Event::Disconnected { .. } => None,
        }
    }

    /// The client; `None` for events of a topic alone.
    pub fn client(&self) -> Option<&Arc<ClientInfo>> {
        match self {
            Event::Occupied(_) | Event::Vacated(_) => None,
            Event::MemberAdded(_, client) | Event::MemberRemoved(_, client) => Some(client),
            Event::Subscribed(_, client) | Event::Unsubscribed(_, client) => Some(client),
            Event::Connected(client) | Event::Disconnected { client, .. } => Some(client),
        }
    }

    /// Approximate bytes in memory.
    pub fn bytes(&self) -> usize {
        let topic = self.topic().map_or(0, |topic| topic.as_str().len());
        size_of::<Event>() + topic + self.client().map_or(0, |client| client.bytes())
    }
}
