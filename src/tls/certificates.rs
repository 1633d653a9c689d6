//! Certificates: read from files, chosen by the name that a client asks for, replaced without a restart.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::model::{CertificateFiles, CertificateInfo, TlsError, TlsSettings};

/// Makes sessions, with the certificates that are in use. Clones have the same.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
}

/// The certificates in use.
#[derive(Debug)]
struct Certificates(RwLock<Arc<Vec<Certificate>>>);

/// One certificate with its key.
#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    info: CertificateInfo,
}

impl Acceptor {
    /// Reads the certificates.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(settings: &TlsSettings) -> Result<Acceptor, TlsError> {
        let versions: &[&SupportedProtocolVersion] = match settings.min_version.as_str() {
            "1.3" => &[&version::TLS13],
            _ => &[&version::TLS13, &version::TLS12],
        };
        let provider = Arc::new(provider::default_provider());
        let read = read_all(&settings.certificates, &provider)?;
        let certificates = Arc::new(Certificates(RwLock::new(Arc::new(read))));
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let builder = builder.map_err(|error| TlsError(format!("TLS can't be set up: {error}")))?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(certificates.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A returning client needs one ticket. Tickets hold the session, so the server need not.
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer =
            provider::Ticketer::new().map_err(|error| TlsError(format!("no keys for session tickets: {error}")))?;
        // The keys of an established connection leave rustls: see `Session`.
        config.enable_secret_extraction = true;
        Ok(Acceptor { config: Arc::new(config), certificates })
    }

    /// Reads the certificates anew. Connections that are established keep theirs.
    ///
    /// # Errors
    /// [`TlsError`]; the certificates in use stay.
    pub fn reload(&self, files: &[CertificateFiles]) -> Result<(), TlsError> {
        let read = Arc::new(read_all(files, self.config.crypto_provider())?);
        *self.certificates.0.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// The certificates in use.
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.certificates.in_use().iter().map(|certificate| certificate.info.clone()).collect()
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

impl Certificates {
    fn in_use(&self) -> Arc<Vec<Certificate>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.in_use();
        let names = certificates.iter().map(|certificate| certificate.info.names.as_slice());
        let chosen = hello.server_name().and_then(|name| choose(names, name)).unwrap_or(0);
        certificates.get(chosen).map(|certificate| certificate.key.clone())
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

fn read_all(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Vec<Certificate>, TlsError> {
    if files.is_empty() {
        let remedy = "add certificates = [{ cert_file = \"…\", key_file = \"…\" }] to it; `ringfeed cert --self-signed` \
                      makes a pair for tests";
        return Err(TlsError(format!("a listener has tls = true, but [tls] names no certificate: {remedy}")));
    }
    files.iter().map(|files| read(files, provider)).collect()
}

fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Certificate, TlsError> {
    let CertificateFiles { cert_file, key_file } = files;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert_file)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(cert_file, &error, "a certificate"))?;
    let Some(leaf) = chain.first() else {
        return Err(TlsError(format!("{}: there is no certificate in it: it should be PEM", cert_file.display())));
    };
    let info = describe(cert_file, leaf)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| unreadable(key_file, &error, "a private key"))?;
    warn_of_readers(key_file);
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let (key, cert) = (key_file.display(), cert_file.display());
        TlsError(format!("{key}: it can't be used with the certificate in {cert}: {error}"))
    })?;
    Ok(Certificate { key: Arc::new(key), info })
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

/// A reader of the key can pretend to be the server.
fn warn_of_readers(key_file: &Path) {
    let Ok(metadata) = std::fs::metadata(key_file) else { return };
    if metadata.permissions().mode() & 0o004 != 0 {
        let path = key_file.display();
        tracing::warn!("{path}: every user of this host can read the private key: run chmod o-r {path}");
    }
}

fn describe(cert_file: &Path, leaf: &CertificateDer<'_>) -> Result<CertificateInfo, TlsError> {
    let path = cert_file.display();
    let parsed = webpki::EndEntityCert::try_from(leaf)
        .map_err(|error| TlsError(format!("{path}: its first certificate can't be used: {error}")))?;
    let names = parsed.valid_dns_names().map(str::to_owned).collect();
    let not_after = not_after(leaf)
        .ok_or_else(|| TlsError(format!("{path}: the time at which its first certificate expires can't be read")))?;
    Ok(CertificateInfo { cert_file: cert_file.to_owned(), names, not_after })
}

/// When a certificate expires, in seconds of Unix time (RFC 5280 §4.1: the second time in the fifth field; the version
/// before it has a tag of its own).
fn not_after(certificate: &[u8]) -> Option<u64> {
    const SEQUENCE: u8 = 0x30;
    let (_, certificate, _) = element(certificate)?;
    let (tag, mut fields, _) = element(certificate)?;
    if tag != SEQUENCE {
        return None;
    }
    let (first, _, rest) = element(fields)?;
    if first == 0xa0 {
        fields = rest;
    }
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _, rest) = element(validity)?;
    let (tag, text, _) = element(rest)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// The first element of DER: its tag, its content, and what comes behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut len = usize::from(*first);
    if len >= 0x80 {
        let (bytes, behind) = rest.split_at_checked(len - 0x80).filter(|(bytes, _)| bytes.len() <= 4)?;
        len = bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        rest = behind;
    }
    let (content, rest) = rest.split_at_checked(len)?;
    Some((*tag, content, rest))
}

/// A `UTCTime` (`YYMMDDHHMMSSZ`) or `GeneralizedTime` (with four digits of the year) in seconds of Unix time.
fn time(tag: u8, text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest) = match tag {
        0x17 => text.split_at_checked(2).and_then(|(year, rest)| {
            let year: i64 = year.parse().ok()?;
            Some((if year < 50 { 2000 + year } else { 1900 + year }, rest))
        })?,
        0x18 => text.split_at_checked(4).and_then(|(year, rest)| Some((year.parse().ok()?, rest)))?,
        _ => return None,
    };
    let field = |index: usize| rest.get(2 * index..2 * index + 2)?.parse::<i64>().ok();
    let (month, day) = (field(0)?, field(1)?);
    let seconds = field(2)? * 3600 + field(3)? * 60 + field(4)?;
    // Days since 1970: years begin in March here, so that leap days are the last of theirs.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86_400 + seconds).ok()
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

    #[test]
    fn times_are_read_in_both_forms() {
        let rows = [
            (0x17, "700101000000Z", Some(0)),
            (0x17, "491231235959Z", Some(2_524_607_999)),
            (0x18, "20500101000000Z", Some(2_524_608_000)),
            (0x18, "20240229120000Z", Some(1_709_208_000)),
            (0x18, "99991231235959Z", Some(253_402_300_799)),
            (0x17, "7001010000Z", None),
            (0x17, "700101000000", None),
            (0x18, "2024022912000aZ", None),
            (0x16, "700101000000Z", None),
            (0x17, "691231235959Z", None),
        ];
        for (tag, text, seconds) in rows {
            assert_eq!(time(tag, text), seconds, "{text}");
        }
    }

    #[test]
    fn cut_certificates_have_no_time() {
        for bytes in [&[][..], &[0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 2, 0x30, 0], &[0x30, 0x89]] {
            assert_eq!(not_after(bytes), None, "{bytes:?}");
        }
    }
}
