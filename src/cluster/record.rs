//! The records of a log, in Protobuf.
//!
//! A record holds the publications that a node has gathered for a bucket. The largest field comes last.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::limits::{KEY_BYTES_MAX, TAGS_BYTES_MAX};
use crate::topics::{ClientInfo, Draft, TopicName};

/// The newest rules that this build knows.
pub const VERSION: u32 = 1;

/// A record of a bucket's log.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// The rules by which it counts.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The writer: random, and new whenever a node may not go on counting its records.
    #[prost(fixed64, tag = "2")]
    pub writer: u64,
    /// The record's number among those of its writer: 1, 2, 3 …
    #[prost(uint64, tag = "3")]
    pub number: u64,
    /// The writer's clock, in milliseconds of Unix time.
    #[prost(uint64, tag = "4")]
    pub time_ms: u64,
    /// Everything begins anew with this record: all topics get new epochs.
    #[prost(bool, tag = "5")]
    pub is_reset: bool,
    /// The sequence up to which the writer had read the log.
    #[prost(uint64, tag = "6")]
    pub seen: u64,
    /// The digest of the writer's ledger there.
    #[prost(fixed64, tag = "7")]
    pub digest: u64,
    /// In order. The first record of a writer has none.
    #[prost(message, repeated, tag = "8")]
    pub entries: Vec<Entry>,
}

/// A publication without its position, or the removal of a topic's history.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// The topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Whether the payload is text.
    #[prost(bool, tag = "2")]
    pub is_text: bool,
    /// Whether the topic's history omits it.
    #[prost(bool, tag = "3")]
    pub skips_history: bool,
    /// Not a publication: the topic's history is removed.
    #[prost(bool, tag = "4")]
    pub removes_history: bool,
    /// The conflation key.
    #[prost(string, optional, tag = "5")]
    pub key: Option<String>,
    /// The idempotency key.
    #[prost(string, optional, tag = "6")]
    pub idempotency_key: Option<String>,
    /// Sorted by name.
    #[prost(message, repeated, tag = "7")]
    pub tags: Vec<Tag>,
    /// The publishing client.
    #[prost(message, optional, tag = "8")]
    pub info: Option<Info>,
    /// The payload.
    #[prost(bytes = "bytes", tag = "9")]
    pub payload: Bytes,
}

/// A tag of a publication.
#[derive(Clone, PartialEq, Message)]
pub struct Tag {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A client, as other clients see it.
#[derive(Clone, PartialEq, Message)]
pub struct Info {
    /// As [`ClientInfo::client`].
    #[prost(string, tag = "1")]
    pub client: String,
    /// As [`ClientInfo::user`].
    #[prost(string, tag = "2")]
    pub user: String,
    /// As [`ClientInfo::conn_info`].
    #[prost(bytes = "vec", optional, tag = "3")]
    pub conn_info: Option<Vec<u8>>,
    /// As [`ClientInfo::chan_info`].
    #[prost(bytes = "vec", optional, tag = "4")]
    pub chan_info: Option<Vec<u8>>,
}

impl Entry {
    /// The entry of a publication.
    pub fn publication(draft: Draft) -> Entry {
        let tags = draft.tags.into_iter().flatten().map(|(name, value)| Tag { name, value });
        Entry {
            topic: draft.topic.as_str().to_owned(),
            is_text: draft.is_text,
            skips_history: draft.skip_history,
            removes_history: false,
            key: draft.key.map(String::from),
            idempotency_key: draft.idempotency_key.map(String::from),
            tags: tags.collect(),
            info: draft.info.map(|info| Info::from(&*info)),
            payload: draft.payload,
        }
    }

    /// The entry that removes a topic's history.
    pub fn removal(topic: &TopicName) -> Entry {
        Entry { topic: topic.as_str().to_owned(), removes_history: true, ..Entry::default() }
    }

    /// Whether every node can pass it on: another program may have written to the log.
    pub fn is_valid(&self) -> bool {
        let is_short = |key: &Option<String>| key.as_ref().is_none_or(|key| key.len() <= KEY_BYTES_MAX);
        let tag_bytes: usize = self.tags.iter().map(|tag| tag.name.len() + tag.value.len()).sum();
        is_short(&self.key)
            && is_short(&self.idempotency_key)
            && tag_bytes <= TAGS_BYTES_MAX
            && (!self.is_text || simdutf8::basic::from_utf8(&self.payload).is_ok())
    }

    /// The publication of an entry in `topic`.
    pub fn into_draft(self, topic: TopicName) -> Draft {
        let tags: Vec<_> = self.tags.into_iter().map(|tag| (tag.name, tag.value)).collect();
        Draft {
            key: self.key.map(String::into_boxed_str),
            tags: Some(tags.into_boxed_slice()).filter(|tags| !tags.is_empty()),
            info: self.info.map(|info| Arc::new(info.into())),
            skip_history: self.skips_history,
            ..Draft::new(topic, self.is_text, self.payload)
        }
    }
}

impl From<&ClientInfo> for Info {
    fn from(info: &ClientInfo) -> Info {
        Info {
            client: info.client.to_string(),
            user: info.user.to_string(),
            conn_info: info.conn_info.as_ref().map(|info| info.to_vec()),
            chan_info: info.chan_info.as_ref().map(|info| info.to_vec()),
        }
    }
}

impl From<Info> for ClientInfo {
    fn from(info: Info) -> ClientInfo {
        ClientInfo {
            client: info.client.into(),
            user: info.user.into(),
            conn_info: info.conn_info.map(Vec::into_boxed_slice),
            chan_info: info.chan_info.map(Vec::into_boxed_slice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_survives_the_log() {
        let topic = TopicName::new("chat:a").unwrap();
        let info = ClientInfo {
            client: "c".into(),
            user: "u".into(),
            conn_info: Some(b"{}".as_slice().into()),
            chan_info: None,
        };
        let draft = Draft {
            key: Some("k".into()),
            tags: Some([("a".to_owned(), "b".to_owned())].into()),
            info: Some(Arc::new(info)),
            skip_history: true,
            ..Draft::new(topic.clone(), true, Bytes::from_static(b"hello"))
        };
        let record = Record {
            version: VERSION,
            writer: 7,
            number: 2,
            time_ms: 5,
            entries: vec![Entry::publication(draft.clone()), Entry::removal(&topic)],
            ..Record::default()
        };
        let mut read = Record::decode(Bytes::from(record.encode_to_vec())).unwrap();
        assert_eq!(read, record);
        assert!(read.entries[1].removes_history && read.entries[0].is_valid());
        let back = read.entries.remove(0).into_draft(topic);
        assert_eq!(format!("{back:?}"), format!("{draft:?}"));
    }

    #[test]
    fn what_no_node_could_pass_on_is_invalid() {
        let valid = Entry { topic: "a".to_owned(), ..Entry::default() };
        assert!(valid.is_valid());
        let long = Some("k".repeat(KEY_BYTES_MAX + 1));
        let tag = Tag { name: "n".to_owned(), value: "v".repeat(TAGS_BYTES_MAX) };
        let rows = [
            Entry { key: long.clone(), ..valid.clone() },
            Entry { idempotency_key: long, ..valid.clone() },
            Entry { tags: vec![tag], ..valid.clone() },
            Entry { is_text: true, payload: Bytes::from_static(b"\xff"), ..valid },
        ];
        assert!(rows.iter().all(|entry| !entry.is_valid()));
    }
}
