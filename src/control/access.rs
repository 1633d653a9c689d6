//! Access to the control port: every program on this host, or every client with the key.

use std::fmt;
use std::net::SocketAddr;

use hyper::header::{AUTHORIZATION, HeaderMap};

/// The header field in which Centrifugo's clients send the key.
const API_KEY: &str = "x-api-key";

/// Where the control port listens and what it asks for. There is none for a port that others can reach without a key.
#[derive(Clone)]
pub struct Access {
    is_loopback: bool,
    key: Option<String>,
}

/// The control port would be open to others, and there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExposedError(SocketAddr);

impl Access {
    /// Access to a control port that listens on `address`: with `key` if there is one, else from loopback only.
    ///
    /// # Errors
    /// [`ExposedError`] if there is no key, and `address` is not a loopback address.
    pub fn new(address: SocketAddr, key: Option<String>) -> Result<Access, ExposedError> {
        let is_loopback = address.ip().is_loopback();
        if is_loopback || key.is_some() { Ok(Access { is_loopback, key }) } else { Err(ExposedError(address)) }
    }

    /// Whether requests must carry a key.
    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Whether only this host can reach the port.
    pub(super) fn is_loopback(&self) -> bool {
        self.is_loopback
    }

    /// Whether a request with these header fields carries the key, where there is one: as `X-API-Key: KEY`,
    /// `Authorization: apikey KEY` or `Authorization: Bearer KEY`.
    pub(super) fn is_granted(&self, headers: &HeaderMap) -> bool {
        let Some(key) = &self.key else { return true };
        let mut given = headers.get_all(API_KEY).iter().map(|value| value.as_bytes());
        let mut authorizations =
            headers.get_all(AUTHORIZATION).iter().filter_map(|value| credentials(value.as_bytes()));
        given.any(|given| is_same(given, key.as_bytes())) || authorizations.any(|given| is_same(given, key.as_bytes()))
    }
}

/// What follows one of the schemes that stand before a key.
fn credentials(authorization: &[u8]) -> Option<&[u8]> {
    let blank = authorization.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = authorization.split_at(blank);
    let is_known = ["apikey", "bearer"].iter().any(|known| scheme.eq_ignore_ascii_case(known.as_bytes()));
    is_known.then(|| rest.trim_ascii())
}

/// Whether both are the same, in a time that does not tell how much of them is.
fn is_same(given: &[u8], key: &[u8]) -> bool {
    let differences = given.iter().zip(key).fold(0, |differences, (a, b)| differences | (a ^ b));
    given.len() == key.len() && std::hint::black_box(differences) == 0
}

impl fmt::Debug for Access {
    /// Without the key, which is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("is_loopback", &self.is_loopback).field("has_key", &self.has_key()).finish()
    }
}

impl fmt::Display for ExposedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.0;
        write!(
            f,
            "the control port must not be open to others without a key, and {address} is no loopback address: give one \
             with --api-key-file, or with key in [api] of the configuration file"
        )
    }
}

impl std::error::Error for ExposedError {}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn access(address: &str, key: Option<&str>) -> Result<Access, ExposedError> {
        Access::new(address.parse().unwrap(), key.map(str::to_owned))
    }

    #[test]
    fn others_need_a_key() {
        for here in ["127.0.0.1:8001", "127.8.8.8:0", "[::1]:8001"] {
            assert!(access(here, None).unwrap().is_loopback(), "{here}");
            assert!(access(here, Some("k")).unwrap().is_loopback(), "{here}");
        }
        for open in ["0.0.0.0:8001", "192.0.2.1:8001", "[::]:8001"] {
            let error = access(open, None).unwrap_err().to_string();
            assert!(error.contains(open) && error.contains("--api-key-file"), "{error}");
            assert!(!access(open, Some("k")).unwrap().is_loopback(), "{open}");
        }
    }

    #[test]
    fn the_key_is_taken_from_either_field() {
        let access = access("127.0.0.1:1", Some("secret")).unwrap();
        let rows = [
            ("x-api-key", "secret", true),
            ("authorization", "apikey secret", true),
            ("authorization", "Bearer secret", true),
            ("authorization", "BEARER  secret", true),
            ("x-api-key", "Secret", false),
            ("x-api-key", "secret2", false),
            ("x-api-key", "secre", false),
            ("x-api-key", "", false),
            ("authorization", "secret", false),
            ("authorization", "Basic secret", false),
            ("authorization", "apikey secret secret", false),
            ("x-other", "secret", false),
        ];
        for (name, value, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(access.is_granted(&headers), expected, "{name}: {value}");
        }
        assert!(!access.is_granted(&HeaderMap::new()));
    }

    #[test]
    fn without_a_key_none_is_asked_for() {
        assert!(access("127.0.0.1:1", None).unwrap().is_granted(&HeaderMap::new()));
    }

    #[test]
    fn the_key_is_not_shown() {
        assert!(!format!("{:?}", access("127.0.0.1:1", Some("secret"))).contains("secret"));
    }
}
