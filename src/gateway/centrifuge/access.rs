//! Who may do what: names, namespaces and tokens.

use super::config::CentrifugeConfig;
use super::protocol::{ClientError, SubscribeRequest};
use super::session::Session;
use super::token::{SubscriptionClaims, TokenError};
use crate::topics::{Allowed, Namespace, TopicName};

/// The topic that a channel's name means, and its settings.
pub(super) fn find_topic<'c>(
    config: &'c CentrifugeConfig,
    channel: &str,
) -> Result<(TopicName, &'c Namespace), ClientError> {
    let topic = TopicName::new(channel).map_err(|_| ClientError::BadRequest)?;
    let namespace = config.namespaces.find(&topic).map_err(|_| ClientError::UnknownChannel)?;
    Ok((topic, config.namespaces.get(namespace)))
}

/// Whether `session` is among those `allowed` something with `channel`.
pub(super) fn check(allowed: Allowed, session: &Session, channel: &str) -> Result<(), ClientError> {
    let is_allowed = match allowed {
        Allowed::Nobody => false,
        Allowed::Subscribers => session.channel(channel).is_some(),
        Allowed::Users => !session.user.is_empty(),
        Allowed::Anyone => true,
    };
    if is_allowed { Ok(()) } else { Err(ClientError::PermissionDenied) }
}

/// Whether `session` may subscribe. A token that it brings must be for it and for this channel, and then decides alone.
pub(super) fn check_subscribe(
    config: &CentrifugeConfig,
    session: &Session,
    namespace: &Namespace,
    request: &SubscribeRequest<'_>,
    now_s: u64,
) -> Result<Option<SubscriptionClaims>, ClientError> {
    if request.token.is_empty() {
        return check(namespace.subscribe, session, request.channel).map(|()| None);
    }
    let claims = config.tokens.subscription(request.token, now_s).map_err(|error| match error {
        TokenError::Invalid => ClientError::PermissionDenied,
        TokenError::Expired => ClientError::TokenExpired,
    })?;
    if is_for(&claims, session, request.channel) { Ok(Some(claims)) } else { Err(ClientError::PermissionDenied) }
}

/// Whether a subscription's token is for this client and this channel.
pub(super) fn is_for(claims: &SubscriptionClaims, session: &Session, channel: &str) -> bool {
    claims.channel == channel && *claims.user == *session.user
}
