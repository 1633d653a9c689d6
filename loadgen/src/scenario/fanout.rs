//! Few publishers, many subscribers: every publication must reach every subscriber once, in order and unchanged.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::check::board::{Board, Share};
use crate::check::topics::Topics;
use crate::cli::FanoutOptions;
use crate::error::Error;
use crate::host::pin;
use crate::options::PublishOptions;
use crate::report::Outcome;
use crate::report::figure::Figure;
use crate::report::recorder::Recorder;
use crate::report::timeline::Timeline;
use crate::scenario::crew::{self, Command, Crew, Part};
use crate::scenario::feed::{self, Feed, Feeding};
use crate::scenario::pace::Pace;
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Incoming, Known, Out, Ready, Sink, TURN};

/// Runs the scenario.
///
/// # Errors
/// If the server is unreachable or refuses the connections, or this host's limits are too low.
pub(crate) fn run(options: &FanoutOptions) -> Result<Outcome, Error> {
    let FanoutOptions { common, connections, watchers, workers, .. } = options;
    pin::to_cpu(common.cpu_of(0))?;
    let topics = topics(options)?;
    let subscribers = connections + watchers;
    check_workers(options, subscribers)?;
    let run = Run::start(common, feed::UNIT)?;
    let plan = Plan {
        options,
        topics,
        ranges: crew::split(subscribers, *workers),
        board: Board::new(*workers)?,
        timeline: run.timeline(),
    };
    let (mut outcome, parts) = std::thread::scope(|scope| {
        let crew = Crew::start(scope, *workers, |worker, orders| {
            let (mut clients, fanout) = plan.set_up(worker, None)?;
            orders.done();
            Ok(feed::follow(fanout, &mut clients, orders))
        });
        lead(&plan, run, crew)
    })?;
    for Part { counts, findings } in parts {
        outcome.counts.extend(counts);
        outcome.findings.push(findings);
    }
    // Watchers have a load of their own.
    outcome.counts.truncate(*connections as usize);
    Ok(outcome)
}

fn check_workers(options: &FanoutOptions, subscribers: u32) -> Result<(), Error> {
    let workers = options.workers;
    if workers > subscribers {
        return Err(Error::new(format!("{workers} workers need at least {workers} connections, not {subscribers}")));
    }
    if workers > 1 && options.publishing.publishers > 1 {
        return Err(Error::new(
            "the order of several publishers is checked by one worker only: use --workers 1 or --publishers 1",
        ));
    }
    Ok(())
}

/// What each worker needs to begin.
struct Plan<'a> {
    options: &'a FanoutOptions,
    topics: Topics,
    /// The subscribers of each worker.
    ranges: Vec<Range<u32>>,
    board: Arc<Board>,
    timeline: Arc<Timeline>,
}

impl Plan<'_> {
    /// Connects the subscribers of `worker`.
    fn set_up(&self, worker: usize, publishing: Option<&PublishOptions>) -> Result<(Clients, Fanout), Error> {
        let FanoutOptions { common, watchers, watch_rate, .. } = self.options;
        pin::to_cpu(common.cpu_of(worker))?;
        let range = self.ranges[worker].clone();
        let subscribers = range.len() as u32;
        let topics = Arc::new(self.topics.part(range.clone()));
        let mut clients = Clients::new(common, Arc::clone(&topics), subscribers, publishing)?;
        let share = Share { board: Arc::clone(&self.board), worker, first: range.start };
        let recorder = Recorder::new(Arc::clone(&self.timeline));
        let publishers = self.options.publishing.publishers;
        let mut feed = Feed::new(common, share, clients.payload_kind(), topics, subscribers, publishers, recorder);
        if *watchers > 0 {
            feed = feed.watch_last(*watch_rate);
        }
        let mut fanout = Fanout { subscribers, feed };
        clients.connect(0..subscribers, &mut fanout)?;
        Ok((clients, fanout))
    }
}

/// The work of the first worker: publishes, and leads the others.
fn lead(plan: &Plan<'_>, mut run: Run, crew: Crew<'_>) -> Result<(Outcome, Vec<Part>), Error> {
    let options = plan.options;
    let common = &options.common;
    let mut publishing = options.publishing.clone();
    publishing.publishers += u32::from(options.watchers > 0);
    let (mut clients, mut fanout) = plan.set_up(0, Some(&publishing))?;
    crew.await_all()?;
    clients.connect_publishers(&mut fanout)?;
    plan.board.wake().into_iter().for_each(|wake| clients.wake_by(wake));

    let pace = || Pace::new(options.rate, options.in_flight).in_bursts(options.burst);
    feed::run_for(&mut fanout, common.warmup, pace(), &mut clients, &mut run);
    crew.tell(Command::Measure);
    crew.await_all()?;
    fanout.feed.deliveries.start_measuring();
    let published = fanout.feed.published;
    run.start_measuring()?;
    feed::run_for(&mut fanout, common.duration, pace(), &mut clients, &mut run);
    let parts = crew.stop();
    let figures = vec![Figure::new("publications", (fanout.feed.published - published) as f64, "")];
    let load = load(options, pace());
    let outcome = feed::report(run, fanout.feed, common, "fanout", load, pace().is_open_loop(), figures)?;
    Ok((outcome, parts))
}

/// The load, in words.
fn load(options: &FanoutOptions, pace: Pace) -> String {
    let FanoutOptions { topics, topics_per_connection, watchers, watch_rate, .. } = options;
    let mut load = match options.publishing.publishers {
        1 => format!("{pace} from one publisher"),
        several => format!("{pace} from {several} publishers"),
    };
    match (topics, topics_per_connection) {
        (1, _) => {}
        (several, 1) => load.push_str(&format!(" on {several} topics")),
        (several, each) => load.push_str(&format!(" on {several} topics, {each} for each connection")),
    }
    if options.workers > 1 {
        load.push_str(&format!(" by {} workers", options.workers));
    }
    match watchers {
        0 => {}
        1 => load.push_str(&format!("; {watch_rate} a second to one watcher")),
        several => load.push_str(&format!("; {watch_rate} a second to {several} watchers")),
    }
    load
}

fn topics(options: &FanoutOptions) -> Result<Topics, Error> {
    let FanoutOptions { common, connections, topics, topics_per_connection: each, skew, watchers, .. } = options;
    let (connect, publish) = (&common.connect, &options.publishing.publish);
    if each > topics {
        return Err(Error::new(format!(
            "{each} topics for each connection need --topics {each} or more, not {topics}"
        )));
    }
    if u64::from(*topics) > u64::from(*connections) * u64::from(*each) {
        let needed = topics.div_ceil(*each);
        return Err(Error::new(format!("{topics} topics need at least {needed} connections, not {connections}")));
    }
    if *each > 1 && !connect.takes_several_topics() {
        return Err(Error::new("--topics-per-connection needs --driver raw, --driver sse or a --script"));
    }
    if *topics > 1 || *watchers > 0 {
        if connect.needs_topic_in_address() && !common.url.has_topic() {
            return Err(Error::new(format!("{}: several topics need {{topic}} in the address", common.url)));
        }
        if connect.needs_topic_in_publish_address() && (publish.is_web_socket() || !publish.has_topic()) {
            return Err(Error::new(format!(
                "{publish}: publishing on several topics needs an address that begins with http and has {{topic}}, or \
                 a --script"
            )));
        }
    }
    let crowd = match *topics {
        1 => Topics::one(&connect.topic, *connections),
        several => Topics::several(&connect.topic, *connections, several, *each, *skew),
    };
    Ok(match *watchers {
        0 => crowd,
        several => crowd.and_one(format!("{}-watched", connect.topic), several),
    })
}

/// State of the run.
struct Fanout {
    subscribers: u32,
    feed: Feed,
}

impl Feeding for Fanout {
    fn feed(&mut self) -> &mut Feed {
        &mut self.feed
    }

    fn on_turn(&mut self, _clients: &mut Clients) -> Duration {
        TURN
    }
}

impl Sink for Fanout {
    fn woken(&mut self) -> u64 {
        self.feed.deliveries.woken()
    }

    fn awaited(&self) -> u64 {
        self.feed.deliveries.awaited()
    }

    fn on_ready(&mut self, client: u32, _ready: Ready, _now_ns: u64) {
        if client < self.subscribers {
            self.feed.deliveries.join(client);
        }
    }

    fn take_known(&mut self, client: u32, bytes: &[u8], now_ns: u64) -> Option<Known<'_>> {
        Some(self.feed.deliveries.take_known(client, bytes, now_ns))
    }

    fn on_message(&mut self, client: u32, Incoming { message, frame, now_ns }: Incoming<'_>, _out: Out<'_>) {
        self.feed.deliveries.on_message(client, message, frame, now_ns);
    }

    fn on_acknowledged(&mut self, latency_ns: u64, now_ns: u64) {
        self.feed.deliveries.on_acknowledged(latency_ns, now_ns);
    }

    fn on_refused(&mut self, topic: u32, number: u64, reason: &str) {
        self.feed.deliveries.on_refused(topic, number, reason);
    }

    fn on_closed(&mut self, client: u32, _was_ready: bool, reason: &str) {
        if client < self.subscribers {
            self.feed.deliveries.on_closed(client, reason);
        } else {
            self.feed.on_publisher_closed(reason);
        }
    }
}
