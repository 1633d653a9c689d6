//! Messages between nodes, outside the log: in Protobuf, and lost at will.

use bytes::Bytes;
use prost::{Message as _, Oneof};

use super::record::Info;
use super::status::PeerStatus;

/// A message of a node.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Message {
    /// The node that sends it.
    #[prost(fixed64, tag = "1")]
    pub from: u64,
    /// What it says.
    #[prost(oneof = "body::Body", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub body: Option<body::Body>,
}

/// The kinds of messages.
pub(super) mod body {
    use super::*;

    /// What a message says.
    #[derive(Clone, PartialEq, Oneof)]
    pub(in crate::cluster) enum Body {
        /// To all, each second.
        #[prost(message, tag = "2")]
        Heartbeat(Heartbeat),
        /// To a node that follows a bucket: send a part of its ledger.
        #[prost(message, tag = "3")]
        SnapshotRequest(SnapshotRequest),
        /// The part.
        #[prost(message, tag = "4")]
        SnapshotPart(SnapshotPart),
        /// To all: a question or an order.
        #[prost(message, tag = "5")]
        Ask(Ask),
        /// The answer.
        #[prost(message, tag = "6")]
        Reply(Reply),
        /// To all: clients of the sender have joined or left.
        #[prost(message, tag = "7")]
        MemberChanges(MemberChanges),
        /// To a node: send all your clients.
        #[prost(message, tag = "8")]
        MembersRequest(MembersRequest),
        /// Some of them.
        #[prost(message, tag = "9")]
        MembersPart(MembersPart),
        /// To all: the figures of the sender, as JSON.
        #[prost(bytes = "bytes", tag = "10")]
        Figures(Bytes),
    }
}

/// What a node says of itself.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Heartbeat {
    /// The configured name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The version of the program.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Its clock, in milliseconds of Unix time.
    #[prost(uint64, tag = "3")]
    pub unix_ms: u64,
    /// A hash of the settings that should be alike on all nodes.
    #[prost(fixed64, tag = "4")]
    pub settings: u64,
    /// By bucket.
    #[prost(message, repeated, tag = "5")]
    pub buckets: Vec<BucketState>,
    /// The node is stopping: this is its last message.
    #[prost(bool, tag = "6")]
    pub is_last: bool,
    /// The number of its last changes of members.
    #[prost(uint64, tag = "7")]
    pub members: u64,
}

/// Where a node is in the log of a bucket.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct BucketState {
    /// The sequence of the last record that it has read; 0 while it joins.
    #[prost(uint64, tag = "1")]
    pub applied: u64,
    /// Whether it follows the log, so that others may join from it.
    #[prost(bool, tag = "2")]
    pub is_following: bool,
    /// Names the last reset.
    #[prost(fixed64, tag = "3")]
    pub generation: u64,
}

/// Asks for a part of a ledger.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct SnapshotRequest {
    /// The bucket.
    #[prost(uint32, tag = "1")]
    pub bucket: u32,
    /// From which byte on. 0 asks for a ledger.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Whether it is the present one, and not an older one from which the log leads to the histories.
    #[prost(bool, tag = "3")]
    pub is_present: bool,
}

/// A part of a ledger.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SnapshotPart {
    /// The bucket.
    #[prost(uint32, tag = "1")]
    pub bucket: u32,
    /// The sequence of the last record in the ledger.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Where the part begins.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// Bytes of all parts.
    #[prost(uint64, tag = "4")]
    pub total: u64,
    /// The part.
    #[prost(bytes = "bytes", tag = "5")]
    pub bytes: Bytes,
    /// The sequence of the last record that the sender had read when it sent the first part.
    #[prost(uint64, tag = "6")]
    pub read: u64,
    /// The digest of its ledger there.
    #[prost(fixed64, tag = "7")]
    pub read_digest: u64,
}

/// A question to all nodes, or an order for all.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ask {
    /// The asking node's number for it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What it is, for the layers above.
    #[prost(bytes = "bytes", tag = "2")]
    pub question: Bytes,
}

/// A node's answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// As in the question.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What it is, for the layers above.
    #[prost(bytes = "bytes", tag = "2")]
    pub answer: Bytes,
}

/// Clients that have joined or left topics.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MemberChanges {
    /// One after that of the node's changes before.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// In order.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<MemberChange>,
}

/// A client that has joined or left a topic.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MemberChange {
    /// The topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Whether it has joined; it has left otherwise.
    #[prost(bool, tag = "2")]
    pub has_joined: bool,
    /// The client.
    #[prost(message, optional, tag = "3")]
    pub info: Option<Info>,
}

/// Asks for all clients of a node.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct MembersRequest {}

/// Some of all clients of a node.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MembersPart {
    /// The number of the last changes before.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// The number of the part, from 0.
    #[prost(uint64, tag = "2")]
    pub index: u64,
    /// How many parts there are.
    #[prost(uint64, tag = "3")]
    pub total: u64,
    /// The clients.
    #[prost(message, repeated, tag = "4")]
    pub members: Vec<MemberChange>,
}

impl Message {
    /// The bytes of a message.
    pub(super) fn encode(from: u64, body: body::Body) -> Bytes {
        Message { from, body: Some(body) }.encode_to_vec().into()
    }
}

/// The node that says who it is in a message to all, and whether it leaves. For observers that are no node: `settings`
/// is the hash of theirs.
pub fn announced(bytes: &Bytes, settings: u64, unix_ms: u64) -> Option<(PeerStatus, bool)> {
    let Message { from, body: Some(body::Body::Heartbeat(heartbeat)) } = Message::decode(bytes.clone()).ok()? else {
        return None;
    };
    let node = PeerStatus {
        id: from,
        name: heartbeat.name,
        version: heartbeat.version,
        silent_ms: 0,
        skew_ms: heartbeat.unix_ms as i64 - unix_ms as i64,
        has_other_settings: heartbeat.settings != settings,
    };
    Some((node, heartbeat.is_last))
}
