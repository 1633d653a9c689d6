//! The steps that all scenarios share: connect, warm up, measure, report.
//!
//! A scenario starts a [`Run`], gets a [`Recorder`] for each worker, marks the start and the end of measuring, and
//! passes in its findings. This module does not depend on the scenario.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::CommonOptions;
use crate::error::Error;
use crate::host::heartbeat::{Heartbeat, Pauses};
use crate::host::interrupt;
use crate::host::meter::{Cost, Meter};
use crate::host::sampler::Sampler;
use crate::report::live::{self, Watch};
use crate::report::progress::Progress;
use crate::report::recorder::Recorder;
use crate::report::timeline::{History, Timeline};

/// A run in progress.
#[derive(Debug)]
pub(crate) struct Run {
    timeline: Arc<Timeline>,
    progress: Progress,
    watch: Option<Watch>,
    heartbeat: Heartbeat,
    sampler: Option<Sampler>,
    server_pid: Option<u32>,
    cpu: Option<u32>,
    meter: Option<Meter>,
    /// The cost up to the last message, with its time, once no other came for a while.
    idle: Option<(u64, Cost)>,
}

/// The measured part of a run.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) cost: Cost,
    pub(crate) history: History,
    pub(crate) pauses: Pauses,
    /// Time since the start of the run.
    pub(crate) since_start: Duration,
}

impl Run {
    /// Starts the clock and, on a terminal, the progress line. `unit` names what the scenario counts.
    ///
    /// # Errors
    /// If the kernel refuses to handle signals.
    pub(crate) fn start(common: &CommonOptions, unit: &'static str) -> Result<Run, Error> {
        let planned: Duration = common.warmup + common.duration;
        let timeline = Arc::new(Timeline::start(planned, common.output.hlog.is_some()));
        Run::on(timeline, common, unit)
    }

    /// The same on a clock that has started.
    ///
    /// # Errors
    /// As [`Run::start`].
    pub(crate) fn on(timeline: Arc<Timeline>, common: &CommonOptions, unit: &'static str) -> Result<Run, Error> {
        interrupt::heed()?;
        if let Some(address) = common.output.metrics {
            live::serve(address, Arc::clone(&timeline), unit)?;
        }
        let aborting = common.output.aborting()?;
        let watch = (!aborting.is_empty()).then(|| Watch::start(Arc::clone(&timeline), aborting));
        let progress = Progress::start(Arc::clone(&timeline), unit);
        let heartbeat = Heartbeat::start();
        let sampler = common.server_pid.map(|pid| Sampler::start(pid, Arc::clone(&timeline)));
        let (server_pid, cpu) = (common.server_pid, common.only_cpu());
        Ok(Run { timeline, progress, watch, heartbeat, sampler, server_pid, cpu, meter: None, idle: None })
    }

    /// Creates the recorder of the worker on this thread.
    pub(crate) fn recorder(&self) -> Recorder {
        Recorder::new(Arc::clone(&self.timeline))
    }

    /// The clock and the ticks, for the recorders of other workers.
    pub(crate) fn timeline(&self) -> Arc<Timeline> {
        Arc::clone(&self.timeline)
    }

    /// Ends the warm-up. Call `start_measuring` on each worker's recorder, too.
    ///
    /// # Errors
    /// If the server process does not exist.
    pub(crate) fn start_measuring(&mut self) -> Result<(), Error> {
        self.start_measuring_at(self.timeline.now_ns())
    }

    /// The same for a measured part that starts at this time, which is soon.
    ///
    /// # Errors
    /// As [`start_measuring`](Self::start_measuring).
    pub(crate) fn start_measuring_at(&mut self, at_ns: u64) -> Result<(), Error> {
        self.timeline.mark_start();
        self.meter = Some(Meter::start(at_ns, self.server_pid, self.cpu)?);
        self.heartbeat.reset();
        Ok(())
    }

    /// The last message came at `last_ns`, and the run only waits in case that others come. That wait counts only if
    /// one does.
    pub(crate) fn on_idle(&mut self, last_ns: u64) {
        if let Some(meter) = &self.meter
            && self.idle.is_none_or(|(known_ns, _)| known_ns != last_ns)
        {
            self.idle = meter.read(last_ns).ok().map(|cost| (last_ns, cost));
        }
    }

    /// Ends the measured part, in which the last message came at `last_ns`.
    ///
    /// # Errors
    /// If this process's usage can't be read.
    ///
    /// # Panics
    /// If measuring had not begun.
    pub(crate) fn stop_measuring(self, last_ns: u64) -> Result<Measured, Error> {
        let meter = self.meter.expect("start_measuring was called before");
        let cost = match self.idle {
            Some((known_ns, cost)) if known_ns == last_ns => cost,
            _ => meter.read(last_ns)?,
        };
        let pauses = self.heartbeat.pauses();
        self.heartbeat.stop();
        self.sampler.into_iter().for_each(Sampler::stop);
        self.timeline.mark_end();
        self.progress.stop();
        self.watch.into_iter().for_each(Watch::stop);
        if let Some(pid) = meter.server_pid() {
            warn_of_server(pid, &cost);
        }
        let since_start = Duration::from_nanos(self.timeline.now_ns());
        Ok(Measured { cost, history: self.timeline.history(), pauses, since_start })
    }
}

/// Says why the figures of the server are missing or zero.
fn warn_of_server(pid: u32, cost: &Cost) {
    match cost.server {
        None => eprintln!("loadgen: process {pid} of --server-pid has ended: the report has no figures of the server"),
        Some(usage) if usage.cpu.is_zero() => {
            eprintln!("loadgen: process {pid} of --server-pid and its descendants used no CPU time: is it the server?");
        }
        Some(_) => {}
    }
}
