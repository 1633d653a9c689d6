//! CPU time and memory of a process and those it has started, as the kernel counts them.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use crate::error::Error;

/// CPU time and memory of some processes at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time of all threads so far, with a resolution of a nanosecond.
    pub(crate) cpu: Duration,
    /// Resident memory, bytes. Pages that processes share count for each.
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// Reads the usage of process `pid` and of all its descendants: many servers work in processes of their own.
    ///
    /// # Errors
    /// If there is no such process.
    pub(crate) fn of(pid: u32) -> Result<Usage, Error> {
        let mut usage =
            read_usage(pid).ok_or_else(|| Error::new(format!("no process {pid} on this machine to measure")))?;
        // One that has ended by now has no usage.
        for child in descendants(pid).into_iter().filter_map(read_usage) {
            usage.cpu += child.cpu;
            usage.resident_bytes += child.resident_bytes;
        }
        Ok(usage)
    }

    /// Reads the usage of this process.
    pub(crate) fn own() -> Result<Usage, Error> {
        Usage::of(std::process::id())
    }
}

/// Scheduler times of one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThreadTime {
    /// Time on a CPU.
    pub(crate) cpu_ns: u64,
    /// Time ready to run, but not on a CPU.
    pub(crate) waited_ns: u64,
}

impl ThreadTime {
    /// Reads the times of the calling thread. Zero if the kernel does not count them.
    pub(crate) fn now() -> ThreadTime {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let mut numbers = text.split_ascii_whitespace().map_while(|number| number.parse().ok());
        ThreadTime { cpu_ns: numbers.next().unwrap_or(0), waited_ns: numbers.next().unwrap_or(0) }
    }

    /// The times since `before`.
    pub(crate) fn since(self, before: ThreadTime) -> ThreadTime {
        let cpu_ns = self.cpu_ns.saturating_sub(before.cpu_ns);
        ThreadTime { cpu_ns, waited_ns: self.waited_ns.saturating_sub(before.waited_ns) }
    }

    /// All time except sleep.
    pub(crate) fn busy_ns(self) -> u64 {
        self.cpu_ns + self.waited_ns
    }
}

/// Adds up the threads, since the kernel has nanoseconds only there. The time of an ended thread is lost; the servers
/// measured here keep their threads.
fn read_usage(pid: u32) -> Option<Usage> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let times = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    let cpu = times.filter_map(|text| parse_schedstat(&text)).sum();
    let resident_bytes = parse_status(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
    Some(Usage { cpu, resident_bytes })
}

/// All processes that `pid` has started, directly or not, and that are still their descendants.
fn descendants(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parse_parent(&stat) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut found = children.remove(&pid).unwrap_or_default();
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        found.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    found
}

/// The parent in the line `pid (name) state parent ...`. The name may contain anything.
fn parse_parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The first number is the time on a CPU, in nanoseconds.
fn parse_schedstat(text: &str) -> Option<Duration> {
    text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Parses the line `VmRSS:  1234 kB`, into bytes.
fn parse_status(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_files_in_proc_are_parsed() {
        assert_eq!(parse_schedstat("7527051 120 1\n"), Some(Duration::from_nanos(7_527_051)));
        assert_eq!(parse_status("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(parse_status("Name:\tx\n"), None);
        assert_eq!((parse_parent("12 (a) b) S 7 12 1"), parse_parent("")), (Some(7), None));
    }

    #[test]
    fn work_raises_the_usage_of_this_process() {
        let before = Usage::own().unwrap();
        let mut work = std::iter::repeat_with(|| Usage::own().unwrap()).take(100_000);
        let after = work.find(|usage| usage.cpu > before.cpu).expect("reading files takes time");
        assert!(after.resident_bytes > 0);
    }

    #[test]
    fn all_time_on_the_cpu_is_busy() {
        let before = ThreadTime::now();
        let mut work = std::iter::repeat_with(ThreadTime::now).take(100_000);
        let spent = work.find(|now| now.cpu_ns > before.cpu_ns).expect("reading files takes time").since(before);
        assert_eq!(spent.busy_ns(), spent.cpu_ns + spent.waited_ns);
    }

    #[test]
    fn a_descendant_counts_for_its_ancestor() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'while :; do :; done' & read line; kill $!; wait"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell can be run");
        let spent = || Usage::of(shell.id()).unwrap().cpu > Duration::from_millis(50);
        assert!(std::iter::repeat_with(spent).any(|enough| enough), "the shell itself only waits");
        assert!(read_usage(shell.id()).unwrap().cpu < Duration::from_millis(40));
        drop(shell.stdin.take());
        shell.wait().expect("it ends at the end of its input");
    }

    #[test]
    fn an_unknown_process_is_an_error() {
        assert!(Usage::of(u32::MAX).is_err());
    }
}
