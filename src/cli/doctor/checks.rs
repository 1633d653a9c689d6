//! The checks, one function each.

use super::finding::{Finding, Verdict, megabytes, number};
use super::host::{Host, Limit};
use crate::limits::{ACCEPT_BACKLOG, CONN_KERNEL_BYTES, CONN_USER_BYTES, SPARE_DESCRIPTORS};
use crate::ring::{KERNEL_NEEDED, LANES_MAX, TABLE_MAX};

/// Bytes that a shard takes before anybody connects, generously.
const SHARD_BYTES: u64 = 32 * 1024 * 1024;

/// Bytes that may be locked for a shard's rings and their buffers.
const SHARD_LOCKED_BYTES: u64 = 2 * 1024 * 1024;

/// The same for each further ring of it.
const LANE_LOCKED_BYTES: u64 = 512 * 1024;

/// Bytes of a page, in which the kernel counts the memory of TCP.
const PAGE_BYTES: u64 = 4096;

/// What the host is to carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) connections: u64,
    pub(super) shards: u64,
    pub(super) cpus: u64,
}

impl Target {
    /// Sockets of a shard, with some to spare.
    fn shard_sockets(&self) -> u64 {
        self.connections.div_ceil(self.shards) + u64::from(SPARE_DESCRIPTORS)
    }

    /// Rings of a shard where a table holds `table` sockets.
    fn rings(&self, table: u64) -> u64 {
        self.shard_sockets().div_ceil(table.clamp(1, u64::from(TABLE_MAX)))
    }
}

/// Tokens and certificates are valid by the clock. systemd-timesyncd and chrony leave a file while it is synchronised.
fn clock(host: &Host, _: &Target) -> Finding {
    let name = "clock";
    let signs = ["run/systemd/timesync/synchronized", "run/chrony/chronyd.pid", "run/ntpd.pid", "run/chronyd.pid"];
    match signs.iter().find(|path| host.has(path)) {
        Some(path) => Finding::good(name, format_args!("synchronised: /{path} is there")),
        None => {
            let needed = "a clock that is synchronised: tokens and certificates are valid by it";
            Finding::new(name, Verdict::Unknown, "nothing here synchronises it", needed, "timedatectl")
        }
    }
}

/// Looks at everything.
pub(super) fn examine(host: &Host, target: &Target) -> Vec<Finding> {
    let checks = [
        kernel,
        io_uring,
        file_limit,
        files_of_the_system,
        locked_memory,
        memory,
        tcp_memory,
        listen_backlog,
        syn_backlog,
        tcp_hash,
        ports,
        conntrack,
        huge_pages,
        receive_queues,
        clock,
    ];
    checks.iter().map(|check| check(host, target)).collect()
}

fn kernel(host: &Host, _: &Target) -> Finding {
    let (name, path) = ("kernel", "proc/sys/kernel/osrelease");
    let Some(release) = host.text(path) else { return Finding::unknown(name, path) };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (major, minor) = KERNEL_NEEDED;
    match (numbers.next(), numbers.next()) {
        (Some(Ok(found_major)), Some(Ok(found_minor))) if (found_major, found_minor) < (major, minor) => {
            let needed = format!("{major}.{minor}: incremental receive buffers");
            Finding::new(name, Verdict::Required, release, needed, "upgrade the kernel")
        }
        _ => Finding::good(name, release),
    }
}

fn io_uring(host: &Host, _: &Target) -> Finding {
    let name = "io_uring";
    match host.number("proc/sys/kernel/io_uring_disabled") {
        // Kernels that can't turn it off have no such file.
        None | Some(0) => Finding::good(name, "allowed"),
        Some(1) => {
            let needed = "0, or membership in the kernel.io_uring_group";
            Finding::new(name, Verdict::Recommended, "for some only", needed, "sysctl -w kernel.io_uring_disabled=0")
        }
        Some(_) => {
            Finding::new(name, Verdict::Required, "turned off", "io_uring", "sysctl -w kernel.io_uring_disabled=0")
        }
    }
}

/// The table of a ring holds no more sockets than a process may have files.
fn file_limit(host: &Host, target: &Target) -> Finding {
    let (name, sockets) = ("files of a process", target.shard_sockets());
    let Some(Limit { hard, .. }) = host.limit("Max open files") else {
        return Finding::unknown(name, "proc/self/limits");
    };
    let rings = target.rings(hard);
    let command = format!("LimitNOFILE={sockets} in the systemd unit, or ulimit -Hn {sockets}");
    let why = format!("a shard then needs one ring, not {rings}");
    let verdict = if rings > u64::from(LANES_MAX) { Verdict::Required } else { Verdict::Recommended };
    Finding::at_least(name, verdict, (hard, sockets.min(u64::from(TABLE_MAX))), &why, command)
}

fn files_of_the_system(host: &Host, target: &Target) -> Finding {
    let (name, path) = ("files of the system", "proc/sys/fs/file-max");
    let Some(found) = host.number(path) else { return Finding::unknown(name, path) };
    let needed = target.connections + target.connections / 10 + 10_000;
    let command = format!("sysctl -w fs.file-max={needed}");
    Finding::at_least(name, Verdict::Required, (found, needed), "each connection is a file", command)
}

fn locked_memory(host: &Host, target: &Target) -> Finding {
    let name = "lockable memory";
    let Some(Limit { hard, .. }) = host.limit("Max locked memory") else {
        return Finding::unknown(name, "proc/self/limits");
    };
    let table = host.limit("Max open files").map_or(u64::MAX, |limit| limit.hard);
    let lanes = target.shards * target.rings(table).saturating_sub(1);
    let needed = target.shards * SHARD_LOCKED_BYTES + lanes * LANE_LOCKED_BYTES;
    let command = "LimitMEMLOCK=infinity in the systemd unit, or ulimit -l unlimited";
    let why = "rings count as locked memory without CAP_IPC_LOCK";
    Finding::at_least(name, Verdict::Recommended, (hard, needed), why, command)
}

fn memory(host: &Host, target: &Target) -> Finding {
    let (name, path) = ("memory", "proc/meminfo");
    let Some(available) = host.meminfo_bytes("MemAvailable") else { return Finding::unknown(name, path) };
    let group = host.number("sys/fs/cgroup/memory.max").unwrap_or(u64::MAX);
    let each = (CONN_USER_BYTES + CONN_KERNEL_BYTES) as u64;
    let needed = target.connections * each + target.shards * SHARD_BYTES;
    let found = megabytes(available.min(group));
    if available.min(group) >= needed {
        return Finding::good(name, format_args!("{found} of {} needed", megabytes(needed)));
    }
    let why = format!(
        "{}: {CONN_KERNEL_BYTES} bytes of the kernel and {CONN_USER_BYTES} of the server for each connection",
        megabytes(needed)
    );
    let command =
        if group < available { "raise MemoryMax= of the unit, or the container's limit" } else { "add memory" };
    Finding::new(name, Verdict::Required, found, why, command)
}

fn tcp_memory(host: &Host, target: &Target) -> Finding {
    let (name, path) = ("memory of TCP, in pages", "proc/sys/net/ipv4/tcp_mem");
    let Some([low, _, found]) = host.numbers(path).and_then(|numbers| <[u64; 3]>::try_from(numbers).ok()) else {
        return Finding::unknown(name, path);
    };
    let needed = target.connections.max(low + 2);
    let command = format!("sysctl -w net.ipv4.tcp_mem=\"{} {} {needed}\"", needed / 2, needed / 4 * 3);
    let why = format!("a message that waits on each connection takes up to {PAGE_BYTES} bytes; beyond it is dropped");
    Finding::at_least(name, Verdict::Required, (found, needed), &why, command)
}

fn listen_backlog(host: &Host, _: &Target) -> Finding {
    let (name, path) = ("backlog of a listener", "proc/sys/net/core/somaxconn");
    let Some(found) = host.number(path) else { return Finding::unknown(name, path) };
    let needed = ACCEPT_BACKLOG as u64;
    let command = format!("sysctl -w net.core.somaxconn={needed}");
    Finding::at_least(name, Verdict::Recommended, (found, needed), "in a storm connections wait there", command)
}

fn syn_backlog(host: &Host, _: &Target) -> Finding {
    let (name, path) = ("backlog of unfinished connections", "proc/sys/net/ipv4/tcp_max_syn_backlog");
    let Some(found) = host.number(path) else { return Finding::unknown(name, path) };
    let needed = ACCEPT_BACKLOG as u64;
    let command = format!("sysctl -w net.ipv4.tcp_max_syn_backlog={needed}");
    Finding::at_least(name, Verdict::Recommended, (found, needed), "beyond it the kernel answers with cookies", command)
}

fn tcp_hash(host: &Host, target: &Target) -> Finding {
    let (name, path) = ("TCP's table of connections", "proc/sys/net/ipv4/tcp_ehash_entries");
    let Some(found) = host.text(path).and_then(|text| text.parse::<i64>().ok()) else {
        return Finding::unknown(name, path);
    };
    // Negative: it is the first namespace's, of this size.
    let (found, needed) = (found.unsigned_abs(), target.connections / 2);
    let entries = target.connections.next_power_of_two();
    let command = format!(
        "thash_entries={entries} on the kernel's command line, or a network namespace made after \
         sysctl -w net.ipv4.tcp_child_ehash_entries={entries}"
    );
    Finding::at_least(name, Verdict::Recommended, (found, needed), "each packet walks a chain of connections", command)
}

fn ports(host: &Host, target: &Target) -> Finding {
    let (name, path) = ("ports of local clients", "proc/sys/net/ipv4/ip_local_port_range");
    let Some([first, last]) = host.numbers(path).and_then(|numbers| <[u64; 2]>::try_from(numbers).ok()) else {
        return Finding::unknown(name, path);
    };
    let count = (last + 1).saturating_sub(first);
    let why = format!(
        "only where a proxy or load generator on this host connects: {} addresses of its own, or more ports",
        number(target.connections.div_ceil(count.max(1)))
    );
    let command = "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"";
    Finding::at_least(name, Verdict::Recommended, (count, target.connections), &why, command)
}

fn conntrack(host: &Host, target: &Target) -> Finding {
    let name = "connection tracking";
    let Some(found) = host.number("proc/sys/net/netfilter/nf_conntrack_max") else {
        return Finding::good(name, "not loaded");
    };
    // Without a rule that wants it nothing is tracked.
    if host.number("proc/sys/net/netfilter/nf_conntrack_count") == Some(0) {
        return Finding::good(name, "loaded, and tracks nothing");
    }
    let needed = target.connections + target.connections / 4;
    let command = format!(
        "iptables -t raw -A PREROUTING -p tcp --dport PORT -j NOTRACK, or sysctl -w \
         net.netfilter.nf_conntrack_max={needed}"
    );
    Finding::at_least(name, Verdict::Required, (found, needed), "beyond it packets are dropped", command)
}

fn huge_pages(host: &Host, _: &Target) -> Finding {
    let (name, path) = ("transparent huge pages", "sys/kernel/mm/transparent_hugepage/enabled");
    let Some(text) = host.text(path) else { return Finding::unknown(name, path) };
    let chosen = text.split(['[', ']']).nth(1).unwrap_or("?").to_owned();
    match chosen.as_str() {
        "always" => Finding::new(
            name,
            Verdict::Recommended,
            chosen,
            "madvise: memory that is half used is not rounded up to 2 MB then",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        _ => Finding::good(name, chosen),
    }
}

/// Whether the work of receiving is spread over the CPUs: by the cards' queues, or by steering where these are too few.
fn receive_queues(host: &Host, target: &Target) -> Finding {
    let name = "receive queues";
    let cards: Vec<String> = host
        .names("sys/class/net")
        .into_iter()
        .filter(|card| host.has(&format!("sys/class/net/{card}/device")))
        .collect();
    if cards.is_empty() {
        return Finding::good(name, "no network card here");
    }
    let poor = cards.iter().filter(|card| !is_spread(host, card, target.cpus)).cloned().collect::<Vec<_>>();
    if poor.is_empty() {
        return Finding::good(name, format_args!("spread over the CPUs by {}", cards.join(", ")));
    }
    let needed = format!("{} of them, or steering, so that each CPU takes its part", number(target.cpus));
    let command = format!("ethtool -L {} combined {}, or tuning/nic.sh apply", poor[0], target.cpus);
    Finding::new(name, Verdict::Recommended, format_args!("few on {}", poor.join(", ")), needed, command)
}

fn is_spread(host: &Host, card: &str, cpus: u64) -> bool {
    let queues = format!("sys/class/net/{card}/queues");
    let receiving: Vec<String> = host.names(&queues).into_iter().filter(|name| name.starts_with("rx-")).collect();
    let is_steered = |queue: &String| {
        let mask = host.text(&format!("{queues}/{queue}/rps_cpus")).unwrap_or_default();
        mask.chars().any(|digit| !matches!(digit, '0' | ','))
    };
    receiving.len() as u64 >= cpus || !receiving.is_empty() && receiving.iter().all(is_steered)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    const MILLION: Target = Target { connections: 1_000_000, shards: 2, cpus: 2 };

    /// A host made of files in a directory of its own, which goes with it.
    struct Made {
        host: Host,
        root: PathBuf,
    }

    impl Made {
        fn new(files: &[(&str, &str)]) -> Made {
            let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-");
            let root = std::env::temp_dir().join(format!("ringfeed-doctor-{}-{thread}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Made { host: Host::new(&root), root }
        }
    }

    impl Drop for Made {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    fn limits(files: &str, locked: &str) -> String {
        format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            1024                 {files}                files     \n\
             Max locked memory         8388608              {locked}              bytes     \n"
        )
    }

    /// A host as one would like it.
    fn good() -> Vec<(&'static str, String)> {
        let file = |path, text: &str| (path, text.to_owned());
        vec![
            file("proc/sys/kernel/osrelease", "6.18.44-generic\n"),
            file("proc/sys/kernel/io_uring_disabled", "0\n"),
            ("proc/self/limits", limits("1048576", "unlimited")),
            file("proc/sys/fs/file-max", "9223372036854775807\n"),
            file("proc/meminfo", "MemTotal: 24000000 kB\nMemAvailable: 20000000 kB\n"),
            file("sys/fs/cgroup/memory.max", "max\n"),
            file("proc/sys/net/ipv4/tcp_mem", "500000\t1000000\t2000000\n"),
            file("proc/sys/net/core/somaxconn", "4096\n"),
            file("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192\n"),
            file("proc/sys/net/ipv4/tcp_ehash_entries", "-1048576\n"),
            file("proc/sys/net/ipv4/ip_local_port_range", "0\t999999\n"),
            file("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            file("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
            file("sys/class/net/eth0/device/vendor", "0x1af4\n"),
            file("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n"),
            file("sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n"),
            file("run/systemd/timesync/synchronized", ""),
        ]
    }

    /// The findings on the good host when the file at `path` holds `text`, or does not exist.
    fn changed(path: &'static str, text: Option<&str>) -> Vec<(&'static str, Verdict, String)> {
        let mut files = good();
        files.retain(|(other, _)| *other != path);
        files.extend(text.map(|text| (path, text.to_owned())));
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let made = Made::new(&files);
        let findings = examine(&made.host, &MILLION).into_iter().filter(|finding| finding.verdict != Verdict::Good);
        findings.map(|finding| (finding.name, finding.verdict, finding.to_string())).collect()
    }

    #[test]
    fn a_good_host_needs_nothing() {
        assert_eq!(changed("proc/nothing", None), []);
    }

    #[test]
    fn each_shortage_is_found_alone_and_its_remedy_named() {
        let rows = [
            ("proc/sys/kernel/osrelease", "6.11.9", Verdict::Required, "upgrade the kernel"),
            ("proc/sys/kernel/io_uring_disabled", "2", Verdict::Required, "sysctl -w kernel.io_uring_disabled=0"),
            ("proc/sys/kernel/io_uring_disabled", "1", Verdict::Recommended, "kernel.io_uring_group"),
            ("proc/sys/fs/file-max", "1000000", Verdict::Required, "sysctl -w fs.file-max=1110000"),
            ("proc/meminfo", "MemAvailable: 4000000 kB", Verdict::Required, "add memory"),
            ("sys/fs/cgroup/memory.max", "4000000000", Verdict::Required, "MemoryMax="),
            ("proc/sys/net/ipv4/tcp_mem", "1 2 3", Verdict::Required, "tcp_mem=\"500000 750000 1000000\""),
            ("proc/sys/net/core/somaxconn", "128", Verdict::Recommended, "net.core.somaxconn=4096"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "512", Verdict::Recommended, "tcp_max_syn_backlog=4096"),
            ("proc/sys/net/ipv4/tcp_ehash_entries", "262144", Verdict::Recommended, "thash_entries=1048576"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768 60999", Verdict::Recommended, "36 addresses of its own"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "262144", Verdict::Required, "nf_conntrack_max=1250000"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "[always] never", Verdict::Recommended, "echo madvise"),
        ];
        for (path, text, verdict, remedy) in rows {
            let found = changed(path, Some(text));
            assert_eq!(found.len(), 1, "{path}: {found:?}");
            assert_eq!(found[0].1, verdict, "{found:?}");
            assert!(found[0].2.contains(remedy), "{found:?}");
        }
    }

    #[test]
    fn tracking_that_tracks_nothing_needs_no_room() {
        let made = Made::new(&[
            ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
            ("proc/sys/net/netfilter/nf_conntrack_count", "0\n"),
        ]);
        assert_eq!(conntrack(&made.host, &MILLION).verdict, Verdict::Good);
    }

    #[test]
    fn few_files_cost_rings_and_hardly_any_are_too_few() {
        let found = changed("proc/self/limits", Some(&limits("20000", "unlimited")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].1, Verdict::Recommended);
        assert!(found[0].2.contains("one ring, not 26") && found[0].2.contains("LimitNOFILE=500064"), "{found:?}");
        let found = changed("proc/self/limits", Some(&limits("1024", "8388608")));
        let verdicts: Vec<_> = found.iter().map(|(name, verdict, _)| (*name, *verdict)).collect();
        assert_eq!(verdicts, [("files of a process", Verdict::Required), ("lockable memory", Verdict::Recommended)]);
    }

    #[test]
    fn a_card_with_one_queue_wants_steering() {
        let rows = [("0\n", false), ("3\n", true), ("00000000,00000001\n", true)];
        for (mask, is_well) in rows {
            let mut files = good();
            files.retain(|(path, _)| !path.starts_with("sys/class/net/eth0/queues"));
            files.push(("sys/class/net/eth0/queues/rx-0/rps_cpus", mask.to_owned()));
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
            let finding = receive_queues(&Made::new(&files).host, &MILLION);
            assert_eq!(finding.verdict == Verdict::Good, is_well, "{finding}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_so() {
        let made = Made::new(&[("proc/empty", "")]);
        let findings = examine(&made.host, &MILLION);
        let unknown = findings.iter().filter(|finding| finding.verdict == Verdict::Unknown).count();
        assert_eq!(unknown, findings.len() - 3, "io_uring, tracking and cards are well where there is nothing");
    }
}
