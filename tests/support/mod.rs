//! What the integration tests share: the real binary as a child process, plain HTTP, programs with a deadline.
//!
//! Every child is ended by its own id when its handle is dropped, and every wait has a deadline. Knows nothing
//! of WebSockets: each test brings a client of its own, and not one of those is the server's.
#![allow(dead_code, reason = "each test binary compiles this module and uses its own part of it")]

pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod server;
pub(crate) mod token;

use std::path::PathBuf;
use std::time::Duration;

/// How long a test waits for anything that should happen at once. Only a broken server ever takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of its own for `name` below the workspace's target directory; kept from run to run.
pub(crate) fn target_dir(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).expect("the target directory can be written to");
    dir
}

/// The repository's file or directory at `path`.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}
