//! npm's `centrifuge` where WebSockets are blocked: HTTP streams and event streams, with commands by requests of their
//! own.

use std::fs;

use crate::clients::{CENTRIFUGE_EMULATED, SCENARIO_PATIENCE};
use crate::support::PATIENCE;
use crate::support::server::Server;
use crate::support::{http, target_dir};
use crate::world::SECRET;

const CONFIG: &str = "
[[listener]]
address = \"127.0.0.1:0\"

[keep_alive]
ping_interval_ms = 1000

[tokens]
hmac_secret = \"a secret of the tests\"

[namespaces.chat]
publish = \"subscribers\"
presence = true
presence_read = \"subscribers\"
history_size = 10
delta = true
";

#[test]
fn node_connects_over_http_where_websockets_are_blocked() {
    assert!(CONFIG.contains(SECRET));
    let file = target_dir("interop").join("emulated.toml");
    fs::write(&file, CONFIG).expect("the target directory can be written to");
    let server = Server::start_with_config(&file, &["--ping-interval-ms", "1000"]);
    let client = CENTRIFUGE_EMULATED.start(&[&format!("http://{}", server.data), SECRET]);
    let mut disconnects = 0;
    while let Some(line) = client.next_line(SCENARIO_PATIENCE).filter(|line| line != "done") {
        assert_eq!(line, "disconnect");
        let body = br#"{"user":"42","disconnect":{"code":4501,"reason":"bye"}}"#;
        assert_eq!(http::post(server.control, "/api/disconnect", "application/json", body).status, 200);
        disconnects += 1;
    }
    client.succeed(PATIENCE);
    assert_eq!(disconnects, 3);
}
