//! One run: a kernel, its shards, and all clients, from the first connection until nothing is left.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ringfeed::conn::CloseCause;
use ringfeed::gateway::centrifuge::{Centrifuge, CentrifugeConfig, TokenKeys, TokenVerifier};
use ringfeed::gateway::{Echo, Feed, Handler, Routes, Sse};
use ringfeed::limits::RECV_PAUSE_BYTES;
use ringfeed::ring::sim::{Happening, Rng, SimKernel};
use ringfeed::server::sim::SimShard;
use ringfeed::server::{Publisher, ServerConfig, Status, sim};

use crate::client::{Client, State};
use crate::handler_log::{HandlerLog, Room, Watched};
use crate::model::Model;
use crate::plan::{ClientPlan, Ending, Kind, Pace, Plan, RETURNS_AT_REST};
use crate::resuming_client::{ResumingClient, SECRET};
use crate::stream_checker::Tally;
use crate::verify_ends::judge;

const SECOND_US: u64 = 1_000_000;

/// The longest that a publication may take to a quick client, in delays of the network, of at least a millisecond.
const LATENCY_MAX: u64 = 600;

/// The longest that a shard may sleep over what has come for it, in such delays: a doorbell may fail many times.
const WAKE_MAX: u64 = 100;

/// Virtual time in which everything that was said must have arrived, once nothing goes wrong any more.
const SETTLE_SECONDS_MAX: u64 = 60;

/// What a timer of the world is for.
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

/// What a run was like.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) fingerprint: u64,
    /// The longest that a publication took to a quick client on a network that is quick enough, in delays of that
    /// network.
    pub(crate) latency: u64,
    pub(crate) events: u64,
    pub(crate) virtual_us: u64,
    pub(crate) publications: u64,
    pub(crate) deliveries: u64,
    pub(crate) messages: u64,
    pub(crate) closed: [u64; CloseCause::ALL.len()],
    pub(crate) recv_buffers_scarce: u64,
    pub(crate) accept_stalls: u64,
    /// Times that a client came back.
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
    journal: Rc<RefCell<HandlerLog>>,
    /// By shard: since when something has come that it has not taken, if it has.
    unheard_us: Vec<Option<u64>>,
    /// Some namespace remembers who has subscribed.
    has_presence: bool,
    is_active: bool,
    is_leaving: bool,
    is_draining: bool,
}

/// Runs the world of `seed`.
///
/// # Panics
/// If anything went wrong that may not.
pub(crate) fn run(seed: u64) -> Summary {
    let mut rng = Rng::new(seed);
    let plan = Plan::new(&mut rng);
    let kernel = SimKernel::new(rng.fork(), plan.faults.clone());
    let status = Status::new(plan.shards);
    let journal = Rc::new(RefCell::new(HandlerLog::default()));
    let (publisher, shards) =
        sim::start(&kernel, &plan.config, plan.connections_max, plan.mesh_sizes, &status, |shard| {
            routes(shard, &plan.config, &journal)
        });
    let bytes_max = plan.payload_bytes_max;
    let client =
        |(index, client): (usize, &_)| Client::new(index, Clone::clone(client), bytes_max, &kernel, rng.fork());
    let clients = plan.clients.iter().enumerate().map(client).collect();
    let has_presence = plan.config.namespaces.iter().any(|(_, namespace)| namespace.remembers_subscribers());
    let mut world = Simulation {
        model: Model::new(plan.topics, &plan.config.namespaces),
        kernel,
        rng: rng.fork(),
        publisher,
        shards: shards.into_iter().map(Some).collect(),
        clients,
        journal,
        unheard_us: vec![None; plan.shards],
        has_presence,
        is_active: true,
        is_leaving: false,
        is_draining: false,
        plan,
    };
    world.live();
    world.settle();
    world.leave();
    world.stop();
    let mut summary = Summary {
        latency: world.latency(),
        fingerprint: world.kernel.fingerprint(),
        events: world.kernel.event_count(),
        virtual_us: world.kernel.now_us(),
        returns: world.clients.iter().filter(|client| client.has_returned).count() as u64,
        ..Summary::default()
    };
    // Whoever comes back takes along what it has counted.
    let last = world.clients.iter().filter(|client| !client.has_returned).filter_map(|client| client.returner.as_ref());
    last.flat_map(|returner| &returner.tracks).for_each(|track| summary.tally.add(&track.tally));
    drop(world);
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

fn routes(shard: usize, config: &ServerConfig, journal: &Rc<RefCell<HandlerLog>>) -> Routes {
    fn watched<H: Handler + 'static>(handler: H, shard: usize, journal: &Rc<RefCell<HandlerLog>>) -> Box<dyn Handler> {
        Box::new(Watched { handler, shard, journal: Rc::clone(journal) })
    }
    let mut routes = Routes::default();
    routes.add("/echo", watched(Echo, shard, journal)).expect("a route");
    let feed = Feed::new(Arc::clone(&config.namespaces));
    routes.add("/feed/", watched(feed, shard, journal)).expect("a route");
    routes.add("/room", watched(Room, shard, journal)).expect("a route");
    let events = Sse::new(Arc::clone(&config.namespaces));
    routes.add("/sse/", watched(events, shard, journal)).expect("a route");
    let centrifuge = Centrifuge::new(Arc::new(centrifuge(config)));
    routes.add("/connection/websocket", watched(centrifuge, shard, journal)).expect("a route");
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
    /// Everybody does what they came for, and everything goes wrong that can.
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

    /// Nobody says anything new, nothing goes wrong any more, all but the dead read, and those who come back are there:
    /// everything that was said arrives.
    fn settle(&mut self) {
        self.is_active = false;
        self.kernel.calm();
        for index in 0..self.clients.len() {
            let now_us = self.kernel.now_us();
            let client = &mut self.clients[index];
            client.plan.returns = RETURNS_AT_REST;
            client.hurry(&mut self.model, now_us);
            self.come_back(index);
        }
        // Whoever was there a moment ago may just have gone, and come back.
        let mut settled_for = 0;
        for _ in 0..SETTLE_SECONDS_MAX {
            self.run_for(SECOND_US);
            settled_for = if self.is_close_received() { settled_for + 1 } else { 0 };
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
            assert!(is_full || self.kernel.backlog(ring) == 0, "there is room on shard {ring}, and it accepts nobody");
        }
        assert!(self.model.is_close_received(), "a publication has no outcome");
        for index in 0..self.clients.len() {
            let missing = self.missing(index);
            assert!(
                missing.is_none(),
                "client {index} has not got what it should, {missing:?}: {:?}",
                self.clients[index]
            );
        }
        self.check_complete();
        self.run_for(self.plan.rest_us);
    }

    fn is_close_received(&mut self) -> bool {
        let is_coming =
            |client: &Client| client.returner.is_some() && matches!(client.state, State::Waiting | State::Handshaking);
        let is_still = |client: &Client| {
            let is_quiet = |peer| self.kernel.bytes_on_their_way(peer) == 0;
            !client.should_get_all() || client.has_said_all() && client.peer.is_none_or(is_quiet)
        };
        self.model.is_close_received()
            && !self.clients.iter().any(is_coming)
            && self.clients.iter().all(is_still)
            && (0..self.clients.len()).all(|index| self.missing(index).is_none())
    }

    /// What a client has not got, though it should.
    fn missing(&mut self, index: usize) -> Option<String> {
        let client = &self.clients[index];
        if !client.should_get_all() {
            return None;
        }
        let has_all = client.views.iter().all(|view| self.model.is_complete(view));
        match (client.has_heard_all(), has_all) {
            (false, _) => Some("an answer".to_owned()),
            (true, false) => Some("a publication".to_owned()),
            (true, true) => client.returner.as_ref().and_then(|returner| returner.missing(&mut self.model)),
        }
    }

    /// If a client is over that comes back, it does: as another one that knows what it knew.
    fn come_back(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if !client.is_over() || client.has_returned || client.plan.returns == 0 || self.is_leaving {
            return;
        }
        let Some(returner) = client.returner.clone() else { return };
        client.has_returned = true;
        let pause_us = self.rng.choose(&[0, 1_000, self.plan.active_us / 50]);
        let connect_us = self.kernel.now_us() + pause_us;
        let mut plan = client.plan.again(&mut self.rng, self.plan.shards, self.plan.active_us, connect_us);
        if !self.is_active {
            plan = plan.at_rest();
        }
        self.add_client(plan, returner);
        self.set_timer(pause_us, Timer::Connect, self.clients.len() - 1);
    }

    fn add_client(&mut self, plan: ClientPlan, returner: ResumingClient) {
        let (index, bytes_max) = (self.clients.len(), self.plan.payload_bytes_max);
        let mut client = Client::new(index, plan, bytes_max, &self.kernel, self.rng.fork());
        client.returner = Some(returner);
        self.clients.push(client);
    }

    fn check_complete(&self) {
        let stays = |client: &&Client| client.state == State::Open && client.deeds.is_none();
        let done: Vec<usize> = self.clients.iter().filter(stays).map(|client| client.index).collect();
        for client in self.clients.iter().filter(|client| client.should_get_all()) {
            client.views.iter().for_each(|view| self.model.check_complete(view, &done));
        }
    }

    /// Everybody leaves, one way or another.
    fn leave(&mut self) {
        self.is_leaving = true;
        for client in &mut self.clients {
            client.pace = Pace::Quick;
            match client.state {
                State::Open if self.rng.chance(800) => client.close(Some(1000)),
                State::Over if client.deeds.gone => client.die(),
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
        assert!(self.is_draining || self.journal.borrow().open_count() == 0, "a handler was not told of an end");
        for client in &self.clients {
            let end = self.journal.borrow().end(client.index);
            judge(client, end, &self.plan, &self.kernel, &self.model);
        }
    }

    /// The server stops.
    fn stop(&mut self) {
        self.drain();
        self.run_for(self.plan.config.drain_timeout_ms * 1000 + SECOND_US);
        assert!(self.shards.iter().all(Option::is_none), "a shard did not leave");
    }

    fn latency(&self) -> u64 {
        if self.kernel.last_leap_us().is_some() || self.plan.is_sluggish() {
            return 0;
        }
        let latency_us = self.clients.iter().map(|client| client.latency_us_max).max().unwrap_or(0);
        let latency = latency_us / self.plan.faults.delay_us_max.max(1000);
        let slowest = self.clients.iter().max_by_key(|client| client.latency_us_max);
        // A doorbell that fails is rung again after a pause that is as long as a delay.
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
                    self.spread_news(index, now_us);
                    self.come_back(index);
                }
                Happening::Timer(name) => self.on_timer(TIMERS[(name >> 32) as usize], (name & 0xffff_ffff) as usize),
            }
            assert!(self.kernel.event_count() < 10_000_000, "the world does not come to rest");
        }
    }

    fn turn(&mut self, ring: usize) {
        let bound = self.outbox_bound();
        self.check_woken(ring);
        let Some(shard) = &mut self.shards[ring] else { return };
        shard.turn(self.kernel.now_us() / 1000);
        shard.check(&self.kernel);
        for (conn, client) in self.journal.borrow_mut().take_news() {
            self.clients[client].note_end(shard.sending_bytes(conn));
        }
        let waiting = shard.outbox_bytes_max();
        assert!(waiting <= bound, "{waiting} bytes wait in an outbox that may hold {bound}");
        if shard.has_left() {
            shard.check_goodbyes(self.kernel.last_leap_us().is_some());
            self.shards[ring] = None;
        } else {
            self.put_to_sleep(ring);
        }
        for (shard, unheard_us) in self.shards.iter().zip(&mut self.unheard_us) {
            if shard.as_ref().is_some_and(SimShard::has_incoming) {
                unheard_us.get_or_insert(self.kernel.now_us());
            }
        }
        self.check_presence();
    }

    /// A shard is woken soon after something has come for it.
    fn check_woken(&mut self, ring: usize) {
        let Some(since_us) = self.unheard_us[ring].take() else { return };
        let waited_us = self.kernel.now_us() - since_us;
        let waited = waited_us / self.plan.faults.delay_us_max.max(1000);
        let is_late = waited > WAKE_MAX && self.kernel.last_leap_us().is_none();
        assert!(!is_late, "nobody has woken shard {ring} for what has come, for {waited_us} µs");
    }

    /// Whoever is present in a topic has subscribed to it, and the other way round, whenever no shard is still to be
    /// told.
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
        assert_eq!(present, subscribed, "those who are present and those who have subscribed are not the same");
    }

    /// Publications stop at their bound, but for the run of one turn where nothing waited. Replies stop when the peer
    /// is no longer read; what it has sent until then is answered still.
    fn outbox_bound(&self) -> usize {
        let in_flight = self.plan.faults.recv_buffer_bytes as usize * usize::from(self.plan.faults.recv_buffers);
        let asked = self.clients.iter().map(|client| client.bytes_asked).max().unwrap_or(0);
        let replies =
            asked.min(RECV_PAUSE_BYTES + self.plan.answer_factor() * (in_flight + self.plan.payload_bytes_max));
        let run = self.plan.burst_max as usize * (self.plan.payload_bytes_max + 100) * 10;
        let page = 20_000;
        // Whoever comes back is sent as much of the past as may wait for it, of all topics, and where each of them is.
        let missed = self.plan.outbox_bytes_max() + 300 * self.plan.topics;
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
                self.spread_news(index, now_us);
                self.come_back(index);
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
        if client.returner.is_some() && !self.is_active {
            return None;
        }
        if let Kind::Breaker(breach) = client.plan.kind {
            client.breach(breach);
        }
        if client.has_last_words() {
            client.say_last_words(&mut self.model);
            return Some(self.rng.below(3 * self.plan.faults.delay_us_max + 2));
        }
        client.end(client.plan.ending);
        self.come_back(index);
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
        self.kernel.look_at_events();
        Some(self.rng.below(2 * self.plan.publish_us))
    }

    /// Publishes to what a client has just heard that it is subscribed to.
    fn spread_news(&mut self, index: usize, now_us: u64) {
        let news = std::mem::take(&mut self.clients[index].news);
        if !self.plan.is_news || !self.is_active || news.is_empty() {
            return;
        }
        for topic in news {
            self.model.publish(&mut self.publisher, topic, 1, now_us);
        }
        self.kernel.look_at_events();
    }

    fn drain(&mut self) {
        self.is_draining = true;
        // A queue that is full has room later; a shard that was told twice doesn't mind.
        if self.publisher.drain().is_err() {
            self.set_timer(1000, Timer::Drain, 0);
        }
        self.kernel.look_at_events();
    }
}
