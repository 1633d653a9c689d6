//! Clients that mean no good: each is bounded and counted, and others do not notice.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use ringfeed::limits::{TLS_EMPTY_RECORDS_MAX, TLS_HANDSHAKE_BYTES_MAX};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::support::server::{Server, certificate};
use crate::support::{PATIENCE, target_dir};
use crate::{counter, curl};

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.data).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// All bytes until the server ends the connection.
fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn expect_service(server: &Server) {
    assert!(curl(server, "/").ends_with("200\n"), "others are served");
}

#[test]
fn garbage_is_refused_and_counted() {
    let server = Server::start_secure(&[]);
    let rows: [(&[u8], &str); 4] = [
        (b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10", "not_tls"),
        (b"\x00\x01\x02\x03\x04", "not_tls"),
        (b"\x16\x03\x01\xff\xff\x00", "protocol"),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", "protocol"),
    ];
    for (bytes, cause) in rows {
        let labels = format!("cause=\"{cause}\"");
        let before = counter(&server, "ringfeed_tls_failures_total", &labels);
        let mut stream = connect(&server);
        stream.write_all(bytes).expect("the server reads");
        let answer = read_to_end(stream);
        assert!(answer.is_empty() || answer[0] == 21, "nothing, or an alert: {answer:?}");
        assert_eq!(counter(&server, "ringfeed_tls_failures_total", &labels), before + 1, "{bytes:?}");
    }
    expect_service(&server);
}

#[test]
fn half_a_handshake_ends_in_time() {
    let server = Server::start_secure(&["--handshake-timeout-ms", "300"]);
    let streams: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = connect(&server);
            stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").expect("the server reads");
            stream
        })
        .collect();
    expect_service(&server);
    for stream in streams {
        assert_eq!(read_to_end(stream), b"", "there is no answer before the handshake is over");
    }
    assert_eq!(counter(&server, "ringfeed_connections_closed_total", "handshake_timeout"), 50);
    expect_service(&server);
}

#[test]
fn a_handshake_without_end_is_cut_off() {
    let server = Server::start_secure(&[]);
    let mut stream = connect(&server);
    // A first message of 16 MB, in records of one byte.
    stream.write_all(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff").expect("the server reads");
    let records = b"\x16\x03\x01\x00\x01a".repeat(TLS_HANDSHAKE_BYTES_MAX);
    // It may have been reset by now.
    let _ = stream.write_all(&records);
    read_to_end(stream);
    let of = |cause: &str| counter(&server, "ringfeed_tls_failures_total", &format!("cause=\"{cause}\""));
    assert_eq!(of("too_long") + of("protocol"), 1);
    expect_service(&server);
}

/// A client of TLS 1.3 whose handshake is over.
fn established(server: &Server) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate()).expect("PEM")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("a version");
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    let client = rustls::ClientConnection::new(config, ServerName::try_from("localhost").expect("a name"));
    let mut stream = rustls::StreamOwned::new(client.expect("a client"), connect(server));
    stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    stream
}

#[test]
fn a_flood_of_new_keys_ends_the_connection() {
    let server = Server::start_secure(&[]);
    let failures = || counter(&server, "ringfeed_tls_failures_total", "cause=\"record\"");
    let mut stream = established(&server);
    // As many in succession as a client may send, then data.
    for _ in 0..TLS_EMPTY_RECORDS_MAX {
        stream.conn.refresh_traffic_keys().expect("TLS 1.3");
    }
    stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the server reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer that ends");
    assert!(answer.starts_with(b"HTTP/1.1 404 "), "{}", answer.escape_ascii());
    assert_eq!(failures(), 0);
    let mut stream = established(&server);
    for _ in 0..=TLS_EMPTY_RECORDS_MAX {
        stream.conn.refresh_traffic_keys().expect("TLS 1.3");
    }
    stream.conn.write_tls(&mut stream.sock).expect("the server reads");
    let mut answer = Vec::new();
    // An alert, then the end.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty());
    assert_eq!(failures(), 1);
    expect_service(&server);
}

#[test]
fn a_second_header_of_a_proxy_is_no_header() {
    let config = target_dir("tls").join(format!("twice-{}.toml", std::process::id()));
    let tls = fs::read_to_string(certificate().with_file_name("tls.toml")).expect("made with the certificate");
    let tls = tls.replace("tls = true\n", "tls = true\nproxy_protocol = \"require\"\n");
    let plain = "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"require\"\n";
    let trusted = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    fs::write(&config, format!("{tls}{plain}{trusted}")).expect("the target directory can be written to");
    let server = Server::start_with_config(&config, &[]);
    let second = server.listeners[1].strip_prefix("ws://").expect("a URL").parse().expect("an address");
    let headers = b"PROXY TCP4 192.0.2.1 127.0.0.1 4000 80\r\nPROXY TCP4 192.0.2.2 127.0.0.1 4000 80\r\n";
    // TLS takes the second one for HTTP, and HTTP for a request that ends with a port instead of a version.
    for (address, status) in [(server.data, "400"), (second, "505")] {
        let mut stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let request = [headers, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".as_slice()].concat();
        stream.write_all(&request).expect("the server reads");
        let answer = read_to_end(stream);
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{address}: {}", answer.escape_ascii());
    }
    assert_eq!(counter(&server, "ringfeed_tls_failures_total", "plain_http"), 1);
    // A header of version 2 that says it has 65,535 bytes.
    let mut stream = TcpStream::connect(second).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let huge = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".as_slice(), &[0; 4000]].concat();
    let _ = stream.write_all(&huge);
    assert_eq!(read_to_end(stream), b"");
    assert_eq!(counter(&server, "ringfeed_proxy_headers_refused_total", ""), 1);
    let log = server.stop();
    assert!(log.contains("plain HTTP on a TLS port") && log.contains("no valid PROXY header"), "{log}");
    assert!(!log.contains("192.0.2.2"), "the first header counts: {log}");
}
