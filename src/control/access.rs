//! Access to the control port: every program on this host, or every client with a key.

use std::fmt;
use std::net::SocketAddr;

use hyper::header::{AUTHORIZATION, HeaderMap};

use crate::server::ListenAddress;

/// The header field in which Centrifugo's clients send the key.
const API_KEY: &str = "x-api-key";

/// Where the control port listens and what it asks for. There is none for a port that others can reach without a key.
#[derive(Clone)]
pub struct Access {
    /// Only this host can reach it.
    is_local: bool,
    key: Option<String>,
    /// A key that only reads.
    read_key: Option<String>,
}

/// The right of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    /// Only what is open to everybody.
    Nothing,
    /// All that changes nothing.
    Read,
    /// Everything.
    All,
}

/// The control port would be open to others, and there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExposedError(SocketAddr);

impl Access {
    /// Access to a control port that listens on `address`: with `key` if there is one, else from this host only.
    ///
    /// # Errors
    /// [`ExposedError`] if there is no key, and `address` is an IP address other than a loopback address.
    pub fn new(address: &ListenAddress, key: Option<String>) -> Result<Access, ExposedError> {
        let exposed = match address {
            ListenAddress::Ip(address) if !address.ip().is_loopback() => Some(*address),
            _ => None,
        };
        let access = Access { is_local: exposed.is_none(), key, read_key: None };
        match exposed {
            Some(address) if access.key.is_none() => Err(ExposedError(address)),
            _ => Ok(access),
        }
    }

    /// The same with a further key, whose requests only read.
    pub fn with_read_key(self, read_key: Option<String>) -> Access {
        Access { read_key, ..self }
    }

    /// Whether requests must carry a key.
    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Whether only this host can reach the port.
    pub(super) fn is_local(&self) -> bool {
        self.is_local
    }

    /// The right of a request with these header fields, which carry a key as `X-API-Key: KEY`,
    /// `Authorization: apikey KEY` or `Authorization: Bearer KEY`. Without a key every request has it.
    pub(super) fn right(&self, headers: &HeaderMap) -> Right {
        let Some(key) = &self.key else { return Right::All };
        let given = headers.get_all(API_KEY).iter().map(|value| value.as_bytes());
        let authorizations = headers.get_all(AUTHORIZATION).iter().filter_map(|value| credentials(value.as_bytes()));
        let right = |given: &[u8]| match &self.read_key {
            _ if is_same(given, key.as_bytes()) => Right::All,
            Some(read_key) if is_same(given, read_key.as_bytes()) => Right::Read,
            _ => Right::Nothing,
        };
        given.chain(authorizations).map(right).max().unwrap_or(Right::Nothing)
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
        f.debug_struct("Access").field("is_local", &self.is_local).field("has_key", &self.has_key()).finish()
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
        Access::new(&address.parse().unwrap(), key.map(str::to_owned))
    }

    #[test]
    fn others_need_a_key() {
        for here in ["127.0.0.1:8001", "127.8.8.8:0", "[::1]:8001", "unix:/run/control"] {
            assert!(access(here, None).unwrap().is_local(), "{here}");
            assert!(access(here, Some("k")).unwrap().is_local(), "{here}");
        }
        for open in ["0.0.0.0:8001", "192.0.2.1:8001", "[::]:8001"] {
            let error = access(open, None).unwrap_err().to_string();
            assert!(error.contains(open) && error.contains("--api-key-file"), "{error}");
            assert!(!access(open, Some("k")).unwrap().is_local(), "{open}");
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
            assert_eq!(access.right(&headers) == Right::All, expected, "{name}: {value}");
        }
        assert_eq!(access.right(&HeaderMap::new()), Right::Nothing);
    }

    #[test]
    fn the_key_that_reads_gives_no_other_right() {
        let access = access("127.0.0.1:1", Some("secret")).unwrap().with_read_key(Some("look".to_owned()));
        let rows = [
            (&["look"][..], Right::Read),
            (&["secret"], Right::All),
            (&["look", "secret"], Right::All),
            (&["guess", "look"], Right::Read),
            (&["loo"], Right::Nothing),
        ];
        for (keys, expected) in rows {
            let mut headers = HeaderMap::new();
            for key in keys {
                headers.append("x-api-key", HeaderValue::from_static(key));
            }
            assert_eq!(access.right(&headers), expected, "{keys:?}");
        }
        assert!(!format!("{access:?}").contains("look"));
    }

    #[test]
    fn without_a_key_none_is_asked_for() {
        assert!(access("127.0.0.1:1", None).unwrap().right(&HeaderMap::new()) == Right::All);
    }

    #[test]
    fn the_key_is_not_shown() {
        assert!(!format!("{:?}", access("127.0.0.1:1", Some("secret"))).contains("secret"));
    }
}
