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
use crate::conn::{Mark, OutboxFull};
use crate::ring::{Completion, Errno, Op, Ring, SendNow, Token};
use crate::topics::{Encoding, Push, Run, SlowConsumer, TopicId};

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
                _ => self.queue_run(slot, run),
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
            // Nothing of it has left: it can still be dropped or replaced.
            Ok(0) | Err(_) => {
                self.metrics.bytes_sent.sub(run.bytes.len() as u64);
                self.queue_run(slot, run);
            }
            Ok(sent) => self.put_back(slot, run.bytes.clone(), sent as usize),
        }
    }

    /// Has the subscriber's handler make of a run what its connection is sent.
    fn hand_over(&mut self, slot: u32, run: &Run) {
        for push in run.pushes.iter() {
            // A handler may end this subscription or another's, and a topic goes with its last one.
            if self.find_subscription(slot, run.topic).is_none() || !self.is_listening(slot) {
                return;
            }
            let topic = self.topics.name(run.topic).clone();
            self.call_handler(slot, |handler, context| handler.on_push(context, &topic, push));
        }
        let namespace = self.config.namespaces.get(run.namespace);
        if self.slots[slot as usize].conn.outbox.bytes() > namespace.outbox_bytes_max {
            self.terminate(slot, CloseCause::SlowConsumer);
        }
    }

    /// Has a subscriber that is behind get a run later, as the topic's namespace says.
    fn queue_run(&mut self, slot: u32, run: &Run) {
        if self.slots[slot as usize].stage != Stage::Serving {
            return;
        }
        let namespace = self.config.namespaces.get(run.namespace);
        let (policy, age_ms) = (namespace.slow_consumer, namespace.outbox_age_ms);
        // What was pushed before this has waited for too long.
        let since_ms = if age_ms == 0 { 0 } else { self.now_ms.saturating_sub(age_ms) };
        let queued = match policy {
            SlowConsumer::Close => self.queue_or_close(slot, run, since_ms),
            SlowConsumer::DropOldest => self.queue_dropping(slot, run, since_ms),
            SlowConsumer::Conflate => self.queue_conflating(slot, run),
        };
        match queued {
            Ok(()) => self.mark_dirty(slot),
            Err(OutboxFull) => self.terminate(slot, CloseCause::SlowConsumer),
        }
    }

    fn queue_or_close(&mut self, slot: u32, run: &Run, since_ms: u64) -> Result<(), OutboxFull> {
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot as usize];
        if entry.conn.outbox.oldest_ms().is_some_and(|oldest_ms| oldest_ms < since_ms) {
            return Err(OutboxFull);
        }
        let mark = mark(run, None);
        let frame = run.bytes.clone();
        change_outbox(entry, self.metrics, |outbox| outbox.push_bounded(frame, mark, bytes_max, now_ms))
    }

    fn queue_dropping(&mut self, slot: u32, run: &Run, since_ms: u64) -> Result<(), OutboxFull> {
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot as usize];
        for part in &run.parts {
            let (mark, frame) = (mark(run, None), part.frame.clone());
            let dropped = change_outbox(entry, self.metrics, |outbox| {
                outbox.push_dropping(frame, mark, bytes_max, since_ms, now_ms)
            });
            self.metrics.publications_dropped.add(dropped as u64);
        }
        Ok(())
    }

    fn queue_conflating(&mut self, slot: u32, run: &Run) -> Result<(), OutboxFull> {
        let bytes_max = self.config.namespaces.get(run.namespace).outbox_bytes_max;
        let now_ms = self.now_ms;
        let entry = &mut self.slots[slot as usize];
        for part in &run.parts {
            let frame = part.frame.clone();
            match &run.pushes[part.push] {
                Push::Publication(publication) => {
                    let mark = mark(run, publication.body.key.as_deref());
                    let replaced = change_outbox(entry, self.metrics, |outbox| {
                        outbox.push_replacing(frame, mark, bytes_max, now_ms)
                    })?;
                    self.metrics.publications_conflated.add(u64::from(replaced));
                }
                // Who comes and goes is no state of which only the newest counts.
                Push::Joined(_) | Push::Left(_) => {
                    let mark = mark(run, None);
                    change_outbox(entry, self.metrics, |outbox| outbox.push_bounded(frame, mark, bytes_max, now_ms))?;
                }
            }
        }
        Ok(())
    }
}

fn mark(run: &Run, key: Option<&str>) -> Mark {
    let key = key.map_or(0, |key| {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish().max(1)
    });
    Mark { namespace: run.namespace.number(), topic: run.topic.number(), key }
}
