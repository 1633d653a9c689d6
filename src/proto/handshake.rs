//! The server side of the opening handshake: RFC 6455 §4.2, and plain HTTP responses for all other requests.
//!
//! This module decides whether a request is a valid upgrade. The caller decides whether to accept it, by path, origin,
//! subprotocol and extensions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::extensions::{ExtensionOffer, InvalidList, decode_extensions, decode_tokens};
use super::{HandshakeError, Host, RequestHead};

/// The constant hashed into the accept key (RFC 6455 §1.3).
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The constant part of every 101 response, up to the accept key.
const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: ";

/// Bytes of the nonce in `Sec-WebSocket-Key` (RFC 6455 §4.1 item 7).
const KEY_BYTES: usize = 16;

/// The one version of the protocol (RFC 6455 §4.1 item 9).
pub(super) const VERSION: &str = "13";

/// A valid request to open a WebSocket. Borrows from the request head.
#[derive(Clone, Debug)]
pub struct Upgrade<'a> {
    /// `Sec-WebSocket-Key`, valid.
    pub key: &'a str,
    /// `Host`: the authority that the client addresses.
    pub host: Host<'a>,
    /// `Origin`: the site of the connecting page. Browsers always send it; other clients may send anything.
    pub origin: Option<&'a str>,
    subprotocols: Vec<&'a str>,
    extensions: Vec<ExtensionOffer<'a>>,
}

impl<'a> Upgrade<'a> {
    /// Checks a request against RFC 6455 §4.2.1.
    ///
    /// # Errors
    /// [`NotAnUpgrade`](HandshakeError::NotAnUpgrade) for a GET without any part of a WebSocket handshake: the caller
    /// may serve a page. Any other error is a failed handshake: reject it with [`encode_refusal`].
    pub fn from_request(head: &RequestHead<'a>) -> Result<Self, HandshakeError> {
        if head.method != "GET" {
            return Err(HandshakeError::MethodNotAllowed);
        }
        let names_websocket = head.lists("Upgrade", "websocket");
        if !names_websocket && head.values("Sec-WebSocket-Key").next().is_none() {
            return Err(HandshakeError::NotAnUpgrade);
        }
        if !head.is_http_1_1 {
            return Err(HandshakeError::HttpVersionUnsupported);
        }
        let host = head.host.ok_or(HandshakeError::HostMissing)?;
        if !names_websocket {
            return Err(HandshakeError::UpgradeMissing);
        }
        if !head.lists("Connection", "upgrade") {
            return Err(HandshakeError::ConnectionMissing);
        }
        if head.single("Sec-WebSocket-Version")? != Some(VERSION) {
            return Err(HandshakeError::VersionUnsupported);
        }
        let key = head.single("Sec-WebSocket-Key")?.ok_or(HandshakeError::KeyInvalid)?;
        check_key(key)?;
        check_no_body(head)?;
        Ok(Self {
            key,
            host,
            origin: head.single("Origin")?,
            subprotocols: subprotocols(head)?,
            extensions: extensions(head)?,
        })
    }

    /// The subprotocols that the client offers, in its order of preference (RFC 6455 §1.9).
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        self.subprotocols.iter().copied()
    }

    /// The extensions that the client offers, in its order of preference (RFC 6455 §9.1).
    pub fn extensions(&self) -> impl Iterator<Item = &ExtensionOffer<'a>> {
        self.extensions.iter()
    }
}

fn check_key(key: &str) -> Result<(), HandshakeError> {
    match STANDARD.decode(key) {
        Ok(nonce) if nonce.len() == KEY_BYTES => Ok(()),
        Ok(_) | Err(_) => Err(HandshakeError::KeyInvalid),
    }
}

/// A GET's body has no meaning (RFC 9110 §9.3.1), and after an upgrade its bytes would be taken for frames.
fn check_no_body(head: &RequestHead<'_>) -> Result<(), HandshakeError> {
    let is_empty = head.single("Content-Length")?.is_none_or(|length| length == "0");
    let is_chunked = head.values("Transfer-Encoding").next().is_some();
    if is_empty && !is_chunked { Ok(()) } else { Err(HandshakeError::BodyUnexpected) }
}

fn subprotocols<'a>(head: &RequestHead<'a>) -> Result<Vec<&'a str>, HandshakeError> {
    let mut tokens = Vec::new();
    for value in head.values("Sec-WebSocket-Protocol") {
        decode_tokens(value?, &mut tokens).map_err(|InvalidList| HandshakeError::SubprotocolsInvalid)?;
    }
    Ok(tokens)
}

fn extensions<'a>(head: &RequestHead<'a>) -> Result<Vec<ExtensionOffer<'a>>, HandshakeError> {
    let mut offers = Vec::new();
    for value in head.values("Sec-WebSocket-Extensions") {
        decode_extensions(value?, &mut offers).map_err(|InvalidList| HandshakeError::ExtensionsInvalid)?;
    }
    Ok(offers)
}

/// Appends the 101 response (RFC 6455 §4.2.2), with the subprotocol and the extensions that the caller chose from the
/// offers.
///
/// # Panics
/// If `subprotocol` or `extensions` contains control characters.
pub fn encode_accept(out: &mut Vec<u8>, upgrade: &Upgrade<'_>, subprotocol: Option<&str>, extensions: Option<&str>) {
    out.extend_from_slice(ACCEPTED);
    out.extend_from_slice(accept_key(upgrade.key).as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some(subprotocol) = subprotocol {
        encode_header(out, "Sec-WebSocket-Protocol", subprotocol);
    }
    if let Some(extensions) = extensions {
        encode_header(out, "Sec-WebSocket-Extensions", extensions);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a plain HTTP response that closes the connection.
///
/// # Panics
/// If `content_type` or a header contains control characters.
pub fn encode_response(
    out: &mut Vec<u8>,
    status: u16,
    content_type: &str,
    body: &[u8],
    extra_headers: &[(&str, &str)],
) {
    encode_status_line(out, status);
    // A response with 204 ends with its head (RFC 9110 §15.3.5).
    if status != 204 {
        encode_header(out, "Content-Type", content_type);
        encode_header(out, "Content-Length", &body.len().to_string());
    }
    encode_header(out, "Connection", "close");
    for (name, value) in extra_headers {
        encode_header(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
    if status != 204 {
        out.extend_from_slice(body);
    }
}

/// Appends the head of a response with a body that ends when the connection closes.
///
/// # Panics
/// If `content_type` or a header contains control characters.
pub fn encode_stream_head(out: &mut Vec<u8>, content_type: &str, extra_headers: &[(&str, String)]) {
    encode_status_line(out, 200);
    encode_header(out, "Content-Type", content_type);
    encode_header(out, "Connection", "close");
    for (name, value) in extra_headers {
        encode_header(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the rejection of a handshake, with a body that names the remedy.
pub fn encode_refusal(out: &mut Vec<u8>, error: HandshakeError) {
    let extra_headers: &[(&str, &str)] = match error.status() {
        405 => &[("Allow", "GET")],
        // A sender of Upgrade must list it in Connection (RFC 9110 §7.8).
        426 => &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)],
        _ => &[],
    };
    let body = format!("{error}\n");
    encode_response(out, error.status(), "text/plain; charset=utf-8", body.as_bytes(), extra_headers);
}

/// The `Sec-WebSocket-Accept` value for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2 item 5.4).
pub fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize();
    STANDARD.encode(digest)
}

fn encode_status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status)).as_bytes());
}

/// Whether `text` is a valid header value: a control character, such as a line end, would start another field.
pub fn is_header_value(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_control())
}

/// Appends one header field.
pub(super) fn encode_header(out: &mut Vec<u8>, name: &str, value: &str) {
    assert!(is_header_value(name) && is_header_value(value), "a header field is one line of text");
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The usual reason phrase of a status. Clients ignore it, so an unknown status has none.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
