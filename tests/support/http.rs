//! One plain HTTP/1.1 exchange over a connection of its own, written by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// An answer, read to the end of its connection.
pub(crate) struct Response {
    /// The three digits of the status line.
    pub status: u16,
    /// Status line and header fields, as sent.
    pub head: String,
    /// What follows the empty line.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of the header field `name`, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(field, value)| field.eq_ignore_ascii_case(name).then(|| value.trim()))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }
}

/// `GET path`, read until the server closes.
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
}

/// `POST path` with a body, read until the server closes.
pub(crate) fn post(address: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> Response {
    let length = body.len();
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    exchange(address, &request)
}

/// Sends `request` as it is and reads the answer until the server closes.
///
/// # Panics
/// When there is no whole answer within [`PATIENCE`].
pub(crate) fn exchange(address: SocketAddr, request: &[u8]) -> Response {
    exchange_on(connect(address), request)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// The same on a stream that is connected to the server.
///
/// # Panics
/// When there is no whole answer.
pub(crate) fn exchange_on(mut stream: impl Read + Write, request: &[u8]) -> Response {
    // A server that refuses a request need not read all of it; what counts is its answer.
    let _ = stream.write_all(request);
    read_response(stream)
}

/// Sends `request` as it is and reads the head of the answer, up to and with the empty line.
///
/// # Panics
/// When there is none within [`PATIENCE`].
pub(crate) fn head_of(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(request).expect("the server reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer with a head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head of text")
}

/// Reads an answer that ends with the connection.
pub(crate) fn read_response(mut stream: impl Read) -> Response {
    let mut bytes = Vec::new();
    // A reset behind an answer is the server's right when it left request bytes unread; the answer counts.
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert!(!bytes.is_empty(), "no answer: {error}");
    }
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("not an HTTP answer: {:?}", String::from_utf8_lossy(&bytes)));
    let head = String::from_utf8(bytes[..end].to_vec()).expect("a head of text");
    let status = head.get(9..12).and_then(|digits| digits.parse().ok());
    let status = status.unwrap_or_else(|| panic!("not a status line: {head:?}"));
    Response { status, head, body: bytes[end + 4..].to_vec() }
}
