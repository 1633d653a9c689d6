//! Judges that others wrote: `gnutls-cli`, PyPI's `sslyze` with its profile of Mozilla's "intermediate" advice, Java's
//! WebSocket client, and by `--ignored` Debian's `testssl.sh`, which takes minutes. And certificates that are replaced
//! a hundred times while clients come and go.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::authority::Authority;
use crate::run_python_with;
use crate::support::process::Process;
use crate::support::server::{Server, certificate};
use crate::support::{PATIENCE, repository, target_dir};

/// Time to download and install a judge.
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);

/// All that gnutls-cli prints for one request.
fn gnutls(server: &Server, flags: &[&str]) -> String {
    let mut command = Command::new("gnutls-cli");
    command.args(["--port", &server.data.port().to_string(), "--x509cafile"]).arg(certificate()).args(flags);
    let mut child = command
        .arg("localhost")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gnutls-cli is installed: Debian has it in gnutls-bin");
    let request = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // It ends before it reads if there is no handshake.
    let _ = child.stdin.take().expect("piped").write_all(request);
    let output = child.wait_with_output().expect("it ends with the connection");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn gnutls_speaks_both_versions_resumes_and_changes_keys() {
    let server = Server::start_secure(&[]);
    for (flags, version) in [(&[][..], "(TLS1.3"), (&["--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.2"], "(TLS1.2")] {
        let said = gnutls(&server, flags);
        assert!(said.contains(version) && said.contains("HTTP/1.1 404 "), "{flags:?}: {said}");
        let said = gnutls(&server, &[&["--resume"], flags].concat());
        assert!(said.contains("This is a resumed session") && said.contains("HTTP/1.1 404 "), "{flags:?}: {said}");
    }
    let said = gnutls(&server, &["--rehandshake"]);
    assert!(said.contains("ReHandshake was completed") && said.contains("HTTP/1.1 404 "), "a KeyUpdate: {said}");
    let said = gnutls(&server, &["--rehandshake", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.2"]);
    assert!(!said.contains("HTTP/1.1 404 "), "a renegotiation is refused: {said}");
    let said = gnutls(&server, &["--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.1"]);
    assert!(said.contains("Fatal error") && !said.contains("HTTP/1.1 404 "), "{said}");
}

/// The Python environment with `sslyze`.
fn sslyze() -> PathBuf {
    let environment = target_dir("sslyze");
    let (stamp, requirements) = (environment.join(".installed-from"), repository("tests/tls/requirements.txt"));
    let wanted = fs::read_to_string(&requirements).expect("a file of the repository");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return environment;
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&environment);
    Process::start("python3 -m venv", venv).succeed(INSTALL_PATIENCE);
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&requirements);
    Process::start("pip install", pip).succeed(INSTALL_PATIENCE);
    fs::write(&stamp, wanted).expect("the target directory can be written to");
    environment
}

#[test]
fn sslyze_finds_nothing_against_mozillas_advice() {
    let authority = Authority::new("sslyze");
    authority.make("server");
    let server = authority.start("", &[]);
    let mut command = Command::new(sslyze().join("bin/python"));
    command.args(["-m", "sslyze", "--mozilla_config", "intermediate", "--certinfo_ca_file"]);
    command.arg(authority.dir.join("ca.pem")).arg(format!("localhost:{}", server.data.port()));
    let output = command.output().expect("sslyze is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("OK - Compliant"), "{said}");
    assert!(!said.contains("VULNERABLE -"), "{said}");
}

#[test]
fn java_receives_a_feed_over_wss() {
    if Command::new("java").arg("-version").output().is_err() {
        println!("skipped: there is no Java");
        return;
    }
    let authority = Authority::new("java");
    authority.make("server");
    let server = authority.start("", &[]);
    let mut java = Command::new("java");
    java.arg(repository("tests/tls/Feed.java")).arg(format!("wss://localhost:{}/feed/java", server.data.port()));
    java.arg(authority.dir.join("ca.pem")).arg(format!("http://{}/publish/java", server.control));
    let said = Process::start("java", java).succeed(2 * PATIENCE);
    assert_eq!(said, "received 40000, closed 1000\n");
}

#[test]
#[ignore = "takes some minutes, and needs Debian's testssl.sh"]
fn testssl_finds_nothing_of_medium_severity() {
    let authority = Authority::new("testssl");
    authority.make("server");
    let server = authority.start("", &[]);
    let findings = authority.dir.join("findings.csv");
    let mut command = Command::new("testssl");
    command.args(["--quiet", "--color", "0", "--severity", "LOW", "--add-ca"]).arg(authority.dir.join("ca.pem"));
    command.arg("--csvfile").arg(&findings).arg(format!("localhost:{}", server.data.port()));
    let output = command.output().expect("Debian has it in testssl.sh");
    let findings = fs::read_to_string(findings).unwrap_or_default();
    println!("{findings}");
    // A certificate of a test has nobody who could revoke it. Every suite is strong, so the client's order decides, as
    // Mozilla advises for this profile.
    let allowed = ["cert_revocation", "cert_chain_of_trust", "cipher_order"];
    let is_serious = |line: &&str| {
        let severities = ["MEDIUM", "HIGH", "CRITICAL", "FATAL"];
        severities.iter().any(|severity| line.contains(&format!("\"{severity}\"")))
            && !allowed.iter().any(|id| line.contains(id))
    };
    let serious: Vec<&str> = findings.lines().filter(is_serious).collect();
    assert!(!findings.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(serious.is_empty(), "{serious:#?}");
}

#[test]
fn certificates_are_replaced_a_hundred_times_under_load() {
    let authority = Authority::new("replaced");
    ["one", "two", "three", "server"].iter().for_each(|name| authority.make(name));
    let server = authority.start("", &[]);
    run_python_with("replaced", &server, &authority.dir.join("ca.pem"), 4 * PATIENCE);
    let failures = crate::counter(&server, "ringfeed_tls_failures_total", "");
    assert_eq!(failures, 0, "no handshake failed");
    let path: &Path = &authority.dir;
    fs::remove_dir_all(path).expect("the directory was made here");
}
