//! What the control port counts of its requests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use hyper::StatusCode;

use crate::server::metrics::{Histogram, HistogramSnapshot};

/// Requests by route and status, and the times to their answers. The routes bound both.
#[derive(Debug, Default)]
pub(super) struct RequestCounts {
    by_status: RefCell<BTreeMap<(&'static str, u16), u64>>,
    times: RefCell<BTreeMap<&'static str, Histogram>>,
}

impl RequestCounts {
    /// A request to `route` has its answer, which streams may still send.
    pub(super) fn count(&self, route: &'static str, status: StatusCode, took: Duration) {
        *self.by_status.borrow_mut().entry((route, status.as_u16())).or_default() += 1;
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.times.borrow_mut().entry(route).or_default().record(us);
    }

    /// Requests by route and status.
    pub(super) fn counts(&self) -> Vec<(&'static str, u16, u64)> {
        self.by_status.borrow().iter().map(|((route, status), count)| (*route, *status, *count)).collect()
    }

    /// Times to the answers, by route.
    pub(super) fn times(&self) -> Vec<(&'static str, HistogramSnapshot)> {
        self.times.borrow().iter().map(|(route, times)| (*route, times.snapshot())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_and_status() {
        let counts = RequestCounts::default();
        counts.count("publish", StatusCode::OK, Duration::from_micros(70));
        counts.count("publish", StatusCode::OK, Duration::from_micros(70));
        counts.count("publish", StatusCode::SERVICE_UNAVAILABLE, Duration::from_micros(70));
        assert_eq!(counts.counts(), [("publish", 200, 2), ("publish", 503, 1)]);
        let times = counts.times();
        assert_eq!((times[0].0, times[0].1.count(), times.len()), ("publish", 3, 1));
    }
}
