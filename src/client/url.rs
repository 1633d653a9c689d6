//! What a client needs of a URL. The grammar is the `http` crate's. A Unix socket is `unix:PATH`, and what to request
//! there follows a colon, as in nginx: `unix:/run/ringfeed/control.sock:/publish/demo`.

use std::path::PathBuf;

use hyper::Uri;

use super::UrlError;

/// What a URL must begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// `ws://`, port 80 by default, or `wss://`, port 443 (RFC 6455 §3).
    Ws,
    /// `http://`, or `https://`.
    Http,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Scheme::Ws => "ws",
            Scheme::Http => "http",
        }
    }

    /// A URL of this scheme, as an example.
    fn example(self) -> &'static str {
        match self {
            Scheme::Ws => "ws://127.0.0.1:8000/feed/demo",
            Scheme::Http => "http://127.0.0.1:8001/publish/demo",
        }
    }

    /// The same with TLS.
    fn secure_name(self) -> &'static str {
        match self {
            Scheme::Ws => "wss",
            Scheme::Http => "https",
        }
    }
}

/// Where to connect to and what to ask for there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// A name or an address, IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// It speaks TLS.
    pub(super) is_secure: bool,
    /// For the `Host` field: the host as it stands in the URL, and the port if it does.
    pub(super) authority: String,
    /// Path and query.
    pub(super) target: String,
    /// The Unix socket to connect to instead.
    pub(super) socket: Option<PathBuf>,
}

impl Endpoint {
    /// Takes `url` apart.
    pub(super) fn parse(url: &str, scheme: Scheme) -> Result<Endpoint, UrlError> {
        let invalid = UrlError::Invalid { example: scheme.example() };
        if let Some(rest) = url.strip_prefix("unix:") {
            return Endpoint::parse_unix(rest).ok_or(invalid);
        }
        let uri: Uri = url.parse().map_err(|_| invalid)?;
        let found = uri.scheme_str().ok_or(invalid)?;
        let is_secure = found.eq_ignore_ascii_case(scheme.secure_name());
        if !is_secure && !found.eq_ignore_ascii_case(scheme.name()) {
            return Err(UrlError::Scheme { example: scheme.example() });
        }
        let authority = uri.authority().ok_or(invalid)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::Credentials);
        }
        let target = match uri.query() {
            Some(query) => format!("{}?{query}", uri.path()),
            None => uri.path().to_owned(),
        };
        let is_clean = is_target(&target);
        let has_port_or_none = authority.port_u16().is_some() || authority.as_str() == authority.host();
        if !is_clean || !has_port_or_none || authority.host().is_empty() {
            return Err(invalid);
        }
        Ok(Endpoint {
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            is_secure,
            authority: authority.to_string(),
            target,
            socket: None,
        })
    }

    /// Takes apart what follows `unix:`. A request on a Unix socket is for this host.
    fn parse_unix(rest: &str) -> Option<Endpoint> {
        let (path, target) =
            rest.split_once(":/").map_or((rest, "/".to_owned()), |(path, rest)| (path, format!("/{rest}")));
        (!path.is_empty() && is_target(&target)).then(|| Endpoint {
            host: "localhost".to_owned(),
            port: 80,
            is_secure: false,
            authority: "localhost".to_owned(),
            target,
            socket: Some(path.into()),
        })
    }
}

fn is_target(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let rows = [
            ("ws://127.0.0.1:8000/feed/demo", ("127.0.0.1", 8000, "127.0.0.1:8000", "/feed/demo")),
            ("ws://[::1]:8000/feed/a?since=b:1", ("::1", 8000, "[::1]:8000", "/feed/a?since=b:1")),
            ("WS://example.org", ("example.org", 80, "example.org", "/")),
            ("ws://example.org?x", ("example.org", 80, "example.org", "/?x")),
            ("ws://example.org/a#b", ("example.org", 80, "example.org", "/a")),
            ("wss://example.org/a", ("example.org", 443, "example.org", "/a")),
            ("WSS://[::1]:8443/a", ("::1", 8443, "[::1]:8443", "/a")),
        ];
        for (url, (host, port, authority, target)) in rows {
            let endpoint = Endpoint::parse(url, Scheme::Ws).unwrap();
            let Endpoint { host: got_host, port: got_port, authority: got_authority, target: got_target, .. } =
                &endpoint;
            assert_eq!(endpoint.is_secure, url.to_lowercase().starts_with("wss"), "{url}");
            let got = (got_host.as_str(), *got_port, got_authority.as_str(), got_target.as_str());
            assert_eq!(got, (host, port, authority, target), "{url}");
        }
    }

    #[test]
    fn a_unix_socket_is_a_path_and_a_target() {
        let rows = [
            ("unix:/run/control.sock", Some(("/run/control.sock", "/"))),
            ("unix:control.sock:/publish/a?key=b", Some(("control.sock", "/publish/a?key=b"))),
            ("unix:/run/a:b:/publish/c:/d", Some(("/run/a:b", "/publish/c:/d"))),
            ("unix:", None),
            ("unix::/publish/a", None),
            ("unix:/run/a:/publish/a b", None),
        ];
        for (url, expected) in rows {
            let endpoint = Endpoint::parse(url, Scheme::Http).ok();
            let found = endpoint
                .as_ref()
                .map(|endpoint| (endpoint.socket.as_ref().unwrap().to_str().unwrap(), &*endpoint.target));
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let invalid = UrlError::Invalid { example: Scheme::Ws.example() };
        let rows = [
            ("http://example.org/", UrlError::Scheme { example: Scheme::Ws.example() }),
            ("ws://user@example.org/", UrlError::Credentials),
            ("ws://user:password@example.org/", UrlError::Credentials),
            ("127.0.0.1:8000", invalid),
            ("/feed/demo", invalid),
            ("ws://", invalid),
            ("ws:///feed", invalid),
            ("ws://example.org:port/", invalid),
            ("ws://example.org:99999/", invalid),
            ("ws://example.org/é", invalid),
            ("ws://example.org/a b", invalid),
            ("", invalid),
        ];
        for (url, expected) in rows {
            assert_eq!(Endpoint::parse(url, Scheme::Ws), Err(expected), "{url}");
        }
        assert!(!Endpoint::parse("http://example.org/publish/a", Scheme::Http).unwrap().is_secure);
        assert!(Endpoint::parse("https://example.org/publish/a", Scheme::Http).unwrap().is_secure);
        assert!(Endpoint::parse("wss://example.org/", Scheme::Http).is_err());
    }
}
