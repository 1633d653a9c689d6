//! Sockets that listen. A TCP address has one socket per shard on one port; a Unix socket is shared by all shards. The
//! parent of the process may have opened them (socket activation).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::gateway::{self, RouteSet};
use crate::limits::{ACCEPT_BACKLOG, ACCEPT_DEFER_SECONDS, LISTEN_PATIENCE_MS, TCP_USER_TIMEOUT_MS};
use crate::ring::{defer_accept, inherited_sockets};
use crate::tls::Acceptor;

/// Pause between two attempts at a port.
const LISTEN_PAUSE: Duration = Duration::from_millis(20);

/// What stands before the path of a Unix socket.
const UNIX_PREFIX: &str = "unix:";

/// What stands before the name of a socket that the parent has opened.
const INHERITED_PREFIX: &str = "fd:";

/// Bytes of such a name at most, as in systemd.
const INHERITED_NAME_BYTES_MAX: usize = 255;

/// Bytes of a Unix socket's path at most: with its final zero it must fit into a `sockaddr_un`.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// An address that a server listens on: an IP address and port, `unix:` and the path of a socket, or `fd:` and the name
/// of a socket that the parent of the process has opened.
///
/// ```
/// use ringfeed::server::ListenAddress;
///
/// let address: ListenAddress = "[::1]:8000".parse()?;
/// assert_eq!(address, ListenAddress::Ip("[::1]:8000".parse()?));
/// assert_eq!("unix:/run/feed.sock".parse::<ListenAddress>()?.to_string(), "unix:/run/feed.sock");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(try_from = "String", into = "String")
)]
pub enum ListenAddress {
    /// TCP. Port 0 lets the kernel choose.
    Ip(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
    /// The sockets of this name that the parent of the process has opened (`sd_listen_fds(3)`).
    Inherited(String),
}

/// The text is not a [`ListenAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidAddress;

/// One listener of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
pub struct ListenerConfig {
    /// Where it listens.
    pub address: ListenAddress,
    /// It speaks TLS, with the certificates of [`ServerConfig::tls`](super::ServerConfig::tls).
    pub tls: bool,
    /// Each connection begins with a header of the PROXY protocol, and comes from one of
    /// [`ServerConfig::trusted_proxies`](super::ServerConfig::trusted_proxies).
    pub proxy_protocol: ProxyProtocol,
    /// The routes that it serves, as they were registered; none stands for all.
    pub routes: Vec<String>,
    /// The protocol that it speaks instead of HTTP and WebSocket: the name given to
    /// [`ServerBuilder::protocol`](super::ServerBuilder::protocol). Empty stands for none.
    pub protocol: String,
    /// Who may connect, if it is a Unix socket that this server makes.
    pub mode: SocketMode,
}

/// The permissions of a Unix socket's file, as `0660`. To connect, a process needs the permission to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(try_from = "String", into = "String")
)]
pub struct SocketMode(Option<u16>);

/// The text is not a [`SocketMode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMode;

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "lowercase"))]
pub enum ProxyProtocol {
    /// They do not.
    #[default]
    Off,
    /// All do, in version 1 or 2.
    Require,
}

/// A listener of one shard.
#[derive(Debug)]
pub(super) struct ShardListener {
    /// `None` once the shard drains.
    pub(super) socket: Option<OwnedFd>,
    /// Its address is a loopback address, to which an attacker's host name may resolve.
    pub(super) on_loopback: bool,
    /// Its peers have addresses to count.
    pub(super) has_addresses: bool,
    /// Its connections begin with a header of the PROXY protocol.
    pub(super) is_proxied: bool,
    /// The routes that it serves.
    pub(super) routes: RouteSet,
    /// What it speaks instead of HTTP and WebSocket, and the number of the protocol's handler.
    pub(super) protocol: Option<(u8, gateway::Protocol)>,
    /// Makes the TLS sessions of its connections, if it speaks TLS.
    pub(super) tls: Option<Acceptor>,
    /// Seconds for which its pages ask browsers to use TLS only; 0: they do not.
    pub(super) hsts_seconds: u64,
}

impl ListenerConfig {
    /// A listener that serves all routes at `address`, without TLS.
    pub fn new(address: ListenAddress) -> ListenerConfig {
        ListenerConfig {
            address,
            tls: false,
            proxy_protocol: ProxyProtocol::Off,
            routes: Vec::new(),
            protocol: String::new(),
            mode: SocketMode::default(),
        }
    }
}

impl Default for ListenerConfig {
    /// Port 8000 of loopback.
    fn default() -> Self {
        ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 8000)).into())
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        ListenAddress::Ip(address)
    }
}

impl From<SocketAddr> for ListenerConfig {
    fn from(address: SocketAddr) -> Self {
        ListenerConfig::new(address.into())
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<ListenAddress, InvalidAddress> {
        match text.strip_prefix(UNIX_PREFIX) {
            Some(path) if (1..=UNIX_PATH_BYTES_MAX).contains(&path.len()) => Ok(ListenAddress::Unix(path.into())),
            Some(_) => Err(InvalidAddress),
            None => match text.strip_prefix(INHERITED_PREFIX) {
                Some(name) if is_inherited_name(name) => Ok(ListenAddress::Inherited(name.to_owned())),
                Some(_) => Err(InvalidAddress),
                None => text.parse().map(ListenAddress::Ip).map_err(|_| InvalidAddress),
            },
        }
    }
}

fn is_inherited_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    (1..=INHERITED_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)
}

impl TryFrom<String> for ListenAddress {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<ListenAddress, InvalidAddress> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> String {
        address.to_string()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Ip(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
            ListenAddress::Inherited(name) => write!(f, "{INHERITED_PREFIX}{name}"),
        }
    }
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "write an IP address and a port, as 127.0.0.1:8000 or [::]:8000, or unix: and a path of at most \
             {UNIX_PATH_BYTES_MAX} bytes, or fd: and the name of a socket that systemd passes"
        )
    }
}

impl std::error::Error for InvalidAddress {}

impl FromStr for SocketMode {
    type Err = InvalidMode;

    /// Octal digits, or nothing for the mode that the process's umask leaves.
    fn from_str(text: &str) -> Result<SocketMode, InvalidMode> {
        if text.is_empty() {
            return Ok(SocketMode(None));
        }
        let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let mode = u16::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        mode.map(|mode| SocketMode(Some(mode))).ok_or(InvalidMode)
    }
}

impl TryFrom<String> for SocketMode {
    type Error = InvalidMode;

    fn try_from(text: String) -> Result<SocketMode, InvalidMode> {
        text.parse()
    }
}

impl From<SocketMode> for String {
    fn from(SocketMode(mode): SocketMode) -> String {
        mode.map_or_else(String::new, |mode| format!("{mode:04o}"))
    }
}

impl fmt::Display for InvalidMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write the permissions as octal digits, as 0660")
    }
}

impl std::error::Error for InvalidMode {}

impl ListenAddress {
    /// The address of the socket that the parent of this process has opened, if this names one; any other address
    /// itself. `None`: there is no such socket.
    #[cfg(feature = "product")]
    pub(crate) fn resolved(&self) -> Option<ListenAddress> {
        let ListenAddress::Inherited(name) = self else { return Some(self.clone()) };
        inherited(name).ok().map(|(address, _)| address)
    }
}

/// A socket at `address` for each of `count` shards. With port 0 the kernel chooses the port. Returns the address, with
/// that port.
///
/// # Errors
/// `EADDRINUSE` also if another process listens on the port with `SO_REUSEPORT`: each connection would go to either
/// process.
pub(super) fn listen(
    address: &ListenAddress,
    mode: SocketMode,
    count: usize,
    notsent_bytes: u32,
) -> io::Result<(ListenAddress, Vec<OwnedFd>)> {
    match address {
        ListenAddress::Ip(address) => {
            let (address, sockets) = listen_on_ip(*address, count, notsent_bytes)?;
            Ok((address.into(), sockets))
        }
        ListenAddress::Unix(path) => {
            let socket = listen_on_unix(path, mode)?;
            Ok((address.clone(), spread(&[socket], count)?))
        }
        ListenAddress::Inherited(name) => {
            let (address, sockets) = inherited(name)?;
            if matches!(address, ListenAddress::Ip(_)) {
                sockets.iter().try_for_each(|socket| set_options(socket, notsent_bytes))?;
            }
            Ok((address, spread(&sockets, count)?))
        }
    }
}

/// A socket at `address` for the control port.
///
/// # Errors
/// The kernel's, as with [`listen`].
#[cfg(feature = "product")]
pub(crate) fn listen_alone(address: &ListenAddress, mode: SocketMode) -> io::Result<(ListenAddress, OwnedFd)> {
    match address {
        ListenAddress::Ip(address) => {
            let listener = std::net::TcpListener::bind(address)?;
            Ok((listener.local_addr()?.into(), listener.into()))
        }
        ListenAddress::Unix(path) => Ok((address.clone(), listen_on_unix(path, mode)?.into())),
        ListenAddress::Inherited(name) => {
            let (address, sockets) = inherited(name)?;
            let mut sockets = spread(&sockets, 1)?;
            Ok((address, sockets.remove(0)))
        }
    }
}

/// The sockets of this name that the parent has opened, and their address.
fn inherited(name: &str) -> io::Result<(ListenAddress, Vec<Socket>)> {
    let named = inherited_sockets().iter().filter(|inherited| inherited.name == name);
    let sockets: Vec<Socket> = named.map(|one| Ok(one.socket.try_clone()?.into())).collect::<io::Result<_>>()?;
    let mut addresses = sockets.iter().map(address_of).collect::<io::Result<Vec<_>>>()?;
    addresses.dedup();
    match addresses.pop() {
        None => Err(io::Error::other(no_such_socket())),
        Some(address) if addresses.is_empty() => Ok((address, sockets)),
        Some(_) => Err(io::Error::other(
            "the sockets of this name have different addresses: give each its own FileDescriptorName=",
        )),
    }
}

fn no_such_socket() -> String {
    let mut names: Vec<&str> = inherited_sockets().iter().map(|inherited| inherited.name.as_str()).collect();
    names.dedup();
    match names.is_empty() {
        true => "no sockets were passed to this process: start it by a systemd socket unit".to_owned(),
        false => format!("no socket of this name was passed to this process, only {}", names.join(", ")),
    }
}

/// The address of a stream socket that listens.
fn address_of(socket: &Socket) -> io::Result<ListenAddress> {
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(io::Error::other("it is no stream socket that listens: use ListenStream= and Accept=no"));
    }
    let address = socket.local_addr()?;
    if let Some(ip) = address.as_socket() {
        return Ok(ip.into());
    }
    // A name in the abstract namespace is shown as `ss` does.
    let name = address.as_abstract_namespace().map(|name| format!("@{}", String::from_utf8_lossy(name)));
    let path = address.as_pathname().map(Path::to_owned).or(name.map(PathBuf::from));
    path.map(ListenAddress::Unix).ok_or_else(|| io::Error::other("it is neither TCP nor a Unix socket"))
}

/// A socket for each of `count` shards. Shards that have none of their own accept from another's.
fn spread(sockets: &[Socket], count: usize) -> io::Result<Vec<OwnedFd>> {
    if sockets.len() > count {
        let text =
            format!("{} sockets have this name, for {count} shards: nobody would accept from some", sockets.len());
        return Err(io::Error::other(text));
    }
    sockets.iter().cycle().take(count).map(|socket| Ok(socket.try_clone()?.into())).collect()
}

/// The kernel spreads connections over the sockets by hash (`SO_REUSEPORT`).
fn listen_on_ip(address: SocketAddr, count: usize, notsent_bytes: u32) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    patiently(|| refuse_shared(address))?;
    let first = bind(address, notsent_bytes)?;
    let address = first.local_addr()?.as_socket().expect("an IP address was bound");
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind(address, notsent_bytes)?);
    }
    sockets.iter().try_for_each(|socket| socket.listen(ACCEPT_BACKLOG))?;
    Ok((address, sockets.into_iter().map(OwnedFd::from).collect()))
}

/// Unix sockets have no `SO_REUSEPORT`: all shards accept from one.
fn listen_on_unix(path: &Path, SocketMode(mode): SocketMode) -> io::Result<Socket> {
    patiently(|| remove_stale(path))?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody connects before the socket listens.
    if let Some(mode) = mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode.into()))?;
    }
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket)
}

/// Removes the socket of a process that has ended. A socket with a living process, and any other file, stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        // The backlog of a living socket is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error),
        Ok(()) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Tries for [`LISTEN_PATIENCE_MS`] while the address is in use. A killed process keeps its sockets for a moment: the
/// kernel frees its rings, with the sockets in them, after the process has ended.
fn patiently(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(LISTEN_PATIENCE_MS);
    loop {
        match attempt() {
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
    set_options(&socket, notsent_bytes)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets the options that connections of a TCP socket inherit.
fn set_options(socket: &Socket, notsent_bytes: u32) -> io::Result<()> {
    // The server joins messages before it sends them, so the kernel need not wait for more;
    // and a peer that no longer acknowledges is lost long before the kernel's quarter of an hour.
    socket.set_tcp_nodelay(true)?;
    // Urgent bytes are ordinary bytes of the stream. Otherwise each of them would wake the kernel for nothing.
    socket.set_out_of_band_inline(true)?;
    socket.set_tcp_notsent_lowat(notsent_bytes)?;
    socket.set_tcp_user_timeout(Some(Duration::from_millis(TCP_USER_TIMEOUT_MS)))?;
    defer_accept(socket.as_fd(), ACCEPT_DEFER_SECONDS)
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart need not wait for connections of the process before to be forgotten.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can stand side by side, whatever the host's default is.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> ListenAddress {
        ListenAddress::Ip(text.parse().unwrap())
    }

    #[test]
    fn shards_share_a_port_and_others_do_not() {
        let (address, listeners) = listen(&ip("127.0.0.1:0"), SocketMode::default(), 3, 4096).unwrap();
        assert_eq!(listeners.len(), 3);
        assert_ne!(address, ip("127.0.0.1:0"));
        assert_eq!(listen(&address, SocketMode::default(), 1, 4096).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        assert!(listen(&address, SocketMode::default(), 1, 4096).is_ok());
    }

    #[test]
    fn both_families_of_any_address_stand_side_by_side() {
        let (address, _listeners) = listen(&ip("0.0.0.0:0"), SocketMode::default(), 1, 4096).unwrap();
        let port = address.to_string().rsplit(':').next().unwrap().to_owned();
        assert!(listen(&ip(&format!("[::]:{port}")), SocketMode::default(), 1, 4096).is_ok());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_living_one_is_not() {
        let dir = std::env::temp_dir().join(format!("ringfeed-listener-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let address = ListenAddress::Unix(dir.join("socket"));
        let (_, listeners) = listen(&address, SocketMode::default(), 2, 4096).unwrap();
        assert_eq!(listeners.len(), 2);
        assert_eq!(listen(&address, SocketMode::default(), 1, 4096).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        assert!(listen(&address, SocketMode::default(), 1, 4096).is_ok());
        std::fs::write(dir.join("file"), "kept").unwrap();
        let file = ListenAddress::Unix(dir.join("file"));
        assert_eq!(listen(&file, SocketMode::default(), 1, 4096).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(dir.join("file")).unwrap(), b"kept");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn addresses_are_read_and_written() {
        for text in ["127.0.0.1:8000", "[::]:0", "unix:/run/ringfeed.sock", "unix:relative", "fd:data"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        let long = format!("unix:{}", "x".repeat(108));
        for text in ["", "nowhere", "localhost:8000", "127.0.0.1", "unix:", &long, "fd:", "fd:a:b", "fd:a b"] {
            assert_eq!(text.parse::<ListenAddress>(), Err(InvalidAddress), "{text}");
        }
    }
    #[test]
    fn a_unix_socket_has_the_mode_that_is_set() {
        let dir = std::env::temp_dir().join(format!("ringfeed-mode-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        let mode = "0620".parse().unwrap();
        let _listeners = listen(&ListenAddress::Unix(path.clone()), mode, 1, 4096).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn modes_are_octal() {
        for text in ["", "0600", "0666", "0000"] {
            assert_eq!(String::from(text.parse::<SocketMode>().unwrap()), text);
        }
        assert_eq!("660".parse(), "0660".parse::<SocketMode>());
        for text in ["0", "0o660", "rw", "1777", "0800", "00660", "+660"] {
            assert_eq!(text.parse::<SocketMode>(), Err(InvalidMode), "{text}");
        }
    }

    #[test]
    fn a_socket_that_was_not_passed_is_an_error_with_the_remedy() {
        let address = ListenAddress::Inherited("data".to_owned());
        let error = listen(&address, SocketMode::default(), 1, 4096).unwrap_err().to_string();
        assert!(error.contains("systemd socket unit"), "{error}");
    }

    #[test]
    fn each_shard_has_a_socket_and_each_socket_a_shard() {
        let sockets: Vec<Socket> = (0..2).map(|_| Socket::new(Domain::UNIX, Type::STREAM, None).unwrap()).collect();
        assert_eq!(spread(&sockets, 3).unwrap().len(), 3);
        assert!(spread(&sockets, 1).is_err());
        assert!(address_of(&sockets[0]).unwrap_err().to_string().contains("ListenStream="));
    }
}
