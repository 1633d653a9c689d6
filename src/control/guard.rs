//! Which requests may have been made by a web page, and are therefore refused.
//!
//! The control port asks for no password when it listens on loopback: whoever can run a program on this host may
//! publish. A web page in a browser on this host is not such a program, though its script can send requests here.
//! Two rules keep it out, and both look only at what browsers themselves write into a request:
//!
//! - Browsers name the page's origin in `Origin` on every POST. Only pages served from this host may publish.
//! - A page's own origin may be made to *resolve* to 127.0.0.1 after the page has loaded (DNS rebinding). To the
//!   browser the control port is then the page's own server, whose answers it may read and to which a GET carries
//!   no `Origin`. What gives it away is `Host`, which still has the page's name; so on loopback a name is refused,
//!   unless it is `localhost`.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;

use crate::gateway::is_loopback_origin;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A page from another host made it.
    Origin,
    /// It is meant for another host.
    Host,
}

impl Refused {
    /// For the body of the answer.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Refused::Origin => "web pages may use the control port only from localhost or a loopback address",
            Refused::Host => "address the control port as localhost or by its IP address",
        }
    }
}

/// Checks a request's header fields. `on_loopback`: the listener's address is a loopback address.
pub(super) fn check(headers: &HeaderMap, on_loopback: bool) -> Result<(), Refused> {
    if headers.get_all(ORIGIN).iter().any(|origin| !is_origin_here(origin)) {
        return Err(Refused::Origin);
    }
    if on_loopback && headers.get_all(HOST).iter().any(|host| !is_host_unnamed(host)) {
        return Err(Refused::Host);
    }
    Ok(())
}

/// Whether a page of this origin was served from this host. `null`, the origin of sandboxed pages and files, was not.
fn is_origin_here(origin: &HeaderValue) -> bool {
    origin.to_str().is_ok_and(is_loopback_origin)
}

/// Whether this host is named by address or as `localhost`, rather than by a name that someone else may own.
fn is_host_unnamed(host: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    authority.host().eq_ignore_ascii_case("localhost") || ip_literal(authority.host()).is_some()
}

/// The address that a URL's host writes out; IPv6 stands in brackets there (RFC 3986 §3.2.2).
fn ip_literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(fields: &[(&'static str, &'static str)], on_loopback: bool) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check(&headers, on_loopback)
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
                assert_eq!(verdict(&[("origin", origin)], on_loopback), expected, "{origin:?}");
            }
        }
        let two = [("origin", "http://localhost"), ("origin", "http://example.org")];
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

    #[test]
    fn programs_that_send_neither_are_let_in() {
        assert_eq!(verdict(&[], true), Ok(()));
        assert_eq!(verdict(&[], false), Ok(()));
    }
}
