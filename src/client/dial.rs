//! From a URL to a stream of bytes: name resolution, the tunnel of a proxy, TLS.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::ClientError;
use super::proxy::Proxy;
use super::url::Endpoint;

/// How a client reaches a server.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// The proxy, if any.
    pub proxy: ProxyChoice,
    /// For `wss` and `https`.
    pub tls: ClientTls,
}

/// The HTTP proxy through which a client connects, with CONNECT (RFC 9110 §9.3.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// That of the environment: for `wss` and `https` `HTTPS_PROXY`, otherwise `http_proxy`, and for both `ALL_PROXY`;
    /// none for loopback addresses and for the hosts in `NO_PROXY`.
    #[default]
    Environment,
    /// None.
    Direct,
    /// `http://HOST:PORT`, or with `USER:PASSWORD@`.
    Through(String),
}

/// What a client expects of a server's certificate, and its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// PEM with the certificates of the issuers that the client trusts. `None`: those of the system, or of
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    pub ca_file: Option<std::path::PathBuf>,
    /// PEM with the client's own certificate and those of its issuers.
    pub cert_file: Option<std::path::PathBuf>,
    /// PEM with the key of that certificate.
    pub key_file: Option<std::path::PathBuf>,
    /// Accept any certificate: anybody on the way can read and change what is sent.
    pub insecure: bool,
}

/// A step of a connection that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The host's name, or the proxy's, has this address, and perhaps more.
    Resolved(SocketAddr),
    /// TCP, or a Unix socket.
    Connected,
    /// The proxy has opened a tunnel.
    Tunnelled,
    /// TLS: its version, and the server's own certificate as DER.
    Secured {
        /// As in `TLSv1_3`.
        version: String,
        /// Empty if the server sent none.
        certificate: Vec<u8>,
    },
    /// The server has accepted the handshake.
    Upgraded,
}

/// Receives each step as soon as it is done.
pub(super) type OnStep<'a> = &'a mut dyn FnMut(Step);

/// A stream to a server, plain or with TLS.
pub(super) type Stream = Box<dyn Wire>;

/// What a [`Stream`] does.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// Connects to the endpoint, step by step.
///
/// # Errors
/// That the host or the proxy can't be reached, that the proxy rejects it, or that the certificate can't be trusted.
pub(super) async fn dial(endpoint: &Endpoint, network: &Network, on_step: OnStep<'_>) -> Result<Stream, ClientError> {
    if let Some(path) = &endpoint.socket {
        let connected = UnixStream::connect(path).await;
        let stream = connected.map_err(|error| ClientError::ConnectUnix { path: path.clone(), error })?;
        on_step(Step::Connected);
        return Ok(Box::new(stream));
    }
    let stream = match Proxy::choose(&network.proxy, endpoint)? {
        None => connect_to_any(&endpoint.host, endpoint.port, on_step).await?,
        Some(proxy) => {
            let mut stream = connect_to_any(&proxy.host, proxy.port, on_step).await?;
            proxy.open_tunnel(&mut stream, endpoint).await?;
            on_step(Step::Tunnelled);
            stream
        }
    };
    if endpoint.is_secure { secure(stream, endpoint, &network.tls, on_step).await } else { Ok(Box::new(stream)) }
}

#[cfg(feature = "client-tls")]
use super::secure::secure;

/// Without the feature there is no TLS.
#[cfg(not(feature = "client-tls"))]
async fn secure(_: TcpStream, _: &Endpoint, _: &ClientTls, _: OnStep<'_>) -> Result<Stream, ClientError> {
    Err(super::UrlError::Tls.into())
}

/// Resolves the host and connects to one address after the other, until one accepts.
///
/// # Errors
/// [`ClientError::Resolve`], or [`ClientError::Connect`] for the last address.
async fn connect_to_any(host: &str, port: u16, on_step: OnStep<'_>) -> Result<TcpStream, ClientError> {
    let unresolved = |error| ClientError::Resolve { host: host.to_owned(), error };
    let mut addresses = lookup_host((host, port)).await.map_err(unresolved)?.peekable();
    if let Some(first) = addresses.peek() {
        on_step(Step::Resolved(*first));
    }
    let mut failure = unresolved(io::Error::from(io::ErrorKind::NotFound));
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                on_step(Step::Connected);
                return Ok(stream);
            }
            Err(error) => failure = ClientError::Connect { address, error },
        }
    }
    Err(failure)
}
