//! Places programs on CPUs.

use rustix::thread::{CpuSet, sched_setaffinity};

/// Pins this thread, and threads and processes it starts later, to `cpu`, if that exists.
pub(crate) fn run_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        eprintln!("not pinned to CPU {cpu}: {error}");
    }
}
