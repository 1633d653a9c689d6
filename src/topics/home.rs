//! The topics whose home is this shard: their order, what is kept of them, and which shards have subscribers.
//!
//! This is the only place that gives offsets. It does not send anything: it tells the shard what there is to send, and
//! to which shards.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use super::history::{CatchUp, History, HistoryPage, HistoryQuery, Recovery};
use super::{
    Body, ClientInfo, Epoch, JoinId, Namespace, NamespaceId, Namespaces, Position, Presence, PublishError, TopicName,
};
use crate::limits::{
    HOME_HISTORY_BYTES_MAX, HOME_TOPICS_MAX, IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_TTL_MS, PRESENCE_MAX, SWEEP_TOPICS,
    TOPIC_IDLE_MS,
};

/// A topic of this home, for as long as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomeId(u32);

/// What became of the wish to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequenced {
    /// It has this place.
    New(HomeId, Position),
    /// It was published before under the same idempotency key, and has this place.
    Repeated(Position),
}

#[derive(Debug)]
struct Topic {
    name: TopicName,
    namespace: NamespaceId,
    position: Position,
    /// When it was last published to.
    published_ms: u64,
    /// The shards with subscribers.
    shards: SmallVec<[u16; 4]>,
    /// Most topics keep nothing.
    kept: Option<Box<Kept>>,
}

/// What is kept of a topic besides its order.
#[derive(Debug, Default)]
struct Kept {
    history: History,
    /// By client.
    present: HashMap<Box<str>, Present>,
}

/// A client that is present in a topic.
#[derive(Debug)]
struct Present {
    /// As its newest join describes it.
    info: Arc<ClientInfo>,
    /// Its joins that have not ended. A client that subscribes again in a hurry has two for a moment.
    joins: SmallVec<[JoinId; 1]>,
}

/// All topics that this shard is the home of.
#[derive(Debug)]
pub struct Home {
    namespaces: Arc<Namespaces>,
    ids: HashMap<TopicName, HomeId>,
    topics: Slab<Topic>,
    /// Random bits of this process, and how many epochs were made from them.
    epoch_seed: u64,
    epochs: u64,
    history_bytes: usize,
    repeats: HashMap<(TopicName, Box<str>), Position>,
    /// When each of them is forgotten, in order.
    repeats_end: VecDeque<(u64, TopicName, Box<str>)>,
    sweep_next: usize,
}

impl Home {
    /// A home that has not seen any topic. Epochs are made from `epoch_seed`, which should be random.
    pub fn new(epoch_seed: u64, namespaces: Arc<Namespaces>) -> Home {
        Home {
            namespaces,
            ids: HashMap::new(),
            topics: Slab::new(),
            epoch_seed,
            epochs: 0,
            history_bytes: 0,
            repeats: HashMap::new(),
            repeats_end: VecDeque::new(),
            sweep_next: 0,
        }
    }

    /// Gives the next publication of `topic` its place. [`record`](Self::record) it then.
    ///
    /// # Errors
    /// [`PublishError::TooManyTopics`] and [`PublishError::UnknownNamespace`]; nothing has changed.
    pub fn sequence(
        &mut self,
        topic: &TopicName,
        idempotency_key: Option<Box<str>>,
        now_ms: u64,
    ) -> Result<Sequenced, PublishError> {
        self.forget_repeats(now_ms);
        let repeat = idempotency_key.map(|key| (topic.clone(), key));
        if let Some(position) = repeat.as_ref().and_then(|repeat| self.repeats.get(repeat)) {
            return Ok(Sequenced::Repeated(*position));
        }
        let id = self.find_or_make(topic, now_ms)?;
        let entry = &mut self.topics[id.0 as usize];
        entry.position.offset += 1;
        entry.published_ms = now_ms;
        let position = entry.position;
        if let Some((topic, key)) = repeat {
            self.repeats_end.push_back((now_ms.saturating_add(IDEMPOTENCY_TTL_MS), topic.clone(), key.clone()));
            self.repeats.insert((topic, key), position);
        }
        Ok(Sequenced::New(id, position))
    }

    /// Keeps the publication that [`sequence`](Self::sequence) has given its place, where its namespace has a history.
    pub fn record(&mut self, id: HomeId, body: &Arc<Body>) {
        let topic = &mut self.topics[id.0 as usize];
        let namespace = self.namespaces.get(topic.namespace);
        if namespace.history_size == 0 {
            return;
        }
        let history = &mut topic.kept.get_or_insert_default().history;
        self.history_bytes -= history.bytes();
        history.push(body.clone(), namespace);
        history.shrink_to(HOME_HISTORY_BYTES_MAX.saturating_sub(self.history_bytes));
        self.history_bytes += history.bytes();
    }

    /// The shards with subscribers of a topic.
    pub fn shards(&self, id: HomeId) -> &[u16] {
        &self.topics[id.0 as usize].shards
    }

    /// From now on `shard` has subscribers of `topic`, and wants its publications.
    ///
    /// # Errors
    /// [`PublishError::TooManyTopics`] and [`PublishError::UnknownNamespace`].
    pub fn add_interest(&mut self, topic: &TopicName, shard: u16, now_ms: u64) -> Result<HomeId, PublishError> {
        let id = self.find_or_make(topic, now_ms)?;
        let shards = &mut self.topics[id.0 as usize].shards;
        if let Err(index) = shards.binary_search(&shard) {
            shards.insert(index, shard);
        }
        Ok(id)
    }

    /// `shard` has no subscribers of `topic` any more.
    pub fn remove_interest(&mut self, topic: &TopicName, shard: u16) {
        let Some(id) = self.find(topic) else { return };
        let topic = &mut self.topics[id.0 as usize];
        topic.shards.retain(|other| *other != shard);
        if topic.shards.is_empty()
            && let Some(kept) = &mut topic.kept
        {
            // Departures come before this. Were one missing, the client would otherwise stay as long as the server.
            kept.present.clear();
        }
    }

    /// Where a topic is, and what somebody who subscribes to it now has missed.
    pub fn catch_up(&mut self, id: HomeId, catch_up: CatchUp, now_ms: u64) -> (Position, Recovery) {
        self.expire(id.0 as usize, now_ms);
        let topic = &self.topics[id.0 as usize];
        // What may wait for a subscriber is what one can be sent at once: with more it would be slow from the start, be
        // closed, and come back for as much.
        let bytes_max = self.namespaces.get(topic.namespace).outbox_bytes_max;
        let recovery = match &topic.kept {
            Some(kept) => kept.history.recover(catch_up, topic.position, bytes_max),
            None => History::default().recover(catch_up, topic.position, bytes_max),
        };
        (topic.position, recovery)
    }

    /// A part of a topic's history, and where the topic is; `None` if nobody knows of the topic.
    pub fn history(&mut self, topic: &TopicName, query: &HistoryQuery, now_ms: u64) -> Option<HistoryPage> {
        let id = self.find(topic)?;
        self.expire(id.0 as usize, now_ms);
        let topic = &self.topics[id.0 as usize];
        Some(match &topic.kept {
            Some(kept) => kept.history.page(query, topic.position),
            None => History::default().page(query, topic.position),
        })
    }

    /// Drops what is too old of a topic, and the memory of what is empty.
    fn expire(&mut self, index: usize, now_ms: u64) {
        let topic = &mut self.topics[index];
        let Some(kept) = &mut topic.kept else { return };
        self.history_bytes -= kept.history.bytes();
        kept.history.expire(self.namespaces.get(topic.namespace), now_ms);
        self.history_bytes += kept.history.bytes();
        if kept.history.is_empty() && kept.present.is_empty() {
            topic.kept = None;
        }
    }

    /// Forgets what was published to a topic. Its order goes on.
    pub fn remove_history(&mut self, topic: &TopicName) {
        let Some(id) = self.find(topic) else { return };
        if let Some(kept) = &mut self.topics[id.0 as usize].kept {
            self.history_bytes -= kept.history.bytes();
            kept.history = History::default();
        }
    }

    /// A client has joined. Returns whether it is present only since now, which its namespace's subscribers may be
    /// pushed.
    ///
    /// A topic remembers [`PRESENCE_MAX`] clients. Further ones subscribe like all others, but are neither present nor
    /// pushed, so that their departure has nothing to take back.
    pub fn arrive(&mut self, id: HomeId, presence: &Presence) -> bool {
        let Presence { join, info } = presence;
        let topic = &mut self.topics[id.0 as usize];
        if !self.namespaces.get(topic.namespace).remembers_subscribers() {
            return false;
        }
        let present = &mut topic.kept.get_or_insert_default().present;
        if let Some(client) = present.get_mut(&info.client) {
            client.info = info.clone();
            client.joins.push(*join);
            return false;
        }
        if present.len() >= PRESENCE_MAX {
            return false;
        }
        present.insert(info.client.clone(), Present { info: info.clone(), joins: SmallVec::from_buf([*join]) });
        true
    }

    /// A join has ended. Returns the topic if it was the last one of a client that was present.
    pub fn depart(&mut self, topic: &TopicName, presence: &Presence) -> Option<HomeId> {
        let id = self.find(topic)?;
        let present = &mut self.topics[id.0 as usize].kept.as_mut()?.present;
        let client = present.get_mut(&presence.info.client)?;
        client.joins.retain(|join| *join != presence.join);
        if !client.joins.is_empty() {
            return None;
        }
        present.remove(&presence.info.client);
        Some(id)
    }

    /// The clients that have subscribed to a topic, in no order; none where its namespace has no presence.
    pub fn presence(&self, topic: &TopicName) -> Vec<Arc<ClientInfo>> {
        let topic = self.find(topic).map(|id| &self.topics[id.0 as usize]);
        let kept = topic.filter(|topic| self.has_presence(topic)).and_then(|topic| topic.kept.as_ref());
        kept.map(|kept| kept.present.values().map(|client| client.info.clone()).collect()).unwrap_or_default()
    }

    fn has_presence(&self, topic: &Topic) -> bool {
        self.namespaces.get(topic.namespace).presence
    }

    /// All joins that a topic remembers, for checks.
    #[cfg(feature = "sim")]
    pub fn joins(&self) -> impl Iterator<Item = (&TopicName, JoinId)> {
        self.topics.iter().flat_map(|(_, topic)| {
            let present = topic.kept.iter().flat_map(|kept| kept.present.values());
            present.flat_map(|client| client.joins.iter().map(|join| (&topic.name, *join)))
        })
    }

    /// The settings for a topic.
    pub fn namespace(&self, id: HomeId) -> &Namespace {
        self.namespaces.get(self.topics[id.0 as usize].namespace)
    }

    /// The topics with subscribers, with how many of them are present where that is kept.
    pub fn active(&self) -> impl Iterator<Item = (&TopicName, usize)> {
        let active = self.topics.iter().filter(|(_, topic)| !topic.shards.is_empty());
        active.map(|(_, topic)| {
            let kept = topic.kept.as_ref().filter(|_| self.has_presence(topic));
            (&topic.name, kept.map_or(0, |kept| kept.present.len()))
        })
    }

    /// Looks at the next [`SWEEP_TOPICS`] topics: drops publications that are too old, and forgets topics that have
    /// been idle for [`TOPIC_IDLE_MS`]. Reading never depends on it; it gives memory back.
    pub fn sweep(&mut self, now_ms: u64) {
        self.forget_repeats(now_ms);
        let end = (self.sweep_next + SWEEP_TOPICS).min(self.topics.capacity());
        for index in self.sweep_next..end {
            if !self.topics.contains(index) {
                continue;
            }
            self.expire(index, now_ms);
            let topic = &self.topics[index];
            let is_idle = now_ms >= topic.published_ms.saturating_add(TOPIC_IDLE_MS);
            if is_idle && topic.shards.is_empty() && topic.kept.is_none() {
                let topic = self.topics.remove(index);
                self.ids.remove(&topic.name);
            }
        }
        self.sweep_next = if end == self.topics.capacity() { 0 } else { end };
    }

    /// How many topics are remembered.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether no topic is remembered.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Payload bytes that histories keep.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    fn find(&self, topic: &TopicName) -> Option<HomeId> {
        self.ids.get(topic).copied()
    }

    fn find_or_make(&mut self, topic: &TopicName, now_ms: u64) -> Result<HomeId, PublishError> {
        if let Some(id) = self.find(topic) {
            return Ok(id);
        }
        let namespace = self.namespaces.find(topic).map_err(|_| PublishError::UnknownNamespace)?;
        if self.topics.len() == HOME_TOPICS_MAX {
            return Err(PublishError::TooManyTopics);
        }
        let position = Position { epoch: self.next_epoch(), offset: 0 };
        let id = HomeId(self.topics.insert(Topic {
            name: topic.clone(),
            namespace,
            position,
            published_ms: now_ms,
            shards: SmallVec::new(),
            kept: None,
        }) as u32);
        self.ids.insert(topic.clone(), id);
        Ok(id)
    }

    /// A topic that was forgotten and comes back must not seem to go on.
    fn next_epoch(&mut self) -> Epoch {
        // An odd step visits all 64-bit numbers before it repeats one.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        self.epochs = self.epochs.wrapping_add(1);
        Epoch::new(self.epoch_seed.wrapping_add(self.epochs.wrapping_mul(STEP)))
    }

    fn forget_repeats(&mut self, now_ms: u64) {
        while let Some((end_ms, ..)) = self.repeats_end.front() {
            if now_ms < *end_ms && self.repeats.len() <= IDEMPOTENCY_KEYS_MAX {
                return;
            }
            let (_, topic, key) = self.repeats_end.pop_front().expect("there is a first one");
            self.repeats.remove(&(topic, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::body;
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    fn home(namespace: Namespace) -> Home {
        Home::new(5, Arc::new(Namespaces::new(namespace, Vec::new())))
    }

    fn publish(home: &mut Home, topic: &str, now_ms: u64) -> Position {
        match home.sequence(&name(topic), None, now_ms).unwrap() {
            Sequenced::New(id, position) => {
                home.record(id, &body(topic, position, now_ms, b"12345"));
                position
            }
            Sequenced::Repeated(_) => panic!("there is no key"),
        }
    }

    #[test]
    fn offsets_count_from_one_for_each_topic() {
        let mut home = home(Namespace::default());
        let offsets = ["a", "a", "b", "a"].map(|topic| publish(&mut home, topic, 0).offset);
        assert_eq!(offsets, [1, 2, 1, 3]);
        assert!(home.history_bytes() == 0, "nothing is kept by default");
    }

    #[test]
    fn what_is_published_again_under_its_key_keeps_its_place_until_it_is_forgotten() {
        let mut home = home(Namespace::default());
        let key = || Some("k".into());
        let Ok(Sequenced::New(_, first)) = home.sequence(&name("a"), key(), 0) else { panic!() };
        assert_eq!(home.sequence(&name("a"), key(), IDEMPOTENCY_TTL_MS - 1), Ok(Sequenced::Repeated(first)));
        assert!(matches!(home.sequence(&name("b"), key(), 1), Ok(Sequenced::New(..))), "each topic has its own keys");
        let Ok(Sequenced::New(_, second)) = home.sequence(&name("a"), key(), IDEMPOTENCY_TTL_MS) else { panic!() };
        assert_eq!((first.offset, second.offset), (1, 2));
    }

    #[test]
    fn each_shard_with_subscribers_is_known_once() {
        let mut home = home(Namespace::default());
        let id = home.add_interest(&name("a"), 3, 0).unwrap();
        for shard in [1, 3, 2] {
            home.add_interest(&name("a"), shard, 0).unwrap();
        }
        assert_eq!(home.shards(id), [1, 2, 3]);
        home.remove_interest(&name("a"), 2);
        home.remove_interest(&name("b"), 1);
        assert_eq!(home.shards(id), [1, 3]);
    }

    #[test]
    fn an_idle_topic_is_forgotten_and_comes_back_in_another_epoch() {
        let mut home = home(Namespace { history_size: 1, history_ttl_ms: 10, ..Namespace::default() });
        let first = publish(&mut home, "a", 0);
        home.add_interest(&name("kept"), 0, 0).unwrap();
        home.sweep(TOPIC_IDLE_MS - 1);
        assert_eq!((home.len(), home.history_bytes()), (2, 0), "the publication is too old, the topic is not");
        home.sweep(TOPIC_IDLE_MS);
        assert_eq!(home.len(), 1, "who has subscribers stays");
        let second = publish(&mut home, "a", TOPIC_IDLE_MS);
        assert_eq!((first.offset, second.offset), (1, 1));
        assert_ne!(first.epoch, second.epoch);
    }

    #[test]
    fn presence_knows_each_client_once() {
        let mut home = home(Namespace { presence: true, ..Namespace::default() });
        let id = home.add_interest(&name("a"), 0, 0).unwrap();
        assert!(home.arrive(id, &join("x", 1)) && home.arrive(id, &join("y", 2)));
        assert_eq!(home.active().collect::<Vec<_>>(), [(&name("a"), 2)]);
        assert_eq!(home.depart(&name("a"), &join("x", 1)), Some(id));
        assert_eq!(home.depart(&name("a"), &join("nobody", 3)), None);
        assert_eq!(home.presence(&name("a")), [join("y", 2).info]);
        assert_eq!(home.presence(&name("b")), []);
    }

    fn join(client: &str, count: u64) -> Presence {
        let info = Arc::new(ClientInfo { client: client.into(), ..ClientInfo::default() });
        Presence { join: JoinId::new(0, count), info }
    }

    #[test]
    fn a_departure_ends_its_own_join_and_no_other() {
        let mut home = home(Namespace { presence: true, ..Namespace::default() });
        let id = home.add_interest(&name("a"), 0, 0).unwrap();
        assert!(home.arrive(id, &join("x", 1)) && !home.arrive(id, &join("x", 2)), "one client, which came once");
        assert_eq!(home.depart(&name("a"), &join("x", 1)), None, "its second join goes on");
        assert_eq!(home.depart(&name("a"), &join("x", 1)), None);
        assert_eq!(home.presence(&name("a")), [join("x", 2).info]);
        assert_eq!(home.depart(&name("a"), &join("x", 2)), Some(id));
        assert_eq!(home.presence(&name("a")), []);
    }

    #[test]
    fn clients_past_the_bound_are_neither_present_nor_missed() {
        let mut home = home(Namespace { presence: true, join_leave: true, ..Namespace::default() });
        let id = home.add_interest(&name("a"), 0, 0).unwrap();
        for count in 0..PRESENCE_MAX as u64 {
            assert!(home.arrive(id, &join(&count.to_string(), count)));
        }
        assert!(!home.arrive(id, &join("late", 1 << 20)));
        assert_eq!(home.depart(&name("a"), &join("5", 5)), Some(id));
        assert!(home.arrive(id, &join("late", 1 << 21)), "there is room for its second join");
        assert_eq!(home.depart(&name("a"), &join("late", 1 << 20)), None, "the first one was not remembered");
        assert_eq!(home.presence(&name("a")).len(), PRESENCE_MAX);
        assert_eq!(home.depart(&name("a"), &join("late", 1 << 21)), Some(id));
    }

    #[test]
    fn comings_and_goings_alternate_also_where_presence_is_not_shown() {
        let mut home = home(Namespace { join_leave: true, ..Namespace::default() });
        let id = home.add_interest(&name("a"), 0, 0).unwrap();
        assert!(home.arrive(id, &join("x", 1)) && !home.arrive(id, &join("x", 2)));
        assert_eq!((home.presence(&name("a")), home.active().next()), (vec![], Some((&name("a"), 0))));
        assert_eq!(home.depart(&name("a"), &join("x", 1)), None);
        assert_eq!(home.depart(&name("a"), &join("x", 2)), Some(id));
    }

    #[test]
    fn a_topic_without_subscribers_has_nobody_present_and_is_forgotten() {
        let mut home = home(Namespace { presence: true, ..Namespace::default() });
        let id = home.add_interest(&name("a"), 0, 0).unwrap();
        home.arrive(id, &join("x", 1));
        home.remove_interest(&name("a"), 0);
        assert_eq!(home.presence(&name("a")), []);
        home.sweep(TOPIC_IDLE_MS);
        assert_eq!(home.len(), 0);
    }

    #[test]
    fn topics_of_unknown_namespaces_are_refused() {
        let others = vec![("chat".to_owned(), Namespace::default())];
        let mut home = Home::new(5, Arc::new(Namespaces::new(Namespace::default(), others)));
        assert_eq!(home.sequence(&name("x:1"), None, 0), Err(PublishError::UnknownNamespace));
        assert_eq!(home.add_interest(&name("x:1"), 0, 0), Err(PublishError::UnknownNamespace));
        assert_eq!(publish(&mut home, "chat:1", 0).offset, 1);
    }
}
