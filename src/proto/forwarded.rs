//! The client's address as proxies state it in a request: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each proxy appends the address of its own peer. So only the end of the list comes from trusted proxies: the client
//! is the last address that is not one of theirs, and anything before it may be a lie.

use std::net::{IpAddr, SocketAddr};

use super::RequestHead;

/// The header field in which proxies state addresses. A server reads one of them: a proxy that sets one may pass the
/// other on as the client has sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: addresses, separated by commas.
    #[default]
    XForwardedFor,
    /// `Forwarded`, with the parameter `for` (RFC 7239 §5.2).
    Forwarded,
}

/// The client of a request, by a [`ForwardedHeader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardedClient {
    /// The last address that is not trusted, or else the first one. `None`: there is no address.
    pub address: Option<IpAddr>,
    /// Whether all that had to be read was an address. Otherwise `address` is the last proxy's before that.
    pub is_readable: bool,
}

impl ForwardedHeader {
    /// The name of the field.
    pub fn name(self) -> &'static str {
        match self {
            ForwardedHeader::XForwardedFor => "X-Forwarded-For",
            ForwardedHeader::Forwarded => "Forwarded",
        }
    }

    /// Whether a request has the field.
    pub fn is_in(self, head: &RequestHead<'_>) -> bool {
        head.values(self.name()).next().is_some()
    }

    /// The client of a request that a trusted proxy has passed on.
    pub fn client(self, head: &RequestHead<'_>, is_trusted: impl Fn(IpAddr) -> bool) -> ForwardedClient {
        let mut client = ForwardedClient { address: None, is_readable: true };
        let values: Vec<_> = head.values(self.name()).collect();
        for value in values.into_iter().rev() {
            let addresses = match (self, value) {
                (_, Err(_)) => vec![None],
                (ForwardedHeader::XForwardedFor, Ok(value)) => value.split(',').map(address).collect(),
                (ForwardedHeader::Forwarded, Ok(value)) => forwarded_for(value).unwrap_or_else(|| vec![None]),
            };
            for address in addresses.into_iter().rev() {
                let Some(address) = address else { return ForwardedClient { is_readable: false, ..client } };
                client.address = Some(address);
                if !is_trusted(address) {
                    return client;
                }
            }
        }
        client
    }
}

/// An address, which some proxies write with a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let without_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let address: IpAddr = text.parse().ok().or_else(without_port).or_else(in_brackets)?;
    Some(address.to_canonical())
}

/// The `for` parameters of a `Forwarded` field; one that is no address is `None`, as `unknown` and names are. `None` if
/// the field is malformed.
fn forwarded_for(mut text: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut addresses = Vec::new();
    let mut of_element = None;
    loop {
        let (name, rest) = text.trim_start().split_once('=')?;
        let (value, rest) = value(rest)?;
        if name.eq_ignore_ascii_case("for") {
            if of_element.is_some() {
                return None;
            }
            of_element = Some(address(value));
        }
        let rest = rest.trim_start();
        text = match rest.as_bytes().first() {
            Some(b';') => &rest[1..],
            Some(b',') => {
                addresses.push(of_element.take().flatten());
                &rest[1..]
            }
            Some(_) => return None,
            None => {
                addresses.push(of_element.flatten());
                return Some(addresses);
            }
        };
    }
}

/// A token or a quoted string, and what follows it. No address has a character that a quoted string must escape.
fn value(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('"') {
        Some(quoted) => {
            let (value, rest) = quoted.split_once('"')?;
            (!value.contains('\\')).then_some((value, rest))
        }
        None => {
            let end = text.find([';', ',', ' ', '\t', '"']).unwrap_or(text.len());
            (end > 0).then(|| text.split_at(end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::decode_request_head;

    fn client(header: ForwardedHeader, fields: &str) -> (String, bool) {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let (head, _) = decode_request_head(head.as_bytes()).unwrap().unwrap();
        let is_trusted = |address: IpAddr| address.to_string().starts_with("10.");
        let ForwardedClient { address, is_readable } = header.client(&head, is_trusted);
        (address.map_or_else(String::new, |address| address.to_string()), is_readable)
    }

    #[test]
    fn the_last_address_that_is_not_trusted_counts() {
        let rows = [
            ("", "", true),
            ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1", true),
            ("x-forwarded-for: 192.0.2.1, 10.0.0.1\r\n", "192.0.2.1", true),
            ("X-Forwarded-For: 6.6.6.6, 192.0.2.1,10.0.0.1 , 10.0.0.2\r\n", "192.0.2.1", true),
            (
                "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 10.0.0.1\r\n",
                "192.0.2.1",
                true,
            ),
            ("X-Forwarded-For: 10.0.0.2, 10.0.0.1\r\n", "10.0.0.2", true),
            ("X-Forwarded-For: 192.0.2.1:4000\r\n", "192.0.2.1", true),
            ("X-Forwarded-For: 2001:db8::1\r\n", "2001:db8::1", true),
            ("X-Forwarded-For: [2001:db8::1]\r\n", "2001:db8::1", true),
            ("X-Forwarded-For: [2001:db8::1]:4000, ::ffff:10.0.0.1\r\n", "2001:db8::1", true),
            // What can't be read ends the list: anybody may have written what stands before.
            ("X-Forwarded-For: 6.6.6.6, lies, 10.0.0.1\r\n", "10.0.0.1", false),
            ("X-Forwarded-For: lies, 192.0.2.1\r\n", "192.0.2.1", true),
            ("X-Forwarded-For:\r\n", "", false),
            ("X-Forwarded-For: 192.0.2.1,\r\n", "", false),
            ("X-Forwarded-For: 192.0.2.1 10.0.0.1\r\n", "", false),
            ("X-Forwarded-For: \u{e9}\r\n", "", false),
            ("Forwarded: for=192.0.2.1\r\n", "", true),
        ];
        for (fields, address, is_readable) in rows {
            assert_eq!(client(ForwardedHeader::XForwardedFor, fields), (address.to_owned(), is_readable), "{fields}");
        }
    }

    #[test]
    fn a_forwarded_field_has_the_same_meaning() {
        let rows = [
            ("Forwarded: for=192.0.2.1\r\n", "192.0.2.1", true),
            ("Forwarded: For=192.0.2.1;proto=https;by=10.0.0.1, for=10.0.0.2\r\n", "192.0.2.1", true),
            ("Forwarded: for=\"[2001:db8::1]:4711\"\r\n", "2001:db8::1", true),
            ("Forwarded: host=\"a,b;for=6.6.6.6\";for=192.0.2.1\r\n", "192.0.2.1", true),
            ("Forwarded: for=6.6.6.6\r\nForwarded: for=192.0.2.1 , for=\"10.0.0.1:80\"\r\n", "192.0.2.1", true),
            ("Forwarded: for=6.6.6.6, for=unknown, for=10.0.0.1\r\n", "10.0.0.1", false),
            ("Forwarded: for=6.6.6.6, for=_hidden\r\n", "", false),
            ("Forwarded: for=6.6.6.6, proto=https\r\n", "", false),
            ("Forwarded: for=6.6.6.6;for=192.0.2.1\r\n", "", false),
            ("Forwarded: for=\"192.0.2.1\r\n", "", false),
            ("Forwarded: for=\r\n", "", false),
            ("Forwarded: 192.0.2.1\r\n", "", false),
            ("X-Forwarded-For: 192.0.2.1\r\n", "", true),
        ];
        for (fields, address, is_readable) in rows {
            assert_eq!(client(ForwardedHeader::Forwarded, fields), (address.to_owned(), is_readable), "{fields}");
        }
    }
}
