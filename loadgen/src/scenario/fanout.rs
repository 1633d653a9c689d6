//! Few publishers, many subscribers: every publication must reach every subscriber once, in order and unchanged.

use std::ops::Range;
use std::sync::Arc;
use std::thread::Scope;
use std::time::Duration;

use crate::agents::agent::Link;
use crate::agents::clock::Offset;
use crate::agents::coordinator::{self, Agents};
use crate::agents::wire::{Found, FromAgent, Order, ToAgent};
use crate::check::board::{Board, Share};
use crate::check::topics::Topics;
use crate::cli::{CommonOptions, FanoutOptions};
use crate::error::Error;
use crate::host::pin;
use crate::options::{AgentOptions, PublishOptions};
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

/// Longest time until the first worker notices what another machine says.
const WORD_WITHIN: Duration = Duration::from_millis(10);

/// Runs the scenario.
///
/// # Errors
/// If the server is unreachable or refuses the connections, or this host's limits are too low.
pub(crate) fn run(options: &FanoutOptions) -> Result<Outcome, Error> {
    drive(&options.common, &options.publishing, &load(options)?, &options.agents)
}

/// Connects the subscribers of a load, publishes, and checks every delivery.
///
/// # Errors
/// As [`run`].
pub(crate) fn drive(
    common: &CommonOptions,
    publishing: &PublishOptions,
    load: &Load,
    agents: &AgentOptions,
) -> Result<Outcome, Error> {
    pin::to_cpu(common.cpu_of(0))?;
    load.check(common, publishing)?;
    if !agents.agents.is_empty() {
        load.check_agents(agents.agents.len() as u32)?;
        if common.output.hlog.is_some() {
            return Err(Error::new("--hlog has the latencies of one machine only: not with --agents"));
        }
    }
    let mut agents = Agents::connect(agents)?;
    let mut parts = crew::split(load.subscribers(), 1 + agents.as_ref().map_or(0, Agents::count)).into_iter();
    let own = parts.next().expect("this program has a part");
    let run = Run::start(common, feed::UNIT)?;
    let setup = Setup {
        common,
        publishing: Some(publishing),
        load,
        topics: load.topics(&common.connect.topic),
        ranges: crew::split(own.len() as u32, load.workers),
        board: Board::new(load.workers)?,
        timeline: run.timeline(),
    };
    if let Some(agents) = &mut agents {
        let order = |subscribers, offset, started_ns| setup.order(subscribers, offset, started_ns);
        agents.begin(&parts.collect::<Vec<_>>(), setup.timeline.now_ns(), &setup.board, order)?;
    }
    let (mut outcome, parts, found) = std::thread::scope(|scope| {
        let crew = setup.start_crew(scope);
        lead(&setup, run, crew, agents)
    })?;
    for Part { counts, findings } in parts {
        outcome.counts.extend(counts);
        outcome.findings.push(findings);
    }
    found.into_iter().try_for_each(|part| part.add_to(&mut outcome))?;
    // Watchers have a load of their own.
    outcome.counts.truncate(load.counted() as usize);
    Ok(outcome)
}

/// The run of an agent: has these subscribers, and another machine publishes.
///
/// # Errors
/// As [`run`], or if the coordinator has gone.
pub(crate) fn take_part(
    common: &CommonOptions,
    load: &Load,
    subscribers: &Range<u32>,
    timeline: Arc<Timeline>,
    link: &Link<'_>,
) -> Result<Found, Error> {
    let mut run = Run::on(Arc::clone(&timeline), common, feed::UNIT)?;
    let ranges = crew::split(subscribers.len() as u32, load.workers).into_iter();
    let setup = Setup {
        common,
        publishing: None,
        load,
        topics: load.topics(&common.connect.topic),
        ranges: ranges.map(|range| subscribers.start + range.start..subscribers.start + range.end).collect(),
        board: Arc::clone(link.board),
        timeline,
    };
    std::thread::scope(|scope| {
        let crew = setup.start_crew(scope);
        let (mut clients, mut fanout) = setup.connect(0, None)?;
        crew.await_all()?;
        setup.board.wake().into_iter().for_each(|wake| clients.wake_by(wake));
        fanout.feed.publish_elsewhere();
        fanout.feed.catch_up(common.tolerance.patience);
        link.report(&FromAgent::Ready)?;
        for (is_measured, duration) in [(false, common.warmup), (true, common.duration)] {
            let at_ns = fanout.await_start(is_measured, &mut clients, link)?;
            if is_measured {
                setup.board.start_stages(at_ns);
                crew.tell(Command::Measure);
                crew.await_all()?;
                fanout.start_measuring();
                run.start_measuring_at(at_ns)?;
            }
            feed::run_from(&mut fanout, at_ns, duration, &mut clients, &mut run);
            link.report(&FromAgent::Settled)?;
        }
        while !matches!(link.next()?, Some(ToAgent::Finish)) {
            fanout.turn(&mut clients);
        }
        let parts = crew.stop();
        let last_ns = fanout.feed.last_ns();
        let mut outcome = feed::report(run, fanout.feed, common, load.scenario, String::new(), true, Vec::new())?;
        for Part { counts, findings } in parts {
            outcome.counts.extend(counts);
            outcome.findings.push(findings);
        }
        Ok(outcome.found(last_ns))
    })
}

/// What each worker needs to begin.
struct Setup<'a> {
    common: &'a CommonOptions,
    /// `None` if another machine publishes.
    publishing: Option<&'a PublishOptions>,
    load: &'a Load,
    topics: Topics,
    /// The subscribers of each worker.
    ranges: Vec<Range<u32>>,
    board: Arc<Board>,
    timeline: Arc<Timeline>,
}

impl Setup<'_> {
    /// Starts the other workers.
    fn start_crew<'scope, 'env>(&'scope self, scope: &'scope Scope<'scope, 'env>) -> Crew<'scope> {
        Crew::start(scope, self.load.workers, |worker, orders| {
            let (mut clients, fanout) = self.connect(worker, None)?;
            orders.done();
            Ok(feed::follow(fanout, &mut clients, orders))
        })
    }

    /// The order for an agent with these subscribers.
    fn order(&self, subscribers: Range<u32>, offset: Offset, started_ns: i64) -> Order {
        let Setup { common, load, .. } = self;
        Order {
            run: self.board.run,
            url: common.url.to_string(),
            deflate: common.deflate,
            late: common.tolerance.late,
            patience: common.tolerance.patience,
            warmup: common.warmup,
            duration: common.duration,
            connect: common.connect.clone(),
            groups: load.groups.clone(),
            connected: load.connected.clone(),
            workers: load.workers,
            subscribers,
            offset,
            started_ns,
        }
    }

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
        let mut fanout = Fanout { subscribers, feed, crowd, board: Arc::clone(&self.board) };
        begin.into_iter().try_for_each(|part| clients.connect(part, &mut fanout))?;
        Ok((clients, fanout))
    }
}

/// The work of the first worker: publishes, and leads the others.
fn lead(setup: &Setup<'_>, mut run: Run, crew: Crew<'_>, mut agents: Option<Agents>) -> Result<Lead, Error> {
    let Setup { common, load, .. } = setup;
    let publishing =
        setup.publishing.map(|options| PublishOptions { publishers: load.publishers(), ..options.clone() });
    let (mut clients, mut fanout) = setup.connect(0, publishing.as_ref())?;
    crew.await_all()?;
    clients.connect_publishers(&mut fanout)?;
    setup.board.wake().into_iter().for_each(|wake| clients.wake_by(wake));

    if agents.is_some() {
        fanout.feed.catch_up(common.tolerance.patience);
    }
    let start_ns = fanout.meet(false, &mut clients, agents.as_mut())?;
    feed::run_from(&mut fanout, start_ns, common.warmup, &mut clients, &mut run);
    let start_ns = fanout.meet(true, &mut clients, agents.as_mut())?;
    setup.board.start_stages(start_ns);
    crew.tell(Command::Measure);
    crew.await_all()?;
    fanout.start_measuring();
    let published = fanout.feed.published;
    run.start_measuring_at(start_ns)?;
    feed::run_from(&mut fanout, start_ns, common.duration, &mut clients, &mut run);
    let end_ns = start_ns + common.duration.as_nanos() as u64;
    if agents.is_some() && !fanout.feed.is_over() && fanout.feed.is_behind(end_ns) {
        return Err(Error::new("this machine could not keep the schedule that the agents expect: lower the rate"));
    }
    fanout.await_agents(&mut clients, agents.as_mut())?;
    let found = agents.map_or(Ok(Vec::new()), Agents::finish)?;
    let parts = crew.stop();
    fanout.feed.go_on_until(found.iter().map(|part| part.last_ns()).max().unwrap_or(0));
    let figures = vec![Figure::new("publications", (fanout.feed.published - published) as f64, "")];
    let outcome =
        feed::report(run, fanout.feed, common, load.scenario, load.words.clone(), load.is_open_loop(), figures)?;
    Ok((outcome, parts, found))
}

/// What the first worker, the others and the agents found.
type Lead = (Outcome, Vec<Part>, Vec<coordinator::Part>);

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
    board: Arc<Board>,
}

impl Fanout {
    /// Receives for a moment, while the run waits for other machines.
    fn turn(&mut self, clients: &mut Clients) {
        clients.turn(WORD_WITHIN, self);
        self.feed.deliveries.turn_over();
    }

    /// Waits until all agents have answered the last command.
    fn await_agents(&mut self, clients: &mut Clients, agents: Option<&mut Agents>) -> Result<(), Error> {
        if let Some(agents) = agents {
            while !agents.are_done()? {
                self.turn(clients);
            }
        }
        Ok(())
    }

    /// The start of the next part of the run: now, or as soon as all agents know it.
    fn meet(
        &mut self,
        is_measured: bool,
        clients: &mut Clients,
        mut agents: Option<&mut Agents>,
    ) -> Result<u64, Error> {
        self.await_agents(clients, agents.as_deref_mut())?;
        let now_ns = self.feed.deliveries.recorder.now_ns();
        agents.map_or(Ok(now_ns), |agents| agents.start(is_measured, now_ns))
    }

    /// Waits, at an agent, for the common start of the warm-up or of the measured part.
    fn await_start(&mut self, is_measured: bool, clients: &mut Clients, link: &Link<'_>) -> Result<u64, Error> {
        loop {
            match link.next()? {
                Some(ToAgent::Start { is_measured: measured, at_ns }) if measured == is_measured => {
                    let now_ns = self.feed.deliveries.recorder.now_ns();
                    let is_ahead = at_ns > now_ns;
                    let late = || Error::new("the common start is over: is the network or this machine too slow?");
                    return is_ahead.then_some(at_ns).ok_or_else(late);
                }
                Some(_) => return Err(Error::new("the coordinator sent something else than the start")),
                None => self.turn(clients),
            }
        }
    }
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
        let now_ns = self.feed.deliveries.recorder.now_ns();
        self.crowd.start(self.board.stages_from().unwrap_or(now_ns));
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
