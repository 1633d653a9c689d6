//! How many commands of a client are dealt with at once: what they cost, and when the next ones have to wait.
//!
//! A client that sends many commands, or some with large answers, must not delay the others of its shard, nor be
//! answered faster than it reads. Past a cost in one turn the rest of its message waits for the next turn, and past a
//! cost of unanswered commands it waits for answers. So the answers to one client are bounded before the homes are
//! asked.

use super::protocol::Request;
use super::session::{Session, Stage, Subscribing, What};
use crate::limits::{COMMANDS_COST_MAX, CONN_TOPICS_MAX};

/// What has been done for a client in a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    turn: u64,
    cost: u32,
}

/// Why a command has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Enough was done for this client in this turn.
    Turn,
    /// Answers are to come first.
    Answers,
}

/// A command that some microseconds are spent on.
const PLAIN: u32 = 2;
/// To check a token's signature: up to a hundred microseconds.
const TOKEN: u32 = 14;
/// Publications of a history, or those that were missed: some hundred microseconds, and milliseconds for large ones.
const PUBLICATIONS: u32 = COMMANDS_COST_MAX / 2;
/// To look at all who are present.
const PRESENCE_STATS: u32 = COMMANDS_COST_MAX / 2;
/// To tell of all of them: a millisecond and more.
const PRESENCE: u32 = COMMANDS_COST_MAX;

impl Session {
    /// Whether the command may be dealt with in this turn, when the connection has so many subscriptions; if so, it
    /// counts.
    pub(super) fn pace(&mut self, turn: u64, subscriptions: usize, request: &Request<'_>) -> Result<(), Wait> {
        let cost = cost(request);
        if matches!(self.stage, Stage::Connecting(_)) || !fits(self.waiting_cost, cost) {
            return Err(Wait::Answers);
        }
        // Others that end in this call make room for it in the next one.
        let is_full = matches!(request, Request::Subscribe(_))
            && subscriptions >= CONN_TOPICS_MAX
            && self.channels.len() < CONN_TOPICS_MAX;
        let spent = if self.pace.turn == turn { self.pace.cost } else { 0 };
        if is_full || !fits(spent, cost) {
            return Err(Wait::Turn);
        }
        self.pace = Pace { turn, cost: spent + cost };
        Ok(())
    }

    /// Whether so few commands are unanswered that it is time to go on with those that wait.
    pub(super) fn may_go_on(&self) -> bool {
        let is_connecting = matches!(self.stage, Stage::Connecting(_));
        !self.unread.is_empty() && !is_connecting && self.waiting_cost <= COMMANDS_COST_MAX / 2
    }
}

/// Whether a command has room besides others; alone it always has.
fn fits(others: u32, cost: u32) -> bool {
    others == 0 || others + cost <= COMMANDS_COST_MAX
}

impl What {
    /// What an answer costs.
    pub(super) fn cost(&self) -> u32 {
        match self {
            What::Subscribe(Subscribing { recovers: true, .. }) | What::History => PUBLICATIONS,
            What::Subscribe(_) | What::Publish => PLAIN,
            What::Presence => PRESENCE,
            What::PresenceStats => PRESENCE_STATS,
        }
    }
}

/// What a command costs. The most expensive ones cost all that there is.
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
