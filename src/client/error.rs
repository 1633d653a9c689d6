//! What may go wrong for a client, each with what to do about it.

use std::net::SocketAddr;
use std::{error, fmt, io};

use crate::proto::{ClientHandshakeError, ProtocolError};

/// Why a URL is of no use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// It is no absolute URL.
    Invalid,
    /// It should begin with this scheme.
    Scheme(&'static str),
    /// It asks for TLS.
    Tls,
    /// It names a user or a password.
    Credentials,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UrlError::Invalid => {
                f.write_str("not a URL: write it as in ws://127.0.0.1:8000/feed/demo, percent-encoded")
            }
            UrlError::Scheme(scheme) => write!(f, "the URL must begin with {scheme}://"),
            UrlError::Tls => f.write_str("TLS is not supported: connect without it, or through a proxy that adds it"),
            UrlError::Credentials => f.write_str("a user or password in the URL is not supported: leave it out"),
        }
    }
}

impl error::Error for UrlError {}

/// Why a client could not go on.
#[derive(Debug)]
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
    /// The server did not answer in time.
    ConnectTimeout {
        /// Its host and port.
        authority: String,
    },
    /// The server did not open a WebSocket.
    Handshake(ClientHandshakeError),
    /// The server broke RFC 6455.
    Protocol(ProtocolError),
    /// The connection ended without a closing handshake.
    Lost(io::Error),
    /// The server did not answer our close frame in time.
    CloseTimeout,
    /// The server's answer to a publication is not HTTP, or did not come.
    Http(hyper::Error),
    /// The server refused a publication.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        reason: String,
    },
    /// What was received could not be written out.
    Output(io::Error),
}

impl ClientError {
    /// Whether trying again later may help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            ClientError::Resolve { .. }
            | ClientError::Connect { .. }
            | ClientError::ConnectTimeout { .. }
            | ClientError::Lost(_)
            | ClientError::CloseTimeout
            | ClientError::Http(_)
            | ClientError::Protocol(_) => true,
            // Overloaded or leaving (RFC 9110 §15.6); any other status stays what it is.
            ClientError::Handshake(ClientHandshakeError::Status(status)) | ClientError::Refused { status, .. } => {
                *status >= 500 || *status == 429
            }
            ClientError::Url(_) | ClientError::Handshake(_) | ClientError::Output(_) => false,
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
            ClientError::ConnectTimeout { authority } => {
                write!(f, "{authority} did not answer in time; check the address, and firewalls on the way")
            }
            ClientError::Handshake(error) => write!(f, "{error}; check the URL's path"),
            ClientError::Protocol(error) => write!(f, "the server broke the protocol: {error}"),
            ClientError::Lost(error) => write!(f, "the connection was lost: {error}"),
            ClientError::CloseTimeout => f.write_str("the server did not answer the close frame in time"),
            ClientError::Http(error) => {
                write!(f, "the server did not answer in HTTP: {error}; check that the URL is that of a control port")
            }
            ClientError::Refused { status, reason } => write!(f, "refused with {status}: {reason}"),
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
            | ClientError::Lost(error)
            | ClientError::Output(error) => Some(error),
            ClientError::ConnectTimeout { .. } | ClientError::CloseTimeout | ClientError::Refused { .. } => None,
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

/// Errors of an open stream. Whoever opens or writes elsewhere says so itself.
impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Lost(error)
    }
}
