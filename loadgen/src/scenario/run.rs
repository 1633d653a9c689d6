//! The steps that all scenarios share: connect, warm up, measure, report.
//!
//! A scenario starts a [`Run`], gets a [`Recorder`] for each worker, marks the start and the end of measuring, and
//! passes in its findings. This module does not depend on the scenario.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::CommonOptions;
use crate::error::Error;
use crate::host::meter::{Cost, Meter};
use crate::report::progress::Progress;
use crate::report::recorder::Recorder;
use crate::report::timeline::{History, Timeline};

/// A run in progress.
#[derive(Debug)]
pub(crate) struct Run {
    timeline: Arc<Timeline>,
    progress: Progress,
    server_pid: Option<u32>,
    meter: Option<Meter>,
}

impl Run {
    /// Starts the clock and, on a terminal, the progress line. `unit` names what the scenario counts.
    pub(crate) fn start(common: &CommonOptions, unit: &'static str) -> Run {
        let planned: Duration = common.warmup + common.duration;
        let timeline = Arc::new(Timeline::start(planned));
        let progress = Progress::start(Arc::clone(&timeline), unit);
        Run { timeline, progress, server_pid: common.server_pid, meter: None }
    }

    /// Creates the recorder of the worker on this thread.
    pub(crate) fn recorder(&self) -> Recorder {
        Recorder::new(Arc::clone(&self.timeline))
    }

    /// Ends the warm-up. Call `start_measuring` on each worker's recorder, too.
    ///
    /// # Errors
    /// If the server process does not exist.
    pub(crate) fn start_measuring(&mut self) -> Result<(), Error> {
        self.timeline.mark_start();
        self.meter = Some(Meter::start(self.server_pid)?);
        Ok(())
    }

    /// Ends the measured part, after the last message. Returns its cost and the history of the run.
    ///
    /// # Errors
    /// If this process's usage can't be read.
    ///
    /// # Panics
    /// If measuring had not begun.
    pub(crate) fn stop_measuring(self) -> Result<(Cost, History), Error> {
        let cost = self.meter.expect("start_measuring was called before").stop()?;
        self.timeline.mark_end();
        self.progress.stop();
        Ok((cost, self.timeline.history()))
    }
}
