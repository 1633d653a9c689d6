//! Connections without traffic: what each costs in memory, and in CPU for pings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::check::faults::Faults;
use crate::check::topics::Topics;
use crate::cli::IdleOptions;
use crate::error::Error;
use crate::host::kernel_memory::Memory;
use crate::host::pin;
use crate::report::figure::Figure;
use crate::report::recorder::{Recorder, Times};
use crate::report::{Findings, Outcome, Report};
use crate::scenario::run::Run;
use crate::wire::clients::{Clients, Incoming, Out, Ready, Sink, TURN};
use crate::wire::sockets::Attention;

/// The unit of the count.
const UNIT: &str = "connections held";

/// Runs the scenario. If not all connections succeed, it goes on with those that do.
///
/// # Errors
/// If it can't be set up, or no connection succeeds.
pub(crate) fn run(options: &IdleOptions) -> Result<Report, Error> {
    let IdleOptions { common, connections } = options;
    pin::to_cpu(common.cpu)?;
    let before = Memory::now(common.server_pid)?;
    let mut run = Run::start(common, UNIT);
    let topics = Arc::new(Topics::one(&common.connect.topic, *connections));
    let mut clients = Clients::new(common, topics, *connections, None)?;
    clients.listen_as(Attention::Idle);
    let mut idle = Idle { recorder: run.recorder(), faults: Faults::new(common.tolerance.late) };
    idle.recorder.start_measuring();
    let ramp = idle.connect_all(*connections, &mut clients)?;

    idle.hold_for(common.warmup, &mut clients);
    run.start_measuring()?;
    idle.hold_for(common.duration, &mut clients);
    idle.recorder.stop_measuring();
    let held = clients.ready_count();
    let mut figures = vec![
        Figure::new("connected", f64::from(held) / ramp.as_secs_f64(), "/s"),
        Figure::new("pings answered", clients.pings() as f64, ""),
    ];
    if held > 0 {
        figures.extend(Memory::now(common.server_pid).map_or(Vec::new(), |now| now.growth_each(before, held)));
    }
    let (cost, history) = run.stop_measuring()?;
    Ok(Report::new(Outcome {
        scenario: "idle",
        url: common.url.to_string(),
        payload_bytes: 0,
        load: "held; latency is that of connecting".to_owned(),
        open_loop: false,
        unit: UNIT,
        counts: vec![1; held as usize],
        findings: vec![Findings { recorded: idle.recorder.recorded, faults: idle.faults }],
        cost,
        history,
        figures,
    }))
}

struct Idle {
    recorder: Recorder,
    faults: Faults,
}

impl Idle {
    /// Connects as many clients as possible. Returns the time that took.
    fn connect_all(&mut self, connections: u32, clients: &mut Clients) -> Result<Duration, Error> {
        let start = Instant::now();
        if let Err(error) = clients.connect(0..connections, self) {
            if clients.ready_count() == 0 {
                return Err(error);
            }
            eprintln!("loadgen: {error}; continuing with {} connections", clients.ready_count());
            self.faults.refused(&error.to_string());
        }
        Ok(start.elapsed())
    }

    fn hold_for(&mut self, duration: Duration, clients: &mut Clients) {
        let end = Instant::now() + duration;
        while Instant::now() < end && clients.ready_count() > 0 {
            clients.turn(TURN, self);
            self.recorder.turn_over(clients.ready_count().into(), self.faults.sum());
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
    }

    fn on_message(&mut self, _client: u32, _incoming: Incoming<'_>, _out: Out<'_>) {}

    fn on_closed(&mut self, client: u32, _was_ready: bool, reason: &str) {
        self.faults.closed(client, reason);
    }
}
