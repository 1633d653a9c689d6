//! Sockets other than those that the server binds itself: the control port on a Unix socket, and sockets that a parent
//! has opened, as systemd does.

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::http;
use support::process::Process;
use support::server::ringfeed;
use support::{PATIENCE, repository, target_dir};

/// A path for a Unix socket of this process. Such paths must be short.
fn socket_path(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("ringfeed-sockets-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the directory can be made");
    dir.join(name)
}

/// Starts `ringfeed serve` with these arguments, by `command`; returns it once it is ready, with what it printed.
fn start(mut command: Command, arguments: &[&str]) -> (Process, Vec<String>) {
    command.args(["serve", "--shards", "2"]).args(arguments);
    let process = Process::start("ringfeed", command);
    let lines = lines_until_ready(&process);
    (process, lines)
}

fn lines_until_ready(process: &Process) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != "ready") {
        lines.push(process.next_line(PATIENCE).expect("the server gets ready"));
    }
    lines
}

/// Runs a command of the binary that succeeds; returns its output.
fn succeed(arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {stdout}{stderr}");
    stdout
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new("timeout");
    command.arg("60").arg(ringfeed().get_program()).args(arguments);
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("output of text"));
    (status.code(), stdout, stderr)
}

/// Status of `GET target` on a Unix socket.
fn status_on(path: &Path, target: &str) -> u16 {
    let stream = UnixStream::connect(path).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    http::exchange_on(stream, request.as_bytes()).status
}

#[test]
fn commands_reach_a_control_port_on_a_unix_socket() {
    let path = socket_path("control");
    let config = target_dir("sockets").join(format!("control-{}.toml", std::process::id()));
    let address = format!("unix:{}", path.display());
    let text = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n[server]\ncontrol = \"{address}\"\n");
    fs::write(&config, &text).expect("the target directory can be written to");
    let config_text = config.to_str().expect("a path of UTF-8");
    let flags = ["--config", config_text, "--log-format", "json"];
    let (killed, lines) = start(ringfeed(), &flags);
    assert!(lines.contains(&format!("control on {address}")), "{lines:?}");
    let mode = fs::metadata(&path).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "without a key, only the server's user publishes");
    let (code, _, stderr) = run(&["serve", "--listen", "127.0.0.1:0", "--control", &address]);
    assert_eq!((code, stderr.contains("cannot listen on unix:")), (Some(2), true), "{stderr}");

    // A killed server leaves its socket behind.
    drop(killed);
    fs::write(&config, text.replace("[server]", "[server]\ncontrol_mode = \"0666\"")).expect("it can be written");
    let (mut server, _) = start(ringfeed(), &flags);
    assert_eq!(fs::metadata(&path).expect("the socket is there").permissions().mode() & 0o777, 0o666);
    let publish = format!("{address}:/publish/news");
    assert!(succeed(&["pub", &publish, "hello"]).contains("\"offset\":1"));
    assert!(succeed(&["top", &address, "--once"]).contains("ready"));
    succeed(&["topics", &address]);
    succeed(&["connections", &address]);
    succeed(&["reload", &address]);
    assert_eq!(status_on(&path, "/readyz"), 200);
    let (code, _, stderr) = run(&["pub", "unix:/nowhere/control:/publish/a", "x"]);
    assert_eq!((code, stderr.contains("cannot connect to the Unix socket")), (Some(1), true), "{stderr}");
    assert!(succeed(&["drain", &address]).starts_with("the server drains 0 connections\n"));
    assert!(server.wait(PATIENCE).success());
    let log = server.all_errors(PATIENCE);
    let reload = log.lines().find(|line| line.contains("operator's action")).expect("a line for the reload");
    assert!(reload.contains("\"operator\":\"unix:uid="), "{reload}");
}

#[test]
fn the_control_port_speaks_tls_on_ip_addresses_only() {
    let config = target_dir("sockets").join(format!("tls-{}.toml", std::process::id()));
    let text = "[server]\ncontrol = \"unix:control\"\ncontrol_tls = true\n";
    fs::write(&config, text).expect("the target directory can be written to");
    let (code, _, stderr) = run(&["config", "check", config.to_str().expect("a path of UTF-8")]);
    assert_eq!((code, stderr.contains("leave it out")), (Some(2), true), "{stderr}");
}

/// systemd's own tool opens the sockets, and starts the server at the first connection.
#[test]
fn a_connection_activates_the_server() {
    let (data, control) = (socket_path("data"), socket_path("activated"));
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(&data).arg("--listen").arg(&control).arg("--fdname=data:control");
    command.arg(ringfeed().get_program()).args(["serve", "--shards", "2", "--listen", "fd:data"]);
    command.args(["--control", "fd:control"]);
    let process = Process::start("systemd-socket-activate", command);
    let first = loop {
        match UnixStream::connect(&data) {
            Ok(stream) => break stream,
            Err(_) => std::thread::yield_now(),
        }
    };
    first.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let request = b"GET /feed/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(http::exchange_on(first, request).status, 426, "the connection that started the server is served");
    let lines = lines_until_ready(&process);
    for line in [format!("listening on unix:{}", data.display()), format!("control on unix:{}", control.display())] {
        assert!(lines.contains(&line), "{line} is missing in {lines:?}");
    }
    assert_eq!(status_on(&control, "/readyz"), 200);
}

#[test]
fn no_connection_is_refused_while_an_activated_server_restarts() {
    let mut command = Command::new("python3");
    command.arg(repository("tests/sockets/parent.py")).arg("2").arg(ringfeed().get_program());
    command.args(["serve", "--shards", "2", "--listen", "fd:data", "--control", "fd:control"]);
    let process = Process::start("parent", command);
    let ports = process.next_line(PATIENCE).expect("the ports come first");
    let (data, control) = ports.split_once(' ').expect("two ports");
    let [data, control] = [data, control].map(|port| SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port"))));
    let lines = lines_until_ready(&process);
    for line in [format!("listening on ws://{data}"), format!("control on http://{control}")] {
        assert!(lines.contains(&line), "{line} is missing in {lines:?}");
    }
    assert_eq!(http::get(control, "/readyz").status, 200);
    // Both sockets of the port are accepted from.
    for _ in 0..16 {
        assert_eq!(http::get(data, "/feed/a").status, 426);
    }
    assert_eq!(http::post(control, "/drain", "text/plain", b"").status, 200);
    // Whichever process accepts it: until there is one, the connection waits in the socket's backlog.
    let waiting = loop {
        let stream = TcpStream::connect(data).expect("the parent's socket still listens");
        let request = format!("GET /feed/a HTTP/1.1\r\nHost: {data}\r\nConnection: close\r\n\r\n");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        match http::exchange_on(stream, request.as_bytes()).status {
            // The draining server accepted it.
            503 => {}
            status => break status,
        }
    };
    assert_eq!(waiting, 426);
    assert_eq!(lines_until_ready(&process), lines, "the second server has the same sockets");
    assert_eq!(http::post(control, "/drain", "text/plain", b"").status, 200);
}

#[test]
fn a_socket_that_no_parent_has_passed_is_an_error_that_names_the_remedy() {
    let (code, _, stderr) = run(&["serve", "--listen", "fd:data", "--control", "127.0.0.1:0"]);
    assert_eq!((code, stderr.contains("start it by a systemd socket unit")), (Some(2), true), "{stderr}");
    let (code, _, stderr) = run(&["serve", "--listen", "127.0.0.1:0", "--control", "fd:control"]);
    assert_eq!((code, stderr.contains("start it by a systemd socket unit")), (Some(2), true), "{stderr}");
}
