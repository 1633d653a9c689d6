//! HTTP proxies: which one a connection takes, and the request for a tunnel.
//!
//! `ws` goes through a tunnel as `wss` does (RFC 6455 §4.1): a proxy would not pass an upgrade on.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::dial::ProxyChoice;
use super::refusal::printable;
use super::url::Endpoint;
use super::{ClientError, UrlError};
use crate::limits::{HANDSHAKE_HEADERS_MAX, PROXY_RESPONSE_BYTES_MAX};

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    /// A name or an address, IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// User and password, as `Proxy-Authorization` has them (RFC 7617 §2).
    credentials: Option<String>,
}

impl Proxy {
    /// The proxy through which a client connects to `endpoint`.
    ///
    /// # Errors
    /// [`UrlError::Proxy`].
    pub(super) fn choose(choice: &ProxyChoice, endpoint: &Endpoint) -> Result<Option<Proxy>, UrlError> {
        match choice {
            ProxyChoice::Direct => Ok(None),
            ProxyChoice::Through(url) => Proxy::parse(url).map(Some),
            ProxyChoice::Environment => Proxy::of_environment(endpoint, |name| std::env::var(name).ok()),
        }
    }

    fn of_environment(
        endpoint: &Endpoint,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Proxy>, UrlError> {
        let first = |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
        // HTTP_PROXY may be a header field of a request to a CGI program, and not the operator's.
        let own: &[&str] = if endpoint.is_secure { &["https_proxy", "HTTPS_PROXY"] } else { &["http_proxy"] };
        let Some(url) = first(own).or_else(|| first(&["all_proxy", "ALL_PROXY"])) else { return Ok(None) };
        let exceptions = first(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
        if is_local(&endpoint.host) || is_exception(&exceptions, &endpoint.host, endpoint.port) {
            return Ok(None);
        }
        Proxy::parse(&url).map(Some)
    }

    /// Takes `http://user:password@host:port` apart; the scheme may be missing.
    fn parse(url: &str) -> Result<Proxy, UrlError> {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = url.parse().map_err(|_| UrlError::Proxy)?;
        let authority = uri.authority().ok_or(UrlError::Proxy)?;
        if uri.scheme_str() != Some("http") || authority.host().is_empty() {
            return Err(UrlError::Proxy);
        }
        let credentials = authority.as_str().rsplit_once('@').map(|(user, _)| user);
        let credentials = credentials.map(|user| {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            let decoded = [user, password].map(|text| percent_decode_str(text).collect::<Vec<u8>>());
            STANDARD.encode(decoded.join(&b':'))
        });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Proxy { host, port: authority.port_u16().unwrap_or(80), credentials })
    }

    /// Requests a tunnel to `endpoint` on a connection to this proxy. What follows its response belongs to the tunnel.
    ///
    /// # Errors
    /// [`ClientError::Proxy`].
    pub(super) async fn open_tunnel(&self, stream: &mut TcpStream, endpoint: &Endpoint) -> Result<(), ClientError> {
        let failed = |text: String, is_passing| ClientError::Proxy { text, is_passing };
        stream.write_all(self.request(endpoint).as_bytes()).await?;
        let mut head = Vec::new();
        // Byte by byte, so that none of the tunnel is taken.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= PROXY_RESPONSE_BYTES_MAX {
                return Err(failed(format!("the proxy at {self} sent a response that is too long"), false));
            }
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(error) => return Err(failed(format!("the proxy at {self} ended the connection: {error}"), true)),
            }
        }
        let (status, challenges) = parse_response(&head)
            .ok_or_else(|| failed(format!("the proxy at {self} did not answer in HTTP: check its address"), false))?;
        match self.rejection(status, &challenges, endpoint) {
            None => Ok(()),
            Some(text) => Err(failed(text, status >= 500)),
        }
    }

    /// The host stays a name, which the proxy resolves.
    fn request(&self, endpoint: &Endpoint) -> String {
        let target = target(endpoint);
        let credentials = self.credentials.iter().map(|text| format!("Proxy-Authorization: Basic {text}\r\n"));
        let credentials: String = credentials.collect();
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n")
    }

    /// Why the proxy opens no tunnel.
    fn rejection(&self, status: u16, challenges: &str, endpoint: &Endpoint) -> Option<String> {
        let target = target(endpoint);
        match status {
            200..=299 => None,
            // Some proxies answer a wrong password as a server would.
            401 | 407 => {
                let problem = match &self.credentials {
                    Some(_) => "rejects the user or the password",
                    None => "requires a user and a password",
                };
                Some(format!(
                    "the proxy at {self} {problem} (it says: {challenges}): write them as in \
                     http://USER:PASSWORD@HOST:PORT; only Basic is supported"
                ))
            }
            403 => Some(format!(
                "the proxy at {self} forbids connections to {target}: many proxies allow CONNECT to port 443 only"
            )),
            _ => Some(format!("the proxy at {self} answered CONNECT {target} with HTTP status {status}")),
        }
    }
}

impl std::fmt::Display for Proxy {
    /// Without the credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

fn target(endpoint: &Endpoint) -> String {
    format!("{}:{}", bracketed(&endpoint.host), endpoint.port)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Status and challenges of a response.
fn parse_response(head: &[u8]) -> Option<(u16, String)> {
    let mut headers = [httparse::EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(head).ok().filter(httparse::Status::is_complete)?;
    let is_challenge =
        |name: &str| ["Proxy-Authenticate", "WWW-Authenticate"].iter().any(|of| name.eq_ignore_ascii_case(of));
    let challenges = response.headers.iter().filter(|field| is_challenge(field.name));
    let challenges: Vec<String> = challenges.map(|field| printable(field.value)).collect();
    Some((response.code?, challenges.join(", ")))
}

fn is_local(host: &str) -> bool {
    let is_loopback = |address: IpAddr| address.is_loopback();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

/// Whether `NO_PROXY` lists the host: a name with all names below it, an address, a network, or `*`; maybe with a port.
fn is_exception(list: &str, host: &str, port: u16) -> bool {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return contains(entry, address);
        }
        let (name, of_port) = match entry.rsplit_once(':') {
            Some((name, of_port)) => (name, of_port.parse() == Ok(port)),
            None => (entry, true),
        };
        let name = name.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
        let host = host.to_ascii_lowercase();
        let is_below = || host.strip_suffix(&name).is_some_and(|front| front.ends_with('.'));
        of_port && !name.is_empty() && (host == name || is_below())
    })
}

/// Whether an entry is this address, or its network: `10.0.0.0/8`.
fn contains(entry: &str, address: IpAddr) -> bool {
    let (first, bits) = entry.split_once('/').unwrap_or((entry, "128"));
    let bits = |max: u32| bits.parse().unwrap_or(0).min(max);
    match (first.parse(), address) {
        (Ok(IpAddr::V4(first)), IpAddr::V4(address)) => {
            (first.to_bits() ^ address.to_bits()).checked_shr(32 - bits(32)).unwrap_or(0) == 0
        }
        (Ok(IpAddr::V6(first)), IpAddr::V6(address)) => {
            (first.to_bits() ^ address.to_bits()).checked_shr(128 - bits(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::url::Scheme;

    fn chosen(url: &str, variables: &[(&str, &str)]) -> Option<String> {
        let endpoint = Endpoint::parse(url, Scheme::Ws).unwrap();
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Proxy::of_environment(&endpoint, variable).unwrap().map(|proxy| proxy.to_string())
    }

    #[test]
    fn the_environment_chooses_a_proxy() {
        let all = [("https_proxy", "http://s:1"), ("http_proxy", "p:2"), ("ALL_PROXY", "a:3")];
        assert_eq!(chosen("wss://example.org/", &all).unwrap(), "s:1");
        assert_eq!(chosen("ws://example.org/", &all).unwrap(), "p:2");
        assert_eq!(chosen("ws://example.org/", &all[2..]).unwrap(), "a:3");
        assert_eq!(chosen("wss://example.org/", &[("HTTPS_PROXY", "[::1]:4")]).unwrap(), "[::1]:4");
        assert_eq!(chosen("ws://example.org/", &[("HTTP_PROXY", "p:2")]), None);
        assert_eq!(chosen("ws://example.org/", &[("http_proxy", "")]), None);
        for local in ["ws://127.0.0.1/", "ws://[::1]/", "wss://localhost/"] {
            assert_eq!(chosen(local, &all), None, "{local}");
        }
    }

    #[test]
    fn exceptions_are_names_addresses_and_networks() {
        let rows = [
            ("*", "example.org", true),
            ("example.org", "example.org", true),
            ("example.org", "a.Example.org", true),
            (".example.org", "a.example.org", true),
            ("*.example.org", "a.example.org", true),
            ("example.org", "notexample.org", false),
            ("example.org:80", "example.org", true),
            ("example.org:81", "example.org", false),
            ("a, example.org", "example.org", true),
            ("", "example.org", false),
            (",", "example.org", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.0/24", "192.0.2.1", true),
            ("192.0.2.0/24", "192.0.3.1", false),
            ("0.0.0.0/0", "192.0.3.1", true),
            ("2001:db8::/32", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("192.0.2.0/24", "example.org", false),
        ];
        for (list, host, expected) in rows {
            assert_eq!(is_exception(list, host, 80), expected, "{list}: {host}");
        }
    }

    #[test]
    fn proxies_are_taken_apart_and_requests_have_credentials() {
        let endpoint = Endpoint::parse("ws://[2001:db8::1]:8000/a", Scheme::Ws).unwrap();
        let proxy = Proxy::parse("http://us%3aer:p%40ss@proxy.test:3128").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.test", 3128));
        let request = proxy.request(&endpoint);
        let credentials = STANDARD.encode("us:er:p@ss");
        assert!(
            request.starts_with("CONNECT [2001:db8::1]:8000 HTTP/1.1\r\nHost: [2001:db8::1]:8000\r\n"),
            "{request}"
        );
        assert!(request.ends_with(&format!("Proxy-Authorization: Basic {credentials}\r\n\r\n")), "{request}");
        assert_eq!(Proxy::parse("proxy.test").unwrap().port, 80);
        for bad in ["", "http://", "socks5://a:1", "https://a:1", "http://a b"] {
            assert_eq!(Proxy::parse(bad), Err(UrlError::Proxy), "{bad}");
        }
        let said = proxy.rejection(407, "Basic realm=\"a\"", &endpoint).unwrap();
        assert!(said.contains("rejects the user") && !said.contains("p@ss"), "{said}");
        assert!(proxy.rejection(403, "", &endpoint).unwrap().contains("443"));
        assert_eq!(proxy.rejection(200, "", &endpoint), None);
    }
}
