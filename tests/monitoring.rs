//! The board, the recording rules and the alerts of `monitoring/`, judged by Prometheus's own programs: each alert
//! fires and does not fire, each expression of the board has an answer from a real server under load, and the metrics
//! are clean. Without Debian's `prometheus` these tests are skipped with a line.

#[path = "wire/peer.rs"]
#[allow(dead_code, reason = "shared with the wire tests, which use all of it")]
mod peer;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use peer::Peer;
use serde_json::Value;
use support::process::Process;
use support::server::{Server, certificate};
use support::{PATIENCE, http, repository, target_dir};

/// The time in which Prometheus has scraped often enough, also on a busy machine.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(90);

const CONFIG: &str = r#"
[[listener]]
address = "127.0.0.1:0"

[server]
control = "127.0.0.1:0"

[namespaces.default]
history_size = 10

[namespaces.chat]
history_size = 10
"#;

/// Whether a program of Debian's package is installed. Says so if it is not.
fn has(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_there {
        let skipped = format!("skipped: there is no {program}; apt-get install prometheus\n");
        // Tests' own output is captured.
        std::io::stderr().write_all(skipped.as_bytes()).expect("standard error is open");
    }
    is_there
}

/// Runs promtool with this input. Returns whether it succeeded, and all that it printed.
fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(repository("monitoring/prometheus"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words after this one, in lines of YAML.
fn values<'t>(text: &'t str, name: &str) -> BTreeSet<&'t str> {
    text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(name)).map(str::trim).collect()
}

#[test]
fn each_alert_fires_and_does_not_fire() {
    if !has("promtool") {
        return;
    }
    for arguments in
        [["check", "rules", "rules.yaml", "alerts.yaml"].as_slice(), &["test", "rules", "alerts_test.yaml"]]
    {
        let (succeeded, output) = promtool(arguments, "");
        assert!(succeeded, "promtool {arguments:?}\n{output}");
    }
}

#[test]
fn each_alert_has_a_test_and_a_section_that_says_what_to_do() {
    let (alerts, tests, page) = (
        read("monitoring/prometheus/alerts.yaml"),
        read("monitoring/prometheus/alerts_test.yaml"),
        read("docs/operating.md"),
    );
    let names = values(&alerts, "alert:");
    assert!(names.len() >= 20);
    assert_eq!(values(&tests, "alertname:"), names);
    let sections: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### Ringfeed")).collect();
    assert_eq!(sections, names.iter().map(|name| name.strip_prefix("Ringfeed").expect("the prefix")).collect());
    let links = values(&alerts, "runbook_url:");
    let anchors: BTreeSet<String> = links.iter().map(|link| link.rsplit('#').next().unwrap().to_owned()).collect();
    assert_eq!(anchors, names.iter().map(|name| name.to_lowercase()).collect());
}

/// The expressions of all panels, with values for the board's variables.
fn expressions() -> Vec<(String, String)> {
    let board: Value = serde_json::from_str(&read("monitoring/grafana/ringfeed.json")).expect("the board is JSON");
    let panels = board["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title");
        panel["targets"].as_array().into_iter().flatten().map(move |target| (title, target))
    });
    let variables = [("$__rate_interval", "15s"), ("$job", ".*"), ("$instance", ".*"), ("$namespace", ".*")];
    let filled =
        |expression: &str| variables.iter().fold(expression.to_owned(), |text, (name, to)| text.replace(name, to));
    targets.map(|(title, target)| (title.to_owned(), filled(target["expr"].as_str().expect("an expression")))).collect()
}

/// A Prometheus that scrapes a server each second. Dropping it ends it.
struct Prometheus {
    address: SocketAddr,
    _process: Process,
}

impl Prometheus {
    fn start(server: &Server) -> Prometheus {
        let directory = target_dir("monitoring").join(std::process::id().to_string());
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("the target directory can be written to");
        let rules = repository("monitoring/prometheus");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{0}/rules.yaml', '{0}/alerts.yaml']\n\
             scrape_configs:\n  - {{job_name: ringfeed, static_configs: [{{targets: ['{1}']}}]}}\n",
            rules.display(),
            server.control,
        );
        let file = directory.join("prometheus.yaml");
        fs::write(&file, config).expect("the target directory can be written to");
        let mut command = Command::new("sh");
        // It logs to standard error.
        command.args(["-c", "exec prometheus \"$@\" 2>&1", "sh", "--web.listen-address=127.0.0.1:0"]);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        let process = Process::start("prometheus", command);
        let address = loop {
            let line = process.next_line(PATIENCE).expect("prometheus says where it listens");
            if let Some(address) = line.split("msg=\"Listening on\" address=").nth(1) {
                break address.trim().parse().expect("an address");
            }
        };
        Prometheus { address, _process: process }
    }

    fn get(&self, path: &str) -> Value {
        // HTTP/1.0 has no chunks.
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let response = http::exchange(self.address, request.as_bytes());
        if response.status == 503 {
            // It reads its store first.
            return Value::Null;
        }
        let json: Value = serde_json::from_str(response.text()).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(json["status"], "success", "{path}: {json}");
        json["data"].clone()
    }

    /// The number of samples that answer an expression.
    fn answers(&self, expression: &str) -> usize {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        self.get(&format!("/api/v1/query?query={encoded}"))["result"].as_array().map_or(0, Vec::len)
    }
}

#[test]
fn every_expression_of_the_board_has_an_answer_and_the_metrics_are_clean() {
    if !has("prometheus") || !has("promtool") {
        return;
    }
    let config = target_dir("monitoring").join("server.toml");
    let cert = certificate();
    let (cert, key) = (cert.display(), cert.with_file_name("key.pem"));
    let tls = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = true\n[tls]\n\
         certificates = [{{ cert_file = \"{cert}\", key_file = \"{}\" }}]\n",
        key.display()
    );
    fs::write(&config, format!("{CONFIG}{tls}")).expect("the target directory can be written to");
    let server = Server::start_with_config(&config, &[]);
    let _subscribers =
        ["news", "chat:a", "news,chat:a"].map(|topics| Peer::open(server.data, &format!("/feed/{topics}")));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for topic in ["news", "chat:a"] {
                    http::post(server.control, &format!("/publish/{topic}"), "text/plain", b"hello");
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let judged = std::panic::catch_unwind(|| judge(&server));
        is_over.store(true, Ordering::Relaxed);
        judged.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn judge(server: &Server) {
    let prometheus = Prometheus::start(server);
    let deadline = Instant::now() + SCRAPE_PATIENCE;
    let mut left = expressions();
    assert!(left.len() > 50);
    while !left.is_empty() {
        left.retain(|(_, expression)| prometheus.answers(expression) == 0);
        assert!(Instant::now() < deadline, "these have no answer: {left:#?}");
        thread::sleep(Duration::from_millis(200));
    }
    let groups = prometheus.get("/api/v1/rules")["groups"].clone();
    let rules = groups.as_array().expect("groups").iter().flat_map(|group| group["rules"].as_array().expect("rules"));
    let states: Vec<(&Value, &Value, &Value)> =
        rules.map(|rule| (&rule["name"], &rule["health"], &rule["state"])).collect();
    assert!(states.len() > 30);
    for (name, health, state) in states {
        assert_eq!(health, "ok", "{name}");
        assert_ne!(state, "firing", "{name} fires on a healthy server");
    }
    let scrape = http::get(server.control, "/metrics");
    assert_eq!(scrape.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let (is_clean, output) = promtool(&["check", "metrics"], scrape.text());
    assert!(is_clean && output.is_empty(), "promtool check metrics: {output}");
}
