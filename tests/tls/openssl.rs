//! `openssl s_client`: versions, resumption, new keys, names.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::counter;
use crate::support::server::{Server, certificate, ringfeed};
use crate::support::{PATIENCE, target_dir};

const REQUEST: &str = "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A running `s_client`. Dropping it ends it.
struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Client {
    fn start(server: &Server, flags: &[&str]) -> Client {
        Client::start_with(server, certificate(), flags)
    }

    /// The same for a client that trusts another certificate.
    fn start_with(server: &Server, trusted: &Path, flags: &[&str]) -> Client {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &server.data.to_string(), "-CAfile"]).arg(trusted);
        let child = command.args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("openssl is installed");
        let (sender, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        let stdin = child.stdin.take();
        Client { child, stdin, lines }
    }

    fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("not closed");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("openssl reads");
    }

    /// Waits for a line that contains `text`.
    fn expect(&mut self, text: &str) {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.contains(text) {
                return;
            }
            seen.push(line);
        }
        panic!("no '{text}' from openssl: {seen:#?}");
    }

    /// All that it prints until it ends.
    fn rest(mut self) -> String {
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            lines.push(line);
        }
        assert!(self.child.try_wait().expect("a child").is_some() || self.child.wait().is_ok());
        lines.join("\n")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends one request; returns all that openssl prints.
fn request(server: &Server, flags: &[&str]) -> String {
    request_with(server, certificate(), flags)
}

/// The same with another certificate to trust.
pub(crate) fn request_with(server: &Server, trusted: &Path, flags: &[&str]) -> String {
    let flags = [&["-servername", "localhost", "-ign_eof"], flags].concat();
    let mut client = Client::start_with(server, trusted, &flags);
    // A server that has rejected the client does not read.
    let stdin = client.stdin.as_mut().expect("not closed");
    let _ = stdin.write_all(REQUEST.as_bytes()).and_then(|()| stdin.flush());
    client.rest()
}

#[test]
fn both_versions_are_spoken_and_resumed() {
    let server = Server::start_secure(&[]);
    for (version, name) in [("-tls1_3", "1.3"), ("-tls1_2", "1.2")] {
        let session = target_dir("tls").join(format!("session-{}{version}", std::process::id()));
        let session = session.to_str().expect("a path of UTF-8");
        let first = request(&server, &[version, "-verify_return_error", "-sess_out", session]);
        assert!(first.contains(&format!("New, TLSv{name}")) && first.contains("HTTP/1.1 404"), "{first}");
        assert!(first.contains("Verify return code: 0 (ok)"), "{first}");
        let again = request(&server, &[version, "-verify_return_error", "-sess_in", session]);
        assert!(again.contains(&format!("Reused, TLSv{name}")) && again.contains("HTTP/1.1 404"), "{again}");
        for kind in ["full", "resumed"] {
            let labels = format!("version=\"{name}\",kind=\"{kind}\"");
            assert_eq!(counter(&server, "ringfeed_tls_handshakes_total", &labels), 1, "{labels}");
        }
        let _ = fs::remove_file(session);
    }
}

#[test]
fn every_suite_is_spoken() {
    let server = Server::start_secure(&[]);
    let rows = [
        ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        ["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
        ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
    ];
    for flags in rows {
        let said = request(&server, &flags);
        assert!(said.contains(&format!("Cipher is {}", flags[2])) && said.contains("HTTP/1.1 404"), "{said}");
    }
}

#[test]
fn keys_are_updated_at_the_clients_wish() {
    let server = Server::start_secure(&[]);
    let mut client = Client::start(&server, &["-servername", "localhost", "-tls1_3"]);
    client.expect("Verify return code: 0 (ok)");
    for command in ["k\n", "K\n", "K\n", "k\n"] {
        client.say(command);
        client.expect("KEYUPDATE");
    }
    client.say(REQUEST);
    client.expect("HTTP/1.1 404");
    assert_eq!(counter(&server, "ringfeed_tls_failures_total", "cause=\"record\""), 0);
}

#[test]
fn renegotiation_is_refused_and_counted() {
    let server = Server::start_secure(&[]);
    let mut client = Client::start(&server, &["-servername", "localhost", "-tls1_2", "-legacy_renegotiation"]);
    client.expect("Verify return code: 0 (ok)");
    client.say("R\n");
    client.expect("RENEGOTIATING");
    let said = client.rest();
    assert!(said.contains("no renegotiation") || said.contains("error"), "{said}");
    assert_eq!(counter(&server, "ringfeed_tls_failures_total", "cause=\"record\""), 1);
}

#[test]
fn old_versions_are_refused() {
    let dir = target_dir("tls");
    let config = dir.join("modern.toml");
    let tls = fs::read_to_string(certificate().with_file_name("tls.toml")).expect("made with the certificate");
    fs::write(&config, format!("{tls}min_version = \"1.3\"\n")).expect("the target directory can be written to");
    let server = Server::start_with_config(&config, &[]);
    assert!(request(&server, &["-tls1_3"]).contains("HTTP/1.1 404"));
    assert!(request(&server, &["-tls1_2"]).contains("protocol version"), "an alert says so");
    assert_eq!(counter(&server, "ringfeed_tls_failures_total", "cause=\"incompatible\""), 1);
}

/// Makes a certificate for `names` in a directory of this name; returns its entry in a configuration.
fn make(dir: &Path, names: &str) -> String {
    let made = ringfeed().args(["cert", "--self-signed", "--names", names, "--out"]).arg(dir).output();
    assert!(made.expect("the binary starts").status.success());
    let dir = dir.display();
    format!("{{ cert_file = \"{dir}/cert.pem\", key_file = \"{dir}/key.pem\" }}")
}

#[test]
fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let dir = target_dir("tls").join(format!("names-{}", std::process::id()));
    let names = ["first.test", "*.b.test", "x.b.test,b.test"];
    let entries = names.map(|names| make(&dir.join(names), names)).join(", ");
    let config = dir.join("names.toml");
    let text = format!("[[listener]]\naddress = \"127.0.0.1:0\"\ntls = true\n[tls]\ncertificates = [{entries}]\n");
    fs::write(&config, text).expect("the target directory can be written to");
    let server = Server::start_with_config(&config, &[]);
    let rows = [("x.b.test", 2), ("y.b.test", 1), ("b.test", 2), ("first.test", 0), ("unknown.test", 0)];
    for (name, chosen) in rows {
        let mut client = Client::start(&server, &["-servername", name, "-ign_eof"]);
        client.say(REQUEST);
        let said = client.rest();
        let pem = fs::read_to_string(dir.join(names[chosen]).join("cert.pem")).expect("a file");
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        assert!(said.lines().collect::<String>().contains(&body), "{name}: {said}");
    }
}
