//! The topics with subscribers on this shard, and the pushes on their way to these.
//!
//! A push to a topic boards a [carousel](super::carousel). Its cursor collects for each subscriber the due pushes of
//! all topics. There are two carousels: topics with few subscribers have their own, so they never wait for topics with
//! many.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use super::carousel::{Carousel, Place};
use super::queue::{Encode, Owner, Queue};
use super::{
    Batch, Body, Deltas, Encoding, NamespaceId, Publication, Push, Subscribers, TagsFilter, TopicName, Variant,
};
use crate::buf::SlotId;
use crate::limits::{
    COALESCE_BYTES_MAX, DELTA_BASES_BYTES_MAX, DELTA_BYTES_MAX, EXPRESS_SUBSCRIBERS_MAX, SHARD_TOPICS_MAX,
    TOPIC_FILTERS_MAX,
};

/// A topic with subscribers on this shard; valid while it has some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(u32);

/// One of the two carousels of a shard. Each has its own share of every turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Topics with few subscribers.
    Express,
    /// All other topics.
    Crowds,
}

/// Numbers of subscribers, by encoding.
pub type SubscriberCounts = SmallVec<[(Encoding, u64); 2]>;

/// A topic leaves the express lane above this multiple of the number of subscribers with which it may enter.
const OUTGROWN: usize = 4;

#[derive(Debug)]
struct Topic {
    name: TopicName,
    namespace: NamespaceId,
    /// By variant; no set is empty. Usually one or two.
    subscribers: SmallVec<[(Variant, Subscribers); 1]>,
    /// Number of pending subscribe requests.
    pending: u32,
    /// The pushes that some subscribers have not received, if any.
    queue: Option<Box<Queue>>,
    /// The newest publication, while subscribers receive deltas to it.
    base: Option<Arc<Body>>,
    /// Filters by label; those that no subscriber has are replaced by others.
    filters: Vec<Arc<TagsFilter>>,
}

/// The topics of one shard.
#[derive(Debug)]
pub struct Topics {
    ids: HashMap<TopicName, TopicId>,
    topics: Slab<Topic>,
    /// Maximum number of subscribers of a topic that enters the express lane.
    express_max: usize,
    /// By [`Lane`].
    carousels: [Carousel; 2],
    /// Topics with waiting pushes, by the time at which these must board.
    held: BTreeSet<(u64, TopicId)>,
    /// Number of pushes so far.
    pushes: u64,
    /// Number of batches so far, by [`Lane`].
    batches: [u64; 2],
    /// Topics that have lost their last subscriber here and have a notice under way to their home shard, with the
    /// number of such notices. Pushes from before the notice are for earlier subscribers. A new subscriber must not
    /// receive them: it would miss the pushes that the home shard does not send after the notice.
    disinterests: HashMap<TopicName, u32>,
    /// Bytes of the payloads that the topics keep for deltas.
    bases_bytes: usize,
}

impl Lane {
    /// All lanes, in the order of service.
    pub const ALL: [Lane; 2] = [Lane::Express, Lane::Crowds];
}

impl TopicId {
    /// A number that is unique on this shard while the topic has subscribers here.
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
    /// An empty table. Topics with at most `express_max` subscribers take the express lane.
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
            bases_bytes: 0,
        }
    }

    /// Whether `name` may get subscribers here.
    pub fn has_room_for(&self, name: &TopicName) -> bool {
        self.topics.len() < SHARD_TOPICS_MAX || self.ids.contains_key(name)
    }

    /// Returns the id of `name` in `namespace`, and whether the topic is new here, so that the caller must notify its
    /// home shard. Then [`subscribe`](Self::subscribe) or [`begin_subscribe`](Self::begin_subscribe), or the topic
    /// stays forever.
    pub fn find_or_make(&mut self, name: &TopicName, namespace: NamespaceId) -> (TopicId, bool) {
        match self.ids.entry(name.clone()) {
            Entry::Occupied(entry) => (*entry.get(), false),
            Entry::Vacant(entry) => {
                let topic = Topic {
                    name: name.clone(),
                    namespace,
                    subscribers: SmallVec::new(),
                    pending: 0,
                    queue: None,
                    base: None,
                    filters: Vec::new(),
                };
                (*entry.insert(TopicId(self.topics.insert(topic) as u32)), true)
            }
        }
    }

    /// Subscribes `slot`, which receives `variant` of each further push. `false` if it is subscribed already.
    pub fn subscribe(&mut self, id: TopicId, slot: SlotId, variant: Variant) -> bool {
        let first = self.pushes;
        let topic = self.topic_mut(id);
        let is_new = topic.subscribers_mut(variant).insert(slot.0);
        if let Some(queue) = topic.queue.as_mut().filter(|_| is_new) {
            queue.insert_newcomer(slot.0, first);
        }
        is_new
    }

    /// Changes the variant that `slot` receives, of the pushes that are due to it, too.
    pub fn change_variant(&mut self, id: TopicId, slot: SlotId, before: Variant, after: Variant) {
        let topic = self.topic_mut(id);
        let was_subscribed = topic.subscribers_mut(before).remove(slot.0);
        assert!(was_subscribed, "a subscriber is in the set of its variant");
        topic.subscribers_mut(after).insert(slot.0);
        topic.subscribers.retain(|(_, subscribers)| !subscribers.is_empty());
    }

    /// The label of a filter among the subscribers of a topic. `None` if `TOPIC_FILTERS_MAX` others have subscribers.
    pub fn filter_label(&mut self, id: TopicId, filter: &Arc<TagsFilter>) -> Option<u8> {
        let Topic { filters, subscribers, .. } = self.topic_mut(id);
        let place = filters.iter().position(|other| other == filter).or_else(|| {
            let is_used = |place: &usize| {
                let of_filter =
                    |variant: &Variant| variant.encoding.is_filtered() && usize::from(variant.label) == *place;
                subscribers.iter().any(|(variant, _)| of_filter(variant))
            };
            let free = (0..filters.len()).find(|place| !is_used(place));
            free.or(Some(filters.len()).filter(|count| *count < TOPIC_FILTERS_MAX))
        })?;
        match filters.get_mut(place) {
            Some(other) => *other = filter.clone(),
            None => filters.push(filter.clone()),
        }
        Some(place as u8)
    }

    /// Ends the subscription of `slot` to `variant`. `true` if the topic has no more subscribers: the caller must
    /// notify its home shard.
    pub fn unsubscribe(&mut self, id: TopicId, slot: SlotId, variant: Variant) -> bool {
        let topic = self.topic_mut(id);
        topic.subscribers_mut(variant).remove(slot.0);
        topic.subscribers.retain(|(_, subscribers)| !subscribers.is_empty());
        if let Some(queue) = &mut topic.queue {
            queue.remove_newcomer(slot.0);
        }
        self.forget_if_unused(id)
    }

    /// Adds a pending subscribe request: keeps the topic until [`end_subscribe`](Self::end_subscribe).
    pub fn begin_subscribe(&mut self, id: TopicId) {
        self.topic_mut(id).pending += 1;
    }

    /// Ends a pending subscribe request. `true` if the topic has no more subscribers: the caller must notify its home
    /// shard.
    pub fn end_subscribe(&mut self, id: TopicId) -> bool {
        self.topic_mut(id).pending -= 1;
        self.forget_if_unused(id)
    }

    fn forget_if_unused(&mut self, id: TopicId) -> bool {
        let topic = &self.topics[id.0 as usize];
        if topic.pending > 0 || !topic.subscribers.is_empty() {
            return false;
        }
        let topic = self.topics.remove(id.0 as usize);
        self.ids.remove(&topic.name);
        self.bases_bytes -= topic.base.map_or(0, |base| base.payload().len());
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

    /// A notice that the topic has no more subscribers is under way to its home shard.
    pub fn begin_disinterest(&mut self, name: &TopicName) {
        *self.disinterests.entry(name.clone()).or_default() += 1;
    }

    /// The home shard has received the notice.
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

    /// The id of a topic with subscribers here.
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

    /// Queues a push that arrived at `arrived_us` for the topic's current subscribers on this shard. `due_ms` returns,
    /// for the topic's namespace, the time until which the push may wait for others; 0 sends it at once.
    pub fn stage(&mut self, name: &TopicName, push: Push, arrived_us: u64, due_ms: impl FnOnce(NamespaceId) -> u64) {
        if !self.disinterests.is_empty() && self.disinterests.contains_key(name) {
            return;
        }
        let Some(id) = self.find(name) else { return };
        let topic = &mut self.topics[id.0 as usize];
        if topic.subscribers.is_empty() {
            return;
        }
        if let Push::Publication(publication) = &push {
            topic.begin_delta(publication, &mut self.bases_bytes);
        }
        let queue = topic.queue.get_or_insert_with(|| Box::new(Queue::new()));
        queue.push(self.pushes, arrived_us, push);
        self.pushes += 1;
        let due_ms = due_ms(topic.namespace);
        if due_ms == 0 || queue.waiting_bytes() > COALESCE_BYTES_MAX {
            self.board(id);
        } else if queue.due_ms.is_none() {
            queue.due_ms = Some(due_ms);
            self.held.insert((due_ms, id));
        }
    }

    /// Boards all pushes that must not wait longer.
    pub fn board_due(&mut self, now_ms: u64) {
        while let Some((_, id)) = self.held.first().filter(|(due_ms, _)| *due_ms <= now_ms) {
            self.board(*id);
        }
    }

    /// The time of the next [`board_due`](Self::board_due), if pushes wait.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.held.first().map(|(due_ms, _)| *due_ms)
    }

    /// Boards the waiting pushes of a topic. If the topic has outgrown the express lane, they wait until that lane has
    /// none of its pushes.
    fn board(&mut self, id: TopicId) {
        let topic = &mut self.topics[id.0 as usize];
        let audience: usize = topic.subscribers.iter().map(|(_, subscribers)| subscribers.len()).sum();
        let queue = topic.queue.as_mut().expect("a topic with waiting pushes has a queue");
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

    /// Whether pushes are due now.
    pub fn has_work(&self) -> bool {
        Lane::ALL.into_iter().any(|lane| self.has_work_on(lane))
    }

    /// Whether pushes are due now on one lane.
    pub fn has_work_on(&self, lane: Lane) -> bool {
        !self.carousels[lane as usize].is_empty()
    }

    /// Number of batches so far on one lane.
    pub fn batches_on(&self, lane: Lane) -> u64 {
        self.batches[lane as usize]
    }

    /// Whether no pushes are due, now or later.
    pub fn is_quiet(&self) -> bool {
        !self.has_work() && self.held.is_empty()
    }

    /// Fills `batch` with the due pushes of the next subscribers on a lane: at least `slots` of them if there are so
    /// many, and fewer than twice as many. Returns whether there are any.
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

    /// Adds the due pushes of a topic's subscribers from `place` until `end` to `batch`, and moves the topic to the
    /// place of its next subscriber.
    fn visit(&mut self, id: TopicId, place: Place, end: Place, batch: &mut Batch, encode: &mut Encode<'_>) {
        let topic = &mut self.topics[id.0 as usize];
        let queue = topic.queue.as_mut().expect("a topic on a carousel has a queue");
        let owner = Owner { topic: id, name: &topic.name, namespace: topic.namespace, filters: &topic.filters };
        queue.place = None;
        queue.expire(place, &mut batch.departed);
        // Subscribers up to here have the same due pushes.
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
                queue.expire(next, &mut batch.departed);
                self.carousels[queue.lane as usize].insert(next, id);
                queue.place = Some(next);
            }
            _ => self.finish(id, &mut batch.departed),
        }
    }

    /// All boarded pushes have left.
    fn finish(&mut self, id: TopicId, departed: &mut Vec<u64>) {
        let topic = &mut self.topics[id.0 as usize];
        let queue = topic.queue.as_mut().expect("a topic on a carousel has a queue");
        queue.clear_boarded(departed);
        match (queue.has_waiting(), queue.due_ms) {
            (false, _) => topic.queue = None,
            (true, None) => self.board(id),
            (true, Some(_)) => {}
        }
    }

    /// The number of subscribers of a topic here, by encoding.
    pub fn count_subscribers(&self, name: &TopicName) -> SubscriberCounts {
        let mut counts = SubscriberCounts::new();
        let Some(id) = self.find(name) else { return counts };
        for (variant, subscribers) in &self.topics[id.0 as usize].subscribers {
            let (count, of_variant) = (subscribers.len() as u64, variant.encoding.whole());
            match counts.iter_mut().find(|(encoding, _)| *encoding == of_variant) {
                Some((_, sum)) => *sum += count,
                None => counts.push((of_variant, count)),
            }
        }
        counts
    }

    /// Number of topics with subscribers here.
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

    /// Lets a publication be a delta to the one before, and keeps it for the next one, if subscribers receive deltas.
    /// `bases_bytes`: of all topics.
    fn begin_delta(&mut self, publication: &Publication, bases_bytes: &mut usize) {
        let has_deltas = self.subscribers.iter().any(|(variant, _)| variant.encoding.deltas() != Deltas::None);
        if !has_deltas && self.base.is_none() {
            return;
        }
        let before = self.base.take();
        *bases_bytes -= before.as_ref().map_or(0, |base| base.payload().len());
        let bytes = publication.body.payload().len();
        if has_deltas && bytes <= DELTA_BYTES_MAX && *bases_bytes + bytes <= DELTA_BASES_BYTES_MAX {
            self.base = Some(publication.body.clone());
            *bases_bytes += bytes;
        }
        // All shards agree on the base: the one before is the same everywhere.
        let is_before = |base: &Arc<Body>| base.position.is_before(publication.body.position);
        if let Some(base) = before.filter(is_before) {
            publication.frames.begin_delta(base);
        }
    }
}

#[cfg(test)]
mod tests;
