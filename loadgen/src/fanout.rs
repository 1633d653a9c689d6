//! Few publishers, many subscribers: every publication must reach every subscriber once, in order and unchanged.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::FanoutOptions;
use crate::clients::{Clients, Incoming, Known, Out, Ready, Sink, TURN};
use crate::error::Error;
use crate::feed::{self, Feed, Feeding};
use crate::figure::Figure;
use crate::pace::Pace;
use crate::pin;
use crate::report::Report;
use crate::run::Run;
use crate::topics::Topics;

/// Runs the scenario.
///
/// # Errors
/// If the server is unreachable or refuses the connections, or this host's limits are too low.
pub(crate) fn run(options: &FanoutOptions) -> Result<Report, Error> {
    let (common, publishers) = (&options.common, options.publishing.publishers);
    pin::to_cpu(common.cpu)?;
    let topics = Arc::new(topics(options)?);
    let mut run = Run::start(common, feed::UNIT);
    let mut clients = Clients::new(common, Arc::clone(&topics), options.connections, Some(&options.publishing))?;
    let feed = Feed::new(common, topics, options.connections, publishers, run.recorder());
    let mut fanout = Fanout { subscribers: options.connections, feed };
    clients.connect(0..options.connections, &mut fanout)?;
    clients.connect_publishers(&mut fanout)?;

    let pace = || Pace::new(options.rate, options.in_flight).in_bursts(options.burst);
    feed::run_for(&mut fanout, common.warmup, pace(), &mut clients);
    fanout.feed.deliveries.start_measuring();
    let published = fanout.feed.published;
    run.start_measuring()?;
    feed::run_for(&mut fanout, common.duration, pace(), &mut clients);
    let figures = vec![Figure::new("publications", (fanout.feed.published - published) as f64, "")];
    let load = load(options, pace());
    feed::report(run, fanout.feed, common, "fanout", load, pace().is_open_loop(), figures)
}

/// The load, in words.
fn load(options: &FanoutOptions, pace: Pace) -> String {
    let publishers = match options.publishing.publishers {
        1 => "one publisher".to_owned(),
        several => format!("{several} publishers"),
    };
    match options.topics {
        1 => format!("{pace} from {publishers}"),
        several => format!("{pace} from {publishers} on {several} topics"),
    }
}

fn topics(options: &FanoutOptions) -> Result<Topics, Error> {
    let FanoutOptions { common, connections, .. } = options;
    match options.topics {
        1 => Ok(Topics::one(&common.connect.topic, *connections)),
        several if several > *connections => {
            Err(Error::new(format!("{several} topics need at least {several} connections, not {connections}")))
        }
        _ if common.connect.needs_topic_in_address() && !common.url.has_topic() => {
            Err(Error::new(format!("{}: several topics need {{topic}} in the address", common.url)))
        }
        several => Ok(Topics::several(&common.connect.topic, *connections, several, options.skew)),
    }
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
        self.feed.deliveries.on_message(client, message.payload, frame, now_ns);
    }

    fn on_closed(&mut self, client: u32, _was_ready: bool, reason: &str) {
        if client < self.subscribers {
            self.feed.deliveries.on_closed(client, reason);
        } else {
            self.feed.on_publisher_closed(reason);
        }
    }
}
