//! THE loop: one thread, one ring, its listeners, one slab of connections.
//!
//! A turn handles completions, then parcels of other shards, then timers; then it sends. Output of a turn leaves in
//! that turn, joined per connection. Each completion is handled in the module that submits its operation:
//! [`accept`](super::accept), [`recv_mode`](super::recv_mode), [`receive`](super::receive), [`resume`](super::resume),
//! [`secure`](super::secure), [`send`](super::send), [`close`](super::close), [`timers`](super::timers),
//! [`publish`](super::publish), [`drain`](super::drain).

use std::collections::VecDeque;
#[cfg(feature = "centrifuge")]
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ServerConfig;
use super::accept::Acceptor;
use super::addresses::AddressCounts;
use super::ahead::Ahead;
use super::catch_up::CatchUps;
use super::clients::Clients;
use super::drain::Drain;
use super::listener::ShardListener;
use super::mesh::{Mesh, Parcel, ToConn};
use super::metrics::{CloseCause, ShardMetrics};
use super::random::Random;
use super::secure::Sessions;
use super::send::Replies;
use super::slot::{ConnExtras, Stage, wire};
use super::slots::Slots;
use super::timers::note_alive;
use super::variant::nanoseconds;
use super::wheel::Wheel;
use crate::buf::{ConnId, SlotId};
#[cfg(feature = "centrifuge")]
use crate::gateway::UserCommand;
use crate::gateway::{Clock, Command, Context, ContextParts, ErasedHandler, Origin, Outcome, Routes};
use crate::limits::{MESH_RETRY_MS, PUBLISHER_RECENT_MS, PUBLISHER_ROUNDS_MAX, SWEEP_INTERVAL_MS};
use crate::proto::{Deflater, Inflater};
use crate::ring::{Completion, Errno, Event, Op, Ring, Token};
use crate::topics::{Answer, Batch, Bundles, Draft, Home, Topics, mix};

/// The longest wait of a shard without timers; a wakeup this rare costs nothing worth saving.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Everything a shard is made of.
pub(super) struct ShardParts<R: Ring> {
    pub(super) ring: R,
    pub(super) listeners: Vec<ShardListener>,
    pub(super) wake: Event,
    pub(super) mesh: Mesh<R::Address>,
    pub(super) routes: Routes,
    pub(super) config: ServerConfig,
    /// Connections that all shards may have together.
    pub(super) connections_max: usize,
    /// Descriptors that the ring has for them.
    pub(super) descriptors: usize,
    /// Random bits, from which the epochs of topics are made.
    pub(super) epoch_seed: u64,
    /// Connections by address, if the configuration limits them.
    pub(super) addresses: Option<AddressCounts>,
    /// Seed of random delays and orders.
    pub(super) seed: u64,
}

/// A shard. `R` is the kernel, or the simulator.
pub(super) struct Shard<'m, R: Ring> {
    pub(super) ring: R,
    pub(super) config: ServerConfig,
    pub(super) metrics: &'m ShardMetrics,
    /// Of all shards, this one among them.
    pub(super) all_metrics: &'m [ShardMetrics],
    pub(super) routes: Routes,
    pub(super) mesh: Mesh<R::Address>,
    pub(super) topics: Topics,
    /// The home topics of this shard.
    pub(super) home: Home,
    /// Number of named joins that this shard's connections have requested.
    pub(super) joins: u64,
    pub(super) catch_ups: CatchUps,
    /// What handlers have published for connections that ended.
    pub(super) last_drafts: Vec<Draft>,
    /// This shard, for handles.
    pub(super) origin: Origin,
    /// Answers from this shard to connections of its own.
    pub(super) answers: Vec<(ToConn, Answer)>,
    /// Both serve all connections, one message after the other.
    pub(super) inflater: Inflater,
    pub(super) deflater: Deflater,

    pub(super) slots: Slots,
    pub(super) wheel: Wheel,
    pub(super) now_ms: u64,
    unix_ms: u64,
    /// The ring's clock at the beginning of the turn, then at each look for parcels.
    pub(super) now_us: u64,
    /// Time of the next sweep of the home.
    sweep_ms: u64,
    pub(super) random: Random,
    /// Of the hashes of keys that subscribers' backlogs compare.
    pub(super) key_seed: u64,

    pub(super) listeners: Vec<ShardListener>,
    pub(super) acceptor: Acceptor,
    /// The drain, once it has begun.
    pub(super) drain: Option<Drain>,
    /// Connections of subscribers that may have missed publications.
    pub(super) gap: Option<Drain>,
    /// Subscribe requests for positions that the log of the cluster has not brought yet.
    pub(super) ahead: Ahead,
    wake: Event,

    pub(super) replies: Replies,
    /// Of the connections of proxies.
    pub(super) clients: Clients,
    /// Of the connections of TLS listeners.
    pub(super) sessions: Sessions,
    pub(super) queues: Queues,
    /// Connections with data to send or an end to complete, after the turn's sends.
    pub(super) dirty: Vec<SlotId>,
    pub(super) scratch: Scratch,
    /// When a publisher of the control plane was last answered.
    publisher_ms: Option<u64>,
}

/// Connections that queue for something, the next one first. Some may have ended.
#[derive(Default)]
pub(super) struct Queues {
    /// For a receive.
    pub(super) receive: VecDeque<ConnId>,
    /// For a receive buffer.
    pub(super) buffers: Vec<ConnId>,
    /// To resume.
    pub(super) resume: VecDeque<ConnId>,
}

/// Memory that turns use again. Each is empty between its uses.
#[derive(Default)]
pub(super) struct Scratch {
    /// The next subscribers of the fan-out.
    pub(super) batch: Batch,
    /// The bytes joined for them.
    pub(super) bundles: Bundles,
    /// The commands of the handler's last call.
    pub(super) commands: Vec<Command>,
    /// The sends that did not go whole.
    pub(super) incomplete: Vec<Completion>,
    completions: Vec<Completion>,
    parcels: Vec<Parcel>,
    due: Vec<(ConnId, u64)>,
}

impl<'m, R: Ring> Shard<'m, R> {
    /// A shard that accepts from its first turn on.
    pub(super) fn new(parts: ShardParts<R>, all_metrics: &'m [ShardMetrics]) -> Shard<'m, R> {
        let rate = parts.config.handshakes_per_second.div_ceil(all_metrics.len() as u64);
        let namespaces = parts.config.namespaces.clone();
        let home = match parts.mesh.order() {
            Some(order) => Home::following(order.buckets(), parts.epoch_seed, namespaces),
            None => Home::new(parts.epoch_seed, namespaces),
        };
        let catch_up = parts.config.catch_up;
        let mut shard = Shard {
            ring: parts.ring,
            inflater: Inflater::new().timed_by(nanoseconds),
            deflater: Deflater::new(parts.config.deflate.unwrap_or_default()).timed_by(nanoseconds),
            metrics: &all_metrics[parts.mesh.shard()],
            all_metrics,
            routes: parts.routes,
            origin: parts.mesh.origin(),
            mesh: parts.mesh,
            topics: Topics::new(parts.config.fan_out.express_subscribers_max),
            home,
            config: parts.config,
            joins: 0,
            last_drafts: Vec::new(),
            catch_ups: CatchUps::new(catch_up),
            answers: Vec::new(),
            slots: Slots::with_capacity(parts.descriptors),
            wheel: Wheel::new(0),
            now_ms: 0,
            unix_ms: 0,
            now_us: 0,
            sweep_ms: 0,
            random: Random::new(parts.seed),
            key_seed: mix(parts.seed),
            listeners: parts.listeners,
            acceptor: Acceptor::new(rate, parts.addresses, parts.descriptors, parts.connections_max),
            drain: None,
            gap: None,
            ahead: Ahead::default(),
            wake: parts.wake,
            replies: Replies::default(),
            clients: Clients::default(),
            sessions: Sessions::default(),
            queues: Queues::default(),
            dirty: Vec::new(),
            scratch: Scratch::default(),
            publisher_ms: None,
        };
        shard.home.limit_pages(catch_up.state_page_keys);
        shard.home.report_to(shard.config.events.clone());
        let names = shard.routes.names().map(str::to_owned);
        shard.metrics.begin(names, shard.config.namespaces.iter().count());
        shard.metrics.rings.set(shard.ring.rings() as u64);
        shard.metrics.descriptors_max.set(parts.descriptors as u64);
        shard.metrics.connections_max.set(parts.connections_max as u64);
        shard.ring.submit_watch(&shard.wake, Token::new(Op::Wake, 0, 0));
        shard.submit_accepts();
        shard
    }

    /// Runs until the shard has drained.
    pub(super) fn run(&mut self) {
        let start = Instant::now();
        while !self.has_left() {
            let timeout = self.fall_asleep();
            self.wait(timeout);
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let turn_start = start.elapsed();
            self.turn(turn_start.as_millis() as u64, unix.as_millis() as u64);
            let took = start.elapsed() - turn_start;
            self.metrics.turn.record(took.as_micros() as u64);
            self.metrics.busy_nanoseconds.add(took.as_nanos() as u64);
        }
    }

    /// Lets other shards wake this one; returns the longest time that it may sleep.
    pub(super) fn fall_asleep(&mut self) -> Duration {
        let is_waited_for = !self.queues.receive.is_empty() || !self.queues.resume.is_empty();
        let has_work = self.topics.has_work() || self.catch_ups.has_work() || self.sessions.have_work();
        let has_answers = !self.answers.is_empty() || !self.last_drafts.is_empty();
        if has_work || has_answers || is_waited_for {
            return Duration::ZERO;
        }
        let sleep_max = self.mesh.sleep_max().min(self.until_next_timer());
        if self.is_handing_over() { sleep_max.min(Duration::from_millis(MESH_RETRY_MS)) } else { sleep_max }
    }

    /// Waits until something completes or `timeout` passed.
    pub(super) fn wait(&mut self, timeout: Duration) {
        self.ring.wait(timeout, &mut self.scratch.completions);
        self.mesh.woke();
    }

    fn until_next_timer(&mut self) -> Duration {
        let sweep_ms = (!self.home.is_empty()).then_some(self.sweep_ms);
        let times = [
            self.wheel.next_ms(),
            self.next_accept_ms(),
            self.next_drain_ms(),
            self.next_gap_ms(),
            self.ahead.next_ms(),
            self.next_scarce_ms(),
            sweep_ms,
            self.next_expiry_ms(),
            self.topics.next_due_ms(),
        ];
        let next_ms = times.into_iter().flatten().min();
        next_ms.map_or(WAIT_MAX, |next_ms| Duration::from_millis(next_ms.saturating_sub(self.now_ms)).min(WAIT_MAX))
    }

    /// Runs one turn: handles all events up to now, and sends.
    pub(super) fn turn(&mut self, now_ms: u64, unix_ms: u64) {
        self.now_ms = now_ms;
        self.unix_ms = unix_ms;
        self.now_us = self.ring.now_us();
        self.metrics.turns.add(1);
        self.catch_ups.begin_turn();
        let mut completions = std::mem::take(&mut self.scratch.completions);
        completions.drain(..).for_each(|completion| self.on_completion(completion));
        self.scratch.completions = completions;
        self.on_parcels();
        self.submit_catch_ups();
        self.resume_some();
        self.on_time();
        self.advance_handshakes();
        self.publish_last();
        self.count_deflate();
        self.send_replies();
        self.send_publications();
        self.settle_dirty();
        self.settle_home();
        self.submit_accepts();
        self.submit_scarce();
        self.submit_queued_recvs();
        self.mesh.flush(&mut self.ring, self.now_ms);
        self.metrics.mesh_bytes.set(self.mesh.bytes() as u64);
        self.let_publishers_run();
    }

    fn on_completion(&mut self, completion: Completion) {
        match completion.token.op() {
            Op::Accept => self.on_accept(completion),
            Op::Recv => self.on_recv(completion),
            Op::Poll => self.on_poll(completion.token.conn_id()),
            Op::Send => self.on_send(completion),
            // `send_now` returns these itself; a late one would leave the number of sent bytes unknown.
            Op::Reply | Op::Publish => self.on_late_send(completion.token.slot()),
            Op::Shutdown => self.on_shutdown(completion.token.conn_id()),
            Op::Close => self.on_close(completion.token.conn_id()),
            Op::Doorbell => self.on_doorbell(completion),
            Op::Wake => self.on_wake(completion),
            Op::Cancel | Op::Export | Op::BeforeRecv | Op::BeforeSend => {}
        }
    }

    /// Every turn takes parcels, so a doorbell needs no handling. A doorbell of this shard completes here only if it
    /// failed.
    fn on_doorbell(&mut self, completion: Completion) {
        if let Err(error) = completion.result
            && self.mesh.ring_again(completion.token.tag() as usize, error, self.now_ms)
        {
            self.metrics.doorbells_failed.add(1);
        }
    }

    fn on_wake(&mut self, completion: Completion) {
        self.wake.clear();
        if !completion.more {
            self.ring.submit_watch(&self.wake, completion.token);
        }
    }

    /// Handles parcels of other shards and the control plane. After answering a publisher, the shard yields before the
    /// fan-out goes on: the publisher's next message joins this turn, which matters on a shared CPU. Publishers get no
    /// more of a turn than fan-outs do.
    fn on_parcels(&mut self) {
        let start_us = self.ring.now_us();
        self.now_us = start_us;
        for _ in 0..PUBLISHER_ROUNDS_MAX {
            if !self.take_parcels() {
                break;
            }
            self.publisher_ms = Some(self.now_ms);
            std::thread::yield_now();
            self.now_us = self.ring.now_us();
            if self.now_us - start_us >= self.config.fan_out.slice_us {
                break;
            }
        }
    }

    /// Between two slices of a fan-out: yields to the control plane if it has published recently, since its publishers
    /// may wait for this shard's CPU.
    fn let_publishers_run(&self) {
        let is_recent = |ms: u64| self.now_ms - ms < PUBLISHER_RECENT_MS;
        if self.topics.has_work() && self.publisher_ms.is_some_and(is_recent) {
            std::thread::yield_now();
        }
    }

    /// Handles the arrived parcels. Returns whether the shard answered a publisher.
    fn take_parcels(&mut self) -> bool {
        let mut parcels = std::mem::take(&mut self.scratch.parcels);
        self.mesh.receive(&mut parcels);
        let mut is_answered = false;
        for parcel in parcels.drain(..) {
            is_answered |= matches!(&parcel, Parcel::Publish(publish) if publish.is_from_control());
            self.on_parcel(parcel);
        }
        self.scratch.parcels = parcels;
        self.mesh.take_returned().into_iter().for_each(|parcel| self.on_returned(parcel));
        for (to, answer) in std::mem::take(&mut self.answers) {
            self.on_answer(to, answer);
        }
        is_answered
    }

    fn on_parcel(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Publish(publish) => self.sequence(*publish),
            Parcel::Interest(topic, shard) => self.on_interest(&topic, shard),
            Parcel::Disinterest(topic, shard) => self.on_disinterest(topic, shard),
            Parcel::Disinterested(topic) => self.topics.end_disinterest(&topic),
            Parcel::Subscribe(join) => self.on_subscribe_request(*join),
            Parcel::Leave(topic, presence) => self.on_leave(&topic, presence),
            Parcel::Query(query) => self.on_query(*query),
            Parcel::List(listing) => self.on_listing(*listing),
            // The requester may have gone.
            Parcel::ListSlowest(count, reply) => drop(reply.send(self.slowest(count))),
            Parcel::Deliver(topic, push) => self.stage(&topic, push),
            Parcel::Subscribed(joined) => self.on_subscribe_reply(*joined),
            Parcel::Answer(to, answer) => self.on_answer(*to, *answer),
            #[cfg(feature = "centrifuge")]
            Parcel::UserCommand(command) => self.on_user_command(&command),
            Parcel::Placement(placement) => self.on_placement(*placement),
            Parcel::Gap(topics) => self.on_gap(&topics),
            Parcel::Letter(id, letter) => self.on_letter(id, letter),
            #[cfg(feature = "product")]
            Parcel::Reconfigure(config) => self.reconfigure(&config),
            Parcel::Drain => self.drain(),
        }
    }

    #[cfg(feature = "centrifuge")]
    fn on_user_command(&mut self, command: &Arc<UserCommand>) {
        let mut found = Vec::new();
        self.routes.iter().for_each(|handler| handler.find_connections(command, &mut found));
        for slot in found.into_iter().filter_map(|id| self.find(id)).collect::<Vec<_>>() {
            if self.is_listening(slot) {
                self.call_handler(slot, |handler, context| handler.on_user_command(context, command));
            }
        }
    }

    /// Serves with another configuration, which differs in what nothing was built on when the shard started.
    #[cfg(feature = "product")]
    fn reconfigure(&mut self, config: &ServerConfig) {
        self.set_accept_rate(config.handshakes_per_second.div_ceil(self.all_metrics.len() as u64));
        self.home.set_namespaces(config.namespaces.clone());
        self.routes.iter_mut().for_each(|handler| handler.on_namespaces(&config.namespaces));
        // Threads of the process take events: no file makes others.
        let events = self.config.events.take();
        self.config = ServerConfig { events, ..config.clone() };
    }

    fn on_time(&mut self) {
        let mut due = std::mem::take(&mut self.scratch.due);
        self.wheel.take_due(self.now_ms, &mut due);
        due.drain(..).for_each(|(id, tick)| self.on_timer(id, tick));
        self.scratch.due = due;
        self.drain_some();
        self.close_gap();
        self.remove_expired();
        self.end_ahead();
        self.acceptor.end_pause(self.now_ms);
        if self.now_ms >= self.sweep_ms {
            self.metrics.completion_overflows.set(self.ring.overflows());
            self.home.sweep(self.unix_ms);
            self.metrics.history_bytes.set(self.home.history_bytes() as u64);
            self.metrics.state_keys.set(self.home.state_keys() as u64);
            self.metrics.state_bytes.set(self.home.state_bytes() as u64);
            self.metrics.idempotency_keys.set(self.home.idempotency_keys() as u64);
            self.sweep_ms = self.now_ms + SWEEP_INTERVAL_MS;
        }
    }

    /// At the end of a turn: drops unused topics.
    fn settle_home(&mut self) {
        self.home.forget_unused();
        self.metrics.home_topics.set(self.home.len() as u64);
        self.metrics.home_topics_unpublished.set(self.home.unpublished() as u64);
        self.metrics.home_topics_occupied.set(self.home.occupied() as u64);
    }

    /// Calls the handler of `slot`, and carries out its commands.
    pub(super) fn call_handler(&mut self, slot: SlotId, call: impl FnOnce(&mut dyn ErasedHandler, &mut Context<'_>)) {
        let start = self.begin_reply(slot);
        let clock = self.clock();
        let is_listening = self.is_listening(slot);
        let entry = &mut self.slots[slot];
        let Some(route) = entry.route.filter(|_| is_listening) else {
            // A reply before this one has failed and ended the connection.
            return self.end_reply(slot, start);
        };
        let (sent, link) = ConnExtras::sent_and_link(&mut entry.extras);
        let mut context = Context::new(ContextParts {
            id: entry.id,
            clock,
            out: &mut self.replies.bytes,
            commands: &mut self.scratch.commands,
            subscriptions: entry.subscriptions.len(),
            subscriptions_max: self.config.subscriptions_per_connection_max,
            wire: wire(
                entry.conn.transport,
                entry.conn.deflate_window,
                &self.listeners[usize::from(entry.listener)],
                &mut self.deflater,
                sent,
            ),
            origin: &self.origin,
            link,
        });
        call(self.routes.handler(route), &mut context);
        let Outcome { is_closed, is_delivery_resumed, input, timer_ms, is_alive, link, .. } = context.outcome();
        entry.keep(timer_ms, link);
        if is_alive {
            note_alive(entry, self.metrics, self.now_ms);
        }
        if is_delivery_resumed {
            self.end_first_reply(slot, start);
        } else {
            self.end_reply(slot, start);
        }
        // Before the commands: their answers may change the input again.
        if let Some(input) = input {
            self.set_input(slot, input);
        }
        self.apply_commands(slot);
        if timer_ms.is_some() && self.is_listening(slot) {
            self.arm_handler_timer(slot);
        }
        if is_closed && self.is_listening(slot) {
            let is_draining = self.drain.is_some();
            self.close_for(slot, if is_draining { CloseCause::Drain } else { CloseCause::Application });
        }
    }

    pub(super) fn clock(&self) -> Clock {
        Clock { now_ms: self.now_ms, unix_ms: self.unix_ms, turn: self.metrics.turns.get() }
    }

    pub(super) fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    /// The slot of a connection, if it is still open.
    pub(super) fn find(&self, id: ConnId) -> Option<SlotId> {
        self.slots.find(id)
    }

    /// The listener that accepted a connection.
    pub(super) fn listener_of(&self, slot: SlotId) -> &ShardListener {
        &self.listeners[usize::from(self.slots[slot].listener)]
    }

    /// Marks the connection for `settle_dirty`, after the turn's sends.
    pub(super) fn mark_dirty(&mut self, slot: SlotId) {
        let marked = &mut self.slots[slot].is_dirty;
        if !std::mem::replace(marked, true) {
            self.dirty.push(slot);
        }
    }

    /// Whether a failed operation of this connection means that its peer is gone.
    pub(super) fn is_fatal(error: Errno) -> bool {
        !error.is_temporary() && error != Errno::Canceled
    }

    /// Whether the handler still serves the connection.
    pub(super) fn is_listening(&self, slot: SlotId) -> bool {
        let entry = &self.slots[slot];
        entry.cause.is_none() && entry.conn.phase().is_served()
    }

    /// Whether the connection is in [`Stage::Serving`].
    pub(super) fn is_serving(&self, slot: SlotId) -> bool {
        self.slots[slot].stage == Stage::Serving
    }
}
