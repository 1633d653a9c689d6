//! The files in which the kernel tells about a host. Below a root of one's choice, so that tests can make a host up.

use std::fs;
use std::path::PathBuf;

/// A host, as its `/proc` and `/sys` describe it.
#[derive(Clone, Debug)]
pub(super) struct Host {
    root: PathBuf,
}

/// The soft and the hard limit of a resource. Unlimited is [`u64::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: u64,
    pub(super) hard: u64,
}

impl Host {
    /// The host whose files lie below `root`.
    pub(super) fn new(root: impl Into<PathBuf>) -> Host {
        Host { root: root.into() }
    }

    /// The text of a file, without the last line's end. Paths have no slash in front.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim_end().to_owned())
    }

    /// The numbers of a file that holds nothing else. A number that is too large becomes [`u64::MAX`].
    pub(super) fn numbers(&self, path: &str) -> Option<Vec<u64>> {
        let text = self.text(path)?;
        text.split_ascii_whitespace()
            .map(|number| Some(number.parse::<u128>().ok()?.min(u64::MAX.into()) as u64))
            .collect()
    }

    /// The only number of a file.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.numbers(path)?.first().copied()
    }

    /// A limit of this process, by the name it has in `/proc/self/limits`.
    pub(super) fn limit(&self, name: &str) -> Option<Limit> {
        let text = self.text("proc/self/limits")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut values = line.split_ascii_whitespace().map(|value| match value {
            "unlimited" => Some(u64::MAX),
            value => value.parse().ok(),
        });
        Some(Limit { soft: values.next()??, hard: values.next()?? })
    }

    /// A figure of `/proc/meminfo`, in bytes.
    pub(super) fn meminfo_bytes(&self, name: &str) -> Option<u64> {
        let text = self.text("proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }

    /// The names in a directory, sorted; none where it can't be read.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Whether there is anything at `path`.
    pub(super) fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}
