//! The records of a bucket's log in order, each once, from two sources: live copies, of which some are lost, and
//! fetches from the log itself.
//!
//! The log is trusted to keep what it has acknowledged only as far as can be checked: a log that ends before the
//! reader's place for long, or that holds another record where the reader has read one, was *rewritten*. A log that no
//! longer holds the next record has *left the reader behind*.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::ledger::record_hash;
use crate::limits::{CLUSTER_EARLY_BYTES_MAX, CLUSTER_POLL_MS, CLUSTER_RECENT_RECORDS, CLUSTER_REWIND_MS};

/// How long after a gap appears its records may still arrive by themselves, in milliseconds.
const GAP_MS: u64 = 50;

/// How long after a sign of later records these may still arrive by themselves, in milliseconds.
const SIGN_MS: u64 = 250;

/// Pause after a failed fetch, in milliseconds.
const FETCH_RETRY_MS: u64 = 500;

/// Time after which a fetch without an end has failed, in milliseconds.
const FETCH_LOST_MS: u64 = 20_000;

/// What a record is to the reader.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The next one: count it, then [`take`](Reader::take) those behind it.
    Next,
    /// It was read before, or is kept until the gap before it has closed.
    Later,
    /// The log was rewritten.
    Rewritten,
}

/// Why reading can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The log was rewritten.
    Rewritten,
    /// The log no longer holds the next record.
    LeftBehind,
}

/// A place in a bucket's log.
#[derive(Debug)]
pub(super) struct Reader {
    /// The sequence of the last record that was read.
    applied: u64,
    /// Hash of the record and digest of the ledger, for the last records up to `applied`.
    recent: VecDeque<(u64, u64)>,
    /// Records behind a gap.
    early: BTreeMap<u64, Bytes>,
    early_bytes: usize,
    /// The last sequence that is known to be in the log.
    end: u64,
    /// When to fetch, unless everything up to `end` has been read.
    fetch_ms: u64,
    /// Since when a fetch is under way.
    fetching_ms: Option<u64>,
    /// Since when the log has seemed to end before `applied`.
    short_ms: Option<u64>,
    /// What a peer had read, whose older ledger this reader began with: the log must lead there.
    mark: Option<Mark>,
    /// Everything that was in the log at some moment since the start has been read.
    is_caught_up: bool,
}

/// A place in a log, and the digest of all counted records up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) sequence: u64,
    pub(super) digest: u64,
}

impl Reader {
    /// A reader behind the record at `applied`.
    pub(super) fn new(applied: u64, now_ms: u64) -> Reader {
        Reader {
            applied,
            recent: VecDeque::new(),
            early: BTreeMap::new(),
            early_bytes: 0,
            end: applied,
            fetch_ms: now_ms,
            fetching_ms: None,
            short_ms: None,
            mark: None,
            is_caught_up: false,
        }
    }

    /// Sets what a peer has read: a log that does not lead there was rewritten.
    pub(super) fn set_mark(&mut self, mark: Mark) {
        self.mark = Some(mark).filter(|mark| mark.sequence > self.applied);
    }

    /// The sequence of the last record that was read.
    pub(super) fn applied(&self) -> u64 {
        self.applied
    }

    /// Whether the reader has once reached the end of the log.
    pub(super) fn is_caught_up(&self) -> bool {
        self.is_caught_up
    }

    /// The last sequence that this node, or the peer it began with, has read.
    #[cfg(test)]
    pub(super) fn known(&self) -> u64 {
        self.mark.map_or(self.applied, |mark| mark.sequence)
    }

    /// Records that are known to be in the log and were not read.
    pub(super) fn behind(&self) -> u64 {
        self.end.saturating_sub(self.applied)
    }

    /// Looks at a record. Call [`advance`](Self::advance) when the next one is counted.
    pub(super) fn on_record(&mut self, sequence: u64, bytes: &Bytes, now_ms: u64) -> Place {
        if sequence <= self.applied {
            let age = self.applied - sequence;
            // A copy that is older than all that is remembered can't be a late one: copies arrive in order.
            let known = (self.recent.len() as u64).checked_sub(age + 1).map(|index| self.recent[index as usize].0);
            let is_known = match known {
                Some(hash) => hash == record_hash(sequence, bytes),
                None => self.recent.len() < CLUSTER_RECENT_RECORDS,
            };
            return if is_known { Place::Later } else { Place::Rewritten };
        }
        if sequence == self.applied + 1 {
            return Place::Next;
        }
        self.note_end(sequence, now_ms + GAP_MS);
        if self.early_bytes + bytes.len() <= CLUSTER_EARLY_BYTES_MAX && !self.early.contains_key(&sequence) {
            self.early_bytes += bytes.len();
            self.early.insert(sequence, bytes.clone());
        }
        Place::Later
    }

    /// The next record has been counted, and the ledger's digest is `digest` now. Returns whether a peer has read the
    /// same, as far as one is known that has read up to here.
    pub(super) fn advance(&mut self, hash: u64, digest: u64) -> bool {
        self.applied += 1;
        self.end = self.end.max(self.applied);
        self.short_ms = None;
        if self.recent.len() == CLUSTER_RECENT_RECORDS {
            self.recent.pop_front();
        }
        self.recent.push_back((hash, digest));
        let mark = self.mark.take_if(|mark| mark.sequence <= self.applied);
        mark.is_none_or(|mark| mark.digest == digest)
    }

    /// The record behind the last one, if it has arrived early.
    pub(super) fn take(&mut self) -> Option<(u64, Bytes)> {
        let (sequence, _) = self.early.first_key_value()?;
        if *sequence > self.applied + 1 {
            return None;
        }
        let (sequence, bytes) = self.early.pop_first().expect("there is a first one");
        self.early_bytes -= bytes.len();
        Some((sequence, bytes))
    }

    /// Whether a writer that had read up to `sequence` with this digest has read the same log.
    pub(super) fn agrees(&self, sequence: u64, digest: u64) -> bool {
        let age = self.applied.checked_sub(sequence);
        let index = age.and_then(|age| (self.recent.len() as u64).checked_sub(age + 1));
        index.is_none_or(|index| self.recent[index as usize].1 == digest)
    }

    /// A sign that the log holds a record at `sequence`: an acknowledgement, or a peer's place.
    pub(super) fn on_sign(&mut self, sequence: u64, now_ms: u64) {
        if sequence > self.applied {
            self.note_end(sequence, now_ms + SIGN_MS);
        }
    }

    fn note_end(&mut self, end: u64, fetch_ms: u64) {
        if self.behind() == 0 {
            self.fetch_ms = self.fetch_ms.min(fetch_ms);
        }
        self.end = self.end.max(end);
    }

    /// The sequence behind which records must be fetched now, if any.
    pub(super) fn on_time(&mut self, now_ms: u64) -> Option<u64> {
        let is_lost = |since_ms: u64| now_ms >= since_ms + FETCH_LOST_MS;
        if self.fetching_ms.is_some_and(|since_ms| !is_lost(since_ms)) || now_ms < self.fetch_ms {
            return None;
        }
        self.fetching_ms = Some(now_ms);
        self.fetch_ms = now_ms + CLUSTER_POLL_MS;
        Some(self.applied)
    }

    /// A fetch has ended: the log held the records `first` to `last` when it began, and all or some were returned.
    pub(super) fn on_fetched(&mut self, first: u64, last: u64, now_ms: u64) -> Result<(), Trouble> {
        self.fetching_ms = None;
        self.fetch_ms = now_ms + CLUSTER_POLL_MS;
        if last < self.mark.map_or(self.applied, |mark| mark.sequence) {
            let short_ms = *self.short_ms.get_or_insert(now_ms);
            return if now_ms >= short_ms + CLUSTER_REWIND_MS { Err(Trouble::Rewritten) } else { Ok(()) };
        }
        self.short_ms = None;
        if first > self.applied + 1 {
            return Err(Trouble::LeftBehind);
        }
        self.end = self.end.max(last);
        if self.applied >= last {
            self.is_caught_up = true;
        } else {
            self.fetch_ms = now_ms;
        }
        Ok(())
    }

    /// A fetch has failed.
    pub(super) fn on_fetch_failed(&mut self, now_ms: u64) {
        self.fetching_ms = None;
        self.fetch_ms = now_ms + FETCH_RETRY_MS;
    }

    /// The connection to the log was cut and is there again: records may have been missed.
    pub(super) fn on_reconnect(&mut self, now_ms: u64) {
        self.fetching_ms = None;
        self.fetch_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    /// Reads a record and all that follow; returns how many were read.
    fn read(reader: &mut Reader, sequence: u64, text: &'static str, now_ms: u64) -> Result<usize, Trouble> {
        let mut next = Some((sequence, bytes(text)));
        let mut count = 0;
        while let Some((sequence, bytes)) = next {
            match reader.on_record(sequence, &bytes, now_ms) {
                Place::Next => {
                    assert!(reader.advance(record_hash(sequence, &bytes), sequence * 10));
                    count += 1;
                }
                Place::Later => {}
                Place::Rewritten => return Err(Trouble::Rewritten),
            }
            next = reader.take();
        }
        Ok(count)
    }

    #[test]
    fn a_gap_is_fetched_and_nothing_is_read_twice() {
        let mut reader = Reader::new(5, 0);
        assert_eq!(reader.on_time(0), Some(5), "the first fetch finds the end of the log");
        assert_eq!((reader.on_fetched(1, 5, 0), reader.is_caught_up()), (Ok(()), true));
        assert_eq!(read(&mut reader, 6, "6", 1), Ok(1));
        assert_eq!(read(&mut reader, 8, "8", 1), Ok(0));
        assert_eq!(read(&mut reader, 9, "9", 2), Ok(0));
        assert_eq!((reader.on_time(50), reader.on_time(51), reader.behind()), (None, Some(6), 3));
        assert_eq!(reader.on_time(60), None, "it is under way");
        assert_eq!(read(&mut reader, 7, "7", 70), Ok(3));
        assert_eq!(read(&mut reader, 8, "8", 70), Ok(0), "fetched after it had been read");
        assert_eq!((reader.applied(), reader.on_fetched(1, 9, 71)), (9, Ok(())));
        assert_eq!((reader.on_time(2000), reader.on_time(2071)), (None, Some(9)), "a quiet log is looked at");
    }

    #[test]
    fn a_fetch_goes_on_until_the_end_and_is_repeated_when_it_fails() {
        let mut reader = Reader::new(0, 0);
        assert_eq!(reader.on_time(0), Some(0));
        assert_eq!(read(&mut reader, 1, "1", 0), Ok(1));
        assert_eq!((reader.on_fetched(1, 3, 0), reader.is_caught_up()), (Ok(()), false));
        assert_eq!(reader.on_time(0), Some(1));
        reader.on_fetch_failed(5);
        assert_eq!((reader.on_time(504), reader.on_time(505)), (None, Some(1)));
        assert_eq!(reader.on_time(505 + FETCH_LOST_MS), Some(1), "nobody has answered");
        reader.on_reconnect(30_000);
        assert_eq!(reader.on_time(30_000), Some(1));
    }

    #[test]
    fn a_sign_of_later_records_leads_to_a_fetch() {
        let mut reader = Reader::new(5, 0);
        reader.on_time(0);
        reader.on_fetched(1, 5, 0).unwrap();
        reader.on_sign(5, 10);
        assert_eq!(reader.on_time(1000), None);
        reader.on_sign(6, 1000);
        assert_eq!((reader.on_time(1249), reader.on_time(1250)), (None, Some(5)));
    }

    #[test]
    fn a_log_that_has_moved_on_leaves_the_reader_behind() {
        let mut reader = Reader::new(5, 0);
        assert_eq!(reader.on_fetched(6, 9, 0), Ok(()));
        assert_eq!(reader.on_fetched(7, 9, 0), Err(Trouble::LeftBehind));
    }

    #[test]
    fn a_rewritten_log_is_noticed() {
        let mut reader = Reader::new(0, 0);
        for (sequence, text) in [(1, "1"), (2, "2"), (3, "3")] {
            read(&mut reader, sequence, text, 0).unwrap();
        }
        assert_eq!(read(&mut reader, 2, "2", 0), Ok(0), "a late copy");
        assert_eq!(read(&mut reader, 2, "x", 0), Err(Trouble::Rewritten));
        assert!(reader.agrees(2, 20) && reader.agrees(3, 30) && !reader.agrees(3, 31));
        assert!(reader.agrees(0, 1) && reader.agrees(4, 1), "nothing is known of these");
        assert_eq!(reader.on_fetched(1, 2, 1000), Ok(()), "a new leader may be behind for a moment");
        assert_eq!(reader.on_fetched(1, 3, 2000), Ok(()));
        assert_eq!(reader.on_fetched(1, 2, 3000), Ok(()));
        assert_eq!(reader.on_fetched(1, 2, 3000 + CLUSTER_REWIND_MS), Err(Trouble::Rewritten));
    }

    #[test]
    fn a_log_must_lead_to_what_a_peer_has_read() {
        let begin = |digest| {
            let mut reader = Reader::new(5, 0);
            reader.set_mark(Mark { sequence: 7, digest });
            assert_eq!((reader.on_time(0), reader.on_fetched(1, 6, 0)), (Some(5), Ok(())));
            reader
        };
        let mut reader = begin(70);
        assert_eq!((read(&mut reader, 6, "6", 0), reader.is_caught_up()), (Ok(1), false));
        assert_eq!(reader.on_fetched(1, 6, 0), Ok(()), "a new leader may be behind for a moment");
        assert_eq!(reader.on_fetched(1, 6, CLUSTER_REWIND_MS - 1), Ok(()));
        assert_eq!(reader.on_fetched(1, 6, CLUSTER_REWIND_MS), Err(Trouble::Rewritten));
        for (digest, is_same) in [(70, true), (71, false)] {
            let mut reader = begin(digest);
            assert!(reader.advance(1, 60));
            assert_eq!(reader.advance(2, 70), is_same);
            assert!(reader.advance(3, 80), "the mark is behind");
        }
    }

    #[test]
    fn what_is_kept_behind_a_gap_is_bounded() {
        let mut reader = Reader::new(0, 0);
        let large = Bytes::from(vec![0; CLUSTER_EARLY_BYTES_MAX / 4]);
        for sequence in 2..20 {
            assert_eq!(reader.on_record(sequence, &large, 0), Place::Later);
        }
        assert_eq!((reader.early.len(), reader.early_bytes, reader.behind()), (4, CLUSTER_EARLY_BYTES_MAX, 19));
    }
}
