//! Runs with agents on this machine, against broken servers.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use super::server::{Fault, Server};
use super::{Run, fan_out};

/// A running `loadgen agent`. It ends with the test.
struct Agent {
    process: Child,
    address: String,
    _stdout: BufReader<ChildStdout>,
}

impl Agent {
    fn start(flags: &[&str]) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.args(["agent", "--listen", "127.0.0.1:0"]).args(flags).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("loadgen can be run");
        let mut stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        let address = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
        Agent { process, address, _stdout: stdout }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Six subscribers, two at each of two agents and two at the coordinator.
fn with_agents(name: &str, server: &Server, agents: &[&Agent], flags: &[&str]) -> Run {
    let addresses: Vec<&str> = agents.iter().map(|agent| &*agent.address).collect();
    let addresses = addresses.join(",");
    fan_out(name, server, &[&["--connections", "6", "--agents", &addresses][..], flags].concat())
}

#[test]
fn a_correct_server_has_no_faults_with_agents_and_all_deliveries_count() {
    let agents = [Agent::start(&[]), Agent::start(&[])];
    // The same agents take part in several runs.
    for workers in ["1", "2"] {
        let server = Server::start(Fault::None);
        let run = with_agents("agents", &server, &[&agents[0], &agents[1]], &["--workers", workers, "--rate", "200"]);
        assert!(run.faults().is_empty() && run.code != 1, "{}", run.text);
        assert_eq!(run.figure("publications"), 400, "{}", run.text);
        assert_eq!((&run.report["count"], &run.report["connections"]), (&2400.into(), &6.into()), "{}", run.text);
        for agent in run.report["agents"].as_array().expect("agents") {
            assert_eq!((&agent["connections"], &agent["count"]), (&2.into(), &800.into()), "{}", run.text);
            let ahead_us = agent["ahead_us"].as_f64().expect("a number");
            assert!(ahead_us.abs() < 50_000.0, "one machine has one clock: {ahead_us}");
        }
        assert!(run.report["latency"]["uncorrected"].is_null(), "only the coordinator knows the time of publishing");
    }
}

#[test]
fn each_kind_of_fault_has_its_name_at_agents_too() {
    let agents = [Agent::start(&[]), Agent::start(&[])];
    // The kind, how many for each made, and words. Every subscriber has the fault, in all three programs.
    let cases = [
        (Fault::Drops(300), "missing", "is missing"),
        (Fault::Repeats(300), "duplicate", "came again"),
        (Fault::Swaps(300), "reordered", "came after a later one"),
        (Fault::Corrupts(300), "corrupt", "not as sent"),
        (Fault::Truncates(300), "corrupt", "not as sent"),
    ];
    for (fault, kind, words) in cases {
        let server = Server::start(fault);
        let run = with_agents("agents-fault", &server, &[&agents[0], &agents[1]], &["--patience", "1s"]);
        assert!(server.faults_made() > 0, "{kind}");
        run.expect_faults(&[(kind, server.faults_made())]);
        assert!(run.text.contains(words), "{}", run.text);
        for agent in run.report["agents"].as_array().expect("agents") {
            assert_eq!(agent["faults"][kind], server.faults_made() / 3, "{}", run.text);
        }
        let examples = run.report["faults"]["examples"].to_string();
        assert!(examples.contains(": connection 0: ") || examples.contains("\"connection 0: "), "{examples}");
    }
}

#[test]
fn closed_late_and_refused_are_found_with_agents() {
    let agents = [Agent::start(&[]), Agent::start(&[])];
    let pair = [&agents[0], &agents[1]];
    let run = with_agents("agents-dies", &Server::start(Fault::Dies(500)), &pair, &["--patience", "1s"]);
    let faults = run.faults();
    let closed = faults.iter().find(|(name, _)| *name == "closed").map_or(0, |(_, count)| *count);
    assert!(run.code == 1 && closed >= 6, "all subscribers, and the publisher: {}", run.text);
    for agent in run.report["agents"].as_array().expect("agents") {
        assert_eq!(agent["faults"]["closed"], 2, "{}", run.text);
    }
    assert!(run.text.contains(&format!("agent {}", agents[0].address)), "{}", run.text);

    let server = Server::start(Fault::Stalls(300, Duration::from_millis(600)));
    let run = with_agents("agents-late", &server, &pair, &["--late", "300ms", "--rate", "200"]);
    let late = run.report["faults"]["late"].as_u64().expect("a number");
    assert!(run.code == 1 && late > 0 && run.faults().len() == 1, "{}", run.text);

    // A refused publication is no message that an agent misses.
    let server = Server::start(Fault::Refuses(50));
    let publish = server.post_url();
    let (feed, addresses) = (server.url("/feed"), format!("{},{}", agents[0].address, agents[1].address));
    let flags = ["fanout", "--url", &feed, "--publish", &publish, "-c", "6", "--agents", &addresses, "--rate", "100"];
    let run = super::loadgen(
        "agents-refused",
        &[&flags[..], &["--warmup", "0ms", "--duration", "2s", "--late", "1m"]].concat(),
    );
    run.expect_faults(&[("refused", server.faults_made())]);
}

#[test]
fn a_schedule_that_can_not_be_kept_is_an_error_and_no_fault_of_the_server() {
    let (agent, server) = (Agent::start(&[]), Server::start(Fault::None));
    let (feed, publish) = (server.url("/feed"), server.url("/publish"));
    let flags = ["fanout", "--url", &feed, "--publish", &publish, "-c", "4", "--agents", &agent.address, "--rate"];
    let more = ["4000000000", "--warmup", "0ms", "--duration", "50ms", "--patience", "100ms"];
    let command = &mut Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let output = command.args(flags).args(more).output().expect("loadgen can be run");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("lower the rate"), "{said}");
}

#[test]
fn the_offset_of_a_clock_is_measured_and_latencies_are_right_in_spite_of_it() {
    let agents = [Agent::start(&["--skew-clock-ms", "2500"]), Agent::start(&["--skew-clock-ms", "-700"])];
    // A clock known to some milliseconds is good enough for latencies of 300 ms.
    let server = Server::start(Fault::SlowsTopic("load", Duration::from_millis(300)));
    let script =
        std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("skew-{}.script", std::process::id()));
    std::fs::write(&script, r#"{"publish": "{topic} {payload}"}"#).expect("the directory exists");
    let flags = ["--script", script.to_str().expect("a path is text"), "--rate", "2"];
    let run = with_agents("agents-skew", &server, &[&agents[0], &agents[1]], &flags);
    std::fs::remove_file(&script).expect("it was there");
    assert!(run.faults().is_empty() && run.code != 1, "{}", run.text);
    for (index, ahead_us) in [2_500_000.0_f64, -700_000.0].into_iter().enumerate() {
        let agent = &run.report["agents"][index];
        let found = agent["ahead_us"].as_f64().expect("a number");
        assert!((found - ahead_us).abs() <= ahead_us.abs() / 10.0, "{found} instead of {ahead_us}");
        assert_eq!(agent["tells_latency"], true, "{}", run.text);
    }
    assert!(run.text.contains("its clock is 2.50 s ahead, known to ") && run.text.contains(" behind"), "{}", run.text);
    let (p50, max) = (run.latency_us("corrected", "p50_us"), run.latency_us("corrected", "max_us"));
    assert!(p50 > 290_000.0 && max < 2_000_000.0, "no latency has the offset in it: {}", run.text);
}

#[test]
fn one_way_latency_is_refused_where_a_clock_is_not_known_well_enough() {
    // A slow network: the answer to a ping takes 20 ms, so the clock is known to 10 ms.
    let agents = [Agent::start(&[]), Agent::start(&["--answer-after", "20ms"])];
    let run = with_agents("agents-slow", &Server::start(Fault::None), &[&agents[0], &agents[1]], &["--rate", "50"]);
    assert!(run.faults().is_empty() && run.code != 1, "{}", run.text);
    assert_eq!(run.report["agents"][1]["tells_latency"], false, "{}", run.text);
    let latency = &run.report["latency"];
    assert!(latency["corrected"].is_null() && latency["uncorrected"].is_null(), "{}", run.text);
    assert!(run.text.contains("no latency") && run.text.contains("not known to a tenth"), "{}", run.text);
    assert_eq!(run.report["count"], 600, "deliveries count: {}", run.text);
    let expecting = ["--rate", "50", "--expect", "p99<60s"];
    let run = with_agents("agents-expect", &Server::start(Fault::None), &[&agents[1]], &expecting);
    assert!(run.code == 4 && run.text.contains("no such figure in this run"), "{}", run.text);
}

/// The error of a run that can't begin.
fn error(flags: &[&str]) -> String {
    let fanout = ["fanout", "--url", "ws://127.0.0.1:1/", "--publish", "ws://127.0.0.1:1/", "-c", "6"];
    let command = &mut Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let Output { status, stderr, .. } = command.args(fanout).args(flags).output().expect("loadgen can be run");
    assert_eq!(status.code(), Some(2));
    String::from_utf8(stderr).expect("text")
}

#[test]
fn agents_need_a_key_a_schedule_and_enough_connections() {
    let scratch = |name: &str, key: &str| {
        let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::write(&path, key).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (key, other) = (scratch("key", "a key of many letters\n"), scratch("other", "another key, as long\n"));
    let agent = Agent::start(&["--agent-key-file", &key]);
    let with = |more: &[&str]| error(&[&["--agents", &agent.address, "--rate", "5"][..], more].concat());
    assert!(with(&[]).contains("the keys differ"));
    assert!(with(&["--agent-key-file", &other]).contains("the keys differ"));
    let error_of_server = with(&["--agent-key-file", &key]);
    assert!(error_of_server.contains("127.0.0.1:1") && error_of_server.contains("refused"), "{error_of_server}");
    assert!(with(&["--in-flight", "3"]).contains("--in-flight"));
    assert!(with(&["--publishers", "2"]).contains("one publisher"));
    assert!(with(&["--workers", "4"]).contains("1 agents need at least 8 connections, not 6"));
    assert!(with(&["--hlog", "x.hlog"]).contains("--hlog"));
    assert!(error(&["--agents", &agent.address]).contains("--rate"));
    let listening = ["agent", "--listen", "0.0.0.0:0"];
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(listening).output().expect("loadgen can be run");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("--agent-key-file"), "{said}");
    [key, other].into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
}
