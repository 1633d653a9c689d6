//! Connections subscribe to topics and leave them, and are told what they have asked for.
//!
//! Who wants nothing of the past is subscribed at once, and the topic's home told if it is the first here. Who wants to
//! know where the topic is, and what it has missed, *joins*: the home answers through the same queue through which it
//! sends publications, so all that came before the answer is in the answer, and all that comes after it is pushed.

use std::sync::Arc;

use super::mesh::{Join, Joined, Parcel, ToConn};
use super::shard::Shard;
use super::slot::Subscription;
use super::variant::variant_of;
use crate::gateway::Subscribe;
use crate::proto::CloseCode;
use crate::ring::Ring;
use crate::topics::{Answer, ClientInfo, NamespaceId, PublishError, Push, TopicId, TopicName};

/// What a connection's shard must know when a join is answered. It travels to the topic's home and back, so that as
/// many may be on their way as the connection has asked for, whatever their tickets are.
#[derive(Debug)]
pub(super) struct Joining {
    /// The topic on the connection's shard.
    topic: TopicId,
    join_leave: bool,
    /// Who joins, where that is kept.
    presence: Option<Arc<ClientInfo>>,
}

impl<R: Ring> Shard<'_, R> {
    pub(super) fn subscribe(&mut self, slot: u32, subscribe: Subscribe) {
        // It may have ended since the handler asked, when a large reply could not be sent: nobody would end this again.
        if self.slot(slot).cause.is_some() {
            return;
        }
        let to = subscribe.ticket.map(|ticket| ToConn { shard: self.number(), id: self.slot(slot).id, ticket });
        match (self.config.namespaces.find(&subscribe.topic), to) {
            (Ok(namespace), Some(to)) => self.submit_join(namespace, subscribe, to),
            (Ok(namespace), None) => {
                let (topic, is_new) = self.topics.find_or_make(&subscribe.topic, namespace);
                if is_new {
                    self.tell_interest(&subscribe.topic);
                }
                self.go_live(slot, topic, subscribe.join_leave);
                if self.mesh.is_behind(subscribe.topic.home(self.mesh.shard_count())) {
                    self.refuse_early(slot);
                }
            }
            (Err(_), Some(to)) => {
                let error = PublishError::UnknownNamespace;
                self.answers.push((to, Answer::NotSubscribed { topic: subscribe.topic, error }));
            }
            (Err(_), None) => {}
        }
    }

    /// Closes a connection whose client would hear that it is subscribed before the topic's home can: what is published
    /// until that does would be lost to it, and it would not be told.
    fn refuse_early(&mut self, slot: u32) {
        let reason = "the server is too far behind to subscribe anybody";
        self.call_handler(slot, |_, context| context.close(CloseCode::TRY_AGAIN_LATER, reason));
    }

    fn tell_interest(&mut self, topic: &TopicName) {
        let (home, here) = (topic.home(self.mesh.shard_count()), self.number());
        if home == self.mesh.shard() {
            self.on_interest(topic, here);
        } else {
            self.mesh.send(home, Parcel::Interest(topic.clone(), here));
        }
    }

    /// At the topic's home: a shard has subscribers.
    pub(super) fn on_interest(&mut self, topic: &TopicName, shard: u16) {
        if let Err(error) = self.home.add_interest(topic, shard, self.unix_ms()) {
            // Its publications are refused for the same reason.
            tracing::warn!(%topic, %error, "a topic has subscribers who will not get anything");
        }
    }

    fn tell_disinterest(&mut self, topic: &TopicName) {
        let (home, here) = (topic.home(self.mesh.shard_count()), self.number());
        if home == self.mesh.shard() {
            self.home.remove_interest(topic, here);
        } else {
            self.topics.begin_parting(topic);
            self.mesh.send(home, Parcel::Disinterest(topic.clone(), here));
        }
    }

    /// At the topic's home: a shard has no subscribers any more.
    pub(super) fn on_disinterest(&mut self, topic: TopicName, shard: u16) {
        self.home.remove_interest(&topic, shard);
        self.mesh.send(usize::from(shard), Parcel::Disinterested(topic));
    }

    /// From now on `slot` is pushed what comes for the topic.
    fn go_live(&mut self, slot: u32, topic: TopicId, join_leave: bool) {
        let namespace = self.config.namespaces.get(self.topics.namespace(topic));
        let mut variant = variant_of(&self.slots[slot as usize], namespace);
        variant.join_leave = namespace.join_leave && (join_leave || namespace.force_join_leave);
        if self.find_subscription(slot, topic).is_none() {
            self.topics.subscribe(topic, slot, variant);
            self.slot(slot).subscriptions.push(Subscription { topic, variant });
            self.metrics.subscriptions.add(1);
        }
        self.metrics.topics.set(self.topics.len() as u64);
    }

    /// Where a topic is in a connection's list.
    pub(super) fn find_subscription(&self, slot: u32, topic: TopicId) -> Option<usize> {
        self.slots[slot as usize].subscriptions.iter().position(|subscription| subscription.topic == topic)
    }

    fn submit_join(&mut self, namespace: NamespaceId, subscribe: Subscribe, to: ToConn) {
        let settings = self.config.namespaces.get(namespace);
        let is_present = settings.presence || settings.join_leave;
        let Subscribe { topic, catch_up, presence, join_leave, .. } = subscribe;
        let presence = presence.filter(|_| is_present);
        let (id, _) = self.topics.find_or_make(&topic, namespace);
        self.topics.begin_join(id);
        self.metrics.topics.set(self.topics.len() as u64);
        let home = topic.home(self.mesh.shard_count());
        let join = Join { topic, catch_up, joining: Joining { topic: id, join_leave, presence }, reply: to };
        if home == self.mesh.shard() {
            self.on_join(join);
        } else {
            self.mesh.send(home, Parcel::Join(Box::new(join)));
        }
    }

    /// At the topic's home: somebody subscribes.
    pub(super) fn on_join(&mut self, join: Join) {
        let Join { topic, catch_up, joining, reply } = join;
        let now_ms = self.unix_ms();
        let id = match self.home.add_interest(&topic, reply.shard, now_ms) {
            Ok(id) => id,
            Err(error) => return self.answer_join(reply, joining, Answer::NotSubscribed { topic, error }),
        };
        let (position, recovery) = self.home.catch_up(id, catch_up, now_ms);
        let presence = joining.presence.clone();
        self.answer_join(reply, joining, Answer::Subscribed { topic: topic.clone(), position, recovery });
        // After the answer, so that whoever comes sees itself come.
        if let Some(info) = presence {
            let is_news = self.home.arrive(id, &info);
            if is_news && self.home.namespace(id).join_leave {
                self.push_to_all(id, &topic, &Push::Joined(info));
            }
        }
    }

    fn answer_join(&mut self, to: ToConn, joining: Joining, answer: Answer) {
        let joined = Joined { to, joining, answer };
        if to.shard == self.number() {
            self.on_joined(joined);
        } else {
            self.mesh.send(usize::from(to.shard), Parcel::Joined(Box::new(joined)));
        }
    }

    /// The home has answered a join: if it may, the subscription begins now.
    pub(super) fn on_joined(&mut self, joined: Joined) {
        let Joined { to, joining, answer } = joined;
        let Joining { topic, join_leave, presence } = joining;
        let slot = self.find(to.id).filter(|slot| self.slots[*slot as usize].cause.is_none());
        let name = self.topics.name(topic).clone();
        match (slot, &answer) {
            (Some(slot), Answer::Subscribed { .. }) => {
                self.go_live(slot, topic, join_leave);
                self.remember_presence(slot, topic, presence);
            }
            (None, Answer::Subscribed { .. }) => {
                if let Some(info) = presence {
                    self.tell_departure(&name, info);
                }
            }
            _ => {}
        }
        if self.topics.end_join(topic) {
            self.tell_disinterest(&name);
        }
        self.metrics.topics.set(self.topics.len() as u64);
        self.on_answer(to, answer);
    }

    /// A connection has got an answer.
    pub(super) fn on_answer(&mut self, to: ToConn, answer: Answer) {
        if let Some(slot) = self.find(to.id).filter(|slot| self.is_listening(*slot)) {
            self.call_handler(slot, |handler, context| handler.on_answer(context, to.ticket, answer));
        }
    }

    fn remember_presence(&mut self, slot: u32, topic: TopicId, presence: Option<Arc<ClientInfo>>) {
        if let Some(info) = presence {
            self.slot(slot).rare.get_or_insert_default().presence.push((topic, info));
        }
    }

    pub(super) fn unsubscribe(&mut self, slot: u32, topic: &TopicName) {
        let Some(id) = self.topics.find(topic) else { return };
        if let Some(index) = self.find_subscription(slot, id) {
            let subscription = self.slot(slot).subscriptions.swap_remove(index);
            self.end_subscription(slot, subscription);
        }
    }

    /// Ends a subscription that was taken off the connection's list.
    pub(super) fn end_subscription(&mut self, slot: u32, subscription: Subscription) {
        let Subscription { topic, variant } = subscription;
        let name = self.topics.name(topic).clone();
        if let Some(info) = self.take_presence(slot, topic) {
            self.tell_departure(&name, info);
        }
        if self.topics.unsubscribe(topic, slot, variant) {
            self.tell_disinterest(&name);
        }
        self.metrics.subscriptions.sub(1);
        self.metrics.topics.set(self.topics.len() as u64);
    }

    fn take_presence(&mut self, slot: u32, topic: TopicId) -> Option<Arc<ClientInfo>> {
        let presence = &mut self.slot(slot).rare.as_mut()?.presence;
        let index = presence.iter().position(|(other, _)| *other == topic)?;
        Some(presence.swap_remove(index).1)
    }

    fn tell_departure(&mut self, topic: &TopicName, info: Arc<ClientInfo>) {
        let home = topic.home(self.mesh.shard_count());
        if home == self.mesh.shard() {
            self.on_depart(topic, info);
        } else {
            self.mesh.send(home, Parcel::Depart(topic.clone(), info));
        }
    }

    /// At the topic's home: somebody who was present no longer is.
    pub(super) fn on_depart(&mut self, topic: &TopicName, info: Arc<ClientInfo>) {
        let Some(id) = self.home.depart(topic, &info) else { return };
        if self.home.namespace(id).join_leave {
            self.push_to_all(id, topic, &Push::Left(info));
        }
    }
}
