//! Subscribe requests of clients that know more of a topic than this node has read of its log.
//!
//! A client that leaves a node for a slower one states a position that is not there yet. An answer at once would report
//! a loss that never was. So its request waits until the node has read that much, for
//! [`AHEAD_MS_MAX`](crate::limits::AHEAD_MS_MAX) at most: then the position is of publications that the log has lost.

use super::mesh::SubscribeRequest;
use super::shard::Shard;
use crate::limits::{AHEAD_MS_MAX, AHEAD_REQUESTS_MAX};
use crate::ring::Ring;
use crate::topics::{Position, TopicName};

/// The requests that wait at their topics' home, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Each with the time at which its wait ends.
    requests: Vec<(u64, SubscribeRequest)>,
}

impl Ahead {
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// When the first wait ends, if any.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.requests.first().map(|(end_ms, _)| *end_ms)
    }
}

impl<R: Ring> Shard<'_, R> {
    /// At the topic's home: keeps a request that is ahead of the log. Returns the others.
    pub(super) fn keep_ahead(&mut self, request: SubscribeRequest) -> Option<SubscribeRequest> {
        let is_ahead = self.home.is_ahead(&request.topic, request.joining.catch_up);
        if !is_ahead || self.ahead.requests.len() == AHEAD_REQUESTS_MAX {
            return Some(request);
        }
        self.metrics.requests_ahead.add(1);
        self.ahead.requests.push((self.now_ms + AHEAD_MS_MAX, request));
        None
    }

    /// The topic has reached `position`: accepts the requests that have waited for it.
    pub(super) fn on_reached(&mut self, topic: &TopicName, position: Position) {
        let has_reached = |(_, request): &mut (u64, SubscribeRequest)| {
            request.topic == *topic && !request.joining.catch_up.is_ahead_of(position)
        };
        let reached: Vec<_> = self.ahead.requests.extract_if(.., has_reached).collect();
        reached.into_iter().for_each(|(_, request)| self.accept_subscribe(request));
    }

    /// The positions of many topics are others, or unknown: handles all requests anew.
    pub(super) fn on_positions_changed(&mut self) {
        let requests = std::mem::take(&mut self.ahead.requests);
        requests.into_iter().for_each(|(_, request)| self.on_subscribe_request(request));
    }

    /// Accepts the requests that have waited long enough: their clients learn of the loss.
    pub(super) fn end_ahead(&mut self) {
        let now_ms = self.now_ms;
        let late: Vec<_> = self.ahead.requests.extract_if(.., |(end_ms, _)| *end_ms <= now_ms).collect();
        late.into_iter().for_each(|(_, request)| self.accept_subscribe(request));
    }
}
