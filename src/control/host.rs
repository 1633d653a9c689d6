//! This host's figures, as the kernel writes them in /proc.
//!
//! Reading is apart from parsing, which is pure. All counters only grow; rates are the reader's.

use std::io;

use tokio_uring::fs::File;

/// Bytes read at once.
const PIECE_BYTES: usize = 16 * 1024;

/// Reads a file of /proc, whose size is known only at its end.
pub(super) async fn read(path: &str) -> io::Result<String> {
    let file = File::open(path).await?;
    let mut text = Vec::new();
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    loop {
        let (result, returned) = file.read_at(piece, text.len() as u64).await;
        piece = returned;
        match result? {
            0 => break,
            len => text.extend_from_slice(&piece[..len]),
        }
        piece.clear();
    }
    file.close().await?;
    String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// CPU time since the host started, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTicks {
    /// Spent on anything.
    pub(super) busy: u64,
    /// All, idle included.
    pub(super) total: u64,
}

impl CpuTicks {
    /// The share of the time since `before` that was busy, in percent.
    pub(super) fn busy_percent_since(self, before: CpuTicks) -> f64 {
        let total = self.total.saturating_sub(before.total);
        let busy = self.busy.saturating_sub(before.busy);
        if total == 0 { 0.0 } else { 100.0 * busy as f64 / total as f64 }
    }
}

/// The CPU time of all cores together, then of each, from `/proc/stat`.
pub(super) fn cpu_ticks(stat: &str) -> Vec<CpuTicks> {
    stat.lines().take_while(|line| line.starts_with("cpu")).map(cpu_line).collect()
}

/// A line of `/proc/stat`: name, user, nice, system, idle, iowait, irq, softirq, steal. What guests use follows, and is
/// part of user and nice already.
fn cpu_line(line: &str) -> CpuTicks {
    let mut busy = 0;
    let mut total = 0;
    for (place, figure) in line.split_ascii_whitespace().skip(1).take(8).enumerate() {
        let ticks: u64 = figure.parse().unwrap_or(0);
        total += ticks;
        // Waiting for a disk is idling, too.
        if !matches!(place, 3 | 4) {
            busy += ticks;
        }
    }
    CpuTicks { busy, total }
}

/// Memory of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// What programs could not get without swapping.
    pub(super) used_bytes: u64,
    /// All.
    pub(super) total_bytes: u64,
}

/// Memory from `/proc/meminfo`.
pub(super) fn memory(meminfo: &str) -> Memory {
    let total_bytes = meminfo_bytes(meminfo, "MemTotal");
    Memory { used_bytes: total_bytes.saturating_sub(meminfo_bytes(meminfo, "MemAvailable")), total_bytes }
}

/// Memory of the kernel's own objects, sockets among them, from `/proc/meminfo`.
pub(super) fn slab_bytes(meminfo: &str) -> u64 {
    meminfo_bytes(meminfo, "Slab")
}

fn meminfo_bytes(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let figure = line.and_then(|line| line.split_ascii_whitespace().next());
    figure.and_then(|figure| figure.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Bytes that have passed the host's network interfaces since they came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    /// Received, but by loopback.
    pub(super) received_bytes: u64,
    /// Sent, but by loopback.
    pub(super) sent_bytes: u64,
    /// Through loopback, where what is sent is received.
    pub(super) loopback_bytes: u64,
}

/// The interfaces of this network namespace, from `/proc/net/dev`.
pub(super) fn network(dev: &str) -> Network {
    let mut network = Network::default();
    for (name, figures) in dev.lines().filter_map(|line| line.split_once(':')) {
        let figure =
            |place| figures.split_ascii_whitespace().nth(place).and_then(|text| text.parse().ok()).unwrap_or(0);
        let (received_bytes, sent_bytes): (u64, u64) = (figure(0), figure(8));
        if name.trim() == "lo" {
            network.loopback_bytes += sent_bytes;
        } else {
            network.received_bytes += received_bytes;
            network.sent_bytes += sent_bytes;
        }
    }
    network
}

/// How many threads ran or wanted to, on average over a minute, from `/proc/loadavg`.
pub(super) fn load(loadavg: &str) -> f64 {
    loadavg.split_ascii_whitespace().next().and_then(|figure| figure.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_split_into_busy_and_idle() {
        let rows = [
            ("cpu  10 1 20 100 5 2 3 4 7 1", CpuTicks { busy: 40, total: 145 }),
            ("cpu0 1 0 2 50 0", CpuTicks { busy: 3, total: 53 }),
            ("cpu1", CpuTicks { busy: 0, total: 0 }),
        ];
        for (line, expected) in rows {
            assert_eq!(cpu_line(line), expected, "{line:?}");
        }
        let stat = "cpu  2 0 0 2 0\ncpu0 1 0 0 1 0\ncpu1 1 0 0 1 0\nintr 5 6\nctxt 9\n";
        let core = CpuTicks { busy: 1, total: 2 };
        assert_eq!(cpu_ticks(stat), [CpuTicks { busy: 2, total: 4 }, core, core]);
    }

    #[test]
    fn a_share_is_that_of_the_time_between() {
        let ticks = |busy, total| CpuTicks { busy, total };
        let rows = [
            (ticks(10, 100), ticks(35, 200), 25.0),
            (ticks(10, 100), ticks(10, 200), 0.0),
            (ticks(10, 100), ticks(10, 100), 0.0),
            // A core that was taken away and came back has begun anew.
            (ticks(10, 100), ticks(1, 5), 0.0),
        ];
        for (before, now, expected) in rows {
            assert_eq!(now.busy_percent_since(before), expected, "{before:?} {now:?}");
        }
    }

    #[test]
    fn memory_in_use_is_what_is_not_available() {
        let meminfo = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n";
        assert_eq!(memory(meminfo), Memory { used_bytes: 400 * 1024, total_bytes: 1000 * 1024 });
        assert_eq!(memory(""), Memory::default());
    }

    #[test]
    fn loopback_is_counted_apart() {
        let dev = "\
Inter-| Receive                                     | Transmit
 face |bytes packets errs drop fifo frame comp multi|bytes packets errs drop fifo colls carrier comp
    lo: 700       1    0    0    0     0    0     0   700       1    0    0    0     0       0    0
  eth0:1000000001 2    0    0    0     0    0     0   200       3    0    0    0     0       0    0
  eth1:   5       2    0    0    0     0    0     0     6       3    0    0    0     0       0    0
";
        let expected = Network { received_bytes: 1_000_000_006, sent_bytes: 206, loopback_bytes: 700 };
        assert_eq!(network(dev), expected);
        assert_eq!(network(""), Network::default());
    }

    #[test]
    fn the_load_of_a_minute_comes_first() {
        assert_eq!(load("0.42 0.30 0.25 1/200 4242\n"), 0.42);
        assert_eq!(load(""), 0.0);
    }
}
