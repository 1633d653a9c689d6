//! What an operator may set of Centrifugo's protocol.

use std::fmt;
use std::sync::Arc;

use super::token::TokenVerifier;
use crate::limits::{CENTRIFUGE_MESSAGE_BYTES_MAX, CENTRIFUGE_PING_MS, CENTRIFUGE_PONG_MS, TOKEN_GRACE_MS};
use crate::topics::Namespaces;

/// The settings of [`Centrifuge`](super::Centrifuge). What clients may do with a topic is in its
/// [`Namespace`](crate::topics::Namespace).
#[derive(Clone, Debug)]
pub struct CentrifugeConfig {
    /// Checks clients' tokens. Without keys every token is invalid.
    pub tokens: TokenVerifier,
    /// Whether clients without a token are let in, as nobody in particular: their user is the empty text.
    pub anonymous: bool,
    /// What topics have in common by the first part of their name.
    pub namespaces: Arc<Namespaces>,
    /// How often clients are pinged, in milliseconds; clients are told to expect it. 0: never.
    pub ping_interval_ms: u64,
    /// Time for clients to answer a ping, in milliseconds: less than the interval.
    pub pong_timeout_ms: u64,
    /// Bytes of one message from a client.
    pub message_bytes_max: u32,
    /// How long a client whose token has expired may take to bring a new one, in milliseconds.
    pub token_grace_ms: u64,
}

/// Where the keys that tokens are signed with come from: the content of files, not their names. Each is optional.
#[derive(Clone, Default)]
pub struct TokenKeys {
    /// The secret of HS256, HS384 and HS512.
    pub hmac_secret: Option<String>,
    /// A public key for RS256 to RS512 and PS256 to PS512, as PEM.
    pub rsa_public_key: Option<String>,
    /// A public key for ES256 and ES384, as PEM.
    pub ecdsa_public_key: Option<String>,
    /// A set of keys (RFC 7517), of which a token names its own by `kid`.
    pub jwks: Option<String>,
    /// What tokens must name as `aud`, if anything.
    pub audience: Option<String>,
    /// What tokens must name as `iss`, if anything.
    pub issuer: Option<String>,
}

impl Default for CentrifugeConfig {
    /// Nobody gets in: there are no keys, and who has no token is refused.
    fn default() -> Self {
        CentrifugeConfig {
            tokens: TokenVerifier::default(),
            anonymous: false,
            namespaces: Arc::default(),
            ping_interval_ms: CENTRIFUGE_PING_MS,
            pong_timeout_ms: CENTRIFUGE_PONG_MS,
            message_bytes_max: CENTRIFUGE_MESSAGE_BYTES_MAX,
            token_grace_ms: TOKEN_GRACE_MS,
        }
    }
}

impl fmt::Debug for TokenKeys {
    /// Says which there are; a secret does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeys")
            .field("hmac_secret", &self.hmac_secret.is_some())
            .field("rsa_public_key", &self.rsa_public_key.is_some())
            .field("ecdsa_public_key", &self.ecdsa_public_key.is_some())
            .field("jwks", &self.jwks.is_some())
            .field("audience", &self.audience)
            .field("issuer", &self.issuer)
            .finish()
    }
}
