//! The client side of the opening handshake: RFC 6455 §4.1. It has no source of randomness: the caller provides the
//! key.

use std::cell::OnceCell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::deflate::{DeflateOffer, DeflateParams, InvalidAnswer, NAME};
use super::extensions::{ExtensionOffer, InvalidList, decode_extensions};
use super::handshake::{VERSION, encode_header};
use super::http::{lists, values};
use super::{ClientHandshakeError, accept_key};
use crate::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADERS_MAX};

/// One opening handshake: a request, then the server's response.
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    key: String,
    accept: String,
    deflate_offered: Option<DeflateOffer>,
    /// The offered subprotocols; empty until the request is encoded.
    subprotocols_offered: OnceCell<Vec<String>>,
}

/// The result of a successful handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The subprotocol that the server chose from the offer.
    pub subprotocol: Option<String>,
    /// The compression parameters, if compression was agreed on.
    pub deflate: Option<DeflateParams>,
}

impl ClientHandshake {
    /// Creates a handshake with this nonce, which must be random and new for each connection (RFC 6455 §4.1 item 7).
    pub fn new(key_bytes: [u8; 16]) -> Self {
        let key = STANDARD.encode(key_bytes);
        let accept = accept_key(&key);
        Self { key, accept, deflate_offered: None, subprotocols_offered: OnceCell::new() }
    }

    /// Also offers permessage-deflate (RFC 7692).
    pub fn with_deflate(self, offer: DeflateOffer) -> Self {
        Self { deflate_offered: Some(offer), ..self }
    }

    /// Appends the request. `host` is the URL's authority, with the port unless it is the default of the scheme;
    /// `target` is its path and query, at least `/`; `subprotocols` are in order of preference.
    ///
    /// # Panics
    /// If called twice, or if an argument would corrupt the request: blanks or control characters in `target`, control
    /// characters elsewhere.
    pub fn encode_request(
        &self,
        out: &mut Vec<u8>,
        host: &str,
        target: &str,
        subprotocols: &[&str],
        extra_headers: &[(&str, &str)],
    ) {
        let is_target = target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(is_target, "a request target is a path of printable ASCII, percent-encoded");
        let offered = subprotocols.iter().map(ToString::to_string).collect();
        assert!(self.subprotocols_offered.set(offered).is_ok(), "one handshake is one request");

        out.extend_from_slice(format!("GET {target} HTTP/1.1\r\n").as_bytes());
        encode_header(out, "Host", host);
        encode_header(out, "Upgrade", "websocket");
        encode_header(out, "Connection", "Upgrade");
        encode_header(out, "Sec-WebSocket-Key", &self.key);
        encode_header(out, "Sec-WebSocket-Version", VERSION);
        if !subprotocols.is_empty() {
            encode_header(out, "Sec-WebSocket-Protocol", &subprotocols.join(", "));
        }
        if let Some(offer) = self.deflate_offered {
            encode_header(out, "Sec-WebSocket-Extensions", &offer.to_string());
        }
        for (name, value) in extra_headers {
            encode_header(out, name, value);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Decodes the server's response at the front of `input`; the `usize` is its length in bytes. The bytes after it
    /// are frames that the server sent early: pass them to the decoder.
    ///
    /// `Ok(None)`: the response is incomplete and no bytes are consumed; append more bytes and call again.
    ///
    /// # Errors
    /// [`Status`](ClientHandshakeError::Status) for any response but 101; otherwise a violation of RFC 6455 §4.1.
    pub fn decode_response(&self, input: &[u8]) -> Result<Option<(Accepted, usize)>, ClientHandshakeError> {
        let input = &input[..input.len().min(HANDSHAKE_BYTES_MAX)];
        let mut headers = [httparse::EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let head_len = match response.parse(input) {
            Ok(httparse::Status::Complete(head_len)) => head_len,
            Ok(httparse::Status::Partial) if input.len() < HANDSHAKE_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(ClientHandshakeError::HeadTooLarge);
            }
            Err(_) => return Err(ClientHandshakeError::Malformed),
        };
        match response.code {
            Some(101) => {}
            Some(status) => return Err(ClientHandshakeError::Status(status)),
            None => return Err(ClientHandshakeError::Malformed),
        }
        if response.version != Some(1) {
            return Err(ClientHandshakeError::Malformed);
        }
        let accepted = self.check(response.headers)?;
        Ok(Some((accepted, head_len)))
    }

    /// Checks items 2 to 6 of the list in RFC 6455 §4.1 "once the client's opening handshake has been sent".
    fn check(&self, headers: &[httparse::Header<'_>]) -> Result<Accepted, ClientHandshakeError> {
        if !lists(headers, "Upgrade", "websocket") {
            return Err(ClientHandshakeError::UpgradeMissing);
        }
        if !lists(headers, "Connection", "upgrade") {
            return Err(ClientHandshakeError::ConnectionMissing);
        }
        if single(headers, "Sec-WebSocket-Accept")? != Some(self.accept.as_bytes()) {
            return Err(ClientHandshakeError::AcceptMismatch);
        }
        let subprotocol = single(headers, "Sec-WebSocket-Protocol")?
            .map(|chosen| self.offered(chosen).ok_or(ClientHandshakeError::SubprotocolNotOffered))
            .transpose()?;
        Ok(Accepted { subprotocol, deflate: self.check_extensions(headers)? })
    }

    fn check_extensions(
        &self,
        headers: &[httparse::Header<'_>],
    ) -> Result<Option<DeflateParams>, ClientHandshakeError> {
        let chosen = extensions(headers)?;
        match (&chosen[..], self.deflate_offered) {
            ([], _) => Ok(None),
            ([answer], Some(offer)) if answer.name == NAME => {
                let params = offer.check(answer);
                params.map(Some).map_err(|InvalidAnswer| ClientHandshakeError::DeflateParamsInvalid)
            }
            _ => Err(ClientHandshakeError::ExtensionNotOffered),
        }
    }

    fn offered(&self, chosen: &[u8]) -> Option<String> {
        let mut offered = self.subprotocols_offered.get()?.iter();
        offered.find(|offered| offered.as_bytes() == chosen).cloned()
    }
}

fn extensions<'a>(headers: &[httparse::Header<'a>]) -> Result<Vec<ExtensionOffer<'a>>, ClientHandshakeError> {
    let mut extensions = Vec::new();
    for value in values(headers, "Sec-WebSocket-Extensions") {
        let value = std::str::from_utf8(value).map_err(|_| ClientHandshakeError::Malformed)?;
        decode_extensions(value, &mut extensions).map_err(|InvalidList| ClientHandshakeError::Malformed)?;
    }
    Ok(extensions)
}

/// The value of a field that must occur at most once.
fn single<'a>(headers: &[httparse::Header<'a>], name: &str) -> Result<Option<&'a [u8]>, ClientHandshakeError> {
    let mut values = values(headers, name);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(ClientHandshakeError::HeaderRepeated),
    }
}
