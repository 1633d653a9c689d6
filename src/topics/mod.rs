//! Publish and subscribe of one shard, pure: names, who subscribed, what is to go out, and the order of a topic.
//!
//! Knows connections only as slots of a slab, and hands them out in slot order: walking sockets in that order is a
//! third cheaper than at random once there are tens of thousands. Never touches a socket and never looks at a clock.

mod name;
mod namespace;
mod sequencer;
mod subscribers;
mod table;

pub use name::{NameError, TopicName};
pub use namespace::{Allowed, Namespace, NamespaceId, Namespaces, SlowConsumer, UnknownNamespace};
pub use sequencer::{Epoch, Position, Sequencer, TooManyTopics};
pub use subscribers::Subscribers;
pub use table::{Run, TopicId, Topics};

use std::sync::Arc;

use crate::buf::{LazyFrame, SharedFrame};

/// How many encodings besides the plain one a publication can have.
pub const LAZY_FRAMES: usize = 8;

/// Which encoding of each publication a subscriber is sent: the plain frame, or one that the server gives a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant(pub u8);

impl Variant {
    /// [`Publication::frame`].
    pub const PLAIN: Variant = Variant(0);
}

/// One message of a topic, in its order, encoded for the wire.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The topic.
    pub topic: TopicName,
    /// Its place in the topic's order.
    pub position: Position,
    /// The message as one frame: what every subscriber of the plain variant is sent.
    pub frame: SharedFrame,
    /// Its other encodings, shared by all shards; `None` where nobody can want one.
    pub lazy_frames: Option<Arc<[LazyFrame; LAZY_FRAMES]>>,
}
