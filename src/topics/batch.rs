//! The next subscribers to send to, and the runs of all topics that are due to each.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::Run;
use crate::buf::SlotId;
use crate::limits::FAN_OUT_JOIN_BYTES;

/// A subscriber and the runs that are due to it: a range of the batch's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The subscriber's slot.
    pub slot: SlotId,
    start: u32,
    end: u32,
}

/// Visits to distinct slots, each with one run of every topic that is due.
#[derive(Debug, Default)]
pub struct Batch {
    /// Identifies the batch.
    number: u64,
    runs: Vec<Rc<Run>>,
    /// The runs of all visits, concatenated: indices into `runs`.
    lists: Vec<u32>,
    visits: Vec<Visit>,
    /// The first slot of the current window.
    first: u32,
    /// The runs of each slot of the current window.
    due: Vec<Vec<u32>>,
    /// When each publication arrived that has no more subscribers after this batch.
    pub(super) departed: Vec<u64>,
}

impl Visit {
    /// Whether all due runs have been taken.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl Batch {
    /// The visits, in slot order within a round.
    pub fn visits(&self) -> &[Visit] {
        &self.visits
    }

    /// For each publication whose last subscribers on this shard are in this batch: when it arrived here, in
    /// microseconds.
    pub fn departed_us(&self) -> &[u64] {
        &self.departed
    }

    /// The due runs of a visit.
    pub fn runs(&self, visit: Visit) -> impl ExactSizeIterator<Item = &Rc<Run>> {
        self.list(visit).iter().map(|index| &self.runs[*index as usize])
    }

    /// Takes from a visit the runs of its next send: a single run, or several of at most [`FAN_OUT_JOIN_BYTES`]
    /// together.
    pub fn take_group(&self, visit: &mut Visit) -> Visit {
        let mut bytes = 0;
        let fits = |run: &&Rc<Run>| {
            bytes += run.bytes.len();
            bytes <= FAN_OUT_JOIN_BYTES
        };
        let count = match visit.end - visit.start {
            1 => 1,
            _ => self.runs(*visit).take_while(fits).count().max(1),
        };
        let group = Visit { end: visit.start + count as u32, ..*visit };
        visit.start = group.end;
        group
    }

    /// Clears the batch and releases all frames.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.lists.clear();
        self.visits.clear();
        self.departed.clear();
    }

    /// Clears the batch and sets its number.
    pub(super) fn begin(&mut self, number: u64) {
        self.clear();
        self.number = number;
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Begins a window of `slots` slots from `first`.
    pub(super) fn begin_window(&mut self, first: u32, slots: usize) {
        self.first = first;
        self.due.resize_with(slots, Vec::new);
    }

    /// Adds a run; returns its index.
    pub(super) fn add_run(&mut self, run: Rc<Run>) -> u32 {
        self.runs.push(run);
        self.runs.len() as u32 - 1
    }

    /// Adds the run with this index to a slot of the window.
    pub(super) fn add(&mut self, slot: u32, index: u32) {
        self.due[(slot - self.first) as usize].push(index);
    }

    /// Makes visits of the window's slots. Slots with the same due runs have equal lists.
    pub(super) fn end_window(&mut self) {
        for (offset, due) in self.due.iter_mut().enumerate().filter(|(_, due)| !due.is_empty()) {
            due.sort_unstable();
            let start = self.lists.len() as u32;
            self.lists.append(due);
            let slot = SlotId(self.first + offset as u32);
            self.visits.push(Visit { slot, start, end: self.lists.len() as u32 });
        }
    }

    fn list(&self, visit: Visit) -> &[u32] {
        &self.lists[visit.start as usize..visit.end as usize]
    }
}

/// The joined bytes of visits with several runs: joined once for all visits with the same runs.
#[derive(Debug, Default)]
pub struct Bundles {
    bytes: Vec<u8>,
    /// By a hash of the list of runs: the first visit with that list, and its bytes.
    made: HashMap<u64, (Visit, Range<usize>)>,
}

impl Bundles {
    /// Joins the runs of `visit`. Returns the range of their bytes.
    pub fn join(&mut self, batch: &Batch, visit: Visit) -> Range<usize> {
        let list = batch.list(visit);
        let hash = hash(list);
        if let Some((other, range)) = self.made.get(&hash)
            && batch.list(*other) == list
        {
            return range.clone();
        }
        let start = self.bytes.len();
        batch.runs(visit).for_each(|run| self.bytes.extend_from_slice(&run.bytes));
        let range = start..self.bytes.len();
        self.made.insert(hash, (visit, range.clone()));
        range
    }

    /// The bytes of a range that [`join`](Self::join) has returned.
    pub fn get(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Clears the bundles; keeps the memory of a usual batch.
    pub fn clear(&mut self) {
        self.made.clear();
        self.bytes.clear();
        self.bytes.shrink_to(4 * FAN_OUT_JOIN_BYTES);
    }
}

/// A multiplicative hash. Callers compare the lists, so collisions only cost time.
fn hash(list: &[u32]) -> u64 {
    let add = |hash: u64, index: &u32| (hash.rotate_left(5) ^ u64::from(*index)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    list.iter().fold(list.len() as u64, add)
}

#[cfg(test)]
mod tests {
    use super::super::{NamespaceId, Part, TopicId, Variant};
    use super::*;
    use crate::buf::SharedFrame;

    fn run(bytes: Vec<u8>) -> Rc<Run> {
        let parts = [Part { push: 0, frame: SharedFrame::new(bytes) }].into_iter().collect();
        let (topic, pushes) = (TopicId::default(), Vec::new().into());
        Rc::new(Run::new(topic, NamespaceId::default(), Variant::RAW, pushes, parts).unwrap())
    }

    fn batch(runs: &[&[u8]], due: &[(u32, u32)]) -> Batch {
        let mut batch = Batch::default();
        batch.begin(1);
        batch.begin_window(0, 8);
        for bytes in runs {
            batch.add_run(run(bytes.to_vec()));
        }
        due.iter().for_each(|(slot, index)| batch.add(*slot, *index));
        batch.end_window();
        batch
    }

    #[test]
    fn visits_with_the_same_due_runs_share_their_bytes() {
        let due = [(1, 0), (2, 1), (3, 1), (5, 0), (1, 1), (3, 0), (5, 1)];
        let batch = batch(&[b"a", b"b"], &due);
        let slots: Vec<(u32, usize)> =
            batch.visits().iter().map(|visit| (visit.slot.0, batch.runs(*visit).len())).collect();
        assert_eq!(slots, [(1, 2), (2, 1), (3, 2), (5, 2)]);
        let mut bundles = Bundles::default();
        let ranges: Vec<Range<usize>> = batch.visits().iter().map(|visit| bundles.join(&batch, *visit)).collect();
        assert_eq!(ranges, [0..2, 2..3, 0..2, 0..2]);
        assert_eq!((bundles.get(0..2), bundles.get(2..3)), (&b"ab"[..], &b"b"[..]));
    }

    #[test]
    fn one_send_joins_a_limited_number_of_bytes() {
        let large = vec![0; FAN_OUT_JOIN_BYTES];
        let batch = batch(&[b"a", b"b", &large, b"c"], &[(0, 0), (0, 1), (0, 2), (0, 3)]);
        let mut visit = batch.visits()[0];
        let groups = std::iter::from_fn(|| (!visit.is_empty()).then(|| batch.take_group(&mut visit)));
        let lens: Vec<usize> = groups.map(|group| batch.runs(group).len()).collect();
        assert_eq!(lens, [2, 1, 1]);
    }
}
