//! Signatures of tokens (RFC 7515, RFC 7518 §3), and the public keys that verify them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Header};
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use spki::der::Document;
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

/// The kind of a public key in a PEM file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Rsa,
    Ecdsa,
}

/// rsaEncryption (RFC 8017 appendix A.1).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// id-ecPublicKey (RFC 5480 §2.1.1).
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// Bytes of the shortest RSA modulus that may sign tokens (RFC 7518 §3.3).
const RSA_MODULUS_BYTES_MIN: usize = 256;

/// Parses a public key in PEM: `PUBLIC KEY` (RFC 5280 §4.1), or `RSA PUBLIC KEY` (RFC 8017 appendix A.1.1).
///
/// # Errors
/// The reason.
pub(super) fn public_key(pem: &str, kind: KeyKind) -> Result<DecodingKey, String> {
    let (label, document) = Document::from_pem(pem.trim()).map_err(|error| error.to_string())?;
    if label == "RSA PUBLIC KEY" && kind == KeyKind::Rsa {
        return rsa_key(document.as_bytes());
    }
    if label != "PUBLIC KEY" {
        return Err(format!("it is a '{label}'"));
    }
    let info = SubjectPublicKeyInfoRef::try_from(document.as_bytes()).map_err(|error| error.to_string())?;
    let key = info.subject_public_key.as_bytes().ok_or("its bits are not whole bytes")?;
    match (kind, info.algorithm.oid) {
        (KeyKind::Rsa, RSA) => rsa_key(key),
        (KeyKind::Ecdsa, EC) => Ok(DecodingKey::from_ec_der(key)),
        (_, other) => Err(format!("it is a key for the algorithm {other}")),
    }
}

fn rsa_key(der: &[u8]) -> Result<DecodingKey, String> {
    // The modulus makes up the key but for some bytes.
    if der.len() < RSA_MODULUS_BYTES_MIN {
        return Err("it has less than 2,048 bits".to_owned());
    }
    Ok(DecodingKey::from_rsa_der(der))
}

/// Whether the last part of `token` is the signature of the parts before it.
pub(super) fn is_signed(token: &str, algorithm: Algorithm, key: &DecodingKey) -> bool {
    let Some((message, signature)) = token.rsplit_once('.') else { return false };
    let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
    let (message, signature) = (message.as_bytes(), &signature[..]);
    match algorithm {
        Algorithm::HS256 => is_authenticated(hmac::HMAC_SHA256, key, message, signature),
        Algorithm::HS384 => is_authenticated(hmac::HMAC_SHA384, key, message, signature),
        Algorithm::HS512 => is_authenticated(hmac::HMAC_SHA512, key, message, signature),
        Algorithm::RS256 => is_signed_by_rsa(&RSA_PKCS1_2048_8192_SHA256, key, message, signature),
        Algorithm::RS384 => is_signed_by_rsa(&RSA_PKCS1_2048_8192_SHA384, key, message, signature),
        Algorithm::RS512 => is_signed_by_rsa(&RSA_PKCS1_2048_8192_SHA512, key, message, signature),
        Algorithm::PS256 => is_signed_by_rsa(&RSA_PSS_2048_8192_SHA256, key, message, signature),
        Algorithm::PS384 => is_signed_by_rsa(&RSA_PSS_2048_8192_SHA384, key, message, signature),
        Algorithm::PS512 => is_signed_by_rsa(&RSA_PSS_2048_8192_SHA512, key, message, signature),
        Algorithm::ES256 => is_signed_by(&ECDSA_P256_SHA256_FIXED, key, message, signature),
        Algorithm::ES384 => is_signed_by(&ECDSA_P384_SHA384_FIXED, key, message, signature),
        Algorithm::EdDSA => is_signed_by(&ED25519, key, message, signature),
        _ => false,
    }
}

/// A token with these claims, signed with HS256. `kid` names the key.
pub(super) fn sign_claims(kid: Option<&str>, claims: &serde_json::Value, secret: &[u8]) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
    let [header, claims] = [serde_json::to_vec(&header), serde_json::to_vec(claims)]
        .map(|part| URL_SAFE_NO_PAD.encode(part.expect("neither has maps whose keys are not text")));
    let message = format!("{header}.{claims}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn is_authenticated(algorithm: hmac::Algorithm, key: &DecodingKey, message: &[u8], signature: &[u8]) -> bool {
    let DecodingKeyKind::SecretOrDer(secret) = key.kind() else { return false };
    hmac::verify(&hmac::Key::new(algorithm, secret), message, signature).is_ok()
}

fn is_signed_by_rsa(parameters: &'static RsaParameters, key: &DecodingKey, message: &[u8], signature: &[u8]) -> bool {
    match key.kind() {
        DecodingKeyKind::SecretOrDer(_) => is_signed_by(parameters, key, message, signature),
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
        }
    }
}

fn is_signed_by(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &DecodingKey,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let DecodingKeyKind::SecretOrDer(key) = key.kind() else { return false };
    UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
}

#[cfg(test)]
pub(super) mod testing {
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaKeyPair,
    };

    use super::*;

    /// A key that signs.
    pub(crate) enum SigningKey {
        Secret(Vec<u8>),
        Rsa(RsaKeyPair),
        Ec(EcdsaKeyPair),
        Ed(Ed25519KeyPair),
    }

    impl SigningKey {
        pub(crate) fn secret(secret: &str) -> SigningKey {
            SigningKey::Secret(secret.as_bytes().to_vec())
        }

        pub(crate) fn rsa(pem: &str) -> SigningKey {
            SigningKey::Rsa(RsaKeyPair::from_pkcs8(Document::from_pem(pem.trim()).unwrap().1.as_bytes()).unwrap())
        }

        pub(crate) fn ec(pem: &str) -> SigningKey {
            let (_, document) = Document::from_pem(pem.trim()).unwrap();
            let pair =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_bytes(), &SystemRandom::new());
            SigningKey::Ec(pair.unwrap())
        }

        fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
            let random = SystemRandom::new();
            match self {
                SigningKey::Secret(secret) => {
                    let algorithm = match algorithm {
                        Algorithm::HS512 => hmac::HMAC_SHA512,
                        _ => hmac::HMAC_SHA256,
                    };
                    hmac::sign(&hmac::Key::new(algorithm, secret), message).as_ref().to_vec()
                }
                SigningKey::Rsa(pair) => {
                    let mut signature = vec![0; pair.public().modulus_len()];
                    match algorithm {
                        Algorithm::PS512 => pair.sign(&RSA_PSS_SHA512, &random, message, &mut signature).unwrap(),
                        _ => pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap(),
                    }
                    signature
                }
                SigningKey::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
                SigningKey::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            }
        }
    }

    /// A token with these claims.
    pub(crate) fn sign(
        algorithm: Algorithm,
        kid: Option<&str>,
        key: &SigningKey,
        claims: &serde_json::Value,
    ) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        let [header, claims] =
            [serde_json::to_vec(&header), serde_json::to_vec(claims)].map(|part| URL_SAFE_NO_PAD.encode(part.unwrap()));
        let message = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(key.sign(algorithm, message.as_bytes()));
        format!("{message}.{signature}")
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair};
    use serde_json::json;

    use super::testing::{SigningKey, sign};
    use super::*;

    #[test]
    fn ed25519_verifies() {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let key = DecodingKey::from_ed_der(pair.public_key().as_ref());
        let token = sign(Algorithm::EdDSA, None, &SigningKey::Ed(pair), &json!({}));
        assert!(is_signed(&token, Algorithm::EdDSA, &key));
        assert!(!is_signed(&token.replacen('e', "f", 1), Algorithm::EdDSA, &key));
    }

    #[test]
    fn a_key_in_pem_names_its_kind() {
        let rsa = include_str!("testdata/rsa.pub.pem");
        let signing = SigningKey::rsa(include_str!("testdata/rsa.pem"));
        let key = public_key(rsa, KeyKind::Rsa).unwrap();
        for algorithm in [Algorithm::RS256, Algorithm::PS512] {
            let token = sign(algorithm, None, &signing, &json!({}));
            assert!(is_signed(&token, algorithm, &key), "{algorithm:?}");
        }
        let private = public_key(include_str!("testdata/rsa.pem"), KeyKind::Rsa).unwrap_err();
        assert_eq!(private, "it is a 'PRIVATE KEY'");
        let other = public_key(rsa, KeyKind::Ecdsa).unwrap_err();
        assert_eq!(other, "it is a key for the algorithm 1.2.840.113549.1.1.1");
        // 1,024 bits.
        let short = "-----BEGIN PUBLIC KEY-----\n\
            MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDRCW/xXwaiXkR7rZDaKIbYQ1X0\n\
            cNFlncEkEVnHmXT9S2UKRZWNLjNAuSIbR9/+vd1fUT2dAxwY1lT+XDXo7d7tlHDd\n\
            N/lG/OXKLM/V8PuNJEtcxFqbuJ0ocjWqI8Lc1h4AvsIQyHPbF8ooxfqycM/EbSeE\n\
            NugsRUoHiH9MiNsIbQIDAQAB\n\
            -----END PUBLIC KEY-----";
        assert_eq!(public_key(short, KeyKind::Rsa).unwrap_err(), "it has less than 2,048 bits");
    }
}
