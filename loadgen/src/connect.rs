//! Opens connections, one after the other, before anything is measured.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use ringfeed::proto::{ClientHandshake, DeflateOffer, DeflateParams};
use socket2::{Domain, Socket, Type};

use crate::error::Error;
use crate::masking_keys::MaskingKeys;
use crate::target::{Target, WebSocketTarget};

/// How long a server may take to accept and answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections from one loopback address. Linux gives out 28,232 ports for one by default; what is left covers ports
/// that still wait for late packets of a former run.
const CONNECTIONS_PER_SOURCE: u32 = 20_000;

/// An open connection.
pub(crate) struct Connected {
    pub(crate) socket: OwnedFd,
    /// Bytes that came with the server's answer.
    pub(crate) early: Vec<u8>,
    /// How messages may be compressed, if that was agreed on.
    pub(crate) deflate: Option<DeflateParams>,
}

/// Opens a WebSocket. `index` counts the connections to this target, and chooses the source address. With `deflate`
/// messages may be compressed.
///
/// # Errors
/// If the server can't be reached, refuses the upgrade, or does not agree to compression.
pub(crate) fn web_socket(
    target: &WebSocketTarget,
    index: u32,
    deflate: bool,
    keys: &mut MaskingKeys,
) -> Result<Connected, Error> {
    let fail = |what: String| Error::new(format!("{target}: connection {index}: {what}"));
    let WebSocketTarget(Target { authority, path }) = target;
    let mut stream = tcp(&target.0, index)?;
    let mut handshake = ClientHandshake::new(keys.handshake_key());
    if deflate {
        handshake = handshake.with_deflate(DeflateOffer::default());
    }
    let mut request = Vec::new();
    handshake.encode_request(&mut request, authority, path, &[], &[]);
    stream.write_all(&request).map_err(|error| fail(format!("can't send the handshake: {error}")))?;
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) => return Err(fail("closed during the handshake".to_owned())),
            Ok(len) => answer.extend_from_slice(&piece[..len]),
            Err(error) => return Err(fail(format!("no answer to the handshake: {error}"))),
        }
        if let Some((accepted, len)) = handshake.decode_response(&answer).map_err(|error| fail(error.to_string()))? {
            if deflate && accepted.deflate.is_none() {
                return Err(fail("the server does not compress: switch it on there".to_owned()));
            }
            return Ok(Connected { socket: stream.into(), early: answer.split_off(len), deflate: accepted.deflate });
        }
    }
}

/// Opens a plain connection, for HTTP.
///
/// # Errors
/// If the server can't be reached.
pub(crate) fn plain(target: &Target) -> Result<Connected, Error> {
    tcp(target, 0).map(|stream| Connected { socket: stream.into(), early: Vec::new(), deflate: None })
}

fn tcp(target: &Target, index: u32) -> Result<TcpStream, Error> {
    let address = target.resolve()?;
    open(address, index).map_err(|error| Error::new(format!("can't connect to {}: {error}", target.authority)))
}

fn open(address: SocketAddr, index: u32) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(source) = source_address(address, index) {
        socket.bind(&source.into())?;
    }
    socket.connect_timeout(&address.into(), PATIENCE)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// Where connection `index` comes from, once one loopback address has no more ports to give.
fn source_address(target: SocketAddr, index: u32) -> Option<SocketAddr> {
    let source = index / CONNECTIONS_PER_SOURCE;
    let host = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + source);
    (target.ip() == Ipv4Addr::LOCALHOST && source > 0).then(|| SocketAddrV4::new(host, 0).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_loopback_connections_spread_over_source_addresses() {
        let local = "127.0.0.1:80".parse().unwrap();
        assert_eq!(source_address(local, CONNECTIONS_PER_SOURCE - 1), None);
        assert_eq!(source_address(local, CONNECTIONS_PER_SOURCE), Some("127.0.0.2:0".parse().unwrap()));
        assert_eq!(source_address(local, 49 * CONNECTIONS_PER_SOURCE), Some("127.0.0.50:0".parse().unwrap()));
        assert_eq!(source_address("192.0.2.1:80".parse().unwrap(), 1_000_000), None);
    }

    #[test]
    fn a_server_that_is_not_there_is_one_clear_line() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let target = format!("ws://{address}/").parse().unwrap();
        let error = web_socket(&target, 0, false, &mut MaskingKeys::new()).err().unwrap().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("refused"), "{error}");
    }
}
