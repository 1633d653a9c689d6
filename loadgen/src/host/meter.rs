//! Measures elapsed time and the usage of both processes.

use std::time::Duration;

use crate::error::Error;
use crate::host::process::Usage;
use crate::host::starvation::Starvation;

/// The cost of the measured part of a run, for server and client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// From the first message to the last.
    pub(crate) elapsed: Duration,
    /// CPU time of this program.
    pub(crate) client_cpu: Duration,
    /// CPU time of the server and its memory at the end.
    pub(crate) server: Option<Usage>,
    /// CPU time taken from this program.
    pub(crate) starvation: Starvation,
}

/// Started when measuring begins.
#[derive(Debug)]
pub(crate) struct Meter {
    start_ns: u64,
    client: Usage,
    server: Option<(u32, Usage)>,
    starvation: Starvation,
    /// The CPU that this program runs on, if it is one.
    cpu: Option<u32>,
}

impl Meter {
    /// Starts measuring at `start_ns`.
    ///
    /// # Errors
    /// If there is no process `server_pid`.
    pub(crate) fn start(start_ns: u64, server_pid: Option<u32>, cpu: Option<u32>) -> Result<Meter, Error> {
        let server = server_pid.map(|pid| Usage::of(pid).map(|usage| (pid, usage))).transpose()?;
        Ok(Meter { start_ns, client: Usage::own()?, server, starvation: Starvation::now(cpu), cpu })
    }

    /// The cost from the start to `end_ns`, which is now or was just before. `server` is `None` if the server has ended
    /// by now.
    ///
    /// # Errors
    /// If this process's usage can't be read.
    pub(crate) fn read(&self, end_ns: u64) -> Result<Cost, Error> {
        let client_cpu = Usage::own()?.cpu.saturating_sub(self.client.cpu);
        let server = self.server.and_then(|(pid, before)| {
            let now = Usage::of(pid).ok()?;
            Some(Usage { cpu: now.cpu.saturating_sub(before.cpu), ..now })
        });
        let elapsed = Duration::from_nanos(end_ns.saturating_sub(self.start_ns));
        Ok(Cost { elapsed, client_cpu, server, starvation: Starvation::now(self.cpu).since(self.starvation) })
    }

    /// The server's process id, if its usage is measured.
    pub(crate) fn server_pid(&self) -> Option<u32> {
        self.server.map(|(pid, _)| pid)
    }
}
