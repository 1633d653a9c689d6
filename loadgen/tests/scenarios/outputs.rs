//! Expectations, and the formats of the result, each read by a reader of others.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use crate::hub::{Hub, Speech};
use crate::{GENTLE, Run, end, loadgen, run};

/// A directory that ends with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the directory exists");
        Scratch(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path is text").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fan_out(name: &str, more: &[&str]) -> Run {
    let hub = Hub::start(Speech::Raw);
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/publish"));
    run(name, &[&["fanout", "--url", &url, "--publish", &publish][..], &GENTLE, more].concat())
}

#[test]
fn an_unmet_expectation_has_an_exit_code_of_its_own_and_one_clear_line() {
    let met = ["--expect", "p99<1m", "faults==0", "acknowledged.p50>0us", "figure:publications>=10"];
    // A time needs a unit that the parser knows.
    let run = fan_out("minute", &met);
    assert!(run.code == 2 && run.stderr.contains("ns, us, ms or s"), "{}", run.stderr);
    let met = ["--expect", "p99<60s", "faults==0", "acknowledged.p50>0us", "figure:publications>=10"];
    assert!(matches!(fan_out("met", &met).code, 0 | 3));
    let run = fan_out("unmet", &["--expect", "p99<1us", "--expect", "faults==0"]);
    assert_eq!(run.code, 4, "{}", run.stdout);
    let lines: Vec<&str> = run.stdout.lines().filter(|line| line.contains("NOT AS EXPECTED")).collect();
    assert!(lines.len() == 1 && lines[0].contains("expected p99<1us, got "), "{}", run.stdout);
    let expectations = run.report.expect("a report")["expectations"].clone();
    assert_eq!((&expectations[0]["holds"], &expectations[1]["holds"]), (&false.into(), &true.into()));
}

#[test]
fn expectations_may_come_from_a_file_and_bad_ones_name_the_known_figures() {
    let scratch = Scratch::new("expect");
    let file = scratch.file("ci.txt");
    std::fs::write(&file, "# for CI\ncount>1\np99<1us\n").unwrap();
    assert_eq!(fan_out("file", &["--expect-file", &file]).code, 4);
    std::fs::write(&file, "p98<1ms\n").unwrap();
    fan_out("bad-file", &["--expect-file", &file]).expect_refusal(&["line 1", "\"p98\"", "p99", "missing"]);
    fan_out("bad", &["--expect", "latency<1ms"]).expect_refusal(&["latency<1ms", "cpu_ns_each", "figure:NAME"]);
    fan_out("alone", &["--abort-on-fail"]).expect_refusal(&["--abort-on-fail", "--expect"]);
}

#[test]
fn a_run_that_can_not_meet_an_expectation_any_more_ends_early() {
    let hub = Hub::start(Speech::Raw);
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/refused"));
    let flags = ["fanout", "--url", &url, "--publish", &publish, "-c", "2", "--rate", "50", "--duration", "1h"];
    let run = run("abort", &[&flags[..], &["--warmup", "0ms", "--expect", "refused<3", "--abort-on-fail"]].concat());
    assert_eq!(run.code, 4, "{}", run.stdout);
    assert!(run.stdout.contains("expected refused<3, got "), "{}", run.stdout);
}

/// What Python's XML parser finds: tests, failures, and the message of each failure.
fn read_junit(path: &str) -> String {
    let script = "import sys, xml.etree.ElementTree as e\n\
                  suite = e.parse(sys.argv[1]).getroot().find('testsuite')\n\
                  print(suite.get('tests'), suite.get('failures'), len(suite.findall('testcase')))\n\
                  for case in suite.findall('testcase'):\n\
                  \x20   for failure in case.findall('failure'): print(case.get('name'), '|', failure.get('message'))\n";
    let output = Command::new("python3").args(["-c", script, path]).output().expect("Python can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_result_can_be_read_as_junit() {
    let scratch = Scratch::new("junit");
    let file = scratch.file("junit.xml");
    fan_out("junit", &["--junit", &file, "--expect", "p99<60s", "max<1us"]);
    let found = read_junit(&file);
    assert!(found.starts_with("4 1 4\n") || found.starts_with("4 2 4\n"), "{found}");
    assert!(found.contains("max<1us | expected max<1us, got "), "{found}");
}

#[test]
fn latencies_can_be_read_as_a_percentile_table_and_as_an_interval_log() {
    let scratch = Scratch::new("latencies");
    let [hgrm, hlog, csv] = ["x.hgrm", "x.hlog", "x.csv"].map(|name| scratch.file(name));
    let run = fan_out("latencies", &["--hgrm", &hgrm, "--hlog", &hlog, "--csv", &csv]);
    let count = run.count() as u64;
    let table = std::fs::read_to_string(hgrm).unwrap();
    let last = table.lines().rfind(|line| !line.starts_with('#')).unwrap();
    assert_eq!(last.split_whitespace().nth(2), Some(&*count.to_string()), "{table}");

    let log = std::fs::read(hlog).unwrap();
    let mut decoder = Deserializer::new();
    let mut intervals = 0;
    let mut messages = 0;
    for entry in IntervalLogIterator::new(&log) {
        if let Ok(LogEntry::Interval(interval)) = entry {
            let bytes =
                base64::Engine::decode(&base64::prelude::BASE64_STANDARD, interval.encoded_histogram()).unwrap();
            let histogram: hdrhistogram::Histogram<u64> = decoder.deserialize(&mut &bytes[..]).unwrap();
            messages += histogram.len();
            intervals += 1;
        }
    }
    assert!(intervals >= 5 && messages >= count, "{intervals} intervals with {messages} of {count} messages");
    let csv = std::fs::read_to_string(csv).unwrap();
    assert_eq!(csv.lines().count(), intervals + 1, "{csv}");
}

#[test]
fn json_can_go_to_standard_output() {
    let hub = Hub::start(Speech::Raw);
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/publish"));
    let flags = ["fanout", "--url", &url, "--publish", &publish, "--json", "-"];
    let run = end(loadgen().args(flags).args(GENTLE));
    let report: serde_json::Value = serde_json::from_str(&run.stdout).expect("only JSON");
    assert!(report["made"]["cpus"].as_u64() > Some(0) && report["made"]["command"][0] == "fanout", "{report}");
    assert!(run.stderr.contains("faults                  none") && !Path::new("-").exists(), "{}", run.stderr);
}

#[test]
fn figures_are_served_while_the_run_lasts() {
    let hub = Hub::start(Speech::Raw);
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/publish"));
    let mut command = loadgen();
    command.args(["fanout", "--url", &url, "--publish", &publish, "-c", "3", "--rate", "100", "--warmup", "0ms"]);
    command.args(["--duration", "1m", "--metrics", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("loadgen can be run");
    let line = BufReader::new(child.stderr.take().expect("it is piped")).lines().next().expect("a line").unwrap();
    let address = line.split("http://").nth(1).expect("a URL").trim_end_matches("/metrics").to_owned();
    let text = loop {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        if !text.contains("loadgen_latency_seconds_count 0\n") {
            break text;
        }
    };
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("loadgen_connections 3\n"), "{text}");
    assert!(text.contains("loadgen_faults_total{kind=\"missing\"} 0\n"), "{text}");
}

#[test]
fn repeated_runs_and_alternating_runs_show_their_spread() {
    let hub = Hub::start(Speech::Raw);
    let (url, publish) = (hub.url("ws", "/feed"), hub.url("http", "/publish"));
    let scenario = ["fanout", "--url", &url, "--publish", &publish];
    let run = end(loadgen().args(scenario).args(GENTLE).args(["--repeat", "2"]));
    assert!(matches!(run.code, 0 | 3), "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("run 2 of 2: ") && run.stdout.contains("max / min"), "{}", run.stdout);

    let gentle: Vec<&str> = GENTLE.into_iter().skip(4).collect();
    let short = ["--warmup", "0ms", "--duration", "200ms"];
    let flags = ["ab", "--rounds", "6", "--only-b", "--size 200"];
    let run = end(loadgen().args(flags).args(scenario).args(short).args(&gentle));
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("95 % interval") && run.stdout.contains("per_second"), "{}", run.stdout);
    let refused = hub.url("http", "/refused");
    let broken = format!("--publish {refused}");
    let right = format!("--publish {publish}");
    let flags = ["ab", "--rounds", "6", "--only-a", &right, "--only-b", &broken, "fanout", "--url", &url];
    let run = end(loadgen().args(flags).args(short).args(&gentle));
    assert_eq!(run.code, 2, "{}", run.stdout);
    assert!(run.stderr.contains("a run had faults") && run.stderr.contains("refused with 403"), "{}", run.stderr);
}
