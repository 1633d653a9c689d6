//! Publish and subscribe, sans-IO: names and namespaces, this shard's subscribers and the pushes to them, and the
//! order, history and presence of the topics with this home shard.
//!
//! This module knows connections only as slots of a slab, and returns them in slot order: walking sockets in that order
//! is a third cheaper than at random with tens of thousands of connections. It never touches a socket or a clock.

mod ask;
mod batch;
mod carousel;
mod encoding;
mod event;
mod filter;
mod history;
mod home;
mod listing;
mod name;
mod namespace;
mod publication;
mod queue;
mod repeats;
mod run;
mod stable;
mod state;
mod subscribers;
mod table;
#[cfg(test)]
pub(crate) mod testing;

pub use ask::{Answer, PublishError, Query};
pub use batch::{Batch, Bundles, Visit};
pub use encoding::{Delta, Deltas, Encoding, Frames, LabelledEncoding};
pub use event::{Event, EventSink};
pub use filter::{Comparison, TagTest, TagsFilter};
pub use history::{CatchUp, History, HistoryPage, HistoryQuery, Recovery};
pub use home::{Home, HomeId, Sequenced};
pub use listing::{PatternTooLong, TopicPattern, TopicSummary, TopicsPage, TopicsQuery};
pub use name::{Homes, NameError, SYSTEM_NAMESPACE, TopicName};
pub use namespace::{Allowed, Namespace, NamespaceId, Namespaces, SlowConsumer, UnknownNamespace};
pub use publication::{Body, ClientInfo, Draft, Effect, Epoch, JoinId, Position, Presence, Publication, Push, Variant};
pub use queue::Encode;
pub use run::{Part, Run};
pub use stable::{bucket_of, epoch_of, mix, stable_hash};
pub use state::{Condition, StateCursor, StatePage, StateQuery};
pub use subscribers::Subscribers;
pub use table::{Lane, SubscriberCounts, TopicId, Topics};
