//! `ringfeed sub`, `pub` and `config check` as a newcomer meets them, and the examples of the pages.

mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::http;
use support::process::Process;
use support::server::{Server, ringfeed};
use support::{PATIENCE, repository, target_dir};

/// Runs a shell line with the binary as `ringfeed` to its end: exit code, standard output, standard error.
fn sh(line: &str, input: &str) -> (Option<i32>, String, String) {
    let binary = std::path::PathBuf::from(ringfeed().get_program());
    let path =
        format!("{}:{}", binary.parent().expect("a directory").display(), std::env::var("PATH").expect("a PATH"));
    let mut command = Command::new("timeout");
    command.args(["30", "sh", "-c", line]).env("PATH", path).env_remove("RINGFEED_API_KEY");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("a shell");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("the shell reads, or has ended");
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("output of text");
    (status.code(), text(stdout), text(stderr))
}

/// Runs a line that must fail with `code` and say all of these on standard error.
fn fails(line: &str, code: i32, texts: &[&str]) {
    let (got, stdout, stderr) = sh(line, "");
    assert_eq!((got, stdout.as_str()), (Some(code), ""), "{line}: {stderr}");
    for text in texts {
        assert!(stderr.contains(text), "{line}: {text} is not in {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{line}: {stderr}");
}

#[test]
fn the_reason_of_the_server_is_shown_and_ends_what_cannot_succeed() {
    let config = target_dir("commands").join("chat.toml");
    fs::write(&config, "[namespaces.chat]\nhistory_size = 10\n").expect("the target directory can be written to");
    let server = Server::start(&["--config", config.to_str().expect("a path of UTF-8")]);
    let (data, control) = (server.data, server.control);
    let sub = |rest: &str| format!("ringfeed sub {rest}");
    let rows = [
        (sub(&format!("ws://{data}/feed/foo:bar")), 1, &["404", "unknown namespace"][..]),
        (sub(&format!("'ws://{data}/feed/chat:a?since='")), 1, &["400", "<epoch>:<offset>"]),
        (sub(&format!("'ws://{data}/feed/chat:a?sinse=a:1'")), 1, &["did you mean 'since'?"]),
        (sub(&format!("--history 3 ws://{data}/feed/a")), 1, &["history_size of its namespace is 0"]),
        (sub(&format!("--once --since old:1 ws://{data}/feed/chat:a")), 1, &["'chat:a'", "no longer kept"]),
        (sub(&format!("ws://{control}/feed/a")), 1, &["control port"]),
        (sub("news"), 2, &["ws://127.0.0.1:8000/feed/demo"]),
        (sub(&format!("--header Host:a ws://{data}/feed/a")), 2, &["'Host'"]),
        ("ringfeed pub news hello".to_owned(), 2, &["http://127.0.0.1:8001/publish/demo"]),
        (format!("ringfeed pub http://{data}/publish/news hello"), 1, &["405", "data port", "control on"]),
        (format!("ringfeed pub 'http://{control}/publish/a?kee=k' hello"), 1, &["did you mean 'key'?"]),
    ];
    for (line, code, texts) in rows {
        fails(&line, code, texts);
    }
}

#[test]
fn lines_are_published_and_read_as_json_from_a_position_on() {
    let config = target_dir("commands").join("history.toml");
    fs::write(&config, "[namespaces.default]\nhistory_size = 10\n").expect("the target directory can be written to");
    let server = Server::start(&["--config", config.to_str().expect("a path of UTF-8")]);
    let (data, control) = (server.data, server.control);
    let (code, stdout, stderr) =
        sh(&format!("ringfeed pub --lines --rate 500 http://{control}/publish/a"), "one\n\nthree");
    assert_eq!(code, Some(0), "{stderr}");
    let positions: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(positions.iter().map(|position| position["offset"].as_u64()).collect::<Vec<_>>(), [1, 2, 3].map(Some));
    let epoch = positions[0]["epoch"].as_str().expect("an epoch");

    let messages = |flags: &str, topics: &str| {
        let (code, stdout, stderr) = sh(&format!("ringfeed sub --json {flags} ws://{data}/feed/{topics}"), "");
        assert_eq!(code, Some(0), "{flags}: {stderr}");
        let lines = stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let known = |line: &Value| format!("{} {} {}", line["topic"], line["offset"], line["text"]).replace('"', "");
        lines.map(|line| known(&line)).collect::<Vec<_>>()
    };
    assert_eq!(messages(&format!("--since {epoch}:1 --count 2"), "a"), ["a 2 ", "a 3 three"]);
    assert_eq!(messages("--history 1 --count 1", "a"), ["a 3 three"]);
    let mut both = messages("--history 1 --count 1", "a,b");
    both.sort();
    assert_eq!(both, ["a 3 three"]);
}

#[test]
fn a_publisher_sends_its_key() {
    let key = target_dir("commands").join("key");
    fs::write(&key, "secret\n").expect("the target directory can be written to");
    let key = key.to_str().expect("a path of UTF-8");
    let server = Server::start(&["--api-key-file", key]);
    let url = server.control_url("/publish/a");
    fails(&format!("ringfeed pub {url} hi"), 1, &["401", "--key-file", "RINGFEED_API_KEY"]);
    fails(&format!("ringfeed pub --key-file nowhere {url} hi"), 2, &["nowhere"]);
    for line in [
        format!("ringfeed pub --key-file {key} {url} hi"),
        format!("RINGFEED_API_KEY=secret ringfeed pub {url} hi"),
        format!("RINGFEED_KEY_FILE={key} ringfeed pub {url} hi"),
        format!("ringfeed pub --header 'Authorization: Bearer secret' {url} hi"),
    ] {
        let (code, stdout, stderr) = sh(&line, "");
        assert_eq!(code, Some(0), "{line}: {stderr}");
        assert!(stdout.starts_with("{\"offset\":"), "{line}: {stdout}");
    }
}

#[test]
fn without_io_uring_or_descriptors_each_command_names_the_remedy() {
    let script = repository("tests/support/without_io_uring.py");
    let binary = ringfeed();
    let binary = binary.get_program().to_str().expect("a path of UTF-8");
    for command in ["sub ws://127.0.0.1:1/feed/a", "pub http://127.0.0.1:1/publish/a hi"] {
        for (error, remedy) in [("EPERM", "seccomp"), ("ENOSYS", "CONFIG_IO_URING")] {
            fails(&format!("python3 {} {error} {binary} {command}", script.display()), 2, &[remedy]);
        }
    }
    for files in [8, 12, 16, 20, 24] {
        let line = format!("ulimit -n {files}; ringfeed serve --listen 127.0.0.1:0 --control 127.0.0.1:0 --shards 2");
        let (code, stdout, stderr) = sh(&format!("{line} & pid=$!; sleep 1; kill $pid 2>/dev/null; wait $pid"), "");
        assert!(!stderr.contains("panicked"), "{files}: {stderr}");
        assert!(code == Some(2) || stdout.contains("ready"), "{files}: {code:?} {stdout} {stderr}");
    }
}

#[test]
fn a_check_reads_standard_input_and_names_open_namespaces() {
    let check = |text: &str| sh("ringfeed config check -", text);
    assert_eq!(check("").0, Some(0));
    let (code, _, stderr) = check("[server]\nlisen = 1\n");
    assert!(code == Some(2) && stderr.contains("standard input:2: there is no key server.lisen"), "{stderr}");
    let (code, _, stderr) = check("[server]\ncontrol = \"0.0.0.0:8001\"\n");
    assert!(code == Some(2) && stderr.contains("--api-key-file"), "{stderr}");
    let rows = [
        ("", "anyone can subscribe, without a token, in default\n"),
        ("[tokens]\nhmac_secret = \"s\"\n[namespaces.chat]\n", "nobody can subscribe without a token\n"),
        ("[tokens]\nhmac_secret = \"s\"\n[namespaces.chat]\nsubscribe = \"anyone\"\n", "without a token, in chat\n"),
    ];
    for (text, expected) in rows {
        let (code, stdout, stderr) = check(text);
        assert!(code == Some(0) && stdout.contains(expected) && stdout.ends_with("good\n"), "{stdout}{stderr}");
    }
}

#[test]
fn the_environment_sets_flags_and_the_demo_names_its_page() {
    let mut command = ringfeed();
    command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    command.env("RINGFEED_DEMO", "true").env("RINGFEED_SHARDS", "1");
    let process = Process::start("ringfeed", command);
    let mut lines = std::iter::from_fn(|| process.next_line(PATIENCE));
    let listening = lines.next().expect("a line");
    let address = listening.strip_prefix("listening on ws://").expect("the data port");
    let rest: Vec<String> = lines.by_ref().take_while(|line| line != "ready").collect();
    assert!(rest.contains(&format!("open http://{address}/")), "{rest:?}");
    let page = http::get(address.parse().expect("an address"), "/");
    assert_eq!(page.status, 200);
}

#[test]
fn log_lines_say_who_was_rejected_and_why_at_a_bounded_rate() {
    let key = target_dir("commands").join("log.key");
    fs::write(&key, "secret\n").expect("the target directory can be written to");
    let server = Server::start(&["--log-format", "json", "--api-key-file", key.to_str().expect("a path of UTF-8")]);
    for _ in 0..50 {
        assert_eq!(http::get(server.control, "/metrics").status, 401);
        assert_eq!(http::get(server.data, "/sse/a?nonsense=1").status, 400);
    }
    let log = server.stop();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |message: &str| lines.iter().filter(|line| line["message"] == message).cloned().collect::<Vec<_>>();
    let started = of("started");
    assert_eq!(started.len(), 1, "{log}");
    assert_eq!((&started[0]["shards"], &started[0]["api_key"]), (&Value::from(2), &Value::from(true)), "{log}");
    assert!(started[0]["connections_max"].as_u64().is_some_and(|count| count > 0), "{log}");
    let rejected = of("request rejected");
    assert!((10..40).contains(&rejected.len()), "{} lines", rejected.len());
    let (peer, reason) = (rejected[0]["peer"].as_str(), rejected[0]["reason"].as_str());
    assert!(peer.is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{log}");
    assert!(reason.is_some_and(|reason| reason.contains("'nonsense'")), "{log}");
    let without_key = of("request to the control port rejected");
    assert!((10..40).contains(&without_key.len()), "{} lines", without_key.len());
}

/// The pages with configurations and examples, in the order of reading.
const PAGES: [&str; 8] = [
    "README.md",
    "docs/configuring.md",
    "docs/delivery.md",
    "docs/publishing.md",
    "docs/tokens.md",
    "docs/tls.md",
    "docs/proxies.md",
    "docs/centrifugo.md",
];

/// The blocks of the pages in this language.
fn blocks_of_the_pages(language: &str) -> Vec<String> {
    let mut found = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(repository(page)).expect("a page");
        let blocks = text.split("\n```").filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
        found.extend(blocks.map(str::to_owned));
    }
    found
}

#[test]
fn configurations_of_the_pages_are_good() {
    let blocks = blocks_of_the_pages("toml");
    assert!(blocks.len() >= 2, "{blocks:?}");
    for block in blocks {
        let (code, stdout, stderr) = sh("ringfeed config check -", &block);
        if block.contains("/etc/ringfeed/") {
            // All else is right, for files are read last.
            assert!(stderr.contains("/etc/ringfeed/") && stderr.lines().count() == 1, "{block}: {stderr}");
            continue;
        }
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{block}");
        assert!(stdout.ends_with("standard input: good\n"), "{block}: {stdout}");
    }
}

/// What a line of a response says whatever the run: JSON without epochs.
fn shape(line: &str) -> Value {
    let mut value = serde_json::from_str(line).unwrap_or_else(|_| Value::from(line));
    fn blank(value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| match name.as_str() {
                "epoch" => *value = Value::Null,
                _ => blank(value),
            }),
            Value::Array(items) => items.iter_mut().for_each(blank),
            _ => {}
        }
    }
    blank(&mut value);
    value
}

/// A server with the first configuration of the pages runs their examples one after the other, and answers as printed
/// there.
#[test]
fn examples_of_the_pages_answer_as_printed() {
    let config = target_dir("commands").join("pages.toml");
    fs::write(&config, &blocks_of_the_pages("toml")[0]).expect("the target directory can be written to");
    let server = Server::start(&["--config", config.to_str().expect("a path of UTF-8")]);
    let here = |text: &str| {
        let text = text.replace("127.0.0.1:8000", &server.data.to_string());
        text.replace("127.0.0.1:8001", &server.control.to_string())
    };
    let mut count = 0;
    for block in blocks_of_the_pages("text") {
        let examples = block.split("$ ").skip(1).filter(|example| example.contains("http"));
        for example in examples {
            // A command goes on after a bar or a backslash.
            let goes_on = |line: &&str| line.ends_with('|') || line.ends_with('\\');
            let lines: Vec<&str> = example.lines().collect();
            let end = lines.iter().take_while(|line| goes_on(line)).count() + 1;
            let (command, expected) = lines.split_at(end);
            let (code, stdout, stderr) = sh(&here(&command.join("\n")), "");
            assert_eq!(code, Some(0), "{example}: {stderr}");
            let shapes = |lines: &[&str]| lines.iter().map(|line| shape(line)).collect::<Vec<_>>();
            assert_eq!(shapes(&stdout.lines().collect::<Vec<_>>()), shapes(expected), "{example}");
            count += 1;
        }
    }
    assert!(count >= 4, "{count}");
}
