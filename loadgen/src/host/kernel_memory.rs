//! Memory of connections: in this program, in the server, and in the kernel.

use std::fs;

use crate::error::Error;
use crate::host::process::Usage;
use crate::report::figure::Figure;

/// Bytes of a page, the unit of `/proc/net/sockstat`.
const PAGE_BYTES: u64 = 4096;

/// Memory at one moment, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    client: u64,
    server: Option<u64>,
    /// Kernel objects, including sockets, of the whole host.
    slab: Option<u64>,
    /// TCP socket buffers, of the whole network namespace.
    buffers: Option<u64>,
}

impl Memory {
    /// Reads the current values.
    ///
    /// # Errors
    /// If there is no process `server_pid`.
    pub(crate) fn now(server_pid: Option<u32>) -> Result<Memory, Error> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Ok(Memory {
            client: Usage::own()?.resident_bytes,
            server: server_pid.map(Usage::of).transpose()?.map(|usage| usage.resident_bytes),
            slab: parse_slab(&read("/proc/meminfo")),
            buffers: parse_buffers(&read("/proc/net/sockstat")),
        })
    }

    /// The growth since `before`, per connection. Kernel memory includes both ends if the server is on this host.
    pub(crate) fn growth_each(self, before: Memory, connections: u32) -> Vec<Figure> {
        let each = |now: u64, before: u64| (now as f64 - before as f64) / f64::from(connections.max(1));
        let pairs = [
            ("client memory each", Some(self.client), Some(before.client)),
            ("server memory each", self.server, before.server),
            ("kernel slab each", self.slab, before.slab),
            ("socket buffers each", self.buffers, before.buffers),
        ];
        // Memory that other programs freed meanwhile says nothing about connections.
        let known = pairs.into_iter().filter_map(|(name, now, before)| Some((name, now?, before?)));
        let known = known.filter(|(_, now, before)| now >= before);
        known.map(|(name, now, before)| Figure::new(name, each(now, before).round(), "B")).collect()
    }
}

/// Parses the line `Slab:  1234 kB`, into bytes.
fn parse_slab(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Parses the number after `mem` in the TCP line, into bytes.
fn parse_buffers(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let pages = line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1)?;
    pages.parse::<u64>().ok().map(|pages| pages * PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_in_proc_are_parsed() {
        assert_eq!(parse_slab("Cached: 1 kB\nSlab:   2048 kB\n"), Some(2 << 20));
        let sockstat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 6 mem 3\nUDP: inuse 1 mem 2\n";
        assert_eq!(parse_buffers(sockstat), Some(3 * 4096));
        assert_eq!((parse_slab(""), parse_buffers("TCP: inuse 5\n")), (None, None));
    }

    #[test]
    fn growth_is_per_connection() {
        let before = Memory { client: 1000, server: None, slab: Some(50_000), buffers: Some(0) };
        let now = Memory { client: 3000, slab: Some(40_000), ..before };
        let told: Vec<_> = now.growth_each(before, 10).into_iter().map(|figure| (figure.name, figure.value)).collect();
        let expected = [("client memory each", 200.0), ("socket buffers each", 0.0)];
        assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value)));
        assert!(Memory::now(None).unwrap().client > 0);
    }
}
