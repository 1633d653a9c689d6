//! The topics of this home shard: their positions, history and presence, and the shards with subscribers.
//!
//! Only this module assigns offsets, unless a log outside does: then the home takes them over from there. It sends
//! nothing: it returns to the shard the messages to send and the target shards.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use super::history::{CatchUp, History, HistoryPage, HistoryQuery, Recovery};
use super::repeats::{Repeat, Repeats};
use super::state::State;
use super::{
    Body, ClientInfo, Condition, Draft, Epoch, Event, EventSink, JoinId, Namespace, NamespaceId, Namespaces, Position,
    Presence, PublishError, StateCursor, StatePage, StateQuery, TopicName, TopicSummary, TopicsPage, TopicsQuery,
    bucket_of, epoch_of,
};
use crate::limits::{
    EPOCH_NUMBERS, HOME_HISTORY_BYTES_MAX, HOME_STATE_BYTES_MAX, HOME_TOPICS_MAX, LIST_VISITS, PRESENCE_MAX,
    STATE_PAGE_KEYS, SWEEP_KEYS, SWEEP_TOPICS, SWEEP_TURNS, TICK_MS, TOPIC_IDLE_MS,
};

/// A topic of this home; valid at least until the next [`Home::forget_unused`] or [`Home::sweep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HomeId(u32);

/// The outcome of a publish request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequenced {
    /// The publication has this position.
    New(HomeId, Position),
    /// An earlier publication with the same idempotency key has this position.
    Repeated(Position),
}

#[derive(Debug)]
struct Topic {
    name: TopicName,
    namespace: NamespaceId,
    position: Position,
    /// The time of the last publication.
    published_ms: u64,
    /// The shards with subscribers.
    shards: SmallVec<[u16; 4]>,
    /// History, presence and state; most topics have none.
    kept: Option<Box<Retained>>,
}

/// The retained state of a topic besides its position.
#[derive(Debug, Default)]
struct Retained {
    history: History,
    /// By client.
    present: HashMap<Box<str>, Present>,
    /// Of a keyed topic with publications.
    state: Option<Box<State>>,
}

/// A present client of a topic.
#[derive(Debug)]
struct Present {
    /// From its newest join.
    info: Arc<ClientInfo>,
    /// Its joins that have not ended. A client that resubscribes quickly has two for a moment.
    joins: SmallVec<[JoinId; 1]>,
}

impl Topic {
    fn is_published(&self) -> bool {
        self.position.offset > 0
    }

    /// Whether the topic has no publications, subscribers or retained state. A new topic of this name gets the same
    /// epoch, so forgetting it loses nothing.
    fn is_unused(&self) -> bool {
        !self.is_published() && self.shards.is_empty() && self.kept.as_ref().is_none_or(|kept| kept.is_empty())
    }

    /// Whether lists of topics have it.
    fn is_listed(&self) -> bool {
        let has_history = self.kept.as_ref().is_some_and(|kept| !kept.history.is_empty() || kept.keys() > 0);
        (has_history || !self.shards.is_empty()) && !self.name.is_system()
    }

    fn summary(&self) -> TopicSummary {
        let kept = self.kept.as_deref();
        TopicSummary {
            name: self.name.clone(),
            position: self.position,
            published_ms: self.published_ms,
            history_len: kept.map_or(0, |kept| kept.history.len()),
            history_bytes: kept.map_or(0, |kept| kept.history.bytes()),
            keys: kept.map_or(0, Retained::keys),
            present: kept.map_or(0, |kept| kept.present.len()),
            has_subscribers: !self.shards.is_empty(),
        }
    }
}

impl Retained {
    fn is_empty(&self) -> bool {
        self.history.is_empty() && self.present.is_empty() && self.state.is_none()
    }

    fn keys(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.keys())
    }
}

/// Where the epochs of topics come from to which this home assigns offsets.
#[derive(Debug)]
struct OwnEpochs {
    /// Random bits of this process.
    seed: u64,
    /// How often topics with publications were forgotten, by a hash of their names.
    forgotten: Box<[u32]>,
}

/// What a home knows of a bucket of the log.
#[derive(Clone, Copy, Debug, Default)]
struct LogBucket {
    /// From what the epochs of topics without publications are made; `None` before the first positions.
    lineage: Option<u64>,
    /// Whether the positions are those of the log's end.
    is_settled: bool,
}

/// All topics of this home shard.
#[derive(Debug)]
pub struct Home {
    namespaces: Arc<Namespaces>,
    ids: HashMap<TopicName, HomeId>,
    topics: Slab<Topic>,
    /// Number of topics with publications.
    published: usize,
    /// Number of topics with subscribers.
    occupied: usize,
    /// Topics that may have become unused.
    unused: Vec<HomeId>,
    own_epochs: OwnEpochs,
    /// A log assigns the offsets of all topics but the server's own, in these buckets; none without a log.
    log: Box<[LogBucket]>,
    history_bytes: usize,
    /// Of all keyed topics.
    state_bytes: usize,
    state_keys: usize,
    /// When the oldest value of each keyed topic expires, in milliseconds of Unix time, or before that.
    expiries: BTreeSet<(u64, HomeId)>,
    /// Publications of a page of a state.
    page_keys: usize,
    repeats: Repeats,
    sweep_next: usize,
    /// Receives what happens to topics.
    events: Option<Arc<dyn EventSink>>,
}

impl Home {
    /// A home without topics. Epochs are derived from `epoch_seed`, which should be random.
    pub fn new(epoch_seed: u64, namespaces: Arc<Namespaces>) -> Home {
        Home::following(0, epoch_seed, namespaces)
    }

    /// A home whose topics get their offsets from a log of so many buckets. All positions are unknown until
    /// [`rebase`](Self::rebase) and [`settle`](Self::settle).
    pub fn following(buckets: u16, epoch_seed: u64, namespaces: Arc<Namespaces>) -> Home {
        Home {
            namespaces,
            ids: HashMap::new(),
            topics: Slab::new(),
            published: 0,
            occupied: 0,
            unused: Vec::new(),
            own_epochs: OwnEpochs { seed: epoch_seed, forgotten: vec![0; EPOCH_NUMBERS].into() },
            log: vec![LogBucket::default(); buckets.into()].into(),
            history_bytes: 0,
            state_bytes: 0,
            state_keys: 0,
            expiries: BTreeSet::new(),
            page_keys: STATE_PAGE_KEYS,
            repeats: Repeats::default(),
            sweep_next: 0,
            events: None,
        }
    }

    /// Changes the settings of the namespaces, which are the same. A namespace that keeps no history any more loses the
    /// histories that it has: later publications would be missing in them.
    pub fn set_namespaces(&mut self, namespaces: Arc<Namespaces>) {
        for (_, topic) in &mut self.topics {
            let Some(kept) = topic.kept.as_mut().filter(|_| namespaces.get(topic.namespace).history_size == 0) else {
                continue;
            };
            self.history_bytes -= kept.history.bytes();
            kept.history = History::default();
        }
        self.namespaces = namespaces;
        // Values may expire earlier now.
        let keyed = self.topics.iter().filter(|(_, topic)| topic.kept.as_ref().is_some_and(|kept| kept.keys() > 0));
        let keyed: Vec<HomeId> = keyed.map(|(index, _)| HomeId(index as u32)).collect();
        keyed.into_iter().for_each(|id| self.schedule_expiry(id));
    }

    /// Has pages of states hold at most this many publications.
    pub fn limit_pages(&mut self, page_keys: usize) {
        self.page_keys = page_keys;
    }

    /// Sends events of topics to `events`.
    pub fn report_to(&mut self, events: Option<Arc<dyn EventSink>>) {
        self.events = events;
    }

    /// Assigns the position of the next publication of `topic`. [`record`](Self::record) it then.
    ///
    /// # Errors
    /// [`PublishError::TooManyTopics`], [`PublishError::TooManyKeys`], [`PublishError::UnknownNamespace`], and those of
    /// keyed topics; the home is unchanged.
    pub fn sequence(&mut self, draft: &mut Draft, now_ms: u64) -> Result<Sequenced, PublishError> {
        let repeat = draft.idempotency_key.take().map(|key| Repeat { topic: draft.topic.clone(), key });
        if let Some(repeat) = &repeat {
            if let Some(position) = self.repeats.find(repeat, now_ms) {
                return Ok(Sequenced::Repeated(position));
            }
            if !self.repeats.make_room(repeat, now_ms) {
                return Err(PublishError::TooManyKeys);
            }
        }
        let id = self.find_to_publish(draft)?;
        let entry = &mut self.topics[id.0 as usize];
        self.published += usize::from(!entry.is_published());
        entry.position.offset += 1;
        entry.published_ms = now_ms;
        let position = entry.position;
        if let Some(repeat) = repeat {
            // The topic's own name, to keep its text once.
            let repeat = Repeat { topic: entry.name.clone(), ..repeat };
            self.repeats.insert(repeat, position, now_ms);
        }
        Ok(Sequenced::New(id, position))
    }

    /// Whether the position of a topic is known. Always, unless a log assigns it.
    pub fn is_settled(&self, topic: &TopicName) -> bool {
        self.log_bucket(topic).is_none_or(|bucket| bucket.is_settled)
    }

    /// The bucket of the log that assigns a topic's offsets; `None` if this home does.
    fn log_bucket(&self, topic: &TopicName) -> Option<&LogBucket> {
        let buckets = self.log.len() as u16;
        (buckets > 0 && !topic.is_system()).then(|| &self.log[usize::from(bucket_of(topic, buckets))])
    }

    /// Whether a subscriber knows more of a topic than this home has read of the log.
    pub fn is_ahead(&self, topic: &TopicName, catch_up: CatchUp) -> bool {
        let unpublished = || Position { epoch: self.epoch(topic), offset: 0 };
        let top = self.find(topic).map_or_else(unpublished, |id| self.topics[id.0 as usize].position);
        self.log_bucket(topic).is_some() && catch_up.is_ahead_of(top)
    }

    /// Takes over the position of the next publication of `topic` from the log. [`record`](Self::record) it then.
    ///
    /// # Errors
    /// [`PublishError::UnknownNamespace`]; the home is unchanged.
    pub fn place(&mut self, topic: &TopicName, position: Position) -> Result<HomeId, PublishError> {
        let id = self.find(topic).map_or_else(|| self.make(topic), Ok)?;
        let entry = &mut self.topics[id.0 as usize];
        self.published += usize::from(!entry.is_published());
        entry.position = position;
        Ok(id)
    }

    /// Takes over from the log from what the epochs of topics without publications are made.
    pub fn set_lineage(&mut self, bucket: u16, lineage: u64) {
        if let Some(bucket) = self.log.get_mut(usize::from(bucket)) {
            bucket.lineage = Some(lineage);
        }
    }

    /// The positions in a bucket are unknown from now on.
    pub fn unsettle(&mut self, bucket: u16) {
        self.set_settled(bucket, false);
    }

    /// The positions in a bucket are those of the log's end from now on: clients may subscribe.
    pub fn settle(&mut self, bucket: u16) {
        self.set_settled(bucket, true);
    }

    fn set_settled(&mut self, bucket: u16, is_settled: bool) {
        if let Some(bucket) = self.log.get_mut(usize::from(bucket)) {
            bucket.is_settled = is_settled;
        }
    }

    /// Takes over all positions in a bucket: those of `positions`, and none for its other topics. A history stays where
    /// the position has not changed. Returns the topics with subscribers. The bucket stays settled if it was.
    pub fn rebase<'a>(
        &mut self,
        bucket: u16,
        lineage: u64,
        positions: impl Iterator<Item = &'a (TopicName, Position)>,
    ) -> Vec<HomeId> {
        self.set_lineage(bucket, lineage);
        let buckets = self.log.len() as u16;
        let is_in_bucket = |topic: &TopicName| !topic.is_system() && bucket_of(topic, buckets) == bucket;
        let known: HashMap<&TopicName, Position> = positions.map(|(topic, position)| (topic, *position)).collect();
        let mut subscribed = Vec::new();
        for (index, topic) in self.topics.iter_mut().filter(|(_, topic)| is_in_bucket(&topic.name)) {
            let unpublished = || Position { epoch: epoch_of(&topic.name, lineage), offset: 0 };
            let position = known.get(&topic.name).copied().unwrap_or_else(unpublished);
            if position != topic.position
                && let Some(kept) = &mut topic.kept
            {
                self.history_bytes -= kept.history.bytes();
                kept.history = History::default();
            }
            self.published -= usize::from(topic.is_published());
            topic.position = position;
            self.published += usize::from(topic.is_published());
            if !topic.shards.is_empty() {
                subscribed.push(HomeId(index as u32));
            } else if topic.is_unused() {
                self.unused.push(HomeId(index as u32));
            }
        }
        for (topic, position) in known {
            // A topic of a namespace that this node does not know can't have subscribers here.
            let _ = self.place(topic, position);
        }
        subscribed
    }

    /// The log has forgotten a topic: its next publication begins another epoch.
    pub fn evict(&mut self, topic: &TopicName) {
        let Some(id) = self.find(topic) else { return };
        self.remove_history(topic);
        let epoch = self.epoch(topic);
        let topic = &mut self.topics[id.0 as usize];
        self.published -= usize::from(topic.is_published());
        topic.position = Position { epoch, offset: 0 };
        if topic.is_unused() {
            self.unused.push(id);
        }
    }

    /// The name of a topic.
    pub fn name(&self, id: HomeId) -> &TopicName {
        &self.topics[id.0 as usize].name
    }

    fn find_to_publish(&mut self, draft: &Draft) -> Result<HomeId, PublishError> {
        let topic = &draft.topic;
        let known = self.find(topic);
        self.check_state(known, draft)?;
        let has_place = known.is_some_and(|id| self.topics[id.0 as usize].is_published());
        if !has_place && self.published == HOME_TOPICS_MAX {
            return Err(PublishError::TooManyTopics);
        }
        known.map_or_else(|| self.make(topic), Ok)
    }

    /// Whether a publication can change the state of its topic.
    fn check_state(&self, known: Option<HomeId>, draft: &Draft) -> Result<(), PublishError> {
        let topic = known.map(|id| &self.topics[id.0 as usize]);
        let namespace = match topic {
            Some(topic) => topic.namespace,
            None => self.namespaces.find(&draft.topic).map_err(|_| PublishError::UnknownNamespace)?,
        };
        let namespace = self.namespaces.get(namespace);
        if !namespace.keyed {
            let is_change = draft.removes || draft.condition != Condition::None;
            return if is_change { Err(PublishError::NotKeyed) } else { Ok(()) };
        }
        let state = topic.and_then(|topic| topic.kept.as_ref()?.state.as_deref());
        State::check(state, draft, namespace)?;
        let has_room = self.state_bytes + draft.bytes() <= HOME_STATE_BYTES_MAX;
        if draft.removes || has_room { Ok(()) } else { Err(PublishError::StateFull) }
    }

    /// Changes the state of a keyed topic by a publication that [`sequence`](Self::sequence) has positioned.
    pub fn apply(&mut self, id: HomeId, body: &Arc<Body>) {
        let topic = &mut self.topics[id.0 as usize];
        let namespace = self.namespaces.get(topic.namespace);
        let state = &mut topic.kept.get_or_insert_default().state;
        let state = state.get_or_insert_with(|| Box::new(State::new(body.position.offset - 1)));
        let (keys, bytes) = (state.keys(), state.bytes());
        state.apply(body, namespace);
        self.state_keys = self.state_keys - keys + state.keys();
        self.state_bytes = self.state_bytes - bytes + state.bytes();
        if !state.is_scheduled {
            self.schedule_expiry(id);
        }
    }

    /// Notes when the oldest value of a topic expires, if it does.
    fn schedule_expiry(&mut self, id: HomeId) {
        let topic = &mut self.topics[id.0 as usize];
        let ttl_ms = self.namespaces.get(topic.namespace).value_ttl_ms;
        let Some(state) = topic.kept.as_mut().and_then(|kept| kept.state.as_mut()) else { return };
        let oldest = state.oldest().filter(|_| ttl_ms > 0);
        // With ticks as timers have them, so that many leave in one turn.
        let expiry = oldest.map(|body| body.time_ms.saturating_add(ttl_ms).next_multiple_of(TICK_MS));
        state.is_scheduled = expiry.is_some();
        self.expiries.extend(expiry.map(|expiry_ms| (expiry_ms, id)));
    }

    /// When the next value may expire, in milliseconds of Unix time.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.expiries.first().map(|(expiry_ms, _)| *expiry_ms)
    }

    /// The removal of a value that has expired, to be published before the next call.
    pub fn next_expired(&mut self, now_ms: u64) -> Option<Draft> {
        while let Some((expiry_ms, id)) = self.expiries.first().copied().filter(|(expiry_ms, _)| *expiry_ms <= now_ms) {
            let topic = &self.topics[id.0 as usize];
            let ttl_ms = self.namespaces.get(topic.namespace).value_ttl_ms;
            let oldest = topic.kept.as_ref().and_then(|kept| kept.state.as_ref()?.oldest());
            let expired = oldest.filter(|body| ttl_ms > 0 && body.time_ms.saturating_add(ttl_ms) <= now_ms);
            if let Some(body) = expired {
                let key = body.key.as_deref().unwrap_or_default();
                return Some(Draft {
                    condition: Condition::At(body.position),
                    ..Draft::remove(topic.name.clone(), key)
                });
            }
            self.expiries.remove(&(expiry_ms, id));
            self.schedule_expiry(id);
        }
        None
    }

    /// Adds a publication that [`sequence`](Self::sequence) has positioned to the history, if its namespace has one.
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

    /// A topic that somebody subscribes to. Without [`add_interest`](Self::add_interest) it is valid for this turn.
    ///
    /// # Errors
    /// [`PublishError::UnknownNamespace`].
    pub fn find_or_make(&mut self, topic: &TopicName) -> Result<HomeId, PublishError> {
        self.find(topic).map_or_else(|| self.make(topic), Ok)
    }

    /// Records that `shard` has subscribers of `topic`, and receives its publications.
    ///
    /// The number of topics needs no limit here: each shard limits its topics with subscribers.
    ///
    /// # Errors
    /// [`PublishError::UnknownNamespace`].
    pub fn add_interest(&mut self, topic: &TopicName, shard: u16) -> Result<HomeId, PublishError> {
        let id = self.find_or_make(topic)?;
        let shards = &mut self.topics[id.0 as usize].shards;
        if let Err(index) = shards.binary_search(&shard) {
            shards.insert(index, shard);
            self.occupied += usize::from(shards.len() == 1);
            if let Some(events) = self.events.as_ref().filter(|_| shards.len() == 1) {
                events.take(Event::Occupied(topic.clone()));
            }
        }
        Ok(id)
    }

    /// Records that `shard` has no more subscribers of `topic`.
    pub fn remove_interest(&mut self, topic: &TopicName, shard: u16) {
        let Some(id) = self.find(topic) else { return };
        let topic = &mut self.topics[id.0 as usize];
        let before = topic.shards.len();
        topic.shards.retain(|other| *other != shard);
        self.occupied -= usize::from(before == 1 && topic.shards.is_empty());
        if let Some(events) = self.events.as_ref().filter(|_| before == 1 && topic.shards.is_empty()) {
            events.take(Event::Vacated(topic.name.clone()));
        }
        if topic.shards.is_empty()
            && let Some(kept) = &mut topic.kept
        {
            // All leaves arrive before this. If one were missing, its client would stay present until the server stops.
            kept.present.clear();
        }
        if topic.is_unused() {
            self.unused.push(id);
        }
    }

    /// Forgets topics without subscribers and publications. Call it once per turn: ids are valid until then.
    pub fn forget_unused(&mut self) {
        while let Some(id) = self.unused.pop() {
            // The topic may have a subscriber again, or be in the list twice.
            if self.topics.get(id.0 as usize).is_some_and(Topic::is_unused) {
                self.forget(id.0 as usize);
            }
        }
        self.unused = Vec::new();
    }

    fn forget(&mut self, index: usize) {
        self.forget_state(index);
        let topic = self.topics.remove(index);
        self.ids.remove(&topic.name);
        if topic.is_published() {
            self.published -= 1;
            let OwnEpochs { seed, forgotten } = &mut self.own_epochs;
            let number = epoch_number(*seed, &topic.name);
            let times = &mut forgotten[number as usize % EPOCH_NUMBERS];
            *times = times.wrapping_add(1);
        }
    }

    /// Forgets the state of a topic. Its readers begin anew.
    fn forget_state(&mut self, index: usize) {
        let id = HomeId(index as u32);
        let state = self.topics[index].kept.as_mut().and_then(|kept| kept.state.take());
        let Some(state) = state else { return };
        self.state_keys -= state.keys();
        self.state_bytes -= state.bytes();
        if state.is_scheduled {
            self.expiries.retain(|(_, other)| *other != id);
        }
    }

    /// The next page of the state of a keyed topic for a subscriber with this request, and whether it was made for
    /// this one; `None` if the topic is not keyed, or the subscriber does not read the state.
    pub fn state_page(&mut self, id: HomeId, catch_up: CatchUp, now_ms: u64) -> Option<(Arc<StatePage>, bool)> {
        let topic = &mut self.topics[id.0 as usize];
        if !self.namespaces.get(topic.namespace).keyed {
            return None;
        }
        let from = match catch_up {
            CatchUp::State(from) => from,
            CatchUp::Since { epoch, offset } => {
                let position = Position { epoch: epoch.unwrap_or(topic.position.epoch), offset };
                Some(StateCursor { position, began: 0 })
            }
            CatchUp::None | CatchUp::Last(_) | CatchUp::Newest { .. } => return None,
        };
        Some(match topic.kept.as_mut().and_then(|kept| kept.state.as_mut()) {
            Some(state) => state.page(from, topic.position, self.page_keys, now_ms),
            None => State::new(topic.position.offset).page(from, topic.position, self.page_keys, now_ms),
        })
    }

    /// A page of a keyed topic's state; `None` if the topic is not keyed.
    pub fn state(&self, topic: &TopicName, query: &StateQuery) -> Option<StatePage> {
        if !self.namespaces.is_keyed(topic) {
            return None;
        }
        let found = self.find(topic).map(|id| &self.topics[id.0 as usize]);
        let position = found.map_or(Position { epoch: self.epoch(topic), offset: 0 }, |topic| topic.position);
        let state = found.and_then(|topic| topic.kept.as_ref()?.state.as_ref());
        Some(match state {
            Some(state) => state.query(query, position),
            None => State::new(position.offset).query(query, position),
        })
    }

    /// The value of a key of a keyed topic.
    pub fn value(&self, topic: &TopicName, key: &str) -> Option<&Arc<Body>> {
        let topic = &self.topics[self.find(topic)?.0 as usize];
        topic.kept.as_ref()?.state.as_ref()?.value(key)
    }

    /// Number of values of all keyed topics.
    pub fn state_keys(&self) -> usize {
        self.state_keys
    }

    /// Bytes of all states.
    pub fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    /// All values of all keyed topics, for checks.
    #[cfg(feature = "sim")]
    pub fn values(&self) -> impl Iterator<Item = (&TopicName, Vec<Arc<Body>>)> {
        self.topics.iter().filter_map(|(_, topic)| {
            let state = topic.kept.as_ref()?.state.as_ref()?;
            Some((&topic.name, state.values().cloned().collect()))
        })
    }

    /// The position of a topic, and the publications that a new subscriber has missed.
    pub fn catch_up(&mut self, id: HomeId, catch_up: CatchUp, now_ms: u64) -> (Position, Recovery) {
        self.expire(id.0 as usize, now_ms);
        let topic = &self.topics[id.0 as usize];
        // At most a subscriber's backlog is sent at once. The subscriber's shard knows the encoded size and its other
        // topics, and limits further.
        let bytes_max = self.namespaces.get(topic.namespace).outbox_bytes_max;
        let recovery = match &topic.kept {
            Some(kept) => kept.history.recover(catch_up, topic.position, bytes_max),
            None => History::default().recover(catch_up, topic.position, bytes_max),
        };
        (topic.position, recovery)
    }

    /// A page of a topic's history and its position; `None` if the topic is unknown.
    pub fn history(&mut self, topic: &TopicName, query: &HistoryQuery, now_ms: u64) -> Option<HistoryPage> {
        let id = self.find(topic)?;
        self.expire(id.0 as usize, now_ms);
        let topic = &self.topics[id.0 as usize];
        Some(match &topic.kept {
            Some(kept) => kept.history.page(query, topic.position),
            None => History::default().page(query, topic.position),
        })
    }

    /// Drops expired publications of a topic, and empty retained state.
    fn expire(&mut self, index: usize, now_ms: u64) {
        let topic = &mut self.topics[index];
        let is_idle = now_ms >= topic.published_ms.saturating_add(TOPIC_IDLE_MS);
        if let Some(state) = topic.kept.as_mut().and_then(|kept| kept.state.as_mut()) {
            state.forget_pages(now_ms);
            if state.keys() == 0 && is_idle {
                self.forget_state(index);
            }
        }
        let topic = &mut self.topics[index];
        let Some(kept) = &mut topic.kept else { return };
        self.history_bytes -= kept.history.bytes();
        kept.history.expire(self.namespaces.get(topic.namespace), now_ms);
        self.history_bytes += kept.history.bytes();
        if kept.is_empty() {
            topic.kept = None;
        }
    }

    /// Removes the history of a topic. Offsets continue.
    pub fn remove_history(&mut self, topic: &TopicName) {
        let Some(id) = self.find(topic) else { return };
        if let Some(kept) = &mut self.topics[id.0 as usize].kept {
            self.history_bytes -= kept.history.bytes();
            kept.history = History::default();
        }
    }

    /// Adds a join. Returns whether the client is newly present: the caller then pushes the join if its namespace wants
    /// that.
    ///
    /// A topic remembers [`PRESENCE_MAX`] clients. Further clients subscribe as usual, but the topic neither remembers
    /// nor pushes their joins and leaves.
    pub fn add_presence(&mut self, id: HomeId, presence: &Presence) -> bool {
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
        if let Some(events) = &self.events {
            events.take(Event::MemberAdded(topic.name.clone(), info.clone()));
        }
        true
    }

    /// Ends a join. Returns the topic if it was the last join of a present client.
    pub fn remove_presence(&mut self, topic: &TopicName, presence: &Presence) -> Option<HomeId> {
        let id = self.find(topic)?;
        let present = &mut self.topics[id.0 as usize].kept.as_mut()?.present;
        let client = present.get_mut(&presence.info.client)?;
        client.joins.retain(|join| *join != presence.join);
        if !client.joins.is_empty() {
            return None;
        }
        present.remove(&presence.info.client);
        if let Some(events) = &self.events {
            events.take(Event::MemberRemoved(topic.clone(), presence.info.clone()));
        }
        Some(id)
    }

    /// The present clients of a topic, in no order; none if its namespace has no presence.
    pub fn presence(&self, topic: &TopicName) -> Vec<Arc<ClientInfo>> {
        let topic = self.find(topic).map(|id| &self.topics[id.0 as usize]);
        let kept = topic.filter(|topic| self.has_presence(topic)).and_then(|topic| topic.kept.as_ref());
        kept.map(|kept| kept.present.values().map(|client| client.info.clone()).collect()).unwrap_or_default()
    }

    fn has_presence(&self, topic: &Topic) -> bool {
        self.namespaces.get(topic.namespace).presence
    }

    /// All remembered joins of all topics, for checks.
    #[cfg(feature = "sim")]
    pub fn joins(&self) -> impl Iterator<Item = (&TopicName, JoinId)> {
        self.topics.iter().flat_map(|(_, topic)| {
            let present = topic.kept.iter().flat_map(|kept| kept.present.values());
            present.flat_map(|client| client.joins.iter().map(|join| (&topic.name, *join)))
        })
    }

    /// The namespace of a topic.
    pub fn namespace_id(&self, id: HomeId) -> NamespaceId {
        self.topics[id.0 as usize].namespace
    }

    /// The settings of a topic.
    pub fn namespace(&self, id: HomeId) -> &Namespace {
        self.namespaces.get(self.topics[id.0 as usize].namespace)
    }

    /// The next part of the list of topics, after a bounded number of steps.
    pub fn list(&self, query: &TopicsQuery) -> TopicsPage {
        let (mut topics, mut visits) = (Vec::new(), 0);
        for index in query.from..self.topics.capacity() {
            if topics.len() >= query.limit || visits >= LIST_VISITS {
                return TopicsPage { topics, next: Some(index) };
            }
            visits += 1;
            let Some(topic) = self.topics.get(index).filter(|topic| topic.is_listed()) else { continue };
            let is_wanted = query.pattern.as_ref().is_none_or(|pattern| {
                visits += pattern.visits(&topic.name);
                pattern.matches(topic.name.as_str())
            });
            if is_wanted {
                topics.push(topic.summary());
            }
        }
        TopicsPage { topics, next: None }
    }

    /// What the home knows of a topic; `None` if the topic is unknown.
    pub fn summary(&self, topic: &TopicName) -> Option<TopicSummary> {
        self.find(topic).map(|id| self.topics[id.0 as usize].summary())
    }

    /// Sweeps the next topics, and all of them in [`SWEEP_TURNS`] calls: drops expired publications, and forgets topics
    /// that were idle for [`TOPIC_IDLE_MS`]. It only releases memory; reads never depend on it.
    pub fn sweep(&mut self, now_ms: u64) {
        self.repeats.forget(now_ms, SWEEP_KEYS);
        let count = SWEEP_TOPICS.max(self.topics.capacity() / SWEEP_TURNS);
        let end = (self.sweep_next + count).min(self.topics.capacity());
        for index in self.sweep_next..end {
            if !self.topics.contains(index) {
                continue;
            }
            self.expire(index, now_ms);
            let topic = &self.topics[index];
            let is_mine = self.log_bucket(&topic.name).is_none();
            let is_idle = is_mine && now_ms >= topic.published_ms.saturating_add(TOPIC_IDLE_MS);
            if topic.is_unused() || is_idle && topic.shards.is_empty() && topic.kept.is_none() {
                self.forget(index);
            }
        }
        self.sweep_next = end;
        if end == self.topics.capacity() {
            self.sweep_next = 0;
            self.shrink();
        }
    }

    /// Releases the memory of tables that were once much larger.
    fn shrink(&mut self) {
        if self.topics.capacity() > SWEEP_TOPICS + 8 * self.topics.len() {
            self.topics.shrink_to_fit();
            self.ids.shrink_to(2 * self.ids.len());
        }
    }

    /// Number of topics.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Number of topics with subscribers.
    pub fn occupied(&self) -> usize {
        self.occupied
    }

    /// Number of topics without publications.
    pub fn unpublished(&self) -> usize {
        self.topics.len() - self.published
    }

    /// Number of remembered idempotency keys.
    pub fn idempotency_keys(&self) -> usize {
        self.repeats.len()
    }

    /// Whether there are no topics.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Payload bytes of all histories.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// The topic, if it is here.
    pub fn find(&self, topic: &TopicName) -> Option<HomeId> {
        self.ids.get(topic).copied()
    }

    /// Makes a topic.
    fn make(&mut self, topic: &TopicName) -> Result<HomeId, PublishError> {
        let namespace = self.namespaces.find(topic).map_err(|_| PublishError::UnknownNamespace)?;
        let position = Position { epoch: self.epoch(topic), offset: 0 };
        let id = HomeId(self.topics.insert(Topic {
            name: topic.clone(),
            namespace,
            position,
            published_ms: 0,
            shards: SmallVec::new(),
            kept: None,
        }) as u32);
        self.ids.insert(topic.clone(), id);
        Ok(id)
    }

    /// The epoch of a new topic: another one than when it had publications, so that its offsets do not seem to
    /// continue; but the same as when it had none, so a client may keep that position.
    fn epoch(&self, topic: &TopicName) -> Epoch {
        if let Some(bucket) = self.log_bucket(topic) {
            // Nobody receives the position of a topic while it is unknown.
            return bucket.lineage.map_or(Epoch::NEVER, |lineage| epoch_of(topic, lineage));
        }
        let OwnEpochs { seed, forgotten } = &self.own_epochs;
        let number = epoch_number(*seed, topic);
        let mut hasher = DefaultHasher::new();
        (number, forgotten[number as usize % EPOCH_NUMBERS]).hash(&mut hasher);
        Epoch::new(hasher.finish())
    }
}

fn epoch_number(seed: u64, topic: &TopicName) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, topic).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::TopicPattern;
    use super::super::testing::body;
    use super::*;
    use crate::limits::{IDEMPOTENCY_TTL_MS, TOPIC_PATTERN_BYTES_MAX};

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    fn home(namespace: Namespace) -> Home {
        Home::new(5, Arc::new(Namespaces::new(namespace, Vec::new())))
    }

    fn with_key(topic: &str, idempotency_key: Option<Box<str>>) -> Draft {
        Draft { idempotency_key, ..Draft::new(name(topic), true, Bytes::new()) }
    }

    fn publish(home: &mut Home, topic: &str, now_ms: u64) -> Position {
        match home.sequence(&mut with_key(topic, None), now_ms).unwrap() {
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
        assert!(home.history_bytes() == 0, "there is no history by default");
    }

    #[test]
    fn a_repeated_publication_keeps_its_position_until_its_key_expires() {
        let mut home = home(Namespace::default());
        let key = || Some("k".into());
        let Ok(Sequenced::New(_, first)) = home.sequence(&mut with_key("a", key()), 0) else { panic!() };
        assert_eq!(home.sequence(&mut with_key("a", key()), IDEMPOTENCY_TTL_MS - 1), Ok(Sequenced::Repeated(first)));
        assert!(
            matches!(home.sequence(&mut with_key("b", key()), 1), Ok(Sequenced::New(..))),
            "each topic has its own keys"
        );
        let Ok(Sequenced::New(_, second)) = home.sequence(&mut with_key("a", key()), IDEMPOTENCY_TTL_MS) else {
            panic!()
        };
        assert_eq!((first.offset, second.offset), (1, 2));
    }

    #[test]
    fn each_shard_with_subscribers_is_listed_once() {
        let mut home = home(Namespace::default());
        let id = home.add_interest(&name("a"), 3).unwrap();
        for shard in [1, 3, 2] {
            home.add_interest(&name("a"), shard).unwrap();
        }
        assert_eq!(home.shards(id), [1, 2, 3]);
        home.remove_interest(&name("a"), 2);
        home.remove_interest(&name("b"), 1);
        assert_eq!(home.shards(id), [1, 3]);
    }

    #[test]
    fn an_idle_topic_is_forgotten_and_gets_another_epoch() {
        let mut home = home(Namespace { history_size: 1, history_ttl_ms: 10, ..Namespace::default() });
        let first = publish(&mut home, "a", 0);
        home.add_interest(&name("kept"), 0).unwrap();
        home.sweep(TOPIC_IDLE_MS - 1);
        assert_eq!((home.len(), home.history_bytes()), (2, 0), "the publication is too old, the topic is not");
        home.sweep(TOPIC_IDLE_MS);
        assert_eq!(home.len(), 1, "a topic with subscribers stays");
        let second = publish(&mut home, "a", TOPIC_IDLE_MS);
        assert_eq!((first.offset, second.offset), (1, 1));
        assert_ne!(first.epoch, second.epoch);
    }

    /// Adds and removes a subscriber of a topic; returns its position in between.
    fn visit(home: &mut Home, topic: &TopicName) -> Position {
        let id = home.add_interest(topic, 0).unwrap();
        let (position, _) = home.catch_up(id, CatchUp::None, 0);
        home.remove_interest(topic, 0);
        home.forget_unused();
        position
    }

    #[test]
    fn topics_without_publications_are_forgotten_and_keep_their_epoch() {
        let mut home = home(Namespace { presence: true, ..Namespace::default() });
        let first = visit(&mut home, &name("a"));
        assert_eq!((home.len(), visit(&mut home, &name("a"))), (0, first));
        assert_ne!(visit(&mut home, &name("b")).epoch, first.epoch);
        // A client with this epoch may recover in it.
        assert_eq!(publish(&mut home, "a", 0), Position { offset: 1, ..first });
        assert_eq!(visit(&mut home, &name("a")).offset, 1, "with publications it stays");
        home.sweep(TOPIC_IDLE_MS);
        assert_eq!(home.len(), 0);
        assert_ne!(visit(&mut home, &name("a")).epoch, first.epoch);

        let id = home.add_interest(&name("a"), 1).unwrap();
        home.remove_interest(&name("a"), 1);
        home.remove_interest(&name("a"), 1);
        home.add_interest(&name("a"), 2).unwrap();
        home.forget_unused();
        assert_eq!(home.shards(id), [2], "it has a subscriber again");
        home.add_presence(id, &join("x", 1));
        home.remove_interest(&name("a"), 2);
        home.forget_unused();
        assert_eq!((home.len(), home.unpublished()), (0, 0), "no subscribers, no presence");
    }

    #[test]
    fn topics_with_subscribers_do_not_block_publications() {
        const COUNT: usize = 50_000;
        let mut home = home(Namespace::default());
        home.published = HOME_TOPICS_MAX - 2;
        for number in 0..COUNT {
            home.add_interest(&name(&format!("t{number}")), 0).unwrap();
        }
        publish(&mut home, "t7", 0);
        publish(&mut home, "new", 0);
        assert_eq!(home.sequence(&mut with_key("t8", None), 0), Err(PublishError::TooManyTopics));
        home.published -= HOME_TOPICS_MAX - 2;
        assert_eq!((home.len(), home.unpublished()), (COUNT + 1, COUNT - 1));
        for number in 0..COUNT {
            home.remove_interest(&name(&format!("t{number}")), 0);
        }
        home.forget_unused();
        assert_eq!((home.len(), home.unpublished()), (2, 0));
        (0..=SWEEP_TURNS).for_each(|_| home.sweep(TOPIC_IDLE_MS - 1));
        assert!(home.ids.capacity() < 100, "memory is released");
        (0..=2 * SWEEP_TURNS).for_each(|_| home.sweep(TOPIC_IDLE_MS));
        assert!(home.is_empty() && home.topics.capacity() < 100);
    }

    #[test]
    fn topics_with_publications_have_their_own_limit() {
        let mut home = home(Namespace::default());
        home.published = HOME_TOPICS_MAX - 1;
        home.add_interest(&name("unpublished"), 0).unwrap();
        publish(&mut home, "last", 0);
        for topic in ["new", "unpublished"] {
            assert_eq!(home.sequence(&mut with_key(topic, None), 0), Err(PublishError::TooManyTopics));
        }
        publish(&mut home, "last", 0);
        home.add_interest(&name("other"), 0).unwrap();
        assert_eq!(home.len(), 3);
    }

    #[test]
    fn the_sweep_covers_all_topics_in_its_turns() {
        let mut home = home(Namespace::default());
        let count = 2 * SWEEP_TURNS * SWEEP_TOPICS;
        for number in 0..count {
            publish(&mut home, &format!("t{number}"), 0);
        }
        (0..=SWEEP_TURNS).for_each(|_| home.sweep(TOPIC_IDLE_MS));
        assert_eq!(home.len(), 0);
    }

    #[test]
    fn a_publication_is_rejected_when_its_key_does_not_fit() {
        let mut home = home(Namespace::default());
        let key = |number: usize| Some(format!("{number:0255}").into_boxed_str());
        let Ok(Sequenced::New(_, first)) = home.sequence(&mut with_key("a", key(0)), 0) else { panic!() };
        let refused = (1..).map(|number| home.sequence(&mut with_key("a", key(number)), 1)).find_map(Result::err);
        assert_eq!(refused, Some(PublishError::TooManyKeys));
        let count = home.idempotency_keys();
        assert!(count > 200_000, "{count} keys of the greatest length");
        assert_eq!(
            home.sequence(&mut with_key("a", key(0)), 2),
            Ok(Sequenced::Repeated(first)),
            "no key is forgotten early"
        );
        assert!(home.sequence(&mut with_key("a", None), 2).is_ok(), "others need no key");
        assert!(home.sequence(&mut with_key("a", key(count)), IDEMPOTENCY_TTL_MS + 1).is_ok(), "there is room again");
    }

    #[test]
    fn presence_lists_each_client_once() {
        let mut home = home(Namespace { presence: true, ..Namespace::default() });
        let id = home.add_interest(&name("a"), 0).unwrap();
        assert!(home.add_presence(id, &join("x", 1)) && home.add_presence(id, &join("y", 2)));
        assert_eq!((home.summary(&name("a")).unwrap().present, home.occupied()), (2, 1));
        assert_eq!(home.remove_presence(&name("a"), &join("x", 1)), Some(id));
        assert_eq!(home.remove_presence(&name("a"), &join("nobody", 3)), None);
        assert_eq!(home.presence(&name("a")), [join("y", 2).info]);
        assert_eq!(home.presence(&name("b")), []);
    }

    fn join(client: &str, count: u64) -> Presence {
        let info = Arc::new(ClientInfo { client: client.into(), ..ClientInfo::default() });
        Presence { join: JoinId::new(0, count), info }
    }

    #[test]
    fn a_leave_ends_only_its_own_join() {
        let mut home = home(Namespace { presence: true, ..Namespace::default() });
        let id = home.add_interest(&name("a"), 0).unwrap();
        assert!(
            home.add_presence(id, &join("x", 1)) && !home.add_presence(id, &join("x", 2)),
            "one client, newly present once"
        );
        assert_eq!(home.remove_presence(&name("a"), &join("x", 1)), None, "its second join goes on");
        assert_eq!(home.remove_presence(&name("a"), &join("x", 1)), None);
        assert_eq!(home.presence(&name("a")), [join("x", 2).info]);
        assert_eq!(home.remove_presence(&name("a"), &join("x", 2)), Some(id));
        assert_eq!(home.presence(&name("a")), []);
    }

    #[test]
    fn clients_past_the_limit_neither_join_nor_leave() {
        let mut home = home(Namespace { presence: true, join_leave: true, ..Namespace::default() });
        let id = home.add_interest(&name("a"), 0).unwrap();
        for count in 0..PRESENCE_MAX as u64 {
            assert!(home.add_presence(id, &join(&count.to_string(), count)));
        }
        assert!(!home.add_presence(id, &join("late", 1 << 20)));
        assert_eq!(home.remove_presence(&name("a"), &join("5", 5)), Some(id));
        assert!(home.add_presence(id, &join("late", 1 << 21)), "there is room for its second join");
        assert_eq!(home.remove_presence(&name("a"), &join("late", 1 << 20)), None, "the first one was not remembered");
        assert_eq!(home.presence(&name("a")).len(), PRESENCE_MAX);
        assert_eq!(home.remove_presence(&name("a"), &join("late", 1 << 21)), Some(id));
    }

    #[test]
    fn joins_and_leaves_alternate_also_without_presence() {
        let mut home = home(Namespace { join_leave: true, ..Namespace::default() });
        let id = home.add_interest(&name("a"), 0).unwrap();
        assert!(home.add_presence(id, &join("x", 1)) && !home.add_presence(id, &join("x", 2)));
        assert_eq!(home.presence(&name("a")), []);
        assert_eq!(home.remove_presence(&name("a"), &join("x", 1)), None);
        assert_eq!(home.remove_presence(&name("a"), &join("x", 2)), Some(id));
    }

    #[test]
    fn a_topic_without_subscribers_has_no_presence_and_is_forgotten() {
        let mut home = home(Namespace { presence: true, ..Namespace::default() });
        let id = home.add_interest(&name("a"), 0).unwrap();
        home.add_presence(id, &join("x", 1));
        home.remove_interest(&name("a"), 0);
        assert_eq!(home.presence(&name("a")), []);
        home.sweep(TOPIC_IDLE_MS);
        assert_eq!(home.len(), 0);
    }

    #[test]
    fn positions_come_from_the_log() {
        let namespace = Namespace { history_size: 10, ..Namespace::default() };
        let mut home = Home::following(1, 7, Arc::new(Namespaces::new(namespace, Vec::new())));
        let (a, b) = (name("a"), name("b"));
        assert!(!home.is_settled(&a));
        assert_eq!(home.rebase(0, 5, [].iter()), []);
        assert!(!home.is_settled(&a), "the log may go on");
        home.settle(0);
        assert!(home.is_settled(&a));
        let id = home.add_interest(&a, 0).unwrap();
        let at = |topic: &TopicName, lineage, offset| Position { epoch: epoch_of(topic, lineage), offset };
        let position = |home: &mut Home, id| home.catch_up(id, CatchUp::Last(10), 0);
        assert_eq!(position(&mut home, id).0, at(&a, 5, 0));
        for offset in 1..4 {
            assert_eq!(home.place(&a, at(&a, 5, offset)), Ok(id));
            home.record(id, &body("a", at(&a, 5, offset), 0, b"x"));
        }
        home.place(&b, at(&b, 5, 1)).unwrap();
        (0..=SWEEP_TURNS).for_each(|_| home.sweep(2 * TOPIC_IDLE_MS));
        assert_eq!((home.len(), home.history_bytes()), (2, 3), "no clock of this node forgets a topic");

        // A peer's ledger: the same position of one topic, none of the other.
        assert_eq!(home.rebase(0, 6, [(a.clone(), at(&a, 5, 3))].iter()), [id]);
        let (top, recovery) = position(&mut home, id);
        assert_eq!(top, at(&a, 5, 3));
        assert!(matches!(recovery, Recovery::Recovered(missed) if missed.len() == 3));
        home.forget_unused();
        assert_eq!(home.len(), 1);
        // Another position: what came in between is unknown.
        home.rebase(0, 6, [(a.clone(), at(&a, 5, 5))].iter());
        assert!(matches!(position(&mut home, id), (_, Recovery::Recovered(missed)) if missed.is_empty()));

        home.evict(&a);
        assert_eq!((position(&mut home, id).0, home.unpublished()), (at(&a, 6, 0), 1));
        home.unsettle(0);
        assert!(!home.is_settled(&a));
    }

    /// The names in the pages of a list, and the number of pages.
    fn pages(home: &Home, limit: usize, pattern: Option<&str>) -> (Vec<String>, usize) {
        let pattern = pattern.map(|pattern| TopicPattern::new(pattern).unwrap());
        let (mut names, mut count, mut from) = (Vec::new(), 0, Some(0));
        while let Some(start) = from {
            let page = home.list(&TopicsQuery { from: start, limit, pattern: pattern.clone() });
            assert!(page.topics.len() <= limit);
            names.extend(page.topics.iter().map(|topic| topic.name.to_string()));
            (count, from) = (count + 1, page.next);
        }
        names.sort();
        (names, count)
    }

    #[test]
    fn the_topics_of_the_server_itself_are_not_of_the_log() {
        let stats = TopicName::new("$sys:stats").unwrap();
        let mut home = Home::following(1, 7, Arc::new(Namespaces::new(Namespace::default(), Vec::new())));
        assert!(home.is_settled(&stats) && !home.is_settled(&name("a")));
        let mut draft = Draft::new(stats.clone(), true, Bytes::new());
        let Ok(Sequenced::New(id, first)) = home.sequence(&mut draft, 0) else { panic!("it has a place") };
        home.add_interest(&stats, 0).unwrap();
        assert_eq!(home.rebase(0, 5, [].iter()), [], "its subscribers have missed nothing");
        let Ok(Sequenced::New(_, second)) = home.sequence(&mut draft, 0) else { panic!("it has a place") };
        assert_eq!((second.epoch, second.offset), (first.epoch, first.offset + 1));
        assert!(home.shards(id).contains(&0));
    }

    #[test]
    fn a_list_has_topics_with_subscribers_or_history_and_no_others() {
        let kept = vec![
            ("kept".to_owned(), Namespace { history_size: 2, ..Namespace::default() }),
            ("plain".to_owned(), Namespace::default()),
        ];
        let mut home = Home::new(5, Arc::new(Namespaces::new(Namespace::default(), kept)));
        for topic in ["kept:a", "plain:a", "$sys:stats"] {
            publish(&mut home, topic, 0);
        }
        home.add_interest(&name("b"), 1).unwrap();
        assert_eq!(pages(&home, 10, None).0, ["b", "kept:a"]);
        assert_eq!(pages(&home, 10, Some("kept:*")).0, ["kept:a"]);
        let summary = home.summary(&name("kept:a")).unwrap();
        assert_eq!((summary.history_len, summary.position.offset, summary.has_subscribers), (1, 1, false));
        home.remove_interest(&name("b"), 1);
        assert_eq!((pages(&home, 10, None).0, home.occupied()), (vec!["kept:a".to_owned()], 0));
    }

    #[test]
    fn a_page_is_a_bounded_part_of_the_list() {
        const COUNT: usize = 3 * LIST_VISITS;
        let mut home = home(Namespace::default());
        for number in 0..COUNT {
            home.add_interest(&name(&format!("t{number}")), 0).unwrap();
        }
        let (names, count) = pages(&home, usize::MAX, None);
        assert!((3..=5).contains(&count), "{count} pages");
        assert!(names.len() == COUNT && names.windows(2).all(|pair| pair[0] < pair[1]), "each is there once");
        assert_eq!(pages(&home, 7, Some("t1?")).0.len(), 10);
        // A pattern that tries each star at each place is worth many visits.
        let long = format!("{}b", "*a".repeat(TOPIC_PATTERN_BYTES_MAX / 2));
        home.add_interest(&name(&"a".repeat(255)), 0).unwrap();
        assert!(pages(&home, 7, Some(&long)).1 > 2 * count, "{}", pages(&home, 7, Some(&long)).1);
        // Topics that go while pages are read take no others with them.
        let first = home.list(&TopicsQuery { from: 0, limit: 100, pattern: None });
        for topic in &first.topics {
            home.remove_interest(&topic.name, 0);
        }
        home.forget_unused();
        let rest = home.list(&TopicsQuery { from: first.next.unwrap(), limit: 100, pattern: None });
        assert!(rest.topics.iter().all(|topic| !first.topics.contains(topic)) && rest.topics.len() == 100);
    }

    #[test]
    fn topics_of_unknown_namespaces_are_rejected() {
        let others = vec![("chat".to_owned(), Namespace::default())];
        let mut home = Home::new(5, Arc::new(Namespaces::new(Namespace::default(), others)));
        assert_eq!(home.sequence(&mut with_key("x:1", None), 0), Err(PublishError::UnknownNamespace));
        assert_eq!(home.add_interest(&name("x:1"), 0), Err(PublishError::UnknownNamespace));
        assert_eq!(publish(&mut home, "chat:1", 0).offset, 1);
    }
}
