//! The `Host` field of a request: the authority that the client addresses (RFC 9112 §3.2, RFC 3986 §3.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host as in a URL, with its port if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    /// As it was sent.
    text: &'a str,
    kind: HostKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostKind {
    Localhost,
    Address(IpAddr),
    /// A registered name, an address of a future kind, or an empty host.
    Other,
}

impl<'a> Host<'a> {
    /// Parses `host` or `host:port`. `None` if it violates the grammar: userinfo, a path, blanks, brackets around
    /// anything but an address, or a port that is no 16-bit number.
    pub fn parse(text: &'a str) -> Option<Host<'a>> {
        let host_len = match text.strip_prefix('[') {
            Some(rest) => rest.find(']')? + 2,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at(host_len);
        let kind = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(literal) => bracketed(literal)?,
            None => unbracketed(host)?,
        };
        is_port(port).then_some(Host { text, kind })
    }

    /// Host and port as sent.
    pub fn as_str(self) -> &'a str {
        self.text
    }

    /// The host as sent, without its port.
    pub fn without_port(self) -> &'a str {
        let port_len = match self.text.rfind([':', ']']) {
            Some(index) if self.text.as_bytes()[index] == b':' => self.text.len() - index,
            _ => 0,
        };
        &self.text[..self.text.len() - port_len]
    }

    /// The port as sent; `None` if there is none.
    pub fn port(self) -> Option<u16> {
        self.text[self.without_port().len()..].strip_prefix(':')?.parse().ok()
    }

    /// Whether the host is an address or `localhost`, rather than a name. The owner of a name decides what it resolves
    /// to, which can be the address of another owner's server.
    pub fn is_unnamed(self) -> bool {
        self.kind != HostKind::Other
    }

    /// Whether the host is `localhost` or a loopback address.
    pub fn is_loopback(self) -> bool {
        match self.kind {
            HostKind::Localhost => true,
            HostKind::Address(address) => address.is_loopback(),
            HostKind::Other => false,
        }
    }
}

/// The text in brackets: an IPv6 address, or `v`, a version, a dot and more (RFC 3986 §3.2.2).
fn bracketed(literal: &str) -> Option<HostKind> {
    if let Ok(address) = literal.parse::<Ipv6Addr>() {
        return Some(HostKind::Address(address.into()));
    }
    let (version, rest) = literal.strip_prefix(['v', 'V'])?.split_once('.')?;
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_rest = !rest.is_empty() && rest.bytes().all(|byte| is_name_byte(byte) || byte == b':');
    (is_version && is_rest).then_some(HostKind::Other)
}

fn unbracketed(host: &str) -> Option<HostKind> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(HostKind::Localhost);
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Some(HostKind::Address(address.into()));
    }
    is_registered_name(host).then_some(HostKind::Other)
}

/// Unreserved characters, sub-delimiters and percent-encoded bytes (RFC 3986 §3.2.2).
fn is_registered_name(host: &str) -> bool {
    let mut parts = host.split('%');
    let first = parts.next().unwrap_or_default();
    let is_encoded = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    first.bytes().all(is_name_byte) && parts.all(|part| is_encoded(part) && part.bytes().all(is_name_byte))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

/// An empty text, or a colon and digits, which may be missing (RFC 3986 §3.2.3).
fn is_port(text: &str) -> bool {
    let Some(digits) = text.strip_prefix(':') else { return text.is_empty() };
    digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.is_empty() || digits.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_its_port() {
        let rows = [
            ("example.com:443", "example.com", Some(443)),
            ("example.com", "example.com", None),
            ("example.com:", "example.com", None),
            ("[::1]:8000", "[::1]", Some(8000)),
            ("[::1]", "[::1]", None),
            ("127.0.0.1:1", "127.0.0.1", Some(1)),
        ];
        for (text, host, port) in rows {
            let parsed = Host::parse(text).unwrap();
            assert_eq!((parsed.without_port(), parsed.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn hosts_are_classified() {
        // text, is_unnamed, is_loopback
        let rows = [
            ("localhost", true, true),
            ("LocalHost:8000", true, true),
            ("127.0.0.1", true, true),
            ("127.8.8.8:1", true, true),
            ("[::1]:8000", true, true),
            ("192.0.2.7", true, false),
            ("[2001:db8::1]", true, false),
            ("example.com", false, false),
            ("example.com:443", false, false),
            ("example.com:", false, false),
            ("localhost.", false, false),
            ("localhost.example.org", false, false),
            ("127.0.0.1.example.org:8001", false, false),
            ("127.1", false, false),
            ("0x7f000001", false, false),
            ("xn--bcher-kva.example", false, false),
            ("b%C3%BCcher.example", false, false),
            ("under_score", false, false),
            ("[v1.fe80::a+en1]", false, false),
            ("", false, false),
            (":80", false, false),
        ];
        for (text, is_unnamed, is_loopback) in rows {
            let host = Host::parse(text).unwrap_or_else(|| panic!("{text:?} is a host"));
            assert_eq!((host.as_str(), host.is_unnamed(), host.is_loopback()), (text, is_unnamed, is_loopback));
        }
    }

    #[test]
    fn invalid_hosts_are_rejected() {
        let bad = [
            "user@example.com",
            "example.com/path",
            "example.com:80:80",
            "example.com:x",
            "example.com:65536",
            "example.com:-1",
            "a b",
            "a,b c",
            "a\tb",
            "http://example.com",
            "a?b",
            "a#b",
            "a\\b",
            "a%",
            "a%4",
            "a%zz",
            "a\"b",
            "é",
            "[::1",
            "::1",
            "[::1]x",
            "[]",
            "[example.com]",
            "[127.0.0.1]",
            "[v.x]",
            "[v1.]",
            "[::1%25eth0]",
        ];
        for text in bad {
            assert_eq!(Host::parse(text), None, "{text:?}");
        }
    }
}
