//! TLS above the ring: one rustls session per connection, which converts bytes to bytes.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::Error;

/// Which server certificates are trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust<'a> {
    /// Those of the public authorities.
    Public,
    /// Those of the authorities in this PEM file.
    Authorities(&'a Path),
    /// All of them.
    Any,
}

/// A name that a server's certificate must have.
pub(crate) type Name = ServerName<'static>;

/// The name of `host`.
///
/// # Errors
/// If no certificate can have that name.
pub(crate) fn name(host: &str) -> Result<Name, Error> {
    ServerName::try_from(host.to_owned()).map_err(|_| Error::new(format!("{host} can't be the name in a certificate")))
}

/// Sessions by socket number; unencrypted sockets have none.
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    sessions: Vec<Option<Box<ClientConnection>>>,
}

impl Tls {
    /// Room for sessions of `count` sockets. Without `resume` each handshake is a full one, as of a new client.
    ///
    /// # Errors
    /// If the file of authorities can't be read.
    pub(crate) fn new(trust: Trust<'_>, resume: bool, count: u32) -> Result<Tls, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().expect("the provider supports them");
        let mut config = match trust {
            Trust::Any => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
                .with_no_client_auth(),
            Trust::Public => {
                let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::Authorities(path) => builder.with_root_certificates(read_roots(path)?).with_no_client_auth(),
        };
        if !resume {
            config.resumption = Resumption::disabled();
        }
        let sessions = (0..count).map(|_| None).collect();
        Ok(Tls { config: Arc::new(config), sessions })
    }

    /// Starts a session on socket `number`; its first bytes are ready to send.
    pub(crate) fn open(&mut self, number: u32, name: &Name) {
        let session = ClientConnection::new(Arc::clone(&self.config), name.clone());
        let mut session = session.expect("a fixed configuration that suits a client");
        session.set_buffer_limit(None);
        self.sessions[number as usize] = Some(Box::new(session));
    }

    /// Removes the session.
    pub(crate) fn close(&mut self, number: u32) {
        self.sessions[number as usize] = None;
    }

    /// Whether socket `number` is encrypted.
    pub(crate) fn covers(&self, number: u32) -> bool {
        self.sessions[number as usize].is_some()
    }

    /// Decrypts bytes received on the socket, and appends the result to `plain`.
    ///
    /// # Errors
    /// If the server's certificate or its records are invalid.
    pub(crate) fn receive(&mut self, number: u32, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), String> {
        let Some(session) = &mut self.sessions[number as usize] else { return Ok(()) };
        while !bytes.is_empty() {
            session.read_tls(&mut bytes).map_err(|error| format!("TLS: {error}"))?;
            let state = session.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            session.reader().read_exact(&mut plain[start..]).expect("the session has this many plain bytes");
        }
        Ok(())
    }

    /// Whether the session has bytes of its own to send.
    pub(crate) fn has_output(&self, number: u32) -> bool {
        self.sessions[number as usize].as_ref().is_some_and(|session| session.wants_write())
    }

    /// Replaces plain bytes by the bytes to send for them. Until the handshake is complete, the session keeps the plain
    /// bytes.
    pub(crate) fn seal(&mut self, number: u32, bytes: &mut Vec<u8>) {
        let Some(session) = &mut self.sessions[number as usize] else { return };
        session.writer().write_all(bytes).expect("a buffer without a limit");
        bytes.clear();
        while session.wants_write() {
            session.write_tls(bytes).expect("writing into memory");
        }
    }
}

fn read_roots(path: &Path) -> Result<RootCertStore, Error> {
    let fail = |why: String| Error::new(format!("can't use the certificates in {}: {why}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))? {
        let certificate = certificate.map_err(|error| fail(error.to_string()))?;
        roots.add(certificate).map_err(|error| fail(error.to_string()))?;
    }
    if roots.is_empty() { Err(fail("the file has no certificate".to_owned())) } else { Ok(roots) }
}

/// Accepts any certificate: measurements run on a trusted network.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
