//! The plan of a run and of each client, which the seed determines before the run starts.

use std::sync::Arc;

use ringfeed::conn::KeepAliveConfig;
use ringfeed::limits::{MESH_PARCELS_PER_TURN, MESH_QUEUE_PARCELS, RECV_TURN_BYTES, RECV_TURN_CONNS, REPLIES_BYTES};
use ringfeed::proto::DeflateConfig;
use ringfeed::ring::sim::{Faults, Rng};
use ringfeed::server::{CatchUpConfig, FanOutConfig, MeshSizes, ServerConfig};
use ringfeed::topics::Namespace;

use crate::keyed::KeyedPlan;
use crate::namespaces::{KEYED, KEYED_NAMESPACE, namespaces};
use crate::resuming_client::Transport;

/// Messages of a burst that exceeds the queue of a shard.
const FLOOD: u64 = MESH_QUEUE_PARCELS as u64 + 1000;

/// Publications of a dense run.
const DENSE: u64 = 500;

/// Messages of a burst in a dense run.
const DENSE_BURST: u64 = 5;

/// How often resuming clients reconnect after the faults have ended, while they miss messages.
pub(crate) const RECONNECTS_AT_REST: u64 = 3;

/// Bytes of a reply that exceeds what the shard collects in a turn.
const BULK_REPLY_BYTES: usize = 3 * REPLIES_BYTES / 2;

/// The role of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sends messages and pings to `/echo`, and expects all of them back.
    Echo,
    /// Receives the raw feed of these topics.
    Feed(Vec<usize>),
    /// Subscribes, unsubscribes and publishes.
    Room,
    /// Subscribes and unsubscribes by Centrifugo's protocol, with presence.
    Guest,
    /// Receives these topics, and resumes at the position it knows.
    ResumingClient(Transport, Vec<usize>),
    /// Breaks the protocol at some time.
    Breaker(Breach),
    /// Never finishes its opening handshake.
    Mute,
    /// Sends a request that the server answers with this status.
    Stray(u16),
}

/// A way to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breach {
    NotMasked,
    ReservedBits,
    BadText,
    TooBig,
    BadClose,
    /// A message to a feed, which accepts none.
    SendsToFeed,
}

/// How fast a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Everything, at once.
    Quick,
    /// Some bytes at intervals.
    Slow { bytes: usize, pause_us: u64 },
    /// Nothing.
    Dead,
}

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Stays until all clients leave.
    Stays,
    /// Sends a Close frame with this code, or without one.
    Closes(Option<u16>),
    /// Requests the room to close it with this code.
    RequestsClose(u16),
    /// Ends its half of the stream without a Close frame.
    Finishes,
    /// Closes its socket.
    Leaves,
    /// Resets the connection.
    Resets,
    /// Vanishes without a packet.
    Vanishes,
}

/// The plan of a client.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    pub(crate) kind: Kind,
    pub(crate) shard: usize,
    pub(crate) connect_us: u64,
    pub(crate) act_us: u64,
    pub(crate) acts: usize,
    /// Offers compression, with this window for the server's messages.
    pub(crate) deflate_window: Option<u8>,
    /// The most messages that it sends at once.
    pub(crate) at_once: u64,
    /// Messages that it sends right before a sudden end.
    pub(crate) last_words: u64,
    /// The largest reply that it requests from a room, in bytes.
    pub(crate) reply_bytes_max: usize,
    pub(crate) pace: Pace,
    /// The most bytes that it writes at once.
    pub(crate) write_bytes_max: usize,
    pub(crate) ignores_pings: bool,
    /// Whether messages follow the handshake without waiting for the response.
    pub(crate) is_hasty: bool,
    pub(crate) ending: Ending,
    pub(crate) end_us: u64,
    /// How often it reconnects after its connection ended.
    pub(crate) returns: u64,
}

/// The plan of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) faults: Faults,
    pub(crate) shards: usize,
    pub(crate) topics: usize,
    pub(crate) config: ServerConfig,
    pub(crate) connections_max: usize,
    pub(crate) mesh_sizes: MeshSizes,
    pub(crate) clients: Vec<ClientPlan>,
    pub(crate) active_us: u64,
    pub(crate) publish_us: u64,
    pub(crate) burst_max: u64,
    /// The control plane publishes to a topic as soon as a client's subscription to it is confirmed.
    pub(crate) publishes_on_subscribe: bool,
    pub(crate) payload_bytes_max: usize,
    /// The idle time before all clients leave.
    pub(crate) rest_us: u64,
    /// When the server stops, if it does before all clients have left.
    pub(crate) drain_us: Option<u64>,
    /// Keyed topics, in some runs.
    pub(crate) keyed: Option<KeyedPlan>,
}

/// What an envelope and a frame add to a payload, about.
const FRAMED_BYTES: usize = 100;

impl Plan {
    pub(crate) fn new(rng: &mut Rng) -> Plan {
        // From numbers of its own, so that all else is as in a run without.
        let mut of_keyed = Rng::new(rng.clone().next_u64());
        let mut plan = Plan::without_keyed(rng);
        if of_keyed.chance(300) {
            plan.add_keyed(&mut of_keyed);
        }
        plan
    }

    /// Adds keyed topics, and clients that keep their state.
    fn add_keyed(&mut self, rng: &mut Rng) {
        let keyed = KeyedPlan::new(rng);
        let namespaces = (*self.config.namespaces).clone();
        let namespaces = namespaces.with(vec![(KEYED_NAMESPACE.to_owned(), keyed.namespace.clone())]);
        self.config.namespaces = Arc::new(namespaces);
        self.config.catch_up.state_page_keys = rng.choose(&[1, 2, 3, 1000]);
        for _ in 0..rng.choose(&[1, 3, 8]) {
            let mut client = ClientPlan::new(rng, self.shards, self.topics, self.active_us, false);
            let by_events = rng.chance(400);
            let first = rng.below(keyed.topics as u64) as usize;
            let topics = (0..keyed.topics).filter(|topic| *topic == first || rng.chance(500));
            client.kind =
                Kind::ResumingClient(Transport::Keyed { by_events }, topics.map(|topic| KEYED + topic).collect());
            client.deflate_window = deflate_window(rng, &client.kind);
            client.ending = ending(rng, &client.kind);
            client.returns = rng.choose(&[0, 5, 20]);
            client.end_us = client.connect_us + rng.below(self.active_us / (client.returns + 1) + 1);
            (client.acts, client.reply_bytes_max) = (0, 0);
            self.clients.push(client);
        }
        self.keyed = Some(keyed);
    }

    fn without_keyed(rng: &mut Rng) -> Plan {
        let faults = Faults::swarm(rng);
        let shards = rng.between(1, 3) as usize;
        let topics = rng.choose(&[1, 1, 2, 3, 4, 5, 6]);
        let active_us = rng.choose(&[300_000, 3_000_000, 30_000_000]);
        // A slow network gets smaller payloads, to keep a run short.
        let payload_bytes_max = (faults.segment_bytes_max * 10).min(rng.choose(&[30, 300, 3_000, 40_000]));
        let client_count = rng.choose(&[1, 3, 6, 10, 20]);
        let is_short_of_room = rng.chance(150);
        let is_quick_network = faults.segment_bytes_max >= 1000 && faults.socket_bytes_max >= 4096;
        let mut clients: Vec<ClientPlan> =
            (0..client_count).map(|_| ClientPlan::new(rng, shards, topics, active_us, is_quick_network)).collect();
        if is_quick_network && rng.chance(200) {
            clients.iter_mut().for_each(ClientPlan::request_too_much);
        }
        let is_homecoming = rng.chance(300);
        if is_homecoming {
            clients.iter_mut().for_each(|client| client.become_resuming(rng, topics, active_us));
        }
        let is_flapping = rng.chance(70);
        if is_flapping {
            clients.truncate(3);
            clients.iter_mut().for_each(|client| client.flap(active_us));
        }
        if !is_flapping && rng.chance(100) {
            clients.iter_mut().for_each(|client| client.become_guest(rng, active_us));
        }
        let is_flood = is_quick_network && !is_flapping && rng.chance(60);
        let pauses = match rng.below(12) {
            _ if is_flood => 5,
            _ if is_flapping => DENSE,
            0 => DENSE,
            1..4 => 300,
            _ => 60,
        };
        // In a dense run, publications follow within a few turns.
        let is_dense = pauses == DENSE;
        let publish_us = if is_dense { 1 } else { rng.choose(&[2_000, 20_000, 200_000]) };
        let burst_max = match (is_flood, is_dense) {
            (true, _) => FLOOD,
            (false, true) => rng.choose(&[1, 1, DENSE_BURST]),
            (false, false) => rng.choose(&[1, 4, 20]),
        };
        Plan {
            shards,
            topics,
            config: config(rng, is_dense),
            connections_max: if is_short_of_room { rng.between(1, 10) as usize } else { 1000 },
            mesh_sizes: mesh_sizes(rng, burst_max),
            clients,
            active_us,
            publish_us: publish_us.max(active_us / pauses),
            publishes_on_subscribe: rng.chance(500),
            burst_max,
            payload_bytes_max: if is_flood { 10 } else { payload_bytes_max },
            rest_us: rng.choose(&[0, 0, 0, 70_000_000]),
            drain_us: rng.chance(250).then(|| rng.below(active_us)),
            keyed: None,
            faults,
        }
    }

    /// The most bytes that a client receives per byte that it sends.
    pub(crate) fn answer_factor(&self) -> usize {
        if self.clients.iter().any(|client| client.reply_bytes_max > 0) { BULK_REPLY_BYTES } else { 2 }
    }

    /// Whether publications may come faster than the network carries them to a subscriber of all topics, so that its
    /// outbox fills and the latency has no bound but that of the outbox.
    pub(crate) fn is_overloaded(&self) -> bool {
        let publications = (1 + self.burst_max).div_ceil(2);
        let bytes = publications as usize * (self.payload_bytes_max / 2 + FRAMED_BYTES);
        // A segment takes a delay to arrive and one to make room again: together the longest delay, on average. Half of
        // the capacity is for bursts above the average.
        let needed_us = (bytes / self.unit_bytes()) as u64 * self.faults.delay_us_max;
        needed_us * 2 > self.publish_us
    }

    /// The most bytes that the network moves at once.
    fn unit_bytes(&self) -> usize {
        let turn_bytes = self.config.recv_turn_bytes as usize / RECV_TURN_CONNS;
        (self.faults.segment_bytes_max / 2).min(self.faults.socket_bytes_max).min(turn_bytes).max(1)
    }

    /// Whether the network is so slow that a server timeout may expire before a peer's answer arrives.
    pub(crate) fn is_sluggish(&self) -> bool {
        let faults = &self.faults;
        let units = (10_000 + 10 * self.payload_bytes_max) / self.unit_bytes() + 10;
        // A segment takes several delays: to leave, to arrive, to be read, and to make room again. The reader may also
        // miss it at first.
        let is_read_badly = faults.recv_short + faults.recv_ends + faults.recv_scarce + faults.recv_interrupted >= 100;
        units as u64 * faults.delay_us_max * if is_read_badly { 8 } else { 1 } > 1_000_000
    }
}

fn mesh_sizes(rng: &mut Rng, burst_max: u64) -> MeshSizes {
    // Messages in a backlog leave later, so a burst must not be so large that this takes too long.
    let queue_parcels = match burst_max {
        FLOOD => MESH_QUEUE_PARCELS,
        DENSE_BURST => rng.choose(&[16, MESH_QUEUE_PARCELS]),
        _ => rng.choose(&[2, 16, MESH_QUEUE_PARCELS]),
    };
    let turn_parcels =
        if burst_max == FLOOD { MESH_PARCELS_PER_TURN } else { rng.choose(&[1, 3, MESH_PARCELS_PER_TURN]) };
    MeshSizes { queue_parcels, turn_parcels }
}

fn config(rng: &mut Rng, is_dense: bool) -> ServerConfig {
    ServerConfig {
        fan_out: FanOutConfig {
            // A send takes a microsecond of virtual time.
            slice_us: rng.choose(if is_dense { &[1, 2, 2048] } else { &[1, 2, 5, 16, 2048, 2048, 2048] }),
            batch_sends: rng.choose(&[1, 1, 2, 5, 64]),
            express_subscribers_max: rng.choose(&[0, 0, 1, 2, 5, 64]),
        },
        catch_up: catch_up(rng),
        recv_turn_bytes: rng.choose(&[100, 500, 2000, RECV_TURN_BYTES]),
        message_bytes_max: 100_000,
        deflate: rng.chance(400).then(|| DeflateConfig {
            level: 1,
            bytes_min: rng.choose(&[1, 100]),
            context_takeover: 0,
        }),
        namespaces: Arc::new(namespaces(rng)),
        handshake_timeout_ms: rng.choose(&[3_000, 10_000]),
        keep_alive: KeepAliveConfig {
            ping_interval_ms: rng.choose(&[0, 6_000, 25_000]),
            pong_timeout_ms: 10_000,
            idle_timeout_ms: 0,
        },
        ..ServerConfig::default()
    }
}

/// In half of the seeds answers are large for a turn and its shard, so that requests wait.
fn catch_up(rng: &mut Rng) -> CatchUpConfig {
    let config = CatchUpConfig::default();
    match rng.chance(500) {
        true => config,
        false => CatchUpConfig {
            turn_bytes: rng.choose(&[1, 100, 3_000]),
            in_progress_min: rng.choose(&[1, 1, 2]),
            in_progress_max: rng.choose(&[2, 3]),
            ..config
        },
    }
}

impl Plan {
    /// The largest backlog of a subscriber, in bytes, over all namespaces.
    pub(crate) fn outbox_bytes_max(&self) -> usize {
        let bounds = self.config.namespaces.iter().map(|(_, namespace): (_, &Namespace)| namespace.outbox_bytes_max);
        bounds.max().expect("there is a namespace")
    }

    /// The most connections that clients make in all.
    pub(crate) fn connections(&self) -> usize {
        self.clients.iter().map(|client| 1 + (client.returns + RECONNECTS_AT_REST) as usize).sum()
    }
}

impl ClientPlan {
    /// Makes it request more than one turn can answer, and reset the connection meanwhile.
    fn request_too_much(&mut self) {
        self.kind = Kind::Room;
        self.ending = Ending::Resets;
        // Compression would make the replies small.
        self.deflate_window = None;
        (self.acts, self.last_words, self.reply_bytes_max, self.write_bytes_max) =
            (0, 10, BULK_REPLY_BYTES, usize::MAX);
    }

    /// Makes it subscribe and unsubscribe all the time.
    fn flap(&mut self, active_us: u64) {
        self.kind = Kind::Room;
        self.ending = Ending::Stays;
        (self.acts, self.at_once, self.last_words, self.reply_bytes_max) = (400, 3, 0, 0);
        (self.connect_us, self.act_us, self.write_bytes_max) = (0, active_us / 200, usize::MAX);
        self.pace = Pace::Quick;
    }

    /// Makes it a guest that joins and leaves all the time.
    fn become_guest(&mut self, rng: &mut Rng, active_us: u64) {
        self.kind = Kind::Guest;
        self.deflate_window = None;
        self.ending = ending(rng, &self.kind);
        (self.acts, self.at_once, self.act_us) = (100, 4, active_us / 100);
    }

    /// Makes it a client that reconnects often and sends little.
    fn become_resuming(&mut self, rng: &mut Rng, topics: usize, active_us: u64) {
        self.kind = resuming(rng, topics);
        self.deflate_window = deflate_window(rng, &self.kind);
        self.ending = ending(rng, &self.kind);
        self.returns = 20;
        self.end_us = self.connect_us + rng.below(active_us / 20);
        (self.acts, self.write_bytes_max) = (0, rng.choose(&[10, 1000, usize::MAX]));
    }

    /// Whether it reads slowly, or writes its handshake in so many pieces that the server's timeout may expire before.
    pub(crate) fn is_slow(&self, faults: &Faults) -> bool {
        let request_bytes = if let Kind::ResumingClient(..) = self.kind { 1500 } else { 500 };
        let pieces = (request_bytes / self.write_bytes_max.min(request_bytes)) as u64;
        self.pace != Pace::Quick || 2 * pieces * faults.delay_us_max > 1_000_000
    }

    fn new(rng: &mut Rng, shards: usize, topics: usize, active_us: u64, is_quick_network: bool) -> ClientPlan {
        let kind = kind(rng, topics);
        let returns = if let Kind::ResumingClient(..) = kind { rng.choose(&[0, 2, 8]) } else { 0 };
        let pace = pace(rng, active_us);
        let connect_us = if rng.chance(500) { 0 } else { rng.below(active_us) };
        ClientPlan {
            shard: rng.below(shards as u64) as usize,
            connect_us,
            act_us: rng.choose(&[500, 10_000, 200_000]).max(active_us / 60),
            acts: rng.choose(&[0, 3, 20, 60]),
            last_words: rng.choose(&[0, 3, 10]),
            deflate_window: deflate_window(rng, &kind),
            at_once: rng.choose(&[1, 1, 6]),
            reply_bytes_max: if is_quick_network && rng.chance(150) { BULK_REPLY_BYTES } else { 0 },
            pace,
            write_bytes_max: rng.choose(&[1, 10, 1000, usize::MAX]),
            ignores_pings: rng.chance(50),
            is_hasty: rng.chance(200),
            ending: ending(rng, &kind),
            end_us: connect_us + rng.below(active_us / (returns + 1) + 1),
            returns,
            kind,
        }
    }

    /// The plan of its next connection, made at `connect_us`.
    pub(crate) fn reconnecting(&self, rng: &mut Rng, shards: usize, active_us: u64, connect_us: u64) -> ClientPlan {
        ClientPlan {
            shard: rng.below(shards as u64) as usize,
            connect_us,
            pace: pace(rng, active_us),
            ignores_pings: rng.chance(50),
            ending: ending(rng, &self.kind),
            end_us: connect_us + rng.below(active_us / (self.returns + 1) + 1),
            returns: self.returns.saturating_sub(1),
            ..self.clone()
        }
    }

    /// The same after the faults have ended.
    pub(crate) fn at_rest(self) -> ClientPlan {
        ClientPlan {
            pace: Pace::Quick,
            write_bytes_max: usize::MAX,
            ignores_pings: false,
            ending: Ending::Stays,
            ..self
        }
    }
}

fn pace(rng: &mut Rng, active_us: u64) -> Pace {
    match rng.below(10) {
        0 => Pace::Dead,
        1 | 2 => Pace::Slow {
            bytes: rng.choose(&[3, 50, 1000]),
            pause_us: rng.choose(&[100, 5_000, 100_000]).max(active_us / 2000),
        },
        _ => Pace::Quick,
    }
}

fn kind(rng: &mut Rng, topics: usize) -> Kind {
    match rng.below(100) {
        0..15 => Kind::Echo,
        15..35 => Kind::Feed((0..topics).filter(|_| rng.chance(400)).collect()),
        35..49 => Kind::Room,
        49..55 => Kind::Guest,
        55..85 => resuming(rng, topics),
        85..93 => Kind::Breaker(rng.choose(&[
            Breach::NotMasked,
            Breach::ReservedBits,
            Breach::BadText,
            Breach::TooBig,
            Breach::BadClose,
            Breach::SendsToFeed,
        ])),
        93..96 => Kind::Mute,
        _ => Kind::Stray(rng.choose(&[200, 400, 404, 405, 426])),
    }
}

fn deflate_window(rng: &mut Rng, kind: &Kind) -> Option<u8> {
    match kind {
        // The reply holds the client's id, which is truly random, and so is its compressed size.
        Kind::Guest | Kind::ResumingClient(Transport::Centrifuge { .. }, _) => None,
        _ => rng.choose(&[None, Some(15), Some(9)]),
    }
}

fn resuming(rng: &mut Rng, topics: usize) -> Kind {
    let transport = match rng.below(10) {
        0 => Transport::Raw,
        1..5 => Transport::Envelope,
        5..7 => Transport::Events,
        7..9 => Transport::Centrifuge { by_token: false },
        _ => Transport::Centrifuge { by_token: true },
    };
    let first = rng.below(topics as u64) as usize;
    let others = rng.choose(&[0, 0, 300, 600]);
    let topics = (0..topics).filter(|topic| *topic == first || rng.chance(others)).collect();
    Kind::ResumingClient(transport, topics)
}

fn ending(rng: &mut Rng, kind: &Kind) -> Ending {
    let ending = match rng.below(14) {
        0..5 => Ending::Stays,
        5..8 => Ending::Closes(rng.choose(&[None, Some(1000), Some(4321)])),
        8 => Ending::Finishes,
        9 => Ending::Leaves,
        10 | 11 => Ending::Resets,
        12 => Ending::Vanishes,
        _ => Ending::RequestsClose(rng.choose(&[1000, 4000])),
    };
    match (kind, ending) {
        (Kind::Room, _) => ending,
        // Only a room closes on request.
        (_, Ending::RequestsClose(code)) => Ending::Closes(Some(code)),
        (Kind::Breaker(_) | Kind::Mute | Kind::Stray(_), Ending::Closes(_) | Ending::Finishes) => Ending::Stays,
        _ => ending,
    }
}
