//! What may go wrong for a client, each with what to do about it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::{error, fmt, io};

use super::Closed;
use crate::proto::{ClientHandshakeError, ProtocolError};

/// Why a URL is of no use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// It is no absolute URL.
    Invalid {
        /// A URL that would do.
        example: &'static str,
    },
    /// It has another scheme than the client speaks.
    Scheme {
        /// A URL that would do.
        example: &'static str,
    },
    /// It asks for TLS, for which the crate was built without the feature `client-tls`.
    Tls,
    /// It is the URL of a proxy that can't be used.
    Proxy,
    /// It names a user or a password.
    Credentials,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UrlError::Invalid { example } => write!(f, "not a URL: write it as in {example}, percent-encoded"),
            UrlError::Scheme { example } => write!(f, "the URL has another scheme than this needs, as in {example}"),
            UrlError::Tls => f.write_str("this program was built without TLS: build it with the feature client-tls"),
            UrlError::Proxy => {
                f.write_str("a proxy must be written as in http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")
            }
            UrlError::Credentials => f.write_str("a user or password in the URL is not supported: leave it out"),
        }
    }
}

impl error::Error for UrlError {}

/// Why a client could not go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL is of no use.
    Url(UrlError),
    /// The host's name could not be resolved.
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// No address of the host could be connected to.
    Connect {
        /// The last that was tried.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// The Unix socket could not be connected to.
    ConnectUnix {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The server did not answer in time.
    ConnectTimeout {
        /// Its host and port.
        authority: String,
    },
    /// The proxy opens no tunnel.
    Proxy {
        /// Why, and what to do about it.
        text: String,
        /// Whether trying again later may help.
        is_passing: bool,
    },
    /// There is no TLS with the server.
    Tls {
        /// Why, and what to do about it.
        text: String,
        /// Whether trying again later may help.
        is_passing: bool,
    },
    /// The server's response to the handshake violates RFC 6455 §4.1.
    Handshake(ClientHandshakeError),
    /// The server broke RFC 6455.
    Protocol(ProtocolError),
    /// The connection ended without a closing handshake.
    Lost(io::Error),
    /// The server did not answer our close frame in time.
    CloseTimeout,
    /// The server's answer to a publication is not HTTP, or did not come.
    Http(hyper::Error),
    /// The server rejected a handshake or a publication.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The text of the response, at most [`CLIENT_REFUSAL_BYTES_MAX`](crate::limits::CLIENT_REFUSAL_BYTES_MAX)
        /// bytes of a handshake's; often empty.
        reason: String,
    },
    /// The server closed the connection.
    Closed(Closed),
    /// The messages since the client's position in this topic are no longer kept.
    HistoryLost {
        /// The topic.
        topic: String,
    },
    /// A header field can't be sent; says which and why.
    Header(String),
    /// A received message could not be written out.
    Output(io::Error),
}

impl ClientError {
    /// Whether trying again later may help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            ClientError::Resolve { .. }
            | ClientError::Connect { .. }
            | ClientError::ConnectUnix { .. }
            | ClientError::ConnectTimeout { .. }
            | ClientError::Lost(_)
            | ClientError::CloseTimeout
            | ClientError::Http(_)
            | ClientError::Protocol(_) => true,
            // Overloaded or leaving (RFC 9110 §15.6); any other status stays what it is.
            ClientError::Refused { status, .. } => *status >= 500 || *status == 429,
            ClientError::Proxy { is_passing, .. } | ClientError::Tls { is_passing, .. } => *is_passing,
            ClientError::Closed(closed) => !closed.is_permanent(),
            ClientError::Url(_)
            | ClientError::Handshake(_)
            | ClientError::HistoryLost { .. }
            | ClientError::Header(_)
            | ClientError::Output(_) => false,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Url(error) => error.fmt(f),
            ClientError::Resolve { host, error } => write!(f, "cannot resolve {host}: {error}; check the name"),
            ClientError::Connect { address, error } => {
                write!(f, "cannot connect to {address}: {error}; check that a server listens there")
            }
            ClientError::ConnectUnix { path, error } => {
                let remedy = match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "its mode lets only some users connect: see mode and control_mode"
                    }
                    _ => "check that a server listens there",
                };
                write!(f, "cannot connect to the Unix socket {}: {error}; {remedy}", path.display())
            }
            ClientError::ConnectTimeout { authority } => {
                write!(f, "{authority} did not answer in time; check the address, and firewalls on the way")
            }
            ClientError::Proxy { text, .. } | ClientError::Tls { text, .. } => f.write_str(text),
            ClientError::Handshake(error) => write!(f, "{error}; check that this is the URL of a WebSocket"),
            ClientError::Protocol(error) => write!(f, "the server broke the protocol: {error}"),
            ClientError::Lost(error) => write!(f, "the connection was lost: {error}"),
            ClientError::CloseTimeout => f.write_str("the server did not answer the close frame in time"),
            ClientError::Http(error) => {
                write!(f, "the server did not answer in HTTP: {error}; check that the URL is that of a control port")
            }
            ClientError::Refused { status, reason } if reason.is_empty() => {
                write!(f, "the server rejected the request with HTTP status {status}; check the URL's path")
            }
            ClientError::Refused { status, reason } => {
                write!(f, "the server rejected the request with HTTP status {status}: {reason}")
            }
            ClientError::Closed(closed) => closed.fmt(f),
            ClientError::HistoryLost { topic } => {
                write!(f, "messages of '{topic}' since that position are no longer kept: leave the position out")
            }
            ClientError::Header(text) => f.write_str(text),
            ClientError::Output(error) => write!(f, "cannot write what was received: {error}"),
        }
    }
}

impl error::Error for ClientError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            ClientError::Url(error) => Some(error),
            ClientError::Handshake(error) => Some(error),
            ClientError::Protocol(error) => Some(error),
            ClientError::Http(error) => Some(error),
            ClientError::Resolve { error, .. }
            | ClientError::Connect { error, .. }
            | ClientError::ConnectUnix { error, .. }
            | ClientError::Lost(error)
            | ClientError::Output(error) => Some(error),
            ClientError::ConnectTimeout { .. }
            | ClientError::Proxy { .. }
            | ClientError::Tls { .. }
            | ClientError::CloseTimeout
            | ClientError::Refused { .. }
            | ClientError::Closed(_)
            | ClientError::HistoryLost { .. }
            | ClientError::Header(_) => None,
        }
    }
}

impl From<UrlError> for ClientError {
    fn from(error: UrlError) -> ClientError {
        ClientError::Url(error)
    }
}

impl From<ClientHandshakeError> for ClientError {
    fn from(error: ClientHandshakeError) -> ClientError {
        ClientError::Handshake(error)
    }
}

impl From<ProtocolError> for ClientError {
    fn from(error: ProtocolError) -> ClientError {
        ClientError::Protocol(error)
    }
}

/// Errors of an open stream. Code that opens streams or writes elsewhere makes its own errors.
impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Lost(error)
    }
}
