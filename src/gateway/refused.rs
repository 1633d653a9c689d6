//! How often protocols have rejected clients, by cause: for all servers of the process, since it is rare and they share
//! the metrics.

use crate::counts::Causes;

/// Why a token was rejected.
#[cfg(feature = "centrifuge")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenCause {
    /// It is no JSON Web Token, or a claim has a wrong type.
    Malformed,
    /// No key is configured for its algorithm or `kid`.
    NoKey,
    /// The signature is wrong.
    Signature,
    /// Its `aud` or `iss` is another one.
    Audience,
    /// It is not valid yet.
    NotYetValid,
    /// It has expired.
    Expired,
    /// A claim is not supported, or not for this use.
    Unsupported,
}

/// Why a subscription was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubscribeCause {
    /// The namespace of the topic is not configured.
    UnknownNamespace,
    /// The client may not subscribe to the topic, with or without a token.
    PermissionDenied,
    /// The topic needs a token.
    TokenRequired,
    /// The connection has as many subscriptions as it may have.
    #[cfg(feature = "centrifuge")]
    Limit,
    /// The request makes no sense, or asks for something that is not there.
    #[cfg(feature = "centrifuge")]
    BadRequest,
    /// The filter is malformed, above a limit, or not allowed.
    #[cfg(feature = "centrifuge")]
    Filter,
}

/// Rejected tokens.
#[cfg(feature = "centrifuge")]
pub(crate) static TOKENS: Causes<7> =
    Causes::new(["malformed", "no_key", "signature", "audience", "not_yet_valid", "expired", "unsupported"]);

/// Rejected subscriptions.
pub(crate) static SUBSCRIPTIONS: Causes<6> =
    Causes::new(["unknown_namespace", "permission_denied", "token_required", "limit", "bad_request", "filter"]);
