//! TLS of the client, by rustls.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::ClientError;
use super::dial::{ClientTls, OnStep, Step, Stream};
use super::url::Endpoint;

/// Sets TLS up on a connection to the endpoint, and checks the server's certificate.
///
/// # Errors
/// [`ClientError::Tls`].
pub(super) async fn secure(
    stream: TcpStream,
    endpoint: &Endpoint,
    tls: &ClientTls,
    on_step: OnStep<'_>,
) -> Result<Stream, ClientError> {
    let failed = |text: String| ClientError::Tls { text, is_passing: false };
    let config = config(tls).map_err(failed)?;
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| failed(format!("{} can't be the name in a certificate", endpoint.host)))?;
    let connector = TlsConnector::from(Arc::new(config));
    match connector.connect(name, stream).await {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            let version = session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default();
            let certificate = session.peer_certificates().and_then(|chain| chain.first());
            on_step(Step::Secured { version, certificate: certificate.map(|leaf| leaf.to_vec()).unwrap_or_default() });
            Ok(Box::new(stream))
        }
        Err(error) => Err(explained(&error, endpoint)),
    }
}

fn config(tls: &ClientTls) -> Result<ClientConfig, String> {
    let provider = Arc::new(provider::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("TLS can't be set up: {error}"))?;
    let builder = if tls.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(tls.ca_file.as_deref())?)
    };
    let mut config = match (&tls.cert_file, &tls.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key_of = |error| format!("{}: there is no usable key in it: {error}", key.display());
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| key_of(error.to_string()))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| key_of(error.to_string()))?
        }
        _ => return Err("a client certificate needs both its file and the file of its key".to_owned()),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The issuers that the client trusts.
fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let loaded = rustls_native_certs::load_native_certs();
        let errors: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
        if roots.add_parsable_certificates(loaded.certs).0 == 0 {
            return Err(format!(
                "this host has no certificates of authorities: install ca-certificates, or name a file with --ca-file \
                 or SSL_CERT_FILE{}{}",
                if errors.is_empty() { "" } else { ": " },
                errors.join("; ")
            ));
        }
        return Ok(roots);
    };
    if roots.add_parsable_certificates(certificates(file)?).0 == 0 {
        return Err(format!("{}: there is no certificate in it that an authority could have", file.display()));
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{}: there is no certificate in it: it should be PEM", file.display()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{}: cannot be read: {error}", file.display())),
    }
}

/// Why the handshake failed, and the remedy.
fn explained(error: &io::Error, endpoint: &Endpoint) -> ClientError {
    let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) else {
        let text = format!("{} ended the TLS handshake: {error}", endpoint.authority);
        return ClientError::Tls { text, is_passing: true };
    };
    let of = |what: &str| format!("the certificate of {} {what}", endpoint.authority);
    let text = match cause {
        TlsError::InvalidCertificate(problem) => match problem {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                of("has expired; check this host's clock, or have the certificate renewed")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                of("is not valid yet; check this host's clock")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                of("is for other names; connect by one of its names")
            }
            CertificateError::UnknownIssuer => {
                of("comes from an issuer that this host does not trust, or lacks the certificates between; name the \
                 issuer's certificate with --ca-file or SSL_CERT_FILE")
            }
            other => of(&format!("can't be trusted: {other}")),
        },
        TlsError::InvalidMessage(_) => {
            format!("{} does not speak TLS; check the port, or use ws:// or http://", endpoint.authority)
        }
        TlsError::AlertReceived(alert) => {
            format!("{} rejected the TLS handshake: {alert:?}", endpoint.authority)
        }
        other => format!("the TLS handshake with {} failed: {other}", endpoint.authority),
    };
    ClientError::Tls { text, is_passing: false }
}

/// Accepts any certificate. The server still has to have its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
