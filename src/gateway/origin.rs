//! Which web pages may connect.
//!
//! Browsers let every page open a WebSocket to every server and send the server's cookies along; all they do about it
//! is to name the page's origin (RFC 6455 §10.2). So the server has to look. Only pages are kept out this way: a
//! program can send any origin, or none, and none is always welcome.
//!
//! A page's own name may be made to *resolve* to 127.0.0.1 after the page has loaded (DNS rebinding). To the browser
//! this server is then the page's own: origin and host are the same, and a GET carries no origin at all. `Host` still
//! has the page's name. So where the listener is on loopback a name as host proves nothing, unless a pattern has it.

use std::fmt;

use crate::proto::Host;

/// The web pages that may connect, besides those that were loaded from the very host and port they connect to. A
/// listener on loopback does not take a name for its own host, unless a pattern has that name.
///
/// Without patterns these are the pages of a loopback address, as while developing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    patterns: Vec<OriginPattern>,
}

/// `*`, which is any origin; `null`, that of sandboxed pages and local files; or `scheme://host[:port]`, where each `*`
/// stands for one or more characters that are neither `/` nor `:`. So `https://*.example.com` has the subdomains at any
/// depth, without `https://example.com` itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern(String);

/// Why a request is refused that a web page may have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageRefused {
    /// Pages of this origin may not connect.
    Origin,
    /// The host is a name that anybody may have pointed at this loopback address.
    Host,
}

/// A text that is no [`OriginPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPattern;

impl Origins {
    /// The pages whose origin has one of these patterns.
    pub fn new(patterns: Vec<OriginPattern>) -> Origins {
        Origins { patterns }
    }

    /// Checks `Origin` and `Host` of a request to open a WebSocket, which browsers never send without an origin. An
    /// origin that is allowed has only visible characters of ASCII, so that it can be repeated in an answer.
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
        match host.filter(|host| is_same(origin, host.as_str())) {
            Some(host) if on_loopback && !host.is_unnamed() => Err(PageRefused::Host),
            Some(_) => Ok(()),
            None => Err(PageRefused::Origin),
        }
    }

    /// The same for a GET that asks for no WebSocket, which browsers send without an origin to a page's own host.
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
    /// For the body of the answer.
    pub fn reason(self) -> &'static str {
        match self {
            PageRefused::Origin => {
                "pages of this origin may not connect: name it in allowed_origins, or load the page from here"
            }
            PageRefused::Host => {
                "this server listens on loopback and takes no name for its own: name the site in allowed_origins, as \
                 https://HOST, or address the server as localhost"
            }
        }
    }
}

impl OriginPattern {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`InvalidPattern`], most likely for want of a scheme, or for a path after the host.
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

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn matches(&self, origin: &str) -> bool {
        self.0 == "*" || matches(self.0.as_bytes(), origin.as_bytes())
    }

    /// Whether this is the pattern of pages of `host`, whatever their scheme.
    fn names(&self, host: Host<'_>) -> bool {
        let Some((_, authority)) = self.0.split_once("://") else { return self.0 == "*" };
        matches(authority.as_bytes(), host.as_str().as_bytes())
    }
}

/// Whether `text` has this pattern, in any case. Both are walked together; where that does not go on, the last star
/// takes one character more.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut index) = (0, 0);
    // Behind the last star, and behind what it has taken.
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

/// Whether a star stands for this.
fn is_wild(byte: u8) -> bool {
    byte != b'/' && byte != b':'
}

/// Whether a page of this origin came from the host and port that `Host` names. The scheme may differ in meaning only:
/// behind a proxy that ends TLS, the page is https and this server does not know.
fn is_same(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let without_default = |authority: &str| authority.strip_suffix(default_port).unwrap_or(authority).len();
    authority[..without_default(authority)].eq_ignore_ascii_case(&host[..without_default(host)])
}

/// Whether this origin, `scheme://host[:port]`, is a page of a loopback address or of `localhost`.
pub(crate) fn is_loopback_origin(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    Host::parse(authority).is_some_and(Host::is_loopback)
}

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an origin is scheme://host or scheme://host:port, where * stands for some characters, or * alone")
    }
}

impl std::error::Error for InvalidPattern {}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(patterns: &[&str]) -> Origins {
        Origins::new(patterns.iter().map(|pattern| OriginPattern::new(pattern).unwrap()).collect())
    }

    /// Whether a listener that is not on loopback lets a page open a WebSocket.
    fn allows(origins: &Origins, origin: Option<&str>, host: &str) -> bool {
        origins.check_upgrade(origin, Host::parse(host), false).is_ok()
    }

    #[test]
    fn without_a_list_pages_of_this_host_and_of_loopback_are_welcome() {
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
    fn a_list_says_who_else_is_welcome() {
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

    /// Patterns, origin and host, and what a listener on loopback says to an upgrade, and to a GET.
    type Verdicts<'a> = (&'a [&'a str], Option<&'a str>, Option<&'a str>, [Result<(), PageRefused>; 2]);

    #[test]
    fn on_loopback_a_name_is_no_host_of_ours_unless_it_is_listed() {
        let (ok, host, origin) = (Ok(()), Err(PageRefused::Host), Err(PageRefused::Origin));
        let rows: [Verdicts<'_>; 19] = [
            // A page whose name was made to resolve to 127.0.0.1, with a WebSocket and with an event stream.
            (&[], Some("http://evil.example:8000"), Some("evil.example:8000"), [host, host]),
            (&[], None, Some("evil.example:8000"), [ok, host]),
            (&[], Some("http://localhost.:8000"), Some("localhost.:8000"), [host, host]),
            (&["https://app.example"], Some("http://evil.example"), Some("evil.example"), [host, host]),
            (&["https://app.example"], None, Some("evil.example"), [ok, host]),
            // Pages and programs that address the server by its address or as localhost.
            (&[], Some("http://localhost:8000"), Some("localhost:8000"), [ok, ok]),
            (&[], Some("http://127.0.0.1:3000"), Some("localhost:8000"), [ok, ok]),
            (&[], None, Some("localhost:8000"), [ok, ok]),
            (&[], None, Some("[::1]:8000"), [ok, ok]),
            (&[], None, None, [ok, ok]),
            (&["https://app.example"], Some("http://192.0.2.7"), Some("192.0.2.7"), [ok, ok]),
            (&[], Some("https://evil.example"), Some("localhost:8000"), [origin, origin]),
            // A proxy on this host that passes the public name on.
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
    fn stars_take_as_much_as_it_needs() {
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
    fn loopback_is_told_by_the_whole_host() {
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
