//! `ringfeed test` against services that are not ours: what it recognises, and whether others accept what it writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::clients::{IMPORT_NODE, IMPORT_PYTHON};
use crate::support::process::Process;
use crate::support::server::{Server, ringfeed};
use crate::support::{PATIENCE, repository, target_dir};

/// How long a compiler may take.
const COMPILE_PATIENCE: Duration = Duration::from_secs(300);

/// The only warning of a service that passes every bound.
const NOT_COMPRESSED: &str = "the service does not compress (permessage-deflate was offered)";

/// A service, and where it is.
struct Service {
    _process: Process,
    authority: String,
}

impl Service {
    /// One of `import.js`.
    fn node(name: &str) -> Service {
        Service::of(IMPORT_NODE.start(&[name]))
    }

    fn of(process: Process) -> Service {
        let port = process.next_line(PATIENCE).expect("a port");
        Service { _process: process, authority: format!("127.0.0.1:{port}") }
    }

    fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.authority)
    }
}

fn test(url: &str, flags: &[&str]) -> Output {
    ringfeed().args(["test", url]).args(flags).output().expect("the binary starts")
}

/// What a test that succeeds prints as JSON.
fn tested(url: &str, flags: &[&str]) -> Value {
    let output = test(url, &[&["--json"], flags].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A directory of its own for the files of a test.
fn files(test: &str) -> PathBuf {
    target_dir("interop").join(test).with_extension("files")
}

fn write(file: &Path, bytes: &[u8]) -> String {
    fs::create_dir_all(file.parent().expect("it has a directory")).expect("the directory can be made");
    fs::write(file, bytes).expect("the directory can be written to");
    format!("@{}", text(file))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}

#[test]
fn test_recognises_services_of_npm() {
    let socketio = Service::node("socketio");
    let found = tested(&socketio.url("/socket.io/?EIO=4&transport=websocket"), &["--send", "40", "--count", "80"]);
    assert_eq!(found["protocol"], "Socket.IO", "{found:#}");
    // Pings of Engine.IO came and were answered, and events have the type of their name.
    assert_eq!(found["ended"], Value::Null, "{found:#}");
    assert!(found["types"]["Price"].as_u64() > Some(40), "{found:#}");

    let graphql = Service::node("graphql");
    let subscribe = "{\"id\":\"1\",\"type\":\"subscribe\",\"payload\":{\"query\":\"subscription { ticks }\"}}";
    let flags =
        ["--subprotocol", "graphql-transport-ws", "--send", "{\"type\":\"connection_init\"}", "--send", subscribe];
    let found = tested(&graphql.url("/graphql"), &[&flags[..], &["--count", "10"]].concat());
    assert_eq!(found["protocol"], "GraphQL (graphql-transport-ws)", "{found:#}");
    assert_eq!(found["types"]["Next"], 9, "{found:#}");

    let text = Service::node("text");
    let found = tested(&text.url("/"), &["--count", "25"]);
    assert_eq!((&found["protocol"], &found["other_text"]), (&"text".into(), &25.into()), "{found:#}");
}

#[test]
fn test_recognises_protocols_by_their_first_messages() {
    let directory = files("first-messages");
    let handshake = write(&directory.join("signalr"), b"{\"protocol\":\"json\",\"version\":1}\x1e");
    let packet = [0x10, 15, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 3, b'a', b'b', 0xff];
    let connect = write(&directory.join("mqtt"), &packet);
    let rows: [(&str, &str, &[&str]); 5] = [
        ("mqtt", "MQTT", &["--send", &connect, "--count", "1"]),
        ("signalr", "SignalR", &["--send", &handshake, "--count", "10"]),
        ("phoenix", "Phoenix", &["--send", "[\"1\",\"1\",\"room:a\",\"phx_join\",{}]", "--count", "1"]),
        ("jsonrpc", "JSON-RPC 2.0", &["--count", "5"]),
        ("pusher", "Pusher", &["--count", "1"]),
    ];
    for (service, protocol, flags) in rows {
        let found = tested(&Service::node(service).url("/"), flags);
        assert_eq!(found["protocol"], protocol, "{found:#}");
    }
}

#[test]
fn test_recognises_a_service_of_python() {
    let service = Service::of(IMPORT_PYTHON.start(&[]));
    let found = tested(&service.url("/"), &["--count", "30"]);
    assert_eq!((&found["protocol"], &found["types"]["Tick"]), (&"JSON".into(), &30.into()), "{found:#}");
}

#[test]
fn test_recognises_our_own_protocols() {
    let config = write(&files("own").join("own.toml"), b"[server]\nsockjs = true\necho = true\n");
    let server = Server::start(&["--config", &config[1..]]);
    let connect = write(&files("own").join("connect"), b"CONNECT\naccept-version:1.2\nhost:a\n\n\0");
    let rows: [(&str, &str, &[&str]); 3] = [
        ("/stomp", "STOMP", &["--send", &connect, "--count", "1"]),
        ("/connection/websocket", "Centrifugo", &["--send", "{\"id\":1,\"connect\":{}}", "--for", "1s"]),
        ("/echo/000/abcdefgh/websocket", "SockJS", &["--count", "1"]),
    ];
    for (path, protocol, flags) in rows {
        let found = tested(&server.ws_url(path), flags);
        assert_eq!(found["protocol"], protocol, "{found:#}");
    }
}

#[test]
fn test_recognises_nats() {
    let config = files("nats").join("nats.conf");
    write(&config, b"listen: \"127.0.0.1:-1\"\nwebsocket { listen: \"127.0.0.1:-1\", no_tls: true }\n");
    let mut command = Command::new("sh");
    command.args(["-c", "exec nats-server -c \"$0\" 2>&1", text(&config)]);
    let process = Process::start("nats-server", command);
    let url = loop {
        let line = process.next_line(PATIENCE).expect("it runs");
        if let Some((_, url)) = line.split_once("Listening for websocket clients on ") {
            break url.trim().to_owned();
        }
    };
    let found = tested(&url, &["--count", "1"]);
    assert_eq!(found["protocol"], "NATS", "{found:#}");
}

#[test]
fn test_stays_within_its_bounds() {
    let directory = files("hostile");
    let names = ["types.ts", "api.json", "samples.jsonl"].map(|name| directory.join(name));
    fs::create_dir_all(&directory).expect("the directory can be made");
    let [typescript, api, samples] = names.each_ref().map(|file| text(file));
    let flags = ["--typescript", typescript, "--asyncapi", api, "--record", samples];
    let found = tested(&Service::node("hostile").url("/"), &flags);
    assert_eq!((&found["messages"], &found["other_text"]), (&303.into(), &1.into()), "{found:#}");
    let ended = "a message has more than 4194304 bytes, too many for a test";
    assert_eq!((&found["ended"], &found["warnings"][0]), (&ended.into(), &NOT_COMPRESSED.into()), "{found:#}");
    let types = found["types"].as_object().expect("types").len();
    assert!(types <= ringfeed::limits::IMPORT_TYPES_MAX + 1, "{types} types");
    assert_eq!(fs::read_to_string(&names[2]).expect("samples").lines().count(), 302);
    let report = test("ws://127.0.0.1:1/\u{1b}[2J", &[]);
    assert!(!report.stderr.contains(&0x1b), "{report:?}");
}

#[test]
fn test_says_who_is_at_fault() {
    let broken = Service::node("broken");
    let output = test(&broken.url("/?token=abc"), &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for text in ["the service is at fault", "the URL has a secret in it", "TCP ", "upgrade ", "token=***"] {
        assert!(said.contains(text), "{text} is not in {said}");
    }
    assert!(!said.contains("abc"), "{said}");
    drop(broken);
    let closed = test("ws://127.0.0.1:1/", &[]);
    assert_eq!(closed.status.code(), Some(1), "{closed:?}");
    assert_eq!(test("http://127.0.0.1:1/", &[]).status.code(), Some(2));
}

/// A crate that reads samples with the generated code.
fn check_rust(directory: &Path, code: &Path, samples: &Path) {
    let crate_dir = directory.join("crate");
    let manifest = "[package]\nname = \"reads\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
                    [dependencies]\nserde = { version = \"1\", features = [\"derive\"] }\nserde_json = \"1\"\n";
    write(&crate_dir.join("Cargo.toml"), manifest.as_bytes());
    // The versions that are here already.
    fs::copy(repository("Cargo.lock"), crate_dir.join("Cargo.lock")).expect("the lock file is there");
    let main = "mod types;\n\nfn main() {\n    for line in std::io::stdin().lines() {\n        \
                let line = line.unwrap();\n        \
                let value: serde_json::Value = serde_json::from_str(&line).unwrap();\n        \
                let message: types::Message = serde_json::from_str(&line).unwrap();\n        \
                let text = format!(\"{message:?}\");\n        \
                assert!(!text.starts_with(\"Unknown\"), \"{line}\");\n        \
                println!(\"{}\", value.is_object());\n    }\n}\n";
    write(&crate_dir.join("src/main.rs"), main.as_bytes());
    fs::copy(code, crate_dir.join("src/types.rs")).expect("the code is there");
    let mut command = Command::new("sh");
    command.args(["-c", "cargo run --quiet --offline <\"$0\"", text(samples)]).current_dir(&crate_dir);
    command.env("CARGO_TARGET_DIR", directory.join("target")).env("RUSTFLAGS", "-D warnings -A dead_code");
    let lines = Process::start("cargo run", command).succeed(COMPILE_PATIENCE);
    assert_eq!(lines.lines().count(), fs::read_to_string(samples).expect("samples").lines().count());
}

#[test]
fn what_test_writes_is_accepted_by_others() {
    let directory = files("market");
    let names = ["api.json", "schema.json", "types.ts", "types.rs", "samples.jsonl"].map(|name| directory.join(name));
    fs::create_dir_all(&directory).expect("the directory can be made");
    let [api, schema, typescript, rust, samples] = names.each_ref().map(|file| text(file));
    let market = Service::node("market");
    let flags =
        ["--asyncapi", api, "--schema", schema, "--typescript", typescript, "--rust", rust, "--record", samples];
    let parameters =
        ["--query", "token=abc", "--query", "depth=5", "--path-param", "name=BTC", "--header", "X-Api-Key: k"];
    let request = ["--send", "{\"op\":\"subscribe\",\"symbols\":[\"A\"]}", "--count", "150"];
    let found = tested(&market.url("/feed/{name}"), &[&flags[..], &parameters, &request].concat());
    assert_eq!(found["messages"], 150, "{found:#}");
    for file in &names {
        let written = fs::read_to_string(file).expect("it was written");
        assert!(!written.contains("abc") && !written.contains("\"secret\""), "a secret is in {}", file.display());
    }

    assert_eq!(IMPORT_NODE.run(&["check-asyncapi", api]).trim(), "4");
    assert_eq!(IMPORT_NODE.run(&["check-typescript", typescript, samples]).trim(), "150");
    check_rust(&directory, &names[3], &names[4]);

    // The service still sends what it sent, and samples do in its place.
    for document in [api, schema] {
        let same = tested(&market.url("/feed/A"), &["--count", "90", "--against", document]);
        assert_eq!(same["drift"]["broken"], Value::Array(Vec::new()), "{same:#}");
        let output =
            ringfeed().args(["test", "--samples", samples, "--against", document]).output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
    }
    let changed = Service::node("changed");
    let output = test(&changed.url("/"), &["--count", "90", "--against", api]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    for line in ["drift: Trade.price: number in place of string (30 of 90", "drift: Book.depth: missing (30 of 90"] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
}
