//! The admin page in a real browser.

use std::fs;

use crate::browser::chromium;
use crate::clients::{BROWSER_ADMIN, SCENARIO_PATIENCE};
use crate::support::server::Server;
use crate::support::{PATIENCE, target_dir};

const CONFIG: &str = r#"
[api]
key = "secret"
read_key = "look"

[tokens]
hmac_secret = "a key that nobody has guessed yet"

[namespaces.default]
subscribe = "anyone"

[namespaces.chat]
subscribe = "anyone"
presence = true
history_size = 20
"#;

/// Starts a server whose ports are these, if there are any.
fn start(data: &str, control: &str) -> Server {
    let path = target_dir("interop").join("admin.toml");
    let listener = format!("[[listener]]\naddress = \"{data}\"\n");
    fs::write(&path, format!("{listener}{CONFIG}")).expect("the target directory can be written to");
    Server::start_with_config(&path, &["--control", control])
}

/// Plays the scenarios of `admin.js`, and restarts the server in the middle of them.
#[test]
fn browser_operates_the_server() {
    let Some(chromium) = chromium() else { return };
    let mut server = start("127.0.0.1:0", "127.0.0.1:0");
    let (data, control) = (server.data.to_string(), server.control.to_string());
    let client = BROWSER_ADMIN.start(&[chromium, &server.control_url(""), &server.ws_url("")]);
    while let Some(line) = client.next_line(SCENARIO_PATIENCE).filter(|line| line != "done") {
        println!("{line}");
        if line == "restart" {
            server.terminate();
            server.wait();
            server = start(&data, &control);
        }
    }
    client.succeed(PATIENCE);
    drop(server);
}
