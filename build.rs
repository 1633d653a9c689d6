//! Collects the revision, the target and the compiler of this build, for `ringfeed_build_info` and `ringfeed version`.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RINGFEED_REVISION");
    let profile = variable("PROFILE");
    let rustc = output(&variable("RUSTC"), &["--version"]).unwrap_or_default();
    let rustc = rustc.split_whitespace().nth(1).unwrap_or("unknown");
    // Packagers may name the revision. Builds for development don't: each commit would build everything once more.
    let revision = env::var("RINGFEED_REVISION").ok().or_else(|| (profile == "release").then(revision)?);
    println!("cargo:rustc-env=RINGFEED_REVISION={}", revision.as_deref().unwrap_or("unknown"));
    println!("cargo:rustc-env=RINGFEED_TARGET={}", variable("TARGET"));
    println!("cargo:rustc-env=RINGFEED_PROFILE={profile}");
    println!("cargo:rustc-env=RINGFEED_RUSTC={rustc}");
}

/// The commit of this repository; `None` for a package in another one.
fn revision() -> Option<String> {
    let root = output("git", &["rev-parse", "--show-toplevel"])?;
    if root != variable("CARGO_MANIFEST_DIR") {
        return None;
    }
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo:rerun-if-changed={log}");
    output("git", &["rev-parse", "--short=12", "HEAD"])
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
