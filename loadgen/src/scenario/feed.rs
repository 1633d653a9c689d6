//! Publishes at a pace and checks every delivery: all of `fanout`, and the background load of other scenarios.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

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
use crate::scenario::curve::Curve;
use crate::scenario::pace::Pace;
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Sink, TURN};

/// Longest time until a worker notices what the first one says.
const ORDERS_WITHIN: Duration = Duration::from_millis(10);

/// Where another machine publishes, its messages are expected so long before they are due: more than the clocks differ,
/// and than a turn takes.
const AHEAD: Duration = Duration::from_millis(50);

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
    /// Publications so far, without those of a watched topic.
    pub(crate) published: u64,
    streams: Vec<Stream>,
    /// A publisher's connection has ended, and its messages with it.
    publisher_ended: bool,
    /// The end of the schedule so far.
    scheduled_until_ns: u64,
    /// Nothing happened in the last turn.
    is_quiet: bool,
    run: RunName,
    /// Another machine publishes, and this one expects each message so long before it is due. Otherwise 0.
    ahead_ns: u64,
    /// So long after the end of the schedule, what is still due before it is published: other machines expect it.
    catches_up: Duration,
}

/// Publications with a schedule, topics and publishers of their own.
#[derive(Clone)]
pub(crate) struct Stream {
    pace: Pace,
    /// The rate of the measured part, if it differs from that of the warm-up.
    stages: Option<Curve>,
    /// In rotation, as are the publishers and the payloads.
    topics: Range<u32>,
    publishers: Range<u32>,
    payloads: Vec<Vec<u8>>,
    /// Publications so far.
    published: u64,
    /// The latency of its topics is reported apart.
    is_watched: bool,
}

impl Stream {
    /// Publishes on these topics, from these publishers, payloads of these sizes.
    pub(crate) fn new(pace: Pace, topics: Range<u32>, publishers: Range<u32>, sizes: &[u32]) -> Stream {
        let payload = |size: &u32| {
            let mut payload = vec![0; *size as usize];
            payload::write(&mut payload, Stamp { run: 0, sequence: 0, time_ns: 0 });
            payload
        };
        let payloads = sizes.iter().map(payload).collect();
        Stream { pace, stages: None, topics, publishers, payloads, published: 0, is_watched: false }
    }

    /// Publishes at this rate in the measured part.
    pub(crate) fn over(self, stages: Option<Curve>) -> Stream {
        Stream { stages, ..self }
    }

    /// Reports the latency of its topics apart.
    pub(crate) fn watched(self) -> Stream {
        Stream { is_watched: true, ..self }
    }
}

/// The item number `index` in rotation.
fn in_rotation(range: &Range<u32>, index: u64) -> u32 {
    range.start + (index % range.len() as u64) as u32
}

/// A scenario around a feed.
pub(crate) trait Feeding: Sink {
    fn feed(&mut self) -> &mut Feed;

    /// Does the scenario's own work. Returns how long it can wait for the next.
    fn on_turn(&mut self, clients: &mut Clients) -> Duration;

    /// Discards the figures of the warm-up.
    fn start_measuring(&mut self) {
        self.feed().deliveries.start_measuring();
    }
}

impl Feed {
    /// The feed of a run with one worker, which has all clients. Publishes on all topics.
    ///
    /// # Errors
    /// As [`Share::of_one`].
    pub(crate) fn of_one(
        common: &CommonOptions,
        clients: &Clients,
        topics: Arc<Topics>,
        subscribers: u32,
        publishers: u32,
        pace: Pace,
        recorder: Recorder,
    ) -> Result<Feed, Error> {
        let (share, kind) = (Share::of_one()?, clients.payload_kind());
        let streams = vec![Stream::new(pace, 0..topics.count(), 0..publishers, &[common.size])];
        Ok(Feed::new(common, share, kind, topics, subscribers, streams, recorder))
    }

    /// A feed without subscribers and publications. Clients numbered below `subscribers` may subscribe. Payloads arrive
    /// in messages of this kind.
    pub(crate) fn new(
        common: &CommonOptions,
        share: Share,
        kind: MessageKind,
        topics: Arc<Topics>,
        subscribers: u32,
        streams: Vec<Stream>,
        recorder: Recorder,
    ) -> Feed {
        let run = share.board.run;
        let mut deliveries = Deliveries::new(share, kind, topics, subscribers, true, recorder, common.tolerance);
        for Stream { topics, publishers, is_watched, .. } in &streams {
            for topic in topics.clone() {
                if publishers.len() > 1 {
                    deliveries.follow_order_of_server(topic);
                }
                if *is_watched {
                    deliveries.watch(topic);
                }
            }
        }
        Feed {
            deliveries,
            published: 0,
            streams,
            publisher_ended: false,
            scheduled_until_ns: 0,
            is_quiet: false,
            run,
            ahead_ns: 0,
            catches_up: Duration::ZERO,
        }
    }

    /// Publishes on the first `count` topics only.
    pub(crate) fn on_topics(mut self, count: u32) -> Feed {
        self.streams[0].topics = 0..count;
        self
    }

    /// Another machine publishes on the same schedule.
    pub(crate) fn publish_elsewhere(&mut self) {
        self.ahead_ns = AHEAD.as_nanos() as u64;
    }

    /// Other machines expect all that is scheduled, so this one publishes it, if within `patience` after the end.
    pub(crate) fn catch_up(&mut self, patience: Duration) {
        self.catches_up = patience;
    }

    /// Whether a publication that was scheduled before `end_ns` has not been made.
    pub(crate) fn is_behind(&self, end_ns: u64) -> bool {
        self.streams.iter().any(|stream| stream.pace.is_due_before(end_ns))
    }

    /// From now on, publishes at the rates of the measured part.
    pub(crate) fn begin_stages(&mut self) {
        for stream in &mut self.streams {
            if let Some(curve) = stream.stages.take() {
                stream.pace = stream.pace.clone().over(curve);
            }
        }
    }

    /// A publisher's connection has ended.
    pub(crate) fn on_publisher_closed(&mut self, reason: &str) {
        self.publisher_ended = true;
        self.deliveries.faults.publisher_closed(reason);
    }

    /// Whether publishing makes no sense any more.
    pub(crate) fn is_over(&self) -> bool {
        let has_ended = self.deliveries.has_ended() || interrupt::has_come();
        self.publisher_ended || self.deliveries.subscribers() == 0 || has_ended
    }

    /// Time of the last message, or the end of the schedule if that is later.
    pub(crate) fn last_ns(&self) -> u64 {
        self.scheduled_until_ns.max(self.deliveries.last_progress_ns())
    }

    /// The measured part goes on until this time, if that is later.
    pub(crate) fn go_on_until(&mut self, last_ns: u64) {
        self.scheduled_until_ns = self.scheduled_until_ns.max(last_ns);
    }

    /// Ends the measured part, although the run goes on.
    pub(crate) fn stop_recording(&mut self) {
        let last_ns = self.last_ns();
        self.deliveries.recorder.stop_measuring(last_ns);
    }

    /// Starts the schedules at this time.
    fn start(&mut self, start_ns: u64) {
        self.streams.iter_mut().for_each(|stream| stream.pace.start(start_ns));
    }

    /// The time up to which messages are due.
    fn due_ns(&self) -> u64 {
        self.deliveries.recorder.now_ns() + self.ahead_ns
    }

    /// Publishes the messages that are due, and were scheduled before `end_ns`: those of the last stream, which may be
    /// watched, first.
    fn publish_due(&mut self, end_ns: u64, clients: &mut Clients) {
        let actual_ns = self.due_ns();
        let due_ns = actual_ns.min(end_ns.saturating_sub(1));
        for index in (0..self.streams.len()).rev() {
            for _ in 0..PUBLICATIONS_PER_TURN {
                let Stream { pace, is_watched, .. } = &mut self.streams[index];
                let under_way = if *is_watched { 0 } else { self.deliveries.under_way() };
                let Some(intended_ns) = pace.take_due(under_way, due_ns) else { break };
                let is_elsewhere = self.ahead_ns > 0;
                let times = Times { intended_ns, actual_ns: if is_elsewhere { intended_ns } else { actual_ns } };
                if pace.is_client_driven() && !is_elsewhere {
                    self.deliveries.recorder.published(times);
                }
                self.publish(index, times, clients);
            }
        }
    }

    /// Publishes the next message of a stream, with topics, publishers and payloads in rotation.
    fn publish(&mut self, stream: usize, times: Times, clients: &mut Clients) {
        let Stream { topics, publishers, payloads, published, is_watched, .. } = &mut self.streams[stream];
        let (topic, publisher) = (in_rotation(topics, *published), in_rotation(publishers, *published));
        let sizes = payloads.len() as u64;
        let payload = &mut payloads[(*published % sizes) as usize];
        *published += 1;
        self.published += u64::from(!*is_watched);
        let number = self.deliveries.next_sequence(topic);
        let sequence = u64::from(topic) << TOPIC_SHIFT | number;
        payload::write_stamp(payload, Stamp { run: self.run, sequence, time_ns: times.intended_ns });
        self.deliveries.publish(topic, payload, times);
        if self.ahead_ns > 0 {
            return;
        }
        clients.publish(publisher, (topic, number), payload, times.actual_ns);
    }

    /// Time until the next publication is due, at most `patience`.
    fn next_due_in(&self, patience: Duration) -> Duration {
        let (under_way, now_ns) = (self.deliveries.under_way(), self.due_ns());
        let due = self.streams.iter().filter_map(|Stream { pace, is_watched, .. }| {
            pace.next_due_in(if *is_watched { 0 } else { under_way }, now_ns)
        });
        due.fold(patience, Duration::min)
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
    let feed = scenario.feed();
    let times = Times::now(feed.deliveries.recorder.now_ns());
    feed.publish(0, times, clients);
}

/// Publishes on schedule for `duration`, then waits for all deliveries.
pub(crate) fn run_for(scenario: &mut impl Feeding, duration: Duration, clients: &mut Clients, run: &mut Run) {
    let start_ns = scenario.feed().deliveries.recorder.now_ns();
    run_from(scenario, start_ns, duration, clients, run);
}

/// The same from this time of the run on.
pub(crate) fn run_from(
    scenario: &mut impl Feeding,
    start_ns: u64,
    duration: Duration,
    clients: &mut Clients,
    run: &mut Run,
) {
    let end_ns = start_ns + duration.as_nanos() as u64;
    scenario.feed().start(start_ns);
    loop {
        let feed = scenario.feed();
        let now_ns = feed.deliveries.recorder.now_ns();
        let may_catch_up = now_ns < end_ns + feed.catches_up.as_nanos() as u64;
        let is_publishing = !feed.is_over() && (now_ns < end_ns || may_catch_up && feed.is_behind(end_ns));
        if is_publishing {
            feed.scheduled_until_ns = now_ns;
            feed.publish_due(end_ns, clients);
        } else if feed.is_settled(clients) {
            return;
        }
        let (last_ns, faults) = (feed.last_ns(), feed.deliveries.faults.sum());
        let patience = scenario.on_turn(clients).min(TURN);
        let timeout = if is_publishing { scenario.feed().next_due_in(patience) } else { patience };
        clients.turn(timeout, scenario);
        scenario.feed().turn_over(last_ns, faults, run);
    }
}

/// Receives until the first worker says that the run is over. This worker publishes nothing.
pub(crate) fn follow(mut scenario: impl Feeding, clients: &mut Clients, orders: &Orders) -> Part {
    loop {
        match orders.next() {
            Some(Command::Measure) => {
                scenario.start_measuring();
                orders.done();
            }
            Some(Command::Stop) => break,
            Some(Command::WarmUp) | None => {}
        }
        let last_ns = scenario.feed().deliveries.own_progress_ns();
        let patience = scenario.on_turn(clients).min(ORDERS_WITHIN);
        clients.turn(patience, &mut scenario);
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
        agents: Vec::new(),
    })
}
