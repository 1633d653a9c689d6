//! The server stops: it closes its connections in random order and at an even pace, so that the servers to which the
//! clients reconnect see no storm.

use super::accept::Shed;
use super::random::Random;
use super::shard::Shard;
use super::slot::Stage;
use crate::buf::{ConnId, SlotId};
use crate::conn::Phase;
use crate::limits::{DRAIN_HANDOVER_MS, DRAIN_SETTLE_MS, TICK_MS};
use crate::proto::CloseCode;
use crate::ring::Ring;

/// A shard that leaves.
#[derive(Debug)]
pub(super) struct Drain {
    /// Connections that are still open, the next one last.
    left: Vec<ConnId>,
    total: usize,
    /// When the first may be told. Until it is, all that was published before goes out.
    start_ms: u64,
    has_begun: bool,
    spread_ms: u64,
    patience_ms: u64,
    /// Since when the shard has nothing left to do but to hand over what it has sent.
    done_ms: Option<u64>,
}

impl Drain {
    /// Tells `all` from `start_ms` on, over `spread_ms`; they have `patience_ms` more to answer.
    pub(super) fn new(
        mut all: Vec<ConnId>,
        random: &mut Random,
        start_ms: u64,
        spread_ms: u64,
        patience_ms: u64,
    ) -> Drain {
        random.shuffle(&mut all);
        Drain { total: all.len(), left: all, start_ms, has_begun: false, spread_ms, patience_ms, done_ms: None }
    }

    /// Begins, if it has not and may. `has_work`: something that was published before is on its way, which is waited
    /// for no longer than for the answers of peers, since clients may go on publishing.
    pub(super) fn begin(&mut self, now_ms: u64, has_work: bool) {
        let is_late = now_ms >= self.start_ms.saturating_add(self.patience_ms);
        if !self.has_begun && now_ms >= self.start_ms && (is_late || !has_work) {
            (self.start_ms, self.has_begun) = (now_ms, true);
        }
    }

    /// The next one who should have been told by now.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<ConnId> {
        if !self.has_begun {
            return None;
        }
        let elapsed_ms = now_ms.saturating_sub(self.start_ms);
        let due = match self.spread_ms {
            spread_ms if elapsed_ms >= spread_ms => self.total,
            spread_ms => (self.total as u128 * u128::from(elapsed_ms) / u128::from(spread_ms)) as usize,
        };
        let told = self.total - self.left.len();
        if told < due { self.left.pop() } else { None }
    }

    /// When to go on.
    pub(super) fn next_ms(&self, now_ms: u64) -> u64 {
        match self.has_begun {
            false => self.start_ms.max(now_ms),
            true if self.left.is_empty() => self.deadline_ms(),
            true => now_ms + TICK_MS,
        }
    }

    /// Whether whatever is left ends now.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        self.has_begun && now_ms >= self.deadline_ms()
    }

    /// Those that are still open.
    pub(super) fn into_left(self) -> Vec<ConnId> {
        self.left
    }

    fn deadline_ms(&self) -> u64 {
        self.start_ms.saturating_add(self.spread_ms).saturating_add(self.patience_ms)
    }
}

impl<R: Ring> Shard<'_, R> {
    /// Leaves gracefully: accepts nobody any more, and has everybody go.
    pub(super) fn drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        let mut all = Vec::with_capacity(self.slots.len());
        let mut new = Vec::new();
        for slot in self.slots.iter() {
            let is_new = matches!(slot.conn.phase(), Phase::Handshake(_));
            if is_new { &mut new } else { &mut all }.push(slot.id);
        }
        let (spread_ms, patience_ms) = (self.config.drain_spread_ms, self.config.drain_timeout_ms);
        let start_ms = self.now_ms + DRAIN_SETTLE_MS;
        self.drain = Some(Drain::new(all, &mut self.random, start_ms, spread_ms, patience_ms));
        self.stop_accepting();
        // Nothing is lost to who comes just now and goes elsewhere at once.
        new.into_iter().for_each(|id| self.shed(id.slot, Shed::Leaving));
    }

    /// Tells those whose turn it is.
    pub(super) fn drain_some(&mut self) {
        let has_work = !self.topics.is_quiet() || self.mesh.has_incoming();
        if let Some(drain) = &mut self.drain {
            drain.begin(self.now_ms, has_work);
        }
        while let Some(id) = self.drain.as_mut().and_then(|drain| drain.next(self.now_ms)) {
            if let Some(slot) = self.find(id) {
                self.close_for_drain(slot);
            }
        }
        let is_empty = self.slots.is_empty();
        if let Some(drain) = &mut self.drain
            && (is_empty || drain.is_over(self.now_ms))
        {
            drain.done_ms.get_or_insert(self.now_ms);
        }
        let left = self.drain.as_ref().map_or(0, |drain| drain.left.len());
        self.metrics.drain_left.set(left as u64);
    }

    /// When the drain goes on, if there is one.
    pub(super) fn next_drain_ms(&self) -> Option<u64> {
        self.drain.as_ref().map(|drain| drain.next_ms(self.now_ms))
    }

    /// Whether the shard has drained: it has no connection, the other shards have taken its parcels, and it has taken
    /// theirs. It waits for neither for long, since they may continue to send.
    pub(super) fn has_left(&self) -> bool {
        let Some(drain) = &self.drain else { return false };
        let is_done = self.slots.is_empty() || drain.is_over(self.now_ms);
        let is_late = drain.done_ms.is_some_and(|done_ms| self.now_ms >= done_ms + DRAIN_HANDOVER_MS);
        is_done && (is_late || !self.mesh.has_untaken() && !self.mesh.has_incoming())
    }

    /// Whether the shard stays only for the others to take what it has sent them. No completion says when they have.
    pub(super) fn is_handing_over(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.done_ms.is_some()) && self.mesh.has_untaken()
    }

    fn close_for_drain(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        if entry.stage != Stage::Serving || !entry.conn.phase().is_served() {
            return;
        }
        self.call_handler(slot, |handler, context| handler.on_drain(context));
        if self.is_listening(slot) {
            self.call_handler(slot, |_, context| context.close(CloseCode::GOING_AWAY, ""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(count: u32, spread_ms: u64) -> Drain {
        let all = (0..count).map(|slot| ConnId { slot: SlotId(slot), generation: 0 }).collect();
        let mut drain = Drain::new(all, &mut Random::new(1), 1000, spread_ms, 500);
        drain.begin(1000, false);
        drain
    }

    fn told(drain: &mut Drain, now_ms: u64) -> Vec<u32> {
        std::iter::from_fn(|| drain.next(now_ms)).map(|id| id.slot.0).collect()
    }

    #[test]
    fn everybody_is_told_once_at_an_even_pace() {
        let mut drain = drain(1000, 20_000);
        let mut all = Vec::new();
        for second in 1..=20 {
            let told = told(&mut drain, 1000 + second * 1000);
            assert_eq!(told.len(), 50, "in second {second}");
            all.extend(told);
        }
        assert!(!all.is_sorted());
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1000));
        assert_eq!(drain.next_ms(21_000), 21_500, "then they have some time to answer");
    }

    #[test]
    fn nobody_is_told_while_something_is_on_its_way() {
        let all = vec![ConnId { slot: SlotId(1), generation: 0 }];
        let mut drain = Drain::new(all, &mut Random::new(1), 1000, 0, 500);
        drain.begin(999, false);
        assert_eq!((told(&mut drain, 999), drain.next_ms(999)), (vec![], 1000), "it may not have come yet");
        drain.begin(1000, true);
        assert_eq!((told(&mut drain, 1000), drain.next_ms(1000)), (vec![], 1000));
        drain.begin(1300, false);
        assert_eq!((told(&mut drain, 1300), drain.next_ms(1300)), (vec![1], 1800));
    }

    #[test]
    fn those_who_go_on_publishing_do_not_keep_it_from_beginning() {
        let all = vec![ConnId { slot: SlotId(1), generation: 0 }];
        let mut drain = Drain::new(all, &mut Random::new(1), 1000, 0, 500);
        drain.begin(1499, true);
        assert!(told(&mut drain, 1499).is_empty());
        drain.begin(1500, true);
        assert_eq!(told(&mut drain, 1500), [1]);
    }

    #[test]
    fn without_a_spread_everybody_is_told_at_once() {
        assert_eq!(told(&mut drain(5, 0), 1000).len(), 5);
        let mut nobody = drain(0, 1000);
        assert_eq!((told(&mut nobody, 1500).len(), nobody.next_ms(1500)), (0, 2500));
    }
}
