//! This process's own figures, named as Prometheus's client libraries name them, and what the program is.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::encode_counter;
use crate::control::host;
use crate::version;

/// Memory that connections take, among other things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct MemoryInUse {
    /// Of the process, in RAM.
    pub(in crate::control) resident_bytes: u64,
    /// Addresses of the process that have a meaning.
    pub(in crate::control) virtual_bytes: u64,
    /// Of the kernel's slab, for all of the host: sockets and what waits on them are most of it where there are many.
    pub(in crate::control) slab_bytes: u64,
}

impl MemoryInUse {
    /// As it is now. 0 where the kernel does not say.
    pub(in crate::control) async fn measure() -> MemoryInUse {
        let meminfo = host::read("/proc/meminfo").await.unwrap_or_default();
        let statm = host::read("/proc/self/statm").await.unwrap_or_default();
        let [virtual_bytes, resident_bytes] = memory_bytes(&statm, rustix::param::page_size() as u64);
        MemoryInUse { resident_bytes, virtual_bytes, slab_bytes: host::slab_bytes(&meminfo) }
    }
}

/// The first two figures of `statm`, which are pages: all, and those in RAM.
fn memory_bytes(statm: &str, page_bytes: u64) -> [u64; 2] {
    let mut pages = statm.split_ascii_whitespace().map(|figure| figure.parse::<u64>().unwrap_or(0));
    [pages.next().unwrap_or(0) * page_bytes, pages.next().unwrap_or(0) * page_bytes]
}

/// CPU time of all threads, in user space and in the kernel.
pub(in crate::control) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Entries of a directory of `/proc/self`: `fd` has one for each open file, `task` one for each thread. 0 where the
/// kernel does not say.
fn count_entries(name: &str) -> u64 {
    std::fs::read_dir(format!("/proc/self/{name}")).map_or(0, |entries| entries.count() as u64)
}

/// The process's figures at one time.
#[derive(Debug)]
pub(super) struct Process {
    memory: MemoryInUse,
    /// The memory when the control plane started.
    memory_before: MemoryInUse,
    cpu_time: Duration,
    open_files: u64,
    /// `None` is no limit.
    open_files_max: Option<u64>,
    threads: u64,
    /// Since the Unix epoch.
    started: Duration,
}

impl Process {
    /// As they are now.
    pub(super) async fn measure(memory_before: MemoryInUse, started: SystemTime) -> Process {
        Process {
            memory: MemoryInUse::measure().await,
            memory_before,
            cpu_time: cpu_time(),
            // The directory that is read is one of them.
            open_files: count_entries("fd").saturating_sub(1),
            open_files_max: getrlimit(Resource::Nofile).current,
            threads: count_entries("task"),
            started: started.duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Process { memory, memory_before, .. } = self;
        let gauges = [
            ("process_resident_memory_bytes", "Memory of the process that is in RAM", memory.resident_bytes as f64),
            (
                "process_virtual_memory_bytes",
                "Addresses of the process that have a meaning",
                memory.virtual_bytes as f64,
            ),
            ("process_open_fds", "Open files; connections of the data port are not among them", self.open_files as f64),
            (
                "process_max_fds",
                "Open files that there may be",
                self.open_files_max.map_or(f64::INFINITY, |max| max as f64),
            ),
            ("process_threads", "Threads of the process", self.threads as f64),
            (
                "process_start_time_seconds",
                "When the process started, since the Unix epoch",
                self.started.as_secs_f64(),
            ),
        ];
        for (name, help, value) in gauges {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let (name, help) = ("ringfeed_memory_since_start_bytes", "Memory added since the start: connections, mostly");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let added = |now: u64, before: u64| now.saturating_sub(before);
        let rows = [
            ("process", added(memory.resident_bytes, memory_before.resident_bytes)),
            ("slab", added(memory.slab_bytes, memory_before.slab_bytes)),
        ];
        for (of, bytes) in rows {
            family.encode_family(&[("of", of)])?.encode_gauge(&bytes)?;
        }
        let (name, help) = ("process_cpu_seconds", "CPU time of the process, user and kernel");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        encode_counter(&mut metric, self.cpu_time.as_secs_f64())?;
        encode_build(encoder)
    }
}

fn encode_build(mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
    let mut metric = encoder.encode_descriptor("ringfeed_build", "What is running", None, MetricType::Info)?;
    let labels = [
        ("version", version::VERSION),
        ("revision", version::REVISION),
        ("target", version::TARGET),
        ("profile", version::PROFILE),
        ("rustc", version::RUSTC),
    ];
    metric.encode_info(&labels)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Figures of some process.
    pub(in crate::control::metrics) fn process() -> Process {
        let memory = |resident_bytes, slab_bytes| MemoryInUse { resident_bytes, slab_bytes, virtual_bytes: 8192 };
        Process {
            memory: memory(4096, 9000),
            memory_before: memory(4000, 10_000),
            cpu_time: Duration::from_millis(2500),
            open_files: 7,
            open_files_max: None,
            threads: 3,
            started: Duration::from_secs(1_700_000_000),
        }
    }

    #[test]
    fn the_first_two_figures_are_the_memory() {
        assert_eq!(memory_bytes("5000 321 100 1 0 40 0\n", 10), [50_000, 3210]);
        assert_eq!(memory_bytes("5000", 10), [50_000, 0]);
        assert_eq!(memory_bytes("a b", 10), [0, 0]);
    }

    #[test]
    fn a_process_that_works_uses_what_is_counted() {
        let before = cpu_time();
        while cpu_time() == before {}
        let process = tokio_uring::start(Process::measure(MemoryInUse::default(), SystemTime::now()));
        assert!(process.memory.resident_bytes > 0 && process.memory.virtual_bytes > process.memory.resident_bytes);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(process.open_files > 2 && process.threads > 0 && process.open_files_max > Some(process.open_files));
        drop(file);
    }
}
