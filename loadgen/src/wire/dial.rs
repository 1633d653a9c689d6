//! Opens TCP connections without blocking, from as many source addresses as necessary.
//!
//! One source address has some 28,000 ports for each address and port it connects to. On loopback any address of
//! 127.0.0.0/8 works, so more are used as connections need them; on a real network `--source` names addresses of this
//! host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::error::Error;
use crate::wire::target::Target;

/// Longest time until the server accepts.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections from one loopback address. Linux has 28,232 ephemeral ports by default, but tries all odd or all even
/// ones first: from some 12,000 connections on, that search takes a millisecond per connection.
const CONNECTIONS_PER_SOURCE: u32 = 10_000;

/// Fewest loopback source addresses: closed connections leave ports in TIME_WAIT for a minute.
const SOURCES_MIN: u32 = 64;

/// Number of consecutive connections from the same source.
const RUN: u64 = 1000;

/// Source and destination addresses of connections.
#[derive(Debug)]
pub(crate) struct Dialer {
    destinations: Vec<SocketAddr>,
    /// If empty, the kernel chooses.
    sources: Vec<IpAddr>,
    /// Connections opened so far.
    dialed: u64,
}

impl Dialer {
    /// Connects to `target`, with up to `connections` open at a time. `sources` are addresses of this host, and
    /// `destinations` other addresses of the server; either may be empty.
    ///
    /// # Errors
    /// If the target's name can't be resolved.
    pub(crate) fn new(
        target: &Target,
        connections: u32,
        sources: &[IpAddr],
        destinations: &[IpAddr],
    ) -> Result<Dialer, Error> {
        let address = target.resolve()?;
        let destinations = match destinations {
            [] => vec![address],
            several => several.iter().map(|ip| SocketAddr::new(*ip, address.port())).collect(),
        };
        let sources = match sources {
            [] if destinations.iter().all(|address| is_ipv4_loopback(address.ip())) => loopback_sources(connections),
            given => given.to_vec(),
        };
        Ok(Dialer { destinations, sources, dialed: 0 })
    }

    /// Starts one more connection. The socket may still be connecting, but can be passed to a ring: a send waits for
    /// the connection, and a receive reports its failure.
    ///
    /// # Errors
    /// The error of the kernel if it has no port, descriptor, memory or route.
    pub(crate) fn dial(&mut self) -> io::Result<OwnedFd> {
        let attempts = self.sources.len().max(1);
        for attempt in 1.. {
            let run = self.dialed / RUN;
            self.dialed += 1;
            let socket = self.socket(run)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&self.destination(run).into()) {
                Ok(()) => return Ok(socket.into()),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                    return Ok(socket.into());
                }
                // This source has no free port: try the next.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && attempt < attempts => {
                    self.dialed = (run + 1) * RUN;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("an attempt succeeds or is the last")
    }

    /// Opens one connection and waits until it is established.
    ///
    /// # Errors
    /// If the server is unreachable.
    pub(crate) fn dial_and_wait(&mut self) -> io::Result<OwnedFd> {
        let socket = self.socket(0)?;
        socket.connect_timeout(&self.destination(0).into(), PATIENCE)?;
        Ok(socket.into())
    }

    fn socket(&self, run: u64) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.destination(run)), Type::STREAM, None)?;
        if let Some(source) = self.source(run) {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.set_tcp_nodelay(true)?;
        Ok(socket)
    }

    /// The source address of a connection of this run; `None` lets the kernel choose.
    fn source(&self, run: u64) -> Option<IpAddr> {
        let source = self.sources.get((run % self.sources.len().max(1) as u64) as usize)?;
        // The kernel finds a port faster if it may choose the address, too.
        (*source != Ipv4Addr::LOCALHOST).then_some(*source)
    }

    /// Advances after all sources were used, so that every pair is used.
    fn destination(&self, run: u64) -> SocketAddr {
        let round = run / self.sources.len().max(1) as u64;
        self.destinations[(round % self.destinations.len() as u64) as usize]
    }
}

fn is_ipv4_loopback(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_loopback())
}

/// 127.0.0.1 and the addresses after it.
fn loopback_sources(connections: u32) -> Vec<IpAddr> {
    let count = connections.div_ceil(CONNECTIONS_PER_SOURCE).max(SOURCES_MIN);
    (0..count).map(|index| IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + index))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn dialer(target: &str, connections: u32, sources: &[&str], destinations: &[&str]) -> Dialer {
        let parse = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        Dialer::new(&target.parse().unwrap(), connections, &parse(sources), &parse(destinations)).unwrap()
    }

    #[test]
    fn many_loopback_connections_spread_over_source_addresses() {
        let few = dialer("ws://127.0.0.1:80/", 10, &[], &[]);
        assert_eq!((few.source(0), few.sources.len()), (None, SOURCES_MIN as usize));
        assert_eq!(few.source(1), Some("127.0.0.2".parse().unwrap()));
        let million = dialer("ws://127.0.0.9:80/", 2_000_000, &[], &[]);
        assert_eq!((million.sources.len(), million.sources[199].to_string().as_str()), (200, "127.0.0.200"));
    }

    #[test]
    fn given_addresses_are_used_in_every_pair() {
        assert_eq!(dialer("ws://192.0.2.1:80/", 1_000_000, &[], &[]).source(5), None);
        let explicit = dialer("ws://192.0.2.1:80/", 1, &["10.0.0.1", "10.0.0.2"], &["192.0.2.1", "192.0.2.2"]);
        let pairs: Vec<String> =
            (0..4).map(|run| format!("{} {}", explicit.source(run).unwrap(), explicit.destination(run).ip())).collect();
        assert_eq!(pairs, ["10.0.0.1 192.0.2.1", "10.0.0.2 192.0.2.1", "10.0.0.1 192.0.2.2", "10.0.0.2 192.0.2.2"]);
    }

    #[test]
    fn connections_come_from_their_source_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("ws://{}/", listener.local_addr().unwrap());
        let mut dialer = dialer(&target, 1, &["127.0.0.77"], &[]);
        let _waiting = dialer.dial_and_wait().unwrap();
        assert_eq!(listener.accept().unwrap().1.ip().to_string(), "127.0.0.77");
        let _started = dialer.dial().unwrap();
        assert_eq!(listener.accept().unwrap().1.ip().to_string(), "127.0.0.77");
    }
}
