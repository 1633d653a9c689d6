//! Runs the load generator against servers with one fault each: it must name the fault and count it.

mod agents;
mod server;
mod starved;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use server::{Fault, Server};

/// Fault counts with their names.
type Expected<'a> = &'a [(&'a str, u64)];

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
    fn expect_faults(&self, expected: Expected<'_>) {
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
    let mut all = vec!["fanout", "--url", &feed, "--publish", &publish];
    let usual =
        [["--connections", "2"], ["--warmup", "0ms"], ["--duration", "2s"], ["--rate", "1000"], ["--late", "1m"]];
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

#[test]
fn each_fault_of_a_message_has_its_name() {
    // One of the two subscribers is hit where the count is 1.
    let cases: [(&str, Fault, Expected<'_>, &str); 7] = [
        ("truncates", Fault::Truncates(300), &[("corrupt", 2)], "32 bytes, not as sent"),
        ("binary", Fault::SendsBinary(300), &[("corrupt", 1)], "a binary message instead of a text"),
        ("replays", Fault::Replays(300), &[("duplicate", 2)], "message 0 came again"),
        ("invents", Fault::Invents("news"), &[("corrupt", 2)], "4 bytes, not as sent: news"),
        ("empty", Fault::Invents(""), &[("corrupt", 2)], "0 bytes, not as sent"),
        ("ping-pong", Fault::Breaks(b"\x89\x01a\x8a\x00"), &[], "none"),
        ("fragments", Fault::Breaks(b"\x01\x00\x80\x00"), &[("corrupt", 1)], "0 bytes, not as sent"),
    ];
    for (name, fault, expected, words) in cases {
        let run = fan_out(name, &Server::start(fault), &["--duration", "1s"]);
        match expected {
            [] => assert!(run.faults().is_empty() && run.code != 1, "{name}: {}", run.text),
            _ => run.expect_faults(expected),
        }
        assert!(run.text.contains(words), "{name}: {}", run.text);
    }
}

#[test]
fn each_violation_of_the_protocol_closes_the_connection_with_its_reason() {
    let cases: [(&str, &[u8]); 10] = [
        ("masked", b"\x81\x81abcd1"),
        ("rsv", b"\xc1\x00"),
        ("reserved-opcode", b"\x83\x00"),
        ("reserved-control", b"\x8b\x00"),
        ("long-ping", b"\x89\x7e\x00\x7e"),
        ("fragmented-ping", b"\x09\x00"),
        ("continuation", b"\x80\x00"),
        ("close-code", b"\x88\x02\x03\xec"),
        ("close-1000", b"\x88\x02\x03\xe8"),
        ("utf-8", b"\x81\x01\xff"),
    ];
    for (name, bytes) in cases {
        let run = fan_out(name, &Server::start(Fault::Breaks(bytes)), &["--duration", "500ms"]);
        let faults = run.faults();
        assert!(run.code == 1 && faults.contains(&("closed", 1)), "{name}: {}", run.text);
        let others = faults.iter().filter(|(kind, _)| !["closed", "missing"].contains(kind)).count();
        assert_eq!(others, 0, "{name}: {}", run.text);
    }
}

#[test]
fn a_starving_subscriber_is_stalled_and_does_not_lengthen_the_measured_part() {
    let server = Server::start(Fault::Starves(300));
    let run = fan_out("starves", &server, &["--patience", "1s"]);
    run.expect_faults(&[("missing", server.faults_made()), ("stalled", 1)]);
    let seconds = run.report["seconds"].as_f64().unwrap();
    assert!((1.9..2.8).contains(&seconds), "the wait for the missing messages is not measured: {}", run.text);
}

#[test]
fn a_message_lost_in_the_warm_up_does_not_end_the_run() {
    let server = Server::start(Fault::Starves(99));
    let flags = ["--warmup", "100ms", "--duration", "500ms", "--patience", "1s"];
    let run = fan_out("warm-up", &server, &flags);
    assert!(run.code == 1 && run.report["count"].as_u64() > Some(0), "{}", run.text);
    assert!(run.report["latency"]["corrected"]["p99_us"].as_f64() > Some(0.0), "{}", run.text);
}

/// Each of the two workers has one of the two subscribers.
const TWO_WORKERS: [&str; 2] = ["--workers", "2"];

#[test]
fn several_workers_find_each_fault_by_its_name() {
    let cases: [(&str, Fault, Expected<'_>); 6] = [
        ("w-repeats", Fault::Repeats(300), &[("duplicate", 2)]),
        ("w-swaps", Fault::Swaps(300), &[("reordered", 2)]),
        ("w-corrupts", Fault::Corrupts(300), &[("corrupt", 2)]),
        ("w-binary", Fault::SendsBinary(300), &[("corrupt", 1)]),
        ("w-drops", Fault::Drops(1000), &[("missing", 2)]),
        ("w-delays", Fault::Delays(100, Duration::from_millis(300)), &[("reordered", 2)]),
    ];
    for (name, fault, expected) in cases {
        let flags = [&TWO_WORKERS[..], &["--duration", "1s", "--patience", "1s"]].concat();
        fan_out(name, &Server::start(fault), &flags).expect_faults(expected);
    }
    let server = Server::start(Fault::Starves(300));
    let run = fan_out("w-starves", &server, &[&TWO_WORKERS[..], &["--patience", "1s"]].concat());
    run.expect_faults(&[("missing", server.faults_made()), ("stalled", 1)]);
    let server = Server::start(Fault::Misroutes(605));
    fan_out_of_topics("w-misroutes", &server, &TWO_WORKERS).expect_faults(&[("foreign", 1)]);
    let run = fan_out("w-dies", &Server::start(Fault::Dies(500)), &TWO_WORKERS);
    assert_eq!((run.code, run.faults()[0], &run.report["count"]), (1, ("closed", 2), &1000.into()), "{}", run.text);
    let refuses = Server::start(Fault::Refuses(100));
    let run = fan_out_by_post("w-refuses", &refuses, &TWO_WORKERS);
    run.expect_faults(&[("refused", refuses.faults_made())]);
    let connections = |run: &Run| {
        let worst = run.report["faults"]["worst"].as_array().expect("a list").clone();
        worst.iter().map(|one| one["connection"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    let run =
        fan_out("w-names", &Server::start(Fault::Repeats(3)), &[&TWO_WORKERS[..], &["--duration", "100ms"]].concat());
    let mut named = connections(&run);
    named.sort_unstable();
    assert_eq!(named, [0, 1], "each connection has its number in the run: {}", run.text);
}

#[test]
fn several_workers_measure_a_correct_server_in_every_loop() {
    for (name, flags) in [
        ("w-rate", &["--rate", "500"][..]),
        ("w-held", &["--rate", "500", "--in-flight", "2"]),
        ("w-burst", &["--rate", "500", "--burst", "10"]),
    ] {
        let run =
            fan_out(name, &Server::start(Fault::None), &[&TWO_WORKERS[..], flags, &["--duration", "1s"]].concat());
        assert!(run.faults().is_empty() && run.code != 1, "{}", run.text);
        assert_eq!(run.report["count"].as_u64(), Some(2 * run.figure("publications")), "{}", run.text);
        assert!(run.figure("publications") > 0 && run.text.contains("by 2 workers"), "{}", run.text);
    }
    let server = Server::start(Fault::None);
    let (feed, publish) = (server.url("/feed"), server.url("/publish"));
    let flags = ["fanout", "--url", &feed, "--publish", &publish, "-c", "5", "--in-flight", "3", "--late", "1m"];
    let run =
        loadgen("w-closed", &[&flags[..], &["--duration", "500ms", "--warmup", "100ms"], &["--workers", "3"]].concat());
    assert!(run.faults().is_empty() && run.figure("publications") > 0, "{}", run.text);
    assert_eq!(
        (run.report["count"].as_u64(), &run.report["connections"]),
        (Some(5 * run.figure("publications")), &5.into())
    );
    let run = fan_out_of_topics("w-topics", &server, &[&TWO_WORKERS[..], &["--watchers", "1"]].concat());
    assert!(run.faults().is_empty() && run.report["latency"]["watched"]["count"].as_u64() > Some(0), "{}", run.text);
}

#[test]
fn several_workers_echo_and_find_foreign_echoes() {
    let echo = |name: &str, fault: Fault| {
        let server = Server::start(fault);
        let url = server.url("/echo");
        let flags = ["echo", "--url", &url, "--connections", "4", "--pipeline", "2", "--warmup", "50ms"];
        let more = ["--duration", "500ms", "--late", "1m", "--patience", "1s", "--workers", "2"];
        (loadgen(name, &[&flags[..], &more].concat()), server.faults_made())
    };
    let (run, _) = echo("w-echo", Fault::None);
    assert!(run.faults().is_empty() && run.report["connections"] == 4, "{}", run.text);
    let (run, made) = echo("w-crosses", Fault::Crosses(50));
    assert_eq!(made, 3);
    run.expect_faults(&[("foreign", 3)]);
    let (run, _) = echo("w-echo-stops", Fault::StopsReading(50));
    assert!(run.code == 1 && run.faults().contains(&("stalled", 4)), "{}", run.text);
}

/// The usual flags, but publishing by POST.
fn fan_out_by_post(name: &str, server: &Server, flags: &[&str]) -> Run {
    let (feed, publish) = (server.url("/feed"), server.post_url());
    let usual = ["fanout", "--url", &feed, "--publish", &publish, "-c", "2", "--warmup", "100ms", "--late", "1m"];
    loadgen(name, &[&usual[..], &["--duration", "1s", "--rate", "500", "--patience", "1s"], flags].concat())
}

#[test]
fn each_fault_of_publishing_by_post_has_its_name() {
    let refuses = Server::start(Fault::Refuses(100));
    let run = fan_out_by_post("refuses", &refuses, &[]);
    run.expect_faults(&[("refused", refuses.faults_made())]);
    assert!(run.report["count"].as_u64() > Some(0) && run.text.contains("refused with 500"), "{}", run.text);

    let drops = Server::start(Fault::AnswersAndDrops(100));
    let run = fan_out_by_post("post-drops", &drops, &[]);
    run.expect_faults(&[("missing", drops.faults_made())]);

    let run = fan_out_by_post("no-answer", &Server::start(Fault::NeverAnswers(100)), &[]);
    assert_eq!((run.code, run.faults()[0].0), (1, "refused"), "{}", run.text);
    assert!(run.text.contains("publications were never acknowledged"), "{}", run.text);
    let seconds = run.report["seconds"].as_f64().unwrap();
    assert!(seconds < 1.9 && run.report["count"].as_u64() > Some(0), "{}", run.text);
}

#[test]
fn answers_to_posts_may_have_any_form_of_http_1_1() {
    for (name, fault) in [("chunks", Fault::AnswersInChunks), ("once", Fault::AnswersOnce)] {
        for flags in [&[][..], &["--posts-in-flight", "1"]] {
            let run = fan_out_by_post(name, &Server::start(fault), flags);
            assert!(run.faults().is_empty() && run.code != 1, "{name}: {}", run.text);
            let answers = run.report["latency"]["acknowledged"]["count"].as_u64();
            assert_eq!(answers, Some(run.figure("publications")), "{name}: {}", run.text);
        }
    }
}

#[test]
fn each_fault_of_an_echo_has_its_name() {
    let cases: [(&str, Fault, Expected<'_>); 4] = [
        ("repeats", Fault::RepeatsEcho(50), &[("duplicate", 1)]),
        ("swaps", Fault::SwapsEchoes(50), &[("reordered", 1)]),
        ("loses", Fault::DropsEcho(50), &[("missing", 1)]),
        ("as-binary", Fault::EchoesAs(2), &[("corrupt", 0)]),
    ];
    for (name, fault, expected) in cases {
        let server = Server::start(fault);
        let url = server.url("/echo");
        let flags = ["echo", "--url", &url, "--connections", "1", "--pipeline", "2", "--warmup", "0ms"];
        let more = ["--duration", "500ms", "--patience", "1s", "--late", "1m"];
        let run = loadgen(&format!("echo-{name}"), &[&flags[..], &more].concat());
        match expected {
            // Each echo is hit.
            [(kind, 0)] => run.expect_faults(&[(kind, server.faults_made())]),
            _ => run.expect_faults(expected),
        }
    }
}

#[test]
fn an_echo_lost_in_the_warm_up_does_not_end_the_run() {
    let server = Server::start(Fault::DropsEcho(0));
    let url = server.url("/echo");
    let flags = ["echo", "--url", &url, "-c", "3", "--warmup", "100ms", "--duration", "500ms", "--patience", "500ms"];
    let run = loadgen("echo-warm-up", &[&flags[..], &["--late", "1m"]].concat());
    run.expect_faults(&[("missing", 3), ("stalled", 3)]);
    assert!(run.report["count"].as_u64() > Some(0), "{}", run.text);
}

#[test]
fn a_slow_handshake_is_late_and_one_that_never_ends_is_stalled() {
    let connect = |name: &str, fault, more: &[&str]| {
        let url = Server::start(fault).url("/feed");
        let flags = ["connect", "--url", &url, "--connections", "8", "--handshakes", "4", "--warmup", "0ms"];
        loadgen(name, &[&flags[..], &["--duration", "500ms"], more].concat())
    };
    let slow = Fault::ShakesHandsSlowly(Duration::from_millis(200));
    let run = connect("slow-handshake", slow, &["--late", "100ms"]);
    let late = run.faults().into_iter().find(|(kind, _)| *kind == "late");
    assert!(run.code == 1 && late.is_some() && run.text.contains("a handshake took"), "{}", run.text);
    let url = Server::start(Fault::IgnoresHandshakes(1)).url("/idle");
    let flags = ["idle", "--url", &url, "--connections", "2", "--duration", "100ms", "--warmup", "0ms"];
    let run = loadgen("half-idle", &[&flags[..], &["--connect-timeout", "500ms", "--handshakes", "1"]].concat());
    run.expect_faults(&[("stalled", 1)]);
    assert!(run.report["count"] == 1 && run.text.contains("not ready within 0.5 s"), "{}", run.text);
}

#[test]
fn idle_connections_that_answer_no_ping_are_stalled() {
    let idle = |name: &str, fault| {
        let url = Server::start(fault).url("/idle");
        let flags = ["idle", "--url", &url, "--connections", "5", "--duration", "100ms", "--warmup", "0ms"];
        loadgen(name, &[&flags[..], &["--patience", "500ms"]].concat())
    };
    let run = idle("idle-right", Fault::None);
    assert!(run.faults().is_empty() && run.report["count"] == 5, "{}", run.text);
    let run = idle("idle-forgets", Fault::ForgetsPings);
    run.expect_faults(&[("stalled", 5)]);
    assert_eq!(run.report["count"], 0);
}

#[test]
fn messages_of_another_run_are_named() {
    let server = Server::start(Fault::None);
    let runs = std::thread::scope(|scope| {
        let start = |name| {
            let server = &server;
            scope.spawn(move || fan_out(name, server, &["--rate", "50", "--duration", "3s"]))
        };
        [start("one-run"), start("other-run")].map(|run| run.join().expect("it ends"))
    });
    assert!(runs.iter().any(|run| run.code == 1), "the runs overlap");
    for run in runs.iter().filter(|run| run.code == 1) {
        assert_eq!(run.faults().iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["foreign"], "{}", run.text);
        assert!(run.text.contains("a message of another run of loadgen"), "{}", run.text);
    }
}

#[test]
fn a_run_in_which_nothing_is_measured_is_not_clean() {
    let server = Server::start(Fault::None);
    let run = fan_out("nothing", &server, &["--duration", "0s"]);
    assert_eq!((run.code, &run.report["verdict"]), (2, &"empty".into()), "{}", run.text);
    assert!(run.report["latency"]["corrected"].is_null() && run.report["latency"]["uncorrected"].is_null());
    assert!(run.text.contains("nothing was measured"), "{}", run.text);
}

#[test]
fn a_schedule_that_is_over_needs_no_cpu_time() {
    // Two thirds of the time pass after the end of the schedule: a client that did not sleep would use a whole CPU.
    let server = Server::start(Fault::Stalls(50, Duration::from_secs(1)));
    let run = fan_out("drained", &server, &["--duration", "500ms"]);
    assert!(run.faults().is_empty(), "{}", run.text);
    assert!(run.report["client_cpus"].as_f64() < Some(0.65), "{}", run.text);
    let ticks = run.report["history"]["ticks"].as_array().expect("a history");
    let tick_s = run.report["history"]["tick_s"].as_f64().unwrap();
    let in_ticks: f64 = ticks.iter().map(|tick| tick["per_second"].as_f64().unwrap() * tick_s).sum();
    assert_eq!(in_ticks.round(), run.report["count"].as_f64().unwrap(), "the last tick counts: {}", run.text);
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
