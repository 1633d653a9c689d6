//! A server gets SIGTERM with all subscribers connected: a deployment. Checks how evenly it closes them, and that no
//! subscriber loses earlier messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::check::topics::Topics;
use crate::cli::DrainOptions;
use crate::error::Error;
use crate::host::pin;
use crate::host::process::Usage;
use crate::report::Outcome;
use crate::report::figure::Figure;
use crate::scenario::feed::{self, Feed, Feeding};
use crate::scenario::pace::Pace;
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Incoming, Out, Ready, Sink, TURN};

/// How long the server may take beyond the requested spread.
const PATIENCE: Duration = Duration::from_secs(10);

/// Codes in the Close frames of a server that stops (RFC 6455 §7.4.1): going away, or try again later.
const GOODBYES: [&str; 2] = ["1001", "1012"];

/// Runs the scenario.
///
/// # Errors
/// If the server is unreachable or refuses the connections, or this host's limits are too low.
pub(crate) fn run(options: &DrainOptions) -> Result<Outcome, Error> {
    let DrainOptions { common, publishing, connections, rate, .. } = options;
    pin::to_cpu(common.cpu_of(0))?;
    let server_pid =
        common.server_pid.ok_or_else(|| Error::new("no server to stop: give its process id with --server-pid"))?;
    let topics = Arc::new(Topics::one(&common.connect.topic, *connections));
    let mut run = Run::start(common, feed::UNIT)?;
    let mut clients = Clients::new(common, Arc::clone(&topics), *connections, Some(publishing))?;
    let pace = Pace::new(Some(*rate), None);
    let feed = Feed::of_one(common, &clients, topics, *connections, publishing.publishers, pace, run.recorder())?;
    let mut drain =
        Drain { feed, connections: *connections, stopped: None, closed_after: Vec::new(), closed_otherwise: 0 };
    clients.connect(0..*connections, &mut drain)?;
    clients.connect_publishers(&mut drain)?;

    feed::run_for(&mut drain, common.warmup, &mut clients, &mut run);
    drain.feed.deliveries.start_measuring();
    run.start_measuring()?;
    feed::run_for(&mut drain, common.duration, &mut clients, &mut run);
    drain.publish_last(&mut clients);
    stop(server_pid)?;
    drain.stopped = Some(Instant::now());
    drain.watch(options.spread + PATIENCE, &mut clients);
    let ended = drain.await_end(server_pid, &mut clients);
    let figures = drain.figures(options.spread, ended);
    let load = format!("{rate} publications a second, then stopped over {} s", options.spread.as_secs_f64());
    feed::report(run, drain.feed, common, "drain", load, true, figures)
}

fn stop(pid: u32) -> Result<(), Error> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| Error::new(format!("no process {pid}")))?;
    kill_process(pid, Signal::TERM).map_err(|error| Error::new(format!("can't stop process {pid:?}: {error}")))
}

/// State of the run.
struct Drain {
    feed: Feed,
    connections: u32,
    /// Time of the SIGTERM.
    stopped: Option<Instant>,
    /// Delay from SIGTERM to each Close frame with a code of [`GOODBYES`].
    closed_after: Vec<Duration>,
    /// Number of subscribers closed with another code, or without one.
    closed_otherwise: u32,
}

impl Drain {
    /// Publishes one more message, and waits only until the server has acknowledged it.
    fn publish_last(&mut self, clients: &mut Clients) {
        feed::publish_one(self, clients);
        while clients.unanswered() > 0 && !self.feed.is_over() && !self.feed.deliveries.is_idle_for_long() {
            clients.turn(TURN, self);
        }
    }

    /// Waits until all subscribers are closed.
    fn watch(&mut self, patience: Duration, clients: &mut Clients) {
        let end = Instant::now() + patience;
        while self.gone() < self.connections && Instant::now() < end {
            clients.turn(TURN, self);
            self.feed.deliveries.turn_over();
        }
        self.feed.deliveries.give_up_all();
    }

    fn gone(&self) -> u32 {
        self.closed_after.len() as u32 + self.closed_otherwise
    }

    /// Time from SIGTERM to the end of the server process; `None` if it is still running.
    fn await_end(&mut self, pid: u32, clients: &mut Clients) -> Option<Duration> {
        let stopped = self.stopped?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            // A zombie has no memory to report.
            if Usage::of(pid).is_err() {
                return Some(stopped.elapsed());
            }
            // The last subscribers still have to close.
            clients.turn(Duration::from_millis(10), self);
        }
        None
    }

    fn figures(&self, spread: Duration, ended: Option<Duration>) -> Vec<Figure> {
        let (seconds, mean) =
            (per_second(&self.closed_after, spread), self.closed_after.len() as f64 / spread.as_secs_f64().max(1.0));
        let share = |count: Option<&u32>| f64::from(*count.unwrap_or(&0)) / mean.max(1.0);
        let of = |closed_after: Option<&Duration>| closed_after.copied().unwrap_or_default().as_secs_f64();
        let mut figures = vec![
            Figure::new("told to go elsewhere", self.closed_after.len() as f64, ""),
            Figure::new("told otherwise", f64::from(self.closed_otherwise), ""),
            Figure::new("mean", mean, "/s"),
            Figure::new("fewest in a second, of the mean", share(seconds.iter().min()), ""),
            Figure::new("most in a second, of the mean", share(seconds.iter().max()), ""),
            Figure::new("first told after", of(self.closed_after.iter().min()), "s"),
            Figure::new("last told after", of(self.closed_after.iter().max()), "s"),
        ];
        figures.extend(ended.map(|ended| Figure::new("server ended after", ended.as_secs_f64(), "s")));
        let second =
            |(index, count): (usize, &u32)| Figure::new(format!("in second {}", index + 1), (*count).into(), "");
        figures.extend(seconds.iter().enumerate().map(second));
        figures
    }
}

/// The number of subscribers closed in each second of `spread`. The first second begins with the first Close frame:
/// before that the server may still be delivering.
fn per_second(closed_after: &[Duration], spread: Duration) -> Vec<u32> {
    let first = closed_after.iter().min().copied().unwrap_or_default();
    let mut seconds = vec![0; spread.as_secs() as usize];
    for after in closed_after {
        if let Some(count) = seconds.get_mut((*after - first).as_secs() as usize) {
            *count += 1;
        }
    }
    seconds
}

impl Feeding for Drain {
    fn feed(&mut self) -> &mut Feed {
        &mut self.feed
    }

    fn on_turn(&mut self, _clients: &mut Clients) -> Duration {
        TURN
    }
}

impl Sink for Drain {
    fn woken(&mut self) -> u64 {
        self.feed.deliveries.woken()
    }

    fn awaited(&self) -> u64 {
        self.feed.deliveries.awaited()
    }

    fn on_ready(&mut self, client: u32, _ready: Ready, _now_ns: u64) {
        if client < self.connections {
            self.feed.deliveries.join(client);
        }
    }

    fn on_message(&mut self, client: u32, incoming: Incoming<'_>, _out: Out<'_>) {
        self.feed.deliveries.on_message(client, incoming.message, None, incoming.now_ns);
    }

    fn on_acknowledged(&mut self, latency_ns: u64, now_ns: u64) {
        self.feed.deliveries.on_acknowledged(latency_ns, now_ns);
    }

    fn on_refused(&mut self, topic: u32, number: u64, reason: &str) {
        self.feed.deliveries.on_refused(topic, number, reason);
    }

    fn on_closed(&mut self, client: u32, _was_ready: bool, reason: &str) {
        let is_goodbye = GOODBYES.iter().any(|code| reason.contains(code));
        match self.stopped {
            // A publisher's connection may end with its server.
            Some(_) if client >= self.connections => {}
            Some(stopped) if is_goodbye => {
                self.closed_after.push(stopped.elapsed());
                self.feed.deliveries.dismiss(client);
            }
            Some(_) => {
                self.closed_otherwise += 1;
                self.feed.deliveries.on_closed(client, reason);
            }
            None if client < self.connections => self.feed.deliveries.on_closed(client, reason),
            None => self.feed.on_publisher_closed(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_of_the_spread_is_counted() {
        let closed_after = [700, 1699, 1700, 3200, 3699, 3701].map(Duration::from_millis);
        assert_eq!(per_second(&closed_after, Duration::from_secs(3)), [2, 1, 2]);
        assert_eq!(per_second(&closed_after, Duration::ZERO), [0; 0]);
    }
}
