//! Few publishers, many subscribers: every publication must reach every subscriber once, in order and unchanged.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::check::board::{Board, Share};
use crate::check::topics::Topics;
use crate::cli::{CommonOptions, FanoutOptions};
use crate::error::Error;
use crate::host::pin;
use crate::options::PublishOptions;
use crate::report::Outcome;
use crate::report::figure::Figure;
use crate::report::recorder::Recorder;
use crate::report::timeline::Timeline;
use crate::scenario::crew::{self, Command, Crew, Part};
use crate::scenario::crowd::Crowd;
use crate::scenario::curve::Curve;
use crate::scenario::feed::{self, Feed, Feeding};
use crate::scenario::load::{Group, Load};
use crate::scenario::pace::Pace;
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Incoming, Known, Out, Ready, Sink};

/// Runs the scenario.
///
/// # Errors
/// If the server is unreachable or refuses the connections, or this host's limits are too low.
pub(crate) fn run(options: &FanoutOptions) -> Result<Outcome, Error> {
    drive(&options.common, &options.publishing, &load(options)?)
}

/// Connects the subscribers of a load, publishes, and checks every delivery.
///
/// # Errors
/// As [`run`].
pub(crate) fn drive(common: &CommonOptions, publishing: &PublishOptions, load: &Load) -> Result<Outcome, Error> {
    pin::to_cpu(common.cpu_of(0))?;
    load.check(common, publishing)?;
    let run = Run::start(common, feed::UNIT)?;
    let setup = Setup {
        common,
        publishing,
        load,
        topics: load.topics(&common.connect.topic),
        ranges: crew::split(load.subscribers(), load.workers),
        board: Board::new(load.workers)?,
        timeline: run.timeline(),
    };
    let (mut outcome, parts) = std::thread::scope(|scope| {
        let crew = Crew::start(scope, load.workers, |worker, orders| {
            let (mut clients, fanout) = setup.connect(worker, None)?;
            orders.done();
            Ok(feed::follow(fanout, &mut clients, orders))
        });
        lead(&setup, run, crew)
    })?;
    for Part { counts, findings } in parts {
        outcome.counts.extend(counts);
        outcome.findings.push(findings);
    }
    // Watchers have a load of their own.
    outcome.counts.truncate(load.counted() as usize);
    Ok(outcome)
}

/// What each worker needs to begin.
struct Setup<'a> {
    common: &'a CommonOptions,
    publishing: &'a PublishOptions,
    load: &'a Load,
    topics: Topics,
    /// The subscribers of each worker.
    ranges: Vec<Range<u32>>,
    board: Arc<Board>,
    timeline: Arc<Timeline>,
}

impl Setup<'_> {
    /// Connects the subscribers of `worker`.
    fn connect(&self, worker: usize, publishing: Option<&PublishOptions>) -> Result<(Clients, Fanout), Error> {
        let Setup { common, load, .. } = self;
        pin::to_cpu(common.cpu_of(worker))?;
        let range = self.ranges[worker].clone();
        let subscribers = range.len() as u32;
        let topics = Arc::new(self.topics.part(range.clone()));
        let mut clients = Clients::new(common, Arc::clone(&topics), subscribers, publishing)?;
        let share = Share { board: Arc::clone(&self.board), worker, first: range.start };
        let recorder = Recorder::new(Arc::clone(&self.timeline));
        let feed = Feed::new(common, share, clients.payload_kind(), topics, subscribers, load.streams(), recorder);
        let mut crowd = load.crowd(&range);
        let begin = crowd.begin();
        let mut fanout = Fanout { subscribers, feed, crowd };
        begin.into_iter().try_for_each(|part| clients.connect(part, &mut fanout))?;
        Ok((clients, fanout))
    }
}

/// The work of the first worker: publishes, and leads the others.
fn lead(setup: &Setup<'_>, mut run: Run, crew: Crew<'_>) -> Result<(Outcome, Vec<Part>), Error> {
    let Setup { common, load, .. } = setup;
    let publishing = PublishOptions { publishers: load.publishers(), ..setup.publishing.clone() };
    let (mut clients, mut fanout) = setup.connect(0, Some(&publishing))?;
    crew.await_all()?;
    clients.connect_publishers(&mut fanout)?;
    setup.board.wake().into_iter().for_each(|wake| clients.wake_by(wake));

    feed::run_for(&mut fanout, common.warmup, &mut clients, &mut run);
    crew.tell(Command::Measure);
    crew.await_all()?;
    fanout.start_measuring();
    let published = fanout.feed.published;
    run.start_measuring()?;
    feed::run_for(&mut fanout, common.duration, &mut clients, &mut run);
    let parts = crew.stop();
    let figures = vec![Figure::new("publications", (fanout.feed.published - published) as f64, "")];
    let outcome =
        feed::report(run, fanout.feed, common, load.scenario, load.words.clone(), load.is_open_loop(), figures)?;
    Ok((outcome, parts))
}

/// The load that the flags describe.
fn load(options: &FanoutOptions) -> Result<Load, Error> {
    let FanoutOptions { common, connections, topics, topics_per_connection: each, skew, watchers, .. } = options;
    if each > topics {
        return Err(Error::new(format!(
            "{each} topics for each connection need --topics {each} or more, not {topics}"
        )));
    }
    if u64::from(*topics) > u64::from(*connections) * u64::from(*each) {
        let needed = topics.div_ceil(*each);
        return Err(Error::new(format!("{topics} topics need at least {needed} connections, not {connections}")));
    }
    if *each > 1 && !common.connect.takes_several_topics() {
        return Err(Error::new("--topics-per-connection needs --driver raw, --driver sse or a --script"));
    }
    let pace = Pace::new(options.rate, options.in_flight).in_bursts(options.burst);
    let words = words(options, &pace);
    let crowd = Group {
        topics: *topics,
        each: *each,
        skew: *skew,
        publishers: options.publishing.publishers,
        ..Group::new(String::new(), *connections, pace, common.size)
    };
    let mut groups = vec![crowd];
    if *watchers > 0 {
        let pace = Pace::new(Some(options.watch_rate), None);
        let group = Group::new("watched".to_owned(), *watchers, pace, common.size);
        groups.push(Group { is_watched: true, ..group });
    }
    Ok(Load { scenario: "fanout", groups, connected: Curve::flat(1.0), workers: options.workers, words })
}

/// The load, in words.
fn words(options: &FanoutOptions, pace: &Pace) -> String {
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

/// State of the run.
struct Fanout {
    subscribers: u32,
    feed: Feed,
    crowd: Crowd,
}

impl Feeding for Fanout {
    fn feed(&mut self) -> &mut Feed {
        &mut self.feed
    }

    fn on_turn(&mut self, clients: &mut Clients) -> Duration {
        self.crowd.turn(clients, &mut self.feed.deliveries)
    }

    /// The stages begin, too.
    fn start_measuring(&mut self) {
        self.feed.deliveries.start_measuring();
        self.feed.begin_stages();
        self.crowd.start(self.feed.deliveries.recorder.now_ns());
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
