//! What subscribers of a topic are sent: publications, and word of who comes and goes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::TopicName;
use crate::buf::{LazyFrame, SharedFrame};
#[cfg(doc)]
use crate::limits::{IDEMPOTENCY_TTL_MS, KEY_BYTES_MAX};

/// One life of a sequence of offsets. It changes when the server starts anew or has forgotten a topic, so that nobody
/// mistakes an offset of before for one of now. Written as 13 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

/// The place of a publication in its topic: offsets count 1, 2, 3 … within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which sequence.
    pub epoch: Epoch,
    /// The place in it; 0 is before the first.
    pub offset: u64,
}

/// Who a client is, as the others are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The connection: unique.
    pub client: Box<str>,
    /// The user, who may have several connections; empty for the anonymous.
    pub user: Box<str>,
    /// What the user's token says of it, verbatim.
    pub conn_info: Option<Box<[u8]>>,
    /// What the subscription's token says of it, verbatim.
    pub chan_info: Option<Box<[u8]>>,
}

/// Bytes of names, numbers and punctuation around what a client is told, about.
const TOLD_EXTRA_BYTES: usize = 32;

impl ClientInfo {
    /// About how many bytes it takes to tell a client of it.
    pub fn told_bytes(&self) -> usize {
        let bytes = |info: &Option<Box<[u8]>>| info.as_ref().map_or(0, |info| info.len());
        let infos = bytes(&self.conn_info) + bytes(&self.chan_info);
        self.client.len() + self.user.len() + infos + TOLD_EXTRA_BYTES
    }
}

/// Names one join of a client: no two joins of a server share a name, so a departure ends exactly its own join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JoinId(u64);

impl JoinId {
    /// The join number `count` of a shard. A shard that makes a million joins a second has numbers for nine years.
    pub fn new(shard: u16, count: u64) -> JoinId {
        JoinId(u64::from(shard) << 48 | count & ((1 << 48) - 1))
    }
}

/// A client, as one of its joins makes it present in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Which join.
    pub join: JoinId,
    /// The client.
    pub info: Arc<ClientInfo>,
}

/// What somebody wants to publish: a publication that has no place yet.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The topic.
    pub topic: TopicName,
    /// Whether the payload is valid UTF-8, and meant as text.
    pub is_text: bool,
    /// The message.
    pub payload: Bytes,
    /// What it is the newest state of, within the topic: at most [`KEY_BYTES_MAX`] bytes.
    pub key: Option<Box<str>>,
    /// What the publisher says of it, sorted by name.
    pub tags: Option<Box<[(String, String)]>>,
    /// The client that publishes; `None` for the server's own side.
    pub info: Option<Arc<ClientInfo>>,
    /// Published again under the same key within [`IDEMPOTENCY_TTL_MS`], it is not published a second time. At most
    /// [`KEY_BYTES_MAX`] bytes.
    pub idempotency_key: Option<Box<str>>,
    /// Whether the topic's history is to be without it.
    pub skip_history: bool,
}

impl Draft {
    /// A message without anything special.
    pub fn new(topic: TopicName, is_text: bool, payload: Bytes) -> Draft {
        let (key, tags, info, idempotency_key) = (None, None, None, None);
        Draft { topic, is_text, payload, key, tags, info, idempotency_key, skip_history: false }
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        let texts = [&self.key, &self.idempotency_key].into_iter().flatten().map(|text| text.len());
        let tags = self.tags.iter().flatten().map(|(name, value)| name.len() + value.len());
        let info = self.info.as_ref().map_or(0, |info| info.bytes());
        size_of::<Draft>() + self.payload.len() + texts.chain(tags).sum::<usize>() + info
    }
}

impl ClientInfo {
    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        let infos = [&self.conn_info, &self.chan_info].into_iter().flatten().map(|info| info.len());
        size_of::<ClientInfo>() + self.client.len() + self.user.len() + infos.sum::<usize>()
    }
}

/// One message of a topic, in its order.
#[derive(Debug)]
pub struct Body {
    /// The topic.
    pub topic: TopicName,
    /// Its place in the topic's order.
    pub position: Position,
    /// When it was given that place, in milliseconds of Unix time.
    pub time_ms: u64,
    /// The message as one frame, as it is sent to every subscriber of [`Encoding::Raw`].
    pub frame: SharedFrame,
    /// Bytes of the frame's header; the payload follows.
    pub header_len: u8,
    /// Whether the payload is valid UTF-8, and meant as text.
    pub is_text: bool,
    /// What it is the newest state of, within the topic.
    pub key: Option<Box<str>>,
    /// What publishers say of it, sorted by name.
    pub tags: Option<Box<[(String, String)]>>,
    /// The client that published it; `None` when the server's own side did.
    pub info: Option<Arc<ClientInfo>>,
}

/// A publication on its way to its subscribers.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The message.
    pub body: Arc<Body>,
    /// Its other encodings, shared by all shards; see [`Variant::index`].
    pub frames: Arc<[LazyFrame; VARIANTS]>,
}

/// Something for the subscribers of a topic.
#[derive(Clone, Debug)]
pub enum Push {
    /// A message.
    Publication(Publication),
    /// Somebody has subscribed.
    Joined(Arc<ClientInfo>),
    /// Somebody's subscription has ended.
    Left(Arc<ClientInfo>),
}

/// In which form a subscriber is sent what is pushed to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// A message is the payload, verbatim.
    #[default]
    Raw,
    /// A line with the topic, the offset and so on, then the payload.
    Envelope,
    /// Centrifugo's client protocol as JSON.
    CentrifugeJson,
    /// Centrifugo's client protocol as Protobuf.
    CentrifugeProtobuf,
    /// An event of a `text/event-stream`.
    Sse,
    /// The connection's handler makes it, for each connection anew.
    PerConnection,
}

/// Encodings that there are.
const ENCODINGS: usize = 6;

/// Windows of compression that there are, 9 to 15 bits, and none.
const WINDOWS: usize = 8;

/// Frames that a publication can have.
pub const VARIANTS: usize = ENCODINGS * WINDOWS;

/// Which bytes a subscriber is sent of what is pushed. Subscribers of the same variant share them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant {
    /// In which form.
    pub encoding: Encoding,
    /// Bits of the window for which it is compressed; 0 is not compressed.
    pub window: u8,
    /// Whether it is told who comes and goes.
    pub join_leave: bool,
}

impl Variant {
    /// [`Body::frame`].
    pub const RAW: Variant = Variant { encoding: Encoding::Raw, window: 0, join_leave: false };

    /// The place among [`Publication::frames`] of this encoding, compressed for a window of `bits`; 0 is not
    /// compressed.
    pub fn index(encoding: Encoding, bits: u8) -> usize {
        encoding as usize * WINDOWS + usize::from(bits.saturating_sub(8))
    }
}

impl Body {
    /// About how many bytes it takes to tell a client of it: the payload, and what is known of it besides.
    pub fn told_bytes(&self) -> usize {
        let tags = self.tags.iter().flatten().map(|(name, value)| name.len() + value.len() + TOLD_EXTRA_BYTES);
        let info = self.info.as_ref().map_or(0, |info| info.told_bytes());
        let key = self.key.as_ref().map_or(0, |key| key.len());
        self.payload().len() + tags.sum::<usize>() + info + key + TOLD_EXTRA_BYTES
    }

    /// The message itself.
    pub fn payload(&self) -> &[u8] {
        &self.frame[usize::from(self.header_len)..]
    }
}

impl Push {
    /// Bytes of the message, if it is one.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Push::Publication(publication) => publication.body.frame.len(),
            Push::Joined(_) | Push::Left(_) => 0,
        }
    }
}

impl Epoch {
    /// No topic is ever in this one.
    pub const NEVER: Epoch = Epoch(0);

    /// An epoch from random bits.
    pub fn new(random: u64) -> Epoch {
        Epoch(random.max(1))
    }

    /// Reads what its `Display` writes. Anything else is an epoch that never was.
    pub fn from_text(text: &str) -> Epoch {
        let digit = |byte: u8| DIGITS.iter().position(|digit| *digit == byte);
        let add = |sum: u64, byte: u8| Some(sum.checked_mul(32)? | digit(byte)? as u64);
        match text.bytes().try_fold(0, add) {
            Some(bits) if text.len() == 13 => Epoch(bits),
            _ => Epoch::NEVER,
        }
    }
}

/// Thirteen digits of five bits hold 64 bits.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..13).rev() {
            write!(f, "{}", DIGITS[(self.0 >> (place * 5)) as usize & 31] as char)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn epochs_read_as_they_are_written() {
        assert_eq!(Epoch::new(33).to_string(), "0000000000011");
        for bits in [1, 5, 31, 32, u64::MAX, 0x1234_5678_9abc_def0] {
            let epoch = Epoch::new(bits);
            assert_eq!(Epoch::from_text(&epoch.to_string()), epoch);
        }
        let long = "z".repeat(13);
        for text in ["", "1", "abc", "000000000000!", "00000000000001", &long] {
            assert_eq!(Epoch::from_text(text), Epoch::NEVER, "{text}");
        }
    }

    #[test]
    fn each_variant_has_its_place() {
        let encodings = [Encoding::Raw, Encoding::Envelope, Encoding::CentrifugeJson, Encoding::CentrifugeProtobuf];
        let encodings = encodings.into_iter().chain([Encoding::Sse, Encoding::PerConnection]);
        let places = encodings.flat_map(|encoding| [0, 9, 12, 15].map(|bits| Variant::index(encoding, bits)));
        let places: Vec<usize> = places.collect();
        assert!(places.iter().all(|place| *place < VARIANTS));
        assert_eq!(places.iter().collect::<HashSet<_>>().len(), places.len());
    }
}
