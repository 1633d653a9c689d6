//! Few publishers, many subscribers: every publication must reach every subscriber once, in order and unchanged.

use std::sync::Arc;
use std::time::Duration;

use crate::check::topics::Topics;
use crate::cli::FanoutOptions;
use crate::error::Error;
use crate::host::pin;
use crate::report::Outcome;
use crate::report::figure::Figure;
use crate::scenario::feed::{self, Feed, Feeding};
use crate::scenario::pace::Pace;
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Incoming, Known, Out, Ready, Sink, TURN};

/// Runs the scenario.
///
/// # Errors
/// If the server is unreachable or refuses the connections, or this host's limits are too low.
pub(crate) fn run(options: &FanoutOptions) -> Result<Outcome, Error> {
    let FanoutOptions { common, connections, watchers, .. } = options;
    let publishers = options.publishing.publishers;
    pin::to_cpu(common.cpu)?;
    let topics = Arc::new(topics(options)?);
    let mut run = Run::start(common, feed::UNIT)?;
    let subscribers = connections + watchers;
    let mut publishing = options.publishing.clone();
    publishing.publishers += u32::from(*watchers > 0);
    let mut clients = Clients::new(common, Arc::clone(&topics), subscribers, Some(&publishing))?;
    let mut feed = Feed::new(common, clients.payload_kind(), topics, subscribers, publishers, run.recorder());
    if *watchers > 0 {
        feed = feed.watch_last(options.watch_rate);
    }
    let mut fanout = Fanout { subscribers, feed };
    clients.connect(0..subscribers, &mut fanout)?;
    clients.connect_publishers(&mut fanout)?;

    let pace = || Pace::new(options.rate, options.in_flight).in_bursts(options.burst);
    feed::run_for(&mut fanout, common.warmup, pace(), &mut clients, &mut run);
    fanout.feed.deliveries.start_measuring();
    let published = fanout.feed.published;
    run.start_measuring()?;
    feed::run_for(&mut fanout, common.duration, pace(), &mut clients, &mut run);
    let figures = vec![Figure::new("publications", (fanout.feed.published - published) as f64, "")];
    let load = load(options, pace());
    // Watchers have a load of their own.
    fanout.feed.deliveries.counts.truncate(*connections as usize);
    feed::report(run, fanout.feed, common, "fanout", load, pace().is_open_loop(), figures)
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
