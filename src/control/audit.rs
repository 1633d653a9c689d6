//! A line in the log for each action of an operator: who it was, what was done, and to whom.
//!
//! The key of the control port bounds who can cause these lines, so none is left out. Publications, subscriptions and
//! refreshes are no such actions: applications make them by the thousand.

use std::net::SocketAddr;

use hyper::Request;

/// The peer of the request, as an extension of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operator(pub(super) SocketAddr);

impl Operator {
    /// The operator who has sent a request, if the server knows the peer.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Operator> {
        request.extensions().get().copied()
    }
}

/// Logs an action without an object.
pub(super) fn log(operator: Option<Operator>, action: &str) {
    log_for(operator, action, "", "", "");
}

/// Logs an action: for the connections of a user, one connection of these, or a channel. An empty text names nobody.
pub(super) fn log_for(operator: Option<Operator>, action: &str, user: &str, client: &str, channel: &str) {
    let operator = operator.map_or_else(|| "unknown".to_owned(), |operator| operator.0.to_string());
    tracing::info!(operator, action, user, client, channel, "operator's action");
}
