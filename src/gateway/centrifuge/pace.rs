//! Limits the commands of a client: their cost per turn, and the cost of pending requests.
//!
//! A client that sends many commands, or some with large replies, must not delay the other clients of its shard, nor
//! receive replies faster than it reads. Above a cost per turn, the rest of its message waits for the next turn; above
//! a cost of pending requests, it waits for answers. So the replies to one client are limited before the home shards
//! receive the requests.

use super::protocol::Request;
use super::session::{RequestKind, Session, Stage, Subscribing};
use crate::gateway::Context;
use crate::limits::COMMANDS_COST_MAX;

/// The cost of a client's commands in a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    turn: u64,
    cost: u32,
}

/// Why a command has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The client has used its share of this turn.
    Turn,
    /// Pending requests need answers first.
    Answers,
}

/// A command that takes some microseconds.
const PLAIN: u32 = 2;
/// The check of a token's signature: up to a hundred microseconds.
const TOKEN: u32 = 14;
/// Publications of a history or a recovery: some hundred microseconds, and milliseconds for large ones.
const PUBLICATIONS: u32 = COMMANDS_COST_MAX / 2;
/// A count of all present clients.
const PRESENCE_STATS: u32 = COMMANDS_COST_MAX / 2;
/// A list of all present clients: a millisecond and more.
const PRESENCE: u32 = COMMANDS_COST_MAX;

impl Session {
    /// Checks whether the command may run in this turn; if so, counts its cost.
    pub(super) fn pace(&mut self, conn: &Context<'_>, request: &Request<'_>) -> Result<(), Wait> {
        let turn = conn.clock().turn;
        let cost = cost(request);
        let waits = matches!(self.stage, Stage::Connecting(_)) || self.is_asking();
        if waits || !fits(self.pending_cost, cost) {
            return Err(Wait::Answers);
        }
        // Subscriptions that end in this call make room in the next one.
        let is_full = matches!(request, Request::Subscribe(_))
            && conn.subscriptions() >= conn.subscriptions_max()
            && self.channels.len() < conn.subscriptions_max();
        let spent = if self.pace.turn == turn { self.pace.cost } else { 0 };
        if is_full || !fits(spent, cost) {
            return Err(Wait::Turn);
        }
        self.pace = Pace { turn, cost: spent + cost };
        Ok(())
    }

    /// Whether few enough requests are pending to resume the waiting commands.
    pub(super) fn may_resume(&self) -> bool {
        let waits = matches!(self.stage, Stage::Connecting(_)) || self.is_asking();
        !self.unread.is_empty() && !waits && self.pending_cost <= COMMANDS_COST_MAX / 2
    }
}

/// Whether a command fits beside others; alone it always does.
fn fits(others: u32, cost: u32) -> bool {
    others == 0 || others + cost <= COMMANDS_COST_MAX
}

impl RequestKind {
    /// The cost of an answer.
    pub(super) fn cost(&self) -> u32 {
        match self {
            RequestKind::Subscribe(Subscribing { recovers: true, .. }) | RequestKind::History => PUBLICATIONS,
            RequestKind::Subscribe(_) | RequestKind::Publish => PLAIN,
            RequestKind::Presence => PRESENCE,
            RequestKind::PresenceStats => PRESENCE_STATS,
        }
    }
}

/// The cost of a command. The most expensive ones cost the whole limit.
fn cost(request: &Request<'_>) -> u32 {
    match request {
        Request::Connect(connect) => PLAIN + with_token(connect.token),
        Request::Subscribe(subscribe) => {
            PLAIN + with_token(subscribe.token) + if subscribe.recover { PUBLICATIONS } else { 0 }
        }
        Request::Refresh { token } | Request::SubRefresh { token, .. } => PLAIN + with_token(token),
        Request::History(_) => PUBLICATIONS,
        Request::Presence { .. } => PRESENCE,
        Request::PresenceStats { .. } => PRESENCE_STATS,
        Request::Pong
        | Request::Unsubscribe { .. }
        | Request::Publish(_)
        | Request::Ping
        | Request::Send { .. }
        | Request::Rpc { .. } => PLAIN,
    }
}

fn with_token(token: &str) -> u32 {
    if token.is_empty() { 0 } else { TOKEN }
}
