//! Paces the catch-ups of a shard's connections.
//!
//! An answer with missed publications can take megabytes, and one request can ask for those of many topics. So the
//! shard begins no further catch-up in a turn that has encoded much. The larger the answers are, the fewer catch-ups
//! are in progress at other shards. The others wait in the order of their requests.

use std::collections::VecDeque;

use super::config::CatchUpConfig;
use super::mesh::ToConn;
use super::shard::Shard;
use crate::gateway::Subscribe;
use crate::ring::Ring;
use crate::topics::CatchUp;

/// The catch-ups of one shard's connections.
#[derive(Debug)]
pub(super) struct CatchUps {
    config: CatchUpConfig,
    /// Subscribe requests that wait, the next one first. Some of their connections may have ended.
    waiting: VecDeque<(Subscribe, ToConn)>,
    /// Requests that topics' homes have not answered yet.
    in_progress: usize,
    /// Bytes of missed publications that this turn may still encode.
    room: usize,
    /// Bytes that the next answer is expected to have: a moving average.
    expected: usize,
}

impl CatchUps {
    pub(super) fn new(config: CatchUpConfig) -> CatchUps {
        let turn_bytes = config.turn_bytes;
        CatchUps { config, waiting: VecDeque::new(), in_progress: 0, room: turn_bytes, expected: turn_bytes }
    }

    /// Whether a subscribe request must wait: because it catches up and others do, or to keep the order of requests.
    fn must_wait(&self, subscribe: &Subscribe) -> bool {
        !self.waiting.is_empty() || (is_catch_up(subscribe.catch_up) && !self.has_room())
    }

    fn has_room(&self) -> bool {
        self.room > 0 && self.may_begin()
    }

    /// Whether the answers of the catch-ups in progress are expected to fit into a turn.
    fn may_begin(&self) -> bool {
        let CatchUpConfig { turn_bytes, in_progress_min, in_progress_max, .. } = self.config;
        let fitting = turn_bytes / self.expected.max(1);
        self.in_progress < fitting.clamp(in_progress_min, in_progress_max)
    }

    /// Takes the next request that need not wait any longer.
    fn take(&mut self) -> Option<(Subscribe, ToConn)> {
        let (next, _) = self.waiting.front()?;
        if is_catch_up(next.catch_up) && !self.has_room() {
            return None;
        }
        self.waiting.pop_front()
    }

    /// A request goes to the topic's home.
    pub(super) fn begin(&mut self, catch_up: CatchUp) {
        self.in_progress += usize::from(is_catch_up(catch_up));
    }

    /// The home has answered a request, with at most this many bytes of missed publications.
    pub(super) fn end(&mut self, catch_up: CatchUp, bytes: usize) {
        if is_catch_up(catch_up) {
            self.in_progress = self.in_progress.checked_sub(1).expect("a home answers each request once");
            self.room = self.room.saturating_sub(bytes);
            self.expected = (3 * self.expected + bytes) / 4;
        }
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self) {
        self.room = self.config.turn_bytes;
    }

    /// Whether the next turn can go on without an answer of another shard.
    pub(super) fn has_work(&self) -> bool {
        !self.waiting.is_empty() && self.may_begin()
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether requests wait though none is in progress whose answer would wake the shard.
    #[cfg(feature = "sim")]
    pub(super) fn are_stuck(&self) -> bool {
        !self.waiting.is_empty() && self.in_progress == 0
    }
}

fn is_catch_up(catch_up: CatchUp) -> bool {
    !matches!(catch_up, CatchUp::None)
}

impl<R: Ring> Shard<'_, R> {
    /// Sends a subscribe request to the topic's home, at once or in a later turn.
    pub(super) fn submit_or_queue(&mut self, subscribe: Subscribe, to: ToConn) {
        if self.catch_ups.must_wait(&subscribe) {
            self.catch_ups.waiting.push_back((subscribe, to));
        } else {
            self.submit_subscribe(subscribe, to);
        }
    }

    /// Sends a subscribe request to the topic's home in a later turn.
    pub(super) fn queue_catch_up(&mut self, subscribe: Subscribe, to: ToConn) {
        self.catch_ups.waiting.push_back((subscribe, to));
    }

    /// Sends the requests that need not wait any longer, except those of connections that have ended.
    pub(super) fn submit_catch_ups(&mut self) {
        while let Some((subscribe, to)) = self.catch_ups.take() {
            if self.find(to.id).is_some_and(|slot| self.slots[slot].cause.is_none()) {
                self.submit_subscribe(subscribe, to);
            }
        }
        self.metrics.catch_ups_waiting.set(self.catch_ups.waiting() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{ConnId, SlotId};
    use crate::limits::{CATCH_UP_TURN_BYTES, CATCH_UPS_IN_PROGRESS_MAX, CATCH_UPS_IN_PROGRESS_MIN};
    use crate::topics::TopicName;

    const LAST: CatchUp = CatchUp::Last(10);

    fn request(catch_up: CatchUp) -> (Subscribe, ToConn) {
        let topic = TopicName::new("a").expect("a topic's name");
        (
            Subscribe::new(topic, catch_up, Some(1)),
            ToConn { shard: 0, id: ConnId { slot: SlotId(0), generation: 0 }, request_id: 1 },
        )
    }

    #[test]
    fn large_answers_end_the_catch_ups_of_a_turn() {
        let mut catch_ups = CatchUps::new(CatchUpConfig::default());
        assert!(!catch_ups.must_wait(&request(LAST).0));
        catch_ups.begin(LAST);
        catch_ups.end(LAST, CATCH_UP_TURN_BYTES);
        assert!(catch_ups.must_wait(&request(LAST).0) && !catch_ups.must_wait(&request(CatchUp::None).0));
        catch_ups.waiting.push_back(request(LAST));
        assert!(catch_ups.has_work() && catch_ups.take().is_none());
        catch_ups.begin_turn();
        assert!(catch_ups.take().is_some() && !catch_ups.has_work());
    }

    #[test]
    fn the_number_in_progress_follows_the_size_of_the_answers() {
        let mut catch_ups = CatchUps::new(CatchUpConfig::default());
        let in_progress_max = |catch_ups: &mut CatchUps| {
            let mut count = 0;
            while catch_ups.may_begin() {
                catch_ups.begin(LAST);
                count += 1;
            }
            count
        };
        assert_eq!(in_progress_max(&mut catch_ups), CATCH_UPS_IN_PROGRESS_MIN);
        for _ in 0..1000 {
            catch_ups.end(LAST, 0);
            catch_ups.begin(LAST);
        }
        in_progress_max(&mut catch_ups);
        assert_eq!(catch_ups.in_progress, CATCH_UPS_IN_PROGRESS_MAX);
        assert!(!catch_ups.has_work(), "an answer must come first");
    }

    #[test]
    fn requests_keep_their_order() {
        let mut catch_ups = CatchUps { room: 0, ..CatchUps::new(CatchUpConfig::default()) };
        catch_ups.waiting.push_back(request(LAST));
        assert!(catch_ups.must_wait(&request(CatchUp::None).0), "an earlier request waits");
        catch_ups.waiting.push_back(request(CatchUp::None));
        assert!(catch_ups.take().is_none());
        catch_ups.begin_turn();
        let taken: Vec<_> = std::iter::from_fn(|| catch_ups.take()).map(|(next, _)| next.catch_up).collect();
        assert_eq!(taken, [LAST, CatchUp::None]);
    }
}
