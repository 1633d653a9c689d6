//! What was pushed to topics goes out to their subscribers: the same bytes to each, in slot order, without waiting.
//!
//! A turn sends to so many at most; what is left goes on in the next one. Those who are behind get it into their
//! outbox, as their topic's namespace says.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use super::metrics::CloseCause;
use super::send::change_outbox;
use super::shard::Shard;
use super::slot::Stage;
use super::variant::encode;
use crate::buf::SharedFrame;
use crate::conn::{Mark, Outbox, OutboxFull};
use crate::ring::{Completion, Errno, Op, Ring, SendNow, Token};
use crate::topics::{Encoding, NamespaceId, Part, Push, Run, SlowConsumer, TopicId};

impl<R: Ring> Shard<'_, R> {
    /// Makes runs of what was put up for a topic, so that they are for those who have subscribed until now.
    pub(super) fn begin_runs_of(&mut self, topic: TopicId) {
        let (deflater, metrics) = (&mut self.deflater, self.metrics);
        self.topics.begin_runs_of(topic, |topic, push, variant| encode(topic, push, variant, deflater, metrics));
    }

    /// Sends to the next subscribers what there is for them.
    pub(super) fn send_publications(&mut self) {
        if !self.topics.has_work() {
            return;
        }
        let (deflater, metrics) = (&mut self.deflater, self.metrics);
        self.topics.begin_runs(|topic, push, variant| encode(topic, push, variant, deflater, metrics));
        self.count_deflate();
        let mut targets = std::mem::take(&mut self.targets);
        let runs = self.topics.take_batch(self.config.fan_out_sends_per_turn, &mut targets);
        self.fan_out(&runs, &targets);
        targets.clear();
        self.targets = targets;
    }

    fn fan_out(&mut self, runs: &[Rc<Run>], targets: &[(u32, u32)]) {
        self.fan_out = self.fan_out.wrapping_add(1);
        let mut incomplete = std::mem::take(&mut self.incomplete);
        let behind = self.submit_runs(runs, targets, &mut incomplete);
        for completion in incomplete.drain(..) {
            let run = &runs[completion.token.tag() as usize];
            self.on_publish_incomplete(completion.token.slot(), run, completion.result);
        }
        self.incomplete = incomplete;
        for (index, slot) in behind {
            let run = &runs[index as usize];
            match run.variant.encoding {
                Encoding::Own => self.hand_over(slot, run),
                _ => self.queue_parts(slot, run, &run.parts),
            }
        }
        self.send_replies();
    }

    /// Submits the runs; returns those that can't be sent now: the subscriber is behind, or its handler makes the
    /// bytes.
    fn submit_runs(
        &mut self,
        runs: &[Rc<Run>],
        targets: &[(u32, u32)],
        incomplete: &mut Vec<Completion>,
    ) -> Vec<(u32, u32)> {
        let (slots, fan_out) = (&mut self.slots, self.fan_out);
        let has_contexts = self.metrics.deflate_contexts.get() > 0;
        let (mut behind, mut deliveries, mut deflated, mut bytes_sent) = (Vec::new(), 0, 0, 0);
        let sends = targets.iter().filter_map(|(index, slot)| {
            let run = &runs[*index as usize];
            let entry = &mut slots[*slot as usize];
            deliveries += run.parts.len() as u64;
            debug_assert!(!entry.has_reply, "what was said to it alone has left, or it would come after this");
            if run.variant.window > 0 {
                deflated += run.parts.len() as u64;
                // Only now and not when it is sent: what is said from now on comes after it.
                if has_contexts && run.variant.encoding != Encoding::Own {
                    entry.forget_sent();
                }
            }
            // One send for a socket at a time: were a first one cut short, a second would not follow its bytes.
            if entry.is_behind() || entry.fan_out == fan_out || run.variant.encoding == Encoding::Own {
                behind.push((*index, *slot));
                return None;
            }
            entry.fan_out = fan_out;
            bytes_sent += run.bytes.len() as u64;
            let token = Token::new(Op::Publish, *index, *slot);
            Some(SendNow { socket: entry.socket, bytes: &run.bytes, is_last: false, token })
        });
        self.ring.send_now(sends, incomplete);
        self.metrics.deliveries.add(deliveries);
        self.metrics.deliveries_deflated.add(deflated);
        self.metrics.bytes_sent.add(bytes_sent);
        behind
    }

    fn on_publish_incomplete(&mut self, slot: u32, run: &Run, result: Result<u32, Errno>) {
        match result {
            Err(error) if Self::is_fatal(error) => self.terminate(slot, CloseCause::PeerLost),
            _ => self.queue_rest(slot, run, result.unwrap_or(0) as usize),
        }
    }

    /// What a socket did not take: the frame that has begun to leave goes on first, those behind it can still be
    /// dropped or replaced.
    fn queue_rest(&mut self, slot: u32, run: &Run, sent: usize) {
        let (begun, parts) = run.cut(sent);
        let bytes: usize = parts.iter().map(|part| part.frame.len()).sum();
        self.metrics.bytes_sent.sub(bytes as u64);
        if let Some((part, skip)) = begun {
            self.put_back(slot, part.frame.clone(), skip);
        }
        self.queue_parts(slot, run, parts);
    }

    /// Has the subscriber's handler make of a run what its connection is sent. Since what it makes says what has left
    /// before, nothing of it can be dropped or replaced: whatever the policy, past the bound the connection ends.
    fn hand_over(&mut self, slot: u32, run: &Run) {
        for push in run.pushes.iter() {
            // A handler may end this subscription or another's, and a topic goes with its last one.
            if self.find_subscription(slot, run.topic).is_none() || !self.is_listening(slot) {
                return;
            }
            let topic = self.topics.name(run.topic).clone();
            self.call_handler(slot, |handler, context| handler.on_push(context, &topic, push));
        }
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let since_ms = self.since_ms(run.namespace);
        let outbox = &self.slots[slot as usize].conn.outbox;
        if outbox.counted_bytes() > bytes_max || is_too_old(outbox, since_ms) {
            self.terminate(slot, CloseCause::SlowConsumer);
        }
    }

    /// Since when publications of a namespace may have waited.
    fn since_ms(&self, namespace: NamespaceId) -> u64 {
        match self.config.namespaces.get(namespace).outbox_age_ms {
            0 => 0,
            age_ms => self.now_ms.saturating_sub(age_ms),
        }
    }

    /// Has a subscriber that is behind get parts of a run later, as the topic's namespace says.
    fn queue_parts(&mut self, slot: u32, run: &Run, parts: &[Part]) {
        if self.slots[slot as usize].stage != Stage::Serving {
            return;
        }
        let since_ms = self.since_ms(run.namespace);
        let queued = match self.config.namespaces.get(run.namespace).slow_consumer {
            SlowConsumer::Close => self.queue_or_close(slot, run, parts, since_ms),
            SlowConsumer::DropOldest => self.queue_dropping(slot, run, parts, since_ms),
            SlowConsumer::Conflate => self.queue_conflating(slot, run, parts, since_ms),
        };
        match queued {
            Ok(()) => self.mark_dirty(slot),
            Err(OutboxFull) => self.terminate(slot, CloseCause::SlowConsumer),
        }
    }

    fn queue_or_close(&mut self, slot: u32, run: &Run, parts: &[Part], since_ms: u64) -> Result<(), OutboxFull> {
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot as usize];
        if is_too_old(&entry.conn.outbox, since_ms) {
            return Err(OutboxFull);
        }
        let mark = mark(run, None);
        let mut push = |frame: &SharedFrame| {
            let frame = frame.clone();
            change_outbox(entry, self.metrics, |outbox| outbox.push_bounded(frame, mark, bytes_max, now_ms))
        };
        // Nothing of it will be dropped or replaced, so where all of it may wait, it may as the bytes that it is.
        if parts.len() == run.parts.len() && run.bytes.len() <= bytes_max {
            return push(&run.bytes);
        }
        parts.iter().try_for_each(|part| push(&part.frame))
    }

    fn queue_dropping(&mut self, slot: u32, run: &Run, parts: &[Part], since_ms: u64) -> Result<(), OutboxFull> {
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot as usize];
        for part in parts {
            let mark = match &run.pushes[part.push] {
                Push::Publication(_) => mark(run, None),
                Push::Joined(_) | Push::Left(_) => presence_mark(run),
            };
            let frame = part.frame.clone();
            let dropped = change_outbox(entry, self.metrics, |outbox| {
                outbox.push_dropping(frame, mark, bytes_max, since_ms, now_ms)
            });
            self.metrics.publications_dropped.add(dropped as u64);
        }
        Ok(())
    }

    fn queue_conflating(&mut self, slot: u32, run: &Run, parts: &[Part], since_ms: u64) -> Result<(), OutboxFull> {
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot as usize];
        for part in parts {
            let frame = part.frame.clone();
            match &run.pushes[part.push] {
                Push::Publication(publication) => {
                    let mark = mark(run, publication.body.key.as_deref());
                    let replaced = change_outbox(entry, self.metrics, |outbox| {
                        outbox.push_replacing(frame, mark, bytes_max, since_ms, now_ms)
                    })?;
                    self.metrics.publications_conflated.add(u64::from(replaced));
                }
                // Who comes and goes is no state of which only the newest counts.
                Push::Joined(_) | Push::Left(_) => {
                    let mark = presence_mark(run);
                    change_outbox(entry, self.metrics, |outbox| outbox.push_bounded(frame, mark, bytes_max, now_ms))?;
                }
            }
        }
        Ok(())
    }
}

/// Whether what leaves next has waited since before `since_ms`. While a client catches up, what comes meanwhile waits
/// for that.
fn is_too_old(outbox: &Outbox, since_ms: u64) -> bool {
    outbox.catch_up_bytes() == 0 && outbox.first_ms().is_some_and(|first_ms| first_ms < since_ms)
}

/// The key of joins and leaves. They tell no offset, so none of them may pass for a topic's newest publication.
const PRESENCE_KEY: u64 = 1;

fn presence_mark(run: &Run) -> Mark {
    Mark { namespace: run.namespace.number(), topic: run.topic.number(), key: PRESENCE_KEY }
}

fn mark(run: &Run, key: Option<&str>) -> Mark {
    let key = key.map_or(0, |key| {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish().max(PRESENCE_KEY + 1)
    });
    Mark { namespace: run.namespace.number(), topic: run.topic.number(), key }
}
