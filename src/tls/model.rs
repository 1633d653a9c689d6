//! What others know of TLS: settings, and how handshakes and records end.

use std::fmt;
use std::path::PathBuf;

/// `[tls]`: what all TLS listeners of a server have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
pub struct TlsSettings {
    /// Of these, a client is shown the one for the name that it asks for, or else the first.
    pub certificates: Vec<CertificateFiles>,
    /// The lowest version: `1.2` or `1.3`.
    pub min_version: String,
    /// Whether clients show a certificate.
    pub client_certificates: ClientCertificates,
    /// PEM with the certificates of the authorities that clients' certificates are from. Empty: none.
    pub client_ca_file: PathBuf,
    /// Keys of session tickets, one a line: the first encrypts, all decrypt. Empty: random ones of this process.
    pub ticket_key_file: PathBuf,
    /// Seconds for which browsers that have seen a page use TLS only (RFC 6797); 0: they are not told.
    pub hsts_seconds: u64,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "lowercase"))]
pub enum ClientCertificates {
    /// The server requests none.
    #[default]
    None,
    /// Those that have one. A bad one is an error.
    Optional,
    /// All. The handshake of a client without one fails.
    Required,
}

/// A certificate with its chain, and its key: both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub struct CertificateFiles {
    /// The certificate, followed by those of its issuers.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// A certificate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Where it was read.
    pub cert_file: PathBuf,
    /// The DNS names that it is for.
    pub names: Vec<String>,
    /// When it expires, in seconds of Unix time.
    pub not_after: u64,
}

/// Why certificates can't be used. Its text names the file and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError(pub(super) String);

/// A handshake that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// Version and cipher suite.
    pub suite: Suite,
    /// By a session ticket.
    pub is_resumed: bool,
    /// The subject of the client's certificate (RFC 4514), if it has shown one.
    pub subject: Option<Box<str>>,
}

/// A cipher suite, and the version that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite(u8);

/// The suites by IANA's numbers and names: of TLS 1.3, then of 1.2.
const SUITES: [(u16, &str); Suite::COUNT] = [
    (0x1301, "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
    (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// Why the TLS of a connection has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The client speaks HTTP without TLS. It receives 400.
    PlainHttp,
    /// The client's first byte is not TLS.
    NotTls,
    /// More than [`TLS_HANDSHAKE_BYTES_MAX`](crate::limits::TLS_HANDSHAKE_BYTES_MAX) have come before its end.
    TooLong,
    /// Client and server have no version, suite or application protocol in common.
    Incompatible,
    /// The client has given up, for example since it does not trust the certificate.
    Alert(Alert),
    /// The client shows no certificate, and the settings require one.
    NoCertificate,
    /// The client's certificate has expired, is from an unknown authority, or is bad otherwise.
    BadCertificate,
    /// The client broke the protocol in the handshake.
    Protocol,
    /// A record after the handshake is not authentic, or not allowed.
    Record,
}

/// An alert that a client has sent (RFC 8446 §6), as far as metrics tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// 40: nothing in common.
    HandshakeFailure,
    /// 42.
    BadCertificate,
    /// 43.
    UnsupportedCertificate,
    /// 44.
    CertificateRevoked,
    /// 45.
    CertificateExpired,
    /// 46: another reason to reject the certificate.
    CertificateUnknown,
    /// 48: the client does not trust the issuer.
    UnknownCa,
    /// 51: a signature or a Finished message is wrong.
    DecryptError,
    /// 70.
    ProtocolVersion,
    /// 80: the client's own trouble.
    InternalError,
    /// 90: somebody has cancelled the handshake.
    UserCanceled,
    /// 120.
    NoApplicationProtocol,
    /// Any other.
    Other,
}

/// How far the peer's stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// There may be more.
    Open,
    /// The peer sends no more (`close_notify`).
    Ended,
}

impl Default for TlsSettings {
    fn default() -> Self {
        TlsSettings {
            certificates: Vec::new(),
            min_version: "1.2".to_owned(),
            client_certificates: ClientCertificates::None,
            client_ca_file: PathBuf::new(),
            ticket_key_file: PathBuf::new(),
            hsts_seconds: 31_536_000,
        }
    }
}

impl Suite {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// All, in the order of their places.
    pub fn all() -> impl Iterator<Item = Suite> {
        (0..Suite::COUNT).map(|place| Suite(place as u8))
    }

    /// The suite with this number of IANA's.
    #[cfg(feature = "tls")]
    pub(super) fn of(number: u16) -> Option<Suite> {
        SUITES.iter().position(|(known, _)| *known == number).map(|place| Suite(place as u8))
    }

    /// Its place among all.
    pub fn place(self) -> usize {
        usize::from(self.0)
    }

    /// IANA's name.
    pub fn name(self) -> &'static str {
        SUITES[self.place()].1
    }

    /// Whether it is one of TLS 1.3; otherwise it is one of 1.2.
    pub fn is_tls13(self) -> bool {
        SUITES[self.place()].0 >> 8 == 0x13
    }
}

impl Alert {
    /// All, in the order of their values.
    pub const ALL: [Alert; 13] = [
        Alert::HandshakeFailure,
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::UnknownCa,
        Alert::DecryptError,
        Alert::ProtocolVersion,
        Alert::InternalError,
        Alert::UserCanceled,
        Alert::NoApplicationProtocol,
        Alert::Other,
    ];

    /// The alert with this number.
    #[cfg(feature = "tls")]
    pub(super) fn of(number: u8) -> Alert {
        match number {
            40 => Alert::HandshakeFailure,
            42 => Alert::BadCertificate,
            43 => Alert::UnsupportedCertificate,
            44 => Alert::CertificateRevoked,
            45 => Alert::CertificateExpired,
            46 => Alert::CertificateUnknown,
            48 => Alert::UnknownCa,
            51 => Alert::DecryptError,
            70 => Alert::ProtocolVersion,
            80 => Alert::InternalError,
            90 => Alert::UserCanceled,
            120 => Alert::NoApplicationProtocol,
            _ => Alert::Other,
        }
    }

    /// Its name in RFC 8446.
    pub fn name(self) -> &'static str {
        match self {
            Alert::HandshakeFailure => "handshake_failure",
            Alert::BadCertificate => "bad_certificate",
            Alert::UnsupportedCertificate => "unsupported_certificate",
            Alert::CertificateRevoked => "certificate_revoked",
            Alert::CertificateExpired => "certificate_expired",
            Alert::CertificateUnknown => "certificate_unknown",
            Alert::UnknownCa => "unknown_ca",
            Alert::DecryptError => "decrypt_error",
            Alert::ProtocolVersion => "protocol_version",
            Alert::InternalError => "internal_error",
            Alert::UserCanceled => "user_canceled",
            Alert::NoApplicationProtocol => "no_application_protocol",
            Alert::Other => "other",
        }
    }
}

impl Failure {
    /// The names of all in metrics, in the order of their places.
    pub const NAMES: [&str; 9] = [
        "plain_http",
        "not_tls",
        "too_long",
        "incompatible",
        "alert",
        "no_certificate",
        "bad_certificate",
        "protocol",
        "record",
    ];

    /// What a log line says of it.
    pub fn reason(self) -> &'static str {
        match self {
            Failure::PlainHttp => "plain HTTP on a TLS port: use https:// or wss://",
            Failure::NotTls => "the first byte is not TLS",
            Failure::TooLong => "the TLS handshake is too long",
            Failure::Incompatible => "no TLS version, suite or application protocol in common",
            Failure::Alert(
                Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCa,
            ) => "the client does not trust the certificate",
            Failure::Alert(_) => "the client ended TLS with an alert",
            Failure::NoCertificate => "the client has no certificate, and client_certificates requires one",
            Failure::BadCertificate => "the client's certificate has expired, or is not from client_ca_file",
            Failure::Protocol => "the client broke TLS in the handshake",
            Failure::Record => "a TLS record is not authentic, or not allowed",
        }
    }

    /// Its place among all, without the alert.
    pub fn place(self) -> usize {
        match self {
            Failure::PlainHttp => 0,
            Failure::NotTls => 1,
            Failure::TooLong => 2,
            Failure::Incompatible => 3,
            Failure::Alert(_) => 4,
            Failure::NoCertificate => 5,
            Failure::BadCertificate => 6,
            Failure::Protocol => 7,
            Failure::Record => 8,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}
