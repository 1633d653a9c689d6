//! Decodes the head of an HTTP/1 request, within limits. httparse implements the grammar; the limits are those of
//! `limits`.
//!
//! Independent of WebSockets and without state: the caller keeps the bytes and calls again with more of them.

use std::mem::MaybeUninit;

use super::extensions::elements;
use super::{HandshakeError, Host};
use crate::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADERS_MAX, REQUEST_TARGET_BYTES_MAX};

/// A request line and header fields, borrowed from the input.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    /// The method, as sent, such as `GET`.
    pub method: &'a str,
    /// The path, from its `/` up to the query; not percent-decoded.
    pub path: &'a str,
    /// The query after the `?`; not percent-decoded.
    pub query: Option<&'a str>,
    /// `Host`: the authority that the client addresses. Only a request of HTTP/1.0 may lack it.
    pub host: Option<Host<'a>>,
    /// HTTP/1.1 or later, rather than HTTP/1.0.
    pub(super) is_http_1_1: bool,
    headers: Vec<httparse::Header<'a>>,
}

impl<'a> RequestHead<'a> {
    /// The header fields in order: name as sent, value without surrounding blanks.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.headers.iter().map(|header| (header.name, header.value))
    }

    /// The value of a field that must occur at most once; `name` is case-insensitive.
    ///
    /// `None` if the field is missing, and also if it is repeated or isn't UTF-8: an ambiguous value is ignored.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.single(name).ok().flatten()
    }

    /// Whether a response may be chunked (RFC 9112 §7.1): the request is HTTP/1.1 or later.
    pub fn takes_chunks(&self) -> bool {
        self.is_http_1_1
    }

    /// Length of the request's body, which follows the head (RFC 9112 §6.3): at most `max` bytes.
    ///
    /// # Errors
    /// [`BodyLengthInvalid`](HandshakeError::BodyLengthInvalid): there is not exactly one valid `Content-Length`, or a
    /// `Transfer-Encoding`, on which proxies may disagree. [`BodyTooLarge`](HandshakeError::BodyTooLarge).
    pub fn body_len(&self, max: usize) -> Result<usize, HandshakeError> {
        let length = self.single("Content-Length").ok().flatten();
        let length = length.filter(|length| !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()));
        let length = length.filter(|_| self.values("Transfer-Encoding").next().is_none());
        let length = length.ok_or(HandshakeError::BodyLengthInvalid)?;
        // A length that does not fit the type is too large, too.
        length.parse().ok().filter(|length| *length <= max).ok_or(HandshakeError::BodyTooLarge)
    }

    /// Like [`header`](Self::header), but returns why a value can't be read.
    pub(super) fn single(&self, name: &str) -> Result<Option<&'a str>, HandshakeError> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.map(Some),
            (Some(_), Some(_)) => Err(HandshakeError::HeaderRepeated),
        }
    }

    /// The values of all fields of this name.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = Result<&'a str, HandshakeError>> {
        values(&self.headers, name).map(|value| std::str::from_utf8(value).map_err(|_| HandshakeError::HeaderNotText))
    }

    /// Whether a list-valued field has this element, case-insensitively.
    pub(super) fn lists(&self, name: &str, element: &str) -> bool {
        lists(&self.headers, name, element)
    }
}

/// Decodes the request head at the front of `input`; the `usize` is its length in bytes. The bytes after it are frames
/// that the client sent early: pass them to the decoder.
///
/// `Ok(None)`: the head is incomplete and no bytes are consumed; append more bytes and call again.
///
/// # Errors
/// [`Malformed`](HandshakeError::Malformed), [`TargetInvalid`](HandshakeError::TargetInvalid),
/// [`HttpVersionUnsupported`](HandshakeError::HttpVersionUnsupported); for a `Host` field that is missing in HTTP/1.1,
/// repeated, or invalid (RFC 9112 §3.2) [`HostMissing`](HandshakeError::HostMissing),
/// [`HeaderRepeated`](HandshakeError::HeaderRepeated), [`HeaderNotText`](HandshakeError::HeaderNotText) or
/// [`HostInvalid`](HandshakeError::HostInvalid); and as soon as a
/// limit is exceeded [`TargetTooLong`](HandshakeError::TargetTooLong), [`HeadTooLarge`](HandshakeError::HeadTooLarge)
/// or [`TooManyHeaders`](HandshakeError::TooManyHeaders).
pub fn decode_request_head(input: &[u8]) -> Result<Option<(RequestHead<'_>, usize)>, HandshakeError> {
    let input = &input[..input.len().min(HANDSHAKE_BYTES_MAX)];
    let mut headers = [const { MaybeUninit::uninit() }; HANDSHAKE_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let status = request.parse_with_uninit_headers(input, &mut headers);

    // The limit of the target is checked first, so that the error doesn't depend on how much of the rest has arrived.
    let target_len = match (request.path, &status) {
        (Some(target), _) => target.len(),
        (None, Ok(_)) => unfinished_target_len(input),
        (None, Err(_)) => 0,
    };
    if target_len > REQUEST_TARGET_BYTES_MAX {
        return Err(HandshakeError::TargetTooLong);
    }
    let head_len = match status {
        Ok(httparse::Status::Complete(head_len)) => head_len,
        Ok(httparse::Status::Partial) if input.len() < HANDSHAKE_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(HandshakeError::HeadTooLarge),
        Err(httparse::Error::TooManyHeaders) => return Err(HandshakeError::TooManyHeaders),
        Err(httparse::Error::Version) => return Err(HandshakeError::HttpVersionUnsupported),
        Err(_) => return Err(HandshakeError::Malformed),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(HandshakeError::Malformed);
    };
    let (path, query) = split_target(target)?;
    let (is_http_1_1, headers) = (minor >= 1, request.headers.to_vec());
    let mut head = RequestHead { method, path, query, host: None, is_http_1_1, headers };
    head.host = find_host(&head)?;
    Ok(Some((head, head_len)))
}

/// The one `Host` field of a request, which HTTP/1.1 requires (RFC 9112 §3.2).
fn find_host<'a>(head: &RequestHead<'a>) -> Result<Option<Host<'a>>, HandshakeError> {
    match head.single("Host")? {
        Some(text) => Host::parse(text).map(Some).ok_or(HandshakeError::HostInvalid),
        None if head.is_http_1_1 => Err(HandshakeError::HostMissing),
        None => Ok(None),
    }
}

/// Length of the target so far, while it is incomplete.
fn unfinished_target_len(input: &[u8]) -> usize {
    let after_method = input.iter().position(|&byte| byte == b' ');
    after_method.map_or(0, |space| input.len() - space - 1)
}

/// Path and query of a request target: a path, or an absolute URI, which servers must also accept (RFC 9112 §3.2.2, RFC
/// 6455 §4.2.1 item 1).
fn split_target(target: &str) -> Result<(&str, Option<&str>), HandshakeError> {
    let path_and_query = match target.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => match rest.find(['/', '?']) {
            Some(authority_len) => &rest[authority_len..],
            None => "/",
        },
        _ => target,
    };
    let (path, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    match path {
        _ if path_and_query.contains('#') => Err(HandshakeError::TargetInvalid),
        "" => Err(HandshakeError::TargetInvalid),
        _ if !path.starts_with('/') => Err(HandshakeError::TargetInvalid),
        _ => Ok((path, query)),
    }
}

fn is_scheme(scheme: &str) -> bool {
    ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

/// The values of all fields of this name, case-insensitively.
pub(super) fn values<'a>(headers: &[httparse::Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Whether a list-valued field has this element, case-insensitively. Fields of one name are one list (RFC 9110 §5.3).
pub(super) fn lists(headers: &[httparse::Header<'_>], name: &str, element: &str) -> bool {
    values(headers, name)
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(elements)
        .any(|listed| listed.eq_ignore_ascii_case(element))
}
