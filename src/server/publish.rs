//! Publications are given their order at the topic's home, and passed on to the shards with subscribers.

use std::sync::Arc;

use super::mesh::{Parcel, Publish, ReplyTo, ToConn, TopicQuery};
use super::shard::Shard;
use crate::buf::{SharedFrame, SlotId};
use crate::gateway::Command;
use crate::limits::{FRAME_HEADER_BYTES_MAX, STATE_EXPIRIES_PER_TURN};
use crate::proto::{Message, MessageKind, encode_message};
use crate::ring::Ring;
use crate::topics::{
    Answer, Body, Draft, Effect, Frames, HomeId, Position, Publication, PublishError, Push, Query, Sequenced, TopicName,
};

impl<R: Ring> Shard<'_, R> {
    /// Executes the commands that the handler of `slot` has queued.
    pub(super) fn apply_commands(&mut self, slot: SlotId) {
        let mut commands = std::mem::take(&mut self.scratch.commands);
        commands.drain(..).for_each(|command| self.apply(slot, command));
        self.scratch.commands = commands;
    }

    fn apply(&mut self, slot: SlotId, command: Command) {
        let reply = |shard: &Self, request_id| ToConn { shard: shard.number(), id: shard.slots[slot].id, request_id };
        match command {
            Command::Subscribe(subscribe) => self.subscribe(slot, subscribe),
            Command::PauseDelivery => self.slots[slot].is_delivery_paused = self.slots[slot].cause.is_none(),
            Command::Unsubscribe(topic) => self.unsubscribe(slot, &topic),
            Command::Encode { topic, encoding } => self.encode_as(slot, &topic, encoding),
            Command::Publish { draft, request_id } => {
                let reply = request_id.map_or(ReplyTo::Nobody, |request_id| ReplyTo::Conn(reply(self, request_id)));
                self.publish(Publish { draft: *draft, reply, requested_us: self.now_us });
            }
            Command::Query { topic, query, request_id } => {
                let reply = ReplyTo::Conn(reply(self, request_id));
                self.query(TopicQuery { topic, query, reply });
            }
        }
    }

    /// This shard's number, as it is written in parcels.
    pub(super) fn number(&self) -> u16 {
        self.mesh.shard() as u16
    }

    pub(super) fn publish(&mut self, publish: Publish) {
        let home = self.mesh.home(&publish.draft.topic);
        if home == self.mesh.shard() {
            self.sequence(publish);
        } else if let Some(error) = self.mesh.refusal(home) {
            self.refuse_publication(publish.reply, error);
        } else {
            self.mesh.send(home, Parcel::Publish(Box::new(publish)));
        }
    }

    fn query(&mut self, query: TopicQuery) {
        let home = self.mesh.home(&query.topic);
        if home == self.mesh.shard() {
            self.on_query(query);
        } else if let Some(error) = self.mesh.refusal(home) {
            self.refuse_query(query.reply, error);
        } else {
            self.mesh.send(home, Parcel::Query(Box::new(query)));
        }
    }

    pub(super) fn refuse_publication(&mut self, reply: ReplyTo<Result<Position, PublishError>>, error: PublishError) {
        self.metrics.publications_refused.add(1);
        self.answer(reply, Err(error), Answer::Published);
    }

    pub(super) fn refuse_query(&mut self, reply: ReplyTo<Answer>, error: PublishError) {
        self.metrics.requests_refused.add(1);
        self.answer(reply, Answer::Refused(error), |answer| answer);
    }

    /// Answers what was for a shard that has left. All but requests would change nothing for anybody who is here.
    pub(super) fn on_returned(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Publish(publish) => self.refuse_publication(publish.reply, PublishError::Stopping),
            Parcel::Query(query) => self.refuse_query(query.reply, PublishError::Stopping),
            Parcel::Subscribe(join) => self.reject_subscribe(*join, PublishError::Stopping),
            _ => {}
        }
    }

    /// At the topic's home: gives a publication its place and passes it on.
    pub(super) fn sequence(&mut self, publish: Publish) {
        let Publish { mut draft, reply, requested_us } = publish;
        if self.mesh.order_of(&draft.topic).is_some() {
            return self.submit_publication(draft, reply, requested_us);
        }
        let outcome = match self.place(&mut draft) {
            Ok(Sequenced::New(id, position)) => {
                self.metrics.namespace(self.home.namespace_id(id)).publications.add(1);
                self.metrics.order.record(self.now_us.saturating_sub(requested_us));
                self.pass_on(id, position, self.unix_ms(), draft);
                self.metrics.publications.add(1);
                Ok(position)
            }
            Ok(Sequenced::Repeated(position)) => Ok(position),
            Err(error) => {
                self.metrics.publications_refused.add(1);
                self.metrics.idempotency_refused.add(u64::from(error == PublishError::TooManyKeys));
                let is_full = matches!(error, PublishError::StateFull | PublishError::ValueTooLarge);
                self.metrics.state_refused.add(u64::from(is_full));
                self.metrics.state_conflicts.add(u64::from(error == PublishError::Conflict));
                Err(error)
            }
        };
        self.answer(reply, outcome, Answer::Published);
    }

    fn place(&mut self, draft: &mut Draft) -> Result<Sequenced, PublishError> {
        if self.drain.is_some() {
            return Err(PublishError::Stopping);
        }
        if self.mesh.is_congested() {
            return Err(PublishError::Busy);
        }
        self.home.sequence(draft, self.unix_ms())
    }

    /// At a home: publishes the removals of values that have expired.
    pub(super) fn remove_expired(&mut self) {
        if self.next_expiry_ms().is_none() {
            return;
        }
        let now_ms = self.unix_ms();
        for _ in 0..STATE_EXPIRIES_PER_TURN {
            let Some(mut draft) = self.home.next_expired(now_ms) else { return };
            let Ok(Sequenced::New(id, position)) = self.place(&mut draft) else { return };
            self.metrics.namespace(self.home.namespace_id(id)).publications.add(1);
            self.metrics.publications.add(1);
            self.metrics.state_expired.add(1);
            self.pass_on(id, position, now_ms, draft);
        }
    }

    /// When the next value of a home expires. A shard that can't publish its removal has no time for that.
    pub(super) fn next_expiry_ms(&mut self) -> Option<u64> {
        let can_publish = self.drain.is_none() && !self.mesh.is_congested();
        let expiry_ms = self.home.next_expiry_ms().filter(|_| can_publish)?;
        Some(self.now_ms + expiry_ms.saturating_sub(self.unix_ms()))
    }

    /// At the topic's home: adds a publication to the history, and has all subscribers get it.
    pub(super) fn pass_on(&mut self, id: HomeId, position: Position, time_ms: u64, draft: Draft) {
        let namespace = self.home.namespace(id);
        let is_kept = !draft.skip_history && namespace.history_size > 0;
        let effect = match (namespace.keyed, draft.removes) {
            (false, _) => Effect::None,
            (true, false) => Effect::Put,
            (true, true) => Effect::Remove,
        };
        if !is_kept && effect == Effect::None && self.home.shards(id).is_empty() {
            return;
        }
        let kind = if draft.is_text { MessageKind::Text } else { MessageKind::Binary };
        let mut bytes = Vec::with_capacity(draft.payload.len() + FRAME_HEADER_BYTES_MAX);
        encode_message(&mut bytes, Message { kind, payload: &draft.payload }, None);
        let body = Arc::new(Body {
            topic: draft.topic,
            position,
            time_ms,
            header_len: (bytes.len() - draft.payload.len()) as u8,
            frame: SharedFrame::new(bytes),
            is_text: draft.is_text,
            key: draft.key,
            tags: draft.tags,
            info: draft.info,
            effect,
        });
        if is_kept {
            self.home.record(id, &body);
        }
        if effect != Effect::None {
            self.home.apply(id, &body);
        }
        if !self.home.shards(id).is_empty() {
            let topic = body.topic.clone();
            let frames = Frames::default();
            self.push_to_all(id, &topic, &Push::Publication(Publication { body, frames }));
        }
    }

    /// At the topic's home: has all its subscribers get `push`.
    pub(super) fn push_to_all(&mut self, id: HomeId, topic: &TopicName, push: &Push) {
        let here = self.number();
        let shards = self.home.shards(id);
        for shard in shards.iter().filter(|shard| **shard != here) {
            self.mesh.send(usize::from(*shard), Parcel::Deliver(topic.clone(), push.clone()));
        }
        if shards.contains(&here) {
            self.stage(topic, push.clone());
        }
    }

    /// At the topic's home: answers a query.
    pub(super) fn on_query(&mut self, query: TopicQuery) {
        let TopicQuery { topic, query, reply } = query;
        if matches!(&reply, ReplyTo::Conn(to) if self.mesh.is_congested_to(to.shard)) {
            return self.refuse_query(reply, PublishError::Busy);
        }
        if !self.home.is_settled(&topic) {
            return self.refuse_query(reply, PublishError::NoLog);
        }
        if self.mesh.order_of(&topic).is_some() && matches!(query, Query::RemoveHistory | Query::Presence) {
            return self.submit_query(topic, query, reply);
        }
        let now_ms = self.unix_ms();
        let answer = match query {
            Query::History(query) => Answer::History(self.home.history(&topic, &query, now_ms)),
            Query::RemoveHistory => {
                self.home.remove_history(&topic);
                Answer::HistoryRemoved
            }
            Query::Presence | Query::PresenceHere => Answer::Presence(self.home.presence(&topic)),
            Query::Summary => Answer::Summary(self.home.summary(&topic)),
            Query::State(query) => match self.home.state(&topic, &query) {
                Some(page) => Answer::State(Arc::new(page)),
                None => Answer::Refused(PublishError::NotKeyed),
            },
            Query::Value(_) if !self.config.namespaces.is_keyed(&topic) => Answer::Refused(PublishError::NotKeyed),
            Query::Value(key) => Answer::Value(self.home.value(&topic, &key).cloned()),
        };
        self.answer(reply, answer, |answer| answer);
    }

    /// Sends an outcome to its receiver. A connection receives it as the answer that `wrap` returns.
    pub(super) fn answer<T>(&mut self, reply: ReplyTo<T>, outcome: T, wrap: impl FnOnce(T) -> Answer) {
        match reply {
            ReplyTo::Nobody => {}
            // The receiver may have gone.
            ReplyTo::Control(sender) => drop(sender.send(outcome)),
            ReplyTo::Conn(to) if to.shard == self.number() => self.answers.push((to, wrap(outcome))),
            ReplyTo::Conn(to) => {
                let parcel = Parcel::Answer(Box::new(to), Box::new(wrap(outcome)));
                self.mesh.send(usize::from(to.shard), parcel);
            }
        }
    }
}
