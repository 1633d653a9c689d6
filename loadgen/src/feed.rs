//! Publishing to subscribers at a pace, and checking every delivery: what `fanout` is, and what other scenarios do
//! while something else goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::CommonOptions;
use crate::clients::{Clients, Sink, TURN};
use crate::deliveries::Deliveries;
use crate::error::Error;
use crate::figure::Figure;
use crate::pace::Pace;
use crate::payload::{self, Stamp};
use crate::recorder::{Recorder, Times};
use crate::report::{Findings, Outcome, Report};
use crate::run::Run;
use crate::topics::Topics;

/// What is counted.
pub(crate) const UNIT: &str = "deliveries";

/// So many publications are handed over before answers are looked at again, however late the schedule is.
const PUBLICATIONS_PER_TURN: usize = 1024;

/// Sequence numbers of topic `n` begin at `n << TOPIC_SHIFT`, so that a message that comes to a subscriber of another
/// topic shows.
pub(crate) const TOPIC_SHIFT: u32 = 40;

/// What is published, and who has got it.
pub(crate) struct Feed {
    pub(crate) deliveries: Deliveries,
    /// Publications so far.
    pub(crate) published: u64,
    publishers: u32,
    /// Topics that are published on: the first so many.
    topic_count: u32,
    /// A publisher is gone, and with it messages that were to be published.
    publisher_ended: bool,
    payload: Vec<u8>,
}

/// A scenario around a feed.
pub(crate) trait Feeding: Sink {
    fn feed(&mut self) -> &mut Feed;

    /// Does what else is due. Returns how long it can wait for more.
    fn on_turn(&mut self, clients: &mut Clients) -> Duration;
}

impl Feed {
    /// Nobody has subscribed, nothing is published yet. Clients numbered below `subscribers` may subscribe.
    pub(crate) fn new(
        common: &CommonOptions,
        topics: Arc<Topics>,
        subscribers: u32,
        publishers: u32,
        recorder: Recorder,
    ) -> Feed {
        let mut payload = vec![0; common.size as usize];
        payload::write(&mut payload, Stamp { sequence: 0, time_ns: 0 });
        let topic_count = topics.count();
        let deliveries = Deliveries::new(topics, subscribers, publishers == 1, recorder, common.tolerance);
        Feed { deliveries, published: 0, publishers, topic_count, publisher_ended: false, payload }
    }

    /// Publishes on the first `count` topics only.
    pub(crate) fn on_topics(self, count: u32) -> Feed {
        Feed { topic_count: count, ..self }
    }

    /// A connection that publishes has ended.
    pub(crate) fn on_publisher_closed(&mut self, reason: &str) {
        self.publisher_ended = true;
        self.deliveries.faults.refused(reason);
    }

    /// Whether nothing more will come.
    pub(crate) fn is_over(&self) -> bool {
        self.deliveries.is_stalled() || self.publisher_ended || self.deliveries.subscribers() == 0
    }

    /// Topics and publishers take turns.
    fn publish_due(&mut self, pace: &mut Pace, clients: &mut Clients) {
        let now_ns = self.deliveries.recorder.now_ns();
        for _ in 0..PUBLICATIONS_PER_TURN {
            let Some(intended_ns) = pace.take_due(self.deliveries.under_way(), now_ns) else { return };
            let topic = (self.published % u64::from(self.topic_count)) as u32;
            let publisher = (self.published % u64::from(self.publishers)) as u32;
            let sequence = u64::from(topic) << TOPIC_SHIFT | self.deliveries.next_sequence(topic);
            payload::write_stamp(&mut self.payload, Stamp { sequence, time_ns: intended_ns });
            let times = Times { intended_ns, actual_ns: now_ns };
            self.deliveries.publish(topic, &self.payload, times);
            self.published += 1;
            if pace.is_ours_to_keep() {
                self.deliveries.recorder.published(times);
            }
            clients.publish(publisher, topic, &self.payload);
        }
    }
}

/// Publishes once, now, if nothing is under way.
pub(crate) fn publish_one(scenario: &mut impl Feeding, clients: &mut Clients) {
    scenario.feed().publish_due(&mut Pace::new(None, None), clients);
}

/// Publishes at this pace for `duration`, then waits until all of it has arrived.
pub(crate) fn run_for(scenario: &mut impl Feeding, duration: Duration, mut pace: Pace, clients: &mut Clients) {
    let end = Instant::now() + duration;
    pace.start(scenario.feed().deliveries.recorder.now_ns());
    loop {
        if scenario.feed().is_over() {
            return scenario.feed().deliveries.give_up();
        }
        if Instant::now() < end {
            scenario.feed().publish_due(&mut pace, clients);
        } else if scenario.feed().deliveries.is_close_received() && clients.is_answered() {
            return;
        }
        let patience = scenario.on_turn(clients).min(TURN);
        let deliveries = &scenario.feed().deliveries;
        let (under_way, now_ns) = (deliveries.under_way(), deliveries.recorder.now_ns());
        let timeout = pace.next_due_in(under_way, now_ns).map_or(patience, |due| due.min(patience));
        clients.turn(timeout, scenario);
        scenario.feed().deliveries.turn_over();
    }
}

/// What a scenario found whose measured part is over. `load` says how hard it was driven.
///
/// # Errors
/// If this process can't be looked at.
pub(crate) fn report(
    run: Run,
    feed: Feed,
    common: &CommonOptions,
    scenario: &'static str,
    load: String,
    open_loop: bool,
    figures: Vec<Figure>,
) -> Result<Report, Error> {
    let Deliveries { counts, mut recorder, faults, .. } = feed.deliveries;
    recorder.stop_measuring();
    let (cost, history) = run.stop_measuring()?;
    Ok(Report::new(Outcome {
        scenario,
        url: common.url.to_string(),
        payload_bytes: common.size,
        load,
        open_loop,
        unit: UNIT,
        counts,
        findings: vec![Findings { recorded: recorder.recorded, faults }],
        cost,
        history,
        figures,
    }))
}
