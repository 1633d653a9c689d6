//! Certificates: read from files, and chosen by the name that a client requests.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::der;
use super::model::{CertificateFiles, CertificateInfo, TlsError};

/// The certificates of a server: a client receives the one for the name that it requests.
#[derive(Debug)]
pub(super) struct Certificates(Vec<Certificate>);

/// One certificate with its key.
#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    info: CertificateInfo,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(super) fn read(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Certificates, TlsError> {
        if files.is_empty() {
            let remedy = "add certificates = [{ cert_file = \"…\", key_file = \"…\" }] to it; `ringfeed cert --self-signed` \
                          makes a pair for tests";
            return Err(TlsError(format!("a listener has tls = true, but [tls] names no certificate: {remedy}")));
        }
        files.iter().map(|files| read(files, provider)).collect::<Result<_, _>>().map(Certificates)
    }

    /// What operators may know of them.
    pub(super) fn infos(&self) -> Vec<CertificateInfo> {
        self.0.iter().map(|certificate| certificate.info.clone()).collect()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let names = self.0.iter().map(|certificate| certificate.info.names.as_slice());
        let chosen = hello.server_name().and_then(|name| choose(names, name)).unwrap_or(0);
        self.0.get(chosen).map(|certificate| certificate.key.clone())
    }
}

/// The first certificate with this very name, or else the first with a wildcard for its first label.
fn choose<'a>(mut certificates: impl Iterator<Item = &'a [String]> + Clone, name: &str) -> Option<usize> {
    let name = name.trim_end_matches('.');
    let is_exact = |names: &[String]| names.iter().any(|other| other.eq_ignore_ascii_case(name));
    let parent = name.split_once('.').map_or("", |(_, parent)| parent);
    let is_wild = |names: &[String]| {
        let mut parents = names.iter().filter_map(|other| other.strip_prefix("*."));
        parents.any(|other| other.eq_ignore_ascii_case(parent))
    };
    certificates.clone().position(is_exact).or_else(|| certificates.position(is_wild))
}

fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Certificate, TlsError> {
    let CertificateFiles { cert_file, key_file } = files;
    let chain = read_chain(cert_file)?;
    let info = describe(cert_file, &chain[0])?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| unreadable(key_file, &error, "a private key"))?;
    warn_of_readers(key_file, "the private key");
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let (key, cert) = (key_file.display(), cert_file.display());
        TlsError(format!("{key}: it can't be used with the certificate in {cert}: {error}"))
    })?;
    Ok(Certificate { key: Arc::new(key), info })
}

/// The certificates in a file: at least one.
pub(super) fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(file, &error, "a certificate"))?;
    match chain.is_empty() {
        true => Err(TlsError(format!("{}: there is no certificate in it: it should be PEM", file.display()))),
        false => Ok(chain),
    }
}

fn unreadable(path: &Path, error: &pem::Error, what: &str) -> TlsError {
    let path = path.display();
    TlsError(match error {
        pem::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            format!("{path}: cannot be read: {error}: let the server's user read it")
        }
        pem::Error::Io(error) => format!("{path}: cannot be read: {error}"),
        pem::Error::NoItemsFound => format!("{path}: there is no {what} in it: it should be PEM", what = &what[2..]),
        error => format!("{path}: it should hold {what} as PEM: {error:?}"),
    })
}

/// A reader of the key can pretend to be the server, and one of the keys for tickets can read what was sent.
pub(super) fn warn_of_readers(file: &Path, what: &str) {
    let Ok(metadata) = std::fs::metadata(file) else { return };
    if metadata.permissions().mode() & 0o004 != 0 {
        let path = file.display();
        tracing::warn!("{path}: every user of this host can read {what}: run chmod o-r {path}");
    }
}

fn describe(cert_file: &Path, leaf: &CertificateDer<'_>) -> Result<CertificateInfo, TlsError> {
    let path = cert_file.display();
    let parsed = webpki::EndEntityCert::try_from(leaf)
        .map_err(|error| TlsError(format!("{path}: its first certificate can't be used: {error}")))?;
    let names = parsed.valid_dns_names().map(str::to_owned).collect();
    let not_after = der::not_after(leaf)
        .ok_or_else(|| TlsError(format!("{path}: the time at which its first certificate expires can't be read")))?;
    Ok(CertificateInfo { cert_file: cert_file.to_owned(), names, not_after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_with_the_name_wins_over_one_with_a_wildcard() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let certificates = [names(&["a.org"]), names(&["*.b.org"]), names(&["x.b.org", "b.org"]), names(&["B.org"])];
        let rows = [
            ("a.org", Some(0)),
            ("A.ORG", Some(0)),
            ("a.org.", Some(0)),
            ("y.b.org", Some(1)),
            ("x.b.org", Some(2)),
            ("b.org", Some(2)),
            ("z.y.b.org", None),
            ("c.org", None),
            ("org", None),
            ("", None),
        ];
        for (name, chosen) in rows {
            assert_eq!(choose(certificates.iter().map(Vec::as_slice), name), chosen, "{name}");
        }
    }
}
