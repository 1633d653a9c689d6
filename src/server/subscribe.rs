//! Handles subscribe, unsubscribe and query requests of connections, and their answers.
//!
//! A subscriber without catch-up subscribes at once; the shard sends an interest to the topic's home for its first one.
//! A subscriber that needs the topic's position, or the messages it missed, *joins*: the home answers through the queue
//! of its publications, so the answer covers everything before it, and pushes carry everything after it.

use std::sync::Arc;

use super::mesh::{Parcel, SubscribeReply, SubscribeRequest, ToConn};
use super::shard::Shard;
use super::slot::Subscription;
use super::variant::variant_of;
use crate::buf::SlotId;
use crate::gateway::Subscribe;
use crate::proto::CloseCode;
use crate::ring::Ring;
use crate::topics::{
    Answer, Body, CatchUp, Deltas, Encoding, JoinId, LabelledEncoding, NamespaceId, Presence, PublishError, Push,
    Recovery, TagsFilter, TopicId, TopicName, Variant,
};

/// State of a join in progress. It travels to the topic's home and back, so a connection may have any number of joins
/// in progress, whatever their request ids.
#[derive(Debug)]
pub(super) struct PendingSubscribe {
    /// The topic on the connection's shard.
    topic: TopicId,
    /// The requested catch-up.
    pub(super) catch_up: CatchUp,
    join_leave: bool,
    /// The encoding of the subscription, if it has one of its own.
    encoding: Option<LabelledEncoding>,
    filter: Option<Arc<TagsFilter>>,
    /// The client's presence, where the namespace keeps it.
    presence: Option<Presence>,
}

impl<R: Ring> Shard<'_, R> {
    pub(super) fn subscribe(&mut self, slot: SlotId, subscribe: Subscribe) {
        // The connection may have ended since the request, by a failed large reply: nothing would end this
        // subscription.
        if self.slots[slot].cause.is_some() {
            return;
        }
        let to =
            subscribe.request_id.map(|request_id| ToConn { shard: self.number(), id: self.slots[slot].id, request_id });
        if let Some(to) = to {
            if self.reads_state(&subscribe.topic, subscribe.catch_up) {
                return self.queue_state_read(slot, subscribe, to);
            }
            return self.submit_or_queue(subscribe, to);
        }
        if !self.topics.has_room_for(&subscribe.topic) {
            self.metrics.subscriptions_refused.add(1);
            return self.refuse_early(slot, "the server has too many topics with subscribers");
        }
        match self.config.namespaces.find(&subscribe.topic) {
            Ok(_) if !self.mesh.has_room(self.mesh.home(&subscribe.topic)) => {
                self.metrics.requests_refused.add(1);
                self.refuse_early(slot, "the server is too far behind to subscribe anybody");
            }
            Ok(namespace) => {
                let (topic, is_new) = self.topics.find_or_make(&subscribe.topic, namespace);
                if is_new {
                    self.send_interest(&subscribe.topic);
                }
                self.go_live(slot, topic, subscribe.join_leave, subscribe.encoding, None);
            }
            Err(_) => {}
        }
    }

    /// Closes a connection if its client would know of the subscription before the topic's home does: it would silently
    /// lose the publications in between. This happens when an interest, or a join that has added the topic here, waits
    /// for room.
    pub(super) fn refuse_early(&mut self, slot: SlotId, reason: &str) {
        self.call_handler(slot, |_, context| context.close(CloseCode::TRY_AGAIN_LATER, reason));
    }

    fn send_interest(&mut self, topic: &TopicName) {
        let (home, here) = (self.mesh.home(topic), self.number());
        if home == self.mesh.shard() {
            self.on_interest(topic, here);
        } else {
            self.mesh.send(home, Parcel::Interest(topic.clone(), here));
        }
    }

    /// At the topic's home: a shard has subscribers.
    pub(super) fn on_interest(&mut self, topic: &TopicName, shard: u16) {
        let known = self.home.add_interest(topic, shard);
        assert!(known.is_ok(), "a shard has subscribers of a topic whose namespace it did not find");
    }

    fn send_disinterest(&mut self, topic: &TopicName) {
        let (home, here) = (self.mesh.home(topic), self.number());
        if home == self.mesh.shard() {
            self.home.remove_interest(topic, here);
        } else {
            self.topics.begin_disinterest(topic);
            self.mesh.send(home, Parcel::Disinterest(topic.clone(), here));
        }
    }

    /// At the topic's home: a shard has no subscribers any more.
    pub(super) fn on_disinterest(&mut self, topic: TopicName, shard: u16) {
        self.home.remove_interest(&topic, shard);
        self.mesh.send(usize::from(shard), Parcel::Disinterested(topic));
    }

    /// Subscribes `slot` to the topic's pushes.
    fn go_live(
        &mut self,
        slot: SlotId,
        topic: TopicId,
        join_leave: bool,
        encoding: Option<LabelledEncoding>,
        filter_label: Option<u8>,
    ) {
        let namespace = self.config.namespaces.get(self.topics.namespace(topic));
        let mut variant = variant_of(&self.slots[slot], namespace, encoding);
        variant.join_leave = namespace.join_leave && (join_leave || namespace.force_join_leave);
        if let Some(label) = filter_label {
            (variant.encoding, variant.label) = (variant.encoding.filtered(), label);
        }
        if self.find_subscription(slot, topic).is_none() {
            self.topics.subscribe(topic, slot, variant);
            self.slots[slot].subscriptions.push(Subscription { topic, variant });
            self.metrics.subscriptions.add(1);
            self.metrics.namespace(self.topics.namespace(topic)).subscriptions.add(1);
        }
        self.metrics.topics.set(self.topics.len() as u64);
    }

    /// Changes the encoding of a subscription from the next pushes on.
    pub(super) fn encode_as(&mut self, slot: SlotId, topic: &TopicName, encoding: Option<LabelledEncoding>) {
        let Some(id) = self.topics.find(topic) else { return };
        let Some(index) = self.find_subscription(slot, id) else { return };
        let namespace = self.config.namespaces.get(self.topics.namespace(id));
        let entry = &mut self.slots[slot];
        let before = entry.subscriptions[index].variant;
        let join_leave = before.join_leave;
        let after = Variant { join_leave, ..variant_of(entry, namespace, encoding) };
        entry.subscriptions[index].variant = after;
        self.topics.change_variant(id, slot, before, after);
    }

    /// Changes which deltas a subscriber receives, if it still subscribes: the next publication whole, or all further
    /// ones as deltas.
    pub(super) fn set_deltas(&mut self, slot: SlotId, topic: TopicId, deltas: Deltas) {
        let Some(index) = self.find_subscription(slot, topic) else { return };
        let subscription = &mut self.slots[slot].subscriptions[index];
        let before = subscription.variant;
        let encoding = match deltas {
            Deltas::None => before.encoding.whole(),
            Deltas::First => before.encoding.with_deltas(),
            Deltas::Next => before.encoding.after_publication(),
        };
        if encoding != before.encoding {
            subscription.variant.encoding = encoding;
            let after = subscription.variant;
            self.topics.change_variant(topic, slot, before, after);
        }
    }

    /// Where a topic is in a connection's list.
    pub(super) fn find_subscription(&self, slot: SlotId, topic: TopicId) -> Option<usize> {
        self.slots[slot].subscriptions.iter().position(|subscription| subscription.topic == topic)
    }

    /// Sends a subscribe request to the topic's home.
    pub(super) fn submit_subscribe(&mut self, subscribe: Subscribe, to: ToConn) {
        let Subscribe { topic, catch_up, presence, join_leave, encoding, filter, .. } = subscribe;
        let namespace = match self.accept_topic(&topic) {
            Ok(namespace) => namespace,
            Err(error) => {
                self.end_state_read(to, &topic, catch_up);
                return self.answers.push((to, Answer::NotSubscribed { topic, error }));
            }
        };
        let home = self.mesh.home(&topic);
        self.catch_ups.begin(catch_up);
        let is_remembered = self.config.namespaces.get(namespace).remembers_subscribers();
        let presence = presence.filter(|_| is_remembered).map(|info| Presence { join: self.next_join(), info });
        let (id, _) = self.topics.find_or_make(&topic, namespace);
        self.topics.begin_subscribe(id);
        self.metrics.topics.set(self.topics.len() as u64);
        let join = SubscribeRequest {
            topic,
            joining: PendingSubscribe { topic: id, catch_up, join_leave, encoding, filter, presence },
            reply: to,
        };
        if home == self.mesh.shard() {
            self.on_subscribe_request(join);
        } else {
            self.mesh.send(home, Parcel::Subscribe(Box::new(join)));
        }
    }

    /// Whether this shard can send a subscribe request for the topic now; returns its namespace.
    fn accept_topic(&mut self, topic: &TopicName) -> Result<NamespaceId, PublishError> {
        if !self.topics.has_room_for(topic) {
            self.metrics.subscriptions_refused.add(1);
            return Err(PublishError::TooManyTopics);
        }
        let namespace = self.config.namespaces.find(topic).map_err(|_| PublishError::UnknownNamespace)?;
        match self.mesh.refusal(self.mesh.home(topic)) {
            Some(error) => {
                self.metrics.requests_refused.add(1);
                Err(error)
            }
            None => Ok(namespace),
        }
    }

    fn next_join(&mut self) -> JoinId {
        self.joins += 1;
        JoinId::new(self.number(), self.joins)
    }

    /// At the topic's home: handles a subscribe request.
    pub(super) fn on_subscribe_request(&mut self, join: SubscribeRequest) {
        if self.mesh.is_congested() {
            self.metrics.requests_refused.add(1);
            return self.reject_subscribe(join, PublishError::Busy);
        }
        if !self.home.is_settled(&join.topic) {
            self.metrics.requests_refused.add(1);
            return self.reject_subscribe(join, PublishError::NoLog);
        }
        if let Some(join) = self.keep_ahead(join) {
            self.accept_subscribe(join);
        }
    }

    /// At the topic's home: answers a subscribe request.
    ///
    /// The home adds the presence before the client learns of its subscription, since the client may then unsubscribe.
    /// The join push follows the answer, so that the client receives its own join.
    pub(super) fn accept_subscribe(&mut self, join: SubscribeRequest) {
        let now_ms = self.unix_ms();
        let page = match self.home.find_or_make(&join.topic) {
            Ok(id) => self.home.state_page(id, join.joining.catch_up, now_ms),
            Err(error) => return self.reject_subscribe(join, error),
        };
        self.metrics.state_pages_made.add(u64::from(matches!(page, Some((_, true)))));
        let page = page.map(|(page, _)| page);
        if let Some(page) = page.clone().filter(|page| page.next.is_some()) {
            let SubscribeRequest { topic, joining, reply: to } = join;
            let joined = SubscribeReply { to, joining, answer: Answer::StatePage { topic, page } };
            return self.answer_subscribe(joined);
        }
        let id = match self.home.add_interest(&join.topic, join.reply.shard) {
            Ok(id) => id,
            Err(error) => return self.reject_subscribe(join, error),
        };
        let SubscribeRequest { topic, joining, reply: to } = join;
        let (position, recovery) = match page {
            Some(page) => (page.position, Recovery::State(page)),
            None => self.home.catch_up(id, joining.catch_up, now_ms),
        };
        let is_news = joining.presence.as_ref().is_some_and(|presence| self.home.add_presence(id, presence));
        let news = joining.presence.as_ref().filter(|_| is_news && self.home.namespace(id).join_leave);
        let news = news.map(|presence| presence.info.clone());
        news.iter().for_each(|client| self.announce_member(&topic, client, true));
        let news = news.map(Push::Joined);
        let joined =
            SubscribeReply { to, joining, answer: Answer::Subscribed { topic: topic.clone(), position, recovery } };
        if to.shard == self.number() {
            let (to, answer) = self.begin_subscription(joined);
            news.into_iter().for_each(|news| self.push_to_all(id, &topic, &news));
            self.on_answer(to, answer);
        } else {
            self.mesh.send(usize::from(to.shard), Parcel::Subscribed(Box::new(joined)));
            news.into_iter().for_each(|news| self.push_to_all(id, &topic, &news));
        }
    }

    pub(super) fn reject_subscribe(&mut self, join: SubscribeRequest, error: PublishError) {
        let SubscribeRequest { topic, joining, reply: to, .. } = join;
        self.answer_subscribe(SubscribeReply { to, joining, answer: Answer::NotSubscribed { topic, error } });
    }

    /// At the topic's home: answers a subscribe request that begins no subscription.
    fn answer_subscribe(&mut self, joined: SubscribeReply) {
        if joined.to.shard == self.number() {
            self.on_subscribe_reply(joined);
        } else {
            self.mesh.send(usize::from(joined.to.shard), Parcel::Subscribed(Box::new(joined)));
        }
    }

    /// The home has answered a join.
    pub(super) fn on_subscribe_reply(&mut self, joined: SubscribeReply) {
        let (to, answer) = self.begin_subscription(joined);
        self.on_answer(to, answer);
    }

    /// Begins the subscription if the home has accepted it. Returns the answer for the connection's handler.
    fn begin_subscription(&mut self, joined: SubscribeReply) -> (ToConn, Answer) {
        let SubscribeReply { to, joining, mut answer } = joined;
        let PendingSubscribe { topic, catch_up, join_leave, encoding, filter, mut presence } = joining;
        let slot = self.find(to.id).filter(|slot| self.slots[*slot].cause.is_none());
        let name = self.topics.name(topic).clone();
        let mut bytes = 0;
        self.end_state_read(to, &name, catch_up);
        let label = filter.as_ref().map(|filter| self.topics.filter_label(topic, filter));
        if slot.is_some() && label == Some(None) && matches!(answer, Answer::Subscribed { .. }) {
            self.metrics.subscriptions_refused.add(1);
            presence.take().into_iter().for_each(|presence| self.send_leave(&name, presence));
            answer = Answer::NotSubscribed { topic: name.clone(), error: PublishError::TooManyFilters };
        }
        match (slot, &mut answer) {
            (Some(slot), Answer::StatePage { page, .. }) => bytes = self.expect_page(slot, page),
            (Some(slot), Answer::Subscribed { recovery, .. }) => {
                let of_recovery = encoding.map_or(self.slots[slot].encoding, |own| own.encoding);
                filter.iter().for_each(|filter| recovery.retain(filter));
                bytes = self.bound_recovery(slot, topic, of_recovery, catch_up, recovery);
                self.go_live(slot, topic, join_leave, encoding, label.flatten());
                self.remember_presence(slot, topic, presence);
            }
            (None, Answer::Subscribed { .. }) => {
                presence.into_iter().for_each(|presence| self.send_leave(&name, presence));
            }
            _ => {}
        }
        self.catch_ups.end(catch_up, bytes);
        if self.topics.end_subscribe(topic) {
            self.send_disinterest(&name);
        }
        self.metrics.topics.set(self.topics.len() as u64);
        (to, answer)
    }

    /// Limits a recovery to the room in the connection's backlog, which also holds the unread recoveries of its other
    /// topics. With more, the server would close the connection as a slow consumer, and the client would reconnect and
    /// request the same recovery again. Returns its bytes.
    fn bound_recovery(
        &mut self,
        slot: SlotId,
        topic: TopicId,
        encoding: Encoding,
        catch_up: CatchUp,
        recovery: &mut Recovery,
    ) -> usize {
        if let Recovery::State(page) = recovery {
            return self.expect_page(slot, page);
        }
        let bytes_max = self.config.namespaces.get(self.topics.namespace(topic)).outbox_bytes_max;
        let entry = &mut self.slots[slot];
        let Some(route) = entry.route else { return 0 };
        let handler = self.routes.handler(route);
        let size = |body: &Body| handler.missed_bytes_max(entry.id, encoding, body);
        let room = bytes_max.saturating_sub(entry.conn.outbox.catch_up_bytes());
        let was_lost = matches!(recovery, Recovery::Lost);
        let bytes = recovery.fit(catch_up, room, size);
        entry.conn.outbox.expect_catch_up(bytes);
        let is_lost = matches!(recovery, Recovery::Lost);
        self.metrics.recoveries_cut.add(u64::from(!was_lost && is_lost));
        if matches!(catch_up, CatchUp::Since { .. } | CatchUp::Newest { .. }) {
            self.metrics.recoveries_lost.add(u64::from(is_lost));
            self.metrics.recovered.add(u64::from(!is_lost));
        }
        if entry.conn.outbox.catch_up_bytes() > 0 {
            // The sends of this turn may take all of it.
            self.mark_dirty(slot);
        }
        bytes
    }

    /// Passes an answer to the handler of its connection.
    pub(super) fn on_answer(&mut self, to: ToConn, answer: Answer) {
        if let Some(slot) = self.find(to.id).filter(|slot| self.is_listening(*slot)) {
            self.call_handler(slot, |handler, context| handler.on_answer(context, to.request_id, answer));
        }
    }

    fn remember_presence(&mut self, slot: SlotId, topic: TopicId, presence: Option<Presence>) {
        if let Some(presence) = presence {
            self.slots[slot].extras.get_or_insert_default().presence.push((topic, presence));
        }
    }

    pub(super) fn unsubscribe(&mut self, slot: SlotId, topic: &TopicName) {
        let Some(id) = self.topics.find(topic) else { return };
        if let Some(index) = self.find_subscription(slot, id) {
            let subscription = self.slots[slot].subscriptions.swap_remove(index);
            self.end_subscription(slot, subscription);
        }
    }

    /// Ends a subscription that was taken off the connection's list.
    pub(super) fn end_subscription(&mut self, slot: SlotId, subscription: Subscription) {
        let Subscription { topic, variant } = subscription;
        let name = self.topics.name(topic).clone();
        self.metrics.namespace(self.topics.namespace(topic)).subscriptions.sub(1);
        // More than one where it has joined again while it was subscribed.
        while let Some(presence) = self.take_presence(slot, topic) {
            self.send_leave(&name, presence);
        }
        if self.topics.unsubscribe(topic, slot, variant) {
            self.send_disinterest(&name);
        }
        self.metrics.subscriptions.sub(1);
        self.metrics.topics.set(self.topics.len() as u64);
    }

    fn take_presence(&mut self, slot: SlotId, topic: TopicId) -> Option<Presence> {
        let presence = &mut self.slots[slot].extras.as_mut()?.presence;
        let index = presence.iter().position(|(other, _)| *other == topic)?;
        Some(presence.swap_remove(index).1)
    }

    fn send_leave(&mut self, topic: &TopicName, presence: Presence) {
        let home = self.mesh.home(topic);
        if home == self.mesh.shard() {
            self.on_leave(topic, presence);
        } else {
            self.mesh.send(home, Parcel::Leave(topic.clone(), presence));
        }
    }

    /// At the topic's home: the subscription that a join began has ended.
    pub(super) fn on_leave(&mut self, topic: &TopicName, presence: Presence) {
        let Some(id) = self.home.remove_presence(topic, &presence) else { return };
        if self.home.namespace(id).join_leave {
            self.announce_member(topic, &presence.info, false);
            self.push_to_all(id, topic, &Push::Left(presence.info));
        }
    }
}
