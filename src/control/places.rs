//! Limits the connections of the control port, and chooses the connection that a new one displaces.
//!
//! A connection is *authenticated* after its first request with the key; without a configured key, from its start. The
//! other connections have little time and few places, of which each address has a share. When the places have run out,
//! a new connection displaces the oldest of its address, or of all. So a publisher with the key always gets a place: it
//! sends the key at once, and connections without the key end. Nothing displaces an authenticated connection; while
//! there are too many of them, new connections wait in the listener's backlog.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::limits::{
    CONTROL_CONNECTIONS_MAX, CONTROL_NO_KEY_CONNECTIONS_MAX, CONTROL_NO_KEY_MS, CONTROL_NO_KEY_PER_ADDRESS_MAX,
    CONTROL_SEND_MS,
};
use crate::server::Network;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Normally.
    Closed,
    /// The client disconnected, or did not send HTTP.
    Failed,
    /// The client was silent for longer than the limit.
    Idle,
    /// The client sent no request in time, and none before with the key.
    NoKey,
    /// A newer connection took its place.
    Displaced,
    /// The client did not read its answers.
    SendTimeout,
}

impl Ended {
    /// All variants, in the order of their values.
    pub(super) const ALL: [Ended; 6] =
        [Ended::Closed, Ended::Failed, Ended::Idle, Ended::NoKey, Ended::Displaced, Ended::SendTimeout];

    /// The value of the label `reason` in the metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Ended::Closed => "closed",
            Ended::Failed => "failed",
            Ended::Idle => "idle",
            Ended::NoKey => "no_key",
            Ended::Displaced => "displaced",
            Ended::SendTimeout => "send_timeout",
        }
    }
}

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Maximum number of authenticated connections; above it the listener accepts no more.
    pub(super) authenticated: usize,
    /// Maximum number of other connections.
    pub(super) others: usize,
    /// Maximum number of other connections of one address.
    pub(super) others_per_address: usize,
    /// Time for the first request of the other connections, and for each further one.
    pub(super) no_key: Duration,
    /// Time in which the client must read [`CONTROL_OUTPUT_BYTES`](crate::limits::CONTROL_OUTPUT_BYTES) of answers.
    pub(super) send: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            authenticated: CONTROL_CONNECTIONS_MAX,
            others: CONTROL_NO_KEY_CONNECTIONS_MAX,
            others_per_address: CONTROL_NO_KEY_PER_ADDRESS_MAX,
            no_key: Duration::from_millis(CONTROL_NO_KEY_MS),
            send: Duration::from_millis(CONTROL_SEND_MS),
        }
    }
}

/// Counts of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PlaceCounts {
    /// Authenticated connections now.
    pub(super) authenticated: u64,
    /// Other connections now.
    pub(super) others: u64,
    /// Connections so far.
    pub(super) accepted: u64,
    /// Connections that have ended, by [`Ended`].
    pub(super) ended: [u64; Ended::ALL.len()],
}

/// The places of all connections.
pub(super) struct Places {
    bounds: Bounds,
    counts: RefCell<PlaceCounts>,
    /// Connections that are not authenticated, the oldest first.
    others: RefCell<BTreeMap<u64, Other>>,
    /// An authenticated connection has ended.
    has_room: Notify,
}

/// A connection that is not authenticated.
struct Other {
    network: Network,
    /// Notified when a newer one takes its place.
    displaced: Rc<Notify>,
}

/// The place of one connection. Dropping it frees the place.
pub(super) struct Place {
    places: Rc<Places>,
    /// Its number while it is not authenticated.
    number: Cell<Option<u64>>,
    /// The time of the last request, or of the accept.
    last_request: Cell<Instant>,
    displaced: Rc<Notify>,
    /// The reason that is counted.
    ended: Cell<Ended>,
}

impl Places {
    /// No connections yet.
    pub(super) fn new(bounds: Bounds) -> Rc<Places> {
        Rc::new(Places { bounds, counts: RefCell::default(), others: RefCell::default(), has_room: Notify::new() })
    }

    /// The current counts.
    pub(super) fn counts(&self) -> PlaceCounts {
        *self.counts.borrow()
    }

    /// The limits.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Waits until the listener may accept another connection.
    pub(super) async fn wait_for_room(&self) {
        while self.counts().authenticated >= self.bounds.authenticated as u64 {
            self.has_room.notified().await;
        }
    }

    /// Gives an accepted connection a place. With `is_authenticated` it needs no key.
    pub(super) fn enter(self: &Rc<Self>, address: IpAddr, is_authenticated: bool) -> Place {
        let mut counts = self.counts.borrow_mut();
        let number = counts.accepted;
        counts.accepted += 1;
        let displaced = Rc::new(Notify::new());
        if is_authenticated {
            counts.authenticated += 1;
        } else {
            let network = Network::of(address);
            let mut others = self.others.borrow_mut();
            if let Some(oldest) = self.to_displace(&others, network) {
                others.remove(&oldest).expect("it was found here").displaced.notify_one();
            }
            others.insert(number, Other { network, displaced: displaced.clone() });
            counts.others = others.len() as u64;
        }
        Place {
            places: self.clone(),
            number: Cell::new((!is_authenticated).then_some(number)),
            last_request: Cell::new(Instant::now()),
            displaced,
            ended: Cell::new(Ended::Closed),
        }
    }

    /// The connection that a new one of `network` displaces, if any.
    fn to_displace(&self, others: &BTreeMap<u64, Other>, network: Network) -> Option<u64> {
        let of_network = || others.iter().filter(|(_, other)| other.network == network);
        let oldest = if of_network().count() >= self.bounds.others_per_address {
            of_network().next()
        } else if others.len() >= self.bounds.others {
            others.first_key_value()
        } else {
            None
        };
        oldest.map(|(number, _)| *number)
    }
}

impl Place {
    /// The client has sent a request, with the key or without.
    pub(super) fn on_request(&self, has_key: bool) {
        self.last_request.set(Instant::now());
        let Some(number) = self.number.get().filter(|_| has_key) else { return };
        // A displaced connection ends anyway.
        if self.places.others.borrow_mut().remove(&number).is_some() {
            self.number.set(None);
            let mut counts = self.places.counts.borrow_mut();
            counts.others -= 1;
            counts.authenticated += 1;
        }
    }

    /// Waits until the connection must end, if ever, and returns the reason.
    pub(super) async fn must_end(&self) -> Ended {
        tokio::select! {
            () = self.displaced.notified() => Ended::Displaced,
            () = self.time_is_up() => Ended::NoKey,
        }
    }

    /// Waits until a connection that is not authenticated has sent no request for too long.
    async fn time_is_up(&self) {
        while self.number.get().is_some() {
            let deadline = self.last_request.get() + self.places.bounds.no_key;
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
        pending().await
    }

    /// Ends the connection and counts the reason.
    pub(super) fn end(self, ended: Ended) {
        self.ended.set(ended);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.counts.borrow_mut();
        counts.ended[self.ended.get() as usize] += 1;
        match self.number.get() {
            Some(number) => {
                let mut others = self.places.others.borrow_mut();
                others.remove(&number);
                counts.others = others.len() as u64;
            }
            None => {
                counts.authenticated -= 1;
                self.places.has_room.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn places(authenticated: usize, others: usize, others_per_address: usize) -> Rc<Places> {
        Places::new(Bounds { authenticated, others, others_per_address, no_key: HOUR, send: HOUR })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// How it must end, as far as that can be said at once.
    fn verdict(place: &Place) -> Option<Ended> {
        match pin!(place.must_end()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => None,
        }
    }

    /// Timers belong to a runtime, which is not run.
    fn within_a_runtime(test: impl FnOnce()) {
        tokio_uring::start(async { test() });
    }

    #[test]
    fn an_address_displaces_its_own_oldest() {
        within_a_runtime(|| {
            let places = places(10, 10, 2);
            let other = places.enter(address(9), false);
            let held: Vec<Place> = (0..4).map(|_| places.enter(address(1), false)).collect();
            let verdicts: Vec<_> = held.iter().map(verdict).collect();
            assert_eq!(verdicts, [Some(Ended::Displaced), Some(Ended::Displaced), None, None]);
            assert_eq!((verdict(&other), places.counts().others), (None, 3));
        });
    }

    #[test]
    fn where_all_places_are_taken_the_oldest_of_all_leaves() {
        within_a_runtime(|| {
            let places = places(10, 3, 2);
            let held: Vec<Place> = (0..5).map(|last| places.enter(address(last), false)).collect();
            let verdicts: Vec<_> = held.iter().map(verdict).collect();
            assert_eq!(verdicts, [Some(Ended::Displaced), Some(Ended::Displaced), None, None, None]);
            assert_eq!(places.counts().others, 3);
        });
    }

    #[test]
    fn who_has_shown_the_key_is_displaced_by_nobody() {
        within_a_runtime(|| {
            let places = places(10, 3, 2);
            let publisher = places.enter(address(1), false);
            publisher.on_request(true);
            let held: Vec<Place> = (0..100).map(|last| places.enter(address(last % 7), false)).collect();
            assert_eq!((verdict(&publisher), held.iter().filter(|held| verdict(held).is_none()).count()), (None, 3));
            let counts = places.counts();
            assert_eq!((counts.authenticated, counts.others, counts.accepted), (1, 3, 101));
            // A connection that has lost its place does not get another one with the key.
            held[0].on_request(true);
            assert_eq!(places.counts().authenticated, 1);
            publisher.end(Ended::Closed);
            held.into_iter().for_each(|held| held.end(Ended::Displaced));
            let counts = places.counts();
            assert_eq!((counts.authenticated, counts.others), (0, 0));
            assert_eq!(counts.ended[Ended::Closed as usize], 1);
            assert_eq!(counts.ended[Ended::Displaced as usize], 100);
        });
    }

    #[test]
    fn while_there_are_too_many_with_the_key_nobody_is_accepted() {
        within_a_runtime(|| {
            let places = places(1, 3, 2);
            let mut context = Context::from_waker(Waker::noop());
            assert!(pin!(places.wait_for_room()).poll(&mut context).is_ready());
            let first = places.enter(address(1), true);
            let mut waiting = pin!(places.wait_for_room());
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            drop(first);
            assert!(waiting.poll(&mut context).is_ready());
        });
    }

    #[test]
    fn time_runs_until_the_key_was_shown() {
        tokio_uring::start(async {
            let places = Places::new(Bounds { no_key: Duration::from_millis(30), ..Bounds::default() });
            let (silent, asking, publisher) =
                (places.enter(address(1), false), places.enter(address(1), false), places.enter(address(1), false));
            publisher.on_request(true);
            tokio::time::sleep(Duration::from_millis(20)).await;
            asking.on_request(false);
            assert_eq!(silent.must_end().await, Ended::NoKey);
            assert_eq!(verdict(&publisher), None);
            let began = asking.last_request.get();
            assert_eq!(asking.must_end().await, Ended::NoKey);
            assert!(began.elapsed() >= places.bounds.no_key);
        });
    }
}
