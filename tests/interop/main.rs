//! The real server and clients that are not ours: Python's `websockets` and `stomp.py`, npm's `ws`, `centrifuge`,
//! `@stomp/stompjs` and `sockjs-client`, a real browser, and Centrifugo's `cent` for the server API. Also the library
//! of `clients/js`, and `ringfeed test` against services that are not ours.
//!
//! A mistake that the server's codec and our own clients share would cancel out; these share nothing with it.
//! Each scenario is a function of `client.py` and `client.js`, or a script of its own; here is only who is started
//! when.

#[path = "../support/mod.rs"]
mod support;

mod admin;
#[path = "../tls/authority.rs"]
#[allow(dead_code, reason = "shared with the tests of TLS, which use all of it")]
mod authority;
mod browser;
mod centrifuge;
mod clients;
mod demo;
mod emulated;
mod greetings;
mod import;
mod proxy;
mod ringfeed_js;
mod secure;
mod sockjs;
mod stomp;
mod world;

use clients::{BACKEND, Client, NODE, PYTHON, QUICKSTART_DRIVER};
use support::server::Server;
use support::{PATIENCE, repository};

/// Runs a scenario that needs `/echo` and nothing more.
fn check_echo(client: &Client, scenario: &str) {
    let server = Server::start(&["--echo"]);
    client.run(&[scenario, &server.ws_url("/echo")]);
}

/// The same scenarios over TLS, where Node.js cannot reset a connection.
fn check_secure(client: &Client) {
    let server = Server::start_secure(&["--echo"]);
    for scenario in ["echo", "ping", "close"] {
        client.run(&[scenario, &server.ws_url("/echo")]);
    }
    client.run(&["feed", &server.ws_url(""), &server.control_url("")]);
}

/// Compression with all that the client can ask for.
fn check_deflate(client: &Client) {
    for (takeover, context_takeover_max) in [("no-takeover", "0"), ("takeover", "1000")] {
        let server = Server::start(&["--echo", "--deflate", "on", "--deflate-takeover-max", context_takeover_max]);
        client.run(&["deflate", &server.ws_url(""), &server.control_url(""), takeover]);
    }
}

fn check_feed(client: &Client) {
    let server = Server::start(&[]);
    client.run(&["feed", &server.ws_url(""), &server.control_url("")]);
}

/// On SIGTERM the server closes every connection with 1001 and exits with 0.
fn check_drain(client: &Client) {
    let server = Server::start(&["--echo"]);
    let process = client.start(&["drain", &server.ws_url("")]);
    assert_eq!(process.next_line(PATIENCE).as_deref(), Some("connected"));
    server.terminate();
    process.succeed(PATIENCE);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn python_echo() {
    check_echo(&PYTHON, "echo");
}

#[test]
fn python_ping() {
    check_echo(&PYTHON, "ping");
}

#[test]
fn python_close() {
    check_echo(&PYTHON, "close");
}

#[test]
fn python_disconnect() {
    check_echo(&PYTHON, "disconnect");
}

#[test]
fn python_feed() {
    check_feed(&PYTHON);
}

#[test]
fn python_deflate() {
    check_deflate(&PYTHON);
}

#[test]
fn python_drain() {
    check_drain(&PYTHON);
}

#[test]
fn python_over_tls() {
    check_secure(&PYTHON);
}

#[test]
fn node_over_tls() {
    check_secure(&NODE);
}

#[test]
fn node_echo() {
    check_echo(&NODE, "echo");
}

#[test]
fn node_ping() {
    check_echo(&NODE, "ping");
}

#[test]
fn node_close() {
    check_echo(&NODE, "close");
}

#[test]
fn node_disconnect() {
    check_echo(&NODE, "disconnect");
}

#[test]
fn node_feed() {
    check_feed(&NODE);
}

#[test]
fn node_deflate() {
    check_deflate(&NODE);
}

#[test]
fn node_drain() {
    check_drain(&NODE);
}

#[test]
fn centrifugos_backend_library() {
    let config = repository("tests/interop/api.toml");
    let server = Server::start(&["--config", config.to_str().expect("a path of UTF-8")]);
    BACKEND.run(&[&server.ws_url(""), &server.control_url(""), "secret"]);
}

#[test]
fn browser_shows_the_demo() {
    // Browsers offer compression, so one server agrees to it.
    for flags in [&["--demo"][..], &["--demo", "--deflate", "on", "--deflate-bytes-min", "1"]] {
        let server = Server::start(flags);
        browser::expect_live_page(&format!("http://{}/", server.data));
    }
}

#[test]
fn the_quick_starts_run() {
    let Some(chromium) = browser::chromium() else { return };
    let server = Server::start(&["--demo"]);
    let (data, control) = (server.data.to_string(), server.control.to_string());
    println!("{}", QUICKSTART_DRIVER.run(&[chromium, &data, &control, PYTHON.program()]));
}

#[test]
fn browser_event_stream() {
    browser::expect_event_stream();
}
