//! From a host's name to a connection.

use std::io;
use std::net::SocketAddr;

use tokio::net::lookup_host;

use super::ClientError;
use super::url::Endpoint;

/// Resolves the endpoint's host and runs `connect` with one address after the other, until one can be connected to.
///
/// # Errors
/// [`ClientError::Resolve`], or [`ClientError::Connect`] for the last address.
pub(super) async fn connect_to_any<T>(
    endpoint: &Endpoint,
    connect: impl AsyncFn(SocketAddr) -> io::Result<T>,
) -> Result<T, ClientError> {
    let unresolved = |error| ClientError::Resolve { host: endpoint.host.clone(), error };
    let addresses = lookup_host((endpoint.host.as_str(), endpoint.port)).await.map_err(unresolved)?;
    let mut failure = unresolved(io::Error::from(io::ErrorKind::NotFound));
    for address in addresses {
        match connect(address).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failure = ClientError::Connect { address, error },
        }
    }
    Err(failure)
}
