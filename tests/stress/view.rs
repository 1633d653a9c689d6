//! What one subscriber has received of one topic, over all its connections, with the checks.

use super::truth::{Id, Kind, Place, Truth};

/// Statistics of subscribers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connections: u64,
    pub(crate) deliveries: u64,
    /// Reconnects without a loss.
    pub(crate) recoveries: u64,
    /// Publications received by them.
    pub(crate) recovered: u64,
    /// Reconnects with a reported loss.
    pub(crate) losses: u64,
    /// Losses of publications that the topic still had. The server refuses such a recovery only where it would exceed
    /// the connection's outbox, and counts each.
    pub(crate) cuts: u64,
    /// Publications that the policy dropped or replaced.
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.connections += other.connections;
        self.deliveries += other.deliveries;
        self.recoveries += other.recoveries;
        self.recovered += other.recovered;
        self.losses += other.losses;
        self.cuts += other.cuts;
        self.skipped += other.skipped;
    }
}

/// One subscriber's view of one topic.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) topic: usize,
    kind: Kind,
    /// Its position; none before the first report.
    pub(crate) place: Option<Place>,
    /// Up to here no publication may be missing, whatever the policy: the server reported a recovery.
    promised: u64,
}

impl View {
    /// A view of a topic. With `is_strict` no publication may be skipped, whatever the policy.
    pub(crate) fn new(truth: &Truth, topic: usize, is_strict: bool) -> View {
        let mut kind = truth.kind(topic);
        kind.may_skip &= !is_strict;
        View { topic, kind, place: None, promised: 0 }
    }

    /// Starts without a position.
    pub(crate) fn on_start(&mut self) {
        self.place = None;
    }

    /// Reconnects with its position. Until the answer, no publication may be missing.
    pub(crate) fn on_return(&mut self) {
        self.promised = u64::MAX;
    }

    /// The subscription is confirmed with the topic at `top`. Recovered publications may still arrive.
    pub(crate) fn on_subscribed(&mut self, top: Place, recovered: Option<bool>, tally: &mut Tally) {
        match (self.place, recovered) {
            (None, None) => self.place = Some(top),
            (Some(place), Some(true)) => {
                assert_eq!(place.epoch, top.epoch, "recovered from another epoch: {self:?}");
                assert!(place.offset <= top.offset, "recovered from beyond the top, {top:?}: {self:?}");
                tally.recoveries += 1;
                tally.recovered += top.offset - place.offset;
            }
            (Some(_), Some(false)) => self.on_lost(top, tally),
            (place, recovered) => panic!("the server answers {recovered:?} to {place:?}: {self:?}"),
        }
        self.promised = top.offset;
    }

    /// The server reports that the missed publications are lost; the view goes on at `top`. `check_cuts` compares the
    /// losses that the topic's history does not explain with the server's counter.
    pub(crate) fn on_lost(&mut self, top: Place, tally: &mut Tally) {
        let place = self.place.expect("only a known position can be lost");
        assert_eq!(place.epoch, top.epoch, "the epoch changed though the server did not restart: {self:?}");
        let missed = top.offset.checked_sub(place.offset).unwrap_or_else(|| panic!("{top:?} is behind: {self:?}"));
        assert!(missed > 0, "a loss of nothing: {self:?}");
        tally.losses += 1;
        tally.cuts += u64::from(missed <= self.kind.recoverable);
        self.place = Some(top);
    }

    /// The server reports the position after the recovery of `recovered` publications.
    pub(crate) fn on_caught_up(&mut self, top: Place, recovered: u64, tally: &mut Tally) {
        match self.place {
            None => self.place = Some(top),
            Some(place) => {
                assert_eq!(place, top, "the server reports another position: {self:?}");
                tally.recoveries += 1;
                tally.recovered += recovered;
            }
        }
        self.promised = top.offset;
    }

    /// Receives a publication.
    pub(crate) fn on_publication(&mut self, truth: &Truth, place: Place, id: Id, tally: &mut Tally) {
        let last = self.place.unwrap_or_else(|| panic!("{place:?} before any answer: {self:?}"));
        assert_eq!(place.epoch, last.epoch, "another epoch without notice: {self:?}");
        assert!(place.offset > last.offset, "{place:?} arrived again or too late: {self:?}");
        let skipped = place.offset - last.offset - 1;
        let may_skip = self.kind.may_skip && last.offset >= self.promised;
        assert!(skipped == 0 || may_skip, "{skipped} are missing before {place:?}: {self:?}");
        truth.saw(self.topic, place, id);
        tally.skipped += skipped;
        tally.deliveries += 1;
        self.place = Some(place);
    }
}
