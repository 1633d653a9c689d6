//! The PROXY protocol, versions 1 and 2: the header with which a proxy says whose connection it passes on. Described in
//! `proxy-protocol.txt` of HAProxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a header of version 1 at most, with its line end.
const LINE_BYTES_MAX: usize = 107;

/// Bytes of a header of version 2 at most: the addresses take 36, the rest describes the connection further.
pub const PROXY_HEADER_BYTES_MAX: usize = 2048;

const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client's address; `None` if the proxy itself has connected, or does not say.
    pub client: Option<SocketAddr>,
    /// Bytes of the header.
    pub len: usize,
}

/// The bytes do not begin with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotProxied;

impl ProxyHeader {
    /// Decodes the header at the front of `input`. `None`: it has not come whole; call again with more.
    ///
    /// # Errors
    /// [`NotProxied`], as soon as that is certain.
    pub fn decode(input: &[u8]) -> Result<Option<ProxyHeader>, NotProxied> {
        let begins_like = |start: &[u8]| input.iter().zip(start).all(|(byte, other)| byte == other);
        if begins_like(LINE_START) {
            decode_line(input)
        } else if begins_like(SIGNATURE) {
            decode_binary(input)
        } else {
            Err(NotProxied)
        }
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`.
fn decode_line(input: &[u8]) -> Result<Option<ProxyHeader>, NotProxied> {
    let line = &input[..input.len().min(LINE_BYTES_MAX)];
    let Some(end) = line.windows(2).position(|end| end == b"\r\n") else {
        return if input.len() < LINE_BYTES_MAX { Ok(None) } else { Err(NotProxied) };
    };
    let text = std::str::from_utf8(&line[..end]).map_err(|_| NotProxied)?;
    let fields: Vec<&str> = text.split(' ').collect();
    let client = match fields[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", from, to, from_port, to_port] => {
            to.parse::<Ipv4Addr>().map_err(|_| NotProxied)?;
            Some(address::<Ipv4Addr>(from, from_port, to_port)?)
        }
        ["PROXY", "TCP6", from, to, from_port, to_port] => {
            to.parse::<Ipv6Addr>().map_err(|_| NotProxied)?;
            Some(address::<Ipv6Addr>(from, from_port, to_port)?)
        }
        _ => return Err(NotProxied),
    };
    Ok(Some(ProxyHeader { client, len: end + 2 }))
}

fn address<A: std::str::FromStr + Into<IpAddr>>(
    from: &str,
    from_port: &str,
    to_port: &str,
) -> Result<SocketAddr, NotProxied> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| NotProxied);
    port(to_port)?;
    let address = from.parse::<A>().map_err(|_| NotProxied)?;
    Ok(SocketAddr::new(address.into(), port(from_port)?))
}

/// Version 2: the signature, version and command, family, length, and as many bytes.
fn decode_binary(input: &[u8]) -> Result<Option<ProxyHeader>, NotProxied> {
    let Some((head, rest)) = input.split_first_chunk::<16>() else { return Ok(None) };
    let [.., command, family, high, low] = *head;
    let body_len = usize::from(u16::from_be_bytes([high, low]));
    let len = 16 + body_len;
    if len > PROXY_HEADER_BYTES_MAX {
        return Err(NotProxied);
    }
    let Some(body) = rest.get(..body_len) else { return Ok(None) };
    let client = match (command, family) {
        (0x20, _) => None,
        (0x21, 0x11) => {
            let [a, b, c, d, .., high, low, _, _] = *body.first_chunk::<12>().ok_or(NotProxied)?;
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])))
        }
        (0x21, 0x21) => {
            let body = body.first_chunk::<36>().ok_or(NotProxied)?;
            let from: [u8; 16] = *body.first_chunk().expect("shorter than the body");
            Some(SocketAddr::new(Ipv6Addr::from(from).into(), u16::from_be_bytes([body[32], body[33]])))
        }
        // Other families have no addresses of ours.
        (0x21, _) => None,
        _ => return Err(NotProxied),
    };
    Ok(Some(ProxyHeader { client, len }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2.
    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u16).to_be_bytes();
        [SIGNATURE, &[command, family], &len, body].concat()
    }

    fn of(client: &str) -> Option<SocketAddr> {
        Some(client.parse().unwrap())
    }

    #[test]
    fn both_versions_name_the_client_however_they_are_cut() {
        let v4 = binary(0x21, 0x11, &[192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 1, 187]);
        let mut six = [0; 36];
        six[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        six[15] = 1;
        six[32..34].copy_from_slice(&[0x1f, 0x90]);
        let rows = [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec(), of("192.0.2.1:56324")),
            (b"PROXY TCP6 2001:db8::1 ::1 8080 443\r\n".to_vec(), of("[2001:db8::1]:8080")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 what ever 1 2\r\n".to_vec(), None),
            (v4.clone(), of("192.0.2.1:56324")),
            (binary(0x21, 0x11, &[&v4[16..], &[4, 0, 1, 0]].concat()), of("192.0.2.1:56324")),
            (binary(0x21, 0x21, &six), of("[2001:db8::1]:8080")),
            (binary(0x20, 0, &[]), None),
            (binary(0x21, 0x31, &[0; 216]), None),
        ];
        for (header, client) in rows {
            for len in 1..header.len() {
                assert_eq!(ProxyHeader::decode(&header[..len]), Ok(None), "{header:?}, {len}");
            }
            let expected = Ok(Some(ProxyHeader { client, len: header.len() }));
            assert_eq!(ProxyHeader::decode(&header), expected, "{header:?}");
            assert_eq!(ProxyHeader::decode(&[&header[..], b"GET /"].concat()), expected, "{header:?}");
        }
    }

    #[test]
    fn others_are_refused_as_soon_as_that_is_certain() {
        let rows = [
            b"G".to_vec(),
            b"PRI".to_vec(),
            b"\x16\x03".to_vec(),
            b"PROXY \r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 66324 443\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1  192.0.2.2 1 1\r\n".to_vec(),
            [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat(),
            binary(0x31, 0x11, &[0; 12]),
            binary(0x22, 0x11, &[0; 12]),
            binary(0x21, 0x11, &[0; 11]),
            binary(0x21, 0x21, &[0; 35]),
            [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat(),
        ];
        for header in rows {
            assert_eq!(ProxyHeader::decode(&header), Err(NotProxied), "{header:?}");
        }
        assert_eq!(ProxyHeader::decode(b""), Ok(None));
    }
}
