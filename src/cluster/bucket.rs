//! A bucket on this node: it joins, and then follows its log.
//!
//! A node that joins takes a ledger of a peer that follows, reads the log from there to its end, and only then says
//! that the positions are settled: the ledger is older than the log's end, often by as much as the histories are long
//! (see `base`). Where no peer does, because the whole cluster starts, or
//! because the log was rewritten and no ledger fits it, a node appends a *reset*: from that record on, everybody counts
//! anew, in new epochs. A reset counts whatever came before it, so nodes need not agree on who appends it, and two of
//! them do no harm but to end the epochs twice.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::base::{Base, Bases, Reach};
use super::ledger::{Ledger, Outcome, Snapshot, Verdict, record_hash};
use super::members::Members;
use super::message::{BucketState, Message, SnapshotPart, SnapshotRequest, body};
use super::node::Output;
use super::reader::{Mark, Place, Reader, Trouble};
use super::record::{Entry, Record, VERSION};
use super::status::Counts;
use super::writer::Writer;
use crate::limits::{CLUSTER_RESEND_MS, CLUSTER_SNAPSHOT_BYTES_MAX};
use crate::topics::PublishError;

/// Time for a peer to send a part of its ledger, in milliseconds.
const PART_MS: u64 = 2000;

/// Time without records after which a node appends an empty one, at least, in milliseconds: a log that its broker has
/// emptied by age may forget its last sequence.
const QUIET_MS: u64 = 60_000;

/// How long a node that joins reads the log for the sake of histories, in milliseconds. Then it begins again with the
/// present ledger, without them.
const REPLAY_MS_MAX: u64 = 60_000;

/// How many times the usual wait any node resets a bucket, and not only the one with the lowest id.
const RESET_TURNS: u64 = 4;

/// What an event of a bucket may use.
pub(super) struct Scene<'a, T> {
    pub(super) node: u64,
    pub(super) now_ms: u64,
    pub(super) unix_ms: u64,
    /// How long a node that starts looks for peers.
    pub(super) start_wait_ms: u64,
    pub(super) reach: Reach,
    pub(super) is_connected: bool,
    pub(super) members: &'a Members,
    pub(super) counts: &'a mut Counts,
    /// The number of the bucket's newest fetch.
    pub(super) fetches: &'a mut u64,
    pub(super) out: &'a mut Vec<Output<T>>,
    /// Random numbers.
    pub(super) random: &'a mut dyn FnMut() -> u64,
}

/// How the node takes part in a bucket.
enum State {
    Joining(Joining),
    Following(Box<Following>),
    /// A record has newer rules than this build knows.
    Outdated,
}

/// A bucket whose positions the node does not know.
struct Joining {
    since_ms: u64,
    /// Peers' ledgers do not help: the log was rewritten.
    needs_reset: bool,
    /// An older ledger does not help: the log does not lead from there to its end, or not in time.
    needs_present: bool,
    /// When to append a reset, if it is up to this node.
    reset_ms: u64,
    download: Option<Download>,
}

/// A peer's ledger, as far as it has arrived.
struct Download {
    peer: u64,
    sequence: u64,
    bytes: BytesMut,
    asked_ms: u64,
}

/// A bucket whose log the node reads.
struct Following {
    reader: Reader,
    ledger: Ledger,
    bases: Bases,
    /// When the last record was read.
    read_ms: u64,
    /// When the node began to read behind an older ledger, until it has reached the end of the log; `None` behind a
    /// present one.
    replay_ms: Option<u64>,
    /// Whether the reader has reached the end of the log once, and all positions are known.
    is_settled: bool,
}

impl Following {
    fn new(sequence: u64, ledger: Ledger, scene: &Scene<'_, impl Sized>) -> Following {
        Following {
            reader: Reader::new(sequence, scene.now_ms),
            bases: Bases::new(sequence, &ledger, scene.reach),
            ledger,
            read_ms: scene.now_ms,
            replay_ms: None,
            is_settled: false,
        }
    }
}

/// A bucket on this node.
pub(super) struct Bucket<T> {
    index: u16,
    state: State,
    writer: Writer<T>,
    outcomes: Vec<Outcome>,
}

impl<T> Bucket<T> {
    /// A bucket that joins.
    pub(super) fn new(index: u16, writer: u64, publish_timeout_ms: u64, now_ms: u64) -> Bucket<T> {
        let state = State::Joining(Joining::new(false, now_ms));
        Bucket { index, state, writer: Writer::new(writer, publish_timeout_ms), outcomes: Vec::new() }
    }

    /// What peers may know.
    pub(super) fn announce(&self) -> BucketState {
        match &self.state {
            State::Following(following) => BucketState {
                applied: following.reader.applied(),
                is_following: true,
                generation: following.ledger.generation(),
            },
            State::Joining(_) | State::Outdated => BucketState::default(),
        }
    }

    /// Whether all that the log held at some moment since the start was read.
    pub(super) fn is_ready(&self) -> bool {
        matches!(&self.state, State::Following(following) if following.is_settled)
    }

    /// Whether a record has newer rules than this build knows.
    pub(super) fn is_outdated(&self) -> bool {
        matches!(self.state, State::Outdated)
    }

    /// Records that are known to be in the log and were not read.
    pub(super) fn behind(&self) -> u64 {
        self.following().map_or(0, |following| following.reader.behind())
    }

    /// Number of topics with publications, and the digest of all counted records.
    pub(super) fn figures(&self) -> (usize, u64) {
        self.following().map_or((0, 0), |following| (following.ledger.topics(), following.ledger.digest()))
    }

    /// Bytes that wait for a record.
    pub(super) fn queue_bytes(&self) -> usize {
        self.writer.queue_bytes()
    }

    /// Whether the node reads the log behind an older ledger, and has not reached its end.
    fn is_replaying(&self) -> bool {
        self.following().is_some_and(|following| following.replay_ms.is_some())
    }

    fn following(&self) -> Option<&Following> {
        match &self.state {
            State::Following(following) => Some(following),
            State::Joining(_) | State::Outdated => None,
        }
    }

    /// A ledger for a peer that joins, the present one or an older one from which the log leads to the histories; and
    /// what this node has read.
    pub(super) fn base(&self, is_present: bool) -> Option<(Base, Mark)> {
        let Following { reader, ledger, bases, .. } = self.following()?;
        let older = bases.oldest().filter(|_| !is_present);
        let base = older.cloned().unwrap_or_else(|| Base::new(reader.applied(), ledger));
        Some((base, Mark { sequence: reader.applied(), digest: ledger.digest() }))
    }

    /// The last sequence of the log of which the node knows what was there; 0 while it joins.
    #[cfg(test)]
    pub(super) fn known(&self) -> u64 {
        self.following().map_or(0, |following| following.reader.known())
    }

    #[cfg(test)]
    pub(super) fn ledger(&self) -> Option<(u64, &Ledger)> {
        self.following().map(|following| (following.reader.applied(), &following.ledger))
    }

    /// Takes an entry for the next record.
    pub(super) fn push(&mut self, entry: Entry, ticket: T, scene: &mut Scene<'_, T>) {
        if self.is_outdated() {
            return scene.answer(ticket, PublishError::NoLog);
        }
        if let Err(ticket) = self.writer.push(entry, ticket, scene.now_ms) {
            return scene.answer(ticket, PublishError::Busy);
        }
        self.append_next(scene);
    }

    /// Appends what is due, if the node may write.
    fn append_next(&mut self, scene: &mut Scene<'_, T>) {
        let State::Following(following) = &self.state else { return };
        if !scene.is_connected {
            return;
        }
        let (seen, digest) = (following.reader.applied(), following.ledger.digest());
        let mut record = self.writer.next(seen, digest, scene.now_ms, scene.unix_ms);
        let is_quiet = scene.now_ms >= following.read_ms + QUIET_MS + scene.node % QUIET_MS;
        if record.is_none() && is_quiet && self.writer.is_idle() {
            record = Some(self.writer.begin(seen, digest, scene.now_ms, scene.unix_ms));
        }
        if let Some(record) = record {
            scene.counts.appended += 1;
            scene.out.push(Output::Append { bucket: self.index, record });
        }
    }

    /// A record of the log has arrived: a live copy, or from a fetch.
    pub(super) fn on_record(&mut self, sequence: u64, bytes: Bytes, is_live: bool, scene: &mut Scene<'_, T>) {
        if matches!(self.state, State::Joining(_)) && is_live {
            self.begin_at_reset(sequence, &bytes, scene);
        }
        let mut next = Some((sequence, bytes));
        while let Some((sequence, bytes)) = next {
            let State::Following(following) = &mut self.state else { return };
            match following.reader.on_record(sequence, &bytes, scene.now_ms) {
                Place::Next => self.read(sequence, &bytes, scene),
                Place::Later => {}
                Place::Rewritten => return self.begin_joining(Trouble::Rewritten, scene),
            }
            let State::Following(following) = &mut self.state else { return };
            next = following.reader.take();
        }
        self.append_next(scene);
    }

    /// Follows the log from a reset on, which needs no earlier record.
    fn begin_at_reset(&mut self, sequence: u64, bytes: &Bytes, scene: &mut Scene<'_, T>) {
        let record = Record::decode(bytes.clone()).ok().filter(|record| record.is_reset && record.version <= VERSION);
        if let Some(record) = record {
            // Its own reading begins everything anew, this ledger included.
            let following = Following::new(sequence - 1, Ledger::reset(sequence, &record), scene);
            self.state = State::Following(Box::new(following));
        }
    }

    /// Reads the next record of the log.
    fn read(&mut self, sequence: u64, bytes: &Bytes, scene: &mut Scene<'_, T>) {
        let State::Following(following) = &mut self.state else { return };
        let hash = record_hash(sequence, bytes);
        following.read_ms = scene.now_ms;
        let record = match Record::decode(bytes.clone()) {
            Ok(record) if record.version <= VERSION => record,
            Ok(_) => return self.stop(scene),
            Err(_) => {
                scene.counts.void += 1;
                if !following.reader.advance(hash, following.ledger.digest()) {
                    self.begin_joining(Trouble::Rewritten, scene);
                }
                return;
            }
        };
        if record.is_reset {
            following.ledger = Ledger::reset(sequence, &record);
            // Whatever was read before, here or elsewhere, everything begins anew.
            let _ = following.reader.advance(hash, following.ledger.digest());
            following.bases = Bases::new(sequence, &following.ledger, scene.reach);
            scene.counts.resets += 1;
            let (bucket, lineage) = (self.index, following.ledger.lineage());
            scene.out.push(Output::Rebased { bucket, lineage, positions: Vec::new() });
            return self.writer.renew((scene.random)());
        }
        if !following.reader.agrees(record.seen, record.digest) {
            return self.begin_joining(Trouble::Rewritten, scene);
        }
        let mut outcomes = std::mem::take(&mut self.outcomes);
        let verdict = following.ledger.apply(hash, &record, &mut outcomes);
        if !following.reader.advance(hash, following.ledger.digest()) {
            return self.begin_joining(Trouble::Rewritten, scene);
        }
        following.bases.on_record(sequence, bytes.len(), &following.ledger, scene.reach);
        match verdict {
            Verdict::Counted => self.pass_on(record, &mut outcomes, scene),
            Verdict::Void => {
                scene.counts.void += 1;
                if self.writer.is_mine(&record) {
                    self.writer.on_void(record.number, (scene.random)());
                }
            }
        }
        outcomes.clear();
        self.outcomes = outcomes;
    }

    /// Passes the entries of a counted record on, and their outcomes to those who wait for them.
    fn pass_on(&mut self, record: Record, outcomes: &mut Vec<Outcome>, scene: &mut Scene<'_, T>) {
        let State::Following(following) = &mut self.state else { return };
        let is_mine = self.writer.is_mine(&record);
        let tickets = if is_mine { self.writer.on_counted(record.number) } else { Vec::new() };
        let time_ms = following.ledger.log_ms();
        let evicted = following.ledger.take_evicted();
        let lineage = (!evicted.is_empty()).then(|| following.ledger.lineage());
        scene.counts.applied += record.entries.len() as u64;
        let mut tickets = tickets.into_iter();
        for (entry, outcome) in record.entries.into_iter().zip(outcomes.drain(..)) {
            let ticket = tickets.next().flatten();
            match outcome {
                Outcome::Published(topic, position) => {
                    let draft = entry.into_draft(topic);
                    scene.out.push(Output::Published { draft, position, time_ms, ticket });
                }
                Outcome::Removed(topic) => scene.out.push(Output::HistoryRemoved { topic, ticket }),
                Outcome::Repeated(position) => {
                    let answered = ticket.map(|ticket| Output::Answered { ticket, result: Ok(position) });
                    scene.out.extend(answered);
                }
                Outcome::TooManyKeys => {
                    ticket.into_iter().for_each(|ticket| scene.answer(ticket, PublishError::TooManyKeys));
                }
                Outcome::Invalid => ticket.into_iter().for_each(|ticket| scene.answer(ticket, PublishError::NoLog)),
            }
        }
        let bucket = self.index;
        scene.out.extend(lineage.map(|lineage| Output::Lineage { bucket, lineage }));
        scene.out.extend(evicted.into_iter().map(|topic| Output::Evicted { topic }));
    }

    fn stop(&mut self, scene: &mut Scene<'_, T>) {
        self.state = State::Outdated;
        let waiting = self.writer.abandon((scene.random)());
        waiting.into_iter().for_each(|ticket| scene.answer(ticket, PublishError::Unconfirmed));
        let unsent = self.writer.take_unsent();
        unsent.into_iter().for_each(|ticket| scene.answer(ticket, PublishError::NoLog));
        scene.out.push(Output::Unsettled { bucket: self.index });
    }

    /// Reading can't go on: the positions are unknown until the bucket has joined again.
    fn begin_joining(&mut self, trouble: Trouble, scene: &mut Scene<'_, T>) {
        let needs_present = trouble == Trouble::LeftBehind && self.is_replaying();
        // Without histories the node joins all the same: nothing is lost.
        scene.counts.lost += u64::from(!needs_present);
        // What the present fetch returns may be of a log that is no more.
        *scene.fetches += 1;
        let joining = Joining::new(trouble == Trouble::Rewritten, scene.now_ms);
        self.state = State::Joining(Joining { needs_present, ..joining });
        let waiting = self.writer.abandon((scene.random)());
        waiting.into_iter().for_each(|ticket| scene.answer(ticket, PublishError::Unconfirmed));
        scene.out.push(Output::Unsettled { bucket: self.index });
    }

    /// A fetch has ended; see [`Reader::on_fetched`].
    pub(super) fn on_fetched(&mut self, range: Option<(u64, u64)>, scene: &mut Scene<'_, T>) {
        let State::Following(following) = &mut self.state else { return };
        let Some((first, last)) = range else { return following.reader.on_fetch_failed(scene.now_ms) };
        if let Err(trouble) = following.reader.on_fetched(first, last, scene.now_ms) {
            return self.begin_joining(trouble, scene);
        }
        if following.reader.is_caught_up() && !std::mem::replace(&mut following.is_settled, true) {
            following.replay_ms = None;
            scene.out.push(Output::Settled { bucket: self.index });
        }
    }

    /// The log has acknowledged a record at `sequence`, or a peer has read one there.
    pub(super) fn on_sign(&mut self, sequence: u64, now_ms: u64) {
        if let State::Following(following) = &mut self.state {
            following.reader.on_sign(sequence, now_ms);
        }
    }

    /// The log could not take the record in flight.
    pub(super) fn on_append_failed(&mut self, now_ms: u64) {
        self.writer.on_failed(now_ms);
    }

    /// The connection to the log is there again.
    pub(super) fn on_reconnect(&mut self, now_ms: u64) {
        self.writer.on_failed(now_ms);
        match &mut self.state {
            State::Following(following) => following.reader.on_reconnect(now_ms),
            State::Joining(joining) => {
                let needs_present = joining.needs_present;
                *joining = Joining { needs_present, ..Joining::new(joining.needs_reset, now_ms) };
            }
            State::Outdated => {}
        }
    }

    /// Nothing can be appended: whatever was not sent fails at once.
    pub(super) fn refuse_unsent(&mut self, scene: &mut Scene<'_, T>) {
        let unsent = self.writer.take_unsent();
        unsent.into_iter().for_each(|ticket| scene.answer(ticket, PublishError::NoLog));
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self, scene: &mut Scene<'_, T>) {
        let (unsent, sent) = self.writer.take_overdue(scene.now_ms);
        unsent.into_iter().for_each(|ticket| scene.answer(ticket, PublishError::NoLog));
        sent.into_iter().for_each(|ticket| scene.answer(ticket, PublishError::Unconfirmed));
        if !scene.is_connected {
            return;
        }
        match &mut self.state {
            State::Following(following) => {
                let is_late = following.replay_ms.is_some_and(|since_ms| scene.now_ms >= since_ms + REPLAY_MS_MAX);
                if is_late {
                    return self.begin_joining(Trouble::LeftBehind, scene);
                }
                if let Some(after) = following.reader.on_time(scene.now_ms) {
                    *scene.fetches += 1;
                    scene.out.push(Output::Fetch { bucket: self.index, after, fetch: *scene.fetches });
                }
                self.append_next(scene);
            }
            State::Joining(joining) => joining.on_time(self.index, scene),
            State::Outdated => {}
        }
    }

    /// A peer has sent a part of its ledger.
    pub(super) fn on_snapshot_part(&mut self, from: u64, part: SnapshotPart, scene: &mut Scene<'_, T>) {
        let State::Joining(joining) = &mut self.state else { return };
        let is_replay = !joining.needs_present && scene.reach.history_ms > 0;
        let mark = Mark { sequence: part.read, digest: part.read_digest };
        let Some((sequence, bytes)) = joining.on_part(self.index, from, part, scene) else { return };
        let ledger = Snapshot::decode(bytes).ok().and_then(Ledger::from_snapshot);
        let Some(ledger) = ledger else { return };
        let (bucket, lineage) = (self.index, ledger.lineage());
        scene.counts.transfers += 1;
        scene.out.push(Output::Rebased { bucket, lineage, positions: ledger.positions().collect() });
        let mut following = Following::new(sequence, ledger, scene);
        following.reader.set_mark(mark);
        let replay_ms = is_replay.then_some(scene.now_ms);
        self.state = State::Following(Box::new(Following { replay_ms, ..following }));
        // Nothing is in flight: joining has abandoned it.
        self.writer.renew((scene.random)());
    }
}

impl Joining {
    fn new(needs_reset: bool, now_ms: u64) -> Joining {
        Joining { since_ms: now_ms, needs_reset, needs_present: false, reset_ms: 0, download: None }
    }

    fn on_time<T>(&mut self, bucket: u16, scene: &mut Scene<'_, T>) {
        if let Some(download) = self.download.take_if(|download| scene.now_ms >= download.asked_ms + PART_MS) {
            // The next one may be quicker.
            let peers: Vec<u64> = scene.members.following(bucket).collect();
            let peer = peers.iter().find(|peer| **peer > download.peer).or(peers.first());
            return self.begin_download(bucket, peer.copied(), scene);
        }
        if self.download.is_some() {
            return;
        }
        let peer = scene.members.following(bucket).next().filter(|_| !self.needs_reset);
        if peer.is_some() {
            return self.begin_download(bucket, peer, scene);
        }
        // Where the log was rewritten any reset will do, so the first to notice does not wait for others.
        let wait_ms = if self.needs_reset { scene.node % CLUSTER_RESEND_MS } else { scene.start_wait_ms };
        let is_late = scene.now_ms >= self.since_ms + RESET_TURNS * wait_ms;
        let is_mine = self.needs_reset || is_late || !scene.members.has_lower(scene.node);
        if is_mine && scene.now_ms >= self.since_ms + wait_ms && scene.now_ms >= self.reset_ms {
            self.reset_ms = scene.now_ms + 2 * CLUSTER_RESEND_MS;
            let record = Record {
                version: VERSION,
                writer: (scene.random)(),
                number: 1,
                time_ms: scene.unix_ms,
                is_reset: true,
                ..Record::default()
            };
            scene.out.push(Output::Append { bucket, record: record.encode_to_vec().into() });
        }
    }

    fn begin_download<T>(&mut self, bucket: u16, peer: Option<u64>, scene: &mut Scene<'_, T>) {
        let Some(peer) = peer else { return };
        self.download = Some(Download { peer, sequence: 0, bytes: BytesMut::new(), asked_ms: scene.now_ms });
        scene.request_part(peer, bucket, 0, self.needs_present);
    }

    /// Returns the ledger and its sequence when it is complete.
    fn on_part<T>(
        &mut self,
        bucket: u16,
        from: u64,
        part: SnapshotPart,
        scene: &mut Scene<'_, T>,
    ) -> Option<(u64, Bytes)> {
        let download = self.download.as_mut().filter(|download| download.peer == from)?;
        let is_next =
            part.offset == download.bytes.len() as u64 && (part.offset == 0 || part.sequence == download.sequence);
        if !is_next || part.bytes.is_empty() && part.total > 0 || part.total > CLUSTER_SNAPSHOT_BYTES_MAX as u64 {
            return None;
        }
        download.sequence = part.sequence;
        download.asked_ms = scene.now_ms;
        download.bytes.extend_from_slice(&part.bytes);
        if download.bytes.len() as u64 >= part.total {
            let download = self.download.take().expect("it is there");
            return Some((download.sequence, download.bytes.freeze()));
        }
        let offset = download.bytes.len() as u64;
        scene.request_part(from, bucket, offset, self.needs_present);
        None
    }
}

impl<T> Scene<'_, T> {
    fn answer(&mut self, ticket: T, error: PublishError) {
        self.out.push(Output::Answered { ticket, result: Err(error) });
    }

    fn request_part(&mut self, to: u64, bucket: u16, offset: u64, is_present: bool) {
        let request = SnapshotRequest { bucket: bucket.into(), offset, is_present };
        let message = Message::encode(self.node, body::Body::SnapshotRequest(request));
        self.out.push(Output::Send { to, message });
    }
}
