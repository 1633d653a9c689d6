//! The pushes of a topic: publications, joins and leaves.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{Condition, Encoding, Frames, TopicName};
use crate::buf::SharedFrame;
#[cfg(doc)]
use crate::limits::{IDEMPOTENCY_TTL_MS, KEY_BYTES_MAX};

/// Identifies one sequence of offsets. It changes when the server restarts or forgets a topic, so that no client
/// confuses old offsets with new ones. Its text has 13 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

/// The position of a publication in its topic: offsets count 1, 2, 3 … within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The sequence.
    pub epoch: Epoch,
    /// The publication's number in the sequence; 0 is before the first.
    pub offset: u64,
}

impl Position {
    /// Whether `next` is the position after this one.
    pub fn is_before(self, next: Position) -> bool {
        self.epoch == next.epoch && self.offset + 1 == next.offset
    }
}

/// A client, as other clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The connection's unique name.
    pub client: Box<str>,
    /// The user, who may have several connections; empty if anonymous.
    pub user: Box<str>,
    /// The `info` claim of the connection token, verbatim.
    pub conn_info: Option<Box<[u8]>>,
    /// The `info` claim of the subscription token, verbatim.
    pub chan_info: Option<Box<[u8]>>,
}

/// Approximate bytes of names, numbers and punctuation around the fields in an encoded message.
const EXTRA_BYTES: usize = 32;

impl ClientInfo {
    /// Approximate bytes in an encoded message.
    pub fn encoded_bytes(&self) -> usize {
        let bytes = |info: &Option<Box<[u8]>>| info.as_ref().map_or(0, |info| info.len());
        let infos = bytes(&self.conn_info) + bytes(&self.chan_info);
        self.client.len() + self.user.len() + infos + EXTRA_BYTES
    }
}

/// Identifies one join of a client. No two joins of a server share an id, so a leave ends exactly its own join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JoinId(u64);

impl JoinId {
    /// Join number `count` of a shard. The 48 bits of the number last nine years at a million joins per second.
    pub fn new(shard: u16, count: u64) -> JoinId {
        JoinId(u64::from(shard) << 48 | count & ((1 << 48) - 1))
    }
}

/// One join of a client to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The join.
    pub join: JoinId,
    /// The client.
    pub info: Arc<ClientInfo>,
}

/// A publish request: a publication without an offset.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The topic.
    pub topic: TopicName,
    /// Whether the payload is text; it must be valid UTF-8 then.
    pub is_text: bool,
    /// The payload.
    pub payload: Bytes,
    /// The conflation key within the topic: at most [`KEY_BYTES_MAX`] bytes.
    pub key: Option<Box<str>>,
    /// The publisher's tags, sorted by name.
    pub tags: Option<Box<[(String, String)]>>,
    /// The publishing client; `None` for the server API.
    pub info: Option<Arc<ClientInfo>>,
    /// Deduplicates retries: the server publishes only the first of several drafts with the same key within
    /// [`IDEMPOTENCY_TTL_MS`]. At most [`KEY_BYTES_MAX`] bytes.
    pub idempotency_key: Option<Box<str>>,
    /// Whether to omit the publication from the topic's history.
    pub skip_history: bool,
    /// Whether to remove the value of the key, instead of setting it. For keyed topics.
    pub removes: bool,
    /// What the topic's state must be. For keyed topics.
    pub condition: Condition,
}

/// What a publication does to the state of its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Nothing: the topic has none.
    #[default]
    None,
    /// The payload is the newest value of the key.
    Put,
    /// The key has no value any more.
    Remove,
}

impl Effect {
    /// The name of the effect for readers of feeds and event streams; `None` if there is none.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Effect::None => None,
            Effect::Put => Some("put"),
            Effect::Remove => Some("remove"),
        }
    }
}

impl Draft {
    /// A draft with default options.
    pub fn new(topic: TopicName, is_text: bool, payload: Bytes) -> Draft {
        Draft {
            topic,
            is_text,
            payload,
            key: None,
            tags: None,
            info: None,
            idempotency_key: None,
            skip_history: false,
            removes: false,
            condition: Condition::None,
        }
    }

    /// Sets the value of a key of a keyed topic.
    pub fn put(topic: TopicName, key: &str, is_text: bool, value: Bytes) -> Draft {
        Draft { key: Some(key.into()), ..Draft::new(topic, is_text, value) }
    }

    /// Removes a key of a keyed topic.
    pub fn remove(topic: TopicName, key: &str) -> Draft {
        Draft { removes: true, ..Draft::put(topic, key, true, Bytes::new()) }
    }

    /// As [`Body::encoded_bytes`].
    pub(super) fn encoded_bytes(&self) -> usize {
        encoded_bytes(self.payload.len(), self.key.as_deref(), self.tags.as_deref(), self.info.as_deref())
    }

    /// Approximate bytes in memory.
    pub fn bytes(&self) -> usize {
        let texts = [&self.key, &self.idempotency_key].into_iter().flatten().map(|text| text.len());
        let tags = self.tags.iter().flatten().map(|(name, value)| name.len() + value.len());
        let info = self.info.as_ref().map_or(0, |info| info.bytes());
        size_of::<Draft>() + self.payload.len() + texts.chain(tags).sum::<usize>() + info
    }
}

impl ClientInfo {
    /// Approximate bytes in memory.
    pub fn bytes(&self) -> usize {
        let infos = [&self.conn_info, &self.chan_info].into_iter().flatten().map(|info| info.len());
        size_of::<ClientInfo>() + self.client.len() + self.user.len() + infos.sum::<usize>()
    }
}

/// A publication with its position.
#[derive(Debug)]
pub struct Body {
    /// The topic.
    pub topic: TopicName,
    /// The position in the topic.
    pub position: Position,
    /// The time of its sequencing, in milliseconds of Unix time.
    pub time_ms: u64,
    /// The payload as one frame: the wire bytes for every subscriber of [`Encoding::RAW`].
    pub frame: SharedFrame,
    /// Bytes of the frame's header, before the payload.
    pub header_len: u8,
    /// Whether the payload is text; it is valid UTF-8 then.
    pub is_text: bool,
    /// The conflation key within the topic.
    pub key: Option<Box<str>>,
    /// The publisher's tags, sorted by name.
    pub tags: Option<Box<[(String, String)]>>,
    /// The publishing client; `None` for the server API.
    pub info: Option<Arc<ClientInfo>>,
    /// What it does to the topic's state.
    pub effect: Effect,
}

/// A publication with its encodings.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The publication.
    pub body: Arc<Body>,
    /// Its encoded frames, shared by all shards.
    pub frames: Frames,
}

/// An event for the subscribers of a topic.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Push {
    /// A publication.
    Publication(Publication),
    /// A client has subscribed.
    Joined(Arc<ClientInfo>),
    /// A client's subscription has ended.
    Left(Arc<ClientInfo>),
}

/// The form of a push for a subscriber. Subscribers of the same variant share its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The encoding.
    pub encoding: Encoding,
    /// Bits of the compression window; 0 is not compressed.
    pub window: u8,
    /// Whether it includes joins and leaves.
    pub join_leave: bool,
    /// The label of [`LabelledEncoding`](super::LabelledEncoding); 0 is none.
    pub label: u8,
}

impl Variant {
    /// [`Body::frame`].
    pub const RAW: Variant = Variant { encoding: Encoding::RAW, window: 0, join_leave: false, label: 0 };
}

impl Body {
    /// Approximate bytes in an encoded message: the payload, and the other fields.
    pub fn encoded_bytes(&self) -> usize {
        encoded_bytes(self.payload().len(), self.key.as_deref(), self.tags.as_deref(), self.info.as_deref())
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.frame[usize::from(self.header_len)..]
    }
}

fn encoded_bytes(
    payload: usize,
    key: Option<&str>,
    tags: Option<&[(String, String)]>,
    info: Option<&ClientInfo>,
) -> usize {
    let tags = tags.into_iter().flatten().map(|(name, value)| name.len() + value.len() + EXTRA_BYTES);
    payload + tags.sum::<usize>() + info.map_or(0, ClientInfo::encoded_bytes) + key.map_or(0, str::len) + EXTRA_BYTES
}

impl Push {
    /// Bytes of the frame, if this is a publication.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Push::Publication(publication) => publication.body.frame.len(),
            Push::Joined(_) | Push::Left(_) => 0,
        }
    }
}

impl Epoch {
    /// An epoch that no topic ever has.
    pub const NEVER: Epoch = Epoch(0);

    /// An epoch from random bits.
    pub fn new(random: u64) -> Epoch {
        Epoch(random.max(1))
    }

    /// The bits that [`new`](Self::new) makes the same epoch of.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Parses the text of an epoch. Any other text is [`NEVER`](Self::NEVER).
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
    use super::*;

    #[test]
    fn an_epoch_survives_its_text_form() {
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
}
