//! Many handshakes at once: how many a server completes, and how long they take.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::check::faults::Faults;
use crate::check::topics::Topics;
use crate::cli::ConnectScenarioOptions;
use crate::error::Error;
use crate::host::interrupt;
use crate::host::pin;
use crate::report::recorder::{Recorder, Times};
use crate::report::{Findings, Outcome};
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Incoming, Out, Ready, Sink, TURN};

/// The unit of the count.
const UNIT: &str = "handshakes";

/// Most connections opened before received data is processed again.
const OPENED_PER_TURN: usize = 64;

/// After this time without a successful handshake and with at least one failure, the server counts as down: the run
/// ends with a report.
const HOPELESS: Duration = Duration::from_secs(3);

/// Runs the scenario.
///
/// # Errors
/// If it can't be set up, or the first connection fails.
pub(crate) fn run(options: &ConnectScenarioOptions) -> Result<Outcome, Error> {
    let common = &options.common;
    pin::to_cpu(common.cpu_of(0))?;
    let mut run = Run::start(common, UNIT)?;
    let topics = Arc::new(Topics::one(&common.connect.topic, options.connections));
    let mut clients = Clients::new(common, topics, options.connections, None)?;
    let mut connecting = Connecting::new(options, run.recorder());
    // Connects once to check that the server is there: a failure at this point is a set-up error, not a result.
    clients.connect(0..1, &mut connecting)?;

    connecting.run_for(common.warmup, Schedule::new(options, common.warmup), &mut clients);
    connecting.start_measuring();
    run.start_measuring()?;
    connecting.run_for(common.duration, Schedule::new(options, common.duration), &mut clients);
    let last_ns = connecting.recorder.now_ns();
    connecting.recorder.stop_measuring(last_ns);
    let measured = run.stop_measuring(last_ns)?;
    Ok(Outcome {
        scenario: "connect",
        url: common.url.to_string(),
        payload_bytes: 0,
        load: load(options),
        open_loop: options.rate.is_some(),
        unit: UNIT,
        counts: connecting.counts,
        findings: vec![Findings { recorded: connecting.recorder.recorded, faults: connecting.faults }],
        measured,
        figures: Vec::new(),
        agents: Vec::new(),
    })
}

/// The load, in words.
fn load(options: &ConnectScenarioOptions) -> String {
    match options.rate {
        None => format!("{} handshakes at a time", options.common.connect.handshakes),
        Some(rate) if options.ramp => format!("from 0 to {rate} handshakes a second"),
        Some(rate) => format!("{rate} handshakes a second"),
    }
}

/// When to open connections.
#[derive(Debug)]
struct Schedule {
    /// Connections per second, at the end if it is a ramp. `None` is a closed loop.
    rate: Option<f64>,
    /// Length of the ramp.
    ramp_seconds: Option<f64>,
    /// Most handshakes in progress, in a closed loop.
    handshakes_max: u32,
    start_ns: u64,
    taken: u64,
}

impl Schedule {
    fn new(options: &ConnectScenarioOptions, duration: Duration) -> Schedule {
        Schedule {
            rate: options.rate.map(f64::from),
            ramp_seconds: options.ramp.then_some(duration.as_secs_f64()),
            handshakes_max: options.common.connect.handshakes,
            start_ns: 0,
            taken: 0,
        }
    }

    /// The time of the next connection; `None` in a closed loop.
    fn next_ns(&self) -> Option<u64> {
        let (rate, index) = (self.rate?, self.taken as f64);
        let seconds = match self.ramp_seconds {
            None => index / rate,
            // On a ramp, the number of connections grows with the square of the time.
            Some(ramp) => (2.0 * index * ramp / rate).sqrt(),
        };
        Some(self.start_ns + (seconds * 1e9) as u64)
    }

    /// Returns the scheduled time of the next connection if it is due, with `opening` handshakes in progress.
    fn take_due(&mut self, opening: u32, now_ns: u64) -> Option<u64> {
        let due_ns = match self.next_ns() {
            Some(next_ns) => (next_ns <= now_ns).then_some(next_ns),
            None => (opening < self.handshakes_max).then_some(now_ns),
        }?;
        self.taken += 1;
        Some(due_ns)
    }
}

struct Connecting {
    /// Times of each client in the handshake.
    times: Vec<Times>,
    /// Free numbers, used in rotation.
    free: VecDeque<u32>,
    /// Ready clients that can be closed.
    done: Vec<u32>,
    /// Closed clients on which the kernel may still have operations.
    gone: VecDeque<u32>,
    counts: Vec<u64>,
    recorder: Recorder,
    faults: Faults,
    /// Time of the last successful handshake.
    last_ready_ns: u64,
    /// Whether a handshake has failed since.
    has_failed: bool,
}

impl Connecting {
    fn new(options: &ConnectScenarioOptions, recorder: Recorder) -> Connecting {
        Connecting {
            times: vec![Times::now(0); options.connections as usize],
            free: (1..options.connections).collect(),
            done: Vec::new(),
            gone: VecDeque::new(),
            counts: vec![0; options.connections as usize],
            recorder,
            faults: Faults::new(options.common.tolerance.late),
            last_ready_ns: 0,
            has_failed: false,
        }
    }

    fn is_hopeless(&self) -> bool {
        self.has_failed && self.recorder.now_ns() - self.last_ready_ns > HOPELESS.as_nanos() as u64
    }

    fn on_failure(&mut self, client: u32, reason: &str) {
        self.has_failed = true;
        self.faults.closed(client, reason);
    }

    fn start_measuring(&mut self) {
        self.counts.fill(0);
        self.recorder.start_measuring();
    }

    /// Opens connections by this schedule for `duration`, then waits for the handshakes in progress.
    fn run_for(&mut self, duration: Duration, mut schedule: Schedule, clients: &mut Clients) {
        let end = Instant::now() + duration;
        schedule.start_ns = self.recorder.now_ns();
        let goes_on =
            |connecting: &Connecting| Instant::now() < end && !connecting.is_hopeless() && !interrupt::has_come();
        while goes_on(self) || clients.opening_count() > 0 {
            self.close_ready(clients);
            if goes_on(self) {
                self.open_due(&mut schedule, clients);
            }
            let now_ns = self.recorder.now_ns();
            // Without a free client, or after the end, the schedule waits for handshakes.
            let due = schedule.next_ns().filter(|_| goes_on(self) && !self.free.is_empty());
            let due = due.map(|next_ns| Duration::from_nanos(next_ns.saturating_sub(now_ns)));
            clients.turn(due.unwrap_or(TURN).min(TURN), self);
            self.recorder.turn_over(clients.opening_count().into(), self.faults.counts());
        }
        self.close_ready(clients);
    }

    fn open_due(&mut self, schedule: &mut Schedule, clients: &mut Clients) {
        let now_ns = self.recorder.now_ns();
        for _ in 0..OPENED_PER_TURN {
            let Some(client) = self.free.front().copied() else { return };
            let Some(intended_ns) = schedule.take_due(clients.opening_count(), now_ns) else { return };
            self.times[client as usize] = Times { intended_ns, actual_ns: now_ns };
            self.recorder.published(self.times[client as usize]);
            match clients.open(client) {
                Ok(()) => {
                    self.free.pop_front();
                }
                Err(reason) => {
                    self.on_failure(client, &reason);
                    return;
                }
            }
        }
    }

    /// Closes the ready clients, and frees their numbers once the kernel has finished with them.
    fn close_ready(&mut self, clients: &mut Clients) {
        for client in self.done.drain(..) {
            clients.leave(client);
            self.gone.push_back(client);
        }
        while let Some(client) = self.gone.front().copied().filter(|client| clients.is_free(*client)) {
            self.gone.pop_front();
            self.free.push_back(client);
        }
    }
}

impl Sink for Connecting {
    fn woken(&mut self) -> u64 {
        let now_ns = self.recorder.now_ns();
        self.recorder.woken(now_ns);
        now_ns
    }

    fn awaited(&self) -> u64 {
        0
    }

    fn on_ready(&mut self, client: u32, _ready: Ready, now_ns: u64) {
        (self.last_ready_ns, self.has_failed) = (now_ns, false);
        let times = self.times[client as usize];
        self.recorder.received(times, now_ns);
        self.faults.handshake_took(client, now_ns.saturating_sub(times.actual_ns));
        self.counts[client as usize] += 1;
        self.done.push(client);
    }

    fn on_message(&mut self, _client: u32, _incoming: Incoming<'_>, _out: Out<'_>) {}

    fn on_overdue(&mut self, client: u32, reason: &str) {
        self.has_failed = true;
        self.faults.unresponsive(client, reason);
        self.gone.push_back(client);
    }

    fn on_closed(&mut self, client: u32, was_ready: bool, reason: &str) {
        self.on_failure(client, reason);
        if was_ready {
            self.done.retain(|done| *done != client);
        }
        self.gone.push_back(client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: Option<f64>, ramp_seconds: Option<f64>) -> Schedule {
        Schedule { rate, ramp_seconds, handshakes_max: 2, start_ns: 1000, taken: 0 }
    }

    #[test]
    fn a_rate_is_kept_with_any_number_of_handshakes_in_progress() {
        let mut even = schedule(Some(4.0), None);
        let due: Vec<_> = std::iter::from_fn(|| even.take_due(1_000_000, 500_001_000)).collect();
        assert_eq!(due, [1000, 250_001_000, 500_001_000]);
    }

    #[test]
    fn a_ramp_reaches_its_rate_at_its_end() {
        let mut ramp = schedule(Some(1000.0), Some(10.0));
        let end_ns = 10_000_001_000;
        let due: Vec<_> = std::iter::from_fn(|| ramp.take_due(0, end_ns)).collect();
        assert_eq!(due.len(), 5001, "half of the final rate on average");
        let last_second = due.iter().filter(|ns| **ns > end_ns - 1_000_000_000).count();
        assert!((940..=960).contains(&last_second), "{last_second}");
    }

    #[test]
    fn a_closed_loop_fills_up_to_its_bound() {
        let mut closed = schedule(None, None);
        assert_eq!((closed.take_due(1, 70), closed.take_due(2, 70)), (Some(70), None));
    }
}
