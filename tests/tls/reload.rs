//! Certificates are replaced while the server runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::counter;
use crate::support::http;
use crate::support::process::Process;
use crate::support::server::{Server, ringfeed};
use crate::support::{PATIENCE, target_dir};

/// A directory with a certificate and a configuration that names it.
fn directory(name: &str) -> PathBuf {
    let dir = target_dir("tls").join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    make(&dir);
    let path = dir.display();
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = true\n[tls]\n\
         certificates = [{{ cert_file = \"{path}/cert.pem\", key_file = \"{path}/key.pem\" }}]\n"
    );
    fs::write(dir.join("tls.toml"), config).expect("the target directory can be written to");
    dir
}

fn make(dir: &Path) {
    for file in ["cert.pem", "key.pem"] {
        let _ = fs::remove_file(dir.join(file));
    }
    let made = ringfeed().args(["cert", "--self-signed", "--out"]).arg(dir).output().expect("the binary starts");
    assert!(made.status.success());
}

/// Whether a client that trusts this certificate only can connect.
fn is_shown(server: &Server, cert: &Path) -> bool {
    let mut command = Command::new("curl");
    command.args(["--silent", "--output", "/dev/null", "--cacert"]).arg(cert);
    command.arg(format!("https://localhost:{}/", server.data.port()));
    Process::start("curl", command).wait(PATIENCE).success()
}

fn hang_up(server: &Server) {
    assert!(Command::new("kill").args(["-HUP", &server.id().to_string()]).status().expect("kill").success());
}

#[test]
fn a_signal_and_a_request_replace_the_certificates() {
    let dir = directory("replace");
    let server = Server::start_with_config(&dir.join("tls.toml"), &[]);
    let (cert, old) = (dir.join("cert.pem"), dir.join("old.pem"));
    assert!(is_shown(&server, &cert));
    fs::copy(&cert, &old).expect("a copy");
    make(&dir);
    assert!(is_shown(&server, &old), "nothing changes before it is asked for");
    let answer = http::post(server.control, "/reload", "text/plain", b"");
    assert_eq!((answer.status, answer.text()), (200, "1 certificates\n"));
    assert!(is_shown(&server, &cert) && !is_shown(&server, &old));
    make(&dir);
    hang_up(&server);
    let deadline = Instant::now() + PATIENCE;
    while counter(&server, "ringfeed_reloads_total", "applied") < 2 {
        assert!(Instant::now() < deadline, "the signal was not heeded");
    }
    assert!(is_shown(&server, &cert));
}

#[test]
fn a_bad_file_changes_nothing_and_is_told() {
    let dir = directory("refuse");
    let server = Server::start_with_config(&dir.join("tls.toml"), &[]);
    let good = dir.join("good.pem");
    fs::copy(dir.join("cert.pem"), &good).expect("a copy");
    let config = fs::read_to_string(dir.join("tls.toml")).expect("a file");
    let reload = || {
        let answer = http::post(server.control, "/reload", "text/plain", b"");
        (answer.status, answer.text().to_owned())
    };
    fs::write(dir.join("cert.pem"), "-----BEGIN NONSENSE-----").expect("a file");
    let (status, text) = reload();
    assert!(status == 422 && text.contains("cert.pem: ") && text.starts_with("nothing has changed"), "{text}");
    fs::copy(&good, dir.join("cert.pem")).expect("a copy");
    fs::write(dir.join("tls.toml"), format!("{config}nonsense = 1\n")).expect("a file");
    let (status, text) = reload();
    assert!(status == 422 && text.contains("tls.toml:6: there is no key tls.nonsense"), "{text}");
    fs::write(dir.join("tls.toml"), format!("{config}min_version = \"1.3\"\n[server]\necho = true\n")).expect("a file");
    let (status, text) = reload();
    assert!(status == 200 && text.contains("these keys need a restart: server.echo"), "{text}");
    assert!(is_shown(&server, &good));
    assert_eq!(counter(&server, "ringfeed_reloads_total", "refused"), 2);
}

#[test]
fn a_signal_without_a_file_ends_nothing() {
    let server = Server::start(&[]);
    hang_up(&server);
    let deadline = Instant::now() + PATIENCE;
    while counter(&server, "ringfeed_reloads_total", "refused") < 1 {
        assert!(Instant::now() < deadline, "the signal was not heeded");
    }
    assert_eq!(http::get(server.data, "/").status, 200);
}
