//! The history of a topic, and the publications that a reconnecting subscriber has missed.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Body, Epoch, Namespace, Position, StateCursor, StatePage, TagsFilter};
use crate::limits::{HISTORY_ANSWER_MAX, RECOVERY_PUBLICATIONS_MAX};

/// The earlier publications that a new subscriber requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// None.
    None,
    /// All after this offset. Without an epoch, the offset is of the current epoch.
    Since {
        /// The epoch of the subscriber's last position.
        epoch: Option<Epoch>,
        /// The subscriber's last offset.
        offset: u64,
    },
    /// This many of the newest.
    Last(usize),
    /// The newest, unless the subscriber has it: its last position is this one.
    Newest {
        /// The epoch of the subscriber's last position.
        epoch: Option<Epoch>,
        /// The subscriber's last offset; 0 has none.
        offset: u64,
    },
    /// The state of a keyed topic: all of it, or the rest after a page. [`Since`](Self::Since) requests what has
    /// changed of it since then.
    State(Option<StateCursor>),
}

impl CatchUp {
    /// Whether it is of the epoch of `top`, and of a later position.
    pub fn is_ahead_of(self, top: Position) -> bool {
        match self {
            CatchUp::Since { epoch, offset } => epoch.is_none_or(|epoch| epoch == top.epoch) && offset > top.offset,
            CatchUp::None | CatchUp::Last(_) | CatchUp::Newest { .. } | CatchUp::State(_) => false,
        }
    }
}

/// The result of a [`CatchUp`].
#[derive(Clone, Debug)]
pub enum Recovery {
    /// The subscriber requested none.
    NotAsked,
    /// The requested publications, in order.
    Recovered(Vec<Arc<Body>>),
    /// The last page of a keyed topic's state.
    State(Arc<StatePage>),
    /// Not available: the history no longer holds the missed publications, they exceed a limit, or the epoch has
    /// changed.
    Lost,
}

impl Recovery {
    /// Keeps the publications that match.
    pub(crate) fn retain(&mut self, filter: &TagsFilter) {
        if let Recovery::Recovered(missed) = self {
            missed.retain(|body| filter.matches(body.tags.as_deref().unwrap_or_default()));
        }
    }

    /// Limits the recovery to `room` bytes, where `size` returns the bytes of a publication: keeps the newest for
    /// [`CatchUp::Last`], and all or none otherwise. Returns the bytes of the rest.
    pub fn fit(&mut self, catch_up: CatchUp, room: usize, size: impl Fn(&Body) -> usize) -> usize {
        let Recovery::Recovered(missed) = self else { return 0 };
        let mut bytes = 0;
        let fits = |body: &&Arc<Body>| {
            let sum: usize = bytes + size(body);
            let fits = sum <= room;
            bytes = if fits { sum } else { bytes };
            fits
        };
        let fitting = missed.iter().rev().take_while(fits).count();
        if fitting == missed.len() {
            return bytes;
        }
        if matches!(catch_up, CatchUp::Last(_)) {
            missed.drain(..missed.len() - fitting);
            return bytes;
        }
        *self = Recovery::Lost;
        0
    }
}

/// A query for a part of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Maximum number of publications, at most [`HISTORY_ANSWER_MAX`]; 0 requests only the position.
    pub limit: usize,
    /// Publications after this position, or before it if reversed. `None` starts at the oldest, or at the newest if
    /// reversed.
    pub since: Option<Position>,
    /// Whether to read from the newest to the oldest.
    pub is_reverse: bool,
    /// Maximum bytes of all publications together, as [`Body::encoded_bytes`] estimates them. A page holds at least one
    /// publication, so reading page after page returns all.
    pub bytes_max: usize,
}

impl Default for HistoryQuery {
    /// Requests only the position.
    fn default() -> Self {
        HistoryQuery { limit: 0, since: None, is_reverse: false, bytes_max: usize::MAX }
    }
}

/// A part of a history.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// The topic's current position.
    pub position: Position,
    /// The requested publications; `None` if the query's position is of another epoch.
    pub publications: Option<Vec<Arc<Body>>>,
}

/// The retained publications of a topic, in order and without gaps.
#[derive(Debug, Default)]
pub struct History {
    kept: VecDeque<Arc<Body>>,
    bytes: usize,
}

impl History {
    /// Adds the newest publication and drops the oldest beyond the namespace's limits.
    pub fn push(&mut self, body: Arc<Body>, namespace: &Namespace) {
        let now_ms = body.time_ms;
        self.bytes += body.payload().len();
        self.kept.push_back(body);
        while self.kept.len() > namespace.history_size {
            self.drop_oldest();
        }
        self.shrink_to(namespace.history_bytes_max);
        self.expire(namespace, now_ms);
    }

    /// Drops the oldest publications until at most `bytes_max` bytes are left.
    pub fn shrink_to(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            self.drop_oldest();
        }
    }

    /// Drops publications older than the namespace's TTL.
    pub fn expire(&mut self, namespace: &Namespace, now_ms: u64) {
        if namespace.history_ttl_ms == 0 {
            return;
        }
        let is_old = |body: &Arc<Body>| now_ms >= body.time_ms.saturating_add(namespace.history_ttl_ms);
        while self.kept.front().is_some_and(is_old) {
            self.drop_oldest();
        }
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(body) = self.kept.pop_front() {
            self.bytes -= body.payload().len();
        }
    }

    /// Number of retained publications.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Bytes of all retained payloads.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no publication is retained.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The publications that a subscriber has missed, when the topic is at `top`: at most `bytes_max` bytes of payload.
    pub fn recover(&self, catch_up: CatchUp, top: Position, bytes_max: usize) -> Recovery {
        match catch_up {
            CatchUp::None | CatchUp::State(_) => Recovery::NotAsked,
            CatchUp::Last(count) => {
                let count = count.min(RECOVERY_PUBLICATIONS_MAX).min(self.fitting(bytes_max));
                Recovery::Recovered(self.kept.range(self.kept.len() - count..).cloned().collect())
            }
            CatchUp::Newest { epoch, offset } => {
                if offset > 0 && epoch == Some(top.epoch) && offset == top.offset {
                    return Recovery::Recovered(Vec::new());
                }
                match self.kept.back() {
                    Some(newest) if newest.position == top && self.fitting(bytes_max) > 0 => {
                        Recovery::Recovered(vec![newest.clone()])
                    }
                    _ => Recovery::Lost,
                }
            }
            CatchUp::Since { epoch, offset } => {
                if epoch.is_some_and(|epoch| epoch != top.epoch) || offset > top.offset {
                    return Recovery::Lost;
                }
                let missed = (top.offset - offset) as usize;
                if missed > self.fitting(bytes_max) || missed > RECOVERY_PUBLICATIONS_MAX || !self.reaches(top, missed)
                {
                    return Recovery::Lost;
                }
                Recovery::Recovered(self.kept.range(self.kept.len() - missed..).cloned().collect())
            }
        }
    }

    /// The number of newest publications with at most `bytes_max` bytes of payload together.
    fn fitting(&self, bytes_max: usize) -> usize {
        if self.bytes <= bytes_max {
            return self.kept.len();
        }
        let mut bytes = 0;
        let fits = |body: &&Arc<Body>| {
            bytes += body.payload().len();
            bytes <= bytes_max
        };
        self.kept.iter().rev().take_while(fits).count()
    }

    /// Whether the last `count` publications are retained. Publications that skip the history leave it behind the
    /// topic.
    fn reaches(&self, top: Position, count: usize) -> bool {
        count == 0
            || (self.kept.back().is_some_and(|newest| newest.position.offset == top.offset)
                && self.kept[self.kept.len() - count].position.offset == top.offset - count as u64 + 1)
    }

    /// A page of the history, when the topic is at `top`.
    pub fn page(&self, query: &HistoryQuery, top: Position) -> HistoryPage {
        if query.since.is_some_and(|since| since.epoch != top.epoch) {
            return HistoryPage { position: top, publications: None };
        }
        let publications = match (query.is_reverse, query.since) {
            (false, None) => fill(query, self.kept.iter()),
            (false, Some(since)) => {
                let later = self.kept.partition_point(|body| body.position.offset <= since.offset);
                fill(query, self.kept.range(later..))
            }
            (true, None) => fill(query, self.kept.iter().rev()),
            (true, Some(since)) => {
                let earlier = self.kept.partition_point(|body| body.position.offset < since.offset);
                fill(query, self.kept.range(..earlier).rev())
            }
        };
        HistoryPage { position: top, publications: Some(publications) }
    }
}

/// The first of `bodies`, up to the limits of a page.
fn fill<'h>(query: &HistoryQuery, bodies: impl Iterator<Item = &'h Arc<Body>>) -> Vec<Arc<Body>> {
    let mut bytes = 0_usize;
    let fits = |(index, body): &(usize, &Arc<Body>)| {
        bytes = bytes.saturating_add(body.encoded_bytes());
        *index == 0 || bytes <= query.bytes_max
    };
    let limit = query.limit.min(HISTORY_ANSWER_MAX);
    bodies.take(limit).enumerate().take_while(fits).map(|(_, body)| body.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::body;
    use super::*;

    const EPOCH: u64 = 5;

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::new(EPOCH), offset }
    }

    /// A history with publications 1 to `count`, each ten bytes long and published at its offset in milliseconds.
    fn history(count: u64, namespace: &Namespace) -> History {
        let mut history = History::default();
        for offset in 1..=count {
            history.push(body("a", at(offset), offset, b"0123456789"), namespace);
        }
        history
    }

    fn sized(history_size: usize) -> Namespace {
        Namespace { history_size, ..Namespace::default() }
    }

    fn offsets(publications: &[Arc<Body>]) -> Vec<u64> {
        publications.iter().map(|body| body.position.offset).collect()
    }

    #[test]
    fn bounds_are_by_count_by_bytes_and_by_age() {
        assert_eq!(history(9, &sized(4)).bytes(), 40);
        assert_eq!(history(9, &Namespace { history_bytes_max: 35, ..sized(4) }).bytes(), 30);
        let aged = Namespace { history_ttl_ms: 2, ..sized(4) };
        let mut history = history(9, &aged);
        assert_eq!(history.bytes(), 20, "those of 8 and 9");
        history.expire(&aged, 10);
        assert_eq!(history.bytes(), 10);
        history.expire(&aged, 11);
        assert!(history.is_empty() && history.bytes() == 0);
    }

    #[test]
    fn a_reconnecting_subscriber_receives_all_or_an_error() {
        let history = history(9, &sized(4));
        let since = |epoch: Option<u64>, offset| CatchUp::Since { epoch: epoch.map(Epoch::new), offset };
        let rows: [(CatchUp, Option<&[u64]>); 10] = [
            (since(Some(EPOCH), 9), Some(&[])),
            (since(None, 9), Some(&[])),
            (since(Some(EPOCH), 8), Some(&[9])),
            (since(Some(EPOCH), 5), Some(&[6, 7, 8, 9])),
            (since(Some(EPOCH), 4), None),
            (since(Some(EPOCH), 10), None),
            (since(Some(EPOCH + 1), 9), None),
            (since(None, 0), None),
            (CatchUp::Last(2), Some(&[8, 9])),
            (CatchUp::Last(100), Some(&[6, 7, 8, 9])),
        ];
        for (catch_up, expected) in rows {
            match history.recover(catch_up, at(9), 40) {
                Recovery::Recovered(publications) => assert_eq!(Some(&offsets(&publications)[..]), expected),
                Recovery::Lost => assert_eq!(expected, None, "{catch_up:?}"),
                other => panic!("{catch_up:?}: {other:?}"),
            }
        }
        assert!(matches!(history.recover(CatchUp::None, at(9), 0), Recovery::NotAsked));
        assert!(
            matches!(history.recover(since(Some(EPOCH), 9), at(10), 40), Recovery::Lost),
            "one publication skipped the history"
        );
    }

    #[test]
    fn the_newest_publication_is_recovered_unless_the_subscriber_has_it() {
        let aged = Namespace { history_ttl_ms: 2, ..sized(4) };
        let mut history = history(9, &aged);
        let newest = |epoch: u64, offset| CatchUp::Newest { epoch: Some(Epoch::new(epoch)), offset };
        let recover = |history: &History, catch_up, top, bytes_max| match history.recover(catch_up, top, bytes_max) {
            Recovery::Recovered(publications) => Some(offsets(&publications)),
            _ => None,
        };
        let nothing = CatchUp::Newest { epoch: None, offset: 0 };
        for catch_up in [nothing, newest(EPOCH, 8), newest(EPOCH, 1), newest(EPOCH + 1, 9), newest(EPOCH, 20)] {
            assert_eq!(recover(&history, catch_up, at(9), 40), Some(vec![9]), "{catch_up:?}");
        }
        assert_eq!(recover(&history, newest(EPOCH, 9), at(9), 40), Some(vec![]));
        assert_eq!(recover(&history, nothing, at(9), 9), None, "it is larger than the backlog may be");
        assert_eq!(recover(&history, nothing, at(10), 40), None, "the newest is not in the history");
        history.expire(&aged, 100);
        assert_eq!(recover(&history, newest(EPOCH, 8), at(9), 40), None, "it has expired");
        assert_eq!(recover(&history, newest(EPOCH, 9), at(9), 40), Some(vec![]));
    }

    #[test]
    fn a_recovery_is_at_most_a_subscribers_backlog() {
        let history = history(9, &sized(4));
        let recovered = |catch_up, bytes_max| match history.recover(catch_up, at(9), bytes_max) {
            Recovery::Recovered(publications) => Some(offsets(&publications)),
            _ => None,
        };
        let since = |offset| CatchUp::Since { epoch: None, offset };
        assert_eq!(recovered(since(6), 30), Some(vec![7, 8, 9]));
        assert_eq!(recovered(since(6), 29), None, "less than all is not enough");
        assert_eq!(recovered(CatchUp::Last(4), 29), Some(vec![8, 9]));
        assert_eq!(recovered(CatchUp::Last(4), 9), Some(vec![]));
        assert_eq!(recovered(since(9), 0), Some(vec![]));
    }

    #[test]
    fn a_recovery_is_cut_to_the_available_room() {
        let history = history(9, &sized(4));
        let fit = |catch_up, room| {
            let mut recovery = history.recover(catch_up, at(9), 1000);
            let bytes = recovery.fit(catch_up, room, |body| body.payload().len() + 5);
            match recovery {
                Recovery::Recovered(publications) => Some((offsets(&publications), bytes)),
                _ => None,
            }
        };
        let since = CatchUp::Since { epoch: None, offset: 6 };
        assert_eq!(fit(since, 45), Some((vec![7, 8, 9], 45)));
        assert_eq!(fit(since, 44), None);
        assert_eq!(fit(CatchUp::Last(3), 45), Some((vec![7, 8, 9], 45)));
        assert_eq!(fit(CatchUp::Last(3), 44), Some((vec![8, 9], 30)));
        assert_eq!(fit(CatchUp::Last(3), 0), Some((vec![], 0)));
        assert_eq!(Recovery::NotAsked.fit(CatchUp::None, 0, |_| 1), 0);
    }

    #[test]
    fn pages_go_both_ways() {
        let history = history(9, &sized(4));
        let rows: [(usize, Option<u64>, bool, &[u64]); 8] = [
            (0, None, false, &[]),
            (2, None, false, &[6, 7]),
            (9, None, false, &[6, 7, 8, 9]),
            (2, Some(7), false, &[8, 9]),
            (2, Some(2), false, &[6, 7]),
            (3, None, true, &[9, 8, 7]),
            (9, Some(8), true, &[7, 6]),
            (9, Some(20), true, &[9, 8, 7, 6]),
        ];
        for (limit, since, is_reverse, expected) in rows {
            let query = HistoryQuery { limit, since: since.map(at), is_reverse, ..HistoryQuery::default() };
            let page = history.page(&query, at(9));
            assert_eq!(offsets(&page.publications.unwrap()), expected, "{limit} {since:?} {is_reverse}");
            assert_eq!(page.position, at(9));
        }
        let other = Position { epoch: Epoch::new(EPOCH + 1), offset: 7 };
        let query = HistoryQuery { limit: 9, since: Some(other), ..HistoryQuery::default() };
        assert!(history.page(&query, at(9)).publications.is_none());
    }

    #[test]
    fn a_page_ends_at_its_byte_limit_and_pages_cover_all() {
        let history = history(9, &sized(4));
        let each = body("a", at(1), 0, b"0123456789").encoded_bytes();
        let rows: [(usize, bool, &[u64]); 5] = [
            (0, false, &[6]),
            (2 * each - 1, false, &[6]),
            (2 * each, false, &[6, 7]),
            (3 * each, true, &[9, 8, 7]),
            (9 * each, true, &[9, 8, 7, 6]),
        ];
        for (bytes_max, is_reverse, expected) in rows {
            let query = HistoryQuery { limit: 9, since: None, is_reverse, bytes_max };
            let page = history.page(&query, at(9));
            assert_eq!(offsets(&page.publications.unwrap()), expected, "{bytes_max} {is_reverse}");
        }
        let (mut since, mut seen) = (at(0), Vec::new());
        loop {
            let query = HistoryQuery { limit: 9, since: Some(since), is_reverse: false, bytes_max: 2 * each };
            let page = offsets(&history.page(&query, at(9)).publications.unwrap());
            let Some(last) = page.last() else { break };
            since = at(*last);
            seen.extend(page);
        }
        assert_eq!(seen, [6, 7, 8, 9]);
    }
}
