//! The topics that somebody on this shard subscribed to, and what is on its way to their subscribers.
//!
//! What is pushed to a topic boards a [carousel](super::carousel), whose cursor gathers for each subscriber what it is
//! due, of all topics. There are two: topics with few subscribers have one of their own, so that they never wait for
//! the crowds of others.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use slab::Slab;
use smallvec::SmallVec;

use super::carousel::{Carousel, Place};
use super::queue::{Encode, Owner, Queue};
use super::{Batch, NamespaceId, Push, Subscribers, TopicName, Variant};
use crate::limits::{COALESCE_BYTES_MAX, EXPRESS_SUBSCRIBERS_MAX, SHARD_TOPICS_MAX};

/// A topic that has subscribers on this shard, for as long as it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(u32);

/// One of the carousels of a shard, each of which gets its share of every turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// For topics with few subscribers.
    Express,
    /// For the others.
    Crowds,
}

/// How many times as many subscribers as a topic may board the express lane with it may have while it stays there.
const OUTGROWN: usize = 4;

#[derive(Debug)]
struct Topic {
    name: TopicName,
    namespace: NamespaceId,
    /// By variant; none of them is empty. Nearly always one or two.
    subscribers: SmallVec<[(Variant, Subscribers); 1]>,
    /// Who has asked to subscribe, and waits for what it has missed.
    joining: u32,
    /// What has not been sent to all, if there is anything.
    queue: Option<Box<Queue>>,
}

/// The topics of one shard.
#[derive(Debug)]
pub struct Topics {
    ids: HashMap<TopicName, TopicId>,
    topics: Slab<Topic>,
    /// Subscribers of a topic that boards the express lane, at most.
    express_max: usize,
    /// By [`Lane`].
    carousels: [Carousel; 2],
    /// Topics with pushes that may wait for more, by the time at which they board.
    held: BTreeSet<(u64, TopicId)>,
    /// Pushes until now.
    pushes: u64,
    /// Batches until now, by [`Lane`].
    batches: [u64; 2],
    /// Topics that were forgotten without their homes having heard of it, and how many times. What comes from there is
    /// for those who were here before: whoever subscribes meanwhile would see that, and then not what the home does not
    /// send because it has heard.
    disinterests: HashMap<TopicName, u32>,
}

impl Lane {
    /// All, in the order in which they are served.
    pub const ALL: [Lane; 2] = [Lane::Express, Lane::Crowds];
}

impl TopicId {
    /// A number that no other topic of this shard has as long as this one is here.
    pub fn number(self) -> u32 {
        self.0
    }

    #[cfg(test)]
    pub(super) fn of(number: u32) -> TopicId {
        TopicId(number)
    }
}

impl Default for Topics {
    fn default() -> Self {
        Topics::new(EXPRESS_SUBSCRIBERS_MAX)
    }
}

impl Topics {
    /// No topics yet. Those with `express_max` subscribers or fewer take the express lane.
    pub fn new(express_max: usize) -> Topics {
        Topics {
            ids: HashMap::new(),
            topics: Slab::new(),
            express_max,
            carousels: Default::default(),
            held: BTreeSet::new(),
            pushes: 0,
            batches: [0; 2],
            disinterests: HashMap::new(),
        }
    }

    /// Whether there is room for subscribers of `name`.
    pub fn has_room_for(&self, name: &TopicName) -> bool {
        self.topics.len() < SHARD_TOPICS_MAX || self.ids.contains_key(name)
    }

    /// The id of `name`, which is in `namespace`; and whether it is new here, so that its home must be told. Unless
    /// somebody subscribes or [begins to](Self::begin_subscribe), forget it again.
    pub fn find_or_make(&mut self, name: &TopicName, namespace: NamespaceId) -> (TopicId, bool) {
        match self.ids.entry(name.clone()) {
            Entry::Occupied(entry) => (*entry.get(), false),
            Entry::Vacant(entry) => {
                let topic =
                    Topic { name: name.clone(), namespace, subscribers: SmallVec::new(), joining: 0, queue: None };
                (*entry.insert(TopicId(self.topics.insert(topic) as u32)), true)
            }
        }
    }

    /// Subscribes `slot`, which gets `variant` of each push from now on. `false` if it had subscribed so.
    pub fn subscribe(&mut self, id: TopicId, slot: u32, variant: Variant) -> bool {
        let first = self.pushes;
        let topic = self.topic_mut(id);
        let is_new = topic.subscribers_mut(variant).insert(slot);
        if let Some(queue) = topic.queue.as_mut().filter(|_| is_new) {
            queue.insert_newcomer(slot, first);
        }
        is_new
    }

    /// Ends the subscription of `slot`, which was for `variant`. `true` if the topic was forgotten: its home must be
    /// told.
    pub fn unsubscribe(&mut self, id: TopicId, slot: u32, variant: Variant) -> bool {
        let topic = self.topic_mut(id);
        topic.subscribers_mut(variant).remove(slot);
        topic.subscribers.retain(|(_, subscribers)| !subscribers.is_empty());
        if let Some(queue) = &mut topic.queue {
            queue.remove_newcomer(slot);
        }
        self.forget_if_unused(id)
    }

    /// Somebody waits for what it has missed, and subscribes then.
    pub fn begin_subscribe(&mut self, id: TopicId) {
        self.topic_mut(id).joining += 1;
    }

    /// It no longer waits: it has subscribed, or will not. `true` if the topic was forgotten: its home must be told.
    pub fn end_subscribe(&mut self, id: TopicId) -> bool {
        self.topic_mut(id).joining -= 1;
        self.forget_if_unused(id)
    }

    fn forget_if_unused(&mut self, id: TopicId) -> bool {
        let topic = &self.topics[id.0 as usize];
        if topic.joining > 0 || !topic.subscribers.is_empty() {
            return false;
        }
        let topic = self.topics.remove(id.0 as usize);
        self.ids.remove(&topic.name);
        if let Some(queue) = topic.queue {
            if let Some(place) = queue.place {
                self.carousels[queue.lane as usize].remove(place, id);
            }
            if let Some(due_ms) = queue.due_ms {
                self.held.remove(&(due_ms, id));
            }
        }
        true
    }

    /// A topic was forgotten, and its home is being told.
    pub fn begin_disinterest(&mut self, name: &TopicName) {
        *self.disinterests.entry(name.clone()).or_default() += 1;
    }

    /// The home has heard.
    pub fn end_disinterest(&mut self, name: &TopicName) {
        let Some(times) = self.disinterests.get_mut(name) else { return };
        *times -= 1;
        if *times == 0 {
            self.disinterests.remove(name);
        }
        if self.disinterests.is_empty() {
            self.disinterests = HashMap::new();
        }
    }

    /// The id of a topic that has subscribers here.
    pub fn find(&self, name: &TopicName) -> Option<TopicId> {
        self.ids.get(name).copied()
    }

    /// The name of a topic.
    pub fn name(&self, id: TopicId) -> &TopicName {
        &self.topics[id.0 as usize].name
    }

    /// The namespace of a topic.
    pub fn namespace(&self, id: TopicId) -> NamespaceId {
        self.topics[id.0 as usize].namespace
    }

    /// Puts a push up for those who have subscribed to a topic on this shard until now. `due_ms` gives, for the topic's
    /// namespace, until when the push may wait for others to leave with it; 0 is not at all.
    pub fn stage(&mut self, name: &TopicName, push: Push, due_ms: impl FnOnce(NamespaceId) -> u64) {
        if !self.disinterests.is_empty() && self.disinterests.contains_key(name) {
            return;
        }
        let Some(id) = self.find(name) else { return };
        let topic = &mut self.topics[id.0 as usize];
        if topic.subscribers.is_empty() {
            return;
        }
        let queue = topic.queue.get_or_insert_with(|| Box::new(Queue::new()));
        queue.push(self.pushes, push);
        self.pushes += 1;
        let due_ms = due_ms(topic.namespace);
        if due_ms == 0 || queue.waiting_bytes() > COALESCE_BYTES_MAX {
            self.board(id);
        } else if queue.due_ms.is_none() {
            queue.due_ms = Some(due_ms);
            self.held.insert((due_ms, id));
        }
    }

    /// Has all board that may not wait any longer.
    pub fn board_due(&mut self, now_ms: u64) {
        while let Some((_, id)) = self.held.first().filter(|(due_ms, _)| *due_ms <= now_ms) {
            self.board(*id);
        }
    }

    /// When something has to board that may wait until then.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.held.first().map(|(due_ms, _)| *due_ms)
    }

    /// What waits boards, unless its topic has outgrown the express lane: then once that has nothing of it any more.
    fn board(&mut self, id: TopicId) {
        let topic = &mut self.topics[id.0 as usize];
        let audience: usize = topic.subscribers.iter().map(|(_, subscribers)| subscribers.len()).sum();
        let queue = topic.queue.as_mut().expect("something waits");
        if let Some(due_ms) = queue.due_ms.take() {
            self.held.remove(&(due_ms, id));
        }
        if !queue.has_boarded() {
            queue.lane = if audience <= self.express_max { Lane::Express } else { Lane::Crowds };
        } else if queue.lane == Lane::Express && audience > OUTGROWN * self.express_max {
            return;
        }
        let carousel = &mut self.carousels[queue.lane as usize];
        let cursor = carousel.cursor();
        queue.board(cursor);
        let slots = topic.subscribers.iter().filter_map(|(_, subscribers)| subscribers.next_from(cursor.slot()));
        let place = slots.map(|slot| cursor.first_of(slot)).min().unwrap_or(cursor);
        if queue.place != Some(place) {
            queue.place.into_iter().for_each(|place| carousel.remove(place, id));
            carousel.insert(place, id);
            queue.place = Some(place);
        }
    }

    /// Whether there is anything to send now.
    pub fn has_work(&self) -> bool {
        Lane::ALL.into_iter().any(|lane| self.has_work_on(lane))
    }

    /// Whether there is anything to send now on one lane.
    pub fn has_work_on(&self, lane: Lane) -> bool {
        !self.carousels[lane as usize].is_empty()
    }

    /// The batches gathered on one lane until now.
    pub fn batches_on(&self, lane: Lane) -> u64 {
        self.batches[lane as usize]
    }

    /// Whether there is anything to send, now or later.
    pub fn is_quiet(&self) -> bool {
        !self.has_work() && self.held.is_empty()
    }

    /// Gathers in `batch` what the next subscribers on a lane are due: some `slots` of them, and fewer than twice as
    /// many. Returns whether there are any.
    pub fn gather(&mut self, lane: Lane, slots: usize, batch: &mut Batch, encode: &mut Encode<'_>) -> bool {
        self.batches[lane as usize] += 1;
        batch.begin(self.batches[lane as usize]);
        while batch.visits().len() < slots {
            let Some((start, end)) = self.carousels[lane as usize].advance(slots) else { break };
            batch.begin_window(start.slot(), slots);
            while let Some((place, id)) = self.carousels[lane as usize].take_before(end) {
                self.visit(id, place, end, batch, encode);
            }
            batch.end_window();
        }
        !batch.visits().is_empty()
    }

    /// Adds to `batch` what the subscribers of a topic from `place` until `end` are due, and puts the topic where its
    /// next subscriber is.
    fn visit(&mut self, id: TopicId, place: Place, end: Place, batch: &mut Batch, encode: &mut Encode<'_>) {
        let topic = &mut self.topics[id.0 as usize];
        let queue = topic.queue.as_mut().expect("a topic on a carousel has a queue");
        let owner = Owner { topic: id, name: &topic.name, namespace: topic.namespace };
        queue.place = None;
        queue.expire(place);
        // Up to where all are due the same.
        let end = queue.first_end().map_or(place, |first_end| end.min(first_end));
        let mut next: Option<Place> = None;
        for (variant, subscribers) in topic.subscribers.iter().filter(|_| end > place) {
            let number = batch.number();
            let Some(index) = queue.run_index(owner, *variant, number, |run| batch.add_run(run), encode) else {
                continue;
            };
            let mut newcomers: SmallVec<[(u32, u64); 4]> = SmallVec::new();
            let next_slot = subscribers.walk(place.slot(), end.slot_before(), |slot| match queue.first_number(slot) {
                None => batch.add(slot, index),
                Some(first) => newcomers.push((slot, first)),
            });
            for (slot, first) in newcomers {
                if let Some(run) = queue.make_run(owner, *variant, first, encode) {
                    let index = batch.add_run(run);
                    batch.add(slot, index);
                }
            }
            next = next_slot.map(|slot| end.first_of(slot)).into_iter().chain(next).min();
        }
        match next {
            Some(next) if queue.is_due_at(next) => {
                self.carousels[queue.lane as usize].insert(next, id);
                queue.place = Some(next);
            }
            _ => self.finish(id),
        }
    }

    /// All that had boarded has left.
    fn finish(&mut self, id: TopicId) {
        let topic = &mut self.topics[id.0 as usize];
        let queue = topic.queue.as_mut().expect("a topic on a carousel has a queue");
        queue.clear_boarded();
        match (queue.has_waiting(), queue.due_ms) {
            (false, _) => topic.queue = None,
            (true, None) => self.board(id),
            (true, Some(_)) => {}
        }
    }

    /// How many topics have subscribers here.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether no topic has subscribers here.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    fn topic_mut(&mut self, id: TopicId) -> &mut Topic {
        &mut self.topics[id.0 as usize]
    }
}

impl Topic {
    fn subscribers_mut(&mut self, variant: Variant) -> &mut Subscribers {
        let index = self.subscribers.iter().position(|(other, _)| *other == variant).unwrap_or_else(|| {
            self.subscribers.push((variant, Subscribers::new()));
            self.subscribers.len() - 1
        });
        &mut self.subscribers[index].1
    }
}

#[cfg(test)]
mod tests;
