//! Rejects requests that a web page may have made.
//!
//! The control port asks for no password when it listens on loopback: every program on this host may
//! publish. A web page in a browser on this host is not such a program, though its script can send requests here.
//! Two rules keep it out, and both look only at what browsers themselves write into a request:
//!
//! - Browsers name the page's origin in `Origin` on every POST. Only pages served from this host may publish. Where
//!   there is a key, a page of the control port itself may do so from any host: without the key it can do nothing.
//! - A page's own origin may be made to *resolve* to 127.0.0.1 after the page has loaded (DNS rebinding). To the
//!   browser the control port is then the page's own server, whose answers it may read and to which a GET carries
//!   no `Origin`. What gives it away is `Host`, which still has the page's name; so on loopback a name is refused,
//!   unless it is `localhost`, or there is a key, which no such page has.

use hyper::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::{StatusCode, Version};

use super::Access;
use crate::gateway::{is_loopback_origin, is_same_origin};
use crate::proto::Host;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A page from another host made it.
    Origin,
    /// It is meant for another host.
    Host,
    /// It has no `Host` field, or two, or one that is no host (RFC 9112 §3.2).
    Malformed,
}

impl Refused {
    /// Of the answer.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Refused::Origin | Refused::Host => StatusCode::FORBIDDEN,
            Refused::Malformed => StatusCode::BAD_REQUEST,
        }
    }

    /// For the body of the answer.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Refused::Origin => {
                "web pages may use the control port only from localhost or a loopback address, or, where there is a \
                 key, from the control port itself"
            }
            Refused::Host => "address the control port as localhost or by its IP address",
            Refused::Malformed => "send one Host header, with the host of the URL and its port if it has one",
        }
    }
}

/// Checks a request's header fields.
pub(super) fn check(version: Version, headers: &HeaderMap, access: &Access) -> Result<(), Refused> {
    let (host, has_key) = (find_host(version, headers)?, access.has_key());
    let is_own = |origin: &HeaderValue| {
        let host = host.filter(|_| has_key);
        origin.to_str().is_ok_and(|origin| host.is_some_and(|host| is_same_origin(origin, host.as_str())))
    };
    if headers.get_all(ORIGIN).iter().any(|origin| !is_origin_here(origin) && !is_own(origin)) {
        return Err(Refused::Origin);
    }
    if access.is_local() && !has_key && host.is_some_and(|host| !host.is_unnamed()) {
        return Err(Refused::Host);
    }
    Ok(())
}

/// The one `Host` field, which only requests older than HTTP/1.1 may lack.
fn find_host(version: Version, headers: &HeaderMap) -> Result<Option<Host<'_>>, Refused> {
    let mut fields = headers.get_all(HOST).iter();
    match (fields.next(), fields.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(None),
        (Some(field), None) => {
            let host = field.to_str().ok().and_then(Host::parse);
            host.map(Some).ok_or(Refused::Malformed)
        }
        (None | Some(_), _) => Err(Refused::Malformed),
    }
}

/// Whether a page of this origin was served from this host. `null`, the origin of sandboxed pages and files, was not.
fn is_origin_here(origin: &HeaderValue) -> bool {
    origin.to_str().is_ok_and(is_loopback_origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control port on loopback without a key, or elsewhere with one.
    fn access(on_loopback: bool) -> Access {
        let (address, key) = if on_loopback { ("127.0.0.1:1", None) } else { ("192.0.2.1:1", Some("k".to_owned())) };
        Access::new(&address.parse().unwrap(), key).unwrap()
    }

    fn verdict(fields: &[(&'static str, &'static str)], on_loopback: bool) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check(Version::HTTP_11, &headers, &access(on_loopback))
    }

    #[test]
    fn where_there_is_a_key_its_own_page_may_ask() {
        let rows = [
            ("ops.example.org:8001", "http://ops.example.org:8001", Ok(())),
            ("ops.example.org", "https://ops.example.org", Ok(())),
            ("192.0.2.1:8001", "http://192.0.2.1:8001", Ok(())),
            ("ops.example.org:8001", "http://ops.example.org", Err(Refused::Origin)),
            ("ops.example.org", "http://example.org", Err(Refused::Origin)),
            ("ops.example.org", "null", Err(Refused::Origin)),
        ];
        for (host, origin, expected) in rows {
            let fields = [("host", host), ("origin", origin)];
            assert_eq!(verdict(&fields, false), expected, "{host} {origin}");
            assert!(verdict(&fields, true).is_err(), "{host} {origin}, without a key");
        }
    }

    #[test]
    fn only_pages_of_this_host_may_ask() {
        let rows = [
            ("http://localhost", Ok(())),
            ("http://localhost:3000", Ok(())),
            ("https://LOCALHOST", Ok(())),
            ("http://127.0.0.1:8000", Ok(())),
            ("http://127.8.8.8", Ok(())),
            ("http://[::1]:8000", Ok(())),
            ("https://example.org", Err(Refused::Origin)),
            ("http://localhost.example.org", Err(Refused::Origin)),
            ("http://127.0.0.1.example.org", Err(Refused::Origin)),
            ("http://localhost@example.org", Err(Refused::Origin)),
            ("http://192.168.0.7", Err(Refused::Origin)),
            ("http://[::2]", Err(Refused::Origin)),
            ("localhost", Err(Refused::Origin)),
            ("null", Err(Refused::Origin)),
            ("", Err(Refused::Origin)),
        ];
        for (origin, expected) in rows {
            for on_loopback in [false, true] {
                let fields = [("host", "localhost:8001"), ("origin", origin)];
                assert_eq!(verdict(&fields, on_loopback), expected, "{origin:?}");
            }
        }
        let two = [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://example.org")];
        assert_eq!(verdict(&two, false), Err(Refused::Origin));
    }

    #[test]
    fn on_loopback_the_host_is_not_a_name() {
        let rows = [
            ("localhost", Ok(())),
            ("Localhost:8001", Ok(())),
            ("127.0.0.1:8001", Ok(())),
            ("[::1]:8001", Ok(())),
            ("example.org", Err(Refused::Host)),
            ("127.0.0.1.example.org:8001", Err(Refused::Host)),
            ("localhost.", Err(Refused::Host)),
            ("", Err(Refused::Host)),
        ];
        for (host, expected) in rows {
            assert_eq!(verdict(&[("host", host)], true), expected, "{host:?}");
            assert_eq!(verdict(&[("host", host)], false), Ok(()), "{host:?}, not on loopback");
        }
    }

    /// Hosts, and what is said to them in HTTP/1.1 and in HTTP/1.0.
    type Hosts<'a> = (&'a [&'static str], Result<(), Refused>, Result<(), Refused>);

    #[test]
    fn a_request_has_one_host() {
        let rows: [Hosts<'_>; 6] = [
            (&[], Err(Refused::Malformed), Ok(())),
            (&["localhost"], Ok(()), Ok(())),
            (&["localhost", "localhost"], Err(Refused::Malformed), Err(Refused::Malformed)),
            (&["localhost", "example.org"], Err(Refused::Malformed), Err(Refused::Malformed)),
            (&["user@localhost"], Err(Refused::Malformed), Err(Refused::Malformed)),
            (&["localhost/x"], Err(Refused::Malformed), Err(Refused::Malformed)),
        ];
        for (hosts, of_1_1, of_1_0) in rows {
            let mut headers = HeaderMap::new();
            hosts.iter().for_each(|host| _ = headers.append(HOST, HeaderValue::from_static(host)));
            assert_eq!(check(Version::HTTP_11, &headers, &access(true)), of_1_1, "{hosts:?}");
            assert_eq!(check(Version::HTTP_11, &headers, &access(false)), of_1_1, "{hosts:?}, not on loopback");
            assert_eq!(check(Version::HTTP_10, &headers, &access(true)), of_1_0, "{hosts:?}, HTTP/1.0");
        }
    }
}
