//! `wss://` and `https://`: the real binary against `openssl`, `curl` and Python's `ssl`, and against clients that mean
//! no good.
//!
//! The sessions themselves are tested byte by byte in `src/tls/session/tests.rs`; foreign WebSocket clients over TLS
//! are in `tests/interop/`, the Autobahn suite over TLS in `tests/conformance/`.

#[path = "../support/mod.rs"]
mod support;

mod authority;
mod clients;
mod hostile;
mod judges;
mod openssl;
mod reload;
mod tickets;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::http;
use support::process::Process;
use support::server::{Server, certificate, ringfeed};
use support::{PATIENCE, repository, target_dir};

/// What a counter of `/metrics` is, over all shards; `labels` is a part of its line.
fn counter(server: &Server, name: &str, labels: &str) -> u64 {
    let metrics = http::get(server.control, "/metrics");
    let lines = metrics.text().lines().filter(|line| line.starts_with(name) && line.contains(labels));
    let values: Vec<u64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().expect("a number")).collect();
    assert!(!values.is_empty(), "no {name} with {labels}");
    values.iter().sum()
}

/// Runs a scenario of `client.py`.
fn run_python(scenario: &str, server: &Server) {
    run_python_with(scenario, server, certificate(), 2 * PATIENCE);
}

/// The same, with the certificate to trust and the time that it may take.
fn run_python_with(scenario: &str, server: &Server, trusted: &Path, patience: Duration) {
    let mut command = Command::new("python3");
    command.arg(repository("tests/tls/client.py")).arg(scenario);
    command.args([server.data.port().to_string(), server.control.port().to_string()]).arg(trusted);
    Process::start(scenario, command).succeed(patience);
}

/// Body and status that curl receives.
fn curl(server: &Server, path: &str) -> String {
    let url = format!("https://localhost:{}{path}", server.data.port());
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--http1.1", "--write-out", "%{http_code}", "--cacert"]);
    command.arg(certificate()).arg(url);
    Process::start("curl", command).succeed(PATIENCE)
}

#[test]
fn curl_reads_the_page_over_https() {
    let server = Server::start_secure(&[]);
    assert!(server.listeners[0].starts_with("wss://127.0.0.1:"), "{:?}", server.listeners);
    let page = curl(&server, "/");
    assert!(page.contains("<html") && page.ends_with("200\n"), "{page}");
    assert_eq!(counter(&server, "ringfeed_tls_handshakes_total", "version=\"1.3\",kind=\"full\""), 1);
    let expiry = counter(&server, "ringfeed_tls_certificate_expiry_timestamp_seconds", "cert.pem");
    let now = std::time::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs();
    assert!((363..=365).contains(&((expiry - now) / 86_400)), "{expiry}");
}

/// The head of the page for a browser that knows the server by `host`.
fn page_head(server: &Server, host: &str) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--head", "--request", "GET", "--header", &format!("Host: {host}")]);
    command.arg("--cacert").arg(certificate()).arg(format!("https://localhost:{}/", server.data.port()));
    Process::start("curl", command).succeed(PATIENCE).to_lowercase()
}

#[test]
fn pages_ask_browsers_for_tls_where_there_is_nothing_else() {
    let tls = fs::read_to_string(certificate().with_file_name("tls.toml")).expect("made with the certificate");
    let start = |name: &str, listener: &str, line: &str| {
        let config = target_dir("tls").join(format!("{name}-{}.toml", std::process::id()));
        let origins = "[server]\nallowed_origins = [\"https://pages.test\"]\n";
        fs::write(&config, format!("{tls}{line}{listener}{origins}")).expect("the target directory can be written to");
        Server::start_with_config(&config, &[])
    };
    let field = "strict-transport-security: max-age=";
    let alone = start("alone", "", "");
    assert!(page_head(&alone, "pages.test").contains(&format!("{field}31536000\n")));
    assert!(!page_head(&alone, "localhost").contains(field), "its ports belong to many programs");
    for name in ["x-content-type-options: nosniff", "referrer-policy: no-referrer", "content-security-policy: "] {
        assert!(page_head(&alone, "localhost").contains(name), "{name}");
    }
    let loopback = start("loopback", "[[listener]]\naddress = \"127.0.0.1:0\"\n", "hsts_seconds = 60\n");
    assert!(page_head(&loopback, "pages.test").contains(&format!("{field}60\n")));
    let off = start("off", "", "hsts_seconds = 0\n");
    assert!(!page_head(&off, "pages.test").contains(field));
    let beside = start("beside", "[[listener]]\naddress = \"0.0.0.0:0\"\n", "");
    assert!(!page_head(&beside, "pages.test").contains(field), "browsers could not use the plain port any more");
}

#[test]
fn plain_http_on_a_tls_port_is_told_the_remedy() {
    let server = Server::start_secure(&[]);
    let answer = http::get(server.data, "/");
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("https:// or wss://"), "{}", answer.text());
    assert_eq!(counter(&server, "ringfeed_tls_failures_total", "plain_http"), 1);
}

#[test]
fn slow_readers_receive_whole_messages_under_each_policy() {
    let config = target_dir("tls").join("policies.toml");
    let tls = fs::read_to_string(certificate().with_file_name("tls.toml")).expect("made with the certificate");
    let policies = "[server]\nsocket_notsent_bytes = 4096\n\
                    [namespaces.conflate]\nslow_consumer = \"conflate\"\n\
                    [namespaces.drop]\nslow_consumer = \"drop-oldest\"\noutbox_bytes_max = 50000\n[namespaces.large]\n";
    fs::write(&config, format!("{tls}{policies}")).expect("the target directory can be written to");
    let server = Server::start_with_config(&config, &[]);
    run_python("slow_reader", &server);
    run_python("large", &server);
    assert!(counter(&server, "ringfeed_publications_conflated_total", "") > 0);
    assert!(counter(&server, "ringfeed_publications_dropped_total", "") > 0);
    assert_eq!(counter(&server, "ringfeed_outbox_bytes", ""), 0);
}

#[test]
fn the_header_of_a_proxy_stands_before_tls() {
    let config = target_dir("tls").join("proxied.toml");
    let tls = fs::read_to_string(certificate().with_file_name("tls.toml")).expect("made with the certificate");
    let tls = tls.replace("tls = true\n", "tls = true\nproxy_protocol = \"require\"\n");
    fs::write(&config, format!("{tls}[server]\ntrusted_proxies = [\"127.0.0.1\"]\n")).expect("a file");
    let server = Server::start_with_config(&config, &[]);
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--haproxy-protocol", "--write-out", "%{http_code}", "--cacert"]);
    command.arg(certificate()).arg(format!("https://localhost:{}/", server.data.port()));
    assert!(Process::start("curl", command).succeed(PATIENCE).ends_with("200\n"));
}

/// While the last records of a TLS handshake leave, the response waits, and pings may be due.
#[test]
fn no_ping_leaves_before_the_response() {
    run_python("opened", &Server::start_secure(&["--ping-interval-ms", "20", "--pong-timeout-ms", "60000"]));
}

#[test]
fn connections_end_with_close_notify() {
    run_python("clean_end", &Server::start_secure(&["--echo"]));
}

#[test]
fn records_may_be_as_small_as_they_like() {
    run_python("small_records", &Server::start_secure(&[]));
}

/// What the binary says of a configuration that it refuses.
fn refusal(name: &str, config: &str) -> String {
    let path = target_dir("tls").join(name);
    fs::write(&path, config).expect("the target directory can be written to");
    let output = ringfeed().arg("serve").arg("--config").arg(&path).args(["--control", "127.0.0.1:0"]).output();
    let output = output.expect("the binary starts");
    assert_eq!(output.status.code(), Some(2), "{config}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn bad_certificates_are_refused_by_file() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = true\n";
    let said = refusal("none.toml", listener);
    assert!(said.contains("[tls] names no certificate") && said.contains("ringfeed cert --self-signed"), "{said}");
    let good = certificate().parent().expect("a directory").display().to_string();
    let other = target_dir("tls").join(format!("other-{}", std::process::id()));
    let made = ringfeed().args(["cert", "--self-signed", "--names", "other.test", "--out"]).arg(&other).output();
    assert!(made.expect("the binary starts").status.success());
    let other = other.display();
    let rows = [
        (format!("{good}/nowhere.pem"), format!("{good}/key.pem"), "nowhere.pem: cannot be read"),
        (format!("{good}/cert.pem"), format!("{good}/nowhere.pem"), "nowhere.pem: cannot be read"),
        (format!("{good}/key.pem"), format!("{good}/key.pem"), "key.pem: there is no certificate in it"),
        (format!("{good}/cert.pem"), format!("{good}/cert.pem"), "cert.pem: there is no private key in it"),
        (format!("{good}/cert.pem"), format!("{other}/key.pem"), "can't be used with the certificate in"),
    ];
    for (cert, key, text) in rows {
        let tls = format!("[tls]\ncertificates = [{{ cert_file = \"{cert}\", key_file = \"{key}\" }}]\n");
        let said = refusal("bad.toml", &format!("{listener}{tls}"));
        assert!(said.contains(text), "{said}");
        assert_eq!(said.lines().filter(|line| line.starts_with("ringfeed: ")).count(), 1, "{said}");
    }
}

#[test]
fn a_made_key_is_its_owners_and_stays() {
    let dir = target_dir("tls").join(format!("made-{}", std::process::id()));
    let make = || ringfeed().args(["cert", "--self-signed", "--out"]).arg(&dir).output().expect("the binary starts");
    assert!(make().status.success());
    let mode = |file: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(dir.join(file)).expect("a file").permissions().mode() & 0o777
    };
    assert_eq!(mode("key.pem"), 0o600);
    let key = fs::read(dir.join("key.pem")).expect("a file");
    let again = make();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is a file already"));
    assert_eq!(fs::read(dir.join("key.pem")).expect("a file"), key);
}
