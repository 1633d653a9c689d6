//! Which web pages may connect.
//!
//! Browsers let every page open a WebSocket to every server and send the server's cookies along; the only protection is
//! the page's origin in the request (RFC 6455 §10.2). So the server checks it. The check concerns only pages: a program
//! can send any origin or none, and the server accepts requests without one.
//!
//! An attacker's page may make its own host name *resolve* to 127.0.0.1 after loading (DNS rebinding). The browser then
//! considers this server the page's own: origin and host are equal, and a GET carries no origin at all. `Host` still
//! holds the attacker's name. So a listener on loopback accepts a host name only if a pattern contains it.

use std::fmt;

use crate::proto::Host;

/// The web pages that may connect, besides those loaded from the same host and port. A listener on loopback accepts a
/// host name as its own only if a pattern contains it.
///
/// Without patterns, pages of loopback addresses may connect, for development.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    patterns: Vec<OriginPattern>,
    /// The port of the control port, whose page may connect.
    control_port: Option<u16>,
}

/// `*` is any origin; `null` is the origin of sandboxed pages and local files; or `scheme://host[:port]`, where each
/// `*` matches one or more characters other than `/` and `:`. So `https://*.example.com` matches subdomains at any
/// depth, but not `https://example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern(String);

/// Why the server rejects a request that a web page may have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageRefused {
    /// Pages of this origin may not connect.
    Origin,
    /// The host is a name, which anyone may resolve to this loopback address.
    Host,
}

/// The text is not an [`OriginPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPattern;

impl Origins {
    /// Allows the pages with an origin that matches one of these patterns.
    pub fn new(patterns: Vec<OriginPattern>) -> Origins {
        Origins { patterns, control_port: None }
    }

    /// Allows also pages that were loaded from the same host at this port: the admin page.
    pub fn with_control_port(self, port: u16) -> Origins {
        Origins { control_port: Some(port), ..self }
    }

    /// Checks `Origin` and `Host` of a WebSocket request; browsers always send an origin with it. An accepted origin
    /// consists of visible ASCII characters, so a response may contain it.
    ///
    /// # Errors
    /// [`PageRefused`]. `on_loopback`: the listener's address is a loopback address.
    pub fn check_upgrade(
        &self,
        origin: Option<&str>,
        host: Option<Host<'_>>,
        on_loopback: bool,
    ) -> Result<(), PageRefused> {
        let Some(origin) = origin else { return Ok(()) };
        if !origin.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(PageRefused::Origin);
        }
        let is_listed = self.patterns.iter().any(|pattern| pattern.matches(origin));
        if is_listed || self.patterns.is_empty() && is_loopback_origin(origin) {
            return Ok(());
        }
        match host.filter(|host| is_same_origin(origin, host.as_str()) || self.is_of_control_port(origin, *host)) {
            Some(host) if on_loopback && !host.is_unnamed() => Err(PageRefused::Host),
            Some(_) => Ok(()),
            None => Err(PageRefused::Origin),
        }
    }

    /// Whether a page of this origin was loaded from the control port of `host`.
    fn is_of_control_port(&self, origin: &str, host: Host<'_>) -> bool {
        let page = origin.split_once("://").and_then(|(_, authority)| Host::parse(authority));
        page.is_some_and(|page| {
            let is_same_host = page.without_port().eq_ignore_ascii_case(host.without_port());
            is_same_host && page.port().is_some() && page.port() == self.control_port
        })
    }

    /// Checks a GET request that is not a WebSocket handshake. Browsers send it to the page's own host without an
    /// origin.
    ///
    /// # Errors
    /// [`PageRefused`].
    pub fn check_get(
        &self,
        origin: Option<&str>,
        host: Option<Host<'_>>,
        on_loopback: bool,
    ) -> Result<(), PageRefused> {
        let is_foreign =
            |host: Host<'_>| !host.is_unnamed() && !self.patterns.iter().any(|pattern| pattern.names(host));
        if origin.is_none() && on_loopback && host.is_some_and(is_foreign) {
            return Err(PageRefused::Host);
        }
        self.check_upgrade(origin, host, on_loopback)
    }
}

impl PageRefused {
    /// The body of the response.
    pub fn reason(self) -> &'static str {
        match self {
            PageRefused::Origin => {
                "pages of this origin may not connect: add it to allowed_origins, or load the page from this server"
            }
            PageRefused::Host => {
                "this server listens on loopback and accepts no other host name: add the site to allowed_origins, as \
                 https://HOST, or connect to localhost"
            }
        }
    }
}

impl OriginPattern {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`InvalidPattern`], usually since the scheme is missing or a path follows the host.
    pub fn new(text: &str) -> Result<OriginPattern, InvalidPattern> {
        let is_origin = text.split_once("://").is_some_and(|(scheme, authority)| {
            let is_authority_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]*".contains(&byte);
            !scheme.is_empty()
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
                && !authority.is_empty()
                && authority.bytes().all(is_authority_byte)
        });
        if is_origin || text == "*" || text == "null" {
            Ok(OriginPattern(text.to_owned()))
        } else {
            Err(InvalidPattern)
        }
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn matches(&self, origin: &str) -> bool {
        self.0 == "*" || matches(self.0.as_bytes(), origin.as_bytes())
    }

    /// Whether this pattern matches pages of `host`, with any scheme.
    fn names(&self, host: Host<'_>) -> bool {
        let Some((_, authority)) = self.0.split_once("://") else { return self.0 == "*" };
        matches(authority.as_bytes(), host.as_str().as_bytes())
    }
}

/// Whether `text` matches this pattern, ignoring case. On a mismatch, the last star takes one more character.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut index) = (0, 0);
    // The indices after the last star, and after the characters that it has taken.
    let mut star = None;
    while let Some(byte) = text.get(index) {
        match (pattern.get(at), star) {
            (Some(b'*'), _) if is_wild(*byte) => {
                (at, index) = (at + 1, index + 1);
                star = Some((at, index));
            }
            (Some(wanted), _) if wanted.eq_ignore_ascii_case(byte) => (at, index) = (at + 1, index + 1),
            (_, Some((after_star, taken))) if is_wild(text[taken]) => {
                (at, index) = (after_star, taken + 1);
                star = Some((at, index));
            }
            _ => return false,
        }
    }
    at == pattern.len()
}

/// Whether a star matches this byte.
fn is_wild(byte: u8) -> bool {
    byte != b'/' && byte != b':'
}

/// Whether a page of this origin was loaded from the host and port in `Host`. The scheme may differ: behind a proxy
/// that terminates TLS the page is https, which this server can't see.
pub(crate) fn is_same_origin(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let without_default = |authority: &str| authority.strip_suffix(default_port).unwrap_or(authority).len();
    authority[..without_default(authority)].eq_ignore_ascii_case(&host[..without_default(host)])
}

/// Whether this origin, `scheme://host[:port]`, is a loopback address or `localhost`.
pub(crate) fn is_loopback_origin(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    Host::parse(authority).is_some_and(Host::is_loopback)
}

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an origin is scheme://host or scheme://host:port, where * matches some characters, or * alone")
    }
}

impl std::error::Error for InvalidPattern {}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(patterns: &[&str]) -> Origins {
        Origins::new(patterns.iter().map(|pattern| OriginPattern::new(pattern).unwrap()).collect())
    }

    /// Whether a listener that is not on loopback accepts a page's WebSocket.
    fn allows(origins: &Origins, origin: Option<&str>, host: &str) -> bool {
        origins.check_upgrade(origin, Host::parse(host), false).is_ok()
    }

    #[test]
    fn the_page_of_the_control_port_may_connect() {
        let origins = origins(&["https://example.org"]).with_control_port(8001);
        let rows = [
            ("http://ops.example.com:8001", "ops.example.com:8000", true),
            ("https://OPS.example.com:8001", "ops.example.com:8000", true),
            ("http://[2001:db8::1]:8001", "[2001:db8::1]:8000", true),
            ("http://ops.example.com:8002", "ops.example.com:8000", false),
            ("http://ops.example.com", "ops.example.com:8000", false),
            ("http://other.example.com:8001", "ops.example.com:8000", false),
            ("http://ops.example.com:8001@ops.example.com", "ops.example.com:8000", false),
        ];
        for (origin, host, expected) in rows {
            assert_eq!(allows(&origins, Some(origin), host), expected, "{origin} {host}");
        }
        let rebound = origins.check_upgrade(Some("http://evil.example:8001"), Host::parse("evil.example:8000"), true);
        assert_eq!(rebound, Err(PageRefused::Host), "a name on loopback may be anyone's");
    }

    #[test]
    fn without_patterns_pages_of_this_host_and_of_loopback_may_connect() {
        let rows = [
            (None, "example.com", true),
            (Some("https://example.com"), "example.com", true),
            (Some("https://EXAMPLE.com"), "example.com", true),
            (Some("https://example.com:443"), "example.com", true),
            (Some("http://example.com"), "example.com:80", true),
            (Some("http://example.com:8000"), "example.com:8000", true),
            (Some("http://192.0.2.7:8000"), "192.0.2.7:8000", true),
            (Some("http://example.com:8000"), "example.com", false),
            (Some("https://example.com:80"), "example.com", false),
            (Some("https://example.org"), "example.com", false),
            (Some("https://example.com.example.org"), "example.com", false),
            (Some("null"), "null", false),
            (Some(""), "", false),
            (Some("http://localhost:3000"), "example.com", true),
            (Some("http://[::1]"), "example.com", true),
        ];
        for (origin, host, expected) in rows {
            assert_eq!(allows(&origins(&[]), origin, host), expected, "{origin:?} at {host:?}");
        }
    }

    #[test]
    fn patterns_allow_more_origins() {
        let list = origins(&["https://*.example.com", "http://localhost:*", "null"]);
        let rows = [
            (None, true),
            (Some("https://this.host"), true),
            (Some("https://a.example.com"), true),
            (Some("HTTPS://A.Example.com"), true),
            (Some("https://a.b.example.com"), true),
            (Some("http://localhost:3000"), true),
            (Some("null"), true),
            (Some("https://example.com"), false),
            (Some("https://.example.com"), false),
            (Some("http://a.example.com"), false),
            (Some("https://a.example.com:8443"), false),
            (Some("https://a.example.com.example.org"), false),
            (Some("https://evil.org/.example.com"), false),
            (Some("https://evil.org:1.example.com"), false),
            (Some("http://localhost"), false),
            (Some("http://127.0.0.1:3000"), false),
        ];
        for (origin, expected) in rows {
            assert_eq!(allows(&list, origin, "this.host"), expected, "{origin:?}");
        }
        assert!(allows(&origins(&["*"]), Some("null"), "this.host"));
        assert!(allows(&origins(&["*"]), Some("http://a:1"), "this.host"));
        assert!(!allows(&origins(&["*"]), Some("http://a\tb"), "this.host"));
        assert!(!allows(&origins(&["*"]), Some("http://é"), "this.host"));
    }

    /// Patterns, origin and host, and the outcome of an upgrade and of a GET on a loopback listener.
    type Verdicts<'a> = (&'a [&'a str], Option<&'a str>, Option<&'a str>, [Result<(), PageRefused>; 2]);

    #[test]
    fn a_loopback_listener_rejects_host_names_without_a_pattern() {
        let (ok, host, origin) = (Ok(()), Err(PageRefused::Host), Err(PageRefused::Origin));
        let rows: [Verdicts<'_>; 19] = [
            // DNS rebinding: the page's host name resolves to 127.0.0.1. A WebSocket, then an event stream.
            (&[], Some("http://evil.example:8000"), Some("evil.example:8000"), [host, host]),
            (&[], None, Some("evil.example:8000"), [ok, host]),
            (&[], Some("http://localhost.:8000"), Some("localhost.:8000"), [host, host]),
            (&["https://app.example"], Some("http://evil.example"), Some("evil.example"), [host, host]),
            (&["https://app.example"], None, Some("evil.example"), [ok, host]),
            // Pages and programs that connect to the address or to localhost.
            (&[], Some("http://localhost:8000"), Some("localhost:8000"), [ok, ok]),
            (&[], Some("http://127.0.0.1:3000"), Some("localhost:8000"), [ok, ok]),
            (&[], None, Some("localhost:8000"), [ok, ok]),
            (&[], None, Some("[::1]:8000"), [ok, ok]),
            (&[], None, None, [ok, ok]),
            (&["https://app.example"], Some("http://192.0.2.7"), Some("192.0.2.7"), [ok, ok]),
            (&[], Some("https://evil.example"), Some("localhost:8000"), [origin, origin]),
            // A proxy on this host that forwards the public name.
            (&[], Some("https://app.example"), Some("app.example"), [host, host]),
            (&["https://app.example"], Some("https://app.example"), Some("app.example"), [ok, ok]),
            (&["https://app.example"], Some("https://app.example"), Some("push.example"), [ok, ok]),
            (&["https://app.example"], None, Some("app.example"), [ok, ok]),
            (&["https://*.example"], None, Some("app.example"), [ok, ok]),
            (&["*"], None, Some("app.example"), [ok, ok]),
            (&["null"], None, Some("null"), [ok, host]),
        ];
        for (patterns, origin, host, verdicts) in rows {
            let list = origins(patterns);
            let host = host.map(|host| Host::parse(host).unwrap());
            let got = [list.check_upgrade(origin, host, true), list.check_get(origin, host, true)];
            assert_eq!(got, verdicts, "{patterns:?}: {origin:?} at {host:?}");
            assert_eq!(list.check_get(None, host, false), Ok(()), "not on loopback: {host:?}");
        }
    }

    #[test]
    fn a_star_matches_any_number_of_characters() {
        let rows = [
            ("a*b", "axb", true),
            ("a*b", "abb", true),
            ("a*b", "abxb", true),
            ("a*b", "ab", false),
            ("a*b", "axbx", false),
            ("*.b.*", "a.b.b.c", true),
            ("a*", "a", false),
            ("a*c", "a:c", false),
            ("a**c", "abc", false),
            ("a**c", "abbc", true),
            ("", "", true),
            ("", "a", false),
        ];
        for (pattern, text, expected) in rows {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} and {text:?}");
        }
    }

    #[test]
    fn patterns_are_origins() {
        for good in ["*", "null", "https://example.com", "http://*:8000", "https://[2001:db8::1]:8443", "app://."] {
            assert_eq!(OriginPattern::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "example.com", "https://", "://a", "https://a/", "https://a/b", "https://a b", "htt ps://a"] {
            assert_eq!(OriginPattern::new(bad), Err(InvalidPattern), "{bad:?}");
        }
    }

    #[test]
    fn the_whole_host_decides_whether_it_is_loopback() {
        for yes in
            ["http://localhost", "https://LOCALHOST:1", "http://127.8.8.8", "http://[::1]:8000", "app://localhost"]
        {
            assert!(is_loopback_origin(yes), "{yes:?}");
        }
        let no = [
            "http://localhost.example.org",
            "http://127.0.0.1.example.org",
            "http://localhost@example.org",
            "http://localhost:x",
            "http://[::1]x",
            "http://[::2]",
            "http://192.168.0.7",
            "localhost",
            "null",
            "",
        ];
        for no in no {
            assert!(!is_loopback_origin(no), "{no:?}");
        }
    }
}
