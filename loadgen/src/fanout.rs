//! Few publishers, many subscribers: every publication must reach every subscriber once, in order and unchanged.

use std::time::{Duration, Instant};

use ringfeed::proto::{Decoder, Inflater};

use crate::cli::FanoutOptions;
use crate::connect;
use crate::deliveries::Deliveries;
use crate::error::Error;
use crate::figure::Figure;
use crate::frames;
use crate::masking_keys::MaskingKeys;
use crate::pace::Pace;
use crate::payload::{self, Stamp};
use crate::pin;
use crate::publisher::Publisher;
use crate::recorder::{Recorder, Times};
use crate::report::{Findings, Outcome, Report};
use crate::run::Run;
use crate::sockets::{Observer, Sockets};

/// The longest wait of one turn.
const TURN: Duration = Duration::from_millis(100);

/// So many publications are handed over before answers are looked at again, however late the schedule is.
const PUBLICATIONS_PER_TURN: usize = 1024;

/// What is counted.
const UNIT: &str = "deliveries";

/// Runs the scenario.
///
/// # Errors
/// If it can't be set up: the server is not there, refuses, or this host's limits are too low.
pub(crate) fn run(options: &FanoutOptions) -> Result<Report, Error> {
    let common = &options.common;
    pin::to_cpu(common.cpu)?;
    let subscribers = options.connections;
    let mut run = Run::start(common, UNIT);
    let mut keys = MaskingKeys::new();
    let publishers = (0..options.publishers).map(|_| Publisher::connect(&options.publish, &mut keys));
    let (publishers, publishing): (Vec<_>, Vec<_>) = publishers.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let mut sockets = Sockets::new(subscribers + options.publishers)?;
    let mut fanout = Fanout::new(publishers, options, keys, run.recorder());
    for index in 0..subscribers {
        let connected = connect::web_socket(&common.url, index, common.deflate, &mut fanout.keys)?;
        sockets.add(connected, &mut fanout)?;
    }
    publishing.into_iter().try_for_each(|connected| sockets.add(connected, &mut fanout))?;

    let pace = || Pace::new(options.rate, options.in_flight);
    fanout.run_for(common.warmup, pace(), &mut sockets);
    fanout.deliveries.start_measuring();
    let published = fanout.deliveries.window.next_sequence();
    run.start_measuring()?;
    fanout.run_for(common.duration, pace(), &mut sockets);
    fanout.deliveries.recorder.stop_measuring();
    let (cost, history) = run.stop_measuring()?;

    let Deliveries { window, counts, recorder, faults, .. } = fanout.deliveries;
    let published = window.next_sequence() - published;
    Ok(Report::new(Outcome {
        scenario: "fanout",
        url: common.url.to_string(),
        payload_bytes: common.size,
        load: match options.publishers {
            1 => format!("{} from one publisher", pace()),
            several => format!("{} from {several} publishers", pace()),
        },
        open_loop: pace().is_open_loop(),
        unit: UNIT,
        counts,
        findings: vec![Findings { recorded: recorder.recorded, faults }],
        cost,
        history,
        figures: vec![Figure::new("publications", published as f64, "")],
    }))
}

/// The run: subscribers are sockets 0 and up, publishers are the sockets after them.
struct Fanout {
    decoders: Vec<Decoder>,
    inflater: Inflater,
    publishers: Vec<Publisher>,
    /// A publisher is gone, and with it messages that were to be published.
    publisher_ended: bool,
    keys: MaskingKeys,
    payload: Vec<u8>,
    deliveries: Deliveries,
}

impl Fanout {
    fn new(publishers: Vec<Publisher>, options: &FanoutOptions, keys: MaskingKeys, recorder: Recorder) -> Fanout {
        let (subscribers, common) = (options.connections, &options.common);
        let mut payload = vec![0; common.size as usize];
        payload::write(&mut payload, Stamp { sequence: 0, time_ns: 0 });
        Fanout {
            decoders: (0..subscribers).map(|_| frames::decoder(common.deflate)).collect(),
            inflater: Inflater::new(),
            deliveries: Deliveries::new(subscribers, publishers.len() == 1, recorder, common.tolerance),
            publishers,
            publisher_ended: false,
            keys,
            payload,
        }
    }

    /// Publishes at this pace for `duration`, then waits until all of it has arrived.
    fn run_for(&mut self, duration: Duration, mut pace: Pace, sockets: &mut Sockets) {
        let end = Instant::now() + duration;
        pace.start(self.deliveries.recorder.now_ns());
        loop {
            if self.deliveries.is_stalled() {
                return self.deliveries.give_up();
            }
            if self.publisher_ended || self.deliveries.subscribers == 0 {
                return self.deliveries.give_up();
            }
            if Instant::now() < end {
                self.publish_due(&mut pace, sockets);
            } else if self.deliveries.is_settled() && self.publishers.iter().all(Publisher::is_answered) {
                return;
            }
            let (under_way, now_ns) = (self.deliveries.window.len(), self.deliveries.recorder.now_ns());
            let timeout = pace.next_due_in(under_way, now_ns).map_or(TURN, |due| due.min(TURN));
            sockets.turn(timeout, self);
            self.deliveries.turn_over();
        }
    }

    fn publish_due(&mut self, pace: &mut Pace, sockets: &mut Sockets) {
        let now_ns = self.deliveries.recorder.now_ns();
        for _ in 0..PUBLICATIONS_PER_TURN {
            let Some(intended_ns) = pace.take_due(self.deliveries.window.len(), now_ns) else { return };
            let sequence = self.deliveries.window.next_sequence();
            payload::write_stamp(&mut self.payload, Stamp { sequence, time_ns: intended_ns });
            let times = Times { intended_ns, actual_ns: now_ns };
            self.deliveries.publish(&self.payload, times);
            if pace.is_ours_to_keep() {
                self.deliveries.recorder.published(times);
            }
            let publisher = (sequence % self.publishers.len() as u64) as usize;
            let out = sockets.out((self.decoders.len() + publisher) as u32);
            self.publishers[publisher].publish(&self.payload, out, &mut self.keys);
        }
    }
}

impl Observer for Fanout {
    fn on_bytes(&mut self, socket: u32, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(), String> {
        let now_ns = self.deliveries.recorder.now_ns();
        self.deliveries.recorder.woken(now_ns);
        let subscribers = self.decoders.len();
        match self.decoders.get_mut(socket as usize) {
            Some(decoder) => frames::read(decoder, &mut self.inflater, bytes, &mut self.keys, out, |message, _, _| {
                self.deliveries.on_message(socket, message.payload, now_ns);
            }),
            None => {
                let publisher = &mut self.publishers[socket as usize - subscribers];
                publisher.on_bytes(bytes, &mut self.inflater, out, &mut self.keys)
            }
        }
    }

    fn on_closed(&mut self, socket: u32, reason: &str) {
        if (socket as usize) < self.decoders.len() {
            self.deliveries.on_closed(socket, reason);
        } else {
            self.publisher_ended = true;
            self.deliveries.faults.refused(reason);
        }
    }
}
