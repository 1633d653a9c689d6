//! The certificates of clients: whose are accepted, and what they say.

use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::certificates::read_chain;
use super::model::{ClientCertificates, TlsError, TlsSettings};

/// Who vouches for clients, and whether somebody must.
pub(super) struct ClientAuthorities {
    wanted: ClientCertificates,
    authorities: Vec<CertificateDer<'static>>,
}

impl ClientAuthorities {
    /// Reads the file with the authorities' certificates, if clients may have one.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(super) fn read(settings: &TlsSettings) -> Result<ClientAuthorities, TlsError> {
        let TlsSettings { client_certificates: wanted, client_ca_file: file, .. } = settings;
        let has_file = !file.as_os_str().is_empty();
        let authorities = match wanted {
            ClientCertificates::None if has_file => {
                let text = "[tls] has a client_ca_file, but asks no client for a certificate: set client_certificates to \
                            \"optional\" or \"required\"";
                return Err(TlsError(text.to_owned()));
            }
            ClientCertificates::None => Vec::new(),
            _ if !has_file => {
                let text = "[tls] has client_certificates, but no client_ca_file with the authorities that clients' \
                            certificates are from";
                return Err(TlsError(text.to_owned()));
            }
            _ => read_chain(file)?,
        };
        Ok(ClientAuthorities { wanted: *wanted, authorities })
    }

    /// Checks the certificates of clients.
    pub(super) fn verifier(self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        if self.wanted == ClientCertificates::None {
            return Ok(WebPkiClientVerifier::no_client_auth());
        }
        let unusable = |error: &dyn std::fmt::Display| TlsError(format!("client_ca_file can't be used: {error}"));
        let mut roots = RootCertStore::empty();
        for authority in self.authorities {
            roots.add(authority).map_err(|error| unusable(&error))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match self.wanted {
            ClientCertificates::Optional => builder.allow_unauthenticated(),
            _ => builder,
        };
        builder.build().map_err(|error| unusable(&error))
    }

    /// Tells these settings from others: a ticket is good only under those that it was made under.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(&[self.wanted as u8]);
        for authority in &self.authorities {
            context.update(&(authority.len() as u64).to_be_bytes());
            context.update(authority);
        }
        context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}
