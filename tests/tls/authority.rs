//! A certificate authority of a test, for servers and for clients.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

use crate::support::server::Server;
use crate::support::target_dir;

const DAY: time::Duration = time::Duration::DAY;

/// Certificates of one authority, in a directory of their own.
pub(crate) struct Authority {
    pub(crate) dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Its own certificate is `ca.pem`.
    pub(crate) fn new(name: &str) -> Authority {
        let dir = target_dir("tls").join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the target directory can be written to");
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, format!("authority of the test {name}"));
        params.not_before = OffsetDateTime::now_utc() - DAY;
        params.not_after = OffsetDateTime::now_utc() + 365 * DAY;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(dir.join("ca.pem"), certificate.pem()).expect("the target directory can be written to");
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    /// Makes `NAME.crt` and `NAME.key` for `localhost`.
    pub(crate) fn make(&self, name: &str) {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_after = OffsetDateTime::now_utc() + 90 * DAY;
        self.sign(name, params);
    }

    /// Makes `NAME.crt` and `NAME.key` for a client whose common name is `NAME`; they expire in so many days.
    pub(crate) fn make_client(&self, name: &str, days: i64) {
        let mut params = CertificateParams::new([]).expect("no names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::days(days);
        self.sign(name, params);
    }

    fn sign(&self, name: &str, mut params: CertificateParams) {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = params.not_after.min(OffsetDateTime::now_utc()) - DAY;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(self.dir.join(format!("{name}.crt")), certificate.pem()).expect("a file");
        fs::write(self.dir.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }

    /// The path of a file in its directory.
    pub(crate) fn path(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }

    /// The file of a configuration with the certificate in `server.crt`, and these further lines of `[tls]`.
    pub(crate) fn config(&self, lines: &str) -> PathBuf {
        let path: &Path = &self.dir;
        let path = path.display();
        let config = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = true\n[tls]\n\
             certificates = [{{ cert_file = \"{path}/server.crt\", key_file = \"{path}/server.key\" }}]\n{lines}"
        );
        let file = self.dir.join("tls.toml");
        fs::write(&file, config).expect("a file");
        file
    }

    /// A server with this configuration.
    pub(crate) fn start(&self, lines: &str, flags: &[&str]) -> Server {
        Server::start_with_config(&self.config(lines), flags)
    }
}
