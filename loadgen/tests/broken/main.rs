//! Runs the load generator against servers with one fault each: it must name the fault and count it.

mod server;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use server::{Fault, Server};

/// The result of a run: exit code, output and report.
struct Run {
    code: i32,
    text: String,
    report: Value,
}

impl Run {
    /// The fault counts that are not zero, in the order of their names.
    fn faults(&self) -> Vec<(&str, u64)> {
        let counts = self.report["faults"].as_object().expect("a report has faults");
        let numbers = counts.iter().filter_map(|(name, count)| Some((name.as_str(), count.as_u64()?)));
        numbers.filter(|(name, count)| *count > 0 && *name != "connections").collect()
    }

    /// Fails unless the run failed with exactly these faults.
    fn expect_faults(&self, expected: &[(&str, u64)]) {
        assert_eq!((self.code, self.faults()), (1, expected.to_vec()), "{}", self.text);
        for (name, count) in expected {
            assert!(self.text.contains(&format!("{count} {name}")), "{}", self.text);
        }
    }

    fn figure(&self, name: &str) -> u64 {
        let figures = self.report["figures"].as_array().expect("a report has figures");
        let found = figures.iter().find(|figure| figure["name"] == name).expect("a fan-out has this figure");
        found["value"].as_f64().expect("a number") as u64
    }

    fn latency_us(&self, from: &str, figure: &str) -> f64 {
        self.report["latency"][from][figure].as_f64().expect("an open loop has both latencies")
    }
}

/// Runs `loadgen` with these flags after `--json FILE`; `name` is part of the file name.
fn loadgen(name: &str, flags: &[&str]) -> Run {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.json", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let Output { status, stdout, stderr } =
        command.args(flags).arg("--json").arg(&path).output().expect("loadgen can be run");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let json = std::fs::read(&path).unwrap_or_else(|error| panic!("no report: {error}\n{text}"));
    std::fs::remove_file(&path).expect("it was there");
    let report = serde_json::from_slice(&json).expect("a report is JSON");
    Run { code: status.code().expect("it was not ended by a signal"), text, report }
}

/// Two subscribers and 1,000 publications per second for two seconds, unless `flags` say otherwise. No message counts
/// as late by default, since other programs on the machine may delay this one.
fn fan_out(name: &str, server: &Server, flags: &[&str]) -> Run {
    let (feed, publish) = (server.url("/feed"), server.url("/publish"));
    let mut all = vec!["fanout", "--url", &feed, "--publish", &publish, "--connections", "2", "--warmup", "0ms"];
    let usual = [["--duration", "2s"], ["--rate", "1000"], ["--late", "1m"]];
    all.extend(usual.iter().filter(|[flag, _]| !flags.contains(flag)).flatten());
    all.extend(flags);
    loadgen(name, &all)
}

/// Two subscribers of four topics each, out of six, and 1,000 publications per second.
fn fan_out_of_topics(name: &str, server: &Server, flags: &[&str]) -> Run {
    let script = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.script", std::process::id()));
    std::fs::write(&script, r#"{"publish": "{topic} {payload}"}"#).expect("the directory exists");
    let (feed, publish) = (server.url("/feed/{topic}"), server.url("/publish"));
    let mut all = vec!["fanout", "--script", script.to_str().expect("a path is text"), "--url", &feed];
    all.extend(["--publish", &publish, "--connections", "2", "--warmup", "0ms", "--duration", "1s", "--late", "1m"]);
    all.extend(["--topics", "6", "--topics-per-connection", "4"]);
    let usual = [["--rate", "1000"]];
    all.extend(usual.iter().filter(|[flag, _]| !flags.contains(flag)).flatten());
    all.extend(flags);
    let run = loadgen(name, &all);
    std::fs::remove_file(&script).expect("it was there");
    run
}

/// Some topics have one of the two subscribers, others both: eight subscriptions in six topics.
#[test]
fn a_correct_server_of_several_topics_has_no_faults() {
    let run = fan_out_of_topics("topics", &Server::start(Fault::None), &[]);
    assert!(run.faults().is_empty() && run.code != 1, "{}", run.text);
    let (count, publications) = (run.report["count"].as_u64().unwrap(), run.figure("publications"));
    assert!(count.abs_diff(publications * 8 / 6) <= 8, "each goes to 8 / 6 subscribers on average: {}", run.text);
    assert!(run.text.contains("on 6 topics, 4 for each connection"), "{}", run.text);
}

#[test]
fn each_fault_in_one_of_several_topics_has_its_name() {
    let cases = [
        // Only number 500.
        ("topics-drops", Fault::Drops(1000), "missing"),
        ("topics-repeats", Fault::Repeats(300), "duplicate"),
        ("topics-swaps", Fault::Swaps(301), "reordered"),
        ("topics-corrupts", Fault::Corrupts(302), "corrupt"),
    ];
    for (name, fault, kind) in cases {
        let server = Server::start(fault);
        let run = fan_out_of_topics(name, &server, &["--patience", "1s"]);
        assert!((1..=2).contains(&server.faults_made()), "{kind}");
        run.expect_faults(&[(kind, server.faults_made())]);
        assert!(kind == "corrupt" || run.text.contains(" of topic load-"), "{}", run.text);
    }
}

#[test]
fn a_message_of_a_topic_without_a_subscription_is_foreign() {
    // Publication 5 goes to the last topic, which has one of the two subscribers.
    let server = Server::start(Fault::Misroutes(605));
    let run = fan_out_of_topics("misroutes", &server, &[]);
    assert_eq!(server.faults_made(), 1);
    run.expect_faults(&[("foreign", 1)]);
    assert!(run.text.contains("message 100 of topic load-5, without a subscription"), "{}", run.text);
}

#[test]
fn a_message_that_only_others_received_is_missing_there_and_foreign_here() {
    let run = fan_out_of_topics("exchanges", &Server::start(Fault::Exchanges(605)), &["--patience", "1s"]);
    run.expect_faults(&[("foreign", 1), ("missing", 1)]);
}

#[test]
fn the_latency_of_a_watched_topic_is_its_own() {
    let server = Server::start(Fault::SlowsTopic("load-watched", Duration::from_millis(300)));
    let run = fan_out_of_topics("watched", &server, &["--watchers", "2", "--watch-rate", "2", "--rate", "100"]);
    assert!(run.faults().is_empty() && run.code != 1, "{}", run.text);
    assert_eq!((&run.report["connections"], &run.report["latency"]["watched"]["count"]), (&2.into(), &4.into()));
    assert!(run.latency_us("watched", "p50_us") > 299_000.0, "{}", run.text);
    assert!(run.latency_us("corrected", "p50_us") < 200_000.0, "{}", run.text);
    assert!(run.text.contains("2 a second to 2 watchers"), "{}", run.text);
}

#[test]
fn a_fault_of_the_watched_topic_counts() {
    let server = Server::start(Fault::Repeats(1));
    let run = fan_out_of_topics("watched-twice", &server, &["--watchers", "1", "--watch-rate", "5", "--rate", "1"]);
    assert_eq!(server.faults_made(), 1, "only the watchers' connection publishes twice");
    run.expect_faults(&[("duplicate", 1)]);
    assert!(run.text.contains("message 1 of topic load-watched came again"), "{}", run.text);
}

#[test]
fn a_correct_server_has_no_faults() {
    let run = fan_out("right", &Server::start(Fault::None), &[]);
    assert!(run.faults().is_empty() && run.code != 1, "{}", run.text);
    let count = run.report["count"].as_u64().unwrap();
    assert_eq!(run.report["figures"][0]["value"].as_f64().unwrap() * 2.0, count as f64, "{}", run.text);
    assert!(run.text.contains("faults                  none"), "{}", run.text);
}

#[test]
fn dropped_messages_are_missing() {
    let server = Server::start(Fault::Drops(1000));
    let run = fan_out("drops", &server, &["--patience", "1s"]);
    assert!(server.faults_made() >= 2);
    run.expect_faults(&[("missing", server.faults_made())]);
    assert_eq!(run.report["faults"]["connections"], 2);
    assert_eq!(run.report["faults"]["worst"][0]["missing"], server.faults_made() / 2);
}

#[test]
fn a_repeated_message_is_a_duplicate() {
    let server = Server::start(Fault::Repeats(300));
    fan_out("repeats", &server, &[]).expect_faults(&[("duplicate", 2)]);
}

#[test]
fn swapped_messages_are_reordered() {
    let server = Server::start(Fault::Swaps(300));
    fan_out("swaps", &server, &[]).expect_faults(&[("reordered", 2)]);
}

#[test]
fn a_delayed_message_is_late_and_was_overtaken() {
    let server = Server::start(Fault::Delays(100, Duration::from_secs(1)));
    let run = fan_out("delays", &server, &["--late", "999ms"]);
    run.expect_faults(&[("late", 2), ("reordered", 2)]);
    assert!(run.latency_us("corrected", "max_us") >= 999_000.0, "its latency counts: {}", run.text);
}

#[test]
fn a_changed_byte_is_corruption() {
    let server = Server::start(Fault::Corrupts(300));
    fan_out("corrupts", &server, &[]).expect_faults(&[("corrupt", 2)]);
}

#[test]
fn subscribers_of_a_server_that_stops_reading_publications_are_stalled() {
    let run = fan_out("stops", &Server::start(Fault::StopsReading(500)), &["--patience", "1s"]);
    let published = run.report["figures"][0]["value"].as_f64().unwrap() as u64;
    run.expect_faults(&[("missing", 2 * (published - 500)), ("stalled", 2)]);
}

#[test]
fn an_echo_of_another_connections_message_is_foreign() {
    let server = Server::start(Fault::Crosses(50));
    let url = server.url("/echo");
    let flags = ["echo", "--url", &url, "--connections", "4", "--pipeline", "2", "--warmup", "0ms"];
    let run = loadgen("crosses", &[&flags[..], &["--duration", "500ms", "--late", "1m"]].concat());
    assert_eq!(server.faults_made(), 3);
    run.expect_faults(&[("foreign", 3)]);
    assert!(run.text.contains("foreign bytes, as connection"), "{}", run.text);
}

#[test]
fn a_connection_without_echoes_is_stalled() {
    let server = Server::start(Fault::StopsReading(50));
    let url = server.url("/echo");
    let flags = ["echo", "--url", &url, "--connections", "3", "--pipeline", "2", "--warmup", "0ms"];
    let run = loadgen("echo", &[&flags[..], &["--duration", "500ms", "--patience", "1s", "--late", "1m"]].concat());
    run.expect_faults(&[("missing", 6), ("stalled", 3)]);
}

#[test]
fn a_run_reports_the_messages_before_the_server_died() {
    let run = fan_out("dies", &Server::start(Fault::Dies(500)), &[]);
    let faults = run.faults();
    assert_eq!((run.code, faults[0]), (1, ("closed", 2)), "{}", run.text);
    assert_eq!(run.report["count"], 1000, "{}", run.text);
}

#[test]
fn echoes_before_a_server_dies_are_counted() {
    let server = Server::start(Fault::Dies(50));
    let url = server.url("/echo");
    let flags = ["echo", "--url", &url, "--connections", "3", "--warmup", "0ms", "--duration", "1m", "--late", "1m"];
    let run = loadgen("echo-dies", &flags);
    run.expect_faults(&[("closed", 3), ("missing", 3)]);
    assert_eq!(run.report["count"], 3 * 49, "the first of each is the warm-up: {}", run.text);
}

#[test]
fn connecting_to_a_dead_server_ends_soon() {
    let server = Server::start(Fault::ShutsTheDoor(50));
    let url = server.url("/feed");
    let flags = ["connect", "--url", &url, "--connections", "4", "--warmup", "0ms", "--duration", "10m"];
    let run = loadgen("door", &flags);
    assert_eq!((run.code, &run.report["count"]), (1, &49.into()), "the first is not measured: {}", run.text);
    assert!(run.text.contains("closed") && run.text.contains("refused"), "{}", run.text);
}

#[test]
fn every_scenario_reports_the_time_before_the_server_died() {
    for scenario in ["storm", "slow", "churn"] {
        let server = Server::start(Fault::Dies(50));
        let (url, publish) = (server.url("/feed"), server.url("/publish"));
        let mut flags = vec![scenario, "--url", &url, "--publish", &publish, "--connections", "4", "--rate", "100"];
        flags.extend(["--warmup", "0ms", "--duration", "2s", "--late", "1m", "--patience", "1s"]);
        match scenario {
            "storm" => flags.extend(["--watchers", "3", "--calm", "5s"]),
            "churn" => flags.extend(["--leave-rate", "1"]),
            _ => {}
        }
        let run = loadgen(&format!("{scenario}-dies"), &flags);
        let closed = run.faults().into_iter().find(|(name, _)| *name == "closed");
        assert_eq!((run.code, closed.map(|(_, count)| count >= 3)), (1, Some(true)), "{}", run.text);
        assert!(run.report["count"].as_u64() >= Some(3 * 49), "{}", run.text);
    }
}

/// One publication waits for the stalled server, and the schedule waits behind it. A tool that measures only from its
/// own sending reports a single slow message; in fact all messages due during the stall were late.
#[test]
fn only_the_corrected_latency_shows_a_stall() {
    let server = Server::start(Fault::Stalls(300, Duration::from_millis(300)));
    let run = fan_out("stalls", &server, &["--rate", "200", "--duration", "3s", "--in-flight", "1"]);
    assert_ne!(run.code, 1, "{}", run.text);
    let p99 = |from| run.latency_us(from, "p99_us");
    assert!(p99("corrected") > 200_000.0, "{}", run.text);
    assert!(p99("uncorrected") < 100_000.0, "{}", run.text);
    assert!(run.latency_us("uncorrected", "max_us") > 299_000.0, "the stall shows once: {}", run.text);
}

/// No program can publish four billion messages per second.
#[test]
fn an_impossible_schedule_is_client_bound() {
    let server = Server::start(Fault::None);
    let run = fan_out("bound", &server, &["--rate", "4294967295", "--duration", "100ms", "--patience", "30s"]);
    assert_eq!(run.code, 3, "{}", run.text);
    assert!(run.text.contains("client-bound: not a server figure"), "{}", run.text);
    assert_eq!(run.report["verdict"], "client-bound");
}
