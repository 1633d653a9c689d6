//! CPU time that the kernel or a hypervisor took from this program, as they count it.

use std::fs;
use std::time::Duration;

/// Length of a tick in `/proc/stat`: the kernel's interface has a hundred a second.
const TICK: Duration = Duration::from_millis(10);

/// The counters at one moment, or their growth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Starvation {
    /// How often the quota of this program's control group was used up.
    pub(crate) throttled: u64,
    /// Time for which a hypervisor ran something else, of the CPU of this program, or the average of all.
    pub(crate) stolen: Duration,
}

impl Starvation {
    /// Reads the counters; `cpu` is the only CPU of this program. A counter that the kernel does not have is zero.
    pub(crate) fn now(cpu: Option<u32>) -> Starvation {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let directories = directories(&read("/proc/self/cgroup"));
        let throttled = directories.iter().map(|directory| parse_throttled(&read(&format!("{directory}/cpu.stat"))));
        Starvation { throttled: throttled.sum(), stolen: parse_stolen(&read("/proc/stat"), cpu) }
    }

    /// The growth since `before`.
    pub(crate) fn since(self, before: Starvation) -> Starvation {
        Starvation {
            throttled: self.throttled.saturating_sub(before.throttled),
            stolen: self.stolen.saturating_sub(before.stolen),
        }
    }
}

/// The directories of this program's control groups and of those around them, which have quotas, too.
fn directories(groups: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let roots: &[&str] = match controllers {
            "" => &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
            _ if controllers.split(',').any(|name| name == "cpu") => {
                &["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"]
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            found.extend(roots.iter().map(|root| format!("{root}{path}")));
            match path.rfind('/') {
                Some(end) => path = &path[..end],
                None => break,
            }
        }
    }
    found
}

fn parse_throttled(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// The eighth number of a line is the stolen time.
fn parse_stolen(stat: &str, cpu: Option<u32>) -> Duration {
    let stolen = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.split_ascii_whitespace().nth(7)?.parse::<u32>().ok()
    };
    match cpu {
        Some(cpu) => stolen(&format!("cpu{cpu}")).map_or(Duration::ZERO, |ticks| TICK * ticks),
        None => {
            let is_cpu = |line: &&str| {
                line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            };
            let cpus = stat.lines().filter(is_cpu).count().max(1) as u32;
            stolen("cpu").map_or(Duration::ZERO, |ticks| TICK * ticks / cpus)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_of_both_kinds_of_control_groups_are_found() {
        let groups = "4:memory:/a\n1:cpu,cpuacct:/a/b\n0::/\n";
        let expected = [
            "/sys/fs/cgroup/cpu/a/b",
            "/sys/fs/cgroup/cpu,cpuacct/a/b",
            "/sys/fs/cgroup/cpu/a",
            "/sys/fs/cgroup/cpu,cpuacct/a",
            "/sys/fs/cgroup/cpu",
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified",
        ];
        assert_eq!(directories(groups), expected);
        assert_eq!((parse_throttled("nr_periods 9\nnr_throttled 61\n"), parse_throttled("")), (61, 0));
    }

    #[test]
    fn stolen_time_is_that_of_the_own_cpu_or_the_average() {
        let stat = "cpu  1 2 3 4 5 6 7 300 0 0\ncpu0 1 2 3 4 5 6 7 100 0 0\ncpu1 1 2 3 4 5 6 7 200 0 0\nintr 5\n";
        let stolen = |cpu| parse_stolen(stat, cpu);
        assert_eq!([stolen(Some(0)), stolen(Some(1)), stolen(None)], [1000, 2000, 1500].map(Duration::from_millis));
        assert_eq!(stolen(Some(9)), Duration::ZERO);
        assert!(Starvation::now(None).since(Starvation::now(None)).throttled == 0);
    }
}
