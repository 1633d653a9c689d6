//! What makes TLS sessions, replaced as a whole without a restart.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::certificates::Certificates;
use super::clients::ClientAuthorities;
use super::model::{CertificateInfo, TlsError, TlsSettings};
use super::tickets::Tickets;

/// Makes sessions, as the settings in use say. Clones have the same.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<RwLock<Current>>);

/// The settings in use.
#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    certificates: Vec<CertificateInfo>,
    tickets: Tickets,
}

impl Acceptor {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(settings: &TlsSettings) -> Result<Acceptor, TlsError> {
        Ok(Acceptor(Arc::new(RwLock::new(Current::new(settings, None)?))))
    }

    /// Reads the files anew. Connections that are established go on as they are.
    ///
    /// # Errors
    /// [`TlsError`]; what is in use stays.
    pub fn reload(&self, settings: &TlsSettings) -> Result<(), TlsError> {
        let before = self.0.read().unwrap_or_else(PoisonError::into_inner).tickets.clone();
        let current = Current::new(settings, Some(before))?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// The certificates in use.
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).certificates.clone()
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }
}

impl Current {
    /// `before`: the tickets in use, which go on where the settings allow it.
    fn new(settings: &TlsSettings, before: Option<Tickets>) -> Result<Current, TlsError> {
        let versions: &[&SupportedProtocolVersion] = match settings.min_version.as_str() {
            "1.3" => &[&version::TLS13],
            _ => &[&version::TLS13, &version::TLS12],
        };
        let provider: Arc<CryptoProvider> = Arc::new(provider::default_provider());
        let certificates = Certificates::read(&settings.certificates, &provider)?;
        let infos = certificates.infos();
        let authorities = ClientAuthorities::read(settings)?;
        let tickets = Tickets::new(&settings.ticket_key_file, authorities.digest(), before)?;
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
        let builder = builder.map_err(|error| TlsError(format!("TLS can't be set up: {error}")))?;
        let builder = builder.with_client_cert_verifier(authorities.verifier(provider)?);
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A returning client needs one ticket. Tickets hold the session, so the server need not.
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = tickets.producer();
        // The keys of an established connection leave rustls: see `Session`.
        config.enable_secret_extraction = true;
        Ok(Current { config: Arc::new(config), certificates: infos, tickets })
    }
}
