//! Connections to NATS servers: addresses, credentials, TLS, and the remedy where a server rejects the node.

use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::rustls::{self, CertificateError};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr, ServerError};
use tokio::sync::mpsc;

use super::config::{ClusterConfig, Credentials};
use super::{BridgeError, config};
use crate::cluster::Event;
use crate::log;

/// How long a node that starts tries to reach a server.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(30);

/// Pause before it tries again.
pub(super) const CONNECT_RETRY: Duration = Duration::from_millis(500);

/// Time of one attempt to connect, and of one request.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(5);

/// Messages that wait for the bridge before the client drops more. Records that were dropped are fetched later.
const LIVE_MAX: usize = 1024;

/// What a user without permissions must have.
pub(super) const REMEDY_PERMISSIONS: &str =
    "give the node's user the permissions that docs/cluster.md lists, under Credentials and TLS";

/// What the servers have last rejected of this connection. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rejections(Arc<Mutex<Option<String>>>);

impl Rejections {
    /// The server's text, once.
    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}

/// Why a server can't be used.
pub(super) struct Unreachable {
    pub(super) error: ConnectError,
    /// Whether a later attempt would end alike.
    pub(super) is_final: bool,
    pub(super) remedy: &'static str,
}

/// The addresses of the configured servers.
pub(super) fn addresses(config: &ClusterConfig) -> Result<Vec<ServerAddr>, BridgeError> {
    let address = |server: &String| {
        server.parse().map_err(|error| BridgeError(format!("servers: '{server}' is not an address: {error}")))
    };
    config.servers.iter().map(address).collect()
}

/// Connects to the first server that answers before the deadline.
pub(super) async fn connect(
    config: &ClusterConfig,
    sender: &mpsc::UnboundedSender<Event>,
    rejections: &Rejections,
    deadline: Instant,
) -> Result<Client, BridgeError> {
    let servers = addresses(config)?;
    loop {
        let Unreachable { error, is_final, remedy } =
            match connect_once(config, servers.clone(), sender, rejections).await? {
                Ok(client) => return Ok(client),
                Err(unreachable) => unreachable,
            };
        if is_final || Instant::now() >= deadline {
            return Err(BridgeError(format!("no NATS server of {:?} accepts: {error}: {remedy}", config.servers)));
        }
        tokio::time::sleep(CONNECT_RETRY).await;
    }
}

/// Tries each of the servers once.
pub(super) async fn connect_once(
    config: &ClusterConfig,
    servers: Vec<ServerAddr>,
    sender: &mpsc::UnboundedSender<Event>,
    rejections: &Rejections,
) -> Result<Result<Client, Unreachable>, BridgeError> {
    let outcome = options(config, sender.clone(), rejections.clone())?.connect(servers).await;
    Ok(outcome.map_err(|error| {
        let (is_final, remedy) = remedy(&error);
        Unreachable { error, is_final, remedy }
    }))
}

fn options(
    config: &ClusterConfig,
    sender: mpsc::UnboundedSender<Event>,
    rejections: Rejections,
) -> Result<ConnectOptions, BridgeError> {
    let options = ConnectOptions::new()
        .name(format!("ringfeed {}", config.node_name()))
        .connection_timeout(REQUEST_MAX)
        .request_timeout(Some(REQUEST_MAX))
        .ping_interval(Duration::from_secs(5))
        .subscription_capacity(LIVE_MAX)
        // A server that a client learns of from others has no scheme: it must not be a way around TLS.
        .require_tls(config.requires_tls())
        .reconnect_delay_callback(|attempts| {
            // Nodes do not come back all at once.
            let spread_ms = 100 << attempts.min(4);
            Duration::from_millis(config::random() % spread_ms + 20)
        })
        .event_callback(move |event| {
            on_connection_event(event, &sender, &rejections);
            std::future::ready(())
        });
    let mut options = match config.credentials().map_err(BridgeError)? {
        Credentials::None => options,
        Credentials::Password { user, password } => options.user_and_password(user, password),
        Credentials::Token(token) => options.token(token),
        Credentials::Seed(seed) => options.nkey(seed),
        Credentials::File(text) => options.credentials(&text).map_err(|error| {
            BridgeError(format!(
                "{}: not a file of credentials, as nsc makes it: {error}",
                config.credentials_file.display()
            ))
        })?,
    };
    if !config.tls_ca_file.as_os_str().is_empty() {
        options = options.add_root_certificates(config.tls_ca_file.clone());
    }
    if !config.tls_cert_file.as_os_str().is_empty() {
        options = options.add_client_certificate(config.tls_cert_file.clone(), config.tls_key_file.clone());
    }
    Ok(options)
}

fn on_connection_event(event: async_nats::Event, sender: &mpsc::UnboundedSender<Event>, rejections: &Rejections) {
    let rejection = match event {
        async_nats::Event::Connected => return drop(sender.send(Event::Connected)),
        async_nats::Event::Disconnected | async_nats::Event::Closed => {
            return drop(sender.send(Event::Disconnected));
        }
        async_nats::Event::ServerError(ServerError::AuthorizationViolation) => "authorization violation".to_owned(),
        async_nats::Event::ServerError(ServerError::Other(text)) => text,
        // While it reconnects: the kind of error is all that the client says.
        async_nats::Event::ClientError(error) => error.to_string(),
        other => return tracing::debug!(event = %other, "NATS"),
    };
    let _ = sender.send(Event::Rejected);
    if let Some(left_out) = log::BROKER.take() {
        let remedy = match rejection.starts_with("Permissions Violation") {
            true => REMEDY_PERMISSIONS,
            false => "ringfeed doctor --cluster says what is wrong",
        };
        tracing::warn!(rejection, left_out, "NATS rejects this node: {remedy}");
    }
    rejections.note(rejection);
}

/// Whether a later attempt would end alike, and the remedy.
fn remedy(error: &ConnectError) -> (bool, &'static str) {
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            (true, "check user and password_file, token_file or credentials_file: the servers know others")
        }
        ConnectErrorKind::Tls => (true, "check tls_ca_file, tls_cert_file and tls_key_file: they are PEM files"),
        ConnectErrorKind::TimedOut => (false, "check that a NATS server and no other one listens there"),
        _ => match tls_error(error) {
            Some(error) => (true, tls_remedy(error)),
            None => (false, "start one (nats-server -js), or name others in servers"),
        },
    }
}

/// What TLS has found wrong, if that is what an error is about.
fn tls_error(error: &ConnectError) -> Option<&rustls::Error> {
    error.source()?.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

fn tls_remedy(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "name the servers in servers as their certificates name them",
        rustls::Error::InvalidCertificate(_) => {
            "set tls_ca_file to the certificate of the authority that the servers' certificates are from, and renew \
             those that have expired"
        }
        rustls::Error::AlertReceived(_) => {
            "set tls_cert_file and tls_key_file to a certificate for clients, of the authority that the servers trust"
        }
        _ => "serve TLS there (tls in the configuration of the servers), or leave out tls:// and tls_ca_file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_tls_has_its_remedy() {
        let remedy_of = |error: rustls::Error| {
            remedy(&ConnectError::with_source(ConnectErrorKind::Io, io::Error::new(io::ErrorKind::InvalidData, error)))
        };
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let name = rustls::Error::InvalidCertificate(CertificateError::NotValidForName);
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let rows = [(unknown, "tls_ca_file"), (name, "servers"), (alert, "tls_cert_file"), (plain, "tls://")];
        for (error, key) in rows {
            let text = format!("{error}");
            let (is_final, remedy) = remedy_of(error);
            assert!(is_final && remedy.contains(key), "{text}: {remedy}");
        }
        let refused =
            ConnectError::with_source(ConnectErrorKind::Io, io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(!remedy(&refused).0, "a server may come");
    }
}
