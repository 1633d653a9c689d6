//! What proxies say about a client: the header of the PROXY protocol, and header fields of a request.

use std::net::{IpAddr, Ipv4Addr};

use ringfeed::proto::{
    ForwardedClient, ForwardedHeader, NotProxied, PROXY_HEADER_BYTES_MAX, ProxyHeader, decode_request_head,
};

/// Any bytes as the start of a connection: a header has a bound, is found as soon as it is whole and not before, and
/// what follows it changes nothing.
pub(crate) fn proxied(input: &[u8]) {
    match ProxyHeader::decode(input) {
        Ok(Some(header)) => {
            assert!(header.len <= input.len().min(PROXY_HEADER_BYTES_MAX));
            (0..header.len).for_each(|len| assert_eq!(ProxyHeader::decode(&input[..len]), Ok(None), "{len}"));
            assert_eq!(ProxyHeader::decode(&input[..header.len]), Ok(Some(header)));
        }
        Ok(None) => assert!(input.len() < PROXY_HEADER_BYTES_MAX, "a header has a bound"),
        Err(NotProxied) => {
            let longer = [input, b"\r\n"].concat();
            assert_eq!(ProxyHeader::decode(&longer), Err(NotProxied), "it stays no header");
        }
    }
}

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Any bytes as the value of a field that a client sends and proxies append to: nothing in it makes another client of
/// the one that the last proxy names.
pub(crate) fn forwarded(input: &[u8]) {
    let is_plain = |byte: &u8| *byte >= b' ' && *byte != 127;
    if input.len() > 2000 || !input.iter().all(is_plain) {
        return;
    }
    for (header, element) in [(ForwardedHeader::XForwardedFor, ""), (ForwardedHeader::Forwarded, "for=")] {
        let alone = client(header, input, "");
        let with_client = client(header, input, &format!("\r\n{}: {element}{CLIENT}, {element}{PROXY}", header.name()));
        assert_eq!(with_client, ForwardedClient { address: Some(CLIENT), is_readable: true });
        let with_proxy = client(header, input, &format!("\r\n{}: {element}{PROXY}", header.name()));
        assert_eq!(with_proxy.is_readable, alone.is_readable);
        assert_eq!(with_proxy.address, alone.address.or(Some(PROXY)), "a proxy is no client");
    }
}

fn client(header: ForwardedHeader, sent: &[u8], appended: &str) -> ForwardedClient {
    let name = header.name();
    let head = [format!("GET / HTTP/1.0\r\n{name}: ").as_bytes(), sent, appended.as_bytes(), b"\r\n\r\n"].concat();
    let (head, _) = decode_request_head(&head).expect("a valid head").expect("a whole head");
    header.client(&head, |address| address == PROXY)
}
