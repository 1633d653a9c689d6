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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// TLS 1.3; otherwise 1.2.
    pub is_tls13: bool,
    /// By a session ticket.
    pub is_resumed: bool,
}

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
    Alert,
    /// The client broke the protocol in the handshake.
    Protocol,
    /// A record after the handshake is not authentic, or not allowed.
    Record,
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
        TlsSettings { certificates: Vec::new(), min_version: "1.2".to_owned() }
    }
}

impl Failure {
    /// All, in the order of their numbers.
    pub const ALL: [Failure; 7] = [
        Failure::PlainHttp,
        Failure::NotTls,
        Failure::TooLong,
        Failure::Incompatible,
        Failure::Alert,
        Failure::Protocol,
        Failure::Record,
    ];

    /// What a log line says of it.
    pub fn reason(self) -> &'static str {
        match self {
            Failure::PlainHttp => "plain HTTP on a TLS port: use https:// or wss://",
            Failure::NotTls => "the first byte is not TLS",
            Failure::TooLong => "the TLS handshake is too long",
            Failure::Incompatible => "no TLS version, suite or application protocol in common",
            Failure::Alert => "the client gave TLS up, perhaps since it does not trust the certificate",
            Failure::Protocol => "the client broke TLS in the handshake",
            Failure::Record => "a TLS record is not authentic, or not allowed",
        }
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Failure::PlainHttp => "plain_http",
            Failure::NotTls => "not_tls",
            Failure::TooLong => "too_long",
            Failure::Incompatible => "incompatible",
            Failure::Alert => "alert",
            Failure::Protocol => "protocol",
            Failure::Record => "record",
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}
