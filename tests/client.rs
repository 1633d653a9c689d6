//! `ringfeed sub` and `pub` over TLS and through real proxies: what they trust, and what they say when they do not.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use support::http;
use support::process::Process;
use support::server::{Server, certificate, ringfeed};
use support::{PATIENCE, target_dir};

/// `sub` to this URL for one message, with these flags.
fn sub(url: &str, flags: &[&str]) -> Command {
    let mut command = ringfeed();
    command.args(["sub", "--count", "1", "--once", url]).args(flags);
    command
}

/// What a `sub` says that must fail.
fn failure(mut command: Command) -> String {
    let output = command.output().expect("the binary starts");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// Publishes until the `sub` has received a message; returns what it says on standard error.
fn receives(server: &Server, command: Command) -> String {
    let mut process = Process::start("sub", command);
    let deadline = Instant::now() + PATIENCE;
    while !process.has_ended() {
        assert!(Instant::now() < deadline, "sub does not receive");
        assert_eq!(http::post(server.control, "/publish/a", "text/plain", b"hi").status, 200);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(process.next_line(PATIENCE).as_deref(), Some("hi"));
    process.all_errors(PATIENCE)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}

#[test]
fn sub_trusts_a_file_the_environment_or_anybody() {
    let server = Server::start_secure(&[]);
    let url = server.ws_url("/feed/a");
    receives(&server, sub(&url, &["--ca-file", text(certificate())]));
    let mut by_environment = sub(&url, &[]);
    by_environment.env("SSL_CERT_FILE", certificate());
    receives(&server, by_environment);
    let said = receives(&server, sub(&url, &["--insecure"]));
    assert!(said.contains("--insecure: the server's certificate is not checked"), "{said}");
    let mut without = sub(&url, &[]);
    without.env("SSL_CERT_DIR", "/nowhere").env("SSL_CERT_FILE", "/nowhere");
    let said = failure(without);
    assert!(said.contains("install ca-certificates") && said.contains("SSL_CERT_FILE"), "{said}");
    let said = failure(sub(&url, &["--ca-file", "/nowhere"]));
    assert!(said.contains("/nowhere: cannot be read"), "{said}");
}

/// An authority, and a server with a certificate of it.
struct Authority {
    file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let file = dir().join(format!("{name}.pem"));
        fs::write(&file, certificate.pem()).expect("the target directory can be written to");
        Authority { file, issuer: Issuer::new(params, key) }
    }

    fn start(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Server {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let [cert_file, key_file, config] = ["crt", "key", "toml"].map(|kind| dir().join(format!("{name}.{kind}")));
        fs::write(&cert_file, certificate.pem()).expect("the target directory can be written to");
        fs::write(&key_file, key.serialize_pem()).expect("the target directory can be written to");
        let files = format!("{{ cert_file = \"{}\", key_file = \"{}\" }}", cert_file.display(), key_file.display());
        let text = format!("[[listener]]\naddress = \"127.0.0.1:0\"\ntls = true\n[tls]\ncertificates = [{files}]\n");
        fs::write(&config, text).expect("the target directory can be written to");
        Server::start_with_config(&config, &[])
    }
}

fn dir() -> PathBuf {
    let dir = target_dir("client").join(std::process::id().to_string());
    fs::create_dir_all(&dir).expect("the target directory can be written to");
    dir
}

#[test]
fn the_control_port_speaks_tls_to_pub_reload_and_curl() {
    let config = dir().join("control.toml");
    let tls = fs::read_to_string(certificate().with_file_name("tls.toml")).expect("made with the certificate");
    let tls = tls.replace("tls = true\n", "");
    fs::write(&config, format!("{tls}[server]\ncontrol_tls = true\n[api]\nkey = \"secret\"\n")).expect("a file");
    let server = Server::start_with_config(&config, &[]);
    let base = format!("https://localhost:{}", server.control.port());
    let run = |arguments: &[&str]| {
        let mut command = ringfeed();
        command.args(arguments).env("RINGFEED_API_KEY", "secret").env("RINGFEED_CA_FILE", certificate());
        let output = command.output().expect("the binary starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    };
    let (code, text) = run(&["pub", &format!("{base}/publish/a"), "hi"]);
    assert!(code == Some(0) && text.contains("\"offset\":1"), "{text}");
    let (code, text) = run(&["reload", &base]);
    assert_eq!((code, text.as_str()), (Some(0), "1 certificates\n"));
    let (code, text) = run(&["pub", &server.control_url("/publish/a"), "hi"]);
    assert_eq!(code, Some(1), "{text}");
    // A client that says nothing keeps no one else out.
    let _silent = TcpStream::connect(server.control).expect("the server accepts");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--header", "X-API-Key: secret", "--cacert"]).arg(certificate());
    curl.args([format!("{base}/metrics"), format!("{base}/healthz")]);
    let answers = Process::start("curl", curl).succeed(PATIENCE);
    assert!(answers.contains("ringfeed_tls_certificate_expiry_timestamp_seconds{"), "{answers}");
}

#[test]
fn each_fault_of_a_certificate_has_its_own_sentence() {
    let authority = Authority::new("authority");
    let trust = ["--ca-file", text(&authority.file)];
    let good = authority.start("good", |_| {});
    receives(&good, sub(&good.ws_url("/feed/a"), &trust));
    let other = Authority::new("other");
    let said = failure(sub(&good.ws_url("/feed/a"), &["--ca-file", text(&other.file)]));
    assert!(said.contains("issuer that this host does not trust") && said.contains("--ca-file"), "{said}");
    let said = failure(sub(&format!("wss://127.0.0.1:{}/feed/a", good.data.port()), &trust));
    assert!(said.contains("is for other names"), "{said}");
    let expired = authority.start("expired", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let said = failure(sub(&expired.ws_url("/feed/a"), &trust));
    assert!(said.contains("has expired"), "{said}");
    let early = authority.start("early", |params| params.not_before = date_time_ymd(4000, 1, 1));
    let said = failure(sub(&early.ws_url("/feed/a"), &trust));
    assert!(said.contains("is not valid yet"), "{said}");
    let plain = Server::start(&[]);
    let said = failure(sub(&format!("wss://localhost:{}/feed/a", plain.data.port()), &trust));
    assert!(said.contains("does not speak TLS"), "{said}");
}

/// A tinyproxy with these lines of configuration.
fn tinyproxy(name: &str, lines: &str) -> (Process, SocketAddr) {
    for _ in 0..5 {
        // The proxy binds the port again a moment later; if another process is quicker, the proxy ends.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("a bound socket has an address");
        drop(free);
        let config = dir().join(format!("{name}.conf"));
        let text = format!("Port {}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\n{lines}", address.port());
        fs::write(&config, text).expect("the target directory can be written to");
        let mut command = Command::new("tinyproxy");
        command.arg("-d").arg("-c").arg(config);
        let mut process = Process::start("tinyproxy", command);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !process.has_ended() {
            if TcpStream::connect(address).is_ok() {
                return (process, address);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("tinyproxy does not start; is it installed?");
}

#[test]
fn sub_and_pub_go_through_a_proxy_with_and_without_tls() {
    let (_proxy, address) = tinyproxy("auth", "BasicAuth user secret1\n");
    let proxy = format!("http://user:secret1@{address}");
    let (plain, secure) = (Server::start(&[]), Server::start_secure(&[]));
    receives(&plain, sub(&plain.ws_url("/feed/a"), &["--proxy", &proxy]));
    receives(&secure, sub(&secure.ws_url("/feed/a"), &["--proxy", &proxy, "--ca-file", text(certificate())]));
    let mut publish = ringfeed();
    publish.args(["pub", "--proxy", &proxy, &plain.control_url("/publish/a"), "hi"]);
    assert!(Process::start("pub", publish).succeed(PATIENCE).contains("\"offset\":"));
    let mut by_environment = sub(&plain.ws_url("/feed/a"), &[]);
    by_environment.env("RINGFEED_PROXY", &proxy);
    receives(&plain, by_environment);
    // The proxy is not for loopback addresses, unless a flag says so.
    let mut direct = sub(&plain.ws_url("/feed/a"), &[]);
    direct.env("http_proxy", "http://127.0.0.1:1").env("ALL_PROXY", "http://127.0.0.1:1");
    receives(&plain, direct);
    let said = failure(sub(&plain.ws_url("/feed/a"), &["--proxy", &format!("http://{address}")]));
    assert!(said.contains("requires a user and a password") && said.contains("Basic"), "{said}");
    let said = failure(sub(&plain.ws_url("/feed/a"), &["--proxy", &format!("http://user:wrong@{address}")]));
    assert!(said.contains("rejects the user or the password") && !said.contains("wrong"), "{said}");
}

#[test]
fn a_proxy_that_allows_no_tunnel_is_explained() {
    let (_proxy, address) = tinyproxy("ports", "ConnectPort 443\n");
    let server = Server::start(&[]);
    let said = failure(sub(&server.ws_url("/feed/a"), &["--proxy", &format!("http://{address}")]));
    assert!(said.contains("many proxies allow CONNECT to port 443 only"), "{said}");
    let said = failure(sub(&server.ws_url("/feed/a"), &["--proxy", &format!("http://{}", server.data)]));
    assert!(said.contains("HTTP status 400"), "{said}");
    let output = sub(&server.ws_url("/feed/a"), &["--proxy", "socks5://a:1"]).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("http://USER:PASSWORD@HOST:PORT"), "{output:?}");
}

#[test]
fn a_redirect_is_reported_and_not_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let requests = thread::spawn(move || {
        let answer = "HTTP/1.1 302 Found\r\nLocation: wss://elsewhere.test/feed/a\r\nContent-Length: 0\r\n\r\n";
        (0..2).for_each(|_| {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).expect("a request");
            stream.write_all(answer.as_bytes()).expect("the client reads");
            let _ = stream.read(&mut request);
        });
    });
    let said = failure(sub(&format!("ws://{address}/feed/a"), &["--token", "secret"]));
    assert!(said.contains("302: it redirects to wss://elsewhere.test/feed/a"), "{said}");
    let mut publish = ringfeed();
    publish.args(["pub", &format!("http://{address}/publish/a"), "hi"]);
    let said = failure(publish);
    assert!(said.contains("302: it redirects to wss://elsewhere.test/feed/a"), "{said}");
    requests.join().expect("two requests");
}
