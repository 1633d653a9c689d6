//! The commands of an operator, on the real server: what they print, their exit codes, and the lines that the server
//! logs of them.

#[path = "wire/peer.rs"]
#[allow(dead_code, reason = "shared with the wire tests, which use all of it")]
mod peer;
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Instant;

use peer::Peer;
use serde_json::{Value, json};
use support::server::{Server, ringfeed};
use support::{PATIENCE, http, target_dir};

const CONFIG: &str = r#"
[tokens]
hmac_secret = "a key that nobody has guessed yet"
audience = "feed"

[api]
key = "the key of the control port"

[namespaces.default]
subscribe = "users"
history_size = 10

[namespaces.chat]
presence = true
"#;

/// The environment variable with the key of the control port.
const KEY: (&str, &str) = ("RINGFEED_API_KEY", "the key of the control port");

fn config_file(name: &str) -> PathBuf {
    let file = target_dir("operate").join(format!("{name}-{}.toml", std::process::id()));
    fs::write(&file, CONFIG).expect("the target directory can be written to");
    file
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output of text")
}

/// Runs the binary to its end: exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new("timeout");
    command.arg("60").arg(ringfeed().get_program()).args(arguments).env(KEY.0, KEY.1).env("RINGFEED_SHARDS", "2");
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    (status.code(), text(&stdout), text(&stderr))
}

/// Runs a command that succeeds; returns its output.
fn succeed(arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {stdout}{stderr}");
    stdout
}

#[test]
fn a_token_that_is_made_opens_a_topic_and_a_bad_one_is_explained() {
    let file = config_file("token");
    let config = file.to_str().expect("a path of UTF-8");
    let server = Server::start(&["--config", config]);
    let token = succeed(&["token", "make", "--config", config, "--user", "ann", "--ttl", "5m"]);
    let mut peer = Peer::open(server.data, &format!("/feed/news?token={}", token.trim()));
    let publish = "POST /publish/news HTTP/1.1\r\nHost: localhost\r\nX-API-Key: the key of the control port\r\n\
                   Connection: close\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(http::exchange(server.control, publish.as_bytes()).status, 200);
    assert_eq!(peer.next_message().1, b"hello");

    let checked = succeed(&["token", "check", "--config", config, token.trim()]);
    for part in ["\"sub\":\"ann\"", "\"aud\":\"feed\"", "it expires in ", "good: a token for a connection"] {
        assert!(checked.contains(part), "{part} is missing in {checked}");
    }
    let other = target_dir("operate").join("secret");
    fs::write(&other, "another secret\n").expect("the target directory can be written to");
    let other = other.to_str().expect("a path of UTF-8");
    let foreign = succeed(&["token", "make", "--secret-file", other, "--channel", "chat:a"]);
    let rows = [(foreign.trim(), "its signature is wrong"), ("nonsense", "it is malformed")];
    for (token, reason) in rows {
        let (code, _, stderr) = run(&["token", "check", "--config", config, token]);
        assert_eq!((code, stderr.contains(reason)), (Some(1), true), "{token}: {stderr}");
    }
    let (code, _, stderr) = run(&["token", "make", "--config", config, "--ttl", "5"]);
    assert_eq!((code, stderr.contains("as in 15m")), (Some(2), true), "{stderr}");
}

#[test]
fn topics_and_connections_are_listed_and_closed() {
    let file = config_file("lists");
    let config = file.to_str().expect("a path of UTF-8");
    let server = Server::start(&["--config", config]);
    let url = server.control_url("");
    let token = succeed(&["token", "make", "--config", config, "--user", "ann"]);
    let mut peer = Peer::open(server.data, &format!("/feed/news?token={}", token.trim()));
    let neighbour = Peer::open(server.data, &format!("/feed/other?token={}", token.trim()));
    succeed(&["pub", &server.control_url("/publish/news"), "hello"]);
    assert_eq!(peer.next_message().1, b"hello");
    let rows = |arguments: &[&str]| -> Vec<Value> {
        let output = succeed(&[arguments, &[&url, "--json"]].concat());
        output.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
    };

    let topics = rows(&["topics", "--match", "n*"]);
    assert_eq!(topics.len(), 1, "{topics:?}");
    assert_eq!(
        (&topics[0]["name"], &topics[0]["subscribers"], &topics[0]["offset"]),
        (&json!("news"), &json!(1), &json!(1))
    );
    let rated = rows(&["topics", "--rates", "--sort", "publications"]);
    assert!(rated.len() >= 2 && rated.iter().all(|row| row["publications_per_s"].is_u64()), "{rated:?}");
    let table = succeed(&["topics", &url, "--sort", "subscribers"]);
    assert!(table.starts_with("subscribers") && table.contains("  news\n"), "{table}");

    let connections = rows(&["connections", "--topic", "news"]);
    assert_eq!(connections.len(), 1, "{connections:?}");
    assert_eq!(connections[0]["topics"], json!(["news"]));
    assert_eq!(rows(&["connections", "--address", "127.0.0.1"]).len(), 2);
    assert!(rows(&["connections", "--slow"]).is_empty());
    succeed(&["connections", &url, "--topic", "news", "--close"]);
    while peer.next_frame().is_some() {}
    let deadline = Instant::now() + PATIENCE;
    while rows(&["connections"]).len() > 1 {
        assert!(Instant::now() < deadline, "the connection is still listed");
    }
    drop(neighbour);
    let (code, _, stderr) = run(&["connections", &url, "--close"]);
    assert_eq!((code, stderr.contains("--address, --user or --topic")), (Some(2), true), "{stderr}");
}

#[test]
fn top_shows_what_the_metrics_count() {
    let file = config_file("top");
    let server = Server::start(&["--config", file.to_str().expect("a path of UTF-8")]);
    let url = server.control_url("");
    let json: Value = serde_json::from_str(&succeed(&["top", &url, "--once", "--json"])).expect("a JSON object");
    assert_eq!((&json["ready"], &json["connections"]), (&json!(true), &json!(0.0)), "{json}");
    assert_eq!(json["shards"].as_array().map(Vec::len), Some(2), "{json}");
    let namespaces = json["namespaces"].as_array().expect("a list");
    assert!(namespaces.iter().any(|namespace| namespace["namespace"] == "chat"), "{json}");
    let text = succeed(&["top", &url, "--once"]);
    for part in ["ready", "connections", "fan-out", "shard", "chat"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let (code, _, stderr) = run(&["top", "http://127.0.0.1:1", "--once"]);
    assert_eq!((code, stderr.is_empty()), (Some(1), false));
}

#[test]
fn a_drain_ends_the_server_and_actions_are_logged() {
    let file = config_file("drain");
    let server = Server::start(&["--config", file.to_str().expect("a path of UTF-8"), "--log-format", "json"]);
    let call = |method: &str, body: &str| {
        let request = format!(
            "POST /api/{method} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            KEY.1,
            body.len()
        );
        assert_eq!(http::exchange(server.control, request.as_bytes()).status, 200, "{method}");
    };
    call("disconnect", r#"{"user":"ann\n"}"#);
    call("batch", r#"{"commands":[{"history_remove":{"channel":"news"}},{"info":{}}]}"#);
    call("publish", r#"{"channel":"news","data":1}"#);
    let (url, pid) = (server.control_url(""), server.id());
    succeed(&["reload", &url]);
    let drained = succeed(&["drain", &url]);
    assert!(drained.starts_with("the server drains 0 connections\n"), "{drained}");
    let log = server.wait_for_errors();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the server has ended");
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let actions = lines.iter().filter(|line| line["message"] == "operator's action");
    let actions: Vec<(&str, &str, &str)> = actions
        .map(|line| {
            assert!(line["operator"].as_str().is_some_and(|operator| operator.starts_with("127.0.0.1:")), "{line}");
            let field = |name: &str| line[name].as_str().expect("a field");
            (field("action"), field("user"), field("channel"))
        })
        .collect();
    let expected = [("disconnect", "ann\n", ""), ("history_remove", "", "news"), ("reload", "", ""), ("drain", "", "")];
    assert_eq!(actions, expected, "{log}");
}

#[test]
fn settings_are_shown_with_their_origin_and_without_secrets() {
    let file = config_file("show");
    let config = file.to_str().expect("a path of UTF-8");
    let shown = succeed(&["config", "show", "--config", config, "--max-connections", "7"]);
    let lines = [
        "max_connections = 7 # flag or environment",
        "shards = 2 # flag or environment",
        "history_size = 10 # file",
        "key = \"***\" # file",
        "[namespaces.chat]",
    ];
    for line in lines {
        assert!(shown.lines().any(|other| other == line), "{line} is missing in\n{shown}");
    }
    assert!(!shown.contains("nobody has guessed") && !shown.contains(KEY.1), "{shown}");
    let again = target_dir("operate").join("shown.toml");
    fs::write(&again, &shown).expect("the target directory can be written to");
    succeed(&["config", "check", again.to_str().expect("a path of UTF-8")]);
    let environment = succeed(&["config", "env"]);
    let line = environment.lines().find(|line| line.starts_with("RINGFEED_SHARDS ")).expect("a line for each flag");
    assert!(line.contains(" set "), "{line}");
    assert!(succeed(&["config", "doc"]).contains("\n### history_size\n"));
}

#[test]
fn the_build_is_named_and_packages_get_completions_and_pages() {
    let version: Value = serde_json::from_str(&succeed(&["version", "--json"])).expect("a JSON object");
    for name in ["version", "revision", "target", "profile", "rustc"] {
        assert!(version[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {version}");
    }
    assert!(succeed(&["version"]).starts_with("ringfeed "));
    let completions = target_dir("operate").join("ringfeed.bash");
    fs::write(&completions, succeed(&["completions", "bash"])).expect("the target directory can be written to");
    let script = format!(
        ". {} && COMP_WORDS=(ringfeed serve --drain) COMP_CWORD=2 && _ringfeed ringfeed --drain serve && echo ${{COMPREPLY[@]}}",
        completions.display()
    );
    let completed = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
    assert_eq!(text(&completed.stdout).trim(), "--drain-spread-ms --drain-timeout-ms", "{}", text(&completed.stderr));
    let pages = target_dir("operate").join(format!("man-{}", std::process::id()));
    fs::create_dir_all(&pages).expect("the target directory can be written to");
    succeed(&["man", pages.to_str().expect("a path of UTF-8")]);
    let page = fs::read_to_string(pages.join("ringfeed-serve.1")).expect("a page for each command");
    assert!(page.contains("\\-\\-listen"), "{page}");
}
