//! One run: a kernel, its shards and all clients, from the first connection to the last.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use ringfeed::conn::CloseCause;
use ringfeed::gateway::centrifuge::{Centrifuge, CentrifugeConfig, TokenKeys, TokenVerifier};
use ringfeed::gateway::{DemoPage, Echo, Feed, Handler, Routes, Sse};
use ringfeed::limits::{RECV_PAUSE_BYTES, STATE_PAGE_BYTES};
use ringfeed::ring::sim::{Happening, Rng, SimKernel};
use ringfeed::server::sim::{SimShard, UNIX_START_MS};
use ringfeed::server::{Publisher, ServerConfig, Status, sim};
use ringfeed::topics::Body;

use crate::client::{Client, State};
use crate::handler_log::{HandlerLog, Logged, Room};
use crate::keyed::{KeyedModel, Values};
use crate::model::Model;
use crate::plan::{ClientPlan, Ending, Kind, Pace, Plan, RECONNECTS_AT_REST};
use crate::resuming_client::{ResumingClient, SECRET};
use crate::stream_checker::Tally;
use crate::verify_ends::verify;

const SECOND_US: u64 = 1_000_000;

/// The largest page that the server answers with.
const DEMO_PAGE: &str = include_str!("../../src/gateway/page.html");

/// Bytes of a response's head, at most.
const HEAD_BYTES_MAX: usize = 1_000;

/// The maximum latency to a quick client, in network delays of at least a millisecond.
const LATENCY_MAX: u64 = 600;

/// The maximum time that a shard sleeps over incoming parcels, in network delays; a doorbell may fail many times.
const WAKE_MAX: u64 = 100;

/// The maximum virtual time until all messages have arrived once the faults have ended.
const SETTLE_SECONDS_MAX: u64 = 60;

/// How long after its time a value may still be there, in milliseconds, once the faults have ended.
const EXPIRY_SLACK_MS: u64 = 5_000;

/// The purpose of a timer.
#[derive(Clone, Copy)]
enum Timer {
    Connect,
    Act,
    Read,
    End,
    Publish,
    Drain,
}

const TIMERS: [Timer; 6] = [Timer::Connect, Timer::Act, Timer::Read, Timer::End, Timer::Publish, Timer::Drain];

/// Statistics of a run.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) fingerprint: u64,
    /// The maximum latency to a quick client on a network that is quick enough, in network delays.
    pub(crate) latency: u64,
    pub(crate) events: u64,
    pub(crate) virtual_us: u64,
    pub(crate) publications: u64,
    pub(crate) deliveries: u64,
    pub(crate) messages: u64,
    pub(crate) closed: [u64; CloseCause::ALL.len()],
    pub(crate) recv_buffers_scarce: u64,
    pub(crate) accept_stalls: u64,
    /// Reconnects.
    pub(crate) returns: u64,
    pub(crate) tally: Tally,
}

struct Simulation<'m> {
    plan: Plan,
    kernel: SimKernel,
    rng: Rng,
    model: Model,
    publisher: Publisher,
    shards: Vec<Option<SimShard<'m>>>,
    clients: Vec<Client>,
    log: Rc<RefCell<HandlerLog>>,
    /// By shard: since when parcels wait for it.
    untaken_us: Vec<Option<u64>>,
    /// A namespace has presence.
    has_presence: bool,
    is_active: bool,
    is_leaving: bool,
    is_draining: bool,
}

/// Runs the simulation of `seed`.
///
/// # Panics
/// If a check fails.
pub(crate) fn run(seed: u64) -> Summary {
    let mut rng = Rng::new(seed);
    let plan = Plan::new(&mut rng);
    let kernel = SimKernel::new(rng.fork(), plan.faults.clone());
    let status = Status::new(plan.shards);
    let log = Rc::new(RefCell::new(HandlerLog::default()));
    let (publisher, shards) =
        sim::start(&kernel, &plan.config, plan.connections_max, plan.mesh_sizes, &status, |shard| {
            routes(shard, &plan.config, &log)
        });
    let bytes_max = plan.payload_bytes_max;
    let client =
        |(index, client): (usize, &_)| Client::new(index, Clone::clone(client), bytes_max, &kernel, rng.fork());
    let clients = plan.clients.iter().enumerate().map(client).collect();
    let has_presence = plan.config.namespaces.iter().any(|(_, namespace)| namespace.remembers_subscribers());
    let mut model = Model::new(plan.topics, &plan.config.namespaces);
    model.keyed = plan.keyed.as_ref().map(|keyed| KeyedModel::new(keyed, Rng::new(seed)));
    let mut simulation = Simulation {
        model,
        kernel,
        rng: rng.fork(),
        publisher,
        shards: shards.into_iter().map(Some).collect(),
        clients,
        log,
        untaken_us: vec![None; plan.shards],
        has_presence,
        is_active: true,
        is_leaving: false,
        is_draining: false,
        plan,
    };
    simulation.live();
    simulation.settle();
    simulation.leave();
    simulation.stop();
    let mut summary = Summary {
        latency: simulation.latency(),
        fingerprint: simulation.kernel.fingerprint(),
        events: simulation.kernel.event_count(),
        virtual_us: simulation.kernel.now_us(),
        returns: simulation.clients.iter().filter(|client| client.has_reconnected).count() as u64,
        ..Summary::default()
    };
    // The latest client of each chain holds the counts of the earlier ones.
    let last = simulation
        .clients
        .iter()
        .filter(|client| !client.has_reconnected)
        .filter_map(|client| client.resuming.as_ref());
    last.flat_map(|resuming| &resuming.checkers).for_each(|checker| summary.tally.add(&checker.tally));
    drop(simulation);
    summary.count(&status);
    summary
}

impl Summary {
    fn count(&mut self, status: &Status) {
        for shard in status.shards.iter() {
            self.publications += shard.publications.get();
            self.deliveries += shard.deliveries.get();
            self.messages += shard.messages_received.get();
            self.recv_buffers_scarce += shard.recv_buffers_scarce.get();
            self.accept_stalls += shard.accept_stalls.get();
            for (index, cause) in CloseCause::ALL.into_iter().enumerate() {
                self.closed[index] += shard.closed(cause).get();
            }
        }
    }
}

fn routes(shard: usize, config: &ServerConfig, log: &Rc<RefCell<HandlerLog>>) -> Routes {
    fn logged<H: Handler + 'static>(handler: H, shard: usize, log: &Rc<RefCell<HandlerLog>>) -> Logged<H> {
        Logged { handler, shard, log: Rc::clone(log) }
    }
    let mut routes = Routes::default();
    routes.add("/", logged(DemoPage, shard, log)).expect("a route");
    routes.add("/echo", logged(Echo, shard, log)).expect("a route");
    let feed = Feed::new(Arc::clone(&config.namespaces));
    routes.add("/feed/", logged(feed, shard, log)).expect("a route");
    routes.add("/room", logged(Room, shard, log)).expect("a route");
    let events = Sse::new(Arc::clone(&config.namespaces));
    routes.add("/sse/", logged(events, shard, log)).expect("a route");
    let centrifuge = Centrifuge::new(Arc::new(centrifuge(config)));
    routes.add("/connection/websocket", logged(centrifuge, shard, log)).expect("a route");
    routes
}

fn centrifuge(config: &ServerConfig) -> CentrifugeConfig {
    let keys = TokenKeys { hmac_secret: Some(SECRET.to_owned()), ..TokenKeys::default() };
    CentrifugeConfig {
        tokens: TokenVerifier::new(&keys).expect("a secret"),
        anonymous: true,
        namespaces: Arc::clone(&config.namespaces),
        ping_interval_ms: config.keep_alive.ping_interval_ms,
        ..CentrifugeConfig::default()
    }
}

impl Simulation<'_> {
    /// All clients act as planned, under faults.
    fn live(&mut self) {
        for ring in 0..self.shards.len() {
            self.put_to_sleep(ring);
        }
        for index in 0..self.clients.len() {
            self.set_timer(self.clients[index].plan.connect_us, Timer::Connect, index);
        }
        self.set_timer(0, Timer::Publish, 0);
        if let Some(drain_us) = self.plan.drain_us {
            self.set_timer(drain_us, Timer::Drain, 0);
        }
        self.run_until(self.plan.active_us);
    }

    /// No client sends, no fault occurs, all but dead clients read, and resuming clients are connected: all messages
    /// arrive.
    fn settle(&mut self) {
        self.is_active = false;
        self.kernel.calm();
        for index in 0..self.clients.len() {
            let now_us = self.kernel.now_us();
            let client = &mut self.clients[index];
            client.plan.returns = RECONNECTS_AT_REST;
            client.speed_up(&mut self.model, now_us);
            self.reconnect(index);
        }
        // A client that was complete a moment ago may have just left and reconnected.
        let mut settled_for = 0;
        for _ in 0..SETTLE_SECONDS_MAX {
            self.run_for(SECOND_US);
            settled_for = if self.is_settled() { settled_for + 1 } else { 0 };
            if self.is_draining || settled_for == 2 {
                break;
            }
        }
        if self.is_draining {
            let config = &self.plan.config;
            let patience_us = 1000 * (config.drain_spread_ms + 2 * config.drain_timeout_ms);
            return self.run_for(patience_us + SECOND_US);
        }
        for (ring, shard) in self.shards.iter().enumerate() {
            let is_full = shard.as_ref().is_none_or(SimShard::is_full);
            assert!(is_full || self.kernel.backlog(ring) == 0, "shard {ring} has room but accepts no connection");
        }
        assert!(self.model.has_all_outcomes(), "a publication has no outcome");
        for index in 0..self.clients.len() {
            let missing = self.missing(index);
            assert!(missing.is_none(), "client {index} has not received {missing:?}: {:?}", self.clients[index]);
        }
        self.check_complete();
        self.run_for(self.plan.rest_us);
    }

    fn is_settled(&mut self) -> bool {
        let is_join =
            |client: &Client| client.resuming.is_some() && matches!(client.state, State::Waiting | State::Handshaking);
        let is_still = |client: &Client| {
            let is_quiet = |peer| self.kernel.bytes_on_their_way(peer) == 0;
            !client.should_get_all() || client.has_sent_all() && client.peer.is_none_or(is_quiet)
        };
        self.model.has_all_outcomes()
            && !self.clients.iter().any(is_join)
            && self.clients.iter().all(is_still)
            && (0..self.clients.len()).all(|index| self.missing(index).is_none())
    }

    /// The messages that a client must have received by now, but has not.
    fn missing(&mut self, index: usize) -> Option<String> {
        let client = &self.clients[index];
        if !client.should_get_all() {
            return None;
        }
        let has_all = client.views.iter().all(|view| self.model.is_complete(view));
        match (client.has_all_answers(), has_all) {
            (false, _) => Some("an answer".to_owned()),
            (true, false) => Some("a publication".to_owned()),
            (true, true) => {
                let homes = self.values();
                client.resuming.as_ref().and_then(|resuming| resuming.missing(&mut self.model, &homes))
            }
        }
    }

    /// The values of keyed topics at their homes. None has outlived its time.
    fn values(&self) -> BTreeMap<String, Values> {
        let mut homes = BTreeMap::new();
        let Some(keyed) = &self.plan.keyed else { return homes };
        let now_ms = UNIX_START_MS + self.kernel.now_us() / 1000;
        let ttl_ms = keyed.namespace.value_ttl_ms;
        for (topic, bodies) in self.shards.iter().flatten().flat_map(SimShard::values) {
            let value = |body: &Arc<Body>| {
                let age_ms = now_ms.saturating_sub(body.time_ms);
                assert!(
                    ttl_ms == 0 || self.is_active || age_ms <= ttl_ms + EXPIRY_SLACK_MS,
                    "it should be gone: {body:?}"
                );
                let text = String::from_utf8(body.payload().to_vec()).expect("values are text");
                (body.key.as_deref().expect("a key").to_owned(), (body.position.offset, text))
            };
            homes.insert(topic.to_string(), bodies.iter().map(value).collect());
        }
        homes
    }

    /// Reconnects a resuming client that has ended, as a new client with its state.
    fn reconnect(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if !client.is_over() || client.has_reconnected || client.plan.returns == 0 || self.is_leaving {
            return;
        }
        let Some(resuming) = client.resuming.clone() else { return };
        client.has_reconnected = true;
        let pause_us = self.rng.choose(&[0, 1_000, self.plan.active_us / 50]);
        let connect_us = self.kernel.now_us() + pause_us;
        let mut plan = client.plan.reconnecting(&mut self.rng, self.plan.shards, self.plan.active_us, connect_us);
        if !self.is_active {
            plan = plan.at_rest();
        }
        self.add_client(plan, resuming);
        self.set_timer(pause_us, Timer::Connect, self.clients.len() - 1);
    }

    fn add_client(&mut self, plan: ClientPlan, resuming: ResumingClient) {
        let (index, bytes_max) = (self.clients.len(), self.plan.payload_bytes_max);
        let mut client = Client::new(index, plan, bytes_max, &self.kernel, self.rng.fork());
        client.resuming = Some(resuming);
        self.clients.push(client);
    }

    fn check_complete(&self) {
        let stays = |client: &&Client| client.state == State::Open && client.actions.is_none();
        let done: Vec<usize> = self.clients.iter().filter(stays).map(|client| client.index).collect();
        for client in self.clients.iter().filter(|client| client.should_get_all()) {
            client.views.iter().for_each(|view| self.model.check_complete(view, &done));
        }
    }

    /// All clients leave, one way or another.
    fn leave(&mut self) {
        self.is_leaving = true;
        for client in &mut self.clients {
            client.pace = Pace::Quick;
            match client.state {
                State::Open if self.rng.chance(800) => client.close(Some(1000)),
                State::Over if client.actions.gone => client.reset_by_host(),
                State::Waiting | State::Over => {}
                _ => client.end(Ending::Resets),
            }
        }
        for index in 0..self.clients.len() {
            let now_us = self.kernel.now_us();
            self.clients[index].on_peer(&mut self.model, now_us);
        }
        for _ in 0..120 {
            self.run_for(SECOND_US);
            if self.shards.iter().flatten().all(|shard| shard.connections() == 0) {
                break;
            }
        }
        for (ring, shard) in self.shards.iter().enumerate() {
            let Some(shard) = shard else { continue };
            assert_eq!(shard.connections(), 0, "connections are left on shard {ring}");
            shard.check(&self.kernel);
            self.kernel.assert_nothing_is_held(ring);
        }
        self.run_for(SECOND_US);
        self.shards.iter().flatten().for_each(SimShard::check_nobody_is_subscribed);
        assert!(self.is_draining || self.log.borrow().open_count() == 0, "a handler missed a close");
        for client in &self.clients {
            let end = self.log.borrow().end(client.index);
            verify(client, end, &self.plan, &self.kernel, &self.model);
        }
    }

    /// The server stops.
    fn stop(&mut self) {
        self.drain();
        self.run_for(self.plan.config.drain_timeout_ms * 1000 + SECOND_US);
        assert!(self.shards.iter().all(Option::is_none), "a shard did not stop");
    }

    fn latency(&self) -> u64 {
        if self.kernel.last_leap_us().is_some() || self.plan.is_sluggish() || self.plan.is_overloaded() {
            return 0;
        }
        let latency_us = self.clients.iter().map(|client| client.latency_us_max).max().unwrap_or(0);
        let latency = latency_us / self.plan.faults.delay_us_max.max(1000);
        let slowest = self.clients.iter().max_by_key(|client| client.latency_us_max);
        // A doorbell that failed rings again after a pause as long as a delay.
        let latency_max = LATENCY_MAX + LATENCY_MAX * u64::from(self.plan.faults.doorbell_fails) / 1000;
        assert!(latency <= latency_max, "a publication took {latency_us} µs to a quick client: {slowest:?}");
        latency
    }

    fn run_for(&mut self, us: u64) {
        self.run_until(self.kernel.now_us() + us);
    }

    fn run_until(&mut self, until_us: u64) {
        while let Some(happening) = self.kernel.next(until_us) {
            match happening {
                Happening::Turn(ring) => self.turn(ring),
                Happening::Peer(peer) => {
                    let now_us = self.kernel.now_us();
                    let client = self.clients.iter_mut().find(|client| client.peer == Some(peer));
                    let client = client.expect("peers are clients");
                    client.on_peer(&mut self.model, now_us);
                    let index = client.index;
                    self.publish_to_new(index, now_us);
                    self.reconnect(index);
                }
                Happening::Timer(name) => self.on_timer(TIMERS[(name >> 32) as usize], (name & 0xffff_ffff) as usize),
            }
            assert!(self.kernel.event_count() < 10_000_000, "the simulation does not come to rest");
        }
    }

    fn turn(&mut self, ring: usize) {
        let bound = self.outbox_bound();
        self.check_woken(ring);
        let Some(shard) = &mut self.shards[ring] else { return };
        shard.turn(self.kernel.now_us() / 1000);
        shard.check(&self.kernel);
        for (conn, client) in self.log.borrow_mut().take_ended() {
            self.clients[client].note_end(shard.sending_bytes(conn));
        }
        let waiting = shard.outbox_bytes_max();
        assert!(waiting <= bound, "an outbox holds {waiting} bytes, its bound is {bound}");
        if shard.has_left() {
            shard.check_goodbyes(self.kernel.last_leap_us().is_some());
            self.shards[ring] = None;
        } else {
            self.put_to_sleep(ring);
        }
        for (shard, untaken_us) in self.shards.iter().zip(&mut self.untaken_us) {
            if shard.as_ref().is_some_and(SimShard::has_incoming) {
                untaken_us.get_or_insert(self.kernel.now_us());
            }
        }
        self.check_presence();
    }

    /// A shard wakes soon after a parcel arrives.
    fn check_woken(&mut self, ring: usize) {
        let Some(since_us) = self.untaken_us[ring].take() else { return };
        let waited_us = self.kernel.now_us() - since_us;
        let waited = waited_us / self.plan.faults.delay_us_max.max(1000);
        let is_late = waited > WAKE_MAX && self.kernel.last_leap_us().is_none();
        assert!(!is_late, "shard {ring} has slept for {waited_us} µs over incoming parcels");
    }

    /// The clients present in a topic are its subscribers, whenever no parcel is in flight between shards.
    fn check_presence(&self) {
        if !self.has_presence || !self.shards.iter().all(|shard| shard.as_ref().is_some_and(SimShard::is_at_rest)) {
            return;
        }
        let (mut present, mut subscribed) = (Vec::new(), Vec::new());
        for shard in self.shards.iter().flatten() {
            shard.list_present(&mut present);
            shard.list_subscribed(&mut subscribed);
        }
        present.sort_unstable();
        subscribed.sort_unstable();
        assert_eq!(present, subscribed, "presence and subscriptions differ");
    }

    /// Publications stop at their bound, except for the run of one turn into an empty outbox. Replies stop when the
    /// server pauses reading, after it has answered the input received until then.
    fn outbox_bound(&self) -> usize {
        let in_flight = self.plan.faults.recv_buffer_bytes as usize * usize::from(self.plan.faults.recv_buffers);
        let asked = self.clients.iter().map(|client| client.bytes_requested).max().unwrap_or(0);
        let replies =
            asked.min(RECV_PAUSE_BYTES + self.plan.answer_factor() * (in_flight + self.plan.payload_bytes_max));
        let run = self.plan.burst_max as usize * (self.plan.payload_bytes_max + 100) * 10;
        let page = DEMO_PAGE.len() + HEAD_BYTES_MAX;
        // A resuming client receives as much history as its backlog may hold, and the position of each topic.
        let missed = self.plan.outbox_bytes_max() + 300 * self.plan.topics;
        let missed = missed + if self.plan.keyed.is_some() { STATE_PAGE_BYTES } else { 0 };
        self.plan.outbox_bytes_max() + replies + run + page + missed
    }

    fn put_to_sleep(&mut self, ring: usize) {
        if let Some(shard) = &mut self.shards[ring] {
            let timeout = shard.fall_asleep();
            self.kernel.sleep(ring, timeout);
        }
    }

    fn set_timer(&self, delay_us: u64, timer: Timer, index: usize) {
        self.kernel.set_timer(delay_us, (timer as u64) << 32 | index as u64);
    }

    fn on_timer(&mut self, timer: Timer, index: usize) {
        let now_us = self.kernel.now_us();
        let again_us = match timer {
            Timer::Publish => self.publish(now_us),
            Timer::Drain => {
                self.drain();
                None
            }
            Timer::Connect => {
                self.connect(index);
                None
            }
            Timer::Act if self.is_active => self.clients[index].on_act_timer(&mut self.model, now_us),
            Timer::Act => None,
            Timer::Read => {
                let again_us = self.clients[index].on_read_timer(&mut self.model, now_us);
                self.publish_to_new(index, now_us);
                self.reconnect(index);
                again_us
            }
            Timer::End => self.end(index),
        };
        if let Some(again_us) = again_us {
            self.set_timer(again_us, timer, index);
        }
    }

    fn connect(&mut self, index: usize) {
        if self.is_leaving {
            return;
        }
        let client = &mut self.clients[index];
        client.connect(&mut self.model);
        let (act_us, ends) = (client.plan.act_us, client.plan.ending != Ending::Stays);
        let breaks = matches!(client.plan.kind, Kind::Breaker(_));
        self.set_timer(act_us, Timer::Act, index);
        self.set_timer(0, Timer::Read, index);
        if ends || breaks {
            let end_us = self.clients[index].plan.end_us.saturating_sub(self.kernel.now_us());
            self.set_timer(end_us, Timer::End, index);
        }
    }

    fn end(&mut self, index: usize) -> Option<u64> {
        let client = &mut self.clients[index];
        if client.resuming.is_some() && !self.is_active {
            return None;
        }
        if let Kind::Breaker(breach) = client.plan.kind {
            client.breach(breach);
        }
        if client.has_last_words() {
            client.send_last_words(&mut self.model);
            return Some(self.rng.below(3 * self.plan.faults.delay_us_max + 2));
        }
        client.end(client.plan.ending);
        self.reconnect(index);
        None
    }

    fn publish(&mut self, now_us: u64) -> Option<u64> {
        if !self.is_active {
            return None;
        }
        let mut topic = self.rng.below(self.plan.topics as u64) as usize;
        let is_mixed = self.rng.chance(300);
        for _ in 0..self.rng.between(1, self.plan.burst_max) {
            if is_mixed {
                topic = self.rng.below(self.plan.topics as u64) as usize;
            }
            let len = self.rng.below(self.plan.payload_bytes_max as u64 + 1) as usize;
            self.model.publish(&mut self.publisher, topic, len, now_us);
        }
        if let Some(keyed) = &mut self.model.keyed {
            keyed.publish(&self.publisher);
        }
        self.kernel.look_at_events();
        Some(self.rng.below(2 * self.plan.publish_us))
    }

    /// Publishes to the topics that a client has just subscribed to.
    fn publish_to_new(&mut self, index: usize, now_us: u64) {
        let confirmed = std::mem::take(&mut self.clients[index].confirmed);
        if !self.plan.publishes_on_subscribe || !self.is_active || confirmed.is_empty() {
            return;
        }
        for topic in confirmed {
            self.model.publish(&mut self.publisher, topic, 1, now_us);
        }
        self.kernel.look_at_events();
    }

    fn drain(&mut self) {
        self.is_draining = true;
        // A full queue gets another try later; draining a shard twice does no harm.
        if self.publisher.drain().is_err() {
            self.set_timer(1000, Timer::Drain, 0);
        }
        self.kernel.look_at_events();
    }
}
