//! The addresses of clients behind proxies, by the PROXY protocol, or by a header field of the request.
//!
//! A listener with `proxy_protocol` takes connections of trusted proxies only, and each begins with a header. On any
//! listener, requests of trusted proxies may state the client in a header field. The address counts from then on: for
//! the limit of connections per address, in the log, in `/connections/slow`, and for handlers.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::accept::Shed;
use super::addresses::Addresses;
use super::close::Peer;
use super::metrics::{CloseCause, ShardMetrics};
use super::receive::{InputBytes, Progress};
use super::shard::Shard;
use crate::buf::{BySlot, Received, SlotId};
use crate::log;
use crate::proto::{ForwardedClient, ForwardedHeader, ProxyHeader, RequestHead};
use crate::ring::Ring;

/// The proxies that may name the address of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<ProxyNetwork>);

/// Addresses of trusted proxies: an IP address, a network as `10.0.0.0/8`, or `unix:` for the peers of Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyNetwork {
    /// An address, and how many of its first bits count.
    V4(Ipv4Addr, u8),
    /// The same of IPv6.
    V6(Ipv6Addr, u8),
    /// Peers of Unix sockets.
    Unix,
}

/// The text is not a [`ProxyNetwork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidNetwork;

impl TrustedProxies {
    /// These networks.
    pub fn new(networks: Vec<ProxyNetwork>) -> TrustedProxies {
        TrustedProxies(networks)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a peer is one of them; `None` for the peer of a Unix socket.
    pub(super) fn contain(&self, peer: Option<IpAddr>) -> bool {
        self.0.iter().any(|network| match (*network, peer.map(|peer| peer.to_canonical())) {
            (ProxyNetwork::V4(first, bits), Some(IpAddr::V4(peer))) => {
                let differing = first.to_bits() ^ peer.to_bits();
                differing.checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
            }
            (ProxyNetwork::V6(first, bits), Some(IpAddr::V6(peer))) => {
                let differing = first.to_bits() ^ peer.to_bits();
                differing.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
            }
            (ProxyNetwork::Unix, None) => true,
            _ => false,
        })
    }
}

impl FromStr for ProxyNetwork {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<ProxyNetwork, InvalidNetwork> {
        if text == "unix:" {
            return Ok(ProxyNetwork::Unix);
        }
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), |bits| bits.parse().map_err(|_| InvalidNetwork))?;
        match address {
            _ if bits > all => Err(InvalidNetwork),
            IpAddr::V4(address) => Ok(ProxyNetwork::V4(address, bits)),
            IpAddr::V6(address) => Ok(ProxyNetwork::V6(address, bits)),
        }
    }
}

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write an IP address, a network as 10.0.0.0/8, or unix:")
    }
}

impl std::error::Error for InvalidNetwork {}

/// The clients of one shard that proxies have named. Without proxies it has no memory.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// Connections whose header has not arrived whole, by slot, and its bytes so far.
    awaited: HashMap<SlotId, Vec<u8>>,
    /// By slot.
    addresses: BySlot<SocketAddr>,
}

impl Clients {
    /// A connection in `slot` begins, with a header.
    pub(super) fn begin(&mut self, slot: SlotId) {
        self.awaited.insert(slot, Vec::new());
    }

    /// The connection in `slot` has ended.
    pub(super) fn end(&mut self, slot: SlotId) {
        self.awaited.remove(&slot);
        self.addresses.take(slot);
    }

    /// Whether the connection's header has not arrived whole.
    pub(super) fn await_header(&self, slot: SlotId) -> bool {
        !self.awaited.is_empty() && self.awaited.contains_key(&slot)
    }

    /// The address that a proxy has named.
    pub(super) fn address(&self, slot: SlotId) -> Option<SocketAddr> {
        self.addresses.get(slot).copied()
    }

    fn set_address(&mut self, slot: SlotId, address: SocketAddr) {
        self.addresses.set(slot, address);
    }
}

/// What is needed to find the client of a request.
pub(super) struct ClientFinder<'a> {
    pub(super) proxies: &'a TrustedProxies,
    pub(super) header: ForwardedHeader,
    pub(super) clients: &'a mut Clients,
    pub(super) addresses: Option<&'a mut Addresses>,
    pub(super) metrics: &'a ShardMetrics,
}

impl ClientFinder<'_> {
    /// The address of the client that has sent this request on the connection in `slot`, whose peer is `peer`, or was
    /// named by the PROXY protocol.
    ///
    /// # Errors
    /// The client has too many connections.
    pub(super) fn find(
        &mut self,
        slot: SlotId,
        peer: Option<IpAddr>,
        head: &RequestHead<'_>,
    ) -> Result<Option<IpAddr>, Shed> {
        if !self.proxies.contain(peer) {
            self.note_ignored(peer, head);
            return Ok(peer);
        }
        let ForwardedClient { address, is_readable } =
            self.header.client(head, |address| self.proxies.contain(Some(address)));
        self.metrics.forwarded_unreadable.add(u64::from(!is_readable));
        if let Some(address) = address {
            // The field states no port.
            self.clients.set_address(slot, SocketAddr::new(address, 0));
        }
        let client = address.or(peer);
        let may_enter = match (client, &mut self.addresses) {
            (Some(client), Some(addresses)) => addresses.enter(slot, client),
            _ => true,
        };
        if may_enter { Ok(client) } else { Err(Shed::Address) }
    }

    fn note_ignored(&self, peer: Option<IpAddr>, head: &RequestHead<'_>) {
        if !self.header.is_in(head) {
            return;
        }
        self.metrics.forwarded_ignored.add(1);
        if let Some(left_out) = log::FORWARDED.take() {
            let peer = Peer(peer.map(|peer| SocketAddr::new(peer, 0)));
            let header = self.header.name();
            tracing::info!(%peer, header, left_out, "ignored: if the peer is a proxy, add it to trusted_proxies");
        }
    }
}

/// An address as people read it: without the port if it is not known.
pub(crate) fn address_text(address: SocketAddr) -> String {
    match address.port() {
        0 => address.ip().to_string(),
        _ => address.to_string(),
    }
}

impl<R: Ring> Shard<'_, R> {
    /// Handles a received piece of a connection that awaits its header.
    pub(super) fn on_proxied_bytes(&mut self, slot: SlotId, piece: &Received) -> (Progress, bool) {
        let header = self.clients.awaited.get_mut(&slot).expect("a connection that awaits its header");
        header.extend_from_slice(self.ring.received(piece));
        match ProxyHeader::decode(header) {
            Ok(None) => (Progress::Continue, false),
            Ok(Some(ProxyHeader { client, len })) => {
                let mut rest = self.clients.awaited.remove(&slot).expect("it is there").split_off(len);
                if let Some(client) = client {
                    self.clients.set_address(slot, client);
                    let is_one_too_many =
                        self.acceptor.addresses.as_mut().is_some_and(|addresses| !addresses.enter(slot, client.ip()));
                    if is_one_too_many {
                        self.encode_shed(slot, Shed::Address);
                        return (Progress::Over(CloseCause::Refused), false);
                    }
                }
                self.on_input(slot, InputBytes::Held(&mut rest))
            }
            Err(_) => {
                self.clients.awaited.remove(&slot);
                self.metrics.proxy_headers_refused.add(1);
                self.log_rejected(slot, "no valid PROXY header");
                (Progress::Over(CloseCause::Refused), false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        let rows = [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "::1", true),
            ("::1", "127.0.0.1", false),
            ("unix:", "127.0.0.1", false),
        ];
        for (network, peer, is_contained) in rows {
            let trusted = TrustedProxies::new(vec![network.parse().unwrap()]);
            assert_eq!(trusted.contain(Some(peer.parse().unwrap())), is_contained, "{network} {peer}");
            assert_eq!(trusted.contain(None), network == "unix:");
        }
        for text in ["", "localhost", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0/8", "unix:/path", "10.0.0.1/-1"] {
            assert_eq!(text.parse::<ProxyNetwork>(), Err(InvalidNetwork), "{text}");
        }
    }
}
