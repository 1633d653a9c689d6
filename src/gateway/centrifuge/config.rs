//! The settings of Centrifugo's protocol.

use std::fmt;
use std::sync::Arc;

use super::backend::{Backend, CallKind};
use super::emulation::Sessions;
use super::session::ExpiryRules;
use super::token::TokenVerifier;
use crate::limits::{CENTRIFUGE_MESSAGE_BYTES_MAX, PING_INTERVAL_MS, TOKEN_GRACE_MS};
use crate::topics::{Event, EventSink, Namespaces};

/// The settings of [`Centrifuge`](super::Centrifuge). The permissions of clients are in each topic's
/// [`Namespace`](crate::topics::Namespace).
#[derive(Clone, Debug)]
pub struct CentrifugeConfig {
    /// Verifies clients' tokens. Without keys every token is invalid.
    pub tokens: TokenVerifier,
    /// Whether to accept clients without a token; their user is empty.
    pub anonymous: bool,
    /// Settings of topics by the first part of their name.
    pub namespaces: Arc<Namespaces>,
    /// The ping interval in connect replies, in milliseconds; 0 is none. It must equal the server's
    /// [`ping_interval_ms`](crate::conn::KeepAliveConfig::ping_interval_ms).
    pub ping_interval_ms: u64,
    /// Maximum size of a client's message, in bytes.
    pub message_bytes_max: u32,
    /// Time for a client to send a new token after its token has expired, in milliseconds.
    pub token_grace_ms: u64,
    /// The application that decides where the server does not.
    pub backend: Option<Arc<dyn Backend>>,
    /// Subscribes each authenticated connection to its user's channel `#user` in this namespace; empty is the default
    /// namespace.
    pub personal_namespace: Option<String>,
    /// Receives what happens to clients; `None` is nobody.
    pub events: Option<Arc<dyn EventSink>>,
    /// The clients of streams, shared by all handlers of a server.
    pub sessions: Sessions,
}

impl CentrifugeConfig {
    /// Whether the backend answers calls of this kind.
    pub(super) fn asks(&self, kind: CallKind) -> bool {
        self.backend.as_ref().is_some_and(|backend| backend.answers(kind))
    }

    /// Reports an event, if anybody wants it.
    pub(super) fn report(&self, event: impl FnOnce() -> Event) {
        if let Some(events) = &self.events {
            events.take(event());
        }
    }

    pub(super) fn expiry_rules(&self) -> ExpiryRules {
        ExpiryRules { grace_ms: self.token_grace_ms, backend_refreshes: self.asks(CallKind::Refresh) }
    }

    /// The channel to which a connection of `user` is subscribed, if any.
    pub(super) fn personal_channel(&self, user: &str) -> Option<String> {
        let namespace = self.personal_namespace.as_deref().filter(|_| !user.is_empty())?;
        Some(if namespace.is_empty() { format!("#{user}") } else { format!("{namespace}:#{user}") })
    }
}

/// The keys that verify tokens: the contents of files, not their names. Each is optional.
#[derive(Clone, Default)]
pub struct TokenKeys {
    /// The secret of HS256, HS384 and HS512.
    pub hmac_secret: Option<String>,
    /// A public key for RS256 to RS512 and PS256 to PS512, as PEM.
    pub rsa_public_key: Option<String>,
    /// A public key for ES256 and ES384, as PEM.
    pub ecdsa_public_key: Option<String>,
    /// A JWKS (RFC 7517); a token selects its key by `kid`.
    pub jwks: Option<String>,
    /// Where further such keys come from: see [`TokenVerifier::fetched`]. And the milliseconds after which they are
    /// fetched again.
    pub jwks_url: Option<(String, u64)>,
    /// The required `aud` of tokens, if any.
    pub audience: Option<String>,
    /// The required `iss` of tokens, if any.
    pub issuer: Option<String>,
}

impl Default for CentrifugeConfig {
    /// Rejects all clients: there are no keys, and a token is required.
    fn default() -> Self {
        CentrifugeConfig {
            tokens: TokenVerifier::default(),
            anonymous: false,
            namespaces: Arc::default(),
            ping_interval_ms: PING_INTERVAL_MS,
            message_bytes_max: CENTRIFUGE_MESSAGE_BYTES_MAX,
            token_grace_ms: TOKEN_GRACE_MS,
            backend: None,
            personal_namespace: None,
            events: None,
            sessions: Sessions::default(),
        }
    }
}

impl fmt::Debug for TokenKeys {
    /// Shows which keys are set; a secret does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeys")
            .field("hmac_secret", &self.hmac_secret.is_some())
            .field("rsa_public_key", &self.rsa_public_key.is_some())
            .field("ecdsa_public_key", &self.ecdsa_public_key.is_some())
            .field("jwks", &self.jwks.is_some())
            .field("jwks_url", &self.jwks_url)
            .field("audience", &self.audience)
            .field("issuer", &self.issuer)
            .finish()
    }
}
