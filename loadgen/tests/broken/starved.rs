//! A client that is kept from running calls itself the bottleneck in every scenario, although the server is right.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::server::{Fault, Server};

/// Exit code of a run in which the load generator was the bottleneck.
const CLIENT_BOUND: i32 = 3;

/// Every scenario that runs for some seconds against the server, with the URL to connect to, and the messages that the
/// server has received once the scenario measures. None of them is late or given up.
const SCENARIOS: [(&str, &str, u64); 9] = [
    ("fanout --rate 200 -c 5", "/feed", 50),
    ("fanout --rate 200 --in-flight 50 -c 5", "/feed", 50),
    ("fanout --in-flight 4 -c 5", "/feed", 50),
    ("fanout --rate 200 -c 5 --workers 2", "/feed", 50),
    ("echo -c 20", "/echo", 100),
    ("storm --rate 200 --watchers 2 -c 2 --calm 2s", "/feed", 50),
    ("slow --rate 200 -c 4", "/feed", 50),
    ("churn --rate 200 -c 4 --leave-rate 5", "/feed", 50),
    ("idle -c 5", "/idle", 0),
];

/// Starts `loadgen` with these words, and returns once the server has received so many messages.
fn start(words: &str, path: &str, server: &Server, received: u64) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(words.split(' ')).args(["--url", &server.url(path)]);
    command.args(["--warmup", "0ms", "--duration", "2s", "--late", "1m", "--patience", "1m"]);
    if path == "/feed" {
        command.args(["--publish", &server.url("/publish")]);
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("loadgen can be run");
    while server.received() < received || received == 0 && server.connections() < 5 {
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

/// Waits for the end. Returns the exit code and the output.
fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("it was started");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[test]
fn a_stopped_client_is_the_bottleneck_in_every_scenario() {
    for (words, path, received) in SCENARIOS {
        for ms in [300, 900] {
            let server = Server::start(Fault::None);
            let child = start(words, path, &server, received);
            if received == 0 {
                // It measures once all are connected, which it knows a little later than the server.
                std::thread::sleep(Duration::from_millis(300));
            }
            let pid = Pid::from_child(&child);
            kill_process(pid, Signal::STOP).expect("it runs");
            std::thread::sleep(Duration::from_millis(ms));
            kill_process(pid, Signal::CONT).expect("it is stopped");
            let (code, text) = end(child);
            assert_eq!(code, Some(CLIENT_BOUND), "{words}, {ms} ms: {text}");
            assert!(text.contains("kept from running"), "{words}, {ms} ms: {text}");
        }
    }
}

/// A control group with a quota of 5 % of a CPU, if this test may make one. Removed with it.
struct Quota(String);

impl Quota {
    fn new() -> Option<Quota> {
        let name = format!("loadgen-test-{}", std::process::id());
        // The second and the first version of control groups.
        for (root, file, quota) in
            [("/sys/fs/cgroup", "cpu.max", "5000 100000"), ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "5000")]
        {
            let directory = format!("{root}/{name}");
            if std::fs::create_dir(&directory).is_err() {
                continue;
            }
            let quota_file = format!("{directory}/{file}");
            if Path::new(&quota_file).exists() && std::fs::write(&quota_file, quota).is_ok() {
                return Some(Quota(directory));
            }
            let _ = std::fs::remove_dir(&directory);
        }
        None
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_throttled_client_is_the_bottleneck_in_a_closed_loop() {
    let Some(quota) = Quota::new() else {
        println!("skipped: no right to limit CPU time by a control group");
        return;
    };
    for (words, path) in [("fanout -c 100 --in-flight 4", "/feed"), ("echo -c 50", "/echo")] {
        let server = Server::start(Fault::None);
        let child = start(words, path, &server, 1);
        std::fs::write(format!("{}/cgroup.procs", quota.0), child.id().to_string()).expect("it runs");
        let (code, text) = end(child);
        assert_eq!(code, Some(CLIENT_BOUND), "{words}: {text}");
    }
}

#[test]
fn an_interrupted_run_ends_with_its_report() {
    let server = Server::start(Fault::None);
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["fanout", "--url", &server.url("/feed"), "--publish", &server.url("/publish"), "-c", "2"]);
    command.args(["--rate", "200", "--warmup", "0ms", "--duration", "1h", "--late", "1m"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("loadgen can be run");
    while server.received() < 50 {
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let (code, text) = end(child);
    assert!(matches!(code, Some(0 | CLIENT_BOUND)) && text.contains("deliveries"), "{code:?}: {text}");
}
