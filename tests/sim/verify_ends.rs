//! Whether each client ended the way that what happened explains, and was told what it should be told.

use ringfeed::conn::CloseCause;
use ringfeed::ring::sim::SimKernel;

use crate::client::{Client, LOST, State};
use crate::model::Model;
use crate::plan::{Breach, Kind, Plan};
use crate::resuming_client::{ResumingClient, Transport};

/// Microseconds that a handshake takes at most from one end to the other, on a network that is quick enough.
const HANDSHAKE_US: u64 = 1_000_000;

/// The code of a close that tells of an overload.
const EARLY: u16 = 1013;

/// The code of a close when the home of a token's topic has left.
const UNABLE: u16 = 3004;

/// What a verdict rests on.
struct Case<'a> {
    client: &'a Client,
    plan: &'a Plan,
    /// A fault was injected that ends this connection without a word.
    is_harmed: bool,
    /// Time leapt, or the network is too slow, or the client is: whoever waits may have waited too long.
    is_late: bool,
}

/// Checks the end of one client, which is over.
///
/// # Panics
/// If the end has no explanation.
pub(crate) fn judge(client: &Client, end: Option<CloseCause>, plan: &Plan, kernel: &SimKernel, model: &Model) {
    let Some(peer) = client.peer else {
        return assert_eq!(client.state, State::Waiting);
    };
    let case = Case {
        client,
        plan,
        is_harmed: kernel.is_harmed(peer),
        is_late: kernel.last_leap_us().is_some() || plan.is_sluggish() || client.plan.is_slow(&plan.faults),
    };
    case.judge_cause(end, model);
    case.judge_told(end);
    case.judge_status();
}

impl Case<'_> {
    /// The cause that the server saw must be one that the client gave.
    fn judge_cause(&self, end: Option<CloseCause>, model: &Model) {
        let (client, deeds) = (self.client, self.client.deeds);
        let is_explained = match end {
            None => client.seen.close.is_none(),
            Some(CloseCause::Peer) => deeds.close.is_some(),
            Some(CloseCause::PeerLost) => deeds.finished || deeds.gone || self.is_harmed,
            Some(CloseCause::Protocol) => deeds.breach && client.plan.kind != Kind::Breaker(Breach::Talks),
            Some(CloseCause::Application) => {
                let is_breach = deeds.breach && client.plan.kind == Kind::Breaker(Breach::Talks);
                deeds.asked.is_some() || is_breach || self.may_be_lost() || self.may_be_early()
            }
            Some(CloseCause::PingTimeout) => client.plan.ignores_pings || deeds.gone || deeds.finished || self.is_late,
            Some(CloseCause::SlowConsumer) => self.may_be_slow(model),
            Some(CloseCause::Drain) => self.plan.drain_us.is_some(),
            // Nobody is bound to a rate.
            Some(
                CloseCause::Refused | CloseCause::Answered | CloseCause::HandshakeTimeout | CloseCause::RateLimited,
            ) => false,
        };
        assert!(
            is_explained,
            "nothing explains that this client ended with {end:?} (late: {}): {client:?}",
            self.is_late
        );
    }

    /// Whether it may have been closed since it had lost something, or since it took too long to say who it is.
    fn may_be_lost(&self) -> bool {
        if self.client.plan.kind == Kind::Guest {
            return self.may_not_know();
        }
        let Some(returner) = &self.client.returner else { return false };
        match returner.transport {
            Transport::Raw => self.client.lost_something() || self.may_not_know(),
            Transport::Centrifuge { .. } => self.may_not_know(),
            Transport::Envelope | Transport::Events => false,
        }
    }

    /// Whether it was closed, or may have been, since it subscribed when its shard could not tell the topic's home.
    fn may_be_early(&self) -> bool {
        let told = self.client.seen.close;
        let is_early = told == Some(Some(EARLY)) || told == Some(Some(UNABLE)) && self.plan.drain_us.is_some();
        self.plan.shards > 1 && (is_early || self.may_not_know())
    }

    /// Whether it may not have been told what the server did, or only too late.
    fn may_not_know(&self) -> bool {
        self.client.deeds.gone || self.client.deeds.finished || self.is_harmed || self.is_late
    }

    /// A slow consumer must have had more to read than an outbox holds, or what waited for it was too old.
    fn may_be_slow(&self, model: &Model) -> bool {
        let client = self.client;
        if self.is_bound_in_age(model) || self.may_be_told_of_others(model) {
            return true;
        }
        let topics: Vec<usize> = match &client.plan.kind {
            Kind::Feed(topics) | Kind::ResumingClient(_, topics) if !topics.is_empty() => topics.clone(),
            Kind::Feed(_) | Kind::ResumingClient(..) | Kind::Breaker(Breach::Talks) => vec![0],
            Kind::Room => (0..model.topic_count()).collect(),
            _ => return false,
        };
        let bytes = match &client.plan.kind {
            // It also gets what is older, and more beside.
            Kind::ResumingClient(..) => model.bytes_told(),
            // What was published before may still have been on its way from shard to shard.
            _ => model.bytes(&topics),
        };
        let bounds = topics.iter().map(|topic| model.namespace(*topic).outbox_bytes_max);
        // What it has read has not waited then.
        bytes + client.bytes_asked > bounds.min().expect("it has topics") + client.bytes_read
    }

    /// Whether it may be pushed who comes and goes, of which nobody counts the bytes.
    fn may_be_told_of_others(&self, model: &Model) -> bool {
        match &self.client.plan.kind {
            Kind::Guest => true,
            Kind::ResumingClient(Transport::Centrifuge { .. }, topics) => {
                topics.iter().any(|topic| model.namespace(*topic).force_join_leave)
            }
            _ => false,
        }
    }

    /// Where what is too old would be dropped, an event stream of several topics ends: it can do without nothing.
    fn is_bound_in_age(&self, model: &Model) -> bool {
        let Kind::ResumingClient(_, topics) = &self.client.plan.kind else { return false };
        let has_age = |topic: &usize| model.namespace(*topic).outbox_age_ms > 0;
        self.client.is_stream() && topics.len() > 1 && topics.iter().any(has_age)
    }

    /// The client was told, if it stayed to listen.
    fn judge_told(&self, end: Option<CloseCause>) {
        let client = self.client;
        if self.may_not_know() {
            return;
        }
        let told = client.seen.close;
        let is_guest = client.plan.kind == Kind::Guest;
        let drained = client.returner.as_ref().map_or(if is_guest { 3001 } else { 1001 }, ResumingClient::drain_code);
        let lost = client.returner.as_ref().map_or(if is_guest { 3012 } else { 1008 }, ResumingClient::lost_code);
        let expected = match (end, client.plan.kind.clone()) {
            (None, _) | (Some(CloseCause::SlowConsumer | CloseCause::PeerLost), _) => None,
            (Some(CloseCause::Peer), _) => Some(client.deeds.close.expect("it sent a Close frame")),
            (Some(CloseCause::Protocol), Kind::Breaker(breach)) => Some(Some(Client::breach_code(breach))),
            (Some(CloseCause::Application | CloseCause::Drain), _) if self.may_be_early() => told,
            (Some(CloseCause::Application), Kind::Breaker(breach)) => Some(Some(Client::breach_code(breach))),
            (Some(CloseCause::Application), Kind::ResumingClient(..)) => Some(Some(LOST)),
            (Some(CloseCause::Application), _) => Some(client.deeds.asked),
            (Some(CloseCause::PingTimeout), _) => Some(Some(lost)),
            (Some(CloseCause::Drain), _) if client.is_stream() => None,
            // It was closed for its own sake, and the server leaves anyway.
            (Some(CloseCause::Drain), _) if client.lost_something() => Some(Some(LOST)),
            (Some(CloseCause::Drain), _) => Some(Some(drained)),
            (Some(cause), kind) => panic!("{kind:?} ended with {cause:?}"),
        };
        assert_eq!(told, expected, "this client ended with {end:?} and was told otherwise: {client:?}");
        assert!(client.seen.end || client.seen.reset, "this client's connection has not ended: {client:?}");
        assert!(told.is_none() || client.seen.end, "a reset after a Close frame: {client:?}");
    }

    /// Whether its handshake left so late that it may have come too late.
    fn asked_late(&self) -> bool {
        let deadline_us = self.client.plan.connect_us + self.plan.config.handshake_timeout_ms * 1000;
        self.client.asked_us.is_none_or(|asked_us| asked_us + HANDSHAKE_US > deadline_us)
    }

    /// Who was refused was to be refused.
    fn judge_status(&self) {
        let client = self.client;
        if self.may_not_know() {
            return;
        }
        let is_crowded = self.plan.connections_max < self.plan.connections() || self.plan.drain_us.is_some();
        match (client.seen.status, &client.plan.kind) {
            (Some(503), _) => assert!(is_crowded, "there was room: {client:?}"),
            (Some(408), Kind::Mute) => {}
            (Some(408), _) => assert!(self.asked_late(), "its handshake came in time: {client:?}"),
            (status, Kind::Stray(wanted)) => {
                assert!(status == Some(*wanted) || is_crowded, "not the right answer: {client:?}");
            }
            (None, Kind::Mute) => assert!(is_crowded, "a handshake that never ended was not refused: {client:?}"),
            (None, _) => {}
            (Some(_), _) => panic!("a good handshake was refused: {client:?}"),
        }
    }
}
