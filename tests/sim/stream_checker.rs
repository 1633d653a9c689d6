//! One topic as a reconnecting client sees it: its position over all its connections. The server must send the topic
//! from there on, without gap, duplicate or reordering, or report the loss.

use std::collections::BTreeMap;

use ringfeed::topics::{Position, SlowConsumer};

use crate::model::{Id, Model};

/// The history that a connection requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requested {
    Nothing,
    /// All publications after this position.
    Since(Position),
    /// This many of the newest.
    Last(u64),
}

/// Statistics of resuming clients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Recoveries without a loss, and publications received by them.
    pub(crate) recoveries: u64,
    pub(crate) recovered: u64,
    /// Losses that the server reported.
    pub(crate) losses: u64,
    /// Publications dropped or replaced where the policy allows it.
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
    /// No message may be missing, even where slow subscribers lose some.
    is_strict: bool,
    /// The server confirms its subscription, with the position.
    is_confirmed: bool,
    /// Its connection has no other topics, which would share the room for missed messages.
    is_alone: bool,
    /// Its position, if known.
    pub(crate) place: Option<Position>,
    asked: Requested,
    /// The topic's position when the server answered on this connection: up to there no message may be missing.
    promised: Option<u64>,
    /// It requested the newest, up to this many, and has not received the first.
    begins: Option<u64>,
    /// The offset at which its knowledge begins, and the newest that it has received since, by key.
    floor: u64,
    newest: BTreeMap<Option<String>, u64>,
    pub(crate) tally: Tally,
}

impl StreamChecker {
    pub(crate) fn new(topic: usize, is_strict: bool, is_confirmed: bool, is_alone: bool) -> StreamChecker {
        StreamChecker {
            topic,
            is_strict,
            is_confirmed,
            is_alone,
            place: None,
            asked: Requested::Nothing,
            promised: None,
            begins: None,
            floor: 0,
            newest: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    /// Connects with this request.
    pub(crate) fn ask(&mut self, asked: Requested) {
        let seen = self.place.map_or(0, |place| place.offset);
        self.asked = asked;
        self.place = self.asks_since();
        if let Some(ahead) = self.place.filter(|place| place.offset > seen) {
            // It claims a position beyond its own, which the topic may have reached meanwhile.
            self.begin(ahead);
        }
        (self.promised, self.begins) = (None, None);
    }

    /// The position of the request, if it has one.
    pub(crate) fn asks_since(&self) -> Option<Position> {
        if let Requested::Since(place) = self.asked { Some(place) } else { None }
    }

    /// The number of newest publications requested, if any.
    pub(crate) fn asks_for_last(&self) -> Option<u64> {
        if let Requested::Last(count) = self.asked { Some(count) } else { None }
    }

    /// The subscription is confirmed with the topic at `top`; `recovered` says whether the requested history follows.
    pub(crate) fn on_subscribed(&mut self, model: &mut Model, top: Position, recovered: Option<bool>, now_us: u64) {
        assert_eq!(self.promised, None, "two answers: {self:?}");
        model.order(self.topic).note_top(top);
        match (self.asked, recovered) {
            (Requested::Nothing, None) => self.begin(top),
            (Requested::Since(place), Some(true)) => {
                assert_eq!(place.epoch, top.epoch, "recovered from another epoch: {self:?}");
                assert!(place.offset <= top.offset, "recovered from beyond the top, {top:?}: {self:?}");
                self.tally.recoveries += 1;
                self.tally.recovered += top.offset - place.offset;
            }
            (Requested::Since(_), Some(false)) => self.on_lost(model, top, now_us),
            (Requested::Last(count), Some(true)) => self.begins = Some(count),
            (asked, recovered) => panic!("the server answers {recovered:?} to {asked:?}: {self:?}"),
        }
        self.promised = Some(top.offset);
    }

    /// The server reports that missed messages are gone; the client goes on at `top`.
    pub(crate) fn on_lost(&mut self, model: &mut Model, top: Position, now_us: u64) {
        let place = self.asks_since().unwrap_or_else(|| panic!("it requested nothing that can be lost: {self:?}"));
        let namespace = model.namespace(self.topic).clone();
        let is_lost = place.epoch != top.epoch
            || place.offset > top.offset
            || !self.has_room(model)
            || !model.order(self.topic).must_be_kept(place.offset, top.offset, &namespace, now_us);
        assert!(is_lost, "a reported loss, but all was kept from {place:?} to {top:?}: {self:?}");
        self.tally.losses += 1;
        self.begin(top);
    }

    /// Whether the messages it missed fit its backlog, whatever it missed of other topics.
    fn has_room(&self, model: &Model) -> bool {
        self.is_alone || 2 * model.feed_bytes_max() <= model.namespace(self.topic).outbox_bytes_max
    }

    /// Its knowledge begins here.
    pub(crate) fn begin(&mut self, place: Position) {
        self.place = Some(place);
        self.promised = Some(place.offset);
        self.floor = place.offset;
        self.newest.clear();
    }

    /// All missed messages have arrived, and the server's position is the client's.
    pub(crate) fn on_caught_up(&mut self, model: &mut Model, place: Position) {
        assert_eq!(self.place, Some(place), "the server reports another position: {self:?}");
        model.order(self.topic).note_top(place);
        if let (Requested::Since(since), None) = (self.asked, self.promised) {
            self.tally.recoveries += 1;
            self.tally.recovered += place.offset - since.offset;
        }
        self.promised = Some(place.offset);
    }

    /// Receives a publication. Returns the publish time, if known and no client knew the position before.
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
        assert_eq!(place.epoch, last.epoch, "another epoch without notice: {self:?}");
        assert!(place.offset > last.offset, "{place:?} arrived again or too late: {self:?}");
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

    /// The first of the newest `count` arrived: no kept publication may be missing before it.
    fn check_beginning(&mut self, model: &mut Model, count: u64, first: Position, now_us: u64) {
        let top = self.promised.expect("the server has answered");
        let before = first.offset.saturating_sub(1).min(top);
        let (had, namespace) = (top - before, model.namespace(self.topic).clone());
        assert!(had <= count, "received {had} of the newest {count}: {self:?}");
        let is_all = had == count || before == 0;
        assert!(
            is_all
                || !self.has_room(model)
                || !model.order(self.topic).must_be_kept(before - 1, top, &namespace, now_us),
            "received only {had} of the newest {count}: {self:?}"
        );
        let promised = self.promised;
        self.begin(Position { offset: before, ..first });
        self.promised = promised;
    }

    fn key(&self, model: &Model, id: Id) -> Option<String> {
        model.key(id).filter(|_| !self.is_strict)
    }

    /// What it must have received of the topic by now, but has not: its position, and the newest of each key.
    pub(crate) fn missing(&self, model: &mut Model) -> Option<String> {
        let top = model.order(self.topic).top().map_or(0, |top| top.offset);
        let place = match (self.place, self.promised) {
            (_, None) if self.is_confirmed => return Some("it has no answer".to_owned()),
            (Some(place), _) => place.offset,
            // It requested the newest, and there were none.
            (None, Some(promised)) => promised,
            // Without an answer it can't tell.
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
