//! What one topic has to send: the pushes that are on their way to its subscribers, and those that have not boarded.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use smallvec::SmallVec;

use super::carousel::Place;
use super::{Lane, NamespaceId, Part, Push, Run, TopicId, TopicName, Variant};
use crate::buf::SharedFrame;

/// Gives the frame of a push in a variant, or `None` where the push is not for such subscribers.
pub type Encode<'a> = dyn FnMut(&TopicName, &Push, Variant) -> Option<SharedFrame> + 'a;

/// Newcomers that are remembered before those are looked for that may be forgotten.
const NEWCOMERS_MIN: usize = 64;

/// Whose queue it is.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) topic: TopicId,
    pub(super) name: &'a TopicName,
    pub(super) namespace: NamespaceId,
}

/// A push, and what has been made of it.
#[derive(Debug)]
struct Entry {
    /// Counts the pushes of all topics.
    number: u64,
    push: Push,
    /// Its frame in each variant that was asked for.
    frames: SmallVec<[(Variant, Option<SharedFrame>); 1]>,
    /// Where it leaves the carousel, once it has boarded.
    end: Place,
}

/// The run of all pushes that have boarded, in one variant.
#[derive(Debug)]
struct Cached {
    variant: Variant,
    run: Option<Rc<Run>>,
    /// The batch that it was last put into, and its place there.
    batch: u64,
    index: u32,
}

/// The pushes of a topic that have not been sent to all.
#[derive(Debug)]
pub(super) struct Queue {
    /// The carousel of those that have boarded.
    pub(super) lane: Lane,
    /// Where the topic is in that carousel's order.
    pub(super) place: Option<Place>,
    /// When what waits must board, where it may wait.
    pub(super) due_ms: Option<u64>,
    boarded: VecDeque<Entry>,
    waiting: Vec<Entry>,
    waiting_bytes: usize,
    /// Subscribers who came after some of the pushes here, and the number of the first push that they get.
    newcomers: HashMap<u32, u64>,
    /// The count of newcomers above which some may be forgotten.
    newcomers_max: usize,
    runs: SmallVec<[Cached; 1]>,
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue {
            lane: Lane::Express,
            place: None,
            due_ms: None,
            boarded: VecDeque::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            newcomers: HashMap::new(),
            newcomers_max: NEWCOMERS_MIN,
            runs: SmallVec::new(),
        }
    }

    /// Puts a push last. It waits until it [boards](Self::board).
    pub(super) fn push(&mut self, number: u64, push: Push) {
        self.waiting_bytes += push.bytes();
        self.waiting.push(Entry { number, push, frames: SmallVec::new(), end: Place::default() });
    }

    /// All that waits boards where the cursor is.
    pub(super) fn board(&mut self, cursor: Place) {
        let boarding = self.waiting.drain(..).map(|entry| Entry { end: cursor.next_round(), ..entry });
        self.boarded.extend(boarding);
        self.waiting_bytes = 0;
        self.runs.clear();
    }

    /// Whether something is on its way.
    pub(super) fn has_boarded(&self) -> bool {
        !self.boarded.is_empty()
    }

    /// Whether something has not boarded.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Payload bytes of what has not boarded.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Takes out what leaves at `place` or has left before.
    pub(super) fn expire(&mut self, place: Place) {
        while self.boarded.front().is_some_and(|entry| entry.end <= place) {
            self.boarded.pop_front();
            self.runs.clear();
        }
    }

    /// Where the next push leaves.
    pub(super) fn first_end(&self) -> Option<Place> {
        self.boarded.front().map(|entry| entry.end)
    }

    /// Whether a subscriber at `place` is due anything.
    pub(super) fn is_due_at(&self, place: Place) -> bool {
        self.boarded.back().is_some_and(|entry| place < entry.end)
    }

    /// All that had boarded has left.
    pub(super) fn clear_boarded(&mut self) {
        self.boarded.clear();
        self.runs.clear();
    }

    /// Remembers a subscriber who came before the push with this number, and after all that are here.
    pub(super) fn insert_newcomer(&mut self, slot: u32, number: u64) {
        self.newcomers.insert(slot, number);
        if self.newcomers.len() > self.newcomers_max {
            let first = self.boarded.front().or(self.waiting.first()).map_or(number, |entry| entry.number);
            self.newcomers.retain(|_, number| *number > first);
            self.newcomers_max = NEWCOMERS_MIN.max(2 * self.newcomers.len());
        }
    }

    #[cfg(test)]
    pub(super) fn newcomers(&self) -> usize {
        self.newcomers.len()
    }

    /// Forgets a newcomer who has left.
    pub(super) fn remove_newcomer(&mut self, slot: u32) {
        self.newcomers.remove(&slot);
    }

    /// The number of the first push that a subscriber gets, if it came after some that are on their way.
    pub(super) fn first_number(&self, slot: u32) -> Option<u64> {
        if self.newcomers.is_empty() {
            return None;
        }
        let number = *self.newcomers.get(&slot)?;
        self.boarded.front().filter(|first| first.number < number).map(|_| number)
    }

    /// The place of the run of all that is on its way in batch `batch`, where `add` puts it if it is not there. `None`
    /// if there is nothing for this variant.
    pub(super) fn run_index(
        &mut self,
        owner: Owner<'_>,
        variant: Variant,
        batch: u64,
        add: impl FnOnce(Rc<Run>) -> u32,
        encode: &mut Encode<'_>,
    ) -> Option<u32> {
        let cached = match self.runs.iter().position(|cached| cached.variant == variant) {
            Some(index) => index,
            None => {
                let run = self.make_run(owner, variant, 0, encode);
                self.runs.push(Cached { variant, run, batch: 0, index: 0 });
                self.runs.len() - 1
            }
        };
        let cached = &mut self.runs[cached];
        let run = cached.run.as_ref()?;
        if cached.batch != batch {
            (cached.batch, cached.index) = (batch, add(run.clone()));
        }
        Some(cached.index)
    }

    /// The run of what is on its way from the push with number `first` on.
    pub(super) fn make_run(
        &mut self,
        owner: Owner<'_>,
        variant: Variant,
        first: u64,
        encode: &mut Encode<'_>,
    ) -> Option<Rc<Run>> {
        let Owner { topic, name, namespace } = owner;
        let skipped = self.boarded.partition_point(|entry| entry.number < first);
        let entries = self.boarded.range_mut(skipped..).enumerate();
        let part = |(push, entry): (usize, &mut Entry)| Some(Part { push, frame: entry.frame(name, variant, encode)? });
        let parts = entries.filter_map(part).collect();
        let pushes = self.boarded.range(skipped..).map(|entry| entry.push.clone()).collect();
        Run::new(topic, namespace, variant, pushes, parts).map(Rc::new)
    }
}

impl Entry {
    fn frame(&mut self, name: &TopicName, variant: Variant, encode: &mut Encode<'_>) -> Option<SharedFrame> {
        if let Some((_, frame)) = self.frames.iter().find(|(other, _)| *other == variant) {
            return frame.clone();
        }
        let frame = encode(name, &self.push, variant);
        self.frames.push((variant, frame.clone()));
        frame
    }
}
