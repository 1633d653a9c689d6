//! Sockets that listen: one for each shard, on one port.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::{ACCEPT_BACKLOG, ACCEPT_DEFER_SECONDS, LISTEN_PATIENCE_MS, TCP_USER_TIMEOUT_MS};
use crate::ring::defer_accept;

/// Pause between two attempts at a port.
const LISTEN_PAUSE: Duration = Duration::from_millis(20);

/// One listener for each of `count` shards; the kernel spreads connections over them by hash (`SO_REUSEPORT`). With
/// port 0 it also chooses the port.
///
/// # Errors
/// `EADDRINUSE` also when the port is another process's whose sockets would let themselves be joined: connections would
/// go to either.
pub(super) fn listen(address: SocketAddr, count: usize, notsent_bytes: u32) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    refuse_shared_patiently(address)?;
    let first = bind(address, notsent_bytes)?;
    let address = first.local_addr()?.as_socket().expect("an IP address was bound");
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind(address, notsent_bytes)?);
    }
    sockets.iter().try_for_each(|socket| socket.listen(ACCEPT_BACKLOG))?;
    Ok((address, sockets.into_iter().map(OwnedFd::from).collect()))
}

/// A process that was killed keeps its port for a moment longer: the kernel takes its rings apart, and the sockets in
/// them, after the process itself.
fn refuse_shared_patiently(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(LISTEN_PATIENCE_MS);
    loop {
        match refuse_shared(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(LISTEN_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Without `SO_REUSEPORT` a port on which anybody listens can't be bound.
fn refuse_shared(address: SocketAddr) -> io::Result<()> {
    let socket = new_socket(address)?;
    socket.bind(&address.into())
}

fn bind(address: SocketAddr, notsent_bytes: u32) -> io::Result<Socket> {
    let socket = new_socket(address)?;
    socket.set_reuse_port(true)?;
    // What connections inherit: messages are joined before they are sent, so the kernel need not wait for more; and a
    // peer that no longer acknowledges is given up long before the kernel's quarter of an hour.
    socket.set_tcp_nodelay(true)?;
    // Urgent bytes are ordinary bytes of the stream. Otherwise each of them would wake the kernel for nothing.
    socket.set_out_of_band_inline(true)?;
    socket.set_tcp_notsent_lowat(notsent_bytes)?;
    socket.set_tcp_user_timeout(Some(Duration::from_millis(TCP_USER_TIMEOUT_MS)))?;
    defer_accept(socket.as_fd(), ACCEPT_DEFER_SECONDS)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart need not wait for connections of the process before to be forgotten.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_a_port_and_others_do_not() {
        let (address, listeners) = listen("127.0.0.1:0".parse().unwrap(), 3, 4096).unwrap();
        assert_eq!(listeners.len(), 3);
        assert_ne!(address.port(), 0);
        assert_eq!(listen(address, 1, 4096).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        assert!(listen(address, 1, 4096).is_ok());
    }
}
