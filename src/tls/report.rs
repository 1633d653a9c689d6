//! What an operator should know of the files of a certificate before clients do.

use std::path::Path;

use super::certificates::read_chain;
pub use super::der::KeyType;
use super::der::{self, Fields};
use super::model::TlsError;

/// One certificate of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainLink {
    /// Its subject (RFC 4514).
    pub subject: String,
    /// When it begins to be valid, in seconds of Unix time.
    pub not_before: u64,
    /// When it expires, in seconds of Unix time.
    pub not_after: u64,
    /// Its key.
    pub key: KeyType,
    /// Its subject is its issuer: it is an authority's own, or self-signed.
    pub is_root: bool,
    /// The next one in the file is its issuer's.
    pub is_followed_by_issuer: bool,
}

/// When a certificate, as DER, expires: in seconds of Unix time.
pub fn expires_at(certificate: &[u8]) -> Option<u64> {
    der::not_after(certificate)
}

/// The certificates of a file, in their order: at least one.
///
/// # Errors
/// [`TlsError`]: the file can't be read, or holds something else.
pub fn read_links(file: &Path) -> Result<Vec<ChainLink>, TlsError> {
    let chain = read_chain(file)?;
    let unreadable = || TlsError(format!("{}: a certificate in it can't be read", file.display()));
    let fields = chain.iter().map(|certificate| Fields::read(certificate)).collect::<Option<Vec<_>>>();
    let fields = fields.ok_or_else(unreadable)?;
    let link = |index: usize| {
        let (not_before, not_after) = der::validity(&fields[index])?;
        Some(ChainLink {
            subject: der::subject(&chain[index])?,
            not_before,
            not_after,
            key: der::key_type(&fields[index])?,
            is_root: fields[index].issuer == fields[index].subject,
            is_followed_by_issuer: fields.get(index + 1).is_some_and(|next| next.subject == fields[index].issuer),
        })
    };
    (0..fields.len()).map(link).collect::<Option<_>>().ok_or_else(unreadable)
}
