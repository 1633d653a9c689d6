//! Certificates of clients: required or optional, judged by `openssl s_client` and Python's `ssl`; bad ones are refused
//! and counted.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use ringfeed::server::{ListenAddress, ListenerConfig, ServerConfig};
use ringfeed::tls::{CertificateFiles, ClientCertificates, TlsSettings};
use ringfeed::{Context, Get, Handler, Message, Page, Refusal, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::authority::Authority;
use crate::openssl::request_with;
use crate::support::http;
use crate::support::server::Server;
use crate::{PATIENCE, counter, run_python_with};

fn lines(authority: &Authority, wanted: &str) -> String {
    format!("client_certificates = \"{wanted}\"\nclient_ca_file = \"{}\"\n", authority.path("ca.pem"))
}

/// What openssl prints of a client with the certificate and key of these names, in both versions.
fn say(server: &Server, authority: &Authority, client: Option<(&Authority, &str)>, flags: &[&str]) -> [String; 2] {
    let files = client.map(|(of, name)| [of.path(&format!("{name}.crt")), of.path(&format!("{name}.key"))]);
    let shown: Vec<&str> = files.iter().flat_map(|[cert, key]| ["-cert", cert, "-key", key]).collect();
    ["-tls1_3", "-tls1_2"]
        .map(|version| request_with(server, &authority.dir.join("ca.pem"), &[&[version], &shown[..], flags].concat()))
}

fn is_served(said: &[String; 2]) -> bool {
    let served = said.iter().map(|said| said.contains("HTTP/1.1 404"));
    let served: Vec<bool> = served.collect();
    assert_eq!(served[0], served[1], "both versions are alike: {said:#?}");
    served[0]
}

#[test]
fn a_client_without_a_good_certificate_is_refused_and_counted() {
    let (authority, stranger) = (Authority::new("clients"), Authority::new("strangers"));
    authority.make("server");
    authority.make_client("ann", 90);
    authority.make_client("late", -1);
    stranger.make_client("eve", 90);
    let server = authority.start(&lines(&authority, "required"), &[]);
    let failures = |cause: &str| counter(&server, "ringfeed_tls_failures_total", &format!("cause=\"{cause}\""));
    assert!(is_served(&say(&server, &authority, Some((&authority, "ann")), &[])));
    assert_eq!(counter(&server, "ringfeed_tls_client_certificates_total", ""), 2);
    assert_eq!(failures("no_certificate") + failures("bad_certificate"), 0);

    let said = say(&server, &authority, None, &[]);
    assert!(!is_served(&said) && said[0].contains("certificate required"), "{said:?}");
    assert_eq!((failures("no_certificate"), failures("bad_certificate")), (2, 0));
    let said = say(&server, &authority, Some((&authority, "late")), &[]);
    assert!(!is_served(&said) && said[0].contains("certificate expired"), "{said:?}");
    let said = say(&server, &authority, Some((&stranger, "eve")), &[]);
    assert!(!is_served(&said) && said[0].contains("unknown ca"), "{said:?}");
    assert_eq!((failures("no_certificate"), failures("bad_certificate")), (2, 4));
    // The server's own certificate is for servers.
    assert!(!is_served(&say(&server, &authority, Some((&authority, "server")), &[])));
    assert_eq!(failures("bad_certificate"), 6);

    // A chain of more bytes than a handshake may have.
    let link = fs::read_to_string(authority.dir.join("ann.crt")).expect("a file");
    fs::write(authority.dir.join("chain.pem"), link.repeat(90)).expect("a file");
    let chain = authority.path("chain.pem");
    assert!(!is_served(&say(&server, &authority, Some((&authority, "ann")), &["-cert_chain", &chain])));
    assert_eq!(failures("too_long"), 2);
    assert_eq!(counter(&server, "ringfeed_tls_client_certificates_total", ""), 2);
}

#[test]
fn whose_certificate_it_is_stands_in_the_log_and_in_lists() {
    let authority = Authority::new("subjects");
    authority.make("server");
    authority.make_client("ann", 90);
    let server = authority.start(&lines(&authority, "optional"), &["--echo", "--log-format", "json"]);
    run_python_with("client_certificate", &server, &authority.dir.join("ca.pem"), 2 * PATIENCE);
    assert!(is_served(&say(&server, &authority, None, &[])), "none is needed");
    let log = server.stop();
    let rejected: Vec<&str> = log.lines().filter(|line| line.contains("request rejected")).collect();
    assert!(rejected.iter().any(|line| line.contains("\"subject\":\"CN=ann,O=Example\"")), "{log}");
    assert!(rejected.iter().any(|line| !line.contains("\"subject\"")), "{log}");
}

#[test]
fn a_reload_requires_certificates_also_of_clients_with_a_ticket() {
    let authority = Authority::new("later");
    authority.make("server");
    let keys = authority.dir.join("tickets.key");
    fs::write(&keys, format!("{}\n", "0a".repeat(32))).expect("a file");
    let tickets = format!("ticket_key_file = \"{}\"\n", keys.display());
    let server = authority.start(&tickets, &[]);
    let ca = authority.dir.join("ca.pem");
    for version in ["-tls1_3", "-tls1_2"] {
        let session = authority.path(version);
        let before = request_with(&server, &ca, &[version, "-sess_out", &session]);
        assert!(before.contains("HTTP/1.1 404"), "{before}");
        let resumed = request_with(&server, &ca, &[version, "-sess_in", &session]);
        assert!(resumed.contains("Reused, "), "{resumed}");
    }
    authority.config(&format!("{tickets}{}", lines(&authority, "required")));
    assert_eq!(http::post(server.control, "/reload", "text/plain", b"").status, 200);
    for version in ["-tls1_3", "-tls1_2"] {
        let said = request_with(&server, &ca, &[version, "-sess_in", &authority.path(version)]);
        assert!(!said.contains("Reused, ") && !said.contains("HTTP/1.1 404"), "{said}");
    }
    authority.config(&format!("{tickets}client_ca_file = \"x\"\n"));
    let answer = http::post(server.control, "/reload", "text/plain", b"");
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("set client_certificates to"), "{}", answer.text());
}

/// Says who the client is.
struct WhoAmI;

impl Handler for WhoAmI {
    type State = ();

    fn on_get(&mut self, _: &mut Context<'_>, request: &Get<'_>) -> Result<Response<()>, Refusal> {
        let subject = request.client_subject.unwrap_or("nobody").to_owned();
        Ok(Page::new("text/plain; charset=utf-8", subject.into_bytes()).into())
    }

    fn on_message(&mut self, _: &mut Context<'_>, (): &mut (), _: Message<'_>) {}
}

#[test]
fn a_handler_of_the_library_sees_the_subject() {
    let authority = Authority::new("library");
    authority.make("server");
    authority.make_client("ann", 90);
    let dir = &authority.dir;
    let files = CertificateFiles { cert_file: dir.join("server.crt"), key_file: dir.join("server.key") };
    let config = ServerConfig {
        listeners: vec![ListenerConfig {
            tls: true,
            ..ListenerConfig::new(ListenAddress::Ip(([127, 0, 0, 1], 0).into()))
        }],
        tls: TlsSettings {
            certificates: vec![files],
            client_certificates: ClientCertificates::Optional,
            client_ca_file: dir.join("ca.pem"),
            ..TlsSettings::default()
        },
        shards: 1,
        ..ServerConfig::default()
    };
    let server = ringfeed::Server::builder(config).route("/", || WhoAmI).start().expect("the server starts");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).expect("PEM")).expect("a certificate");
    let builder = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        builder.expect("versions").with_root_certificates(roots.clone())
    };
    let chain = vec![CertificateDer::from_pem_file(dir.join("ann.crt")).expect("PEM")];
    let key = PrivateKeyDer::from_pem_file(dir.join("ann.key")).expect("PEM");
    let ann = Arc::new(builder().with_client_auth_cert(chain, key).expect("a certificate and its key"));
    let nobody = Arc::new(builder().with_no_client_auth());
    // The second connection of each resumes the session of the first.
    for (config, subject) in
        [(&ann, "CN=ann,O=Example"), (&ann, "CN=ann,O=Example"), (&nobody, "nobody"), (&nobody, "nobody")]
    {
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = rustls::ClientConnection::new(config.clone(), name).expect("a client");
        let socket = TcpStream::connect(server.address()).expect("the server accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let mut stream = rustls::StreamOwned::new(connection, socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the server reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer that ends");
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.ends_with(&format!("\r\n\r\n{subject}")), "{answer}");
    }
    assert!(server.status.shards[0].tls_resumed.iter().map(|cell| cell.get()).sum::<u64>() >= 2);
    server.shutdown();
}
