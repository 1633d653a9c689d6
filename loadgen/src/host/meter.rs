//! Measures elapsed time and the usage of both processes.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::host::process::Usage;

/// The cost of the measured part of a run, for server and client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// From the first message to the last.
    pub(crate) elapsed: Duration,
    /// CPU time of this program.
    pub(crate) client_cpu: Duration,
    /// CPU time of the server and its memory at the end.
    pub(crate) server: Option<Usage>,
}

/// Started when measuring begins.
#[derive(Debug)]
pub(crate) struct Meter {
    start: Instant,
    client: Usage,
    server: Option<(u32, Usage)>,
}

impl Meter {
    /// Starts measuring.
    ///
    /// # Errors
    /// If there is no process `server_pid`.
    pub(crate) fn start(server_pid: Option<u32>) -> Result<Meter, Error> {
        let server = server_pid.map(|pid| Usage::of(pid).map(|usage| (pid, usage))).transpose()?;
        Ok(Meter { start: Instant::now(), client: Usage::own()?, server })
    }

    /// The cost since the start. `server` is `None` if the server has ended by now.
    ///
    /// # Errors
    /// If this process's usage can't be read.
    pub(crate) fn stop(self) -> Result<Cost, Error> {
        let elapsed = self.start.elapsed();
        let client_cpu = Usage::own()?.cpu.saturating_sub(self.client.cpu);
        let server = self.server.and_then(|(pid, before)| {
            let now = Usage::of(pid).ok()?;
            Some(Usage { cpu: now.cpu.saturating_sub(before.cpu), ..now })
        });
        Ok(Cost { elapsed, client_cpu, server })
    }
}
