//! Addresses from the command line, such as `ws://host:port/path`. `{topic}` in a path is replaced by a topic name.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::error::Error;

/// The placeholder for a topic name.
const TOPIC: &str = "{topic}";

/// Transport of a server, below the protocol of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Ws,
    Wss,
    Http,
    Https,
}

impl Scheme {
    const ALL: [(Scheme, &str); 4] =
        [(Scheme::Ws, "ws://"), (Scheme::Wss, "wss://"), (Scheme::Http, "http://"), (Scheme::Https, "https://")];

    fn default_port(self) -> u16 {
        match self {
            Scheme::Ws | Scheme::Http => 80,
            Scheme::Wss | Scheme::Https => 443,
        }
    }

    /// The scheme with `://`.
    fn prefix(self) -> &'static str {
        Scheme::ALL.iter().find(|(scheme, _)| *scheme == self).expect("ALL lists every scheme").1
    }
}

/// A parsed address: scheme, host, port and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    /// `host:port` or `host` as given: the value of the Host header.
    pub(crate) authority: String,
    /// The host without brackets.
    host: String,
    port: u16,
    /// Path and query, with the leading slash.
    path: String,
}

impl Target {
    /// Whether this is a WebSocket address.
    pub(crate) fn is_web_socket(&self) -> bool {
        matches!(self.scheme, Scheme::Ws | Scheme::Wss)
    }

    /// Whether the connection uses TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self.scheme, Scheme::Wss | Scheme::Https)
    }

    /// The host without the port, which the certificate must name.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether each topic has its own path.
    pub(crate) fn has_topic(&self) -> bool {
        self.path.contains(TOPIC)
    }

    /// Path and query for `topic`.
    pub(crate) fn path(&self, topic: &str) -> String {
        self.path.replace(TOPIC, topic)
    }

    /// Resolves the host name.
    ///
    /// # Errors
    /// If the name can't be resolved.
    pub(crate) fn resolve(&self) -> Result<SocketAddr, Error> {
        let mut addresses = (&*self.host, self.port)
            .to_socket_addrs()
            .map_err(|error| Error::new(format!("can't resolve {}: {error}", self.authority)))?;
        addresses.next().ok_or_else(|| Error::new(format!("{} has no address", self.authority)))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.scheme.prefix(), self.authority, self.path)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let found = Scheme::ALL.iter().find_map(|(scheme, prefix)| Some((*scheme, text.strip_prefix(prefix)?)));
        let (scheme, rest) = found.ok_or("expected an address that begins with ws://, wss://, http:// or https://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = split_authority(authority)
            .ok_or("expected HOST or HOST:PORT, as in ws://127.0.0.1:8000/feed/news or wss://example.com/feed")?;
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("expected a path of printable ASCII, percent-encoded".to_owned());
        }
        let path = if path.is_empty() { "/" } else { path };
        let (host, port) = (host.to_owned(), port.unwrap_or(scheme.default_port()));
        Ok(Target { scheme, authority: authority.to_owned(), host, port, path: path.to_owned() })
    }
}

/// Host and port of `host`, `host:port`, `[IPv6]` or `[IPv6]:port`.
fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map(str::parse).transpose().ok()?;
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_parsed_and_displays_as_its_text() {
        let text = "wss://[::1]:8000/feed/a?history=1";
        let target: Target = text.parse().unwrap();
        assert_eq!((target.authority.as_str(), target.host()), ("[::1]:8000", "::1"));
        assert_eq!((target.path("t"), target.to_string()), ("/feed/a?history=1".to_owned(), text.to_owned()));
        assert!(target.is_web_socket() && target.is_encrypted() && !target.has_topic());
        let plain: Target = "http://a.b:80".parse().unwrap();
        assert!(!plain.is_web_socket() && !plain.is_encrypted());
        assert_eq!((plain.path("t").as_str(), plain.host()), ("/", "a.b"));
    }

    #[test]
    fn a_port_may_be_left_out() {
        let parse = |text: &str| text.parse::<Target>().map(|target| (target.host, target.port, target.authority));
        let expected = |host: &str, port, authority: &str| Ok((host.to_owned(), port, authority.to_owned()));
        assert_eq!(parse("ws://a/path"), expected("a", 80, "a"));
        assert_eq!(parse("wss://a.b"), expected("a.b", 443, "a.b"));
        assert_eq!(parse("https://[::1]/x"), expected("::1", 443, "[::1]"));
        assert_eq!(parse("http://[::1]:81"), expected("::1", 81, "[::1]:81"));
    }

    #[test]
    fn the_placeholder_is_replaced_by_the_topic() {
        let target: Target = "ws://a:1/feed/{topic}?x={topic}".parse().unwrap();
        assert!(target.has_topic());
        assert_eq!(target.path("load-7"), "/feed/load-7?x=load-7");
    }

    #[test]
    fn an_error_names_the_missing_part() {
        for (text, missing) in [
            ("ftp://a:1/", "ws://"),
            ("ws:///", "HOST"),
            ("ws://a:x/", "HOST:PORT"),
            ("ws://[::1/", "HOST:PORT"),
            ("ws://[::1]8/", "HOST:PORT"),
            ("ws://a:1/ä", "ASCII"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(missing), "{text}: {error}");
        }
    }
}
