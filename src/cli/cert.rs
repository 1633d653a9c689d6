//! `ringfeed cert`: a self-signed certificate, to try TLS.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use time::OffsetDateTime;

use super::bad_input;

/// How long a certificate is valid: browsers accept no more than 398 days.
const DAYS_VALID: u32 = 365;

const DAY: Duration = Duration::from_secs(86_400);

/// Makes a certificate with its private key, and prints the configuration that uses them.
///
/// Browsers and clients trust a self-signed certificate only by configuration: for the public, get one from a
/// certificate authority, for example with certbot or lego.
#[derive(Args, Debug)]
pub(super) struct CertArguments {
    /// The certificate vouches for itself; there is no other kind here
    #[arg(long, required = true)]
    self_signed: bool,
    /// The names and IP addresses that it is for
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "localhost,127.0.0.1,::1")]
    names: Vec<String>,
    /// Where the files cert.pem and key.pem are written; files that are there stay
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    out: PathBuf,
}

/// Makes the files. The exit code is 2 if that can't be.
pub(super) fn run(arguments: CertArguments) -> ExitCode {
    match make(arguments) {
        Ok(config) => {
            print!("{config}");
            ExitCode::SUCCESS
        }
        Err(text) => bad_input(&text),
    }
}

fn make(arguments: CertArguments) -> Result<String, String> {
    let CertArguments { names, out, .. } = arguments;
    let (cert, key) = generate(names).map_err(|error| format!("--names: a certificate can't be for these: {error}"))?;
    fs::create_dir_all(&out).map_err(|error| format!("{}: cannot be made: {error}", out.display()))?;
    let (cert_file, key_file) = (out.join("cert.pem"), out.join("key.pem"));
    for file in [&cert_file, &key_file] {
        if file.exists() {
            return Err(format!("{}: there is a file already: move it away, or choose another --out", file.display()));
        }
    }
    write(&key_file, 0o600, &key)?;
    write(&cert_file, 0o644, &cert)?;
    let quoted = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
    Ok(format!(
        "[[listener]]\naddress = \"127.0.0.1:8443\"\ntls = true\n\n\
         [tls]\ncertificates = [{{ cert_file = {}, key_file = {} }}]\n",
        quoted(&cert_file),
        quoted(&key_file)
    ))
}

/// A certificate and its key, as PEM.
fn generate(names: Vec<String>) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "ringfeed self-signed certificate");
    // Clients' clocks may be slow.
    params.not_before = OffsetDateTime::now_utc() - DAY;
    params.not_after = OffsetDateTime::now_utc() + DAYS_VALID * DAY;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn write(path: &Path, mode: u32, content: &str) -> Result<(), String> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|error| format!("{}: cannot be written: {error}", path.display()))
}
