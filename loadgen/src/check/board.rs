//! What the workers of a run share: its publications, and how far each worker is.
//!
//! The first worker publishes. Before a publication reaches the kernel, every other worker has it in its mail, and each
//! looks into its mail when data arrives: a worker knows every message that it can receive.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfeed::ring::Event;

use crate::check::payload::{self, RunName};
use crate::error::Error;
use crate::report::recorder::Times;

/// The shared state.
pub(crate) struct Board {
    /// The name of the run in its messages.
    pub(crate) run: RunName,
    places: Vec<Place>,
    /// Publications that some subscriber has not received yet, by [`Group`].
    under_way: [AtomicUsize; 2],
    /// Wakes the publishing worker when another has received the last message of a publication.
    wake: Event,
    /// Messages that the server refused, for agents.
    refusals: Mutex<Vec<(u32, u64)>>,
    /// The start of the stages as time of the run, if it is common to several machines; otherwise 0.
    stages_from_ns: AtomicU64,
    /// The coordinator has gone.
    has_ended: AtomicBool,
}

/// The part of one worker.
#[derive(Default)]
struct Place {
    mail: Mutex<Vec<Notice>>,
    has_mail: AtomicBool,
    subscribers: AtomicU32,
    last_progress_ns: AtomicU64,
    expects_skipped: AtomicBool,
}

/// Publications that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    InRotation,
    Watched,
}

/// News for a worker.
pub(crate) enum Notice {
    Published(Posting),
    /// The server refused this message: topic and number.
    Refused(u32, u64),
}

/// A publication.
#[derive(Clone, Debug)]
pub(crate) struct Posting {
    pub(crate) topic: u32,
    pub(crate) number: u64,
    pub(crate) payload: Arc<[u8]>,
    pub(crate) times: Times,
    pub(crate) ticket: Arc<Ticket>,
}

/// Kept by each worker with subscribers that have not received a publication. The last one to drop it ends it.
pub(crate) struct Ticket {
    board: Arc<Board>,
    group: Group,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticket({:?})", self.group)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.board.under_way[self.group as usize].fetch_sub(1, Ordering::AcqRel);
        if self.board.places.len() > 1 {
            self.board.wake.notify();
        }
    }
}

/// A worker's access to the board.
#[derive(Clone)]
pub(crate) struct Share {
    pub(crate) board: Arc<Board>,
    pub(crate) worker: usize,
    /// The number of its first subscriber in the run.
    pub(crate) first: u32,
}

impl Share {
    /// The share of a run's only worker.
    ///
    /// # Errors
    /// If the kernel has no event for it.
    pub(crate) fn of_one() -> Result<Share, Error> {
        Ok(Share { board: Board::new(1)?, worker: 0, first: 0 })
    }
}

impl Board {
    /// A board for so many workers.
    ///
    /// # Errors
    /// If the kernel has no event for it.
    pub(crate) fn new(workers: u32) -> Result<Arc<Board>, Error> {
        Board::of_run(workers, payload::random_run())
    }

    /// A board in a run with this name.
    ///
    /// # Errors
    /// As [`Board::new`].
    pub(crate) fn of_run(workers: u32, run: RunName) -> Result<Arc<Board>, Error> {
        let wake = Event::new().map_err(|error| Error::new(format!("can't make an event: {error}")))?;
        let places = (0..workers).map(|_| Place::default()).collect();
        Ok(Arc::new(Board {
            run,
            places,
            under_way: Default::default(),
            wake,
            refusals: Mutex::default(),
            stages_from_ns: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
        }))
    }

    /// A board of one worker in a run with this name.
    #[cfg(test)]
    pub(crate) fn named(run: RunName) -> Arc<Board> {
        let board = Board::new(1).unwrap();
        Arc::new(Board { run, ..Arc::into_inner(board).unwrap() })
    }

    /// A board of two workers in a run with the name 0.
    #[cfg(test)]
    pub(crate) fn of_two() -> Arc<Board> {
        Arc::new(Board { run: 0, ..Arc::into_inner(Board::new(2).unwrap()).unwrap() })
    }

    /// Makes a publication known to all workers but the first, which makes it.
    pub(crate) fn publish(
        self: &Arc<Board>,
        (topic, number): (u32, u64),
        payload: &[u8],
        times: Times,
        group: Group,
    ) -> Posting {
        self.under_way[group as usize].fetch_add(1, Ordering::AcqRel);
        let ticket = Arc::new(Ticket { board: Arc::clone(self), group });
        let posting = Posting { topic, number, payload: payload.into(), times, ticket };
        self.tell(&self.places[1..], || Notice::Published(posting.clone()));
        posting
    }

    /// Tells all workers but the first that the server refused a message.
    pub(crate) fn refuse(&self, topic: u32, number: u64) {
        self.tell(&self.places[1..], || Notice::Refused(topic, number));
        lock(&self.refusals).push((topic, number));
    }

    /// Tells all workers of an agent that the server refused a message of the coordinator.
    pub(crate) fn hear_of_refusal(&self, topic: u32, number: u64) {
        self.tell(&self.places, || Notice::Refused(topic, number));
    }

    /// The messages that the server refused since the last call.
    pub(crate) fn take_refusals(&self) -> Vec<(u32, u64)> {
        std::mem::take(&mut *lock(&self.refusals))
    }

    /// The stages start at this time of the run.
    pub(crate) fn start_stages(&self, at_ns: u64) {
        self.stages_from_ns.store(at_ns, Ordering::Release);
    }

    /// The start of the stages, if it is common to several machines.
    pub(crate) fn stages_from(&self) -> Option<u64> {
        Some(self.stages_from_ns.load(Ordering::Acquire)).filter(|ns| *ns > 0)
    }

    /// The run can't go on.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    fn tell(&self, places: &[Place], notice: impl Fn() -> Notice) {
        for place in places {
            lock(&place.mail).push(notice());
            place.has_mail.store(true, Ordering::Release);
        }
    }

    /// The news for `worker` since the last call.
    pub(crate) fn take_mail(&self, worker: usize) -> Vec<Notice> {
        let place = &self.places[worker];
        if place.has_mail.swap(false, Ordering::Acquire) { std::mem::take(&mut *lock(&place.mail)) } else { Vec::new() }
    }

    /// Publications of this group that some subscriber has not received yet.
    pub(crate) fn under_way(&self, group: Group) -> usize {
        self.under_way[group as usize].load(Ordering::Acquire)
    }

    pub(crate) fn set_subscribers(&self, worker: usize, count: u32) {
        self.places[worker].subscribers.store(count, Ordering::Release);
    }

    /// Subscribers of all workers.
    pub(crate) fn subscribers(&self) -> u32 {
        self.places.iter().map(|place| place.subscribers.load(Ordering::Acquire)).sum()
    }

    pub(crate) fn set_progress(&self, worker: usize, last_progress_ns: u64) {
        self.places[worker].last_progress_ns.store(last_progress_ns, Ordering::Release);
    }

    /// Time of the last progress of any worker.
    pub(crate) fn last_progress_ns(&self) -> u64 {
        let all = self.places.iter().map(|place| place.last_progress_ns.load(Ordering::Acquire));
        all.max().unwrap_or(0)
    }

    /// Whether `worker` has skipped messages that may still arrive.
    pub(crate) fn expect_skipped(&self, worker: usize, expects: bool) {
        self.places[worker].expects_skipped.store(expects, Ordering::Release);
    }

    /// Whether any worker has.
    pub(crate) fn expects_skipped(&self) -> bool {
        self.places.iter().any(|place| place.expects_skipped.load(Ordering::Acquire))
    }

    /// What wakes the publishing worker; `None` if it is the only one.
    pub(crate) fn wake(&self) -> Option<Event> {
        (self.places.len() > 1).then(|| self.wake.clone())
    }
}

/// Ignores poisoning: a worker that panics ends the run anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_under_way_until_the_last_worker_has_dropped_it() {
        let board = Board::new(3).unwrap();
        let own = board.publish((2, 7), b"x", Times::now(1), Group::InRotation);
        let watched = board.publish((3, 0), b"y", Times::now(1), Group::Watched);
        board.refuse(2, 7);
        assert!(board.take_mail(0).is_empty(), "the publishing worker knows it");
        let mail = board.take_mail(1);
        let [Notice::Published(first), Notice::Published(_), Notice::Refused(2, 7)] = &mail[..] else {
            panic!("two publications and a refusal");
        };
        assert_eq!((first.topic, first.number, &*first.payload), (2, 7, &b"x"[..]));
        assert!(board.take_mail(1).is_empty());
        drop((own, mail));
        assert_eq!([board.under_way(Group::InRotation), board.under_way(Group::Watched)], [1, 1]);
        drop(board.take_mail(2));
        assert_eq!([board.under_way(Group::InRotation), board.under_way(Group::Watched)], [0, 1]);
        drop(watched);
        assert_eq!(board.under_way(Group::Watched), 0);
    }

    #[test]
    fn refusals_reach_the_agents_and_all_their_workers() {
        let (board, of_agent) = (Board::new(1).unwrap(), Board::new(2).unwrap());
        board.refuse(1, 2);
        for (topic, number) in board.take_refusals() {
            of_agent.hear_of_refusal(topic, number);
        }
        for worker in 0..2 {
            assert!(matches!(of_agent.take_mail(worker)[..], [Notice::Refused(1, 2)]), "{worker}");
        }
        assert!(board.take_refusals().is_empty());
        assert_eq!((board.stages_from(), board.has_ended()), (None, false));
    }

    #[test]
    fn the_state_of_all_workers_adds_up() {
        let board = Board::new(2).unwrap();
        (0..2).for_each(|worker| board.set_subscribers(worker, 3));
        board.set_progress(1, 50);
        board.set_progress(0, 40);
        board.expect_skipped(1, true);
        assert_eq!((board.subscribers(), board.last_progress_ns(), board.expects_skipped()), (6, 50, true));
        assert!(board.wake().is_some() && Board::new(1).unwrap().wake().is_none());
    }
}
