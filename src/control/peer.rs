//! The other end of a connection to the control port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// On TCP.
    Ip(SocketAddr),
    /// On a Unix socket: a process of the user with this number.
    Unix(u32),
}

impl Peer {
    /// The address whose share of places it takes. All processes of this host have the same share.
    pub(super) fn address(self) -> IpAddr {
        match self {
            Peer::Ip(address) => address.ip(),
            Peer::Unix(_) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(address) => address.fmt(f),
            Peer::Unix(user) => write!(f, "unix:uid={user}"),
        }
    }
}
