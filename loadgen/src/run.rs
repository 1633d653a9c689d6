//! What every scenario goes through: connect, warm up, measure, report.
//!
//! A scenario starts a [`Run`], gives each worker a [`Recorder`], says when measuring begins and ends, and hands over
//! what it found. Knows nothing of what a scenario does in between.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::CommonOptions;
use crate::error::Error;
use crate::meter::{Cost, Meter};
use crate::progress::Progress;
use crate::recorder::Recorder;
use crate::timeline::{History, Timeline};

/// A run under way.
#[derive(Debug)]
pub(crate) struct Run {
    timeline: Arc<Timeline>,
    progress: Progress,
    server_pid: Option<u32>,
    meter: Option<Meter>,
}

impl Run {
    /// The clock starts now, and the progress line, on a terminal. `unit` is what the scenario counts.
    pub(crate) fn start(common: &CommonOptions, unit: &'static str) -> Run {
        let planned: Duration = common.warmup + common.duration;
        let timeline = Arc::new(Timeline::start(planned));
        let progress = Progress::start(Arc::clone(&timeline), unit);
        Run { timeline, progress, server_pid: common.server_pid, meter: None }
    }

    /// For the worker on this thread.
    pub(crate) fn recorder(&self) -> Recorder {
        Recorder::new(Arc::clone(&self.timeline))
    }

    /// The warm-up is over. Each worker's recorder must be told, too.
    ///
    /// # Errors
    /// If there is no such server process.
    pub(crate) fn start_measuring(&mut self) -> Result<(), Error> {
        self.timeline.mark_start();
        self.meter = Some(Meter::start(self.server_pid)?);
        Ok(())
    }

    /// The last message has come. What it took, and what happened when.
    ///
    /// # Errors
    /// If this process can't be looked at.
    ///
    /// # Panics
    /// If measuring had not begun.
    pub(crate) fn stop_measuring(self) -> Result<(Cost, History), Error> {
        let cost = self.meter.expect("a run that ends was measured").stop()?;
        self.timeline.mark_end();
        self.progress.stop();
        Ok((cost, self.timeline.history()))
    }
}
