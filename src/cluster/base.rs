//! Older ledgers of a bucket, for nodes that join.
//!
//! A node that takes the present ledger of a peer knows all positions and no history: its clients could recover nothing
//! that was published before. So a node keeps a ledger that is older than its histories, and gives that away. The node
//! that joins counts the log from there, as it counts everything else, and has the histories when it has reached the
//! end.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;

use super::ledger::Ledger;

/// Ledgers that a node keeps of each bucket: the older one is given away, the newer one replaces it.
const BASES: usize = 2;

/// The parts of a log of which two are kept between the older ledger and the log's end, at most: with a third one
/// as reserve, the log still holds all records behind the older ledger when a node begins to read them.
const LOG_PARTS: u64 = 3;

/// How far back the ledgers for joining nodes reach.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reach {
    /// How long the longest history keeps publications, in milliseconds; `u64::MAX` without a limit, 0 without
    /// histories.
    pub history_ms: u64,
    /// How long the log keeps records, in milliseconds.
    pub log_age_ms: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
}

/// A ledger at a sequence of the log, encoded.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) sequence: u64,
    /// Log time of its last record.
    log_ms: u64,
    pub(super) bytes: Bytes,
}

impl Base {
    pub(super) fn new(sequence: u64, ledger: &Ledger) -> Base {
        Base { sequence, log_ms: ledger.log_ms(), bytes: ledger.to_snapshot().encode_to_vec().into() }
    }
}

/// The ledgers that are kept of a bucket.
#[derive(Debug, Default)]
pub(super) struct Bases {
    /// The oldest first.
    list: VecDeque<Base>,
    /// Bytes of records behind the newest one.
    bytes_since: u64,
}

impl Bases {
    /// Begins with the ledger from which a node reads.
    pub(super) fn new(sequence: u64, ledger: &Ledger, reach: Reach) -> Bases {
        let mut bases = Bases::default();
        if reach.history_ms > 0 {
            bases.list.push_back(Base::new(sequence, ledger));
        }
        bases
    }

    /// The record at `sequence` was counted: keeps this ledger if the newest one is too far behind.
    pub(super) fn on_record(&mut self, sequence: u64, record_bytes: usize, ledger: &Ledger, reach: Reach) {
        let Some(newest) = self.list.back() else { return };
        self.bytes_since += record_bytes as u64;
        let age_ms = ledger.log_ms().saturating_sub(newest.log_ms);
        let is_old = age_ms >= reach.history_ms.min(reach.log_age_ms / LOG_PARTS);
        if is_old || self.bytes_since >= reach.log_bytes / LOG_PARTS {
            if self.list.len() == BASES {
                self.list.pop_front();
            }
            self.list.push_back(Base::new(sequence, ledger));
            self.bytes_since = 0;
        }
    }

    /// The ledger for a node that joins.
    pub(super) fn oldest(&self) -> Option<&Base> {
        self.list.front()
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;

    const REACH: Reach = Reach { history_ms: 1000, log_age_ms: 30_000, log_bytes: 3000 };

    /// The sequence of the ledger that is given away after each record: (log time, bytes).
    fn oldest(reach: Reach, records: &[(u64, usize)]) -> Vec<Option<u64>> {
        let ledger = |log_ms| Ledger::reset(1, &Record { time_ms: log_ms, ..Record::default() });
        let mut bases = Bases::new(1, &ledger(0), reach);
        let mut given = Vec::new();
        for (sequence, (log_ms, bytes)) in (2..).zip(records) {
            bases.on_record(sequence, *bytes, &ledger(*log_ms), reach);
            given.push(bases.oldest().map(|base| base.sequence));
        }
        given
    }

    #[test]
    fn the_ledger_for_others_is_older_than_histories_and_younger_than_the_log() {
        let by_time = [(999, 1), (1000, 1), (1999, 1), (2000, 1), (2999, 1), (3000, 1)];
        assert_eq!(oldest(REACH, &by_time), [1, 1, 1, 3, 3, 5].map(Some));
        let by_bytes = [(1, 999), (1, 1), (1, 999), (1, 1)];
        assert_eq!(oldest(REACH, &by_bytes), [1, 1, 1, 3].map(Some));
        let endless = Reach { history_ms: u64::MAX, ..REACH };
        assert_eq!(oldest(endless, &[(10_000, 1), (19_999, 1), (20_000, 1)]), [1, 1, 2].map(Some));
        assert_eq!(oldest(Reach { history_ms: 0, ..REACH }, &[(5000, 1)]), [None]);
    }
}
