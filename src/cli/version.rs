//! `ringfeed version`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::version;

/// Says what this program was built from, and which kernel runs it
#[derive(Args, Debug)]
pub(super) struct VersionArguments {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// The oldest kernel that the server runs on.
const KERNEL_MIN: &str = "6.12";

pub(super) fn run(arguments: VersionArguments) -> ExitCode {
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy();
    let (version, revision, target) = (version::VERSION, version::REVISION, version::TARGET);
    let (profile, rustc) = (version::PROFILE, version::RUSTC);
    if arguments.json {
        let kernel = json!({"found": kernel, "oldest": KERNEL_MIN});
        println!(
            "{}",
            json!({
                "version": version, "revision": revision, "target": target, "profile": profile, "rustc": rustc,
                "kernel": kernel,
            })
        );
    } else {
        println!("ringfeed {version} (revision {revision}, {target}, {profile}, rustc {rustc})");
        println!("Linux {kernel}; {KERNEL_MIN} or newer is needed");
    }
    ExitCode::SUCCESS
}
