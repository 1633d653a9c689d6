//! The page of `examples/greetings.rs` in a real browser: Spring's sample end to end. The checks are in `greetings.js`.

#[allow(dead_code, reason = "its main function is not called here")]
#[path = "../../examples/greetings.rs"]
mod example;

use std::net::SocketAddr;
use std::time::Duration;

use ringfeed::ServerConfig;

use crate::browser;
use crate::clients::GREETINGS_DRIVER;
use crate::support::target_dir;

#[test]
fn a_greeting_reaches_all_pages() {
    let Some(chromium) = browser::chromium() else { return };
    let listeners = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
    let config = ServerConfig { listeners, shards: 2, ..ServerConfig::default() };
    let server = example::start(config, Duration::from_millis(200)).expect("the server starts");
    let (url, pictures) = (format!("http://{}/", server.address()), target_dir("greetings"));
    println!("{}", GREETINGS_DRIVER.run(&[chromium, &url, pictures.to_str().expect("a path of UTF-8")]));
    server.shutdown();
}
