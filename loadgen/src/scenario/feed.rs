//! Publishes at a pace and checks every delivery: all of `fanout`, and the background load of other scenarios.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfeed::proto::MessageKind;

use crate::check::board::Share;
use crate::check::deliveries::Deliveries;
use crate::check::faults::Faults;
use crate::check::payload::{self, RunName, Stamp};
use crate::check::topics::Topics;
use crate::cli::CommonOptions;
use crate::error::Error;
use crate::host::interrupt;
use crate::report::figure::Figure;
use crate::report::recorder::{Recorded, Recorder, Times};
use crate::report::{Findings, Outcome};
use crate::scenario::crew::{Command, Orders, Part};
use crate::scenario::pace::Pace;
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Sink, TURN};

/// Longest time until a worker notices what the first one says.
const ORDERS_WITHIN: Duration = Duration::from_millis(10);

/// The unit of the count.
pub(crate) const UNIT: &str = "deliveries";

/// Most publications sent before received data is processed again, even if the schedule is behind.
const PUBLICATIONS_PER_TURN: usize = 1024;

/// Sequence numbers of topic `n` begin at `n << TOPIC_SHIFT`, so that a message delivered to a subscriber of another
/// topic is detected.
pub(crate) const TOPIC_SHIFT: u32 = 40;

/// The publications and their deliveries.
pub(crate) struct Feed {
    pub(crate) deliveries: Deliveries,
    /// Publications so far.
    pub(crate) published: u64,
    publishers: u32,
    /// Only the first `topic_count` topics have publications in rotation.
    topic_count: u32,
    /// The topic after them has its own schedule.
    watched: Option<Watched>,
    /// A publisher's connection has ended, and its messages with it.
    publisher_ended: bool,
    /// The end of the schedule so far.
    scheduled_until_ns: u64,
    /// Nothing happened in the last turn.
    is_quiet: bool,
    run: RunName,
    payload: Vec<u8>,
}

/// The schedule of the watched topic. It has a publisher of its own, numbered after the others.
#[derive(Clone, Copy)]
struct Watched {
    rate: u32,
    pace: Pace,
}

/// A scenario around a feed.
pub(crate) trait Feeding: Sink {
    fn feed(&mut self) -> &mut Feed;

    /// Does the scenario's own work. Returns how long it can wait for the next.
    fn on_turn(&mut self, clients: &mut Clients) -> Duration;
}

impl Feed {
    /// The feed of a run with one worker, which has all clients.
    ///
    /// # Errors
    /// As [`Share::of_one`].
    pub(crate) fn of_one(
        common: &CommonOptions,
        clients: &Clients,
        topics: Arc<Topics>,
        subscribers: u32,
        publishers: u32,
        recorder: Recorder,
    ) -> Result<Feed, Error> {
        let (share, kind) = (Share::of_one()?, clients.payload_kind());
        Ok(Feed::new(common, share, kind, topics, subscribers, publishers, recorder))
    }

    /// A feed without subscribers and publications. Clients numbered below `subscribers` may subscribe. Payloads arrive
    /// in messages of this kind.
    pub(crate) fn new(
        common: &CommonOptions,
        share: Share,
        kind: MessageKind,
        topics: Arc<Topics>,
        subscribers: u32,
        publishers: u32,
        recorder: Recorder,
    ) -> Feed {
        let mut payload = vec![0; common.size as usize];
        let run = share.board.run;
        payload::write(&mut payload, Stamp { run, sequence: 0, time_ns: 0 });
        let topic_count = topics.count();
        let one_publisher = publishers == 1;
        let deliveries = Deliveries::new(share, kind, topics, subscribers, one_publisher, recorder, common.tolerance);
        Feed {
            deliveries,
            published: 0,
            publishers,
            topic_count,
            watched: None,
            publisher_ended: false,
            scheduled_until_ns: 0,
            is_quiet: false,
            run,
            payload,
        }
    }

    /// Publishes on the first `count` topics only.
    pub(crate) fn on_topics(self, count: u32) -> Feed {
        Feed { topic_count: count, ..self }
    }

    /// Publishes on the last topic by its own schedule and publisher, and reports its latency apart.
    pub(crate) fn watch_last(mut self, rate: u32) -> Feed {
        self.topic_count -= 1;
        self.deliveries.watch(self.topic_count);
        Feed { watched: Some(Watched { rate, pace: Pace::new(Some(rate), None) }), ..self }
    }

    /// A publisher's connection has ended.
    pub(crate) fn on_publisher_closed(&mut self, reason: &str) {
        self.publisher_ended = true;
        self.deliveries.faults.publisher_closed(reason);
    }

    /// Whether publishing makes no sense any more.
    pub(crate) fn is_over(&self) -> bool {
        self.publisher_ended || self.deliveries.subscribers() == 0 || interrupt::has_come()
    }

    /// Time of the last message, or the end of the schedule if that is later.
    fn last_ns(&self) -> u64 {
        self.scheduled_until_ns.max(self.deliveries.last_progress_ns())
    }

    /// Ends the measured part, although the run goes on.
    pub(crate) fn stop_recording(&mut self) {
        let last_ns = self.last_ns();
        self.deliveries.recorder.stop_measuring(last_ns);
    }

    /// Starts the schedules.
    fn start(&mut self, pace: &mut Pace) {
        let now_ns = self.deliveries.recorder.now_ns();
        pace.start(now_ns);
        if let Some(Watched { rate, pace }) = &mut self.watched {
            *pace = Pace::new(Some(*rate), None);
            pace.start(now_ns);
        }
    }

    /// Publishes the due messages, with topics and publishers in rotation.
    fn publish_due(&mut self, pace: &mut Pace, clients: &mut Clients) {
        let now_ns = self.deliveries.recorder.now_ns();
        self.publish_watched(now_ns, clients);
        for _ in 0..PUBLICATIONS_PER_TURN {
            let Some(intended_ns) = pace.take_due(self.deliveries.under_way(), now_ns) else { return };
            let topic = (self.published % u64::from(self.topic_count)) as u32;
            let publisher = (self.published % u64::from(self.publishers)) as u32;
            let times = Times { intended_ns, actual_ns: now_ns };
            self.published += 1;
            if pace.is_client_driven() {
                self.deliveries.recorder.published(times);
            }
            self.publish(topic, publisher, times, clients);
        }
    }

    fn publish_watched(&mut self, now_ns: u64, clients: &mut Clients) {
        while let Some(intended_ns) = self.watched.as_mut().and_then(|watched| watched.pace.take_due(0, now_ns)) {
            self.publish(self.topic_count, self.publishers, Times { intended_ns, actual_ns: now_ns }, clients);
        }
    }

    fn publish(&mut self, topic: u32, publisher: u32, times: Times, clients: &mut Clients) {
        let number = self.deliveries.next_sequence(topic);
        let sequence = u64::from(topic) << TOPIC_SHIFT | number;
        payload::write_stamp(&mut self.payload, Stamp { run: self.run, sequence, time_ns: times.intended_ns });
        self.deliveries.publish(topic, &self.payload, times);
        clients.publish(publisher, (topic, number), &self.payload, times.actual_ns);
    }

    /// Time until the next publication is due, at most `patience`.
    fn next_due_in(&self, pace: &Pace, patience: Duration) -> Duration {
        let (under_way, now_ns) = (self.deliveries.under_way(), self.deliveries.recorder.now_ns());
        let watched = self.watched.and_then(|watched| watched.pace.next_due_in(0, now_ns));
        let due = [pace.next_due_in(under_way, now_ns), watched];
        due.into_iter().flatten().fold(patience, Duration::min)
    }

    /// Whether everything published was delivered and acknowledged, or is no longer expected.
    fn is_settled(&mut self, clients: &mut Clients) -> bool {
        // Where the server has ended the publisher's connection, it may be ending the others.
        if !self.deliveries.is_close_received() || self.publisher_ended && !self.is_quiet {
            return false;
        }
        match clients.unanswered() {
            0 => true,
            count if self.deliveries.is_idle_for_long() => {
                self.deliveries.faults.refused(&format!("{count} publications were never acknowledged"));
                clients.give_up_unanswered();
                true
            }
            _ => false,
        }
    }

    /// Ends a turn of the loop. Before it the last message came at `last_ns`, and there were `faults`.
    fn turn_over(&mut self, last_ns: u64, faults: u64, run: &mut Run) {
        self.deliveries.turn_over();
        self.is_quiet = self.last_ns() == last_ns && self.deliveries.faults.sum() == faults;
        if self.is_quiet {
            run.on_idle(last_ns);
            self.deliveries.recorder.on_idle(last_ns);
        }
    }
}

/// Publishes one message now.
pub(crate) fn publish_one(scenario: &mut impl Feeding, clients: &mut Clients) {
    scenario.feed().publish_due(&mut Pace::new(None, None), clients);
}

/// Publishes at this pace for `duration`, then waits for all deliveries.
pub(crate) fn run_for(
    scenario: &mut impl Feeding,
    duration: Duration,
    mut pace: Pace,
    clients: &mut Clients,
    run: &mut Run,
) {
    let end = Instant::now() + duration;
    scenario.feed().start(&mut pace);
    loop {
        let feed = scenario.feed();
        let is_publishing = Instant::now() < end && !feed.is_over();
        if is_publishing {
            feed.scheduled_until_ns = feed.deliveries.recorder.now_ns();
            feed.publish_due(&mut pace, clients);
        } else if feed.is_settled(clients) {
            return;
        }
        let (last_ns, faults) = (feed.last_ns(), feed.deliveries.faults.sum());
        let patience = scenario.on_turn(clients).min(TURN);
        let timeout = if is_publishing { scenario.feed().next_due_in(&pace, patience) } else { patience };
        clients.turn(timeout, scenario);
        scenario.feed().turn_over(last_ns, faults, run);
    }
}

/// Receives until the first worker says that the run is over. This worker publishes nothing.
pub(crate) fn follow(mut scenario: impl Feeding, clients: &mut Clients, orders: &Orders) -> Part {
    loop {
        match orders.next() {
            Some(Command::Measure) => {
                scenario.feed().deliveries.start_measuring();
                orders.done();
            }
            Some(Command::Stop) => break,
            Some(Command::WarmUp) | None => {}
        }
        let last_ns = scenario.feed().deliveries.own_progress_ns();
        clients.turn(ORDERS_WITHIN, &mut scenario);
        let deliveries = &mut scenario.feed().deliveries;
        deliveries.turn_over();
        if deliveries.own_progress_ns() == last_ns {
            deliveries.recorder.on_idle(last_ns);
        }
    }
    let deliveries = &mut scenario.feed().deliveries;
    let last_ns = deliveries.own_progress_ns();
    deliveries.recorder.stop_measuring(last_ns);
    let counts = std::mem::take(&mut deliveries.counts);
    let faults = std::mem::replace(&mut deliveries.faults, Faults::new(Duration::MAX));
    let recorded = std::mem::replace(&mut deliveries.recorder.recorded, Recorded::new());
    Part { counts, findings: Findings { recorded, faults } }
}

/// The outcome of a scenario after its measured part. `load` describes the load.
///
/// # Errors
/// If this process's usage can't be read.
pub(crate) fn report(
    run: Run,
    feed: Feed,
    common: &CommonOptions,
    scenario: &'static str,
    load: String,
    open_loop: bool,
    figures: Vec<Figure>,
) -> Result<Outcome, Error> {
    let last_ns = feed.last_ns();
    let Deliveries { counts, mut recorder, faults, .. } = feed.deliveries;
    recorder.stop_measuring(last_ns);
    let measured = run.stop_measuring(last_ns)?;
    Ok(Outcome {
        scenario,
        url: common.url.to_string(),
        payload_bytes: common.size,
        load,
        open_loop,
        unit: UNIT,
        counts,
        findings: vec![Findings { recorded: recorder.recorded, faults }],
        measured,
        figures,
    })
}
