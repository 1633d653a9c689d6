//! The certificates of a configuration: what clients would find wrong with them, before they do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::finding::{Finding, Verdict};
use crate::tls::{Acceptor, CertificateFiles, ChainLink, KeyType, TlsSettings, read_links};

const DAY_S: u64 = 86_400;

/// Days before its end from which a certificate should be renewed. Authorities recommend a third of 90 days.
const DAYS_LEFT_MIN: u64 = 14;

/// Bits of an RSA key that clients accept at least.
const RSA_BITS_MIN: usize = 2048;

/// Looks at all certificates, keys and authorities of the settings, at `now_s`, in seconds of Unix time.
pub(super) fn examine(tls: &TlsSettings, now_s: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for CertificateFiles { cert_file, key_file } in &tls.certificates {
        findings.extend(examine_chain(cert_file, now_s));
        findings.push(readers("private key", key_file));
    }
    if !tls.client_ca_file.as_os_str().is_empty() {
        findings.push(authorities(&tls.client_ca_file, now_s));
    }
    if !tls.ticket_key_file.as_os_str().is_empty() {
        findings.push(readers("keys of session tickets", &tls.ticket_key_file));
    }
    if !tls.certificates.is_empty() {
        findings.push(match Acceptor::new(tls) {
            Ok(_) => Finding::good("TLS", "each key is its certificate's, and the settings fit together"),
            Err(error) => Finding::new("TLS", Verdict::Required, error, "settings that a server can start with", ""),
        });
    }
    findings
}

/// The chain in one file.
fn examine_chain(file: &Path, now_s: u64) -> Vec<Finding> {
    let links = match read_links(file) {
        Ok(links) => links,
        Err(error) => return vec![Finding::new("certificate", Verdict::Required, error, "a chain as PEM", "")],
    };
    let path = file.display();
    let mut findings = vec![key_type(file, &links[0])];
    findings.extend(links.iter().map(|link| time_left(file, link, now_s)));
    let last = links.last().expect("there is one");
    let is_ordered = links.iter().rev().skip(1).all(|link| link.is_followed_by_issuer);
    let command = format!("openssl crl2pkcs7 -nocrl -certfile {path} | openssl pkcs7 -print_certs -noout");
    findings.push(if !is_ordered {
        let needed = "the server's own certificate first, then that of its issuer, and so on: clients reject others";
        Finding::new("chain", Verdict::Required, format_args!("{path}: wrong order"), needed, command)
    } else if links.len() == 1 && !last.is_root {
        let needed = "the certificates of the issuers behind the server's own: many clients can't find them";
        Finding::new("chain", Verdict::Recommended, format_args!("{path}: one certificate"), needed, command)
    } else if links.len() == 1 {
        let needed = "a certificate of an authority, where strangers connect";
        Finding::new("chain", Verdict::Recommended, format_args!("{path}: self-signed"), needed, "")
    } else if last.is_root {
        let needed = "no root at the end: clients have their own, and it only costs bytes";
        Finding::new("chain", Verdict::Recommended, format_args!("{path}: {} certificates", links.len()), needed, "")
    } else {
        Finding::good("chain", format_args!("{path}: {} certificates in order", links.len()))
    });
    findings
}

fn time_left(file: &Path, link: &ChainLink, now_s: u64) -> Finding {
    let name = "certificate";
    let found = |what: String| format!("{}: {} {what}", file.display(), link.subject);
    if now_s < link.not_before {
        let days = (link.not_before - now_s).div_ceil(DAY_S);
        let needed = "a clock that is right, or a certificate that is valid";
        let found = found(format!("is not valid before {days} days have passed"));
        return Finding::new(name, Verdict::Required, found, needed, "timedatectl");
    }
    let Some(left_s) = link.not_after.checked_sub(now_s).filter(|left_s| *left_s > 0) else {
        let needed = "a new one: clients reject it";
        return Finding::new(
            name,
            Verdict::Required,
            found("has expired".to_owned()),
            needed,
            "renew it, then ringfeed reload",
        );
    };
    let days = left_s / DAY_S;
    let found = found(format!("expires in {days} days"));
    match days {
        0..DAYS_LEFT_MIN => {
            let needed = format!("more than {DAYS_LEFT_MIN} days");
            Finding::new(name, Verdict::Recommended, found, needed, "renew it, then ringfeed reload")
        }
        _ => Finding::good(name, found),
    }
}

fn key_type(file: &Path, link: &ChainLink) -> Finding {
    let (name, path) = ("key type", file.display());
    match link.key {
        KeyType::Elliptic => Finding::good(name, format_args!("{path}: ECDSA or Ed25519")),
        KeyType::Rsa(bits) if bits < RSA_BITS_MIN => {
            let needed = format!("{RSA_BITS_MIN}: clients reject less");
            Finding::new(name, Verdict::Required, format_args!("{path}: RSA with {bits} bits"), needed, "")
        }
        KeyType::Rsa(bits) => {
            let needed = "ECDSA: a handshake with an RSA key takes some twenty times as long";
            Finding::new(name, Verdict::Recommended, format_args!("{path}: RSA with {bits} bits"), needed, "")
        }
        KeyType::Other => {
            Finding::new(name, Verdict::Required, format_args!("{path}: another one"), "ECDSA, Ed25519 or RSA", "")
        }
    }
}

/// Whether others than the server's user and group can read a secret.
pub(super) fn readers(name: &'static str, file: &Path) -> Finding {
    let path = file.display();
    let Ok(metadata) = fs::metadata(file) else {
        return Finding::new(name, Verdict::Required, format_args!("{path} can't be read"), "a file", "");
    };
    match metadata.permissions().mode() & 0o777 {
        mode if mode & 0o007 == 0 => Finding::good(name, format_args!("{path} has the mode {mode:04o}")),
        mode => {
            let found = format_args!("{path} has the mode {mode:04o}");
            Finding::new(name, Verdict::Required, found, "no access for others", format_args!("chmod o-rwx {path}"))
        }
    }
}

/// The authorities of clients' certificates.
fn authorities(file: &Path, now_s: u64) -> Finding {
    let (name, path) = ("authorities of clients", file.display());
    match read_links(file) {
        Err(error) => Finding::new(name, Verdict::Required, error, "certificates as PEM", ""),
        Ok(links) => match links.iter().find(|link| link.not_after <= now_s) {
            None => Finding::good(name, format_args!("{path}: {} certificates", links.len())),
            Some(link) => {
                let found = format_args!("{path}: {} has expired", link.subject);
                Finding::new(name, Verdict::Required, found, "a new one: its clients are rejected", "")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use time::{Duration, OffsetDateTime};

    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    /// A directory with certificates that are valid around [`NOW_S`].
    struct World {
        dir: PathBuf,
        root: Issuer<'static, KeyPair>,
        root_pem: String,
    }

    fn params(name: &str, days: i64) -> CertificateParams {
        let now = OffsetDateTime::from_unix_timestamp(NOW_S as i64).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = now + Duration::days(days.min(0)) - Duration::days(30);
        params.not_after = now + Duration::days(days);
        params
    }

    impl World {
        fn new(name: &str) -> World {
            let dir = std::env::temp_dir().join(format!("ringfeed-doctor-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let mut root = params("root", 3650);
            root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let root_pem = root.self_signed(&key).unwrap().pem();
            World { dir, root: Issuer::new(root, key), root_pem }
        }

        /// A certificate that is valid for so many days, with its key.
        fn leaf(&self, days: i64) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            (params("leaf", days).signed_by(&key, &self.root).unwrap().pem(), key.serialize_pem())
        }

        /// The findings on these files, without the good ones.
        fn findings(&self, chain: &str, key: &str, mode: u32) -> Vec<(&'static str, Verdict, String)> {
            let files = CertificateFiles { cert_file: self.dir.join("cert.pem"), key_file: self.dir.join("key.pem") };
            fs::write(&files.cert_file, chain).unwrap();
            fs::write(&files.key_file, key).unwrap();
            fs::set_permissions(&files.key_file, fs::Permissions::from_mode(mode)).unwrap();
            let settings = TlsSettings { certificates: vec![files], ..TlsSettings::default() };
            let findings = examine(&settings, NOW_S).into_iter();
            let bad = findings.filter(|finding| finding.verdict != Verdict::Good);
            bad.map(|finding| (finding.name, finding.verdict, finding.to_string())).collect()
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn each_fault_is_found_alone_and_its_remedy_named() {
        let world = World::new("faults");
        let (good, key) = world.leaf(90);
        let mut between = params("between", 365);
        between.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let between_key = KeyPair::generate().unwrap();
        let between_pem = between.signed_by(&between_key, &world.root).unwrap().pem();
        let issuer = Issuer::new(between, between_key);
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = params("leaf", 90).signed_by(&leaf_key, &issuer).unwrap().pem();
        let leaf_key = leaf_key.serialize_pem();
        let whole = format!("{leaf}{between_pem}");
        assert_eq!(world.findings(&whole, &leaf_key, 0o640), []);

        let root = &world.root_pem;
        let (late, late_key) = world.leaf(5);
        let (expired, expired_key) = world.leaf(-1);
        let (required, recommended) = (Verdict::Required, Verdict::Recommended);
        let rows = [
            (whole.clone(), &leaf_key, 0o644, "private key", required, "chmod o-rwx"),
            (whole.clone(), &key, 0o600, "TLS", required, "can't be used with the certificate"),
            (format!("{leaf}{root}{between_pem}"), &leaf_key, 0o600, "chain", required, "wrong order"),
            (leaf.clone(), &leaf_key, 0o600, "chain", recommended, "the issuers behind"),
            (format!("{whole}{root}"), &leaf_key, 0o600, "chain", recommended, "no root at the end"),
            (format!("{late}{between_pem}{root}"), &late_key, 0o600, "chain", required, "wrong order"),
        ];
        for (chain, key, mode, name, verdict, text) in rows {
            let found = world.findings(&chain, key, mode);
            let of_name: Vec<_> = found.iter().filter(|(other, ..)| *other == name).collect();
            assert_eq!(of_name.len(), 1, "{name}: {found:?}");
            assert!(of_name[0].1 == verdict && of_name[0].2.contains(text), "{found:?}");
        }
        let certificate = |chain: String, key: &str| {
            let found = world.findings(&chain, key, 0o600);
            found.into_iter().find(|(name, ..)| *name == "certificate").expect("a finding")
        };
        let (_, verdict, text) = certificate(format!("{late}{root}"), &late_key);
        assert!(verdict == recommended && text.contains("expires in 5 days"), "{text}");
        let (_, verdict, text) = certificate(format!("{expired}{root}"), &expired_key);
        assert!(verdict == required && text.contains("CN=leaf has expired"), "{text}");
        let (_, verdict, text) = certificate("nothing".to_owned(), &key);
        assert!(verdict == required && text.contains("there is no certificate in it"), "{text}");
        let early = format!("{good}{root}");
        fs::write(world.dir.join("cert.pem"), early).unwrap();
        let findings = examine_chain(&world.dir.join("cert.pem"), NOW_S - 100 * DAY_S);
        assert!(findings.iter().any(|finding| finding.to_string().contains("is not valid before")), "{findings:?}");
    }

    #[test]
    fn rsa_keys_are_named_with_their_bits() {
        let link = |key| ChainLink {
            subject: String::new(),
            not_before: 0,
            not_after: 0,
            key,
            is_root: false,
            is_followed_by_issuer: false,
        };
        let verdict = |key| key_type(Path::new("a"), &link(key)).verdict;
        assert_eq!(verdict(KeyType::Rsa(1024)), Verdict::Required);
        assert_eq!(verdict(KeyType::Rsa(2048)), Verdict::Recommended);
        assert_eq!((verdict(KeyType::Elliptic), verdict(KeyType::Other)), (Verdict::Good, Verdict::Required));
        let file = Path::new("src/cli/doctor/testdata/rsa.pem");
        assert_eq!(read_links(file).unwrap()[0].key, KeyType::Rsa(2048));
    }
}
