//! Checks that each client ended for a reason that its plan or the kernel explains, with the right close code.

use ringfeed::conn::CloseCause;
use ringfeed::ring::sim::SimKernel;

use crate::client::{Client, LOST, State};
use crate::model::Model;
use crate::plan::{Breach, Kind, Plan};
use crate::resuming_client::{ResumingClient, Transport};

/// The maximum time of a handshake in microseconds, on a network that is quick enough.
const HANDSHAKE_US: u64 = 1_000_000;

/// The close code for overload.
const EARLY: u16 = 1013;

/// The close code after the home shard of a token's topic has stopped.
const UNABLE: u16 = 3004;

/// The facts of one end.
struct Case<'a> {
    client: &'a Client,
    plan: &'a Plan,
    /// A fault ended this connection without a packet.
    is_harmed: bool,
    /// Time leapt, or the network or the client is too slow: a timeout may have expired.
    is_late: bool,
}

/// Checks the end of one client, which is over.
///
/// # Panics
/// If the end has no explanation.
pub(crate) fn verify(client: &Client, end: Option<CloseCause>, plan: &Plan, kernel: &SimKernel, model: &Model) {
    let Some(peer) = client.peer else {
        return assert_eq!(client.state, State::Waiting);
    };
    let case = Case {
        client,
        plan,
        is_harmed: kernel.is_harmed(peer),
        is_late: kernel.last_leap_us().is_some() || plan.is_sluggish() || client.plan.is_slow(&plan.faults),
    };
    case.verify_cause(end, model);
    case.verify_close_code(end);
    case.verify_status();
}

impl Case<'_> {
    /// The server's close cause must be one that the client gave.
    fn verify_cause(&self, end: Option<CloseCause>, model: &Model) {
        let (client, actions) = (self.client, self.client.actions);
        let is_explained = match end {
            None => client.seen.close.is_none(),
            Some(CloseCause::Peer) => actions.close.is_some(),
            Some(CloseCause::PeerLost) => actions.finished || actions.gone || self.is_harmed,
            Some(CloseCause::Protocol) => actions.breach && client.plan.kind != Kind::Breaker(Breach::SendsToFeed),
            Some(CloseCause::Application) => {
                let is_breach = actions.breach && client.plan.kind == Kind::Breaker(Breach::SendsToFeed);
                actions.asked.is_some() || is_breach || self.may_be_lost() || self.may_be_early()
            }
            Some(CloseCause::PingTimeout) => {
                client.plan.ignores_pings || actions.gone || actions.finished || self.is_late
            }
            Some(CloseCause::SlowConsumer) => self.may_be_slow(model),
            Some(CloseCause::Drain) => self.plan.drain_us.is_some(),
            // The plan sets no rate limit.
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

    /// Whether the server may have closed it for a loss, or because its first command took too long.
    fn may_be_lost(&self) -> bool {
        if self.client.plan.kind == Kind::Guest {
            return self.may_not_know();
        }
        let Some(resuming) = &self.client.resuming else { return false };
        match resuming.transport {
            Transport::Raw => self.client.lost_something() || self.may_not_know(),
            Transport::Centrifuge { .. } => self.may_not_know(),
            Transport::Envelope | Transport::Events | Transport::Keyed { .. } => false,
        }
    }

    /// Whether the server closed it, or may have, because it subscribed before its shard could reach the topic's home.
    fn may_be_early(&self) -> bool {
        let code = self.client.seen.close;
        let is_early = code == Some(Some(EARLY)) || code == Some(Some(UNABLE)) && self.plan.drain_us.is_some();
        self.plan.shards > 1 && (is_early || self.may_not_know())
    }

    /// Whether the client may not have received the server's reason, or not in time.
    fn may_not_know(&self) -> bool {
        self.client.actions.gone || self.client.actions.finished || self.is_harmed || self.is_late
    }

    /// A slow consumer must have had more to read than an outbox holds, or its backlog was too old.
    fn may_be_slow(&self, model: &Model) -> bool {
        let client = self.client;
        if self.is_bound_in_age(model) || self.may_receive_presence(model) {
            return true;
        }
        let topics: Vec<usize> = match &client.plan.kind {
            Kind::Feed(topics) | Kind::ResumingClient(_, topics) if !topics.is_empty() => topics.clone(),
            Kind::Feed(_) | Kind::ResumingClient(..) | Kind::Breaker(Breach::SendsToFeed) => vec![0],
            Kind::Room => (0..model.topic_count()).collect(),
            _ => return false,
        };
        let bytes = match &client.plan.kind {
            // It also receives history, and positions.
            Kind::ResumingClient(..) => model.feed_bytes_max(),
            // Earlier publications may still have been in flight between shards.
            _ => model.bytes(&topics),
        };
        let bounds = topics.iter().map(|topic| model.namespace(*topic).outbox_bytes_max);
        // Bytes that it has read were not in its backlog then.
        bytes + client.bytes_requested > bounds.min().expect("it has topics") + client.bytes_read
    }

    /// Whether it may receive joins and leaves; the model does not count their bytes.
    fn may_receive_presence(&self, model: &Model) -> bool {
        match &self.client.plan.kind {
            Kind::Guest => true,
            Kind::ResumingClient(Transport::Centrifuge { .. }, topics) => {
                topics.iter().any(|topic| model.namespace(*topic).force_join_leave)
            }
            _ => false,
        }
    }

    /// An event stream of several topics ends where other subscribers would lose messages that are too old.
    fn is_bound_in_age(&self, model: &Model) -> bool {
        let Kind::ResumingClient(_, topics) = &self.client.plan.kind else { return false };
        let has_age = |topic: &usize| model.namespace(*topic).outbox_age_ms > 0;
        self.client.is_stream() && topics.len() > 1 && topics.iter().any(has_age)
    }

    /// The client received the close code, if it stayed connected.
    fn verify_close_code(&self, end: Option<CloseCause>) {
        let client = self.client;
        if self.may_not_know() {
            return;
        }
        let code = client.seen.close;
        let is_guest = client.plan.kind == Kind::Guest;
        let drained = client.resuming.as_ref().map_or(if is_guest { 3001 } else { 1001 }, ResumingClient::drain_code);
        let lost = client.resuming.as_ref().map_or(if is_guest { 3012 } else { 1008 }, ResumingClient::lost_code);
        let expected = match (end, client.plan.kind.clone()) {
            (None, _) | (Some(CloseCause::SlowConsumer | CloseCause::PeerLost), _) => None,
            (Some(CloseCause::Peer), _) => Some(client.actions.close.expect("it sent a Close frame")),
            (Some(CloseCause::Protocol), Kind::Breaker(breach)) => Some(Some(Client::breach_code(breach))),
            (Some(CloseCause::Application | CloseCause::Drain), _) if self.may_be_early() => code,
            (Some(CloseCause::Application), Kind::Breaker(breach)) => Some(Some(Client::breach_code(breach))),
            (Some(CloseCause::Application), Kind::ResumingClient(..)) => Some(Some(LOST)),
            (Some(CloseCause::Application), _) => Some(client.actions.asked),
            (Some(CloseCause::PingTimeout), _) => Some(Some(lost)),
            (Some(CloseCause::Drain), _) if client.is_stream() => None,
            // The server closed it for its own loss while stopping.
            (Some(CloseCause::Drain), _) if client.lost_something() => Some(Some(LOST)),
            (Some(CloseCause::Drain), _) => Some(Some(drained)),
            (Some(cause), kind) => panic!("{kind:?} ended with {cause:?}"),
        };
        assert_eq!(code, expected, "this client ended with {end:?} and received another code: {client:?}");
        assert!(client.seen.end || client.seen.reset, "this client's connection has not ended: {client:?}");
        assert!(code.is_none() || client.seen.end, "a reset after a Close frame: {client:?}");
    }

    /// Whether its handshake left so late that the server may have timed out.
    fn sent_late(&self) -> bool {
        let deadline_us = self.client.plan.connect_us + self.plan.config.handshake_timeout_ms * 1000;
        self.client.request_sent_us.is_none_or(|request_sent_us| request_sent_us + HANDSHAKE_US > deadline_us)
    }

    /// A rejection must have a reason.
    fn verify_status(&self) {
        let client = self.client;
        if self.may_not_know() {
            return;
        }
        let is_crowded = self.plan.connections_max < self.plan.connections() || self.plan.drain_us.is_some();
        match (client.seen.status, &client.plan.kind) {
            (Some(503), _) => assert!(is_crowded, "rejected though there was room: {client:?}"),
            (Some(408), Kind::Mute) => {}
            (Some(408), _) => assert!(self.sent_late(), "timed out though its handshake was in time: {client:?}"),
            (status, Kind::Stray(wanted)) => {
                assert!(status == Some(*wanted) || is_crowded, "wrong status: {client:?}");
            }
            (None, Kind::Mute) => assert!(is_crowded, "an endless handshake was not rejected: {client:?}"),
            (None, _) => {}
            (Some(_), _) => panic!("a valid handshake was rejected: {client:?}"),
        }
    }
}
