//! This process's own figures: memory and CPU time.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::host;

/// Bytes of memory that are in use and in RAM. 0 where the kernel does not say.
pub(super) async fn resident_bytes() -> u64 {
    let statm = host::read("/proc/self/statm").await.unwrap_or_default();
    resident_pages(&statm).unwrap_or(0) * rustix::param::page_size() as u64
}

/// The second figure of `statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// CPU time of all threads, in user space and in the kernel.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_figure_is_what_is_resident() {
        assert_eq!(resident_pages("5000 321 100 1 0 40 0\n"), Some(321));
        assert_eq!(resident_pages("5000"), None);
        assert_eq!(resident_pages("a b"), None);
    }

    #[test]
    fn a_process_that_works_uses_time_and_memory() {
        let before = cpu_time();
        while cpu_time() == before {}
        assert!(tokio_uring::start(resident_bytes()) > 0);
    }
}
