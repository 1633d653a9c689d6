//! Sends the pushes of topics to their subscribers: one send per connection with everything due to it, in slot order,
//! without waiting.
//!
//! Each lane has a slice of every turn; the rest continues in the next turn. The outbox of a subscriber with a backlog
//! takes the pushes, under the policy of the topic's namespace.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::rc::Rc;

use super::metrics::{CloseCause, ShardMetrics};
use super::send::change_outbox;
use super::shard::Shard;
use super::slot::Stage;
use super::variant::encode;
use crate::buf::{SharedFrame, SlotId};
use crate::conn::{Outbox, OutboxFull, QueueKey};
use crate::limits::TLS_SEND_BYTES;
use crate::ring::{Errno, Op, Ring, SendNow, Token};
use crate::topics::{
    Batch, Bundles, Deltas, Encoding, Lane, NamespaceId, Part, Push, Run, SlowConsumer, TopicId, TopicName, Variant,
    Visit,
};

/// The bytes that a visit sends.
#[derive(Clone, Debug)]
enum Source {
    /// None: the connection has ended since it was gathered.
    Gone,
    /// None now: the subscriber has a backlog, or its handler encodes the pushes.
    Later,
    /// Its only run, which other visits share.
    Run(Rc<Run>),
    /// Several runs, joined.
    Joined(Range<usize>),
}

impl Source {
    /// The bytes, if any are sent now.
    fn bytes<'a>(&'a self, bundles: &'a Bundles) -> Option<&'a [u8]> {
        match self {
            Source::Gone | Source::Later => None,
            Source::Run(run) => Some(&run.bytes),
            Source::Joined(range) => Some(bundles.get(range.clone())),
        }
    }
}

/// Counts the deliveries of a namespace. Consecutive runs nearly always belong to the same one, so the metrics change
/// once for many runs.
#[derive(Default)]
struct Tally {
    namespace: NamespaceId,
    deliveries: u64,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, run: &Run, metrics: &ShardMetrics) {
        if run.namespace != self.namespace {
            self.settle(metrics);
            self.namespace = run.namespace;
        }
        self.deliveries += run.parts.len() as u64;
        self.bytes += run.bytes.len() as u64;
    }

    fn settle(&mut self, metrics: &ShardMetrics) {
        let counts = metrics.namespace(self.namespace);
        counts.deliveries.add(std::mem::take(&mut self.deliveries));
        counts.delivered_bytes.add(std::mem::take(&mut self.bytes));
    }
}

impl<R: Ring> Shard<'_, R> {
    /// Stages a push for the subscribers of a topic on this shard.
    pub(super) fn stage(&mut self, topic: &TopicName, push: Push) {
        let (namespaces, now_ms) = (&self.config.namespaces, self.now_ms);
        self.topics.stage(topic, push, self.now_us, |namespace| namespaces.get(namespace).due_ms(now_ms));
    }

    /// Sends staged pushes to the next subscribers.
    pub(super) fn send_publications(&mut self) {
        self.topics.board_due(self.now_ms);
        if !self.topics.has_work() {
            return;
        }
        let mut batch = std::mem::take(&mut self.scratch.batch);
        for lane in Lane::ALL {
            self.send_slice(lane, &mut batch);
        }
        batch.clear();
        self.scratch.batch = batch;
        self.count_deflate();
    }

    fn send_slice(&mut self, lane: Lane, batch: &mut Batch) {
        let start_us = self.ring.now_us();
        while self.gather(lane, batch) {
            self.fan_out(batch);
            let now_us = self.ring.now_us();
            batch.departed_us().iter().for_each(|us| self.metrics.fan_out.record(now_us.saturating_sub(*us)));
            if now_us - start_us >= self.config.fan_out.slice_us {
                return;
            }
        }
    }

    fn gather(&mut self, lane: Lane, batch: &mut Batch) -> bool {
        let (deflater, metrics) = (&mut self.deflater, self.metrics);
        let mut encode =
            |topic: &TopicName, push: &Push, variant: Variant| encode(topic, push, variant, deflater, metrics);
        self.topics.gather(lane, self.config.fan_out.batch_sends, batch, &mut encode)
    }

    fn fan_out(&mut self, batch: &Batch) {
        let mut due = batch.visits().to_vec();
        // Nearly always one round: only runs that exceed one send need another.
        while !due.is_empty() {
            let round: Vec<Visit> = due.iter_mut().map(|visit| batch.take_group(visit)).collect();
            self.send_round(batch, &round);
            due.retain(|visit| !visit.is_empty());
        }
        self.send_replies();
    }

    /// Sends once to each connection of `round`.
    fn send_round(&mut self, batch: &Batch, round: &[Visit]) {
        let (sources, chained) = self.prepare_round(batch, round);
        // Before the sends: one that does not go whole may break the chain again.
        chained.into_iter().for_each(|(slot, topic)| self.set_deltas(slot, topic, Deltas::Next));
        let (slots, bundles) = (&self.slots, &self.scratch.bundles);
        let sessions = &self.sessions;
        let sends = round.iter().zip(&sources).enumerate().filter_map(|(index, (visit, source))| {
            let bytes = source.bytes(bundles).filter(|_| !sessions.has(visit.slot))?;
            let token = Token::of_slot(Op::Publish, index as u32, visit.slot);
            Some(SendNow { socket: slots[visit.slot].socket, bytes, is_last: false, token })
        });
        let mut incomplete = std::mem::take(&mut self.scratch.incomplete);
        self.ring.send_now(sends, &mut incomplete);
        for completion in incomplete.drain(..) {
            self.on_publish_incomplete(batch, round[completion.token.tag() as usize], None, completion.result);
        }
        self.scratch.incomplete = incomplete;
        if !self.sessions.is_empty() {
            self.seal_round(batch, round, &sources);
        }
        for (visit, _) in round.iter().zip(&sources).filter(|(_, source)| matches!(source, Source::Later)) {
            for run in batch.runs(*visit) {
                match run.variant.encoding {
                    Encoding::PER_CONNECTION => self.hand_over(visit.slot, run),
                    _ => self.queue_parts(visit.slot, run, &run.parts),
                }
            }
        }
        self.scratch.bundles.clear();
    }

    /// Sends to the TLS connections of `round`, some 64 KB of records at once.
    fn seal_round(&mut self, batch: &Batch, round: &[Visit], sources: &[Source]) {
        let mut sealed = std::mem::take(&mut self.sessions.sealed);
        let mut sends: Vec<(Visit, Range<usize>)> = Vec::new();
        for (visit, source) in round.iter().zip(sources) {
            let Some(session) = self.sessions.get(visit.slot) else { continue };
            let Some(bytes) = source.bytes(&self.scratch.bundles) else { continue };
            let start = sealed.len();
            session.seal(bytes, &mut sealed);
            self.metrics.bytes_sent.add((sealed.len() - start - bytes.len()) as u64);
            sends.push((*visit, start..sealed.len()));
            if sealed.len() >= TLS_SEND_BYTES {
                self.send_sealed(batch, &mut sends, &mut sealed);
            }
        }
        self.send_sealed(batch, &mut sends, &mut sealed);
        sealed.shrink_to(2 * TLS_SEND_BYTES);
        self.sessions.sealed = sealed;
    }

    fn send_sealed(&mut self, batch: &Batch, sends: &mut Vec<(Visit, Range<usize>)>, sealed: &mut Vec<u8>) {
        let slots = &self.slots;
        let of_all = sends.iter().enumerate().map(|(index, (visit, range))| {
            let token = Token::of_slot(Op::Publish, index as u32, visit.slot);
            SendNow { socket: slots[visit.slot].socket, bytes: &sealed[range.clone()], is_last: false, token }
        });
        let mut incomplete = std::mem::take(&mut self.scratch.incomplete);
        self.ring.send_now(of_all, &mut incomplete);
        for completion in incomplete.drain(..) {
            let (visit, range) = &sends[completion.token.tag() as usize];
            self.on_publish_incomplete(batch, *visit, Some(&sealed[range.clone()]), completion.result);
        }
        self.scratch.incomplete = incomplete;
        sends.clear();
        sealed.clear();
    }

    /// Chooses the source of each connection of `round`, joins runs, and counts the deliveries. Also returns the
    /// subscribers that receive a whole publication and, after it, deltas.
    fn prepare_round(&mut self, batch: &Batch, round: &[Visit]) -> (Vec<Source>, Vec<(SlotId, TopicId)>) {
        let has_contexts = self.metrics.deflate_contexts.get() > 0;
        let (mut deliveries, mut deflated, mut bytes_sent, mut sends) = (0, 0, 0, 0);
        let (mut tally, mut chained) = (Tally::default(), Vec::new());
        let (slots, bundles) = (&mut self.slots, &mut self.scratch.bundles);
        let sources = round.iter().map(|visit| {
            let entry = &mut slots[visit.slot];
            if entry.cause.is_some() {
                return Source::Gone;
            }
            let mut is_own = false;
            for run in batch.runs(*visit) {
                deliveries += run.parts.len() as u64;
                tally.add(run, self.metrics);
                is_own |= run.variant.encoding == Encoding::PER_CONNECTION;
                if run.variant.window > 0 {
                    deflated += run.parts.len() as u64;
                    // Not at the send: messages compressed from now on leave after this run.
                    if has_contexts && run.variant.encoding != Encoding::PER_CONNECTION {
                        entry.forget_sent();
                    }
                }
            }
            if is_own || entry.is_behind() {
                return Source::Later;
            }
            let begins = |run: &&Rc<Run>| run.variant.encoding.deltas() == Deltas::First;
            chained.extend(batch.runs(*visit).filter(begins).map(|run| (visit.slot, run.topic)));
            debug_assert!(!entry.has_reply, "this turn's replies have left, or this push would overtake them");
            let mut runs = batch.runs(*visit);
            let source = match (runs.len(), runs.next()) {
                (1, Some(run)) => Source::Run(run.clone()),
                _ => Source::Joined(bundles.join(batch, *visit)),
            };
            sends += 1;
            bytes_sent += match &source {
                Source::Run(run) => run.bytes.len(),
                Source::Joined(range) => range.len(),
                Source::Gone | Source::Later => 0,
            } as u64;
            source
        });
        let sources = sources.collect();
        tally.settle(self.metrics);
        self.metrics.deliveries.add(deliveries);
        self.metrics.deliveries_deflated.add(deflated);
        self.metrics.bytes_sent.add(bytes_sent);
        self.metrics.fan_out_sends.add(sends);
        (sources, chained)
    }

    /// `records`: those that were made for a TLS connection.
    fn on_publish_incomplete(
        &mut self,
        batch: &Batch,
        visit: Visit,
        records: Option<&[u8]>,
        result: Result<u32, Errno>,
    ) {
        let sent = match result {
            Err(error) if Self::is_fatal(error) => return self.terminate(visit.slot, CloseCause::PeerLost),
            _ => result.unwrap_or(0) as usize,
        };
        let mut sent = records.map_or(sent, |records| self.take_back(visit.slot, records, sent));
        for run in batch.runs(visit) {
            if sent < run.bytes.len() {
                self.queue_rest(visit.slot, run, sent);
            }
            sent = sent.saturating_sub(run.bytes.len());
        }
    }

    /// Queues the bytes that a socket did not take: the frame cut by the send goes first, the policy can still drop or
    /// replace the frames behind it.
    fn queue_rest(&mut self, slot: SlotId, run: &Run, sent: usize) {
        let (begun, parts) = run.cut(sent);
        let bytes: usize = parts.iter().map(|part| part.frame.len()).sum();
        self.metrics.bytes_sent.sub(bytes as u64);
        if let Some((part, skip)) = begun {
            self.put_back(slot, part.frame.clone(), skip);
        }
        self.queue_parts(slot, run, parts);
    }

    /// Lets the subscriber's handler encode a run. The encoding depends on everything sent before, so no frame can be
    /// dropped or replaced: whatever the policy, the connection ends above the limit.
    fn hand_over(&mut self, slot: SlotId, run: &Run) {
        for push in run.pushes.iter() {
            // A handler may end any subscription, and a topic ends with its last one.
            if self.find_subscription(slot, run.topic).is_none() || !self.is_listening(slot) {
                return;
            }
            let topic = self.topics.name(run.topic).clone();
            self.call_handler(slot, |handler, context| handler.on_push(context, &topic, push));
        }
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let since_ms = self.since_ms(run.namespace);
        let outbox = &self.slots[slot].conn.outbox;
        if outbox.counted_bytes() > bytes_max || is_too_old(outbox, since_ms) {
            self.close_slow(slot, run);
        }
    }

    /// Closes a connection that does not read this run's namespace as fast as that is published.
    fn close_slow(&mut self, slot: SlotId, run: &Run) {
        self.metrics.namespace(run.namespace).slow_closed.add(1);
        self.terminate(slot, CloseCause::SlowConsumer);
    }

    /// The oldest enqueue time that the age limit of a namespace allows.
    fn since_ms(&self, namespace: NamespaceId) -> u64 {
        match self.config.namespaces.get(namespace).outbox_age_ms {
            0 => 0,
            age_ms => self.now_ms.saturating_sub(age_ms),
        }
    }

    /// Queues parts of a run for a subscriber with a backlog, under the policy of the topic's namespace.
    fn queue_parts(&mut self, slot: SlotId, run: &Run, parts: &[Part]) {
        if self.slots[slot].stage != Stage::Serving {
            return;
        }
        let since_ms = self.since_ms(run.namespace);
        let policy = self.config.namespaces.get(run.namespace).slow_consumer;
        let whole = self.make_whole(slot, run, parts, policy);
        let parts = whole.as_deref().unwrap_or(parts);
        let queued = match policy {
            SlowConsumer::Close => self.queue_or_close(slot, run, parts, since_ms),
            SlowConsumer::DropOldest => self.queue_dropping(slot, run, parts, since_ms),
            SlowConsumer::Conflate => self.queue_conflating(slot, run, parts, since_ms),
        };
        match queued {
            Ok(()) => self.mark_dirty(slot),
            Err(OutboxFull) => self.close_slow(slot, run),
        }
    }

    /// For a subscriber with deltas: the whole frames of `parts`, if the policy may drop or replace some of them before
    /// they leave. Then the next publication that leaves without waiting is whole as well.
    fn make_whole(&mut self, slot: SlotId, run: &Run, parts: &[Part], policy: SlowConsumer) -> Option<Vec<Part>> {
        let encoding = run.variant.encoding;
        if encoding.deltas() == Deltas::None {
            return None;
        }
        if policy == SlowConsumer::Close {
            self.set_deltas(slot, run.topic, Deltas::Next);
            return None;
        }
        self.set_deltas(slot, run.topic, Deltas::First);
        let variant = Variant { encoding: encoding.whole(), ..run.variant };
        let topic = self.topics.name(run.topic);
        let (deflater, metrics) = (&mut self.deflater, self.metrics);
        let part = |part: &Part| {
            let frame = encode(topic, &run.pushes[part.push], variant, deflater, metrics);
            Part { push: part.push, frame: frame.expect("this variant has a frame of this push") }
        };
        Some(parts.iter().map(part).collect())
    }

    fn queue_or_close(&mut self, slot: SlotId, run: &Run, parts: &[Part], since_ms: u64) -> Result<(), OutboxFull> {
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot];
        if is_too_old(&entry.conn.outbox, since_ms) {
            return Err(OutboxFull);
        }
        let queue_key = topic_key(run);
        let mut push = |frame: &SharedFrame| {
            let frame = frame.clone();
            change_outbox(entry, self.metrics, |outbox| outbox.push_bounded(frame, queue_key, bytes_max, now_ms))
        };
        // No part will be dropped or replaced, so a run that fits as a whole is queued as one frame.
        if parts.len() == run.parts.len() && run.bytes.len() <= bytes_max {
            return push(&run.bytes);
        }
        parts.iter().try_for_each(|part| push(&part.frame))
    }

    fn queue_dropping(&mut self, slot: SlotId, run: &Run, parts: &[Part], since_ms: u64) -> Result<(), OutboxFull> {
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot];
        for part in parts {
            let queue_key = match &run.pushes[part.push] {
                Push::Publication(_) => topic_key(run),
                Push::Joined(_) | Push::Left(_) => presence_key(run),
            };
            let frame = part.frame.clone();
            let dropped = change_outbox(entry, self.metrics, |outbox| {
                outbox.push_dropping(frame, queue_key, bytes_max, since_ms, now_ms)
            });
            self.metrics.publications_dropped.add(dropped as u64);
            self.metrics.namespace(run.namespace).dropped.add(dropped as u64);
        }
        Ok(())
    }

    fn queue_conflating(&mut self, slot: SlotId, run: &Run, parts: &[Part], since_ms: u64) -> Result<(), OutboxFull> {
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot];
        for part in parts {
            let frame = part.frame.clone();
            match &run.pushes[part.push] {
                Push::Publication(publication) => {
                    let queue_key = publication_key(run, publication.body.key.as_deref(), self.key_seed);
                    let replaced = change_outbox(entry, self.metrics, |outbox| {
                        outbox.push_replacing(frame, queue_key, bytes_max, since_ms, now_ms)
                    })?;
                    self.metrics.publications_conflated.add(u64::from(replaced));
                    self.metrics.namespace(run.namespace).conflated.add(u64::from(replaced));
                }
                // Joins and leaves are events: a newer one does not replace an older one.
                Push::Joined(_) | Push::Left(_) => {
                    let queue_key = presence_key(run);
                    change_outbox(entry, self.metrics, |outbox| {
                        outbox.push_bounded(frame, queue_key, bytes_max, now_ms)
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Whether the next frame was queued before `since_ms`. During a catch-up, newer frames may wait for its end.
fn is_too_old(outbox: &Outbox, since_ms: u64) -> bool {
    outbox.catch_up_bytes() == 0 && outbox.first_ms().is_some_and(|first_ms| first_ms < since_ms)
}

/// The key of joins and leaves. They have no offset, so none of them counts as a topic's newest publication.
const PRESENCE_KEY: u64 = 1;

fn presence_key(run: &Run) -> QueueKey {
    QueueKey { key: PRESENCE_KEY, ..topic_key(run) }
}

/// The key of publications that have none.
fn topic_key(run: &Run) -> QueueKey {
    QueueKey { namespace: run.namespace.number(), topic: run.topic.number(), key: 0 }
}

/// The key of a publication. The secret `seed` makes the hash unpredictable: nobody can choose a key that replaces
/// the waiting values of another one.
fn publication_key(run: &Run, key: Option<&str>, seed: u64) -> QueueKey {
    let Some(key) = key else { return topic_key(run) };
    let mut hasher = DefaultHasher::new();
    (seed, key).hash(&mut hasher);
    QueueKey { key: hasher.finish().max(PRESENCE_KEY + 1), ..topic_key(run) }
}
