//! Plans: their check, and a short run of each against the real server.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::hub::{Hub, Speech};
use crate::{Run, end, loadgen, run};

/// A running `ringfeed serve`. It ends with the test.
pub(crate) struct Ringfeed {
    process: Child,
    pub(crate) url: String,
    pub(crate) publish: String,
    /// Kept open: the server prints more.
    _stdout: BufReader<ChildStdout>,
}

impl Ringfeed {
    pub(crate) fn start() -> Ringfeed {
        Ringfeed::start_with(&[])
    }

    pub(crate) fn start_with(flags: &[&str]) -> Ringfeed {
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--shards", "1"]);
        command.args(["--ping-interval-ms", "0"]).args(flags).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("the server can be run");
        let mut stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let (mut data, mut control, mut line) = (None, None, String::new());
        while line != "ready\n" {
            line.clear();
            assert!(stdout.read_line(&mut line).expect("text") > 0, "the server ended before it was ready");
            data = data.or_else(|| Some(line.trim().strip_prefix("listening on ws://")?.to_owned()));
            control = control.or_else(|| Some(line.trim().strip_prefix("control on http://")?.to_owned()));
        }
        let [data, control] = [data, control].map(|address| address.expect("both are printed"));
        let (url, publish) = (format!("ws://{data}/feed/{{topic}}"), format!("http://{control}/publish/{{topic}}"));
        Ringfeed { process, url, publish, _stdout: stdout }
    }
}

impl Drop for Ringfeed {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The binary of this workspace, beside the one under test. Builds it where only this package was built.
fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_loadgen")).with_file_name("ringfeed");
    if !path.exists() {
        let build = Command::new(env!("CARGO")).args(["build", "--package", "ringfeed", "--bin", "ringfeed"]).status();
        assert!(build.expect("cargo can be run").success() && path.exists(), "no {}", path.display());
    }
    path
}

fn file(name: &str) -> String {
    format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

/// A plan for a second. No message counts as late: other programs may delay this one.
fn run_plan(name: &str, flags: &[&str]) -> Run {
    let file = file(name);
    let short = ["--duration", "1s", "--warmup", "200ms", "--late", "1m"];
    run(&format!("plan-{name}"), &[&["run", &file][..], flags, &short].concat())
}

#[test]
fn each_plan_runs_against_the_real_server() {
    let server = Ringfeed::start();
    for name in ["prices", "chat", "map", "board", "match", "heart"] {
        let run = run_plan(name, &["--url", &server.url, "--publish", &server.publish]);
        // A busy machine may miss an expectation of latency, but no message.
        assert!(matches!(run.code, 0 | 3 | 4), "{name}: {}: {}{}", run.code, run.stdout, run.stderr);
        assert!(run.stdout.contains("faults                  none"), "{name}: {}", run.stdout);
        assert!(run.stdout.contains("as expected             faults==0: 0"), "{name}: {}", run.stdout);
        assert!(run.count() > 0.0 && run.stdout.contains(&format!("plan {name}: ")), "{name}: {}", run.stdout);
    }
}

#[test]
fn connections_follow_the_stages_with_several_workers_too() {
    let server = Ringfeed::start();
    for workers in ["1", "2"] {
        let flags = ["--url", &server.url, "--publish", &server.publish, "--workers", workers];
        let run = run_plan("match", &flags);
        assert!(run.stdout.contains("faults                  none"), "{}", run.stdout);
        let report = run.report.as_ref().expect("a report");
        let ticks = report["history"]["ticks"].as_array().expect("ticks");
        let open: Vec<u64> = ticks.iter().filter_map(|tick| tick["connections"].as_u64()).collect();
        assert!(open.iter().max() > Some(&500) && open.last() < Some(&300), "up to 600, then down to 100: {open:?}");
        assert_eq!(report["connections"], 600);
    }
}

#[test]
fn plans_are_checked_without_a_server() {
    let files = ["prices", "chat", "map", "board", "match", "heart"].map(file);
    let run = end(loadgen().args(["plan", "check"]).args(&files));
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stdout.matches(": valid\n").count(), files.len(), "{}", run.stdout);
    assert!(
        run.stdout.contains("  prices: 400 connections, 20 topics, 100 to 400 publications a second"),
        "{}",
        run.stdout
    );

    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("plan-{}.toml", std::process::id()));
    let text = std::fs::read_to_string(&files[0]).unwrap().replacen("connections = 100", "connections = 0", 1);
    std::fs::write(&path, text).unwrap();
    let name = path.to_str().unwrap();
    end(loadgen().args(["plan", "check", name])).expect_refusal(&[name, "line 9: ", "from 1 to 10000000, not 0"]);
    let flags = ["run", name, "--url", "ws://127.0.0.1:1/{topic}", "--publish", "http://127.0.0.1:1/{topic}"];
    end(loadgen().args(flags)).expect_refusal(&["line 9: "]);
    std::fs::remove_file(&path).unwrap();
    end(loadgen().args(["plan", "check", name])).expect_refusal(&[name, "No such file"]);
}

#[test]
fn a_plan_needs_addresses_and_a_driver_that_carry_it() {
    let hub = Hub::start(Speech::Raw);
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/publish/{topic}"));
    run_plan("prices", &["--url", &url, "--publish", &publish]).expect_refusal(&["{topic}"]);
    let url = hub.url("ws", "/feed/{topic}");
    run_plan("chat", &["--url", &url, "--publish", &publish, "--workers", "2"]).expect_refusal(&["--workers 1"]);
    let mqtt = hub.url("ws", "/mqtt");
    let flags = ["--driver", "mqtt", "--url", &mqtt, "--publish", &mqtt];
    run_plan("prices", &flags).expect_refusal(&["--driver raw"]);
}
