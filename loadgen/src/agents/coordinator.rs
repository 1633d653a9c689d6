//! The coordinator's side: connects to the agents, sets their clocks, and merges what they found.

use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::agents::clock::{Clock, Offset};
use crate::agents::key::{Key, Side};
use crate::agents::wire::{self, FROM_AGENT_MAX, Found, FromAgent, Order, ToAgent};
use crate::check::board::Board;
use crate::check::faults::Faults;
use crate::error::Error;
use crate::host::interrupt;
use crate::options::AgentOptions;
use crate::report::agents::AgentReport;
use crate::report::latency::Latencies;
use crate::report::recorder::Recorded;
use crate::report::text::microseconds;
use crate::report::{Findings, Outcome};

/// Longest time to connect to an agent, and for its answer to a ping.
const PATIENCE: Duration = Duration::from_secs(10);

/// Round trips to measure a clock.
const ROUND_TRIPS: u64 = 64;

/// Interval at which refusals are passed on, and that of the pings that show an agent that the coordinator is there.
const PASS_ON: Duration = Duration::from_millis(20);
const SHOW_UP: Duration = Duration::from_secs(1);

/// The number of pings that measure nothing.
const NO_MEASURE: u64 = 0;

/// Time from a start's announcement to the start, beyond the time that the message takes.
const START_AHEAD: Duration = Duration::from_millis(300);

/// The agents of a run.
pub(crate) struct Agents {
    members: Vec<Member>,
    clock: Clock,
    courier: Option<Courier>,
}

struct Member {
    address: String,
    out: Arc<Mutex<TcpStream>>,
    messages: Receiver<Message>,
    offset: Offset,
    /// Its part of the run's subscribers.
    subscribers: Range<u32>,
    /// It has answered the last command.
    is_done: bool,
}

/// A message, or why there are no more, and when it came.
type Message = (Result<FromAgent, String>, Instant);

/// Passes on refusals while the first worker publishes.
struct Courier {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Agents {
    /// Connects to all agents, and measures and prints how far apart the clocks are. `None` without agents.
    ///
    /// # Errors
    /// If an agent can't be reached, or has another key.
    pub(crate) fn connect(options: &AgentOptions) -> Result<Option<Agents>, Error> {
        if options.agents.is_empty() {
            return Ok(None);
        }
        let (clock, key) = (Clock::skewed(0), Key::read(options.agent_key_file.as_deref())?);
        let members = options.agents.iter().map(|address| {
            let member = Member::connect(address, &key, &clock).map_err(|why| fail(address, &why))?;
            let Offset { ahead_ns, uncertain_ns } = member.offset;
            eprintln!("loadgen: agent {address}: {}", offset_words(ahead_ns as f64 / 1e3, uncertain_ns as f64 / 1e3));
            Ok(member)
        });
        let members = members.collect::<Result<_, Error>>()?;
        Ok(Some(Agents { members, clock, courier: None }))
    }

    pub(crate) fn count(&self) -> u32 {
        self.members.len() as u32
    }

    /// Sends each agent its order, for the subscribers of its range. `now_ns` is the time of the run.
    ///
    /// # Errors
    /// If an agent has gone.
    pub(crate) fn begin(
        &mut self,
        ranges: &[Range<u32>],
        now_ns: u64,
        board: &Arc<Board>,
        order: impl Fn(Range<u32>, Offset, i64) -> Order,
    ) -> Result<(), Error> {
        let started_ns = self.clock.now_ns() - now_ns as i64;
        for (member, range) in self.members.iter_mut().zip(ranges) {
            member.subscribers = range.clone();
            member.send(&ToAgent::Begin(Box::new(order(range.clone(), member.offset, started_ns))))?;
        }
        let outs = self.members.iter().map(|member| Arc::clone(&member.out)).collect();
        self.courier = Some(Courier::start(outs, Arc::clone(board)));
        Ok(())
    }

    /// Announces the start of a part of the run. Returns its time.
    ///
    /// # Errors
    /// If an agent has gone.
    pub(crate) fn start(&mut self, is_measured: bool, now_ns: u64) -> Result<u64, Error> {
        let slowest_ns = self.members.iter().map(|member| member.offset.uncertain_ns).max().unwrap_or(0);
        let at_ns = now_ns + START_AHEAD.as_nanos() as u64 + 4 * slowest_ns as u64;
        self.members.iter_mut().try_for_each(|member| member.send(&ToAgent::Start { is_measured, at_ns }))?;
        Ok(at_ns)
    }

    /// Whether all agents have answered the last command.
    ///
    /// # Errors
    /// If one has failed or gone, or the run was interrupted.
    pub(crate) fn are_done(&mut self) -> Result<bool, Error> {
        if interrupt::has_come() {
            return Err(Error::new("interrupted: a run with agents has no report before its end"));
        }
        for member in self.members.iter_mut().filter(|member| !member.is_done) {
            match member.messages.try_recv() {
                Ok((Ok(FromAgent::Ready | FromAgent::Settled), _)) => member.is_done = true,
                Ok((message, _)) => return Err(member.unexpected(message)),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Err(fail(&member.address, "it has gone")),
            }
        }
        Ok(self.members.iter().all(|member| member.is_done))
    }

    /// Ends the run at all agents. Returns what each found, with its clock and address.
    ///
    /// # Errors
    /// If an agent fails.
    pub(crate) fn finish(mut self) -> Result<Vec<Part>, Error> {
        for member in &mut self.members {
            let end = member.measure(&self.clock).map_err(|why| fail(&member.address, &why))?;
            member.offset = member.offset.until(end);
        }
        self.courier.take().into_iter().for_each(Courier::stop);
        self.members.iter_mut().try_for_each(|member| member.send(&ToAgent::Finish))?;
        let found = |member: Member| match member.messages.recv_timeout(PATIENCE) {
            Ok((Ok(FromAgent::Found(found)), _)) => Ok(Part { address: member.address, offset: member.offset, found }),
            Ok((message, _)) => Err(member.unexpected(message)),
            Err(_) => Err(fail(&member.address, "it does not say what it found")),
        };
        self.members.into_iter().map(found).collect()
    }
}

fn fail(address: &str, why: &str) -> Error {
    Error::new(format!("agent {address}: {why}"))
}

/// The offset of a clock, in words.
pub(crate) fn offset_words(ahead_us: f64, uncertain_us: f64) -> String {
    let side = if ahead_us < 0.0 { "behind" } else { "ahead" };
    format!("its clock is {} {side}, known to {}", microseconds(ahead_us.abs()), microseconds(uncertain_us))
}

impl Member {
    fn connect(address: &str, key: &Key, clock: &Clock) -> Result<Member, String> {
        let words = |error: std::io::Error| error.to_string();
        let mut addresses = address.to_socket_addrs().map_err(words)?;
        let resolved = addresses.next().ok_or("no such address")?;
        let stream = TcpStream::connect_timeout(&resolved, PATIENCE).map_err(words)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(words)?;
        wire::greet(&stream, Side::Coordinator, key)?;
        let (sender, messages) = channel();
        let reader = stream.try_clone().map_err(words)?;
        std::thread::spawn(move || read(&reader, &sender));
        let offset = Offset { ahead_ns: 0, uncertain_ns: 0 };
        let out = Arc::new(Mutex::new(stream));
        let mut member =
            Member { address: address.to_owned(), out, messages, offset, subscribers: 0..0, is_done: false };
        member.offset = member.measure(clock)?;
        Ok(member)
    }

    /// Measures how far its clock is ahead.
    fn measure(&mut self, clock: &Clock) -> Result<Offset, String> {
        let mut trips = Vec::new();
        for number in NO_MEASURE + 1..=ROUND_TRIPS {
            let asked_ns = clock.now_ns();
            wire::send(&lock(&self.out), &ToAgent::Ping(number)).map_err(|error| error.to_string())?;
            match self.messages.recv_timeout(PATIENCE) {
                Ok((Ok(FromAgent::Pong { number: answered, clock_ns }), at)) if answered == number => {
                    trips.push(([asked_ns, clock.at(at)], clock_ns));
                }
                Ok((Ok(_), _)) | Err(RecvTimeoutError::Timeout) => return Err("it does not answer a ping".to_owned()),
                Ok((Err(why), _)) => return Err(why),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("it has gone: is it busy with another run?".to_owned());
                }
            }
        }
        Ok(Offset::best(trips.into_iter()))
    }

    fn send(&mut self, message: &ToAgent) -> Result<(), Error> {
        self.is_done = false;
        wire::send(&lock(&self.out), message).map_err(|error| fail(&self.address, &error.to_string()))
    }

    fn unexpected(&self, message: Result<FromAgent, String>) -> Error {
        match message {
            Ok(FromAgent::Failed(why)) | Err(why) => fail(&self.address, &why),
            Ok(_) => fail(&self.address, "an unexpected message"),
        }
    }
}

/// Passes on messages until the agent has gone.
fn read(stream: &TcpStream, messages: &Sender<Message>) {
    loop {
        let message = wire::receive(stream, FROM_AGENT_MAX);
        let now = Instant::now();
        let message = match message {
            Ok(FromAgent::Pong { number: NO_MEASURE, .. }) => continue,
            Ok(message) => (Ok(message), now),
            Err(error) => (Err(format!("it has gone: {error}")), now),
        };
        let is_last = message.0.is_err();
        if messages.send(message).is_err() || is_last {
            return;
        }
    }
}

impl Courier {
    fn start(outs: Vec<Arc<Mutex<TcpStream>>>, board: Arc<Board>) -> Courier {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut shown = Instant::now();
            while stopped.recv_timeout(PASS_ON) == Err(RecvTimeoutError::Timeout) {
                let refused = board.take_refusals();
                // An agent that has gone is noticed where its answer is due.
                if !refused.is_empty() {
                    let message = ToAgent::Refused(refused);
                    outs.iter().for_each(|out| _ = wire::send(&lock(out), &message));
                }
                if shown.elapsed() > SHOW_UP {
                    shown = Instant::now();
                    outs.iter().for_each(|out| _ = wire::send(&lock(out), &ToAgent::Ping(NO_MEASURE)));
                }
            }
        });
        Courier { stop, thread }
    }

    fn stop(self) {
        drop(self.stop);
        // It can't panic.
        let _ = self.thread.join();
    }
}

fn lock(stream: &Mutex<TcpStream>) -> MutexGuard<'_, TcpStream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an agent found.
pub(crate) struct Part {
    address: String,
    offset: Offset,
    found: Box<Found>,
}

impl Part {
    /// Time of its last message in the run.
    pub(crate) fn last_ns(&self) -> u64 {
        self.found.last_ns
    }

    /// Adds it to the outcome of the coordinator.
    ///
    /// # Errors
    /// If its histograms can't be read.
    pub(crate) fn add_to(self, outcome: &mut Outcome) -> Result<(), Error> {
        let Part { address, offset, found } = self;
        let recorded = Recorded::of_found(&found.recorded).map_err(|why| fail(&address, &why))?;
        let allows = |latencies: &Latencies| latencies.count() == 0 || offset.allows(latencies.quantile_us(0.5));
        outcome.agents.push(AgentReport {
            ahead_us: offset.ahead_ns as f64 / 1e3,
            uncertain_us: offset.uncertain_ns as f64 / 1e3,
            tells_latency: allows(&recorded.corrected) && allows(&recorded.watched),
            connections: found.counts.len() as u32,
            count: found.counts.iter().sum(),
            faults: found.faults.counts,
            address: address.clone(),
        });
        let cost = &mut outcome.measured.cost;
        cost.client_cpu += found.client_cpu;
        cost.starvation.throttled += found.throttled;
        cost.starvation.stolen = cost.starvation.stolen.max(found.stolen);
        let pauses = &mut outcome.measured.pauses;
        (pauses.longest, pauses.total) = (pauses.longest.max(found.longest_pause), pauses.total.max(found.all_pauses));
        outcome.measured.history.add(&found.ticks);
        outcome.counts.extend(&found.counts);
        outcome.findings.push(Findings { recorded, faults: Faults::of_found(found.faults, &address) });
        Ok(())
    }
}
