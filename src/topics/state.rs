//! The state of a keyed topic: the newest value of each key.
//!
//! A state is a log without what newer publications have replaced: values and removals, each with the offset of its
//! publication, in the order of these offsets. So a subscriber reads it like a history, page by page: what changes
//! meanwhile moves behind the last page that it has read, and the position of the last publication that it has read is
//! always one to continue from. The page that reaches the topic's position is the last one; pushes carry everything
//! after it.
//!
//! Pages never change and are right at any time, since a newer publication of one of their keys comes in a later page.
//! So subscribers that read at the same time share them, with their encoded bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock};

use super::{Body, Draft, Effect, Encoding, Epoch, Namespace, Position, PublishError};
use crate::buf::SharedFrame;
use crate::limits::{
    ENCODINGS_MAX, STATE_ENTRY_BYTES, STATE_PAGE_BYTES, STATE_PAGE_KEYS, STATE_PAGE_MS, STATE_PAGES_MAX,
};

/// What a publication must find in the state of its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// Anything.
    #[default]
    None,
    /// No value of its key.
    New,
    /// A value of its key.
    Exists,
    /// The value of its key that was published at this position: nobody has changed it since.
    At(Position),
}

/// A place in a state between two pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateCursor {
    /// The position of the last publication that was read.
    pub position: Position,
    /// Removals up to this offset concern nothing that was read: the topic's offset when the first page was made. 0
    /// for a subscriber that reconnects.
    pub began: u64,
}

impl StateCursor {
    /// Parses the text of a cursor, or of a position alone.
    pub fn from_text(text: &str) -> Option<StateCursor> {
        let mut parts = text.splitn(3, ':');
        let (epoch, offset) = (Epoch::from_text(parts.next()?), parts.next()?.parse().ok()?);
        let began = parts.next().map_or(Some(0), |began| began.parse().ok())?;
        Some(StateCursor { position: Position { epoch, offset }, began })
    }
}

impl fmt::Display for StateCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StateCursor { position: Position { epoch, offset }, began } = self;
        write!(f, "{epoch}:{offset}:{began}")
    }
}

/// A query for a part of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateQuery {
    /// Where it continues; `None` begins a snapshot.
    pub from: Option<StateCursor>,
    /// Maximum number of publications, at most [`STATE_PAGE_KEYS`]; a page always has one.
    pub limit: usize,
}

/// A part of a state.
#[derive(Debug)]
pub struct StatePage {
    /// The topic's position when the page was made.
    pub position: Position,
    /// Whether it begins a snapshot: anything that the reader knows of the topic is void.
    pub begins: bool,
    /// Values and removals, in the order of their offsets.
    pub bodies: Vec<Arc<Body>>,
    /// Where the next page begins; `None` if this one reaches [`position`](Self::position).
    pub next: Option<StateCursor>,
    /// Bytes of the publications, as [`Body::encoded_bytes`] estimates them.
    pub bytes: usize,
    /// Encoded by the first reader that needs it.
    frames: Box<[OnceLock<SharedFrame>; ENCODINGS_MAX]>,
}

/// The newest publication of each key, and of removed keys their removal.
#[derive(Debug)]
pub(super) struct State {
    /// Of values and removals.
    offsets: HashMap<Box<str>, u64>,
    values: BTreeMap<u64, Arc<Body>>,
    removals: BTreeMap<u64, Arc<Body>>,
    value_bytes: usize,
    removal_bytes: usize,
    /// Removals up to this offset may be forgotten.
    forgotten: u64,
    pages: Vec<SharedPage>,
    /// Whether the home knows when its next value expires.
    pub(super) is_scheduled: bool,
}

/// A page that other readers may use.
#[derive(Debug)]
struct SharedPage {
    /// The publications before it; with `began` of its reader, unless it begins a snapshot.
    start: u64,
    began: u64,
    made_ms: u64,
    page: Arc<StatePage>,
}

impl StatePage {
    /// The page in an encoding: `make` encodes it for the first reader.
    pub fn frame(&self, encoding: Encoding, make: impl FnOnce(&StatePage) -> SharedFrame) -> &SharedFrame {
        self.frames[encoding.number()].get_or_init(|| make(self))
    }
}

/// Memory of an entry, in bytes.
fn entry_bytes(body: &Body) -> usize {
    body.encoded_bytes() + STATE_ENTRY_BYTES
}

impl State {
    /// An empty state. Readers that were at an earlier position than `offset` begin anew.
    pub(super) fn new(offset: u64) -> State {
        State {
            offsets: HashMap::new(),
            values: BTreeMap::new(),
            removals: BTreeMap::new(),
            value_bytes: 0,
            removal_bytes: 0,
            forgotten: offset,
            pages: Vec::new(),
            is_scheduled: false,
        }
    }

    /// Whether a publication of a keyed topic can change its state.
    ///
    /// # Errors
    /// Why not: [`PublishError::NoKey`], [`NoSuchKey`](PublishError::NoSuchKey), [`Conflict`](PublishError::Conflict),
    /// [`ValueTooLarge`](PublishError::ValueTooLarge) and [`StateFull`](PublishError::StateFull).
    pub(super) fn check(state: Option<&State>, draft: &Draft, namespace: &Namespace) -> Result<(), PublishError> {
        let key = draft.key.as_deref().filter(|key| !key.is_empty()).ok_or(PublishError::NoKey)?;
        let value = state.and_then(|state| state.value(key));
        let is_met = match draft.condition {
            Condition::None => true,
            Condition::New => value.is_none(),
            Condition::Exists => value.is_some(),
            Condition::At(position) => value.is_some_and(|body| body.position == position),
        };
        match (is_met, draft.removes, value) {
            (false, ..) => return Err(PublishError::Conflict),
            (true, true, None) => return Err(PublishError::NoSuchKey),
            (true, true, Some(_)) => return Ok(()),
            (true, false, _) => {}
        }
        if draft.payload.len() > namespace.value_bytes_max {
            return Err(PublishError::ValueTooLarge);
        }
        let (keys, bytes) = state.map_or((0, 0), |state| (state.values.len(), state.value_bytes));
        let before = value.map_or(0, |body| entry_bytes(body));
        let is_full = value.is_none() && keys >= namespace.keys_max;
        if is_full || bytes - before + draft.encoded_bytes() + STATE_ENTRY_BYTES > namespace.state_bytes_max {
            return Err(PublishError::StateFull);
        }
        Ok(())
    }

    /// Takes the newest publication of the topic over, which [`check`](Self::check) has accepted.
    pub(super) fn apply(&mut self, body: &Arc<Body>, namespace: &Namespace) {
        let key = body.key.clone().expect("a keyed topic has no publication without a key");
        let offset = body.position.offset;
        if let Some(before) = self.offsets.insert(key, offset) {
            self.take(before);
        }
        match body.effect {
            Effect::Remove => {
                self.removal_bytes += entry_bytes(body);
                self.removals.insert(offset, body.clone());
            }
            _ => {
                self.value_bytes += entry_bytes(body);
                self.values.insert(offset, body.clone());
            }
        }
        // As many as there may be keys: who reads more slowly than that could not follow the changes either.
        while self.removals.len() > namespace.keys_max {
            self.forget_removal();
        }
    }

    fn take(&mut self, offset: u64) {
        if let Some(body) = self.values.remove(&offset) {
            self.value_bytes -= entry_bytes(&body);
        } else if let Some(body) = self.removals.remove(&offset) {
            self.removal_bytes -= entry_bytes(&body);
        }
    }

    fn forget_removal(&mut self) {
        let Some((offset, body)) = self.removals.pop_first() else { return };
        self.removal_bytes -= entry_bytes(&body);
        self.offsets.remove(body.key.as_deref().unwrap_or_default());
        self.forgotten = offset;
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> Option<&Arc<Body>> {
        self.values.get(self.offsets.get(key)?)
    }

    /// The value that was published first.
    pub(super) fn oldest(&self) -> Option<&Arc<Body>> {
        self.values.first_key_value().map(|(_, body)| body)
    }

    /// Number of values.
    pub(super) fn keys(&self) -> usize {
        self.values.len()
    }

    /// Bytes in memory, apart from pages.
    pub(super) fn bytes(&self) -> usize {
        self.value_bytes + self.removal_bytes
    }

    /// All values, in the order of their offsets.
    #[cfg(feature = "sim")]
    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<Body>> {
        self.values.values()
    }

    /// The next page of a reader, when the topic is at `top`, and whether it was made for this reader.
    pub(super) fn page(
        &mut self,
        from: Option<StateCursor>,
        top: Position,
        keys_max: usize,
        now_ms: u64,
    ) -> (Arc<StatePage>, bool) {
        let from = from.filter(|from| self.continues(from, top));
        let (start, began) = from.map_or((0, top.offset), |from| (from.position.offset, from.began));
        let is_same = |shared: &SharedPage| match from {
            None => shared.page.begins,
            Some(_) => !shared.page.begins && shared.start == start && shared.began == began,
        };
        self.forget_pages(now_ms);
        // The last page ends where pushes begin: it is only right while nothing else is published.
        let is_right = |shared: &SharedPage| shared.page.next.is_some() || shared.page.position == top;
        if let Some(shared) = self.pages.iter().find(|shared| is_same(shared) && is_right(shared)) {
            return (shared.page.clone(), false);
        }
        let page = Arc::new(self.make_page(from, top, keys_max));
        self.pages.retain(|shared| !is_same(shared));
        if self.pages.len() < STATE_PAGES_MAX {
            self.pages.push(SharedPage { start, began, made_ms: now_ms, page: page.clone() });
        }
        (page, true)
    }

    /// A page of its own for a query.
    pub(super) fn query(&self, query: &StateQuery, top: Position) -> StatePage {
        let from = query.from.filter(|from| self.continues(from, top));
        self.make_page(from, top, query.limit.clamp(1, STATE_PAGE_KEYS))
    }

    /// Whether all removals that concern this reader are here.
    fn continues(&self, from: &StateCursor, top: Position) -> bool {
        let StateCursor { position, began } = from;
        position.epoch == top.epoch && position.offset <= top.offset && self.forgotten <= position.offset.max(*began)
    }

    fn make_page(&self, from: Option<StateCursor>, top: Position, keys_max: usize) -> StatePage {
        let (start, began) = from.map_or((0, top.offset), |from| (from.position.offset, from.began));
        let mut values = self.values.range(start + 1..).peekable();
        let mut removals = self.removals.range(start.max(began) + 1..).peekable();
        let (mut bodies, mut bytes, mut next) = (Vec::new(), 0, None);
        loop {
            let (value, removal) = (values.peek(), removals.peek());
            let is_value = match (value, removal) {
                (None, None) => break,
                (Some((value, _)), Some((removal, _))) => value < removal,
                (value, _) => value.is_some(),
            };
            let entry = if is_value { value } else { removal };
            let body: &Arc<Body> = entry.map(|(_, body)| *body).expect("one of both is there");
            bytes += body.encoded_bytes();
            if let Some(last) = bodies.last().filter(|_| bodies.len() == keys_max || bytes > STATE_PAGE_BYTES) {
                let last: &Arc<Body> = last;
                bytes -= body.encoded_bytes();
                next = Some(StateCursor { position: last.position, began });
                break;
            }
            bodies.push(body.clone());
            let _ = if is_value { values.next() } else { removals.next() };
        }
        let frames = Box::new([const { OnceLock::new() }; ENCODINGS_MAX]);
        StatePage { position: top, begins: from.is_none(), bodies, next, bytes, frames }
    }

    /// Forgets pages that are not new any more: the longer they are kept, the more of them is replaced.
    pub(super) fn forget_pages(&mut self, now_ms: u64) {
        self.pages.retain(|shared| now_ms < shared.made_ms + STATE_PAGE_MS);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::TopicName;
    use super::super::testing::body;
    use super::*;

    const KEYS_MAX: usize = 5;

    /// Publications of a page.
    const KEYS: usize = 1000;

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::new(7), offset }
    }

    fn namespace() -> Namespace {
        Namespace { keyed: true, keys_max: KEYS_MAX, ..Namespace::default() }
    }

    fn draft(key: &str) -> Draft {
        Draft::put(TopicName::new("a").unwrap(), key, true, Bytes::from_static(b"0123456789"))
    }

    #[test]
    fn a_cursor_survives_its_text_form() {
        let cursor = StateCursor { position: at(7), began: 9 };
        assert_eq!(StateCursor::from_text(&cursor.to_string()), Some(cursor));
        assert_eq!(StateCursor::from_text(&format!("{}:7", at(7).epoch)), Some(StateCursor { began: 0, ..cursor }));
        for bad in ["", "e", "e:", "e:x", "e:1:", "e:1:2:3"] {
            assert_eq!(StateCursor::from_text(bad), None, "{bad}");
        }
    }

    fn change(key: &str, offset: u64, effect: Effect, payload: &[u8]) -> Arc<Body> {
        let mut body = body("a", at(offset), offset, payload);
        let entry = Arc::get_mut(&mut body).unwrap();
        (entry.key, entry.effect) = (Some(key.into()), effect);
        body
    }

    fn put(state: &mut State, key: &str, offset: u64) {
        state.apply(&change(key, offset, Effect::Put, b"0123456789"), &namespace());
    }

    fn remove(state: &mut State, key: &str, offset: u64) {
        state.apply(&change(key, offset, Effect::Remove, b""), &namespace());
    }

    fn offsets(page: &StatePage) -> Vec<u64> {
        page.bodies.iter().map(|body| body.position.offset).collect()
    }

    fn since(offset: u64) -> Option<StateCursor> {
        Some(StateCursor { position: at(offset), began: 0 })
    }

    #[test]
    fn a_state_has_the_newest_publication_of_each_key() {
        let mut state = State::new(0);
        for (offset, key) in ["a", "b", "a", "c"].iter().enumerate() {
            put(&mut state, key, offset as u64 + 1);
        }
        remove(&mut state, "b", 5);
        let (page, _) = state.page(None, at(5), KEYS, 0);
        assert_eq!((offsets(&page), page.begins, page.next), (vec![3, 4], true, None));
        assert_eq!((state.keys(), state.value("a").unwrap().position), (2, at(3)));
        assert!(state.value("b").is_none() && state.value("x").is_none());
        // A reconnecting reader also learns of removals.
        for (offset, expected) in [(2, vec![3, 4, 5]), (3, vec![4, 5]), (5, vec![])] {
            let (page, _) = state.page(since(offset), at(5), KEYS, 0);
            assert_eq!((offsets(&page), page.begins), (expected, false), "since {offset}");
        }
        put(&mut state, "b", 6);
        assert_eq!(offsets(&state.page(since(3), at(6), KEYS, 0).0), [4, 6], "the removal is replaced");
    }

    #[test]
    fn a_reader_begins_anew_where_removals_are_forgotten() {
        let mut state = State::new(0);
        for number in 0..=KEYS_MAX as u64 {
            put(&mut state, &number.to_string(), 2 * number + 1);
            remove(&mut state, &number.to_string(), 2 * number + 2);
        }
        let top = at(2 * KEYS_MAX as u64 + 2);
        assert!(!state.page(since(2), top, KEYS, 0).0.begins, "the first removal was at 2");
        let (page, _) = state.page(since(1), top, KEYS, 0);
        assert!(page.begins && page.bodies.is_empty());
        // A reader of the snapshot knows none of the removed keys.
        let cursor = StateCursor { position: at(1), began: top.offset };
        assert!(!state.page(Some(cursor), top, KEYS, 0).0.begins);
        for other in [Position { epoch: Epoch::new(8), offset: 4 }, at(99)] {
            assert!(state.page(Some(StateCursor { position: other, began: 0 }), top, KEYS, 0).0.begins, "{other:?}");
        }
        assert_eq!((state.bytes() > 0, state.offsets.len()), (true, KEYS_MAX), "what is forgotten takes no memory");
        assert!(
            State::new(9).page(since(8), at(9), KEYS, 0).0.begins
                && !State::new(9).page(since(9), at(9), KEYS, 0).0.begins
        );
    }

    #[test]
    fn readers_share_pages_for_a_while() {
        let mut state = State::new(0);
        put(&mut state, "a", 1);
        let (first, is_made) = state.page(None, at(1), KEYS, 0);
        let (again, is_made_again) = state.page(None, at(1), KEYS, STATE_PAGE_MS - 1);
        assert!(is_made && !is_made_again && Arc::ptr_eq(&first, &again));
        assert!(state.page(None, at(1), KEYS, STATE_PAGE_MS).1, "too old");
        put(&mut state, "a", 2);
        assert_eq!(offsets(&state.page(None, at(2), KEYS, STATE_PAGE_MS).0), [2], "the last page ends at the position");
        let encode = |_: &StatePage| SharedFrame::new(b"x".to_vec());
        let bytes = first.frame(Encoding::RAW, encode).as_ptr();
        assert_eq!(again.frame(Encoding::RAW, |_| panic!("it is encoded")).as_ptr(), bytes);
    }

    #[test]
    fn a_publication_must_fit_and_meet_its_condition() {
        let mut state = State::new(0);
        put(&mut state, "a", 1);
        remove(&mut state, "gone", 2);
        let with = |key, condition| Draft { condition, ..draft(key) };
        let removal = |key| Draft::remove(TopicName::new("a").unwrap(), key);
        let unkeyed = Draft { key: None, ..draft("a") };
        let rows = [
            (draft("a"), Ok(())),
            (draft("b"), Ok(())),
            (unkeyed, Err(PublishError::NoKey)),
            (draft(""), Err(PublishError::NoKey)),
            (with("a", Condition::New), Err(PublishError::Conflict)),
            (with("b", Condition::New), Ok(())),
            (with("gone", Condition::New), Ok(())),
            (with("a", Condition::Exists), Ok(())),
            (with("gone", Condition::Exists), Err(PublishError::Conflict)),
            (with("a", Condition::At(at(1))), Ok(())),
            (with("a", Condition::At(at(2))), Err(PublishError::Conflict)),
            (with("gone", Condition::At(at(2))), Err(PublishError::Conflict)),
            (with("a", Condition::At(Position { epoch: Epoch::new(8), offset: 1 })), Err(PublishError::Conflict)),
            (removal("a"), Ok(())),
            (removal("gone"), Err(PublishError::NoSuchKey)),
            (removal("b"), Err(PublishError::NoSuchKey)),
        ];
        for (draft, expected) in rows {
            let checked = State::check(Some(&state), &draft, &namespace());
            assert_eq!(checked, expected, "{:?} {:?}", draft.key, draft.condition);
        }
        let check = |state: &State, key, namespace| State::check(Some(state), &draft(key), &namespace);
        let tight = Namespace { value_bytes_max: 9, ..namespace() };
        assert_eq!(check(&state, "a", tight), Err(PublishError::ValueTooLarge));
        let tight = Namespace { keys_max: 1, ..namespace() };
        assert_eq!(check(&state, "b", tight.clone()), Err(PublishError::StateFull));
        assert_eq!(check(&state, "a", tight), Ok(()), "a value of a known key");
        let tight = Namespace { state_bytes_max: state.value_bytes, ..namespace() };
        assert_eq!(check(&state, "b", tight.clone()), Err(PublishError::StateFull));
        assert_eq!(check(&state, "a", tight), Ok(()), "it takes the place of the value before");
    }

    /// A step of a run: a publication, or a page for a reader.
    #[derive(Clone, Debug)]
    enum Step {
        Put(u8),
        Remove(u8),
        Read(usize),
        /// The reader reconnects with its position.
        Reconnect(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..8_u8).prop_map(Step::Put),
            2 => (0..8_u8).prop_map(Step::Remove),
            4 => (0..3_usize).prop_map(Step::Read),
            1 => (0..3_usize).prop_map(Step::Reconnect),
        ];
        proptest::collection::vec(step, 0..200)
    }

    #[derive(Default)]
    struct Reader {
        known: BTreeMap<String, u64>,
        from: Option<StateCursor>,
        /// The next page continues a snapshot, or there is no more until something changes.
        next: Option<StateCursor>,
    }

    impl Reader {
        /// Reads one page, of a few publications.
        fn read(&mut self, state: &mut State, top: Position, now_ms: u64, is_shared: bool) {
            let from = self.next.or(self.from);
            let page = match is_shared {
                true => state.page(from, top, 2, now_ms).0,
                false => Arc::new(state.query(&StateQuery { from, limit: 2 }, top)),
            };
            if page.begins {
                self.known.clear();
            }
            for body in &page.bodies {
                let key = body.key.as_deref().unwrap().to_owned();
                match body.effect {
                    Effect::Remove => drop(self.known.remove(&key)),
                    _ => drop(self.known.insert(key, body.position.offset)),
                }
            }
            let last = page.bodies.last().map(|body| body.position);
            let position = if page.next.is_none() { page.position } else { last.unwrap_or(page.position) };
            (self.from, self.next) = (Some(StateCursor { position, began: 0 }), page.next);
        }
    }

    proptest! {
        #[test]
        fn each_reader_ends_with_the_state(steps in steps(), is_shared in any::<bool>()) {
            let (mut state, mut model) = (State::new(0), BTreeMap::new());
            let mut readers: Vec<Reader> = (0..3).map(|_| Reader::default()).collect();
            let mut offset = 0;
            for (now_ms, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Put(key) if model.len() < KEYS_MAX || model.contains_key(&key.to_string()) => {
                        offset += 1;
                        put(&mut state, &key.to_string(), offset);
                        model.insert(key.to_string(), offset);
                    }
                    Step::Remove(key) if model.remove(&key.to_string()).is_some() => {
                        offset += 1;
                        remove(&mut state, &key.to_string(), offset);
                    }
                    Step::Put(_) | Step::Remove(_) => {}
                    Step::Read(reader) => readers[reader].read(&mut state, at(offset), now_ms as u64, is_shared),
                    Step::Reconnect(reader) => readers[reader].next = None,
                }
            }
            for reader in &mut readers {
                reader.read(&mut state, at(offset), 300, is_shared);
                while reader.next.is_some() {
                    reader.read(&mut state, at(offset), 300, is_shared);
                }
                prop_assert_eq!(&reader.known, &model);
            }
        }
    }
}
