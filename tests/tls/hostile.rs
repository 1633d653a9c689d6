//! Clients that mean no good: each is bounded and counted, and others do not notice.

use std::io::{Read, Write};
use std::net::TcpStream;

use ringfeed::limits::TLS_HANDSHAKE_BYTES_MAX;

use crate::support::PATIENCE;
use crate::support::server::Server;
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
