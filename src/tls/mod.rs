//! TLS between the bytes of a socket and those of a conversation, sans-IO (RFC 8446, RFC 5246).
//!
//! rustls does the handshake. Then a [`Session`] keeps nothing but the keys and the record numbers: it decrypts records
//! in place, where the kernel has put them, and makes each record when its bytes are about to be sent. Whatever the
//! socket does not take can be [taken back](Session::take_back), so what waits is still plaintext, which the policies
//! for slow consumers can drop or replace. The AEAD is `ring`'s.
//!
//! ```text
//!   bytes ──► hold ──► handshake ──► established ──► receive (decrypts) ──► conversation
//!  socket ◄─────────── take_unsent ◄───────────────── seal (encrypts) ◄──── conversation
//! ```

#[cfg(feature = "tls")]
mod acceptor;
#[cfg(feature = "tls")]
mod certificates;
#[cfg(feature = "tls")]
mod clients;
#[cfg(feature = "tls")]
mod der;
#[cfg(feature = "tls")]
mod handshake;
mod model;
#[cfg(feature = "tls")]
mod record;
#[cfg(feature = "tls")]
mod report;
#[cfg(feature = "tls")]
mod session;
#[cfg(feature = "tls")]
mod tickets;
#[cfg(not(feature = "tls"))]
mod without;

#[cfg(feature = "tls")]
pub use acceptor::Acceptor;
pub use model::{
    Alert, CertificateFiles, CertificateInfo, ClientCertificates, Established, Failure, Received, Suite, TlsError,
    TlsSettings,
};
#[cfg(feature = "tls")]
pub use report::{ChainLink, KeyType, expires_at, read_links};
#[cfg(feature = "tls")]
pub use session::Session;
#[cfg(not(feature = "tls"))]
pub use without::{Acceptor, Session};
