//! One topic as a client knows it that comes back: where it is, over all its connections. What it is sent must be the
//! topic from there on, without gap, duplicate or reordering, or it must be told.

use std::collections::BTreeMap;

use ringfeed::topics::{Position, SlowConsumer};

use crate::model::{Id, Model};

/// What a connection asks of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Nothing,
    /// All after this place.
    Since(Position),
    /// The newest so many.
    Last(u64),
}

/// What clients that come back have met with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Times that nothing was lost, and publications that came then.
    pub(crate) recoveries: u64,
    pub(crate) recovered: u64,
    /// Times that a loss was told.
    pub(crate) losses: u64,
    /// Publications that were dropped or replaced where that is the policy.
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.recoveries += other.recoveries;
        self.recovered += other.recovered;
        self.losses += other.losses;
        self.skipped += other.skipped;
    }
}

#[derive(Clone, Debug)]
pub(crate) struct StreamChecker {
    pub(crate) topic: usize,
    /// Nothing may be missing, whatever becomes of other slow subscribers.
    is_strict: bool,
    /// It is told when it has subscribed, and where.
    is_told: bool,
    /// Its connection has no other topics, which may take the room for what it has missed.
    is_alone: bool,
    /// Where it is, if it knows.
    pub(crate) place: Option<Position>,
    asked: Asked,
    /// Where the topic was when the server answered on this connection: up to there none may be missing.
    promised: Option<u64>,
    /// It gets the newest so many, and has not seen the first.
    begins: Option<u64>,
    /// Where its knowledge begins, and by key the newest that it has seen since.
    floor: u64,
    newest: BTreeMap<Option<String>, u64>,
    pub(crate) tally: Tally,
}

impl StreamChecker {
    pub(crate) fn new(topic: usize, is_strict: bool, is_told: bool, is_alone: bool) -> StreamChecker {
        StreamChecker {
            topic,
            is_strict,
            is_told,
            is_alone,
            place: None,
            asked: Asked::Nothing,
            promised: None,
            begins: None,
            floor: 0,
            newest: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    /// It connects, and asks for this.
    pub(crate) fn ask(&mut self, asked: Asked) {
        let seen = self.place.map_or(0, |place| place.offset);
        self.asked = asked;
        self.place = self.asks_since();
        if let Some(ahead) = self.place.filter(|place| place.offset > seen) {
            // It claims to know what it has not seen, and the topic may be there by now.
            self.begin(ahead);
        }
        (self.promised, self.begins) = (None, None);
    }

    /// The place after which it asks for all, if it does.
    pub(crate) fn asks_since(&self) -> Option<Position> {
        if let Asked::Since(place) = self.asked { Some(place) } else { None }
    }

    /// How many of the newest it asks for, if it does.
    pub(crate) fn asks_for_last(&self) -> Option<u64> {
        if let Asked::Last(count) = self.asked { Some(count) } else { None }
    }

    /// It has subscribed where the topic is at `top`; and whether what it asked for follows.
    pub(crate) fn on_subscribed(&mut self, model: &mut Model, top: Position, recovered: Option<bool>, now_us: u64) {
        assert_eq!(self.promised, None, "two answers: {self:?}");
        model.order(self.topic).note_top(top);
        match (self.asked, recovered) {
            (Asked::Nothing, None) => self.begin(top),
            (Asked::Since(place), Some(true)) => {
                assert_eq!(place.epoch, top.epoch, "recovered from another epoch: {self:?}");
                assert!(place.offset <= top.offset, "recovered what is not there yet, {top:?}: {self:?}");
                self.tally.recoveries += 1;
                self.tally.recovered += top.offset - place.offset;
            }
            (Asked::Since(_), Some(false)) => self.on_lost(model, top, now_us),
            (Asked::Last(count), Some(true)) => self.begins = Some(count),
            (asked, recovered) => panic!("{asked:?} is answered {recovered:?}: {self:?}"),
        }
        self.promised = Some(top.offset);
    }

    /// It is told that what it has missed can't be had, and goes on at `top`.
    pub(crate) fn on_lost(&mut self, model: &mut Model, top: Position, now_us: u64) {
        let place = self.asks_since().unwrap_or_else(|| panic!("it asked for nothing that can be lost: {self:?}"));
        let namespace = model.namespace(self.topic).clone();
        let is_lost = place.epoch != top.epoch
            || place.offset > top.offset
            || !self.has_room(model)
            || !model.order(self.topic).must_be_kept(place.offset, top.offset, &namespace, now_us);
        assert!(is_lost, "told of a loss, but all was kept from {place:?} to {top:?}: {self:?}");
        self.tally.losses += 1;
        self.begin(top);
    }

    /// Whether what it has missed may wait for it, whatever it has missed of other topics.
    fn has_room(&self, model: &Model) -> bool {
        self.is_alone || 2 * model.bytes_told() <= model.namespace(self.topic).outbox_bytes_max
    }

    /// Its knowledge begins here.
    pub(crate) fn begin(&mut self, place: Position) {
        self.place = Some(place);
        self.promised = Some(place.offset);
        self.floor = place.offset;
        self.newest.clear();
    }

    /// All that it has missed has come, and it is where it believes to be.
    pub(crate) fn on_caught_up(&mut self, model: &mut Model, place: Position) {
        assert_eq!(self.place, Some(place), "it is not where it is told to be: {self:?}");
        model.order(self.topic).note_top(place);
        if let (Asked::Since(since), None) = (self.asked, self.promised) {
            self.tally.recoveries += 1;
            self.tally.recovered += place.offset - since.offset;
        }
        self.promised = Some(place.offset);
    }

    /// A publication came. Returns when it was published, if that is known and it is news to everybody.
    pub(crate) fn on_publication(
        &mut self,
        model: &mut Model,
        place: Position,
        id: Id,
        len: usize,
        now_us: u64,
    ) -> Option<u64> {
        let published_us = model.note(place, id, len);
        if let Some(count) = self.begins.take() {
            self.check_beginning(model, count, place, now_us);
        }
        let last = self.place.unwrap_or_else(|| panic!("{place:?} before any answer: {self:?}"));
        assert_eq!(place.epoch, last.epoch, "another epoch without a word: {self:?}");
        assert!(place.offset > last.offset, "{place:?} came again or too late: {self:?}");
        let skipped = place.offset - last.offset - 1;
        let may_skip = !self.is_strict && self.promised.is_some_and(|promised| last.offset >= promised);
        assert!(skipped == 0 || may_skip, "{skipped} are missing before {place:?}: {self:?}");
        self.tally.skipped += skipped;
        self.place = Some(place);
        if place.offset > self.floor {
            let newest = self.newest.entry(self.key(model, id)).or_default();
            *newest = place.offset.max(*newest);
        }
        published_us.filter(|_| self.promised.is_some_and(|promised| place.offset > promised))
    }

    /// The first of the newest `count` came: none that was kept may be missing before it.
    fn check_beginning(&mut self, model: &mut Model, count: u64, first: Position, now_us: u64) {
        let top = self.promised.expect("it was answered");
        let before = first.offset.saturating_sub(1).min(top);
        let (had, namespace) = (top - before, model.namespace(self.topic).clone());
        assert!(had <= count, "{had} came of the newest {count}: {self:?}");
        let is_all = had == count || before == 0;
        assert!(
            is_all
                || !self.has_room(model)
                || !model.order(self.topic).must_be_kept(before - 1, top, &namespace, now_us),
            "only {had} of the newest {count} came: {self:?}"
        );
        let promised = self.promised;
        self.begin(Position { offset: before, ..first });
        self.promised = promised;
    }

    fn key(&self, model: &Model, id: Id) -> Option<String> {
        model.key(id).filter(|_| !self.is_strict)
    }

    /// What of the topic it has not seen, though it must have by now: its place and the newest of each key.
    pub(crate) fn missing(&self, model: &mut Model) -> Option<String> {
        let top = model.order(self.topic).top().map_or(0, |top| top.offset);
        let place = match (self.place, self.promised) {
            (_, None) if self.is_told => return Some("it has no answer".to_owned()),
            (Some(place), _) => place.offset,
            // It asked for the newest, and there were none.
            (None, Some(promised)) => promised,
            // It can't know.
            (None, None) => return None,
        };
        if place < top {
            return Some(format!("it is at {place} of {top}"));
        }
        let is_conflated = !self.is_strict && model.namespace(self.topic).slow_consumer == SlowConsumer::Conflate;
        if !is_conflated || self.begins.is_some() {
            return None;
        }
        let later: Vec<(u64, Id)> = model.order(self.topic).after(self.floor).collect();
        let newest: BTreeMap<Option<String>, u64> =
            later.into_iter().map(|(offset, id)| (self.key(model, id), offset)).collect();
        (newest != self.newest).then(|| format!("the newest are {newest:?}, and it has seen {:?}", self.newest))
    }
}
