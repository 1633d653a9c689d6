//! A node: all its buckets, and the other nodes it knows. Events in, outputs out; time is an argument.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;

use super::base::Reach;
use super::bucket::{Bucket, Scene};
use super::members::{Members, Peer};
use super::message::{Ask, Heartbeat, MembersRequest, Message, Reply, SnapshotPart, SnapshotRequest, body};
use super::reader::Mark;
use super::record::Entry;
use super::roster::{Member, OtherMembers, OwnMembers};
use super::status::{BucketStatus, Counts, Figures, PeerStatus};
use crate::limits::{
    CLUSTER_FIGURES_BYTES_MAX, CLUSTER_HEARTBEAT_MS, CLUSTER_RECORD_SPARE_BYTES, CLUSTER_SNAPSHOT_PART_BYTES,
};
use crate::topics::{Draft, Position, PublishError, TopicName, bucket_of, mix};

/// Ledgers that a node sends to peers at the same time.
const UPLOADS_MAX: usize = 64;

/// Silence after which a peer has given up on a ledger, in milliseconds.
const UPLOAD_IDLE_MS: u64 = 10_000;

/// How long a node without a connection to the log still queues publications, in milliseconds.
const CUT_MS: u64 = 1000;

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's id: random, and another one after each start.
    pub node: u64,
    /// Its name, for people.
    pub name: String,
    /// Buckets: the same number on all nodes.
    pub buckets: u16,
    /// A hash of the settings that should be alike on all nodes.
    pub settings: u64,
    /// How long a publisher waits for the log.
    pub publish_timeout_ms: u64,
    /// How long a node that starts looks for others before it begins new epochs.
    pub start_wait_ms: u64,
    /// How far back the ledgers reach that it sends to nodes that join.
    pub reach: Reach,
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Event {
    /// A record of a bucket's log.
    Record {
        /// The bucket.
        bucket: u16,
        /// The record's place in the log.
        sequence: u64,
        /// The record.
        bytes: Bytes,
        /// The fetch that returned it; `None` for a live copy.
        fetch: Option<u64>,
    },
    /// A fetch has ended.
    Fetched {
        /// The bucket.
        bucket: u16,
        /// The fetch.
        fetch: u64,
        /// The first and the last sequence in the log when the fetch began; `None` if it failed.
        range: Option<(u64, u64)>,
    },
    /// The log has acknowledged a record.
    Appended {
        /// The bucket.
        bucket: u16,
        /// The record's place in the log.
        sequence: u64,
    },
    /// The log could not take a record now, or has not answered.
    AppendFailed {
        /// The bucket.
        bucket: u16,
    },
    /// A message of another node.
    Message(Bytes),
    /// The broker can be reached.
    Connected,
    /// The broker can't be reached.
    Disconnected,
    /// The broker has rejected the node, or something of it.
    Rejected,
}

/// What a node wants done. `T` is what a publisher waits with.
#[derive(Debug)]
pub enum Output<T> {
    /// Append the record to the bucket's log.
    Append {
        /// The bucket.
        bucket: u16,
        /// The record.
        record: Bytes,
    },
    /// Fetch the bucket's records behind a sequence, some or all.
    Fetch {
        /// The bucket.
        bucket: u16,
        /// The sequence.
        after: u64,
        /// To be returned with the records.
        fetch: u64,
    },
    /// Send the message to all other nodes.
    Broadcast(Bytes),
    /// Send the message to a node.
    Send {
        /// The node.
        to: u64,
        /// The message.
        message: Bytes,
    },
    /// A publication has its position: to its topic's home shard, and to its publisher if that is on this node.
    Published {
        /// The publication.
        draft: Draft,
        /// Its position.
        position: Position,
        /// Log time.
        time_ms: u64,
        /// Its publisher.
        ticket: Option<T>,
    },
    /// A publisher has its answer.
    Answered {
        /// The publisher.
        ticket: T,
        /// The position that the publication had before, or why it has none.
        result: Result<Position, PublishError>,
    },
    /// The history of a topic ends here.
    HistoryRemoved {
        /// The topic.
        topic: TopicName,
        /// Who has removed it.
        ticket: Option<T>,
    },
    /// A topic is forgotten: its next publication begins another epoch.
    Evicted {
        /// The topic.
        topic: TopicName,
    },
    /// The epochs of topics without publications have changed.
    Lineage {
        /// The bucket.
        bucket: u16,
        /// From what they are made.
        lineage: u64,
    },
    /// The positions in a bucket are unknown from here on.
    Unsettled {
        /// The bucket.
        bucket: u16,
    },
    /// These are the positions in a bucket. Publications may follow that were made before. Its subscribers may have
    /// missed publications.
    Rebased {
        /// The bucket.
        bucket: u16,
        /// From what the epochs of all other topics are made.
        lineage: u64,
        /// The topics with publications.
        positions: Vec<(TopicName, Position)>,
    },
    /// All that the log of a bucket held at some moment since `Rebased` or the start was read: its positions can be
    /// used.
    Settled {
        /// The bucket.
        bucket: u16,
    },
    /// A client of another node has joined or left a topic.
    Member(Member),
    /// The figures of another node, as text.
    Figures {
        /// The node.
        from: u64,
        /// The figures.
        text: Bytes,
    },
    /// Another node asks.
    Asked {
        /// The node.
        from: u64,
        /// The question.
        ask: Ask,
    },
    /// Another node has answered.
    Replied {
        /// The node.
        from: u64,
        /// The answer.
        reply: Reply,
    },
}

/// A publication, or another entry for the log.
#[derive(Debug)]
pub enum Work {
    /// Publish.
    Publish(Draft),
    /// Remove the topic's history.
    RemoveHistory(TopicName),
}

/// A ledger that a peer fetches.
struct Upload {
    sequence: u64,
    /// What this node had read when the upload began.
    read: Mark,
    bytes: Bytes,
    asked_ms: u64,
}

/// A node. `T` is what a publisher waits with.
pub struct Node<T> {
    config: Config,
    buckets: Vec<Bucket<T>>,
    /// The number of the newest fetch, by bucket.
    fetches: Vec<u64>,
    members: Members,
    own_members: OwnMembers,
    other_members: OtherMembers,
    /// Bytes that an entry may have.
    entry_bytes_max: usize,
    /// By peer and bucket.
    uploads: HashMap<(u64, u16), Upload>,
    /// Since when the broker can't be reached; `None` if it can.
    cut_ms: Option<u64>,
    heartbeat_ms: u64,
    random: u64,
    counts: Counts,
    out: Vec<Output<T>>,
}

impl<T> Node<T> {
    /// A node that is not connected yet. `seed` should be random.
    pub fn new(config: Config, seed: u64, now_ms: u64) -> Node<T> {
        let mut random = seed;
        let bucket = |index| Bucket::new(index, next_random(&mut random), config.publish_timeout_ms, now_ms);
        let buckets = (0..config.buckets).map(bucket).collect();
        Node {
            fetches: vec![0; usize::from(config.buckets)],
            buckets,
            config,
            members: Members::default(),
            own_members: OwnMembers::default(),
            other_members: OtherMembers::default(),
            entry_bytes_max: usize::MAX,
            uploads: HashMap::new(),
            cut_ms: Some(now_ms),
            heartbeat_ms: now_ms,
            random,
            counts: Counts::default(),
            out: Vec::new(),
        }
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.config.node
    }

    /// The broker takes messages of this size.
    pub fn set_payload_max(&mut self, bytes: usize) {
        self.entry_bytes_max = bytes.saturating_sub(CLUSTER_RECORD_SPARE_BYTES);
    }

    /// Takes what the node wants done, in order.
    pub fn take_outputs(&mut self) -> Vec<Output<T>> {
        self.send_member_changes();
        self.out.extend(self.other_members.take_news().into_iter().map(Output::Member));
        std::mem::take(&mut self.out)
    }

    /// Appends to the log. The outcome follows with the ticket.
    pub fn submit(&mut self, work: Work, ticket: T, now_ms: u64, unix_ms: u64) {
        let (bucket, entry) = match work {
            Work::Publish(draft) => (bucket_of(&draft.topic, self.config.buckets), Entry::publication(draft)),
            Work::RemoveHistory(topic) => (bucket_of(&topic, self.config.buckets), Entry::removal(&topic)),
        };
        if entry.encoded_len() > self.entry_bytes_max {
            let result = Err(PublishError::TooLarge);
            return self.out.push(Output::Answered { ticket, result });
        }
        if self.is_cut(now_ms) {
            let result = Err(PublishError::NoLog);
            return self.out.push(Output::Answered { ticket, result });
        }
        self.with_bucket(bucket, now_ms, unix_ms, |bucket, scene| bucket.push(entry, ticket, scene));
    }

    /// A client of this node has joined or left a topic that announces this.
    pub fn on_member(&mut self, member: &Member) {
        self.own_members.on_change(member);
    }

    /// Whether the broker can't be reached for so long that publications are rejected.
    fn is_cut(&self, now_ms: u64) -> bool {
        self.cut_ms.is_some_and(|cut_ms| now_ms >= cut_ms + CUT_MS)
    }

    /// Something has happened.
    pub fn on_event(&mut self, event: Event, now_ms: u64, unix_ms: u64) {
        match event {
            // What an old fetch returns may be of a log that was rewritten since.
            Event::Record { bucket, fetch: Some(fetch), .. } | Event::Fetched { bucket, fetch, .. }
                if fetch != self.fetches[usize::from(bucket)] => {}
            Event::Record { bucket, sequence, bytes, fetch } => {
                self.counts.fetched += u64::from(fetch.is_some());
                let is_live = fetch.is_none();
                self.with_bucket(bucket, now_ms, unix_ms, |bucket, scene| {
                    bucket.on_record(sequence, bytes, is_live, scene);
                });
            }
            Event::Fetched { bucket, range, .. } => {
                self.with_bucket(bucket, now_ms, unix_ms, |bucket, scene| bucket.on_fetched(range, scene));
            }
            Event::Appended { bucket, sequence } => self.buckets[usize::from(bucket)].on_sign(sequence, now_ms),
            Event::AppendFailed { bucket } => {
                self.counts.append_failures += 1;
                self.buckets[usize::from(bucket)].on_append_failed(now_ms);
            }
            Event::Message(bytes) => self.on_message(&bytes, now_ms, unix_ms),
            Event::Connected => {
                self.cut_ms = None;
                self.heartbeat_ms = now_ms;
                self.counts.connects += 1;
                self.buckets.iter_mut().for_each(|bucket| bucket.on_reconnect(now_ms));
                self.on_time(now_ms, unix_ms);
            }
            Event::Disconnected => _ = self.cut_ms.get_or_insert(now_ms),
            Event::Rejected => self.counts.rejections += 1,
        }
    }

    /// Does what is due. Call it at least every 100 ms.
    pub fn on_time(&mut self, now_ms: u64, unix_ms: u64) {
        self.members.on_time(now_ms);
        self.other_members.retain(|id| self.members.has(id));
        self.uploads.retain(|_, upload| now_ms < upload.asked_ms + UPLOAD_IDLE_MS);
        if self.cut_ms.is_none() && now_ms >= self.heartbeat_ms {
            self.heartbeat_ms = now_ms + CLUSTER_HEARTBEAT_MS;
            self.send_heartbeat(false, unix_ms);
        }
        let is_cut = self.is_cut(now_ms);
        for bucket in 0..self.config.buckets {
            self.with_bucket(bucket, now_ms, unix_ms, |bucket, scene| {
                if is_cut {
                    bucket.refuse_unsent(scene);
                }
                bucket.on_time(scene);
            });
        }
    }

    /// Says goodbye, so that others need not wait.
    pub fn leave(&mut self, unix_ms: u64) {
        self.send_heartbeat(true, unix_ms);
    }

    fn send_heartbeat(&mut self, is_last: bool, unix_ms: u64) {
        let heartbeat = Heartbeat {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            unix_ms,
            settings: self.config.settings,
            buckets: self.buckets.iter().map(Bucket::announce).collect(),
            is_last,
            members: self.own_members.number(),
        };
        self.out.push(Output::Broadcast(Message::encode(self.config.node, body::Body::Heartbeat(heartbeat))));
    }

    /// Sends this node's figures to all others. They may be lost.
    pub fn share_figures(&mut self, text: Bytes) {
        self.out.push(Output::Broadcast(Message::encode(self.config.node, body::Body::Figures(text))));
    }

    /// Asks all other nodes.
    pub fn ask(&mut self, ask: Ask) {
        self.out.push(Output::Broadcast(Message::encode(self.config.node, body::Body::Ask(ask))));
    }

    /// Answers another node.
    pub fn reply(&mut self, to: u64, reply: Reply) {
        self.out.push(Output::Send { to, message: Message::encode(self.config.node, body::Body::Reply(reply)) });
    }

    fn on_message(&mut self, bytes: &Bytes, now_ms: u64, unix_ms: u64) {
        let Ok(Message { from, body: Some(body) }) = Message::decode(bytes.clone()) else { return };
        if from == self.config.node {
            return;
        }
        match body {
            body::Body::Heartbeat(heartbeat) => {
                for (bucket, state) in self.buckets.iter_mut().zip(&heartbeat.buckets) {
                    // A peer of another generation has read another log, or has not read the reset yet.
                    if state.generation == bucket.announce().generation {
                        bucket.on_sign(state.applied, now_ms);
                    }
                }
                let number = heartbeat.members;
                self.members.on_heartbeat(from, heartbeat, now_ms, unix_ms);
                self.other_members.retain(|id| self.members.has(id));
                let (is_known, is_ready) = (self.members.has(from), self.is_ready());
                if is_known && self.other_members.on_heartbeat(from, number, is_ready, now_ms) {
                    let message = Message::encode(self.config.node, body::Body::MembersRequest(MembersRequest {}));
                    self.out.push(Output::Send { to: from, message });
                }
            }
            body::Body::MemberChanges(changes) => self.other_members.on_changes(from, changes),
            body::Body::MembersRequest(_) => self.send_members(from),
            body::Body::MembersPart(part) => self.other_members.on_part(from, part),
            body::Body::SnapshotRequest(request) => self.on_snapshot_request(from, request, now_ms),
            body::Body::SnapshotPart(part) => {
                let bucket = u16::try_from(part.bucket).ok().filter(|bucket| *bucket < self.config.buckets);
                let Some(bucket) = bucket else { return };
                self.with_bucket(bucket, now_ms, unix_ms, |bucket, scene| bucket.on_snapshot_part(from, part, scene));
            }
            body::Body::Figures(text) => {
                let is_good = text.len() <= CLUSTER_FIGURES_BYTES_MAX && simdutf8::basic::from_utf8(&text).is_ok();
                self.counts.figures_rejected += u64::from(!is_good);
                if is_good && self.members.has(from) {
                    self.out.push(Output::Figures { from, text });
                }
            }
            body::Body::Ask(ask) => self.out.push(Output::Asked { from, ask }),
            body::Body::Reply(reply) => self.out.push(Output::Replied { from, reply }),
        }
    }

    fn send_member_changes(&mut self) {
        for changes in self.own_members.take_changes() {
            let message = Message::encode(self.config.node, body::Body::MemberChanges(changes));
            self.out.push(Output::Broadcast(message));
        }
    }

    /// Sends all clients of this node, behind the changes that were not sent.
    fn send_members(&mut self, to: u64) {
        self.send_member_changes();
        for part in self.own_members.parts() {
            let message = Message::encode(self.config.node, body::Body::MembersPart(part));
            self.out.push(Output::Send { to, message });
        }
    }

    fn on_snapshot_request(&mut self, from: u64, request: SnapshotRequest, now_ms: u64) {
        let Some(index) = u16::try_from(request.bucket).ok().filter(|bucket| *bucket < self.config.buckets) else {
            return;
        };
        let key = (from, index);
        if request.offset == 0 {
            self.uploads.remove(&key);
            if self.uploads.len() >= UPLOADS_MAX {
                return;
            }
            let Some((base, read)) = self.buckets[usize::from(index)].base(request.is_present) else { return };
            self.uploads.insert(key, Upload { sequence: base.sequence, read, bytes: base.bytes, asked_ms: now_ms });
        }
        let Some(upload) = self.uploads.get_mut(&key) else { return };
        let Some(start) = usize::try_from(request.offset).ok().filter(|start| *start <= upload.bytes.len()) else {
            return;
        };
        let end = upload.bytes.len().min(start + CLUSTER_SNAPSHOT_PART_BYTES);
        upload.asked_ms = now_ms;
        let part = SnapshotPart {
            bucket: request.bucket,
            sequence: upload.sequence,
            offset: request.offset,
            total: upload.bytes.len() as u64,
            bytes: upload.bytes.slice(start..end),
            read: upload.read.sequence,
            read_digest: upload.read.digest,
        };
        if end == upload.bytes.len() {
            self.uploads.remove(&key);
        }
        let message = Message::encode(self.config.node, body::Body::SnapshotPart(part));
        self.out.push(Output::Send { to: from, message });
    }

    /// Runs `act` on a bucket.
    fn with_bucket(
        &mut self,
        bucket: u16,
        now_ms: u64,
        unix_ms: u64,
        act: impl FnOnce(&mut Bucket<T>, &mut Scene<'_, T>),
    ) {
        let random = &mut self.random;
        let mut scene = Scene {
            node: self.config.node,
            now_ms,
            unix_ms,
            start_wait_ms: self.config.start_wait_ms,
            reach: self.config.reach,
            is_connected: self.cut_ms.is_none(),
            members: &self.members,
            counts: &mut self.counts,
            fetches: &mut self.fetches[usize::from(bucket)],
            out: &mut self.out,
            random: &mut || next_random(random),
        };
        act(&mut self.buckets[usize::from(bucket)], &mut scene);
    }

    /// Whether the node has read all buckets' logs up to their ends at some moment, and is not far behind now.
    pub fn is_ready(&self) -> bool {
        self.buckets.iter().all(Bucket::is_ready)
    }

    /// What the rest of the process may know.
    pub fn figures(&self, now_ms: u64) -> Figures {
        let bucket = |bucket: &Bucket<T>| {
            let (state, (topics, digest)) = (bucket.announce(), bucket.figures());
            BucketStatus {
                applied: state.applied,
                generation: state.generation,
                behind: bucket.behind(),
                is_following: state.is_following,
                is_outdated: bucket.is_outdated(),
                queue_bytes: bucket.queue_bytes(),
                topics,
                digest,
            }
        };
        let peer = |(id, peer): (u64, &Peer)| PeerStatus {
            id,
            name: peer.heartbeat.name.clone(),
            version: peer.heartbeat.version.clone(),
            silent_ms: now_ms.saturating_sub(peer.heard_ms),
            skew_ms: peer.skew_ms,
            has_other_settings: peer.heartbeat.settings != self.config.settings,
        };
        Figures {
            is_connected: self.cut_ms.is_none(),
            is_ready: self.is_ready(),
            buckets: self.buckets.iter().map(bucket).collect(),
            peers: self.members.iter().map(peer).collect(),
            members: self.other_members.len(),
            counts: Counts {
                members_left_out: self.own_members.left_out,
                members_requested: self.other_members.requested,
                ..self.counts
            },
        }
    }

    #[cfg(test)]
    pub(super) fn bucket(&self, index: u16) -> &Bucket<T> {
        &self.buckets[usize::from(index)]
    }
}

fn next_random(random: &mut u64) -> u64 {
    *random = random.wrapping_add(1);
    mix(*random)
}
