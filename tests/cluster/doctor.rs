//! `ringfeed doctor --cluster` on real NATS servers: what is well, and the remedy of each thing that is not.

use std::net::TcpListener;
use std::path::Path;

use crate::nats::{self, Nats};
use crate::secure::{config, documented_permissions, secret_file, works};
use crate::support::process::Process;
use crate::support::server::ringfeed;
use crate::support::{PATIENCE, target_dir};

/// The exit code of a run, and its lines.
fn examine(config: &Path) -> (Option<i32>, String) {
    let mut command = ringfeed();
    command.args(["doctor", "--cluster", "--config"]).arg(config);
    let mut process = Process::start("ringfeed doctor", command);
    let mut text = String::new();
    while let Some(line) = process.next_line(PATIENCE) {
        text.push_str(&line);
        text.push('\n');
    }
    (process.wait(PATIENCE).code(), text)
}

/// The line of a check.
#[track_caller]
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    let is_of = |line: &&str| line.get(7..).is_some_and(|line| line.starts_with(&format!("{name}: ")));
    text.lines().find(is_of).unwrap_or_else(|| panic!("no line of {name} in:\n{text}"))
}

#[test]
fn good_servers_are_well_before_and_while_nodes_run() {
    let settings = format!(
        "jetstream {{}}\nauthorization {{ users: [ {{ user: node, password: p, {} }} ] }}\n",
        documented_permissions()
    );
    let nats = Nats::start_with_settings(&nats::CURRENT, "doctor", &settings);
    let login = |password: &str| {
        let file = secret_file(&format!("doctor-{password}"), password);
        format!(
            "servers = [\"nats://127.0.0.1:{}\"]\nnode = \"one\"\nuser = \"node\"\npassword_file = \"{}\"\n",
            nats.port(),
            file.display()
        )
    };
    let good = config("doctor", &login("p"));
    let (code, text) = examine(&good);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.lines().all(|line| line.starts_with("ok ")), "{text}");
    assert!(line(&text, "streams").contains("none yet") && line(&text, "nodes").contains("none runs"), "{text}");
    assert!(line(&text, "append").contains("1 copies in file") && line(&text, "clock").contains(" ms from"), "{text}");

    let node = works(&good);
    let (code, text) = examine(&good);
    assert_eq!(code, Some(0), "{text}");
    assert!(line(&text, "streams").contains("1 as configured"), "{text}");
    assert!(line(&text, "nodes").contains("ok     nodes: one "), "{text}");
    // The check has left nothing behind: another run finds the same.
    assert!(!text.contains("can't be deleted"), "{text}");

    let others = config("doctor-others", &format!("{}[namespaces.default]\nhistory_size = 9\n", login("p")));
    let (code, text) = examine(&others);
    assert_eq!(code, Some(0), "{text}");
    assert!(line(&text, "nodes").contains("give one the same [namespaces]"), "{text}");
    let smaller = config("doctor-smaller", &login("p"));
    let lines = std::fs::read_to_string(&smaller).expect("a file").replace("1048576", "2097152");
    std::fs::write(&smaller, lines).expect("a file");
    let (code, text) = examine(&smaller);
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "streams").contains("do: set log_max_bytes as the other nodes have it"), "{text}");
    drop(node);

    let (code, text) = examine(&config("doctor-password", &login("wrong")));
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "NATS server").contains("check user and password_file"), "{text}");
    assert!(!text.contains("JetStream"), "nothing can be seen behind it: {text}");
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let nats = Nats::start_with_settings(&nats::CURRENT, "doctor-off", "");
    let server = |port: u16| format!("servers = [\"nats://127.0.0.1:{port}\"]\n");
    let (code, text) = examine(&config("doctor-off", &server(nats.port())));
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "JetStream").contains("JetStream: off; do: start the servers with -js"), "{text}");

    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let (code, text) = examine(&config("doctor-nobody", &server(port)));
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "NATS server").contains("do: start one (nats-server -js)"), "{text}");

    let alone = Nats::start_with_settings(&nats::CURRENT, "doctor-alone", "jetstream {}");
    let path = config("doctor-alone", &server(alone.port()));
    let three = std::fs::read_to_string(&path).expect("a file").replace("replicas = 1", "replicas = 3");
    std::fs::write(&path, three).expect("a file");
    let (code, text) = examine(&path);
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "append").contains("do: run as many NATS servers as replicas"), "{text}");

    let path = target_dir("cluster").join("doctor-none.toml");
    std::fs::write(&path, "[cluster]\nenabled = true\nname = \"a.b\"\n").expect("a file");
    assert_eq!(examine(&path).0, Some(2), "the settings do not fit together");
}

#[test]
fn an_old_server_should_be_replaced() {
    let Some(program) = nats::debian() else { return };
    let nats = Nats::start_with_settings(&program, "doctor-old", "jetstream {}");
    let (code, text) = examine(&config("doctor-old", &format!("servers = [\"nats://127.0.0.1:{}\"]\n", nats.port())));
    assert_eq!(code, Some(0), "{text}");
    let found = line(&text, "NATS server");
    assert!(found.starts_with("better") && found.contains("run 2.10.23 or newer"), "{found}");
}
