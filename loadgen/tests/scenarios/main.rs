//! Runs the scenarios and drivers of the load generator against small servers, and without a server.
//!
//! Exit code 3 (client-bound) is no failure here: other programs may keep the machine busy.

mod hub;
mod outputs;
mod plans;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use hub::{Hub, Speech};
use serde_json::Value;

/// The result of a run: exit code, output, and the report if it was written.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
    report: Option<Value>,
}

impl Run {
    fn count(&self) -> f64 {
        self.report.as_ref().expect("a report")["count"].as_f64().expect("a number")
    }

    fn figure(&self, name: &str) -> f64 {
        let figures = self.report.as_ref().expect("a report")["figures"].as_array().expect("figures");
        let found = figures.iter().find(|figure| figure["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {}", self.stdout))["value"].as_f64().expect("a number")
    }

    /// Fails unless every message arrived as it should.
    fn expect_clean(self) -> Run {
        assert!(matches!(self.code, 0 | 3), "{}: {}{}", self.code, self.stdout, self.stderr);
        assert!(self.stdout.contains("faults                  none"), "{}", self.stdout);
        self
    }

    /// Fails unless the run could not be measured, with these words in a one-line error.
    fn expect_refusal(&self, words: &[&str]) {
        assert_eq!((self.code, &*self.stdout), (2, ""), "{}", self.stderr);
        let lines: Vec<_> = self.stderr.lines().collect();
        assert!(lines.len() == 1 && words.iter().all(|word| lines[0].contains(word)), "{words:?}: {lines:?}");
    }
}

fn loadgen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
}

/// Runs `loadgen` with these flags; `name` is part of the report's file name.
fn run(name: &str, flags: &[&str]) -> Run {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("l-{name}-{}.json", std::process::id()));
    let run = end(loadgen().args(flags).arg("--json").arg(&path));
    let report = std::fs::read(&path).ok().map(|json| serde_json::from_slice(&json).expect("a report is JSON"));
    let _ = std::fs::remove_file(&path);
    Run { report, ..run }
}

/// Runs `loadgen` to its end.
fn end(loadgen: &mut Command) -> Run {
    let Output { status, stdout, stderr } = loadgen.output().expect("loadgen can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Run { code: status.code().expect("no signal"), stdout: text(stdout), stderr: text(stderr), report: None }
}

/// A short run at a low rate. No message counts as late, since other programs may delay this one.
const GENTLE: [&str; 10] =
    ["--duration", "500ms", "--warmup", "100ms", "--rate", "50", "--late", "1m", "--connections", "5"];

fn gentle_fanout(name: &str, flags: &[&str]) -> Run {
    let run = run(name, &[&["fanout"][..], flags, &GENTLE[..]].concat()).expect_clean();
    assert!(run.figure("publications") > 0.0, "{}", run.stdout);
    assert_eq!(run.count(), 5.0 * run.figure("publications"), "{}", run.stdout);
    run
}

#[test]
fn raw_feeds_accept_publications_by_post_and_by_web_socket() {
    let hub = Hub::start(Speech::Raw);
    let feed = hub.url("ws", "/feed/{topic}");
    let by_post = gentle_fanout("post", &["--url", &feed, "--publish", &hub.url("http", "/publish/{topic}")]);
    let acknowledged = |run: &Run| run.report.as_ref().expect("a report")["latency"]["acknowledged"].clone();
    assert_eq!(acknowledged(&by_post)["count"].as_f64(), Some(by_post.figure("publications")), "each has an answer");
    let by_socket = gentle_fanout("socket", &["--url", &feed, "--publish", &hub.url("ws", "/publish")]);
    assert!(acknowledged(&by_socket).is_null() && !by_socket.stdout.contains("acknowledged"), "{}", by_socket.stdout);
}

#[test]
fn publications_that_are_never_acknowledged_fail_the_run() {
    let hub = Hub::start(Speech::Raw);
    let (feed, publish) = (hub.url("ws", "/feed"), hub.url("http", "/unanswered"));
    let flags = ["fanout", "--url", &feed, "--publish", &publish, "--patience", "500ms"];
    let run = run("unanswered", &[&flags[..], &GENTLE].concat());
    assert_eq!(run.code, 1, "{}", run.stdout);
    assert!(run.stdout.contains("publications were never acknowledged"), "{}", run.stdout);
    assert!(run.count() > 0.0, "they were delivered: {}", run.stdout);
}

#[test]
fn the_centrifugo_driver_works() {
    let hub = Hub::start(Speech::Centrifugo);
    let (url, publish) = (hub.url("ws", "/connection/websocket"), hub.url("http", "/api/publish"));
    let flags = ["--driver", "centrifugo", "--url", &url, "--publish", &publish, "--size", "200"];
    gentle_fanout("centrifugo", &[&flags[..], &["--publish-header", "X-API-Key: secret"]].concat());
}

#[test]
fn the_nats_driver_works() {
    let hub = Hub::start(Speech::Nats);
    let url = hub.url("ws", "/");
    gentle_fanout("nats", &["--driver", "nats", "--url", &url, "--publish", &url]);
}

#[test]
fn the_mqtt_driver_works() {
    let hub = Hub::start(Speech::Mqtt);
    let url = hub.url("ws", "/mqtt");
    gentle_fanout("mqtt", &["--driver", "mqtt", "--url", &url, "--publish", &url]);
}

/// The server's own frames, published over STOMP and by POST.
#[test]
fn the_stomp_driver_works_with_the_real_server() {
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("stomp-{}.toml", std::process::id()));
    std::fs::write(&config, "[namespaces.default]\npublish = \"anyone\"\n").unwrap();
    let server = plans::Ringfeed::start_with(&["--config", config.to_str().expect("a path is text")]);
    let url = server.url.replace("/feed/{topic}", "/stomp");
    gentle_fanout("stomp", &["--driver", "stomp", "--url", &url, "--publish", &url]);
    gentle_fanout("stomp-post", &["--driver", "stomp", "--url", &url, "--publish", &server.publish, "--size", "500"]);
    std::fs::remove_file(config).unwrap();
}

#[test]
fn a_stomp_broker_that_rejects_publications_is_named() {
    let server = plans::Ringfeed::start();
    let url = server.url.replace("/feed/{topic}", "/stomp");
    let flags = ["fanout", "--driver", "stomp", "--url", &url, "--publish", &url];
    let run = run("stomp-rejects", &[&flags[..], &GENTLE].concat());
    assert!(run.code == 1 && run.stdout.contains("publishing: refused: "), "{}{}", run.stdout, run.stderr);
}

#[test]
fn event_streams_work() {
    let hub = Hub::start(Speech::EventStream);
    let (url, publish) = (hub.url("http", "/sse/{topic}"), hub.url("http", "/publish"));
    gentle_fanout("sse", &["--driver", "sse", "--url", &url, "--publish", &publish]);
}

#[test]
fn a_script_describes_another_protocol() {
    let hub = Hub::start(Speech::Raw);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("script-{}.json", std::process::id()));
    std::fs::write(&path, r#"{"publish": "[[{payload}", "payload_after": "[["}"#).unwrap();
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/publish"));
    gentle_fanout("script", &["--script", path.to_str().unwrap(), "--url", &url, "--publish", &publish]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn certificates_are_checked_unless_insecure() {
    let hub = Hub::start_with_tls(Speech::Raw);
    let (url, publish) = (hub.url("wss", "/feed"), hub.url("https", "/publish"));
    let flags = ["--url", &url, "--publish", &publish];
    gentle_fanout("insecure", &[&flags[..], &["--insecure"]].concat());
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/certificates/localhost.pem");
    gentle_fanout("authority", &[&flags[..], &["--ca", authority]].concat());
    run("public", &[&["fanout"][..], &flags[..]].concat()).expect_refusal(&["TLS", "certificate"]);
}

#[test]
fn churning_subscribers_return_and_miss_nothing() {
    let hub = Hub::start(Speech::Raw);
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/publish"));
    let flags = [&["churn", "--url", &url, "--publish", &publish, "--leave-rate", "20"][..], &GENTLE].concat();
    let run = run("churn", &flags).expect_clean();
    assert!(run.figure("left") > 0.0 && run.figure("returned") > 0.0, "{}", run.stdout);
}

#[test]
fn all_clients_reconnect_after_a_storm_and_the_watchers_miss_nothing() {
    let hub = Hub::start(Speech::Raw);
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/publish"));
    let storm = ["storm", "--url", &url, "--publish", &publish, "--watchers", "3", "--calm", "200ms"];
    for sdk in ["none", "centrifuge"] {
        let run = run(sdk, &[&storm[..], &["--reconnect", sdk], &GENTLE].concat()).expect_clean();
        assert_eq!((run.figure("back"), run.figure("not back")), (5.0, 0.0), "{}", run.stdout);
        let shortest = if sdk == "none" { 0.0 } else { 499.0 };
        assert!(run.figure("half back after") >= shortest, "{}", run.stdout);
    }
}

#[test]
fn slow_subscribers_are_counted_apart() {
    let hub = Hub::start(Speech::Raw);
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/publish"));
    let slow = ["slow", "--url", &url, "--publish", &publish, "--slow-share", "40"];
    for read in ["0", "100"] {
        let run = run(&format!("slow-{read}"), &[&slow[..], &["--slow-read", read], &GENTLE].concat()).expect_clean();
        assert_eq!((run.figure("slow"), run.figure("slow and still there")), (2.0, 2.0), "{}", run.stdout);
        assert_eq!(run.figure("messages to each slow"), run.figure("publications"), "the backlog is read at the end");
    }
}

/// A running `loadgen accept` and its address. Ends with the test.
struct Acceptor {
    child: Child,
    url: String,
}

impl Acceptor {
    fn start() -> Acceptor {
        let mut child = loadgen().arg("accept").stdout(Stdio::piped()).spawn().expect("loadgen can be run");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = lines.next().expect("it prints its address").expect("text");
        let address = line.strip_prefix("listening on ").expect("an address");
        Acceptor { url: format!("{address}/"), child }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.child.kill().expect("it runs until it is killed");
        self.child.wait().expect("it was killed");
    }
}

#[test]
fn idle_connections_are_held_and_their_memory_reported() {
    let acceptor = Acceptor::start();
    let pid = acceptor.child.id().to_string();
    let more = ["--connections", "300", "--duration", "200ms", "--warmup", "0ms", "--server-pid", &pid];
    let run = run("idle", &[&["idle", "--url", &acceptor.url][..], &more].concat()).expect_clean();
    assert_eq!(run.count(), 300.0);
    for figure in ["connected", "client memory each", "server memory each", "kernel slab each"] {
        run.figure(figure);
    }
}

#[test]
fn handshakes_are_counted_in_a_closed_loop_on_schedule_and_on_a_ramp() {
    let acceptor = Acceptor::start();
    let common = ["connect", "--url", &acceptor.url, "--duration", "300ms", "--warmup", "50ms", "--late", "1m"];
    let closed = run("closed", &[&common[..], &["--handshakes", "5"]].concat()).expect_clean();
    assert!(closed.count() > 5.0, "{}", closed.stdout);
    let even = run("even", &[&common[..], &["--rate", "100"]].concat()).expect_clean();
    assert!((1.0..=31.0).contains(&even.count()), "{}", even.stdout);
    let ramp = run("ramp", &[&common[..], &["--rate", "100", "--ramp"]].concat()).expect_clean();
    assert!((1.0..=16.0).contains(&ramp.count()), "{}", ramp.stdout);
}

#[test]
fn a_server_that_dies_during_a_run_fails_it_with_a_report() {
    let mut acceptor = Acceptor::start();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dies-{}.json", std::process::id()));
    let pid = acceptor.child.id().to_string();
    let mut command = loadgen();
    command.args(["idle", "--url", &acceptor.url, "--connections", "50", "--warmup", "0ms", "--duration", "1m"]);
    command.args(["--server-pid", &pid, "--json"]).arg(&path);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("loadgen can be run");
    wait_for_answers(&acceptor.url, 50);
    acceptor.child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(" closed") && text.contains("connections held"), "{text}");
    std::fs::remove_file(path).expect("a report was written");
}

/// Returns when `count` connections to `url` are established and neither end has queued bytes.
fn wait_for_answers(url: &str, count: usize) {
    let port: u16 = url.trim_end_matches('/').rsplit(':').next().expect("a port").parse().expect("a number");
    let suffix = format!(":{port:04X}");
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of sockets");
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let quiet = rows.iter().filter(|row| row[3] == "01" && row[4] == "00000000:00000000");
        let ends: Vec<_> = quiet.filter(|row| row[1].ends_with(&suffix) || row[2].ends_with(&suffix)).collect();
        if ends.len() >= 2 * count {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn an_unreachable_server_is_a_one_line_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (url, publish) = (format!("ws://{address}/"), format!("http://{address}/"));
    for flags in [vec!["echo", "--url", &url], vec!["idle", "--url", &url], vec!["connect", "--url", &url]] {
        run("nobody", &flags).expect_refusal(&[&address, "refused"]);
    }
    let acceptor = Acceptor::start();
    let flags = ["fanout", "--url", &acceptor.url, "--publish", &publish];
    run("no-publish", &flags).expect_refusal(&["publishing", &address, "refused"]);
}

#[test]
fn a_refused_upgrade_is_reported_with_its_status() {
    let hub = Hub::start(Speech::EventStream);
    let url = hub.url("http", "/nothing");
    let publish = hub.url("http", "/publish");
    let flags = ["fanout", "--driver", "sse", "--url", &url, "--publish", &publish];
    run("not-found", &flags).expect_refusal(&[&url, "404"]);
    let hub = Hub::start(Speech::Raw);
    let (url, refusing) = (hub.url("ws", "/feed"), hub.url("ws", "/refused"));
    for scenario in ["echo", "connect", "idle"] {
        run("forbidden", &[scenario, "--url", &refusing]).expect_refusal(&[&refusing, "refused the upgrade", "403"]);
    }
    for scenario in ["fanout", "storm", "slow", "churn"] {
        let (feed, publish) = ([scenario, "--url", &refusing, "--publish"], hub.url("http", "/publish"));
        run("forbidden", &[&feed[..], &[&publish]].concat()).expect_refusal(&[&refusing, "403"]);
        run("forbidden", &[scenario, "--url", &url, "--publish", &refusing]).expect_refusal(&["publishing", "403"]);
    }
}

#[test]
fn a_silent_server_times_out() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", silent.local_addr().unwrap());
    let flags = ["echo", "--url", &url, "--connect-timeout", "300ms"];
    run("silent", &flags).expect_refusal(&[&url, "not ready within 0.3 s"]);
}

#[test]
fn refused_publications_are_counted() {
    let hub = Hub::start(Speech::Raw);
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/refused"));
    let run = run("refused", &[&["fanout", "--url", &url, "--publish", &publish][..], &GENTLE].concat());
    assert_eq!((run.code, run.count()), (1, 0.0), "{}", run.stdout);
    assert!(run.stdout.contains(" refused") && run.stdout.contains("refused with 403 Forbidden"), "{}", run.stdout);
    assert!(run.figure("publications") > 10.0, "the run goes on: {}", run.stdout);
}

#[test]
fn contradicting_flags_are_rejected() {
    let feed = ["fanout", "--url", "ws://127.0.0.1:1/", "--publish", "http://127.0.0.1:1/"];
    let with = |more: &[&str]| run("flags", &[&feed[..], more].concat());
    with(&["--topics", "2"]).expect_refusal(&["{topic}"]);
    with(&["--watchers", "1"]).expect_refusal(&["{topic}"]);
    with(&["--topics", "2", "--topics-per-connection", "3"]).expect_refusal(&["3 topics", "--topics 3", "not 2"]);
    with(&["--topics", "2", "--topics-per-connection", "2", "--driver", "nats"]).expect_refusal(&["raw", "--script"]);
    let fixed = ["fanout", "--url", "ws://127.0.0.1:1/{topic}", "--topics", "2", "--publish"];
    for publish in ["http://127.0.0.1:1/publish", "ws://127.0.0.1:1/publish/{topic}"] {
        run("flags", &[&fixed[..], &[publish]].concat()).expect_refusal(&[publish, "{topic}", "--script"]);
    }
    with(&["--topics", "20", "--connections", "10"]).expect_refusal(&["20 topics", "20 connections", "not 10"]);
    with(&["--workers", "3", "--connections", "2"]).expect_refusal(&["3 workers", "not 2"]);
    with(&["--workers", "2", "--publishers", "2"]).expect_refusal(&["several publishers", "--workers 1"]);
    with(&["--driver", "sse"]).expect_refusal(&["http"]);
    with(&["--script", "not/there.json"]).expect_refusal(&["not/there.json"]);
    with(&["--driver", "pigeon"]).expect_refusal(&["pigeon", "mqtt"]);
    with(&["--header", "nonsense"]).expect_refusal(&["Name: value"]);
}

#[test]
fn wrong_or_missing_flags_are_rejected() {
    let with = |flags: &str| end(loadgen().args(flags.split_whitespace()));
    let echo = "echo --url ws://127.0.0.1:1/";
    with("").expect_refusal(&["scenario"]);
    with("juggle").expect_refusal(&["juggle"]);
    with("fanout").expect_refusal(&["--url", "--publish"]);
    with("fanout --url ws://127.0.0.1:1/").expect_refusal(&["--publish"]);
    with("connect --ramp --url ws://127.0.0.1:1/").expect_refusal(&["--rate"]);
    with("echo --url nonsense").expect_refusal(&["nonsense", "ws://"]);
    with(&format!("{echo} --bogus")).expect_refusal(&["--bogus"]);
    with(&format!("{echo} --connections 0")).expect_refusal(&["--connections", "0"]);
    with(&format!("{echo} --duration 5")).expect_refusal(&["--duration", "5s"]);
    with(&format!("{echo} --cpu 1023")).expect_refusal(&["1023"]);
    with(&format!("{echo} --pipeline 4000000000")).expect_refusal(&["--pipeline", "100000"]);
    let huge = "--pipeline 100000 --connections 100000 --size 100000";
    with(&format!("{echo} {huge}")).expect_refusal(&["GB of memory", "--pipeline"]);
    with(&format!("{echo} --json /not/there/x.json")).expect_refusal(&["/not/there/x.json"]);
    with(&format!("{echo} --script x.json --driver nats")).expect_refusal(&["--script", "--driver"]);
    with("compare not/there.json not/there.json").expect_refusal(&["not/there.json"]);
}
