//! A real browser, Debian's Chromium, on the page that the server shows; and its `EventSource`.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use crate::clients::{BROWSER_DRIVER, BROWSER_EVENT_SOURCE};
use crate::support::process::Process;
use crate::world::World;

const CHROMIUM: &str = "/usr/bin/chromium";

/// How long installing it may take: some 100 MB.
const INSTALL_PATIENCE: Duration = Duration::from_secs(600);

/// Opens `url` and expects that it says it is connected, and shows messages as they come.
pub(crate) fn expect_live_page(url: &str) {
    if let Some(chromium) = chromium() {
        println!("{}", BROWSER_DRIVER.run(&[chromium, url]));
    }
}

/// Expects that an event stream recovers from a cut network by itself, and reports a loss after a restart.
pub(crate) fn expect_event_stream() {
    if let Some(chromium) = chromium() {
        let world = World::start();
        let client = BROWSER_EVENT_SOURCE.start(&[chromium, &format!("http://{}/", world.address())]);
        world.follow(client);
    }
}

/// The browser's path; `None`, having said so, without it and without the right to install it.
pub(crate) fn chromium() -> Option<&'static str> {
    static IS_THERE: LazyLock<bool> = LazyLock::new(|| Path::new(CHROMIUM).exists() || install());
    if !*IS_THERE {
        // Not by eprintln!, which the test harness keeps to itself while a test succeeds.
        let skipped = format!(
            "\n!!! SKIPPED: the browser test needs {CHROMIUM}, and only root may install it.\n\
             !!! As root: apt-get update && apt-get install --no-install-recommends chromium\n\n"
        );
        std::io::stderr().write_all(skipped.as_bytes()).expect("standard error is open");
    }
    IS_THERE.then_some(CHROMIUM)
}

/// Installs Chromium if we may; whether we may.
fn install() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id can be run");
    if id.stdout.trim_ascii() != b"0" {
        return false;
    }
    for arguments in [&["update", "-q"][..], &["install", "-y", "-q", "--no-install-recommends", "chromium"]] {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        Process::start("apt-get", command).succeed(INSTALL_PATIENCE);
    }
    true
}
