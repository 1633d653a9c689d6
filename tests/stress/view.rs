//! What one subscriber has seen of one topic, over all its connections: that is judged here.

use super::truth::{Id, Kind, Place, Truth};

/// What subscribers have met with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connections: u64,
    pub(crate) deliveries: u64,
    /// Times that somebody came back and nothing was lost.
    pub(crate) recoveries: u64,
    /// Publications that it had missed then.
    pub(crate) recovered: u64,
    /// Times that somebody came back, and was told that something was lost.
    pub(crate) told: u64,
    /// Publications that were dropped or replaced where that is the policy.
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.connections += other.connections;
        self.deliveries += other.deliveries;
        self.recoveries += other.recoveries;
        self.recovered += other.recovered;
        self.told += other.told;
        self.skipped += other.skipped;
    }
}

/// One subscriber's view of one topic.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) topic: usize,
    kind: Kind,
    /// Where it is; none before it was told for the first time.
    pub(crate) place: Option<Place>,
    /// Up to here nothing may be missing, whatever the policy: it was promised.
    promised: u64,
}

impl View {
    /// A view of a topic. With `is_strict` nothing may be skipped whatever the policy.
    pub(crate) fn new(truth: &Truth, topic: usize, is_strict: bool) -> View {
        let mut kind = truth.kind(topic);
        kind.may_skip &= !is_strict;
        View { topic, kind, place: None, promised: 0 }
    }

    /// It begins anew, from wherever the topic is.
    pub(crate) fn on_start(&mut self) {
        self.place = None;
    }

    /// It comes back, and asks for all since its place. Until the answer has come, none may be missing.
    pub(crate) fn on_return(&mut self) {
        self.promised = u64::MAX;
    }

    /// It has subscribed, where the topic is at `top`. What it has missed may still come.
    pub(crate) fn on_subscribed(&mut self, top: Place, recovered: Option<bool>, tally: &mut Tally) {
        match (self.place, recovered) {
            (None, None) => self.place = Some(top),
            (Some(place), Some(true)) => {
                assert_eq!(place.epoch, top.epoch, "recovered from another epoch: {self:?}");
                assert!(place.offset <= top.offset, "recovered what is not yet there, {top:?}: {self:?}");
                tally.recoveries += 1;
                tally.recovered += top.offset - place.offset;
            }
            (Some(_), Some(false)) => self.on_lost(top, tally),
            (place, recovered) => panic!("it was at {place:?} and is answered {recovered:?}: {self:?}"),
        }
        self.promised = top.offset;
    }

    /// It is told that what it has missed is lost, and goes on at `top`.
    pub(crate) fn on_lost(&mut self, top: Place, tally: &mut Tally) {
        let place = self.place.expect("it was here before");
        assert_eq!(place.epoch, top.epoch, "the server has not started anew: {self:?}");
        let missed = top.offset.checked_sub(place.offset).unwrap_or_else(|| panic!("{top:?} is back: {self:?}"));
        assert!(missed > self.kind.recoverable, "{missed} should have been kept: {self:?}");
        tally.told += 1;
        self.place = Some(top);
    }

    /// It is told where it is, all that it has missed having come. `recovered` is how many that were.
    pub(crate) fn on_caught_up(&mut self, top: Place, recovered: u64, tally: &mut Tally) {
        match self.place {
            None => self.place = Some(top),
            Some(place) => {
                assert_eq!(place, top, "it is not where it is told to be: {self:?}");
                tally.recoveries += 1;
                tally.recovered += recovered;
            }
        }
        self.promised = top.offset;
    }

    /// A publication came.
    pub(crate) fn on_publication(&mut self, truth: &Truth, place: Place, id: Id, tally: &mut Tally) {
        let last = self.place.unwrap_or_else(|| panic!("{place:?} before any answer: {self:?}"));
        assert_eq!(place.epoch, last.epoch, "another epoch without a word: {self:?}");
        assert!(place.offset > last.offset, "{place:?} came again or too late: {self:?}");
        let skipped = place.offset - last.offset - 1;
        let may_skip = self.kind.may_skip && last.offset >= self.promised;
        assert!(skipped == 0 || may_skip, "{skipped} are missing before {place:?}: {self:?}");
        truth.saw(self.topic, place, id);
        tally.skipped += skipped;
        tally.deliveries += 1;
        self.place = Some(place);
    }
}
