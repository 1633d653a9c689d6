//! Permissions: names, namespaces and tokens.

use super::config::CentrifugeConfig;
use super::protocol::{ClientError, SubscribeRequest};
use super::session::Session;
use super::token::{SubscriptionClaims, TokenError};
use crate::topics::{Allowed, Namespace, TopicName};

/// The topic of a channel, and its settings.
pub(super) fn find_topic<'c>(
    config: &'c CentrifugeConfig,
    channel: &str,
) -> Result<(TopicName, &'c Namespace), ClientError> {
    let topic = TopicName::new(channel).map_err(|_| ClientError::BadRequest)?;
    let namespace = config.namespaces.find(&topic).map_err(|_| ClientError::UnknownChannel)?;
    Ok((topic, config.namespaces.get(namespace)))
}

/// Checks the permission of `session` to read what `topic` has.
pub(super) fn check_read(allowed: Allowed, session: &Session, topic: &TopicName) -> Result<(), ClientError> {
    if session.is_operator { Ok(()) } else { check(allowed, session, topic) }
}

/// Checks a permission of `session` for `topic`.
pub(super) fn check(allowed: Allowed, session: &Session, topic: &TopicName) -> Result<(), ClientError> {
    let is_subscribed = session.channel(topic.as_str()).is_some();
    let is_allowed = allowed.includes(topic, &session.user, is_subscribed);
    if is_allowed { Ok(()) } else { Err(ClientError::PermissionDenied) }
}

/// Checks whether `session` may subscribe. A token must be for this client and this channel, and then decides alone.
pub(super) fn check_subscribe(
    config: &CentrifugeConfig,
    session: &Session,
    (topic, namespace): (&TopicName, &Namespace),
    request: &SubscribeRequest<'_>,
    now_s: u64,
) -> Result<Option<SubscriptionClaims>, ClientError> {
    if request.token.is_empty() || topic.is_system() {
        return check_read(namespace.subscribe, session, topic).map(|()| None);
    }
    let claims = config.tokens.subscription(request.token, now_s).map_err(|error| match error {
        TokenError::Invalid | TokenError::Unsupported(_) => ClientError::PermissionDenied,
        TokenError::Expired => ClientError::TokenExpired,
        TokenError::KeyAwaited => ClientError::Internal,
    })?;
    if is_for(&claims, session, request.channel) { Ok(Some(claims)) } else { Err(ClientError::PermissionDenied) }
}

/// Whether a subscription token is for this client and this channel. A token without a connection is for all of its
/// user's connections.
pub(super) fn is_for(claims: &SubscriptionClaims, session: &Session, channel: &str) -> bool {
    let is_for_connection = claims.client.is_empty() || claims.client == session.client.to_string();
    claims.channel == channel && *claims.user == *session.user && is_for_connection
}
