//! A line in the log for each action of an operator: who it was, what was done, and to whom.
//!
//! The key of the control port bounds who can cause these lines, so none is left out. Publications, subscriptions and
//! refreshes are no such actions: applications make them by the thousand.

use super::access::Right;
use super::peer::Peer;

/// The sender of a request to the control port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operator {
    pub(super) peer: Peer,
    pub(super) right: Right,
}

/// Logs an action without an object.
pub(super) fn log(operator: Operator, action: &str) {
    log_for(operator, action, "", "", "");
}

/// Logs an action: for the connections of a user, one connection of these, or a channel. An empty text names nobody.
pub(super) fn log_for(operator: Operator, action: &str, user: &str, client: &str, channel: &str) {
    tracing::info!(operator = operator.peer.to_string(), action, user, client, channel, "operator's action");
}
