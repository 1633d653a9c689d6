//! The queue of one topic: pushes on their way to its subscribers, and pushes that have not boarded.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::carousel::Place;
use super::{Lane, NamespaceId, Part, Push, Run, TagsFilter, TopicId, TopicName, Variant};
use crate::buf::SharedFrame;

/// Returns the frame of a push in a variant, or `None` if subscribers of that variant do not receive the push.
pub type Encode<'a> = dyn FnMut(&TopicName, &Push, Variant) -> Option<SharedFrame> + 'a;

/// Number of newcomers above which a queue first looks for some to forget.
const NEWCOMERS_MIN: usize = 64;

/// The topic of a queue.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) topic: TopicId,
    pub(super) name: &'a TopicName,
    pub(super) namespace: NamespaceId,
    /// Filters of its subscribers, by label.
    pub(super) filters: &'a [Arc<TagsFilter>],
}

/// A push and its frames.
#[derive(Debug)]
struct Entry {
    /// The push's number among those of all topics.
    number: u64,
    /// When it arrived on this shard.
    arrived_us: u64,
    push: Push,
    /// Its frame in each requested variant.
    frames: SmallVec<[(Variant, Option<SharedFrame>); 1]>,
    /// The place where it leaves the carousel, once it has boarded.
    end: Place,
}

/// The run of all boarded pushes in one variant.
#[derive(Debug)]
struct Cached {
    variant: Variant,
    run: Option<Rc<Run>>,
    /// The last batch that contains it, and its index there.
    batch: u64,
    index: u32,
}

/// The pushes of a topic that some subscribers have not received.
#[derive(Debug)]
pub(super) struct Queue {
    /// The carousel of the boarded pushes.
    pub(super) lane: Lane,
    /// The topic's place in that carousel's order.
    pub(super) place: Option<Place>,
    /// The time at which the waiting pushes must board, if they may wait.
    pub(super) due_ms: Option<u64>,
    boarded: VecDeque<Entry>,
    waiting: Vec<Entry>,
    waiting_bytes: usize,
    /// Subscribers that are newer than some pushes here, each with the number of its first push.
    newcomers: HashMap<u32, u64>,
    /// The number of newcomers above which the queue looks for some to forget.
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

    /// Appends a push that arrived at `arrived_us`. It waits until it [boards](Self::board).
    pub(super) fn push(&mut self, number: u64, arrived_us: u64, push: Push) {
        self.waiting_bytes += push.bytes();
        self.waiting.push(Entry { number, arrived_us, push, frames: SmallVec::new(), end: Place::default() });
    }

    /// Boards all waiting pushes at the cursor.
    pub(super) fn board(&mut self, cursor: Place) {
        let boarding = self.waiting.drain(..).map(|entry| Entry { end: cursor.next_round(), ..entry });
        self.boarded.extend(boarding);
        self.waiting_bytes = 0;
        self.runs.clear();
    }

    /// Whether boarded pushes are on their way.
    pub(super) fn has_boarded(&self) -> bool {
        !self.boarded.is_empty()
    }

    /// Whether pushes wait to board.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes of the waiting pushes.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Removes pushes that leave at or before `place`. Appends the time of arrival of each publication to `departed`.
    pub(super) fn expire(&mut self, place: Place, departed: &mut Vec<u64>) {
        while let Some(entry) = self.boarded.front().filter(|entry| entry.end <= place) {
            departed.extend(entry.publication_arrived_us());
            self.boarded.pop_front();
            self.runs.clear();
        }
    }

    /// The place where the next push leaves.
    pub(super) fn first_end(&self) -> Option<Place> {
        self.boarded.front().map(|entry| entry.end)
    }

    /// Whether a subscriber at `place` has due pushes.
    pub(super) fn is_due_at(&self, place: Place) -> bool {
        self.boarded.back().is_some_and(|entry| place < entry.end)
    }

    /// Removes all boarded pushes. Appends the time of arrival of each publication to `departed`.
    pub(super) fn clear_boarded(&mut self, departed: &mut Vec<u64>) {
        departed.extend(self.boarded.drain(..).filter_map(|entry| entry.publication_arrived_us()));
        self.runs.clear();
    }

    /// Remembers a new subscriber and the number of its first push.
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

    /// Forgets a newcomer that has left.
    pub(super) fn remove_newcomer(&mut self, slot: u32) {
        self.newcomers.remove(&slot);
    }

    /// The number of a subscriber's first push, if it is newer than some boarded pushes.
    pub(super) fn first_number(&self, slot: u32) -> Option<u64> {
        if self.newcomers.is_empty() {
            return None;
        }
        let number = *self.newcomers.get(&slot)?;
        self.boarded.front().filter(|first| first.number < number).map(|_| number)
    }

    /// The index in batch `batch` of the run of all boarded pushes; `add` adds the run if the batch lacks it. `None` if
    /// no push is for this variant.
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

    /// The run of the boarded pushes from number `first` on.
    pub(super) fn make_run(
        &mut self,
        owner: Owner<'_>,
        variant: Variant,
        first: u64,
        encode: &mut Encode<'_>,
    ) -> Option<Rc<Run>> {
        let Owner { topic, namespace, .. } = owner;
        let skipped = self.boarded.partition_point(|entry| entry.number < first);
        let entries = self.boarded.range_mut(skipped..).enumerate();
        // Of those that receive deltas, some may not have the publication before the first.
        let mut form = variant;
        let part = |(push, entry): (usize, &mut Entry)| {
            let frame = entry.frame(owner, form, encode);
            if entry.is_publication() {
                form.encoding = form.encoding.after_publication();
            }
            Some(Part { push, frame: frame? })
        };
        let parts = entries.filter_map(part).collect();
        let pushes = self.boarded.range(skipped..).map(|entry| entry.push.clone()).collect();
        Run::new(topic, namespace, variant, pushes, parts).map(Rc::new)
    }
}

impl Entry {
    /// When it arrived, if it is a publication.
    fn publication_arrived_us(&self) -> Option<u64> {
        self.is_publication().then_some(self.arrived_us)
    }

    fn is_publication(&self) -> bool {
        matches!(self.push, Push::Publication(_))
    }

    fn frame(&mut self, owner: Owner<'_>, variant: Variant, encode: &mut Encode<'_>) -> Option<SharedFrame> {
        if let Some((_, frame)) = self.frames.iter().find(|(other, _)| *other == variant) {
            return frame.clone();
        }
        let frame = match variant.encoding.is_filtered() {
            true => self.filtered_frame(owner, variant, encode),
            false => encode(owner.name, &self.push, variant),
        };
        self.frames.push((variant, frame.clone()));
        frame
    }

    /// The frame of all subscribers without this filter, if the push matches it.
    fn filtered_frame(&mut self, owner: Owner<'_>, variant: Variant, encode: &mut Encode<'_>) -> Option<SharedFrame> {
        let filter = owner.filters.get(usize::from(variant.label)).expect("a filter with subscribers has a label");
        if let Push::Publication(publication) = &self.push
            && !filter.matches(publication.body.tags.as_deref().unwrap_or_default())
        {
            return None;
        }
        self.frame(owner, Variant { encoding: variant.encoding.whole(), label: 0, ..variant }, encode)
    }
}
