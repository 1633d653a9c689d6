//! Addresses on the command line: `ws://host:port/path` and `http://host:port/path`.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::error::Error;

/// Host, port and path, without the scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `host:port` as given: what goes into the Host header.
    pub(crate) authority: String,
    /// Path and query, with the slash in front.
    pub(crate) path: String,
}

/// A `ws://` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebSocketTarget(pub(crate) Target);

/// Where and how to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublishTarget {
    /// `POST` with the message as the body.
    Http(Target),
    /// A WebSocket whose text messages the server hands to all subscribers.
    WebSocket(WebSocketTarget),
}

impl Target {
    fn parse(rest: &str) -> Result<Target, String> {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port = authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            return Err("expected HOST:PORT, as in ws://127.0.0.1:8000/feed/news".to_owned());
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("expected a path of printable ASCII, percent-encoded".to_owned());
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { authority: authority.to_owned(), path: path.to_owned() })
    }

    /// The address behind the name.
    ///
    /// # Errors
    /// If the name can't be resolved.
    pub(crate) fn resolve(&self) -> Result<SocketAddr, Error> {
        let mut addresses = self
            .authority
            .to_socket_addrs()
            .map_err(|error| Error::new(format!("can't resolve {}: {error}", self.authority)))?;
        addresses.next().ok_or_else(|| Error::new(format!("{} has no address", self.authority)))
    }
}

impl fmt::Display for WebSocketTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}{}", self.0.authority, self.0.path)
    }
}

impl FromStr for WebSocketTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<WebSocketTarget, String> {
        let rest = text.strip_prefix("ws://").ok_or("expected an address that begins with ws://")?;
        Target::parse(rest).map(WebSocketTarget)
    }
}

impl FromStr for PublishTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<PublishTarget, String> {
        match text.strip_prefix("http://") {
            Some(rest) => Target::parse(rest).map(PublishTarget::Http),
            None => text.parse().map(PublishTarget::WebSocket).map_err(|error: String| format!("{error} or http://")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(authority: &str, path: &str) -> Target {
        Target { authority: authority.to_owned(), path: path.to_owned() }
    }

    #[test]
    fn schemes_choose_the_way() {
        let feed = target("127.0.0.1:8000", "/feed/a?history=1");
        assert_eq!("ws://127.0.0.1:8000/feed/a?history=1".parse(), Ok(WebSocketTarget(feed.clone())));
        assert_eq!("ws://127.0.0.1:8000/feed/a?history=1".parse(), Ok(PublishTarget::WebSocket(WebSocketTarget(feed))));
        assert_eq!("http://[::1]:80".parse(), Ok(PublishTarget::Http(target("[::1]:80", "/"))));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, missing) in
            [("http://a:1/", "ws://"), ("ws://a/", "HOST:PORT"), ("ws://a:x/", "HOST:PORT"), ("ws://a:1/ä", "ASCII")]
        {
            let error = text.parse::<WebSocketTarget>().unwrap_err();
            assert!(error.contains(missing), "{text}: {error}");
        }
    }
}
