//! The suite as an installed program: which cases make up a set, and how one of its processes is started.
//!
//! A set is run in chunks, each a process with a report of its own, two at a time: most of a run is the
//! suite's own time. Judges nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::report::Report;
use crate::support::process::Process;
use crate::support::{PATIENCE, repository, target_dir};

/// How long installing may take: it loads some 20 MB of packages.
const INSTALL_PATIENCE: Duration = Duration::from_secs(600);

/// How long one chunk may take. The slowest, with compression, is some minutes.
pub(crate) const CHUNK_PATIENCE: Duration = Duration::from_secs(1200);

/// Suite processes at a time.
const CHUNKS_AT_ONCE: usize = 2;

/// Some of the suite's cases.
pub(crate) struct CaseSet {
    /// Names the directory of its reports.
    pub name: &'static str,
    /// Patterns of case numbers, as the suite reads them: `9.*`; one chunk each.
    pub chunks: &'static [&'static [&'static str]],
    /// Cases that must have run at the end. The suite itself is content when it cannot even connect.
    pub case_count: usize,
}

/// Sections 1 to 7 and 10 whole; of section 9 what has no message over 4 MiB and no chops of 64 or 128 bytes; of
/// each compression group the cases with messages of 16, 1024, 16384 and (in fragments) 8192 bytes.
pub(crate) const FAST: CaseSet = CaseSet {
    name: "fast",
    chunks: &[
        &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"],
        &[
            "9.1.1", "9.1.2", "9.1.3", "9.2.1", "9.2.2", "9.2.3", "9.3.4", "9.3.9", "9.4.4", "9.4.9", "9.5.4", "9.5.6",
            "9.6.4", "9.6.6", "9.7.*", "9.8.*",
        ],
        FAST_DEFLATE,
    ],
    case_count: 321,
};

const FAST_DEFLATE: &[&str] = &[
    "12.1.1", "12.1.4", "12.1.7", "12.1.11", "12.2.1", "12.2.4", "12.2.7", "12.2.11", "12.3.1", "12.3.4", "12.3.7",
    "12.3.11", "12.4.1", "12.4.4", "12.4.7", "12.4.11", "12.5.1", "12.5.4", "12.5.7", "12.5.11", "13.1.1", "13.1.4",
    "13.1.7", "13.1.11", "13.2.1", "13.2.4", "13.2.7", "13.2.11", "13.3.1", "13.3.4", "13.3.7", "13.3.11", "13.4.1",
    "13.4.4", "13.4.7", "13.4.11", "13.5.1", "13.5.4", "13.5.7", "13.5.11", "13.6.1", "13.6.4", "13.6.7", "13.6.11",
    "13.7.1", "13.7.4", "13.7.7", "13.7.11",
];

/// The fast set's cases of compression.
pub(crate) const DEFLATE: CaseSet = CaseSet { name: "deflate", chunks: &[FAST_DEFLATE], case_count: 48 };

/// Every case the suite has.
pub(crate) const FULL: CaseSet = CaseSet {
    name: "full",
    chunks: &[
        &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"],
        &["9.1.*", "9.2.*", "9.3.*"],
        &["9.4.*", "9.5.*", "9.6.*", "9.7.*", "9.8.*"],
        &["12.1.*"],
        &["12.2.*"],
        &["12.3.*"],
        &["12.4.*"],
        &["12.5.*"],
        &["13.1.*", "13.2.*"],
        &["13.3.*", "13.4.*"],
        &["13.5.*", "13.6.*", "13.7.*"],
    ],
    case_count: 517,
};

/// Runs each chunk of `set` by `run`, which gets the chunk's empty directory and its cases and leaves an
/// `index.json` there; returns all the reports as one.
pub(crate) fn run_chunks(set: &CaseSet, role: &str, run: impl Fn(&Path, &[&str]) + Sync) -> Report {
    static ONE_RUN: Mutex<()> = Mutex::new(());
    // Many cases give the peer a second, which must not be spent waiting for the other role's processors.
    let _turn = ONE_RUN.lock().unwrap_or_else(PoisonError::into_inner);
    install();
    let root = target_dir("conformance").join(set.name).join(role);
    let chunks = Mutex::new(set.chunks.iter().enumerate());
    let report = Mutex::new(Report::default());
    thread::scope(|scope| {
        for _ in 0..CHUNKS_AT_ONCE {
            scope.spawn(|| {
                while let Some((number, cases)) = { chunks.lock().expect("no chunk panics holding it").next() } {
                    let dir = empty_dir(root.join(number.to_string()));
                    run(&dir, cases);
                    report.lock().expect("no chunk panics holding it").read(&dir.join("index.json"));
                }
            });
        }
    });
    report.into_inner().expect("no chunk panics holding it")
}

/// Starts the suite in `mode` with its reports going to `dir`. `peers` are the specification's entries that
/// say whom to test, or where to listen.
pub(crate) fn start(mode: &str, dir: &Path, cases: &[&str], peers: &Value) -> Process {
    let seconds = PATIENCE.as_secs();
    let mut specification = json!({
        "outdir": dir, "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
        // By default the suite waits a second for a close frame, which a busy machine may not keep.
        "options": { "openHandshakeTimeout": seconds, "closeHandshakeTimeout": seconds },
    });
    let entries = peers.as_object().expect("entries of a specification").clone();
    specification.as_object_mut().expect("written as an object above").extend(entries);
    let path = dir.join("specification.json");
    std::fs::write(&path, specification.to_string()).expect("a chunk's directory can be written to");

    let mut command = Command::new(install().join("venv/bin/python"));
    command.arg(repository("tests/conformance/suite/wstest.py"));
    command.args(["--mode", mode, "--webport", "0", "--spec"]).arg(path);
    Process::start(&format!("wstest {mode}"), command)
}

/// Where the suite is installed; the first caller installs it.
fn install() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let dir = target_dir("conformance").join("suite");
        let mut command = Command::new("bash");
        command.arg(repository("tests/conformance/suite/install.sh")).arg(&dir);
        Process::start("install.sh", command).succeed(INSTALL_PATIENCE);
        dir
    })
}

fn empty_dir(dir: PathBuf) -> PathBuf {
    if dir.exists() {
        std::fs::remove_dir_all(&dir).expect("an old report can be removed");
    }
    std::fs::create_dir_all(&dir).expect("the target directory can be written to");
    dir
}
