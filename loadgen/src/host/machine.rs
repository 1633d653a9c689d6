//! The machine and the command of a run, for its report.

use std::fs;

use rustix::system::uname;

use crate::report::Made;

/// Where this program runs, and how it was called.
pub(crate) fn made() -> Made {
    let system = uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Made {
        command: std::env::args().skip(1).collect(),
        host: text(system.nodename()),
        kernel: text(system.release()),
        cpu_model: cpu_model(&cpus).unwrap_or_default(),
        cpus: std::thread::available_parallelism().map_or(0, |count| count.get() as u32),
    }
}

fn cpu_model(cpus: &str) -> Option<String> {
    let line = cpus.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_kernel_and_cpus() {
        let made = made();
        assert!(made.cpus > 0 && !made.kernel.is_empty() && !made.host.is_empty(), "{made:?}");
        assert_eq!(cpu_model("processor: 0\nmodel name\t: A CPU\n"), Some("A CPU".to_owned()));
    }
}
