//! npm's `sockjs-client`, alone and below `@stomp/stompjs`, in Node.js and in a real browser, on each transport.

use std::fs;

use crate::browser;
use crate::clients::SOCKJS_NODE;
use crate::support::server::Server;
use crate::support::target_dir;

const CONFIG: &str = r#"
[server]
sockjs = true
echo = true

[[listener]]
address = "127.0.0.1:0"

[namespaces.default]
publish = "anyone"
"#;

const TRANSPORTS: [&str; 4] = ["websocket", "xhr-streaming", "eventsource", "xhr-polling"];

fn start(name: &str) -> Server {
    let path = target_dir("sockjs").join(name);
    fs::write(&path, CONFIG).expect("the target directory can be written to");
    Server::start_with_config(&path, &[])
}

#[test]
fn sockjs_client_echoes_on_each_transport() {
    let server = start("echo.toml");
    for transport in TRANSPORTS {
        SOCKJS_NODE.run(&["echo", transport, &server.data.to_string(), &server.control_url("")]);
    }
}

#[test]
fn stompjs_speaks_over_sockjs_on_each_transport() {
    let server = start("stomp.toml");
    for transport in TRANSPORTS {
        SOCKJS_NODE.run(&["stomp", transport, &server.data.to_string(), &server.control_url("")]);
    }
}

#[test]
fn a_browser_speaks_stomp_over_sockjs_on_each_transport() {
    let Some(chromium) = browser::chromium() else { return };
    let server = start("browser.toml");
    let transports = TRANSPORTS.join(",");
    SOCKJS_NODE.run(&["browser", &transports, &server.data.to_string(), &server.control_url(""), chromium]);
}
