//! Publications: given their order at the topic's home, passed on to the other shards, and fanned out to subscribers.

use std::sync::Arc;

use super::mesh::{Parcel, Publish, PublishError};
use super::metrics::CloseCause;
use super::send::change_outbox;
use super::shard::Shard;
use super::slot::Stage;
use super::variant::{encode, variant_of};
use crate::buf::SharedFrame;
use crate::gateway::Command;
use crate::limits::FRAME_HEADER_BYTES_MAX;
use crate::proto::{Message, encode_message};
use crate::ring::{Completion, Errno, Op, Ring, SendNow, Token};
use crate::topics::{Position, Publication, Run, TopicName, Variant};

impl<R: Ring> Shard<'_, R> {
    /// Does what the handler of `slot` asked for.
    pub(super) fn apply(&mut self, slot: u32, command: Command) {
        match command {
            Command::Subscribe(topic) => self.subscribe(slot, &topic),
            Command::Unsubscribe(topic) => self.unsubscribe(slot, &topic),
            Command::Publish { topic, kind, payload } => self.publish(Publish { topic, kind, payload, reply: None }),
        }
    }

    fn subscribe(&mut self, slot: u32, topic: &TopicName) {
        // It may have ended since the handler asked, when a large reply could not be sent: nobody would end this again.
        if self.slot(slot).cause.is_some() {
            return;
        }
        let variant = variant_of(&self.slot(slot).conn);
        if let Some(id) = self.topics.subscribe(topic, slot, variant) {
            self.slot(slot).subscriptions.push(id);
            self.metrics.subscriptions.add(1);
            self.metrics.topics.set(self.topics.len() as u64);
        }
    }

    fn unsubscribe(&mut self, slot: u32, topic: &TopicName) {
        let Some(id) = self.topics.find(topic) else { return };
        let entry = &mut self.slots[slot as usize];
        if let Some(index) = entry.subscriptions.iter().position(|subscribed| *subscribed == id) {
            entry.subscriptions.swap_remove(index);
            self.topics.unsubscribe(id, slot, variant_of(&entry.conn));
            self.metrics.subscriptions.sub(1);
            self.metrics.topics.set(self.topics.len() as u64);
        }
    }

    fn publish(&mut self, publish: Publish) {
        let home = publish.topic.home(self.mesh.shard_count());
        if home == self.mesh.shard() {
            self.sequence(publish);
        } else if self.mesh.is_congested() {
            self.metrics.publications_refused.add(1);
        } else {
            self.mesh.send(home, Parcel::Publish(publish));
        }
    }

    /// At the topic's home: gives a publication its place and passes it on.
    pub(super) fn sequence(&mut self, publish: Publish) {
        let Publish { topic, kind, payload, reply } = publish;
        let outcome = self.position(&topic);
        match outcome {
            Ok(position) => {
                let mut bytes = Vec::with_capacity(payload.len() + FRAME_HEADER_BYTES_MAX);
                encode_message(&mut bytes, Message { kind, payload: &payload }, None);
                let lazy_frames = self.config.deflate.map(|_| Arc::default());
                let publication = Publication { topic, position, frame: SharedFrame::new(bytes), lazy_frames };
                self.mesh.send_all(&publication);
                self.topics.stage(&publication);
                self.metrics.publications.add(1);
            }
            Err(_) => self.metrics.publications_refused.add(1),
        }
        if let Some(reply) = reply {
            // Whoever asked may no longer want to know.
            let _ = reply.send(outcome);
        }
    }

    fn position(&mut self, topic: &TopicName) -> Result<Position, PublishError> {
        if self.drain.is_some() {
            return Err(PublishError::Stopping);
        }
        if self.mesh.is_congested() {
            return Err(PublishError::Busy);
        }
        self.sequencer.next(topic).map_err(|_| PublishError::TooManyTopics)
    }

    /// Sends what this turn brought to all subscribers: the same bytes to each, in slot order, without waiting. Those
    /// who are behind get it into their outbox.
    pub(super) fn send_publications(&mut self) {
        let (deflater, metrics) = (&mut self.deflater, self.metrics);
        let runs = self.topics.take_runs(|publication, variant| encode(publication, variant, deflater, metrics));
        if runs.is_empty() {
            return;
        }
        self.count_deflate();
        self.fan_out = self.fan_out.wrapping_add(1);
        let mut incomplete = std::mem::take(&mut self.incomplete);
        let behind = self.fan_out(&runs, &mut incomplete);
        for completion in incomplete.drain(..) {
            let run = &runs[completion.token.tag() as usize];
            self.on_publish_incomplete(completion.token.slot(), run, completion.result);
        }
        self.incomplete = incomplete;
        for (slot, run) in behind {
            self.queue_run(slot, &runs[run]);
        }
    }

    /// Submits the runs; returns which subscribers were behind, and on which run.
    fn fan_out(&mut self, runs: &[Run], incomplete: &mut Vec<Completion>) -> Vec<(u32, usize)> {
        let (slots, topics, fan_out) = (&mut self.slots, &self.topics, self.fan_out);
        let (mut behind, mut deliveries, mut deflated, mut bytes_sent) = (Vec::new(), 0, 0, 0);
        let targets = runs
            .iter()
            .enumerate()
            .flat_map(|(index, run)| topics.subscribers(run.topic, run.variant).map(move |slot| (index, run, slot)));
        let sends = targets.filter_map(|(index, run, slot)| {
            let entry = &mut slots[slot as usize];
            deliveries += run.messages as u64;
            if run.variant != Variant::PLAIN {
                deflated += run.messages as u64;
            }
            // One send for a socket at a time: were a first one cut short, a second would not follow its bytes.
            if entry.is_behind() || entry.fan_out == fan_out {
                behind.push((slot, index));
                return None;
            }
            entry.fan_out = fan_out;
            bytes_sent += run.bytes.len() as u64;
            Some(SendNow {
                socket: entry.socket,
                bytes: &run.bytes,
                token: Token::new(Op::Publish, index as u32, slot),
            })
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
            _ => self.put_back(slot, run.bytes.clone(), result.unwrap_or(0) as usize),
        }
    }

    /// Has a subscriber that is behind get a run later, or ends it if too much waits already.
    fn queue_run(&mut self, slot: u32, run: &Run) {
        let entry = &mut self.slots[slot as usize];
        if entry.stage != Stage::Serving {
            return;
        }
        let bytes_max = self.config.outbox_bytes_max;
        match change_outbox(entry, self.metrics, |outbox| outbox.push_bounded(run.bytes.clone(), bytes_max)) {
            Ok(()) => self.mark_dirty(slot),
            Err(_) => self.terminate(slot, CloseCause::SlowConsumer),
        }
    }
}
