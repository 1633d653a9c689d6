//! Connections without traffic: what each costs in memory, and in CPU for pings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::check::faults::Faults;
use crate::check::topics::Topics;
use crate::cli::IdleOptions;
use crate::error::Error;
use crate::host::interrupt;
use crate::host::kernel_memory::Memory;
use crate::host::pin;
use crate::report::figure::Figure;
use crate::report::recorder::{Recorder, Times};
use crate::report::{Findings, Outcome, ratio};
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Incoming, Out, Ready, Sink, TURN};
use crate::wire::sockets::Attention;

/// The unit of the count.
const UNIT: &str = "connections held";

/// Most pings sent before received data is processed again.
const PINGS_PER_TURN: u32 = 1024;

/// Runs the scenario. If not all connections succeed, it goes on with those that do.
///
/// # Errors
/// If it can't be set up, or no connection succeeds.
pub(crate) fn run(options: &IdleOptions) -> Result<Outcome, Error> {
    let IdleOptions { common, connections } = options;
    pin::to_cpu(common.cpu_of(0))?;
    let before = Memory::now(common.server_pid)?;
    let mut run = Run::start(common, UNIT)?;
    let topics = Arc::new(Topics::one(&common.connect.topic, *connections));
    let mut clients = Clients::new(common, topics, *connections, None)?;
    clients.listen_as(Attention::Idle);
    let mut idle = Idle {
        recorder: run.recorder(),
        faults: Faults::new(common.tolerance.late),
        last_ready_ns: 0,
        messages: 0,
        awaits_pong: vec![false; *connections as usize],
        pongs_due: 0,
    };
    idle.recorder.start_measuring();
    let started_ns = idle.recorder.now_ns();
    idle.connect_all(*connections, &mut clients)?;
    let ramp_s = idle.last_ready_ns.saturating_sub(started_ns) as f64 / 1e9;

    idle.hold_for(common.warmup, &mut clients);
    run.start_measuring()?;
    idle.hold_for(common.duration, &mut clients);
    let last_ns = idle.recorder.now_ns();
    idle.recorder.stop_measuring(last_ns);
    let connected = clients.ready_count();
    let mut figures = vec![
        Figure::new("connected", ratio(f64::from(connected), ramp_s), "/s"),
        Figure::new("pings answered", clients.pings() as f64, ""),
        Figure::new("messages received", idle.messages as f64, ""),
    ];
    if connected > 0 {
        figures.extend(Memory::now(common.server_pid).map_or(Vec::new(), |now| now.growth_each(before, connected)));
    }
    let measured = run.stop_measuring(last_ns)?;
    let held = idle.count_alive(common.tolerance.patience, &mut clients);
    Ok(Outcome {
        scenario: "idle",
        url: common.url.to_string(),
        payload_bytes: 0,
        load: "held; latency is that of connecting".to_owned(),
        open_loop: false,
        unit: UNIT,
        counts: vec![1; held as usize],
        findings: vec![Findings { recorded: idle.recorder.recorded, faults: idle.faults }],
        measured,
        figures,
        agents: Vec::new(),
    })
}

struct Idle {
    recorder: Recorder,
    faults: Faults,
    last_ready_ns: u64,
    /// Messages that the server sent although nothing was published.
    messages: u64,
    /// Whether each client has a ping without an answer.
    awaits_pong: Vec<bool>,
    pongs_due: u32,
}

impl Idle {
    /// Connects as many clients as possible.
    fn connect_all(&mut self, connections: u32, clients: &mut Clients) -> Result<(), Error> {
        if let Err(error) = clients.connect(0..connections, self) {
            if clients.ready_count() == 0 {
                return Err(error);
            }
            eprintln!("loadgen: {error}; continuing with {} connections", clients.ready_count());
            if self.faults.sum() == 0 {
                self.faults.refused(&error.to_string());
            }
        }
        Ok(())
    }

    /// Sends a ping on every connection, and waits for the answers: a server may have forgotten a connection without
    /// closing it. Returns the number of connections that are alive. An event stream can't be checked.
    fn count_alive(&mut self, patience: Duration, clients: &mut Clients) -> u32 {
        for client in 0..self.awaits_pong.len() as u32 {
            if clients.ping(client) {
                self.awaits_pong[client as usize] = true;
                self.pongs_due += 1;
            }
            if client % PINGS_PER_TURN == PINGS_PER_TURN - 1 {
                clients.turn(Duration::ZERO, self);
            }
        }
        let (mut due, mut since) = (self.pongs_due, Instant::now());
        while self.pongs_due > 0 && since.elapsed() < patience && !interrupt::has_come() {
            clients.turn(TURN, self);
            if self.pongs_due < due {
                (due, since) = (self.pongs_due, Instant::now());
            }
        }
        let silent = (0..).zip(&self.awaits_pong).filter(|(_, awaits)| **awaits);
        for (client, _) in silent {
            self.faults.unresponsive(client, "no answer to a ping");
        }
        clients.ready_count() - self.pongs_due
    }

    fn on_answered(&mut self, client: u32) {
        self.pongs_due -= u32::from(std::mem::take(&mut self.awaits_pong[client as usize]));
    }

    fn hold_for(&mut self, duration: Duration, clients: &mut Clients) {
        let end = Instant::now() + duration;
        while Instant::now() < end && clients.ready_count() > 0 && !interrupt::has_come() {
            clients.turn(TURN, self);
            self.recorder.turn_over(clients.ready_count().into(), self.faults.counts());
        }
    }
}

impl Sink for Idle {
    fn woken(&mut self) -> u64 {
        self.recorder.now_ns()
    }

    fn awaited(&self) -> u64 {
        0
    }

    fn on_ready(&mut self, _client: u32, ready: Ready, now_ns: u64) {
        self.recorder.received(Times::now(now_ns.saturating_sub(ready.took.as_nanos() as u64)), now_ns);
        self.last_ready_ns = now_ns;
    }

    fn on_message(&mut self, _client: u32, _incoming: Incoming<'_>, _out: Out<'_>) {
        self.messages += 1;
    }

    fn on_pong(&mut self, client: u32) {
        self.on_answered(client);
    }

    fn on_overdue(&mut self, client: u32, reason: &str) {
        self.faults.unresponsive(client, reason);
    }

    fn on_closed(&mut self, client: u32, _was_ready: bool, reason: &str) {
        self.on_answered(client);
        self.faults.closed(client, reason);
    }
}
