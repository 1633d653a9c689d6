//! Shards on a simulated kernel: the way in for `tests/sim`.
//!
//! The shard, its mesh and everything above are the real ones; only what [`Shard::run`](super::shard::Shard::run) does
//! in a loop is taken in single steps here, so that a test chooses which shard takes its turn when. Also looks inside,
//! since some of what must hold can't be seen from a socket.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::listener::ShardListener;
use super::mesh::{self, MeshSizes, Publisher};
use super::metrics::ShardMetrics;
use super::recv_mode::RecvMode;
use super::shard::{Shard, ShardParts};
use super::slot::{Slot, Stage};
use super::{ServerConfig, Status};
use crate::buf::ConnId;
use crate::conn::Transport;
#[cfg(feature = "centrifuge")]
use crate::gateway::centrifuge::{JSON, PROTOBUF};
use crate::gateway::{Input, RouteSet, Routes};
use crate::limits::TICK_MS;
use crate::ring::sim::{SimKernel, SimRing};
use crate::ring::{Event, Ring};
use crate::topics::{Body, JoinId, Lane, TopicName};

/// Unix time when a simulation begins, in milliseconds: some day in 2025.
pub const UNIX_START_MS: u64 = 1_750_000_000_000;

/// The key by which topics have their homes in a simulation: always the same, so that a seed stays what it is.
const HOME_KEY: [u64; 2] = [1, 2];

/// A shard whose turns a test takes one by one.
pub struct SimShard<'m> {
    shard: Shard<'m, SimRing>,
    metrics: &'m ShardMetrics,
    /// Turns in which something waited on a lane and nothing of it was sent, without a break.
    starved_turns: [u32; 2],
}

/// Such turns in a row that may be: what waited before a turn may have gone, and something else come after the fan-out.
const STARVED_TURNS_MAX: u32 = 1;

/// Starts a shard for each of those in `status`, all on `kernel`, joined to each other and to the publisher.
pub fn start<'m>(
    kernel: &SimKernel,
    config: &ServerConfig,
    connections_max: usize,
    mesh_sizes: MeshSizes,
    status: &'m Status,
    mut routes: impl FnMut(usize) -> Routes,
) -> (Publisher, Vec<SimShard<'m>>) {
    let rings: Vec<SimRing> = status.shards.iter().map(|_| SimRing::new(kernel)).collect();
    let addresses: Vec<usize> = rings.iter().map(SimRing::address).collect();
    let events: Vec<Event> = rings.iter().map(|_| Event::new().expect("an eventfd")).collect();
    let (publisher, meshes) = mesh::connect(&addresses, &events, mesh_sizes, HOME_KEY, None);
    let shards = rings.into_iter().zip(meshes).zip(events).zip(status.shards.iter()).enumerate();
    let shards = shards.map(|(index, (((ring, mesh), wake), metrics))| {
        let parts = ShardParts {
            ring,
            listeners: vec![listener()],
            wake,
            mesh,
            routes: routes(index),
            config: config.clone(),
            connections_max,
            epoch_seed: index as u64,
            descriptors: kernel.descriptors(),
            addresses: None,
            seed: index as u64,
        };
        SimShard { shard: Shard::new(parts, &status.shards), metrics, starved_turns: [0; 2] }
    });
    (publisher, shards.collect())
}

/// The simulated kernel has a listener for each ring and looks at none.
fn listener() -> ShardListener {
    let socket = Some(File::open("/dev/null").expect("/dev/null").into());
    ShardListener {
        socket,
        on_loopback: true,
        has_addresses: true,
        is_proxied: false,
        routes: RouteSet::ALL,
        protocol: None,
        tls: None,
        hsts_seconds: 0,
    }
}

impl SimShard<'_> {
    /// From now on others must wake this shard; returns for how long it may sleep at most.
    ///
    /// # Panics
    /// If it is to sleep though it has something to do.
    pub fn fall_asleep(&mut self) -> Duration {
        let timeout = self.shard.fall_asleep();
        let shard = &self.shard;
        let is_waited_for = !shard.queues.receive.is_empty() || !shard.queues.resume.is_empty();
        let has_work =
            shard.topics.has_work() || shard.mesh.has_incoming() || is_waited_for || shard.catch_ups.are_stuck();
        assert!(timeout.is_zero() || !has_work, "a shard sleeps for {timeout:?} though it has something to do");
        timeout
    }

    /// Wakes up, and takes one turn at `now_ms`.
    ///
    /// # Panics
    /// If a lane of the fan-out does not get its share.
    pub fn turn(&mut self, now_ms: u64) {
        let progress = |shard: &Shard<'_, SimRing>| {
            Lane::ALL.map(|lane| (shard.topics.has_work_on(lane), shard.topics.batches_on(lane)))
        };
        let before = progress(&self.shard);
        self.shard.wait(Duration::ZERO);
        self.shard.turn(now_ms, UNIX_START_MS + now_ms);
        for (lane, after) in progress(&self.shard).into_iter().enumerate() {
            let is_starved = before[lane].0 && after == before[lane];
            self.starved_turns[lane] = if is_starved { self.starved_turns[lane] + 1 } else { 0 };
            assert!(self.starved_turns[lane] <= STARVED_TURNS_MAX, "lane {lane} of the fan-out is starved");
        }
    }

    /// Whether the shard has drained.
    pub fn has_left(&self) -> bool {
        self.shard.has_left()
    }

    /// Connections, in any state.
    pub fn connections(&self) -> usize {
        self.shard.slots.len()
    }

    /// Checks what must be true of a shard between two turns.
    ///
    /// # Panics
    /// If it is not.
    pub fn check(&self, kernel: &SimKernel) {
        let slots = &self.shard.slots;
        assert_eq!(self.metrics.connections.get(), slots.len() as u64, "the gauge of connections is off");
        let open = slots.iter().filter(|slot| slot.route.is_some() && slot.cause.is_none());
        let open: Vec<&Slot> = open.collect();
        for transport in Transport::ALL {
            let count = open.iter().filter(|slot| slot.conn.transport == transport).count() as u64;
            assert_eq!(self.metrics.open(transport).get(), count, "the gauge of {transport:?} connections is off");
        }
        let closing = slots.iter().filter(|slot| slot.cause.is_some()).count() as u64;
        assert_eq!(self.metrics.closing.get(), closing, "the gauge of closing connections is off");
        for (route, (name, count)) in self.metrics.routes().iter().enumerate() {
            let open = open.iter().filter(|slot| slot.route.map(usize::from) == Some(route)).count() as u64;
            assert_eq!(count.get(), open, "the gauge of connections to {name} is off");
        }
        let outbox_bytes: usize = slots.iter().map(|slot| slot.conn.outbox.bytes()).sum();
        assert_eq!(self.metrics.outbox_bytes.get(), outbox_bytes as u64, "the gauge of outbox bytes is off");
        let behind = slots.iter().filter(|slot| !slot.conn.outbox.is_empty()).count();
        assert_eq!(self.metrics.outbox_connections.get(), behind as u64, "the gauge of outboxes is off");
        let subscriptions: usize = slots.iter().map(|slot| slot.subscriptions.len()).sum();
        assert_eq!(self.metrics.subscriptions.get(), subscriptions as u64, "the gauge of subscriptions is off");
        let by_namespace: u64 = self.metrics.namespaces().iter().map(|namespace| namespace.subscriptions.get()).sum();
        assert_eq!(by_namespace, subscriptions as u64, "the gauges of the namespaces' subscriptions are off");
        assert_eq!(self.metrics.topics.get(), self.shard.topics.len() as u64, "the gauge of topics is off");
        let accepts = kernel.accepts(self.shard.ring.index());
        assert_eq!(
            self.shard.acceptor.accepts.len(),
            accepts,
            "the shard waits for accepts that the kernel does not have"
        );
        slots.iter().for_each(|slot| self.check_slot(kernel, slot));
        slots.iter().for_each(|slot| self.check_presence(slot));
    }

    /// Whether something has come from other shards or the control plane that it has not taken.
    pub fn has_incoming(&self) -> bool {
        self.shard.mesh.has_incoming()
    }

    /// Whether nothing is on its way from this shard to another, or to it.
    pub fn is_at_rest(&self) -> bool {
        !self.has_incoming() && !self.shard.mesh.has_backlog()
    }

    /// The values of the keyed topics of this home.
    pub fn values(&self) -> Vec<(TopicName, Vec<Arc<Body>>)> {
        self.shard.home.values().map(|(topic, values)| (topic.clone(), values)).collect()
    }

    /// Appends the joins that the topics of this home remember.
    pub fn list_present(&self, joins: &mut Vec<(TopicName, JoinId)>) {
        joins.extend(self.shard.home.joins().map(|(topic, join)| (topic.clone(), join)));
    }

    /// Appends the joins that the subscriptions of this shard's connections began with.
    pub fn list_subscribed(&self, joins: &mut Vec<(TopicName, JoinId)>) {
        let present = self.shard.slots.iter().flat_map(|slot| &slot.extras).flat_map(|extras| &extras.presence);
        joins.extend(present.map(|(topic, presence)| (self.shard.topics.name(*topic).clone(), presence.join)));
    }

    /// Whether it has as many connections as it may, so that others wait to be accepted.
    pub fn is_full(&self) -> bool {
        self.shard.slots.len() >= self.shard.acceptor.descriptors
    }

    /// Checks that a shard that leaves has told everybody to go whom it leaves behind, and, unless it is late, that the
    /// other shards have taken what was for them.
    ///
    /// # Panics
    /// If it has not.
    pub fn check_goodbyes(&self, is_late: bool) {
        assert!(is_late || !self.shard.mesh.has_untaken(), "a shard leaves with what was for others");
        let untold = self.shard.slots.iter().find(|slot| slot.cause.is_none());
        assert!(untold.is_none(), "nobody has told this connection that the server leaves: {untold:?}");
    }

    /// Checks that a shard that serves nobody, and has heard from the others that they do not, knows of no subscriber.
    ///
    /// # Panics
    /// If it does.
    pub fn check_nobody_is_subscribed(&self) {
        assert!(self.shard.topics.is_empty(), "a topic is kept that nobody has subscribed to");
        assert_eq!(self.shard.home.occupied(), 0, "a home believes that a shard has subscribers");
    }

    /// A present connection has subscribed; and a connection that has subscribed with a name is present where the
    /// namespace keeps presence.
    fn check_presence(&self, slot: &Slot) {
        let present = slot.extras.iter().flat_map(|extras| &extras.presence);
        for (topic, presence) in present.clone() {
            let is_subscribed = slot.subscriptions.iter().any(|subscription| subscription.topic == *topic);
            assert!(is_subscribed, "a connection is present where it has not subscribed: {presence:?}");
        }
        if !names_subscribers(slot) {
            return;
        }
        for topic in slot.subscriptions.iter().map(|subscription| subscription.topic) {
            let namespace = self.shard.config.namespaces.get(self.shard.topics.namespace(topic));
            let is_present = present.clone().any(|(other, _)| *other == topic);
            assert!(is_present || !namespace.remembers_subscribers(), "a subscriber is not present: {slot:?}");
        }
    }

    fn check_slot(&self, kernel: &SimKernel, slot: &Slot) {
        assert!(!self.shard.forgets_state_read(slot.id.slot), "a page that nobody requests: {slot:?}");
        assert!(!slot.has_reply, "a reply was left behind");
        assert!(!slot.is_dirty, "a connection was not settled");
        assert!(slot.subscriptions.is_empty() || slot.cause.is_none(), "a connection that has ended is subscribed");
        if slot.stage == Stage::Closing {
            return;
        }
        let is_bounded = match (slot.stage, slot.conn.phase()) {
            (Stage::Terminating | Stage::Closing, _) => false,
            (Stage::Serving, phase) if phase.is_served() => false,
            (Stage::Serving | Stage::Flushing | Stage::Lingering, _) => true,
        };
        let is_overdue = self.shard.now_ms > slot.deadline_ms.saturating_add(TICK_MS);
        assert!(!(is_bounded && is_overdue), "nobody has looked at the time of {slot:?}");
        let held = kernel.operations(self.shard.ring.index(), slot.socket);
        let is_awaited = slot.stage != Stage::Terminating || !held.uncancelled;
        assert!(is_awaited, "a connection that has ended waits for an operation that nobody cancels: {slot:?}");
        // What ended and was not told of counts as held by both.
        let is_attended = slot.recv_mode.op().is_some();
        assert!(is_attended || !held.recv, "the kernel holds a receive that the shard has forgotten");
        assert!(slot.is_sending || !held.send, "the kernel holds a send that the shard has forgotten");
        let believed = [is_attended, slot.is_sending, slot.is_shutting];
        let known = [held.recv, held.send, held.shutdown];
        let count = |operations: [bool; 3]| operations.into_iter().filter(|is_there| *is_there).count();
        let (believed, known) = (count(believed), count(known) + held.queued + held.unreaped);
        assert_eq!(believed, known, "the shard waits for an operation that the kernel does not have");
        let must_receive = matches!(slot.stage, Stage::Serving | Stage::Lingering) && !slot.is_paused;
        assert!(slot.recv_mode != RecvMode::None || !must_receive, "a connection is no longer received from: {slot:?}");
        let turns = self.shard.queues.receive.iter().filter(|id| **id == slot.id).count();
        let is_awaited = slot.recv_mode == RecvMode::Queued;
        assert!(turns == usize::from(is_awaited) || slot.stage == Stage::Terminating, "not its turn once: {slot:?}");
        let is_delivery_paused = slot.is_delivery_paused && slot.stage == Stage::Serving;
        let must_send = matches!(slot.stage, Stage::Serving | Stage::Flushing)
            && !is_delivery_paused
            && !slot.conn.outbox.is_empty();
        assert!(slot.is_sending || !must_send, "an outbox waits for nobody: {slot:?}");
        let is_paused = slot.is_flooded() || slot.input() != Input::Open;
        assert!(
            slot.is_paused == is_paused || slot.stage == Stage::Terminating,
            "received from or not by mistake: {slot:?}"
        );
        let is_awaited = slot.is_sending || is_delivery_paused || !slot.is_flooded() || slot.stage != Stage::Serving;
        assert!(is_awaited, "a pause that nobody ends: {slot:?}");
        let is_queued = self.shard.queues.resume.contains(&slot.id) || slot.input() != Input::Queued;
        assert!(
            is_queued && (slot.input() != Input::Ready || slot.is_flooded()),
            "messages that wait for nothing: {slot:?}"
        );
    }

    /// Bytes of the send whose end a connection waits for; its peer may have them already.
    pub fn sending_bytes(&self, id: ConnId) -> usize {
        let slot = self.shard.find(id).map(|slot| &self.shard.slots[slot]);
        slot.filter(|slot| slot.is_sending).map_or(0, |slot| slot.sending_bytes as usize)
    }

    /// The most that waits in an outbox.
    pub fn outbox_bytes_max(&self) -> usize {
        self.shard.slots.iter().map(|slot| slot.conn.outbox.bytes()).max().unwrap_or(0)
    }
}

/// Whether the connection's protocol names the clients that subscribe.
#[cfg(feature = "centrifuge")]
fn names_subscribers(slot: &Slot) -> bool {
    [*JSON, *PROTOBUF].contains(&slot.encoding)
}

/// No other protocol names them.
#[cfg(not(feature = "centrifuge"))]
fn names_subscribers(_: &Slot) -> bool {
    false
}

#[cfg(all(test, feature = "centrifuge"))]
mod delta_tests;
#[cfg(test)]
mod fan_out_tests;
#[cfg(test)]
mod tests;
