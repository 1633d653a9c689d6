//! The key that a coordinator and its agents share. Each side proves that it has it; the key itself is not sent.

use std::path::Path;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::Error;

/// Bytes of a nonce.
pub(crate) const NONCE: usize = 32;

/// Fewest and most characters of a key.
const KEY_MIN: usize = 16;
const KEY_MAX: usize = 4096;

/// The two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Coordinator,
    Agent,
}

/// A shared key. Without one, both sides have the same empty key: allowed on loopback only.
#[derive(Clone)]
pub(crate) struct Key(hmac::Key);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Reads the first line of a file; no file is no key.
    ///
    /// # Errors
    /// If the file can't be read, or the key is too short.
    pub(crate) fn read(path: Option<&Path>) -> Result<Key, Error> {
        let Some(path) = path else { return Ok(Key::of("")) };
        let fail = |why: String| Error::new(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let key = text.lines().next().unwrap_or("").trim();
        if !(KEY_MIN..=KEY_MAX).contains(&key.len()) {
            return Err(fail(format!("expected a key of {KEY_MIN} to {KEY_MAX} characters on the first line")));
        }
        Ok(Key::of(key))
    }

    fn of(key: &str) -> Key {
        Key(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()))
    }

    /// The proof that `side` has the key, for the side whose nonce is the first.
    pub(crate) fn prove(&self, side: Side, theirs: &[u8], ours: &[u8]) -> Vec<u8> {
        hmac::sign(&self.0, &message(side, theirs, ours)).as_ref().to_vec()
    }

    /// Whether `proof` is that of `side`, which received `ours` and sent `theirs`.
    pub(crate) fn is_proof(&self, side: Side, ours: &[u8], theirs: &[u8], proof: &[u8]) -> bool {
        hmac::verify(&self.0, &message(side, ours, theirs), proof).is_ok()
    }
}

/// Both nonces have one length, so the message has one meaning.
fn message(side: Side, first: &[u8], second: &[u8]) -> Vec<u8> {
    let side: &[u8] = match side {
        Side::Coordinator => b"coordinator",
        Side::Agent => b"agent",
    };
    [b"ringfeed loadgen agents 1 ", side, first, second].concat()
}

/// Random bytes.
///
/// # Errors
/// If the kernel has none.
pub(crate) fn nonce() -> Result<[u8; NONCE], Error> {
    let mut nonce = [0; NONCE];
    SystemRandom::new().fill(&mut nonce).map_err(|_| Error::new("the kernel has no random numbers"))?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_fits_one_key_one_side_and_two_nonces() {
        let (key, [a, b]) = (Key::of("0123456789abcdef"), [nonce().unwrap(), nonce().unwrap()]);
        let proof = key.prove(Side::Agent, &a, &b);
        assert!(key.is_proof(Side::Agent, &a, &b, &proof));
        assert!(!key.is_proof(Side::Coordinator, &a, &b, &proof), "a reflected proof is none");
        assert!(!key.is_proof(Side::Agent, &b, &a, &proof) && !key.is_proof(Side::Agent, &a, &b, &proof[1..]));
        assert!(!Key::of("0123456789abcdeF").is_proof(Side::Agent, &a, &b, &proof));
        assert_eq!(format!("{key:?}"), "Key(..)");
    }

    #[test]
    fn a_short_key_is_rejected() {
        let path = std::env::temp_dir().join(format!("loadgen-key-{}", std::process::id()));
        std::fs::write(&path, "short\n").unwrap();
        assert!(Key::read(Some(&path)).unwrap_err().to_string().contains("16 to 4096 characters"));
        std::fs::write(&path, "0123456789abcdef\n# not part of it\n").unwrap();
        let (key, nonces) = (Key::read(Some(&path)).unwrap(), [[1; NONCE], [2; NONCE]]);
        let proof = Key::of("0123456789abcdef").prove(Side::Agent, &nonces[0], &nonces[1]);
        assert!(key.is_proof(Side::Agent, &nonces[0], &nonces[1], &proof));
        std::fs::remove_file(&path).unwrap();
        assert!(Key::read(Some(&path)).is_err());
    }
}
