//! The certificate of the servers that listen for TLS, and Ringfeed's configuration with it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A self-signed certificate with an ECDSA key on P-256, which all servers use.
pub(crate) struct Certificate {
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
    /// Ringfeed's configuration: one listener with TLS on any free port.
    pub(crate) configuration: PathBuf,
}

impl Certificate {
    /// Makes a certificate below `peers`, or uses the one that is there.
    ///
    /// # Errors
    /// If a file can't be written.
    pub(crate) fn make(binaries: &Path, peers: &Path) -> Result<Certificate, Box<dyn Error>> {
        let directory = std::path::absolute(peers.join("tls"))?;
        std::fs::create_dir_all(&directory)?;
        let certificate = Certificate {
            cert_file: directory.join("cert.pem"),
            key_file: directory.join("key.pem"),
            configuration: directory.join("ringfeed.toml"),
        };
        if !certificate.cert_file.exists() {
            let mut cert = Command::new(binaries.join("ringfeed"));
            let output = cert.args(["cert", "--self-signed", "--out"]).arg(&directory).output()?;
            if !output.status.success() {
                return Err(format!("ringfeed cert: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
        }
        let (cert_file, key_file) = (&certificate.cert_file, &certificate.key_file);
        let text = format!(
            "[server]\ncontrol = \"127.0.0.1:0\"\nshards = 1\necho = true\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
             tls = true\n\n[tls]\ncertificates = [{{ cert_file = {cert_file:?}, key_file = {key_file:?} }}]\n"
        );
        std::fs::write(&certificate.configuration, text)?;
        Ok(certificate)
    }
}
