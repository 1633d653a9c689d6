//! The requests that open connections, with their parameters parsed.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Deref;

use percent_encoding::percent_decode_str;

use super::routes::path_parameter;
use crate::proto::{RequestHead, Upgrade};

/// A request to open a WebSocket: a [`Get`] with an upgrade.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub(crate) get: Get<'a>,
    /// Origin, subprotocols and extensions.
    pub upgrade: &'a Upgrade<'a>,
}

/// A GET request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Get<'a> {
    /// The path of the route, as it was registered.
    pub route: &'a str,
    /// The path after the route's prefix; not percent-decoded. Empty if the route is no prefix.
    pub rest: &'a str,
    /// Path, query and header fields.
    pub head: &'a RequestHead<'a>,
    /// The client's address, also behind trusted proxies that state it. `None` if the peer of a Unix socket states
    /// none.
    pub peer: Option<IpAddr>,
    /// The subject of the client's certificate, as `CN=ann,O=Example` (RFC 4514), if it has shown one on TLS.
    /// An authority of [`client_ca_file`](crate::tls::TlsSettings::client_ca_file) vouches for it.
    pub client_subject: Option<&'a str>,
}

impl<'a> Deref for Request<'a> {
    type Target = Get<'a>;

    fn deref(&self) -> &Get<'a> {
        &self.get
    }
}

impl<'a> Get<'a> {
    /// The value of a header field that must occur at most once; `name` is case-insensitive. `None` if the field is
    /// missing, repeated, or not UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.head.header(name)
    }

    /// The first value of a parameter of the query, decoded: `+` is a space (URL Standard §5.1). `None` if the
    /// parameter is missing or not UTF-8.
    pub fn query(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut pairs = self.head.query.into_iter().flat_map(|query| query.split('&'));
        pairs
            .find_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (form_decoded(key).as_deref() == Some(name)).then_some(value)
            })
            .and_then(form_decoded)
    }

    /// The value of a path parameter, percent-decoded: of a route `/rooms/{room}` and the path `/rooms/a%20b` the
    /// parameter `room` is `a b`. `None` if the route has no such parameter, or its value is not UTF-8.
    pub fn param(&self, name: &str) -> Option<Cow<'a, str>> {
        percent_decode_str(path_parameter(self.route, self.head.path, name)?).decode_utf8().ok()
    }
}

/// Decodes a key or a value of a query.
fn form_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8().ok();
    }
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::decode_request_head;

    #[test]
    fn parameters_are_decoded() {
        let request =
            b"GET /rooms/a%20b/list?who=ann+b&x=%C3%A9&flag&who=2&bad=%ff HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n\r\n";
        let (head, _) = decode_request_head(request).unwrap().unwrap();
        let get = Get { route: "/rooms/{room}/list", rest: "", head: &head, peer: None, client_subject: None };
        let rows = [("who", Some("ann b")), ("x", Some("é")), ("flag", Some("")), ("bad", None), ("none", None)];
        for (name, value) in rows {
            assert_eq!(get.query(name).as_deref(), value, "{name}");
        }
        assert_eq!((get.param("room").as_deref(), get.param("list")), (Some("a b"), None));
        assert_eq!((get.header("x-a"), get.header("X-B")), (Some("1"), None));
    }
}
